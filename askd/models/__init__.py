"""Backbones by name: the choices of a recipe's `network.backbone`."""
from __future__ import annotations

from functools import partial

from askd.models.features import Backbone
from askd.models.iresnet import LAYOUTS, IResNet
from askd.models.timm_names import register_with_timm

BACKBONES = {name: (IResNet, layout) for name, layout in LAYOUTS.items()}


def make_backbone(name: str, **options) -> Backbone:
    """A backbone by name; options: embedding, dropout, attention and, with it, make_attention's. ValueError for what it has no use for."""
    if name not in BACKBONES:
        raise ValueError(f"unknown backbone {name!r}; choose from {', '.join(BACKBONES)}")
    make, layout = BACKBONES[name]
    return make(**layout, **options)


for _name, (_make, _layout) in BACKBONES.items():
    register_with_timm(_name, partial(_make, **_layout), "none")
    register_with_timm(f"{_name}_cbam", partial(_make, **_layout), "cbam")
