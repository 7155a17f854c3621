"""The choice of attention module: every name makes one, and what does not belong together is refused."""
from __future__ import annotations

import pytest
import torch

from askd.models.attention import ATTENTIONS, DEFAULTS, make_attention
from askd.models.se import SE


@pytest.fixture
def x():
    return torch.randn(2, 32, 5, 4, generator=torch.Generator().manual_seed(1))


def test_fewer_channels_than_the_reduction_leave_one_hidden_unit():
    assert SE(8, 16).channel.mlp[0].weight.shape == (1, 8, 1, 1)
    assert make_attention("bam", 8).spatial[0].weight.shape == (1, 8, 1, 1)


def test_none_is_the_identity_without_maps(x):
    out, maps = make_attention("none", 32)(x)
    assert out is x and maps is None


@pytest.mark.parametrize("name, channel, spatial", [("se", True, False), ("bam", True, True), ("cbam", True, True)])
def test_every_module_says_what_it_looked_at(x, name, channel, spatial):
    out, maps = make_attention(name, 32)(x)
    assert out.shape == x.shape and not torch.equal(out, x)
    assert (maps.channel is not None, maps.spatial is not None) == (channel, spatial)


def test_the_defaults_written_down_are_the_function_s_own():
    defaults = dict(zip(make_attention.__code__.co_varnames[2:7], make_attention.__defaults__))
    assert defaults == {key: value for key, value in DEFAULTS.items() if key != "attention"}
    assert DEFAULTS["attention"] in ATTENTIONS


@pytest.mark.parametrize("options, said", [
    (dict(name="bem"), "'bem'; choose from none, se, bam, cbam"),
    (dict(name="cbam", spatial_kernel=5), "3 .* or 7 .* got 5"),
    (dict(name="cbam", cbam_order="last"), "unknown cbam_order 'last'; choose from channel_first, spatial_first, parallel"),
    (dict(name="cbam", cbam_pool="median"), "unknown cbam_pool 'median'; choose from both, average, max"),
    (dict(name="se", cbam_pool="max"), "cbam_pool=max is CBAM's, and the attention is se"),
    (dict(name="none", cbam_parts="spatial"), "cbam_parts=spatial is CBAM's, and the attention is none"),
    (dict(name="cbam", cbam_parts="spatial", cbam_order="parallel"), "orders two parts"),
])
def test_what_cannot_be_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        make_attention(channels=32, **options)
