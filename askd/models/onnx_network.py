"""A recogniser of another make, from its ONNX file: it answers with embeddings, and can teach by them."""
from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
import yaml
from torch import Tensor

from askd.errors import CheckpointError
from askd.models.features import Features

INSIGHTFACE = {"colour": "RGB", "mean": [127.5], "std": [127.5]}
NORMALISES_ITSELF = {"colour": "RGB", "mean": [0.0], "std": [1.0]}
LARGEST = 2 * 2**30  # bytes: what one protobuf file can hold


class OnnxNetwork:
    """Images (B, 3, 112, 112) RGB in [-1, 1] -> Features of the embedding alone; no gradient, nothing to train.

    path: an ONNX file with one image input (N, 3, 112, 112) and one output (N, E), or a folder (an InsightFace pack) with one such file.
    What the pixels become first: NAME.yaml beside NAME.onnx says `mean`, `std` (numbers of 0..255, one or one per channel as fed)
    and `colour` (RGB or BGR). Without it InsightFace's convention holds: RGB, (x - 127.5) / 127.5, or pixels as they are where
    subtraction and multiplication are among the graph's first eight nodes. `input` says which it was.
    Raises CheckpointError for a file that is no such recogniser.
    """

    feature_info: tuple = ()

    def __init__(self, path: Path | str):
        self.path = recogniser_in(Path(path))
        content = _read(self.path)
        self.session = _open(content, self.path)
        self.batch, self.head_hidden_size = _recognises(self.session, self.path)
        beside = self.path.with_suffix(".yaml")
        self.input = _read_convention(beside) if beside.is_file() else _insightface_convention(content)
        self.sha256 = hashlib.sha256(content + repr(sorted(self.input.items())).encode()).hexdigest()
        self._mean, self._std = (np.float32(self.input[key]).reshape(-1, 1, 1) for key in ("mean", "std"))

    def forward_all(self, image: Tensor) -> Features:
        """Features with neither attention nor stages; the embedding on the image's device, float32."""
        pixels = image.detach().float().cpu().numpy() * 127.5 + 127.5
        if self.input["colour"] == "BGR":
            pixels = pixels[:, ::-1]
        fed = np.ascontiguousarray((pixels - self._mean) / self._std, np.float32)
        name = self.session.get_inputs()[0].name
        parts = [fed] if self.batch is None else np.split(fed, len(fed))
        embedding = np.concatenate([self.session.run(None, {name: part})[0] for part in parts])
        return Features(torch.from_numpy(embedding).to(image.device), (), ())

    def fed(self) -> str:
        """The input's convention in words, for whoever must notice that it is not this model's."""
        source = self.path.with_suffix(".yaml").name if self.input not in (INSIGHTFACE, NORMALISES_ITSELF) else "InsightFace's convention"
        mean, std = (", ".join(f"{number:g}" for number in self.input[key]) for key in ("mean", "std"))
        return f"{self.input['colour']} as (x - [{mean}]) / [{std}] by {source}"

    def __call__(self, image: Tensor) -> Tensor:
        """The embedding alone, (B, 3, 112, 112) -> (B, E)."""
        return self.forward_all(image).embedding


def recogniser_in(path: Path) -> Path:
    """The ONNX file itself, or the one recogniser among the files of a folder."""
    if not path.is_dir():
        return path
    found = []
    for file in sorted(path.glob("*.onnx")):
        try:
            _recognises(_open(_read(file), file), file)
        except CheckpointError:  # a detector, a landmark model: the rest of a pack
            continue
        found.append(file)
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise CheckpointError(f"{path}: expected one recogniser among its .onnx files, found {names}; name the file")
    return found[0]


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such ONNX file; correct the path")
    if path.stat().st_size > LARGEST:
        raise CheckpointError(f"{path}: {path.stat().st_size} bytes are more than one ONNX file can hold; give the recogniser itself")
    return path.read_bytes()


def _open(content: bytes, path: Path) -> onnxruntime.InferenceSession:
    providers = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in onnxruntime.get_available_providers()]
    try:
        return onnxruntime.InferenceSession(content, providers=providers)
    except Exception as error:  # onnxruntime raises kinds of its own for a file that is not a model
        raise CheckpointError(f"{path} is no ONNX model that runs here ({str(error).splitlines()[0][:200]}); fetch it again") from None


def _recognises(session: onnxruntime.InferenceSession, path: Path) -> tuple[int | None, int]:
    """(fixed batch of 1, or None where any will do; width of the embedding)."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    shapes = [entry.shape for entry in (*inputs, *outputs)]
    if len(inputs) == len(outputs) == 1 and inputs[0].shape[1:] == [3, 112, 112] and len(outputs[0].shape) == 2:
        batch, width = inputs[0].shape[0], outputs[0].shape[1]
        if isinstance(width, int) and (batch == 1 or not isinstance(batch, int)):
            return batch if isinstance(batch, int) else None, width
    expected = "expected one input (N, 3, 112, 112) and one output (N, E)"
    raise CheckpointError(f"{path} takes and gives {shapes}, {expected}; give a face recogniser")


def _insightface_convention(content: bytes) -> dict:
    nodes = onnx.load_from_string(content).graph.node[:8]
    subtracts, multiplies = (any(node.name.startswith(words) for node in nodes) for words in (("Sub", "_minus"), ("Mul", "_mul")))
    return NORMALISES_ITSELF if subtracts and multiplies else INSIGHTFACE


def _read_convention(path: Path) -> dict:
    expected = "`mean` and `std` (numbers of 0..255, one or three, std above 0) and `colour` (RGB or BGR)"
    try:
        given = yaml.safe_load(path.read_text())
        convention = {key: np.atleast_1d(np.asarray(given[key], np.float64)).tolist() for key in ("mean", "std")}
        convention["colour"] = given.get("colour", "RGB")
        wrong = (
            set(given) - {"mean", "std", "colour"} or convention["colour"] not in ("RGB", "BGR")
            or any(np.shape(convention[key]) not in ((1,), (3,)) or not np.isfinite(convention[key]).all() for key in ("mean", "std"))
            or min(convention["std"]) <= 0
        )
    except (AttributeError, KeyError, OSError, TypeError, ValueError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path}: is no recogniser's input ({' '.join(str(error).split())}); expected {expected}") from None
    if wrong:
        raise CheckpointError(f"{path}: says {given}, expected {expected}")
    return convention
