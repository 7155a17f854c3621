"""Our backbones under timm's names: timm.create_model("iresnet50_cbam") after `import askd.models`."""
from __future__ import annotations

from collections.abc import Callable

from timm.models import register_model
from torch import nn


def register_with_timm(name: str, make: Callable[..., nn.Module], attention: str) -> None:
    """Register `make` (make_backbone's options -> backbone) as `name`, with `attention` as its default."""
    def build(pretrained: bool = False, **options) -> nn.Module:
        if pretrained:
            raise ValueError(f"{name} ships without weights; load a run folder or a checkpoint with askd.teachers.load_backbone")
        if options.pop("num_classes", 0) != 0:
            raise ValueError(f"{name} has no classifier: leave num_classes out; its output is the embedding (embedding=512)")
        for timm_only in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
            options.pop(timm_only, None)
        return make(**{"attention": attention, **options})

    build.__name__ = name
    build.__module__ = __name__
    build.__doc__ = f"{name} of askd.models.make_backbone, attention {attention!r} by default."
    globals()[name] = register_model(build)
