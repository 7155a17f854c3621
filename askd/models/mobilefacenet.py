"""MobileFaceNet (Chen et al. 2018): inverted residual bottlenecks, and a global depthwise convolution in place of average pooling."""
from __future__ import annotations

from torch import Tensor, nn

from askd.models.attention import make_attention
from askd.models.features import AttentionMaps
from askd.models.necks import EPS, gdconv_neck
from askd.models.staged import StagedBackbone

LAST = 512  # channels that the global depthwise convolution sees


class ConvBlock(nn.Module):
    """Convolution - BN - PReLU, as a block: (B, I, H, W) -> ((B, C, H/stride, W/stride), None)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__()
        self.body = conv_bn_prelu(inputs, outputs, kernel, stride, groups)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return self.body(x), None


class Bottleneck(nn.Module):
    """1x1 to `hidden` channels, depthwise 3x3, 1x1 without activation, attention; plus x where stride 1 lets it."""

    def __init__(self, inputs: int, outputs: int, hidden: int, stride: int, attention: nn.Module):
        super().__init__()
        self.expand = conv_bn_prelu(inputs, hidden, 1)
        self.depthwise = conv_bn_prelu(hidden, hidden, 3, stride, groups=hidden)
        self.project = nn.Sequential(nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs, eps=EPS))
        self.attention = attention
        self.residual = stride == 1

    def forward(self, x: Tensor) -> tuple[Tensor, AttentionMaps | None]:
        branch, maps = self.attention(self.project(self.depthwise(self.expand(x))))
        return x + branch if self.residual else branch, maps


class MobileFaceNet(StagedBackbone):
    """Images (B, 3, 112, 112) RGB in [-1, 1] -> embeddings (B, E), not normalised.

    blocks: bottlenecks of stages 2, 3 and 4 (28, 14 and 7 pixels) after the one that halves; stage 1 (56 pixels) is a depthwise convolution.
    scale: factor on the channels between bottlenecks, not on those inside (arcface_torch's `mbf` has 2).
    attention: at the end of every bottleneck; module_options: make_attention's.
    """

    def __init__(
        self, blocks: tuple[int, int, int] = (4, 6, 2), scale: int = 1, attention: str = "none", embedding: int = 512,
        dropout: float = 0.0, **module_options,
    ):
        super().__init__()
        narrow, wide = 64 * scale, 128 * scale

        def bottleneck(inputs: int, outputs: int, hidden: int, stride: int) -> Bottleneck:
            return Bottleneck(inputs, outputs, hidden, stride, make_attention(attention, outputs, **module_options))

        self.stem = conv_bn_prelu(3, narrow, 3, 2)
        self.stages = nn.ModuleList([nn.ModuleList([ConvBlock(narrow, narrow, 3, groups=64)])])
        for count, inputs, outputs, first, hidden in zip(
            blocks, (narrow, narrow, wide), (narrow, wide, wide), (128, 256, 512), (128, 256, 256), strict=True,
        ):
            rest = [bottleneck(outputs, outputs, hidden, 1) for _ in range(count)]
            self.stages.append(nn.ModuleList([bottleneck(inputs, outputs, first, 2), *rest]))
        self.neck = nn.Sequential(conv_bn_prelu(wide, LAST, 1), *gdconv_neck(LAST, 7, embedding, dropout))
        self.num_features, self.head_hidden_size = wide, embedding
        self.feature_info = [
            {"channels": channels, "size": 56 >> stage, "blocks": count}
            for stage, (channels, count) in enumerate(zip((narrow, narrow, wide, wide), (0, *(count + 1 for count in blocks))))
        ]


def conv_bn_prelu(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution without bias, batch norm, PReLU with a slope per channel."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, eps=EPS), nn.PReLU(outputs),
    )


LAYOUTS = {
    "mobilefacenet": dict(),  # the paper's; embedding=128 makes it 1.00 M parameters
    "mobilefacenet_x2": dict(scale=2),  # arcface_torch's `mbf`
}
