"""Margins: functions of cosines and labels that replace the true class's cosine by a smaller one (ArcFace, CosFace, AdaFace, combined)."""
from __future__ import annotations

import math

import torch
from torch import Tensor

ADAFACE_EPS = 1e-3  # the paper's, for cosines, angles and the norms' deviation alike


def arcface(cosine: Tensor, label: Tensor, margin: float = 0.5) -> Tensor:
    """Replace the true class's cos(theta) by cos(theta + margin); cosine (B, C) in [-1, 1], label (B,), margin in radians.

    Deng et al., CVPR 2019.
    Where theta + margin would pass pi, cos(theta) - margin * sin(pi - margin) keeps the target falling (ArcFace's own fallback).
    The gradient is the true one, through cos(theta + m) = cos theta cos m - sin theta sin m, and finite everywhere: sin theta is
    clamped away from 0, where its derivative is infinite.
    """
    true = cosine.gather(1, label[:, None])
    sine = (1 - true.square()).clamp_min(1e-12).sqrt()
    moved = true * math.cos(margin) - sine * math.sin(margin)
    beyond_pi = true < math.cos(math.pi - margin)
    target = torch.where(beyond_pi, true - margin * math.sin(math.pi - margin), moved)
    return cosine.scatter(1, label[:, None], target)


def cosface(cosine: Tensor, label: Tensor, margin: float = 0.35) -> Tensor:
    """Replace the true class's cos(theta) by cos(theta) - margin (Wang et al., CVPR 2018); the margin is a cosine, not an angle."""
    return cosine.scatter_add(1, label[:, None], torch.full_like(label[:, None], -margin, dtype=cosine.dtype))


def combined(cosine: Tensor, label: Tensor, m1: float = 1.0, m2: float = 0.5, m3: float = 0.0) -> Tensor:
    """Replace the true class's cos(theta) by cos(m1 * theta + m2) - m3 (arcface_torch's combined margin); m2 in radians, m1 >= 1.

    (m1, 0, 0) is SphereFace's margin, (1, m2, 0) ArcFace's, (1, 0, m3) CosFace's. Where m1 * theta + m2 would pass pi, at theta', the
    target goes on falling as cos(theta) does: -1 + cos(theta) - cos(theta') - m3, without a step.
    """
    true = cosine.gather(1, label[:, None])
    theta = true.clamp(-1 + 1e-7, 1 - 1e-7).acos()
    turn = math.cos((math.pi - m2) / m1)
    target = torch.where(true < turn, true - turn - 1, (m1 * theta + m2).cos()) - m3
    return cosine.scatter(1, label[:, None], target)


def adaface(cosine: Tensor, label: Tensor, norm: Tensor, mean: Tensor, std: Tensor, margin: float = 0.4, h: float = 0.333) -> Tensor:
    """AdaFace's margin (Kim et al., CVPR 2022): by the quality of each image, for which its feature norm stands.

    norm (B,): length of each embedding, taken between 0.001 and 100 and without gradient; mean, std: its running mean and deviation.
    z = clip((norm - mean) / (std + eps) * h, -1, 1); the true class's cos(theta) becomes cos(theta - m z) - (m + m z), the angle kept
    within [eps, pi - eps]: hard images count with a good image (z = 1), easy ones with a bad one (z = -1).
    """
    z = ((norm.detach().clamp(1e-3, 100) - mean) / (std + ADAFACE_EPS) * h).clamp(-1, 1)[:, None]
    true = cosine.gather(1, label[:, None]).clamp(-1 + ADAFACE_EPS, 1 - ADAFACE_EPS)
    theta = (true.acos() - margin * z).clamp(ADAFACE_EPS, math.pi - ADAFACE_EPS)
    return cosine.scatter(1, label[:, None], theta.cos() - (margin + margin * z))
