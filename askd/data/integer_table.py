"""Text files of a few integers a line and tens of millions of lines, read in seconds and in bounded memory."""
from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np

from askd.errors import DataError

_BLOCK = 1 << 24
_LONGEST_LINE = 1 << 12
_MOST_DIGITS = 18


def read_integers(path: Path | str, columns: int, expected: str) -> Iterator[np.ndarray]:
    """int64 (n, columns) of the next lines, 16 MiB of them at a time; `expected` says in words what a line holds.

    Columns are separated by white space; empty lines are passed over. Memory is a multiple of the block, not of the file.
    Raises DataError with file and line.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            line, rest = 1, b""
            while text := rest + (block := file.read(_BLOCK)):
                cut = text.rfind(b"\n") + 1 if block else len(text)  # the file's last line may lack its end
                if len(text) - cut > _LONGEST_LINE:
                    line += text.count(b"\n")
                    raise DataError(f"{path}:{line}: is longer than {_LONGEST_LINE} bytes, expected {expected}")
                if text[:cut].strip():
                    yield _table(text[:cut], columns, path, line, expected)
                line, rest = line + text.count(b"\n", 0, cut), text[cut:]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); the set needs it") from error


def _table(text: bytes, columns: int, path: Path, first_line: int, expected: str) -> np.ndarray:
    try:
        table = np.loadtxt(io.BytesIO(text), np.int64, comments=None, ndmin=2)
    except ValueError:
        _refuse(text, columns, path, first_line, expected)
    if table.shape[1] != columns:
        _refuse(text, columns, path, first_line, expected)
    return table


def _refuse(text: bytes, columns: int, path: Path, first_line: int, expected: str) -> NoReturn:
    for line, row in enumerate(text.split(b"\n"), first_line):
        fields = row.split()
        if fields and (len(fields) != columns or not all(field.isdigit() and len(field) <= _MOST_DIGITS for field in fields)):
            break
    raise DataError(f"{path}:{line}: expected {expected}, got {row[:60].decode(errors='replace')!r}; fetch it again")
