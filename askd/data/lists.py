"""Faces named by a list: a text file of `path label`, or CSV."""
from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from askd.data.folder import check_image, read_file, read_image
from askd.errors import DataError

SUFFIXES = (".txt", ".csv", ".tsv", ".lst")
_HEADER = ["path", "label"]


class ListSet:
    """The images that a list names (a FaceSet), in its order.

    A .csv has two fields, path and label, quoted where they need it, and may begin with `path,label`. Any other list has
    a path and a label in each line with a tab between them, or white space (then the label is the last word). Paths are
    relative to the list's folder; since who trains also wrote the list, they may be absolute and lead anywhere. Labels
    are any text; `class_ids` says how they become ids. DataError, with file and line: an empty line, a missing image,
    one named twice, text that is not UTF-8, anything else than path and label.
    """

    labels: np.ndarray
    class_names: list[str]

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self._root = os.fspath(self.path.parent)
        self._files, labels, lines = [], [], {}
        for number, fields in _rows(self.path):
            if len(fields) != 2 or not all(map(is_plain, fields)):
                raise DataError(f"{self.path}:{number}: expected a path and a label, got {','.join(fields)[:60]!r}; correct "
                                f"the line (quote a path with commas in a .csv, put a tab before a label of several words)")
            file, label = fields
            first = lines.setdefault(os.path.normpath(file), number)
            if first != number:
                raise DataError(f"{self.path}:{number}: {file} stands in line {first} already; remove one of them")
            try:
                check_image(self._join(file))
            except DataError as error:
                raise DataError(f"{self.path}:{number}: names {error}") from error
            self._files.append(file)
            labels.append(label.strip())
        if not labels:
            raise DataError(f"{self.path}: names no images; expected lines of a path and a label")
        self.labels, self.class_names = class_ids(labels)

    def __len__(self) -> int:
        return len(self._files)

    def encoded(self, index: int) -> bytes:
        """The image's file, as it is."""
        return read_image(self.name(index))

    def name(self, index: int) -> str:
        """Path of an image, for messages."""
        return self._join(self._files[index])

    def _join(self, file: str) -> str:
        return os.path.join(self._root, file)


def class_ids(labels: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Class ids, int64 (N,), and the class names in their order, of each image's label.

    Whole numbers come first, by their value, then other text by its UTF-8 bytes: the same on every machine.
    """
    names = sorted(set(labels), key=_rank)
    ids = {name: number for number, name in enumerate(names)}
    return np.fromiter((ids[label] for label in labels), np.int64, len(labels)), names


def is_plain(text: str) -> bool:
    """Whether text can be a path or a label: there is some, and no control characters such as a damaged file would bring."""
    return bool(text.strip()) and min(text.strip()) >= " "


def _rank(label: str) -> tuple:
    if label.isascii() and label.isdigit():
        digits = label.lstrip("0")
        return 0, len(digits), digits, len(label)  # int() refuses numbers of thousands of digits
    return 1, 0, label.encode(), 0


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of each row."""
    data = read_file(path).removeprefix(b"\xef\xbb\xbf")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: {data[error.start:error.end]!r} is not UTF-8; save the list as UTF-8") from error
    if "\0" in text:
        raise DataError(f"{path}:{text.count(chr(10), 0, text.index(chr(0))) + 1}: holds a zero byte; is it a list?")
    return _csv_rows(path, text) if path.suffix.lower() == ".csv" else _text_rows(text)


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    number = 1
    try:
        for fields in rows:
            if number > 1 or fields != _HEADER:
                yield number, fields
            number = rows.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}:{number}: is not CSV ({error}); expected path,label") from error


def _text_rows(text: str) -> Iterator[tuple[int, list[str]]]:
    lines = text.split("\n")
    for number, line in enumerate(lines[:-1] if not lines[-1] else lines, 1):
        line = line.removesuffix("\r")
        yield number, line.split("\t") if "\t" in line else line.rsplit(None, 1)
