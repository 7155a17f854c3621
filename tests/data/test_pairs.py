from __future__ import annotations

import os
import pickle
import struct
import tempfile
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from askd.data.decode import decode_rgb
from askd.data.folder import FolderSet, read_people
from askd.data.pairs import all_pairs, contiguous, read_bin, read_lfw_pairs, stratify, write_bin
from askd.errors import DataError


def pairs_of(pairs):
    return [(pairs.images[a], pairs.images[b], bool(same)) for a, b, same in zip(pairs.left, pairs.right, pairs.same)]


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def python2_pickle(images: list[bytes], same: list[bool]) -> bytes:
    """What cPickle of Python 2 writes for (list of str, list of bool), protocol 0, opcode by opcode."""
    strings = b"".join(b"S" + repr(image)[1:].encode() + b"\np%d\na" % number for number, image in enumerate(images, 3))
    return b"((lp1\n" + strings + b"(lp2\n" + b"".join(b"I%02d\na" % value for value in same) + b"tp0\n."


def python2_array_pickle(images: list[bytes], same: list[bool]) -> bytes:
    """What it writes for uint8 arrays at protocol 2: names and bytes are `str`, so SHORT_BINSTRING and BINSTRING."""
    arrays = b"".join(
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K" + bytes([len(image)])
        + b"\x85cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + struct.pack("<i", len(image)) + image + b"tb" for image in images)
    return b"\x80\x02](" + arrays + b"e](" + b"".join(b"\x88" if value else b"\x89" for value in same) + b"e\x86."


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.binary(max_size=6), st.binary(max_size=6), st.booleans()), min_size=1, max_size=25))
def test_bin_round_trip(pairs):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "faces.bin"
        write_bin(path, pairs)
        read = read_bin(path)
        images, same = pickle.loads(path.read_bytes())
        assert os.listdir(folder) == ["faces.bin"]
    assert images == [image for left, right, _ in pairs for image in (left, right)]
    assert same == [same for *_, same in pairs] and all(type(value) is bool for value in same)
    assert pairs_of(read) == pairs
    assert len(set(read.images)) == len(read.images) == len(read.image_names)
    assert (read.left.dtype, read.right.dtype, read.same.dtype, read.fold.dtype) == (np.int32, np.int32, bool, np.int16)
    assert read.name == "faces" and read.identity is None and len(read) == len(pairs)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.binary(max_size=20), min_size=1, max_size=4), st.integers(0, 5), st.data())
