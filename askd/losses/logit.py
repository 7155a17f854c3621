"""Knowledge distillation (Hinton et al. 2015): the student's softened class distribution should be the teacher's."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def softened_divergence(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """T^2 * KL(softmax(teacher / T) || softmax(student / T)), mean over the batch, in float32 at least; logits (B, C) on both sides.

    T^2 keeps the gradient's size as T grows. Raises ValueError for a temperature that is not above 0 and for unequal shapes.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    if student.shape != teacher.shape:
        raise ValueError(f"logits of student {tuple(student.shape)} and teacher {tuple(teacher.shape)} are not of the same classes")
    with torch.autocast(student.device.type, enabled=False):
        dtype = torch.promote_types(student.dtype, torch.float32)
        ours, theirs = (F.log_softmax(x.to(dtype) / temperature, dim=1) for x in (student, teacher.detach()))
        return temperature**2 * F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
