"""timm's networks as backbones: the same features as timm's own, and a clear word for what cannot be."""
from __future__ import annotations

import pytest
import timm
import torch

from askd.models import make_backbone
from askd.models.timm_backbone import TimmBackbone


def images(count=2):
    return torch.rand(count, 3, 112, 112, generator=torch.Generator().manual_seed(0)) * 2 - 1


# A CNN, one with a convolution between last stage and classifier, tokens, tokens in a pyramid, and one that gives maps channels last.
@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "convnext_atto"])
def test_embedding_and_stages_are_timm_s(name):
    torch.manual_seed(0)
    network = make_backbone(f"timm/{name}", embedding=24).eval()
    plain = timm.create_model(name, num_classes=0, **({"img_size": 112} if name.startswith(("vit", "swin")) else {})).eval()
    plain.load_state_dict(network.trunk.state_dict())
    x = images(1)
    with torch.no_grad():
        told = network.forward_all(x)
        linear, norm = network.neck[1], network.neck[2]
        expected = (plain(x) @ linear.weight.T - norm.running_mean) / (norm.running_var + norm.eps).sqrt() + norm.bias
        torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(told.embedding, expected, rtol=1e-4, atol=1e-5)
        for ours, theirs in zip(told.stages, plain.forward_intermediates(x, output_fmt="NCHW")[1], strict=True):
            torch.testing.assert_close(ours, theirs)
    assert [(stage.shape[1], stage.shape[2]) for stage in told.stages] == [(info["channels"], info["size"]) for info in network.feature_info]
    assert told.stages and told.attention == () and network.head_hidden_size == 24


def test_probing_leaves_no_trace():
    torch.manual_seed(3)
    network = TimmBackbone("resnet10t", embedding=8)
    assert network.training and all(module.training for module in network.modules())
    assert all(int(value) == 0 for key, value in network.state_dict().items() if key.endswith("num_batches_tracked"))
    drawn = torch.rand(1)
    torch.manual_seed(3)
    TimmBackbone("resnet10t", embedding=8)
    assert torch.equal(torch.rand(1), drawn)


def test_a_network_without_intermediate_maps_has_no_stages(monkeypatch):
    monkeypatch.delattr(timm.models.resnet.ResNet, "forward_intermediates")
    network = make_backbone("timm/resnet10t", embedding=8).eval()
    with torch.no_grad():
        told = network.forward_all(images())
    assert network.feature_info == [] and told.stages == () and torch.equal(told.embedding, network(images()))


@pytest.mark.parametrize("name, options, said", [
    ("timm/resnt18", {}, "timm knows no 'resnt18'; did you mean timm/resnet18"),
    ("timm/iresnet50", {}, "timm/iresnet50 is a backbone of ours"),
    ("timm/sam2_hiera_tiny", {}, "timm/sam2_hiera_tiny cannot take 112x112 images"),
    ("timm/resnet10t", {"attention": "cbam"}, "takes no attention modules, got attention=cbam"),
    ("timm/resnet10t", {"attention": "none", "spatial_kernel": 3, "cbam_pool": "max"}, "got spatial_kernel=3, cbam_pool=max"),
])
def test_what_cannot_be_is_said(name, options, said):
    with pytest.raises(ValueError, match=said) as caught:
        make_backbone(name, **options)
    assert "\n" not in str(caught.value)
