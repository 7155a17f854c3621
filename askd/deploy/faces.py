"""The faces an export is calibrated on and judged by: the run's own data, or rendered people where nothing is known of a network's data."""
from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from askd.data.faces import FaceSet
from askd.data.loader import to_unit
from askd.data.pairs import PairSet, stratify
from askd.data.synthetic import render_face
from askd.deploy.gate import as_camera, thinned
from askd.evaluation.embed import decode_all

CALIBRATION = 256  # faces
RENDERED_PEOPLE, RENDERED_IMAGES, RENDERED_CALIBRATION = 30, 4, 32
RENDERED_FROM = 1_000_000  # far from the identities of the demo sets


class Faces(NamedTuple):
    """calibration, images: uint8 (N, 3, 112, 112), `images` those of `pairs`; held_out, trained_on: both sets in words."""

    calibration: Tensor
    pairs: PairSet
    images: Tensor
    held_out: str
    trained_on: str


def of_run(training: FaceSet, held_out: PairSet, name: str, trained_on: str) -> Faces:
    """Calibration faces drawn evenly over the training set, and the held-out pairs (thinned where they are very many)."""
    chosen = np.unique(np.linspace(0, len(training) - 1, CALIBRATION).astype(int)).tolist()
    calibration = decode_all([training.encoded(i) for i in chosen], [training.name(i) for i in chosen])
    pairs = thinned(held_out)
    words = f"`{name}`, held out of training: {len(pairs)} pairs of {len(pairs.images)} faces"
    if pairs.identity is not None:
        words += f" of {len(np.unique(pairs.identity))} people, all genuine ones and as many impostors drawn"
    return Faces(calibration, pairs, decode_all(pairs.images, pairs.image_names), words, trained_on)


def rendered() -> Faces:
    """Rendered people: all genuine pairs and nine times as many impostors."""
    calibration = [render_face(RENDERED_FROM + i, 0) for i in range(RENDERED_CALIBRATION)]
    people = range(RENDERED_FROM + RENDERED_CALIBRATION, RENDERED_FROM + RENDERED_CALIBRATION + RENDERED_PEOPLE)
    images = [render_face(person, sample) for person in people for sample in range(RENDERED_IMAGES)]
    identity = np.repeat(np.arange(RENDERED_PEOPLE), RENDERED_IMAGES)
    left, right = np.triu_indices(len(images), 1)
    genuine = np.flatnonzero(identity[left] == identity[right])
    impostors = np.random.default_rng(0).choice(np.flatnonzero(identity[left] != identity[right]), 9 * len(genuine), replace=False)
    kept = np.concatenate([genuine, np.sort(impostors)])
    same = np.arange(len(kept)) < len(genuine)
    pairs = PairSet("rendered", [b""] * len(images), left[kept], right[kept], same, stratify(same), identity, [""] * len(images))
    words = f"rendered faces: {len(kept)} pairs of {len(images)} faces of {RENDERED_PEOPLE} people. They say whether the export is the " \
            "network, not how good the network is"
    return Faces(_batch(calibration), pairs, _batch(images), words, "unknown to askd: an imported checkpoint, or a run without recipe.yaml")


def as_trained(images: Tensor, sizes: list[int], degradation: str) -> np.ndarray:
    """What the network saw in training: float32 (N, 3, 112, 112) [-1, 1], the i-th image at the i-th size, in turns."""
    seen = [to_unit(as_camera(images[i:i + 1], sizes[i % len(sizes)], degradation)[1]) for i in range(len(images))]
    return torch.cat(seen).numpy()


def _batch(images: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
