from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from askd.data.folder import FolderSet, read_people
from askd.errors import DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for file in ("b/2.jpg", "b/10.PNG", "Z/1.jpeg", "\u00e9/1.jpg", "a/1.jpg", "a/2.jpg", "a/3.jpg", "empty/notes.txt"):
        path = tmp_path / "faces" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.encode())
    for hidden in ("b/.DS_Store", ".cache/x.jpg"):
        path = tmp_path / "faces" / hidden
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return tmp_path / "faces"


def test_ids_and_order_are_bytewise_whatever_the_directory_says(root, monkeypatch):
    shown = os.scandir

    class Entries(list):
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    def check(faces):
        assert faces.class_names == ["Z", "a", "b", "\u00e9"]
        assert faces.labels.tolist() == [0, 1, 1, 1, 2, 2, 3] and faces.labels.dtype == np.int64
        assert [faces.encoded(i).decode() for i in range(len(faces))] == [
            "Z/1.jpeg", "a/1.jpg", "a/2.jpg", "a/3.jpg", "b/10.PNG", "b/2.jpg", "\u00e9/1.jpg"]

    check(FolderSet(root))
    for reverse in (False, True):
        by_name = dict(key=lambda entry: entry.name, reverse=reverse)
        monkeypatch.setattr(os, "scandir", lambda folder, order=by_name: Entries(sorted(shown(folder), **order)))
        check(FolderSet(root))


def test_people_and_min_images(root):
    assert FolderSet(root, min_images=2).class_names == ["a", "b"]
    faces = FolderSet(root, people=["b", "Z", "b"])
    assert (faces.class_names, faces.labels.tolist()) == (["Z", "b"], [0, 1, 1])
    assert FolderSet(root, people=["b", "Z"], min_images=2).class_names == ["b"]
    with pytest.raises(DataError, match="lacks the folders of 2 of the 3 people asked for, Nobody, nobody"):
        FolderSet(root, people=["a", "nobody", "Nobody"])
    with pytest.raises(DataError, match="none of 5 identity folders holds 4 or more images"):
        FolderSet(root, min_images=4)


def test_names_and_pickling(root):
    faces = pickle.loads(pickle.dumps(FolderSet(root)))
    assert faces.name(4) == str(root / "b" / "10.PNG") and faces.encoded(4) == b"b/10.PNG"
    (root / "b" / "10.PNG").unlink()
    with pytest.raises(DataError, match=r"b/10.PNG: cannot be read \(No such file"):
        faces.encoded(4)


def test_what_would_make_the_set_smaller_is_an_error(root):
    (root / "a" / "4.webp").touch()
    with pytest.raises(DataError, match="a/4.webp: images are read as .jpg"):
        FolderSet(root)
    (root / "a" / "4.webp").unlink()
    (root / "a" / "more").mkdir()
    with pytest.raises(DataError, match="a/more: is a folder within an identity"):
        FolderSet(root)


def test_links_in_a_loop_and_names_that_are_not_utf8(root):
    (root / "a" / "loop").symlink_to(root / "a")
    with pytest.raises(DataError, match="a/loop"):
        FolderSet(root)
    (root / "a" / "loop").unlink()
    (root / "self").symlink_to(root / "self")
    with pytest.raises(DataError, match="self"):
        FolderSet(root)
    (root / "self").unlink()
    os.mkdir(os.fsencode(root) + b"/caf\xe9")
    with pytest.raises(DataError, match=r"caf\\xe9' is not UTF-8"):
        FolderSet(root)


def test_what_is_named_like_an_image_and_is_none(root):
    os.mkfifo(root / "a" / "pipe.jpg")
    with pytest.raises(DataError, match="a/pipe.jpg: is not a regular file"):
        FolderSet(root)
    (root / "a" / "pipe.jpg").unlink()
    (root / "a" / "gone.jpg").symlink_to(root / "nowhere.jpg")
    with pytest.raises(DataError, match=r"a/gone.jpg: cannot be read \(No such file"):
        FolderSet(root)
    (root / "a" / "gone.jpg").unlink()
    (root / "a" / "4.jpg").symlink_to(root / "b" / "2.jpg")
    faces = FolderSet(root)
    assert faces.encoded(4) == b"b/2.jpg"
    (root / "b" / "2.jpg").unlink()
    os.mkfifo(root / "b" / "2.jpg")
    with pytest.raises(DataError, match="a/4.jpg: is not a regular file"):
        faces.encoded(4)


def test_file_too_large_to_be_an_image(root):
    os.truncate(root / "a" / "2.jpg", 1 << 40)
    with pytest.raises(DataError, match="a/2.jpg: has 1099511627776 bytes"):
        FolderSet(root).encoded(2)


def test_no_folder(tmp_path):
    with pytest.raises(DataError, match="nowhere: is not a folder"):
        FolderSet(tmp_path / "nowhere")


@pytest.mark.parametrize(("text", "names"), [
    ("2\nAda\t3\nBob 1\n", ["Ada", "Bob"]),
    ("2\n1\nAda\t3\n2\nBob\t1\nCid\t1\n", ["Ada", "Bob", "Cid"]),
    ("0\n", []),
])
def test_read_people(tmp_path, text, names):
    (tmp_path / "people.txt").write_text(text)
    assert read_people(tmp_path / "people.txt") == names


@pytest.mark.parametrize(("text", "message"), [
    (b"", "people.txt:1: expected a count, got the end of the file"),
    (b"Ada\t3\n", "people.txt:1: expected a count, got 'Ada 3'"),
    (b"2\nAda\t3\n", "people.txt:3: expected name<TAB>images.*got the end of the file"),
    (b"1\nAda\t3\nBob\t1\n", "people.txt:3: expected the end of the file, got 'Bob 1'"),
    (b"2\nAda\t3\nBob\tone\n", "people.txt:3: .*got 'Bob one'"),
    (b"2\n1\nAda\t3\n", "people.txt:4: expected a count"),
    (b"2\nAda\t3\nAda\t3\n", "Ada stands there twice"),
    (b"1\n\xff\t3\n", "byte 2 is not UTF-8"),
])
def test_faulty_people(tmp_path, text, message):
    (tmp_path / "people.txt").write_bytes(text)
    with pytest.raises(DataError, match=message):
        read_people(tmp_path / "people.txt")


def test_lfw(shared):
    """The counts that LFW's publishers and the data's README state."""
    lfw = shared / "data" / "lfw"
    train, test = (read_people(lfw / f"peopleDev{part}.txt") for part in ("Train", "Test"))
    assert (len(train), len(test), len(set(train) & set(test))) == (4038, 1711, 0)
    assert len(read_people(lfw / "people.txt")) == 5749
    faces = FolderSet(lfw / "aligned_112", people=train, min_images=4)
    assert (len(faces.class_names), len(faces)) == (430, 4964)
    faces = FolderSet(lfw / "aligned_112", people=test)
    assert (len(faces.class_names), len(faces)) == (1711, 3708)
    assert faces.encoded(0) == (lfw / "aligned_112" / "AJ_Lamas" / "AJ_Lamas_0001.jpg").read_bytes()
