"""The identity head: cosines to learnt class centres, an angular margin on the true class, scaled cross-entropy."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from askd.heads.margin import arcface


class ArcFaceHead(nn.Module):
    """ArcFace over `classes` identities: embedding (B, E), label (B,) -> mean cross-entropy, computed in float32 outside autocast.

    margin: radians, added to the true class's angle; logit_scale: ArcFace's s, the factor on all cosines.
    """

    def __init__(self, embedding: int, classes: int, margin: float = 0.5, logit_scale: float = 64.0):
        super().__init__()
        self.centres = nn.Parameter(torch.empty(classes, embedding))
        nn.init.xavier_uniform_(self.centres)
        self.margin, self.logit_scale = margin, logit_scale

    def cosine(self, embedding: Tensor) -> Tensor:
        """Cosines to every class centre, (B, E) -> (B, C) in [-1, 1]."""
        with torch.autocast(embedding.device.type, enabled=False):
            return F.linear(F.normalize(embedding.float()), F.normalize(self.centres.float())).clamp(-1, 1)

    def forward(self, embedding: Tensor, label: Tensor) -> Tensor:
        cosine = self.cosine(embedding)
        with torch.autocast(embedding.device.type, enabled=False):
            return F.cross_entropy(self.logit_scale * arcface(cosine, label, self.margin), label)
