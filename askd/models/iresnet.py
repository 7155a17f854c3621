"""IResNet (Duta et al. 2020; the face-recognition layout of ArcFace) with an attention module at the end of every residual branch."""
from __future__ import annotations

from torch import Tensor, nn

from askd.models.attention import make_attention
from askd.models.features import AttentionMaps
from askd.models.necks import EPS, embedding_norm
from askd.models.staged import StagedBackbone

WIDTHS = (64, 128, 256, 512)


class Block(nn.Module):
    """BN - conv - BN - PReLU - conv(stride) - BN - attention, plus the shortcut: (B, I, H, W) -> (B, C, H/stride, W/stride)."""

    FOLDS = (("conv1", "bn2"), ("conv2", "bn3"))  # batch norms that may be folded into the convolutions before them

    def __init__(self, inputs: int, channels: int, stride: int, attention: nn.Module):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs, eps=EPS)
        self.conv1 = nn.Conv2d(inputs, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels, eps=EPS)
        self.act = nn.PReLU(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels, eps=EPS)
        self.attention = attention
        self.shortcut = None
        if stride != 1 or inputs != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, channels, 1, stride, bias=False), nn.BatchNorm2d(channels, eps=EPS)
            )

    def forward(self, x: Tensor) -> tuple[Tensor, AttentionMaps | None]:
        residual = self.act(self.bn2(self.conv1(self.bn1(x))))
        residual, maps = self.attention(self.bn3(self.conv2(residual)))
        return residual + (x if self.shortcut is None else self.shortcut(x)), maps


class IResNet(StagedBackbone):
    """A face-recognition trunk: images (B, 3, 112, 112) RGB in [-1, 1] -> embeddings (B, E), not normalised.

    blocks, widths: residual blocks and channels of the four stages, at 56, 28, 14 and 7 pixels.
    stem_stride: 1 keeps the stem at 112 pixels and halves in stage 1 (ArcFace); 2 halves in the stem, four times less work there.
    attention: none | se | bam | cbam; module_options: make_attention's (reduction, spatial_kernel, cbam_order, ...).
    """

    def __init__(
        self,
        blocks: tuple[int, ...],
        widths: tuple[int, ...] = WIDTHS,
        stem_stride: int = 1,
        attention: str = "none",
        embedding: int = 512,
        dropout: float = 0.0,
        **module_options,
    ):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, stem_stride, padding=1, bias=False),
            nn.BatchNorm2d(widths[0], eps=EPS),
            nn.PReLU(widths[0]),
        )
        self.stages = nn.ModuleList()
        inputs = widths[0]
        for stage, (count, channels) in enumerate(zip(blocks, widths)):
            first_stride = 1 if stage == 0 and stem_stride == 2 else 2
            self.stages.append(nn.ModuleList())
            for index in range(count):
                gate = make_attention(attention, channels, **module_options)
                self.stages[-1].append(Block(inputs, channels, first_stride if index == 0 else 1, gate))
                inputs = channels
        self.neck = nn.Sequential(
            nn.BatchNorm2d(inputs, eps=EPS),
            nn.Dropout(dropout),
            nn.Flatten(),
            nn.Linear(inputs * 7 * 7, embedding),
            embedding_norm(embedding),
        )
        self.num_features, self.head_hidden_size = inputs, embedding  # timm: of forward_features and of the output
        self.feature_info = [
            {"channels": channels, "size": 56 >> stage, "blocks": count}
            for stage, (count, channels) in enumerate(zip(blocks, widths))
        ]


LAYOUTS = {
    "iresnet10": dict(blocks=(1, 1, 1, 1), widths=(16, 32, 64, 128), stem_stride=2),  # ours: a hundredth of iresnet50's work
    "iresnet18": dict(blocks=(2, 2, 2, 2)),
    "iresnet34": dict(blocks=(3, 4, 6, 3)),
    "iresnet50": dict(blocks=(3, 4, 14, 3)),
    "iresnet100": dict(blocks=(3, 13, 30, 3)),
    "iresnet152": dict(blocks=(3, 8, 36, 3)),
}
