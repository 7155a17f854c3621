"""Grad-CAM equals the formula worked out by hand on networks small enough for that, and a transcription on ours and timm's."""
from __future__ import annotations

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from torch import nn

from askd.evaluation.gradcam import Halves, grad_cam, halves_of, scaled_heat
from askd.models import make_backbone
from askd.models.timm_network import TimmNetwork

BASIS = torch.tensor([[1.0, 0.0], [0.0, 1.0]])


def test_by_hand_of_a_pair():
    """Two maps A, e = (mean A_1, mean A_2): d cos(e, p) / d A_k is the same everywhere, (p_k / (|e||p|) - cos e_k / |e|^2) / 4."""
    maps = torch.tensor([[[[4.0, 0.0], [0.0, 8.0]], [[0.0, 16.0], [0.0, 0.0]]]])  # e = (3, 4), |e| = 5
    found = grad_cam(Halves(lambda image: maps, lambda a: a.mean((2, 3))), torch.zeros(1, 3, 2, 2), BASIS[:1])
    # p = (1, 0), cos = 3/5: slopes (1/5 - 3/5 * 3/25, -3/5 * 4/25) / 4 = (0.032, -0.024)
    by_hand = np.maximum(0.032 * np.array([[4, 0], [0, 8]]) - 0.024 * np.array([[0, 16], [0, 0]]), 0)
    assert np.allclose(found[0], by_hand, atol=1e-7) and by_hand.max() == pytest.approx(0.256)
    assert found[0, 0, 1] == 0  # the second map speaks against the pair: ReLU


def test_by_hand_of_a_face_alone():
    """d |e| / d A_k = e_k / |e| / 4."""
    maps = torch.tensor([[[[4.0, 0.0], [0.0, 8.0]], [[0.0, 16.0], [0.0, 0.0]]]])
    found = grad_cam(Halves(lambda image: maps, lambda a: a.mean((2, 3))), torch.zeros(1, 3, 2, 2))
    assert np.allclose(found[0], [[0.15 * 4, 0.2 * 16], [0, 0.15 * 8]], atol=1e-6)


def test_the_weight_is_the_mean_slope_over_positions():
    """A head that looks at one corner alone: the weight of its map is a quarter of the slope there, for all positions."""
    maps = torch.tensor([[[[2.0, 1.0], [3.0, 5.0]]]])
    found = grad_cam(Halves(lambda image: maps, lambda a: a[:, :, 0, 0]), torch.zeros(1, 3, 2, 2))
    assert np.allclose(found[0], maps[0, 0] / 4)


@pytest.mark.parametrize("network", [
    make_backbone("iresnet10", attention="none", embedding=16), timm.create_model("resnet10t", num_classes=16),
    make_backbone("timm/resnet10t", embedding=16), make_backbone("timm/mambaout_femto", embedding=16),
], ids=["ours", "timm", "timm as ours", "channels last"])
@pytest.mark.parametrize("paired", [True, False])
def test_equals_a_transcription(network, paired):
    torch.manual_seed(0)
    network = network.eval().requires_grad_(False)
    images, partner = torch.rand(3, 3, 112, 112) * 2 - 1, torch.randn(3, 16)
    halves = halves_of(network)
    assert torch.allclose(halves.head(halves.features(images)), network(images), atol=1e-5)
    with torch.inference_mode():  # as a benchmark runs
        found = grad_cam(halves, images, partner if paired else None)
    for one in range(3):  # face by face, position by position
        a = network.forward_features(images[one:one + 1]).detach().requires_grad_()
        e = halves.head(a)[0]
        score = e @ partner[one] / (e.norm() * partner[one].norm()) if paired else (e * e).sum().sqrt()
        score.backward()
        naive = torch.zeros(a.shape[2:])
        for k in range(a.shape[1]):
            alpha = sum(a.grad[0, k, i, j] for i in range(a.shape[2]) for j in range(a.shape[3])) / naive.numel()
            naive += alpha * a.detach()[0, k]
        assert torch.allclose(found[one], naive.clamp_min(0), rtol=1e-3, atol=1e-6 + 1e-4 * float(naive.abs().max()))
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_timm_model_as_a_recogniser_is_cut_where_timm_cuts_it(tmp_path):
    safetensors.torch.save_file(timm.create_model("resnet10t", num_classes=0).state_dict(), tmp_path / "w.safetensors")
    network = TimmNetwork("resnet10t", tmp_path / "w.safetensors").eval()
    halves, images = halves_of(network), torch.rand(2, 3, 112, 112) * 2 - 1
    assert torch.allclose(halves.head(halves.features(images)), network(images), atol=1e-5)
    assert grad_cam(halves, images).shape[0] == 2 and not network.training


def test_maps_of_networks_with_channels_last_are_turned(tmp_path):
    network = timm.create_model("mambaout_femto", num_classes=0).eval()
    safetensors.torch.save_file(network.state_dict(), tmp_path / "w.safetensors")
    ours, images = TimmNetwork("mambaout_femto", tmp_path / "w.safetensors").eval(), torch.rand(1, 3, 288, 288)
    halves = halves_of(ours)
    maps, last = halves.features(images[..., :112, :112] * 2 - 1), network.forward_features(torch.zeros(1, 3, ours.side, ours.side))
    assert maps.shape == (1, network.num_features, *last.shape[1:3]) and last.shape[3] == network.num_features
    assert torch.allclose(halves.head(maps), ours(images[..., :112, :112] * 2 - 1), atol=1e-4)


def test_a_list_of_maps_is_no_map():
    network = make_backbone("timm/efficientvit_m0", embedding=8).eval()
    network.trunk.forward_features = lambda image: [torch.zeros(1, 3, 4, 4)]
    with pytest.raises(ValueError, match=r"ends in no map \(B, C, h, w\), but in list"):
        grad_cam(halves_of(network), torch.zeros(1, 3, 112, 112))


def test_heat_is_scaled_by_its_maximum_and_nothing_stays_nothing():
    heat = scaled_heat(torch.tensor([[[0.0, 2.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]), 8)
    assert heat.shape == (2, 8, 8) and heat[0].max() == 1 and heat[0].min() == 0 and (heat[1] == 0).all()


def test_what_has_no_map_is_said():
    assert halves_of(nn.Linear(3, 2)) is None and halves_of(lambda image: image) is None
    with pytest.raises(ValueError, match=r"needs a last feature map \(B, C, h, w\), got \(1, 5, 8\); use occlusion"):
        grad_cam(Halves(lambda image: torch.zeros(1, 5, 8), lambda tokens: tokens.mean(1)), torch.zeros(1, 3, 4, 4))
