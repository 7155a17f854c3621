"""classes.txt beside a train.rec: the identities' names, one a line, line i the name of label i. RecordIO itself keeps numbers only."""
from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from askd.data.folder import read_file
from askd.errors import DataError

FILE = "classes.txt"


def read_classes(path: Path | str) -> list[str]:
    """The names, each of which can be a folder's; DataError with file and line where one cannot, or stands there twice."""
    path = Path(path)
    try:
        text = read_file(path).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8; expected one identity's name a line") from None
    names = text.removesuffix("\n").split("\n")
    lines: dict[str, int] = {}
    for line, name in enumerate(names, 1):
        if not _can_be_folder(name):
            raise DataError(f"{path}:{line}: {name[:60]!r} cannot be a folder's name; expected an identity's name, not empty, without "
                            f"a slash, not beginning with a dot")
        if lines.setdefault(name, line) != line:
            raise DataError(f"{path}:{line}: {name} stands in line {lines[name]} already; an identity has one label")
    return names


def write_classes(path: Path | str, names: Sequence[str]) -> None:
    """Write the file, whole or not at all; DataError for a name that cannot stand in it."""
    path = Path(path)
    for name in names:
        if not _can_be_folder(name):
            raise DataError(f"{path}: {name!r} cannot stand in it as one line and be a folder's name; rename the identity")
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_text("".join(f"{name}\n" for name in names), "utf-8")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _can_be_folder(name: str) -> bool:
    return bool(name) and not name.startswith(".") and "/" not in name and all(character >= " " for character in name)
