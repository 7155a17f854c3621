"""Attention similarity distillation (A-SKD, Shin et al., ECCV 2022): 1 - cos, or L2, of student's and teacher's attention maps."""
from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def attention_similarity(
    student: Sequence, teacher: Sequence, space: str = "maps", reduction: str = "mean", channel: float = 1.0, spatial: float = 1.0,
    distance: str = "cosine",
) -> Tensor:
    """Mean over the batch of 1 - cos of each attention map, flattened per sample, combined over blocks; a scalar in [0, 2] for `mean`.

    student, teacher: one pair of maps per block, `.channel` (B, C, 1, 1) and `.spatial` (B, 1, H, W), both *before* the sigmoid.
    space: `logits` compares them so, as the released A-SKD code does; `maps` after the sigmoid, as F-SKD's A-SKD baseline does.
    reduction: `mean` weighs every term alike, `channel` and `spatial` being their relative weights; `sum` adds them, as the
    released code does: over 24 blocks with both parts, sum = 48 * mean.
    distance: `cosine`, or `l2`, the mean squared difference in place of 1 - cos: the paper's ablation.
    Raises ValueError for an unknown space, reduction or distance, another number of blocks, maps of another shape, or a missing part.
    """
    if space not in ("maps", "logits"):
        raise ValueError(f"unknown space {space!r}; choose maps (after the sigmoid) or logits (before it)")
    if reduction not in ("mean", "sum"):
        raise ValueError(f"unknown reduction {reduction!r}; choose mean or sum")
    if distance not in ("cosine", "l2"):
        raise ValueError(f"unknown distance {distance!r}; choose cosine or l2")
    if not student or len(student) != len(teacher):
        raise ValueError(f"student and teacher need the same number of attention blocks, got {len(student)} and {len(teacher)}")
    total, weight = 0.0, 0.0
    for block, (ours, theirs) in enumerate(zip(student, teacher)):
        for part, part_weight in (("channel", channel), ("spatial", spatial)):
            if part_weight == 0:
                continue
            a, b = getattr(ours, part), getattr(theirs, part)
            if a is None and b is None:
                raise ValueError(f"block {block}: neither student nor teacher has {part} attention; give {part}=0, which leaves it out")
            if a is None or b is None or a.shape != b.shape:
                shapes = [None if m is None else tuple(m.shape) for m in (a, b)]
                raise ValueError(f"block {block}: {part} attention of student {shapes[0]} and teacher {shapes[1]} cannot be compared")
            total = total + part_weight * _distance(a, b.detach(), space, distance)
            weight += part_weight
    if weight == 0:
        raise ValueError("attention similarity with channel=0 and spatial=0 compares nothing; give one of them a weight")
    return total / weight if reduction == "mean" else total


def _distance(a: Tensor, b: Tensor, space: str, distance: str) -> Tensor:
    with torch.autocast(a.device.type, enabled=False):
        a, b = (maps.to(torch.promote_types(maps.dtype, torch.float32)).flatten(1) for maps in (a, b))
        if space == "maps":
            a, b = a.sigmoid(), b.sigmoid()
        if distance == "l2":
            return F.mse_loss(a, b)
        return (1 - F.cosine_similarity(a, b, dim=1)).mean()
