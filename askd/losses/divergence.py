"""ABE's divergence loss (Kim et al., ECCV 2018): the same image must not embed alike through different learners."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def divergence(embeddings: Tensor, margin: float = 1.0, reduction: str = "mean") -> Tensor:
    """Hinge max(0, margin - d^2) over self pairs: one image's embeddings by two learners; embeddings (B, M, D) -> scalar.

    Each learner's embedding is normalised first (else scale alone would meet the hinge), so d^2 = 2 - 2 cos, in [0, 4], and with
    margin 1 the term vanishes at cos <= 0.5.
    reduction: over the M (M - 1) / 2 pairs of learners; over images it is the mean, so that no weight depends on batch, micro-batches
    or processes. The paper sums over images too, beside an identity loss that it sums as well.
    Raises ValueError for fewer than two learners: there is no pair to keep apart.
    """
    if embeddings.ndim != 3 or embeddings.shape[1] < 2:
        raise ValueError(f"divergence needs embeddings (B, M, D) of at least two learners, got {tuple(embeddings.shape)}")
    if reduction not in ("mean", "sum"):
        raise ValueError(f"unknown reduction {reduction!r}; choose mean or sum")
    with torch.autocast(embeddings.device.type, enabled=False):
        unit = F.normalize(embeddings.float(), dim=2)
        p, q = torch.triu_indices(unit.shape[1], unit.shape[1], 1, device=unit.device)
        hinge = (margin - (unit[:, p] - unit[:, q]).square().sum(2)).clamp_min(0)
    return hinge.mean() if reduction == "mean" else hinge.sum(1).mean()
