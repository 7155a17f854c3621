"""Identification sets as folders of gallery and probe images: TinyFace, QMUL-SurvFace, one's own."""
from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from askd.data.folder import READ, FolderSet
from askd.data.gallery import NOBODY, IdentificationSet
from askd.data.imagefiles import ImageFiles
from askd.errors import DataError


@dataclass(frozen=True)
class Layout:
    """Names of the folders, and how a file in them says who is on it (`identity`, and the same in words)."""

    gallery: str
    probe: str
    identity: re.Pattern
    words: str
    distractors: str | None = None
    """Gallery images of people who are no probe's."""
    unmated: str | None = None
    """Probes of people who are not in the gallery."""
    required: bool = True
    """Whether the folders of distractors and unmated probes must be there, and every probe has a mate in the gallery."""


TINYFACE = Layout("Gallery_Match", "Probe", re.compile(r"(\d+)_.+"), "<identity>_<n>.jpg, the identity a number",
                  distractors="Gallery_Distractor")
SURVFACE = Layout("gallery", "mated_probe", re.compile(r"(\d+)_cam.+"), "<person>_cam<c>_<n>.jpg", unmated="unmated_probe")
OWN = Layout("gallery", "probe", re.compile(r"(.+)_\d+"), "<identity>_<number>.jpg, or one folder per identity", distractors="distractor",
             required=False)


def read_gallery_probe(root: Path | str, layout: Layout) -> IdentificationSet:
    """Read the folders that `layout` names under `root`; the images stay on disk.

    In each folder lie either images or one folder of images per identity. The gallery comes first, then distractors, then
    probes, each sorted by the bytes of their names; identities are numbered in the order of their names' bytes, people of
    the distractors' and unmated probes' folders are NOBODY. Raises DataError naming the folder or file.
    """
    root = Path(root)
    paths, people, probe = [], [], []
    for folder, known, is_probe in ((layout.gallery, True, False), (layout.distractors, False, False),
                                    (layout.probe, True, True), (layout.unmated, False, True)):
        if folder is None or not (layout.required or known or (root / folder).is_dir()):
            continue
        found = _images(root, folder, layout if known else None)
        paths += [path for path, _ in found]
        people += [person for _, person in found]
        probe += [is_probe] * len(found)
    numbers = {person: i for i, person in enumerate(sorted({p for p in people if p is not None}, key=os.fsencode))}
    identity = np.array([NOBODY if person is None else numbers[person] for person in people])
    is_probe = np.array(probe)
    mated = np.isin(identity, identity[~is_probe]) & (identity != NOBODY) & is_probe
    strays = np.flatnonzero(is_probe & (identity != NOBODY) & ~mated)
    if len(strays) and layout.required or not mated.any():
        first = paths[strays[0]] if len(strays) else str(root / layout.probe)
        raise DataError(f"{first}: is of a person with no image in {root / layout.gallery}, as are {len(strays)} of the "
                        f"{np.count_nonzero(is_probe)} probes; fetch both folders again")
    return IdentificationSet(root.name, ImageFiles(paths), np.flatnonzero(is_probe), np.flatnonzero(~is_probe), identity)


def _images(root: Path, folder: str, layout: Layout | None) -> list[tuple[str, str | None]]:
    """(path, person) of a folder's images; the person is None where `layout` is."""
    loose, folders = "", ""
    try:
        with os.scandir(root / folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    folders = entry.name
                elif entry.name.lower().endswith(READ):
                    loose = entry.name
    except OSError as error:
        raise DataError(f"{root / folder}: cannot be read ({error.strerror}); expected a folder of images there") from error
    if loose and folders:
        raise DataError(f"{root / folder}: holds both images ({loose}) and folders ({folders}); expected one or the other")
    images = FolderSet(root / folder) if folders else FolderSet(root, people=[folder])
    paths = [images.name(i) for i in range(len(images))]
    if layout is None:
        return [(path, None) for path in paths]
    if folders:
        return [(path, images.class_names[label]) for path, label in zip(paths, images.labels)]
    return [(path, _person(path, layout)) for path in paths]


def _person(path: str, layout: Layout) -> str:
    match = layout.identity.fullmatch(Path(path).stem)
    if match is None:
        raise DataError(f"{path}: its name does not say who it is; expected {layout.words}")
    return match[1]
