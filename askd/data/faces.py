"""What a set of labelled faces is, whatever it is stored as, and which people of it a run uses."""
from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from askd.data.folder import READ, FolderSet, entries, is_folder
from askd.data.lists import SUFFIXES, ListSet
from askd.data.recordio import MAGIC_WORD
from askd.data.records import RecordSet
from askd.data.shards import COMPRESSED, ShardSet, find_shards
from askd.data.tar import BLOCK
from askd.errors import DataError


class FaceSet(Protocol):
    """Encoded faces with class ids; cheap to pickle, so that a loader's workers can each hold one.

    `labels` int64 (N,), ids 0..classes-1, every one of them present; `class_names` the identities in id order.
    """

    labels: np.ndarray
    class_names: list[str]

    def __len__(self) -> int:
        """Number of images, N."""

    def encoded(self, index: int) -> bytes:
        """An image as stored (JPEG or PNG bytes)."""

    def name(self, index: int) -> str:
        """File or record of an image, for messages."""


class Subset:
    """The images of some identities of another FaceSet, class `class_ids[i]` of which becomes class i here.

    Images keep the order they have in `base`. Raises DataError for an id that `base` lacks or that is given twice.
    """

    def __init__(self, base: FaceSet, class_ids: Sequence[int] | np.ndarray):
        ids = np.asarray(class_ids, np.int64)
        classes = len(base.class_names)
        if not len(ids) or ids.min() < 0 or ids.max() >= classes or len(np.unique(ids)) != len(ids):
            raise DataError(f"a subset needs distinct class ids from 0 to {classes - 1}, got {len(ids)}: {ids[:8]}")
        relabelled = np.full(classes, -1)
        relabelled[ids] = np.arange(len(ids))
        self.base = base
        self.class_names = [base.class_names[i] for i in ids]
        self.indices = np.flatnonzero(relabelled[base.labels] >= 0)
        self.labels = relabelled[base.labels[self.indices]]

    def __len__(self) -> int:
        return len(self.labels)

    def encoded(self, index: int) -> bytes:
        """See FaceSet."""
        return self.base.encoded(int(self.indices[index]))

    def name(self, index: int) -> str:
        """See FaceSet."""
        return self.base.name(int(self.indices[index]))


def open_faces(path: Path | str, people: Sequence[str] | None = None, min_images: int = 1) -> FaceSet:
    """Open a training set, recognised by its content: RecordIO, identity folders, WebDataset shards or an image list.

    `people` keeps only the identities of these names, `min_images` only those with as many images. Raises DataError
    that says what was looked for, and where.
    """
    path = Path(path)
    if path.is_dir():
        visible = entries(path)
        if any(entry.name.endswith(".rec") for entry in visible):
            return _restricted(RecordSet(path), path, people, min_images)
        if any(is_folder(entry) for entry in visible):
            return FolderSet(path, people, min_images)
        if find_shards(path):
            return _restricted(ShardSet(path), path, people, min_images)
    elif path.is_file():
        opener = _file_opener(path)
        if opener is not None:
            return _restricted(opener(path), path, people, min_images)
    elif "{" in str(path):
        return _restricted(ShardSet(path), path, people, min_images)
    state = "holds none" if path.is_dir() else "is none" if path.exists() else "does not exist"
    raise DataError(f"{path}: {state}; looked for {path / 'train.rec'} (with train.idx and property), "
                    f"{path}/<identity>/*{'|*'.join(READ)}, {path}/*.tar (WebDataset), or a file that is a .rec, a .tar or a "
                    f"list of images ({', '.join(SUFFIXES)}); put the set there or point data.path at it")


def _file_opener(path: Path) -> type[FaceSet] | None:
    try:
        with open(path, "rb") as file:
            start = file.read(BLOCK)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); the set needs it") from error
    if start.startswith(MAGIC_WORD) or path.suffix == ".rec":
        return RecordSet
    if start[257:262] == b"ustar" or path.name.endswith((".tar", *COMPRESSED)):
        return ShardSet
    return ListSet if path.suffix.lower() in SUFFIXES else None


def split_by_hash(class_names: Sequence[str], fraction: float, salt: str = "askd") -> tuple[np.ndarray, np.ndarray]:
    """Class ids (kept, held out), int64, ascending: an identity is held out if its name's hash falls in `fraction`.

    The choice depends on `salt` and the name alone: neither on the machine nor on who else is in the set. About
    `fraction` (0 <= fraction < 1) of the people are held out. Raises DataError where no one is, or no one is kept.
    """
    if not 0 <= fraction < 1:
        raise DataError(f"the fraction of people held out must be at least 0 and less than 1, got {fraction}")
    held = np.array([_position(f"{salt}:{name}") < fraction for name in class_names], bool)
    if held.all() or fraction and not held.any():
        raise DataError(f"holding out {fraction} of {len(class_names)} people by hash keeps {np.count_nonzero(~held)}, "
                        f"holds out {np.count_nonzero(held)}; use more people or another fraction")
    return np.flatnonzero(~held), np.flatnonzero(held)


def _position(text: str) -> float:
    """Where a text's SHA-256 lies between 0 and 1."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def _restricted(faces: FaceSet, path: Path, people: Sequence[str] | None, min_images: int) -> FaceSet:
    names = set(faces.class_names if people is None else people)
    missing = sorted(names - set(faces.class_names))
    if missing:
        raise DataError(f"{path}: lacks {len(missing)} of the {len(names)} people asked for, {', '.join(missing[:3])} "
                        f"among them; its identities are {', '.join(faces.class_names[:3])}, ...")
    counts = np.bincount(faces.labels, minlength=len(faces.class_names))
    kept = [i for i, name in enumerate(faces.class_names) if name in names and counts[i] >= min_images]
    if not kept:
        raise DataError(f"{path}: none of {len(names)} identities has {min_images} or more images; lower min_images")
    return faces if len(kept) == len(faces.class_names) else Subset(faces, kept)
