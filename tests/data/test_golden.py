"""A file that mxnet 1.9.1 wrote (golden/make.py says how), and the real LFW, read and written back byte for byte."""
from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from askd.data.decode import decode_rgb
from askd.data.folder import FolderSet
from askd.data.recordfile import RecordFile
from askd.data.recordio import MAGIC_WORD, RecordWriter, write_recordio
from askd.data.records import RecordSet
from askd.data.synthetic import render_face

GOLDEN = Path(__file__).with_name("golden") / "mxnet.rec"
# Key, labels, length and SHA-256 of every record as mxnet itself read them, and (identity, sample) of the rendered face.
IMAGES = [
    (1, [3.0], 4046, "063b465ec3ff8c1a34ff70a73e5685381f41277ca0a83b9513dddd9f06e78f7d", (3, 0)),
    (2, [3.0], 3757, "12234a846a27cbd87f41903fd2dbf14a64ba42d0270a26fc4c1a3f620d13d1fe", (3, 1)),
    (3, [5.0], 3953, "a4432046a7c6ea49afce0159095c4b6d5e67f16b1d41409cf248eb91d8a4eb27", (5, 0)),
    (4, [5.0, 0.25, -7.0], 3898, "8b3332f631d0248e4bc75e841f9752f0e68ef796eb760f28bea0f7dc1a1ac26d", (5, 1)),
    (5, [5.0, 1.5], 3976, "a65b7d69f0b4ca94c9548aef78a902738e5d9ad91695b3e308cce7357bc19e9a", (5, 2)),
    (6, [9.0], 3561, "d49f3468a52e16f45ee91105c6cc2cd1779431a9d66d0948f6ec75dee23c430b", (9, 0)),
    (7, [9.0], 4247, "db68e501dfd3b152b02cfbf3491f368352d5c2628f47ae7125e108de39fdbe64", (9, 1)),
]
WITHOUT_IMAGE = [(0, [8.0, 11.0]), (8, [1.0, 3.0]), (9, [3.0, 6.0]), (10, [6.0, 8.0])]
SPLIT = {1, 4, 5, 6}  # the keys of images with an aligned magic word in them; record 3 has one that is not aligned


@pytest.fixture(params=["with its index", "without"])
def golden(request, tmp_path) -> RecordSet:
    if request.param == "without":
        (tmp_path / "mxnet.rec").write_bytes(GOLDEN.read_bytes())
        return RecordSet(tmp_path)
    return RecordSet(GOLDEN)


def test_what_mxnet_wrote_is_read_exactly(golden):
    assert golden.class_names == ["3", "5", "9"] and golden.labels.tolist() == [0, 0, 1, 1, 1, 2, 2]
    for index, (key, _, length, digest, (identity, sample)) in enumerate(IMAGES):
        image = golden.encoded(index)
        assert (len(image), hashlib.sha256(image).hexdigest()) == (length, digest)
        assert golden.name(index).endswith(f"mxnet.rec: record {key}")
        difference = decode_rgb(image, "golden").astype(int) - render_face(identity, sample)
        assert np.abs(difference).mean() < 5  # JPEG of quality 85; other faces are 30 away
    whole = GOLDEN.read_bytes()
    parts = sum(image.count(MAGIC_WORD) for image in map(golden.encoded, range(len(golden))))
    assert parts == 9 and len([at for at in range(0, len(whole), 4) if whole.startswith(MAGIC_WORD, at)]) == 11 + 7


def test_every_label_is_the_one_that_mxnet_reads():
    file = RecordFile(GOLDEN)
    expected = {key: labels for key, labels, *_ in IMAGES} | dict(WITHOUT_IMAGE)
    for number, offset in enumerate(file.offsets().tolist()):
        labels, identifier, _ = file.read_labels(offset, number)
        assert (identifier, labels.tolist()) == (number, expected[number])
        assert (file.bytes[offset + 7] >> 5 != 0) == (number in SPLIT)  # cflag


def test_our_writer_makes_the_very_file_that_mxnet_made(tmp_path):
    golden = RecordSet(GOLDEN)
    (tmp_path / "again").mkdir()
    with RecordWriter(tmp_path / "again" / "mxnet.rec") as writer:
        writer.write_image(0, WITHOUT_IMAGE[0][1], b"")
        for index, (key, labels, *_) in enumerate(IMAGES):
            as_scalar = len(labels) == 1 and key != 2  # mxnet was given [3.0] for record 2
            writer.write_image(key, labels[0] if as_scalar else labels, golden.encoded(index))
        for key, labels in WITHOUT_IMAGE[1:]:
            writer.write_image(key, labels, b"")
    for name in ("mxnet.rec", "mxnet.idx"):
        assert (tmp_path / "again" / name).read_bytes() == GOLDEN.with_name(name).read_bytes()


def test_lfw_through_recordio(shared, tmp_path):
    """All real images."""
    faces = FolderSet(shared / "data" / "lfw" / "aligned_112")
    write_recordio(tmp_path, ((int(label), faces.encoded(i)) for i, label in enumerate(faces.labels)), 5749)
    back = RecordSet(tmp_path)
    np.testing.assert_array_equal(back.labels, faces.labels)
    assert (len(back), len(back.class_names)) == (13233, 5749)
    assert all(back.encoded(i) == faces.encoded(i) for i in range(len(faces)))
