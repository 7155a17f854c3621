"""The demo's dataset: rendered faces, stored as real ones are (RecordIO to train on, a .bin to verify with)."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

from askd.data.pairs import write_bin
from askd.data.recordio import write_recordio
from askd.data.synthetic import render_face, render_identities
from askd.errors import DataError

FOLDS = 10
JPEG_QUALITY = 95
STAMP = "rendered.json"


@dataclass
class Render:
    """What to render. Training people are the renderer's 0..identities-1, verification people those after them."""

    identities: int
    """People to train on."""
    images: int
    """Images of each of them."""
    verification_identities: int
    """Other people, to verify with; a tenth of them in each fold."""
    verification_images: int
    """Images of each of these."""
    pairs: int
    """Verification pairs: ten folds, each half genuine and half impostor."""
    seed: int = 0
    """Another seed, other people."""


def render_dataset(
    folder: Path, render: Render, *, workers: int = 1, progress: Callable[[int, int], None] | None = None
) -> None:
    """Write train.rec, train.idx, property, verify.bin and verify_identities.txt to `folder`; all of them, or nothing.

    A folder that holds just this already stays as it is, one of other parameters (or another renderer's) is replaced.
    workers >= 1 processes; progress(images done, images in all). DataError where `folder` holds anything else, or where
    the people are too few for the pairs.
    """
    stamp = _stamp(render)
    pairs = draw_pairs(render)
    if not _may_replace(folder):
        raise DataError(f"{folder} holds something that was not rendered here; say data.path=FOLDER with a new one")
    if _read_stamp(folder) == stamp:
        return
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        unfinished.mkdir(parents=True)
        _write(unfinished, render, pairs, workers, progress)
        (unfinished / STAMP).write_text(json.dumps(stamp, indent=1))
        if _read_stamp(folder) != stamp:  # or else another process was faster
            _put_in_place(unfinished, folder)
    except OSError as error:
        raise DataError(f"cannot write {folder} ({error.strerror}); say data.path=FOLDER with another one") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def draw_pairs(render: Render) -> list[tuple[tuple[int, int], tuple[int, int], bool]]:
    """The verification pairs ((identity, sample), (identity, sample), same), fold after fold, no pair twice.

    A fold has identities of its own, so that folds are independent. The renderer's seed decides.
    """
    per_fold, per_kind = render.verification_identities // FOLDS, render.pairs // FOLDS // 2
    if render.pairs % (2 * FOLDS) or render.verification_identities % FOLDS:
        raise DataError(
            f"render.pairs must be a multiple of {2 * FOLDS} and render.verification_identities of {FOLDS}, "
            f"got {render.pairs} and {render.verification_identities}"
        )
    rng = np.random.default_rng([render.seed, render.identities])
    drawn = []
    for fold in range(FOLDS):
        start = render.identities + fold * per_fold
        faces = list(itertools.product(range(start, start + per_fold), range(render.verification_images)))
        every = list(itertools.combinations(faces, 2))
        for same in (True, False):
            candidates = [pair for pair in every if (pair[0][0] == pair[1][0]) is same]
            if len(candidates) < per_kind:
                raise DataError(
                    f"render: {per_fold} people with {render.verification_images} images each have {len(candidates)} "
                    f"{'genuine' if same else 'impostor'} pairs, a fold needs {per_kind}; lower render.pairs"
                )
            chosen = rng.choice(len(candidates), per_kind, replace=False)
            drawn += [(*candidates[index], same) for index in chosen]
    return drawn


def _write(
    folder: Path, render: Render, pairs: Sequence[tuple], workers: int, progress: Callable[[int, int], None] | None
) -> None:
    total = render.identities * render.images + render.verification_identities * render.verification_images
    done = itertools.count(1)

    def encoded(start: int, identities: int, samples: int) -> Iterator[tuple[int, int, bytes]]:
        people = range(start, start + identities)
        for identity, sample, image in render_identities(people, samples, render.seed, workers):
            bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
            jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
            if progress is not None:
                progress(next(done), total)
            yield identity, sample, jpeg

    training = encoded(0, render.identities, render.images)
    write_recordio(folder, ((identity, jpeg) for identity, _, jpeg in training), classes=render.identities)
    verification = encoded(render.identities, render.verification_identities, render.verification_images)
    faces = {(identity, sample): jpeg for identity, sample, jpeg in verification}
    write_bin(folder / "verify.bin", [(faces[a], faces[b], same) for a, b, same in pairs])
    lines = [f"{identity:06d}\n" for a, b, _ in pairs for identity, _ in (a, b)]
    (folder / "verify_identities.txt").write_text("".join(lines))


def _put_in_place(unfinished: Path, folder: Path) -> None:
    if folder.is_dir():
        replaced = folder.with_name(f".{folder.name}.{os.getpid()}.old")
        folder.rename(replaced)
        unfinished.rename(folder)
        shutil.rmtree(replaced)
    else:
        unfinished.rename(folder)


def _stamp(render: Render) -> dict:
    # The first face tells a changed renderer, or a library that draws differently, from the one that drew the folder.
    first = hashlib.sha256(render_face(0, 0, render.seed).tobytes()).hexdigest()
    return {"render": asdict(render), "first_face": first, "jpeg_quality": JPEG_QUALITY}


def _read_stamp(folder: Path) -> dict | None:
    try:
        return json.loads((folder / STAMP).read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def _may_replace(folder: Path) -> bool:
    if folder.is_dir():
        return (folder / STAMP).is_file() or not any(folder.iterdir())
    return not folder.exists()
