"""What the benchmark says, as a terminal table, Markdown, JSON and figures. Files appear whole or not at all."""
from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from askd.evaluation.roc import area
from askd.evaluation.verification import Verification

FULL_SIZE = 112  # pixels: "1x"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe & Ito: for all eyes
MARKERS = "osD^vPX"
HEAT = "viridis"


@dataclass(frozen=True)
class Row:
    """Figures of one model on one set at one size, None where the pairs give no figure.

    size: pixels; accuracy .. eer: fractions in [0, 1];
    auc_interval: (low, high) at 95 %; interval_unit: what was resampled, "identity" or "pair". tar: {FAR: TAR}.
    """

    model: str
    set: str
    size: int
    protocol: str
    accuracy: float | None = None
    accuracy_std: float | None = None
    auc: float | None = None
    auc_interval: tuple[float, float] | None = None
    interval_unit: str = ""
    eer: float | None = None
    tar: dict[float, float | None] = field(default_factory=dict)
    pairs: int = 0
    genuine: int = 0
    impostors: int = 0
    note: str = ""

    @classmethod
    def of(cls, model: str, set: str, size: int, result: Verification,
           auc_interval: tuple[float, float] | None = None, interval_unit: str = "") -> Row:
        """The row of a `Verification`."""
        return cls(model, set, size, result.protocol, result.accuracy, result.accuracy_std, result.auc, auc_interval,
                   interval_unit, result.eer, dict(result.tar_at_far), result.pairs, result.genuine, result.impostors,
                   result.note)


@dataclass(frozen=True)
class AttentionRow:
    """One face of the attention figure. hr, lr: uint8 (112, 112, 3) RGB, what the models saw.

    on_hr, on_lr: {model: heat map (H, W) in [0, 1]} of the models that saw the HR and the LR image; H, W of any size.
    """

    hr: np.ndarray
    lr: np.ndarray
    on_hr: dict[str, np.ndarray]
    on_lr: dict[str, np.ndarray]


def table(rows: Sequence[Row], set: str, protocol: str) -> Table:
    """Terminal table of one set and protocol: models down, sizes across, cells with accuracy, its fold std, and AUC.

    Where the set gives no accuracy: AUC over its interval.
    """
    arranged = _arranged(rows)
    if (set, protocol) not in arranged:
        known = ", ".join(f"{name!r} under {scored!r}" for name, scored in arranged)
        raise ValueError(f"no rows of {set!r} under {protocol!r}; there are {known}")
    chosen = arranged[set, protocol]
    sizes, models = _sizes(chosen.values()), _models(chosen.values())
    folds = _has_accuracy(chosen.values())
    lines = (_accuracy, _auc) if folds else (_auc, _interval)
    legend = "accuracy ± std over folds (%), AUC" if folds else f"AUC, {_interval_name(chosen.values())}"
    result = Table(title=f"{set}: {legend}", caption=_caption(chosen.values(), protocol), box=SIMPLE_HEAD, min_width=76,
                   title_justify="left", caption_justify="left")
    result.add_column("model", style="bold")
    for size in sizes:
        result.add_column(f"{scale_name(size)}\n{size} px", justify="right", no_wrap=True)
    for model in models:
        cells = [chosen.get((model, size)) for size in sizes]
        result.add_row(model, *(Text("\n".join(line(row) for line in lines)) for row in cells))
    return result


def tables(rows: Sequence[Row]) -> list[Table]:
    """`table` of every set and protocol among the rows, in their order."""
    return [table(rows, *key) for key in _arranged(rows)]


def markdown(rows: Sequence[Row]) -> str:
    """For every set and protocol: accuracy and AUC by model and size, then every figure of every row."""
    parts = []
    for (name, protocol), chosen in _arranged(rows).items():
        sizes, models = _sizes(chosen.values()), _models(chosen.values())
        fars = sorted({far for row in chosen.values() for far in row.tar}, reverse=True)
        parts += [f"## {name}\n\n{_caption(chosen.values(), protocol)}\n"]
        cell, head = (_both, "accuracy ± std (%) / AUC") if _has_accuracy(chosen.values()) else (_auc, "AUC")
        parts += [_grid([head, *(f"{scale_name(size)} ({size} px)" for size in sizes)],
                        [[model, *(cell(chosen.get((model, size))) for size in sizes)] for model in models])]
        ordered = [chosen[model, size] for model in models for size in sizes if (model, size) in chosen]
        measures = ["AUC", _interval_name(ordered), "EER (%)", *(f"TAR (%) @ FAR {far:g}" for far in fars)]
        parts += [_grid(["model", "px", *measures],
                        [[row.model, str(row.size), _auc(row), _interval(row), _percent(row.eer),
                          *(_tar(row, far) for far in fars)] for row in ordered])]
    return "\n".join(parts)


def write_json(path: str | os.PathLike, rows: Sequence[Row], context: dict) -> None:
    """{"context": ..., "rows": [...]} with sorted keys; the same input gives the same bytes.

    context: JSON values. Raises ValueError for NaN or infinity anywhere, TypeError for what JSON does not know.
    """
    plain = [{**asdict(row), "tar": {f"{far:g}": tar for far, tar in row.tar.items()}} for row in rows]
    document = {"context": context, "rows": plain}
    text = json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    _whole(path, lambda temporary: temporary.write_text(text + "\n", encoding="utf-8"))


