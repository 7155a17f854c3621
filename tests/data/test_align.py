"""Aligning a folder: what is done stays done, whatever stopped it, and nothing is half there."""
from __future__ import annotations

import csv
import json
import os
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from askd.data import align as module
from askd.data.align import align
from askd.data.detector import Detector, Faces
from askd.data.landmarks import TEMPLATE
from askd.data.notes import COLUMNS, Notes
from askd.data.portrait import Format, Portrait
from askd.errors import DataError


class FindsWhite:
    """Stands in for the detector: an image whose first pixel is white holds one face, at the template's place."""

    looked_at = 0

    def __init__(self, path, threshold, sizes):
        pass

    def find(self, rgb):
        FindsWhite.looked_at += 1
        count = int(rgb[0, 0, 0] > 128)
        return Faces(np.array([[20.0, 20, 90, 110]] * count).reshape(-1, 4), np.full(count, 0.8), np.tile(TEMPLATE, (count, 1, 1)))


def picture(value: int) -> bytes:
    return cv2.imencode(".jpg", np.full((120, 130, 3), value, np.uint8))[1].tobytes()


@pytest.fixture
def photos(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(module, "Detector", FindsWhite)
    FindsWhite.looked_at = 0
    for name, value in {"ada/1.jpg": 250, "ada/2.jpeg": 240, "b\u00f6b/1, left.jpg": 230, "b\u00f6b/2.jpg": 10, "cid/1.png": 220}.items():
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(value))
    (tmp_path / "model.onnx").write_bytes(b"model")
    return tmp_path / "photos"


def run(photos: Path, settings: Portrait = Portrait(), **options):
    return align(photos, photos.parent / "faces", photos.parent / "model.onnx", settings, **options)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


FACES = {"ada/1.jpg", "ada/2.jpg", "b\u00f6b/1, left.jpg", "cid/1.jpg"}


def test_faces_lists_and_what_is_told(photos):
    told = []
    done = run(photos, progress=lambda *numbers: told.append(numbers))
    faces = photos.parent / "faces"
    assert set(files(faces)) == FACES | {"align.json", "landmarks.csv", "without_face.txt"}
    assert (done.photographs, done.done_before, done.faces, done.reasons, done.distance) == (5, 0, 4, Counter({"no face": 1}), 0.0)
    assert told == [(number, 5) for number in range(1, 6)]
    assert (faces / "without_face.txt").read_text() == "b\u00f6b/2.jpg\tno face\n"
    header, *rows = csv.reader((faces / "landmarks.csv").open())
    assert tuple(header) == COLUMNS and [row[0] for row in rows] == ["ada/1.jpg", "ada/2.jpeg", "b\u00f6b/1, left.jpg", "cid/1.png"]
    assert {row[1] for row in rows} == FACES
    assert np.allclose(np.array([row[5:] for row in rows], float), TEMPLATE.ravel(), atol=5e-4)
    assert abs(int(cv2.imread(str(faces / "ada" / "1.jpg"))[50, 50, 0]) - 250) <= 1


def test_done_is_done_and_only_what_is_missing_is_made(photos):
    run(photos)
    before = files(photos.parent / "faces")
    FindsWhite.looked_at = 0
    assert run(photos).done_before == 5 and FindsWhite.looked_at == 0
    (photos.parent / "faces" / "ada" / "2.jpg").unlink()
    (photos / "cid" / "2.jpg").write_bytes(picture(200))
    done = run(photos)
    assert (done.done_before, done.photographs, done.faces, FindsWhite.looked_at) == (4, 6, 5, 2)
    after = files(photos.parent / "faces")
    assert set(after) - set(before) == {"cid/2.jpg"} and all(after[name] == before[name] for name in FACES)


@pytest.mark.parametrize("stop_after", range(1, 5))
@pytest.mark.parametrize("killed", [False, True])
def test_stopped_anywhere_it_goes_on(stop_after, killed, photos, tmp_path, monkeypatch):
    def stop(done, total):
        if done == stop_after:
            raise KeyboardInterrupt

    faces = photos.parent / "faces"
    with monkeypatch.context() as patch:
        if killed:  # nothing more is written; the line being written is cut short
            patch.setattr(Notes, "__exit__", lambda notes, *_: notes._journal.close())
        with pytest.raises(KeyboardInterrupt):
            run(photos, progress=stop)
    if killed:
        with open(faces / ".align.jsonl", "a") as journal:
            journal.write('["cid/1.pn')
    else:
        assert not (faces / ".align.jsonl").exists()
        assert len((faces / "landmarks.csv").read_text().splitlines()) == 1 + min(stop_after, 3)
    FindsWhite.looked_at = 0
    done = run(photos)
    assert (done.done_before, FindsWhite.looked_at) == (stop_after, 5 - stop_after)
    whole = files(faces)
    faces.rename(tmp_path / "continued")
    run(photos)
    assert files(faces) == whole


