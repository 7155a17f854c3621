"""MXNet RecordIO, in which MS1M, CASIA and Glint360K are shared: write it, and read it memory-mapped, without mxnet.

A record is one or more parts. A part is two little-endian uint32, magic and (cflag << 29 | length), then the bytes,
padded with zeros to 4. cflag 0 is a whole record; 1, 2, 3 are the first, a middle and the last part of a payload that
was cut wherever the magic word stood at a multiple of 4 (the cut removes the word, reading puts it back).
A payload is `<IfQQ` (flag, label, id, id2), then `flag` float32 labels that replace `label`, then the encoded image.
"""
from __future__ import annotations

import mmap
import os
import struct
import warnings
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from askd.errors import DataError

MAGIC = 0xCED7230A
WHOLE, FIRST, MIDDLE, LAST = range(4)
_MAGIC_WORD = struct.pack("<I", MAGIC)
_PART = struct.Struct("<II")
_HEADER = struct.Struct("<IfQQ")
_MAX_LENGTH = (1 << 29) - 1
_EXACT_FLOAT32 = 1 << 24  # labels and keys are stored as float32: above this, neighbours are the same number
_RECORDS_AT_A_TIME = 1 << 20


def _frame(payload: bytes) -> bytes:
    parts, start, found = [], 0, payload.find(_MAGIC_WORD)
    while found >= 0:
        aligned = found % 4 == 0
        if aligned:
            parts.append(payload[start:found])
            start = found + 4
        found = payload.find(_MAGIC_WORD, start if aligned else found + 1)
    parts.append(payload[start:])
    if max(map(len, parts)) > _MAX_LENGTH:
        raise DataError(f"a record holds at most {_MAX_LENGTH} bytes, got {len(payload)}")
    flags = [WHOLE] if len(parts) == 1 else [FIRST, *[MIDDLE] * (len(parts) - 2), LAST]
    framed = b"".join(_PART.pack(MAGIC, flag << 29 | len(part)) + part for flag, part in zip(flags, parts))
    return framed + b"\0" * (-len(framed) % 4)


def _payload(label: float | Sequence[float], key: int, image: bytes) -> bytes:
    class_id = label[0] if isinstance(label, Sequence) else label
    if np.float32(class_id) != class_id:
        raise DataError(f"record {key}: label {class_id} has no exact float32; class ids go up to {_EXACT_FLOAT32}")
    if isinstance(label, Sequence):
        return _HEADER.pack(len(label), 0.0, key, 0) + struct.pack(f"<{len(label)}f", *label) + image
    return _HEADER.pack(0, label, key, 0) + image


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
            if key >= _EXACT_FLOAT32 - classes:
                raise DataError(f"{writer.path}: the header can count {_EXACT_FLOAT32} records; write several sets")
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


def _padded(end: int) -> int:
    return end + -end % 4


class _RecordFile:
    """One memory-mapped .rec; pickles as its path, so that forked and spawned workers map it themselves."""

    def __init__(self, path: Path):
        self.path = path
        try:
            with open(path, "rb") as file:
                self.size = os.fstat(file.fileno()).st_size
                self.bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if self.size else b""
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); expected a RecordIO file") from error
        if not self.size:
            raise DataError(f"{path}: is empty (0 bytes); fetch it again")

    def __getstate__(self) -> tuple[Path, int]:
        return self.path, self.size

    def __setstate__(self, state: tuple[Path, int]) -> None:
        self.__init__(state[0])
        if self.size != state[1]:
            raise DataError(f"{self.path}: changed while in use, {state[1]} bytes became {self.size}; start again")

    def error(self, key: int | str, offset: int, problem: str) -> DataError:
        return DataError(f"{self.path}: record {key} at byte {offset}: {problem}")

    def read(self, offset: int, key: int | str) -> bytes:
        """Payload of the record that starts at `offset`."""
        return _MAGIC_WORD.join(self.bytes[start:end] for start, end in self.parts(offset, key))

    def parts(self, offset: int, key: int | str) -> Iterator[tuple[int, int]]:
        """Where the bytes of each part of a record start and end."""
        at, flag, expected = offset, None, (WHOLE, FIRST)
        while flag not in (WHOLE, LAST):
            if at + _PART.size > self.size:
                raise self.error(key, offset, f"the file ends within it, at {self.size}; fetch it again")
            magic, flag_and_length = _PART.unpack_from(self.bytes, at)
            flag, length = flag_and_length >> 29, flag_and_length & _MAX_LENGTH
            if magic != MAGIC:
                raise self.error(key, offset, f"0x{magic:08x} at byte {at} is not the magic word 0x{MAGIC:08x}; "
                                              f"the file is damaged, or its .idx is another's: fetch both again")
            if flag not in expected:
                raise self.error(key, offset, f"the part at byte {at} has cflag {flag}, expected {expected}; "
                                              f"the file is damaged, or its .idx is another's: fetch both again")
            start, at = at + _PART.size, at + _PART.size + length
            if _padded(at) > self.size:
                raise self.error(key, offset, f"its {length} bytes run past the file's end at {self.size}; "
                                              f"the file is cut short or damaged: fetch it again")
            yield start, at
            at, expected = _padded(at), (MIDDLE, LAST)

    def end(self, offset: int, key: int | str) -> int:
        """Where the record ends, and so where the next one starts."""
        *_, (_, end) = self.parts(offset, key)
        return _padded(end)

    def offsets(self) -> np.ndarray:
        """Where every record starts, found by walking from one to the next."""
        offsets, at, last = array("q"), 0, self.size - _PART.size
        while at < self.size:
            offsets.append(at)
            magic, length = _PART.unpack_from(self.bytes, at) if at <= last else (0, 0)
            end = at + _PART.size + _padded(length)
            plain = magic == MAGIC and length <= _MAX_LENGTH and end <= self.size  # cflag 0
            at = end if plain else self.end(at, f"number {len(offsets) - 1}")
        return np.array(offsets, np.int64)

    def labels(self, payload: bytes, offset: int, key: int | str) -> tuple[np.ndarray, int, bytes]:
        """A payload's labels, its id and its image."""
        if len(payload) < _HEADER.size:
            raise self.error(key, offset, f"{len(payload)} bytes are too few for the {_HEADER.size}-byte header")
        count, label, identifier, _ = _HEADER.unpack_from(payload)
        end = _HEADER.size + 4 * count
        if len(payload) < end:
            raise self.error(key, offset, f"{len(payload)} bytes are too few for the {count} labels it announces")
        labels = np.frombuffer(payload, "<f4", count, _HEADER.size) if count else np.array([label], "<f4")
        return labels, identifier, payload[end:]


