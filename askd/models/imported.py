"""Foreign checkpoints into our IResNet and MobileFaceNet, by named key maps, strictly."""
from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from askd.errors import CheckpointError
from askd.models.convention import read_convention
from askd.models.features import Backbone
from askd.models.imported_mobilefacenet import MOBILEFACENETS, MobileFaceNetFormat
from askd.models.iresnet import LAYOUTS, WIDTHS, IResNet

KNOWN = (
    "known are released A-SKD networks (*_net.ckpt) and state dicts of arcface_torch IResNets (backbone.pth) and of MobileFaceNets "
    "(InsightFace_Pytorch, face.evoLVe, cavaface, arcface_torch)"
)


@dataclass(frozen=True)
class ForeignFormat:
    """How a foreign IResNet names our modules: ours -> theirs; a block's follow `layer<stage>.<index>.`."""

    name: str
    trunk: dict[str, str]
    block: dict[str, str]
    bgr: bool
    optional: dict[str, float] = field(default_factory=dict)  # their keys that a file may lack, and what stands for them
    make = IResNet
    layouts = LAYOUTS
    standard = {"widths": WIDTHS}

    def key(self, ours: str) -> str:
        """Their key of one of ours: stages.0.2.conv1.weight -> layer1.2.res_layer.1.weight, say."""
        module, _, tensor = ours.rpartition(".")
        if in_block := re.fullmatch(r"stages\.(\d+)\.(\d+)\.(.+)", module):
            stage, index, part = in_block.groups()
            return f"layer{int(stage) + 1}.{index}.{self.block[part]}.{tensor}"
        return f"{self.trunk[module]}.{tensor}"

    def knows(self, theirs: str) -> bool:
        """Whether one of their keys is of a module that this format has."""
        module = theirs.rpartition(".")[0]
        return module in self.trunk.values() or re.sub(r"^layer\d\.\d+\.", "", module) in self.block.values()

    def infer(self, state: dict[str, Tensor]) -> tuple[dict, dict]:
        """IResNet's options from keys and shapes: blocks and widths; attention, its parameters and the embedding.

        ValueError where a shape that tells is missing.
        """
        def size(ours: str, axis: int, dims: int) -> int:
            key = self.key(ours)
            if key not in state or state[key].ndim != dims:
                raise ValueError(f"{key} " + (f"is {tuple(state[key].shape)}, not of {dims} axes" if key in state else "is missing"))
            return state[key].shape[axis]

        # Counted, not the highest index: a gap shows as missing and left-over keys, a wild index builds nothing wild.
        indices = [set(re.findall(rf"^layer{stage}\.(\d+)\.", "\n".join(state), re.M)) for stage in (1, 2, 3, 4)]
        widths = tuple(size(f"stages.{stage}.0.conv2.weight", 0, 4) for stage in range(4))
        layout = {"blocks": tuple(map(len, indices)), "widths": widths}
        network = {"attention": "none", "embedding": size("neck.3.weight", 0, 2)}
        if any(".channel_layer." in key or ".spatial_layer." in key for key in state):
            hidden = [size(f"stages.{stage}.0.attention.channel.mlp.0.weight", 0, 4) for stage in range(4)]
            fitting = [r for r in range(1, max(widths) + 1) if [max(width // r, 1) for width in widths] == hidden]
            network |= {
                "attention": "cbam", "spatial_kernel": size("stages.0.0.attention.spatial.conv.weight", 3, 4),
                "reduction": max(fitting, default=16),  # where none fits, the shapes that differ from 16's are named
            }
        return layout, network


# The released network concatenates [mean over C; max over C] before the spatial convolution, shares the channel MLP
# between average and maximum, and attends after a residual branch's last batch norm, as ours: names and colour differ.
RELEASED_ASKD = ForeignFormat(
    "released A-SKD network",
    trunk={
        "stem.0": "input_layer.0", "stem.1": "input_layer.1", "stem.2": "input_layer.2",
        "neck.0": "output_layer.0", "neck.3": "output_layer.3", "neck.4": "output_layer.4",
    },
    block={
        "bn1": "res_layer.0", "conv1": "res_layer.1", "bn2": "res_layer.2",
        "act": "res_layer.3", "conv2": "res_layer.4", "bn3": "res_layer.5",
        "attention.channel.mlp.0": "channel_layer.shared_mlp.0",
        "attention.channel.mlp.2": "channel_layer.shared_mlp.2",
        "attention.spatial.conv": "spatial_layer.conv",
        "shortcut.0": "shortcut_layer.0", "shortcut.1": "shortcut_layer.1",
    },
    bgr=True,  # its images come from cv2.imread, unconverted
)
ARCFACE_TORCH = ForeignFormat(
    "arcface_torch IResNet",
    trunk={
        "stem.0": "conv1", "stem.1": "bn1", "stem.2": "prelu",
        "neck.0": "bn2", "neck.3": "fc", "neck.4": "features",
    },
    block={
        "bn1": "bn1", "conv1": "conv1", "bn2": "bn2", "act": "prelu", "conv2": "conv2", "bn3": "bn3",
        "shortcut.0": "downsample.0", "shortcut.1": "downsample.1",
    },
    bgr=False,
)


FORMATS: tuple[ForeignFormat | MobileFaceNetFormat, ...] = (RELEASED_ASKD, ARCFACE_TORCH, *MOBILEFACENETS)


def import_checkpoint(path: str | Path) -> tuple[Backbone, dict]:
    """Our IResNet or MobileFaceNet with the weights of a foreign checkpoint, on the CPU in float32, and what is known of it.

    path: a released A-SKD `{'iters', 'net_state_dict'}` file or its bare state dict, or the state dict of an arcface_torch
    IResNet or of a MobileFaceNet; with or without DataParallel's `module.` prefix. Keys and shapes tell blocks, widths, CBAM, embedding.
    A network trained on BGR has its first convolution's input channels reversed: the result takes RGB, as all ours. Which it was is the
    format's custom, unless NAME.yaml beside the file says `colour`, as for ONNX files (face.evoLVe has InsightFace_Pytorch's keys, and RGB).
    The embedding's batch norm keeps the file's weight (learnt in A-SKD, 1 in arcface_torch), without gradient.
    The dict: `source`; `trained_on`, RGB or BGR; `backbone`, a name of BACKBONES, or None where no name fits; `network`, make_backbone's options
    (the class's, with blocks and widths, where backbone is None); `input`; `iterations`, None where the file has none.
    Raises CheckpointError for a missing, corrupt or unknown file, and keys missing, left over or misshaped.
    """
    path = Path(path)
    state, iterations = read_state_dict(path)
    foreign = max(FORMATS, key=lambda candidate: sum(map(candidate.knows, state)))
    if not any(map(foreign.knows, state)):
        raise CheckpointError(f"{path} holds no network known here (its keys: {_first(state)}); {KNOWN}")
    try:
        layout, network = foreign.infer(state)
    except ValueError as error:
        raise CheckpointError(f"{path} is no complete {foreign.name}: {error}; give an unmodified network") from None
    try:
        with torch.device("meta"):  # no random weights drawn, so that importing leaves torch's generator alone
            backbone = foreign.make(**layout, **network)
    except ValueError as error:
        raise CheckpointError(f"{path}, a {foreign.name}: {error}") from None
    bgr = _is_bgr(path, foreign)
    backbone.load_state_dict(to_our_keys(state, backbone, foreign, path, bgr), strict=True, assign=True)
    name = next((name for name, known in foreign.layouts.items() if {**foreign.standard, **known} == layout), None)
    return backbone, {
        "source": foreign.name, "trained_on": "BGR" if bgr else "RGB", "backbone": name, "network": network if name else layout | network,
        "iterations": iterations,
        "input": {"size": 112, "colour": "RGB", "mean": 127.5, "std": 127.5, "layout": "NCHW"},
    }


def import_centres(path: str | Path) -> Tensor:
    """Class centres (classes, E) of a released `*_margin.ckpt`, float32, not normalised; else CheckpointError."""
    state, _ = read_state_dict(Path(path))
    if list(state) != ["weight"] or state["weight"].ndim != 2:
        held = _first(f"{key} {tuple(value.shape)}" for key, value in state.items())
        raise CheckpointError(
            f"{path} holds no class centres: expected the one key weight (classes, embedding), got {held}; "
            "give the *_margin.ckpt beside the network"
        )
    return state["weight"].float()


def read_state_dict(path: Path) -> tuple[dict[str, Tensor], int | None]:
    """A file's tensors by name, freed of `net_state_dict` and `module.`, and its iteration count where it has one."""
    if not path.is_file():
        raise CheckpointError(f"no checkpoint file {path}; check the path")
    try:
        damaged = zipfile.ZipFile(path).testzip() if zipfile.is_zipfile(path) else None  # torch compares no checksums
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen kinds for a file that is not its own
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise CheckpointError(
            f"{path} cannot be read as a PyTorch checkpoint of tensors alone ({reason}); fetch it again, or store the "
            "network's state_dict() by itself with torch.save"
        ) from None
    if damaged:
        raise CheckpointError(f"{path} is corrupt (checksum of {damaged}); fetch it again")
    iterations = None
    if isinstance(content, dict) and "net_state_dict" in content:
        iterations, content = content.get("iters"), content["net_state_dict"]
    entries = content.items() if isinstance(content, dict) else []
    if not entries or not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in entries):
        held = _first(str(key) for key, _ in entries) or type(content).__name__
        raise CheckpointError(f"{path} is no state dict of tensors (it holds: {held}); {KNOWN}")
    return strip_data_parallel(content), iterations


def strip_data_parallel(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict without the `module.` that DataParallel puts before every key."""
    if all(key.startswith("module.") for key in state):
        return {key.removeprefix("module."): value for key, value in state.items()}
    return state


def _is_bgr(path: Path, foreign: ForeignFormat | MobileFaceNetFormat) -> bool:
    """Whether a network was trained on BGR; CheckpointError where the YAML beside it asks for what cannot be folded into its weights."""
    beside = path.with_suffix(".yaml")
    if not beside.is_file():
        return foreign.bgr
    convention = read_convention(beside)
    if {*convention["mean"], *convention["std"]} != {127.5}:
        raise CheckpointError(f"{beside}: a network of ours takes (x - 127.5) / 127.5; say mean: 127.5, std: 127.5 and the colour")
    return convention["colour"] == "BGR"


def to_our_keys(
    state: dict[str, Tensor], backbone: Backbone, foreign: ForeignFormat | MobileFaceNetFormat, path: Path, bgr: bool,
) -> dict[str, Tensor]:
    """The weights under our names, float32, first convolution in RGB; CheckpointError unless all keys match.

    `num_batches_tracked`, which no output depends on, is taken where present; it starts at 0 in files of old PyTorch.
    """
    expected = backbone.state_dict()
    theirs = {ours: foreign.key(ours) for ours in expected}
    problems = [f"has unknown {key}" for key in sorted(state.keys() - set(theirs.values()))]
    mapped = {}
    for ours, key in theirs.items():
        if key not in state and ours.endswith("num_batches_tracked"):
            mapped[ours] = torch.zeros((), dtype=torch.long)
        elif key not in state and key in foreign.optional:
            mapped[ours] = torch.full(expected[ours].shape, foreign.optional[key])
        elif key not in state:
            problems.append(f"lacks {key}")
        elif state[key].shape != expected[ours].shape:
            problems.append(f"{key} is {tuple(state[key].shape)}, expected {tuple(expected[ours].shape)}")
        else:
            mapped[ours] = state[key].to(expected[ours].dtype)
    if problems:
        raise CheckpointError(f"{path} does not fit as {foreign.name}: {_first(problems)}; give an unmodified network")
    if bgr:
        mapped["stem.0.weight"] = mapped["stem.0.weight"].flip(1)
    return mapped


def _first(items: Iterable[str], count: int = 3) -> str:
    items = list(items)
    return ", ".join(items[:count]) + (f" and {len(items) - count} more" if len(items) > count else "")
