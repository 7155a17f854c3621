"""What a backbone is to the rest: images in, an embedding out, and on demand all that distillation compares, explicitly and without hooks."""
from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol

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

    def only(self, parts: Collection[str]) -> Features:
        """The embedding and these of `attention` and `stages`; the others are empty."""
        return self._replace(**{name: () for name in ("attention", "stages") if name not in parts})

    @property
    def identity(self) -> Tensor:
        """What a head learns from: (B, M, E/M) of an ensemble, (B, E) of any other network."""
        return self.embedding if self.learners is None else self.learners


class Backbone(Protocol):
    """A trainable nn.Module, (B, 3, 112, 112) RGB in [-1, 1] -> (B, head_hidden_size), whose `forward_all` tells the rest of it, too.

    feature_info: per stage of Features its `channels` and `size` in pixels, in ours also its `blocks` that have attention, if any has.
    num_features: channels of `forward_features`, the last feature map; head_hidden_size: width of the embedding (timm's names).
    """

    feature_info: Sequence[dict]
    num_features: int
    head_hidden_size: int

    def __call__(self, x: Tensor) -> Tensor: ...

    def forward_all(self, x: Tensor) -> Features: ...

    def forward_features(self, x: Tensor) -> Tensor: ...
