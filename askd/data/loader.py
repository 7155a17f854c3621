"""Faces on disk -> batches on the device: order, flips, sizes and augmentation keyed by (seed, epoch, image), so any run can be resumed or re-cut."""
from __future__ import annotations

import signal
from collections.abc import Generator, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from askd.data.augment import make_augment
from askd.data.decode import decode_rgb
from askd.data.degrade import RANDOM_KERNELS, degrade
from askd.data.faces import FaceSet
from askd.errors import DataError


class Batch(NamedTuple):
    """image uint8 (B, 3, 112, 112) RGB channels-last; label int64 (B,); flip bool (B,); size int64 (B,), pixels; kernels int64 (B, 2) for `random`."""

    image: Tensor
    label: Tensor
    flip: Tensor
    size: Tensor
    kernels: Tensor


class TrainingBatches:
    """Endless batches of one rank; `batch` images per optimiser step over all ranks together, the last incomplete batch of an epoch is dropped.

    Every draw is a hash of (seed, epoch, image index): batch k is the same whoever computes it, whatever came before.
    """

    def __init__(
        self, faces: FaceSet, *, batch: int, sizes: Sequence[int], flip: bool = True, augment: str = "none", seed: int = 0,
        workers: int = 0, rank: int = 0, world: int = 1,
    ):
        if len(faces) < batch:
            raise ValueError(f"a batch of {batch} needs at least as many images, got {len(faces)}; lower train.batch")
        if batch % world:
            raise ValueError(f"train.batch must be a multiple of the {world} processes, got {batch}")
        self.faces, self.batch_size, self.workers = faces, batch, workers
        self.sizes, self.flip, self.seed, self.rank, self.world = torch.tensor(list(sizes)), flip, seed, rank, world
        self.dataset = _Decoded(faces, make_augment(augment), seed)
        self.steps_per_epoch = len(faces) // batch

    def iterate(self, start: int) -> Generator[Batch, None, None]:
        """Batches from step `start` (0-based, counted over the whole training) on; DataError names an image that cannot be read."""
        for batch in DataLoader(
            self.dataset, batch_sampler=self._index_batches(start), num_workers=self.workers, collate_fn=self._collate,
            pin_memory=torch.cuda.is_available(), worker_init_fn=_leave_signals_to_the_parent,
            generator=torch.Generator(),  # its own, so that the global state stays the model's
        ):
            if isinstance(batch, DataError):
                break
            yield batch
        raise batch  # outside the loop, whose workers have ended by now

    def _index_batches(self, start: int) -> Iterator[list[tuple[int, int]]]:
        epoch, position = divmod(start, self.steps_per_epoch)
        while True:
            order = np.random.default_rng([self.seed, epoch]).permutation(len(self.faces))
            for step in range(position, self.steps_per_epoch):
                whole = order[step * self.batch_size : (step + 1) * self.batch_size]
                yield [(epoch, int(index)) for index in whole[self.rank :: self.world]]
            epoch, position = epoch + 1, 0

    def _collate(self, samples: list[tuple[np.ndarray, int, int, int] | DataError]) -> Batch | DataError:
        for sample in samples:
            if isinstance(sample, DataError):
                return sample
        images, labels, epochs, indices = zip(*samples)
        image = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)  # (B, 3, H, W), channels-last in memory
        keys = np.array(epochs, np.uint64), np.array(indices, np.uint64)

        def choice(of: int, purpose: int) -> Tensor:
            return torch.from_numpy((draws(self.seed, *keys, purpose=purpose) % np.uint64(of)).astype(np.int64))

        flip = choice(2, purpose=0).bool() if self.flip else torch.zeros(len(labels), dtype=torch.bool)
        size = self.sizes[choice(len(self.sizes), purpose=1)]
        kernels = torch.stack([choice(len(RANDOM_KERNELS), purpose=2), choice(len(RANDOM_KERNELS), purpose=3)], 1)
        return Batch(image, torch.tensor(labels), flip, size, kernels)


def _leave_signals_to_the_parent(worker: int) -> None:
    """A stop signal goes to the whole process group; the training process must still get its batch to write a checkpoint."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class _Decoded(Dataset):
    def __init__(self, faces: FaceSet, augment, seed: int):
        self.faces, self.augment, self.seed = faces, augment, seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[np.ndarray, int, int, int] | DataError:
        epoch, index = key
        try:
            image = decode_rgb(self.faces.encoded(index), self.faces.name(index))
        except DataError as error:  # returned, because a worker that raises has its traceback put into the message
            return error
        seed = int(draws(self.seed, np.uint64(epoch), np.uint64(index), purpose=4) >> np.uint64(33))
        return self.augment(image, seed), int(self.faces.labels[index]), epoch, index


def draws(seed: int, epoch: np.ndarray, index: np.ndarray, purpose: int) -> np.ndarray:
    """Uniform uint64 per (seed, epoch, index, purpose): splitmix64 (Steele et al., OOPSLA 2014) folded over the four."""
    with np.errstate(over="ignore"):
        state = np.zeros(np.broadcast(epoch, index).shape, np.uint64)
        for word in (np.uint64(seed), np.uint64(purpose), epoch, index):
            state = state + word + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return state


def to_unit(image: Tensor) -> Tensor:
    """0..255 -> float32 [-1, 1], the (x - 127.5) / 127.5 of InsightFace."""
    return (image.float() - 127.5) / 127.5


def prepare(batch: Batch, device: torch.device, degradation: str, quantise: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """(hr, lr, label) on the device: flipped, degraded per image, float32 [-1, 1], (B, 3, 112, 112) both."""
    image, label, flip = (tensor.to(device, non_blocking=True) for tensor in batch[:3])
    image = torch.where(flip[:, None, None, None], image.flip(3), image)
    hr = to_unit(image)
    if bool((batch.size == 112).all()):
        return hr, hr, label
    size = int(batch.size[0]) if bool((batch.size == batch.size[0]).all()) else batch.size
    kernels = batch.kernels if degradation == "random" else None
    return hr, to_unit(degrade(image, size, degradation, draws=kernels, quantise=quantise)), label
