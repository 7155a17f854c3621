"""Heat maps: where the spatial attention is, and nothing where there is none."""
from __future__ import annotations

import numpy as np
import torch

from askd.evaluation.overlay import attention_figure, gaze, overlay
from askd.models import make_backbone
from askd.models.features import AttentionMaps


def test_gaze_peaks_where_the_maps_do_and_is_stretched_per_face():
    logits = torch.full((2, 1, 7, 7), -3.0)
    logits[0, 0, 1, 5] = 3.0
    logits[1, 0, 6, 0] = 0.0  # a weaker peak is stretched to 1 all the same
    heat = gaze([AttentionMaps(None, logits), AttentionMaps(None, logits)])
    assert heat.shape == (2, 112, 112)
    assert np.allclose(heat.amin((1, 2)), 0) and np.allclose(heat.amax((1, 2)), 1)
    row, column = divmod(int(heat[0].argmax()), 112)
    assert row // 16 == 1 and column // 16 == 5
    row, column = divmod(int(heat[1].argmax()), 112)
    assert row // 16 == 6 and column // 16 == 0


def test_gaze_skips_blocks_without_spatial_attention():
    assert gaze([AttentionMaps(torch.zeros(1, 8, 1, 1), None)]) is None
    assert gaze([]) is None


def test_overlay_is_the_mean_of_face_and_colour():
    face, heat = np.full((4, 4, 3), 100, np.uint8), np.zeros((4, 4), np.float32)
    cold, hot = overlay(face, heat), overlay(face, heat + 1)
    assert cold.shape == face.shape and cold.dtype == np.uint8
    assert np.abs(cold.astype(int) - (100 + np.array([68, 1, 84])) // 2).max() <= 1  # viridis runs from #440154
    assert np.abs(hot.astype(int) - (100 + np.array([253, 231, 37])) // 2).max() <= 1  # to #fde725


def test_attention_figure_has_a_row_per_network_and_is_absent_without_attention():
    images = torch.randint(0, 256, (3, 3, 112, 112), dtype=torch.uint8)
    device = torch.device("cpu")
    looking = make_backbone("iresnet10", attention="cbam").eval().forward_all
    blind = make_backbone("iresnet10", attention="none").eval().forward_all
    figure = attention_figure({"student": (looking, 14), "teacher": (looking, 112)}, images, "bicubic", device)
    assert figure.shape == (2 * 112, 3 * 112, 3) and figure.dtype == np.uint8
    assert attention_figure({"student": (blind, 14)}, images, "bicubic", device) is None