_HEAD = np.dtype([("label", "f4"), ("id", "u8"), ("labels", "u4"), ("has_image", "?"), ("end", "i8")])


def _read_heads(file: _RecordFile, keys: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Every record's first label and extent, gathered without touching more than the start of each."""
    words = np.frombuffer(file.bytes, "<u4", file.size // 4)
    heads = np.empty(len(offsets), _HEAD)
    misplaced = (offsets < 0) | (offsets % 4 != 0) | (offsets > file.size - _PART.size)
    for row in np.flatnonzero(misplaced)[:1]:
        raise file.error(keys[row], offsets[row], f"no record can start here, the file has {file.size} bytes; it or "
                                                  f"its .idx is cut short or damaged: fetch both again")
    for start in range(0, len(offsets), _RECORDS_AT_A_TIME):
        rows = slice(start, start + _RECORDS_AT_A_TIME)
        at = offsets[rows] >> 2
        flag, length = words[at + 1] >> 29, (words[at + 1] & _MAX_LENGTH).astype(np.int64)
        end = offsets[rows] + _PART.size + (length + 3 & ~3)
        plain = (words[at] == MAGIC) & (flag == WHOLE) & (end <= file.size) & (length >= _HEADER.size)
        body = np.where(plain, at, 0) + 2
        count = np.where(plain, words[np.minimum(body, len(words) - 1)], 0).astype(np.int64)
        plain &= length >= _HEADER.size + 4 * count
        body, count = body[plain], count[plain]
        part = heads[rows]
        part["label"][plain] = words[np.where(count > 0, body + 6, body + 1)].view("<f4")
        part["id"][plain] = words[body + 2].astype(np.uint64) | words[body + 3].astype(np.uint64) << 32
        part["labels"][plain] = np.maximum(count, 1)
        part["has_image"][plain] = length[plain] > _HEADER.size + 4 * count
        part["end"][plain] = end[plain]
        for row in np.flatnonzero(~plain):  # split records, and whatever is wrong
            key, offset = keys[rows][row], offsets[rows][row]
            labels, identifier, image = file.labels(file.read(offset, key), offset, key)
            part[row] = labels[0], identifier, len(labels), len(image) > 0, file.end(offset, key)
    return heads


def _read_index(path: Path) -> tuple[np.ndarray, np.ndarray]:
    text = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # numpy's word for "stopped at something that is no number"
        try:
            numbers = np.fromstring(text, np.int64, sep=" ")
        except (ValueError, DeprecationWarning):
            numbers = np.empty(0, np.int64)
    lines = text.count(b"\n") + (not text.endswith(b"\n"))
    if not text or len(numbers) != 2 * lines or numbers.min() < 0:
        raise DataError(_index_fault(path, text))
    return numbers[0::2], numbers[1::2]


def _index_fault(path: Path, text: bytes) -> str:
    remedy = "fetch it again, or delete it to have it rebuilt"
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split()
        if len(fields) != 2 or not all(field.isdigit() for field in fields):
            return f"{path}:{number}: expected key<TAB>offset, got {line[:40]!r}; {remedy}"
    return f"{path}: lists no records; {remedy}"


def _check_tiling(file: _RecordFile, keys: np.ndarray, offsets: np.ndarray, ends: np.ndarray) -> None:
    """The index must account for every byte: one that leaves out records would shorten the set silently."""
    order = np.argsort(offsets, kind="stable")
    starts = np.append(offsets[order], file.size)
    expected = np.append(0, ends[order])
    for row in np.flatnonzero(starts != expected)[:1]:
        if starts[row] < expected[row]:
            raise file.error(keys[order[row]], starts[row], f"the .idx has record {keys[order[row - 1]]} there; delete "
                                                            f"it to have it rebuilt")
        raise DataError(f"{file.path}: the .idx names no record for bytes {expected[row]} to {starts[row]}; "
                        f"fetch it again, or delete it to have it rebuilt")


def _find_rec(path: Path) -> Path:
    if not path.is_dir():
        return path
    recs = [path / "train.rec"] if (path / "train.rec").is_file() else sorted(path.glob("[!.]*.rec"))
    if len(recs) != 1:
        found = ", ".join(rec.name for rec in recs) or "none"
        raise DataError(f"{path}: expected train.rec or one *.rec, found {found}")
    return recs[0]


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
        rec = _find_rec(Path(path))
        self._file = _RecordFile(rec)
        idx = rec.with_suffix(".idx")
        if idx.is_file():
            keys, offsets = _read_index(idx)
            heads = _read_heads(self._file, keys, offsets)
            _check_tiling(self._file, keys, offsets, heads["end"])
        else:
            offsets = self._file.offsets()
            keys = np.arange(len(offsets))
            heads = _read_heads(self._file, keys, offsets)
            ids = heads["id"].astype(np.int64)
            keys = ids if len(np.unique(ids)) == len(ids) else keys  # writers put the key into the id, some leave it 0
        order = np.argsort(keys, kind="stable")
        keys, offsets, heads = keys[order], offsets[order], heads[order]
        for row in np.flatnonzero(keys[1:] == keys[:-1])[:1]:
            raise DataError(f"{idx}: key {keys[row]} stands there twice; delete it to have it rebuilt")
        images = self._images(keys, offsets, heads)
        self._keys, self._offsets = _compact(keys[images]), offsets[images]
        self.labels, self.class_names = self._classes(heads["label"][images])

    def _images(self, keys: np.ndarray, offsets: np.ndarray, heads: np.ndarray) -> np.ndarray:
        has_header = keys[0] == 0 and heads["labels"][0] > 1 and not heads["has_image"][0]
        if not has_header:
            return np.ones(len(keys), bool)
        edge = float(heads["label"][0])
        if not (edge.is_integer() and edge >= 2):
            raise self._file.error(0, offsets[0], f"the header says last image key + 1 = {edge}; fetch it again")
        rounding = int(np.spacing(np.float32(edge))) if edge >= _EXACT_FLOAT32 else 0
        images = (keys >= 1) & ((keys < edge - rounding) | (keys < edge + rounding) & heads["has_image"])
        count, last = np.count_nonzero(images), keys[images].max(initial=0)
        if count != last or abs(count + 1 - edge) > rounding:
            raise DataError(f"{self._file.path}: the header promises images 1..{edge - 1:.0f}, {count} of them are "
                            f"there; file or .idx is incomplete: fetch both again")
        return images

    def _classes(self, originals: np.ndarray) -> tuple[np.ndarray, list[str]]:
        with np.errstate(invalid="ignore"):
            sound = (originals >= 0) & (originals <= _EXACT_FLOAT32) & (np.floor(originals) == originals)
        for row in np.flatnonzero(~sound)[:1]:
            raise DataError(f"{self.name(row)}: label {originals[row]} is not a whole number from 0 to "
                            f"{_EXACT_FLOAT32}; the file is damaged, or no training set: fetch it again")
        distinct, labels = np.unique(originals, return_inverse=True)
        stated = self._file.path.with_name("property")
        if self._file.path.name == "train.rec" and stated.is_file():
            fields = stated.read_bytes().strip().split(b",")
            if not fields[0].isdigit() or int(fields[0]) != len(distinct):
                raise DataError(f"{stated}: says {fields[0][:40]!r} classes (of classes,height,width), train.rec "
                                f"holds {len(distinct)}; fetch the set again, or correct the file")
        return labels.astype(np.int64, copy=False), [str(int(label)) for label in distinct]

    def __len__(self) -> int:
        return len(self.labels)

    def encoded(self, index: int) -> bytes:
        """The image as stored (JPEG or PNG bytes)."""
        key, offset = self._keys[index], int(self._offsets[index])
        return self._file.labels(self._file.read(offset, key), offset, key)[2]

    def name(self, index: int) -> str:
        """File and key of an image, for messages."""
        return f"{self._file.path}: record {self._keys[index]}"


def _compact(keys: np.ndarray) -> Sequence[int]:
    first, last = int(keys[0]), int(keys[-1])
    return range(first, last + 1) if last - first + 1 == len(keys) else keys
