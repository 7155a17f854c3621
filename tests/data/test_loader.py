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

from askd.data.augment import PRESETS, Preset
from askd.data.degrade import CHAINS, RANDOM_KERNELS, degrade, downsample
from askd.data.draws import draws
from askd.data.loader import Batch, TrainingBatches, prepare, to_unit
from askd.errors import DataError

SIZES = [14, 28, 56, 112]
CPU = torch.device("cpu")


class Faces:
    """Image i is all of colour (i, 2 i, 255 - i), but for a black corner at the lower left: a batch shows which images it
    holds, and which way round. Those in `broken` are none."""

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
        bgr[-8:, :8] = 0
        return cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()

    def name(self, index: int) -> str:
        return f"set: record {index}"


def which(batch: Batch) -> list[int]:
    """The images of a batch, known by their colour."""
    return batch.image[:, 0, 0, 0].tolist()


def mirrored(batch: Batch) -> torch.Tensor:
    assert ((batch.image[:, 2, -1, 0] == 0) != (batch.image[:, 2, -1, -1] == 0)).all()
    return batch.image[:, 2, -1, -1] == 0


def take(faces, start: int, count: int, **options) -> list[Batch]:
    return list(islice(TrainingBatches(faces, **options).iterate(start), count))


def assert_equal(a: Batch, b: Batch) -> None:
    for field, ours, theirs in zip(Batch._fields, a, b, strict=True):
        assert torch.equal(ours, theirs) if isinstance(ours, torch.Tensor) else ours == theirs, field


@pytest.fixture(scope="module")
def faces() -> Faces:
    return Faces(23)


def test_what_a_batch_holds(faces):
    batch, = take(faces, 0, 1, batch=5, sizes=SIZES)
    assert (batch.image.shape, batch.image.dtype) == ((5, 3, 112, 112), torch.uint8)
    assert batch.image.is_contiguous(memory_format=torch.channels_last)
    assert (batch.label.shape, batch.label.dtype) == ((5,), torch.int64)
    assert batch.lr is None and batch.skipped == ()
    assert (batch.size.shape, batch.size.dtype) == ((5,), torch.int64)
    assert (batch.kernels.shape, batch.kernels.dtype) == ((5, 2), torch.int64)
    for row, index in enumerate(which(batch)):
        assert batch.image[row, :, 7, 9].tolist() == [index, 2 * index, 255 - index]  # RGB
        assert batch.label[row] == index // 3
    assert batch.row.tolist() == [2 * index + int(turned) for index, turned in zip(which(batch), mirrored(batch))]
    assert set(batch.size.tolist()) <= set(SIZES)
    assert 0 <= batch.kernels.min() and batch.kernels.max() < len(RANDOM_KERNELS)


def test_batches_of_a_colour_can_be_told_apart(faces):
    first, = take(faces, 0, 1, batch=23, sizes=SIZES)
    assert sorted(which(first)) == list(range(23))


@pytest.mark.parametrize("augment", sorted(PRESETS))
@pytest.mark.parametrize("workers", [0, 2])
def test_batch_is_a_function_of_its_number(faces, workers, augment):
    options = dict(batch=5, sizes=SIZES, seed=4, augment=augment, degradation="random")
    whole = take(faces, 0, 10, **options)  # two and a half epochs of 4 steps
    for start in (3, 4, 9):
        for offset, batch in enumerate(take(faces, start, 10 - start, workers=workers, **options)):
            assert_equal(batch, whole[start + offset])


def test_order_and_draws_are_what_recorded_runs_had(faces):
    """An order by numpy's permutation, all else by the hash of (seed, epoch, image): changing any changes every recorded result."""
    batch = take(faces, 5, 1, batch=5, sizes=SIZES, seed=4)[0]  # the second of epoch 1
    order = np.random.default_rng([4, 1]).permutation(23)[5:10]
    assert which(batch) == order.tolist()
    draw = [draws(4, np.uint64(1), order.astype(np.uint64), purpose) for purpose in range(4)]
    assert mirrored(batch).tolist() == (draw[0] % np.uint64(2)).astype(bool).tolist()
    assert batch.size.tolist() == [SIZES[i] for i in draw[1] % np.uint64(4)]
    assert batch.kernels.T.tolist() == [(words % np.uint64(5)).tolist() for words in draw[2:]]


