"""Dataset cards (datasets/*.yaml): what a dataset is, which files it consists of, and how to open them."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Optional

import numpy as np
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from askd.data.demo import Render, render_dataset
from askd.data.faces import FaceSet, open_faces
from askd.data.folder import read_people
from askd.data.pairs import PairSet, all_pairs, read_bin, read_lfw_pairs
from askd.errors import DataError
from askd.resources import find_resource

SetFormat = Enum("SetFormat", "bin lfw_pairs all_pairs")

# (needed, allowed besides) keys of a verification set
_SET_KEYS = {
    SetFormat.bin: ({"file"}, {"identities"}),
    SetFormat.lfw_pairs: ({"images", "pairs"}, set()),
    SetFormat.all_pairs: ({"images"}, {"people"}),
}


@dataclass
class TrainingFiles:
    """Where the training faces lie under the dataset's folder."""

    images: str = "."
    """Folder that holds train.rec, or one folder of images per identity."""
    people: Optional[str] = None
    """List of the people to train on, in LFW's format; null: everybody."""


@dataclass
class VerificationFiles:
    """Where the pairs of one verification set lie under the dataset's folder."""

    format: SetFormat = MISSING
    """bin (InsightFace), lfw_pairs (LFW's View 1 or 2), all_pairs (every pair of an identity folder's images)."""
    file: Optional[str] = None
    """bin: the file."""
    identities: Optional[str] = None
    """bin: one identity per line for each image of the file, in its order (two images a pair)."""
    images: Optional[str] = None
    """lfw_pairs, all_pairs: the identity folders."""
    pairs: Optional[str] = None
    """lfw_pairs: the protocol file."""
    people: Optional[str] = None
    """all_pairs: list of the people to compare, in LFW's format; null: everybody."""

    def paths(self) -> list[str]:
        """The files and folders this set is read from."""
        return [path for path in (self.images, self.file, self.identities, self.pairs, self.people) if path is not None]


@dataclass
class Card:
    """One dataset. Paths are relative to its folder: datasets/<name>, unless the recipe's data.path says otherwise."""

    name: str = MISSING
    title: str = MISSING
    identities: Optional[int] = None
    """As published; null where no source states it."""
    images: Optional[int] = None
    """As published; null where no source states it."""
    format: str = MISSING
    """In words: which files in which format."""
    expects: list[str] = field(default_factory=list)
    """Files and folders (`x/`) without which the dataset is not there."""
    described: str = MISSING
    """Paper or page that describes it."""
    terms: str = MISSING
    """Who may use it, for what."""
    training: Optional[TrainingFiles] = None
    """null: for evaluation only."""
    sets: dict[str, VerificationFiles] = field(default_factory=dict)
    """Verification sets that come with it."""
    render: Optional[Render] = None
    """Our own renderer makes this dataset, so."""

    def prepare(self, path: str | None, workers: int, progress: Callable[[int, int], None] | None = None) -> None:
        """Render the dataset if the card says so and its folder is absent or of other parameters; otherwise do nothing.

        workers >= 1 processes. progress(done, total): images. DataError where `path` holds something else.
        """
        if self.render is not None:
            render_dataset(self._folder(path), self.render, workers=workers, progress=progress)

    def locate(self, path: str | None = None) -> Path:
        """The folder: `path`, or datasets/<name> under the current one; DataError where an expected file is missing."""
        folder = self._folder(path)
        self._require(folder, self.expects, "")
        return folder

    def training_faces(self, path: str | None = None, min_images: int = 1) -> FaceSet:
        """The faces to train on, of people with at least `min_images` images; DataError for an evaluation-only set."""
        if self.training is None:
            raise DataError(f"{self.name} ({self.title}) is for evaluation only; name a training set in data.set")
        folder = self.locate(path)
        files = self.training
        self._require(folder, [path for path in (files.images, files.people) if path is not None], " to train on")
        return open_faces(folder / files.images, people=_people(folder, files.people), min_images=min_images)

    def verification(self, set_name: str, path: str | None = None) -> PairSet:
        """One of the card's verification sets; DataError for an unknown one, or where one of its files is missing."""
        if set_name not in self.sets:
            raise DataError(f"{self.name} has no verification set {set_name!r}; {_choices(set_name, self.sets)}")
        files, folder = self.sets[set_name], self._folder(path)
        self._require(folder, files.paths(), f" for set {set_name}")
        if files.format is SetFormat.bin:
            pairs = read_bin(folder / files.file)
            if files.identities is not None:
                pairs = replace(pairs, identity=_read_identities(folder / files.identities, pairs))
        elif files.format is SetFormat.lfw_pairs:
            pairs = read_lfw_pairs(folder / files.images, folder / files.pairs)
        else:
            pairs = all_pairs(open_faces(folder / files.images, people=_people(folder, files.people)), set_name)
        return replace(pairs, name=set_name)

    def _folder(self, path: str | None) -> Path:
        return Path(path).expanduser() if path is not None else Path("datasets") / self.name

    def _require(self, folder: Path, needed: list[str], purpose: str) -> None:
        missing = [name for name in needed if not (folder / name).exists()]
        if not missing and folder.is_dir():
            return
        problem = f"lacks {', '.join(missing)}"
        if not folder.is_dir():
            problem = "is not a folder" if folder.exists() else "is not there"
        files = ", ".join(needed) or "its files"
        raise DataError(
            f"{self.name}: {folder} {problem}; expected there{purpose}: {files} ({self.format}). "
            f"For {self.title} see {self.described}; put it at {Path('datasets') / self.name}, or say data.path=FOLDER"
        )


