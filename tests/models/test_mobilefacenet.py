"""MobileFaceNet against a reference written over the usual implementations' own keys, and against the paper's size."""
from __future__ import annotations

import re
import zlib

import pytest
import torch
import torch.nn.functional as F

from askd.errors import CheckpointError
from askd.models import make_backbone
from askd.models.imported import import_checkpoint
from askd.models.mobilefacenet import MobileFaceNet

# Convolutions by name: (inputs, outputs, kernel, groups), as each implementation's source lists its modules.
CONV, NORM, SLOPE = {"layers": "0", "named": "conv"}, {"layers": "1", "named": "bn"}, {"layers": "2", "named": "prelu"}


def architecture(style, blocks, scale, embedding):
    """(name, inputs, outputs, kernel, stride, groups, PReLU or not, what happens around it) in order, in one implementation's names."""
    a, b = 64 * scale, 128 * scale
    named = style != "arcface_torch"
    yield ("conv1" if named else "layers.0.layers"), 3, a, 3, 2, 1, True, None
    yield ("conv2_dw" if named else "layers.1.layers"), a, a, 3, 1, 64, True, None
    plan = [("conv_23", "conv_3", a, a, 128, 128), ("conv_34", "conv_4", a, b, 256, 256), ("conv_45", "conv_5", b, b, 512, 256)]
    for stage, (count, (first, rest, inputs, outputs, hidden, inner)) in enumerate(zip(blocks, plan)):
        places = [(first if named else f"layers.{2 * stage + 2}", inputs, hidden, 2)]
        repeated = f"{rest}.model" if named else f"layers.{2 * stage + 3}.layers"
        places += [(f"{repeated}.{index}", outputs, inner, 1) for index in range(count)]
        for place, width, middle, stride in places:
            parts = ("conv", "conv_dw", "project") if named else ("layers.0.layers", "layers.1.layers", "layers.2.layers")
            yield f"{place}.{parts[0]}", width, middle, 1, 1, 1, True, "remember" if stride == 1 else None
            yield f"{place}.{parts[1]}", middle, middle, 3, stride, middle, True, None
            yield f"{place}.{parts[2]}", middle, outputs, 1, 1, 1, False, "add" if stride == 1 else None
    yield ("conv_6_sep" if named else "conv_sep.layers"), b, 512, 1, 1, 1, True, None
    gdconv = {"insightface_pytorch": "conv_6_dw", "cavaface": "output_layer.conv_6_dw", "arcface_torch": "features.layers.0.layers"}
    yield gdconv[style], 512, 512, 7, 1, 512, False, "valid"


LAST = {
    "insightface_pytorch": ("linear", "bn"), "cavaface": ("output_layer.linear", "output_layer.bn"),
    "arcface_torch": ("features.layers.2", "features.layers.3"),
}


def from_name(key, shape):
    """Values that depend on the key alone: no two tensors alike, no scale that explodes or dies."""
    generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
    if len(shape) > 1:
        return torch.randn(shape, generator=generator) / shape[1:].numel() ** 0.5
    return torch.rand(shape, generator=generator) + (0.5 if key.endswith(("running_var", ".weight")) else -0.5)


