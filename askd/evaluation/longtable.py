"""Every figure of a benchmark as a line of CSV, for spreadsheets and data frames."""
from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence

from askd.evaluation.report import IdentificationRow, Row, write_whole

HEAD = ("model", "set", "protocol", "degradation", "size", "probe_size", "figure", "value", "low", "high", "interval_by", "note")


def write_csv(path: str | os.PathLike, rows: Sequence[Row | IdentificationRow]) -> None:
    """A line per row and figure: fractions with their 95 % intervals, empty where there is none; `note` says why a value is empty.

    size: of the gallery, or of a pair's left image; probe_size: of the probe, or the right image. Pixels, or "native".
    """
    def write(temporary) -> None:
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            lines = csv.writer(file, lineterminator="\n")
            lines.writerow(HEAD)
            for row in rows:
                place = (row.model, row.set, getattr(row, "protocol", "identification"), row.degradation, row.size,
                         row.size if row.probe_size is None else row.probe_size)
                lines.writerows((*place, *figure) for figure in _figures(row))

    write_whole(path, write)


def _figures(row: Row | IdentificationRow) -> Iterator[tuple]:
    if isinstance(row, IdentificationRow):
        for figure, value in row.figures.items():
            yield _line(figure, value, row.intervals.get(figure), "identity", row.note)
        return
    for figure, value, interval in (
        ("accuracy", row.accuracy, row.accuracy_interval), ("accuracy_std", row.accuracy_std, None), ("auc", row.auc, row.auc_interval),
        ("eer", row.eer, None),
    ):
        yield _line(figure, value, interval, row.interval_unit, row.note)
    for far, tar in row.tar.items():
        few = row.impostors * far < 1 - 1e-9
        yield _line(f"TAR @ FAR {far:g}", tar, row.tar_intervals.get(far), row.interval_unit, "too few impostors" if few else row.note)


def _line(figure: str, value: float | None, interval: tuple[float, float] | None, unit: str, note: str) -> tuple:
    low, high = interval or ("", "")
    return (figure, "" if value is None else value, low, high, unit if interval else "", note if value is None else "")
