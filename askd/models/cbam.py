"""CBAM (Woo et al., ECCV 2018), returning what it computed, with the arrangements and parts that its paper compares."""
from __future__ import annotations

from torch import Tensor, nn

from askd.models.features import AttentionMaps
from askd.models.gates import ChannelGate, SpatialGate

ORDERS = ("channel_first", "spatial_first", "parallel")
PARTS = ("both", "channel", "spatial")


class CBAM(nn.Module):
    """F' = Mc(F) * F, F'' = Ms(F') * F' (CBAM eq. 1); returns F'' (B, C, H, W) and both maps before their sigmoid.

    order: channel_first (the paper's choice, eq. 1), spatial_first, or parallel: both maps of F itself, F'' = Mc(F) * Ms(F) * F.
    parts: both, channel alone or spatial alone, whose other map is then None; one part has no order.
    pool: what both gates pool by: both, average or max. kernel: of the spatial convolution, in pixels.
    """

    def __init__(
        self, channels: int, reduction: int = 16, kernel: int = 7, order: str = "channel_first", parts: str = "both", pool: str = "both",
    ):
        super().__init__()
        self.order = order
        self.channel = ChannelGate(channels, reduction, pool) if parts != "spatial" else None
        self.spatial = SpatialGate(kernel, pool) if parts != "channel" else None

    def forward(self, x: Tensor) -> tuple[Tensor, AttentionMaps]:
        gates = {"channel": self.channel, "spatial": self.spatial}
        maps: dict[str, Tensor | None] = {"channel": None, "spatial": None}
        out = x
        for name in ("spatial", "channel") if self.order == "spatial_first" else ("channel", "spatial"):
            if gates[name] is not None:
                maps[name] = gates[name](x if self.order == "parallel" else out)
                out = out * maps[name].sigmoid()
        return out, AttentionMaps(**maps)
