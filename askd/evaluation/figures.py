"""Rows and curves as figures (PNG)."""
from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from askd.evaluation.cross import Matrix, headline, value_of
from askd.evaluation.map_similarity import MapDistance
from askd.evaluation.report import (
    Row, arranged, by_degradation, has_accuracy, models_of, scale_name, size_name, sizes_of, write_whole,
)
from askd.evaluation.roc import area

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe & Ito: for all eyes
MARKERS = "osD^vPX"
HEAT = "viridis"


@dataclass(frozen=True)
class AttentionRow:
    """One face of the attention figure. hr, lr: uint8 (112, 112, 3) RGB, what the models saw.

    on_hr, on_lr: {model: heat map (H, W) in [0, 1]} of the models that saw the HR and the LR image; H, W of any size.
    """

    hr: np.ndarray
    lr: np.ndarray
    on_hr: dict[str, np.ndarray]
    on_lr: dict[str, np.ndarray]


def plot_resolution(rows: Sequence[Row], path: str | os.PathLike) -> None:
    """Accuracy against resolution, a panel per set and protocol, bars of one fold std.

    AUC with its interval where the set gives no accuracy.
    """
    panels = arranged(rows)
    figure = Figure(figsize=(1.2 + 5.2 * len(panels), 4.2), layout="constrained")
    for axes, ((name, protocol), chosen) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items()):
        by_accuracy = has_accuracy(chosen.values())
        sizes, models = sizes_of(chosen.values()), models_of(chosen.values())
        for place, model in enumerate(models):
            line = [chosen[model, size] for size in sizes if (model, size) in chosen]
            line = [row for row in line if (row.accuracy if by_accuracy else row.auc) is not None]
            value = np.array([100 * row.accuracy if by_accuracy else row.auc for row in line])
            aside = 2 ** (0.035 * ((len(models) - 1) / 2 - place))  # so that bars of equal sizes do not hide each other
            axes.errorbar([row.size * aside for row in line], value, _bars(line, value, by_accuracy), label=model,
                          color=COLOURS[place % len(COLOURS)], marker=MARKERS[place % len(MARKERS)], linewidth=1.8,
                          markersize=5.5, elinewidth=1.1, capsize=3)
        _over_sizes(axes, sizes)
        measure = "accuracy (%), ± std over folds" if by_accuracy else "AUC"
        dress(axes, f"{name} ({protocol})", "face size (pixels)", measure)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=len(labels))
    save(figure, path)


def plot_degradations(rows: Sequence[Row], path: str | os.PathLike) -> None:
    """Accuracy (AUC where there is none) of one set and protocol against resolution: a panel per model, a line per degradation."""
    models = models_of(rows)
    figure = Figure(figsize=(1.2 + 4.6 * len(models), 4.2), layout="constrained")
    measure = "accuracy" if has_accuracy(rows) else "auc"
    for axes, model in zip(figure.subplots(1, len(models), squeeze=False, sharey=True)[0], models):
        for place, (degradation, alike) in enumerate(by_degradation([row for row in rows if row.model == model]).items()):
            line = sorted((row for row in alike if getattr(row, measure) is not None), key=lambda row: row.size)
            axes.plot([row.size for row in line], [100 * getattr(row, measure) for row in line], label=degradation,
                      color=COLOURS[place % len(COLOURS)], marker=MARKERS[place % len(MARKERS)], linewidth=1.8, markersize=5.5)
        _over_sizes(axes, sizes_of(rows))
        dress(axes, model, "face size (pixels)", f"{measure} (%)")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=len(labels))
    save(figure, path)


