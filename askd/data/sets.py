"""Every format of an evaluation set: which files a card names for it, what reads it, and how a folder is recognised."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from enum import Enum
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np
from omegaconf import MISSING

from askd.data import probes
from askd.data.cfp import read_cfp
from askd.data.faces import open_faces
from askd.data.folder import protocol_rows, read_file, read_people
from askd.data.gallery import IdentificationSet, TemplateSet
from askd.data.ijb import read_ijb
from askd.data.paircsv import read_pair_csv
from askd.data.pairs import PairSet, all_pairs, read_bin, read_lfw_pairs
from askd.data.probes import read_gallery_probe
from askd.data.scface import read_scface
from askd.errors import DataError

EvaluationSet = PairSet | IdentificationSet | TemplateSet
SetFormat = Enum("SetFormat", "bin lfw_pairs all_pairs csv cfp_ff cfp_fp tinyface survface scface gallery_probe ijb")


@dataclass
class SetFiles:
    """Where one evaluation set lies under the dataset's folder; each format takes some of the keys, FORMATS says which."""

    format: SetFormat = MISSING
    """Pairs: bin (InsightFace), lfw_pairs (View 1 or 2), all_pairs (every pair of an identity folder's images), csv
    (path_a,path_b,same[,fold]), cfp_ff, cfp_fp. Identification: tinyface, survface, scface, gallery_probe. Templates: ijb."""
    file: Optional[str] = None
    """bin, csv: the file."""
    identities: Optional[str] = None
    """bin: one identity per line for each image of the file, in its order (two images a pair)."""
    images: Optional[str] = None
    """The folder of the images: identity folders, or what csv paths, CFP's identities or the folders of gallery and probes are in."""
    pairs: Optional[str] = None
    """lfw_pairs: the protocol file."""
    people: Optional[str] = None
    """all_pairs: list of the people to compare, in LFW's format; null: everybody."""
    protocol: Optional[str] = None
    """cfp_ff, cfp_fp: the folder Protocol; ijb: the folder of the lists, meta."""
    gallery: Optional[str] = None
    """scface: the folder of the mugshots."""
    probe: Optional[str] = None
    """scface: the folder of the surveillance images."""
    distance: Optional[int] = None
    """scface: 1 (4.20 m), 2 (2.60 m) or 3 (1.00 m)."""
    count: Optional[int] = None
    """Pairs (of templates: 1:1 pairs) or probes that the set was published with; opening another number of them is an error."""

    def paths(self) -> list[str]:
        """The files and folders this set is read from."""
        return [value for key in _PATHS if (value := getattr(self, key)) is not None]

    def given(self) -> set[str]:
        """The keys that say where it lies."""
        return {f.name for f in fields(self) if f.name not in ("format", "count") and getattr(self, f.name) is not None}


_PATHS = ("images", "file", "identities", "pairs", "people", "protocol", "gallery", "probe")


def _bin(at: Path, files: SetFiles) -> PairSet:
    pairs = read_bin(at / files.file)
    return pairs if files.identities is None else replace(pairs, identity=_read_identities(at / files.identities, pairs))


def _all_pairs(at: Path, files: SetFiles) -> PairSet:
    people = None if files.people is None else read_people(at / files.people)
    return all_pairs(open_faces(at / files.images, people=people), files.images)


def _read_identities(path: Path, pairs: PairSet) -> np.ndarray:
    """int32 (N,): identity of each distinct image, from one line per image of the file (identical images repeat)."""
    lines = read_file(path).splitlines()
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


class Format(NamedTuple):
    """How a format is read from a dataset's folder, and the keys it needs and allows besides."""

    read: Callable[[Path, SetFiles], EvaluationSet]
    needs: set[str]
    allows: set[str] = frozenset()


