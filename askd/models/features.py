"""What a backbone hands to distillation: its embedding, its attention maps and its stage outputs, explicitly and without hooks."""
from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class AttentionMaps(NamedTuple):
    """One block's attention before the sigmoid: channel (B, C, 1, 1) and spatial (B, 1, H, W); None where the block has no such part."""

    channel: Tensor | None
    spatial: Tensor | None


class Features(NamedTuple):
    """embedding (B, E), not normalised; attention, one AttentionMaps per block (empty without attention); stages, one (B, C, H, W) each.

    hints, projected: a student's stages and embedding in the teacher's widths, where a term asks for that (models.projections).
    learners: of an ensemble, every learner's embedding (B, M, E/M), not normalised; `embedding` is then them, each normalised, concatenated.
    """

    embedding: Tensor
    attention: tuple[AttentionMaps, ...]
    stages: tuple[Tensor, ...]
    hints: tuple[Tensor, ...] = ()
    projected: Tensor | None = None
    learners: Tensor | None = None

    @property
    def identity(self) -> Tensor:
        """What a head learns from: (B, M, E/M) of an ensemble, (B, E) of any other network."""
        return self.embedding if self.learners is None else self.learners
