"""Margins: functions of cosines and labels (ArcFace, Deng et al., CVPR 2019)."""
from __future__ import annotations

import math

import torch
from torch import Tensor


def arcface(cosine: Tensor, label: Tensor, margin: float = 0.5) -> Tensor:
    """Replace the true class's cos(theta) by cos(theta + margin); cosine (B, C) in [-1, 1], label (B,), margin in radians.

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
