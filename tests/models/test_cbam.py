"""CBAM and SE against their papers' equations, transcribed entry by entry in NumPy float64."""
from __future__ import annotations

import numpy as np
import pytest
import torch

from askd.models.cbam import CBAM, SE, make_attention


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def channel_logits(x, down, up, pools):
    """MLP(avgpool F) + MLP(maxpool F), one sample (C, H, W) at a time; down (C/r, C), up (C, C/r)."""
    return sum(up @ np.maximum(down @ pool(x, axis=(1, 2)), 0) for pool in pools)


def spatial_logits(x, kernel):
    """Cross-correlation of [mean_c; max_c] with kernel (2, k, k), zero padding, one position at a time."""
    planes = np.stack([x.mean(0), x.max(0)])
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


def test_no_module_of_attention_has_a_bias_or_a_batch_norm():
    names = {name for name, _ in make_attention("cbam", 64, 16, 3).named_parameters()}
    assert names == {"channel.mlp.0.weight", "channel.mlp.2.weight", "spatial.conv.weight"}


def test_fewer_channels_than_the_reduction_leave_one_hidden_unit():
    assert SE(8, 16).channel.mlp[0].weight.shape == (1, 8, 1, 1)


def test_none_is_the_identity_without_maps(x):
    out, maps = make_attention("none", 32)(x)
    assert out is x and maps is None


def test_unknown_names_and_kernels_list_the_choices():
    with pytest.raises(ValueError, match="'bam'; choose from none, se, cbam"):
        make_attention("bam", 32)
    with pytest.raises(ValueError, match="3 .* or 7 .* got 5"):
        make_attention("cbam", 32, kernel=5)
