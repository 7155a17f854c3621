"""SCface: surveillance images at three distances, to be found among mugshots."""
from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from askd.data.folder import FolderSet
from askd.data.gallery import IdentificationSet
from askd.data.imagefiles import ImageFiles
from askd.errors import DataError

METRES = {1: 4.20, 2: 2.60, 3: 1.00}
_MUGSHOT = re.compile(r"(\d{3})_frontal")
_PROBE = re.compile(r"(\d{3})_cam[1-5]_([1-3])")
_OTHER = re.compile(r"\d{3}_.+")  # infra-red cameras (cam6 to cam8), rotated mugshots


def read_scface(mugshots: Path | str, surveillance: Path | str, distance: int) -> IdentificationSet:
    """The probes taken at `distance` (1: 4.20 m, 2: 2.60 m, 3: 1.00 m) by cam1 to cam5, in visible light.

    Gallery: `<subject>_frontal.jpg` of the folder `mugshots`, one a subject; probes: `<subject>_cam<c>_<distance>.jpg` of
    the folder `surveillance`; either may hold the other's images, and those of infra-red cameras, too. Both sorted by name.
    Raises DataError naming folder or file.
    """
    if distance not in METRES:
        known = ", ".join(f"{number} ({metres:.2f} m)" for number, metres in METRES.items())
        raise DataError(f"{surveillance}: SCface's distances are {known}, got {distance}")
    gallery = {match[1]: path for path, match in _matching(mugshots, _MUGSHOT)}
    probes = [(path, match[1]) for path, match in _matching(surveillance, _PROBE) if int(match[2]) == distance]
    for missing, folder, name in ((not gallery, mugshots, "001_frontal.jpg"), (not probes, surveillance, f"001_cam1_{distance}.jpg")):
        if missing:
            raise DataError(f"{folder}: holds no image called like {name}; is it SCface's folder?")
    for path, subject in probes:
        if subject not in gallery:
            raise DataError(f"{path}: {mugshots} lacks this subject's {subject}_frontal.jpg; put it there, or take the probes out")
    subjects = {subject: number for number, subject in enumerate(gallery)}
    identity = np.array([*subjects.values(), *(subjects[subject] for _, subject in probes)])
    images = ImageFiles([*gallery.values(), *(path for path, _ in probes)])
    probe = np.arange(len(gallery), len(images))
    return IdentificationSet(f"scface_{METRES[distance]:.2f}m", images, probe, np.arange(len(gallery)), identity)


def _matching(folder: Path | str, wanted: re.Pattern) -> list[tuple[str, re.Match]]:
    folder = Path(folder)
    images = FolderSet(folder.parent, people=[folder.name])
    matches = []
    for i in range(len(images)):
        stem = Path(images.name(i)).stem
        if match := wanted.fullmatch(stem):
            matches.append((images.name(i), match))
        elif not _OTHER.fullmatch(stem):
            raise DataError(f"{images.name(i)}: is not called as SCface's images are, 001_frontal.jpg or 001_cam1_1.jpg; "
                            "remove or rename it")
    return matches
