"""IJB-B and IJB-C as the field shares them: `loose_crop/` and the lists in `meta/`, templates 1:1 and 1:N."""
from __future__ import annotations

import csv
import io
import os
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from askd.data.decode import SIZE
from askd.photo import encoded_size
from askd.data.folder import read_file
from askd.data.gallery import NOBODY, Images, TemplateSet
from askd.data.imagefiles import ImageFiles
from askd.data.integer_table import read_integers
from askd.data.loose_crops import LooseCrops
from askd.errors import DataError

_MEDIA = "_face_tid_mid.txt"
_PAIRS = "_template_pair_label.txt"
_LANDMARKS = "_name_5pts_score.txt"
_GALLERIES, _PROBE = "_1N_gallery_*.csv", "_1N_probe_mixed.csv"


def read_ijb(lists: Path | str, images: Path | str) -> TemplateSet:
    """Read the lists of one of the two sets (`ijbb_...` or `ijbc_...`) in the folder `lists`, and its folder of images.

    `_face_tid_mid.txt`: `name template media` of each image, which is what the set consists of, in this order; templates
    become 0..T-1 in the order of their numbers. `_template_pair_label.txt`: `template template 0|1`, the 1:1 comparisons.
    `_1N_gallery_*.csv` and `_1N_probe_mixed.csv` (TEMPLATE_ID, SUBJECT_ID): the galleries, sorted by their files' names,
    and the probes of 1:N; they alone say who is who. Either 1:1 or 1:N may be absent. Images of 112x112 are taken as
    aligned; loose crops are aligned as they are read by `_name_5pts_score.txt`: `name x y (five times) score` in the first
    list's order. The detector's score is not used. Raises DataError with file and line.
    """
    lists, images = Path(lists), Path(images)
    media_list = _only(lists, _MEDIA)
    prefix = media_list.name.removesuffix(_MEDIA)
    names, template, media = _media(media_list)
    numbers, template = np.unique(template, return_inverse=True)
    subject = np.full(len(numbers), NOBODY, np.int64)
    galleries = [_subjects(path, numbers, subject) for path in sorted(lists.glob(prefix + _GALLERIES))]
    probes = lists / (prefix + _PROBE)
    probe = _subjects(probes, numbers, subject) if galleries or probes.is_file() else np.empty(0, np.int64)
    pairs = lists / (prefix + _PAIRS)
    if not galleries and not pairs.is_file():
        raise DataError(f"{lists}: lacks both {pairs.name} (1:1) and {prefix}{_GALLERIES} (1:N), so there is nothing to compare")
    left, right, same = _pairs(pairs, numbers) if pairs.is_file() else (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, bool))
    return TemplateSet(prefix, _images(images, names, media_list, lists / (prefix + _LANDMARKS)), template, media, subject,
                       left, right, same, probe, galleries)


def _only(lists: Path, suffix: str) -> Path:
    found = sorted(lists.glob("[!.]*" + suffix))
    if len(found) != 1:
        raise DataError(f"{lists}: holds {len(found)} files called *{suffix}, expected one; is it the meta folder of one set?")
    return found[0]


def _rows(path: Path, columns: int, expected: str) -> Iterator[tuple[str, list[str]]]:
    """file:line and fields of each line."""
    try:
        lines = read_file(path).decode("ascii").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not ASCII; fetch it again") from error
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if len(fields) != columns:
            raise DataError(f"{path}:{number}: expected {expected}, got {line[:60]!r}; fetch it again")
        yield f"{path}:{number}", fields


