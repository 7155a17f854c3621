"""Rows as terminal tables and as Markdown."""
from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from askd.evaluation.cross import ACROSS, headline, interval_of, matrices, value_of
from askd.evaluation.report import (
    NATIVE, IdentificationRow, Row, Size, arranged, by_degradation, has_accuracy, identified, models_of, scale_name, sizes_of,
)

HEADLINE_FAR = 1e-4  # what IJB results are quoted at
MOST_SIZES = 6  # in a terminal table of 100 columns, beside the models' names
MOST_WITH_INTERVALS = 4


def table(rows: Sequence[Row], set: str, protocol: str) -> Table:
    """Terminal table of one set and protocol: models down, sizes across, cells with accuracy, its fold std and interval, and AUC.

    Where the set gives no accuracy: AUC over its interval; of templates: TAR at FAR 1e-4 over AUC.
    """
    by_set = arranged(rows)
    if (set, protocol) not in by_set:
        known = ", ".join(f"{name!r} under {scored!r}" for name, scored in by_set)
        raise ValueError(f"no rows of {set!r} under {protocol!r}; there are {known}")
    chosen = by_set[set, protocol]
    sizes, models = sizes_of(chosen.values()), models_of(chosen.values())
    lines, legend = (_auc, _interval), f"AUC, {_interval_name(chosen.values())}"
    if has_accuracy(chosen.values()):
        intervals = any(row.accuracy_interval for row in chosen.values())
        lines = (_accuracy, _accuracy_interval, _auc) if intervals else (_accuracy, _auc)
        legend = f"accuracy ± std over folds (%){f', {_interval_name(chosen.values())}' if intervals else ''}, AUC"
    elif protocol == "templates":
        lines, legend = (_headline_tar, _auc), f"TAR (%) @ FAR {HEADLINE_FAR:g}, AUC"
    result = Table(title=f"{set}: {legend}", caption=_caption(chosen.values(), protocol), box=SIMPLE_HEAD, min_width=76,
                   title_justify="left", caption_justify="left")
    result.add_column("model", style="bold")
    for size in sizes:
        result.add_column(_head(size, "{}\n{} px"), justify="right", no_wrap=True)
    for model in models:
        cells = [chosen.get((model, size)) for size in sizes]
        result.add_row(model, *(Text("\n".join(line(row) for line in lines)) for row in cells))
    return result


def identification_table(rows: Sequence[IdentificationRow]) -> Table:
    """Terminal table of one set's searches: a line per model and size, its figures in per cent across, intervals below."""
    figures = _given(rows)
    result = Table(title=f"{rows[0].set}: identification (%), 95 % interval by identity", caption=_searched(rows), box=SIMPLE_HEAD,
                   min_width=76, title_justify="left", caption_justify="left")
    result.add_column("model", style="bold")
    result.add_column("px", justify="right")
    for figure in figures:
        result.add_column(figure.replace(" @ ", "\n"), justify="right", no_wrap=True)
    for row in rows:
        result.add_row(row.model, str(row.size), *(f"{_percent(row.figures[figure])}\n{_between(row, figure)}" for figure in figures))
    return result


def tables(rows: Sequence[Row], identification: Sequence[IdentificationRow] = ()) -> list[Table]:
    """`table` of every set, protocol and degradation, in parts where the sizes are many, then `identification_table` of every set."""
    _some(rows, identification)
    found = []
    for degradation, alike in by_degradation(rows).items():
        for (name, protocol), chosen in arranged(alike).items():
            intervals = any(row.accuracy_interval for row in chosen.values())
            for part in in_parts(sizes_of(chosen.values()), MOST_WITH_INTERVALS if intervals else MOST_SIZES):
                found.append(table([row for row in chosen.values() if row.size in part], name, protocol))
                if len(by_degradation(rows)) > 1:
                    found[-1].title += f"; degradation {degradation}"
    for degradation, alike in by_degradation(identification).items():
        for chosen in identified(alike).values():
            found.append(identification_table(chosen))
            if len(by_degradation(identification)) > 1:
                found[-1].title += f"; degradation {degradation}"
    return found


