"""`python -m askd.prepare` as it is typed: help, faults in one line, exit statuses, and the actions from end to end."""
from __future__ import annotations

import ast
import os
import signal
from functools import partial
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest

from askd import photo
from askd.data import repack
from askd.data.folder import FolderSet
from askd.data.pairs import read_bin
from askd.data.portrait import Choose, Portrait
from askd.data.synthetic import render_face
from askd.errors import DataError
from askd.prepare import ACTIONS, Inspection, Job, pairs, parse
from tiny import run

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    for person in range(6):
        (folder / f"person {person}").mkdir()
        for sample in range(4):
            cv2.imwrite(str(folder / f"person {person}" / f"{sample}.jpg"), render_face(person, sample, 0)[..., ::-1])
    return folder


def test_help_names_actions_and_their_keys(tmp_path):
    shown = run("prepare", "--help", cwd=tmp_path)
    assert (shown.status, shown.err) == (0, "")
    for name, action in ACTIONS.items():
        assert f"  {name} {action.paths}" in shown.out
        of_action = run("prepare", name, "-h", cwd=tmp_path).out
        assert f"  python -m askd.prepare {name} {action.paths}" in of_action
        for cls in action.options:
            for key in cls.__dataclass_fields__:
                assert f"\n  {key} (" in of_action, key
    assert "choose (prominent, of prominent|largest|central|only)" in run("prepare", "align", "--help", cwd=tmp_path).out


@pytest.mark.parametrize(("arguments", "said"), [
    ([], ["say what to do", "align", "inspect", "--help"]),
    (["aling", "a", "b"], ["unknown action 'aling'", "did you mean align?"]),
    (["align", "a"], ["usage: python -m askd.prepare align PHOTOS FACES", "got align a"]),
    (["align", "a", "b", "--detector"], ["usage:"]),
    (["align", "a", "b"], ["detector= is missing"]),
    (["align", "a", "b", "detecter=x"], ["unknown key 'detecter'", "did you mean detector?"]),
    (["align", "a", "b", "detector=x", "choose=biggest"], ["choose: unknown choice 'biggest'", "prominent, largest, central, only"]),
    (["align", "a", "b", "detector=x", "quality=101"], ["quality must be a whole number from 1 to 100, got '101'"]),
    (["align", "a", "b", "detector=x", "threshold=half"], ["threshold must be a number from 0 to 1, got 'half'"]),
    (["align", "a", "b", "detector=x", "processes=0"], ["processes must be a whole number from 1"]),
    (["align", "a", "b", "detector=nowhere.onnx"], ["nowhere.onnx: no such detector"]),
    (["pack", "nowhere", "out"], ["nowhere: does not exist"]),
    (["pack", "nowhere", "out", "x=1"], ["unknown key 'x'", "none here"]),
    (["unpack", "nowhere", "out"], ["nowhere: is no RecordIO set"]),
    (["pairs", "nowhere.txt", "images", "out.bin"], ["nowhere.txt: cannot be read"]),
    (["inspect", "nowhere"], ["nowhere: does not exist"]),
    (["inspect", "nowhere", "sizes=[14,113]"], ["sizes must be a whole number from 1 to 112, got '113'"]),
    (["inspect", "nowhere", "card=lwf"], ["'lwf'", "did you mean lfw?"]),
])
def test_bad_arguments_are_one_line(arguments, said, tmp_path):
    done = run("prepare", *arguments, cwd=tmp_path)
    assert done.status == 2 and done.out == "" and done.err.count("\n") == 1 and done.err.startswith("askd.prepare: "), done.err
    for words in said:
        assert words in done.err
    assert {path.name for path in tmp_path.iterdir()} == {"out.txt", "err.txt"}


def test_options_are_what_was_said():
    job, portrait = parse(ACTIONS["align"], {"detector": "a=b.onnx", "choose": "only", "detector_sizes": "[320,64]", "threshold": "0.3"})
    assert (job.detector, portrait) == ("a=b.onnx", Portrait(choose=Choose.only, detector_sizes=[320, 64], threshold=0.3))
    assert isinstance(job, Job) and parse(ACTIONS["inspect"], {"sizes": "7"}) == [Inspection(sizes=[7])]


def test_there_and_back(faces, tmp_path):
    assert run("prepare", "pack", faces, tmp_path / "rec", cwd=tmp_path).status == 0
    done = run("prepare", "unpack", tmp_path / "rec", tmp_path / "again", cwd=tmp_path)
    assert (done.status, done.err, done.out) == (0, "", f"{tmp_path}/again: 24 images of 6 identities\n")
    ours, theirs = FolderSet(faces), FolderSet(tmp_path / "again")
    assert ours.class_names == theirs.class_names and [ours.encoded(i) for i in range(24)] == [theirs.encoded(i) for i in range(24)]


def test_pairs(faces, tmp_path):
    for person in ("a", "b"):
        (tmp_path / "images" / person).mkdir(parents=True)
        for number in (1, 2, 3):
            source = faces / f"person {'ab'.index(person)}" / f"{number}.jpg"
            (tmp_path / "images" / person / f"{person}_{number:04d}.jpg").write_bytes(source.read_bytes())
    (tmp_path / "pairs.txt").write_text("2\na\t1\t2\nb\t1\t3\na\t1\tb\t2\na\t3\tb\t3\n")
    done = run("prepare", "pairs", tmp_path / "pairs.txt", tmp_path / "images", tmp_path / "mine.bin", cwd=tmp_path)
    assert (done.status, done.out) == (0, f"{tmp_path}/mine.bin: 4 pairs, 2 of them genuine\n")


