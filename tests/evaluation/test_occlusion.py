"""Occlusion equals squares hidden by hand, and finds the only place that a network looks at."""
from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from askd.evaluation.attribution import GRAD_CAM, MAPS, attribute
from askd.evaluation.gradcam import halves_of
from askd.evaluation.occlusion import occlusion
from askd.models import make_backbone
from askd.models.features import Features


def naive(embed, image, partner, patch, stride):
    side = image.shape[-1]
    before = F.cosine_similarity(embed(image[None]), partner[None])
    falls = [[[] for _ in range(side)] for _ in range(side)]
    places = list(range(0, side - patch + 1, stride))
    if places[-1] != side - patch:
        places.append(side - patch)
    for top in places:
        for left in places:
            hidden = image.clone()
            hidden[:, top:top + patch, left:left + patch] = 0
            fall = float(before - F.cosine_similarity(embed(hidden[None]), partner[None]))
            for row in range(top, top + patch):
                for column in range(left, left + patch):
                    falls[row][column].append(fall)
    return np.array([[np.mean(cell) for cell in row] for row in falls])


@pytest.mark.parametrize("patch, stride, batch", [(2, 2, 64), (3, 2, 5), (4, 3, 1), (8, 8, 64)])
def test_equals_squares_hidden_by_hand(patch, stride, batch):
    torch.manual_seed(0)
    weights, images, partner = torch.randn(3 * 8 * 8, 5), torch.rand(2, 3, 8, 8) + 0.5, torch.randn(2, 5)
    found = occlusion(lambda seen: seen.flatten(1) @ weights, images, partner, patch, stride, batch)
    for one in range(2):
        assert np.allclose(found[one], naive(lambda seen: seen.flatten(1) @ weights, images[one], partner[one], patch, stride), atol=1e-5)


def test_the_only_place_looked_at_is_found():
    """e = (red at row 5, column 2; 1): with that pixel hidden e turns by 45 degrees; hidden elsewhere nothing happens."""
    embed = lambda seen: torch.stack([seen[:, 0, 5, 2], torch.ones(len(seen))], 1)  # noqa: E731
    fall = occlusion(embed, torch.ones(1, 3, 8, 8), patch=2, stride=2)[0]
    expected = torch.zeros(8, 8)
    expected[4:6, 2:4] = 1 - 2**-0.5
    assert torch.allclose(fall, expected, atol=1e-6)


def test_gaps_are_refused():
    with pytest.raises(ValueError, match="got stride 3, patch 2, 8x8"):
        occlusion(lambda seen: seen.flatten(1), torch.zeros(1, 3, 8, 8), patch=2, stride=3)
    with pytest.raises(ValueError, match="got stride 9, patch 9, 8x8"):
        occlusion(lambda seen: seen.flatten(1), torch.zeros(1, 3, 8, 8), patch=9, stride=9)


def test_every_network_is_shown_by_the_best_it_gives():
    torch.manual_seed(0)
    images = torch.rand(2, 3, 112, 112) * 2 - 1
    looking = make_backbone("iresnet10", attention="cbam", embedding=8).eval()
    blind = make_backbone("iresnet10", attention="none", embedding=8).eval()
    other = torch.randn(2, 8)
    closed = lambda seen: Features(seen[:, :, 40:70, 40:70].flatten(1), (), ())  # noqa: E731, as an ONNX file: an embedding and no more
    tokens = lambda image: image.flatten(2)  # noqa: E731
    shown = {
        MAPS: attribute(looking.forward_all, images, other, halves_of(looking)),
        GRAD_CAM.format("the pair's cosine"): attribute(blind.forward_all, images, other, halves_of(blind)),
        GRAD_CAM.format("the embedding's norm"): attribute(blind.forward_all, images, None, halves_of(blind)),
        "occlusion by grey squares of 28 px: fall of the cosine with the whole face": attribute(closed, images),
        "occlusion by grey squares of 28 px: fall of the pair's cosine": attribute(
            closed, images, closed(images.flip(0)).embedding, type(halves_of(blind))(tokens, lambda token: token.mean(1))),
    }
    for how, (heat, said) in shown.items():
        assert said == how
        assert heat.shape == (2, 112, 112) and heat.dtype == np.float32 and heat.min() >= 0 and heat.max() <= 1
    heat, _ = attribute(closed, images)
    assert (heat[:, :14] == 0).all() and (heat[:, 98:] == 0).all()  # no square that covers these rows reaches row 40, or starts above 70
    assert np.allclose(heat[:, 40:70, 40:70].max((1, 2)), 1)
