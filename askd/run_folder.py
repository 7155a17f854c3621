"""A run folder: what it says of a training at its beginning and at its end, and whether it holds this very one."""
from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from askd import __version__
from askd.backbone import network_options
from askd.data.faces import FaceSet
from askd.engine import dist
from askd.engine.loop import Summary
from askd.errors import CheckpointError
from askd.recipe import differences, fill_defaults, save
from askd.schema import Recipe, Resume


def run_folder(recipe: Recipe, role: str) -> Path:
    """runs/<recipe>/<role>/seed<k>."""
    return Path(recipe.out) / recipe.name / role / f"seed{recipe.seed}"


def is_finished(folder: Path, identity: dict, resume: Resume) -> bool:
    """Whether this very training is done already; CheckpointError, with the differences, where the folder holds another one."""
    stored = folder / "run.json"
    if not stored.is_file():
        return False
    if resume is Resume.never:
        raise CheckpointError(f"{folder} holds a run and resume=never; remove it, or give this one another name=")
    try:
        theirs = fill_defaults(identity, dict(json.loads(stored.read_text())))
        changes = differences(identity, theirs)
    except (AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{stored} is corrupt ({error}); remove {folder} to train again") from None
    if theirs.get("class_ids", identity["class_ids"]) != identity["class_ids"]:
        raise CheckpointError(
            f"{folder} began with other people, or with the same in another order (its classes.txt: {theirs.get('classes')} class ids, the "
            f"data gives {identity['classes']}); train it on the data it began with, or give the new run another name="
        )
    if changes:
        raise CheckpointError(
            f"{folder} was trained otherwise ({'; '.join(changes)}); give this run another name=, or remove that folder"
        )
    finished = (folder / "meta.json").is_file()
    if finished and dist.is_main():
        print(f"{identity['role']}: {folder} is done already", file=sys.stderr)
    return finished


def begin_folder(folder: Path, recipe: Recipe, identity: dict, faces: FaceSet) -> None:
    """Make the run folder: the resolved recipe, what the weights depend on, and the identity behind each class id."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save(recipe, folder / "recipe.yaml")
        (folder / "classes.txt").write_text("".join(f"{name}\n" for name in faces.class_names))
        (folder / "run.json.tmp").write_text(json.dumps(identity, indent=1, sort_keys=True))
        os.replace(folder / "run.json.tmp", folder / "run.json")  # whole or not at all: without it nothing resumes
    except OSError as error:
        raise CheckpointError(f"cannot write {folder} ({error.strerror}); choose another out=") from None


def describe(
    recipe: Recipe, role: str, sizes: list[int], summary: Summary, identity: dict, teacher_path: Path | None, teacher_meta: dict,
) -> dict:
    """meta.json: all that a consumer needs to rebuild and feed the network, and how it came about."""
    return {
        "role": role, "recipe": recipe.name, "seed": recipe.seed, "backbone": recipe.network.backbone,
        "network": network_options(recipe), "embedding": recipe.network.embedding,
        "input": {"size": 112, "colour": "RGB", "mean": 127.5, "std": 127.5, "layout": "NCHW"},
        "sizes": sizes, "degradation": recipe.data.degradation.name, "quantise": recipe.data.quantise,
        "data": recipe.data.set, "classes": identity["classes"], "class_ids": identity["class_ids"], "images": identity["images"],
        "teacher": None if "teacher" not in identity else {
            "path": str(teacher_path), "sha256": identity["teacher"], "recipe": teacher_meta.get("recipe"),
        },
        "training": {key: value for key, value in asdict(summary).items() if key not in ("best_path", "seconds", "images_per_second")},
        "versions": {"askd": __version__, "torch": torch.__version__},
    }


def class_digest(class_names: list[str]) -> str:
    """SHA-256 of the identities' names in the order of their class ids: the same on every machine that numbers them alike."""
    return hashlib.sha256("".join(f"{name}\n" for name in class_names).encode()).hexdigest()
