"""What is wrong with a set is found and named; what is not wrong is not."""
from __future__ import annotations

import cv2
import numpy as np
import pytest

from askd.data.contact_sheet import FACES, contact_sheet, write_png
from askd.data.decode import decode_rgb
from askd.data.degrade import degrade
from askd.data.inspect import BinImages, look_through, open_images
from askd.data.inventory import lines_of, table
from askd.data.pairs import write_bin
from askd.data.recordio import write_recordio
from askd.data.synthetic import render_face
from askd.data.verdicts import NOTE, OK, WRONG, Finding, compare_with_card, judge
from askd.errors import DataError

PEOPLE, EACH = 6, 4


def encoded(rgb: np.ndarray, suffix: str = ".png") -> bytes:
    return cv2.imencode(suffix, np.ascontiguousarray(rgb[..., ::-1]))[1].tobytes()


@pytest.fixture(scope="module")
def rendered() -> list[np.ndarray]:
    return [render_face(identity, sample, 0) for identity in range(PEOPLE) for sample in range(EACH)]


@pytest.fixture
def folder(rendered, tmp_path):
    for number, face in enumerate(rendered):
        path = tmp_path / "set" / f"p{number // EACH}" / f"{number % EACH}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(face))
    return tmp_path / "set"


def verdicts(path) -> dict[str, list[Finding]]:
    images = open_images(path)
    found = {OK: [], WRONG: [], NOTE: []}
    for finding in judge(images, look_through(images, 2)):
        found[finding.verdict].append(finding)
    return found


def only_wrong(path) -> Finding:
    wrong, = verdicts(path)[WRONG]
    return wrong


