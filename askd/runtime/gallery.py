"""Known faces to search among: unit embeddings in one file, built once, memory-mapped, searched exactly and in blocks.

Layout: 4096 bytes of header (magic, length, JSON, zeros), float32 (N, D) rows, uint64 (N + 1) offsets of the names, the names (UTF-8).
"""
from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from askd.errors import DataError

MAGIC = b"ASKDGAL1"
HEADER = 4096
WIDEST = 8192
BLOCK_BYTES = 1 << 27  # of rows scored at once: enough work for every core


def build_gallery(path: str | Path, batches: Iterable[tuple[Sequence[str], np.ndarray]], model: str, source: str = "") -> int:
    """Write the gallery `path` from batches of names and embeddings (n, D), streaming; returns the number of faces.

    model: what made the embeddings (`Recognizer.sha256`); source: anything that tells whether the gallery is out of date. The file
    appears whole or not at all. DataError: no face, embeddings of several widths, zero or not finite, a disk that refuses.
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    width, lengths, names = 0, [], []
    try:
        with open(partial, "wb") as file:
            file.write(bytes(HEADER))
            for labels, embeddings in batches:
                width = width or embeddings.shape[1]
                file.write(_unit_rows(labels, embeddings, width))
                encoded = [label.encode("utf-8", "surrogateescape") for label in labels]
                lengths += map(len, encoded)
                names.append(b"".join(encoded))
            if not lengths:
                raise DataError(f"{path}: a gallery needs at least one face, got none")
            file.write(np.concatenate([[0], np.cumsum(lengths)]).astype("<u8").tobytes())
            file.writelines(names)
            header = json.dumps({"model": model, "source": source, "count": len(lengths), "width": width, "names": sum(lengths)}).encode()
            if len(header) > HEADER - 12:
                raise ValueError(f"model and source must fit {HEADER} bytes together, got {len(header)}; give hashes")
            file.seek(0)
            file.write(MAGIC + len(header).to_bytes(4, "little") + header)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise DataError(f"cannot write {path} ({error.strerror}); choose another index=, or free some space") from None
    finally:
        partial.unlink(missing_ok=True)
    return len(lengths)


class Gallery:
    """A gallery file, open for search from any number of threads; `len` faces of `width` numbers each, `source` as built.

    model: the sha256 of the model whose probes will be searched for. DataError where the gallery was made with another one, or is
    cut short or damaged.
    """

    def __init__(self, path: str | Path, model: str):
        self.path = Path(path)
        try:
            with open(self.path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                header = _header(file.read(HEADER), self.path)
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path}: cannot be read as a gallery ({error}); build it again") from None
        count, self.width, self.source = header["count"], header["width"], header["source"]
        names_at = HEADER + 4 * count * self.width + 8 * (count + 1)
        if size != names_at + header["names"]:
            raise DataError(f"{self.path}: has {size:,} bytes, expected {names_at + header['names']:,} for {count:,} faces: cut short or "
                            "damaged; remove it to build it again")
        if header["model"] != model:
            raise DataError(f"{self.path}: was made with another model (sha256 {header['model'][:12]}, this one is {model[:12]}), whose "
                            "embeddings cannot be compared; remove it to build it again, or choose another index=")
        self._rows = np.frombuffer(data, "<f4", count * self.width, HEADER).reshape(count, self.width)
        self._offsets = np.frombuffer(data, "<u8", count + 1, names_at - 8 * (count + 1))
        self._names = memoryview(data)[names_at:]

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, index: int) -> str:
        """What the face at `index` was called."""
        start, stop = self._offsets[index:index + 2].tolist()
        return bytes(self._names[start:stop]).decode("utf-8", "surrogateescape")

    def search(self, probes: np.ndarray, count: int = 5) -> tuple[np.ndarray, np.ndarray]:
        """The `count` most similar faces of each probe (Q, D): indices int64 (Q, count) and cosines float32 (Q, count), best first.

        Exact: every face is compared. Of equal cosines the lower index comes first. DataError: probes that do not fit, a damaged file.
        """
        probes = np.asarray(probes, np.float32)
        if probes.ndim != 2 or probes.shape[1] != self.width:
            raise DataError(f"probes are {probes.shape}, and {self.path} holds embeddings of {self.width} numbers; use the model it was made with")
        probes = _unit_rows([f"probe {number}" for number in range(len(probes))], probes, self.width)
        count = min(count, len(self))
        best = np.full((len(probes), count), -np.inf, np.float32)
        where = np.full((len(probes), count), -1, np.int64)
        step = max(BLOCK_BYTES // (4 * max(self.width, len(probes))), 1)
        for start in range(0, len(self), step):
            scores = (self._rows[start:start + step] @ probes.T).T  # (Q, rows)
            if not np.isfinite(scores.sum()):
                raise DataError(f"{self.path}: holds embeddings that are not finite (faces {start} on); remove it to build it again")
            for number in np.flatnonzero(scores.max(1) > best[:, -1]):
                better = np.flatnonzero(scores[number] > best[number, -1])
                merged = np.concatenate([best[number], scores[number, better]])
                order = np.argsort(-merged, kind="stable")[:count]
                best[number], where[number] = merged[order], np.concatenate([where[number], start + better])[order]
        return where, best


def _unit_rows(labels: Sequence[str], embeddings: np.ndarray, width: int) -> np.ndarray:
    """The embeddings, float32, each divided by its length; DataError names the one that has no direction."""
    if embeddings.shape != (len(labels), width):
        raise DataError(f"embeddings are {embeddings.shape} for {len(labels)} faces of {width} numbers; use one model for all")
    norms = np.sqrt(np.einsum("nd,nd->n", embeddings, embeddings, dtype=np.float64))[:, None]
    bad = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
    if len(bad):
        raise DataError(f"{labels[bad[0]]}: its embedding is zero or not finite; check the model")
    return np.divide(embeddings, norms, dtype="<f4", casting="same_kind")


def _header(start: bytes, path: Path) -> dict:
    length = int.from_bytes(start[8:12], "little")
    if start[:8] != MAGIC or len(start) < HEADER or length > HEADER - 12:
        raise DataError(f"{path}: is no askd gallery; give the file that askd.match or build_gallery wrote, or a folder of faces")
    header = json.loads(start[12:12 + length])
    kinds = {"model": str, "source": str, "count": int, "width": int, "names": int}
    if not isinstance(header, dict) or any(type(header.get(key)) is not kind for key, kind in kinds.items()):
        raise ValueError("a damaged header")
    if header["count"] < 1 or not 1 <= header["width"] <= WIDEST or header["names"] < 0:
        raise ValueError("impossible numbers in the header")
    return header
