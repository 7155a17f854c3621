"""Embeddings on disk, each array under the hash of all that it depends on: written batch by batch, whole or not at all, read as a map.

A million 512-d embeddings are 2 GB that the system may drop from memory and read again; nothing here holds them.
"""
from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np

from askd.errors import DataError

FORMAT = 1  # of what is stored; part of every key


class Store:
    """Arrays of embeddings float32 (sides, N, D) in a folder: sides are plain and mirrored, or their sum alone."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def find(self, about: dict) -> np.ndarray | None:
        """The array stored under `about` (JSON values), mapped read-only; None where there is none. DataError for one that was changed."""
        path = self._path(about)
        beside = path.with_suffix(".json")
        if not (path.is_file() and beside.is_file()):
            return None
        try:
            if json.loads(beside.read_text())["sha256"] == _digest(path):
                return np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, KeyError, TypeError):
            pass  # not as it was written either
        raise DataError(f"{path}: is not what was stored there: cut short or changed; delete it, and it is made again")

    def create(self, about: dict, sides: int, images: int, width: int) -> Unfinished:
        """A new array to be filled in."""
        return Unfinished(self._path(about), about, (sides, images, width))

    def _path(self, about: dict) -> Path:
        key = hashlib.sha256(json.dumps({**about, "format": FORMAT}, sort_keys=True).encode()).hexdigest()
        return self.folder / f"{key[:32]}.npy"


class Unfinished:
    """An array being written; nobody finds it before `finish`."""

    def __init__(self, path: Path, about: dict, shape: tuple[int, int, int]):
        self.path, self.about = path, about
        self.temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.rows = np.lib.format.open_memmap(self.temporary, mode="w+", dtype=np.float32, shape=shape)
        except OSError as error:
            raise DataError(f"{path.parent}: cannot hold {4 * np.prod(shape) / 2**30:.2f} GB of embeddings ({error.strerror}); say cache=FOLDER") from None

    def finish(self) -> np.ndarray:
        """Give it its name; the array, mapped read-only."""
        self.rows.flush()
        del self.rows
        beside = self.path.with_suffix(".json")
        beside.write_text(json.dumps({"about": self.about, "sha256": _digest(self.temporary)}, sort_keys=True, indent=1) + "\n")
        os.replace(self.temporary, self.path)
        return np.load(self.path, mmap_mode="r", allow_pickle=False)

    def abandon(self) -> None:
        """Leave nothing behind, if it was not finished."""
        self.temporary.unlink(missing_ok=True)


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
