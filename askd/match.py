"""Is this the same person? Two photographs compared, or one searched for in a folder, by an exported student."""
from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from askd import cli
from askd.data.detector import Detector
from askd.data.folder import READ
from askd.deploy.sheet import draw
from askd.deploy.sight import Seen, Sight, heat_maps
from askd.errors import DataError, RecipeError
from askd.runtime.gallery import Gallery, build_gallery
from askd.runtime.recognizer import Recognizer, cosines
from askd.teachers import load_backbone

WHAT = "Compare two faces, or search a folder for one, with an exported student. The keys below belong to the other verbs."
USAGE = ("PROBE.jpg OTHER.jpg|GALLERY/ model=EXPORT [far=0.001] [detector=FILE.onnx] [face=only|largest] [size=PIXELS] [top=5] "
         "[index=FILE] [out=match.png]")
KEYS = ("model", "far", "detector", "face", "size", "top", "index", "out")
INDEX = "faces.askd"
BATCH = 64


def main(argv: list[str]) -> None:
    """`python -m askd.match PROBE OTHER key=value ...`"""
    options = dict(argument.split("=", 1) for argument in argv if "=" in argument)
    paths = [Path(argument) for argument in argv if "=" not in argument]
    if len(paths) != 2 or "model" not in options or set(options) - set(KEYS):
        raise RecipeError(f"usage: python -m askd.match {USAGE}, got {' '.join(argv) or 'nothing'}")
    if options.get("face", "only") not in ("only", "largest"):
        raise RecipeError(f"face must be only (several are an error) or largest, got {options['face']}")
    far, size, top = number(options, "far", 0.001, float), number(options, "size", None, int), number(options, "top", 5, int)
    recognizer = Recognizer(options["model"])
    inside = Path(options["model"]) / "detector.onnx"
    detector = options.get("detector") or (inside if inside.is_file() else None)
    sight = Sight(recognizer, None if detector is None else Detector(detector), size, options.get("face") == "largest")
    out = Path(options.get("out", "match.png"))
    if paths[1].is_dir():
        search(sight, paths[0], paths[1], far, top, Path(options.get("index", paths[1] / INDEX)), out)
    else:
        compare(sight, paths[0], paths[1], far, out)


def number(options: dict[str, str], key: str, default, kind: type):
    """An option above 0, or its default; RecipeError otherwise."""
    if key not in options:
        return default
    try:
        value = kind(options[key])
    except ValueError:
        value = 0
    if not 0 < value < float("inf"):
        raise RecipeError(f"{key} must be a {'whole ' if kind is int else ''}number above 0, got {options[key]}")
    return value


def compare(sight: Sight, one: Path, other: Path, far: float, out: Path) -> None:
    """Print similarity and decision of two files, and draw both faces."""
    faces = [sight.see(one), sight.see(other)]
    size = min(face.size for face in faces)
    threshold = sight.recognizer.threshold(far, size)
    left, right = sight.embed(faces)
    similarity = float(cosines(left[None], right[None])[0])
    decision = "the same person" if similarity >= threshold else "different people"
    draw(faces, [one.name, other.name], looks(sight, faces), f"similarity {similarity:.3f}, threshold {threshold:.3f}: {decision}", out)
    print(f"similarity  {similarity:.4f}")
    print(f"threshold   {threshold:.4f}  (FAR {far:g} at {size} px, as measured at export)")
    print(f"decision    {decision}")
    print(f"figure      {out}")


def search(sight: Sight, probe: Path, folder: Path, far: float, top: int, index: Path, out: Path) -> None:
    """Print the gallery's most similar faces, best first, and draw them beside the probe; the index is built where it is out of date."""
    face = sight.see(probe)
    threshold = sight.recognizer.threshold(far, face.size)
    gallery = open_index(sight, folder, index)
    places, similarities = (row[0] for row in gallery.search(sight.embed([face]), top))
    names = [gallery.name(place) for place in places.tolist()]
    for rank, (name, similarity) in enumerate(zip(names, similarities), 1):
        print(f"{rank:>3}  {similarity:.4f}  {'*' if similarity >= threshold else ' '}  {name}")
    print(f"     * at or above {threshold:.4f}, the threshold for FAR {far:g} of one comparison at {face.size} px; {len(gallery):,} were made")
    shown = [face, *(sight.see(folder / name) for name in names)]
    captions = [probe.name, *(f"{rank}. {similarity:.3f} {Path(name).name}" for rank, (name, similarity) in enumerate(zip(names, similarities), 1))]
    draw(shown, captions, looks(sight, shown), f"{probe.name} among {len(gallery):,} faces, threshold {threshold:.3f}", out)
    print(f"figure {out}")


def open_index(sight: Sight, folder: Path, index: Path) -> Gallery:
    """The folder's gallery, built first where there is none or the folder has changed; DataError where another model made it."""
    files = photographs(folder)
    source = fingerprint(files, folder, sight)
    if index.is_file():
        gallery = Gallery(index, sight.recognizer.sha256)
        if gallery.source == source:
            return gallery
        print(f"{folder} has changed, or is looked at otherwise: building {index} again", file=sys.stderr)
    count = build_gallery(index, embedded(sight, files, folder), sight.recognizer.sha256, source)
    print(f"{index}: {count} faces", file=sys.stderr)
    return Gallery(index, sight.recognizer.sha256)


def photographs(folder: Path) -> list[Path]:
    """All images below a folder, sorted; links to folders are not followed. DataError where there are none."""
    found = [Path(place) / name for place, _, names in os.walk(folder) for name in names if Path(name).suffix.lower() in READ]
    if not found:
        raise DataError(f"{folder}: holds no image ({', '.join(READ)}); give a folder of faces")
    return sorted(found)


def fingerprint(files: Sequence[Path], folder: Path, sight: Sight) -> str:
    """Changes with any file's name, size or time, and with how faces are looked at."""
    digest = hashlib.sha256(f"{sight.most} {sight.largest} {sight.detector is not None}\n".encode())
    for file in files:
        status = file.stat()
        digest.update(f"{os.fspath(file.relative_to(folder))}\0{status.st_size}\0{status.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def embedded(sight: Sight, files: Sequence[Path], folder: Path) -> Iterator[tuple[list[str], np.ndarray]]:
    """Names and embeddings of all faces, batch by batch."""
    for start in range(0, len(files), BATCH):
        some = files[start:start + BATCH]
        yield [os.fspath(file.relative_to(folder)) for file in some], sight.embed([sight.see(file) for file in some])
        if sys.stderr.isatty():
            print(f"\rembedding the gallery: {start + len(some)}/{len(files)}", end="" if start + len(some) < len(files) else "\n", file=sys.stderr)


def looks(sight: Sight, faces: Sequence[Seen]) -> np.ndarray | None:
    """Heat maps of the network behind the export; None where its weights were left out, or for one without spatial attention."""
    folder = sight.recognizer.folder
    return heat_maps(load_backbone(folder)[0], faces) if (folder / "model.safetensors").is_file() else None


if __name__ == "__main__":
    cli.run("match", WHAT, main, USAGE)
