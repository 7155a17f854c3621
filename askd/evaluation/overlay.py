"""Where a network looks: its spatial attention maps, averaged over blocks, as one heat map per face."""
from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from askd.data.degrade import EVALUATION_OF, degrade
from askd.data.loader import to_unit


def gaze(attention: Sequence, side: int = 112) -> Tensor | None:
    """Mean over blocks of the spatial maps (after the sigmoid), stretched to [0, 1] per face before and after: (B, side, side) float32.

    Relative, then: it says where in this face a network looks more, not how much more than elsewhere or than another network.

    attention: per block `.spatial` (B, 1, H, W) before the sigmoid, or None. Returns None for a network without spatial attention.
    """
    maps = []
    for block in attention:
        if block.spatial is None:
            continue
        seen = _stretched(block.spatial.float().sigmoid())
        maps.append(F.interpolate(seen, (side, side), mode="bilinear", align_corners=False))
    return _stretched(torch.stack(maps).mean(0))[:, 0] if maps else None


def _stretched(maps: Tensor) -> Tensor:
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    return (maps - low) / (high - low).clamp_min(1e-6)


@torch.inference_mode()
def look(network: Callable, images: Tensor, size: int, degradation: str, device: torch.device) -> tuple[np.ndarray, np.ndarray | None]:
    """What the network saw, uint8 (B, 112, 112, 3), and where it looked, float32 (B, 112, 112) in [0, 1] or None.

    network: (B, 3, 112, 112) in [-1, 1] -> Features. images: uint8 (B, 3, 112, 112); they are degraded to `size` pixels first.
    """
    seen = degrade(images.to(device), size, EVALUATION_OF.get(degradation, degradation))
    heat = gaze(network(to_unit(seen)).attention)
    pixels = seen.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return np.ascontiguousarray(pixels), None if heat is None else heat.cpu().numpy()


def attention_figure(networks: dict[str, tuple], images: Tensor, degradation: str, device: torch.device) -> np.ndarray | None:
    """A strip for TensorBoard, uint8 (H, W, 3): per network (callable, size) a row of faces with the heat map laid over them."""
    rows = []
    for network, size in networks.values():
        seen, heat = look(network, images, size, degradation, device)
        if heat is None:
            return None
        rows.append(np.concatenate([overlay(face, map_) for face, map_ in zip(seen, heat)], axis=1))
    return np.concatenate(rows)


def overlay(face: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """The face (H, W, 3) uint8 RGB under its heat map (H, W) in [0, 1], half and half."""
    colours = cv2.applyColorMap(np.uint8(255 * np.clip(heat, 0, 1)), cv2.COLORMAP_VIRIDIS)[..., ::-1]
    return np.uint8((face.astype(np.uint16) + colours) // 2)
