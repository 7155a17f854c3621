"""A training set in MXNet RecordIO: which records are images, and of which class."""
from __future__ import annotations

from pathlib import Path

import numpy as np

from askd.data.folder import read_file
from askd.data.recordfile import RecordFile, read_index
from askd.data.recordio import EXACT_FLOAT32
from askd.errors import DataError


class RecordSet:
    """The images of a RecordIO set (a FaceSet): `path` is the .rec or the folder that holds train.rec (or one *.rec).

    `labels` int64 (N,), contiguous class ids in the order of the sorted original labels, which `class_names` keeps as
    text. Images come in the order of their keys. Of several labels the first is the class. InsightFace's header and
    identity records are recognised and left out; a set without them is images throughout. A missing .idx is rebuilt by
    one scan. Opening reads the head of every record, checks that index and file account for each other, and keeps 16
    bytes per image. Errors: DataError naming file, record and remedy.
    """

    labels: np.ndarray
    class_names: list[str]

    def __init__(self, path: Path | str):
        self._file = RecordFile(_find_rec(Path(path)))
        idx = self._file.path.with_suffix(".idx")
        if idx.is_file():
            keys, offsets = _sorted_by(1, *read_index(idx))
            heads = self._file.heads(keys, offsets)
        else:
            offsets = self._file.offsets()
            keys = np.arange(len(offsets))
            heads = self._file.heads(keys, offsets)
            # Writers put the key into the id; some leave it 0.
            ids = np.sort(heads["id"])
            keys = heads["id"] if ids[0] >= 0 and (ids[1:] > ids[:-1]).all() else keys
        keys, offsets, heads = _sorted_by(0, keys, offsets, heads)
        for row in np.flatnonzero(keys[1:] == keys[:-1])[:1]:
            raise DataError(f"{idx}: key {keys[row]} stands there twice; delete it to have it rebuilt")
        images = self._images(keys, offsets, heads["has_image"])
        keys, offsets, originals = keys[images], offsets[images], heads["label"][images].copy()
        del heads  # of ten million records it is much, and the rest needs room
        self.labels, self.class_names = self._classes(keys, originals)
        # Keys with gaps would cost as much as the offsets: such records are named by their place.
        self._first_key = int(keys[0]) if keys[-1] - keys[0] + 1 == len(keys) else None
        del keys
        self._offsets = offsets.copy()

    def _images(self, keys: np.ndarray, offsets: np.ndarray, has_image: np.ndarray) -> slice:
        header = [] if keys[0] or has_image[0] else self._file.read_labels(int(offsets[0]), 0)[0]
        if len(header) < 2:
            return slice(None)
        edge = float(header[0])
        if not (edge.is_integer() and edge >= 2):
            raise self._file.error(0, offsets[0], f"the header says last image key + 1 = {edge}; fetch it again")
        rounding = int(np.spacing(np.float32(edge))) if edge >= EXACT_FLOAT32 else 0
        images = (keys >= 1) & ((keys < edge - rounding) | (keys < edge + rounding) & has_image)
        count, last = np.count_nonzero(images), keys[images].max(initial=0)
        if count != last or abs(count + 1 - edge) > rounding:
            raise DataError(f"{self._file.path}: the header promises images 1..{edge - 1:.0f}, {count} of them are "
                            f"there; file or .idx is incomplete: fetch both again")
        return slice(1, count + 1)  # sorted, distinct, as many as the last one's key: just these

    def _classes(self, keys: np.ndarray, originals: np.ndarray) -> tuple[np.ndarray, list[str]]:
        sound = (originals >= 0) & (originals <= EXACT_FLOAT32) & (np.floor(originals) == originals)
        for row in np.flatnonzero(~sound)[:1]:
            raise DataError(f"{self._file.path}: record {keys[row]}: label {originals[row]} is not a whole number from 0 "
                            f"to {EXACT_FLOAT32}; the file is damaged, or no training set: fetch it again")
        originals = originals.astype(np.int32)
        present = np.zeros(originals.max() + 1, bool)
        present[originals] = True
        distinct = np.flatnonzero(present)
        stated = self._file.path.with_name("property")
        if self._file.path.name == "train.rec" and stated.is_file():
            classes = read_file(stated).strip().split(b",")[0]
            if not classes.isdigit() or int(classes[:20]) != len(distinct):
                raise DataError(f"{stated}: says {classes[:40]!r} classes (of classes,height,width), train.rec "
                                f"holds {len(distinct)}; fetch the set again, or correct the file")
        return (np.cumsum(present) - 1)[originals], [str(label) for label in distinct.tolist()]

    def __len__(self) -> int:
        return len(self.labels)

    def encoded(self, index: int) -> bytes:
        """The image as stored (JPEG or PNG bytes)."""
        return self._file.read_labels(int(self._offsets[index]), self._key(index))[2]

    def name(self, index: int) -> str:
        """File and key of an image, for messages; its byte where the set's keys have gaps."""
        key = self._key(index)
        return f"{self._file.path}: record {f'at byte {self._offsets[index]}' if key is None else key}"

    def _key(self, index: int) -> int | None:
        return None if self._first_key is None else self._first_key + range(len(self))[index]


def _find_rec(path: Path) -> Path:
    if not path.is_dir():
        return path
    recs = [path / "train.rec"] if (path / "train.rec").is_file() else sorted(path.glob("[!.]*.rec"))
    if len(recs) != 1:
        found = ", ".join(rec.name for rec in recs) or "none"
        raise DataError(f"{path}: expected train.rec or one *.rec, found {found}")
    return recs[0]


def _sorted_by(column: int, *columns: np.ndarray) -> tuple[np.ndarray, ...]:
    """The columns, rows in ascending order of one; as they are where they have it already."""
    values = columns[column]
    if (values[1:] >= values[:-1]).all():
        return columns
    order = np.argsort(values, kind="stable")
    return tuple(values[order] for values in columns)
