from __future__ import annotations

import multiprocessing
import pickle
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from askd.data.recordio import MAGIC, RecordWriter, write_recordio
from askd.data.records import RecordSet
from askd.errors import DataError

WORD = struct.pack("<I", MAGIC)
payloads = st.lists(st.one_of(st.just(WORD), st.binary(max_size=9)), max_size=12).map(b"".join)
THREE_PEOPLE = [(0, b"first" + WORD), (0, b"secon"), (1, WORD + b"third"), (2, b"fourth")]


def records_of(raw: bytes) -> list[bytes]:
    """The format's definition, read naively: parts joined with the magic word."""
    records, parts, at = [], [], 0
    while at < len(raw):
        magic, flag_and_length = struct.unpack_from("<II", raw, at)
        assert magic == MAGIC
        length = flag_and_length & 0x1FFFFFFF
        parts.append(raw[at + 8:at + 8 + length])
        at += 8 + (length + 3) // 4 * 4
        if flag_and_length >> 29 in (0, 3):
            records.append(WORD.join(parts))
            parts = []
    return records


def images_of(faces: RecordSet) -> list[tuple[str, bytes]]:
    return [(faces.class_names[label], faces.encoded(i)) for i, label in enumerate(faces.labels)]


def test_split_record_by_hand(tmp_path):
    with RecordWriter(tmp_path / "a.rec") as writer:
        writer.write(7, b"abcd" + WORD + WORD + b"xy" + WORD)  # the last word stands at byte 14: not aligned, stays
        writer.write(2, b"whole")
    assert (tmp_path / "a.rec").read_bytes() == (
        WORD + struct.pack("<I", 1 << 29 | 4) + b"abcd"
        + WORD + struct.pack("<I", 2 << 29 | 0)
        + WORD + struct.pack("<I", 3 << 29 | 6) + b"xy" + WORD + b"\0\0"
        + WORD + struct.pack("<I", 5) + b"whole\0\0\0")
    assert (tmp_path / "a.idx").read_bytes() == b"7\t0\n2\t36\n"


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 1 << 24), payloads), min_size=1, max_size=6), st.booleans())
def test_any_payload_and_label_round_trip(images, with_index):
    with tempfile.TemporaryDirectory() as folder:
        rec = Path(folder) / "x.rec"
        with RecordWriter(rec) as writer:
            for key, (label, image) in enumerate(images):
                writer.write_image(key, label if key % 2 else [label, 0.25, -7.0][:1 + key % 3], image)
        raw = rec.read_bytes()
        assert len(records_of(raw)) == len(images)
        for record, (_, image) in zip(records_of(raw), images):
            assert record.endswith(image)
        if not with_index:
            rec.with_suffix(".idx").unlink()
        faces = RecordSet(rec)
        assert images_of(faces) == [(str(label), image) for label, image in images]
        assert sorted(set(faces.labels.tolist())) == list(range(len(faces.class_names)))
        assert [int(name) for name in faces.class_names] == sorted({label for label, _ in images})


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(payloads, min_size=1, max_size=3), min_size=1, max_size=4), st.booleans())
def test_insightface_set_round_trip(people, with_index):
    images = [(label, image) for label, person in enumerate(people) for image in person]
    with tempfile.TemporaryDirectory() as folder:
        write_recordio(folder, images, len(people))
        if not with_index:
            (Path(folder) / "train.idx").unlink()
        faces = RecordSet(folder)
        assert images_of(faces) == [(str(label), image) for label, image in images]
        assert faces.labels.dtype == np.int64


def test_insightface_header_and_identity_ranges(tmp_path):
    write_recordio(tmp_path, THREE_PEOPLE, 3)
    records = records_of((tmp_path / "train.rec").read_bytes())
    assert struct.unpack("<IfQQ2f", records[0]) == (2, 0.0, 0, 0, 5.0, 8.0)
    ranges = [struct.unpack("<IfQQ2f", record) for record in records[5:]]
    assert ranges == [(2, 0.0, 5, 0, 1.0, 3.0), (2, 0.0, 6, 0, 3.0, 4.0), (2, 0.0, 7, 0, 4.0, 5.0)]
    assert (tmp_path / "property").read_text() == "3,112,112\n"
    assert {path.name for path in tmp_path.iterdir()} == {"train.rec", "train.idx", "property"}
    faces = RecordSet(tmp_path)
    assert faces.name(2) == f"{tmp_path / 'train.rec'}: record 3"


def test_header_may_come_after_the_images_as_insightface_writes_it(tmp_path):
    with RecordWriter(tmp_path / "train.rec") as writer:
        writer.write_image(1, (4.0, 1.0), b"a")
        writer.write_image(2, (9.0, 0.0), b"b")
        writer.write_image(0, (3.0, 5.0), b"")
        writer.write_image(3, (1.0, 2.0), b"")
        writer.write_image(4, (2.0, 3.0), b"")
    expected = [("4", b"a"), ("9", b"b")]
    assert images_of(RecordSet(tmp_path)) == expected
    (tmp_path / "train.idx").unlink()
    assert images_of(RecordSet(tmp_path)) == expected


