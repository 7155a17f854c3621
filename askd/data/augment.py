"""What happens to a training image besides its degradation, and to which of the two images.

| preset         | the HR image, which teacher and student share      | the student's alone                                   |
|----------------|-----------------------------------------------------|-------------------------------------------------------|
| `none`         |                                                     |                                                       |
| `flip`         | mirrored, half of them                              |                                                       |
| `adaface`      | mirrored; a fifth cropped, a fifth of other colours | a fifth taken to fewer pixels                         |
| `surveillance` | mirrored; brightness, contrast, colour, gamma       | at LR size: lens or motion blur, sensor noise, JPEG   |

`adaface` is what AdaFace trains with (Kim et al., CVPR 2022, and its released code), each of the three for a fifth of the images: a
crop of 20 to 100 % of the area stays where it is and the rest turns black; brightness, contrast and saturation change by
up to half; the low resolution is a side of 20 to 100 % of 112 pixels. Crop and colours are the scene's, so both
networks see them and attention maps still compare position by position. The resolution is the student's: such an image
is degraded to that many pixels, if these are fewer than data.sizes gave it (at 14 and 22 pixels they never are), by
`degrade` like any other; `data.degradation=random` has AdaFace's own five kernels. A network trained at 112 pixels gets what AdaFace's got.

`surveillance` follows the light: scene, then lens, sensor and file of a camera whose face crop has LR size; it works on 8 bits.

albumentations is imported when an augmentation is first made: it is slow to import, and its release check calls home.
"""
from __future__ import annotations

import os
import random
from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import numpy as np

Augment = Callable[[np.ndarray, int], np.ndarray]


class Preset(NamedTuple):
    """flip, low_resolution: drawn by the loader. hr, lr: what albumentations does to the shared and to the student's image."""

    flip: bool = True
    low_resolution: bool = False
    hr: Callable[[ModuleType], list] | None = None
    lr: Callable[[ModuleType], list] | None = None


def _adaface(albumentations: ModuleType) -> list:
    jitter = albumentations.ColorJitter(brightness=(0.5, 1.5), contrast=(0.5, 1.5), saturation=(0.5, 1.5), hue=(0, 0), p=0.2)
    return [_crop_in_place(albumentations, p=0.2), jitter]


def _crop_in_place(albumentations: ModuleType, p: float):
    class CropInPlace(albumentations.ImageOnlyTransform):
        """Black outside a rectangle of 20 to 100 % of the area, sides 3:4 to 4:3 and at most the image's."""

        def get_params_dependent_on_data(self, params: dict, data: dict) -> dict:
            rows, columns = params["shape"][:2]
            area, aspect = self.py_random.uniform(0.2, 1) * rows * columns, np.exp(self.py_random.uniform(np.log(3 / 4), np.log(4 / 3)))
            height, width = min(round((area / aspect) ** 0.5), rows), min(round((area * aspect) ** 0.5), columns)
            top, left = self.py_random.randint(0, rows - height), self.py_random.randint(0, columns - width)
            return {"kept": np.s_[top : top + height, left : left + width]}

        def apply(self, img: np.ndarray, kept: tuple, **params: object) -> np.ndarray:
            cropped = np.zeros_like(img)
            cropped[kept] = img[kept]
            return cropped

    return CropInPlace(p=p)


def _photometric(albumentations: ModuleType) -> list:
    return [
        albumentations.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.2, p=0.5),
        albumentations.HueSaturationValue(hue_shift_limit=6, sat_shift_limit=20, val_shift_limit=0, p=0.5),
        albumentations.RandomGamma(gamma_limit=(80, 125), p=0.5),
    ]


def _camera(albumentations: ModuleType) -> list:
    """Blurs of one pixel's reach: at 14 pixels that is already eight of the face's 112."""
    blur = [albumentations.MotionBlur(blur_limit=(3, 3), p=1), albumentations.Defocus(radius=(1, 1), p=1)]
    return [
        albumentations.OneOf(blur, p=0.3),
        albumentations.GaussNoise(std_range=(0.01, 0.05), p=0.5),
        albumentations.ImageCompression(compression_type="jpeg", quality_range=(40, 95), p=0.5),
    ]


PRESETS: dict[str, Preset] = {
    "none": Preset(flip=False),
    "flip": Preset(),
    "adaface": Preset(low_resolution=True, hr=_adaface),
    "surveillance": Preset(hr=_photometric, lr=_camera),
}


def make_augments(kind: str) -> tuple[Augment | None, Augment | None]:
    """A preset's augmentations of the HR and of the LR image, None for an image that stays as it is.

    Each is `augment(image, seed)`: image (H, W, 3) uint8 RGB, left unchanged, any size from 1x1; seed: an int >= 0; returns
    the same shape and dtype. The same image and seed give the same pixels, in any process. ValueError: an unknown kind.
    """
    if kind not in PRESETS:
        raise ValueError(f"unknown augmentation {kind!r}; choose one of {', '.join(PRESETS)}")
    return tuple(None if getattr(PRESETS[kind], which) is None else _Seeded(kind, which) for which in ("hr", "lr"))


class _Seeded:
    """Pickles as its name, so that spawned workers each build their own."""

    def __init__(self, kind: str, which: str) -> None:
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
        import albumentations
        self._name = kind, which
        self._compose = albumentations.Compose(getattr(PRESETS[kind], which)(albumentations))

    def __reduce__(self) -> tuple:
        return _Seeded, self._name

    def __call__(self, image: np.ndarray, seed: int) -> np.ndarray:
        # set_random_seed would start every transform from the same number, so that all are applied together or none
        self._compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
        return self._compose(image=image)["image"]
