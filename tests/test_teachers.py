"""Networks come back from disk as they were, what does not fit is refused, and folded batch norms change no output."""
from __future__ import annotations

import copy
import json
import shutil

import pytest
import safetensors.torch
import torch
from torch import nn

from askd.engine.checkpoint import save_weights
from askd.errors import CheckpointError
from askd.models import make_backbone
from askd.models.iresnet import IResNet
from askd.teachers import Frozen, fold_batch_norms, load_backbone, weights_hash
from tiny import distilled, world  # noqa: F401, fixtures

SMALL = dict(blocks=(1, 2, 1, 1), widths=(4, 8, 8, 16), reduction=2, embedding=6)


def with_random_statistics(backbone: IResNet, seed: int = 0) -> IResNet:
    """As after training: no batch norm has mean 0, variance 1, weight 1, bias 0."""
    generator = torch.Generator().manual_seed(seed)
    for module in backbone.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            with torch.no_grad():
                module.running_mean.copy_(torch.randn(module.num_features, generator=generator) * 0.3)
                module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
                module.weight.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
                module.bias.copy_(torch.randn(module.num_features, generator=generator) * 0.3)
    return backbone


@pytest.mark.parametrize("stem_stride", [1, 2])
@pytest.mark.parametrize("attention", ["none", "se", "bam", "cbam"])
def test_folding_changes_no_output(attention, stem_stride):
    torch.manual_seed(1)
    backbone = with_random_statistics(IResNet(**SMALL, attention=attention, stem_stride=stem_stride)).eval()
    image = torch.rand(3, 3, 112, 112) * 2 - 1
    with torch.no_grad():
        before = backbone.forward_all(image)
        folded = fold_batch_norms(copy.deepcopy(backbone))
        after = folded.forward_all(image)
    torch.testing.assert_close(after.embedding, before.embedding, rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(after.stages, before.stages, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert len(before.attention) == (0 if attention == "none" else 5)
    for ours, theirs in zip(after.attention, before.attention, strict=True):
        torch.testing.assert_close(ours.channel, theirs.channel, rtol=1e-4, atol=1e-4)
        assert (ours.spatial is None) == (attention == "se")
        if ours.spatial is not None:
            torch.testing.assert_close(ours.spatial, theirs.spatial, rtol=1e-4, atol=1e-4)
    # What is left stands before a convolution or the embedding: one per block, two in the neck.
    left = [m for m in folded.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert len(left) == 5 + 2


def test_teacher_is_frozen_and_in_eval_mode():
    torch.manual_seed(2)
    backbone = with_random_statistics(IResNet(**SMALL, attention="cbam", stem_stride=2, dropout=0.5)).train()
    image = torch.rand(2, 3, 112, 112)
    with torch.no_grad():
        expected = copy.deepcopy(backbone).eval()(image)
    teacher = Frozen(backbone, torch.device("cpu"))
    first, second = teacher(image), teacher(image.requires_grad_())
    torch.testing.assert_close(first.embedding, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(first.embedding, second.embedding)  # no dropout, no running statistics that run on
    assert not second.embedding.requires_grad and not any(m.spatial.requires_grad for m in second.attention)


def test_hash_follows_the_weights_alone(tmp_path):
    torch.manual_seed(3)
    backbone = with_random_statistics(make_backbone("iresnet10", attention="cbam", embedding=32))
    network = {"attention": "cbam", "embedding": 32}
    save_weights(tmp_path, backbone.state_dict(), {"backbone": "iresnet10", "network": network})
    loaded, meta = load_backbone(tmp_path)
    assert meta == {"backbone": "iresnet10", "network": network}
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in backbone.state_dict().items())
    by_file, _ = load_backbone(tmp_path / "model.safetensors")
    assert weights_hash(loaded) == weights_hash(by_file) == weights_hash(backbone)
    assert weights_hash(copy.deepcopy(backbone).to(memory_format=torch.channels_last)) == weights_hash(backbone)
    changed = copy.deepcopy(backbone)
    with torch.no_grad():
        bias = changed.neck[3].bias
        bias[0] = torch.nextafter(bias[0], torch.tensor(torch.inf))  # the last bit of one number
    assert weights_hash(changed) != weights_hash(backbone)


def test_run_folders_load(distilled):  # noqa: F811
    for role in ("teacher", "baseline", "student"):
        backbone, meta = load_backbone(distilled.of(role))
        stored = safetensors.torch.load_file(distilled.of(role) / "model.safetensors")
        assert stored.keys() == backbone.state_dict().keys()
        assert all(torch.equal(value, backbone.state_dict()[name]) for name, value in stored.items())
        assert (meta["role"], meta["backbone"], meta["embedding"], meta["classes"]) == (role, "iresnet10", 32, 12)
    assert meta["teacher"]["sha256"] == weights_hash(load_backbone(distilled.of("teacher"))[0])


@pytest.fixture
def run_folder(distilled, tmp_path):  # noqa: F811
    """A finished run that a test may spoil."""
    folder = tmp_path / "spoilt"
    folder.mkdir()
    for name in ("model.safetensors", "meta.json"):
        shutil.copy(distilled.of("teacher") / name, folder)
    return folder


def refused(path) -> str:
    with pytest.raises(CheckpointError) as error:
        load_backbone(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    return str(error.value)


def test_weights_must_fit_key_by_key(run_folder):
    path = run_folder / "model.safetensors"
    weights = safetensors.torch.load_file(path)
    name = "stages.0.0.conv1.weight"
    for spoilt, said in (
        ({k: v for k, v in weights.items() if k != name}, f"lacks {name}"),
        (weights | {"stages.9.bias": torch.zeros(1)}, "has stages.9.bias"),
        (weights | {name: weights[name][:1]}, f"{name} is (1, 16, 3, 3)"),
    ):
        safetensors.torch.save_file(spoilt, path)
        assert said in refused(run_folder)


def test_weights_cut_short(run_folder):
    path = run_folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    assert "corrupt" in refused(run_folder)


@pytest.mark.parametrize("content", [
    b"", b"{", b"\xff\xfe\x00", b"[]", b"null", b"3", b"{}",
    b'{"backbone": "iresnet10"}', b'{"backbone": "iresnet10", "network": null}',
    b'{"backbone": "resnet10", "network": {}}', b'{"backbone": "iresnet10", "network": {"width": 3}}',
    b'{"backbone": ["iresnet10"], "network": {}}',
    b'{"backbone": "iresnet10", "network": {"attention": "cbam", "reduction": 0}}',
    b'{"backbone": "iresnet10", "network": {"embedding": -1}}',
    b'{"backbone": "iresnet10", "network": {"embedding": "many"}}',
])
def test_meta_that_describes_no_network(run_folder, content):
    (run_folder / "meta.json").write_bytes(content)
    refused(run_folder)


def test_meta_of_another_architecture(run_folder):
    meta = json.loads((run_folder / "meta.json").read_text())
    (run_folder / "meta.json").write_text(json.dumps(meta | {"backbone": "iresnet18"}))
    assert "choose the architecture they were trained with" in refused(run_folder)


def test_what_is_not_there(tmp_path):
    assert "train it first" in refused(tmp_path / "nobody")
    assert "no model.safetensors" in refused(tmp_path)
