"""Which images make up batch number k: a function of k alone, so that a run resumes at any step and ranks need not talk.

| sampler      | a batch                                            | what is even                                         |
|--------------|----------------------------------------------------|------------------------------------------------------|
| `shuffle`    | the next images of a permutation                   | images: each once an epoch                           |
| `identities` | P people, K images of each                         | people: each once a round, however many images       |
| `pairs`      | as many genuine as impostor pairs (ABE: 16 and 16) | people: with two or more images in genuine pairs, all in the others |

An epoch is as many batches as `shuffle` has. The last incomplete batch of an epoch is dropped unless `shuffle` is told to keep it; that of a
round always is.
"""
from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Protocol

import numpy as np

from askd.data.draws import draws

_WITHIN_PERSON = 7  # a purpose of `draws` that the loader leaves to this file


class Sampler(Protocol):
    """steps_per_epoch: batches an epoch. unit: consecutive images that belong together, and so on one rank."""

    steps_per_epoch: int
    unit: int

    def iterate(self, start: int) -> Iterator[np.ndarray]:
        """Batches number start, start + 1, ...: int64 (batch, 2), rows (turn, image index), no row ever twice."""


def make_sampler(
    kind: str, labels: np.ndarray, batch: int, seed: int, images_per_identity: int | None = None, drop_last: bool = True,
) -> Sampler:
    """One of SAMPLERS. labels: int64 (N,), class ids from 0 on, each present; images_per_identity: K, for `identities`.

    ValueError, for an unknown name or a batch that cannot be made of these labels: what was asked for, what there is.
    """
    if kind not in SAMPLERS:
        raise ValueError(f"unknown sampler {kind!r}; choose one of {', '.join(SAMPLERS)}")
    if len(labels) < batch:
        raise ValueError(f"a batch of {batch} needs at least as many images, got {len(labels)}; lower train.batch")
    if kind == "identities":
        return Identities(labels, batch, seed, images_per_identity)
    return Shuffle(labels, batch, seed, drop_last) if kind == "shuffle" else SAMPLERS[kind](labels, batch, seed)


def of_rank(keys: np.ndarray, unit: int, rank: int, world: int) -> np.ndarray:
    """The rows of a batch that are a rank's: consecutive units, so that the ranks' rows one after another are the batch.

    Where the world does not divide the units, some ranks have one more than others.
    """
    units = len(keys) // unit
    return keys[units * rank // world * unit : units * (rank + 1) // world * unit]


class Shuffle:
    """A permutation of all images per epoch, held by whoever iterates and by no one else: 8 bytes an image."""

    unit = 1

    def __init__(self, labels: np.ndarray, batch: int, seed: int, drop_last: bool = True):
        self.images, self.batch, self.seed = len(labels), batch, seed
        self.steps_per_epoch = len(labels) // batch if drop_last else -(-len(labels) // batch)

    def iterate(self, start: int) -> Iterator[np.ndarray]:
        """See Sampler; the turn is the epoch."""
        first, position = divmod(start, self.steps_per_epoch)
        for epoch in count(first):
            order = np.random.default_rng([self.seed, epoch]).permutation(self.images)
            for step in range(position, self.steps_per_epoch):
                chosen = order[step * self.batch : (step + 1) * self.batch]
                yield np.stack([np.full_like(chosen, epoch), chosen], 1)
            position = 0


class Identities:
    """`batch` // K different people, K images of each, next to one another; all K differ where a person has as many."""

    def __init__(self, labels: np.ndarray, batch: int, seed: int, images_per_identity: int | None):
        if images_per_identity is None or images_per_identity < 1 or batch % images_per_identity:
            raise ValueError(f"train.batch={batch} must be a multiple of data.images_per_identity, got {images_per_identity}")
        self.unit, self.steps_per_epoch = images_per_identity, len(labels) // batch
        self._people = _People(labels, np.arange(labels.max() + 1), batch // images_per_identity, images_per_identity, seed)

    def iterate(self, start: int) -> Iterator[np.ndarray]:
        """See Sampler."""
        for keys in self._people.iterate(start):
            yield keys.reshape(-1, 2)


class Pairs:
    """Genuine and impostor pairs in turn, each two consecutive rows; ABE (Kim et al., ECCV 2018) has 16 and 16.

    A genuine pair is two images of one person, all of different people; so are all images of the impostor pairs.
    """

    unit = 4  # a genuine and an impostor pair: every rank has as many of both

    def __init__(self, labels: np.ndarray, batch: int, seed: int):
        if batch % 4:
            raise ValueError(f"train.batch={batch} must be a multiple of 4: pairs, half of them genuine and half impostors")
        self.steps_per_epoch = len(labels) // batch
        counts = np.bincount(labels)
        self._genuine = _People(labels, np.flatnonzero(counts >= 2), batch // 4, 2, seed)
        self._impostors = _People(labels, np.arange(len(counts)), batch // 2, 1, seed)

    def iterate(self, start: int) -> Iterator[np.ndarray]:
        """See Sampler; genuine pairs have even turns, impostors odd ones."""
        for genuine, impostors in zip(self._genuine.iterate(start), self._impostors.iterate(start)):
            genuine[..., 0] *= 2
            impostors[..., 0] = impostors[..., 0] * 2 + 1
            yield np.concatenate([genuine, impostors.reshape(-1, 2, 2)], 1).reshape(-1, 2)


class _People:
    """P of some people after another, K images of each. A round shows everyone once, but for those beyond a multiple of P.

    A person's images are shuffled and dealt K at a time, anew when fewer than K are left; fewer than K in all are repeated.
    """

    def __init__(self, labels: np.ndarray, people: np.ndarray, together: int, images: int, seed: int):
        if len(people) < together:
            raise ValueError(f"a batch takes {together} different people with {images} images each, of {len(people)}; lower train.batch")
        self.people, self.together, self.images, self.seed = people, together, images, seed
        self._by_person = np.argsort(labels, kind="stable")  # the images of person p: _by_person[_first[p] : _first[p + 1]]
        self._first = np.append(0, np.cumsum(np.bincount(labels)))

    def iterate(self, start: int) -> Iterator[np.ndarray]:
        """Batches number start, ...: int64 (P, K, 2) of (turn, image index)."""
        per_round = len(self.people) // self.together
        first, position = divmod(start, per_round)
        for number in count(first):
            order = np.random.default_rng([self.seed, number, self.images]).permutation(self.people)
            for step in range(position, per_round):
                chosen = order[step * self.together : (step + 1) * self.together]
                yield np.stack([self._dealt(person, number) for person in chosen])
            position = 0

    def _dealt(self, person: int, number: int) -> np.ndarray:
        """The (K, 2) keys of a person in round `number`."""
        own = self._by_person[self._first[person] : self._first[person + 1]]
        deals = max(len(own) // self.images, 1)
        deal, part = divmod(number, deals)
        shuffled = own[np.argsort(draws(self.seed, np.uint64(deal), own.astype(np.uint64), _WITHIN_PERSON))]
        slots = np.arange(self.images)
        # A repeated image has another turn, and so another mirror, size and augmentation.
        turns = number * self.images + slots // len(own)
        return np.stack([turns, shuffled[(part * self.images + slots) % len(own)]], 1)


SAMPLERS = {"shuffle": Shuffle, "identities": Identities, "pairs": Pairs}
