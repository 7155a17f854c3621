"""BAM, the bottleneck attention module (Park et al., BMVC 2018): a channel and a spatial branch side by side, added before one sigmoid."""
from __future__ import annotations

from torch import Tensor, nn

from askd.models.features import AttentionMaps

DILATION = 4  # the paper's d: two 3x3 convolutions see 17 x 17 positions


class BAM(nn.Module):
    """F' = F + sigmoid(Mc(F) + Ms(F)) * F, (B, C, H, W); returns F' and both maps as they stand before the sum.

    Mc: average pool, then an MLP with C/r hidden units, (B, C, 1, 1). Ms: 1x1 to C/r channels, two 3x3 with dilation 4, 1x1 to one
    channel, (B, 1, H, W). Batch norm and ReLU after each hidden layer and none after the last, as the authors' code has it; the
    paper's equations write one batch norm at the end of each branch.
    The paper puts it between stages; here it stands where CBAM does, at the end of every residual branch.
    """

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.channel = nn.Sequential(nn.AdaptiveAvgPool2d(1), *_hidden(channels, hidden, 1, 1), nn.Conv2d(hidden, channels, 1))
        self.spatial = nn.Sequential(
            *_hidden(channels, hidden, 1, 1), *_hidden(hidden, hidden, 3, DILATION), *_hidden(hidden, hidden, 3, DILATION),
            nn.Conv2d(hidden, 1, 1),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, AttentionMaps]:
        channel, spatial = self.channel(x), self.spatial(x)
        return x + x * (channel + spatial).sigmoid(), AttentionMaps(channel, spatial)


def _hidden(inputs: int, outputs: int, kernel: int, dilation: int) -> tuple[nn.Module, ...]:
    padding = dilation * (kernel // 2)
    return nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation), nn.BatchNorm2d(outputs), nn.ReLU()
