"""HR faces -> LR faces, as batched tensor functions that training, evaluation and export share.

The chain is  downsample -> (noise, JPEG: the caller's, at LR size) -> optional rounding to 8 bit -> upsample -> clamp.
A resize is `vertical @ image @ horizontal.T`, so a table of matrices, gathered per image, lets one batch mix sizes.
With one size for all, a channels_last batch is resized as it lies, three colours wide: no image is rearranged.

| degradation    | down                                  | up               | the field's name for it              |
|----------------|---------------------------------------|------------------|--------------------------------------|
| `bicubic`      | cubic a=-0.5, antialiased             | cubic a=-0.75    | PIL's bicubic, then torch's          |
| `bilinear`     | triangle, antialiased                 | bilinear         | PIL's bilinear, then torch's         |
| `area`         | box                                   | cubic a=-0.75    | cv2.INTER_AREA, then cv2.INTER_CUBIC |
| `nearest`      | nearest                               | nearest          | torch's nearest                      |
| `released`     | nearest                               | nearest, blurred | A-SKD's released code                |
| `random`       | per image one of RANDOM_KERNELS       | another of them  | F-SKD's training (arXiv 2303.04681)  |
| `bilinear_cv2` | bilinear, not antialiased             | bilinear         | cv2.INTER_LINEAR: F-SKD's evaluation |

F-SKD resizes 8-bit images (add `quantise=True`), A-SKD's released code floats.
`askd/data/kernels.py` defines each kernel and says which library's it equals.
"""
from __future__ import annotations

import operator
from typing import NamedTuple

import torch
from torch import Tensor

from askd.data.kernels import HORIZONTAL, KERNELS, SIDE, down_table, interleaved_matrix, resize_matrix, up_table

BYTE_RANGE = (0.0, 255.0)
UNIT_RANGE = (-1.0, 1.0)


class Chain(NamedTuple):
    """The KERNELS names of one degradation's way down and way up."""

    down: str
    up: str


CHAINS = {
    "bicubic": Chain("bicubic_antialiased", "bicubic"),
    "bilinear": Chain("bilinear_antialiased", "bilinear"),
    "area": Chain("area", "bicubic"),
    "nearest": Chain("nearest", "nearest"),
    "released": Chain("nearest", "nearest_blurred"),
    "bilinear_cv2": Chain("bilinear", "bilinear"),
}
RANDOM_KERNELS = ("nearest", "bilinear", "area", "bicubic", "lanczos")  # what a draw of 0..4 stands for
DEGRADATIONS = (*CHAINS, "random")
EVALUATION_OF = {"random": "bilinear_cv2"}  # the degradation to evaluate with, where it is not the one trained with


def downsample(hr: Tensor, size: int, kernel: str = "bicubic_antialiased") -> Tensor:
    """Shrink a batch to `size` x `size` pixels.

    hr: (B, C, H, W) uint8, or float in any range. Returns (B, C, size, size) float32 in hr's range, neither rounded nor
    clamped: a cubic kernel may overshoot the range slightly (`round_to_8bit` ends that). channels_last stays so.
    ValueError: a size outside 1..112, a kernel not in KERNELS, a batch that is not 4-D.
    """
    _check_images(hr)
    _check_size(size)
    _check_name("kernel", kernel, KERNELS)
    return _laid_out_like(hr, _resize(hr, kernel, size))


def upsample(lr: Tensor, kernel: str = "bicubic", size: int = SIDE,
             limits: tuple[float, float] | None = None) -> Tensor:
    """Enlarge a batch of LR crops to `size` x `size` pixels, as the end of `degrade` does, and clamp to `limits`.

    lr: (B, C, h, w). limits: the valid range; unless given, 0..255 for uint8 and [-1, 1] for floats.
    Returns (B, C, size, size) float32 in lr's range; channels_last stays so. Exported, it is two constant products.
    ValueError: a size outside 1..112, a kernel not in KERNELS, a batch that is not 4-D.
    """
    _check_images(lr)
    _check_size(size)
    _check_name("kernel", kernel, KERNELS)
    return _laid_out_like(lr, _resize(lr, kernel, size).clamp_(*(limits or valid_range(lr))))