@settings(max_examples=15, deadline=None)
@given(
    count=st.integers(4, 30), batch=st.integers(2, 4), world=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 2**63 - 1), start=st.integers(0, 30), augment=st.sampled_from(["flip", "surveillance"]),
)
def test_ranks_share_one_batch(count, batch, world, seed, start, augment):
    faces, batch = Faces(count), 4 if world == 4 else batch // world * world
    options = dict(batch=batch, sizes=SIZES, seed=seed, augment=augment)
    whole, = take(faces, start, 1, **options)
    parts = [take(faces, start, 1, rank=rank, world=world, **options)[0] for rank in range(world)]
    assert all(len(part.label) == batch // world for part in parts)
    # One after another they are the batch, with all its draws.
    assert_equal(together(parts), whole)


@pytest.mark.parametrize("world", [2, 3, 4])
def test_ranks_share_uneven_batches_too_and_the_last_of_an_epoch_if_kept(faces, world):
    options = dict(batch=5, sizes=SIZES, drop_last=False)
    whole = take(faces, 0, 5, **options)
    assert [len(batch.label) for batch in whole] == [5, 5, 5, 5, 3]
    assert sorted(image for batch in whole for image in which(batch)) == list(range(23))
    if world == 4:
        with pytest.raises(ValueError, match="the last batch of an epoch has 3 of 23 images, fewer than 4 processes"):
            TrainingBatches(faces, rank=0, world=world, **options)
        return
    parts = [take(faces, 0, 5, rank=rank, world=world, **options) for rank in range(world)]
    for rows, batch in zip(zip(*parts), whole, strict=True):
        assert_equal(together(rows), batch)
        assert max(len(part.label) for part in rows) - min(len(part.label) for part in rows) <= 1
    batches = [TrainingBatches(faces, rank=rank, world=world, **options) for rank in range(world)]
    assert all(not b.even and b.least == min(len(part.label) for rows in parts for part in rows) for b in batches)


def together(parts) -> Batch:
    """The ranks' batches one after another."""
    return Batch(*(torch.cat(fields) if isinstance(fields[0], torch.Tensor) else fields[0] for fields in zip(*parts, strict=True)))


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
        return [(which(b), mirrored(b).tolist(), b.size.tolist(), b.kernels.tolist()) for b in batches]

    assert signature(0) == signature(0)
    assert signature(0) != signature(1)


def test_an_image_is_drawn_for_anew_each_epoch(faces):
    seen = {}
    for batch in take(faces, 0, 40, batch=5, sizes=SIZES):
        for row, image in enumerate(which(batch)):
            seen.setdefault(image, []).append((bool(mirrored(batch)[row]), int(batch.size[row])))
    assert all(len(set(drawn)) > 1 for drawn in seen.values())


def test_flips_are_half_and_sizes_and_kernels_equally_often(faces):
    batches = take(faces, 0, 200, batch=20, sizes=SIZES)
    flips, sizes = torch.cat([mirrored(b) for b in batches]), torch.cat([b.size for b in batches])
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


def test_nothing_is_mirrored_without_a_preset(faces):
    assert not any(mirrored(batch).any() for batch in take(faces, 0, 8, batch=5, sizes=[14], augment="none"))


def test_a_fifth_of_adaface_s_images_have_fewer_pixels(faces):
    """A side of 22 to 111 pixels, evenly: below data.sizes it counts."""
    for given_size in (112, 56):
        sizes = torch.cat([b.size for b in take(faces, 0, 60, batch=20, sizes=[given_size], augment="adaface")])
        low = sizes[sizes < given_size]
        share = 0.2 * (given_size - 22) / 90
        assert abs(len(low) - share * len(sizes)) < 4 * (len(sizes) * share) ** 0.5
        assert low.min() >= 22 and abs(low.double().mean() - (22 + given_size - 1) / 2) < 6
    assert set(take(faces, 0, 1, batch=20, sizes=[14], augment="adaface")[0].size.tolist()) == {14}


def test_surveillance_brings_the_student_s_image_at_its_size(faces):
    batch, = take(faces, 0, 1, batch=20, sizes=[14, 28], augment="surveillance")
    assert batch.lr.dtype == torch.uint8 and batch.lr.shape == batch.image.shape
    for row, size in enumerate(batch.size.tolist()):
        assert not batch.lr[row, :, size:].any() and not batch.lr[row, :, :, size:].any()
        lr = downsample(batch.image[row][None], size)[0]
        assert (batch.lr[row, :, :size, :size] - lr).abs().mean() < 25  # of the same image, and as it is mirrored


@pytest.mark.parametrize("degradation", [*CHAINS, "random"])
@pytest.mark.parametrize("sizes", [[14], [14, 28, 56, 112], [112]])
def test_lr_images_that_no_augmentation_touched_are_what_degrade_makes(sizes, degradation, monkeypatch, faces):
    """Enlarged, they are the quantised images of the other way, but for a level where rounding was a matter of bits."""
    monkeypatch.setitem(PRESETS, "still", Preset(lr=lambda albumentations: [albumentations.NoOp()]))
    options = dict(batch=20, sizes=sizes, degradation=degradation)
    (still,), (plain,) = (take(faces, 3, 1, augment=augment, **options) for augment in ("still", "flip"))
    assert_equal(still._replace(lr=None), plain)
    (hr, lr, _), (expected_hr, expected_lr, _) = (prepare(batch, CPU, degradation, quantise=True) for batch in (still, plain))
    assert torch.equal(hr, expected_hr)
    assert (lr - expected_lr).abs().mean() < 1e-5 and (lr - expected_lr).abs().max() < 0.02


@pytest.mark.parametrize("workers", [0, 2])
def test_image_that_cannot_be_read_is_named_in_one_line(workers):
    batches = TrainingBatches(Faces(12, broken=(7,)), batch=4, sizes=[14], workers=workers)
    with pytest.raises(DataError, match="set: record 7") as error:
        list(islice(batches.iterate(0), 3))
    assert "\n" not in str(error.value) and "Traceback" not in str(error.value)


@pytest.mark.parametrize("sampler", ["shuffle", "identities"])
def test_a_bad_image_is_replaced_by_another_of_the_person(sampler):
    options = dict(batch=6, sizes=SIZES, sampler=sampler, images_per_identity=3 if sampler == "identities" else None, skip_bad=True)
    whole = take(Faces(24), 0, 12, **options)
    broken = Faces(24, broken=(7, 20, 21))
    patched = take(broken, 0, 12, **options)
    for before, after in zip(whole, patched, strict=True):
        lost = [row for row, index in enumerate(which(before)) if index in broken.broken]
        assert len(after.skipped) == len(lost) and all("set: record" in reason for reason in after.skipped)
        for row, (was, is_now) in enumerate(zip(which(before), which(after), strict=True)):
            assert is_now not in broken.broken
            assert (is_now == was) if row not in lost else (is_now // 3 == was // 3)
        assert torch.equal(before.label, after.label) and torch.equal(before.size, after.size)
        assert torch.equal(mirrored(before), mirrored(after))
    assert sum(len(batch.skipped) for batch in patched) >= 6


@pytest.mark.parametrize("workers", [0, 2])
def test_replacements_are_the_same_whoever_makes_the_batch(workers):
    options = dict(batch=4, sizes=SIZES, skip_bad=True, augment="adaface")
    faces = Faces(24, broken=(3, 4, 5, 11, 20))  # of person 1 no image can be read
    whole = take(faces, 0, 10, **options)
    plain = take(faces, 0, 10, **options | {"augment": "flip"})
    assert not set(faces.broken) & {image for batch in plain for image in which(batch)}
    assert all(batch.label.tolist() == [image // 3 for image in which(batch)] for batch in plain)
    for start in (0, 7):
        for ours, theirs in zip(take(faces, start, 10 - start, workers=workers, **options), whole[start:], strict=True):
            assert_equal(ours, theirs)
    ranks = [take(faces, 0, 6, rank=rank, world=2, **options) for rank in range(2)]
    for left, right, both in zip(*ranks, whole):
        assert sorted(left.skipped + right.skipped) == sorted(both.skipped)
        assert torch.equal(torch.cat([left.label, right.label]), both.label)


def test_a_set_that_cannot_be_read_at_all_ends_the_training():
    batches = TrainingBatches(Faces(12, broken=tuple(range(12))), batch=4, sizes=[14], skip_bad=True)
    with pytest.raises(DataError, match=r"set: record \d+: .* \(nor can 20 images in its place be read\)"):
        next(batches.iterate(0))


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


def test_too_few_images_are_refused(faces):
    with pytest.raises(ValueError, match="batch of 24.*got 23"):
        TrainingBatches(faces, batch=24, sizes=[14])
    with pytest.raises(ValueError, match="multiple of 1, and 6 or more for 6 processes, got 5"):
        TrainingBatches(faces, batch=5, sizes=[14], world=6)


@pytest.mark.parametrize("augment", ["flip", "surveillance"])
def test_a_batch_is_cut_into_equal_ones(faces, augment):
    options = dict(batch=6, sizes=SIZES, augment=augment)
    batches = TrainingBatches(faces, accumulate=3, **options)
    (batch,) = take(faces, 2, 1, **options)
    parts = batches.cut(batch, 3)
    assert [len(part.label) for part in parts] == [2, 2, 2]
    for field in ("image", "label", "size", "kernels", "lr"):
        pieces = [getattr(part, field) for part in parts]
        whole = getattr(batch, field)
        assert pieces == [None] * 3 if whole is None else torch.equal(torch.cat(pieces), whole)
    assert parts[1].image.is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(ValueError, match="multiple of 12 for 2 processes and train.accumulate=6, got 6"):
        TrainingBatches(faces, accumulate=6, world=2, **options)
    with pytest.raises(ValueError, match="multiple of 8 for 1 processes and train.accumulate=2, got 12"):  # pairs stay together
        TrainingBatches(faces, batch=12, sizes=SIZES, sampler="pairs", accumulate=2)


def test_the_last_batch_of_an_epoch_is_cut_whole_or_refused(faces):
    with pytest.raises(ValueError, match="the last batch of an epoch has 3 of 23 images, which 1 processes and train.accumulate=2"):
        TrainingBatches(faces, batch=10, sizes=SIZES, accumulate=2, drop_last=False)
    batches = TrainingBatches(faces, batch=20, sizes=SIZES, accumulate=1, drop_last=False)
    assert batches.least == 3
    assert TrainingBatches(faces, batch=12, sizes=SIZES, accumulate=3).least == 4
    assert TrainingBatches(faces, batch=12, sizes=SIZES, accumulate=3, world=2).least == 2


def made_batch(*sizes: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    count = len(sizes)
    image = torch.randint(0, 256, (count, 112, 112, 3), dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)
    kernels = torch.randint(0, 5, (count, 2), generator=generator)
    return Batch(image, torch.arange(count), torch.tensor(sizes), kernels, None, ())


def test_to_unit_is_insightface_scaling():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_unit(levels), torch.from_numpy((np.arange(256, dtype=np.float32) - 127.5) / 127.5))
    assert to_unit(levels).aminmax() == (-1, 1)


def test_prepare_scales_and_degrades():
    batch = made_batch(14, 14, 14)
    hr, lr, label = prepare(batch, CPU, "bicubic")
    assert np.array_equal(hr.numpy(), (batch.image.numpy().astype(np.float32) - 127.5) / 127.5)
    expected = (degrade(batch.image, 14, "bicubic") - 127.5) / 127.5
    torch.testing.assert_close(lr, expected, rtol=0, atol=1e-6)
    assert torch.equal(label, torch.arange(3))
    for image in (hr, lr):
        assert image.dtype == torch.float32 and image.shape == (3, 3, 112, 112) and image.abs().max() <= 1
        assert image.is_contiguous(memory_format=torch.channels_last)
    assert (hr - lr).abs().mean() > 0.1


def test_prepare_at_full_resolution_is_the_identity():
    batch = made_batch(112, 112)
    for degradation in ("bicubic", "released", "random"):
        hr, lr, _ = prepare(batch, CPU, degradation, quantise=True)
        assert torch.equal(hr, lr) and torch.equal(hr, to_unit(batch.image))


@pytest.mark.parametrize("degradation", sorted(CHAINS))
@pytest.mark.parametrize("quantise", [False, True])
def test_sizes_in_one_batch_do_not_disturb_each_other(degradation, quantise):
    batch = made_batch(14, 112, 56, 28, 7)
    hr, lr, _ = prepare(batch, CPU, degradation, quantise)
    assert torch.equal(hr, to_unit(batch.image))
    for row, size in enumerate(batch.size.tolist()):
        alone = to_unit(degrade(batch.image[row : row + 1], torch.tensor([size]), degradation, quantise=quantise))
        torch.testing.assert_close(lr[row : row + 1], alone, rtol=0, atol=1e-5)


def test_random_kernels_are_the_batch_s_own():
    batch = made_batch(14, 28, 56)
    _, lr, _ = prepare(batch, CPU, "random")
    expected = to_unit(degrade(batch.image, batch.size, "random", draws=batch.kernels))
    assert torch.equal(lr, expected)
    _, other, _ = prepare(batch._replace(kernels=(batch.kernels + 1) % 5), CPU, "random")
    assert (lr - other).abs().amax((1, 2, 3)).min() > 0.01
