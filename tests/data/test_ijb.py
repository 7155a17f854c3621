"""IJB's lists on a hand-made archive: three templates of five images, compared 1:1 and 1:N; loose crops against InsightFace's alignment."""
from __future__ import annotations

import pickle
import re

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from insightface.utils import face_align

from askd.data import integer_table
from askd.data.decode import decode_rgb
from askd.data.ijb import read_ijb
from askd.data.integer_table import read_integers
from askd.errors import DataError

LANDMARKS = "30.5 40.25 70 42 51.5 60 35 80 66.5 82"
FILES = {
    "ijbx_face_tid_mid.txt": "1.jpg 7 100\n2.jpg 7 100\n3.jpg 7 101\n4.jpg 20 5\n5.jpg 3 9\n",
    "ijbx_template_pair_label.txt": "7 20 1\n3 7 0\n20 3 0\n",
    "ijbx_name_5pts_score.txt": "".join(f"{i}.jpg {LANDMARKS} 0.99\n" for i in range(1, 6)),
    "ijbx_1N_gallery_G1.csv": "TEMPLATE_ID,SUBJECT_ID,FILENAME\n20,555,a/1.jpg\n20,555,a/2.jpg\n",
    "ijbx_1N_gallery_G2.csv": "TEMPLATE_ID,SUBJECT_ID,FILENAME\n3,9,x.jpg\n",
    "ijbx_1N_probe_mixed.csv": "TEMPLATE_ID,SUBJECT_ID,FILENAME\n7,555,v.mp4\n",
}


