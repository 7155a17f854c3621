"""Embeddings of faces, plain and mirrored: of decoded ones at one size, or of stored ones, decoded batch by batch for all sizes."""
from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from askd.data.decode import decode_rgb
from askd.data.degrade import EVALUATION_OF, degrade
from askd.data.gallery import Images
from askd.data.loader import to_unit
from askd.data.native import decode_native
from askd.errors import TrainingError
from askd.evaluation.report import FULL_SIZE, NATIVE, Size, size_name

Embed = Callable[[Tensor], Tensor]  # (B, 3, 112, 112) float32 [-1, 1] -> (B, D)


def decode_all(encoded: Sequence[bytes], names: Sequence[str]) -> Tensor:
    """Encoded images to uint8 (N, 3, 112, 112) RGB, channels-last; DataError names the first that cannot be read."""
    images = [decode_rgb(image, name) for image, name in zip(encoded, names, strict=True)]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


@torch.inference_mode()
def embed(
    model: Embed, images: Tensor, size: int, degradation: str, *, device: torch.device, batch: int = 128, quantise: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings (N, D) float32 of the images and of their mirror images, at `size` pixels.

    images: uint8 (N, 3, 112, 112). The image the model would see is mirrored, that is, after the degradation.
    Raises TrainingError where the model returns a non-finite embedding.
    """
    parts = _parts(len(images), batch)
    both = [_embed(model, images[part].to(device), size, degradation, quantise, part) for part in parts]
    return np.concatenate([plain for plain, _ in both]), np.concatenate([mirrored for _, mirrored in both])


def embed_stored(
    model: Embed, images: Images, sizes: Sequence[Size], degradation: str, *, device: torch.device, batch: int = 128,
    quantise: bool = False, share: tuple[int, int] = (0, 1),
) -> Iterator[tuple[Size, slice, np.ndarray, np.ndarray]]:
    """Embed stored images, each decoded once for all sizes, in threads and one batch ahead, so that few are held at a time.

    sizes: pixels, for images of 112x112; or NATIVE, for images of any size, as `decode_native` sees them. share: (rank, ranks), every
    ranks-th batch from the rank-th on, so that the batches are the same however many share them. Yields, batch by batch and size by size,
    (size, which images, their embeddings, those of their mirror images), (B, D) float32 each.
    Raises DataError naming an image that cannot be read, TrainingError where the model returns a non-finite embedding.
    """
    rank, ranks = share
    for part, pixels in _decoded(images, _parts(len(images), batch)[rank::ranks], degradation if NATIVE in sizes else None):
        pixels = pixels.to(device)
        for size in sizes:
            with torch.inference_mode():
                plain, mirrored = _embed(model, pixels, size, degradation, quantise, part)
            yield size, part, plain, mirrored


def _embed(model: Embed, images: Tensor, size: Size, degradation: str, quantise: bool, part: slice) -> tuple[np.ndarray, np.ndarray]:
    pixels = FULL_SIZE if size == NATIVE else size
    seen = to_unit(degrade(images, pixels, EVALUATION_OF.get(degradation, degradation), quantise=quantise))
    both = model(torch.cat([seen, seen.flip(3)])).float().cpu().numpy()
    if not np.isfinite(both).all():
        at = "native size" if size == NATIVE else size_name(size)
        raise TrainingError(
            f"the network gives non-finite embeddings at {at} (images {part.start} to {part.stop - 1}): its training diverged (lower the "
            "learning rate, clip gradients, or take an earlier checkpoint), or it is fed what it does not take"
        )
    return both[: len(images)], both[len(images) :]


def _decoded(images: Images, parts: Sequence[slice], native: str | None) -> Iterator[tuple[slice, Tensor]]:
    """Batches (B, 3, 112, 112), channels-last: uint8 of aligned faces, or float32 0..255 of any under degradation `native`."""
    def read(index: int) -> np.ndarray:
        encoded, name = images.encoded(index), images.name(index)
        return decode_rgb(encoded, name) if native is None else decode_native(encoded, name, native)

    if not parts:
        return
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as threads:
        ahead = [threads.submit(read, index) for index in range(parts[0].start, parts[0].stop)]
        for part, following in zip(parts, [*parts[1:], slice(0, 0)]):
            now, ahead = ahead, [threads.submit(read, index) for index in range(following.start, following.stop)]
            yield part, torch.from_numpy(np.stack([image.result() for image in now])).permute(0, 3, 1, 2)


def _parts(images: int, batch: int) -> list[slice]:
    return [slice(start, min(start + batch, images)) for start in range(0, images, batch)]
