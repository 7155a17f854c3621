"""The ONNX file is the student, to PyTorch and to InsightFace, in one file, and it is never written when it is not."""
from __future__ import annotations

import json

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from askd import export as export_module
from askd.data.loader import to_unit
from askd.data.synthetic import render_face
from askd.engine.checkpoint import save_weights
from askd.errors import CheckpointError, RecipeError
from askd.export import LEAST_COSINE, export, main, parity
from askd.models import make_backbone
from askd.models.iresnet import IResNet
from askd.teachers import load_backbone
from tiny import distilled, run, world  # noqa: F401, fixtures

NETWORK = {"attention": "cbam", "embedding": 32, "dropout": 0.4}


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A network whose batch norms have seen something and whose dropout would show."""
    torch.manual_seed(5)
    backbone = make_backbone("iresnet10", **NETWORK)
    for module in backbone.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    folder = tmp_path_factory.mktemp("student")
    save_weights(folder, backbone.state_dict(), {"role": "student", "backbone": "iresnet10", "network": NETWORK})
    return folder


@pytest.fixture(scope="module")
def exported(run_folder, tmp_path_factory):
    """What `python -m askd.export` makes of it."""
    cwd = tmp_path_factory.mktemp("cwd")
    done = run("export", run_folder, "out=onnx", cwd=cwd)
    assert done.status == 0, done.err
    assert done.out.strip() == "onnx/student.onnx"
    return cwd / "onnx" / "student.onnx"


@pytest.fixture(scope="module")
def backbone(run_folder) -> IResNet:
    return load_backbone(run_folder)[0].eval()


@pytest.mark.parametrize("count", [1, 3, 8])
def test_equals_pytorch_at_any_batch(exported, backbone, count):
    session = onnxruntime.InferenceSession(str(exported), providers=["CPUExecutionProvider"])
    assert [(i.name, i.shape[1:], i.type) for i in session.get_inputs()] == [("image", [3, 112, 112], "tensor(float)")]
    assert [(o.name, o.shape[1:]) for o in session.get_outputs()] == [("embedding", [32])]
    images = torch.rand(count, 3, 112, 112, generator=torch.Generator().manual_seed(count)) * 2 - 1
    theirs, = session.run(None, {"image": images.numpy()})
    with torch.inference_mode():
        ours = backbone(images).numpy()
    np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-3 * np.abs(ours).max())


def test_is_insightface_s_model(exported, backbone):
    from insightface import model_zoo

    recogniser = model_zoo.get_model(str(exported), providers=["CPUExecutionProvider"])
    assert recogniser.taskname == "recognition" and recogniser.input_size == (112, 112)
    faces = [render_face(identity, 0) for identity in range(3)]
    with torch.inference_mode():
        ours = backbone(to_unit(torch.from_numpy(np.stack(faces)).permute(0, 3, 1, 2))).numpy()
    bgr = [cv2.cvtColor(face, cv2.COLOR_RGB2BGR) for face in faces]  # as cv2.imread gives them; get_feat makes it RGB
    theirs = recogniser.get_feat(bgr)
    np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-3 * np.abs(ours).max())
    np.testing.assert_allclose(recogniser.get_feat(bgr[1])[0], ours[1], rtol=1e-3, atol=1e-3 * np.abs(ours).max())
    assert np.abs(recogniser.get_feat(faces) - ours).max() > 0.01 * np.abs(ours).max()  # colour order does matter


def test_everything_is_in_the_one_file(exported, backbone):
    assert sorted(path.name for path in exported.parent.iterdir()) == ["meta.json", "student.onnx"]
    model = onnx.load(exported, load_external_data=False)
    weights = model.graph.initializer
    assert not any(onnx.external_data_helper.uses_external_data(tensor) for tensor in weights)
    # At least every convolution and linear weight; batch norms may be folded into them.
    least = sum(m.weight.numel() for m in backbone.modules() if isinstance(m, (nn.Conv2d, nn.Linear)))
    assert sum(np.prod(tensor.dims) for tensor in weights) >= least
    assert not any(node.op_type == "Dropout" for node in model.graph.node)


def test_meta_comes_along(exported, run_folder):
    meta = json.loads((exported.parent / "meta.json").read_text())
    assert LEAST_COSINE <= meta.pop("onnx")["least_cosine_to_pytorch"] <= 1.0001
    assert meta == json.loads((run_folder / "meta.json").read_text())


def test_the_job_s_own_export_is_its_student(distilled):  # noqa: F811
    file = distilled.folder / "export" / "seed0" / "student.onnx"
    image = torch.rand(2, 3, 112, 112) * 2 - 1
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    theirs, = session.run(None, {"image": image.numpy()})
    with torch.inference_mode():
        ours = load_backbone(distilled.of("student"))[0].eval()(image).numpy()
    np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-3 * np.abs(ours).max())


def test_nothing_is_written_without_parity(run_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "parity", lambda backbone, model: 0.5)
    monkeypatch.setattr(export_module, "to_onnx", lambda backbone: b"a model")
    for folder in (tmp_path / "new" / "export", tmp_path):
        with pytest.raises(CheckpointError, match=r"cosine 0\.500000 < 0\.9999.*nothing written"):
            export(run_folder, folder)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_for_a_network_of_nan(run_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "parity", lambda backbone, model: float("nan"))
    monkeypatch.setattr(export_module, "to_onnx", lambda backbone: b"a model")
    with pytest.raises(CheckpointError, match="cosine nan"):
        export(run_folder, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_parity_sees_a_changed_network(exported, backbone):
    model = exported.read_bytes()
    assert parity(backbone, model) > 0.99999
    torch.manual_seed(6)
    assert parity(make_backbone("iresnet10", **NETWORK).eval(), model) < 0.9


def test_what_it_refuses(distilled, run_folder, tmp_path, monkeypatch):  # noqa: F811
    with pytest.raises(RecipeError, match="usage: python -m askd.export RUN_FOLDER"):
        main([])
    with pytest.raises(RecipeError, match="usage"):
        main([str(run_folder), "size=3"])
    with pytest.raises(CheckpointError, match="several runs; name one, for example .*student/seed0"):
        main([str(distilled.folder)])
    with pytest.raises(CheckpointError, match="train it first"):
        main([str(tmp_path / "nobody")])
    monkeypatch.setattr(export_module, "parity", lambda backbone, model: 1.0)
    monkeypatch.setattr(export_module, "to_onnx", lambda backbone: b"a model")
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write.*choose another out="):
        main([str(run_folder), f"out={tmp_path / 'file'}"])
