"""Squeeze-and-excitation (Hu et al., CVPR 2018)."""
from __future__ import annotations

from torch import Tensor, nn

from askd.models.features import AttentionMaps
from askd.models.gates import ChannelGate


class SE(nn.Module):
    """F' = sigmoid(MLP(avgpool F)) * F, (B, C, H, W); returns F' and the channel map before its sigmoid, no spatial one. Without biases."""

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        self.channel = ChannelGate(channels, reduction, pool="average")

    def forward(self, x: Tensor) -> tuple[Tensor, AttentionMaps]:
        channel = self.channel(x)
        return x * channel.sigmoid(), AttentionMaps(channel, None)
