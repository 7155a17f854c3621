"""Pairs from a CSV: any pairs written come back; every fault is named with its line."""
from __future__ import annotations

import csv
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from askd.data.paircsv import read_pair_csv
from askd.errors import DataError

NAMES = ["a.jpg", "b b.png", 'quote".jpg', "comma,.jpg", "sub/ü.jpg", "line\nbreak.jpg"]


def images_of(pairs):
    return [(pairs.images[a].decode(), pairs.images[b].decode()) for a, b in zip(pairs.left, pairs.right)]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    (root / "sub").mkdir()
    for name in NAMES:
        (root / name).write_bytes(name.encode())
    return root


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(*[st.sampled_from(NAMES)] * 2, st.booleans()).filter(lambda pair: pair[0] != pair[1]), min_size=2, max_size=30)
    .filter(lambda pairs: len({same for *_, same in pairs}) == 2),
    st.booleans(), st.integers(0, 5), st.sampled_from([("1", "0"), ("true", "false"), (" TRUE", "False ")]),
)
def test_round_trip(images, pairs, heading, folds, words):
    folds = min(folds, len(pairs))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mine.csv"
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if heading:
                writer.writerow(["path_a", "path_b", "same", "fold"][:4 if folds > 1 else 3])
            for i, (a, b, same) in enumerate(pairs):
                writer.writerow([a, b, words[not same], *([i % folds] if folds > 1 else [])])
        read = read_pair_csv(path, images)
    assert images_of(read) == [(a, b) for a, b, _ in pairs]
    assert read.same.tolist() == [same for *_, same in pairs]
    named = [name for pair in pairs for name in pair[:2]]
    assert [image.decode() for image in read.images] == list(dict.fromkeys(named))  # each once, in the order they come
    if folds > 1:
        assert read.fold.tolist() == [i % folds for i in range(len(pairs))]
    assert (read.left.dtype, read.same.dtype, read.fold.dtype, read.identity, read.name) == (np.int32, bool, np.int16, None, "mine")


def test_paths_lie_beside_the_csv_and_folds_are_ten(tmp_path):
    for name in ("x.jpg", "y.jpg"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "p.csv").write_bytes(b"\xef\xbb\xbfpath_a,path_b,same\r\n\r\n" + b"x.jpg,./y.jpg,1\r\nsub/../y.jpg,x.jpg,0\r\n" * 10)
    pairs = read_pair_csv(tmp_path / "p.csv")
    assert len(pairs.images) == 2  # ./y.jpg and sub/../y.jpg are y.jpg
    assert images_of(pairs)[:2] == [("x.jpg", "y.jpg"), ("y.jpg", "x.jpg")]
    assert pairs.fold.tolist() == [i // 2 for i in range(20)]


@pytest.mark.parametrize(("text", "message"), [
    ("", "p.csv: holds no pairs"),
    ("path_a,path_b,same\n", "p.csv: holds no pairs"),
    ("a,b\n", "p.csv:1: 2 columns, expected path_a,path_b,same"),
    ("a,b,1,0\nb,a,0\n", "p.csv:2: 3 columns"),
    ("a,b,1\nb,a,0,1\n", "p.csv:2: 4 columns"),
    ("first,second,same\na,b,1\n", "p.csv:1: same is 'same', expected 1, 0, true or false"),
    ("a,b,1\na,b,yes\n", "p.csv:2: same is 'yes'"),
    ("a,b,1\na,./a,0\n", "p.csv:2: pairs 'a' with itself"),
    ("a,b,1\nb,a,1\n", "p.csv: all 2 pairs are genuine"),
    ("a,b,0\n", "p.csv: all 1 pairs are impostors"),
    ("a,b,1\n\na,c,0\n", "p.csv:3: names '.*/c', which is not there"),
    ("a,b,1,0\na,b,0,2\n", "p.csv:2: is of fold 2, but no line is of fold 1"),
    ("a,b,1,0\na,b,0,0\n", "p.csv:1: every line is of fold 0"),
    ("a,b,1,-1\na,b,0,0\n", "p.csv:1: fold is '-1'"),
    ("a,b,1,0\na,b,0,1000000\n", "p.csv:2: fold is '1000000'"),
    ('a,b,1\n"a,b,0\n', "p.csv:2: not a line of a CSV"),
    ('a,b,1\n"a"x,b,0\n', "p.csv:2: not a line of a CSV"),
    ("a,b,1\n" + "x" * 200_000 + ",b,0\n", "p.csv:2: not a line of a CSV"),
    (b"a,b,1\n\xff,b,0\n", "p.csv: byte 6 is not UTF-8"),
    ("a,b,1\na\0,b,0\n", "p.csv:2: "),
    ('a,b,1\n"new\nline",b,0\n', "p.csv:3: names '.*new.nline', which is not there"),
])
def test_faults_are_named(tmp_path, text, message):
    for name in "ab":
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "p.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message) as refused:
        read_pair_csv(tmp_path / "p.csv")
    assert "\n" not in str(refused.value)


def test_csv_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="none.csv: cannot be read"):
        read_pair_csv(tmp_path / "none.csv")
