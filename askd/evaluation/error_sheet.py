"""The hardest errors with their faces: what the model saw, where it looked, and one PNG of it all."""
from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
import torch
from matplotlib.figure import Figure

from askd.data.loader import to_unit
from askd.evaluation.attribution import attribute
from askd.evaluation.figures import save
from askd.evaluation.gradcam import Halves
from askd.evaluation.hardest import Errors
from askd.evaluation.overlay import overlay
from askd.evaluation.report import Size, size_name


@dataclass(frozen=True)
class ShownError:
    """One wrong decision. names: of both files; faces: as the model saw them, uint8 (112, 112, 3) RGB; heat: (112, 112) in [0, 1] each."""

    names: tuple[str, str]
    faces: tuple[np.ndarray, np.ndarray]
    heat: tuple[np.ndarray, np.ndarray]
    score: float
    threshold: float


@dataclass(frozen=True)
class ShownErrors:
    """The hardest errors of one model on one set at one size. all_..: how many there are; judged, heat: in words, at what and of what."""

    model: str
    set: str
    size: Size
    accepts: Sequence[ShownError]
    rejects: Sequence[ShownError]
    all_accepts: int
    all_rejects: int
    judged: str
    heat: str


def show_errors(
    model: str, set: str, size: Size, errors: Errors, scores: np.ndarray, left: np.ndarray, right: np.ndarray, names: Sequence[str],
    see: Callable[[list[int]], torch.Tensor], network: Callable, halves: Halves | None,
) -> ShownErrors:
    """Faces and heat of the pairs that `errors` names.

    scores, left, right (P,); names (N,) of images; see: indices of images -> what the model sees, float32 (B, 3, 112, 112) in 0..255 on its
    device; network, halves: see `attribution.attribute`.
    """
    said = ""

    def shown(pair: int) -> ShownError:
        nonlocal said
        both = [int(left[pair]), int(right[pair])]
        seen = see(both)
        with torch.inference_mode():
            embedding = network(to_unit(seen)).embedding
        heat, said = attribute(network, to_unit(seen), embedding.flip(0), halves)
        pixels = seen.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        return ShownError(tuple(short_name(names[image]) for image in both), tuple(np.ascontiguousarray(pixels)), tuple(heat),
                          float(scores[pair]), float(errors.threshold[pair]))

    accepts, rejects = ([shown(pair) for pair in kind.tolist()] for kind in (errors.accepts, errors.rejects))
    return ShownErrors(model, set, size, accepts, rejects, errors.all_accepts, errors.all_rejects, errors.said, said)


def short_name(name: str) -> str:
    """The file and its folder, without what lies above: that differs between machines, and says nothing."""
    return "/".join(PurePath(name).parts[-2:])


def plot_errors(errors: ShownErrors, path: str | os.PathLike) -> None:
    """False accepts left, false rejects right, worst first: both faces, then where the network looked in them (PNG)."""
    sides = (("false accepts", errors.all_accepts, errors.accepts), ("false rejects", errors.all_rejects, errors.rejects))
    rows = max(len(errors.accepts), len(errors.rejects), 1)
    figure = Figure(figsize=(11.5, 1.62 * rows + 0.9), layout="constrained")
    for part, (name, count, shown) in zip(figure.subfigures(1, 2, wspace=0.04), sides):
        part.suptitle(f"{name}: {f'{count:,}, worst first' if count else 'none'}", fontsize=10)
        grid = part.subplots(rows, 4, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for axes, error in zip(grid, shown):
            axes[0].set_title(f"cosine {error.score:.3f}, threshold {error.threshold:.3f}", fontsize=8, loc="left")
            for place, (face, heat) in enumerate(zip(error.faces, error.heat)):
                axes[place].imshow(face)
                axes[place + 2].imshow(overlay(face, heat))
    figure.suptitle(f"{errors.model} on {errors.set} at {size_name(errors.size)}; heat: {errors.heat or 'none'}", fontsize=9, parse_math=False)
    save(figure, path)
