"""CFP's protocol, on a hand-made tree of two people with three frontal images and two profiles each."""
from __future__ import annotations

import re

import pytest

from askd.data.cfp import read_cfp
from askd.errors import DataError

PEOPLE = ("001", "002")
FRONTAL = [(person, "frontal", f"{n:02d}") for person in PEOPLE for n in (1, 2, 3)]  # indices 1..6
PROFILE = [(person, "profile", f"{n:02d}") for person in PEOPLE for n in (1, 2)]  # indices 1..4


@pytest.fixture
def cfp(tmp_path):
    protocol, images = tmp_path / "Protocol", tmp_path / "aligned"
    for name, listed in (("F", FRONTAL), ("P", PROFILE)):
        for person, kind, number in listed:
            (images / person / kind).mkdir(parents=True, exist_ok=True)
            suffix = ".png" if kind == "profile" else ".jpg"
            (images / person / kind / (number + suffix)).write_bytes(f"{person}{kind}{number}".encode())
        protocol.mkdir(exist_ok=True)
        lines = [f"{i} ../Data/Images/{'/'.join(image)}.jpg" for i, image in enumerate(listed, 1)]
        (protocol / f"Pair_list_{name}.txt").write_text("\n".join(lines) + "\n\n" * (name == "X"))
    for split in ("FF", "FP"):
        for fold in range(1, 11):
            folder = protocol / "Split" / split / f"{fold:02d}"
            folder.mkdir(parents=True)
            (folder / "same.txt").write_text("1,2\n4,5\n" if split == "FF" else "3,1\n6,4\n")
            (folder / "diff.txt").write_text("1,4\r\n" if split == "FF" else "1,3\n")
    return tmp_path


def images_of(pairs):
    return [(pairs.images[a].decode(), pairs.images[b].decode()) for a, b in zip(pairs.left, pairs.right)]


def test_frontal_frontal(cfp):
    pairs = read_cfp(cfp / "Protocol", cfp / "aligned", "FF")
    once = [("001frontal01", "001frontal02"), ("002frontal01", "002frontal02"), ("001frontal01", "002frontal01")]
    assert images_of(pairs) == once * 10
    assert pairs.same.tolist() == [True, True, False] * 10
    assert pairs.fold.tolist() == [fold for fold in range(10) for _ in range(3)]
    assert [image.decode() for image in pairs.images] == ["001frontal01", "001frontal02", "002frontal01", "002frontal02"]
    assert pairs.identity.tolist() == [0, 0, 1, 1] and pairs.name == "cfp_ff"


def test_frontal_profile_takes_the_second_image_from_the_other_list(cfp):
    pairs = read_cfp(cfp / "Protocol", cfp / "aligned", "FP")
    once = [("001frontal03", "001profile01"), ("002frontal03", "002profile02"), ("001frontal01", "002profile01")]
    assert images_of(pairs) == once * 10
    assert pairs.identity.tolist() == [0, 0, 1, 1, 0, 1] and pairs.identity.dtype == "int32"
    assert pairs.image_names[1] == str(cfp / "aligned" / "001" / "profile" / "01.png")


@pytest.mark.parametrize(("file", "text", "message"), [
    ("Split/FF/03/same.txt", "1,2\n4;5\n", "03/same.txt:2: expected a pair of indices, i,j; got '4;5'"),
    ("Split/FF/03/same.txt", "1,2\n1,7\n", "03/same.txt:2: the second index, 7, is not in its list of 6 images"),
    ("Split/FF/03/same.txt", "0,1\n", "03/same.txt:1: the first index, 0, is not"),
    ("Split/FF/03/same.txt", "1,4\n", "03/same.txt:1: pairs 001/frontal/01 with 002/frontal/01, expected two images of one person"),
    ("Split/FF/03/same.txt", "1,1\n", "03/same.txt:1: pairs 001/frontal/01 with 001/frontal/01"),
    ("Split/FF/03/diff.txt", "1,2\n", "03/diff.txt:1: .* expected images of two persons"),
    ("Split/FF/10/diff.txt", "", "10/diff.txt: holds no pairs"),
    ("Split/FF/10/diff.txt", "1,2,3\n", "10/diff.txt:1: expected a pair"),
    ("Split/FF/10/diff.txt", None, "10/diff.txt: cannot be read"),
    ("Pair_list_F.txt", "1 ../Data/Images/001/frontal/01.jpg\n1 ../Data/Images/001/frontal/02.jpg\n",
     "Pair_list_F.txt:2: index 1 stands there twice"),
    ("Pair_list_F.txt", "1 frontal/01.jpg\n", "Pair_list_F.txt:1: expected an index and a path"),
    ("Pair_list_F.txt", "one ../Data/Images/001/frontal/01.jpg\n", "Pair_list_F.txt:1: expected an index"),
    ("Pair_list_F.txt", "1 ../../frontal/01.jpg\n", "Pair_list_F.txt:1: expected an index and a path"),
    ("Pair_list_F.txt", b"1 \xff\n", "Pair_list_F.txt: byte 2 is not UTF-8"),
    ("../aligned/002/frontal/02.jpg", None, "01/same.txt:2: names .*002/frontal/02.jpg, which is not there"),
])
def test_faults_are_named(cfp, file, text, message):
    path = cfp / "Protocol" / file
    path.unlink()
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message) as refused:
        read_cfp(cfp / "Protocol", cfp / "aligned", "FF")
    assert "\n" not in str(refused.value)


def test_unknown_split(cfp):
    with pytest.raises(ValueError, match=re.escape("CFP's splits are FF and FP, got 'PP'")):
        read_cfp(cfp / "Protocol", cfp / "aligned", "PP")
