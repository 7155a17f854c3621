"""The export is the student, to PyTorch, to ONNX Runtime and to InsightFace, and it is never written when it is not."""
from __future__ import annotations

import hashlib
import json
import re

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from askd import export as export_module
from askd.data.loader import to_unit
from askd.deploy import gate
from askd.deploy.graph import to_onnx, trace
from askd.errors import CheckpointError, DataError, RecipeError
from askd.export import export, main
from askd.models import make_backbone
from askd.runtime.recognizer import META, MODEL, Recognizer
from askd.teachers import load_backbone
from exported import META_OF_RUN, Exported, exported, some_faces  # noqa: F401, a fixture
from tiny import distilled, world  # noqa: F401, fixtures

FACES = some_faces(3)
ALL = ["README.md", "meta.json", "model.safetensors", "student.onnx", "student.pt2"]


def embeddings(backbone, faces: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return backbone(to_unit(torch.from_numpy(faces).permute(0, 3, 1, 2))).numpy()


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("count", [1, 3, 8])
def test_equals_pytorch_at_any_batch(exported: Exported, count):  # noqa: F811
    session = onnxruntime.InferenceSession(str(exported.folder / MODEL), providers=["CPUExecutionProvider"])
    assert [(i.name, i.shape[1:], i.type) for i in session.get_inputs()] == [("image", [3, 112, 112], "tensor(float)")]
    assert [(o.name, o.shape[1:]) for o in session.get_outputs()] == [("embedding", [32])]
    images = torch.rand(count, 3, 112, 112, generator=torch.Generator().manual_seed(count)) * 2 - 1
    with torch.inference_mode():
        assert_same(session.run(None, {"image": images.numpy()})[0], exported.backbone(images).numpy())


def is_insightface_s(model, backbone) -> None:
    """InsightFace takes it for a recogniser and gets PyTorch's embeddings from it."""
    assert model.taskname == "recognition" and model.input_size == (112, 112)
    expected = embeddings(backbone, FACES)
    bgr = [cv2.cvtColor(face, cv2.COLOR_RGB2BGR) for face in FACES]  # as cv2.imread gives them; get_feat makes it RGB
    assert_same(model.get_feat(bgr), expected)
    assert_same(model.get_feat(bgr[1])[0], expected[1])
    assert np.abs(model.get_feat(list(FACES)) - expected).max() > 0.003 * np.abs(expected).max()  # colour order does matter


def test_insightface_loads_the_job_s_own_student(distilled):  # noqa: F811
    from insightface import model_zoo

    folder = distilled.folder / "export" / "seed0"
    assert sorted(path.name for path in folder.iterdir()) == ALL
    is_insightface_s(model_zoo.get_model(str(folder / MODEL), providers=["CPUExecutionProvider"]), load_backbone(distilled.of("student"))[0].eval())


def test_insightface_loads_an_iresnet50(tmp_path):
    from insightface import model_zoo

    torch.manual_seed(0)
    backbone = make_backbone("iresnet50", attention="cbam").eval().requires_grad_(False)
    onnx.save(to_onnx(trace(backbone, None)), tmp_path / MODEL)
    model = model_zoo.get_model(str(tmp_path / MODEL), providers=["CPUExecutionProvider"])
    expected = embeddings(backbone, FACES[:2])
    found = model.get_feat([face[..., ::-1].copy() for face in FACES[:2]])
    assert gate.cosines(found, expected).min() > gate.LIMITS["fp32"].cosine


def test_a_package_for_face_analysis(exported, shared, tmp_path):  # noqa: F811
    """Student and SCRFD in one folder, with manifest, on LFW's own photographs."""
    from insightface.app import FaceAnalysis
    from insightface.utils.face_align import norm_crop

    detector, photos = shared / "models" / "scrfd_2.5g_bnkps.onnx", shared / "data" / "lfw" / "raw_250"
    if not detector.is_file() or not photos.is_dir():
        pytest.skip("no raw LFW photographs, or no detector")
    export(exported.run, tmp_path / "pack", detector=str(detector))
    app = FaceAnalysis(name=str(tmp_path / "pack"), providers=["CPUExecutionProvider"])
    assert app.model_package.tasks["recognition"].sha256 == hashlib.sha256((tmp_path / "pack" / MODEL).read_bytes()).hexdigest()
    app.prepare(ctx_id=-1)
    for name in ("Colin_Powell", "Laura_Bush", "Serena_Williams"):
        photo = cv2.imread(str(photos / name / f"{name}_0001.jpg"))
        face = max(app.get(photo), key=lambda face: face.det_score)
        aligned = cv2.cvtColor(norm_crop(photo, face.kps), cv2.COLOR_BGR2RGB)
        assert_same(face.embedding, embeddings(exported.backbone, aligned[None])[0])


def test_everything_is_in_the_one_file(exported):  # noqa: F811
    assert sorted(path.name for path in exported.folder.iterdir()) == ALL
    model = onnx.load(exported.folder / MODEL, load_external_data=False)
    weights = model.graph.initializer
    assert not any(onnx.external_data_helper.uses_external_data(tensor) for tensor in weights)
    # At least every convolution and linear weight; batch norms may be folded into them.
    least = sum(m.weight.numel() for m in exported.backbone.modules() if isinstance(m, (nn.Conv2d, nn.Linear)))
    assert sum(np.prod(tensor.dims) for tensor in weights) >= least
    assert not any(node.op_type == "Dropout" for node in model.graph.node)


def test_weights_and_program_give_the_same(exported):  # noqa: F811
    expected = embeddings(exported.backbone, FACES)
    assert_same(embeddings(load_backbone(exported.folder)[0].eval(), FACES), expected)
    program = torch.export.load(exported.folder / "student.pt2").module()
    assert_same(program(to_unit(torch.from_numpy(FACES).permute(0, 3, 1, 2))).detach().numpy(), expected)


def test_meta_and_card_say_what_was_measured(exported):  # noqa: F811
    meta = json.loads((exported.folder / META).read_text())
    described = meta.pop("export")
    assert meta == META_OF_RUN
    assert (described["precision"], described["input"], described["kernel"], described["width"]) == ("fp32", "aligned", "bicubic", 32)
    assert described["sha256"] == hashlib.sha256((exported.folder / MODEL).read_bytes()).hexdigest()
    assert [(line["faces"], line["size"]) for line in described["gate"]] == [
        ("calibration", 28), ("held out", 112), ("held out", 28), ("held out, student.pt2", 28)]
    assert all(line["least_cosine"] >= 0.9999 for line in described["gate"])
    card = (exported.folder / "README.md").read_text()
    for size in (112, 28):
        rows = {row["far"]: row for row in described["thresholds"] if row["size"] == size}
        assert {row["impostors"] for row in rows.values()} == {6960}  # 120 rendered faces, 4 of each person: 7140 - 180
        assert rows[1e-4]["threshold"] is None and rows[1e-2]["threshold"] > rows[1e-2]["tar"] - 1
        assert f"| {size} px | {rows[1e-2]['threshold']:.4f} | {rows[1e-3]['threshold']:.4f} | too few impostors | 6,960 |" in card
    for file in ALL[1:]:
        assert f"`{file}` `{hashlib.sha256((exported.folder / file).read_bytes()).hexdigest()}`" in card
    assert "Rendered" in card or "rendered faces" in card


def test_the_job_s_card_names_data_terms_and_recipe(distilled):  # noqa: F811
    card = (distilled.folder / "export" / "seed0" / "README.md").read_text()
    assert "Terms: none; these people do not exist" in card and "taught by mini (sha256" in card and "```yaml\nname: mini" in card
    assert re.search(r"\| 14 px \| \d+\.\d\d % \| \d+\.\d\d – \d+\.\d\d, by identity \| 0\.\d{4} \|", card)


def test_a_folder_is_replaced_whole(exported, tmp_path):  # noqa: F811
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy" / "manifest.json").write_text("of a package that was here before")
    (tmp_path / "deploy" / "notes.txt").write_text("somebody's own")
    export(exported.run, tmp_path / "deploy", input="native")
    assert sorted(path.name for path in (tmp_path / "deploy").iterdir()) == sorted([*ALL, "notes.txt"])
    assert [path.name for path in tmp_path.iterdir()] == ["deploy"]
    recognizer = Recognizer(tmp_path / "deploy")
    assert recognizer.input == "native"
    assert_same(recognizer.embed(FACES), embeddings(exported.backbone, FACES))
    program = torch.export.load(tmp_path / "deploy" / "student.pt2").module()
    assert_same(program(torch.from_numpy(FACES).permute(0, 3, 1, 2)).detach().numpy(), embeddings(exported.backbone, FACES))


def test_nothing_is_written_for_another_network(exported, tmp_path, monkeypatch):  # noqa: F811
    """The graph handed to the gate is of a network one seed away."""
    torch.manual_seed(6)
    other = make_backbone("iresnet10", attention="cbam", embedding=32).eval().requires_grad_(False)
    monkeypatch.setattr(export_module, "trace", lambda backbone, kernel: trace(other, kernel))
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "student.onnx").write_text("what was here")
    for folder in (tmp_path / "new" / "export", tmp_path / "old"):
        with pytest.raises(CheckpointError, match="is not the network that was trained: calibration at 28 px: least cosine.*Nothing written"):
            export(exported.run, folder)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["new", "old", "student.onnx"]
    assert (tmp_path / "old" / "student.onnx").read_text() == "what was here"


