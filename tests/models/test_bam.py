"""BAM against its definition, transcribed position by position in NumPy float64."""
from __future__ import annotations

import numpy as np
import torch
from torch import nn

from askd.models.bam import BAM

EPS = 1e-5


def normalised(x, norm):
    """Batch norm with stored statistics over (C, H, W)."""
    mean, var, weight, bias = (t.detach().numpy()[:, None, None] for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias))
    return (x - mean) / np.sqrt(var + EPS) * weight + bias


def convolved(x, conv, dilation=1):
    """Cross-correlation with zero padding that keeps the size, one position at a time: (I, H, W) -> (O, H, W)."""
    kernel, bias = conv.weight.detach().numpy(), conv.bias.detach().numpy()
    k, (height, width) = kernel.shape[-1], x.shape[1:]
    out = np.tile(bias[:, None, None], (1, height, width)).astype(float)
    for i in range(height):
        for j in range(width):
            for u in range(k):
                for v in range(k):
                    row, column = i + dilation * (u - k // 2), j + dilation * (v - k // 2)
                    if 0 <= row < height and 0 <= column < width:
                        out[:, i, j] += kernel[:, :, u, v] @ x[:, row, column]
    return out


def with_statistics(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(3)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor, low in ((norm.running_mean, -0.5), (norm.running_var, 0.5), (norm.weight, 0.5), (norm.bias, -0.5)):
                tensor.data.copy_(torch.rand(len(tensor), generator=generator) + low)
    return module.eval()


def test_bam_is_its_two_branches_added_before_one_sigmoid():
    torch.manual_seed(0)
    module = with_statistics(BAM(16, 4).double())
    x = torch.randn(2, 16, 11, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    out, maps = module(x)
    assert maps.channel.shape == (2, 16, 1, 1) and maps.spatial.shape == (2, 1, 11, 9)
    _, down, channel_norm, _, up = module.channel
    reduce_, n1, _, first, n2, _, second, n3, _, last = module.spatial
    for sample, image in enumerate(x.numpy()):
        pooled = image.mean((1, 2))[:, None, None]
        channel = convolved(np.maximum(normalised(convolved(pooled, down), channel_norm), 0), up)
        hidden = np.maximum(normalised(convolved(image, reduce_), n1), 0)
        hidden = np.maximum(normalised(convolved(hidden, first, 4), n2), 0)
        hidden = np.maximum(normalised(convolved(hidden, second, 4), n3), 0)
        spatial = convolved(hidden, last)
        np.testing.assert_allclose(maps.channel[sample].detach(), channel, atol=1e-12)
        np.testing.assert_allclose(maps.spatial[sample].detach(), spatial, atol=1e-12)
        expected = image + image / (1 + np.exp(-(channel + spatial)))
        np.testing.assert_allclose(out[sample].detach(), expected, atol=1e-12)


def test_the_spatial_branch_sees_seventeen_positions():
    module = BAM(8, 2).eval()
    for layer in module.spatial:
        if isinstance(layer, nn.Conv2d):
            nn.init.ones_(layer.weight)
    x = torch.zeros(1, 8, 41, 41)
    empty = module(x)[1].spatial
    x[..., 20, 20] = 1
    reached = (module(x)[1].spatial - empty)[0, 0].abs().sum(0).nonzero().flatten()
    assert (reached.min(), reached.max()) == (12, 28)


def test_parameters_are_the_papers():
    """C/r (C + 1) + C (C/r + 1) for the channels, and 1x1, two 3x3 and 1x1 for the positions, with biases; two numbers per norm channel."""
    channels, reduction = 64, 16
    h = channels // reduction
    expected = (channels * h + h) + (h * channels + channels) + 2 * h
    expected += (channels * h + h) + 2 * (9 * h * h + h) + (h + 1) + 3 * 2 * h
    assert sum(p.numel() for p in BAM(channels, reduction).parameters()) == expected
