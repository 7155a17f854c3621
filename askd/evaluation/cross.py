"""The cross-resolution matrix: galleries of one size, probes of another, as at a door with an old camera and a good passport photograph."""
from __future__ import annotations

from collections.abc import Sequence

from askd.evaluation.report import IdentificationRow, Row, Size

ACROSS = "gallery (a pair's left image or template) down, probe (its right one) across; the list's own order of each pair, not both averaged"

Matrix = dict[tuple[Size, Size], Row | IdentificationRow]  # by gallery size and probe size


def matrices(rows: Sequence[Row | IdentificationRow]) -> dict[tuple[str, str, str, str], Matrix]:
    """(set, protocol, degradation, model) -> its matrix, in the order of first appearance; a row without probe_size is on the diagonal."""
    found: dict[tuple[str, str, str, str], Matrix] = {}
    for row in rows:
        key = (row.set, getattr(row, "protocol", "identification"), row.degradation, row.model)
        found.setdefault(key, {})[row.size, row.size if row.probe_size is None else row.probe_size] = row
    return {key: matrix for key, matrix in found.items() if len(matrix) > 1}


def headline(rows: Sequence[Row | IdentificationRow]) -> str:
    """The figure a matrix is shown by: rank-1, accuracy, or AUC where there is no accuracy."""
    if isinstance(rows[0], IdentificationRow):
        return "rank-1"
    return "accuracy" if any(row.accuracy is not None for row in rows) else "auc"


def value_of(row: Row | IdentificationRow | None, figure: str) -> float | None:
    """A figure of a row, None where there is none."""
    if row is None:
        return None
    return row.figures.get(figure) if isinstance(row, IdentificationRow) else getattr(row, figure)


def interval_of(row: Row | IdentificationRow, figure: str) -> tuple[float, float] | None:
    """Its 95 % interval."""
    return row.intervals.get(figure) if isinstance(row, IdentificationRow) else getattr(row, f"{figure}_interval")
