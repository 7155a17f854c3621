"""Foreign checkpoints against reference networks written from their description, functional code over *their* keys."""
from __future__ import annotations

import os
import zlib

import pytest
import torch
import torch.nn.functional as F

from askd.errors import CheckpointError
from askd.models import make_backbone
from askd.models.imported import import_centres, import_checkpoint
from askd.models.iresnet import IResNet

SMALL = dict(blocks=(2, 1, 3, 1), widths=(16, 32, 32, 48), embedding=24)
TINY = dict(blocks=(1, 1, 1, 1), widths=(16, 16, 16, 16), embedding=4)
WIDTHS_18 = dict(blocks=(2, 2, 2, 2), widths=(64, 128, 256, 512), embedding=512)

ASKD_BLOCK = dict(
    bn1="res_layer.0", conv1="res_layer.1", bn2="res_layer.2", prelu="res_layer.3", conv2="res_layer.4",
    bn3="res_layer.5", down_conv="shortcut_layer.0", down_bn="shortcut_layer.1",
)
ARCFACE_BLOCK = dict(
    bn1="bn1", conv1="conv1", bn2="bn2", prelu="prelu", conv2="conv2", bn3="bn3",
    down_conv="downsample.0", down_bn="downsample.1",
)
ASKD_ENDS = dict(
    conv="input_layer.0", bn="input_layer.1", prelu="input_layer.2", last="output_layer.0",
    fc="output_layer.3", embed="output_layer.4",
)
ARCFACE_ENDS = dict(conv="conv1", bn="bn1", prelu="prelu", last="bn2", fc="fc", embed="features")
ASKD, ARCFACE = (ASKD_ENDS, ASKD_BLOCK), (ARCFACE_ENDS, ARCFACE_BLOCK)


