"""Networks from disk: our run folders, released A-SKD checkpoints, arcface_torch backbones, ONNX recognisers; frozen when they teach."""
from __future__ import annotations

import hashlib
from collections.abc import Collection
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from askd.engine.checkpoint import load_module, load_weights
from askd.errors import CheckpointError
from askd.models import make_backbone
from askd.models.ensemble import Ensemble, LearnerNorm
from askd.models.features import Backbone, Features
from askd.models.imported import import_checkpoint
from askd.models.onnx_network import OnnxNetwork
from askd.models.staged import StagedBackbone


def load_network(path: str | Path) -> tuple[Backbone | OnnxNetwork, dict]:
    """Any network that can teach: what load_backbone reads, an ONNX recogniser, or an InsightFace pack; and what is known of it."""
    path = Path(path)
    pack = path.is_dir() and not (path / "meta.json").exists() and any(path.glob("*.onnx"))
    if path.suffix != ".onnx" and not pack:
        return load_backbone(path)
    network = OnnxNetwork(path)
    return network, {"source": "ONNX recogniser", "backbone": network.path.name, "input": network.input}


def load_backbone(path: str | Path) -> tuple[Backbone, dict]:
    """The network in a run folder (model.safetensors + meta.json) or in a foreign checkpoint file, and what is known of it.

    Strict: every key fits, or CheckpointError names the first that does not.
    """
    path = Path(path)
    if path.suffix == ".onnx":
        raise CheckpointError(f"{path}: an ONNX recogniser can teach by its embedding, and no more; give a run folder or a checkpoint")
    if path.is_file() and path.suffix != ".safetensors":
        return import_checkpoint(path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such run folder or checkpoint; train it first (python -m askd.teach), or correct the path")
    weights, meta = load_weights(path)
    try:
        backbone = make_backbone(meta["backbone"], **meta["network"])
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:  # meta.json can hold anything
        raise CheckpointError(f"{path}/meta.json does not describe a network ({error}); the run was made by another version") from None
    load_module(backbone, weights, path)
    return backbone, meta


def weights_hash(module: nn.Module | OnnxNetwork) -> str:
    """sha256 over names and bytes of all weights (of an ONNX file: it and its input): the same network anywhere has the same hash."""
    if isinstance(module, OnnxNetwork):
        return module.sha256
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class Frozen:
    """A network that only answers, a teacher above all: eval mode, no gradient, batch norms folded into the convolutions before them.

    dtype: bfloat16 or float16 to answer in, its convolutions and linear maps kept so; None leaves that to the caller's autocast.
    keep: the parts of Features that a call returns beside the embedding; the others are dropped at once, and not computed by compiled code.
    An ONNX recogniser is all that already.

    Not an nn.Module on purpose: it can enter nobody's state_dict, DDP or train().
    """

    def __init__(
        self, backbone: Backbone | OnnxNetwork, device: torch.device, compile: bool = False, dtype: torch.dtype | None = None,
        keep: Collection[str] = ("attention", "stages"),
    ):
        self.backbone, self._reduced = backbone, nullcontext
        if isinstance(backbone, OnnxNetwork):
            self._answer = backbone.forward_all
            return
        fold_batch_norms(backbone.eval().requires_grad_(False)).to(device=device, memory_format=torch.channels_last)
        if dtype is not None:
            self._reduced = partial(torch.autocast, device.type, dtype)
            for part in backbone.modules():
                if isinstance(part, (nn.Conv2d, nn.Linear)):  # what autocast would convert anew at every call
                    part.to(dtype)

        def answer(image: Tensor) -> Features:
            return backbone.forward_all(image).only(keep)

        self._answer = torch.compile(answer) if compile else answer

    def __call__(self, image: Tensor) -> Features:
        """(B, 3, 112, 112) in [-1, 1] -> Features without gradient."""
        with torch.no_grad(), self._reduced():
            return self._answer(image)

    def forward_all(self, image: Tensor) -> Features:
        """The same with every part there is, and not compiled: for a look at it now and then."""
        with torch.no_grad(), self._reduced():
            return self.backbone.forward_all(image)


def fold_batch_norms(backbone: Backbone) -> Backbone:
    """Fold every batch norm that directly follows a convolution into it, in place; a network of timm's stays as it is.

    Which those are, a block says by FOLDS, pairs of attributes; in a plain nn.Sequential, neighbours are. Norms before a padded
    convolution stay: its padding is zero behind them.
    """
    if not isinstance(backbone, (StagedBackbone, Ensemble)):
        return backbone
    for module in list(backbone.modules()):
        pairs = getattr(module, "FOLDS", ())
        if type(module) is nn.Sequential:
            pairs = [(str(i), str(i + 1)) for i, layer in enumerate(module[:-1])
                     if type(layer) is nn.Conv2d and type(module[i + 1]) is nn.BatchNorm2d]
        for convolution, norm in pairs:
            if isinstance(getattr(module, norm), LearnerNorm):  # several statistics for one convolution
                continue
            setattr(module, convolution, fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm)))
            setattr(module, norm, nn.Identity())
    return backbone
