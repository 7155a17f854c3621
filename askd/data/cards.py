"""Dataset cards (datasets/*.yaml): what a dataset is, which files it consists of, and how to open them."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Optional

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from askd.data.demo import Render, render_dataset
from askd.data.faces import FaceSet, open_faces
from askd.data.folder import read_people
from askd.data.sets import FORMATS, EvaluationSet, SetFiles, read_path, read_set
from askd.errors import DataError
from askd.resources import find_resource, list_resources


@dataclass
class TrainingFiles:
    """Where the training faces lie under the dataset's folder."""

    images: str = "."
    """Folder or file of the training set, in any format that askd.data.faces.open_faces takes."""
    people: Optional[str] = None
    """List of the people to train on, in LFW's format; null: everybody."""


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
    sets: dict[str, SetFiles] = field(default_factory=dict)
    """Evaluation sets that come with it."""
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

    def evaluation_set(self, set_name: str, path: str | None = None) -> EvaluationSet:
        """One of the card's evaluation sets; DataError for an unknown one, or where one of its files is missing or wrong."""
        if set_name not in self.sets:
            raise DataError(f"{self.name} has no evaluation set {set_name!r}; {_choices(set_name, self.sets)}")
        files, folder = self.sets[set_name], self._folder(path)
        self._require(folder, files.paths(), f" for set {set_name}")
        return replace(read_set(folder, files), name=set_name)

    def check(self, path: str | None = None, sets: bool = False) -> list[str]:
        """What differs between the card and the bytes at `path`, one line each; empty where nothing does.

        Files that are missing, and how many identities and images the training set has (all of it, whatever `people` and
        min_images leave): costs as much as opening it, decodes nothing. With `sets`, every evaluation set is read as well,
        which takes its time, and what is missing or wrong there is told, the number of pairs included.
        """
        folder = self._folder(path)
        missing = self._missing(folder, self.expects)
        if missing:
            return [f"{self.name}: {folder} lacks {', '.join(missing)} ({self.format})"]
        checks = [self._count_training] if self.training is not None else []
        checks += [partial(self.evaluation_set, name) for name in self.sets] if sets else []
        found = []
        for check in checks:
            try:
                check(path=path)
            except DataError as error:
                found.append(str(error))
        return found

    def _count_training(self, path: str | None) -> None:
        images = self._folder(path) / self.training.images
        faces = open_faces(images)
        there = {"identities": len(faces.class_names), "images": len(faces)}
        wrong = [what for what, count in there.items() if getattr(self, what) not in (None, count)]
        if wrong:
            raise DataError(f"{self.name}: {images} holds {' and '.join(f'{there[what]:,} {what}' for what in wrong)}, {self.title} has "
                            f"{' and '.join(f'{getattr(self, what):,}' for what in wrong)}; a part of it, or another release?")

    def _folder(self, path: str | None) -> Path:
        return Path(path).expanduser() if path is not None else Path("datasets") / self.name

    def _missing(self, folder: Path, needed: list[str]) -> list[str]:
        return [name for name in needed if not (folder / name).exists()]

    def _require(self, folder: Path, needed: list[str], purpose: str) -> None:
        missing = self._missing(folder, needed)
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
        needs, allowed = FORMATS[files.format].needs, FORMATS[files.format].needs | FORMATS[files.format].allows
        if not needs <= files.given() <= allowed:
            raise DataError(f"{path}: sets.{set_name}: format {files.format.name} takes {', '.join(sorted(allowed))}, "
                            f"got {', '.join(sorted(files.given())) or 'none'}")
    return card


def open_set(spec: str, card: Card, path: str | None = None) -> EvaluationSet:
    """The evaluation set that `spec` means, in this order: a set of `card` (its files at `path`), CARD/SET of another card,
    a .bin or .csv file, or a folder that is recognised by what is in it (LFW, CFP, TinyFace, gallery and probe, IJB).

    DataError, with the choices, where it means none of them.
    """
    if spec in card.sets:
        return card.evaluation_set(spec, path)
    name, _, set_name = spec.partition("/")
    other = load_card(name) if name in list_resources("datasets") and set_name else None
    if other is not None and set_name in other.sets:
        return replace(other.evaluation_set(set_name), name=spec)
    if (opened := read_path(Path(spec).expanduser())) is not None:
        return opened
    if other is not None:
        raise DataError(f"{name} has no evaluation set {set_name!r}; {_choices(set_name, other.sets)}")
    raise DataError(
        f"{card.name} has no evaluation set {spec!r}; {_choices(spec, card.sets)}, or give CARD/SET, or the path of a .bin or .csv "
        "file, or of a folder with an evaluation set"
    )


def _choices(name: str, known: dict[str, SetFiles]) -> str:
    close = difflib.get_close_matches(name, known, 1, cutoff=0.5)
    return (f"did you mean {close[0]}? " if close else "") + f"It has {', '.join(known) or 'none'}"


def _people(folder: Path, file: str | None) -> list[str] | None:
    return None if file is None else read_people(folder / file)


def _hint(error: OmegaConfBaseException) -> str:
    if not isinstance(error, ConfigKeyError) or not is_dataclass(error.object_type):
        return ""
    keys = [f.name for f in fields(error.object_type)]
    return f"; {error.object_type.__name__} has the keys {', '.join(keys)}"
