"""Relational distillation: how samples lie to one another should be as the teacher has it (RKD; F-SKD's cross-sample affinity)."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-12  # under square roots, whose slope at 0 is infinite


def relational_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """RKD-D (Park et al., CVPR 2019): smooth L1 between the two batches' pairwise distances, each divided by its own mean.

    student, teacher: embeddings (B, E) and (B, F), not normalised; the widths may differ. The mean is over the B (B - 1) ordered
    pairs, the loss over all B * B entries. Blind to scale, rotation and shift of either side. Raises ValueError below two samples.
    """
    ours, theirs = _checked(student, teacher, 2)
    with torch.autocast(student.device.type, enabled=False):
        return F.smooth_l1_loss(_scaled_distances(ours), _scaled_distances(theirs))


def relational_angle(student: Tensor, teacher: Tensor) -> Tensor:
    """RKD-A (Park et al., CVPR 2019): smooth L1 between the cosines of the angles that every three samples form, over B^3 entries.

    student, teacher: embeddings (B, E) and (B, F). Blind to scale, rotation and shift. Raises ValueError below three samples.
    """
    ours, theirs = _checked(student, teacher, 3)
    with torch.autocast(student.device.type, enabled=False):
        return F.smooth_l1_loss(_angles(ours), _angles(theirs))


def cross_sample_affinity(student: Tensor, teacher: Tensor) -> Tensor:
    """F-SKD's cross-sample term (Shin et al. 2023): how positions of one image relate to positions of the next, in either network.

    student, teacher: feature maps (B, C, H, W) of LR (L) and HR (H) images, divided by each sample's Frobenius norm. Sample i's partner
    is i + 1, the last's the first: another person's, as a rule, where batches come in random order (data.sampler=shuffle). R_XY (HW, HW) are the inner products of X's positions in a sample with
    Y's in its partner. Mean over samples of ([1 - cos(R_HH, R_HL)] + [1 - cos(R_HH, R_LH)]) / 2 + [1 - cos(R_HH, R_LL)], in [0, 4].
    Raises ValueError for other shapes on either side, and below two samples.
    """
    if student.ndim != 4 or student.shape != teacher.shape:
        raise ValueError(f"feature maps of student {tuple(student.shape)} and teacher {tuple(teacher.shape)} have no common affinities")
    ours, theirs = _checked(student, teacher, 2)
    with torch.autocast(student.device.type, enabled=False):
        low, high = (F.normalize(maps.flatten(1), dim=1).view_as(maps).flatten(2) for maps in (ours, theirs))
        low_next, high_next = low.roll(-1, 0), high.roll(-1, 0)
        reference = high.mT @ high_next
        apart = [1 - F.cosine_similarity(reference.flatten(1), (x.mT @ y).flatten(1), dim=1)
                 for x, y in ((high, low_next), (low, high_next), (low, low_next))]
        return ((apart[0] + apart[1]) / 2 + apart[2]).mean()


def _checked(student: Tensor, teacher: Tensor, least: int) -> tuple[Tensor, Tensor]:
    if len(student) != len(teacher) or len(student) < least:
        raise ValueError(f"relations need {least} or more samples, as many of the student as of the teacher, "
                         f"got {len(student)} and {len(teacher)}")
    dtype = torch.promote_types(student.dtype, torch.float32)
    return student.to(dtype), teacher.detach().to(dtype)


def _scaled_distances(x: Tensor) -> Tensor:
    squared = (x[:, None] - x[None]).square().sum(2)
    distances = torch.where(squared > EPS, squared.clamp_min(EPS).sqrt(), 0.0)
    return distances / (distances.sum() / (len(x) * (len(x) - 1))).clamp_min(EPS)


def _angles(x: Tensor) -> Tensor:
    """Cosine of the angle at sample i between j and k, (B, B, B)."""
    towards = x[None] - x[:, None]
    unit = towards / towards.square().sum(2, keepdim=True).clamp_min(EPS).sqrt()
    return unit @ unit.mT
