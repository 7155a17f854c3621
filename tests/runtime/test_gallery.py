"""Search is exact, whatever the block; a gallery that is cut short, damaged or another model's says so."""
from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from askd.errors import DataError
from askd.runtime import gallery as gallery_module
from askd.runtime.gallery import HEADER, Gallery, build_gallery


def faces(count: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


def batches(rows: np.ndarray, size: int = 7):
    return ((([f"Person {i}.jpg" for i in range(s, min(s + size, len(rows)))]), rows[s:s + size]) for s in range(0, len(rows), size))


@pytest.fixture
def built(tmp_path):
    rows = faces(100, 16)
    assert build_gallery(tmp_path / "g", batches(rows), "model a", "version 1") == 100
    return tmp_path / "g", rows


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 4), st.integers(1, 70), st.integers(1, 300), st.integers(0, 99))
def test_search_is_brute_force(tmp_path_factory, count, width, probes, top, block, seed):
    # Whole numbers, so that many cosines are equal and their order is tested too.
    rng = np.random.default_rng(seed)
    rows, wanted = (rng.integers(-2, 3, (n, width)).astype(np.float32) for n in (count, probes))
    rows[~rows.any(1)] = wanted[~wanted.any(1)] = 1
    path = tmp_path_factory.mktemp("gallery") / "g"
    build_gallery(path, batches(rows), "m")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gallery_module, "BLOCK_BYTES", block)
        places, similarities = Gallery(path, "m").search(wanted, top)
    cosine = (wanted / np.linalg.norm(wanted, axis=1, keepdims=True)) @ (rows / np.linalg.norm(rows, axis=1, keepdims=True)).T
    assert places.shape == similarities.shape == (probes, min(top, count))
    for probe in range(probes):
        assert len(set(places[probe].tolist())) == len(places[probe])
        np.testing.assert_allclose(similarities[probe], np.sort(cosine[probe])[::-1][:top], atol=1e-6)
        np.testing.assert_allclose(similarities[probe], cosine[probe][places[probe]], atol=1e-6)


def test_equal_faces_come_in_their_order(tmp_path):
    build_gallery(tmp_path / "g", [([str(i) for i in range(6)], np.ones((6, 4), np.float32))], "m")
    assert Gallery(tmp_path / "g", "m").search(np.ones((1, 4)), 3)[0].tolist() == [[0, 1, 2]]


def test_names_length_and_source_come_back(tmp_path):
    names = ["a.jpg", "", "sub/Zoë Ωmega.png", b"\xff.jpg".decode("utf-8", "surrogateescape")]
    build_gallery(tmp_path / "g", [(names[:1], faces(1, 3)), (names[1:], faces(3, 3, 1))], "m", "source")
    gallery = Gallery(tmp_path / "g", "m")
    assert (len(gallery), gallery.width, gallery.source) == (4, 3, "source")
    assert [gallery.name(i) for i in range(4)] == names


def test_another_model_s_gallery(built):
    with pytest.raises(DataError, match="made with another model .sha256 model a, this one is model b.*build it again"):
        Gallery(built[0], "model b")
    with pytest.raises(DataError, match=r"probes are \(1, 8\).*embeddings of 16 numbers"):
        Gallery(built[0], "model a").search(np.ones((1, 8)))


def test_damage_is_found(built):
    path, rows = built
    whole = path.read_bytes()
    for content, message in (
        (whole[:-1], "cut short"), (whole + b"x", "cut short"), (whole[:100], "no askd gallery"), (b"", "no askd gallery"),
        (b"PK" + whole[2:], "no askd gallery"), (whole[:14] + b"\xff" + whole[15:], "cannot be read"),
        (whole[:HEADER] + np.full(16, np.nan, "<f4").tobytes() + whole[HEADER + 64:], "not finite"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            Gallery(path, "model a").search(rows[:1])


@pytest.mark.parametrize("change", [{"count": -1}, {"count": 1 << 60}, {"width": 0}, {"width": 1 << 40}, {"names": -5}, {"count": "9"}, {"model": 3}])
def test_a_header_that_lies(built, change):
    path, _ = built
    content = path.read_bytes()
    length = int.from_bytes(content[8:12], "little")
    header = json.dumps(json.loads(content[12:12 + length]) | change).encode()
    path.write_bytes(content[:8] + len(header).to_bytes(4, "little") + header + bytes(HEADER - 12 - len(header)) + content[HEADER:])
    with pytest.raises(DataError):
        Gallery(path, "model a")


def test_nothing_is_written_for_a_face_without_direction(tmp_path):
    rows = faces(10, 4)
    rows[8] = 0
    with pytest.raises(DataError, match="Person 8.jpg: its embedding is zero"):
        build_gallery(tmp_path / "g", batches(rows), "m")
    with pytest.raises(DataError, match="at least one face"):
        build_gallery(tmp_path / "g", [], "m")
    with pytest.raises(DataError, match="use one model for all"):
        build_gallery(tmp_path / "g", [(["a"], faces(1, 4)), (["b"], faces(1, 5))], "m")
    with pytest.raises(DataError, match="cannot write"):
        build_gallery(tmp_path / "no" / "g", batches(faces(3, 4)), "m")
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_build_leaves_the_old_gallery(built):
    path, rows = built

    def stopping():
        yield ["x"], rows[:1]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_gallery(path, stopping(), "model a")
    assert len(Gallery(path, "model a")) == 100 and [p.name for p in path.parent.iterdir()] == ["g"]
