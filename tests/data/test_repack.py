"""From format to format and back: every byte, every name and every order survives."""
from __future__ import annotations

import os
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from askd.data.classes import read_classes, write_classes
from askd.data.faces import open_faces
from askd.data.folder import FolderSet
from askd.data.pairs import NO_FOLD, PairSet, contiguous, read_bin, read_lfw_pairs, stratify
from askd.data.recordio import RecordWriter, write_recordio
from askd.data.repack import pack, pack_pairs, unpack
from askd.errors import DataError

MAGIC_WORD = bytes.fromhex("0a23d7ce")
JPEG, PNG = (cv2.imencode(suffix, np.full((112, 112, 3), 90, np.uint8))[1].tobytes() for suffix in (".jpg", ".png"))


def contents(faces) -> list[tuple[str, bytes]]:
    return [(faces.class_names[label], faces.encoded(index)) for index, label in enumerate(faces.labels)]


def make_folder(root: Path, people: dict[str, dict[str, bytes]]) -> Path:
    for person, images in people.items():
        (root / person).mkdir(parents=True)
        for name, content in images.items():
            (root / person / name).write_bytes(content)
    return root


names = st.text(st.characters(exclude_characters="/\\\n", min_codepoint=32, exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda name: not name.startswith(".") and len(name.encode()) < 200)
tails = st.lists(st.sampled_from([MAGIC_WORD, b"\0", b"xyz"])).map(b"".join)
images = st.builds(lambda whole, tail: whole + tail, st.sampled_from([JPEG, PNG]), tails)


@settings(deadline=None, max_examples=40)
@given(st.dictionaries(names, st.lists(images, min_size=1, max_size=4), min_size=1, max_size=12))
def test_folder_to_records_to_folder(people):
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        faces = FolderSet(make_folder(root / "faces", {
            person: {f"{number:02d}.{'png' if image.startswith(PNG[:4]) else 'jpg'}": image for number, image in enumerate(given)}
            for person, given in people.items()}))
        pack(faces, root / "packed")
        records = open_faces(root / "packed")
        assert read_classes(root / "packed" / "classes.txt") == faces.class_names == sorted(people, key=os.fsencode)
        assert np.array_equal(records.labels, faces.labels)
        unpack(records, root / "packed" / "classes.txt", root / "again")
        again = FolderSet(root / "again")
        assert contents(again) == contents(faces)
        for index in range(len(again)):  # suffixes tell the truth
            assert again.encoded(index).startswith(b"\x89PNG") == again.name(index).endswith(".png")


def test_unnamed_classes_keep_their_order(tmp_path):
    write_recordio(tmp_path / "set", [(label, JPEG + bytes([label])) for label in range(12)], 12)
    records = open_faces(tmp_path / "set")
    told = []
    unpack(records, tmp_path / "set" / "classes.txt", tmp_path / "out", lambda *numbers: told.append(numbers))
    again = FolderSet(tmp_path / "out")
    assert again.class_names == [f"{label:02d}" for label in range(12)] and told == [(number, 12) for number in range(1, 13)]
    assert [again.encoded(i) for i in range(12)] == [records.encoded(i) for i in range(12)]
    assert again.name(3).endswith("03/000001.jpg")


def test_labels_with_gaps_take_the_name_of_their_line(tmp_path):
    with RecordWriter(tmp_path / "train.rec") as writer:
        for key, label in enumerate((4, 1)):
            writer.write_image(key, label, JPEG + bytes([label]))
    write_classes(tmp_path / "classes.txt", ["a", "b", "c", "d", "e"])
    unpack(open_faces(tmp_path), tmp_path / "classes.txt", tmp_path / "out")
    assert [(name, image[-1]) for name, image in contents(FolderSet(tmp_path / "out"))] == [("b", 1), ("e", 4)]
    write_classes(tmp_path / "classes.txt", ["a", "b", "c", "d"])
    with pytest.raises(DataError, match="classes.txt: names 4 identities, but there are labels up to 4"):
        unpack(open_faces(tmp_path), tmp_path / "classes.txt", tmp_path / "other")


@pytest.mark.parametrize(("text", "said"), [
    (b"a\n\nb\n", ":2: '' cannot be a folder"), (b"../x\n", ":1: '../x' cannot"), (b"a/b\n", ":1: 'a/b' cannot"),
    (b".hidden\n", "cannot be"),
    (b"a\nb\na\n", ":3: a stands in line 1 already"), (b"\xff\n", "byte 0 is not UTF-8"), (b"", ":1: '' cannot"), (b"a\0\n", "cannot be"),
])
def test_hostile_classes(text, said, tmp_path):
    (tmp_path / "classes.txt").write_bytes(text)
    with pytest.raises(DataError, match=f"classes.txt.*{said}"):
        read_classes(tmp_path / "classes.txt")


@pytest.mark.parametrize("name", ["a\nb", ".a", ""])
def test_names_that_no_line_can_hold(name, tmp_path):
    with pytest.raises(DataError, match="rename the identity"):
        write_classes(tmp_path / "classes.txt", [name])
    assert not any(tmp_path.iterdir())


def test_what_is_no_aligned_face_is_not_packed(tmp_path):
    wide = cv2.imencode(".jpg", np.zeros((112, 113, 3), np.uint8))[1].tobytes()
    for number, (content, said) in enumerate([(wide, "is 113x112 pixels"), (b"", "is empty"), (b"text", "starts with")]):
        folder = make_folder(tmp_path / str(number), {"ada": {"1.jpg": JPEG, "2.jpg": content}})
        with pytest.raises(DataError, match=f"ada/2.jpg: {said}"):
            pack(FolderSet(folder), tmp_path / "packed")
        assert not any((tmp_path / "packed").iterdir())


def test_nothing_is_overwritten(tmp_path):
    faces = FolderSet(make_folder(tmp_path / "faces", {"ada": {"1.jpg": JPEG}}))
    pack(faces, tmp_path / "packed")
    with pytest.raises(DataError, match="train.rec is there already"):
        pack(faces, tmp_path / "packed")
    with pytest.raises(DataError, match="faces is there already"):
        unpack(open_faces(tmp_path / "packed"), tmp_path / "packed" / "classes.txt", tmp_path / "faces")
    with pytest.raises(DataError, match="cannot write"):
        unpack(open_faces(tmp_path / "packed"), tmp_path / "none", tmp_path / "faces" / "ada" / "1.jpg" / "out")


def test_a_record_that_is_no_image_leaves_no_folder(tmp_path):
    write_recordio(tmp_path / "set", [(0, JPEG), (0, b"GIF89a")], 1)
    with pytest.raises(DataError, match="train.rec: record 2: starts with 47 49"):
        unpack(open_faces(tmp_path / "set"), tmp_path / "none", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def pair_set(fold, same) -> PairSet:
    count = len(same)
    distinct = [JPEG + number.to_bytes(2, "big") for number in range(count + 1)]
    left = np.arange(count, dtype=np.int32)
    names = list(map(str, range(count + 1)))
    return PairSet("mine", distinct, left, left + 1, np.asarray(same, bool), np.asarray(fold, np.int16), None, names)


def test_pairs_in_order_of_their_folds(tmp_path):
    same = np.tile([True, False], 20)
    pairs = pair_set(np.tile(np.arange(10).repeat(2), 2), same)  # folds 0 0 1 1 ... 9 9 0 0 ...
    pack_pairs(pairs, tmp_path / "new" / "mine.bin")
    there = read_bin(tmp_path / "new" / "mine.bin")
    order = np.argsort(pairs.fold, kind="stable")
    assert np.array_equal(there.fold, np.arange(10).repeat(4)) and np.array_equal(there.same, same[order])
    assert [there.images[i] for i in there.left] == [pairs.images[pairs.left[i]] for i in order]
    assert [there.images[i] for i in there.right] == [pairs.images[pairs.right[i]] for i in order]


def test_pairs_without_folds_of_their_own_keep_their_order(tmp_path):
    same = np.arange(100) < 50  # as LFW's View 1: stratified
    pairs = pair_set(stratify(same), same)
    pack_pairs(pairs, tmp_path / "mine.bin")
    assert np.array_equal(read_bin(tmp_path / "mine.bin").left, pairs.left)


@pytest.mark.parametrize("fold", [np.arange(40) // 8, np.full(40, NO_FOLD), np.r_[0, contiguous(39)]])
def test_folds_that_a_bin_cannot_hold(fold, tmp_path):
    with pytest.raises(DataError, match="mine: its folds are not ten of equal length"):
        pack_pairs(pair_set(fold, np.tile([True, False], 20)), tmp_path / "mine.bin")
    assert not any(tmp_path.iterdir())


def test_pairs_names(tmp_path):
    pairs = pair_set(contiguous(40), np.tile([True, False], 20))
    (tmp_path / "there.bin").touch()
    for name, said in (("there.bin", "is there already"), ("mine.rec", "is not named")):
        with pytest.raises(DataError, match=said):
            pack_pairs(pairs, tmp_path / name)


def test_real_faces(shared, tmp_path):
    lfw = shared / "data" / "lfw"
    people = sorted(os.listdir(lfw / "aligned_112"))[:400]
    faces = FolderSet(lfw / "aligned_112", people=people)
    pack(faces, tmp_path / "packed")
    unpack(open_faces(tmp_path / "packed"), tmp_path / "packed" / "classes.txt", tmp_path / "again")
    assert contents(FolderSet(tmp_path / "again")) == contents(faces) and len(faces) > 800
    for protocol in ("pairs.txt", "pairsDevTest.txt"):
        pairs = read_lfw_pairs(lfw / "aligned_112", lfw / protocol)
        pack_pairs(pairs, tmp_path / f"{protocol}.bin")
        there = read_bin(tmp_path / f"{protocol}.bin")
        assert np.array_equal(there.same, pairs.same) and np.array_equal(there.fold, pairs.fold)
        assert [there.images[i] for i in there.right] == [pairs.images[i] for i in pairs.right]
