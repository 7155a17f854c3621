"""Attention modules that return what they computed: CBAM (Woo et al., ECCV 2018) and SE (Hu et al., CVPR 2018)."""
from __future__ import annotations

import torch
from torch import Tensor, nn

from askd.models.features import AttentionMaps


class ChannelGate(nn.Module):
    """Mc before the sigmoid: MLP(avgpool F) + MLP(maxpool F), (B, C, H, W) -> (B, C, 1, 1); CBAM eq. 2, bias-free as in A-SKD."""

    def __init__(self, channels: int, reduction: int = 16, pools: tuple[str, ...] = ("avg", "max")):
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.pools = pools
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False), nn.ReLU(), nn.Conv2d(hidden, channels, 1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        pooled = {"avg": lambda: x.mean((2, 3), keepdim=True), "max": lambda: x.amax((2, 3), keepdim=True)}
        return sum(self.mlp(pooled[name]()) for name in self.pools)


class SpatialGate(nn.Module):
    """Ms before the sigmoid: conv([mean over C; max over C]), (B, C, H, W) -> (B, 1, H, W); CBAM eq. 3.

    kernel: 7 in the CBAM paper, 3 in the released A-SKD code; no bias, no batch norm in either of ours.
    """

    def __init__(self, kernel: int = 7):
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1))


class CBAM(nn.Module):
    """F' = Mc(F) * F, F'' = Ms(F') * F' (CBAM eq. 1); returns F'' (B, C, H, W) and both maps before their sigmoid."""

    def __init__(self, channels: int, reduction: int = 16, kernel: int = 7):
        super().__init__()
        self.channel = ChannelGate(channels, reduction)
        self.spatial = SpatialGate(kernel)

    def forward(self, x: Tensor) -> tuple[Tensor, AttentionMaps]:
        channel = self.channel(x)
        x = x * channel.sigmoid()
        spatial = self.spatial(x)
        return x * spatial.sigmoid(), AttentionMaps(channel, spatial)


class SE(nn.Module):
    """Squeeze-and-excitation: F' = sigmoid(MLP(avgpool F)) * F; returns F' and the channel map, no spatial one."""

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        self.channel = ChannelGate(channels, reduction, pools=("avg",))

    def forward(self, x: Tensor) -> tuple[Tensor, AttentionMaps]:
        channel = self.channel(x)
        return x * channel.sigmoid(), AttentionMaps(channel, None)


class NoAttention(nn.Module):
    """The identity, in the shape of an attention module."""

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return x, None


def make_attention(name: str, channels: int, reduction: int = 16, kernel: int = 7) -> nn.Module:
    """The attention module of one block; `name` is one of none, se, cbam."""
    if kernel not in (3, 7):
        raise ValueError(f"CBAM's spatial kernel must be 3 (released A-SKD code) or 7 (CBAM paper), got {kernel}")
    makers = {
        "none": NoAttention,
        "se": lambda: SE(channels, reduction),
        "cbam": lambda: CBAM(channels, reduction, kernel),
    }
    if name not in makers:
        raise ValueError(f"unknown attention {name!r}; choose from {', '.join(makers)}")
    return makers[name]()
