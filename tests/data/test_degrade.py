"""Every degradation against the libraries it is made of, and the invariants of batches, ranges and layouts."""
from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from askd.data.degrade import (BYTE_RANGE, CHAINS, DEGRADATIONS, EVALUATION_OF, RANDOM_KERNELS, degrade, downsample,
                               kernels_of, round_to_8bit, upsample, upsample_corners)
from askd.data.kernels import KERNELS

GREY_LEVEL = 1e-3  # of 255: float32 sums of 112 * 112 terms up to 255, in two orders
CV2 = {"nearest": cv2.INTER_NEAREST, "bilinear": cv2.INTER_LINEAR, "area": cv2.INTER_AREA, "bicubic": cv2.INTER_CUBIC,
       "lanczos": cv2.INTER_LANCZOS4}


def faces(batch: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (batch, 3, 112, 112), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def interpolated(hr: torch.Tensor, size: int, down: dict, up: dict) -> torch.Tensor:
    return F.interpolate(F.interpolate(hr.float(), size=(size, size), **down), size=(112, 112), **up).clamp(0, 255)


def through_cv2(hr: torch.Tensor, size: int, down: int, up: int) -> torch.Tensor:
    """hr (3, 112, 112), in float32: what cv2 does to 8-bit images, without its rounding."""
    image = hr.permute(1, 2, 0).numpy().astype(np.float32)
    lr = cv2.resize(image, (size, size), interpolation=down)
    return torch.from_numpy(cv2.resize(lr, (112, 112), interpolation=up)).permute(2, 0, 1).clamp(0, 255)


def drawn(degradation: str, batch: int, seed: int = 0) -> torch.Tensor | None:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, len(RANDOM_KERNELS), (batch, 2), generator=generator) if degradation == "random" else None


@pytest.mark.parametrize("size", [1, 7, 14, 24, 28, 37, 56, 111])
@pytest.mark.parametrize("degradation, down, up", [
    ("bicubic", dict(mode="bicubic", antialias=True), dict(mode="bicubic")),
    ("bilinear", dict(mode="bilinear", antialias=True), dict(mode="bilinear")),
    ("nearest", dict(mode="nearest"), dict(mode="nearest")),
    ("bilinear_cv2", dict(mode="bilinear"), dict(mode="bilinear")),
])
def test_equals_interpolate(degradation, down, up, size):
    hr = faces(2)
    expected = interpolated(hr, size, down, up)  # its taps are placed in float32
    torch.testing.assert_close(degrade(hr, size, degradation), expected, atol=5e-3, rtol=0)


@pytest.mark.parametrize("size", [7, 14, 24, 28, 56, 84])
def test_area_and_bilinear_cv2_equal_cv2(size):
    hr = faces(1)
    for degradation, down, up in (("area", cv2.INTER_AREA, cv2.INTER_CUBIC),
                                  ("bilinear_cv2", cv2.INTER_LINEAR, cv2.INTER_LINEAR)):
        expected = through_cv2(hr[0], size, down, up)
        torch.testing.assert_close(degrade(hr, size, degradation)[0], expected, atol=2e-2, rtol=0)


