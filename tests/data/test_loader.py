"""A batch is a function of its number alone, an epoch shows every image once, and what is drawn is uniform."""
from __future__ import annotations

import multiprocessing
from itertools import islice

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from askd.data.degrade import CHAINS, RANDOM_KERNELS, degrade
from askd.data.loader import Batch, TrainingBatches, draws, prepare, to_unit
from askd.errors import DataError

SIZES = [14, 28, 56, 112]


class Faces:
    """Image i is all of colour (i, 2 i, 255 - i): a batch shows which images it holds. Those in `broken` are none."""

    def __init__(self, count: int, broken: tuple[int, ...] = ()):
        self.labels = np.arange(count, dtype=np.int64) // 3
        self.class_names = [f"person {i}" for i in range(self.labels.max() + 1)]
        self.broken = broken

    def __len__(self) -> int:
        return len(self.labels)

    def encoded(self, index: int) -> bytes:
        if index in self.broken:
            return b"\xff\xd8 no more of it"
        bgr = np.full((112, 112, 3), (255 - index, 2 * index, index), np.uint8)
        return cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()

    def name(self, index: int) -> str:
        return f"set: record {index}"


def which(batch: Batch) -> list[int]:
    """The images of a batch, known by their colour."""
    return batch.image[:, 0, 0, 0].tolist()


def take(faces, start: int, count: int, **options) -> list[Batch]:
    return list(islice(TrainingBatches(faces, **options).iterate(start), count))


def assert_equal(a: Batch, b: Batch) -> None:
    for field, ours, theirs in zip(Batch._fields, a, b, strict=True):
        assert torch.equal(ours, theirs), field


@pytest.fixture(scope="module")
def faces() -> Faces:
    return Faces(23)


def test_what_a_batch_holds(faces):
    batch, = take(faces, 0, 1, batch=5, sizes=SIZES)
    assert (batch.image.shape, batch.image.dtype) == ((5, 3, 112, 112), torch.uint8)
    assert batch.image.is_contiguous(memory_format=torch.channels_last)
    assert (batch.label.shape, batch.label.dtype) == ((5,), torch.int64)
    assert (batch.flip.shape, batch.flip.dtype) == ((5,), torch.bool)
    assert (batch.size.shape, batch.size.dtype) == ((5,), torch.int64)
    assert (batch.kernels.shape, batch.kernels.dtype) == ((5, 2), torch.int64)
    for row, index in enumerate(which(batch)):
        assert batch.image[row, :, 7, 9].tolist() == [index, 2 * index, 255 - index]  # RGB
        assert batch.label[row] == index // 3
    assert set(batch.size.tolist()) <= set(SIZES)
    assert 0 <= batch.kernels.min() and batch.kernels.max() < len(RANDOM_KERNELS)


def test_batches_of_a_colour_can_be_told_apart(faces):
    first, = take(faces, 0, 1, batch=23, sizes=SIZES)
    assert sorted(which(first)) == list(range(23))


@pytest.mark.parametrize("augment", ["none", "photometric"])
@pytest.mark.parametrize("workers", [0, 2])
def test_batch_is_a_function_of_its_number(faces, workers, augment):
    options = dict(batch=5, sizes=SIZES, seed=4, augment=augment)
    whole = take(faces, 0, 10, **options)  # two and a half epochs of 4 steps
    for start in (3, 4, 9):
        for offset, batch in enumerate(take(faces, start, 10 - start, workers=workers, **options)):
            assert_equal(batch, whole[start + offset])


