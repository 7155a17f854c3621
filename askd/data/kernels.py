"""Resize kernels as matrices: along one axis, `target = matrix @ source`.

Pixel centres lie at half-integers (`align_corners=False`), and beyond the border the border's pixel goes on.

| kernel                 | weights                                             | equals                             |
|------------------------|-----------------------------------------------------|------------------------------------|
| `nearest`              | the pixel floor(i * source / target), in float32    | torch `nearest` (PIL's differs)    |
| `nearest_blurred`      | `nearest`, then 5 taps of sigma 2, mirrored borders | A-SKD's release, vertically        |
| `bilinear`             | 2 taps, whatever the scale                          | torch's default, cv2.INTER_LINEAR  |
| `bicubic`              | 4 taps of the cubic a=-0.75, whatever the scale     | torch's default, cv2.INTER_CUBIC   |
| `lanczos`              | 8 taps of the windowed sinc, whatever the scale     | cv2.INTER_LANCZOS4                 |
| `area`                 | share of each source pixel in a target pixel        | cv2.INTER_AREA; not torch's `area` |
| `bilinear_antialiased` | the triangle, as wide as the scale when shrinking   | torch `antialias=True`, PIL        |
| `bicubic_antialiased`  | the cubic a=-0.5, as wide as the scale if shrinking | torch `antialias=True`, PIL        |

`cv2.INTER_NEAREST` rounds in double precision: now and then (sizes 18, 36, 72) it takes the neighbour. torch's `area`
averages whole pixels: it is the same where the scale is whole.
"""
from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

SIDE = 112  # pixels: the side of every face a network sees


def _cubic(a: float) -> Callable[[np.ndarray], np.ndarray]:
    def weight(x: np.ndarray) -> np.ndarray:
        x = np.abs(x)
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = ((x - 5) * x + 8) * x * a - 4 * a
        return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
    return weight


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(x), 0.0)


def _lanczos4(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < 4, np.sinc(x) * np.sinc(x / 4), 0.0)


def _sampled(source: int, target: int, weight: Callable, reach: int) -> np.ndarray:
    """The kernel laid over the source grid at each target pixel's centre: 2 * reach taps, whatever the scale."""
    centre = (np.arange(target) + 0.5) * source / target - 0.5
    taps = np.floor(centre).astype(int)[:, None] + np.arange(1 - reach, reach + 1)
    return _scattered(taps.clip(0, source - 1), weight(taps - centre[:, None]), source)


def _antialiased(source: int, target: int, weight: Callable) -> np.ndarray:
    """The kernel widened by the scale when shrinking, cut at the border and normalised there."""
    centre = (np.arange(target) + 0.5) * source / target
    weights = weight((np.arange(source) + 0.5 - centre[:, None]) / max(source / target, 1.0))
    return weights / weights.sum(1, keepdims=True)


def _area(source: int, target: int) -> np.ndarray:
    """The share of each source pixel in the interval a target pixel covers; growing, this is cv2's INTER_AREA too."""
    start, pixel = np.arange(target)[:, None] * source / target, np.arange(source)
    stop = (np.arange(target)[:, None] + 1) * source / target
    return np.clip(np.minimum(stop, pixel + 1) - np.maximum(start, pixel), 0, None) * target / source


def _nearest(source: int, target: int) -> np.ndarray:
    # float32 as in torch: at sizes 46, 48, 92 and 96 exact arithmetic would now and then pick the next pixel
    chosen = np.floor(np.arange(target, dtype=np.float32) * (np.float32(source) / np.float32(target))).astype(int)
    return np.eye(source)[chosen.clip(max=source - 1)]


def _nearest_blurred(source: int, target: int) -> np.ndarray:
    """`nearest`, then the released code's 5 taps of sigma 2 with mirrored borders."""
    taps = np.pad(np.arange(target), 2, mode="reflect")[np.arange(target)[:, None] + np.arange(5)]
    gauss = np.exp(-0.5 * (np.arange(-2, 3) / 2.0) ** 2)
    return _scattered(taps, np.tile(gauss, (target, 1)), target) @ _nearest(source, target)


def _scattered(taps: np.ndarray, weights: np.ndarray, source: int) -> np.ndarray:
    matrix = np.zeros((len(taps), source))
    np.add.at(matrix, (np.arange(len(taps))[:, None], taps), weights / weights.sum(1, keepdims=True))
    return matrix


KERNELS: dict[str, Callable[[int, int], np.ndarray]] = {
    "nearest": _nearest,
    "nearest_blurred": _nearest_blurred,
    "bilinear": lambda source, target: _sampled(source, target, _triangle, 1),
    "bicubic": lambda source, target: _sampled(source, target, _cubic(-0.75), 2),
    "lanczos": lambda source, target: _sampled(source, target, _lanczos4, 4),
    "area": _area,
    "bilinear_antialiased": lambda source, target: _antialiased(source, target, _triangle),
    "bicubic_antialiased": lambda source, target: _antialiased(source, target, _cubic(-0.5)),
}
# The released blur reads sigma (0.1, 2.0) as (x, y): along x its outer taps weigh e^-50, nothing in float32.
HORIZONTAL = {"nearest_blurred": "nearest"}


@torch.compiler.assume_constant_result
def resize_matrix(kernel: str, source: int, target: int, device: torch.device) -> Tensor:
    """The (target, source) float32 matrix of one of KERNELS, rows summing to 1; a constant in compiled code."""
    return _on_device((kernel, source, target), device, lambda: KERNELS[kernel](source, target))


@torch.compiler.assume_constant_result
def interleaved_matrix(kernel: str, source: int, target: int, channels: int, device: torch.device) -> Tensor:
    """The same for rows of pixels whose channels lie side by side: (target * channels, source * channels)."""
    return _on_device((kernel, source, target, channels), device, lambda: np.kron(KERNELS[kernel](source, target), np.eye(channels)))


@torch.compiler.assume_constant_result
def down_table(kernels: tuple[str, ...], device: torch.device) -> Tensor:
    """(kernels, 112, 112, 112) float32: entry [k, size - 1] takes 112 pixels to `size`, its further rows zero."""
    return _on_device(("down", kernels), device, lambda: np.stack([
        [_padded(KERNELS[kernel](SIDE, size)) for size in range(1, SIDE + 1)] for kernel in kernels]))


@torch.compiler.assume_constant_result
def up_table(kernels: tuple[str, ...], device: torch.device) -> Tensor:
    """(kernels, 112, 112, 112) float32: entry [k, size - 1] takes `size` pixels to 112, its further columns zero."""
    return _on_device(("up", kernels), device, lambda: np.stack([
        [_padded(KERNELS[kernel](size, SIDE)) for size in range(1, SIDE + 1)] for kernel in kernels]))


def _padded(matrix: np.ndarray) -> np.ndarray:
    return np.pad(matrix.astype(np.float32), [(0, SIDE - length) for length in matrix.shape])


_BUILT: dict[tuple, Tensor] = {}


def _on_device(name: tuple, device: torch.device, build: Callable[[], np.ndarray]) -> Tensor:
    if (name, device) in _BUILT:
        return _BUILT[name, device]
    with torch.inference_mode(False):
        built = torch.from_numpy(build().astype(np.float32, copy=False)).to(device)
    if type(built) is Tensor:  # a tracer's stand-in is of use to that trace alone
        _BUILT[name, device] = built
    return built