def released_transcribed(image: np.ndarray, size: int) -> np.ndarray:
    """One plane (112, 112), pixel by pixel: nearest down and up, then cv2's normalised Gaussian."""
    lr = np.array([[image[r * 112 // size, c * 112 // size] for c in range(size)] for r in range(size)])
    hr = np.array([[lr[r * size // 112, c * size // 112] for c in range(112)] for r in range(112)])
    return cv2.GaussianBlur(hr, ksize=(5, 5), sigmaX=0.1, sigmaY=2.0, borderType=cv2.BORDER_REFLECT_101)


@pytest.mark.parametrize("size", [14, 24, 28, 56])
def test_released_equals_its_transcription(size):
    hr = faces(1)
    expected = np.stack([released_transcribed(plane, size) for plane in hr[0].numpy().astype(np.float64)])
    for given_size in (size, torch.tensor([size])):
        np.testing.assert_allclose(degrade(hr, given_size, "released")[0], expected, atol=GREY_LEVEL)


def test_released_equals_torchvision_on_the_released_input_range():
    from torchvision.transforms.v2.functional import gaussian_blur
    hr = faces(2).float() / 127.5 - 1
    expected = gaussian_blur(F.interpolate(F.interpolate(hr, size=28), size=112), [5, 5], [0.1, 2.0])
    torch.testing.assert_close(degrade(hr, 28, "released"), expected, atol=1e-5, rtol=0)


def test_released_at_112_is_blurred_in_a_list_of_sizes_and_untouched_alone():
    hr = faces(2)
    assert torch.equal(degrade(hr, 112, "released"), hr.float())
    blurred = cv2.GaussianBlur(hr[0, 0].numpy().astype(np.float64), (5, 5), sigmaX=0.1, sigmaY=2.0,
                               borderType=cv2.BORDER_REFLECT_101)
    np.testing.assert_allclose(degrade(hr, torch.tensor([112, 28]), "released")[0, 0], blurred, atol=GREY_LEVEL)


def test_released_blurs_an_impulse_vertically_only():
    impulse = torch.zeros(1, 3, 112, 112, dtype=torch.uint8)
    impulse[:, :, 56, 56] = 255
    blurred = degrade(impulse, torch.tensor([112]), "released")[0, 0]
    gauss = torch.exp(-torch.tensor([4.0, 1, 0, 1, 4]) / 8)
    torch.testing.assert_close(blurred[54:59, 56], 255 * gauss / gauss.sum())
    assert torch.count_nonzero(blurred[:, :56]) == torch.count_nonzero(blurred[:, 57:]) == 0


@pytest.mark.parametrize("degradation", CHAINS)
@pytest.mark.parametrize("size", [14, 28, 56])
def test_an_impulse_becomes_the_product_of_both_axes(degradation, size):
    row, column, height = 52, 60, 200.0
    impulse = torch.zeros(1, 1, 112, 112, dtype=torch.uint8)
    impulse[0, 0, row, column] = int(height)
    chain = CHAINS[degradation]
    along_x_up = "nearest" if degradation == "released" else chain.up
    vertical = (KERNELS[chain.up](size, 112) @ KERNELS[chain.down](112, size))[:, row]
    horizontal = (KERNELS[along_x_up](size, 112) @ KERNELS[chain.down](112, size))[:, column]
    expected = (height * np.outer(vertical, horizontal)).clip(0, 255)
    np.testing.assert_allclose(degrade(impulse, size, degradation)[0, 0], expected, atol=GREY_LEVEL)


@pytest.mark.parametrize("degradation", ["bicubic", "bilinear", "area", "bilinear_cv2"])
def test_a_ramp_survives_inside(degradation):
    ramp = (2 * torch.arange(112, dtype=torch.uint8)).expand(1, 3, 112, 112)
    for size, transposed in itertools.product((28, 56), (False, True)):
        hr = ramp.mT if transposed else ramp
        difference = (degrade(hr, size, degradation) - hr)[..., 16:-16, 16:-16].abs().max()
        assert difference < (0.5 if CHAINS[degradation].up == "bicubic" else GREY_LEVEL)  # a=-0.75 ripples


@pytest.mark.parametrize("degradation", DEGRADATIONS)
def test_mixed_sizes_equal_one_image_at_a_time(degradation):
    sizes = torch.tensor([1, 14, 28, 37, 56, 111])
    hr, draws = faces(len(sizes)), drawn(degradation, len(sizes))
    together = degrade(hr, sizes, degradation, draws)
    for i, size in enumerate(sizes.tolist()):
        alone = degrade(hr[i:i + 1], size, degradation, None if draws is None else draws[i:i + 1])
        torch.testing.assert_close(together[i:i + 1], alone, atol=GREY_LEVEL, rtol=0)


@pytest.mark.parametrize("degradation", DEGRADATIONS)
@given(size=st.integers(1, 112), seed=st.integers(0, 99), as_bytes=st.booleans(), quantise=st.booleans())
@settings(max_examples=20, deadline=None)
def test_any_size_keeps_shape_range_and_a_constant(degradation, size, seed, as_bytes, quantise):
    hr, draws = faces(2, seed), drawn(degradation, 2, seed)
    hr[1] = 77
    images, low, high = (hr, 0, 255) if as_bytes else ((hr - 127.5) / 127.5, -1, 1)
    for sizes in (size, torch.tensor([size, size])):
        degraded = degrade(images, sizes, degradation, draws, quantise)
        assert degraded.shape == hr.shape and degraded.dtype == torch.float32
        assert low <= degraded.min() and degraded.max() <= high
        torch.testing.assert_close(degraded[1], images[1].float(), atol=GREY_LEVEL / (1 if as_bytes else 127.5), rtol=0)


@pytest.mark.parametrize("degradation", sorted(set(DEGRADATIONS) - {"released"}))
def test_112_is_the_identity(degradation):
    hr, draws = faces(3), drawn(degradation, 3)
    assert torch.equal(degrade(hr, 112, degradation, draws), hr.float())
    per_image = degrade(hr, torch.full((3,), 112), degradation, draws)
    torch.testing.assert_close(per_image, hr.float(), atol=GREY_LEVEL, rtol=0)


def test_random_is_every_pair_of_cv2_interpolations():
    pairs = list(itertools.product(range(len(RANDOM_KERNELS)), repeat=2))
    hr = faces(1).expand(len(pairs), 3, 112, 112)
    degraded = degrade(hr, 28, "random", torch.tensor(pairs))
    for image, (down, up) in zip(degraded, pairs):
        expected = through_cv2(hr[0], 28, CV2[RANDOM_KERNELS[down]], CV2[RANDOM_KERNELS[up]])
        torch.testing.assert_close(image, expected, atol=2e-2, rtol=0)


def test_random_is_evaluated_as_cv2_bilinear():
    hr = faces(1)
    expected = through_cv2(hr[0], 14, cv2.INTER_LINEAR, cv2.INTER_LINEAR)
    torch.testing.assert_close(degrade(hr, 14, EVALUATION_OF["random"])[0], expected, atol=2e-2, rtol=0)


@pytest.mark.parametrize("degradation", DEGRADATIONS)
@pytest.mark.parametrize("per_image", [False, True])
def test_quantised_is_downsample_round_upsample(degradation, per_image):
    hr, draws = faces(2), drawn(degradation, 2)
    degraded = degrade(hr, torch.tensor([28, 28]) if per_image else 28, degradation, draws, quantise=True)
    for i in range(2):
        down, up = CHAINS[degradation] if draws is None else (RANDOM_KERNELS[draw] for draw in draws[i])
        lr = downsample(hr[i:i + 1], 28, down).round().clamp(0, 255).to(torch.uint8)
        torch.testing.assert_close(degraded[i:i + 1], upsample(lr, up), atol=GREY_LEVEL, rtol=0)


def test_quantised_bicubic_is_what_pil_makes_of_an_8_bit_face():
    """PIL rounds between its two passes too, so a level may differ, and rarely does."""
    from PIL import Image
    smooth = np.add.outer(np.arange(112), np.arange(112)).astype(np.uint8)
    expected = np.asarray(Image.fromarray(smooth).resize((28, 28), Image.Resampling.BICUBIC)).astype(int)
    ours = round_to_8bit(downsample(torch.from_numpy(smooth)[None, None], 28), BYTE_RANGE)[0, 0].numpy()
    assert np.abs(ours - expected).max() <= 1


def test_round_to_8bit_by_hand():
    bytes_given = torch.tensor([-3.0, 0.4, 0.5, 1.5, 254.6, 300.0])
    assert round_to_8bit(bytes_given, (0.0, 255.0)).tolist() == [0, 0, 0, 2, 255, 255]
    units = round_to_8bit(torch.tensor([-1.2, 0.001, 1.0]), (-1.0, 1.0))
    torch.testing.assert_close(units, torch.tensor([-1.0, 0.5 / 127.5, 1.0]))


def test_bytes_and_units_agree():
    hr = faces(2)
    for size in (28, torch.tensor([14, 37])):
        from_units = degrade((hr - 127.5) / 127.5, size, "bicubic") * 127.5 + 127.5
        torch.testing.assert_close(from_units, degrade(hr, size, "bicubic"), atol=GREY_LEVEL, rtol=0)


def test_overshoot_is_clamped():
    edge = torch.zeros(1, 3, 112, 112, dtype=torch.uint8)
    edge[..., 56:] = 255
    assert downsample(edge, 28).max() > 255
    assert degrade(edge, 28, "bicubic").max() == 255 and degrade(edge, 28, "bicubic").min() == 0


def test_upsample_of_a_native_crop_is_the_end_of_degrade():
    hr = (faces(2) - 127.5) / 127.5
    crop = downsample(hr, 24)
    torch.testing.assert_close(upsample(crop), degrade(hr, 24, "bicubic"), atol=1e-5, rtol=0)
    tall = crop[:, :, :, :17]
    torch.testing.assert_close(upsample(tall), F.interpolate(tall, size=(112, 112), mode="bicubic").clamp(-1, 1))


@pytest.mark.parametrize("size", [28, 112, torch.tensor([14, 112])])
def test_layout_is_kept_and_does_not_matter(size):
    hr = faces(2)
    rows = degrade(hr, size, "bicubic")
    pixels = degrade(hr.contiguous(memory_format=torch.channels_last), size, "bicubic")
    assert rows.is_contiguous() and pixels.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(rows, pixels)


def test_autocast_changes_nothing():
    hr = faces(2)
    for size in (28, torch.tensor([28, 14])):
        with torch.autocast("cpu", torch.bfloat16):
            inside = degrade(hr, size, "bicubic")
        assert torch.equal(inside, degrade(hr, size, "bicubic"))


def test_one_graph_per_size_and_any_sizes_compile():
    hr, sizes = faces(2), torch.tensor([14, 37])
    whole = torch.compile(lambda size: degrade(hr, size, "bicubic"), backend="aot_eager", fullgraph=True)
    for size in (14, 28, 29, 112):
        assert torch.equal(whole(size), degrade(hr, size, "bicubic"))
    compiled = torch.compile(lambda sizes: degrade(hr, sizes, "released"), backend="aot_eager")
    assert torch.equal(compiled(sizes), degrade(hr, sizes, "released"))
    with pytest.raises(ValueError, match="got 0"):
        compiled(sizes * 0)


def test_upsample_exports():
    class Enlarge(torch.nn.Module):
        def forward(self, lr: torch.Tensor) -> torch.Tensor:
            return upsample(lr)

    crop = downsample((faces(2) - 127.5) / 127.5, 23)
    program = torch.export.export(Enlarge(), (crop,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    longer = crop.repeat(3, 1, 1, 1)
    assert torch.equal(program.module()(longer), upsample(longer))


@pytest.mark.parametrize("arguments, message", [
    ((0, "bicubic"), r"size must be 1\.\.112 pixels, got 0"),
    ((113, "bicubic"), "got 113"),
    ((torch.tensor([14, 200]), "bicubic"), "got 200 in a batch of 2"),
    ((torch.tensor([14]), "bicubic"), r"integer tensor \(2,\)"),
    ((torch.tensor([14.0, 28.0]), "bicubic"), "float32"),
    ((28, "bicubique"), "unknown degradation 'bicubique'; choose one of bicubic, bilinear, area"),
    ((28, "random"), "draws missing; evaluate it as 'bilinear_cv2'"),
    ((28, "nearest", torch.zeros(2, 2, dtype=torch.long)), "draws given"),
    ((28, "random", torch.full((2, 2), 5)), r"0\.\.4, got 5"),
    ((28, "random", torch.zeros(2, dtype=torch.long)), r"\(2, 2\), down and up"),
])
def test_what_does_not_fit_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        degrade(faces(2), *arguments)


def test_wrong_images_and_kernels_are_named():
    with pytest.raises(ValueError, match="112x112 faces, got"):
        degrade(faces(1)[..., :56], 28, "bicubic")
    with pytest.raises(ValueError, match=r"\(B, C, H, W\)"):
        degrade(faces(1)[0], 28, "bicubic")
    with pytest.raises(ValueError, match="int64"):
        downsample(faces(1).long(), 28)
    with pytest.raises(ValueError, match="unknown kernel 'cubic'; choose one of nearest"):
        upsample(faces(1), "cubic")


@pytest.mark.parametrize("degradation", sorted(CHAINS))
@pytest.mark.parametrize("quantise", [False, True])
@pytest.mark.parametrize("size", [1, 14, 28, 111])
def test_layouts_differ_by_rounding_alone(degradation, quantise, size):
    hr = faces(2)
    pixels = degrade(hr.contiguous(memory_format=torch.channels_last), size, degradation, quantise=quantise)
    rows = degrade(hr, size, degradation, quantise=quantise)
    if quantise:  # a level where the last bit decides it
        assert (rows - pixels).abs().mean() < GREY_LEVEL and (rows - pixels).abs().max() <= 1.5
    else:
        torch.testing.assert_close(rows, pixels, rtol=0, atol=GREY_LEVEL)


@pytest.mark.parametrize("degradation", DEGRADATIONS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_enlarged_from_corners_is_the_second_half_of_degrade(degradation, layout):
    """downsample, round, lay into a corner (with rubbish around it), enlarge: `degrade` with `quantise`."""
    hr, sizes = faces(5), [14, 28, 7, 112, 56]
    draws = drawn(degradation, 5)
    corners = faces(5, seed=1).contiguous(memory_format=layout)
    for row, size in enumerate(sizes):
        down = kernels_of(degradation, (0, 0) if draws is None else tuple(draws[row])).down
        corners[row, :, :size, :size] = round_to_8bit(downsample(hr[row][None], size, down), BYTE_RANGE)[0].to(torch.uint8)
    expected = degrade(hr, torch.tensor(sizes), degradation, draws=draws, quantise=True)
    enlarged = upsample_corners(corners, torch.tensor(sizes), degradation, draws=draws)
    assert enlarged.is_contiguous(memory_format=layout)
    assert (enlarged - expected).abs().mean() < GREY_LEVEL and (enlarged - expected).abs().max() <= 1.5
    first = None if draws is None else draws[:1]
    alone = upsample_corners(corners[:1].contiguous(memory_format=layout), 14, degradation, draws=first)
    torch.testing.assert_close(alone, enlarged[:1], rtol=0, atol=GREY_LEVEL)
    with pytest.raises(ValueError, match="size must be 1..112"):
        upsample_corners(corners, 113, degradation, draws=draws)
