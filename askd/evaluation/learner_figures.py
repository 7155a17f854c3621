"""Figures of an ensemble: cosine histograms over training and by pair of learners, masks on the same faces, learners against the whole."""
from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from askd.evaluation.figures import COLOURS, HEAT, dress, save
from askd.evaluation.learners import BINS, KINDS, overall, pooled

NAMES = {"self": "one image, two learners", "positive": "genuine pairs, one learner", "negative": "impostor pairs, one learner"}
NAMES_OF_PAIR = {"self": "one image, both learners", "positive": "genuine pairs, an image each", "negative": "impostor pairs, an image each"}
COLOUR_OF = dict(zip(KINDS, (COLOURS[2], COLOURS[0], COLOURS[1])))


def similarity_figure(evaluations: Sequence[tuple[str, list[dict]]], most: int = 4) -> Figure:
    """Histograms of cosines: panels (title, entries of learners.similarities), at most `most`, evenly chosen with the first and the last."""
    places = np.unique(np.linspace(0, len(evaluations) - 1, min(most, len(evaluations))).round().astype(int))
    figure = Figure(figsize=(0.6 + 3.6 * len(places), 3.6), layout="constrained")
    for axes, (title, entries) in zip(figure.subplots(1, len(places), squeeze=False)[0], (evaluations[place] for place in places)):
        means = overall(entries)
        for kind, mean in means.items():
            histogram(axes, pooled(entries, kind), mean, COLOUR_OF[kind], NAMES[kind])
        dress(axes, title, "cosine", "fraction of pairs")
        axes.set_xlim(-1, 1)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=len(labels))
    return figure


def plot_pairs(entries: list[dict], history: Sequence[tuple[int, list[dict]]], path: str | os.PathLike, title: str = "") -> None:
    """ABE's figure 5 by pair of learners (p, q), M panels by M: histograms of `entries` on and below the diagonal, in row p = the larger.

    Above it, the pair's mean cosines over training: history of (step, entries), left empty without any. An entry's genuine and impostor
    pairs are seen by p and q, one image each.
    """
    learners = max(max(entry["learners"]) for entry in entries)
    figure = Figure(figsize=(1 + 2.3 * learners, 1 + 2 * learners), layout="constrained")
    grid = figure.subplots(learners, learners, squeeze=False)
    lowest = min([-0.4, *(one[kind]["mean"] - 0.05 for _, found in history for one in found for kind in KINDS if kind in one)])
    for axes in grid.flat:
        axes.set_axis_off()
    for entry in entries:
        p, q = entry["learners"]
        below, above = grid[q - 1, p - 1], grid[p - 1, q - 1]
        below.set_axis_on()
        for kind in KINDS:
            if kind in entry:
                histogram(below, np.array(entry[kind]["counts"]), entry[kind]["mean"], COLOUR_OF[kind], NAMES_OF_PAIR[kind])
        dress(below, f"learners {p}, {q}" if p != q else f"learner {p}", "cosine", "fraction")
        below.set_xlim(-1, 1)
        if p != q and history:
            above.set_axis_on()
            ours = [(step, one) for step, found in history for one in found if one["learners"] == [p, q]]
            for kind in KINDS:
                points = [(step, one[kind]["mean"]) for step, one in ours if kind in one]
                if points:
                    above.plot(*zip(*points), color=COLOUR_OF[kind], marker="o", markersize=3)
            dress(above, f"learners {p}, {q}", "training step", "mean cosine")
            above.set_ylim(lowest, 1.05)
    handles = {label: handle for axes in grid.flat for handle, label in zip(*axes.get_legend_handles_labels())}
    figure.suptitle(title, fontsize=11)
    figure.legend(handles.values(), handles.keys(), frameon=False, loc="outside lower center", ncols=len(handles))
    save(figure, path)


def histogram(axes: Axes, counts: np.ndarray, mean: float, colour: str, label: str) -> None:
    """Fractions of cosines by bin from -1 to 1, and a line at their mean."""
    centres = np.linspace(-1, 1, BINS + 1)[:-1] + 1 / BINS
    axes.fill_between(centres, counts / counts.sum(), step="mid", color=colour, alpha=0.45, label=label)
    axes.axvline(mean, color=colour, linewidth=1.2)


def as_image(figure: Figure) -> np.ndarray:
    """The figure's pixels, uint8 (H, W, 3) RGB: for TensorBoard."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def plot_masks(faces: np.ndarray, masks: np.ndarray, path: str | os.PathLike) -> None:
    """A row per face: the face, then each learner's mask, the mean over its channels; colours stretched over the whole row.

    faces: uint8 (B, H, W, 3) RGB, what the network saw; masks: (B, M, C, h, w).
    """
    mean = masks.mean(2)
    figure = Figure(figsize=(1.5 * (1 + mean.shape[1]), 1.7 * len(faces)), layout="constrained")
    for row, (axes_of_row, face, learners) in enumerate(zip(figure.subplots(len(faces), 1 + mean.shape[1], squeeze=False), faces, mean)):
        for place, axes in enumerate(axes_of_row):
            axes.set_axis_off()
            if row == 0:
                axes.set_title("face" if place == 0 else f"learner {place}", fontsize=9)
            if place == 0:
                axes.imshow(face)
            else:
                axes.imshow(learners[place - 1], cmap=HEAT, vmin=learners.min(), vmax=learners.max(), interpolation="bilinear")
    save(figure, path)


def plot_learners(figures: dict[str, float], ensemble: float, measure: str, path: str | os.PathLike) -> None:
    """Bars of each learner's figure by name, and a line for the whole ensemble's."""
    figure = Figure(figsize=(1.5 + 0.8 * len(figures), 3.4), layout="constrained")
    axes = figure.subplots()
    axes.bar(list(figures), list(figures.values()), color=COLOURS[0], width=0.6)
    axes.axhline(ensemble, color=COLOURS[1], label=f"ensemble ({ensemble:.2f})")
    lowest = min(*figures.values(), ensemble)
    axes.set_ylim(lowest - max(0.25 * (ensemble - lowest), 0.5), max(*figures.values(), ensemble) + 0.5)
    dress(axes, "", "learner", measure)
    axes.legend(frameon=False, loc="lower right")
    save(figure, path)
