"""Embeddings of a pair set's images at one size: decoded once, degraded and embedded in batches, plain and mirrored."""
from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from askd.data.decode import decode_rgb
from askd.data.degrade import EVALUATION_OF, degrade
from askd.data.loader import to_unit
from askd.errors import TrainingError


def decode_all(encoded: Sequence[bytes], names: Sequence[str]) -> Tensor:
    """Encoded images to uint8 (N, 3, 112, 112) RGB, channels-last; DataError names the first that cannot be read."""
    images = [decode_rgb(image, name) for image, name in zip(encoded, names, strict=True)]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


@torch.inference_mode()
def embed(
    model: Callable[[Tensor], Tensor], images: Tensor, size: int, degradation: str, *, device: torch.device, batch: int = 128,
    quantise: bool = False, progress: Callable[[int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings (N, D) float32 of the images and of their mirror images, at `size` pixels.

    model: (B, 3, 112, 112) float32 [-1, 1] -> (B, D); images: uint8 (N, 3, 112, 112). The image the model would see is mirrored,
    that is, after the degradation. Raises TrainingError where the model returns a non-finite embedding.
    """
    plain, mirrored = [], []
    for start in range(0, len(images), batch):
        chunk = images[start : start + batch].to(device)
        seen = to_unit(degrade(chunk, size, EVALUATION_OF.get(degradation, degradation), quantise=quantise))
        both = model(torch.cat([seen, seen.flip(3)])).float().cpu().numpy()
        if not np.isfinite(both).all():
            raise TrainingError(
                f"the network gives non-finite embeddings at {size} px (images {start} to {start + len(chunk) - 1}): its training "
                "diverged; lower the learning rate, clip gradients, or take an earlier checkpoint"
            )
        plain.append(both[: len(chunk)])
        mirrored.append(both[len(chunk) :])
        if progress:
            progress(len(chunk))
    return np.concatenate(plain), np.concatenate(mirrored)
