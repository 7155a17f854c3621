"""Each resize kernel, as one axis' matrix, against the library it names, an impulse and a ramp."""
from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from askd.data.kernels import KERNELS, SIDE, down_table, resize_matrix, up_table

SIZES = st.integers(1, SIDE)
CPU = torch.device("cpu")
TORCH_MODES = {
    "nearest": dict(mode="nearest"),
    "bilinear": dict(mode="bilinear", align_corners=False, antialias=False),
    "bicubic": dict(mode="bicubic", align_corners=False, antialias=False),
    "bilinear_antialiased": dict(mode="bilinear", align_corners=False, antialias=True),
    "bicubic_antialiased": dict(mode="bicubic", align_corners=False, antialias=True),
}
CV2_MODES = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC, "area": cv2.INTER_AREA,
             "lanczos": cv2.INTER_LANCZOS4}
PIL_MODES = {"bilinear_antialiased": Image.Resampling.BILINEAR, "bicubic_antialiased": Image.Resampling.BICUBIC}


def matrix_of_torch(source: int, target: int, **mode: object) -> np.ndarray:
    """Resize every impulse: (target, source)."""
    impulses = torch.eye(source, dtype=torch.float64)[:, None, None]  # (source, 1, 1, source)
    return F.interpolate(impulses, size=(1, target), **mode)[:, 0, 0].T.numpy()


def matrix_of_cv2(source: int, target: int, interpolation: int) -> np.ndarray:
    # as many rows as columns: cv2 falls back from its area kernel when one axis does not shrink
    impulses = np.eye(source, dtype=np.float32)
    resized = [cv2.resize(np.tile(row, (source, 1)), (target, target), interpolation=interpolation) for row in impulses]
    return np.stack([image[0] for image in resized], axis=1)


@pytest.mark.parametrize("kernel", TORCH_MODES)
@given(size=SIZES)
@settings(max_examples=25, deadline=None)
def test_equals_torch_both_ways(kernel, size):
    for source, target in ((SIDE, size), (size, SIDE)):
        expected = matrix_of_torch(source, target, **TORCH_MODES[kernel])
        np.testing.assert_allclose(KERNELS[kernel](source, target), expected, atol=2e-6)


def test_nearest_equals_torch_in_float32_at_every_size():
    for size in range(1, SIDE + 1):
        for source, target in ((SIDE, size), (size, SIDE)):
            positions = torch.arange(source, dtype=torch.float32)
            chosen = F.interpolate(positions[None, None], size=target, mode="nearest")[0, 0].long()
            assert np.array_equal(KERNELS["nearest"](source, target).argmax(1), chosen.numpy()), (source, target)


def test_nearest_is_within_one_pixel_of_cv2_and_equal_at_the_usual_sizes():
    positions = np.tile(np.arange(SIDE, dtype=np.float32), (SIDE, 1))
    for size in range(1, SIDE + 1):
        chosen = cv2.resize(positions, (size, size), interpolation=cv2.INTER_NEAREST)[0]
        apart = np.abs(KERNELS["nearest"](SIDE, size).argmax(1) - chosen).max()
        assert apart <= (0 if size in (7, 14, 24, 28, 56, SIDE) else 1), size


@pytest.mark.parametrize("kernel", CV2_MODES)
@pytest.mark.parametrize("size", [1, 7, 14, 24, 28, 37, 56, 84, 111])
def test_equals_cv2_both_ways(kernel, size):
    for source, target in ((SIDE, size), (size, SIDE)):
        expected = matrix_of_cv2(source, target, CV2_MODES[kernel])
        np.testing.assert_allclose(KERNELS[kernel](source, target), expected, atol=2e-5)


@pytest.mark.parametrize("kernel", PIL_MODES)
@pytest.mark.parametrize("size", [1, 7, 14, 24, 28, 37, 56, 84, 111])
def test_antialiased_equals_pil(kernel, size):
    row = np.random.default_rng(size).random((1, SIDE), dtype=np.float32)
    expected = np.asarray(Image.fromarray(row).resize((size, 1), PIL_MODES[kernel]))
    np.testing.assert_allclose(row @ KERNELS[kernel](SIDE, size).T, expected, atol=1e-5)


def test_area_by_hand():
    thirds = [[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]]  # 3 pixels into 2, each 1.5 wide
    np.testing.assert_allclose(KERNELS["area"](3, 2), thirds, atol=1e-12)
    np.testing.assert_allclose(KERNELS["area"](2, 3), [[1, 0], [0.5, 0.5], [0, 1]], atol=1e-12)


