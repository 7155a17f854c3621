"""IResNet (Duta et al. 2020; the face-recognition layout of ArcFace) with an attention module at the end of every residual branch."""
from __future__ import annotations

from timm.models import register_model
from torch import Tensor, nn

from askd.models.cbam import make_attention
from askd.models.features import AttentionMaps, Features

EPS = 1e-5
WIDTHS = (64, 128, 256, 512)


class Block(nn.Module):
    """BN - conv - BN - PReLU - conv(stride) - BN - attention, plus the shortcut: (B, I, H, W) -> (B, C, H/stride, W/stride)."""

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


class IResNet(nn.Module):
    """A face-recognition trunk: images (B, 3, 112, 112) RGB in [-1, 1] -> embeddings (B, E), not normalised.

    blocks, widths: residual blocks and channels of the four stages, at 56, 28, 14 and 7 pixels.
    stem_stride: 1 keeps the stem at 112 pixels and halves in stage 1 (ArcFace); 2 halves in the stem, four times less work there.
    attention: none | se | cbam; spatial_kernel 3 (released A-SKD code) or 7 (CBAM paper); reduction of the channel MLP.
    """

    def __init__(
        self,
        blocks: tuple[int, ...],
        widths: tuple[int, ...] = WIDTHS,
        stem_stride: int = 1,
        attention: str = "none",
        spatial_kernel: int = 7,
        reduction: int = 16,
        embedding: int = 512,
        dropout: float = 0.0,
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
                gate = make_attention(attention, channels, reduction, spatial_kernel)
                self.stages[-1].append(Block(inputs, channels, first_stride if index == 0 else 1, gate))
                inputs = channels
        self.neck = nn.Sequential(
            nn.BatchNorm2d(inputs, eps=EPS),
            nn.Dropout(dropout),
            nn.Flatten(),
            nn.Linear(inputs * 7 * 7, embedding),
            nn.BatchNorm1d(embedding, eps=EPS),
        )
        nn.init.ones_(self.neck[4].weight)
        self.neck[4].weight.requires_grad_(False)  # fixed at 1, as in ArcFace: the margin head normalises anyway
        self.num_features, self.head_hidden_size = inputs, embedding  # timm: of forward_features and of the output
        self.feature_info = [
            {"channels": channels, "size": 56 >> stage, "blocks": count}
            for stage, (count, channels) in enumerate(zip(blocks, widths))
        ]

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
        for stage in self.stages[first:last]:
            for block in stage:
                x, maps = block(x)
                if maps is not None:
                    attention.append(maps)
            stages.append(x)
        return x, attention, stages


LAYOUTS = {
    "iresnet10": dict(blocks=(1, 1, 1, 1), widths=(16, 32, 64, 128), stem_stride=2),  # ours: a hundredth of iresnet50's work
    "iresnet18": dict(blocks=(2, 2, 2, 2)),
    "iresnet34": dict(blocks=(3, 4, 6, 3)),
    "iresnet50": dict(blocks=(3, 4, 14, 3)),
    "iresnet100": dict(blocks=(3, 13, 30, 3)),
    "iresnet152": dict(blocks=(3, 8, 36, 3)),
}


def _register_with_timm(name: str, layout: dict, attention: str) -> None:
    def build(pretrained: bool = False, **options) -> IResNet:
        if pretrained:
            raise ValueError(f"{name} ships without weights; load a run folder or a checkpoint with askd.teachers.load_backbone")
        if options.pop("num_classes", 0) != 0:
            raise ValueError(f"{name} has no classifier: leave num_classes out; its output is the embedding (embedding=512)")
        for timm_only in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
            options.pop(timm_only, None)
        return IResNet(**{**layout, "attention": attention, **options})

    build.__name__ = name
    build.__module__ = __name__
    build.__doc__ = f"{name}: IResNet with blocks {layout['blocks']} and attention {attention!r}."
    globals()[name] = register_model(build)


for _name, _layout in LAYOUTS.items():
    _register_with_timm(_name, _layout, "none")
    _register_with_timm(f"{_name}_cbam", _layout, "cbam")
