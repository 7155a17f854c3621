"""What a recogniser of another make wants its pixels to be: the small YAML that says so, and doing it."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from askd.errors import CheckpointError

SIDES = (16, 1024)  # pixels: what a recogniser's input can be
SIDE = 112  # pixels: of the faces that are handed in


def read_convention(path: Path, optional: tuple[str, ...] = ()) -> dict:
    """{"mean", "std", "colour"} of a YAML file, and those of `optional` (size: pixels; output: a name) that it gives.

    CheckpointError where it says anything else, or what cannot be.
    """
    expected = "`mean` and `std` (numbers of 0..255, one or three, std above 0) and `colour` (RGB or BGR)"
    try:
        given = yaml.safe_load(path.read_text())
        convention = {key: np.atleast_1d(np.asarray(given[key], np.float64)).tolist() for key in ("mean", "std")}
        convention["colour"] = given.get("colour", "RGB")
        convention |= {key: given[key] for key in optional if key in given}
        wrong = (
            set(given) - {"mean", "std", "colour", *optional} or convention["colour"] not in ("RGB", "BGR")
            or any(np.shape(convention[key]) not in ((1,), (3,)) or not np.isfinite(convention[key]).all() for key in ("mean", "std"))
            or min(convention["std"]) <= 0 or not isinstance(convention.get("output", ""), str)
            or type(convention.get("size", SIDE)) is not int or not SIDES[0] <= convention.get("size", SIDE) <= SIDES[1]
        )
    except (AttributeError, KeyError, OSError, TypeError, ValueError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path}: is no recogniser's input ({' '.join(str(error).split())}); expected {expected}") from None
    if wrong:
        also = f"; besides {' and '.join(optional)}" if optional else ""
        raise CheckpointError(f"{path}: says {given}, expected {expected}{also}")
    return convention


def fed_pixels(image: Tensor, convention: dict, side: int) -> Tensor:
    """Faces (B, 3, 112, 112) RGB in [-1, 1] -> (B, 3, side, side) float32 as the convention has them.

    Another side: bicubic, antialiased where it shrinks, clamped to 0..255.
    """
    pixels = image.detach().float() * 127.5 + 127.5
    if side != SIDE:
        pixels = F.interpolate(pixels, (side, side), mode="bicubic", align_corners=False, antialias=True).clamp(0, 255)
    if convention["colour"] == "BGR":
        pixels = pixels.flip(1)
    mean, std = (torch.tensor(convention[key], dtype=torch.float32, device=pixels.device).view(-1, 1, 1) for key in ("mean", "std"))
    return (pixels - mean) / std


def in_words(convention: dict, source: str, side: int) -> str:
    """RGB as (x - [127.5]) / [127.5] by InsightFace's convention."""
    mean, std = (", ".join(f"{number:g}" for number in convention[key]) for key in ("mean", "std"))
    return f"{convention['colour']} as (x - [{mean}]) / [{std}] by {source}" + (f", at {side}x{side}" if side != SIDE else "")
