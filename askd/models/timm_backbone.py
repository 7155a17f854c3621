"""Any network of timm's as a backbone: its trunk and its own pooling, then our embedding; its intermediate maps as stages."""
from __future__ import annotations

import difflib

import timm
import torch
from torch import Tensor, nn

from askd.models.features import Features
from askd.models.necks import embedding_norm

PREFIX = "timm/"


class TimmBackbone(nn.Module):
    """Images (B, 3, 112, 112) RGB in [-1, 1] -> embeddings (B, E), not normalised; a models.features.Backbone, without attention maps.

    name: as timm has it, `resnet18` say; built at random, nothing is downloaded. The neck is a linear layer and a batch norm behind
    what timm's own classifier would see. Stages are timm's `forward_intermediates` as (B, C, H, W), in `feature_info`'s order: none
    where the network offers none, or comes to other features on that way.
    Raises ValueError for a name that timm does not know or that is ours, and for a network that cannot take 112 x 112 images.
    """

    def __init__(self, name: str, embedding: int = 512, dropout: float = 0.0):
        super().__init__()
        self.trunk = _create(name)
        self.neck = nn.Sequential(nn.Dropout(dropout), nn.Linear(_width(self.trunk, name), embedding, bias=False), embedding_norm(embedding))
        self.num_features, self.head_hidden_size = self.trunk.num_features, embedding
        self.feature_info = [{"channels": stage.shape[1], "size": stage.shape[2]} for stage in _stages(self.trunk)]

    def forward(self, x: Tensor) -> Tensor:
        """The embedding alone, (B, 3, 112, 112) -> (B, E)."""
        return self.neck(self.trunk(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """timm's own last map, (B, num_features, h, w) whatever the network's own layout; ValueError where it is none."""
        return as_map(self.trunk, self.trunk.forward_features(x))

    def forward_head(self, features: Tensor) -> Tensor:
        """From `forward_features` to the embedding: timm's own pooling, then the neck."""
        return self.neck(self.trunk.forward_head(as_own(self.trunk, features), pre_logits=True))

    def forward_all(self, x: Tensor) -> Features:
        """Embedding and stages of one pass over (B, 3, 112, 112)."""
        if not self.feature_info:
            return Features(self(x), (), ())
        last, stages = self.trunk.forward_intermediates(x, output_fmt="NCHW")
        return Features(self.neck(self.trunk.forward_head(last, pre_logits=True)), (), tuple(stages))


def as_map(trunk: nn.Module, features: object) -> Tensor:
    """What timm's `forward_features` gave, as (B, C, h, w): some networks have their channels last. ValueError for tokens or lists."""
    if not isinstance(features, Tensor) or features.ndim != 4:
        raise ValueError(f"{type(trunk).__name__} ends in no map (B, C, h, w), but in {getattr(features, 'shape', type(features).__name__)}")
    return features.permute(0, 3, 1, 2) if _channels_last(trunk) else features


def as_own(trunk: nn.Module, maps: Tensor) -> Tensor:
    """Back from `as_map` to the network's own layout."""
    return maps.permute(0, 2, 3, 1) if _channels_last(trunk) else maps


def _channels_last(trunk: nn.Module) -> bool:
    return str(getattr(trunk, "output_fmt", "NCHW")).endswith("NHWC")


def _create(name: str) -> nn.Module:
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), 1)
        raise ValueError(f"timm knows no {name!r}; " + (f"did you mean {PREFIX}{close[0]}?" if close else "timm.list_models() has its names"))
    if timm.model_entrypoint(name).__module__.startswith("askd."):
        raise ValueError(f"{PREFIX}{name} is a backbone of ours; name it without {PREFIX}")
    try:
        return timm.create_model(name, num_classes=0, img_size=112)
    except TypeError:  # a network without a size of its own
        pass
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ValueError(_no_faces(name, error)) from None
    return timm.create_model(name, num_classes=0)


@torch.no_grad()
def _width(trunk: nn.Module, name: str) -> int:
    """Numbers per image that the trunk comes to from one of 112 x 112; ValueError where it cannot."""
    training = trunk.training
    try:
        out = trunk.eval()(_face())
    except Exception as error:  # timm's networks fail in as many ways as there are networks
        raise ValueError(_no_faces(name, error)) from None
    finally:
        trunk.train(training)
    if not isinstance(out, Tensor) or out.ndim != 2 or not out.isfinite().all():
        raise ValueError(_no_faces(name, f"it gives {tuple(getattr(out, 'shape', ()))} in place of (B, features)"))
    return out.shape[1]


@torch.no_grad()
def _stages(trunk: nn.Module) -> list[Tensor]:
    """The intermediate maps of one image, where they lead to the features that the trunk itself comes to; none otherwise."""
    training, face = trunk.training, _face()
    try:
        trunk.eval()
        last, stages = trunk.forward_intermediates(face, output_fmt="NCHW")
        agrees = torch.allclose(trunk.forward_head(last, pre_logits=True), trunk(face), rtol=1e-4, atol=1e-5)
        return [*stages] if agrees and all(stage.ndim == 4 for stage in stages) else []
    except Exception:  # no such method, or none for maps
        return []
    finally:
        trunk.train(training)


def _face() -> Tensor:
    return torch.linspace(-1, 1, 3 * 112 * 112).view(1, 3, 112, 112)


def _no_faces(name: str, reason: object) -> str:
    return f"{PREFIX}{name} cannot take 112x112 images ({' '.join(str(reason).split())[:200]}); choose another network of timm's, resnet18 say"