def from_name(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Values that depend on the key alone: no two tensors alike, no scale that explodes or dies."""
    generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
    if key.endswith("num_batches_tracked"):
        return torch.tensor(zlib.crc32(key.encode()) % 10_000)
    if len(shape) > 1:
        return torch.randn(shape, generator=generator) / shape[1:].numel() ** 0.5
    return torch.rand(shape, generator=generator) + (0.5 if key.endswith(("running_var", ".weight")) else -0.5)


def foreign_state(names, blocks, widths, embedding, cbam=False, kernel=3, reduction=16) -> dict[str, torch.Tensor]:
    ends, part = names
    shapes = {}

    def batch_norm(name, channels):
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{leaf}"] = (channels,)
        shapes[f"{name}.num_batches_tracked"] = ()

    shapes[ends["conv"] + ".weight"] = (widths[0], 3, 3, 3)
    batch_norm(ends["bn"], widths[0])
    shapes[ends["prelu"] + ".weight"] = (widths[0],)
    inputs = widths[0]
    for stage, (count, width) in enumerate(zip(blocks, widths), 1):
        for index in range(count):
            block = f"layer{stage}.{index}."
            batch_norm(block + part["bn1"], inputs)
            shapes[block + part["conv1"] + ".weight"] = (width, inputs, 3, 3)
            batch_norm(block + part["bn2"], width)
            shapes[block + part["prelu"] + ".weight"] = (width,)
            shapes[block + part["conv2"] + ".weight"] = (width, width, 3, 3)
            batch_norm(block + part["bn3"], width)
            if cbam:
                shapes[block + "channel_layer.shared_mlp.0.weight"] = (width // reduction, width, 1, 1)
                shapes[block + "channel_layer.shared_mlp.2.weight"] = (width, width // reduction, 1, 1)
                shapes[block + "spatial_layer.conv.weight"] = (1, 2, kernel, kernel)
            if index == 0:
                shapes[block + part["down_conv"] + ".weight"] = (width, inputs, 1, 1)
                batch_norm(block + part["down_bn"], width)
            inputs = width
    batch_norm(ends["last"], inputs)
    shapes[ends["fc"] + ".weight"] = (embedding, inputs * 49)
    shapes[ends["fc"] + ".bias"] = (embedding,)
    batch_norm(ends["embed"], embedding)
    return {key: from_name(key, torch.Size(shape)) for key, shape in shapes.items()}


def reference(state, names, x, cbam=False):
    """The foreign network in eval mode: embedding, and every block's channel and spatial maps before the sigmoid."""
    ends, part = names
    dtype = x.dtype
    w = {key: value.to(dtype) for key, value in state.items()}

    def bn(name, x):
        mean, var = w[name + ".running_mean"], w[name + ".running_var"]
        return F.batch_norm(x, mean, var, w[name + ".weight"], w[name + ".bias"], training=False, eps=1e-5)

    def mlp(block, pooled):
        hidden = F.conv2d(pooled, w[block + "channel_layer.shared_mlp.0.weight"]).relu()
        return F.conv2d(hidden, w[block + "channel_layer.shared_mlp.2.weight"])

    x = F.conv2d(x, w[ends["conv"] + ".weight"], padding=1)
    x = F.prelu(bn(ends["bn"], x), w[ends["prelu"] + ".weight"])
    maps = []
    for stage in (1, 2, 3, 4):
        index = 0
        while (block := f"layer{stage}.{index}.") + part["conv1"] + ".weight" in w:
            stride = 2 if index == 0 else 1
            y = F.conv2d(bn(block + part["bn1"], x), w[block + part["conv1"] + ".weight"], padding=1)
            y = F.prelu(bn(block + part["bn2"], y), w[block + part["prelu"] + ".weight"])
            y = bn(block + part["bn3"], F.conv2d(y, w[block + part["conv2"] + ".weight"], stride=stride, padding=1))
            if cbam:
                channel = mlp(block, F.adaptive_avg_pool2d(y, 1)) + mlp(block, F.adaptive_max_pool2d(y, 1))
                y = y * torch.sigmoid(channel)
                kernel = w[block + "spatial_layer.conv.weight"]
                pooled = torch.stack([y.mean(1), y.max(1).values], 1)
                spatial = F.conv2d(pooled, kernel, padding=kernel.shape[-1] // 2)
                y = y * torch.sigmoid(spatial)
                maps.append((channel, spatial))
            if index == 0:
                x = bn(block + part["down_bn"], F.conv2d(x, w[block + part["down_conv"] + ".weight"], stride=2))
            x, index = x + y, index + 1
    x = bn(ends["last"], x).reshape(x.shape[0], -1)
    return bn(ends["embed"], F.linear(x, w[ends["fc"] + ".weight"], w[ends["fc"] + ".bias"])), maps


def images(count=2, dtype=torch.float64):
    return torch.rand(count, 3, 112, 112, generator=torch.Generator().manual_seed(0), dtype=dtype) * 2 - 1


def store(tmp_path, content, name="foreign.ckpt"):
    torch.save(content, tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize("reduction, kernel", [(16, 3), (8, 7)])
def test_released_askd_on_bgr_equals_ours_on_rgb(tmp_path, reduction, kernel):
    state = foreign_state(ASKD, **SMALL, cbam=True, kernel=kernel, reduction=reduction)
    ours, info = import_checkpoint(store(tmp_path, {"iters": 47000, "net_state_dict": state}))
    rgb = images()
    expected, maps = reference(state, ASKD, rgb.flip(1), cbam=True)
    features = ours.double().eval().forward_all(rgb)
    torch.testing.assert_close(features.embedding, expected, rtol=1e-9, atol=1e-9)
    assert len(features.attention) == len(maps) == sum(SMALL["blocks"])
    for block, (channel, spatial) in zip(features.attention, maps):
        torch.testing.assert_close(block.channel, channel, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(block.spatial, spatial, rtol=1e-9, atol=1e-9)
    other_colours, _ = reference(state, ASKD, rgb, cbam=True)
    assert not torch.allclose(other_colours, expected, atol=1e-2), "colour order must matter here"
    assert (info["source"], info["iterations"], info["backbone"]) == ("released A-SKD network", 47000, None)
    assert info["network"] == dict(
        **SMALL, attention="cbam", spatial_kernel=kernel, reduction=reduction,
    )


def test_arcface_torch_on_rgb_equals_ours_on_rgb(tmp_path):
    state = foreign_state(ARCFACE, **SMALL)
    ours, info = import_checkpoint(store(tmp_path, state, "backbone.pth"))
    features = ours.double().eval().forward_all(images())
    torch.testing.assert_close(features.embedding, reference(state, ARCFACE, images())[0], rtol=1e-9, atol=1e-9)
    assert features.attention == ()
    assert (info["source"], info["iterations"], info["network"]["attention"]) == ("arcface_torch IResNet", None, "none")


@pytest.mark.parametrize("names, cbam", [(ASKD, True), (ARCFACE, False)])
def test_full_width_eighteen_layout_in_float32(tmp_path, names, cbam):
    state = foreign_state(names, **WIDTHS_18, cbam=cbam)
    ours, info = import_checkpoint(store(tmp_path, state))
    rgb = images(1, torch.float32)
    with torch.no_grad():
        expected = reference(state, names, rgb.flip(1) if cbam else rgb, cbam)[0]
        torch.testing.assert_close(ours.eval()(rgb), expected, rtol=1e-4, atol=1e-4)
    assert info["backbone"] == "iresnet18"
    rebuilt = make_backbone(info["backbone"], **info["network"])
    rebuilt.load_state_dict(ours.state_dict(), strict=True)


@pytest.mark.parametrize("names, cbam", [(ASKD, True), (ARCFACE, False)])
def test_every_foreign_tensor_arrives_exactly_once(tmp_path, names, cbam):
    state = foreign_state(names, **TINY, cbam=cbam)
    ours, _ = import_checkpoint(store(tmp_path, state))
    first = names[0]["conv"] + ".weight"
    arrived = {key: value.clone() for key, value in ours.state_dict().items()}
    if cbam:
        arrived["stem.0.weight"] = arrived["stem.0.weight"][:, [2, 1, 0]]
    assert len(arrived) == len(state)
    for key, value in state.items():
        matches = [name for name, tensor in arrived.items() if torch.equal(tensor, value)]
        assert len(matches) == 1, (key, matches)
        assert key != first or matches == ["stem.0.weight"]


def test_import_draws_no_random_numbers_and_frees_all_but_the_embeddings_scale(tmp_path):
    path = store(tmp_path, foreign_state(ASKD, **TINY, cbam=True))
    torch.manual_seed(7)
    before = torch.get_rng_state()
    ours, _ = import_checkpoint(path)
    assert torch.equal(torch.get_rng_state(), before)
    assert [name for name, p in ours.named_parameters() if not p.requires_grad] == ["neck.4.weight"]
    assert all(p.device.type == "cpu" and p.dtype == torch.float32 for p in ours.parameters())


def test_half_precision_and_data_parallel_prefix_and_absent_batch_counters(tmp_path):
    state = foreign_state(ARCFACE, **TINY)
    rounded = {key: value.half().float() for key, value in state.items()}
    expected = import_checkpoint(store(tmp_path, rounded))[0].state_dict()
    counters = [key for key in state if key.endswith("num_batches_tracked")]
    shrunk = {f"module.{key}": value.half() for key, value in state.items() if key not in counters}
    ours = import_checkpoint(store(tmp_path, shrunk))[0].state_dict()
    assert counters and ours.keys() == expected.keys()
    for key, value in ours.items():
        counter = key.endswith("num_batches_tracked")
        assert torch.equal(value, torch.zeros_like(value) if counter else expected[key]), key


def test_files_in_the_format_before_zip_are_read(tmp_path):
    state = foreign_state(ARCFACE, **TINY)
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    ours, _ = import_checkpoint(tmp_path / "old.pth")
    assert torch.equal(ours.neck[3].weight, state["fc.weight"])


def test_one_block_stages_of_iresnet10s_widths_are_not_taken_for_iresnet10(tmp_path):
    state = foreign_state(ARCFACE, blocks=(1, 1, 1, 1), widths=(16, 32, 64, 128), embedding=8)
    ours, info = import_checkpoint(store(tmp_path, state))
    assert info["backbone"] is None  # iresnet10's stem halves, theirs does not
    IResNet(**info["network"]).load_state_dict(ours.state_dict(), strict=True)
    assert ours.stem[0].stride == (1, 1)


def one_of_a_kind(state):
    """The keys outside blocks and of the third stage; a batch norm's mean is like its variance."""
    keys = [key for key in state if not key.startswith(("layer1", "layer2", "layer4"))]
    return [key for key in keys if not key.endswith(("running_mean", "num_batches_tracked"))]


@pytest.mark.parametrize("names, cbam", [(ASKD, True), (ARCFACE, False)])
def test_a_missing_key_of_any_kind_is_named(tmp_path, names, cbam):
    state = foreign_state(names, **TINY, cbam=cbam)
    for key in one_of_a_kind(state):
        path = store(tmp_path, {other: value for other, value in state.items() if other != key})
        with pytest.raises(CheckpointError, match=rf"{key}(,| |;|$)"):
            import_checkpoint(path)


@pytest.mark.parametrize("names, cbam", [(ASKD, True), (ARCFACE, False)])
def test_a_misshaped_key_of_any_kind_is_named(tmp_path, names, cbam):
    state = foreign_state(names, **TINY, cbam=cbam)
    for key in one_of_a_kind(state):
        path = store(tmp_path, state | {key: torch.zeros(*state[key].shape, 2)})
        with pytest.raises(CheckpointError, match=rf"{key} is \("):
            import_checkpoint(path)


def test_left_over_keys_are_named(tmp_path):
    state = foreign_state(ASKD, **TINY, cbam=True)
    extra = {f"extra.{i}.weight": torch.zeros(1) for i in range(5)}
    with pytest.raises(CheckpointError, match=r"unknown extra\.0\.weight, .*unknown extra\.1\.weight.* and 2 more"):
        import_checkpoint(store(tmp_path, state | extra))
    gap = {key.replace("layer2.0.", "layer2.999999999."): value for key, value in state.items()}
    with pytest.raises(CheckpointError, match=r"layer2\.0\.res_layer\.4\.weight is missing"):
        import_checkpoint(store(tmp_path, gap))


def test_a_spatial_kernel_that_we_do_not_have_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="kernel must be 3 .* or 7"):
        import_checkpoint(store(tmp_path, foreign_state(ASKD, **TINY, cbam=True, kernel=5)))


class Intruder:
    def __reduce__(self):
        return os.mkdir, ("intruder",)


def test_files_that_are_no_checkpoints_are_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = store(tmp_path, foreign_state(ASKD, **TINY, cbam=True)).read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(whole[: len(whole) // 2])
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    (tmp_path / "flipped.ckpt").write_bytes(flipped)
    (tmp_path / "empty.ckpt").write_bytes(b"")
    (tmp_path / "text.ckpt").write_text("<html>quota exceeded</html>")
    store(tmp_path, {"net_state_dict": Intruder()}, "intruder.ckpt")
    store(tmp_path, torch.zeros(3), "tensor.ckpt")
    store(tmp_path, {"weight": torch.zeros(5, 4)}, "margin.ckpt")
    store(tmp_path, {"epoch": 3, "state_dict_backbone": {}}, "resume.ckpt")
    store(tmp_path, {"net_state_dict": {}}, "hollow.ckpt")
    expected = {
        "absent": "no checkpoint file", "cut": "fetch it again", "flipped": "corrupt .checksum",
        "empty": "fetch it again", "text": "fetch it again", "intruder": "tensors alone",
        "tensor": "no state dict", "margin": r"\(its keys: weight\)",
        "resume": "holds: epoch, state_dict_backbone", "hollow": "no state dict",
    }
    for name, words in expected.items():
        with pytest.raises(CheckpointError, match=words) as caught:
            import_checkpoint(tmp_path / f"{name}.ckpt")
        assert f"{name}.ckpt" in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "intruder").exists()
    with pytest.raises(CheckpointError, match="no checkpoint file"):
        import_checkpoint(tmp_path)


def test_class_centres_of_a_margin_file(tmp_path):
    weight = from_name("weight", torch.Size((10, 512)))
    for content in ({"iters": 9, "net_state_dict": {"weight": weight}}, {"weight": weight}, {"module.weight": weight}):
        centres = import_centres(store(tmp_path, content, "last_margin.ckpt"))
        assert centres.dtype == torch.float32 and torch.equal(centres, weight)
    with pytest.raises(CheckpointError, match=r"the one key weight .* got input_layer\.0\.weight \(16, 3, 3, 3\),"):
        import_centres(store(tmp_path, foreign_state(ASKD, **TINY)))
    with pytest.raises(CheckpointError, match=r"got weight \(10,\)"):
        import_centres(store(tmp_path, {"weight": torch.zeros(10)}))