def plot_cross(found: dict[str, Matrix], path: str | os.PathLike, title: str) -> None:
    """Cross-resolution matrices {model: matrix} as maps side by side: gallery size down, probe size across, per cent in the cells."""
    figure = Figure(figsize=(1 + 4.4 * len(found), 4.4), layout="constrained")
    every = [row for matrix in found.values() for row in matrix.values()]
    measure = headline(every)
    values = [value for row in every if (value := value_of(row, measure)) is not None]
    for axes, (model, matrix) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items()):
        sizes = sorted({size for pair in matrix for size in pair}, reverse=True)
        cells = np.array([[value_of(matrix.get((down, across)), measure) for across in sizes] for down in sizes], float)
        layer = axes.imshow(100 * cells, cmap=HEAT, vmin=100 * min(values), vmax=100 * max(values))
        middle = 50 * (min(values) + max(values))
        for down, across in np.argwhere(np.isfinite(cells)):
            cell = 100 * cells[down, across]
            axes.text(across, down, f"{cell:.1f}", ha="center", va="center", fontsize=8, color="black" if cell > middle else "white")
        axes.set_xticks(range(len(sizes)), sizes)
        axes.set_yticks(range(len(sizes)), sizes)
        axes.set_title(model, fontsize=11)
        axes.set_xlabel("probe size (pixels)")
        axes.set_ylabel("gallery size (pixels)")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    bar = figure.colorbar(layer, ax=figure.axes, shrink=0.8, pad=0.015)
    bar.set_label(f"{measure} (%)")
    bar.outline.set_visible(False)
    figure.suptitle(title, fontsize=11)
    save(figure, path)


def plot_roc(curves: dict[str, tuple[np.ndarray, np.ndarray]], path: str | os.PathLike, title: str) -> None:
    """ROC curves {model: (far, tar)}, as `verification.roc` gives them, over log FAR from one false accept to 1."""
    figure = Figure(figsize=(6.2, 4.6), layout="constrained")
    axes = figure.subplots()
    lowest = min(far[far > 0][0] for far, _ in curves.values())
    for place, (model, (far, tar)) in enumerate(curves.items()):
        # The best point at or under each of 2,000 FARs draws the same stairs as millions of points.
        grid = np.geomspace(lowest, 1, 2000)
        at = tar[np.searchsorted(far, grid * (1 + 1e-9), side="right") - 1]
        axes.step(grid, 100 * at, where="post", color=COLOURS[place % len(COLOURS)], linewidth=1.8,
                  label=f"{model} (AUC {area(far, tar):.4f})")
    chance = np.geomspace(lowest, 1, 200)
    axes.plot(chance, 100 * chance, color="0.6", linestyle=":", linewidth=1.2, label="chance")
    axes.set_xscale("log")
    axes.set_xlim(lowest, 1)
    axes.set_ylim(0, 101)
    dress(axes, title, "FAR: impostors accepted", "TAR: genuine accepted (%)")
    figure.legend(frameon=False, loc="outside lower center", ncols=2)
    save(figure, path)


def plot_cmc(curves: dict[str, np.ndarray], path: str | os.PathLike, title: str) -> None:
    """CMC curves {model: rank-k for k = 1, 2 ..}, as `identification.cmc` gives them, over log rank."""
    figure = Figure(figsize=(6.2, 4.6), layout="constrained")
    axes = figure.subplots()
    last = max(len(curve) for curve in curves.values())
    for place, (model, curve) in enumerate(curves.items()):
        # Some 300 ranks, evenly spaced on the axis, draw the same curve as a million.
        ranks = np.unique(np.geomspace(1, len(curve), 300).round().astype(int))
        axes.plot(ranks, 100 * curve[ranks - 1], color=COLOURS[place % len(COLOURS)], linewidth=1.8,
                  label=f"{model} (rank-1 {100 * curve[0]:.1f} %)")
    axes.set_xscale("log")
    axes.set_xlim(1, max(last, 2))
    axes.set_ylim(0, 101)
    marks = [k for k in (1, 2, 5, 10, 20, 50, 100, 1000, 10_000, 100_000, 1_000_000) if k <= max(last, 2)]
    axes.set_xticks(marks, [f"{k:,}" for k in marks])
    axes.minorticks_off()
    dress(axes, title, "rank", "probes whose mate is found up to that rank (%)")
    figure.legend(frameon=False, loc="outside lower center", ncols=2)
    save(figure, path)


