"""The way from a small crop to what the network sees, inside the graph: `upsample` and `to_unit` for a size known only at run time."""
from __future__ import annotations

import torch
from torch import Tensor, nn

from askd.data.degrade import CHAINS, EVALUATION_OF
from askd.data.kernels import HORIZONTAL, KERNELS, SIDE
from askd.data.loader import to_unit

CUBIC = -0.75  # the `a` of KERNELS["bicubic"]


class NativeInput(nn.Module):
    """Crops (N, 3, H, W) uint8 RGB of any size -> (N, 3, 112, 112) float32 [-1, 1], as `upsample` and `to_unit` have it.

    `kernel`: the up kernel of CHAINS. The matrices of `upsample` are tables made for each size when it is called; these are made in
    the graph, from the crop's own height and width, so that one graph serves all sizes.
    """

    def __init__(self, kernel: str):
        super().__init__()
        self.kernel = kernel
        if kernel == "nearest_blurred":
            self.register_buffer("blur", torch.from_numpy(KERNELS["nearest_blurred"](SIDE, SIDE)).float(), persistent=False)

    def forward(self, crop: Tensor) -> Tensor:
        height, width = crop.shape[-2:]
        vertical = _matrix(HORIZONTAL.get(self.kernel, self.kernel), height)
        if self.kernel == "nearest_blurred":
            vertical = self.blur @ vertical
        horizontal = _matrix(HORIZONTAL.get(self.kernel, self.kernel), width)
        return to_unit((vertical @ (crop.float() @ horizontal.mT)).clamp(0, 255))


class NativeStudent(nn.Module):
    """A backbone that takes small crops: (N, 3, H, W) uint8 -> (N, E)."""

    def __init__(self, backbone: nn.Module, kernel: str):
        super().__init__()
        self.enlarge, self.backbone = NativeInput(kernel), backbone

    def forward(self, crop: Tensor) -> Tensor:
        return self.backbone(self.enlarge(crop))


def up_kernel(degradation: str) -> str:
    """The kernel by which a student trained with `degradation` had its crops enlarged."""
    return CHAINS[EVALUATION_OF.get(degradation, degradation)].up


def _matrix(kernel: str, source: int) -> Tensor:
    """`resize_matrix(kernel, source, 112)`, in operations that trace where `source` is symbolic: (112, source)."""
    pixels = torch.arange(source)
    length = torch.ones(()) * source
    if kernel == "nearest":
        chosen = (torch.arange(SIDE, dtype=torch.float32) * (length / SIDE)).floor()
        return (torch.minimum(chosen, length - 1)[:, None] == pixels).float()
    centre = (torch.arange(SIDE, dtype=torch.float32) + 0.5) * length / SIDE - 0.5
    reach = {"bilinear": 1, "bicubic": 2}[kernel]
    taps = centre.floor()[:, None] + torch.arange(1 - reach, reach + 1)
    distance = (taps - centre[:, None]).abs()
    weights = 1 - distance if kernel == "bilinear" else _cubic(distance)
    inside = torch.minimum(taps.clamp(min=0), length - 1)  # beyond the border the border's pixel goes on
    return ((inside[:, :, None] == pixels).float() * weights[:, :, None]).sum(1)


def _cubic(distance: Tensor) -> Tensor:
    near = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance * distance + 1
    far = ((distance - 5) * distance + 8) * distance * CUBIC - 4 * CUBIC
    return torch.where(distance <= 1, near, far)
