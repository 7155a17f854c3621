"""Faces as folders: `<root>/<identity>/*.jpg|png`, and LFW's lists of people."""
from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from askd.errors import DataError

READ = (".jpg", ".jpeg", ".png")
LARGEST_IMAGE = 1 << 26  # bytes; nothing that is read as an image takes more memory than this before it is decoded
_OTHER_IMAGES = (".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".jp2", ".avif", ".heic")


class FolderSet:
    """The images of `<root>/<identity>/*.jpg|jpeg|png` (a FaceSet).

    Class ids follow the identities' names sorted by their bytes, images follow their file names sorted likewise, so
    that both are the same on every machine. `people` (names, any order) restricts the set to these, all of which must
    exist; identities with fewer than `min_images` images are left out. Hidden entries and files that are no images are
    ignored; images of other kinds, and folders within an identity, are a DataError rather than a smaller set.
    """

    labels: np.ndarray
    class_names: list[str]

    def __init__(self, root: Path | str, people: Sequence[str] | None = None, min_images: int = 1):
        self.root = Path(root)
        if not self.root.is_dir():
            raise DataError(f"{self.root}: is not a folder; expected one folder per identity in it")
        names = _identities(self.root) if people is None else _existing(self.root, people)
        images = {name: _images(self.root / name) for name in names}
        self.class_names = [name for name in names if len(images[name]) >= max(min_images, 1)]
        if not self.class_names:
            raise DataError(f"{self.root}: none of {len(names)} identity folders holds {max(min_images, 1)} or more "
                            f"images ({', '.join(READ)}); lower min_images or point at the folder of the identities")
        self._files = [f"{name}/{image}" for name in self.class_names for image in images[name]]
        self.labels = np.repeat(np.arange(len(self.class_names)), [len(images[name]) for name in self.class_names])

    def __len__(self) -> int:
        return len(self._files)

    def encoded(self, index: int) -> bytes:
        """The image's file, as it is."""
        return read_image(self.name(index))

    def name(self, index: int) -> str:
        """Path of an image, for messages."""
        return f"{self.root}/{self._files[index]}"


def read_people(path: Path | str) -> list[str]:
    """Names in an LFW list of people, in its order, all folds of `people.txt` together.

    The file: `count`, or `folds` and a `count` before each fold; then `name<TAB>images` as often as the count says.
    Raises DataError with file and line.
    """
    path = Path(path)
    rows = protocol_rows(path)
    several_folds = len(rows) > 1 and len(rows[1]) == 1
    folds = counted(path, rows, 0) if several_folds else 1
    people, line = [], int(several_folds)
    for _ in range(folds):
        count, line = counted(path, rows, line), line + 1
        for row in range(line, line + count):
            if row >= len(rows) or len(rows[row]) != 2 or not rows[row][1].isdigit():
                raise DataError(f"{path}:{row + 1}: expected name<TAB>images, the count promises {count} people; "
                                f"got {found(rows, row)}")
            people.append(rows[row][0])
        line += count
    if line != len(rows):
        raise DataError(f"{path}:{line + 1}: expected the end of the file, got {found(rows, line)}")
    for name, following in zip(ordered := sorted(people), ordered[1:]):
        if name == following:
            raise DataError(f"{path}: {name} stands there twice")
    return people


def protocol_rows(path: Path) -> list[list[str]]:
    """Lines of an LFW protocol file, each split at white space."""
    try:
        text = read_file(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8; expected an LFW protocol file") from error
    return [line.split() for line in text.splitlines()]


def counted(path: Path, rows: list[list[str]], row: int) -> int:
    """The count that must stand alone in a line."""
    if row >= len(rows) or len(rows[row]) != 1 or not rows[row][0].isdecimal():
        raise DataError(f"{path}:{row + 1}: expected a count, got {found(rows, row)}")
    return int(rows[row][0])


def found(rows: list[list[str]], row: int) -> str:
    """What a line holds, for messages."""
    return repr(" ".join(rows[row])[:60]) if row < len(rows) else "the end of the file"


def read_image(path: Path | str) -> bytes:
    """An image file's bytes; DataError that names it where it is missing, no regular file, or too large to be one."""
    check_image(path)
    return read_file(path)


def check_image(path: Path | str) -> None:
    """DataError unless `path` is a file that may be read as an image."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); the set needs it") from error
    if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST_IMAGE:
        problem = f"has {status.st_size} bytes" if stat.S_ISREG(status.st_mode) else "is not a regular file"
        raise DataError(f"{path}: {problem}, expected an image file of at most {LARGEST_IMAGE}; remove it from the set")


def read_file(path: Path | str) -> bytes:
    """A file's bytes, or a DataError that names it."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); the set needs it") from error


def entries(folder: Path) -> list[os.DirEntry]:
    """What a folder holds, hidden entries left out, sorted by the names' bytes; DataError for a name that is not UTF-8."""
    try:
        with os.scandir(folder) as shown:
            visible = [entry for entry in shown if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror})") from error
    for entry in visible:
        if any("\ud800" <= character <= "\udfff" for character in entry.name):  # undecodable bytes
            raise DataError(f"{folder}: the name {os.fsencode(entry.name)!r} is not UTF-8; rename it")
    return sorted(visible, key=lambda entry: os.fsencode(entry.name))


def is_folder(entry: os.DirEntry) -> bool:
    """Whether an entry is a folder or a link to one; DataError for a link in a loop."""
    try:
        return entry.is_dir()
    except OSError as error:
        raise DataError(f"{entry.path}: cannot be followed ({error.strerror}); remove the link") from error


def _identities(root: Path) -> list[str]:
    return [entry.name for entry in entries(root) if is_folder(entry)]


def _existing(root: Path, people: Sequence[str]) -> list[str]:
    wanted = sorted(set(people), key=os.fsencode)
    missing = [name for name in wanted if not (root / name).is_dir()]
    if missing:
        raise DataError(f"{root}: lacks the folders of {len(missing)} of the {len(wanted)} people asked for, "
                        f"{', '.join(missing[:3])} among them; is it the folder of the identities?")
    return wanted


def _images(folder: Path) -> list[str]:
    images = []
    for entry in entries(folder):
        suffix = os.path.splitext(entry.name)[1].lower()
        if is_folder(entry):
            raise DataError(f"{entry.path}: is a folder within an identity; expected <root>/<identity>/<image>, "
                            f"so point at {folder} if the identities are in there")
        if suffix in _OTHER_IMAGES:
            raise DataError(f"{entry.path}: images are read as {', '.join(READ)}; convert it, to PNG for instance")
        if suffix in READ:
            if not entry.is_file():
                check_image(entry.path)
            images.append(entry.name)
    return images
