from __future__ import annotations

import hashlib
import io
import pickle
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from askd.data.faces import Subset, open_faces, split_by_hash
from askd.data.folder import FolderSet
from askd.data.lists import ListSet
from askd.data.recordio import write_recordio
from askd.data.records import RecordSet
from askd.data.shards import ShardSet
from askd.errors import DataError

IMAGES = [(0, b"a1"), (1, b"b1"), (1, b"b2"), (2, b"c1"), (3, b"d1"), (3, b"d2"), (3, b"d3")]


@pytest.fixture
def records(tmp_path):
    write_recordio(tmp_path / "set", IMAGES, 4)
    return tmp_path / "set"


def contents(faces):
    return [(faces.class_names[label], faces.encoded(i)) for i, label in enumerate(faces.labels)]


def test_subset_relabels_in_the_order_given(records):
    base = RecordSet(records)
    subset = Subset(base, [3, 1])
    assert subset.class_names == ["3", "1"]
    assert subset.labels.tolist() == [1, 1, 0, 0, 0] and subset.labels.dtype == np.int64
    assert contents(subset) == [("1", b"b1"), ("1", b"b2"), ("3", b"d1"), ("3", b"d2"), ("3", b"d3")]
    assert subset.name(2) == base.name(4)
    assert contents(pickle.loads(pickle.dumps(Subset(subset, [1])))) == [("1", b"b1"), ("1", b"b2")]


@pytest.mark.parametrize("ids", [[], [4], [-1], [1, 1]])
def test_subset_of_ids_that_are_not_there(records, ids):
    with pytest.raises(DataError, match="distinct class ids from 0 to 3"):
        Subset(RecordSet(records), ids)


def test_open_faces_recognises_records(records):
    assert isinstance(open_faces(records), RecordSet)
    assert isinstance(open_faces(records / "train.rec"), RecordSet)
    assert contents(open_faces(records)) == [(str(label), image) for label, image in IMAGES]
    assert contents(open_faces(records, people=["1", "0"])) == [("0", b"a1"), ("1", b"b1"), ("1", b"b2")]
    assert open_faces(records, min_images=2).class_names == ["1", "3"]
    with pytest.raises(DataError, match="lacks 1 of the 2 people asked for, Ada"):
        open_faces(records, people=["Ada", "1"])
    with pytest.raises(DataError, match="none of 4 identities has 9"):
        open_faces(records, min_images=9)


def test_open_faces_recognises_folders(tmp_path):
    (tmp_path / "Ada").mkdir()
    (tmp_path / "Ada" / "1.jpg").write_bytes(b"ada")
    (tmp_path / "Bob").mkdir()
    (tmp_path / "Bob" / "1.jpg").write_bytes(b"bob")
    assert isinstance(open_faces(tmp_path), FolderSet)
    assert contents(open_faces(tmp_path, people=["Bob"])) == [("Bob", b"bob")]


def folder_of(root):
    for name, image in (("0/0.jpg", b"a1"), ("1/1.jpg", b"b1"), ("1/2.jpg", b"b2")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(image)
    return root


def as_records(root):
    write_recordio(root, IMAGES[:3], 2)
    return root


def as_renamed_record(root):
    (as_records(root) / "train.rec").rename(root / "faces")
    return root / "faces"


def as_list(root, name="faces.txt", separator=" "):
    (folder_of(root) / name).write_text("".join(f"{file}{separator}{file[0]}\n" for file in ("0/0.jpg", "1/1.jpg", "1/2.jpg")))
    return root / name


def as_shard(root, name="faces.tar"):
    root.mkdir(exist_ok=True)
    with tarfile.open(root / name, "w") as tar:
        for number, (label, image) in enumerate(IMAGES[:3]):
            for suffix, data in (("jpg", image), ("cls", str(label).encode())):
                member = tarfile.TarInfo(f"{number}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return root / name


@pytest.mark.parametrize(("make", "kind"), [
    (as_records, RecordSet), (as_renamed_record, RecordSet), (folder_of, FolderSet), (as_list, ListSet),
    (lambda root: as_list(root, "faces.csv", ","), ListSet), (lambda root: as_list(root, "faces.lst", "\t"), ListSet),
    (as_shard, ShardSet), (lambda root: as_shard(root).parent, ShardSet), (lambda root: as_shard(root, "shard-000000"), ShardSet),
    (lambda root: as_shard(root, "f1.tar").with_name("f{1..1}.tar"), ShardSet),
])
def test_every_format_is_recognised_and_restricted_alike(tmp_path, make, kind):
    path = make(tmp_path / "set")
    faces = open_faces(path)
    assert isinstance(faces, kind)
    assert contents(faces) == [("0", b"a1"), ("1", b"b1"), ("1", b"b2")]
    assert contents(open_faces(path, people=["0"])) == [("0", b"a1")]
    assert contents(open_faces(str(path), min_images=2)) == [("1", b"b1"), ("1", b"b2")]
    with pytest.raises(DataError, match="people asked for"):
        open_faces(path, people=["0", "7"])
    with pytest.raises(DataError, match="lower min_images"):
        open_faces(path, min_images=3)


def test_folders_beside_the_archive_they_came_from(tmp_path):
    folder_of(tmp_path / "set")
    as_shard(tmp_path / "set")
    assert isinstance(open_faces(tmp_path / "set"), FolderSet)


def test_open_faces_says_what_it_looked_for(tmp_path):
    with pytest.raises(DataError, match="nowhere: does not exist; looked for .*nowhere/train.rec .*nowhere/<identity>"):
        open_faces(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds none"):
        open_faces(tmp_path)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(DataError, match="loop: cannot be followed"):
        open_faces(tmp_path)
    (tmp_path / "faces.jpg").touch()
    with pytest.raises(DataError, match="faces.jpg: is none"):
        open_faces(tmp_path / "faces.jpg")
    (tmp_path / "faces.csv").touch()
    with pytest.raises(DataError, match="faces.csv: names no images"):
        open_faces(tmp_path / "faces.csv")


def test_split_by_hash_is_the_hash_of_the_name():
    names = [f"person {i}" for i in range(500)]
    kept, held = split_by_hash(names, 0.1)
    digest = [int(hashlib.sha256(f"askd:{name}".encode()).hexdigest(), 16) for name in names]
    assert held.tolist() == [i for i, number in enumerate(digest) if number * 10 < 2**256]
    assert sorted([*kept, *held]) == list(range(500))
    assert 25 <= len(held) <= 75
    assert not np.array_equal(held, split_by_hash(names, 0.1, salt="other")[1])


@settings(deadline=None, max_examples=30)
@given(st.permutations([f"\u00e9 {i}" for i in range(60)]))
def test_a_person_stays_on_their_side_whoever_else_is_there(names):
    fewer = names[:35]
    held = {names[i] for i in split_by_hash(names, 0.4)[1]}
    assert {fewer[i] for i in split_by_hash(fewer, 0.4)[1]} == held & set(fewer)


def test_split_that_holds_out_no_one():
    assert [ids.tolist() for ids in split_by_hash(["a", "b"], 0)] == [[0, 1], []]
    for fraction in (1e-9, 1 - 1e-9):
        with pytest.raises(DataError, match="of 2 people by hash keeps"):
            split_by_hash(["a", "b"], fraction)
    for fraction in (-0.1, 1):
        with pytest.raises(DataError, match="at least 0 and less than 1"):
            split_by_hash(["a", "b"], fraction)
