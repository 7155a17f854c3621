"""Photometric, noise and compression augmentation of single faces, before any degradation, in the loader's workers.

albumentations is imported when an augmentation is first made: it is slow to import, and its release check calls home.
"""
from __future__ import annotations

import os
import random
from collections.abc import Callable
from types import ModuleType

import numpy as np

Augment = Callable[[np.ndarray, int], np.ndarray]


def _photometric(albumentations: ModuleType) -> list:
    return [
        albumentations.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.2, p=0.5),
        albumentations.HueSaturationValue(hue_shift_limit=6, sat_shift_limit=20, val_shift_limit=0, p=0.5),
        albumentations.RandomGamma(gamma_limit=(80, 125), p=0.5),
    ]


def _sensor(albumentations: ModuleType) -> list:
    """In the order light takes: scene, lens, sensor, file."""
    blur = [albumentations.MotionBlur(blur_limit=(3, 5), p=1), albumentations.Defocus(radius=(1, 2), p=1)]
    return _photometric(albumentations) + [
        albumentations.OneOf(blur, p=0.2),
        albumentations.GaussNoise(std_range=(0.01, 0.04), p=0.3),
        albumentations.ImageCompression(compression_type="jpeg", quality_range=(50, 95), p=0.3),
    ]


AUGMENTS: dict[str, Callable[[ModuleType], list] | None] = {
    "none": None,
    "photometric": _photometric,
    "sensor": _sensor,
}


def make_augment(kind: str) -> Augment:
    """An augmentation `augment(image, seed)`: the same image and seed give the same pixels, in any process.

    kind: `none` (the image itself), `photometric` (brightness, contrast, hue, saturation, gamma: each for half of the
    images) or `sensor` (those, then motion blur or defocus, Gaussian noise and JPEG, each for a fifth to a third).
    image: (112, 112, 3) uint8 RGB, left unchanged; seed: an int >= 0. Returns (112, 112, 3) uint8 RGB.
    ValueError: an unknown kind.
    """
    if kind not in AUGMENTS:
        raise ValueError(f"unknown augmentation {kind!r}; choose one of {', '.join(AUGMENTS)}")
    return _unchanged if AUGMENTS[kind] is None else _Seeded(kind)


def _unchanged(image: np.ndarray, seed: int) -> np.ndarray:
    return image


class _Seeded:
    """Pickles as its kind, so that spawned workers each build their own."""

    def __init__(self, kind: str) -> None:
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
        import albumentations
        self._kind = kind
        self._compose = albumentations.Compose(AUGMENTS[kind](albumentations))

    def __reduce__(self) -> tuple:
        return _Seeded, (self._kind,)

    def __call__(self, image: np.ndarray, seed: int) -> np.ndarray:
        # set_random_seed would start every transform from the same number, so that all are applied together or none
        self._compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
        return self._compose(image=image)["image"]
