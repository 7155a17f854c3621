"""A recogniser of another make, from its ONNX file: it answers with embeddings, and can teach by them."""
from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor

from askd.errors import CheckpointError
from askd.models.convention import fed_pixels, in_words, read_convention
from askd.models.features import Features

INSIGHTFACE = {"colour": "RGB", "mean": [127.5], "std": [127.5]}
NORMALISES_ITSELF = {"colour": "RGB", "mean": [0.0], "std": [1.0]}
LARGEST = 2 * 2**30  # bytes: what one protobuf file can hold
SIDE = 112  # pixels: of the faces that are handed in, and of what InsightFace calls a recogniser
TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}


class OnnxNetwork:
    """Images (B, 3, 112, 112) RGB in [-1, 1] -> Features of the embedding alone; no gradient, nothing to train.

    path: an ONNX file with one image input, (N, 3, S, S) or (N, S, S, 3), float or uint8, and one output (N, E), or a folder (an InsightFace
    pack) with one such file that takes 112x112. N may be fixed (the last batch is filled up) or free; faces are resized to an S other than 112.
    What the pixels become first: NAME.yaml beside NAME.onnx says `mean`, `std` (numbers of 0..255, one or one per channel as fed),
    `colour` (RGB or BGR), and, where the graph leaves them open, `size` (S) and `output` (which of several). Without it InsightFace's
    convention holds: RGB, (x - 127.5) / 127.5, or pixels as they are where subtraction and multiplication are among the graph's first eight
    nodes, or where it takes uint8. `input` says which it was.
    Raises CheckpointError for a file that is no such recogniser.
    """

    feature_info: tuple = ()

    def __init__(self, path: Path | str):
        self.path = recogniser_in(Path(path))
        content = _read(self.path)
        self.session = _open(content, self.path)
        beside = self.path.with_suffix(".yaml")
        self._says_so = beside.is_file()
        given = read_convention(beside, optional=("size", "output")) if self._says_so else {}
        self.signature = signature = _signature(self.session, self.path, given)
        self.input = given or (dict(NORMALISES_ITSELF) if signature.type is np.uint8 else _insightface_convention(content))
        if signature.type is np.uint8 and (set(self.input["mean"]), set(self.input["std"])) != ({0.0}, {1.0}):
            raise CheckpointError(f"{beside}: the graph takes uint8, which has no mean and std; say mean: 0, std: 1")
        self.sha256 = hashlib.sha256(content + repr(sorted(self.input.items())).encode()).hexdigest()
        self.batch = signature.batch
        self.head_hidden_size = signature.width or self(torch.zeros(1, 3, SIDE, SIDE)).shape[1]

    def forward_all(self, image: Tensor) -> Features:
        """Features with neither attention nor stages; the embedding on the image's device, float32."""
        signature = self.signature
        fed = fed_pixels(image, self.input, signature.side).cpu().numpy()
        fed = (np.rint(fed) if signature.type is np.uint8 else fed).astype(signature.type)
        fed = np.ascontiguousarray(fed.transpose(0, 2, 3, 1) if signature.channels_last else fed)
        step = signature.batch or len(fed)
        parts = [self._run(fed[start:start + step], step) for start in range(0, len(fed), step)]
        return Features(torch.from_numpy(np.concatenate(parts)).to(image.device), (), ())

    def _run(self, fed: np.ndarray, step: int) -> np.ndarray:
        missing = step - len(fed)
        filled = np.concatenate([fed, np.repeat(fed[-1:], missing, axis=0)]) if missing else fed
        try:
            found, = self.session.run([self.signature.output], {self.signature.input: filled})
        except Exception as error:  # onnxruntime raises kinds of its own for a graph that does not take what it says it takes
            raise CheckpointError(f"{self.path} does not run on {filled.shape} ({str(error).splitlines()[0][:200]}); export it again") from None
        if found.shape[0] != step or found.size != step * max(found.shape[1:], default=1):
            raise CheckpointError(f"{self.path} gives {found.shape} for {step} images, expected ({step}, E); give a face recogniser")
        return found.reshape(step, -1)[:len(fed)].astype(np.float32)

    def fed(self) -> str:
        """The input's convention in words, for whoever must notice that it is not this model's."""
        return in_words(self.input, self.path.with_suffix(".yaml").name if self._says_so else "InsightFace's convention", self.signature.side)

    def __call__(self, image: Tensor) -> Tensor:
        """The embedding alone, (B, 3, 112, 112) -> (B, E)."""
        return self.forward_all(image).embedding


