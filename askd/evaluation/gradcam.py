"""Where a network without attention maps looks: Grad-CAM (Selvaraju et al., ICCV 2017) of an embedding in place of a class score.

The score that is explained is one of two. Of a pair: the cosine of the face's embedding and its partner's, the partner held fixed;
the map shows what makes these two alike. Of a face alone: the norm of its embedding, that is, its component along its own direction
(the cosine with itself has no gradient). Both are of the plain image, not of its sum with the mirrored one that verification scores.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Halves(NamedTuple):
    """A network in two parts: features (B, 3, H, W) -> the last feature map (B, C, h, w), head: that -> embedding (B, E)."""

    features: Callable[[Tensor], Tensor]
    head: Callable[[Tensor], Tensor]


def halves_of(network: object) -> Halves | None:
    """The two parts of a network of ours (`forward_features`, then `neck`) or timm's (`forward_features`, then `forward_head`).

    None for one without such parts: an ensemble, an ONNX file, any other callable.
    """
    features = getattr(network, "forward_features", None)
    head = getattr(network, "forward_head", None) or getattr(network, "neck", None)
    return Halves(features, head) if callable(features) and callable(head) else None


def grad_cam(network: Halves, images: Tensor, partner: Tensor | None = None) -> Tensor:
    """ReLU(sum_k a_k A_k), a_k the mean over all positions of d score / d A_k (equations 1 and 2): (B, h, w) float32, not scaled.

    images: (B, 3, 112, 112) as the network takes them; partner: (B, E) embeddings to compare with (the score is then the cosine),
    or None (the norm of the embedding). A network in eval mode; its parameters get no gradient.
    Raises ValueError for a last feature that is no map (B, C, h, w), as a transformer's tokens are none.
    """
    with torch.inference_mode(False), torch.autocast(images.device.type, enabled=False):
        with torch.no_grad():
            maps = network.features(images.float().clone()).float()
        if maps.ndim != 4 or min(maps.shape[2:]) < 2:
            raise ValueError(f"Grad-CAM needs a last feature map (B, C, h, w), got {tuple(maps.shape)}; use occlusion for this network")
        with torch.enable_grad():
            maps = maps.detach().clone().requires_grad_()
            embedding = network.head(maps).float()
            score = embedding.norm(dim=1) if partner is None else F.cosine_similarity(embedding, partner.detach().float(), dim=1)
            slope, = torch.autograd.grad(score.sum(), maps)  # faces of a batch do not meet in eval mode
        return (slope.mean((2, 3), keepdim=True) * maps.detach()).sum(1).relu()


def scaled_heat(maps: Tensor, side: int = 112) -> Tensor:
    """Maps (B, h, w) of what is there or not, >= 0, enlarged to (B, side, side) and divided by each face's maximum; zero stays zero."""
    heat = F.interpolate(maps[:, None], (side, side), mode="bilinear", align_corners=False)[:, 0]
    return heat / heat.amax((1, 2), keepdim=True).clamp_min(1e-12)
