"""Which images are embedded together and at which sizes; sets that cannot be scored are refused before anything is embedded."""
from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from askd.data.gallery import IdentificationSet, TemplateSet
from askd.data.pairs import PairSet
from askd.errors import DataError
from askd.evaluation.gather import Encoded, check, gather
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
        pairs("a", png(1), png(2), png(3)), searched("faces", png(4), png(5)), pairs("b", png(3), png(9), png(1)),
        pairs("crops", png(1, 20, 16), png(2)), searched("tiny", png(6, 14, 10), png(7), png(8, 250, 14)), TEMPLATES,
    ]
    lots = gather(sets, [112, 14], counted.append)
    assert [[one.name for one, _ in lot.sets] for lot in lots] == [["a", "b"], ["crops"], ["faces"], ["tiny"], ["ijb"]]
    assert [lot.sizes for lot in lots] == [(112, 14), (NATIVE,), (112, 14), (NATIVE,), (112, 14)]
    assert [lot.keeps_both for lot in lots] == [True, True, False, False, False]
    assert sum(counted) == 3 + 2 + 3 + 2 + 3 + 2
    first = lots[0]
    assert len(first.images) == 4  # 1, 2, 3 and 9
    for one, places in first.sets:
        assert [first.images.encoded(place) for place in places] == one.images
    assert first.images.name(3) == "b: image 1" and lots[0].note == lots[2].note == ""
    assert lots[3].note == "images 10 to 112 px wide (median 14) and 14 to 250 px high, resized to 112x112"


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
