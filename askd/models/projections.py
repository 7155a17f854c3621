"""What some distillation terms put on the student's side: hint convolutions after its stages, a linear map after its embedding."""
from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from askd.models.features import Features


class Projections(nn.Module):
    """Fills in `hints` and `projected` of Features; trained and checkpointed with the student, dropped at export.

    hints: (stage from 1, the student's channels, the teacher's) per hint, a 1x1 convolution; batch_norm after it (F-SKD) or not (FitNet).
    embedding: (the student's width, the teacher's) of a linear map without bias, or None.
    """

    def __init__(self, hints: Sequence[tuple[int, int, int]] = (), batch_norm: bool = True, embedding: tuple[int, int] | None = None):
        super().__init__()
        self.stages = [stage for stage, _, _ in hints]
        self.hints = nn.ModuleList(
            nn.Sequential(nn.Conv2d(ours, theirs, 1, bias=False), nn.BatchNorm2d(theirs)) if batch_norm else nn.Conv2d(ours, theirs, 1)
            for _, ours, theirs in hints
        )
        self.embedding = nn.Linear(*embedding, bias=False) if embedding else None

    def forward(self, features: Features) -> Features:
        return features._replace(
            hints=tuple(hint(features.stages[stage - 1]) for stage, hint in zip(self.stages, self.hints)),
            projected=self.embedding(features.embedding) if self.embedding is not None else None,
        )
