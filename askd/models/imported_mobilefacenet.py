"""How the usual PyTorch implementations of MobileFaceNet name its modules, against ours: named key maps, for models.imported."""
from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor

from askd.models.mobilefacenet import LAYOUTS, MobileFaceNet


@dataclass(frozen=True)
class MobileFaceNetFormat:
    """One implementation's names, ours -> theirs.

    ends: modules of a convolution, a norm and perhaps a PReLU outside the bottlenecks; layers: what those three are called.
    halving, repeated: of stages 2 to 4 the first bottleneck and the list of the rest; parts: inside a bottleneck. last: linear layer, norm.
    """

    name: str
    ends: dict[str, str]
    layers: tuple[str, str, str]
    halving: tuple[str, str, str]
    repeated: tuple[str, str, str]
    parts: dict[str, str]
    last: dict[str, str]
    bgr: bool
    optional: dict[str, float] = field(default_factory=dict)  # their keys that a file may lack, and what stands for them
    make = MobileFaceNet
    layouts = LAYOUTS
    standard = {"blocks": (4, 6, 2), "scale": 1}

    def key(self, ours: str) -> str:
        """Their key of one of ours: stages.1.2.expand.0.weight -> conv_3.model.1.conv.conv.weight, say."""
        module, _, tensor = ours.rpartition(".")
        if module in self.last:
            return f"{self.last[module]}.{tensor}"
        block, _, layer = module.rpartition(".")
        if block in self.ends:
            theirs = self.ends[block]
        else:
            stage, index, part = re.fullmatch(r"stages\.(\d)\.(\d+)\.(\w+)", block).groups()
            place, number = int(stage) - 1, int(index)
            theirs = self.halving[place] if number == 0 else f"{self.repeated[place]}.{number - 1}"
            theirs += f".{self.parts[part]}"
        return f"{theirs}.{self.layers[int(layer)]}.{tensor}"

    def knows(self, theirs: str) -> bool:
        """Whether one of their keys is of the standard network."""
        return theirs in _standard_keys(self.name)

    def infer(self, state: dict[str, Tensor]) -> tuple[dict, dict]:
        """MobileFaceNet's options from keys and shapes: blocks and scale; embedding. ValueError where a shape that tells is missing."""
        def outputs(ours: str) -> int:
            key = self.key(ours)
            if key not in state or state[key].ndim not in (2, 4):
                raise ValueError(f"{key} is {'missing' if key not in state else f'of shape {tuple(state[key].shape)}'}")
            return state[key].shape[0]

        # Counted, not the highest index: a gap shows as missing and left-over keys, a wild index builds nothing wild.
        indices = [set(re.findall(rf"^{re.escape(place)}\.(\d+)\.", "\n".join(state), re.M)) for place in self.repeated]
        scale = max(outputs("stem.0.weight") // 64, 1)  # where it is not whole, the shapes that differ are named
        return {"blocks": tuple(map(len, indices)), "scale": scale}, {"attention": "none", "embedding": outputs("neck.4.weight")}


INSIGHTFACE_PYTORCH = MobileFaceNetFormat(
    "InsightFace_Pytorch MobileFaceNet",
    ends={"stem": "conv1", "stages.0.0.body": "conv2_dw", "neck.0": "conv_6_sep", "neck.1": "conv_6_dw"},
    layers=("conv", "bn", "prelu"),
    halving=("conv_23", "conv_34", "conv_45"),
    repeated=("conv_3.model", "conv_4.model", "conv_5.model"),
    parts={"expand": "conv", "depthwise": "conv_dw", "project": "project"},
    last={"neck.4": "linear", "neck.5": "bn"},
    bgr=True,  # its data_pipe.py hands mxnet's images, which are cv2's, to PIL, and turns the test sets round
)
# The same network with its last layers in a module of their own, and for a time without weight and bias in the very last.
CAVAFACE = MobileFaceNetFormat(
    "cavaface MobileFaceNet",
    ends={**INSIGHTFACE_PYTORCH.ends, "neck.1": "output_layer.conv_6_dw"},
    layers=INSIGHTFACE_PYTORCH.layers, halving=INSIGHTFACE_PYTORCH.halving, repeated=INSIGHTFACE_PYTORCH.repeated,
    parts=INSIGHTFACE_PYTORCH.parts,
    last={"neck.4": "output_layer.linear", "neck.5": "output_layer.bn"},
    bgr=False,
    optional={"output_layer.bn.weight": 1.0, "output_layer.bn.bias": 0.0},
)
ARCFACE_TORCH_MBF = MobileFaceNetFormat(
    "arcface_torch MobileFaceNet",
    ends={"stem": "layers.0.layers", "stages.0.0.body": "layers.1.layers", "neck.0": "conv_sep.layers", "neck.1": "features.layers.0.layers"},
    layers=("0", "1", "2"),
    halving=("layers.2", "layers.4", "layers.6"),
    repeated=("layers.3.layers", "layers.5.layers", "layers.7.layers"),
    parts={"expand": "layers.0.layers", "depthwise": "layers.1.layers", "project": "layers.2.layers"},
    last={"neck.4": "features.layers.2", "neck.5": "features.layers.3"},
    bgr=False,
)
MOBILEFACENETS = (INSIGHTFACE_PYTORCH, CAVAFACE, ARCFACE_TORCH_MBF)


@cache
def _standard_keys(name: str) -> frozenset[str]:
    foreign = next(candidate for candidate in MOBILEFACENETS if candidate.name == name)
    with torch.device("meta"):
        return frozenset(foreign.key(ours) for ours in MobileFaceNet().state_dict())
