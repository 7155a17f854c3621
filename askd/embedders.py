"""One interface to everything that can be measured: our runs, checkpoints, ONNX files, InsightFace packs, timm models, Python callables."""
from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from askd.data.loader import to_unit
from askd.errors import CheckpointError
from askd.models.features import Features
from askd.models.onnx_network import OnnxNetwork
from askd.models.timm_network import TimmNetwork
from askd.teachers import Frozen, load_network, weights_hash

OURS = "RGB as (x - 127.5) / 127.5, as trained"
TIMM = "timm:"
FORMS = "a run folder, a checkpoint, a .onnx file, the folder of an InsightFace pack, or timm:ARCHITECTURE:WEIGHTS"


@dataclass(frozen=True)
class Embedder:
    """A recogniser to be measured.

    name: its name in tables; sha256: of its weights and of what it is fed, None where nothing vouches for it: then nothing is cached;
    input: in words, what it is fed; network: (B, 3, 112, 112) RGB in [-1, 1], float32 on its device -> Features without gradient;
    path: where it came from; module: the PyTorch network, for gradients, or None.
    """

    name: str
    sha256: str | None
    input: str
    network: Callable[[Tensor], Features]
    path: str = ""
    module: nn.Module | None = None

    def embed(self, images: Tensor) -> Tensor:
        """Embeddings (B, D), not normalised, of faces (B, 3, 112, 112) RGB: uint8, or float32 in [-1, 1]."""
        return self.look(images).embedding

    def look(self, images: Tensor) -> Features:
        """The same with the attention maps and stage outputs, where the network has some. CheckpointError for what is no embedding."""
        found = self.network(to_unit(images) if images.dtype == torch.uint8 else images)
        if found.embedding.ndim != 2 or len(found.embedding) != len(images):
            raise CheckpointError(f"{self.name} gives {tuple(found.embedding.shape)} for {len(images)} faces, expected ({len(images)}, D)")
        return found


def open_embedder(spec: str | Path, device: torch.device, compile: bool = False, name: str | None = None) -> Embedder:
    """The recogniser that `spec` names, frozen on `device`: FORMS lists what can be named, and NAME=SPEC gives it a name of its own.

    CheckpointError where there is none.
    """
    label, equals, rest = str(spec).partition("=")
    if equals and not Path(str(spec)).exists():
        spec, name = rest, name or label
    if str(spec).startswith(TIMM):
        architecture, _, weights = str(spec).removeprefix(TIMM).partition(":")
        if not weights:
            raise CheckpointError(f"{spec}: names no weights, and random ones recognise nobody; say timm:{architecture or 'ARCHITECTURE'}:FILE")
        network = TimmNetwork(architecture, weights).eval().requires_grad_(False).to(device)
        forward = torch.compile(network.forward_all) if compile else network.forward_all
        return Embedder(name or Path(weights).stem, network.sha256, network.fed(), _without_gradient(forward), str(spec), network)
    path = Path(spec)
    network, _ = load_network(path)
    sha256, frozen = weights_hash(network), Frozen(network, device, compile)
    if isinstance(network, OnnxNetwork):
        return Embedder(name or network.path.stem, sha256, network.fed(), frozen, str(spec))
    return Embedder(name or _name_of(path), sha256, OURS, frozen, str(spec), frozen.backbone)


def from_callable(name: str, function: Callable[[Tensor], Tensor], version: str | None = None) -> Embedder:
    """Any function of faces (B, 3, 112, 112) RGB float32 in [-1, 1] to embeddings (B, D), tensor or array.

    version: what its cached embeddings are known by, for the caller to change with the function; None: they are not kept.
    """
    def look(image: Tensor) -> Features:
        return Features(torch.as_tensor(function(image)), (), ())

    sha256 = None if version is None else hashlib.sha256(f"{name}\0{version}".encode()).hexdigest()
    return Embedder(name, sha256, "RGB in [-1, 1], a Python function", _without_gradient(look), "a Python function")


def _without_gradient(forward: Callable[[Tensor], Features]) -> Callable[[Tensor], Features]:
    def look(image: Tensor) -> Features:
        with torch.no_grad():
            return forward(image)

    return look


def _name_of(path: Path) -> str:
    """runs/demo/student/seed0 -> demo/student/seed0; any other folder by its name, a file by its stem."""
    if path.is_file():
        return path.stem
    parts = path.resolve().parts
    return "/".join(parts[-3:]) if parts[-1].startswith("seed") else parts[-1]
