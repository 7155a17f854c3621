"""MXNet RecordIO, in which MS1M, CASIA and Glint360K are shared: the format, and how to write it without mxnet.

A record is one or more parts. A part is two little-endian uint32, magic and (cflag << 29 | length), then the bytes,
padded with zeros to 4. cflag 0 is a whole record; 1, 2, 3 are the first, a middle and the last part of a payload that
was cut wherever the magic word stood at a multiple of 4 (the cut removes the word, reading puts it back).
A payload is `<IfQQ` (flag, label, id, id2), then `flag` float32 labels that replace `label`, then the encoded image.
"""
from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from askd.errors import DataError

MAGIC = 0xCED7230A
WHOLE, FIRST, MIDDLE, LAST = range(4)
MAGIC_WORD = struct.pack("<I", MAGIC)
PART = struct.Struct("<II")
HEADER = struct.Struct("<IfQQ")
MAX_LENGTH = (1 << 29) - 1
EXACT_FLOAT32 = 1 << 24  # labels and keys are stored as float32: above this, neighbours are the same number


def _frame(payload: bytes) -> bytes:
    parts, start, found = [], 0, payload.find(MAGIC_WORD)
    while found >= 0:
        aligned = found % 4 == 0
        if aligned:
            parts.append(payload[start:found])
            start = found + 4
        found = payload.find(MAGIC_WORD, start if aligned else found + 1)
    parts.append(payload[start:])
    if max(map(len, parts)) > MAX_LENGTH:
        raise DataError(f"a record holds at most {MAX_LENGTH} bytes, got {len(payload)}")
    flags = [WHOLE] if len(parts) == 1 else [FIRST, *[MIDDLE] * (len(parts) - 2), LAST]
    framed = b"".join(PART.pack(MAGIC, flag << 29 | len(part)) + part for flag, part in zip(flags, parts))
    return framed + b"\0" * (-len(framed) % 4)


def _payload(label: float | Sequence[float], key: int, image: bytes) -> bytes:
    class_id = label[0] if isinstance(label, Sequence) else label
    if np.float32(class_id) != class_id:
        raise DataError(f"record {key}: label {class_id} has no exact float32; class ids go up to {EXACT_FLOAT32}")
    if isinstance(label, Sequence):
        return HEADER.pack(len(label), 0.0, key, 0) + struct.pack(f"<{len(label)}f", *label) + image
    return HEADER.pack(0, label, key, 0) + image


class RecordWriter:
    """Writes `path_rec` and the `.idx` beside it; both appear only when the `with` block ends without an error."""

    def __init__(self, path_rec: Path | str):
        self.path = Path(path_rec)
        if self.path.suffix != ".rec":
            raise DataError(f"{self.path}: a RecordIO file is named *.rec")
        self._offsets: dict[int, int] = {}

    def __enter__(self) -> RecordWriter:
        self._unfinished_rec = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        self._unfinished_idx = self._unfinished_rec.with_suffix(".idx")
        self._rec = open(self._unfinished_rec, "wb")
        return self

    def write(self, key: int, payload: bytes) -> None:
        """Append one record; `key` (>= 0) may be used once."""
        if key < 0 or key in self._offsets:
            raise DataError(f"{self.path}: key {key} is negative or there already; keys are unique and >= 0")
        self._offsets[key] = self._rec.tell()
        self._rec.write(_frame(payload))

    def write_image(self, key: int, label: float | Sequence[float], image_bytes: bytes) -> None:
        """Append one encoded image with its label, or with several (the first one is the class id)."""
        self.write(key, _payload(label, key, image_bytes))

    def rewrite_labels(self, key: int, labels: Sequence[float]) -> None:
        """Put other labels into an image-less record written before with as many of them."""
        self._rec.seek(self._offsets[key])
        self._rec.write(_frame(_payload(labels, key, b"")))
        self._rec.seek(0, os.SEEK_END)

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        try:
            self._rec.close()
            if not error:
                self._publish()
        finally:
            self._unfinished_rec.unlink(missing_ok=True)
            self._unfinished_idx.unlink(missing_ok=True)

    def _publish(self) -> None:
        index = "".join(f"{key}\t{offset}\n" for key, offset in self._offsets.items())
        self._unfinished_idx.write_text(index, "ascii")
        idx = self.path.with_suffix(".idx")
        idx.unlink(missing_ok=True)  # a record file without an index can be read, one with another file's index cannot
        os.replace(self._unfinished_rec, self.path)
        os.replace(self._unfinished_idx, idx)


def write_recordio(folder: Path | str, images: Iterable[tuple[int, bytes]], classes: int) -> None:
    """Write an InsightFace training set: `train.rec`, `train.idx` and `property` in `folder`.

    `images` yields (class id, encoded 112x112 image), grouped by class, every one of the ids 0..classes-1 present.
    Record 0 is InsightFace's header (last image key + 1, last identity key + 1); images have the keys from 1 on; after
    them comes one record per identity with its (first key, last key + 1), in the order the identities came.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    first_keys: dict[int, int] = {}
    key, previous = 1, None
    with RecordWriter(folder / "train.rec") as writer:
        # The header goes first though it is known last: a file that was cut short then still says what it lacks.
        writer.write_image(0, (0.0, 0.0), b"")
        for label, image in images:
            if not 0 <= label < classes:
                raise DataError(f"{writer.path}: image {key} has class id {label}, expected 0..{classes - 1}")
            if label != previous and label in first_keys:
                raise DataError(f"{writer.path}: class id {label} comes back at image {key}; group images by class")
            if key >= EXACT_FLOAT32 - classes:
                raise DataError(f"{writer.path}: the header can count {EXACT_FLOAT32} records; write several sets")
            first_keys.setdefault(label, key)
            writer.write_image(key, label, image)
            key, previous = key + 1, label
        if len(first_keys) != classes or not classes:
            raise DataError(f"{writer.path}: got images of {len(first_keys)} classes, expected {classes}")
        starts = [*first_keys.values(), key]
        writer.rewrite_labels(0, (key, key + classes))
        for identity, (start, end) in enumerate(zip(starts, starts[1:])):
            writer.write_image(key + identity, (start, end), b"")
        (folder / "property").unlink(missing_ok=True)  # an older set's: absent is right for either, wrong for neither
    unfinished = folder / f".property.{os.getpid()}.tmp"
    unfinished.write_text(f"{classes},112,112\n", "ascii")
    os.replace(unfinished, folder / "property")
