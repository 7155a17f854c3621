"""What every backbone promises: it reports what it returns, all ways through it agree, it can be folded, exported and refused by name."""
from __future__ import annotations

import copy

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from askd.deploy.graph import to_onnx, trace
from askd.models import BACKBONES, make_backbone
from askd.models.cmt import CMT
from askd.models.iresnet import IResNet
from askd.models.mobilefacenet import MobileFaceNet
from askd.models.timm_backbone import TimmBackbone
from askd.teachers import fold_batch_norms

SMALL = {
    "iresnet, parallel cbam": lambda: IResNet(
        (1, 1, 1, 1), (8, 8, 16, 16), attention="cbam", cbam_order="parallel", reduction=4, embedding=12),
    "mobilefacenet, cbam": lambda: MobileFaceNet((0, 1, 0), attention="cbam", reduction=8, embedding=12),
    "cmt, bam": lambda: CMT((8, 16, 24, 32), (1, 1, 1, 1), 2, 4, attention="bam", reduction=4, embedding=12),
    "timm": lambda: TimmBackbone("resnet10t", embedding=12),
}
ATTENDED = {"iresnet, parallel cbam": 4, "mobilefacenet, cbam": 4, "cmt, bam": 4, "timm": 0}


def images(count=2):
    return torch.rand(count, 3, 112, 112, generator=torch.Generator().manual_seed(0)) * 2 - 1


def trained(make) -> nn.Module:
    """As after training, frozen: no batch norm has mean 0, variance 1, weight 1, bias 0."""
    torch.manual_seed(0)
    backbone = make()
    generator = torch.Generator().manual_seed(1)
    for module in backbone.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            with torch.no_grad():
                for tensor, low in ((module.running_mean, -0.5), (module.running_var, 0.5), (module.weight, 0.5), (module.bias, -0.5)):
                    tensor.copy_(torch.rand(len(tensor), generator=generator) + low)
    return backbone.eval().requires_grad_(False)


@pytest.mark.parametrize("name", SMALL)
def test_it_reports_what_it_returns_and_all_ways_agree(name):
    network, x = trained(SMALL[name]), images()
    told = network.forward_all(x)
    assert told.embedding.shape == (2, network.head_hidden_size) == (2, 12)
    assert [tuple(stage.shape[1:]) for stage in told.stages] == [
        (info["channels"], info["size"], info["size"]) for info in network.feature_info]
    torch.testing.assert_close(network(x), told.embedding, rtol=1e-5, atol=1e-6)
    assert network.forward_features(x).shape[1] == network.num_features
    assert len(told.attention) == ATTENDED[name] == sum(info.get("blocks", 0) for info in network.feature_info)
    blocks = [info for info in network.feature_info for _ in range(info.get("blocks", 0))]
    for maps, info in zip(told.attention, blocks, strict=True):
        assert maps.channel.shape == (2, info["channels"], 1, 1) and maps.spatial.shape == (2, 1, info["size"], info["size"])


@pytest.mark.parametrize("name", SMALL)
def test_folding_changes_no_output(name):
    network = trained(SMALL[name])
    folded, x = fold_batch_norms(copy.deepcopy(network)), images()
    before, after = network.forward_all(x), folded.forward_all(x)
    torch.testing.assert_close(after.embedding, before.embedding, rtol=1e-4, atol=1e-4)
    for ours, theirs in zip((*after.stages, *(m for maps in after.attention for m in maps)),
                            (*before.stages, *(m for maps in before.attention for m in maps)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)

    def norms(module):
        return sum(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules())

    assert norms(folded) == norms(network) if name == "timm" else norms(folded) < norms(network)


@pytest.mark.parametrize("name", [name for name in SMALL if not name.startswith("iresnet")])  # of which tests/test_export.py has more
def test_onnx_equals_pytorch_at_any_batch(name):
    network = trained(SMALL[name])
    session = onnxruntime.InferenceSession(to_onnx(trace(network, None)).SerializeToString(), providers=["CPUExecutionProvider"])
    for count in (1, 3):
        expected = network(images(count)).numpy()
        found = session.run(None, {"image": images(count).numpy()})[0]
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_learns_but_the_embeddings_scale(name):
    torch.manual_seed(0)
    network = SMALL[name]().train()
    network(images(3)).square().sum().backward()
    unmoved = [key for key, parameter in network.named_parameters() if parameter.grad is None]
    assert unmoved == [f"neck.{len(network.neck) - 1}.weight"]


@pytest.mark.parametrize("name", [name for name in BACKBONES if name not in ("iresnet100", "iresnet152")])
def test_every_name_makes_one_with_and_without_attention(name):
    with torch.device("meta"):
        for attention in ("none", "se"):
            network = make_backbone(name, attention=attention, embedding=8, dropout=0.1)
            assert network.head_hidden_size == 8 and len(network.feature_info) == 4
            assert [info["size"] for info in network.feature_info] == [56, 28, 14, 7]


@pytest.mark.parametrize("name, said", [
    ("mobilfacenet", "did you mean mobilefacenet"), ("cmt", "unknown backbone 'cmt'"), ("resnet50", "did you mean iresnet50"),
])
def test_unknown_names_lead_to_the_right_one(name, said):
    with pytest.raises(ValueError, match=said):
        make_backbone(name)