def picture(width, height, seed=0):
    smooth = cv2.resize(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    return cv2.imencode(".png", smooth)[1].tobytes()


@pytest.fixture
def archive(tmp_path):
    for folder in ("meta", "loose_crop"):
        (tmp_path / folder).mkdir()
    for name, text in FILES.items():
        (tmp_path / "meta" / name).write_text(text)
    for i in range(1, 6):
        (tmp_path / "loose_crop" / f"{i}.jpg").write_bytes(picture(100 + i, 120, seed=i))
    return tmp_path


def test_lists(archive):
    found = read_ijb(archive / "meta", archive / "loose_crop")
    # Templates 3, 7, 20 become 0, 1, 2.
    assert found.template.tolist() == [1, 1, 1, 2, 0]
    assert found.media.tolist() == [100, 100, 101, 5, 9]
    assert found.subject.tolist() == [9, 555, 555]
    assert list(zip(found.left.tolist(), found.right.tolist(), found.same.tolist())) == [(1, 2, True), (0, 1, False), (2, 0, False)]
    assert found.probe.tolist() == [1] and [gallery.tolist() for gallery in found.galleries] == [[2], [0]]
    for array in (found.template, found.media, found.subject, found.left, found.right, found.probe, *found.galleries):
        assert array.dtype == np.int64
    assert found.same.dtype == bool and found.name == "ijbx" and len(found.images) == 5
    assert found.images.name(2) == str(archive / "loose_crop" / "3.jpg")


def test_either_protocol_alone(archive):
    for name in ("ijbx_1N_gallery_G1.csv", "ijbx_1N_gallery_G2.csv", "ijbx_1N_probe_mixed.csv"):
        (archive / "meta" / name).unlink()
    found = read_ijb(archive / "meta", archive / "loose_crop")
    assert found.subject.tolist() == [-1, -1, -1] and len(found.probe) == 0 and found.galleries == [] and len(found.same) == 3
    for name in ("ijbx_1N_gallery_G1.csv", "ijbx_1N_probe_mixed.csv"):
        (archive / "meta" / name).write_text(FILES[name])
    (archive / "meta" / "ijbx_template_pair_label.txt").unlink()
    found = read_ijb(archive / "meta", archive / "loose_crop")
    assert (len(found.left), len(found.right), len(found.same)) == (0, 0, 0) and found.subject.tolist() == [-1, 555, 555]


@pytest.mark.filterwarnings("ignore:.*estimate.*:FutureWarning")
def test_loose_crops_are_aligned_as_insightface_aligns_them(archive):
    images = pickle.loads(pickle.dumps(read_ijb(archive / "meta", archive / "loose_crop").images))
    points = np.array(LANDMARKS.split(), np.float32).reshape(5, 2)
    for i in range(5):
        loose = cv2.imread(images.name(i))
        expected = face_align.norm_crop(loose, points)[..., ::-1]
        aligned = decode_rgb(images.encoded(i), images.name(i))
        assert aligned.shape == (112, 112, 3) and aligned.std() > 10
        assert np.abs(aligned.astype(int) - expected).max() <= 1  # the matrices differ in their last bits


def test_crops_of_112_pixels_are_aligned_already(archive):
    for i in range(1, 6):
        (archive / "loose_crop" / f"{i}.jpg").write_bytes(picture(112, 112, seed=i))
    (archive / "meta" / "ijbx_name_5pts_score.txt").unlink()
    images = read_ijb(archive / "meta", archive / "loose_crop").images
    assert [images.encoded(i) for i in range(5)] == [picture(112, 112, seed=i) for i in range(1, 6)]


@pytest.mark.parametrize(("name", "change", "message"), [
    ("face_tid_mid.txt", ("4.jpg 20 5", "4.jpg 20"), "face_tid_mid.txt:4: expected name template media, got '4.jpg 20'"),
    ("face_tid_mid.txt", ("4.jpg 20 5", "4.jpg x 5"), "face_tid_mid.txt:4: expected name template media"),
    ("face_tid_mid.txt", ("4.jpg 20 5", "../4.jpg 20 5"), "face_tid_mid.txt:4: expected name template media"),
    ("face_tid_mid.txt", ("4.jpg 20 5", f"4.jpg {10**19} 5"), "face_tid_mid.txt:4: expected name template media"),
    ("face_tid_mid.txt", ("4.jpg 20 5", "6.jpg 20 5"), "face_tid_mid.txt:4: names .*6.jpg, which is not there, as are 1 of 5 images"),
    ("face_tid_mid.txt", (FILES["ijbx_face_tid_mid.txt"], ""), "face_tid_mid.txt: is empty"),
    ("face_tid_mid.txt", ("4.jpg", "ü.jpg"), "face_tid_mid.txt: byte 36 is not ASCII"),
    ("face_tid_mid.txt", None, "holds 0 files called .*_face_tid_mid.txt, expected one"),
    ("template_pair_label.txt", ("3 7 0", "3 8 0"), "pair_label.txt: pair 2, 3 8 0: expected two templates that have images"),
    ("template_pair_label.txt", ("3 7 0", "3 7 2"), "pair_label.txt: pair 2, 3 7 2: expected"),
    ("template_pair_label.txt", ("3 7 0", "3 7"), "pair_label.txt:2: expected template template 0.1, got '3 7'"),
    ("template_pair_label.txt", (FILES["ijbx_template_pair_label.txt"], "\n"), "pair_label.txt: holds no pairs"),
    ("name_5pts_score.txt", ("3.jpg", "4.jpg"), "5pts_score.txt:3: is of 4.jpg, which is not what the list of media has there"),
    ("name_5pts_score.txt", (f"5.jpg {LANDMARKS} 0.99\n", ""), "5pts_score.txt: ends after 4 of the 5 images"),
    ("name_5pts_score.txt", ("5.jpg", "5.jpg 1"), "5pts_score.txt:5: expected name x y"),
    ("name_5pts_score.txt", ("5.jpg", f"5.jpg {LANDMARKS} 0.9\n6.jpg"), "5pts_score.txt:6: is of 6.jpg, which is not"),
    ("name_5pts_score.txt", (f"3.jpg {LANDMARKS}", f"3.jpg {'7 ' * 10}"), "5pts_score.txt:3: its landmarks are not five points"),
    ("name_5pts_score.txt", ("1.jpg 30.5", "1.jpg x"), "5pts_score.txt:1: expected name x y .five times. score, got '1.jpg x"),
    ("name_5pts_score.txt", ("1.jpg 30.5", "1.jpg nan"), "5pts_score.txt:1: its landmarks are not five points"),
    ("name_5pts_score.txt", None, "5pts_score.txt: is not there, and .*1.jpg is not of 112x112 pixels"),
    ("1N_gallery_G1.csv", ("TEMPLATE_ID", "TEMPLATE"), "gallery_G1.csv:1: expected a heading with TEMPLATE_ID and SUBJECT_ID"),
    ("1N_gallery_G1.csv", ("20,555,a/2", "20,556,a/2"), "gallery_G1.csv:3: template 20 is of subject 556 here, and of 555"),
    ("1N_gallery_G2.csv", ("3,9", "4,9"), "gallery_G2.csv:2: template 4 has no image"),
    ("1N_gallery_G2.csv", ("3,9", "3,me"), "gallery_G2.csv:2: expected a template and a subject number"),
    ("1N_gallery_G2.csv", ("3,9,x.jpg\n", ""), "gallery_G2.csv: names no templates"),
    ("1N_probe_mixed.csv", None, "probe_mixed.csv: cannot be read"),
])
def test_faults_are_named(archive, name, change, message):
    path = archive / "meta" / f"ijbx_{name}"
    if change is None:
        path.unlink()
    else:
        text = path.read_text()
        assert change[0] in text
        path.write_text(text.replace(*change))
    with pytest.raises(DataError, match=message) as refused:
        read_ijb(archive / "meta", archive / "loose_crop")
    assert "\n" not in str(refused.value)


def test_nothing_to_compare(archive):
    for name in FILES:
        if "1N" in name or "pair" in name:
            (archive / "meta" / name).unlink()
    with pytest.raises(DataError, match=re.escape("lacks both ijbx_template_pair_label.txt (1:1) and ijbx_1N_gallery_*.csv (1:N)")):
        read_ijb(archive / "meta", archive / "loose_crop")


def test_damaged_crop(archive):
    (archive / "loose_crop" / "2.jpg").write_bytes(picture(300, 200)[:400])
    images = read_ijb(archive / "meta", archive / "loose_crop").images
    with pytest.raises(DataError, match="loose_crop/2.jpg: .*fetch it again"):
        images.encoded(1)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.integers(0, 10**18 - 1), min_size=2, max_size=2), min_size=1, max_size=30), st.integers(4, 60),
       st.sampled_from([" ", "\t", "  "]), st.sampled_from(["\n", "\r\n", "\n\n"]), st.booleans())
