"""Pairs of one's own: a CSV of `path_a,path_b,same[,fold]`."""
from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import numpy as np

from askd.data.folder import read_file
from askd.data.pairs import PairSet, default_folds, pairs_of_files
from askd.errors import DataError

COLUMNS = ("path_a", "path_b", "same", "fold")
_SAME = {"1": True, "true": True, "0": False, "false": False}
_MOST_FOLDS = 1000


def read_pair_csv(path: Path | str, images_root: Path | str | None = None) -> PairSet:
    """Read `path_a,path_b,same[,fold]` lines, UTF-8; a first line of these very names is a heading and may be left out.

    Paths are relative to `images_root`, or to the CSV's folder; `same` is 1, 0, true or false; `fold` is 0..k-1 on every
    line, all of them used, k >= 2, or absent: then as for a `.bin`, ten contiguous folds, stratified where needed. Empty
    lines are passed over. Raises DataError with file and line.
    """
    path = Path(path)
    root = str(path.parent if images_root is None else images_root)
    pairs, same, fold, lines = [], [], [], []
    for line, fields in _rows(path):
        where = f"{path}:{line}"
        if len(fields) not in (3, 4) or len(fields) != 3 + bool(fold) and pairs:
            raise DataError(f"{where}: {len(fields)} columns, expected path_a,path_b,same[,fold], as many on every line")
        if fields[2].strip().lower() not in _SAME:
            raise DataError(f"{where}: same is {fields[2][:20]!r}, expected 1, 0, true or false (or the heading {','.join(COLUMNS)})")
        images = tuple(os.path.normpath(os.path.join(root, name)) for name in fields[:2])
        if images[0] == images[1]:
            raise DataError(f"{where}: pairs {fields[0]!r} with itself; expected two images")
        pairs.append(images)
        same.append(_SAME[fields[2].strip().lower()])
        lines.append(line)
        fold += [_fold(text, where) for text in fields[3:]]
    _check(path, same, fold, lines)
    same = np.array(same)
    return pairs_of_files(path.stem, pairs, same, np.array(fold, np.int16) if fold else default_folds(same),
                          find=lambda image, row: _image(image, f"{path}:{lines[row]}"))


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    try:
        text = read_file(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8; save the CSV as UTF-8") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        rows = [(reader.line_num, fields) for fields in reader if fields]
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not a line of a CSV ({error}); quote paths that hold commas or quotes") from None
    heading = [name.strip().lower() for name in rows[0][1]] if rows else []
    return rows[1:] if heading in (list(COLUMNS), list(COLUMNS[:3])) else rows


def _fold(text: str, where: str) -> int:
    number = text.strip()
    if not (number.isdecimal() and len(number) < 9 and int(number) < _MOST_FOLDS):
        raise DataError(f"{where}: fold is {text[:20]!r}, expected a number from 0 on, below {_MOST_FOLDS}")
    return int(number)


def _check(path: Path, same: list[bool], fold: list[int], lines: list[int]) -> None:
    if not same:
        raise DataError(f"{path}: holds no pairs; expected lines of path_a,path_b,same[,fold]")
    if all(same) or not any(same):
        kind = "genuine" if same[0] else "impostors"
        raise DataError(f"{path}: all {len(same)} pairs are {kind}; a set needs both, so add some of the other kind")
    missing = sorted(set(range(max(fold, default=0))) - set(fold))
    if missing:
        raise DataError(f"{path}:{lines[fold.index(max(fold))]}: is of fold {max(fold)}, but no line is of fold {missing[0]}; "
                        "folds are 0..k-1, without gaps")
    if fold and max(fold) == 0:
        raise DataError(f"{path}:{lines[0]}: every line is of fold 0; give two folds or more, or leave the column out")


def _image(name: str, line: str) -> Path:
    if not os.path.isfile(name):
        raise DataError(f"{line}: names {name!r}, which is not there; paths are relative to the CSV's folder, or to the card's images")
    return Path(name)
