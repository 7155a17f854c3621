"""Training state and weights on disk: files appear whole or not at all, and nothing that is read can run code."""
from __future__ import annotations

import json
import logging
import os
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from askd.errors import CheckpointError

logger = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one run: `step_<n>.pt`, the newest `keep` of them, and `best.pt`.

    folder: made if missing. Only one process may write (`remove_stale_files` and `save`); any may read.
    A state is a dict of tensors, numbers, strings, lists and dicts, all that `torch.load(weights_only=True)` accepts.
    """

    def __init__(self, folder: Path, keep: int = 2):
        self.folder, self.keep = Path(folder), keep
        self.best = self.folder / "best.pt"

    def steps(self) -> dict[int, Path]:
        """Every checkpoint by its step, the oldest first; whether they are sound is not looked at."""
        found = {int(path.stem.removeprefix("step_")): path for path in self.folder.glob("step_*.pt")}
        return dict(sorted(found.items()))

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Writes the state after `step` steps, then drops what is too old and what lies ahead (an abandoned future)."""
        path = self.folder / f"step_{step:08d}.pt"
        write_state(path, state)
        past = [other for other in self.steps() if other <= step]
        for other, stale in self.steps().items():
            if other not in past[-self.keep :]:
                stale.unlink()
        return path

    def latest(self) -> Path | None:
        """The newest sound checkpoint, or None where there are none; passes over corrupt ones with a warning.

        Raises CheckpointError if every one there is is corrupt: starting over is for the user to decide.
        """
        paths = list(self.steps().values())
        for path in reversed(paths):
            if (damage := find_damage(path)) is None:
                return path
            logger.warning("checkpoint %s is corrupt (%s); trying the one before it", path, damage)
        if paths:
            raise CheckpointError(f"every checkpoint in {self.folder} is corrupt; remove it to train from the start")
        return None

    def load(self, path: Path) -> dict[str, Any]:
        """The state in `path`, tensors on the CPU; raises CheckpointError if it is missing or corrupt."""
        return read_state(path)

    def clear(self) -> None:
        """Removes every checkpoint, the best one too."""
        for path in [*self.steps().values(), self.best]:
            path.unlink(missing_ok=True)


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Writes a state as a `.pt` file, whole or not at all; raises CheckpointError where the disk refuses it."""
    _write_whole(path, lambda file: torch.save(state, file))


def read_state(path: Path) -> dict[str, Any]:
    """Reads a `.pt` file, checksums first, tensors to the CPU; raises CheckpointError if missing or corrupt."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no checkpoint {path}; check the path, or train first")
    damage = find_damage(path)
    if damage is None:
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises half a dozen kinds for a file that is not its own
            damage = str(error).splitlines()[0]
    raise CheckpointError(f"checkpoint {path} is corrupt ({damage}); remove it and use an older one, or train again")


def find_damage(path: Path) -> str | None:
    """What is wrong with a `.pt` file, None if it is sound; reads it all, as torch does not compare checksums."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError) as error:
        return str(error)
    return f"checksum of {damaged}" if damaged else None


def save_weights(folder: Path, state_dict: dict[str, Tensor], meta: dict[str, Any]) -> None:
    """Writes `model.safetensors` and `meta.json`; the second comes last, so that the pair counts only when whole.

    meta: whatever JSON can hold; raises CheckpointError where the disk refuses.
    """
    folder = Path(folder)
    description = json.dumps(meta, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    (folder / "meta.json").unlink(missing_ok=True)
    save_tensors(folder / "model.safetensors", state_dict)
    _write_whole(folder / "meta.json", lambda file: file.write(description))


def save_tensors(path: Path, state_dict: dict[str, Tensor]) -> None:
    """Writes tensors as a `.safetensors` file, whole or not at all; raises CheckpointError where the disk refuses."""
    content = safetensors.torch.save({name: value.detach().cpu().contiguous() for name, value in state_dict.items()})
    _write_whole(Path(path), lambda file: file.write(content))


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights (on the CPU) and meta that `save_weights` wrote; `path` is the folder or its `model.safetensors`.

    Raises CheckpointError if either file is missing or corrupt.
    """
    folder = Path(path).parent if Path(path).suffix == ".safetensors" else Path(path)
    weights, description = folder / "model.safetensors", folder / "meta.json"
    for file in (weights, description):
        if not file.is_file():
            raise CheckpointError(f"no {file.name} in {folder}; a finished run has model.safetensors and meta.json")
    try:
        return safetensors.torch.load_file(weights), json.loads(description.read_bytes())
    except (SafetensorError, ValueError, OSError) as error:
        raise CheckpointError(f"the weights in {folder} are corrupt ({error}); write them again") from error


def load_module(module: nn.Module, state_dict: dict[str, Tensor], source: Path | str) -> None:
    """Loads every key, no more and no fewer; raises CheckpointError naming the source and what does not fit."""
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in state_dict.items()}
    problems = [f"lacks {name}" for name in expected if name not in given]
    problems += [f"has {name}, which the network does not" for name in given if name not in expected]
    problems += [
        f"{name} is {given[name]}, the network's {shape}"
        for name, shape in expected.items()
        if name in given and given[name] != shape
    ]
    if problems:
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise CheckpointError(
            f"the weights in {source} do not fit {type(module).__name__}: {problems[0]}{more}; "
            "choose the architecture they were trained with"
        )
    module.load_state_dict(state_dict, strict=True)


def remove_stale_files(folder: Path) -> None:
    """Removes what a killed process was writing."""
    for path in Path(folder).glob("*.tmp"):
        path.unlink()


def _write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    partial, refused = path.with_name(path.name + ".tmp"), []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            write(_Remembering(file, refused))
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError of its zip writer
        with suppress(OSError):
            partial.unlink()
        reason = str(refused[0] if refused else error).splitlines()[0]
        raise CheckpointError(f"cannot write {path} ({reason}); free some space or choose a writable folder") from error


class _Remembering:
    """A file to write to that keeps the error with which the disk refused: torch's zip writer says something else instead."""

    def __init__(self, file: BinaryIO, refused: list[OSError]):
        self.file, self.refused, self.flush = file, refused, file.flush

    def write(self, content: bytes) -> int:
        try:
            return self.file.write(content)
        except OSError as error:
            self.refused.append(error)
            raise


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
