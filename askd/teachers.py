"""Networks from disk: our run folders, released A-SKD checkpoints, arcface_torch backbones, ONNX recognisers; frozen when they teach."""
from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from askd.engine.checkpoint import load_module, load_weights
from askd.errors import CheckpointError
from askd.models import make_backbone
from askd.models.ensemble import Ensemble
from askd.models.features import Features
from askd.models.imported import import_checkpoint
from askd.models.iresnet import IResNet
from askd.models.onnx_network import OnnxNetwork


def load_network(path: str | Path) -> tuple[IResNet | Ensemble | OnnxNetwork, dict]:
    """Any network that can teach: what load_backbone reads, an ONNX recogniser, or an InsightFace pack; and what is known of it."""
    path = Path(path)
    pack = path.is_dir() and not (path / "meta.json").exists() and any(path.glob("*.onnx"))
    if path.suffix != ".onnx" and not pack:
        return load_backbone(path)
    network = OnnxNetwork(path)
    return network, {"source": "ONNX recogniser", "backbone": network.path.name, "input": network.input}


def load_backbone(path: str | Path) -> tuple[IResNet | Ensemble, dict]:
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
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:  # meta.json can hold anything
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

    An ONNX recogniser is so already.

    Not an nn.Module on purpose: it can enter nobody's state_dict, DDP or train().
    """

    def __init__(self, backbone: IResNet | Ensemble | OnnxNetwork, device: torch.device, compile: bool = False):
        if isinstance(backbone, OnnxNetwork):
            self.backbone, self._forward = backbone, backbone.forward_all
            return
        self.backbone = fold_batch_norms(backbone.eval().requires_grad_(False))
        self.backbone.to(device=device, memory_format=torch.channels_last)
        self._forward = torch.compile(self.backbone.forward_all) if compile else self.backbone.forward_all

    def __call__(self, image: Tensor) -> Features:
        """(B, 3, 112, 112) in [-1, 1] -> Features without gradient."""
        with torch.no_grad():
            return self._forward(image)


def fold_batch_norms(backbone: IResNet | Ensemble) -> IResNet | Ensemble:
    """Fold every batch norm that follows a convolution into it, in place; the ones before a convolution stay (its padding is zero).

    Of an ensemble, those of its stages; its attention modules stay as they are.
    """
    if isinstance(backbone, Ensemble):
        for learner in (backbone.trunk, *backbone.heads):
            fold_batch_norms(learner)
        return backbone
    if not isinstance(backbone.stem, nn.Identity):
        backbone.stem[0], backbone.stem[1] = fuse_conv_bn_eval(backbone.stem[0], backbone.stem[1]), nn.Identity()
    for stage in backbone.stages:
        for block in stage:
            block.conv1, block.bn2 = fuse_conv_bn_eval(block.conv1, block.bn2), nn.Identity()
            block.conv2, block.bn3 = fuse_conv_bn_eval(block.conv2, block.bn3), nn.Identity()
            if block.shortcut is not None:
                block.shortcut = nn.Sequential(fuse_conv_bn_eval(block.shortcut[0], block.shortcut[1]))
    return backbone
