"""Faces on disk -> batches on the device: everything random is keyed by (seed, turn, image), so any run can be resumed or re-cut."""
from __future__ import annotations

import signal
from collections.abc import Generator, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from askd.data.augment import PRESETS, make_augments
from askd.data.decode import decode_rgb
from askd.data.degrade import BYTE_RANGE, RANDOM_KERNELS, degrade, downsample, kernels_of, round_to_8bit, upsample_corners
from askd.data.draws import choices, draws
from askd.data.faces import FaceSet
from askd.data.kernels import SIDE
from askd.data.sampler import make_sampler, of_rank
from askd.data.transfer import ahead
from askd.errors import DataError

# What the draws of one image are for.
MIRROR, SIZE, KERNEL_DOWN, KERNEL_UP, HR_AUGMENT, IS_LOW, LOW_SIZE, _OF_THE_SAMPLER, LR_AUGMENT, REPLACEMENT = range(10)
LOW_SIZES = range(22, SIDE)  # a fifth of the face's side up to all of it, as AdaFace draws
ONE_IN_LOW = 5
IN_CACHE = 16  # images that a CPU core degrades at a time, so that what is made of them on the way stays in its cache
REPLACEMENTS = 20  # images tried in place of one that cannot be read, half of them of the same person


class Batch(NamedTuple):
    """image uint8 (B, 3, 112, 112) RGB channels-last, mirrored where drawn; label int64 (B,); size int64 (B,), pixels; kernels int64 (B, 2)
    for `random`; lr uint8 (B, 3, 112, 112) channels-last, its first size[i] rows and columns the student's image, or None where that is
    yet to be made of `image`; skipped: for each image that could not be read and has another in its place, why; row int64 (B,): twice the
    image's index in the set, and one more where it is mirrored."""

    image: Tensor
    label: Tensor
    size: Tensor
    kernels: Tensor
    lr: Tensor | None
    skipped: tuple[str, ...]
    row: Tensor | None = None


class TrainingBatches:
    """Endless batches of one rank; `batch` images per optimiser step over all ranks together, chosen by a sampler.

    Every draw is a hash of (seed, turn, image index), a turn being an epoch or what the sampler counts instead: batch k is the same
    whoever computes it, whatever came before. degradation matters only to presets that change the LR image.
    skip_bad: an image that cannot be read is replaced, by others of the same person while there are, and told of in
    `Batch.skipped`; otherwise it ends the training with a DataError. ValueError: a batch that cannot be made.
    accumulate: the parts that `cut` will be asked for. device: where images and labels go, ahead of time on CUDA.
    even: whether every rank has as many images as any other, in every batch; least: the fewest images that a rank has of a batch.
    """

    def __init__(
        self, faces: FaceSet, *, batch: int, sizes: Sequence[int], augment: str = "flip", degradation: str = "bicubic",
        sampler: str = "shuffle", images_per_identity: int | None = None, skip_bad: bool = False, seed: int = 0,
        workers: int = 0, rank: int = 0, world: int = 1, drop_last: bool = True, accumulate: int = 1,
        device: torch.device = torch.device("cpu"),
    ):
        self.sampler = make_sampler(sampler, faces.labels, batch, seed, images_per_identity, drop_last)
        unit, last = self.sampler.unit, len(faces) % batch
        if accumulate > 1 and batch % (unit * world * accumulate):
            parts = f"{world} processes and train.accumulate={accumulate}"
            raise ValueError(f"train.batch must be a multiple of {unit * world * accumulate} for {parts}, got {batch}")
        if batch % unit or batch < unit * world:
            raise ValueError(f"train.batch must be a multiple of {unit}, and {unit * world} or more for {world} processes, got {batch}")
        if not drop_last and 0 < last < world:
            raise ValueError(
                f"the last batch of an epoch has {last} of {len(faces)} images, fewer than {world} processes; change train.batch, or leave "
                "it out (data.drop_last=true)"
            )
        if accumulate > 1 and not drop_last and last % (unit * world * accumulate):
            raise ValueError(
                f"the last batch of an epoch has {last} of {len(faces)} images, which {world} processes and train.accumulate={accumulate} cannot "
                "share evenly; change train.batch, or leave it out (data.drop_last=true)"
            )
        self.even = batch % (unit * world) == 0 and (drop_last or last % world == 0)
        self.least = (batch if drop_last or not last else last) // accumulate // unit // world * unit
        self.batch_size, self.workers, self.rank, self.world, self.device = batch, workers, rank, world, device
        self.dataset = _Batches(faces, augment, sizes, degradation, skip_bad, seed)
        self.steps_per_epoch = self.sampler.steps_per_epoch

    def iterate(self, start: int) -> Generator[Batch, None, None]:
        """Batches from step `start` (0-based, counted over the whole training) on; DataError names an image that cannot be read."""
        return ahead(self._read(start), self.device)

    def cut(self, batch: Batch, parts: int) -> list[Batch]:
        """Consecutive rows of a batch in `parts` equal batches."""
        size = len(batch.label) // parts
        return [Batch(*(f[i : i + size] if isinstance(f, Tensor) else f for f in batch)) for i in range(0, size * parts, size)]

    def _read(self, start: int) -> Generator[Batch, None, None]:
        for batch in DataLoader(
            self.dataset, sampler=self._keys(start), batch_size=None, num_workers=self.workers, collate_fn=_as_it_is,
            pin_memory=self.device.type == "cuda", worker_init_fn=_leave_signals_to_the_parent,
            generator=torch.Generator(),  # its own, so that the global state stays the model's
        ):
            if isinstance(batch, DataError):
                break
            yield batch
        raise batch  # outside the loop, whose workers have ended by now

    def skipped(self, batch: Batch) -> Sequence[str]:
        """Why images of a batch are others than the sampler chose, one line for each."""
        return batch.skipped

    def _keys(self, start: int) -> Iterator[np.ndarray]:
        return (of_rank(keys, self.sampler.unit, self.rank, self.world) for keys in self.sampler.iterate(start))


