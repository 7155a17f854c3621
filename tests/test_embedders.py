"""Everything that can be measured answers alike: the embedding of its own network, under a name and a hash."""
from __future__ import annotations

import numpy as np
import pytest
import safetensors.torch
import timm
import torch

from askd.embedders import from_callable, open_embedder
from askd.engine.checkpoint import save_weights
from askd.errors import CheckpointError
from askd.models.features import AttentionMaps
from askd.teachers import load_backbone, weights_hash
from exported import META_OF_RUN, make_network
from means import write

CPU = torch.device("cpu")
PIXELS = torch.randint(0, 256, (3, 3, 112, 112), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
UNIT = (PIXELS.float() - 127.5) / 127.5


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with a network in it."""
    folder = tmp_path_factory.mktemp("runs") / "mini" / "student" / "seed3"
    save_weights(folder, make_network().state_dict(), META_OF_RUN)
    return folder


def test_a_run_folder_is_its_network(run):
    embedder = open_embedder(run, CPU)
    with torch.no_grad():
        expected = make_network().eval()(UNIT)
    torch.testing.assert_close(embedder.embed(UNIT), expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(embedder.embed(PIXELS), embedder.embed(UNIT), rtol=1e-4, atol=1e-5)  # bytes are the same faces
    maps = embedder.look(UNIT).attention
    assert maps and isinstance(maps[0], AttentionMaps) and embedder.module is not None
    assert embedder.sha256 == weights_hash(load_backbone(run)[0]) and embedder.name == "mini/student/seed3"
    assert open_embedder(f"mine={run}", CPU).name == "mine"
    assert not embedder.embed(UNIT.clone().requires_grad_()).requires_grad


def test_an_onnx_file_and_a_pack_with_it(tmp_path):
    path = write(tmp_path / "r50.onnx")
    for spec in (path, tmp_path):
        embedder = open_embedder(spec, CPU)
        torch.testing.assert_close(embedder.embed(PIXELS), UNIT.mean((2, 3)), rtol=1e-4, atol=1e-4)
        assert (embedder.name, embedder.look(UNIT).attention, embedder.module) == ("r50", (), None) and "InsightFace" in embedder.input


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=7).eval()
    path = tmp_path_factory.mktemp("timm") / "faces.safetensors"
    safetensors.torch.save_file(model.state_dict(), path)
    return model, path


def test_a_timm_model_is_fed_as_its_configuration_says(weights):
    model, path = weights
    embedder = open_embedder(f"timm:test_resnet:{path}", CPU)
    config = model.pretrained_cfg
    seen = torch.nn.functional.interpolate(PIXELS.float(), config["input_size"][1:], mode="bicubic", antialias=True).clamp(0, 255) / 255
    mean, std = (torch.tensor(config[key]).view(-1, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        expected = model.forward_head(model.forward_features((seen - mean) / std), pre_logits=True)
    torch.testing.assert_close(embedder.embed(PIXELS), expected, rtol=1e-3, atol=1e-4)
    assert embedder.name == "faces" and embedder.module is not None
    torch.save({"state_dict": model.state_dict()}, path.with_name("other.pt"))
    other = open_embedder(f"timm:test_resnet:{path.with_name('other.pt')}", CPU)
    torch.testing.assert_close(other.embed(PIXELS), expected, rtol=1e-3, atol=1e-4)
    path.with_name("other.yaml").write_text("mean: 127.5\nstd: 127.5\ncolour: BGR\n")
    other = open_embedder(f"timm:test_resnet:{path.with_name('other.pt')}", CPU)
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(UNIT.flip(1)), pre_logits=True)
    torch.testing.assert_close(other.embed(PIXELS), expected, rtol=1e-3, atol=1e-4)
    assert other.sha256 != embedder.sha256


def test_a_python_function(tmp_path):
    def means(image: torch.Tensor) -> np.ndarray:
        assert image.dtype == torch.float32
        return image.mean((2, 3)).numpy()

    embedder = from_callable("means", means)
    torch.testing.assert_close(embedder.embed(PIXELS), UNIT.mean((2, 3)), rtol=1e-4, atol=1e-4)
    assert embedder.sha256 is None
    assert len({from_callable(name, means, version).sha256 for name, version in (("a", "1"), ("a", "2"), ("b", "1"), ("a", "1"))}) == 3
    with pytest.raises(CheckpointError, match=r"scalar gives \(3,\) for 3 faces, expected \(3, D\)"):
        from_callable("scalar", lambda image: image.mean((1, 2, 3))).embed(PIXELS)


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("timm:test_resnet", "names no weights"), ("timm:nobody:{0}/w.pt", "timm has no model 'nobody'"),
        ("timm:test_resnet:{0}/none.pt", "no such weights file"), ("timm:test_resnet:{0}/bad.pt", "no weights file that can be read safely"),
        ("timm:test_resnet:{0}/w.pt", "does not hold the weights of timm's test_resnet"), ("timm:test_resnet:{0}/list.pt", "no state dict"),
        ("{0}/none.onnx", "no such ONNX file"), ("{0}/nothing", "no such run folder or checkpoint"),
    ],
)
def test_what_is_no_model_is_named(spec, problem, tmp_path):
    (tmp_path / "bad.pt").write_bytes(b"nothing")
    torch.save({"fc.weight": torch.zeros(2, 2), "stem.weight": torch.zeros(2)}, tmp_path / "w.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match=problem) as error:
        open_embedder(spec.format(tmp_path), CPU)
    assert "\n" not in str(error.value)
