"""The class centres that a teacher gives: its own, for these very classes, or the means of its embeddings."""
from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import safetensors.torch
import torch

from askd.centres import learnt_centres, mean_centres
from askd.errors import CheckpointError, DataError
from askd.models.features import Features


@pytest.fixture
def run(tmp_path):
    safetensors.torch.save_file({"centres": torch.arange(6.0).view(3, 2)}, tmp_path / "head.safetensors")
    (tmp_path / "classes.txt").write_text("ann\nbob\ncäcilie\n")
    return tmp_path


def test_own_centres_for_the_same_people_in_the_same_order(run):
    for path in (run, run / "model.safetensors"):
        assert torch.equal(learnt_centres(path, ["ann", "bob", "cäcilie"], "distill.logit")["centres"], torch.arange(6.0).view(3, 2))


@pytest.mark.parametrize("names, said", [
    (["ann", "bob"], "3 people, here 2; class 2 is 'cäcilie' there and 'none' here"),
    (["ann", "cäcilie", "bob"], "3 people, here 3; class 1 is 'bob' there and 'cäcilie' here"),
    (["ann", "bob", "cäcilie", "dan"], "class 3 is 'none' there and 'dan' here"),
])
def test_other_people_are_refused(run, names, said):
    with pytest.raises(CheckpointError) as refused:
        learnt_centres(run, names, "distill.logit")
    message = str(refused.value)
    assert said in message and str(run) in message and message.startswith("distill.logit: teacher")
    assert "distill.logit.source=mean" in message


def test_a_run_without_centres_and_a_damaged_one_are_refused(run, tmp_path):
    names = ["ann", "bob", "cäcilie"]
    with pytest.raises(CheckpointError, match="no class centres"):
        learnt_centres(tmp_path / "mobilefacenet.onnx", names, "distill.centres")
    (run / "head.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="corrupt"):
        learnt_centres(run, names, "distill.centres")
    for centres in ({"centres": torch.ones(4, 2)}, {"weight": torch.ones(3, 2)}):
        safetensors.torch.save_file(centres, run / "head.safetensors")
        with pytest.raises(CheckpointError, match="does not hold centres of 3 classes"):
            learnt_centres(run, names, "distill.centres")


@pytest.mark.parametrize("broken, skip, said", [
    ([1], True, None), ([1], False, "image 1"), ([0, 1], True, "no image of a can be read"), ([0, 1, 2], True, "no image of any class"),
])
def test_images_that_cannot_be_read_are_left_out_where_asked(broken, skip, said, capsys):
    good = cv2.imencode(".png", np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8))[1].tobytes()

    class Faces(SimpleNamespace):
        def __len__(self):
            return 3

    faces = Faces(labels=np.array([0, 0, 1]), class_names=["a", "b"], encoded=lambda i: b"x" if i in broken else good, name=lambda i: f"image {i}")
    teacher = lambda image: Features(image.mean((2, 3)), (), ())  # noqa: E731
    if said is None:
        means = mean_centres(teacher, faces, torch.device("cpu"), batch=1, skip_bad=skip)
        torch.testing.assert_close(means[0], means[1])
        assert "1 images are left out of the class means" in capsys.readouterr().err
    else:
        with pytest.raises(DataError, match=said):
            mean_centres(teacher, faces, torch.device("cpu"), batch=1, skip_bad=skip)


def test_means_of_normalised_embeddings_by_hand():
    colours = [(10, 200, 30), (250, 5, 90), (40, 60, 200), (90, 90, 240), (10, 220, 0)]
    labels = np.array([1, 0, 2, 2, 1])
    images = [np.full((112, 112, 3), colour[::-1], np.uint8) for colour in colours]
    class Faces(SimpleNamespace):
        def __len__(self):
            return 5

    faces = Faces(
        labels=labels, class_names=["a", "b", "c"], encoded=lambda i: cv2.imencode(".png", images[i])[1].tobytes(), name=str,
    )
    centres = mean_centres(lambda image: Features(image.mean((2, 3)), (), ()), faces, torch.device("cpu"), batch=2)
    unit = [(v := (np.array(colour) - 127.5)) / np.linalg.norm(v) for colour in colours]
    for person in range(3):
        mean = np.mean([u for u, label in zip(unit, labels) if label == person], 0)
        np.testing.assert_allclose(centres[person].numpy(), mean / np.linalg.norm(mean), atol=1e-5)
