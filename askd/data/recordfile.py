"""One RecordIO file, memory-mapped: its records, its index, and what the head of every record says."""
from __future__ import annotations

import warnings
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from askd.data.mapped import MappedFile
from askd.data.recordio import FIRST, HEADER, LAST, MAGIC, MAGIC_WORD, MAX_LENGTH, MIDDLE, PART, WHOLE
from askd.errors import DataError

HEAD = np.dtype([("label", "<f4"), ("has_image", "?"), ("id", "<i8")])
_RECORDS_AT_A_TIME = 1 << 18
_INDEX_BYTES_AT_A_TIME = 1 << 23
_REBUILD = "fetch it again, or delete it to have it rebuilt"


class RecordFile(MappedFile):
    """A memory-mapped .rec."""

    def error(self, key: int | str | None, offset: int, problem: str) -> DataError:
        record = "record" if key is None else f"record {key}"
        return DataError(f"{self.path}: {record} at byte {offset}: {problem}")

    def read(self, offset: int, key: int | str | None) -> bytes:
        """Payload of the record that starts at `offset`."""
        return MAGIC_WORD.join(self.bytes[start:end] for start, end in self._parts(offset, key))

    def read_labels(self, offset: int, key: int | str | None) -> tuple[np.ndarray, int, bytes]:
        """A record's labels, its id and its image."""
        payload = self.read(offset, key)
        if len(payload) < HEADER.size:
            raise self.error(key, offset, f"{len(payload)} bytes are too few for the {HEADER.size}-byte header; "
                                          f"the file is damaged, or no set of images: fetch it again")
        count, label, identifier, _ = HEADER.unpack_from(payload)
        end = HEADER.size + 4 * count
        if len(payload) < end:
            raise self.error(key, offset, f"{len(payload)} bytes are too few for the {count} labels it announces; "
                                          f"the file is damaged, or no set of images: fetch it again")
        labels = np.frombuffer(payload, "<f4", count, HEADER.size) if count else np.array([label], "<f4")
        return labels, identifier, payload[end:]

    def offsets(self) -> np.ndarray:
        """Where every record starts, found by walking from one to the next."""
        offsets, at, last = array("q"), 0, self.size - PART.size
        data, size, unpack_from, append = self.bytes, self.size, PART.unpack_from, offsets.append
        while at < size:
            append(at)
            magic, length = unpack_from(data, at) if at <= last else (0, 0)
            end = at + 11 + length & ~3  # the 8 of a part's head, and the padding
            plain = magic == MAGIC and length <= MAX_LENGTH and end <= size  # cflag 0
            at = end if plain else self._end(at, f"number {len(offsets) - 1}")
        return np.frombuffer(offsets, np.int64)

    def heads(self, keys: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """HEAD (N,) of the records at ascending `offsets`, gathered without touching more than the start of each.

        Together they must account for every byte: an index that leaves out records would shorten the set silently.
        """
        heads = np.empty(len(offsets), HEAD)
        misplaced = (offsets < 0) | (offsets % 4 != 0) | (offsets > self.size - PART.size)
        for row in np.flatnonzero(misplaced)[:1]:
            raise self.error(keys[row], offsets[row], f"no record can start here, the file has {self.size} bytes; it or "
                                                      f"its .idx is cut short or damaged: fetch both again")
        expected = 0
        for start in range(0, len(offsets), _RECORDS_AT_A_TIME):
            rows = slice(start, start + _RECORDS_AT_A_TIME)
            ends = self._read_heads(keys[rows], offsets[rows], heads[rows])
            self._check_tiling(keys[rows], offsets[rows], np.append(expected, ends[:-1]))
            expected = ends[-1]
        if expected < self.size:
            raise self._unnamed(expected, self.size)
        return heads

    def _parts(self, offset: int, key: int | str | None) -> Iterator[tuple[int, int]]:
        """Where the bytes of each part of a record start and end."""
        at, flag, expected = offset, None, (WHOLE, FIRST)
        while flag not in (WHOLE, LAST):
            if at + PART.size > self.size:
                raise self.error(key, offset, f"the file ends within it, at {self.size}; fetch it again")
            magic, flag_and_length = PART.unpack_from(self.bytes, at)
            flag, length = flag_and_length >> 29, flag_and_length & MAX_LENGTH
            if magic != MAGIC:
                raise self.error(key, offset, f"0x{magic:08x} at byte {at} is not the magic word 0x{MAGIC:08x}; "
                                              f"the file is damaged, or its .idx is another's: fetch both again")
            if flag not in expected:
                raise self.error(key, offset, f"the part at byte {at} has cflag {flag}, expected {expected}; "
                                              f"the file is damaged, or its .idx is another's: fetch both again")
            start, at = at + PART.size, at + PART.size + length
            if _padded(at) > self.size:
                raise self.error(key, offset, f"its {length} bytes run past the file's end at {self.size}; "
                                              f"the file is cut short or damaged: fetch it again")
            yield start, at
            at, expected = _padded(at), (MIDDLE, LAST)

    def _end(self, offset: int, key: int | str | None) -> int:
        """Where the record ends, and so where the next one starts."""
        *_, (_, end) = self._parts(offset, key)
        return _padded(end)

    def _read_heads(self, keys: np.ndarray, offsets: np.ndarray, heads: np.ndarray) -> np.ndarray:
        """Fill `heads`; where each record ends."""
        words = np.frombuffer(self.bytes, "<u4", self.size // 4)
        at = offsets >> 2
        flag, length = words[at + 1] >> 29, (words[at + 1] & MAX_LENGTH).astype(np.int64)
        end = offsets + PART.size + (length + 3 & ~3)
        plain = (words[at] == MAGIC) & (flag == WHOLE) & (end <= self.size) & (length >= HEADER.size)
        body = np.where(plain, at, 0) + 2
        count = np.where(plain, words[np.minimum(body, len(words) - 1)], 0).astype(np.int64)
        plain &= length >= HEADER.size + 4 * count
        body, count = body[plain], count[plain]
        heads["label"][plain] = words[np.where(count > 0, body + 6, body + 1)].view("<f4")
        heads["id"][plain] = (words[body + 2] | words[body + 3].astype(np.uint64) << 32).view(np.int64)
        heads["has_image"][plain] = length[plain] > HEADER.size + 4 * count
        for row in np.flatnonzero(~plain):  # split records, and whatever is wrong
            labels, identifier, image = self.read_labels(int(offsets[row]), keys[row])
            heads[row] = labels[0], len(image) > 0, np.uint64(identifier).astype(np.int64)
            end[row] = self._end(int(offsets[row]), keys[row])
        return end

    def _check_tiling(self, keys: np.ndarray, starts: np.ndarray, expected: np.ndarray) -> None:
        for row in np.flatnonzero(starts != expected)[:1]:
            if starts[row] > expected[row]:
                raise self._unnamed(expected[row], starts[row])
            raise self.error(keys[row], starts[row], "the .idx has another record there; delete it to have it rebuilt")

    def _unnamed(self, start: int, end: int) -> DataError:
        return DataError(f"{self.path}: the .idx names no record for bytes {start} to {end}; {_REBUILD}")


def read_index(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Keys and offsets, int64 (N,) both, in the order of a .idx (lines of key<TAB>offset); DataError with the line."""
    keys, offsets, line = [], [], 1
    try:
        with open(path, "rb") as file:
            while block := file.read(_INDEX_BYTES_AT_A_TIME) + file.readline():
                numbers = _numbers(block)
                lines = block.count(b"\n") + (not block.endswith(b"\n"))
                if len(numbers) != 2 * lines or numbers.min() < 0:
                    raise DataError(_index_fault(path, block, line))
                keys.append(numbers[0::2].copy())
                offsets.append(numbers[1::2].copy())
                line += lines
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); delete it to have it rebuilt") from error
    if not keys:
        raise DataError(f"{path}: lists no records; {_REBUILD}")
    joined = np.concatenate(keys)
    keys.clear()
    return joined, np.concatenate(offsets)


def _numbers(text: bytes) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # numpy's word for "stopped at something that is no number"
        try:
            return np.fromstring(text, np.int64, sep=" ")
        except (ValueError, DeprecationWarning):
            return np.empty(0, np.int64)


def _index_fault(path: Path, block: bytes, first_line: int) -> str:
    for number, line in enumerate(block.splitlines(), first_line):
        fields = line.split()
        if len(fields) != 2 or not all(field.isdigit() for field in fields):
            return f"{path}:{number}: expected key<TAB>offset, got {line[:40]!r}; {_REBUILD}"
    return f"{path}: expected lines of key<TAB>offset; {_REBUILD}"


def _padded(end: int) -> int:
    return end + -end % 4
