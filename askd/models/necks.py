"""Necks that make an embedding of the last feature map."""
from __future__ import annotations

from torch import nn

EPS = 1e-5


def gdconv_neck(channels: int, side: int, embedding: int, dropout: float) -> nn.Sequential:
    """Global depthwise convolution (Chen et al. 2018) of (B, C, side, side), then a linear layer: -> (B, E).

    Each channel has a weight of its own for every position, so that the middle of a face can count for more than its corners,
    at C * side^2 weights where a linear layer over all positions takes E times as many.
    """
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(channels, channels, side, groups=channels, bias=False), nn.BatchNorm2d(channels, eps=EPS)),
        nn.Dropout(dropout),
        nn.Flatten(),
        nn.Linear(channels, embedding, bias=False),
        embedding_norm(embedding),
    )


def embedding_norm(embedding: int) -> nn.BatchNorm1d:
    """The batch norm of an embedding, its weight fixed at 1, as in ArcFace: the margin head normalises anyway."""
    norm = nn.BatchNorm1d(embedding, eps=EPS)
    nn.init.ones_(norm.weight)
    norm.weight.requires_grad_(False)
    return norm
