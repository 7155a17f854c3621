"""Each sampler keeps its promise, from any step on, for any set of labels; and ranks share its batches out whole."""
from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from askd.data.sampler import make_sampler, of_rank

SEEDS = st.integers(0, 2**63 - 1)
SET = st.lists(st.integers(1, 9), min_size=1, max_size=12)  # images of each person, many of whom have one


def labels_of(counts: list[int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))


def take(sampler, start: int, count: int) -> list[np.ndarray]:
    return list(islice(sampler.iterate(start), count))


@st.composite
def samplers(draw):
    """A sampler of each kind that a random set allows, its labels and what makes it again."""
    labels, kind = labels_of(draw(SET)), draw(st.sampled_from(["shuffle", "identities", "pairs"]))
    people, with_two = labels.max() + 1, np.count_nonzero(np.bincount(labels) >= 2)
    images = draw(st.integers(1, 5)) if kind == "identities" else None
    most = {"shuffle": len(labels), "identities": people, "pairs": min(with_two, people // 2)}[kind]
    assume(most)
    batch = draw(st.integers(1, most)) * {"shuffle": 1, "identities": images, "pairs": 4}[kind]
    assume(batch <= len(labels))
    arguments = kind, labels, batch, draw(SEEDS), images
    return make_sampler(*arguments), arguments


@given(samplers(), st.integers(0, 40))
@settings(max_examples=80, deadline=None)
def test_resumed_at_any_step_it_goes_on_as_if_never_stopped(made, start):
    sampler, arguments = made
    whole = take(sampler, 0, start + 6)
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(take(make_sampler(*arguments), start, 6), whole[start:], strict=True))
    assert all(keys.shape == (arguments[2], 2) and keys.dtype == np.int64 for keys in whole)
    shown = [tuple(row) for keys in whole for row in keys.tolist()]
    assert len(set(shown)) == len(shown)  # an image comes back with another turn, so it is drawn for anew
    assert all(0 <= index < len(arguments[1]) for _, index in shown)
    assert sampler.steps_per_epoch == len(arguments[1]) // arguments[2]


@given(samplers(), st.integers(1, 4), st.integers(0, 10))
@settings(max_examples=60, deadline=None)
def test_ranks_share_a_batch_out(made, world, start):
    sampler, (_, _, batch, *_) = made
    assume(batch % (sampler.unit * world) == 0)
    whole, = take(sampler, start, 1)
    parts = [of_rank(whole, sampler.unit, rank, world) for rank in range(world)]
    assert len({len(part) for part in parts}) == 1
    units = {tuple(map(tuple, unit)) for unit in whole.reshape(-1, sampler.unit, 2).tolist()}
    shared = [tuple(map(tuple, unit)) for part in parts for unit in part.reshape(-1, sampler.unit, 2).tolist()]
    assert set(shared) == units and len(shared) == len(units)


@given(SET, st.integers(1, 20), SEEDS)
@settings(max_examples=40, deadline=None)
def test_shuffle_shows_every_image_once_an_epoch(counts, batch, seed):
    labels = labels_of(counts)
    assume(batch <= len(labels))
    sampler = make_sampler("shuffle", labels, batch, seed)
    for epoch in range(3):
        keys = np.concatenate(take(sampler, epoch * sampler.steps_per_epoch, sampler.steps_per_epoch))
        assert len(set(keys[:, 1])) == len(keys) == len(labels) // batch * batch and set(keys[:, 0]) == {epoch}
        order = np.random.default_rng([seed, epoch]).permutation(len(labels))
        assert keys[:, 1].tolist() == order[: len(keys)].tolist()  # the order of every run recorded so far


@given(SET, st.integers(1, 5), st.integers(1, 6), SEEDS)
@settings(max_examples=80, deadline=None)
def test_identities_are_balanced(counts, images, together, seed):
    labels = labels_of(counts)
    assume(together <= len(counts) and together * images <= len(labels))
    sampler = make_sampler("identities", labels, together * images, seed, images)
    per_round = len(counts) // together
    shown = Counter()
    for _ in range(2):
        for keys in take(sampler, 0, per_round):
            groups = keys[:, 1].reshape(together, images)
            people = labels[groups]
            assert (people == people[:, :1]).all() and len(set(people[:, 0])) == together
            for person, group in zip(people[:, 0], groups):
                assert len(set(group)) == min(images, counts[person])  # repeated only where a person has too few
            shown.update(people[:, 0].tolist())
    assert set(shown.values()) == {2} and len(shown) == per_round * together  # in a round nobody comes twice


def test_identities_show_all_images_of_a_person_in_turn():
    labels = labels_of([6, 1, 2])
    sampler = make_sampler("identities", labels, 6, 3, 2)
    first = np.concatenate([keys[labels[keys[:, 1]] == 0] for keys in take(sampler, 0, 3)])[:, 1]
    then = np.concatenate([keys[labels[keys[:, 1]] == 0] for keys in take(sampler, 3, 3)])[:, 1]
    assert set(first) == set(then) == set(np.flatnonzero(labels == 0)) and first.tolist() != then.tolist()


@given(SET, st.integers(1, 4), SEEDS)
@settings(max_examples=80, deadline=None)
def test_pairs_are_half_genuine_half_impostors(counts, number, seed):
    labels = labels_of(counts)
    with_two = {person for person, count in enumerate(counts) if count >= 2}
    assume(number <= len(with_two) and 2 * number <= len(counts) and 4 * number <= len(labels))
    sampler = make_sampler("pairs", labels, 4 * number, seed)
    rounds = len(with_two) // number
    genuine_shown = Counter()
    for keys in take(sampler, 0, rounds):
        pairs = keys[:, 1].reshape(-1, 2)
        genuine, impostors = pairs[0::2], pairs[1::2]
        assert (labels[genuine[:, 0]] == labels[genuine[:, 1]]).all() and (genuine[:, 0] != genuine[:, 1]).all()
        assert len(set(labels[impostors.ravel()])) == 2 * number
        genuine_shown.update(labels[genuine[:, 0]].tolist())
    assert set(genuine_shown) <= with_two and set(genuine_shown.values()) == {1} and len(genuine_shown) == rounds * number


def test_seeds_differ():
    labels = labels_of([4] * 12)
    for kind, images in (("shuffle", None), ("identities", 2), ("pairs", None)):
        assert len({take(make_sampler(kind, labels, 8, seed, images), 0, 1)[0].tobytes() for seed in range(5)}) == 5


@pytest.mark.parametrize(("kind", "counts", "batch", "images", "said"), [
    ("shuffel", [3], 1, None, "unknown sampler 'shuffel'; choose one of shuffle, identities, pairs"),
    ("shuffle", [3], 4, None, "a batch of 4 needs at least as many images, got 3; lower train.batch"),
    ("identities", [4, 4], 8, 3, "train.batch=8 must be a multiple of data.images_per_identity, got 3"),
    ("identities", [9, 9], 6, 2, "a batch takes 3 different people with 2 images each, of 2; lower train.batch"),
    ("pairs", [9, 9], 6, None, "train.batch=6 must be a multiple of 4"),
    ("pairs", [9, 1, 1, 1], 8, None, "a batch takes 2 different people with 2 images each, of 1; lower train.batch"),
])
def test_what_cannot_be_made_is_refused(kind, counts, batch, images, said):
    with pytest.raises(ValueError, match=said):
        make_sampler(kind, labels_of(counts), batch, 0, images)
