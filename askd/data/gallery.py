"""Sets for identification (probes against a gallery) and for templates (several images of a subject pooled into one)."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

NOBODY = -1


class Images(Protocol):
    """Encoded images of any size, read when asked for."""

    def __len__(self) -> int:
        """Number of images, N."""

    def encoded(self, index: int) -> bytes:
        """An image as stored."""

    def name(self, index: int) -> str:
        """Its file, for messages."""


@dataclass(frozen=True)
class IdentificationSet:
    """P probes to be found among G gallery images.

    `images` N images; `probe` int64 (P,) and `gallery` int64 (G,) indices into them; `identity` int64 (N,), NOBODY (-1) for a
    distractor. Closed set: every probe has a mate in the gallery. Open set: some have none.
    """

    name: str
    images: Images
    probe: np.ndarray
    gallery: np.ndarray
    identity: np.ndarray


@dataclass(frozen=True)
class TemplateSet:
    """T templates made of N images, and what is compared.

    `template` int64 (N,) 0..T-1 and `media` int64 (N,) (images of one medium, a video say, are averaged first);
    `subject` int64 (T,). 1:1: `left`, `right` int64 (P,) templates, `same` bool (P,). 1:N: `probe` int64 (Q,) and `galleries`, each int64 (G,)
    templates; empty where the source has no such lists.
    """

    name: str
    images: Images
    template: np.ndarray
    media: np.ndarray
    subject: np.ndarray
    left: np.ndarray
    right: np.ndarray
    same: np.ndarray
    probe: np.ndarray
    galleries: list[np.ndarray]