def _as_it_is(batch: Batch | DataError) -> Batch | DataError:
    return batch


def _leave_signals_to_the_parent(worker: int) -> None:
    """A stop signal goes to the whole process group; the training process must still get its batch to write a checkpoint."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class _Batches(Dataset):
    """A sampler's keys -> the batch, in a worker."""

    def __init__(self, faces: FaceSet, augment: str, sizes: Sequence[int], degradation: str, skip_bad: bool, seed: int):
        self.faces, self.degradation, self.skip_bad, self.seed = faces, degradation, skip_bad, seed
        self.sizes = np.array(list(sizes))
        self.augment_hr, self.augment_lr = make_augments(augment)
        self.preset = PRESETS[augment]

    def __getitem__(self, keys: np.ndarray) -> Batch | DataError:
        turn, index = keys.T.astype(np.uint64)

        def choice(purpose: int, of: int) -> np.ndarray:
            return choices(self.seed, turn, index, purpose, of)

        mirror = choice(MIRROR, 2).astype(bool) & self.preset.flip
        size = self.sizes[choice(SIZE, len(self.sizes))]
        if self.preset.low_resolution:
            low = np.where(choice(IS_LOW, ONE_IN_LOW) == 0, choice(LOW_SIZE, len(LOW_SIZES)) + LOW_SIZES.start, SIDE)
            size = np.minimum(size, low)
        kernels = np.stack([choice(KERNEL_DOWN, len(RANDOM_KERNELS)), choice(KERNEL_UP, len(RANDOM_KERNELS))], 1)
        hr_seed, lr_seed = (draws(self.seed, turn, index, purpose) >> np.uint64(33) for purpose in (HR_AUGMENT, LR_AUGMENT))

        image = np.empty((len(keys), SIDE, SIDE, 3), np.uint8)
        lr = np.zeros_like(image) if self.augment_lr else None
        label, looked_up, skipped = np.empty(len(keys), np.int64), np.empty(len(keys), np.int64), []
        for row, (this_turn, wanted) in enumerate(keys.tolist()):
            try:
                face, shown = self._read(this_turn, wanted, skipped)
            except DataError as error:  # returned, because a worker that raises has its traceback put into the message
                return error
            label[row], looked_up[row] = self.faces.labels[shown], 2 * shown + mirror[row]
            if self.augment_hr:
                face = self.augment_hr(face, int(hr_seed[row]))
            if mirror[row]:
                cv2.flip(face, 1, dst=image[row])
            else:
                image[row] = face
            if self.augment_lr:
                small = self._downsampled(image[row], int(size[row]), kernels[row])
                lr[row, : size[row], : size[row]] = self.augment_lr(small, int(lr_seed[row]))
        return Batch(_channels_last(image), *map(torch.from_numpy, (label, size, kernels)), _channels_last(lr), tuple(skipped), torch.from_numpy(looked_up))

    def _read(self, turn: int, wanted: int, skipped: list[str]) -> tuple[np.ndarray, int]:
        """The image and its index; if it cannot be read, of the first of its replacements that can."""
        try:
            return self._decoded(wanted), wanted
        except DataError as error:
            if not self.skip_bad:
                raise
            skipped.append(str(error))
        for index in self._replacements(turn, wanted):
            try:
                return self._decoded(index), index
            except DataError:  # this one is told of when its own turn comes
                continue
        raise DataError(f"{skipped[-1]} (nor can {REPLACEMENTS} images in its place be read)")

    def _replacements(self, turn: int, wanted: int) -> Iterator[int]:
        keys = np.uint64(turn), np.uint64(wanted)
        person = np.flatnonzero(self.faces.labels == self.faces.labels[wanted])
        others = person[person != wanted]
        if len(others):
            first = int(choices(self.seed, *keys, REPLACEMENT, len(others)))
            yield from islice(np.roll(others, -first).tolist(), REPLACEMENTS // 2)
        for attempt in range(REPLACEMENTS // 2):
            yield int(choices(self.seed, *keys, REPLACEMENT + 1 + attempt, len(self.faces)))

    def _decoded(self, index: int) -> np.ndarray:
        return decode_rgb(self.faces.encoded(index), self.faces.name(index))

    def _downsampled(self, face: np.ndarray, size: int, kernels: np.ndarray) -> np.ndarray:
        """As a camera would store it: (size, size, 3) uint8."""
        lr = downsample(_channels_last(face[None]), size, kernels_of(self.degradation, kernels).down)
        return round_to_8bit(lr, BYTE_RANGE)[0].permute(1, 2, 0).to(torch.uint8).numpy()


def _channels_last(images: np.ndarray | None) -> Tensor | None:
    """(B, H, W, 3) as (B, 3, H, W), the same memory."""
    return None if images is None else torch.from_numpy(images).permute(0, 3, 1, 2)


def to_unit(image: Tensor, out: Tensor | None = None) -> Tensor:
    """0..255 -> float32 [-1, 1], the (x - 127.5) / 127.5 of InsightFace; into `out` if given."""
    return torch.sub(image, 127.5, out=out).div_(127.5)


def prepare(batch: Batch, device: torch.device, degradation: str, quantise: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """(hr, lr, label) on the device: lr degraded per image, float32 [-1, 1], (B, 3, 112, 112) both.

    An LR image that was augmented is only enlarged: it is 8 bit already, whatever `quantise` says.
    """
    image, label = (tensor.to(device, non_blocking=True) for tensor in batch[:2])
    corners = None if batch.lr is None else batch.lr.to(device, non_blocking=True)
    if bool((batch.size == SIDE).all()):
        hr = to_unit(image)
        return hr, hr if corners is None else to_unit(corners), label
    hr, lr = (torch.empty_like(image, dtype=torch.float32) for _ in range(2))
    piece = IN_CACHE if device.type == "cpu" else len(image)
    for rows in (slice(start, start + piece) for start in range(0, len(image), piece)):
        size, kernels = batch.size[rows], batch.kernels[rows] if degradation == "random" else None
        if bool((size == size[0]).all()) and size[0] != SIDE:
            size = int(size[0])
        to_unit(image[rows], out=hr[rows])
        if corners is None:
            degraded = degrade(image[rows], size, degradation, draws=kernels, quantise=quantise)
        else:
            degraded = upsample_corners(corners[rows], size, degradation, draws=kernels)
        to_unit(degraded, out=lr[rows])
    return hr, lr, label
