"""`askd.match` on faces it can and cannot compare; the gallery is built once, and again when it has to be."""
from __future__ import annotations

import json
import shutil

import cv2
import numpy as np
import pytest

from askd.data.detector import Faces
from askd.data.degrade import degrade
from askd.data.landmarks import TEMPLATE
from askd.deploy.sight import Sight
from askd.errors import DataError, RecipeError
from askd.match import INDEX, main
from askd.runtime.recognizer import META, MODEL, Recognizer, cosines
from exported import Exported, exported, some_faces, with_model  # noqa: F401, a fixture

FACES = some_faces(6)


@pytest.fixture(scope="module")
def deployed(exported: Exported, tmp_path_factory):  # noqa: F811
    """The export with thresholds as if measured: this network was never trained, its cosines are all high."""
    rows = [{"size": 28, "far": far, "threshold": value, "tar": 0.5, "impostors": 10**6} for far, value in ((0.01, 0.9), (0.001, 0.99999))]
    return with_model(exported.folder, tmp_path_factory.mktemp("match") / "deploy", (exported.folder / MODEL).read_bytes(), thresholds=rows)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, face in zip("abcdef", FACES):
        cv2.imwrite(f"{name}.png", face[..., ::-1])
    (tmp_path / "known" / "sub").mkdir(parents=True)
    for name in "bcdef":
        shutil.copy(f"{name}.png", "known/sub" if name == "f" else "known")
    return tmp_path


class OneFace:
    """A detector that finds what it is told to."""

    def __init__(self, *landmarks: np.ndarray):
        self.landmarks = np.array(landmarks).reshape(-1, 5, 2)

    def find(self, photo: np.ndarray) -> Faces:
        low, high = self.landmarks.min(1), self.landmarks.max(1)
        return Faces(np.concatenate([low, high], 1), np.ones(len(low)), self.landmarks)


def test_a_pair(deployed, photos, capsys):
    main(["a.png", "b.png", f"model={deployed}", "far=0.01", "out=figures/ab.png"])
    said = capsys.readouterr().out
    shown = np.stack([np.asarray(degrade(to_tensor(face), 28, "bicubic", quantise=True).round())[0].transpose(1, 2, 0) for face in FACES[:2]])
    embeddings = Recognizer(deployed).embed(shown.astype(np.uint8))
    assert f"similarity  {cosines(embeddings[:1], embeddings[1:])[0]:.4f}" in said and "threshold   0.9000  (FAR 0.01 at 28 px" in said
    assert "decision    the same person" in said  # to this network everybody is
    assert cv2.imread("figures/ab.png").shape[0] > 200
    main(["a.png", "b.png", f"model={deployed}"])
    assert "decision    different people" in capsys.readouterr().out


def test_a_search_builds_once(deployed, photos, capsys):
    command = ["b.png", "known", f"model={deployed}", "top=3", "far=0.01"]
    main(command)
    first = capsys.readouterr()
    ranks = [line.split() for line in first.out.splitlines()[:3]]
    assert ranks[0] == ["1", "1.0000", "*", "b.png"] and float(ranks[1][1]) >= float(ranks[2][1]) and "known/faces.askd: 5 faces" in first.err
    before = (photos / "known" / INDEX).stat().st_mtime_ns
    main(command)
    second = capsys.readouterr()
    assert second.out == first.out and second.err == "" and (photos / "known" / INDEX).stat().st_mtime_ns == before
    shutil.copy("a.png", "known/new.png")
    main(["a.png", "known", f"model={deployed}", "top=1"])
    third = capsys.readouterr()
    assert "has changed" in third.err and third.out.splitlines()[0].split()[-1] == "new.png"
    main(["f.png", "known", f"model={deployed}", "index=elsewhere.askd", "top=50"])
    assert len(capsys.readouterr().out.splitlines()) == 6 + 2 and (photos / "elsewhere.askd").is_file()


def test_a_gallery_of_another_model(deployed, photos):
    main(["a.png", "known", f"model={deployed}"])
    content = (deployed / MODEL).read_bytes()
    other = with_model(deployed, photos / "other", content + b"\x72\x00")  # an empty model version string more: another file
    with pytest.raises(DataError, match="known/faces.askd: was made with another model"):
        main(["a.png", "known", f"model={other}"])


@pytest.mark.parametrize("arguments, message", [
    (["a.png"], "usage: python -m askd.match PROBE"), (["a.png", "b.png", "c.png", "model=x"], "usage"), (["a.png", "b.png"], "usage"),
    (["a.png", "b.png", "model=x", "fra=1"], "usage"), (["a.png", "b.png", "model=x", "far=0"], "far must be a number above 0, got 0"),
    (["a.png", "b.png", "model=x", "size=9.5"], "size must be a whole number"), (["a.png", "b.png", "model=x", "far=nan"], "far must"),
    (["a.png", "b.png", "model=x", "face=all"], "face must be only .* or largest"),
])
def test_arguments_it_refuses(photos, arguments, message):
    with pytest.raises(RecipeError, match=message):
        main(arguments)