@settings(max_examples=15, deadline=None)
@given(
    count=st.integers(4, 30), batch=st.integers(2, 4), world=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 2**63 - 1), start=st.integers(0, 30),
)
def test_ranks_share_one_batch(count, batch, world, seed, start):
    faces, batch = Faces(count), 4 if world == 4 else batch // world * world
    options = dict(batch=batch, sizes=SIZES, seed=seed)
    whole, = take(faces, start, 1, **options)
    parts = [take(faces, start, 1, rank=rank, world=world, **options)[0] for rank in range(world)]
    assert all(len(part.label) == batch // world for part in parts)
    # Rank r has every world-th image from the r-th on: interleaved they are the batch, with all its draws.
    interleaved = Batch(*(torch.stack(fields, 1).flatten(0, 1) for fields in zip(*parts, strict=True)))
    assert_equal(interleaved, whole)


def test_every_image_once_per_epoch(faces):
    epochs = []
    for epoch in range(12):
        shown = [image for batch in take(faces, 4 * epoch, 4, batch=5, sizes=[14]) for image in which(batch)]
        assert len(shown) == len(set(shown)) == 20  # of 23: the last incomplete batch is dropped
        epochs.append(shown)
    assert set().union(*epochs) == set(range(23))  # not the same three every time
    assert len({tuple(shown) for shown in epochs}) == 12  # nor the same order
    exact = [image for batch in take(Faces(20), 0, 4, batch=5, sizes=[14]) for image in which(batch)]
    assert sorted(exact) == list(range(20))


def test_seeds_differ_and_repeat(faces):
    def signature(seed):
        batches = take(faces, 0, 4, batch=5, sizes=SIZES, seed=seed)
        return [(which(b), b.flip.tolist(), b.size.tolist(), b.kernels.tolist()) for b in batches]

    assert signature(0) == signature(0)
    assert signature(0) != signature(1)


def test_an_image_is_drawn_for_anew_each_epoch(faces):
    seen = {}
    for batch in take(faces, 0, 40, batch=5, sizes=SIZES):
        for row, image in enumerate(which(batch)):
            seen.setdefault(image, []).append((bool(batch.flip[row]), int(batch.size[row])))
    assert all(len(set(drawn)) > 1 for drawn in seen.values())


def test_flips_are_half_and_sizes_and_kernels_equally_often(faces):
    batches = take(faces, 0, 200, batch=20, sizes=SIZES)
    flips, sizes = torch.cat([b.flip for b in batches]), torch.cat([b.size for b in batches])
    kernels = torch.cat([b.kernels for b in batches])
    count = len(flips)
    five_sigma = 2.5 * count**0.5
    assert abs(flips.sum().item() - count / 2) < five_sigma
    for size in SIZES:
        assert abs((sizes == size).sum().item() - count / 4) < five_sigma
        # Flips do not go by size.
        assert abs(flips[sizes == size].sum().item() - (sizes == size).sum().item() / 2) < five_sigma / 2
    for kernel in range(len(RANDOM_KERNELS)):
        assert ((kernels == kernel).sum(0).double() - count / 5).abs().max() < five_sigma
    assert abs((kernels[:, 0] == kernels[:, 1]).sum().item() - count / 5) < five_sigma  # down says nothing about up


def test_flips_can_be_turned_off(faces):
    assert not any(batch.flip.any() for batch in take(faces, 0, 8, batch=5, sizes=[14], flip=False))


def test_draws_repeat_and_take_everything_into_account():
    epoch, index = np.array([3, 3, 4], np.uint64), np.array([5, 6, 5], np.uint64)
    drawn = draws(7, epoch, index, purpose=1)
    assert drawn.dtype == np.uint64 and len(set(drawn.tolist())) == 3
    assert np.array_equal(drawn, draws(7, epoch, index, purpose=1))
    assert [int(draws(7, e, i, purpose=1)) for e, i in zip(epoch, index)] == drawn.tolist()  # one by one, the same
    assert not set(drawn.tolist()) & set(draws(8, epoch, index, purpose=1).tolist())
    assert not set(drawn.tolist()) & set(draws(7, epoch, index, purpose=2).tolist())
    assert draws(2**63 - 1, epoch, index, purpose=0).shape == (3,)


def test_draws_are_splitmix64_folded_over_seed_purpose_epoch_and_image():
    mask, golden = 2**64 - 1, 0x9E3779B97F4A7C15

    def step(state):
        word = state + golden & mask
        word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 & mask
        word = (word ^ word >> 27) * 0x94D049BB133111EB & mask
        return word ^ word >> 31

    # The usual test vector of splitmix64: the first three outputs from seed 1234567.
    outputs = [step(1234567 + n * golden) for n in range(3)]
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]
    expected = 0
    for word in (11, 2, 33, 44):  # seed, purpose, epoch, index
        expected = step(expected + word & mask)
    assert int(draws(11, np.array([33], np.uint64), np.array([44], np.uint64), purpose=2)[0]) == expected


@pytest.mark.parametrize("of", [2, 4, 5, 16])
@pytest.mark.parametrize("purpose", [0, 1, 4])
def test_draws_are_uniform(of, purpose):
    epoch, index = np.meshgrid(np.arange(40, dtype=np.uint64), np.arange(1000, dtype=np.uint64))
    drawn = draws(0, epoch.ravel(), index.ravel(), purpose)
    for values in (drawn % np.uint64(of), (drawn >> np.uint64(32)) % np.uint64(of)):
        counts = np.bincount(values.astype(int), minlength=of)
        chi_square = ((counts - len(drawn) / of) ** 2).sum() / (len(drawn) / of)
        assert chi_square < (of - 1) + 6 * (2 * (of - 1)) ** 0.5 + 6
    # Neighbours are independent: (draw of image i, draw of image i + 1) fill a square evenly.
    grid = (drawn % np.uint64(of)).astype(int).reshape(1000, 40)
    joint = np.bincount((grid[:-1] * of + grid[1:]).ravel(), minlength=of * of)
    expected = joint.sum() / of**2
    assert ((joint - expected) ** 2).sum() / expected < of**2 - 1 + 6 * (2 * (of**2 - 1)) ** 0.5 + 6