def plot_resolution(rows: Sequence[Row], path: str | os.PathLike) -> None:
    """Accuracy against resolution, a panel per set and protocol, bars of one fold std.

    AUC with its interval where the set gives no accuracy.
    """
    panels = _arranged(rows)
    figure = Figure(figsize=(1.2 + 5.2 * len(panels), 4.2), layout="constrained")
    for axes, ((name, protocol), chosen) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items()):
        by_accuracy = _has_accuracy(chosen.values())
        sizes, models = _sizes(chosen.values()), _models(chosen.values())
        for place, model in enumerate(models):
            line = [chosen[model, size] for size in sizes if (model, size) in chosen]
            line = [row for row in line if (row.accuracy if by_accuracy else row.auc) is not None]
            value = np.array([100 * row.accuracy if by_accuracy else row.auc for row in line])
            aside = 2 ** (0.035 * ((len(models) - 1) / 2 - place))  # so that bars of equal sizes do not hide each other
            axes.errorbar([row.size * aside for row in line], value, _bars(line, value, by_accuracy), label=model,
                          color=COLOURS[place % len(COLOURS)], marker=MARKERS[place % len(MARKERS)], linewidth=1.8,
                          markersize=5.5, elinewidth=1.1, capsize=3)
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [f"{size}\n{scale_name(size)}" for size in sizes])
        axes.minorticks_off()
        axes.invert_xaxis()
        measure = "accuracy (%), ± std over folds" if by_accuracy else "AUC"
        _dress(axes, f"{name} ({protocol})", "face size (pixels)", measure)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=len(labels))
    _save(figure, path)


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
    _dress(axes, title, "FAR: impostors accepted", "TAR: genuine accepted (%)")
    figure.legend(frameon=False, loc="outside lower center", ncols=2)
    _save(figure, path)


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
    bar.set_label("attention")
    bar.outline.set_visible(False)
    _save(figure, path)


def scale_name(size: int) -> str:
    """The downsample ratio as tables name it: 112 -> "1x", 28 -> "4x", 24 -> "4.7x"."""
    return f"{FULL_SIZE / size:.2g}x"


def _arranged(rows: Sequence[Row]) -> dict[tuple[str, str], dict[tuple[str, int], Row]]:
    """(set, protocol) -> (model, size) -> row, in the order of first appearance."""
    arranged: dict[tuple[str, str], dict[tuple[str, int], Row]] = {}
    for row in rows:
        cells = arranged.setdefault((row.set, row.protocol), {})
        if (row.model, row.size) in cells:
            raise ValueError(f"two rows for {row.model} on {row.set} at {row.size} px under {row.protocol}; "
                             "give each model its own name")
        cells[row.model, row.size] = row
    if not arranged:
        raise ValueError("a report needs at least one row, got none")
    return arranged


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


def _sizes(rows) -> list[int]:
    return sorted({row.size for row in rows}, reverse=True)


def _models(rows) -> list[str]:
    return list(dict.fromkeys(row.model for row in rows))


def _has_accuracy(rows) -> bool:
    return any(row.accuracy is not None for row in rows)


def _caption(rows, protocol: str) -> str:
    row, *_ = rows
    notes = dict.fromkeys(row.note for row in rows if row.note)
    return "; ".join([f"protocol {protocol}, {row.genuine:,} genuine + {row.impostors:,} impostor pairs", *notes])


def _interval_name(rows) -> str:
    units = ", ".join(dict.fromkeys(row.interval_unit for row in rows if row.auc_interval))
    return f"95 % interval by {units}" if units else "95 % interval"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f}"


def _accuracy(row: Row | None) -> str:
    return "–" if row is None or row.accuracy is None else f"{100 * row.accuracy:.2f} ±{100 * row.accuracy_std:.2f}"


def _auc(row: Row | None) -> str:
    return "–" if row is None or row.auc is None else f"{row.auc:.4f}"


def _both(row: Row | None) -> str:
    return f"{_accuracy(row)} / {_auc(row)}"


def _interval(row: Row | None) -> str:
    return "–" if row is None or row.auc_interval is None else "{:.4f}–{:.4f}".format(*row.auc_interval)


def _tar(row: Row, far: float) -> str:
    tar = row.tar.get(far)
    return "too few pairs" if tar is None and row.impostors * far < 1 - 1e-9 else _percent(tar)


def _grid(head: list[str], body: list[list[str]]) -> str:
    ruler = ["---", *["---:"] * (len(head) - 1)]
    escaped = ([cell.replace("|", "\\|") for cell in cells] for cells in [head, ruler, *body])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in escaped)


def _bars(line: Sequence[Row], value: np.ndarray, by_accuracy: bool) -> np.ndarray:
    """(2, rows) how far the bar reaches below and above each value."""
    if by_accuracy:
        return np.tile([100 * row.accuracy_std for row in line], (2, 1))
    ends = np.array([row.auc_interval or (at, at) for row, at in zip(line, value)]).reshape(-1, 2).T
    return np.abs(ends - value)


def _dress(axes: Axes, title: str, across: str, up: str) -> None:
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _save(figure: Figure, path: str | os.PathLike) -> None:
    _whole(path, lambda temporary: figure.savefig(temporary, format="png", dpi=150, facecolor="white"))


def _whole(path: str | os.PathLike, write: Callable[[Path], object]) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
