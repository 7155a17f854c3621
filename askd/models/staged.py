"""The skeleton of our backbones: a stem, four stages at 56, 28, 14 and 7 pixels, and a neck that makes the embedding."""
from __future__ import annotations

from torch import Tensor, nn

from askd.models.features import AttentionMaps, Features


class StagedBackbone(nn.Module):
    """Images (B, 3, 112, 112) RGB in [-1, 1] -> embeddings (B, E), not normalised; a models.features.Backbone.

    A subclass sets `stem`, `stages` (of each stage the blocks, (B, I, H, W) -> ((B, C, H', W'), AttentionMaps or None)), `neck`,
    `num_features`, `head_hidden_size` and `feature_info`.
    """

    stem: nn.Module
    stages: nn.ModuleList
    neck: nn.Sequential

    def forward_features(self, x: Tensor) -> Tensor:
        """The last feature map, (B, 3, 112, 112) -> (B, C, 7, 7): what timm means by this name."""
        return self.through(x)[0]

    def forward_all(self, x: Tensor) -> Features:
        """Embedding, attention maps of every block and outputs of every stage, of one pass over (B, 3, 112, 112)."""
        x, attention, stages = self.through(x)
        return Features(self.neck(x), tuple(attention), tuple(stages))

    def forward(self, x: Tensor) -> Tensor:
        """The embedding alone, (B, 3, 112, 112) -> (B, E)."""
        return self.neck(self.through(x)[0])

    def through(self, x: Tensor, first: int = 0, last: int | None = None) -> tuple[Tensor, list[AttentionMaps], list[Tensor]]:
        """Stages first (from 0) to last (excluded; None: all), the stem before stage 0: the feature map, its blocks' maps, the stages' outputs."""
        if first == 0:
            x = self.stem(x)
        attention, stages = [], []
        for index in range(len(self.stages))[first:last]:
            x, maps = self.run_stage(index, x)
            attention += maps
            stages.append(x)
        return x, attention, stages

    def drop_start(self, stages: int) -> None:
        """Remove the stem and the first `stages` stages with their parameters; `through(x, stages)` and `neck` are left."""
        self.stem = nn.Identity()
        for index in range(stages):
            self.stages[index] = nn.ModuleList()

    def run_stage(self, index: int, x: Tensor) -> tuple[Tensor, list[AttentionMaps]]:
        """One stage, from 0: its output (B, C, H, W) and the attention maps of its blocks."""
        attention = []
        for block in self.stages[index]:
            x, maps = block(x)
            if maps is not None:
                attention.append(maps)
        return x, attention