def test_header_of_more_images_than_float32_counts(tmp_path, monkeypatch):
    """Glint360K has 17 million images: the header's count is rounded, and must neither drop nor add an image."""
    monkeypatch.setattr("askd.data.records.EXACT_FLOAT32", 4)
    monkeypatch.setattr(np, "spacing", lambda _: 2)
    for rounded in (6, 7, 8):
        with RecordWriter(tmp_path / "train.rec") as writer:
            writer.write_image(0, (float(rounded), 9.0), b"")
            for key in range(1, 7):
                writer.write_image(key, 0, b"image")
            for key in (7, 8):
                writer.write_image(key, (1.0, 7.0), b"")
        assert len(RecordSet(tmp_path)) == 6


@pytest.mark.parametrize("with_index", [True, False])
def test_truncated_at_every_byte(tmp_path, with_index):
    write_recordio(tmp_path, THREE_PEOPLE, 3)
    rec, idx = tmp_path / "train.rec", tmp_path / "train.idx"
    whole = rec.read_bytes()
    range_records = len(whole) - 3 * 40
    between_range_records = set() if with_index else {range_records, range_records + 40, range_records + 80}
    if not with_index:
        idx.unlink()
    for length in range(len(whole)):
        rec.write_bytes(whole[:length])
        if length in between_range_records:  # every image is there
            assert images_of(RecordSet(tmp_path)) == [(str(label), image) for label, image in THREE_PEOPLE]
        else:
            with pytest.raises(DataError, match="train.rec"):
                RecordSet(tmp_path)


def test_index_truncated_at_every_byte(tmp_path):
    write_recordio(tmp_path, THREE_PEOPLE, 3)
    idx = tmp_path / "train.idx"
    whole = idx.read_bytes()
    for length in range(len(whole) - 1):
        idx.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"train\.(idx|rec)"):
            RecordSet(tmp_path)
    idx.write_bytes(whole[:-1])  # only the last line's end is missing
    assert images_of(RecordSet(tmp_path)) == [(str(label), image) for label, image in THREE_PEOPLE]


@pytest.mark.parametrize("damaged", ["train.rec", "train.idx"])
def test_a_flipped_bit_never_shortens_the_set(tmp_path, damaged):
    write_recordio(tmp_path, THREE_PEOPLE, 3)
    path = tmp_path / damaged
    whole = path.read_bytes()
    refused = 0
    for position in range(len(whole)):
        mutated = bytearray(whole)
        mutated[position] ^= 1 << position % 8
        path.write_bytes(mutated)
        try:
            faces = RecordSet(tmp_path)
            assert len([faces.encoded(i) for i in range(len(faces))]) == len(THREE_PEOPLE)
        except DataError as error:
            assert str(tmp_path) in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > len(whole) // 3


@pytest.mark.parametrize(("index", "message"), [
    (b"", "lists no records"),
    (b"0\t0\n1\tx\n", r"train.idx:2: expected key<TAB>offset, got b'1\\tx'"),
    (b"0\t0\n1\n", "train.idx:2"),
    (b"0\t0\n-1\t40\n", "train.idx:2"),
    (b"0\t0\n1\t44\n", "record 1 at byte 44: 0x"),
    (b"0\t0\n1\t41\n", "record 1 at byte 41: no record can start here"),
    (b"0\t0\n1\t99999999999999999999999999\n", "record 1 at byte 9223372036854775807"),
    (b"0\t0\n1\t40\n", "names no record for bytes 84 to"),
    (b"0\t0\n1\t0\n", "record 1 at byte 0: the .idx has another record there"),
])
def test_faulty_index(tmp_path, index, message):
    write_recordio(tmp_path, THREE_PEOPLE, 3)
    (tmp_path / "train.idx").write_bytes(index)
    with pytest.raises(DataError, match=message):
        RecordSet(tmp_path)


def test_index_with_a_key_twice(tmp_path):
    write_recordio(tmp_path, THREE_PEOPLE, 3)
    idx = tmp_path / "train.idx"
    idx.write_text(idx.read_text().replace("\n3\t", "\n2\t"))
    with pytest.raises(DataError, match="key 2 stands there twice"):
        RecordSet(tmp_path)


@pytest.mark.parametrize("label", [0.5, -1.0, float("nan"), float("inf"), 2.0**25])
def test_labels_that_are_no_class_ids(tmp_path, label):
    with RecordWriter(tmp_path / "train.rec") as writer:
        writer.write_image(0, 3, b"image")
        writer.write(5, struct.pack("<IfQQ", 0, label, 5, 0) + b"image")
    with pytest.raises(DataError, match=r"train.rec: record 5: label"):
        RecordSet(tmp_path)