def test_pairs_of_other_protocols(faces, tmp_path):
    """A CSV and CFP's FP give what their own readers give: read_bin finds the same bytes, labels and order."""
    one, two = (f"person {i}/{i + 1}.jpg" for i in (0, 1))
    (tmp_path / "mine.csv").write_text(f"{one},person 0/2.jpg,1\n{one},{two},0\n")
    pairs(tmp_path / "mine.csv", faces, tmp_path / "csv.bin")
    read = read_bin(tmp_path / "csv.bin")
    assert read.same.tolist() == [True, False]
    assert [read.images[i] for i in (*read.left, *read.right)] == [
        (faces / name).read_bytes() for name in (one, one, "person 0/2.jpg", two)]

    protocol, kinds = tmp_path / "Protocol", ("frontal", "profile")
    protocol.mkdir()
    for person, kind in product(range(2), kinds):
        copy = tmp_path / "aligned" / f"{person:03d}" / kind / "01.jpg"
        copy.parent.mkdir(parents=True)
        copy.write_bytes((faces / f"person {person}" / f"{1 + kinds.index(kind)}.jpg").read_bytes())
    for letter, kind in zip("FP", kinds):
        (protocol / f"Pair_list_{letter}.txt").write_text("".join(f"{i + 1} x/{i:03d}/{kind}/01.jpg\n" for i in range(2)))
    for fold in range(1, 11):
        folder = protocol / "Split" / "FP" / f"{fold:02d}"
        folder.mkdir(parents=True)
        (folder / "same.txt").write_text("2,2\n")
        (folder / "diff.txt").write_text("1,2\n")
    pairs(protocol / "Split" / "FP", tmp_path / "aligned", tmp_path / "cfp.bin")
    read = read_bin(tmp_path / "cfp.bin")
    assert read.same.tolist() == [True, False] * 10 and read.fold.tolist() == [fold for fold in range(10) for _ in range(2)]
    assert read.images[read.right[0]] == (faces / "person 1/2.jpg").read_bytes()
    with pytest.raises(DataError, match="Protocol/Split/FF or Protocol/Split/FP"):
        pairs(protocol, tmp_path / "aligned", tmp_path / "none.bin")


def test_inspect_says_it_by_status_too(faces, tmp_path):
    sound = run("prepare", "inspect", faces, f"out={tmp_path}/sheet.png", cwd=tmp_path)
    assert (sound.status, sound.err) == (0, "") and "wrong" not in sound.out and "ok     every image decodes" in sound.out
    assert cv2.imread(str(tmp_path / "sheet.png")).shape[0] > 1000
    carded = run("prepare", "inspect", faces, "card=lfw", cwd=tmp_path)
    assert carded.status == 1 and "wrong  not the whole of Labeled Faces in the Wild" in carded.out
    (tmp_path / "train.rec").write_bytes(b"torn")
    torn = run("prepare", "inspect", tmp_path / "train.rec", cwd=tmp_path)
    assert torn.status == 1 and torn.out.startswith(f"wrong  {tmp_path}/train.rec") and torn.err == ""


def test_insightface_is_imported_by_aligning_alone():
    """It takes seconds; so nowhere in the package when a module is loaded."""
    for path in (REPOSITORY / "askd").rglob("*.py"):
        loaded = [node for node in ast.parse(path.read_text()).body if isinstance(node, (ast.Import, ast.ImportFrom))]
        assert not any("insightface" in ast.unparse(node) for node in loaded), path


def stop_at_image(number: int, sent: signal.Signals) -> None:
    """Have this process send itself a signal when it comes to an image, counted from 1."""
    looked_at = 0

    def encoded_size(encoded: bytes, name: str) -> tuple[int, int]:
        nonlocal looked_at
        looked_at += 1
        if looked_at == number:
            assert list(Path().glob(".out.*.tmp"))
            os.kill(os.getpid(), sent)
        return photo.encoded_size(encoded, name)

    repack.encoded_size = encoded_size


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_stopped_by_a_signal_it_leaves_no_half(sent, faces, tmp_path):
    """Unpacking is interrupted: neither the folder nor a part of it stays."""
    for person in range(3):
        (tmp_path / "many" / str(person)).mkdir(parents=True)
        for number in range(50):
            os.link(faces / "person 0" / "0.jpg", tmp_path / "many" / str(person) / f"{number}.jpg")
    assert run("prepare", "pack", tmp_path / "many", tmp_path / "rec", cwd=tmp_path).status == 0
    done = run("prepare", "unpack", tmp_path / "rec", tmp_path / "out", cwd=tmp_path, before=partial(stop_at_image, 100, sent))
    assert done.status == 128 + sent and "Traceback" not in done.err
    assert {path.name for path in tmp_path.iterdir()} == {"many", "rec", "out.txt", "err.txt"}


def test_real_photographs(shared, tmp_path):
    detector = shared / "models" / "scrfd_2.5g_bnkps.onnx"
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "Laura_Bush").symlink_to(shared / "data" / "lfw" / "raw_250" / "Laura_Bush")
    arguments = ("align", tmp_path / "photos", tmp_path / "faces", f"detector={detector}", "processes=1")
    done = run("prepare", *arguments, cwd=tmp_path)
    assert done.status == 0 and "6 faces of 6 photographs (0 done before" in done.out and "pixels from the template" in done.out
    measured = run("prepare", "inspect", tmp_path / "faces", f"detector={detector}", cwd=tmp_path)
    assert measured.status == 0 and "aligned: a face found in 100 % of 6" in measured.out
    assert np.array_equal(cv2.imread(str(tmp_path / "faces" / "Laura_Bush" / "Laura_Bush_0002.jpg")).shape, (112, 112, 3))
