"""The attention module of a block, by name: none, SE, BAM or CBAM, each a module (B, C, H, W) -> (the same shape, its maps or None)."""
from __future__ import annotations

from torch import Tensor, nn

from askd.models.bam import BAM
from askd.models.cbam import CBAM, ORDERS, PARTS
from askd.models.gates import POOLS
from askd.models.se import SE

ATTENTIONS = ("none", "se", "bam", "cbam")
# What no backbone can have a use for without attention, and CBAM alone has for all but the first two.
DEFAULTS = {
    "attention": "none", "reduction": 16, "spatial_kernel": 7, "cbam_order": "channel_first", "cbam_parts": "both", "cbam_pool": "both",
}


class NoAttention(nn.Module):
    """The identity, in the shape of an attention module."""

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return x, None


def make_attention(
    name: str, channels: int, reduction: int = 16, spatial_kernel: int = 7, cbam_order: str = "channel_first", cbam_parts: str = "both",
    cbam_pool: str = "both",
) -> nn.Module:
    """The attention module of one block; `name` is one of ATTENTIONS.

    reduction: channels per hidden unit of SE, BAM and CBAM. spatial_kernel, cbam_*: CBAM's own, see CBAM. A spatial kernel that
    another module does not look at is let pass (runs are stored with it); ValueError for any other option without CBAM.
    """
    if name not in ATTENTIONS:
        raise ValueError(f"unknown attention {name!r}; choose from {', '.join(ATTENTIONS)}")
    if spatial_kernel not in (3, 7):
        raise ValueError(f"CBAM's spatial kernel must be 3 (released A-SKD code) or 7 (CBAM paper), got {spatial_kernel}")
    own = {"cbam_order": (cbam_order, ORDERS), "cbam_parts": (cbam_parts, PARTS), "cbam_pool": (cbam_pool, tuple(POOLS))}
    for option, (value, choices) in own.items():
        if value not in choices:
            raise ValueError(f"unknown {option} {value!r}; choose from {', '.join(choices)}")
        if name != "cbam" and value != DEFAULTS[option]:
            raise ValueError(f"{option}={value} is CBAM's, and the attention is {name}; leave it out, or choose attention cbam")
    if cbam_parts != "both" and cbam_order != "channel_first":
        raise ValueError(f"cbam_order={cbam_order} orders two parts, and cbam_parts={cbam_parts} leaves one; leave one of them out")
    makers = {
        "none": NoAttention,
        "se": lambda: SE(channels, reduction),
        "bam": lambda: BAM(channels, reduction),
        "cbam": lambda: CBAM(channels, reduction, spatial_kernel, cbam_order, cbam_parts, cbam_pool),
    }
    return makers[name]()