def foreign_state(style, blocks=(4, 6, 2), scale=1, embedding=128):
    form, shapes = "layers" if style == "arcface_torch" else "named", {}

    def batch_norm(name, channels):
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{leaf}"] = (channels,)

    for name, inputs, outputs, kernel, _, groups, prelu, _ in architecture(style, blocks, scale, embedding):
        shapes[f"{name}.{CONV[form]}.weight"] = (outputs, inputs // groups, kernel, kernel)
        batch_norm(f"{name}.{NORM[form]}", outputs)
        if prelu:
            shapes[f"{name}.{SLOPE[form]}.weight"] = (outputs,)
    linear, norm = LAST[style]
    shapes[f"{linear}.weight"] = (embedding, 512)
    batch_norm(norm, embedding)
    return {key: from_name(key, torch.Size(shape)) for key, shape in shapes.items()}


def reference(state, style, image, **sizes):
    """The network as a list of functional calls over its own keys, float64."""
    form, x, remembered = "layers" if style == "arcface_torch" else "named", image, None
    state = {key: value.double() for key, value in state.items()}

    def norm(x, name):
        return F.batch_norm(x, *(state[f"{name}.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias")), eps=1e-5)

    for name, _, _, kernel, stride, groups, prelu, around in architecture(style, **sizes):
        remembered = x if around == "remember" else remembered
        x = F.conv2d(x, state[f"{name}.{CONV[form]}.weight"], None, stride, 0 if around == "valid" else kernel // 2, 1, groups)
        x = norm(x, f"{name}.{NORM[form]}")
        x = F.prelu(x, state[f"{name}.{SLOPE[form]}.weight"]) if prelu else x
        x = x + remembered if around == "add" else x
    linear, last = LAST[style]
    return norm(x.flatten(1) @ state[f"{linear}.weight"].T, last)


@pytest.mark.parametrize("style, sizes, name", [
    ("insightface_pytorch", dict(blocks=(4, 6, 2), scale=1, embedding=128), "mobilefacenet"),
    ("cavaface", dict(blocks=(1, 2, 1), scale=1, embedding=16), None),
    ("arcface_torch", dict(blocks=(4, 6, 2), scale=2, embedding=64), "mobilefacenet_x2"),
    ("arcface_torch", dict(blocks=(4, 6, 2), scale=1, embedding=32), "mobilefacenet"),
])
def test_the_usual_implementations_weights_give_their_embeddings(tmp_path, style, sizes, name):
    state = foreign_state(style, **sizes)
    torch.save({f"module.{key}": value for key, value in state.items()}, tmp_path / "foreign.pth")
    ours, info = import_checkpoint(tmp_path / "foreign.pth")
    image = torch.rand(1, 3, 112, 112, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        seen = image.flip(1) if style == "insightface_pytorch" else image  # which hands cv2's images, BGR, to its network
        torch.testing.assert_close(ours.double().eval()(image), reference(state, style, seen, **sizes), rtol=1e-8, atol=1e-8)
    assert info["backbone"] == name and "MobileFaceNet" in info["source"]
    assert info["trained_on"] == ("BGR" if style == "insightface_pytorch" else "RGB")
    if name is not None:
        with torch.device("meta"):
            rebuilt = make_backbone(name, **info["network"]).state_dict()
        assert {key: value.shape for key, value in rebuilt.items()} == {key: value.shape for key, value in ours.state_dict().items()}


def test_a_file_beside_the_weights_says_their_colour(tmp_path):
    """face.evoLVe has InsightFace_Pytorch's keys, and RGB."""
    state = foreign_state("insightface_pytorch", blocks=(1, 1, 1), embedding=8)
    torch.save(state, tmp_path / "foreign.pth")
    bgr = import_checkpoint(tmp_path / "foreign.pth")[0].state_dict()
    (tmp_path / "foreign.yaml").write_text("{mean: 127.5, std: 127.5, colour: RGB}")
    ours, info = import_checkpoint(tmp_path / "foreign.pth")
    assert info["trained_on"] == "RGB" and torch.equal(ours.state_dict()["stem.0.weight"], bgr["stem.0.weight"].flip(1))
    (tmp_path / "foreign.yaml").write_text("{mean: 123.675, std: 58.4, colour: RGB}")
    with pytest.raises(CheckpointError, match=r"foreign.yaml: a network of ours takes \(x - 127.5\) / 127.5"):
        import_checkpoint(tmp_path / "foreign.pth")


def test_a_last_norm_without_weight_and_bias_has_ones_and_zeros(tmp_path):
    """cavaface had BatchNorm1d(embedding, affine=False) there for a time."""
    state = foreign_state("cavaface", blocks=(1, 1, 1), embedding=8)
    full = {**state, "output_layer.bn.weight": torch.ones(8), "output_layer.bn.bias": torch.zeros(8)}
    plain = {key: value for key, value in state.items() if key not in ("output_layer.bn.weight", "output_layer.bn.bias")}
    torch.save(full, tmp_path / "full.pth")
    torch.save(plain, tmp_path / "plain.pth")
    expected, found = (import_checkpoint(tmp_path / f"{name}.pth")[0].state_dict() for name in ("full", "plain"))
    assert all(torch.equal(value, found[key]) for key, value in expected.items())


@pytest.mark.parametrize("style", LAST)
def test_what_does_not_fit_is_named(tmp_path, style):
    state = foreign_state(style, blocks=(1, 1, 1))
    key = next(key for key in state if re.search(r"(conv_4|layers\.5)", key))
    for spoilt, said in (
        ({k: v for k, v in state.items() if k != key}, f"lacks {key}"),
        (state | {key: state[key][:1]}, f"{key} is \\(1, "),
        (state | {"extra.weight": torch.zeros(1)}, "unknown extra.weight"),
        ({k: v for k, v in state.items() if k != f"{LAST[style][0]}.weight"}, f"{LAST[style][0]}.weight is missing"),
    ):
        torch.save(spoilt, tmp_path / "foreign.pth")
        with pytest.raises(CheckpointError, match=said) as caught:
            import_checkpoint(tmp_path / "foreign.pth")
        assert "\n" not in str(caught.value)


def test_a_width_that_no_scale_gives_is_refused(tmp_path):
    state = foreign_state("insightface_pytorch", blocks=(1, 1, 1))
    torch.save(state | {"conv1.conv.weight": torch.zeros(96, 3, 3, 3)}, tmp_path / "foreign.pth")
    with pytest.raises(CheckpointError, match=r"conv1.conv.weight is \(96, 3, 3, 3\), expected \(64, 3, 3, 3\)"):
        import_checkpoint(tmp_path / "foreign.pth")


def test_about_a_million_parameters():
    """The paper says 0.99 M for its 128-d embedding; by hand, from its table: 1x1 and kxk weights, two numbers per norm, one per slope."""
    def conv(inputs, outputs, kernel, groups=1, prelu=True):
        return inputs // groups * outputs * kernel**2 + outputs * (3 if prelu else 2)

    def bottleneck(inputs, outputs, hidden):
        return conv(inputs, hidden, 1) + conv(hidden, hidden, 3, hidden) + conv(hidden, outputs, 1, prelu=False)

    expected = conv(3, 64, 3) + conv(64, 64, 3, 64) + 5 * bottleneck(64, 64, 128) + bottleneck(64, 128, 256) + 6 * bottleneck(128, 128, 256)
    expected += bottleneck(128, 128, 512) + 2 * bottleneck(128, 128, 256) + conv(128, 512, 1) + conv(512, 512, 7, 512, prelu=False)
    expected += 512 * 128 + 2 * 128
    assert sum(p.numel() for p in MobileFaceNet(embedding=128).parameters()) == expected == 1_003_136
