"""The report's tables: figures with their intervals, differences, the cross-resolution matrix, and what else is known of a benchmark."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from askd.evaluation.cross import Matrix, interval_of, value_of
from askd.evaluation.html.page import Html, tag, table
from askd.evaluation.map_similarity import MapDistance
from askd.evaluation.report import IdentificationRow, Row, has_accuracy, models_of, scale_name, size_name, sizes_of

DASH = tag("span", "–", class_="empty")
POINTS = ("points", tag("small", "95 % interval"))


def pairs_table(rows: Sequence[Row], label: str) -> Html:
    """Models down, sizes across: accuracy ± std over its interval, and AUC; AUC over its interval where the set gives no accuracy."""
    by_accuracy, sizes = has_accuracy(rows), sizes_of(rows)
    found = {(row.model, row.size): row for row in rows}

    def cell(row: Row | None) -> object:
        if row is None or row.auc is None and row.accuracy is None:
            return DASH
        auc = "–" if row.auc is None else f"{row.auc:.4f}"
        if not by_accuracy:
            return auc, _between(row.auc_interval, 1, 4)
        accuracy = "–" if row.accuracy is None else f"{100 * row.accuracy:.2f} ± {100 * row.accuracy_std:.2f}"
        return accuracy, _between(row.accuracy_interval, 100, 2), tag("small", f"AUC {auc}")

    head = ["model", *((size_name(size), tag("small", scale_name(size)) if isinstance(size, int) else None) for size in sizes)]
    return table(head, [[model, *(cell(found.get((model, size))) for size in sizes)] for model in models_of(rows)], label)


def rates_table(rows: Sequence[Row], label: str) -> Html:
    """A line per model and size: AUC, EER, and TAR at every FAR over their intervals; "too few" where the impostors do not reach a FAR."""
    fars = sorted({far for row in rows for far in row.tar}, reverse=True)
    body = []
    for row in (row for model in models_of(rows) for size in sizes_of(rows) for row in rows if (row.model, row.size) == (model, size)):
        auc = DASH if row.auc is None else (f"{row.auc:.4f}", _between(row.auc_interval, 1, 4))
        body.append([row.model, size_name(row.size), auc, _percent(row.eer),
                     *((_tar(row, far), _between(row.tar_intervals.get(far), 100, 1)) for far in fars)])
    return table(["model", "size", "AUC", "EER (%)", *(("TAR (%)", tag("small", f"FAR {far:g}")) for far in fars)], body, label)


def searches_table(rows: Sequence[IdentificationRow], label: str) -> Html:
    """A line per model and size: rank-k and TPIR in per cent over their intervals."""
    figures = [figure for figure in rows[0].figures if any(row.figures[figure] is not None for row in rows)]
    body = []
    for row in rows:
        cells = []
        for figure in figures:
            value = row.figures[figure]
            cells.append(DASH if value is None else (f"{100 * value:.2f}", _between(row.intervals.get(figure), 100, 1)))
        body.append([row.model, size_name(row.size), *cells])
    head = ["model", "size", *((figure.split(" @ ")[0], tag("small", figure.split(" @ ")[1]) if " @ " in figure else None) for figure in figures)]
    return table(head, body, label)


def differences_table(differences: Sequence[dict], label: str) -> Html:
    """What was compared, the difference in points with its 95 % interval, drawn and in numbers, and whether it excludes zero."""
    reach, body = _reach(differences), []
    for d in differences:
        body.append([d["what"], size_name(d["size"]), d["figure"], _points_cell(d), _interval_bar(d, reach), _verdict(is_real(d))])
    return table(["difference", "size", "figure", POINTS, "", "verdict"], body, label, "differences")


def comparisons_table(comparisons: Sequence[dict], label: str) -> Html:
    """Every two models as `paired.compare_models` has them: difference and interval, who alone was right how often, McNemar's p."""
    reach, body = _reach(comparisons), []
    figures = list(dict.fromkeys(d["figure"] for d in comparisons))
    for d in sorted(comparisons, key=lambda d: figures.index(d["figure"])):
        cases = d["mcnemar"]
        split, p = (f"{cases['first_only']:,} : {cases['second_only']:,}", _p(cases["p_holm"])) if cases else (DASH, DASH)
        body.append([f"{d['first']} − {d['second']}", size_name(d["size"]), d["figure"], _points_cell(d), _interval_bar(d, reach), split, p,
                     _verdict(is_real(d))])
    head = ["first − second", "size", "figure", POINTS, "", ("alone right", tag("small", "first : second")), ("McNemar", tag("small", "p, Holm")), "verdict"]
    return table(head, body, label, "differences")


def is_real(difference: dict) -> bool:
    """What the comparison itself says (`real`), else whether the interval excludes zero."""
    return difference.get("real", difference["low"] is not None and not difference["low"] <= 0 <= difference["high"])


def matrix_table(matrix: Matrix, figure: str, label: str) -> Html:
    """A figure in per cent over its interval, by size of the gallery (down) and of the probe (across).

    Each cell is shaded, from the matrix's smallest value to its largest.
    """
    sizes = sorted({size for pair in matrix for size in pair}, reverse=True)
    known = [value for row in matrix.values() if (value := value_of(row, figure)) is not None]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)

    def cell(row: Row | IdentificationRow | None) -> Html:
        value = value_of(row, figure)
        if value is None:
            return tag("td", DASH)
        # At most 0.62 of the colour, so that the text of either theme stands out on every shade.
        shade = 0.62 * (value - low) / (high - low) if high > low else 0.3
        text = [f"{100 * value:.2f}", _between(interval_of(row, figure), 100, 1)]
        return tag("td", text, style=f"background:rgb(var(--heat) / {shade:.3f})", class_="best" if value == high else None)

    head = [("gallery ↓", tag("small", "probe →")), *(size_name(size) for size in sizes)]
    return table(head, [[size_name(one), *(cell(matrix.get((one, other))) for other in sizes)] for one in sizes], label, "heat")


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


def _reach(differences: Sequence[dict]) -> float:
    """The farthest that any interval goes from zero, for one scale in all of them."""
    return max((abs(end) for d in differences for end in (d["value"], d["low"], d["high"]) if end is not None), default=0.0)


def _points_cell(d: dict) -> tuple[object, Html]:
    bounds = "no interval" if d["low"] is None else f"{_points(d['low'])} to {_points(d['high'])}"
    return _points(d["value"]), tag("small", bounds)


def _verdict(real: bool) -> Html:
    return tag("span", "real", class_="real") if real else tag("span", "not shown", class_="empty")


def _p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def _between(interval: tuple[float, float] | None, factor: int, digits: int) -> Html | None:
    """A second line of a cell: from where to where."""
    return None if interval is None else tag("small", "–".join(f"{factor * end:.{digits}f}" for end in interval))


def _points(value: float) -> str:
    return f"{100 * value:+.2f}".replace("-", "−")


def _percent(value: float | None) -> object:
    return DASH if value is None else f"{100 * value:.2f}"


def _tar(row: Row, far: float) -> object:
    tar = row.tar.get(far)
    return tag("span", "too few", class_="empty") if tar is None and row.impostors * far < 1 - 1e-9 else _percent(tar)
