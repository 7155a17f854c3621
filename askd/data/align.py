"""A folder of photographs -> a folder of aligned faces, identity folders kept; stopped at any moment, it goes on from there.

Beside the identity folders stand `align.json` (the settings) and the two lists that notes.py keeps.
"""
from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from enum import Enum
from pathlib import Path, PurePosixPath

from askd.data.detector import Detector
from askd.data.folder import FolderSet, read_file
from askd.data.notes import Aligned, Notes, write_whole
from askd.data.portrait import Outcome, Portrait, take_portrait
from askd.data.processes import in_processes
from askd.errors import DataError

SETTINGS = "align.json"


def align(
    photos: Path, faces: Path, detector: Path, settings: Portrait, *, processes: int = 1, skip_bad: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Aligned:
    """Align `photos`/<identity>/<x>.jpg|png to `faces`/<identity>/<x>.jpg (or .png), 112x112; every file whole or not there.

    Photographs whose face is there already, or was not found, are not looked at again (delete the face, or its line in
    without_face.txt, to have that done). Unreadable photographs are a DataError, or with `skip_bad` listed in
    without_face.txt, and tried again the next time.
    progress(photographs done, in all). DataError also where `faces` was made with other settings, or holds something else.
    """
    Detector(detector, settings.threshold, settings.detector_sizes)  # a fault in it shows here, not in many processes
    targets = _targets(photos, faces, settings)
    try:
        _claim(faces, _described(detector, settings))
        with Notes(faces) as notes:
            todo = [photo for photo in targets if not notes.settled(photo)]
            before = len(targets) - len(todo)
            paths = [str(photos / photo) for photo in todo]
            with closing(in_processes((_Taker, (detector, settings)), paths, processes)) as outcomes:
                for number, (photo, outcome) in enumerate(zip(todo, outcomes), before + 1):
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
        write_whole(faces, stored, json.dumps(settings, indent=1).encode() + b"\n")
