"""IResNet's promises: it reports what it returns, its layouts weigh what they are known to weigh, timm finds it."""
from __future__ import annotations

import pytest
import timm
import torch

import askd.models  # noqa: F401  registers the backbones with timm
from askd.models import BACKBONES, make_backbone
from askd.models.iresnet import IResNet

SMALL = dict(blocks=(2, 1, 2, 1), widths=(8, 16, 24, 32), embedding=12)


def images(count=2):
    return torch.rand(count, 3, 112, 112, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("stem_stride", [1, 2])
@pytest.mark.parametrize("attention", ["none", "se", "bam", "cbam"])
def test_feature_info_tells_the_truth(stem_stride, attention):
    network = IResNet(**SMALL, stem_stride=stem_stride, attention=attention).eval()
    with torch.no_grad():
        features = network.forward_all(images())
    assert features.embedding.shape == (2, 12)
    shapes = [(2, info["channels"], info["size"], info["size"]) for info in network.feature_info]
    assert [tuple(stage.shape) for stage in features.stages] == shapes
    assert shapes == [(2, 8, 56, 56), (2, 16, 28, 28), (2, 24, 14, 14), (2, 32, 7, 7)]
    assert [info["blocks"] for info in network.feature_info] == list(SMALL["blocks"])
    maps = iter(features.attention)
    for info in network.feature_info if attention != "none" else ():
        for _ in range(info["blocks"]):
            block = next(maps)
            assert block.channel.shape == (2, info["channels"], 1, 1)
            if attention != "se":
                assert block.spatial.shape == (2, 1, info["size"], info["size"])
            else:
                assert block.spatial is None
    assert next(maps, None) is None


@pytest.mark.parametrize("attention", ["none", "cbam"])
def test_forward_and_forward_features_are_parts_of_forward_all(attention):
    network = IResNet(**SMALL, attention=attention, dropout=0.5).eval()
    with torch.no_grad():
        features = network.forward_all(images())
        assert torch.equal(network(images()), features.embedding)
        assert torch.equal(network.forward_features(images()), features.stages[-1])
        assert torch.equal(network.neck(features.stages[-1]), features.embedding)


def test_a_block_adds_what_it_attended_to_its_shortcut():
    network = IResNet(**SMALL, attention="cbam").eval()
    block, x = network.stages[0][1], torch.randn(1, 8, 56, 56)
    assert block.shortcut is None and network.stages[0][0].shortcut is not None
    with torch.no_grad():
        block.bn3.weight.zero_()  # with its bias: a silent branch, and any attention times 0 is 0
        block.bn3.bias.zero_()
        assert torch.equal(block(x)[0], x)


def test_the_embeddings_scale_stays_at_one():
    network = IResNet(**SMALL)
    scale = network.neck[4].weight
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    network(images(3)).square().sum().backward()
    optimizer.step()
    assert not scale.requires_grad and scale.grad is None and torch.equal(scale, torch.ones(12))
    assert all(p.grad is not None for p in network.parameters() if p is not scale)


def count(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    "name, millions", [("iresnet18", 24.03), ("iresnet34", 34.14), ("iresnet50", 43.59), ("iresnet100", 65.16)]
)
def test_layouts_have_the_known_number_of_parameters(name, millions):
    with torch.device("meta"):
        assert count(make_backbone(name)) / 1e6 == pytest.approx(millions, abs=0.01)


def test_cbam_costs_what_its_equations_say():
    with torch.device("meta"):
        plain, attended = make_backbone("iresnet50"), make_backbone("iresnet50", attention="cbam", spatial_kernel=3)
    per_block = {c: 2 * c * (c // 16) + 2 * 3 * 3 for c in (64, 128, 256, 512)}
    blocks = {64: 3, 128: 4, 256: 14, 512: 3}
    assert count(attended) - count(plain) == sum(blocks[c] * per_block[c] for c in blocks)


def test_unknown_backbones_list_the_choices():
    with pytest.raises(ValueError, match="'iresnet51'; did you mean iresnet50. choose from iresnet10, .*cmt_b, timm/NAME"):
        make_backbone("iresnet51")


def test_timm_creates_every_layout_with_and_without_attention():
    assert {name for family in ("iresnet*", "mobilefacenet*", "cmt_*") for name in timm.list_models(family)} >= {*BACKBONES, *(f"{name}_cbam" for name in BACKBONES)}
    with torch.device("meta"):
        network = timm.create_model("iresnet18_cbam", embedding=128, spatial_kernel=3)
    assert isinstance(network, IResNet) and network.neck[3].out_features == 128
    assert network.stages[3][1].attention.spatial.conv.kernel_size == (3, 3)


def test_timms_names_keep_their_meaning():
    network = timm.create_model("iresnet10_cbam", num_classes=0).eval()
    with torch.no_grad():
        assert network.forward_features(images(1)).shape == (1, network.num_features, 7, 7)
        assert network(images(1)).shape == (1, network.head_hidden_size)
    assert (network.num_features, network.head_hidden_size) == (128, 512)


def test_timm_options_that_mean_nothing_here_are_refused():
    with pytest.raises(ValueError, match="ships without weights"):
        timm.create_model("iresnet10", pretrained=True)
    with pytest.raises(ValueError, match="no classifier"):
        timm.create_model("iresnet10", num_classes=1000)


def test_a_timm_checkpoint_file_round_trips(tmp_path):
    network = timm.create_model("iresnet10")
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    again = timm.create_model("iresnet10", checkpoint_path=str(tmp_path / "weights.pth"))
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in network.state_dict().items())
