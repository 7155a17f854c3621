"""Where a network that gives no gradient looks: a grey square hides one part of the face after another (Zeiler & Fergus, ECCV 2014)."""
from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

PATCH, STRIDE = 28, 14  # pixels: 49 squares on a face of 112
GREY = 0.0  # in [-1, 1]


@torch.inference_mode()
def occlusion(
    embed: Callable[[Tensor], Tensor], images: Tensor, partner: Tensor | None = None, patch: int = PATCH, stride: int = STRIDE,
    batch: int = 64,
) -> Tensor:
    """How much the similarity falls when a square around a pixel is hidden, on average over the squares that hide it: (B, H, W) float32.

    embed: (N, 3, H, W) in [-1, 1] -> (N, E). images: (B, 3, H, W). partner: (B, E) embeddings to compare with; None compares with the
    face's own, unhidden. Negative where hiding makes the two more alike. Squares of `patch` pixels stand every `stride` pixels and at
    the far edges. Raises ValueError for a patch larger than the image or a stride larger than the patch, which would leave gaps.
    """
    height, width = images.shape[2:]
    if not 1 <= stride <= patch <= min(height, width):
        raise ValueError(f"occlusion needs 1 <= stride <= patch <= the image's side, got stride {stride}, patch {patch}, {height}x{width}")
    whole = embed(images).float()
    partner = whole if partner is None else partner.to(whole)
    before = F.cosine_similarity(whole, partner, dim=1)
    places = [(top, left) for top in _starts(height, patch, stride) for left in _starts(width, patch, stride)]
    fall, covers = images.new_zeros(len(images), height, width), images.new_zeros(height, width)
    each = max(batch // len(images), 1)
    for start in range(0, len(places), each):
        some = places[start:start + each]
        hidden = images.repeat(len(some), 1, 1, 1)
        for number, (top, left) in enumerate(some):
            hidden[number * len(images):(number + 1) * len(images), :, top:top + patch, left:left + patch] = GREY
        after = F.cosine_similarity(embed(hidden).float(), partner.repeat(len(some), 1), dim=1).view(len(some), -1)
        for (top, left), now in zip(some, after):
            fall[:, top:top + patch, left:left + patch] += (before - now)[:, None, None]
            covers[top:top + patch, left:left + patch] += 1
    return fall / covers


def _starts(side: int, patch: int, stride: int) -> list[int]:
    return sorted({*range(0, side - patch + 1, stride), side - patch})
