"""Embedding distillation: the student's embedding of the LR image should be the teacher's of the HR one; any teacher can give it."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def embedding_similarity(student: Tensor, teacher: Tensor, distance: str = "cosine") -> Tensor:
    """Mean over the batch of the distance between two embeddings (B, E), in float32 at least; the gradient reaches the student alone.

    distance: `cosine` is 1 - cos, in [0, 2], and sees directions only, as face verification does; `l2` is the squared difference,
    mean over the E numbers, and sees lengths, too.
    Raises ValueError for an unknown distance and for embeddings of another shape.
    """
    if distance not in ("cosine", "l2"):
        raise ValueError(f"unknown distance {distance!r}; choose cosine or l2")
    if student.shape != teacher.shape:
        raise ValueError(f"embeddings of student {tuple(student.shape)} and teacher {tuple(teacher.shape)} cannot be compared")
    with torch.autocast(student.device.type, enabled=False):
        dtype = torch.promote_types(student.dtype, torch.float32)
        ours, theirs = student.to(dtype), teacher.detach().to(dtype)
        return F.mse_loss(ours, theirs) if distance == "l2" else (1 - F.cosine_similarity(ours, theirs, dim=1)).mean()
