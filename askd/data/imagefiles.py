"""Encoded images that stay on disk until they are asked for."""
from __future__ import annotations

from collections.abc import Sequence

from askd.data.folder import read_image


class ImageFiles:
    """Image files as Images (see gallery): a path each in memory, nothing else."""

    def __init__(self, paths: Sequence[str]):
        self.paths = list(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def encoded(self, index: int) -> bytes:
        """The file, as it is."""
        return read_image(self.paths[index])

    def name(self, index: int) -> str:
        """Its path."""
        return self.paths[index]
