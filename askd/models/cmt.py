"""CMT (Guo et al., CVPR 2022): convolutions for what is near, attention with few keys for what is far; adapted to 112 x 112 faces."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from askd.models.attention import make_attention
from askd.models.features import AttentionMaps
from askd.models.necks import EPS, gdconv_neck
from askd.models.staged import StagedBackbone

STRIDES = (8, 4, 2, 1)  # the paper's k: keys and values of a stage are so many times fewer along each side
HEADS = (1, 2, 4, 8)


class LPU(nn.Module):
    """Local perception unit: x + depthwise 3x3 of x, (B, C, H, W) -> the same shape."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


class LMHSA(nn.Module):
    """Lightweight multi-head self-attention: softmax(Q K^T / sqrt(d) + B) V per head, (B, C, H, W) -> the same shape.

    Q is of every position; K and V are of a k x k depthwise convolution with stride k (and its batch norm), that is H W / k^2 positions.
    forward's position: the relative position bias B, (heads, H W, H W / k^2); the blocks of a stage share it, as in the authors' code.
    """

    def __init__(self, channels: int, heads: int, stride: int):
        super().__init__()
        self.heads = heads
        self.reduce = nn.Sequential(
            nn.Conv2d(channels, channels, stride, stride, groups=channels), nn.BatchNorm2d(channels, eps=EPS)
        ) if stride > 1 else nn.Identity()
        self.query, self.key, self.value, self.project = (nn.Linear(channels, channels) for _ in range(4))

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        everywhere, few = (features.flatten(2).mT for features in (x, self.reduce(x)))  # (B, H W, C) and (B, H W / k^2, C)
        q, k, v = (
            tokens.unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, heads, positions, d)
            for tokens in (self.query(everywhere), self.key(few), self.value(few))
        )
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=position[None].to(q.dtype))
        return self.project(attended.transpose(1, 2).flatten(2)).mT.unflatten(2, x.shape[2:])


class IRFFN(nn.Module):
    """Inverted residual feed-forward network: 1x1 to R C channels, depthwise 3x3 with a residual of its own, 1x1 back; (B, C, H, W).

    GELU and batch norm, in this order, after the first two, a batch norm after the last.
    """

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.GELU(), nn.BatchNorm2d(hidden, eps=EPS))
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.activate = nn.Sequential(nn.GELU(), nn.BatchNorm2d(hidden, eps=EPS))
        self.project = nn.Sequential(nn.Conv2d(hidden, channels, 1), nn.BatchNorm2d(channels, eps=EPS))

    def forward(self, x: Tensor) -> Tensor:
        x = self.expand(x)
        return self.project(self.activate(x + self.depthwise(x)))


class Block(nn.Module):
    """LPU; x + LMHSA(LN x); x + attention module(IRFFN(LN x)): (B, C, H, W) -> the same shape, and the module's maps."""

    def __init__(self, channels: int, heads: int, stride: int, hidden: int, attention: nn.Module):
        super().__init__()
        self.lpu = LPU(channels)
        self.norm1 = LayerNorm2d(channels)
        self.lmhsa = LMHSA(channels, heads, stride)
        self.norm2 = LayerNorm2d(channels)
        self.irffn = IRFFN(channels, hidden)
        self.attention = attention

    def forward(self, x: Tensor, position: Tensor) -> tuple[Tensor, AttentionMaps | None]:
        x = self.lpu(x)
        x = x + self.lmhsa(self.norm1(x), position)
        branch, maps = self.attention(self.irffn(self.norm2(x)))
        return x + branch, maps


class CMT(StagedBackbone):
    """Images (B, 3, size, size) RGB in [-1, 1] -> embeddings (B, E), not normalised.

    widths, blocks, expansion (R), stem_width: the paper's. size, stem_stride: 112 and 1 put the stages at 56, 28, 14 and 7 pixels,
    as IResNet's, with 7 x 7 keys in each; the paper's stem halves (stem_stride=2) images of 160 to 256 pixels.
    Ours: the global depthwise convolution in place of 1280-d projection and average pool; position biases begin near 0, not at N(0, 1).
    attention: none | se | bam | cbam, at the end of every IRFFN; module_options: make_attention's.
    Raises ValueError for a size that the strides do not divide.
    """

    def __init__(
        self, widths: tuple[int, ...], blocks: tuple[int, ...], expansion: float, stem_width: int, size: int = 112, stem_stride: int = 1,
        attention: str = "none", embedding: int = 512, dropout: float = 0.0, **module_options,
    ):
        super().__init__()
        sides = [size // stem_stride >> stage for stage in (1, 2, 3, 4)]
        if size % (16 * stem_stride) or any(side % stride for side, stride in zip(sides, STRIDES)):
            raise ValueError(f"CMT's strides do not divide {size} pixels behind a stem of stride {stem_stride}; use a multiple of {16 * stem_stride}")
        stem = []
        for inputs, stride in ((3, stem_stride), (stem_width, 1), (stem_width, 1)):
            stem += [nn.Conv2d(inputs, stem_width, 3, stride, padding=1), nn.GELU(), nn.BatchNorm2d(stem_width, eps=EPS)]
        self.stem = nn.Sequential(*stem)
        self.embeds, self.stages, self.positions = nn.ModuleList(), nn.ModuleList(), nn.ParameterList()
        inputs = stem_width
        for channels, count, heads, stride, side in zip(widths, blocks, HEADS, STRIDES, sides, strict=True):
            self.embeds.append(nn.Sequential(nn.Conv2d(inputs, channels, 2, 2), LayerNorm2d(channels)))
            self.stages.append(nn.ModuleList(
                Block(channels, heads, stride, int(expansion * channels), make_attention(attention, channels, **module_options))
                for _ in range(count)
            ))
            self.positions.append(nn.Parameter(torch.empty(heads, side * side, (side // stride) ** 2)))
            inputs = channels
        self.neck = gdconv_neck(inputs, sides[-1], embedding, dropout)
        for module in self.stages.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        for position in self.positions:
            nn.init.trunc_normal_(position, std=0.02)
        self.num_features, self.head_hidden_size = inputs, embedding
        self.feature_info = [
            {"channels": channels, "size": side, "blocks": count} for channels, side, count in zip(widths, sides, blocks)
        ]

    def drop_start(self, stages: int) -> None:
        """See StagedBackbone; embeddings and position biases of those stages go, too."""
        super().drop_start(stages)
        for index in range(stages):
            self.embeds[index] = nn.Identity()
            self.positions[index] = nn.Parameter(torch.empty(0), requires_grad=False)

    def run_stage(self, index: int, x: Tensor) -> tuple[Tensor, list[AttentionMaps]]:
        """One stage, from 0: its output and the attention modules' maps; every block takes the stage's position bias."""
        x, attention = self.embeds[index](x), []
        for block in self.stages[index]:
            x, maps = block(x, self.positions[index])
            if maps is not None:
                attention.append(maps)
        return x, attention


LAYOUTS = {
    "cmt_ti": dict(widths=(46, 92, 184, 368), blocks=(2, 2, 10, 2), expansion=3.6, stem_width=16),
    "cmt_xs": dict(widths=(52, 104, 208, 416), blocks=(3, 3, 12, 3), expansion=3.77, stem_width=16),
    "cmt_s": dict(widths=(64, 128, 256, 512), blocks=(3, 3, 16, 3), expansion=4, stem_width=32),
    "cmt_b": dict(widths=(76, 152, 304, 608), blocks=(4, 4, 20, 4), expansion=4, stem_width=38),
}
