"""Feature distillation: the student's stage outputs should be the teacher's (F-SKD's cosine, FitNet's MSE, attention transfer)."""
from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def feature_similarity(student: Sequence[Tensor], teacher: Sequence[Tensor], distance: str = "cosine") -> Tensor:
    """Mean over stages and over the batch of a distance between feature maps (B, C, H, W), in float32 at least.

    distance: `cosine` (F-SKD, Shin et al. 2023) is 1 - cos of a sample's whole map; `mse` (FitNet, Romero et al., ICLR 2015) the mean
    squared difference; `at` (attention transfer, Zagoruyko and Komodakis, ICLR 2017) the mean squared difference of the maps' sums
    of squares over channels, (B, H*W), each normalised: it alone takes stages of unequal channels.
    student: what is compared is what is given, so stages through a hint convolution come in its place.
    Raises ValueError for an unknown distance, another number of stages, or shapes that do not fit.
    """
    if distance not in DISTANCES:
        raise ValueError(f"unknown distance {distance!r}; choose from {', '.join(DISTANCES)}")
    if not student or len(student) != len(teacher):
        raise ValueError(f"student and teacher need the same number of stages, got {len(student)} and {len(teacher)}")
    total = 0.0
    for stage, (ours, theirs) in enumerate(zip(student, teacher), 1):
        fit = ours.shape == theirs.shape or distance == "at" and ours.shape[::2] == theirs.shape[::2] and ours.shape[3] == theirs.shape[3]
        if not fit:
            raise ValueError(f"stage {stage}: features of student {tuple(ours.shape)} and teacher {tuple(theirs.shape)} cannot be compared")
        with torch.autocast(ours.device.type, enabled=False):
            dtype = torch.promote_types(ours.dtype, torch.float32)
            total = total + DISTANCES[distance](ours.to(dtype), theirs.detach().to(dtype))
    return total / len(student)


def _cosine(ours: Tensor, theirs: Tensor) -> Tensor:
    return (1 - F.cosine_similarity(ours.flatten(1), theirs.flatten(1), dim=1)).mean()


def _attention_transfer(ours: Tensor, theirs: Tensor) -> Tensor:
    return F.mse_loss(*(F.normalize(maps.square().sum(1).flatten(1), dim=1) for maps in (ours, theirs)))


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"cosine": _cosine, "mse": F.mse_loss, "at": _attention_transfer}
