"""Backbones by name: the choices of a recipe's `network.backbone`."""
from __future__ import annotations

from askd.models.iresnet import LAYOUTS, IResNet

BACKBONES = {name: layout for name, layout in LAYOUTS.items()}


def make_backbone(name: str, **options) -> IResNet:
    """A backbone by name, with IResNet's options (attention, spatial_kernel, reduction, embedding, dropout)."""
    if name not in BACKBONES:
        raise ValueError(f"unknown backbone {name!r}; choose from {', '.join(BACKBONES)}")
    return IResNet(**BACKBONES[name], **options)