def test_integers_are_the_same_whatever_the_block(tmp_path_factory, rows, block, between, end, whole):
    path = tmp_path_factory.getbasetemp() / "integers.txt"
    text = end.join(between.join(map(str, row)) for row in rows) + end * whole
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(integer_table, "_BLOCK", block)
        blocks = list(read_integers(path, 2, "two"))
        assert np.concatenate(blocks).tolist() == rows
        path.write_bytes(text.encode() + b"\n1 x\n")
        lines = text.count("\n") + 2
        with pytest.raises(DataError, match=rf"integers.txt:{lines}: expected two, got '1 x'"):
            list(read_integers(path, 2, "two"))


@pytest.mark.parametrize(("content", "message"), [
    (b"1 2 3\n", "t.txt:1: expected a pair, got '1 2 3'"),
    (b"1 2\n3\n", "t.txt:2: expected a pair, got '3'"),
    (b"1 2\n3 -x\n", "t.txt:2: expected a pair, got '3 -x'"),
    (b"1 2\n3 4.5\n", "t.txt:2: expected a pair, got '3 4.5'"),
    (b"1 2\n1 99999999999999999999\n", "t.txt:2: expected a pair"),
    (b"1 2\n\x00\xff 1\n", "t.txt:2: expected a pair"),
    (b"1 2\n" + b"7" * 10_000, "t.txt:2: is longer than 4096 bytes, expected a pair"),
])
def test_faulty_integers(tmp_path, content, message):
    (tmp_path / "t.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(read_integers(tmp_path / "t.txt", 2, "a pair"))
