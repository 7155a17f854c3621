"""A folder of photographs -> a folder of aligned faces, identity folders kept; stopped at any moment, it goes on from there.

Beside the identity folders stand `align.json` (the settings), `landmarks.csv` (a line per face), `without_face.txt` (photograph<TAB>why not).
While it works, finished photographs are noted in `.align.jsonl`, which becomes the latter two when it ends, however it ends.
"""
from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path, PurePosixPath

from askd.data.detector import Detector
from askd.data.folder import FolderSet, read_file
from askd.data.portrait import Outcome, Portrait, take_portrait
from askd.data.processes import in_processes
from askd.errors import DataError

SETTINGS, LANDMARKS, WITHOUT, _JOURNAL = "align.json", "landmarks.csv", "without_face.txt", ".align.jsonl"
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


def align(
    photos: Path, faces: Path, detector: Path, settings: Portrait, *, processes: int = 1, skip_bad: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Aligned:
    """Align `photos`/<identity>/<x>.jpg|png to `faces`/<identity>/<x>.jpg (or .png), 112x112; every file whole or not there.

    Photographs whose face is there already, or was not found, are not looked at again (delete the face, or its line in without_face.txt, to
    have that done). Unreadable photographs are a DataError, or with `skip_bad` listed in without_face.txt, and tried again the next time.
    progress(photographs done, in all). DataError also where `faces` was made with other settings, or holds something else.
    """
    Detector(detector, settings.threshold, settings.detector_sizes)  # a fault in it shows here, not in many processes
    targets = _targets(photos, faces, settings)
    try:
        _claim(faces, _described(detector, settings))
        with _Notes(faces) as notes:
            todo = [photo for photo in targets if not notes.settled(photo)]
            before = len(targets) - len(todo)
            worker = (_Taker, (detector, settings))
            paths = [str(photos / photo) for photo in todo]
            for number, (photo, outcome) in enumerate(zip(todo, in_processes(worker, paths, processes)), before + 1):
                if outcome.bad and not skip_bad:
                    raise DataError(f"{outcome.reason}; or say on_bad_image=skip")
                notes.add(photo, targets[photo], outcome)
                if progress is not None:
                    progress(number, len(targets))
            return notes.summary(targets, before)
    except OSError as error:
        raise DataError(f"cannot write {faces} ({error.strerror}); make room, or choose another folder") from None


class _Taker:
    """take_portrait with a detector of this process's own."""

    def __init__(self, detector: Path, settings: Portrait):
        self._detector = Detector(detector, settings.threshold, settings.detector_sizes)
        self._settings = settings

    def __call__(self, path: str) -> Outcome:
        return take_portrait(path, self._detector, self._settings)


def _targets(photos: Path, faces: Path, settings: Portrait) -> dict[str, str]:
    """photograph -> face, both relative, in FolderSet's order."""
    if faces.resolve().is_relative_to(photos.resolve()):
        raise DataError(f"{faces} lies within {photos}, where its faces would pass for photographs; choose another folder")
    found = FolderSet(photos)
    targets: dict[str, str] = {}
    owner: dict[str, str] = {}
    for index in range(len(found)):
        photo = os.path.relpath(found.name(index), photos)
        face = str(PurePosixPath(photo).with_suffix(f".{settings.format.name}"))
        if any(character < " " for character in photo):
            raise DataError(f"{photos}: the name {photo!r} holds a tab or a line break; rename it")
        if owner.setdefault(face, photo) != photo:
            raise DataError(f"{photos}: {owner[face]} and {photo} would both become {face}; rename one of them")
        targets[photo] = face
    return targets


def _described(detector: Path, settings: Portrait) -> dict:
    plain = {key: value.name if isinstance(value, Enum) else value for key, value in asdict(settings).items()}
    return {"detector": hashlib.sha256(read_file(detector)).hexdigest(), "template": "arcface 112x112", **plain}


def _claim(faces: Path, settings: dict) -> None:
    """Make `faces` a folder of these settings, or see that it is."""
    stored = faces / SETTINGS
    if stored.is_file():
        try:
            there = json.loads(read_file(stored))
        except ValueError:
            there = None
        if not isinstance(there, dict):
            raise DataError(f"{stored}: is damaged; move {faces} away to begin anew")
        differing = [f"{key}={there.get(key)} (now {value})" for key, value in settings.items() if there.get(key) != value]
        if differing:
            raise DataError(f"{faces} was made with {', '.join(differing)}; say the same again, or choose another folder")
    else:
        if faces.exists() and (not faces.is_dir() or any(faces.iterdir())):
            raise DataError(f"{faces} holds something that was not aligned here; choose another folder")
        faces.mkdir(parents=True, exist_ok=True)
        _write_whole(faces, stored, json.dumps(settings, indent=1).encode() + b"\n")


class _Notes:
    """What became of every photograph: read on entry, added to while working, written out as two sorted lists on exit."""

    def __init__(self, faces: Path):
        self._faces = faces
        self._rows: dict[str, list[str]] = {}  # photograph -> COLUMNS
        self._reasons: dict[str, str] = {}  # photograph -> why it is without a face

    def __enter__(self) -> _Notes:
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
            _write_whole(self._faces, target, outcome.encoded)
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
        _write_whole(self._faces, self._faces / LANDMARKS, table.getvalue().encode())
        without = "".join(f"{photo}\t{self._reasons[photo]}\n" for photo in sorted(self._reasons, key=os.fsencode))
        _write_whole(self._faces, self._faces / WITHOUT, without.encode())
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
        except ValueError:
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


def _write_whole(folder: Path, path: Path, content: bytes) -> None:
    unfinished = folder / ".align.tmp"  # one writer, so one name; what a killed run leaves is overwritten
    unfinished.write_bytes(content)
    os.replace(unfinished, path)