def plot_attention(faces: Sequence[AttentionRow], path: str | os.PathLike) -> None:
    """Where models look: a row per face, the HR face and the heat maps on it, then the LR face and those on it."""
    columns = _attention_columns(faces)
    figure = Figure(figsize=(1.55 * len(columns[0]) + 0.9, 1.5 * len(faces) + 0.5), layout="constrained")
    grid = figure.subplots(len(faces), len(columns[0]), squeeze=False)
    for top, axes_of_row, cells in zip([True] + [False] * len(faces), grid, columns):
        for axes, (title, face, heat) in zip(axes_of_row, cells):
            axes.set_axis_off()
            if top:
                axes.set_title(title, fontsize=10)
            if heat is None:
                axes.imshow(face)
                continue
            # The face in grey, so that colour means attention alone.
            axes.imshow(face @ [0.299, 0.587, 0.114], cmap="gray", vmin=0, vmax=255)
            extent = (-0.5, face.shape[1] - 0.5, face.shape[0] - 0.5, -0.5)
            layer = axes.imshow(heat, cmap=HEAT, vmin=0, vmax=1, alpha=0.6, interpolation="bilinear", extent=extent)
    bar = figure.colorbar(layer, ax=grid, shrink=min(1.0, 2.4 / len(faces)), aspect=18, pad=0.015, ticks=[0, 0.5, 1])
    bar.set_label("where it looks, from least to most")
    bar.outline.set_visible(False)
    save(figure, path)


def plot_distances(rows: Sequence[MapDistance], path: str | os.PathLike) -> None:
    """1 - cos of each model's attention maps to its teacher's over blocks, a panel per part and size; dashed: to another face's."""
    sizes, models = list(dict.fromkeys(row.size for row in rows)), list(dict.fromkeys(row.model for row in rows))
    parts = list(dict.fromkeys(row.part for row in rows))
    figure = Figure(figsize=(1 + 3.4 * len(sizes), 0.8 + 2.7 * len(parts)), layout="constrained")
    grid = figure.subplots(len(parts), len(sizes), squeeze=False, sharey="row", sharex=True)
    for axes_of_row, part in zip(grid, parts):
        for axes, size in zip(axes_of_row, sizes):
            for place, model in enumerate(models):
                mine = [row for row in rows if (row.model, row.size, row.part) == (model, size, part)]
                for style, value in (("-", "same"), ("--", "other")):
                    axes.plot([row.block + 1 for row in mine], [getattr(row, value) for row in mine], style, linewidth=1.6, markersize=4.5,
                              color=COLOURS[place % len(COLOURS)], marker=MARKERS[place % len(MARKERS)], label=f"{model}, {value} face".replace("$", r"\$"))
            axes.set_ylim(bottom=0)
            dress(axes, f"{part}, {size_name(size)}", "block", "1 - cos to the teacher's")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=len(models), fontsize=9)
    save(figure, path)


def _attention_columns(faces: Sequence[AttentionRow]) -> list[list[tuple[str, np.ndarray, np.ndarray | None]]]:
    names = {(tuple(row.on_hr), tuple(row.on_lr)) for row in faces}
    if len(names) != 1 or names == {((), ())}:
        raise ValueError(f"every face needs the maps of the same models, at least one; got {sorted(names)}")
    maps = [heat for row in faces for heat in (*row.on_hr.values(), *row.on_lr.values())]
    if not all(heat.ndim == 2 and np.isfinite(heat).all() and heat.min() >= 0 and heat.max() <= 1 for heat in maps):
        raise ValueError("heat maps must be finite (H, W) in [0, 1]; apply the sigmoid or stretch them first")
    return [[("HR face", row.hr, None), *((f"{name} (HR)", row.hr, heat) for name, heat in row.on_hr.items()),
             ("LR face", row.lr, None), *((f"{name} (LR)", row.lr, heat) for name, heat in row.on_lr.items())]
            for row in faces]


def _bars(line: Sequence[Row], value: np.ndarray, by_accuracy: bool) -> np.ndarray:
    """(2, rows) how far the bar reaches below and above each value."""
    if by_accuracy:
        return np.tile([100 * row.accuracy_std for row in line], (2, 1))
    ends = np.array([row.auc_interval or (at, at) for row, at in zip(line, value)]).reshape(-1, 2).T
    return np.abs(ends - value)


def _over_sizes(axes: Axes, sizes: Sequence[int]) -> None:
    """Sizes on a logarithmic axis, largest first."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [f"{size}\n{scale_name(size)}" for size in sizes])
    axes.minorticks_off()
    axes.invert_xaxis()


def dress(axes: Axes, title: str, across: str, up: str) -> None:
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, path: str | os.PathLike) -> None:
    write_whole(path, lambda temporary: figure.savefig(temporary, format="png", dpi=150, facecolor="white"))
