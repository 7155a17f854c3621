"""A file mapped into memory by every process that uses it."""
from __future__ import annotations

import mmap
import os
import stat
from pathlib import Path

from askd.errors import DataError


class MappedFile:
    """A file's bytes, `size` of them; pickles as its path, so that forked and spawned workers map it themselves."""

    def __init__(self, path: Path):
        self.path = path
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise DataError(f"{path}: is not a regular file; expected a set of faces")
            with open(path, "rb") as file:
                self.size = os.fstat(file.fileno()).st_size
                self.bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if self.size else b""
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); the set needs it") from error
        if not self.size:
            raise DataError(f"{path}: is empty (0 bytes); fetch it again")

    def __getstate__(self) -> tuple[Path, int]:
        return self.path, self.size

    def __setstate__(self, state: tuple[Path, int]) -> None:
        self.__init__(state[0])
        if self.size != state[1]:
            raise DataError(f"{self.path}: changed while in use, {state[1]} bytes became {self.size}; start again")
