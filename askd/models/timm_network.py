"""Any timm architecture with weights of one's own, as a recogniser: its pooled features are the embedding."""
from __future__ import annotations

import hashlib
from pathlib import Path

import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from askd.errors import CheckpointError
from askd.models.convention import fed_pixels, in_words, read_convention
from askd.models.features import Features
from askd.models.timm_backbone import as_map, as_own


class TimmNetwork(nn.Module):
    """Images (B, 3, 112, 112) RGB in [-1, 1] -> Features of the embedding alone: what timm gives with num_classes=0.

    weights: .safetensors, or a checkpoint that torch.load reads with weights_only; a classifier in it is left out, all else must fit.
    Fed as timm's own configuration of the architecture says (mean, std, size), unless NAME.yaml beside the weights says `mean`, `std`,
    `colour`, and `size`. CheckpointError for an unknown architecture, or weights that are not its.
    """

    def __init__(self, architecture: str, weights: Path | str):
        super().__init__()
        path = Path(weights)
        if not timm.is_model(architecture):
            raise CheckpointError(f"timm has no model {architecture!r}; see timm.list_models()")
        self.backbone = timm.create_model(architecture, num_classes=0)
        config = self.backbone.pretrained_cfg
        state, content = _read_weights(path)
        classifier = config.get("classifier") or "classifier"
        names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
        kept = {key: tensor for key, tensor in state.items() if not key.startswith(tuple(f"{name}." for name in names))}
        try:
            self.backbone.load_state_dict(kept, strict=True)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(f"{path} does not hold the weights of timm's {architecture} ({reason}); name the architecture it is of") from None
        beside = path.with_suffix(".yaml")
        self.input = read_convention(beside, optional=("size",)) if beside.is_file() else {
            "colour": "RGB", **{key: [255 * number for number in config[key]] for key in ("mean", "std")},
            "size": config["input_size"][-1],
        }
        self._source = beside.name if beside.is_file() else "timm's configuration"
        self.side = self.input.get("size", 112)
        self.sha256 = hashlib.sha256(content + repr([architecture, *sorted(self.input.items())]).encode()).hexdigest()

    def forward_all(self, image: Tensor) -> Features:
        """Features with neither attention nor stages."""
        return Features(self.backbone(fed_pixels(image, self.input, self.side)), (), ())

    def forward(self, image: Tensor) -> Tensor:
        """The embedding alone, (B, 3, 112, 112) -> (B, E)."""
        return self.forward_all(image).embedding

    def forward_features(self, image: Tensor) -> Tensor:
        """The last feature map (B, C, h, w): what Grad-CAM explains an embedding by. ValueError where the network ends in none."""
        return as_map(self.backbone, self.backbone.forward_features(fed_pixels(image, self.input, self.side)))

    def forward_head(self, features: Tensor) -> Tensor:
        """From there to the embedding."""
        return self.backbone.forward_head(as_own(self.backbone, features))

    def fed(self) -> str:
        """The input's convention in words."""
        return in_words(self.input, self._source, self.side)


def _read_weights(path: Path) -> tuple[dict[str, Tensor], bytes]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such weights file; correct the path (timm:ARCHITECTURE:FILE)")
    content = path.read_bytes()
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load(content), content
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # both readers raise many kinds; all mean that this is no weights file
        raise CheckpointError(f"{path}: no weights file that can be read safely ({' '.join(str(error).split())[:200]})") from None
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: holds no state dict of tensors; save model.state_dict()")
    return state, content
