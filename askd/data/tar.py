"""One tar archive, memory-mapped: its members one after the other, each of them checked."""
from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from askd.data.mapped import MappedFile
from askd.errors import DataError

BLOCK = 512
_LONGEST_NAME = 1 << 16
_NOT_ZERO = re.compile(rb"[^\0]")
_OCTAL = re.compile(rb" *([0-7]*)[ \0]*")
_REGULAR, _FOLDER, _LONG_NAME, _PAX, _GLOBAL_PAX = (b"0", b"\0", b"7"), b"5", b"L", b"x", b"g"


class Member(NamedTuple):
    """A regular file in the archive: bytes `start` to `end`; `at` is where its first header begins."""

    name: str
    at: int
    start: int
    end: int


class TarArchive(MappedFile):
    """A plain tar in ustar, GNU or pax format.

    DataError naming archive, member and remedy: compressed, cut short or damaged archives, links and devices, names
    that are absolute, lead out by `..`, or are not UTF-8.
    """

    def members(self) -> Iterator[Member]:
        """The regular files in the archive's order; folders are passed over."""
        if self.bytes[:3] in (b"\x1f\x8b\x08", b"BZh", b"\xfd7z") or self.bytes[:4] == b"\x28\xb5\x2f\xfd":
            raise DataError(f"{self.path}: is compressed, so images in it cannot be reached one by one; unpack it to a "
                            f"plain .tar (images are compressed already)")
        at = 0
        while self._block(at).strip(b"\0"):
            member, kind = self._member(at)
            if kind != _FOLDER:
                yield member
            at = member.end + -member.end % BLOCK
        stray = _NOT_ZERO.search(self.bytes, at)
        if stray:
            raise self._error(stray.start(), "bytes follow the archive's end; it is damaged, or several archives were "
                                             "joined: fetch it again, or pack it again as one")

    def member(self, at: int) -> Member:
        """The member whose first header begins at byte `at`."""
        return self._member(at)[0]

    def _error(self, at: int, problem: str) -> DataError:
        return DataError(f"{self.path}: at byte {at}: {problem}")

    def _block(self, at: int) -> bytes:
        block = self.bytes[at:at + BLOCK]
        if len(block) < BLOCK:
            raise self._error(at, "the archive ends without an end mark; it is cut short: fetch it again")
        return block

    def _member(self, first: int) -> tuple[Member, bytes]:
        at, stated = first, {}
        while True:
            header = self._block(at)
            if self._number(header, 148, 8, at) != sum(header) - sum(header[148:156]) + 8 * 32:
                raise self._error(at, "the header's checksum is wrong; the archive is damaged: fetch it again")
            kind, start = header[156:157], at + BLOCK
            size = 0 if kind == _FOLDER else int(stated.get(b"size", b"0")) or self._number(header, 124, 12, at)
            if start + size > self.size:
                raise self._error(at, f"a member of {size} bytes runs past the archive's end at {self.size}; it is cut "
                                      f"short: fetch it again")
            if kind not in (_LONG_NAME, _PAX, _GLOBAL_PAX):
                break
            if size > _LONGEST_NAME:
                raise self._error(at, f"a header of {size} bytes is more than any name needs; pack the images again")
            text = self.bytes[start:start + size]
            if kind == _LONG_NAME:
                stated[b"path"] = text.split(b"\0")[0]
            elif kind == _PAX:
                stated |= self._pax(text, at)
            at = start + size + -size % BLOCK
        name = self._name(stated.get(b"path") or _short_name(header), at)
        if kind not in (*_REGULAR, _FOLDER):
            raise self._error(at, f"{name} is a link, a device or the like (type {kind!r}), expected files; pack the files "
                                  f"themselves (tar --dereference --hard-dereference)")
        return Member(name, first, start, start + size), kind

    def _name(self, name: bytes, at: int) -> str:
        try:
            text = name.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._error(at, f"the name {name!r} is not UTF-8; pack the images again under other names") from error
        if not text or text.startswith("/") or ".." in text.split("/") or min(text) < " ":
            raise self._error(at, f"the name {text[:80]!r} is empty, absolute, leads out of the archive or holds control "
                                  f"characters; do not trust it, or pack the images again under plain relative names")
        return text

    def _number(self, header: bytes, start: int, length: int, at: int) -> int:
        field = header[start:start + length]
        if field[0] == 0x80:  # GNU's way to write sizes of 8 GiB and more
            return int.from_bytes(field[1:], "big")
        octal = _OCTAL.fullmatch(field)
        if not octal:
            raise self._error(at, f"{field!r} is not the number that a tar header has there; the file is damaged, or not a "
                                  f"tar: fetch it again")
        return int(octal[1] or b"0", 8)

    def _pax(self, text: bytes, at: int) -> dict[bytes, bytes]:
        """Records of `length key=value\\n`; the length counts all of the record."""
        records, start = {}, 0
        while start < len(text):
            digits = text[start:start + 8].split(b" ")[0]
            end = start + int(digits) if digits.isdigit() else start
            key, equals, value = text[start + len(digits) + 1:end - 1].partition(b"=")
            if not equals or text[end - 1:end] != b"\n" or key.startswith(b"GNU.sparse"):
                raise self._error(at, "an extended header is damaged, or of a sparse file; pack the images again")
            if key == b"size" and not (value.isdigit() and len(value) < 20):
                raise self._error(at, f"an extended header states the size {value[:40]!r}; the archive is damaged: fetch it "
                                      f"again")
            records[key] = value
            start = end
        return records


def _short_name(header: bytes) -> bytes:
    name, prefix = header[:100].split(b"\0")[0], header[345:500].split(b"\0")[0]
    return prefix + b"/" + name if prefix and header[257:263] == b"ustar\0" else name