def test_bad_photographs_end_it_or_are_listed_and_tried_again(photos):
    (photos / "ada" / "2.jpeg").write_bytes(b"\xff\xd8 torn")
    with pytest.raises(DataError, match=r"ada/2.jpeg: .*fetch it again.*on_bad_image=skip"):
        run(photos)
    done = run(photos, skip_bad=True)
    assert done.done_before == 1 and done.reasons == Counter({"no face": 1, "bad image": 1})
    assert "ada/2.jpeg\tbad image: " in (photos.parent / "faces" / "without_face.txt").read_text()
    (photos / "ada" / "2.jpeg").write_bytes(picture(250))
    done = run(photos)
    assert (done.done_before, done.faces, done.reasons) == (4, 4, Counter({"no face": 1}))


def test_other_settings_are_refused(photos):
    run(photos)
    with pytest.raises(DataError, match=r"faces was made with quality=95 \(now 90\); say the same again, or choose another folder"):
        run(photos, Portrait(quality=90))
    (photos.parent / "model.onnx").write_bytes(b"another model")
    with pytest.raises(DataError, match="faces was made with detector=[0-9a-f]{64} "):
        run(photos)


def test_folders_that_are_not_for_it(photos):
    with pytest.raises(DataError, match="inner lies within"):
        align(photos, photos / "inner", photos.parent / "model.onnx", Portrait())
    (photos.parent / "faces").mkdir()
    (photos.parent / "faces" / "thesis.tex").touch()
    with pytest.raises(DataError, match="holds something that was not aligned here"):
        run(photos)
    with pytest.raises(DataError, match="nowhere: is not a folder"):
        align(photos.parent / "nowhere", photos.parent / "out", photos.parent / "model.onnx", Portrait())
    assert not (photos.parent / "out").exists()


def test_two_photographs_of_one_name(photos):
    (photos / "cid" / "1.jpg").write_bytes(picture(250))
    with pytest.raises(DataError, match=r"cid/1.jpg and cid/1.png would both become cid/1.png; rename one"):
        run(photos, Portrait(format=Format.png))


@pytest.mark.parametrize(("name", "content", "said"), [
    ("align.json", b"{", "align.json: is damaged"), ("align.json", b"[]", "align.json: is damaged"),
    ("landmarks.csv", b"photo,face\n", "landmarks.csv:1: expected photo,face"),
    ("landmarks.csv", b"\xff", "landmarks.csv: byte 0 is not UTF-8"),
    (".align.jsonl", b"{\n", "align.jsonl:1: is damaged"), (".align.jsonl", b"[1]\n", "align.jsonl:1: is damaged"),
    (".align.jsonl", b"1\n", "align.jsonl:1: is damaged"),
])
def test_damaged_lists_are_named(name, content, said, photos):
    run(photos)
    (photos.parent / "faces" / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        run(photos)


def test_where_nothing_can_be_written(photos):
    (photos.parent / "file").touch()
    with pytest.raises(DataError, match="cannot write .*file/faces"):
        align(photos, photos.parent / "file" / "faces", photos.parent / "model.onnx", Portrait())


def test_models_that_are_no_detectors(tmp_path, shared):
    with pytest.raises(DataError, match="none.onnx: no such detector"):
        Detector(tmp_path / "none.onnx")
    (tmp_path / "torn.onnx").write_bytes(b"\x08\x07torn")
    with pytest.raises(DataError, match=r"torn.onnx: does not work as a face detector \(.+\); give"):
        Detector(tmp_path / "torn.onnx")
    with pytest.raises(DataError, match="mobilefacenet_ms1m_128d.onnx: finds no landmarks"):
        Detector(shared / "models" / "mobilefacenet_ms1m_128d.onnx")


def test_real_photographs_become_what_the_published_alignment_is(shared, tmp_path):
    """aligned_112 was made from these with this detector at 320 pixels, JPEG 93."""
    raw, aligned = shared / "data" / "lfw" / "raw_250", shared / "data" / "lfw" / "aligned_112"
    people = sorted(os.listdir(raw))[:3]
    (tmp_path / "photos").mkdir()
    for person in people:
        (tmp_path / "photos" / person).symlink_to(raw / person)
    detector, settings = shared / "models" / "scrfd_2.5g_bnkps.onnx", Portrait(detector_sizes=[320], quality=93)
    done = align(tmp_path / "photos", tmp_path / "faces", detector, settings, processes=2)
    assert done.faces == done.photographs == 13 and 1 < done.distance < 5
    for face in (tmp_path / "faces").glob("*/*.jpg"):
        theirs = cv2.imread(str(aligned / face.parent.name / face.name)).astype(int)
        assert np.abs(cv2.imread(str(face)) - theirs).mean() < 0.1, face
    assert json.loads((tmp_path / "faces" / "align.json").read_text())["detector_sizes"] == [320]