def test_every_way_python_pickles_them(images, protocol, data):
    images = images * 2  # the same objects twice, so that the pickle refers back
    same = data.draw(st.lists(st.booleans(), min_size=len(images) // 2, max_size=len(images) // 2))
    expected = list(zip(images[0::2], images[1::2], same))
    arrays = [np.frombuffer(image, np.uint8) for image in images]
    columns = [array[:, None] for array in arrays]
    variants = [pickle.dumps(content, protocol) for content in (
        (images, same), [arrays, tuple(same)], (tuple(columns), [np.bool_(value) for value in same]),
        (images, np.array(same)), (images, [int(value) for value in same]), (images, np.array(same, np.int64)))]
    variants += [python2_pickle(images, same), python2_array_pickle(images, same)]
    with tempfile.TemporaryDirectory() as folder:
        for variant in variants:
            assert pairs_of(read_bin(write(Path(folder) / "a.bin", variant))) == expected


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_bin_cut_at_every_byte_and_flipped_in_many_bits(tmp_path, protocol):
    images = [np.frombuffer(b"1st", np.uint8), b"2", b"3rd", b""]
    whole = pickle.dumps((images, [True, False]), protocol)
    path = tmp_path / "cut.bin"
    for length in range(len(whole)):
        with pytest.raises(DataError, match=r"cut.bin: at byte \d+ of \d+: .*fetch it again"):
            read_bin(write(path, whole[:length]))
    for position in range(len(whole)):
        mutated = bytearray(whole)
        mutated[position] ^= 1 << position % 8
        try:
            assert len(read_bin(write(path, mutated))) == 2
        except DataError as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error)


class Hostile:
    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_hostile_pickles_are_refused_and_nothing_runs(tmp_path, protocol):
    witness = tmp_path / "ran"
    for attack in (Hostile(os.mkdir, str(witness)), Hostile(eval, f"__import__('os').mkdir({str(witness)!r})"),
                   Hostile(getattr, Path, "mkdir"), np.array([Hostile(os.mkdir, str(witness))])):
        with pytest.raises(DataError, match="hostile.bin.*(is refused|has 0 bytes|something other|without its bytes)"):
            read_bin(write(tmp_path / "hostile.bin", pickle.dumps(([b"a", attack], [True]), protocol)))
    assert not witness.exists()


@pytest.mark.parametrize("bomb", [
    b"\x80\x02]r\x00\x00\x00\x7f.",  # a memo index of two billion
    b"\x80\x04B\xff\xff\xff\xff.",  # four gigabytes announced
    b"\x80\x04\x8e" + b"\xff" * 8 + b".",
    b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n\x8a\x06\0\0\0\0\0\x10\x85U\x01b\x87R.",
    b"\x80\x02](X\x10\x27\0\0" + b"a" * 10000 + b"q\x00c_codecs\nencode\nq\x01"
    + b"h\x01h\x00U\x06latin1\x86R" * 5000 + b"e.",  # one text encoded 5,000 times
    b"I" + b"9" * 100_000 + b"\n.",
    b"(" * 50_000 + b"." , b"]" + b"]a" * 50_000 + b".",
])
def test_bombs_cost_no_memory(tmp_path, bomb):
    with pytest.raises(DataError, match="bomb.bin"):
        read_bin(write(tmp_path / "bomb.bin", bomb))


@pytest.mark.parametrize(("content", "message"), [
    ([b"a", b"b"], "issame, must be a list of booleans"),
    (([b"a", b"b"], [True], 3), "expected a pickle of"),
    (([b"a", b"b", b"c"], [True]), "3 images for 1 pairs"),
    (([], []), "0 images for 0 pairs"),
    ((b"ab", [True]), "a bytes of images"),
    (([b"a", "b"], [True]), "image 1 is a str"),
    (([b"a", np.zeros(2, np.int32)], [True]), "image 1 is a PickledArray"),
    (([b"a", b"b"], [2]), "list of booleans"),
    (([b"a", b"b"], {"a": 1}), "opcode"),
])
def test_pickles_of_something_else(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        read_bin(write(tmp_path / "a.bin", pickle.dumps(content)))


def test_bin_that_is_missing_or_a_web_page(tmp_path):
    with pytest.raises(DataError, match=r"none.bin: cannot be read \(No such file"):
        read_bin(tmp_path / "none.bin")
    with pytest.raises(DataError, match="page.bin: at byte 1 .* not an InsightFace .bin"):
        read_bin(write(tmp_path / "page.bin", b"<!doctype html>"))
    with pytest.raises(DataError, match="no pairs to write"):
        write_bin(tmp_path / "empty.bin", [])


def test_contiguous_folds_are_those_of_array_split():
    for count in (3, 10, 37, 6000):
        for number, rows in enumerate(np.array_split(np.arange(count), 10)):
            assert np.flatnonzero(contiguous(count) == number).tolist() == rows.tolist()


@given(st.lists(st.booleans(), max_size=200), st.integers(1, 12))
def test_stratified_folds_balance_both_kinds(same, folds):
    same = np.array(same, bool)
    fold = stratify(same, folds)
    for kind in (True, False):
        counts = np.bincount(fold[same == kind], minlength=folds)
        assert counts.max() - counts.min() <= 1
        assert (np.diff(fold[same == kind]) >= 0).all()


def test_bin_folds(tmp_path):
    def folds(same):
        write_bin(tmp_path / "a.bin", [(b"a%d" % i, b"b", value) for i, value in enumerate(same)])
        return read_bin(tmp_path / "a.bin").fold.tolist()

    assert folds([True, True, False, False] * 10) == np.repeat(np.arange(10), 4).tolist()
    assert folds([True] * 20 + [False] * 20) == np.repeat(np.arange(10), 2).tolist() * 2
    assert folds([True] * 9 + [False] * 20) == [-1] * 29 and folds([True, False] * 10) == np.repeat(np.arange(10), 2).tolist()


@pytest.fixture
def people(tmp_path):
    for name, count in (("Ada", 3), ("Bob", 2), ("Cid", 1)):
        (tmp_path / name).mkdir()
        for i in range(1, count + 1):
            (tmp_path / name / f"{name}_{i:04d}.{'png' if name == 'Cid' else 'jpg'}").write_bytes(f"{name}{i}".encode())
    return tmp_path


def test_lfw_view_2(people):
    file = write(people / "pairs.txt", b"2\t1\nAda\t1\t3\nAda\t1\tBob\t2\nBob 1 2\nCid\t1\tAda\t03\n")
    pairs = read_lfw_pairs(people, file)
    assert pairs_of(pairs) == [(b"Ada1", b"Ada3", True), (b"Ada1", b"Bob2", False), (b"Bob1", b"Bob2", True),
                               (b"Cid1", b"Ada3", False)]
    assert pairs.fold.tolist() == [0, 0, 1, 1] and pairs.fold.dtype == np.int16
    assert pairs.images == [b"Ada1", b"Ada3", b"Bob2", b"Bob1", b"Cid1"]
    assert pairs.identity.tolist() == [0, 0, 1, 1, 2] and pairs.identity.dtype == np.int32
    assert pairs.image_names[4] == str(people / "Cid" / "Cid_0001.png")


def test_lfw_view_1(people):
    file = write(people / "pairsDevTest.txt", b"2\nAda\t1\t3\nBob\t1\t2\nAda\t1\tBob\t2\nCid\t1\tAda\t3\n")
    pairs = read_lfw_pairs(people, file)
    assert pairs.same.tolist() == [True, True, False, False]
    assert pairs.fold.tolist() == [-1] * 4  # too few of either kind for ten folds
    assert pairs.name == "pairsDevTest"


@pytest.mark.parametrize(("text", "message"), [
    (b"", "pairs.txt:1: expected a count, got the end of the file"),
    (b"ten\n", "pairs.txt:1: expected a count, got 'ten'"),
    (b"ten\t1\n", "pairs.txt:1: expected folds<TAB>pairs"),
    (b"1\nAda\t1\t2\n", "pairs.txt:1: promises 1 x 1 genuine .* but 1 lines follow"),
    (b"1\nAda\t1\tBob\t2\nAda\t1\t2\n", "pairs.txt:2: expected name i j .* got 'Ada 1 Bob 2'"),
    (b"1\nAda\t1\t2\nAda\t1\t2\n", "pairs.txt:3: expected nameA i nameB j"),
    (b"1\nAda\t1\ttwo\nAda\t1\tBob\t1\n", "pairs.txt:2: expected name i j"),
    (b"1\nAda\t1\t2\nAda\t1\tBob\t9\n", "pairs.txt:3: names .*Bob_0009.jpg, which is not there"),
    (b"1\nAda\t1\t1\nAda\t1\tBob\t1\n", "pairs.txt:2: 'Ada 1 1' pairs Ada with themselves"),
    (b"1\nAda\t1\t2\nAda\t1\tAda\t2\n", "pairs.txt:3: .* pairs Ada with themselves"),
    (b"1\nAda\t1\t2\n\xff\t1\tAda\t2\n", "not UTF-8"),
])
def test_faulty_lfw_pairs(people, text, message):
    with pytest.raises(DataError, match=message):
        read_lfw_pairs(people, write(people / "pairs.txt", text))


def test_all_pairs_against_combinations(people):
    pairs = all_pairs(FolderSet(people), "mine")
    assert list(zip(pairs.left, pairs.right)) == list(combinations(range(6), 2))
    names = ["Ada"] * 3 + ["Bob"] * 2 + ["Cid"]
    assert pairs.same.tolist() == [a == b for a, b in combinations(names, 2)]
    assert (pairs.fold == -1).all() and pairs.identity.tolist() == [0, 0, 0, 1, 1, 2]
    assert pairs.images == [b"Ada1", b"Ada2", b"Ada3", b"Bob1", b"Bob2", b"Cid1"]
    assert (pairs.left.dtype, pairs.right.dtype, pairs.fold.dtype) == (np.int32, np.int32, np.int16)
    with pytest.raises(DataError, match="1 images make 0 pairs"):
        all_pairs(FolderSet(people, people=["Cid"]), "cid")


def test_real_bin(shared):
    pairs = read_bin(shared / "data" / "small_lfw.bin")
    lines = (shared / "data" / "lfw" / "pairs.txt").read_text().splitlines()[1:11]  # the pairs it was made of
    people = [(name, number) for name, *numbers in map(str.split, lines) for number in numbers]
    positions = {image: i for i, image in enumerate(dict.fromkeys(people))}
    assert np.stack([pairs.left, pairs.right], 1).ravel().tolist() == [positions[image] for image in people]
    assert (len(pairs), len(pairs.images), pairs.same.all()) == (10, 17, True)
    assert pairs.images[0][:4] == b"\xff\xd8\xff\xe0" and len(pairs.images[0]) == 4996
    for image, name in zip(pairs.images, pairs.image_names):
        assert decode_rgb(image, name).shape == (112, 112, 3)


def test_real_lfw(shared):
    """Counts of LFW's own protocol files, and of the data's README (24,620 genuine pairs of the devTest people)."""
    lfw = shared / "data" / "lfw"
    view2 = read_lfw_pairs(lfw / "aligned_112", lfw / "pairs.txt")
    assert len(view2) == 6000 and len(view2.images) == 7701
    assert np.bincount(view2.fold).tolist() == [600] * 10
    assert np.bincount(view2.fold[view2.same]).tolist() == [300] * 10
    assert (view2.same == (view2.identity[view2.left] == view2.identity[view2.right])).all()
    view1 = read_lfw_pairs(lfw / "aligned_112", lfw / "pairsDevTest.txt")
    assert len(view1) == 1000
    assert np.bincount(view1.fold[view1.same]).tolist() == np.bincount(view1.fold[~view1.same]).tolist() == [50] * 10
    test_people = FolderSet(lfw / "aligned_112", people=read_people(lfw / "peopleDevTest.txt"))
    every = all_pairs(test_people, "lfw_devtest")
    assert len(every) == 3708 * 3707 // 2 and np.count_nonzero(every.same) == 24_620
    assert (every.left[-1], every.right[-1]) == (3706, 3707) and (every.left < every.right).all()


def test_real_bin_round_trip(shared, tmp_path):
    pairs = read_bin(shared / "data" / "small_lfw.bin")
    write_bin(tmp_path / "small.bin", pairs_of(pairs))
    again = read_bin(tmp_path / "small.bin")
    assert pairs_of(again) == pairs_of(pairs) and again.images == pairs.images
    images, same = pickle.loads((tmp_path / "small.bin").read_bytes())  # ours, so that it may be unpickled
    assert len(images) == 20 and same == [True] * 10


@pytest.mark.parametrize("protocol", ["pairsDevTest.txt", "pairs.txt"])
def test_real_lfw_packed_to_bin(shared, tmp_path, protocol):
    lfw = shared / "data" / "lfw"
    pairs = read_lfw_pairs(lfw / "aligned_112", lfw / protocol)
    write_bin(tmp_path / "lfw.bin", pairs_of(pairs))
    again = read_bin(tmp_path / "lfw.bin")
    assert pairs_of(again) == pairs_of(pairs) and again.images == pairs.images
    assert pairs.images == [Path(name).read_bytes() for name in pairs.image_names]
    # devTest lists 500 genuine pairs first, then 500 impostors: stratified either way. View 2's ten folds are contiguous.
    assert again.fold.tolist() == pairs.fold.tolist()