def test_what_it_refuses(distilled, exported, tmp_path, monkeypatch):  # noqa: F811
    for arguments, message in (
        ([], "usage: python -m askd.export RUN_FOLDER"), ([str(exported.run), "size=3"], "usage"),
        ([str(exported.run), "precision=int4"], "precision must be one of fp32, fp16, int8, got int4"),
        ([str(exported.run), "input=raw"], "input must be one of aligned, native"), ([str(exported.run), "data.path=x"], "no recipe.yaml"),
    ):
        with pytest.raises(RecipeError, match=message):
            main(arguments)
    with pytest.raises(CheckpointError, match="several runs; name one, for example .*student/seed0"):
        main([str(distilled.folder)])
    with pytest.raises(CheckpointError, match="train it first"):
        main([str(tmp_path / "nobody")])
    with pytest.raises(CheckpointError, match="is the run folder itself"):
        export(exported.run, exported.run)
    monkeypatch.chdir(distilled.cwd)
    with pytest.raises(DataError, match="lfw: .*nowhere is not there"):
        main([str(distilled.of("student")), f"out={tmp_path / 'x'}", f"data.path={tmp_path / 'nowhere'}", "data.set=lfw"])
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write.*choose another out="):
        main([str(exported.run), f"out={tmp_path / 'file' / 'deploy'}"])
    with pytest.raises(DataError, match="detector=.* is no file"):
        export(exported.run, tmp_path / "x", detector=str(tmp_path / "no.onnx"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
