"""Backbones by name: the choices of a recipe's `network.backbone`."""
from __future__ import annotations

import difflib
from functools import partial

from askd.models import cmt, iresnet, mobilefacenet
from askd.models.attention import DEFAULTS
from askd.models.cmt import CMT
from askd.models.ensemble import Ensemble
from askd.models.features import Backbone
from askd.models.iresnet import IResNet
from askd.models.mobilefacenet import MobileFaceNet
from askd.models.timm_backbone import PREFIX, TimmBackbone
from askd.models.timm_names import register_with_timm

BACKBONES = {
    **{name: (IResNet, layout) for name, layout in iresnet.LAYOUTS.items()},
    **{name: (MobileFaceNet, layout) for name, layout in mobilefacenet.LAYOUTS.items()},
    **{name: (CMT, layout) for name, layout in cmt.LAYOUTS.items()},
}


def make_backbone(name: str, ensemble: dict | None = None, **options) -> Backbone:
    """A backbone by name: one of BACKBONES, or timm/NAME for any of timm's that takes 112 x 112 images.

    options: embedding, dropout; for ours attention and make_attention's. ValueError for an unknown name, with the closest known one,
    and for options that the backbone has no use for.
    ensemble: Ensemble's learners, branch, depth and kind; None: the backbone by itself. The embedding's width is all learners' together.
    """
    if ensemble is not None:
        if name.startswith(PREFIX):
            raise ValueError(f"{name} has no stages of ours for learners to share; take one of {', '.join(BACKBONES)} for an ensemble")
        width, learners = options.pop("embedding", 512), ensemble["learners"]
        if width % learners:
            raise ValueError(f"an embedding of {width} does not divide among {learners} learners")
        return Ensemble(lambda: make_backbone(name, embedding=width // learners, **options), **ensemble)
    if name.startswith(PREFIX):
        useless = {key: value for key, value in options.items() if key in DEFAULTS and value != DEFAULTS[key]}
        if useless:
            given = ", ".join(f"{key}={value}" for key, value in useless.items())
            raise ValueError(f"{name} takes no attention modules, got {given}; set attention=none and leave their options out")
        return TimmBackbone(name.removeprefix(PREFIX), **{key: value for key, value in options.items() if key not in DEFAULTS})
    if name not in BACKBONES:
        close = difflib.get_close_matches(name, BACKBONES, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ValueError(f"unknown backbone {name!r}; {hint}choose from {', '.join(BACKBONES)}, {PREFIX}NAME")
    make, layout = BACKBONES[name]
    return make(**layout, **options)


for _name, (_make, _layout) in BACKBONES.items():
    register_with_timm(_name, partial(_make, **_layout), "none")
    register_with_timm(f"{_name}_cbam", partial(_make, **_layout), "cbam")
