"""The two maps that CBAM and SE are made of: which channels count (ChannelGate), and where (SpatialGate).

Maxima are taken with their index, never by amax, whose gradient finds the places again by comparing: compiled, the two sides of that
comparison may be rounded differently (pytorch/pytorch#186799), and in half precision the gradient came out wrong or as 0 / 0.
"""
from __future__ import annotations

import torch
from torch import Tensor, nn

POOLS = {"both": ("average", "max"), "average": ("average",), "max": ("max",)}


class ChannelGate(nn.Module):
    """Mc before the sigmoid: MLP(avgpool F) + MLP(maxpool F), (B, C, H, W) -> (B, C, 1, 1); CBAM eq. 2, bias-free as in A-SKD.

    pool: both, or average or max alone (ablations of the paper; average alone is SE's).
    """

    def __init__(self, channels: int, reduction: int = 16, pool: str = "both"):
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.pools = POOLS[pool]
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False), nn.ReLU(), nn.Conv2d(hidden, channels, 1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        pooled = {"average": lambda: x.mean((2, 3), keepdim=True), "max": lambda: x.flatten(2).max(2).values[..., None, None]}
        return sum(self.mlp(pooled[name]()) for name in self.pools)


class SpatialGate(nn.Module):
    """Ms before the sigmoid: conv([mean over C; max over C]), (B, C, H, W) -> (B, 1, H, W); CBAM eq. 3.

    kernel: 7 in the CBAM paper, 3 in the released A-SKD code; no bias, no batch norm in either of ours.
    pool: both, or average or max alone, which leave the convolution one input plane.
    """

    def __init__(self, kernel: int = 7, pool: str = "both"):
        super().__init__()
        self.pools = POOLS[pool]
        self.conv = nn.Conv2d(len(self.pools), 1, kernel, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        pooled = {"average": lambda: x.mean(1, keepdim=True), "max": lambda: x.max(1, keepdim=True).values}
        return self.conv(torch.cat([pooled[name]() for name in self.pools], 1))
