"""WebDataset shards as a training set: tar archives whose members of one key are a sample."""
from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import numpy as np

from askd.data.folder import LARGEST_IMAGE, READ, entries
from askd.data.lists import class_ids, is_plain
from askd.data.tar import Member, TarArchive
from askd.errors import DataError

# The package's rules: the key ends at the first dot of the file's name; __name__ holds what is no sample.
_KEY = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")
_META = re.compile(r"__[^/]*__($|/)")
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_LONGEST_LABEL = 1 << 16


class ShardSet:
    """The samples of WebDataset shards (a FaceSet), shard after shard, in each shard's order.

    `path`: a .tar, a folder of them (sorted by name) or a pattern such as `train-{000..099}.tar`. A sample is the
    successive members of one key: one image, .jpg, .jpeg or .png, and its label, text in .cls or `label` in .json; other
    members are left alone. `class_ids` says how labels become ids. Training draws at random and resumes in the middle of
    an epoch, so the archives are not streamed: one walk over their headers finds every image. DataError naming shard and
    sample: one without an image or a label, a key that comes back, and whatever `TarArchive` refuses.
    """

    labels: np.ndarray
    class_names: list[str]

    def __init__(self, path: Path | str):
        self._shards = [TarArchive(shard) for shard in find_shards(Path(path))]
        shard_numbers, starts, labels = array("i"), array("q"), []
        texts: dict[str, str] = {}  # one string per class, not per image
        for number, shard in enumerate(self._shards):
            for image, label in _samples(shard):
                shard_numbers.append(number)
                starts.append(image.at)
                labels.append(texts.setdefault(label, label))
        if not labels:
            raise DataError(f"{path}: holds no samples; expected members <key>{'|'.join(READ)} and <key>.cls or <key>.json")
        self._shard_numbers, self._starts = np.array(shard_numbers), np.array(starts)
        self.labels, self.class_names = class_ids(labels)

    def __len__(self) -> int:
        return len(self.labels)

    def encoded(self, index: int) -> bytes:
        """The image as stored."""
        shard, member = self._member(index)
        return shard.bytes[member.start:member.end]

    def name(self, index: int) -> str:
        """Shard and member of an image, for messages."""
        shard, member = self._member(index)
        return f"{shard.path}: {member.name}"

    def _member(self, index: int) -> tuple[TarArchive, Member]:
        shard = self._shards[self._shard_numbers[index]]
        return shard, shard.member(int(self._starts[index]))


def find_shards(path: Path) -> list[Path]:
    """The archives that `path` (see ShardSet) means; DataError where it means none."""
    if path.is_dir():
        shards = [path / entry.name for entry in entries(path) if entry.name.endswith((".tar", *COMPRESSED))]
    else:
        shards = expand_braces(path) if "{" in str(path) and not path.exists() else [path]
    for shard in shards:
        if shard.name.endswith(COMPRESSED):
            raise DataError(f"{shard}: is compressed, so images in it cannot be reached one by one; unpack it to a plain "
                            f".tar (images are compressed already)")
    return shards


def expand_braces(pattern: Path) -> list[Path]:
    """The paths that a pattern with braces means to WebDataset; asks the package itself, which is an extra."""
    try:
        from webdataset.shardlists import expand_urls  # brings torch; only a pattern needs it
    except ImportError as error:
        raise DataError(f"{pattern}: patterns need the package webdataset; pip install 'askd[webdataset]', or name the "
                        f"folder of the shards") from error
    return [Path(shard) for shard in expand_urls(str(pattern))]


def _samples(shard: TarArchive) -> Iterator[tuple[Member, str]]:
    """The image and the label of each sample."""
    seen: set[str] = set()
    keyed = ((match, member) for member in shard.members()
             if not _META.match(member.name) and (match := _KEY.fullmatch(member.name)))
    for key, group in groupby(keyed, lambda pair: pair[0][1]):
        if key in seen:
            raise _error(shard, key, "comes back after other samples; keep its members together, under a key of its own")
        seen.add(key)
        members: dict[str, Member] = {}
        for match, member in group:
            if members.setdefault(match[2].lower(), member) is not member:
                raise _error(shard, key, f"has {match[2].lower()} twice; pack it again with one of them")
        images = [member for suffix, member in members.items() if f".{suffix}" in READ]
        if len(images) != 1 or images[0].end - images[0].start > LARGEST_IMAGE:
            raise _error(shard, key, f"has {len(images)} images ({', '.join(READ)}), expected one of at most "
                                     f"{LARGEST_IMAGE} bytes, beside {', '.join(members)}")
        yield images[0], _label(shard, key, members)


def _label(shard: TarArchive, key: str, members: dict[str, Member]) -> str:
    suffix = "cls" if "cls" in members else "json"
    if suffix not in members:
        raise _error(shard, key, f"has no .cls and no .json, only {', '.join(members)}; pack it again with its label")
    _, _, start, end = members[suffix]
    if end - start > _LONGEST_LABEL:
        raise _error(shard, key, f"has {end - start} bytes of .{suffix}, expected at most {_LONGEST_LABEL}")
    try:
        text = shard.bytes[start:end].decode("utf-8")
        label = text if suffix == "cls" else _field(json.loads(text), "label")
    except (ValueError, RecursionError) as error:
        raise _error(shard, key, f"has a .{suffix} that cannot be read ({type(error).__name__}); pack it again") from error
    if type(label) not in (int, str) or not is_plain(str(label)):
        where = "its .cls" if suffix == "cls" else "`label` in its .json"
        raise _error(shard, key, f"has no label: {where} is {str(label)[:40]!r}, expected text or a whole number")
    return str(label).strip()


def _field(content: object, name: str) -> object:
    return content.get(name) if isinstance(content, dict) else None


def _error(shard: TarArchive, key: str, problem: str) -> DataError:
    return DataError(f"{shard.path}: sample {key} {problem}")