FORMATS: dict[SetFormat, Format] = {
    SetFormat.bin: Format(_bin, {"file"}, {"identities"}),
    SetFormat.lfw_pairs: Format(lambda at, files: read_lfw_pairs(at / files.images, at / files.pairs), {"images", "pairs"}),
    SetFormat.all_pairs: Format(_all_pairs, {"images"}, {"people"}),
    SetFormat.csv: Format(lambda at, files: read_pair_csv(at / files.file, files.images and at / files.images), {"file"}, {"images"}),
    SetFormat.cfp_ff: Format(lambda at, files: read_cfp(at / files.protocol, at / files.images, "FF"), {"protocol", "images"}),
    SetFormat.cfp_fp: Format(lambda at, files: read_cfp(at / files.protocol, at / files.images, "FP"), {"protocol", "images"}),
    SetFormat.tinyface: Format(lambda at, files: read_gallery_probe(at / files.images, probes.TINYFACE), {"images"}),
    SetFormat.survface: Format(lambda at, files: read_gallery_probe(at / files.images, probes.SURVFACE), {"images"}),
    SetFormat.gallery_probe: Format(lambda at, files: read_gallery_probe(at / files.images, probes.OWN), {"images"}),
    SetFormat.scface: Format(lambda at, files: read_scface(at / files.gallery, at / files.probe, files.distance),
                             {"gallery", "probe", "distance"}),
    SetFormat.ijb: Format(lambda at, files: read_ijb(at / files.protocol, at / files.images), {"protocol", "images"}),
}


def _folders(at: Path, name: SetFormat, layout: probes.Layout) -> SetFiles | None:
    return SetFiles(name, images=".") if (at / layout.gallery).is_dir() and (at / layout.probe).is_dir() else None


def _lfw(at: Path) -> SetFiles | None:
    """pairs.txt, and whichever folder holds the first person it names."""
    rows = protocol_rows(at / "pairs.txt") if (at / "pairs.txt").is_file() else []
    first = rows[1][0] if len(rows) > 1 and rows[1] else ""
    for images in (at, *sorted(folder for folder in at.glob("[!.]*/") if folder.is_dir())):
        if first and (images / first).is_dir():
            return SetFiles(SetFormat.lfw_pairs, images=str(images.relative_to(at)), pairs="pairs.txt")
    return None


# What a folder holds -> the files of the set in it.
_RECOGNISED: dict[str, Callable[[Path], Optional[SetFiles]]] = {
    "Protocol/Pair_list_F.txt and Data/Images/ (CFP, its FP split)": lambda at: SetFiles(
        SetFormat.cfp_fp, protocol="Protocol", images="Data/Images") if (at / "Protocol/Pair_list_F.txt").is_file() else None,
    "Probe/ and Gallery_Match/ (TinyFace)": lambda at: _folders(at, SetFormat.tinyface, probes.TINYFACE),
    "gallery/ and mated_probe/ (SurvFace)": lambda at: _folders(at, SetFormat.survface, probes.SURVFACE),
    "gallery/ and probe/": lambda at: _folders(at, SetFormat.gallery_probe, probes.OWN),
    "meta/ and loose_crop/ (IJB-B, IJB-C)": lambda at: SetFiles(
        SetFormat.ijb, protocol="meta", images="loose_crop") if any(at.glob("meta/*_face_tid_mid.txt")) else None,
    "pairs.txt and LFW's folders of people, or one folder of these": _lfw,
}


def read_set(folder: Path, files: SetFiles) -> EvaluationSet:
    """The set that lies at `files` under `folder`; DataError for a fault in it, or where it has not `files.count` pairs or probes."""
    opened = FORMATS[files.format].read(folder, files)
    if files.count is not None and size(opened) != files.count:
        raise DataError(f"{folder / files.paths()[0]}: holds {size(opened)} {_unit(opened)}, the card says {files.count}; fetch it again, "
                        "or open it by its path if it is meant to be another set")
    return opened


def read_path(path: Path) -> EvaluationSet | None:
    """The set that a path means: a .bin or .csv file, or a folder recognised by what is in it; None for another kind of name.

    DataError for a folder that is none of those, and for a fault in the set.
    """
    if path.suffix in (".bin", ".csv"):
        return read_bin(path) if path.suffix == ".bin" else read_pair_csv(path)
    if not path.is_dir():
        return None
    for recognise in _RECOGNISED.values():
        if (files := recognise(path)) is not None:
            return replace(read_set(path, files), name=path.resolve().name)
    raise DataError(f"{path}: holds no evaluation set; looked for {'; '.join(_RECOGNISED)}")


def size(opened: EvaluationSet) -> int:
    """Pairs of a PairSet, 1:1 pairs of a TemplateSet, probes of an IdentificationSet."""
    return len(opened.probe if isinstance(opened, IdentificationSet) else opened.same)


def _unit(opened: EvaluationSet) -> str:
    return "probes" if isinstance(opened, IdentificationSet) else "pairs"