def test_images_it_refuses(deployed, photos):
    cv2.imwrite("photo.png", np.zeros((250, 200, 3), np.uint8))
    cv2.imwrite("tiny.png", np.zeros((3, 3, 3), np.uint8))
    (photos / "empty").mkdir()
    (photos / "text.jpg").write_text("no image")
    for path, message in (
        ("photo.png", "is 200x250 pixels, a photograph .*give detector="), ("tiny.png", "the face is 3 pixels wide, too few"),
        ("text.jpg", "expected a JPEG or PNG"), ("nowhere.png", "cannot be read"), ("empty", "holds no image"),
    ):
        with pytest.raises(DataError, match=message):
            main(["a.png", path, f"model={deployed}"])
        assert not (photos / "match.png").exists()
    (photos / "known" / "tiny.png").write_bytes((photos / "tiny.png").read_bytes())
    with pytest.raises(DataError, match="known/tiny.png: the face is 3 pixels"):
        main(["a.png", "known", f"model={deployed}"])
    assert not (photos / "known" / INDEX).exists()


def test_no_face_and_several(deployed, photos):
    cv2.imwrite("photo.png", np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8))
    recognizer = Recognizer(deployed)
    with pytest.raises(DataError, match="photo.png: no face found"):
        Sight(recognizer, OneFace()).see("photo.png")
    small, large = TEMPLATE / 2, TEMPLATE + 100
    with pytest.raises(DataError, match="2 faces found; cut one out, or say face=largest"):
        Sight(recognizer, OneFace(small, large)).see("photo.png")
    assert Sight(recognizer, OneFace(small, large), largest=True).see("photo.png").own == 112
    with pytest.raises(DataError, match="the face is 4 pixels wide"):
        Sight(recognizer, OneFace(TEMPLATE / 28)).see("photo.png")


@pytest.mark.parametrize("own", [14, 40, 112, 180, 400])
def test_a_face_is_cut_out_at_its_own_size(exported, photos, own):  # noqa: F811
    """A smooth picture, drawn analytically at any scale: the crop must show it in the template's frame."""
    scale = 112 / own

    def picture(x, y):  # in pixels of the 112-pixel template
        return 128 + 60 * np.sin(x / 19) + 60 * np.cos(y / 23)

    where = 20.25  # of the face's corner in the photograph
    side = max(int(own * 1.5 + 60), 120)  # up to 112 pixels it would count as aligned already
    axis = (np.arange(side) - where + 0.5) * scale - 0.5
    cv2.imwrite("photo.png", np.rint(np.repeat(picture(*np.meshgrid(axis, axis))[..., None], 3, 2)).astype(np.uint8))
    landmarks = (TEMPLATE + 0.5) / scale - 0.5 + where
    seen = Sight(Recognizer(exported.folder), OneFace(landmarks), size=112).see("photo.png")
    shown = min(own, 112)
    assert (seen.own, seen.size, seen.crop.shape) == (own, shown, (shown, shown, 3))
    inside = (np.arange(shown) + 0.5) * 112 / shown - 0.5
    expected = picture(*np.meshgrid(inside, inside))
    assert np.abs(seen.crop[..., 0] - expected).max() < 4


def test_never_larger_than_trained_on(exported, photos):  # noqa: F811
    recognizer = Recognizer(exported.folder)
    seen = Sight(recognizer).see("a.png")  # trained at 28 pixels
    assert (seen.own, seen.size) == (112, 28)
    np.testing.assert_array_equal(seen.image, np.asarray(degrade(to_tensor(FACES[0]), 28, "bicubic", quantise=True).round())[0].transpose(1, 2, 0))
    cv2.imwrite("small.png", cv2.resize(FACES[0], (20, 20))[..., ::-1])
    assert Sight(recognizer).see("small.png").size == 20
    assert Sight(recognizer, size=14).see("small.png").size == 14


def to_tensor(face: np.ndarray):
    import torch

    return torch.from_numpy(face).permute(2, 0, 1)[None]


def test_real_photographs(exported, shared, tmp_path, monkeypatch, capsys):  # noqa: F811
    """LFW's own photographs, found by SCRFD: the crop is the published alignment's, up to its JPEG, once it looks at the size that was used there."""
    monkeypatch.chdir(tmp_path)
    lfw, detector = shared / "data" / "lfw", shared / "models" / "scrfd_2.5g_bnkps.onnx"
    if not detector.is_file() or not (lfw / "raw_250").is_dir():
        pytest.skip("no raw LFW photographs, or no detector")
    from askd.data.detector import Detector

    sight = Sight(Recognizer(exported.folder), Detector(detector, sizes=(320,)), size=112, largest=True)
    photo = "Colin_Powell/Colin_Powell_0001.jpg"
    seen = sight.see(lfw / "raw_250" / photo)
    aligned = cv2.imread(str(lfw / "aligned_112" / photo))[..., ::-1]
    assert 90 <= seen.own <= 150
    assert np.abs(seen.image.astype(int) - aligned).mean() < 2
    assert json.loads((exported.folder / META).read_text())["sizes"] == [28]
