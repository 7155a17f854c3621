"""Where any network looks: its own attention maps where it has them, else Grad-CAM, else occlusion; and which of these it was."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from askd.evaluation.gradcam import Halves, grad_cam, scaled_heat
from askd.evaluation.occlusion import PATCH, occlusion
from askd.evaluation.overlay import gaze

MAPS = "attention maps, mean over blocks"
GRAD_CAM = "Grad-CAM of {}"
OCCLUSION = f"occlusion by grey squares of {PATCH} px: fall of {{}}"


def attribute(network: Callable, images: Tensor, partner: Tensor | None = None, halves: Halves | None = None) -> tuple[np.ndarray, str]:
    """Heat (B, 112, 112) float32 in [0, 1], relative within each face, and in words what it shows.

    network: (B, 3, 112, 112) in [-1, 1] -> Features. partner: (B, E) embeddings of the faces to compare with, or None: each face alone.
    halves: see `gradcam.halves_of`; None, or tokens instead of a map, leaves occlusion. Attention maps belong to a face, whatever its partner.
    """
    with torch.inference_mode():
        features = network(images)
    heat = gaze(features.attention)
    if heat is not None:
        return heat.cpu().numpy(), MAPS
    if halves is not None:
        try:
            maps = grad_cam(halves, images, partner)
        except ValueError:
            pass
        else:
            return scaled_heat(maps).cpu().numpy(), GRAD_CAM.format("the embedding's norm" if partner is None else "the pair's cosine")
    fall = occlusion(lambda seen: network(seen).embedding, images, partner).clamp_min(0)
    words = "the cosine with the whole face" if partner is None else "the pair's cosine"
    return scaled_heat(fall, fall.shape[-1]).cpu().numpy(), OCCLUSION.format(words)