def test_bicubic_impulse_is_the_keys_kernel():
    """Doubling puts target centres at +-1/4 and +-3/4 of a pixel: Keys 1981, eq. 4, with a = -0.75."""
    a, doubled = -0.75, KERNELS["bicubic"](8, 16)

    def near(x):
        return (a + 2) * x**3 - (a + 3) * x**2 + 1

    def far(x):
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a

    response = [far(1.75), far(1.25), near(0.75), near(0.25), near(0.25), near(0.75), far(1.25), far(1.75)]
    np.testing.assert_allclose(doubled[5:13, 4], response, atol=1e-12)
    assert np.count_nonzero(doubled[:, 4]) == 8


def test_antialiased_impulse_is_the_kernel_widened_by_the_scale():
    """112 -> 28: a pixel is 4 wide; the triangle reaches 4 source pixels to either side of the centre."""
    row = KERNELS["bilinear_antialiased"](SIDE, 28)[10]
    distance = np.abs(np.arange(SIDE) + 0.5 - 10.5 * 4)
    np.testing.assert_allclose(row, np.maximum(4 - distance, 0) / 16, atol=1e-12)


def test_released_blur_of_an_impulse():
    gauss = np.exp(-np.array([4, 1, 0, 1, 4]) / 8)
    gauss /= gauss.sum()
    blur = KERNELS["nearest_blurred"](SIDE, SIDE)
    np.testing.assert_allclose(blur[48:53, 50], gauss, atol=1e-12)
    mirrored = [gauss[2], gauss[1] + gauss[3], gauss[0] + gauss[4]]
    np.testing.assert_allclose(blur[0, :3], mirrored, atol=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
@given(source=SIZES, target=SIZES)
@settings(max_examples=25, deadline=None)
def test_rows_sum_to_one(kernel, source, target):
    np.testing.assert_allclose(KERNELS[kernel](source, target).sum(1), 1, atol=1e-9)


CENTRED = [kernel for kernel in KERNELS if not kernel.startswith("nearest")]
KEEP_A_LINE = ("bilinear", "bilinear_antialiased", "bicubic_antialiased")  # Keys' a=-0.5 does, a=-0.75 ripples about it


def ramp_error(kernel: str, source: int, target: int) -> float:
    """The largest departure, away from the border, of a resized ramp from the ramp at the target's centres."""
    centres = (np.arange(target) + 0.5) * source / target - 0.5
    border = 4 if target < source else 4 * target // source + 8
    return np.abs(KERNELS[kernel](source, target) @ np.arange(source) - centres)[border:-border].max()


@pytest.mark.parametrize("kernel", CENTRED)
def test_a_ramp_shrunk_by_a_whole_scale_stays_a_ramp(kernel):
    assert max(ramp_error(kernel, SIDE, size) for size in (28, 56)) < 1e-9


@pytest.mark.parametrize("kernel", CENTRED)
def test_a_ramp_shrunk_by_any_scale_ripples_by_less_than_a_tenth_of_a_pixel(kernel):
    assert max(ramp_error(kernel, SIDE, size) for size in (24, 37, 80)) < (1e-9 if kernel == "bilinear" else 0.1)


@pytest.mark.parametrize("kernel", sorted(set(CENTRED) - {"area"}))  # enlarging, area makes steps
def test_a_ramp_enlarged_stays_a_ramp(kernel):
    error = max(ramp_error(kernel, size, SIDE) for size in (14, 24, 28, 37, 56))
    assert error < (1e-9 if kernel in KEEP_A_LINE else 0.05)


def test_tables_hold_the_padded_matrices():
    kernels = ("nearest", "bicubic")
    down, up = down_table(kernels, CPU), up_table(kernels, CPU)
    for which, kernel in enumerate(kernels):
        for size in (1, 28, 37, SIDE):
            assert torch.equal(down[which, size - 1, :size], resize_matrix(kernel, SIDE, size, CPU))
            assert torch.equal(up[which, size - 1, :, :size], resize_matrix(kernel, size, SIDE, CPU))
            assert not down[which, size - 1, size:].any() and not up[which, size - 1, :, size:].any()


def test_a_matrix_first_built_in_inference_mode_serves_training():
    with torch.inference_mode():
        resize_matrix("bicubic", 19, 23, CPU)
    assert not resize_matrix("bicubic", 19, 23, CPU).is_inference()