def degrade(hr: Tensor, size: int | Tensor, degradation: str, draws: Tensor | None = None,
            quantise: bool = False) -> Tensor:
    """Take HR faces to `size` pixels and back to 112: what a low-resolution camera would have left of them.

    hr: (B, C, 112, 112), uint8 or float in [-1, 1]. Returns float32 of the same shape, in 0..255 for uint8 and in
    [-1, 1] for float, clamped to that range at the end; `quantise` also rounds and clamps the LR image to 8 bit.
    size: pixels, 1..112; an int for the whole batch, or an integer tensor (B,) with one per image, best kept on the CPU
    (checking one on an accelerator waits for it). 112 leaves an image as it is (the int may return hr itself), but
    `released` does so for the int alone: with a size per image it blurs those at 112 too, as the released code does
    for a list of sizes.
    draws: for `random` and nothing else, integers (B, 2), each 0..4: which of RANDOM_KERNELS goes down, and which up.
    float32 under autocast too; torch.set_float32_matmul_precision other than "highest" coarsens it (TF32: 0.1 of 255).
    channels_last stays so. ValueError: a size or draw out of range, an unknown degradation, a wrong shape or dtype.
    """
    _check_images(hr)
    _check_name("degradation", degradation, DEGRADATIONS)
    if hr.shape[-2:] != (SIDE, SIDE):
        raise ValueError(f"degrade takes {SIDE}x{SIDE} faces, got {tuple(hr.shape)}; align or resize them first")
    _check_size(size, batch=len(hr))
    _check_draws(draws, degradation, batch=len(hr))
    limits = valid_range(hr)
    if not isinstance(size, Tensor) and size == SIDE:
        return _laid_out_like(hr, _float_planes(hr))
    if not isinstance(size, Tensor) and degradation != "random":
        down, up = CHAINS[degradation]
        lr = _resize(hr, down, size)
        degraded = _resize(round_to_8bit(lr, limits) if quantise else lr, up, SIDE)
        return _laid_out_like(hr, degraded.clamp_(*limits))
    image = _float_planes(hr)
    down, up_vertical, up_horizontal = _matrices_per_image(size, degradation, draws, hr.device, len(hr))
    if quantise:
        degraded = _resample(round_to_8bit(_resample(image, down, down), limits), up_vertical, up_horizontal)
    else:  # padded to 112 as these are, one product per axis is cheaper than two
        with _float32(hr):
            vertical = up_vertical @ down
            horizontal = vertical if up_horizontal is up_vertical else up_horizontal @ down
        degraded = _resample(image, vertical, horizontal)
    return _laid_out_like(hr, degraded.clamp_(*limits))


def upsample_corners(corners: Tensor, size: int | Tensor, degradation: str, draws: Tensor | None = None) -> Tensor:
    """The second half of `degrade`, for LR images of several sizes in one batch: each enlarged to 112 and clamped.

    corners: (B, C, 112, 112) uint8, of which image i fills the first size[i] rows and columns; the rest is not looked
    at. size, degradation, draws, result and errors: as for `degrade`.
    """
    _check_images(corners)
    _check_name("degradation", degradation, DEGRADATIONS)
    _check_size(size, batch=len(corners))
    _check_draws(draws, degradation, batch=len(corners))
    if not isinstance(size, Tensor) and (size == SIDE or degradation != "random"):
        lr = corners[..., :size, :size].contiguous(memory_format=torch.channels_last)
        return _laid_out_like(corners, lr.float() if size == SIDE else upsample(lr, CHAINS[degradation].up))
    _, vertical, horizontal = _matrices_per_image(size, degradation, draws, corners.device, len(corners))
    return _laid_out_like(corners, _resample(_float_planes(corners), vertical, horizontal).clamp_(*valid_range(corners)))


def kernels_of(degradation: str, draw: tuple[int, int]) -> Chain:
    """The kernels that take one image down and up; `draw` decides for `random`, as `draws` does for `degrade`."""
    return Chain(*(RANDOM_KERNELS[i] for i in draw)) if degradation == "random" else CHAINS[degradation]


def round_to_8bit(image: Tensor, limits: tuple[float, float]) -> Tensor:
    """Round to the 256 evenly spaced levels of `limits`, halves to even, and clamp to them; same shape and range."""
    low, high = limits
    step = (high - low) / 255
    return ((image - low) / step).round().clamp(0, 255) * step + low


def valid_range(image: Tensor) -> tuple[float, float]:
    """The range an image's dtype stands for: 0..255 for uint8, [-1, 1] for floats."""
    return BYTE_RANGE if image.dtype == torch.uint8 else UNIT_RANGE


