from __future__ import annotations

import csv
import multiprocessing
import os
import pickle
import random
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from askd.data.lists import ListSet, class_ids
from askd.errors import DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for file in ("a/1.jpg", "a/2.jpg", "b c/1.png", "d,e.jpg"):
        path = tmp_path / file
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(file.encode())
    return tmp_path


def contents(faces):
    return [(faces.encoded(i).decode(), faces.class_names[label]) for i, label in enumerate(faces.labels)]


EXPECTED = [("a/2.jpg", "10"), ("b c/1.png", "9"), ("a/1.jpg", "10")]


@pytest.mark.parametrize(("name", "text"), [
    ("l.txt", "a/2.jpg 10\nb c/1.png 9\na/1.jpg  10\n"),
    ("l.lst", "a/2.jpg\t10\nb c/1.png\t9\na/1.jpg\t10"),
    ("l.tsv", "a/2.jpg\t10\r\nb c/1.png\t9\r\na/1.jpg\t10\r\n"),
    ("l.csv", "path,label\na/2.jpg,10\n\"b c/1.png\",9\na/1.jpg,10\n"),
    ("l.CSV", "a/2.jpg,10\r\nb c/1.png,\"9\"\r\na/1.jpg,10\r\n"),
    ("l.txt", "\ufeff./a/2.jpg 10\na/../b c/1.png 9\na/1.jpg 10\n"),
])
def test_every_way_to_write_it(root, name, text):
    (root / name).write_bytes(text.encode())
    faces = ListSet(root / name)
    assert contents(faces) == EXPECTED
    assert faces.class_names == ["9", "10"] and faces.labels.tolist() == [1, 0, 1] and faces.labels.dtype == np.int64


def test_absolute_paths_labels_of_several_words_and_commas(root):
    (root / "l.txt").write_text(f"{root}/a/1.jpg\tAda Lovelace\na/2.jpg\tBob\n")
    faces = ListSet(root / "l.txt")
    assert contents(faces) == [("a/1.jpg", "Ada Lovelace"), ("a/2.jpg", "Bob")]
    assert faces.name(0) == f"{root}/a/1.jpg"
    (root / "l.csv").write_text('"d,e.jpg","Lovelace, Ada"\n')
    assert contents(ListSet(root / "l.csv")) == [("d,e.jpg", "Lovelace, Ada")]


def test_reads_where_the_list_lies_in_a_spawned_process(root, monkeypatch):
    (root / "l.txt").write_text("a/1.jpg 0\na/2.jpg 1\n")
    faces = pickle.loads(pickle.dumps(ListSet(root / "l.txt")))
    monkeypatch.chdir("/")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(faces.encoded, [1, 0]) == [b"a/2.jpg", b"a/1.jpg"]


def test_order_of_class_ids_by_hand():
    labels = ["b", "10", "9", "\u00e9", "007", "7", "Z", "-1", "", "1" * 5000, "2.5", "\u0663"]
    expected = ["7", "007", "9", "10", "1" * 5000, "", "-1", "2.5", "Z", "b", "\u00e9", "\u0663"]
    for seed in range(5):
        shuffled = random.Random(seed).sample(labels, len(labels))
        ids, names = class_ids(shuffled)
        assert names == expected and [names[i] for i in ids] == shuffled


words = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1).filter(lambda word: word == word.strip() != "")


@settings(deadline=None, max_examples=40)
@given(st.lists(words, min_size=1, max_size=6), st.sampled_from(["csv", "tsv"]))
def test_any_labels_round_trip(labels, kind):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"list.{kind}"
        for number in range(len(labels)):
            (Path(folder) / f"{number} x.jpg").write_bytes(b"%d" % number)
        rows = [(f"{number} x.jpg", label) for number, label in enumerate(labels)]
        with open(path, "w", encoding="utf-8", newline="") as file:
            if kind == "csv":
                csv.writer(file).writerows(rows)
            else:
                file.writelines(f"{name}\t{label}\n" for name, label in rows)
        assert contents(ListSet(path)) == [(str(number), label) for number, label in enumerate(labels)]


@pytest.mark.parametrize(("name", "text", "message"), [
    ("l.txt", b"", "l.txt: names no images"),
    ("l.csv", b"path,label\n", "l.csv: names no images"),
    ("l.txt", b"a/1.jpg 0\n\na/2.jpg 1\n", "l.txt:2: expected a path and a label, got ''"),
    ("l.csv", b"a/1.jpg,0\n\na/2.jpg,1\n", "l.csv:2: expected a path and a label"),
    ("l.txt", b"a/1.jpg\n", "l.txt:1: expected a path and a label, got 'a/1.jpg'"),
    ("l.txt", b"a/1.jpg\t0\t7\n", "l.txt:1: expected"),
    ("l.csv", b"a/1.jpg,a/2.jpg,1\n", "l.csv:1: expected"),
    ("l.csv", b"a/1.jpg, \n", "l.csv:1: expected"),
    ("l.txt", b"a/1.jpg 0\na/9.jpg 0\n", r"l.txt:2: names .*a/9.jpg: cannot be read \(No such file"),
    ("l.txt", b"a/1.jpg 0\na 0\n", "l.txt:2: names .*/a: is not a regular file"),
    ("l.txt", b"/dev/zero 0\n", "l.txt:1: names /dev/zero: is not a regular file"),
    ("l.txt", b"a/1.jpg 0\na/2.jpg 0\n./a//1.jpg 1\n", "l.txt:3: ./a//1.jpg stands in line 1 already"),
    ("l.txt", b"a/1.jpg 0\na/2.jpg caf\xe9\n", r"l.txt:2: b'\\xe9' is not UTF-8"),
    ("l.txt", b"a/1.jpg 0\na/2.jpg\x00 1\n", "l.txt:2: holds a zero byte"),
    ("l.csv", b'a/1.jpg,0\n"a/2.jpg,1\n', r"l.csv:2: is not CSV \(unexpected end of data\)"),
    ("l.csv", b'a/1.jpg,0\n"a/2.jpg"x,1\n', "l.csv:2: is not CSV"),
    ("l.csv", b'a/1.jpg,"0\na/2.jpg,1"\n', "l.csv:1: expected a path and a label, got 'a/1.jpg,0"),
    ("l.csv", b"a/1.jpg," + b"9" * 200_000, "l.csv:1: is not CSV .*field larger"),
])
def test_faulty_lists(root, name, text, message):
    (root / name).write_bytes(text)
    with pytest.raises(DataError, match=message) as caught:
        ListSet(root / name)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_images_are_neither_waited_for_nor_read(root):
    os.mkfifo(root / "pipe.jpg")
    os.truncate(os.open(root / "huge.jpg", os.O_CREAT | os.O_RDWR), 1 << 40)
    for name, message in (("pipe.jpg", "not a regular file"), ("huge.jpg", "has 1099511627776 bytes")):
        (root / "l.txt").write_text(f"{name} 0\n")
        with pytest.raises(DataError, match=f"l.txt:1: names .*{name}: .*{message}"):
            ListSet(root / "l.txt")


def test_image_that_went_away(root):
    (root / "l.txt").write_text("a/1.jpg 0\n")
    faces = ListSet(root / "l.txt")
    (root / "a/1.jpg").unlink()
    with pytest.raises(DataError, match="a/1.jpg: cannot be read"):
        faces.encoded(0)
