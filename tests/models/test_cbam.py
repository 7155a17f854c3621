"""CBAM and SE against their papers' equations, transcribed entry by entry in NumPy float64, and against timm's modules."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from timm.layers import SEModule
from timm.layers.cbam import CbamModule
from torch import nn

from askd.models.attention import make_attention
from askd.models.cbam import CBAM
from askd.models.se import SE


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def channel_logits(x, down, up, pools):
    """MLP(avgpool F) + MLP(maxpool F), one sample (C, H, W) at a time; down (C/r, C), up (C, C/r)."""
    return sum(up @ np.maximum(down @ pool(x, axis=(1, 2)), 0) for pool in pools)


def spatial_logits(x, kernel, pools=(np.mean, np.max)):
    """Cross-correlation of [mean_c; max_c] with kernel (2, k, k), zero padding, one position at a time."""
    planes = np.stack([pool(x, axis=0) for pool in pools])
    k, (height, width) = kernel.shape[-1], x.shape[1:]
    out = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            for u in range(k):
                for v in range(k):
                    row, column = i + u - k // 2, j + v - k // 2
                    if 0 <= row < height and 0 <= column < width:
                        out[i, j] += planes[:, row, column] @ kernel[:, u, v]
    return out


def mlp_of(module):
    return [module.channel.mlp[layer].weight.detach().numpy()[..., 0, 0] for layer in (0, 2)]


@pytest.fixture
def x():
    return torch.randn(3, 32, 5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("kernel", [3, 7])
@pytest.mark.parametrize("reduction", [16, 4])
def test_cbam_is_channel_then_spatial_on_what_the_channel_left(x, kernel, reduction):
    torch.manual_seed(0)
    module = CBAM(32, reduction, kernel).double()
    out, maps = module(x)
    assert maps.channel.shape == (3, 32, 1, 1) and maps.spatial.shape == (3, 1, 5, 4)
    down, up = mlp_of(module)
    assert down.shape == (32 // reduction, 32)
    for sample, image in enumerate(x.numpy()):
        channel = channel_logits(image, down, up, (np.mean, np.max))
        attended = image * sigmoid(channel)[:, None, None]
        spatial = spatial_logits(attended, module.spatial.conv.weight.detach().numpy()[0])
        np.testing.assert_allclose(maps.channel[sample, :, 0, 0].detach(), channel, atol=1e-12)
        np.testing.assert_allclose(maps.spatial[sample, 0].detach(), spatial, atol=1e-12)
        np.testing.assert_allclose(out[sample].detach(), attended * sigmoid(spatial), atol=1e-12)


def test_se_looks_at_the_average_alone(x):
    torch.manual_seed(0)
    module = SE(32).double()
    out, maps = module(x)
    assert maps.spatial is None
    for sample, image in enumerate(x.numpy()):
        channel = channel_logits(image, *mlp_of(module), (np.mean,))
        np.testing.assert_allclose(maps.channel[sample, :, 0, 0].detach(), channel, atol=1e-12)
        np.testing.assert_allclose(out[sample].detach(), image * sigmoid(channel)[:, None, None], atol=1e-12)


POOLS = {"both": (np.mean, np.max), "average": (np.mean,), "max": (np.max,)}


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("order, parts", [
    ("channel_first", "both"), ("spatial_first", "both"), ("parallel", "both"), ("channel_first", "channel"), ("channel_first", "spatial"),
])
def test_arrangements_and_parts(x, order, parts, pool):
    torch.manual_seed(0)
    module = CBAM(32, 4, 3, order, parts, pool).double()
    out, maps = module(x)
    names = {"both": ("channel", "spatial"), "channel": ("channel",), "spatial": ("spatial",)}[parts]
    for sample, image in enumerate(x.numpy()):
        gates = {
            "channel": lambda f: channel_logits(f, *mlp_of(module), POOLS[pool])[:, None, None],
            "spatial": lambda f: spatial_logits(f, module.spatial.conv.weight.detach().numpy()[0], POOLS[pool])[None],
        }
        expected, computed = image, {}
        for name in reversed(names) if order == "spatial_first" else names:
            computed[name] = gates[name](image if order == "parallel" else expected)
            expected = expected * sigmoid(computed[name])
        np.testing.assert_allclose(out[sample].detach(), expected, atol=1e-12)
        for name in ("channel", "spatial"):
            if name in names:
                np.testing.assert_allclose(getattr(maps, name)[sample].detach(), computed[name], atol=1e-12)
            else:
                assert getattr(maps, name) is None


def test_timms_cbam_with_our_weights(x):
    """timm's has a batch norm after the spatial convolution, which ours has not."""
    torch.manual_seed(0)
    ours, theirs = CBAM(32, 16, 7).double(), CbamModule(32, rd_ratio=1 / 16).double()
    theirs.spatial.conv.bn = nn.Identity()
    with torch.no_grad():
        theirs.channel.fc1.weight.copy_(ours.channel.mlp[0].weight)
        theirs.channel.fc2.weight.copy_(ours.channel.mlp[2].weight)
        theirs.spatial.conv.conv.weight.copy_(ours.spatial.conv.weight)
        torch.testing.assert_close(ours(x)[0], theirs(x))


def test_timms_se_with_our_weights(x):
    torch.manual_seed(0)
    ours, theirs = SE(32, 8).double(), SEModule(32, rd_channels=4, bias=False).double()
    with torch.no_grad():
        theirs.fc1.weight.copy_(ours.channel.mlp[0].weight)
        theirs.fc2.weight.copy_(ours.channel.mlp[2].weight)
        torch.testing.assert_close(ours(x)[0], theirs(x))


def test_no_module_of_attention_has_a_bias_or_a_batch_norm():
    names = {name for name, _ in make_attention("cbam", 64, 16, 3).named_parameters()}
    assert names == {"channel.mlp.0.weight", "channel.mlp.2.weight", "spatial.conv.weight"}