def test_a_sound_set_is_sound(folder, rendered, tmp_path):
    sound = [finding.text for finding in verdicts(folder)[OK]]
    assert len(sound) == 5 and not verdicts(folder)[WRONG] + verdicts(folder)[NOTE]
    assert any(text.startswith("RGB order: 100 % of 24") for text in sound) and any(text.startswith("aligned: ") for text in sound)
    write_recordio(tmp_path / "rec", [(i // EACH, encoded(face)) for i, face in enumerate(rendered)], PEOPLE)
    assert [finding.text for finding in verdicts(tmp_path / "rec")[OK]] == sound


def test_broken_images_are_named_and_counted_once(folder):
    whole = (folder / "p0" / "0.png").read_bytes()
    (folder / "p0" / "0.png").write_bytes(whole[:len(whole) // 2])
    (folder / "p3" / "1.png").write_bytes(b"")
    (folder / "p4" / "1.png").write_bytes(b"")  # the same bytes as the one before, which is no duplicate image
    (folder / "p5" / "text.jpg").write_bytes(b"words")
    wrong = only_wrong(folder)
    assert wrong.text == "4 images cannot be decoded"
    assert [any(name in fault for fault in wrong.names) for name in ("p0/0.png", "p3/1.png", "p4/1.png", "p5/text.jpg")] == [True] * 4
    seen = look_through(open_images(folder), 1)
    assert len(seen.whole) == len(seen.faces) == seen.formats["PNG"] == 21


def test_duplicates(folder):
    (folder / "p1" / "again.png").write_bytes((folder / "p1" / "0.png").read_bytes())
    note, = verdicts(folder)[NOTE]
    assert note.text.startswith("1 image more than once under one identity")
    assert note.names == [f"{folder}/p1/0.png = {folder}/p1/again.png"]
    (folder / "p2" / "stolen.png").write_bytes((folder / "p0" / "3.png").read_bytes())
    wrong = only_wrong(folder)
    assert wrong.text.startswith("1 image under several identities") and wrong.names == [f"{folder}/p0/3.png = {folder}/p2/stolen.png"]


def test_swapped_colours(folder, rendered):
    for number, face in enumerate(rendered):
        (folder / f"p{number // EACH}" / f"{number % EACH}.png").write_bytes(encoded(face[..., ::-1]))
    assert only_wrong(folder).text.startswith("red and blue are swapped (BGR): 0 % of 24 coloured faces")
    for number, face in enumerate(rendered[::2]):
        (folder / f"p{2 * number // EACH}" / f"{2 * number % EACH}.png").write_bytes(encoded(face))
    assert only_wrong(folder).text.startswith("red and blue may be swapped in a part: 50.0 % of 24")
    for number, face in enumerate(rendered):
        grey = np.repeat(face.mean(2, keepdims=True).astype(np.uint8), 3, 2)
        (folder / f"p{number // EACH}" / f"{number % EACH}.png").write_bytes(encoded(grey))
    assert not verdicts(folder)[WRONG] and verdicts(folder)[NOTE][0].text == "RGB order cannot be told: 0 faces have colour, it takes 20"


def test_misplaced_faces(folder, rendered):
    for number, face in enumerate(rendered):
        (folder / f"p{number // EACH}" / f"{number % EACH}.png").write_bytes(encoded(np.roll(face, 12, 0)))
    assert only_wrong(folder).text.startswith("not aligned to the ArcFace template")


def test_other_sizes(folder, rendered):
    (folder / "p0" / "0.png").write_bytes(encoded(cv2.resize(rendered[0], (113, 112))))
    assert only_wrong(folder).text.startswith("1 image not of 112x112 pixels: not aligned")
    for path in folder.glob("*/*.png"):
        path.write_bytes(encoded(cv2.resize(rendered[0], (40 + 4 * int(path.stem), 50 + int(path.parent.name[1:])))))
    images = open_images(folder)
    lines = table(folder, images, look_through(images, 1))
    assert lines[-2].split() == ["19", "of", "19", "other", "sizes"] and lines[-1].split() == ["format", "24", "PNG"]


def test_table(folder):
    (folder / "p0" / "more.png").write_bytes((folder / "p0" / "0.png").read_bytes())
    (folder / "one").mkdir()
    (folder / "one" / "1.png").write_bytes((folder / "p0" / "0.png").read_bytes())
    images = open_images(folder)
    lines = table(folder, images, look_through(images, 1))
    assert lines[0] == str(folder)
    assert [" ".join(line.split()) for line in lines[1:]] == [
        "images 26", "identities 7 images of each: least 1, median 4, most 5", "1 1 #######", "2-3 0", "4-7 6 " + "#" * 40,
        "pixels 26 112x112", "format 26 PNG"]
    assert all(len(line) <= 100 for line in lines[1:])


def test_lines_of_a_finding():
    assert lines_of(Finding(OK, "fine")) == ["ok     fine"]
    lines = lines_of(Finding(WRONG, "bad", [f"{n}" for n in range(1234)]))
    assert len(lines) == 22 and lines[0] == "wrong  bad" and lines[-1].strip() == "... and 1,214 more"


def test_pairs(rendered, tmp_path):
    a, b, c = (encoded(face) for face in rendered[:3])
    write_bin(tmp_path / "good.bin", [(a, b, True), (a, c, False)])
    assert not verdicts(tmp_path / "good.bin")[WRONG]
    write_bin(tmp_path / "bad.bin", [(a, b, True), (a, a, False), (c, c, True)])
    assert only_wrong(tmp_path / "bad.bin").names == [
        f"pair 1: {tmp_path}/bad.bin: image 0 twice, said to be two people",
        f"pair 2: {tmp_path}/bad.bin: image 4 twice, said to be one person"]
    write_bin(tmp_path / "genuine.bin", [(a, b, True)])
    assert any("every pair is genuine" in note.text for note in verdicts(tmp_path / "genuine.bin")[NOTE])
    images = open_images(tmp_path / "bad.bin")
    assert "3  2 genuine, 1 impostor" in table(tmp_path, images, look_through(images, 1))[2]


def test_card(folder):
    images = open_images(folder)
    assert compare_with_card(images, "Set", 6, 24).verdict == OK and compare_with_card(images, "Set", None, 24).verdict == OK
    wrong = compare_with_card(images, "Set", 6, 5000)
    assert wrong.verdict == WRONG and wrong.text == "not the whole of Set, or not it: 24 images, the card says 5,000"
    assert compare_with_card(images, "Set", None, None) is None


def test_real_detector(shared):
    from askd.data.detector import Detector

    images = open_images(shared / "data" / "small_lfw.bin")
    seen = look_through(images, 1)
    detector = Detector(shared / "models" / "scrfd_2.5g_bnkps.onnx", sizes=(128,))
    assert judge(images, seen, detector)[-1].text.startswith("aligned: a face found in 100 % of 17, landmarks")
    shifted = BinImages(images.pairs)
    shifted.encoded = lambda index: encoded(np.roll(decode_rgb(images.encoded(index), "face"), 10, 1))
    assert judge(shifted, seen, detector)[-1].text.startswith("not aligned")


def test_contact_sheet_shows_faces_beside_what_degradation_leaves_of_them(folder, rendered, tmp_path):
    import torch

    images = open_images(folder)
    seen = look_through(images, 1)
    sheet = contact_sheet(images, seen.whole, [28, 14])
    assert sheet.shape[2] == 3 and sheet.dtype == np.uint8
    first = sheet[22:134, 8:120]
    number = next(n for n, face in enumerate(rendered) if np.array_equal(face, first))
    for place, size in ((1, 28), (2, 14)):
        hr = torch.from_numpy(rendered[number]).permute(2, 0, 1)[None]
        expected = degrade(hr, size, "bicubic")[0].round().permute(1, 2, 0).numpy()
        assert np.array_equal(sheet[22:134, 8 + 112 * place:120 + 112 * place], expected)
    assert np.array_equal(contact_sheet(images, seen.whole, [28, 14]), sheet)
    write_png(tmp_path / "new" / "sheet.png", sheet)
    assert np.array_equal(cv2.imread(str(tmp_path / "new" / "sheet.png"))[..., ::-1], sheet)
    with pytest.raises(DataError, match="cannot write .*choose another out="):
        write_png(folder / "p0" / "0.png" / "sheet.png", sheet)


def test_contact_sheet_draws_different_people_first(tmp_path):
    for person, count in (("a", 60), ("b", 2), ("c", 1)):
        (tmp_path / person).mkdir()
        for number in range(count):
            colour = {"a": (200, 0, 0), "b": (0, 200, 0), "c": (0, 0, 200)}[person]
            (tmp_path / person / f"{number:02d}.png").write_bytes(encoded(np.full((50, 112, 3), colour, np.uint8)))
    images = open_images(tmp_path)
    sheet = contact_sheet(images, range(63), [14])
    assert (sheet == (0, 200, 0)).all(2).sum() == 2 * 50 * 112 and (sheet == (0, 0, 200)).all(2).sum() == 50 * 112
    assert (sheet == (200, 0, 0)).all(2).sum() == (FACES - 3) * 50 * 112
    assert np.array_equal(contact_sheet(images, range(63), [14], seed=0), sheet)
    assert not np.array_equal(contact_sheet(images, range(63), [14], seed=1), sheet)