@pytest.mark.parametrize("workers", [0, 2])
def test_image_that_cannot_be_read_is_named_in_one_line(workers):
    batches = TrainingBatches(Faces(12, broken=(7,)), batch=4, sizes=[14], workers=workers)
    with pytest.raises(DataError, match="set: record 7") as error:
        list(islice(batches.iterate(0), 3))
    assert "\n" not in str(error.value) and "Traceback" not in str(error.value)


def test_workers_end_with_the_iterator(faces):
    iterator = TrainingBatches(faces, batch=5, sizes=[14], workers=2).iterate(0)
    next(iterator)
    assert len(multiprocessing.active_children()) == 2
    iterator.close()
    assert not multiprocessing.active_children()
    broken = TrainingBatches(Faces(12, broken=(7,)), batch=12, sizes=[14], workers=2).iterate(0)
    with pytest.raises(DataError) as error:
        next(broken)
    assert error.tb is not None and not multiprocessing.active_children()  # though the traceback keeps its frames alive


def test_too_few_images_and_uneven_ranks_are_refused(faces):
    with pytest.raises(ValueError, match="batch of 24.*got 23"):
        TrainingBatches(faces, batch=24, sizes=[14])
    with pytest.raises(ValueError, match="multiple of the 2 processes, got 5"):
        TrainingBatches(faces, batch=5, sizes=[14], world=2)


CPU = torch.device("cpu")


def made_batch(sizes: list[int], flips: list[bool]) -> Batch:
    generator = torch.Generator().manual_seed(0)
    count = len(sizes)
    image = torch.randint(0, 256, (count, 112, 112, 3), dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)
    kernels = torch.randint(0, 5, (count, 2), generator=generator)
    return Batch(image, torch.arange(count), torch.tensor(flips), torch.tensor(sizes), kernels)


def test_to_unit_is_insightface_scaling():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_unit(levels), torch.from_numpy((np.arange(256, dtype=np.float32) - 127.5) / 127.5))
    assert to_unit(levels).aminmax() == (-1, 1)


def test_prepare_flips_both_images_and_scales_them():
    batch = made_batch([14, 14, 14], [True, False, True])
    hr, lr, label = prepare(batch, CPU, "bicubic")
    mirrored = batch.image.numpy().copy()
    mirrored[[0, 2]] = mirrored[[0, 2], :, :, ::-1]
    assert np.array_equal(hr.numpy(), (mirrored.astype(np.float32) - 127.5) / 127.5)
    expected = (degrade(torch.from_numpy(mirrored), 14, "bicubic") - 127.5) / 127.5
    torch.testing.assert_close(lr, expected, rtol=0, atol=1e-6)
    assert torch.equal(label, torch.arange(3))
    for image in (hr, lr):
        assert image.dtype == torch.float32 and image.shape == (3, 3, 112, 112) and image.abs().max() <= 1
    assert (hr - lr).abs().mean() > 0.1


def test_prepare_at_full_resolution_is_the_identity():
    batch = made_batch([112, 112], [False, True])
    for degradation in ("bicubic", "released", "random"):
        hr, lr, _ = prepare(batch, CPU, degradation, quantise=True)
        assert torch.equal(hr, lr)
        assert torch.equal(hr, to_unit(torch.stack([batch.image[0], batch.image[1].flip(2)])))


@pytest.mark.parametrize("degradation", sorted(CHAINS))
@pytest.mark.parametrize("quantise", [False, True])
def test_sizes_in_one_batch_do_not_disturb_each_other(degradation, quantise):
    batch = made_batch([14, 112, 56, 28, 7], [False, True, False, True, False])
    hr, lr, _ = prepare(batch, CPU, degradation, quantise)
    for row, size in enumerate(batch.size.tolist()):
        image = batch.image[row : row + 1].flip(3) if batch.flip[row] else batch.image[row : row + 1]
        alone = to_unit(degrade(image, torch.tensor([size]), degradation, quantise=quantise))
        torch.testing.assert_close(lr[row : row + 1], alone, rtol=0, atol=1e-5)
        assert torch.equal(hr[row : row + 1], to_unit(image))


def test_random_kernels_are_the_batch_s_own():
    batch = made_batch([14, 28, 56], [False, False, False])
    _, lr, _ = prepare(batch, CPU, "random")
    expected = to_unit(degrade(batch.image, batch.size, "random", draws=batch.kernels))
    assert torch.equal(lr, expected)
    _, other, _ = prepare(batch._replace(kernels=(batch.kernels + 1) % 5), CPU, "random")
    assert (lr - other).abs().amax((1, 2, 3)).min() > 0.01
