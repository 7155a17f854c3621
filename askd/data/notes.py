"""What became of every photograph of a folder, kept so that a run can be stopped anywhere.

`landmarks.csv` has a line per face, `without_face.txt` photograph<TAB>why not. While a run works, finished photographs are
noted in `.align.jsonl`, which becomes the other two when it ends, however it ends, or when the next one begins.
"""
from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from askd.data.folder import read_file
from askd.data.portrait import Outcome
from askd.errors import DataError

LANDMARKS, WITHOUT, _JOURNAL = "landmarks.csv", "without_face.txt", ".align.jsonl"
COLUMNS = ("photo", "face", "faces", "score", "distance", *(f"{axis}{point}" for point in range(5) for axis in "xy"))
BAD_IMAGE = "bad image: "


@dataclass(frozen=True)
class Aligned:
    """How it went. `reasons`: why photographs are without a face; `distance`: mean of landmarks to the template, pixels, of all faces."""

    photographs: int
    done_before: int
    faces: int
    reasons: Counter
    distance: float


class Notes:
    """What became of every photograph: read on entry, added to while working, written out as two sorted lists on exit."""

    def __init__(self, faces: Path):
        self._faces = faces
        self._rows: dict[str, list[str]] = {}  # photograph -> COLUMNS
        self._reasons: dict[str, str] = {}  # photograph -> why it is without a face

    def __enter__(self) -> Notes:
        self._rows = {row[0]: row for row in _read_landmarks(self._faces / LANDMARKS)}
        self._reasons = {photo: reason for photo, _, reason in _lines(self._faces / WITHOUT, "\t")}
        for photo, row, reason in _read_journal(self._faces / _JOURNAL):
            self._take(photo, row, reason)
        self._write_out()
        self._journal = open(self._faces / _JOURNAL, "x", encoding="utf-8")
        return self

    def _take(self, photo: str, row: list[str] | None, reason: str) -> None:
        self._rows.pop(photo, None)
        self._reasons.pop(photo, None)
        if row is None:
            self._reasons[photo] = reason
        else:
            self._rows[photo] = row

    def settled(self, photo: str) -> bool:
        """Whether there is nothing to do for it."""
        if photo in self._rows:
            return (self._faces / self._rows[photo][1]).is_file()
        return not self._reasons.get(photo, BAD_IMAGE).startswith(BAD_IMAGE)

    def add(self, photo: str, face: str, outcome: Outcome) -> None:
        """Write the face, then note it."""
        row, reason = None, (BAD_IMAGE if outcome.bad else "") + outcome.reason
        if outcome.encoded:
            target = self._faces / face
            target.parent.mkdir(exist_ok=True)
            write_whole(self._faces, target, outcome.encoded)
            numbers = [outcome.score, outcome.distance, *outcome.landmarks.ravel()]
            row = [photo, face, str(outcome.faces), *(f"{number:.3f}" for number in numbers)]
        self._take(photo, row, reason)
        self._journal.write(json.dumps([photo, row, reason]) + "\n")
        self._journal.flush()

    def summary(self, targets: dict[str, str], before: int) -> Aligned:
        """Over all photographs of `targets`."""
        rows = [self._rows[photo] for photo in targets if photo in self._rows]
        reasons = Counter(self._reasons[photo].partition(":")[0] for photo in targets if photo in self._reasons)
        distance = sum(float(row[4]) for row in rows) / max(len(rows), 1)
        return Aligned(len(targets), before, len(rows), reasons, distance)

    def __exit__(self, *_: object) -> None:
        self._journal.close()
        self._write_out()

    def _write_out(self) -> None:
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerows([COLUMNS, *(self._rows[photo] for photo in sorted(self._rows, key=os.fsencode))])
        write_whole(self._faces, self._faces / LANDMARKS, table.getvalue().encode())
        without = "".join(f"{photo}\t{self._reasons[photo]}\n" for photo in sorted(self._reasons, key=os.fsencode))
        write_whole(self._faces, self._faces / WITHOUT, without.encode())
        (self._faces / _JOURNAL).unlink(missing_ok=True)


def _read_landmarks(path: Path) -> Iterator[list[str]]:
    lines = [line for line, _, _ in _lines(path, "\n")]
    for number, row in enumerate(csv.reader(lines), 1):
        if len(row) != len(COLUMNS) or number == 1 and tuple(row) != COLUMNS or number > 1 and not _is_number(row[4]):
            raise DataError(f"{path}:{number}: expected {','.join(COLUMNS[:5])},...; restore the line, or delete the "
                            f"file to have every photograph aligned again")
        if number > 1:
            yield row


def _read_journal(path: Path) -> Iterator[tuple[str, list[str] | None, str]]:
    """Every whole line; the last one may have been cut short, and then its photograph is done again."""
    text = _text(path) if path.is_file() else ""
    for number, line in enumerate(text.split("\n")[:-1], 1):
        try:
            photo, row, reason = json.loads(line)
        except (ValueError, TypeError):
            raise DataError(f"{path}:{number}: is damaged; delete the file to have its photographs aligned again") from None
        yield photo, row, reason


def _lines(path: Path, separator: str) -> Iterator[tuple[str, str, str]]:
    for line in _text(path).split("\n") if path.is_file() else ():
        if line:
            yield line.partition(separator)


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()


def _text(path: Path) -> str:
    try:
        return read_file(path).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8; delete the file to have its photographs aligned again") from None


def write_whole(folder: Path, path: Path, content: bytes) -> None:
    """Write a file of the folder of faces so that it is there whole or not at all."""
    unfinished = folder / ".align.tmp"  # one writer, so one name; what a killed run leaves is overwritten
    unfinished.write_bytes(content)
    os.replace(unfinished, path)