def _resize(image: Tensor, kernel: str, target: int) -> Tensor:
    """A new float32 batch of `target` x `target` pixels; the layout is the given one's or contiguous."""
    channels, height, width, target = map(operator.index, (*image.shape[1:], target))  # plain ints: compiled code is made for them
    across = HORIZONTAL.get(kernel, kernel)
    vertical = resize_matrix(kernel, height, target, image.device)
    if not _is_channels_last(image):
        return _resample(_float_planes(image), vertical, resize_matrix(across, width, target, image.device))
    rows = image.permute(0, 2, 3, 1).flatten(2).float()  # (B, H, W * C)
    horizontal = interleaved_matrix(across, width, target, channels, image.device)
    with _float32(image):  # the axis first that leaves less for the other
        rows = (vertical @ rows) @ horizontal.T if target < height else vertical @ (rows @ horizontal.T)
    return rows.unflatten(2, (target, channels)).permute(0, 3, 1, 2)


def _resample(image: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
    """image (B, C, H, W) float32; matrices (target, source), or (B, target, source) for one per image."""
    with _float32(image):
        narrowed = (image.flatten(1, 2) @ horizontal.mT).unflatten(1, image.shape[1:3])  # (B, C, H, target)
        return (vertical if vertical.ndim == 2 else vertical[:, None]) @ narrowed


def _float32(image: Tensor) -> torch.autocast:
    return torch.autocast(image.device.type, enabled=False)


def _float_planes(image: Tensor) -> Tensor:
    return image.to(torch.float32, memory_format=torch.contiguous_format)


def _is_channels_last(image: Tensor) -> bool:
    return image.is_contiguous(memory_format=torch.channels_last) and not image.is_contiguous()


def _laid_out_like(given: Tensor, result: Tensor) -> Tensor:
    return result.contiguous(memory_format=torch.channels_last) if _is_channels_last(given) else result.contiguous()


def _matrices_per_image(size: int | Tensor, degradation: str, draws: Tensor | None, device: torch.device,
                        batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Down, up vertically and up horizontally, (B, 112, 112) each: rows and columns beyond an image's size are zero."""
    if not isinstance(size, Tensor):
        size = torch.full((batch,), size, device=device)
    if draws is None:
        downs, ups = ((kernel,) for kernel in CHAINS[degradation])
        draws = torch.zeros(batch, 2, dtype=torch.long, device=device)
    else:
        downs = ups = RANDOM_KERNELS
    entry = size.to(device, torch.long, non_blocking=True) - 1
    down, up = draws.to(device, torch.long, non_blocking=True).unbind(1)
    horizontal_ups = tuple(HORIZONTAL.get(kernel, kernel) for kernel in ups)
    vertical = up_table(ups, device)[up, entry]
    horizontal = vertical if horizontal_ups == ups else up_table(horizontal_ups, device)[up, entry]
    return down_table(downs, device)[down, entry], vertical, horizontal


def _check_images(images: Tensor) -> None:
    if images.ndim != 4 or not (images.dtype == torch.uint8 or images.is_floating_point()):
        raise ValueError(f"expected a batch (B, C, H, W) of uint8 or float, got {tuple(images.shape)} {images.dtype}; "
                         "stack images and put channels before rows")


def _check_name(what: str, name: str, choices: object) -> None:
    if name not in choices:
        raise ValueError(f"unknown {what} {name!r}; choose one of {', '.join(choices)}")


def _check_size(size: int | Tensor, batch: int | None = None) -> None:
    if not isinstance(size, Tensor):
        if not 1 <= size <= SIDE:
            raise ValueError(f"size must be 1..{SIDE} pixels, got {size}")
        return
    if size.is_floating_point() or size.shape != (batch,):
        raise ValueError(f"size must be an int or an integer tensor ({batch},), one per image, "
                         f"got {tuple(size.shape)} {size.dtype}")
    wrong = size[(size < 1) | (size > SIDE)]
    if len(wrong):
        raise ValueError(f"size must be 1..{SIDE} pixels, got {int(wrong[0])} in a batch of {batch}")


def _check_draws(draws: Tensor | None, degradation: str, batch: int) -> None:
    if (draws is not None) != (degradation == "random"):
        raise ValueError(f"draws belong to degradation 'random' and only to it, got {degradation!r} with draws "
                         f"{'missing' if draws is None else 'given'}; evaluate it as {EVALUATION_OF['random']!r}")
    if draws is None:
        return
    if draws.is_floating_point() or draws.shape != (batch, 2):
        raise ValueError(f"draws must be an integer tensor ({batch}, 2), down and up per image, "
                         f"got {tuple(draws.shape)} {draws.dtype}")
    wrong = draws[(draws < 0) | (draws >= len(RANDOM_KERNELS))]
    if len(wrong):
        raise ValueError(f"a draw must be 0..{len(RANDOM_KERNELS) - 1}, got {int(wrong[0])}")