def in_parts(sizes: Sequence[Size], most: int) -> list[Sequence[Size]]:
    """Sizes in as few parts of at most `most` as will do, about equally long."""
    parts = -(-len(sizes) // most)
    edges = [len(sizes) * part // parts for part in range(parts + 1)]
    return [sizes[first:after] for first, after in zip(edges, edges[1:])]


def cross_tables(rows: Sequence[Row | IdentificationRow]) -> list[Table]:
    """A terminal table per set, protocol, degradation and model: gallery sizes down, probe sizes across, in per cent."""
    found = []
    for (name, protocol, degradation, model), matrix in matrices(rows).items():
        sizes = sorted({size for pair in matrix for size in pair}, reverse=True)
        figure = headline(list(matrix.values()))
        result = Table(title=f"{name}, {model}: {figure} (%) across sizes, protocol {protocol}, {degradation}", caption=ACROSS, box=SIMPLE_HEAD,
                       min_width=76, title_justify="left", caption_justify="left")
        result.add_column("gallery", style="bold", justify="right")
        for size in sizes:
            result.add_column(f"{size} px", justify="right", no_wrap=True)
        for gallery in sizes:
            result.add_row(f"{gallery} px", *(_percent(value_of(matrix.get((gallery, probe)), figure)) for probe in sizes))
        found.append(result)
    return found


def cross_markdown(rows: Sequence[Row | IdentificationRow]) -> str:
    """The same matrices, with 95 % intervals."""
    parts = []
    for (name, protocol, degradation, model), matrix in matrices(rows).items():
        sizes = sorted({size for pair in matrix for size in pair}, reverse=True)
        figure = headline(list(matrix.values()))
        parts += [f"## {name}, {model}: {figure} (%) across sizes\n\nprotocol {protocol}, degradation {degradation}; {ACROSS}\n"]
        parts += [_grid(["gallery \\ probe", *(f"{size} px" for size in sizes)], [
            [f"{gallery} px", *(_with_interval(matrix.get((gallery, probe)), figure) for probe in sizes)] for gallery in sizes
        ])]
    return "\n".join(parts)


def markdown(rows: Sequence[Row], identification: Sequence[IdentificationRow] = ()) -> str:
    """For every set and protocol: accuracy and AUC by model and size, then every figure of every row."""
    _some(rows, identification)
    parts = []
    for (degradation, name, protocol), chosen in {
        (degradation, *key): chosen for degradation, alike in by_degradation(rows).items() for key, chosen in arranged(alike).items()
    }.items():
        sizes, models = sizes_of(chosen.values()), models_of(chosen.values())
        fars = sorted({far for row in chosen.values() for far in row.tar}, reverse=True)
        how = f", degradation {degradation}" if degradation else ""
        parts += [f"## {name}\n\n{_caption(chosen.values(), protocol)}{how}\n"]
        cell, head = (_both, "accuracy ± std (%) / AUC") if has_accuracy(chosen.values()) else (_auc, "AUC")
        parts += [_grid([head, *(_head(size, "{} ({} px)") for size in sizes)],
                        [[model, *(cell(chosen.get((model, size))) for size in sizes)] for model in models])]
        ordered = [chosen[model, size] for model in models for size in sizes if (model, size) in chosen]
        measures = ["AUC", _interval_name(ordered), "EER (%)", *(f"TAR (%) @ FAR {far:g}" for far in fars)]
        parts += [_grid(["model", "px", *measures],
                        [[row.model, str(row.size), _auc(row), _interval(row), _percent(row.eer),
                          *(_tar(row, far) for far in fars)] for row in ordered])]
    for (degradation, name), found in {
        (degradation, name): found for degradation, alike in by_degradation(identification).items() for name, found in identified(alike).items()
    }.items():
        figures = _given(found)
        how = f", degradation {degradation}" if degradation else ""
        parts += [f"## {name}: identification\n\n{_searched(found)}{how}; in brackets 95 % intervals by identity\n"]
        parts += [_grid(["model", "px", *(f"{figure} (%)" for figure in figures)],
                        [[row.model, str(row.size), *(f"{_percent(row.figures[figure])} ({_between(row, figure)})" for figure in figures)]
                         for row in found])]
    return "\n".join(parts)


def _some(rows: Sequence[Row], identification: Sequence[IdentificationRow]) -> None:
    if not rows and not identification:
        raise ValueError("a report needs at least one row, got none")


def _head(size: Size, form: str) -> str:
    return NATIVE if size == NATIVE else form.format(scale_name(size), size)


def _given(rows: Sequence[IdentificationRow]) -> list[str]:
    """The figures that any row has; why the others are absent is in the note."""
    return [figure for figure in rows[0].figures if any(row.figures[figure] is not None for row in rows)]


def _searched(rows: Sequence[IdentificationRow]) -> str:
    row, notes = rows[0], dict.fromkeys(row.note for row in rows if row.note)
    galleries = " and ".join(f"{images:,} images ({candidates:,} candidates, {mated:,} probes with a mate)"
                             for images, candidates, mated in zip(row.gallery, row.candidates, row.mated))
    return "; ".join([f"{row.probes:,} probes; gallery of {galleries}", *notes])


def _between(row: IdentificationRow, figure: str) -> str:
    interval = row.intervals.get(figure)
    return "–" if interval is None else f"{100 * interval[0]:.1f}–{100 * interval[1]:.1f}"


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


def _accuracy_interval(row: Row | None) -> str:
    return "–" if row is None or row.accuracy_interval is None else "[{:.2f}, {:.2f}]".format(*(100 * end for end in row.accuracy_interval))


def _with_interval(row: Row | IdentificationRow | None, figure: str) -> str:
    ends = None if row is None else interval_of(row, figure)
    return _percent(value_of(row, figure)) + ("" if ends is None else " ({:.2f}–{:.2f})".format(*(100 * end for end in ends)))


def _headline_tar(row: Row | None) -> str:
    return "–" if row is None else _tar(row, HEADLINE_FAR)


def _tar(row: Row, far: float) -> str:
    tar = row.tar.get(far)
    return "too few impostors" if tar is None and row.impostors * far < 1 - 1e-9 else _percent(tar)


def _grid(head: list[str], body: list[list[str]]) -> str:
    ruler = ["---", *["---:"] * (len(head) - 1)]
    escaped = ([cell.replace("|", "\\|") for cell in cells] for cells in [head, ruler, *body])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in escaped)
