"""Metric losses as heads: contrastive and triplet, through pytorch-metric-learning; no class centres, nothing to learn."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from askd.errors import RecipeError

METRICS = ("contrastive", "triplet")


class MetricHead(nn.Module):
    """Distances within a batch: embedding (B, E), normalised here, label (B,) -> scalar, in float32 outside autocast.

    d is the Euclidean distance of unit vectors, d^2 = 2 - 2 cos in [0, 4].
    contrastive (margin 1 in ABE): mean of d^2 over the genuine pairs plus mean of max(0, margin - d^2) over the impostor pairs. ABE draws as
    many of the one as of the other, so that the mean of all is half of this.
    triplet (margin 0.2 in FaceNet): mean of d(a, p)^2 - d(a, n)^2 + margin over the triplets where that is above 0.
    Pairs and triplets are all that the labels of a process's part of the batch make; 0 where they make none.
    RecipeError without pytorch-metric-learning.
    """

    def __init__(self, kind: str, margin: float):
        super().__init__()
        if kind not in METRICS:
            raise ValueError(f"unknown metric loss {kind!r}; choose from {', '.join(METRICS)}")
        try:
            from pytorch_metric_learning import distances, losses, reducers
        except ImportError:
            raise RecipeError(f"head.kind={kind} needs pytorch-metric-learning; pip install 'askd[metric]'") from None
        squared = distances.LpDistance(normalize_embeddings=False, p=2, power=2)
        if kind == "contrastive":
            self.loss = losses.ContrastiveLoss(pos_margin=0, neg_margin=margin, distance=squared, reducer=reducers.MeanReducer())
        else:
            self.loss = losses.TripletMarginLoss(margin=margin, distance=squared)

    def forward(self, embedding: Tensor, label: Tensor) -> Tensor:
        with torch.autocast(embedding.device.type, enabled=False):
            return self.loss(F.normalize(embedding.float()), label)
