"""The report's tables: figures with their intervals, differences, the cross-resolution matrix, and what else is known of a benchmark."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from askd.evaluation.html.page import Html, tag, table
from askd.evaluation.map_similarity import MapDistance
from askd.evaluation.report import (
    IdentificationRow, Row, Size, has_accuracy, models_of, scale_name, size_name, sizes_of,
)

DASH = Html('<span class="empty">–</span>')


def pairs_table(rows: Sequence[Row], label: str) -> Html:
    """Models down, sizes across: accuracy ± std and AUC with its interval, or AUC alone where the set gives no accuracy."""
    by_accuracy, sizes = has_accuracy(rows), sizes_of(rows)
    found = {(row.model, row.size): row for row in rows}

    def cell(row: Row | None) -> object:
        if row is None or row.auc is None and row.accuracy is None:
            return DASH
        auc = "–" if row.auc is None else f"{row.auc:.4f}"
        between = None if row.auc_interval is None else tag("small", "{:.4f}–{:.4f}".format(*row.auc_interval))
        if not by_accuracy:
            return auc, between
        accuracy = "–" if row.accuracy is None else f"{100 * row.accuracy:.2f} ± {100 * row.accuracy_std:.2f}"
        return accuracy, tag("small", f"AUC {auc}"), between

    head = ["model", *((size_name(size), tag("small", scale_name(size)) if isinstance(size, int) else None) for size in sizes)]
    return table(head, [[model, *(cell(found.get((model, size))) for size in sizes)] for model in models_of(rows)], label)


def rates_table(rows: Sequence[Row], label: str) -> Html:
    """A line per model and size: AUC, EER, and TAR at every FAR, "too few" where the impostors do not reach it."""
    fars = sorted({far for row in rows for far in row.tar}, reverse=True)
    body = []
    for row in (row for model in models_of(rows) for size in sizes_of(rows) for row in rows if (row.model, row.size) == (model, size)):
        body.append([row.model, size_name(row.size), DASH if row.auc is None else f"{row.auc:.4f}", _percent(row.eer),
                     *(_tar(row, far) for far in fars)])
    return table(["model", "size", "AUC", "EER (%)", *(("TAR (%)", tag("small", f"FAR {far:g}")) for far in fars)], body, label)


def searches_table(rows: Sequence[IdentificationRow], label: str) -> Html:
    """A line per model and size: rank-k and TPIR in per cent over their intervals."""
    figures = [figure for figure in rows[0].figures if any(row.figures[figure] is not None for row in rows)]
    body = []
    for row in rows:
        cells = []
        for figure in figures:
            ends = row.intervals.get(figure)
            between = tag("small", f"{100 * ends[0]:.1f}–{100 * ends[1]:.1f}") if ends else None
            cells.append(DASH if row.figures[figure] is None else (f"{100 * row.figures[figure]:.2f}", between))
        body.append([row.model, size_name(row.size), *cells])
    head = ["model", "size", *((figure.split(" @ ")[0], tag("small", figure.split(" @ ")[1]) if " @ " in figure else None) for figure in figures)]
    return table(head, body, label)


def differences_table(differences: Sequence[dict], label: str) -> Html:
    """What was compared, the difference in points with its 95 % interval, drawn and in numbers, and whether it excludes zero."""
    reach = max((abs(end) for d in differences for end in (d["value"], d["low"], d["high"]) if end is not None), default=0.0)
    body = []
    for d in differences:
        bounds = "no interval" if d["low"] is None else f"{_points(d['low'])} to {_points(d['high'])}"
        real = is_real(d)
        verdict = tag("span", "real", class_="real") if real else tag("span", "not shown", class_="empty")
        tests = [] if d.get("p") is None else [f"{d['p']:.2g}"]
        body.append([d["what"], size_name(d["size"]), d["figure"], (_points(d["value"]), tag("small", bounds)),
                     tag("td", _interval_bar(d, reach)), *(tests or [DASH] * any("p" in other for other in differences)), verdict])
    head = ["difference", "size", "figure", ("points", tag("small", "95 % interval")), "", *(["McNemar p"] if any("p" in d for d in differences) else []), "verdict"]
    return table(head, body, label, "differences")


def is_real(difference: dict) -> bool:
    """Whether the interval excludes zero."""
    return difference["low"] is not None and not difference["low"] <= 0 <= difference["high"]


def matrix_table(values: Mapping[tuple[Size, Size], float | None], figure: str, label: str, small: Mapping[tuple[Size, Size], str]) -> Html:
    """A figure in per cent by (gallery's size, probe's size): gallery down, probes across, each cell shaded by its value.

    Shades run from the smallest value to the largest; small: a second line for cells that have one.
    """
    down, across = ([*dict.fromkeys(key[side] for key in values)] for side in (0, 1))
    known = [value for value in values.values() if value is not None]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)

    def cell(key: tuple[Size, Size]) -> Html:
        value = values.get(key)
        if value is None:
            return tag("td", DASH)
        # At most 0.62 of the colour, so that the text of either theme stands out on every shade.
        shade = 0.62 * (value - low) / (high - low) if high > low else 0.3
        text = [f"{100 * value:.2f}", tag("small", small[key]) if key in small else None]
        return tag("td", text, style=f"background:rgb(var(--heat) / {shade:.3f})", class_="best" if value == high else None)

    head = [("gallery ↓", tag("small", "probe →")), *(size_name(size) for size in across)]
    return table(head, [[size_name(one), *(cell((one, other)) for other in across)] for one in down], f"{label}: {figure}", "heat")


def distances_table(rows: Sequence[MapDistance], label: str) -> Html:
    """Means over the blocks, a line per model, size and part: to the same face, to another one, and how many blocks tell faces apart."""
    body = []
    for key in dict.fromkeys((row.model, row.size, row.part) for row in rows):
        mine = [row for row in rows if (row.model, row.size, row.part) == key]
        apart = sum(row.low is not None and row.low > 0 for row in mine)
        same, other = (float(np.mean([getattr(row, name) for row in mine])) for name in ("same", "other"))
        body.append([key[0], size_name(key[1]), key[2], f"{same:.4f}", f"{other:.4f}", f"{other - same:+.4f}", f"{apart} of {len(mine)}"])
    head = ["model", "size", "maps", ("1 - cos", tag("small", "same face")), ("1 - cos", tag("small", "another face")),
            ("particular", tag("small", "to the face")), ("blocks where", tag("small", "interval > 0"))]
    return table(head, body, label)


def facts(known: object) -> Html:
    """Whatever is known, nested as it is: mappings as names and values, lists joined, everything as text."""
    if isinstance(known, Mapping):
        return tag("dl", ((tag("dt", name), tag("dd", facts(value))) for name, value in known.items()), class_="facts")
    if isinstance(known, (list, tuple)):
        nested = any(isinstance(value, (Mapping, list, tuple)) for value in known)
        return tag("ol", (tag("li", facts(value)) for value in known)) if nested else Html(tag("span", ", ".join(map(_plain, known))))
    text = _plain(known)
    return tag("code", text) if len(text) >= 40 and " " not in text else tag("span", text)


def _plain(value: object) -> str:
    return {None: "none", True: "yes", False: "no"}[value] if value is None or isinstance(value, bool) else str(value)


def _interval_bar(d: dict, reach: float) -> Html | None:
    """The interval on a scale from -reach to reach, zero in its middle."""
    if not reach:
        return None
    at = [f"{75 + 70 * d[name] / reach:.1f}" if d[name] is not None else None for name in ("low", "value", "high")]
    bar = tag("line", x1=at[0], y1=8, x2=at[2], y2=8, class_="line") if at[0] is not None else None
    zero = tag("line", x1=75, y1=0, x2=75, y2=16, class_="axis")
    return tag("svg", zero, bar, tag("circle", cx=at[1], cy=8, r=4, class_="mark"), viewBox="0 0 150 16",
               class_=f"difference c{0 if is_real(d) else 6}", aria_hidden="true")


def _points(value: float) -> str:
    return f"{100 * value:+.2f}".replace("-", "−")


def _percent(value: float | None) -> object:
    return DASH if value is None else f"{100 * value:.2f}"


def _tar(row: Row, far: float) -> object:
    tar = row.tar.get(far)
    return tag("span", "too few", class_="empty") if tar is None and row.impostors * far < 1 - 1e-9 else _percent(tar)
