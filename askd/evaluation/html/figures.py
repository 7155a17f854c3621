"""The report's charts: figures over size, ROC, CMC, and distances of attention maps; a model has one colour and mark in all of them."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from askd.evaluation.html.chart import Axis, Line, chart, linear_ticks
from askd.evaluation.html.page import Html
from askd.evaluation.map_similarity import PARTS, MapDistance
from askd.evaluation.report import NATIVE, Row, Size, scale_name, size_name
from askd.evaluation.roc import area, roc
from askd.evaluation.scored import Scored, ScoredSearches

ROC_POINTS = 160
RANKS = (1, 2, 5, 10, 20, 50, 100, 1000, 10_000, 100_000, 1_000_000)


def over_size(title: str, rows: Sequence[Row], models: Sequence[str]) -> list[Html]:
    """Accuracy with its fold std, and AUC with its interval, over log size; what there are no two sizes of is left out."""
    rows = [row for row in rows if row.size != NATIVE]
    accuracy = {(row.model, row.size): _percent(row.accuracy, row.accuracy_std) for row in rows if row.accuracy is not None}
    auc = {(row.model, row.size): (row.auc, row.auc_interval) for row in rows if row.auc is not None}
    return [
        _over_size(f"{title}: {name}", label, values, models, most)
        for name, label, values, most in (("accuracy", "accuracy (%), ± std over folds", accuracy, 100), ("AUC", "AUC, 95 % interval", auc, 1))
        if len({size for _, size in values}) > 1
    ]


def _over_size(title: str, label: str, values: dict[tuple[str, int], tuple[float, tuple[float, float] | None]], models: Sequence[str], most: float) -> Html:
    lines = []
    for model in dict.fromkeys(model for model, _ in values):
        line = {size: value for (owner, size), value in sorted(values.items(), key=lambda one: -one[0][1]) if owner == model}
        words = [f"{model}, {size} px: {value:.4g}" + (" ({:.4g} to {:.4g})".format(*ends) if ends else "") for size, (value, ends) in line.items()]
        lines.append(Line(model, models.index(model), [(size, value) for size, (value, _) in line.items()], [ends for _, ends in line.values()], words=words))
    seen = [number for value, ends in values.values() for number in (value, *(ends or ()))]
    ticks = linear_ticks(min(seen), min(max(seen), most))
    sizes = sorted({size for _, size in values}, reverse=True)
    margin = (sizes[0] / sizes[-1]) ** 0.06
    across = Axis("face size (pixels)", sizes[0] * margin, sizes[-1] / margin, [(size, f"{size}") for size in sizes], log=True)
    return chart(title, lines, across, Axis(label, ticks[0], ticks[-1], [(tick, f"{tick:g}") for tick in ticks]))


def _percent(value: float, spread: float) -> tuple[float, tuple[float, float]]:
    return 100 * value, (100 * (value - spread), 100 * (value + spread))


class Curve(NamedTuple):
    """An ROC as it is drawn: the best TAR at or under each of some FARs, from one false accept to 1, evenly spaced on a log axis."""

    far: list[float]
    tar: list[float]
    auc: float


Curves = dict[tuple[str, Size], Curve]  # by model and size


def thin_roc(scores: np.ndarray, same: np.ndarray) -> Curve:
    """The curve of scores (P,) with same (P,) bool, both classes among them: a few points of what may be millions."""
    far, tar, _ = roc(scores, same)
    grid = np.geomspace(far[far > 0][0], 1, ROC_POINTS)
    best = tar[np.searchsorted(far, grid * (1 + 1e-9), side="right") - 1]
    return Curve(grid.tolist(), best.tolist(), area(far, tar))


def curves_of(scored: Mapping[tuple, Scored], protocol: str) -> tuple[dict[tuple[str, str, str], Curves], dict[tuple[str, str], dict]]:
    """ROCs by (set, protocol, degradation) of pairs under `protocol`, and CMCs by (set, degradation), each by (model, size).

    scored: by (set, model, degradation, size, protocol).
    """
    pairs: dict[tuple[str, str, str], Curves] = {}
    searches: dict[tuple[str, str], dict] = {}
    for (name, model, degradation, size, by), found in scored.items():
        if isinstance(found, ScoredSearches):
            if len(found.curve):
                searches.setdefault((name, degradation), {})[model, size] = found.curve
        elif by == protocol and found.result.auc is not None:
            pairs.setdefault((name, by, degradation), {})[model, size] = thin_roc(found.result.scores, found.same)
    return pairs, searches


def rocs(curves: Curves, models: Sequence[str]) -> list[Html]:
    """TAR over log FAR, a chart per size."""
    lowest = min((curve.far[0] for curve in curves.values()), default=0.1)
    lowest = min(lowest, 0.1)  # a single impostor leaves no axis otherwise
    decades = range(int(np.ceil(np.log10(lowest) - 1e-9)), 1)
    across = Axis("FAR: impostors accepted", lowest, 1, [(10.0**power, f"1e{power}" if power else "1") for power in decades], log=True)
    up = Axis("TAR: genuine accepted (%)", 0, 100, [(t, f"{t}") for t in range(0, 101, 20)])
    return [
        chart(_at(size), [
            Line(f"{model} (AUC {curve.auc:.4f})", models.index(model), [(far, 100 * tar) for far, tar in zip(curve.far, curve.tar)], marks=False, steps=True)
            for (model, at), curve in curves.items() if at == size
        ], across, up) for size in _sizes(curves)
    ]


def cmcs(curves: dict[tuple[str, Size], np.ndarray], models: Sequence[str]) -> list[Html]:
    """Probes whose mate is found up to a rank, over log rank, a chart per size. curves: rank-k for k = 1, 2 .. by (model, size)."""
    last = max((len(curve) for curve in curves.values()), default=2)
    across = Axis("rank", 1, max(last, 2), [(k, f"{k:,}") for k in RANKS if k <= max(last, 2)], log=True)
    up = Axis("mate found (%)", 0, 100, [(t, f"{t}") for t in range(0, 101, 20)])
    found = []
    for size in _sizes(curves):
        lines = []
        for (model, at), curve in curves.items():
            if at == size:
                ranks = np.unique(np.geomspace(1, len(curve), 120).round().astype(int))
                points = list(zip(ranks.tolist(), (100 * curve[ranks - 1]).tolist()))
                lines.append(Line(f"{model} (rank-1 {100 * curve[0]:.1f} %)", models.index(model), points, marks=False))
        found.append(chart(_at(size), lines, across, up))
    return found


def distances(rows: Sequence[MapDistance], models: Sequence[str]) -> list[Html]:
    """1 - cos to the teacher's maps over blocks, a chart per part and size: a line to the same face, a dashed one to another face."""
    found = []
    for part in PARTS:
        top = max((row.other for row in rows if row.part == part), default=0.0)
        top = max([top, *(row.same for row in rows if row.part == part)])
        ticks = linear_ticks(0, max(top, 1e-6), 5)
        up = Axis("1 - cos", 0, ticks[-1], [(t, f"{t:g}") for t in ticks])
        for size in sorted({row.size for row in rows if row.part == part}, key=_order):
            lines = []
            chosen = [row for row in rows if (row.part, row.size) == (part, size)]
            for model in dict.fromkeys(row.model for row in chosen):
                mine = [row for row in chosen if row.model == model]
                for name, dashed, value in (("same face", False, "same"), ("another face", True, "other")):
                    points = [(row.block + 1, getattr(row, value)) for row in mine]
                    words = [f"{model}, block {x}, {name}: {y:.4f}" for x, y in points]
                    lines.append(Line(f"{model}: {name}", models.index(model), points, dashed=dashed, words=words))
            last = max(row.block for row in chosen) + 1
            step = -(-last // 12)
            across = Axis("block", 0.7, last + 0.3, [(block, f"{block}") for block in range(1, last + 1, step)])
            found.append(chart(f"{part} attention at {size_name(size)}", lines, across, up))
    return found


def _sizes(curves: dict) -> list[Size]:
    return sorted({size for _, size in curves}, key=_order)


def _order(size: Size) -> float:
    """Largest first, native last."""
    return 1.0 if size == NATIVE else -size


def _at(size: Size) -> str:
    return "at native size" if size == NATIVE else f"at {size_name(size)} ({scale_name(size)})"
