"""Which images are embedded together and at which sizes; sets that cannot be scored are refused before anything is embedded."""
from __future__ import annotations

import hashlib
from dataclasses import replace

import cv2
import numpy as np
import pytest

from askd.data.gallery import IdentificationSet, TemplateSet
from askd.data.pairs import PairSet
from askd.errors import DataError
from askd.evaluation.gather import Encoded, check, fingerprint, gather
from askd.evaluation.report import NATIVE


def png(value: int, height: int = 112, width: int = 112) -> bytes:
    return cv2.imencode(".png", np.full((height, width, 3), value, np.uint8))[1].tobytes()


def pairs(name: str, *images: bytes) -> PairSet:
    left, right = np.array([0]), np.array([len(images) - 1])
    return PairSet(name, list(images), left, right, left == right, np.array([-1]), None, [f"{name}: image {i}" for i in range(len(images))])


def searched(name: str, *images: bytes) -> IdentificationSet:
    stored = Encoded(list(images), [f"{name}/{i}.png" for i in range(len(images))])
    return IdentificationSet(name, stored, np.array([0]), np.arange(1, len(images)), np.zeros(len(images), int))


TEMPLATES = TemplateSet(
    "ijb", Encoded([png(1), png(2)], ["a", "b"]), np.array([0, 1]), np.array([0, 1]), np.array([4, 5]), np.array([0]), np.array([1]),
    np.array([False]), np.array([0]), [np.array([1])],
)


def test_pairs_share_their_images_and_small_ones_keep_their_size():
    counted = []
    sets = [
        pairs("b", png(3), png(1)), pairs("a", png(1), png(2), png(3)), searched("faces", png(4), png(5)), pairs("other", png(3), png(9)),
        pairs("crops", png(1, 20, 16), png(2)), searched("tiny", png(6, 14, 10), png(7), png(8, 250, 14)), TEMPLATES,
        pairs("c", png(2), png(2)),
    ]
    lots = gather(sets, [112, 14], counted.append)
    assert [[one.name for one, _ in lot.sets] for lot in lots] == [["a", "b", "c"], ["faces"], ["other"], ["crops"], ["tiny"], ["ijb"]]
    assert [lot.sizes for lot in lots] == [(112, 14), (112, 14), (112, 14), (NATIVE,), (NATIVE,), (112, 14)]
    assert [lot.keeps_both for lot in lots] == [True, False, True, True, False, False]
    assert sum(counted) == 2 + 3 + 2 + 2 + 2 + 3 + 2 + 2
    for one, places in lots[0].sets:
        assert [lots[0].images.encoded(place) for place in places] == one.images
    assert lots[0].note == lots[1].note == ""
    assert lots[4].note == "images 10 to 112 px wide (median 14) and 14 to 250 px high, resized to 112x112"


def test_hashes_tell_one_set_from_another():
    def of(one, sizes=(112,)):
        lot, = gather([one], list(sizes))
        return lot.sha256, fingerprint(one, lot.hashes)

    one = pairs("a", png(1), png(2), png(3))
    content = b"".join(hashlib.sha256(png(value)).digest() for value in (1, 2, 3))
    assert of(one)[0] == hashlib.sha256(content).hexdigest() and of(one) == of(replace(one, name="b"), (14, 28))
    turned = replace(one, left=one.right, right=one.left)
    assert of(turned)[0] == of(one)[0] and of(turned)[1] != of(one)[1]
    assert of(replace(one, same=~one.same))[1] != of(one)[1] and of(pairs("a", png(2), png(1), png(3)))[0] != of(one)[0]
    assert len({of(replace(TEMPLATES, galleries=galleries))[1] for galleries in ([], [np.array([1])], [np.array([0])])}) == 3
    both = gather([pairs("small", png(3), png(1)), one], [112])[0]
    (_, places), = [entry for entry in both.sets if entry[0].name == "small"]
    assert fingerprint(both.sets[1][0], both.hashes[places]) == of(pairs("small", png(3), png(1)))[1]


@pytest.mark.parametrize(
    ("sets", "problem"),
    [
        ([pairs("lfw", png(1), png(2)), searched("lfw", png(1), png(2))], "two sets are called lfw"),
        ([replace(pairs("none", png(1)), same=np.zeros(0, bool))], "none has no pairs"),
        ([replace(searched("x", png(1), png(2)), probe=np.zeros(0, int))], "x has no probes"),
        ([searched("x", png(1))], "x has no gallery images"),
        ([replace(TEMPLATES, left=np.zeros(0, int), probe=np.zeros(0, int))], "ijb has no pairs and no probes"),
        ([replace(TEMPLATES, subject=np.array([4, 5, 6]))], "ijb has no images of template 2"),
        ([replace(TEMPLATES, galleries=[])], "ijb has no galleries"),
        ([replace(TEMPLATES, galleries=[np.array([1]), np.zeros(0, int)])], "ijb has no templates in one of its galleries"),
        ([searched("x", png(1), b"")], "x/1.png: is empty"),
        ([searched("x", png(1), png(1, 2, 4097))], "x/1.png: is 4097x2 pixels"),
    ],
)
def test_what_cannot_be_scored_is_named(sets, problem):
    with pytest.raises(DataError, match=problem):
        check(sets)
        gather(sets, [112])