@dataclass(frozen=True)
class Signature:
    """What a graph takes and gives. batch: None where any will do; side: pixels; width: None where only a run will tell."""

    input: str
    output: str
    type: type
    batch: int | None
    side: int
    channels_last: bool
    width: int | None


def recogniser_in(path: Path) -> Path:
    """The ONNX file itself, or the one recogniser among the files of a folder: as InsightFace has it, it takes 112x112."""
    if not path.is_dir():
        return path
    found = []
    for file in sorted(path.glob("*.onnx")):
        try:
            session = _open(_read(file), file)
            _signature(session, file, {})
        except CheckpointError:  # a detector, a landmark model: the rest of a pack
            continue
        if session.get_inputs()[0].shape[1:] == [3, SIDE, SIDE] and len(session.get_outputs()) == 1:
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
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # several processes share the cores as OMP_NUM_THREADS says
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(content, options, providers=providers)
    except Exception as error:  # onnxruntime raises kinds of its own for a file that is not a model
        raise CheckpointError(f"{path} is no ONNX model that runs here ({str(error).splitlines()[0][:200]}); fetch it again") from None


def _signature(session: onnxruntime.InferenceSession, path: Path, given: dict) -> Signature:
    inputs, outputs = session.get_inputs(), session.get_outputs()
    expected = "expected one image input, (N, 3, S, S) or (N, S, S, 3), and one output (N, E)"
    wrong = CheckpointError(f"{path} takes and gives {[entry.shape for entry in (*inputs, *outputs)]}, {expected}; give a face recogniser")
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in TYPES:
        raise wrong
    batch, *rest = inputs[0].shape
    channels_last = rest[2] == 3 and rest[0] != 3
    height, width = rest[:2] if channels_last else rest[1:]
    fixed = [side for side in (height, width) if isinstance(side, int)]
    if 3 not in (rest[0], rest[2]) or len(set(fixed)) > 1:
        raise wrong
    side = fixed[0] if fixed else given.get("size", SIDE)
    if given.get("size", side) != side:
        raise CheckpointError(f"{path} takes {side}x{side}, and the .yaml beside it says size: {given['size']}; leave the size out")
    embeddings = [entry for entry in outputs if _is_embedding(entry.shape)]
    if "output" in given:
        embeddings = [entry for entry in outputs if entry.name == given["output"]]
        if not embeddings:
            names = ", ".join(entry.name for entry in outputs)
            raise CheckpointError(f"{path}: has no output {given['output']!r}; its outputs are {names}")
    if len(embeddings) > 1:
        names = ", ".join(entry.name for entry in embeddings)
        raise CheckpointError(f"{path}: has several outputs that could be the embedding, {names}; say `output: NAME` in "
                              f"{path.with_suffix('.yaml').name} beside it, with mean, std and colour")
    if not embeddings:
        raise wrong
    shape = embeddings[0].shape
    return Signature(inputs[0].name, embeddings[0].name, TYPES[inputs[0].type], batch if isinstance(batch, int) else None, side,
                     channels_last, shape[1] if isinstance(shape[1], int) else None)


def _is_embedding(shape: list) -> bool:
    """(N, E), also as (N, E, 1, 1); a second output (N, 1), a norm say, is none."""
    return len(shape) >= 2 and shape[1] != 1 and all(side == 1 for side in shape[2:])


def _insightface_convention(content: bytes) -> dict:
    nodes = onnx.load_from_string(content).graph.node[:8]
    subtracts, multiplies = (any(node.name.startswith(words) for node in nodes) for words in (("Sub", "_minus"), ("Mul", "_mul")))
    return dict(NORMALISES_ITSELF if subtracts and multiplies else INSIGHTFACE)
