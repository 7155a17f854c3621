"""Backbones by name: the choices of a recipe's `network.backbone`."""
from __future__ import annotations

from askd.models.ensemble import Ensemble
from askd.models.iresnet import LAYOUTS, IResNet

BACKBONES = {name: layout for name, layout in LAYOUTS.items()}


def make_backbone(name: str, ensemble: dict | None = None, **options) -> IResNet | Ensemble:
    """A backbone by name, with IResNet's options (attention, spatial_kernel, reduction, embedding, dropout).

    ensemble: Ensemble's learners, branch, depth and kind; None: the backbone by itself. The embedding's width is all learners' together.
    """
    if name not in BACKBONES:
        raise ValueError(f"unknown backbone {name!r}; choose from {', '.join(BACKBONES)}")
    if ensemble is None:
        return IResNet(**BACKBONES[name], **options)
    width, learners = options.pop("embedding", 512), ensemble["learners"]
    if width % learners:
        raise ValueError(f"an embedding of {width} does not divide among {learners} learners")
    return Ensemble(lambda: make_backbone(name, embedding=width // learners, **options), **ensemble)