@pytest.mark.parametrize(("payload", "message"), [
    (b"short", "5 bytes are too few for the 24-byte header"),
    (struct.pack("<IfQQ", 1 << 31, 0, 0, 0) + b"image", "too few for the 2147483648 labels"),
])
def test_payload_without_a_whole_header(tmp_path, payload, message):
    with RecordWriter(tmp_path / "train.rec") as writer:
        writer.write(0, payload)
    with pytest.raises(DataError, match=message):
        RecordSet(tmp_path)


def test_property_that_disagrees(tmp_path):
    write_recordio(tmp_path, THREE_PEOPLE, 3)
    (tmp_path / "property").write_text("10572,112,112\n")
    with pytest.raises(DataError, match="10572.*train.rec holds 3"):
        RecordSet(tmp_path)


@pytest.mark.parametrize(("images", "classes", "message"), [
    ([(0, b"a"), (1, b"b"), (0, b"c")], 2, "class id 0 comes back at image 3"),
    ([(0, b"a"), (2, b"b")], 2, "class id 2, expected 0..1"),
    ([(0, b"a")], 2, "images of 1 classes, expected 2"),
    ([], 0, "images of 0 classes"),
])
def test_writing_what_is_no_training_set_leaves_nothing(tmp_path, images, classes, message):
    with pytest.raises(DataError, match=message):
        write_recordio(tmp_path / "new", images, classes)
    assert list((tmp_path / "new").iterdir()) == []


def test_failed_writing_leaves_the_old_set(tmp_path):
    write_recordio(tmp_path, THREE_PEOPLE, 3)

    def interrupted():
        yield 0, b"new"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_recordio(tmp_path, interrupted(), 1)
    assert images_of(RecordSet(tmp_path)) == [(str(label), image) for label, image in THREE_PEOPLE]
    assert {path.name for path in tmp_path.iterdir()} == {"train.rec", "train.idx", "property"}


def test_key_written_twice(tmp_path):
    with pytest.raises(DataError, match="key 1"), RecordWriter(tmp_path / "a.rec") as writer:
        writer.write(1, b"")
        writer.write(1, b"")
    assert list(tmp_path.iterdir()) == []


def test_missing_and_ambiguous_files(tmp_path):
    with pytest.raises(DataError, match=r"nothing.rec: cannot be read \(No such file"):
        RecordSet(tmp_path / "nothing.rec")
    for name in ("a.rec", "b.rec"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"expected train.rec or one \*.rec, found a.rec, b.rec"):
        RecordSet(tmp_path)


def test_pickles_small_and_reads_in_a_spawned_process(tmp_path):
    count = 5000
    write_recordio(tmp_path, ((i // 5, b"%d" % i) for i in range(count)), count // 5)
    faces = RecordSet(tmp_path)
    assert len(pickle.dumps([value for name, value in vars(faces).items() if name != "class_names"])) < 16 * count + 1000
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(faces.encoded, [0, 4999, 17]) == [b"0", b"4999", b"17"]


def test_file_that_changed_before_a_worker_opened_it(tmp_path):
    write_recordio(tmp_path, THREE_PEOPLE, 3)
    state = pickle.dumps(RecordSet(tmp_path))
    write_recordio(tmp_path, [*THREE_PEOPLE, (3, b"one more")], 4)
    with pytest.raises(DataError, match="changed while in use"):
        pickle.loads(state)


def test_keys_with_gaps_are_named_by_their_place(tmp_path):
    with RecordWriter(tmp_path / "a.rec") as writer:
        for key in (30, 10, 20):
            writer.write_image(key, key, b"image %d" % key)
    faces = RecordSet(tmp_path)
    assert images_of(faces) == [("10", b"image 10"), ("20", b"image 20"), ("30", b"image 30")]
    assert faces.name(0) == f"{tmp_path / 'a.rec'}: record at byte 40"


@pytest.mark.parametrize("with_index", [True, False])
def test_read_in_pieces(tmp_path, monkeypatch, with_index):
    """What is read by the block must not depend on where blocks end."""
    write_recordio(tmp_path, [(label, b"%d" % label * 3) for label in range(50)], 50)
    idx = tmp_path / "train.idx"
    lines = idx.read_text().splitlines()
    idx.write_text("\n".join(lines[60:] + lines[:60]))
    if not with_index:
        idx.unlink()
    for records, index_bytes in ((1, 1), (7, 30), (100, 1 << 20)):
        monkeypatch.setattr("askd.data.recordfile._RECORDS_AT_A_TIME", records)
        monkeypatch.setattr("askd.data.recordfile._INDEX_BYTES_AT_A_TIME", index_bytes)
        assert images_of(RecordSet(tmp_path)) == [(str(label), b"%d" % label * 3) for label in range(50)]
    if with_index:
        monkeypatch.setattr("askd.data.recordfile._INDEX_BYTES_AT_A_TIME", 30)
        idx.write_text("\n".join([*lines[:70], "70\tx"]))
        with pytest.raises(DataError, match="train.idx:71: expected key<TAB>offset, got b'70"):
            RecordSet(tmp_path)