def _media(path: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Name, template and medium of each image."""
    names, numbers = [], array("q")
    for where, (name, *pair) in _rows(path, 3, "name template media"):
        if not all(number.isdecimal() and len(number) < 19 for number in pair) or "/" in name or name.startswith("."):
            raise DataError(f"{where}: expected name template media, got {' '.join([name, *pair])[:60]!r}; fetch it again")
        names.append(name)
        numbers.extend(map(int, pair))
    if not names:
        raise DataError(f"{path}: is empty; fetch it again")
    return names, *np.array(numbers, np.int64).reshape(-1, 2).T.copy()


def _subjects(path: Path, numbers: np.ndarray, subject: np.ndarray) -> np.ndarray:
    """The templates of a 1:N list, each once, in its order; who they are is entered into `subject`."""
    reader = csv.reader(io.StringIO(read_file(path).decode("utf-8", "replace"), newline=""))
    heading = [name.strip().upper() for name in next(reader, [])]
    if not {"TEMPLATE_ID", "SUBJECT_ID"} <= set(heading):
        raise DataError(f"{path}:1: expected a heading with TEMPLATE_ID and SUBJECT_ID, got {','.join(heading)[:60]!r}; fetch it again")
    at = heading.index("TEMPLATE_ID"), heading.index("SUBJECT_ID")
    positions = {number: i for i, number in enumerate(numbers.tolist())}
    templates: dict[int, None] = {}
    for fields in reader:
        where = f"{path}:{reader.line_num}"
        if len(fields) <= max(at) or not all(fields[i].strip().isdecimal() and len(fields[i]) < 19 for i in at):
            raise DataError(f"{where}: expected a template and a subject number, got {','.join(fields)[:60]!r}; fetch it again")
        number, who = (int(fields[i]) for i in at)
        if number not in positions:
            raise DataError(f"{where}: template {number} has no image in the list of images; fetch both lists again")
        position = positions[number]
        if subject[position] not in (NOBODY, who):
            raise DataError(f"{where}: template {number} is of subject {who} here, and of {subject[position]} in another line")
        subject[position] = who
        templates[position] = None
    if not templates:
        raise DataError(f"{path}: names no templates; fetch it again")
    return np.array(list(templates))


def _pairs(path: Path, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """left, right (positions of templates) and same of every line."""
    lefts, rights, sames, line = [], [], [], 1
    for block in read_integers(path, 3, "template template 0|1"):
        positions = np.searchsorted(numbers, block[:, :2]).clip(max=len(numbers) - 1)
        faulty = (numbers[positions] != block[:, :2]).any(1) | (block[:, 2] & ~1 != 0)
        if faulty.any():
            at = int(np.argmax(faulty))
            raise DataError(f"{path}: pair {line + at}, {' '.join(map(str, block[at]))}: expected two templates that have images, "
                            "and 0 or 1; fetch the lists again")
        lefts.append(positions[:, 0])
        rights.append(positions[:, 1])
        sames.append(block[:, 2] == 1)
        line += len(block)
    if not lefts:
        raise DataError(f"{path}: holds no pairs; fetch it again")
    return np.concatenate(lefts), np.concatenate(rights), np.concatenate(sames)


def _images(folder: Path, names: list[str], media_list: Path, landmark_list: Path) -> Images:
    try:
        there = {entry.name for entry in os.scandir(folder)}
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror}); expected the images of {media_list} there") from error
    missing = [line for line, name in enumerate(names, 1) if name not in there]
    if missing:
        raise DataError(f"{media_list}:{missing[0]}: names {folder / names[missing[0] - 1]}, which is not there, as are {len(missing)} of "
                        f"{len(names)} images; unpack the images again")
    paths = [f"{folder}/{name}" for name in names]
    looked_at = {paths[0], paths[len(paths) // 2], paths[-1]}
    if all(encoded_size(read_file(path), path) == (SIZE, SIZE) for path in looked_at):
        return ImageFiles(paths)
    if not landmark_list.is_file():
        raise DataError(f"{landmark_list}: is not there, and {paths[0]} is not of {SIZE}x{SIZE} pixels; expected aligned faces, or the "
                        "landmarks to align them by")
    return LooseCrops(paths, _landmarks(landmark_list, names))


def _landmarks(path: Path, names: list[str]) -> np.ndarray:
    """float32 (N, 5, 2) of the images in the order of `names`."""
    landmarks = np.empty((len(names), 10), np.float32)
    count = 0
    for count, (where, (name, *numbers)) in enumerate(_rows(path, 12, "name x y (five times) score"), 1):
        if count > len(names) or name != names[count - 1]:
            raise DataError(f"{where}: is of {name}, which is not what the list of media has there; fetch both lists again")
        try:
            landmarks[count - 1] = numbers[:10]
        except ValueError:
            given = " ".join([name, *numbers])[:60]
            raise DataError(f"{where}: expected name x y (five times) score, got {given!r}; fetch it again") from None
    if count != len(names):
        raise DataError(f"{path}: ends after {count} of the {len(names)} images of the list of media; fetch both lists again")
    points = landmarks.reshape(-1, 5, 2)
    faulty = ~np.isfinite(landmarks).all(1) | (np.ptp(points, axis=1) == 0).all(1)
    if faulty.any():
        raise DataError(f"{path}:{int(np.argmax(faulty)) + 1}: its landmarks are not five points; fetch it again")
    return points