def load_card(name: str) -> Card:
    """The card of that name, or at that path; DataError for an unknown name, or a card with unknown or missing keys."""
    path = find_resource("datasets", name)
    try:
        card = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Card), OmegaConf.load(path)))
    except OmegaConfBaseException as error:
        problem = str(error.msg or error).splitlines()[0]
        raise DataError(f"{path}: {error.full_key or 'card'}: {problem}{_hint(error)}") from None
    except Exception as error:  # the YAML parser raises many kinds; all mean that this file is not YAML
        raise DataError(f"{path}: not a YAML mapping: {' '.join(str(error).split())}") from None
    for set_name, files in card.sets.items():
        needed, allowed = _SET_KEYS[files.format]
        given = {f.name for f in fields(files) if f.name != "format" and getattr(files, f.name) is not None}
        if not needed <= given <= needed | allowed:
            raise DataError(f"{path}: sets.{set_name}: format {files.format.name} takes "
                            f"{', '.join(sorted(needed | allowed))}, got {', '.join(sorted(given)) or 'none'}")
    return card


def open_verification(spec: str, card: Card, path: str | None = None) -> PairSet:
    """The pairs that `spec` means: a set of `card` (its files at `path`), `card/set` of another card, or a .bin file.

    DataError, with the choices, where it means none of them.
    """
    if spec in card.sets:
        return card.verification(spec, path)
    if spec.endswith(".bin"):
        return read_bin(Path(spec).expanduser())
    if spec.count("/") == 1:
        other, set_name = spec.split("/")
        return replace(load_card(other).verification(set_name), name=spec)
    raise DataError(
        f"{card.name} has no verification set {spec!r}; {_choices(spec, card.sets)}, or give CARD/SET or the path of a "
        ".bin file"
    )


def _choices(name: str, known: dict[str, VerificationFiles]) -> str:
    close = difflib.get_close_matches(name, known, 1, cutoff=0.5)
    return (f"did you mean {close[0]}? " if close else "") + f"It has {', '.join(known) or 'none'}"


def _people(folder: Path, file: str | None) -> list[str] | None:
    return None if file is None else read_people(folder / file)


def _hint(error: OmegaConfBaseException) -> str:
    if not isinstance(error, ConfigKeyError) or not is_dataclass(error.object_type):
        return ""
    keys = [f.name for f in fields(error.object_type)]
    return f"; {error.object_type.__name__} has the keys {', '.join(keys)}"


def _read_identities(path: Path, pairs: PairSet) -> np.ndarray:
    """int32 (N,): identity of each distinct image, from one line per image of the file (identical images repeat)."""
    lines = path.read_bytes().splitlines()
    positions = np.stack([pairs.left, pairs.right], 1).ravel()  # image of the file -> distinct image
    if len(lines) != len(positions):
        raise DataError(f"{path}: {len(lines)} lines for the {len(positions)} images of the set, expected one each; "
                        "fetch both again")
    _, ids = np.unique(lines, return_inverse=True)
    identity = np.empty(len(pairs.images), np.int32)
    identity[positions] = ids
    for at in np.flatnonzero(identity[positions] != ids)[:1]:
        name = lines[at].decode(errors="replace")
        raise DataError(f"{path}:{at + 1}: {name} has the very image of another identity; correct the file")
    return identity
