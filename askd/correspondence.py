"""Do a student's channels correspond to its teacher's? Attention maps are compared one by one, which makes sense only where they do."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from askd import cli
from askd.benchmark import open_sets
from askd.data.degrade import EVALUATION_OF, degrade
from askd.data.loader import to_unit
from askd.data.pairs import PairSet
from askd.errors import CheckpointError, DataError, RecipeError
from askd.evaluation.correspondence import correspond, plot, table
from askd.evaluation.embed import decode_all
from askd.recipe import load
from askd.schema import Recipe
from askd.teach import choose_device
from askd.teachers import Frozen, load_backbone

WHAT = "Tell how well a student's channels correspond to its teacher's: their channel attention correlated over faces of eval.sets, block by block."
USAGE = "STUDENT TEACHER [size=PIXELS] [faces=1000] [out=correspondence] [key=value ...]"
LEAST = 32  # faces, for a correlation that means anything


def main(argv: list[str]) -> None:
    """`python -m askd.correspondence STUDENT TEACHER [key=value ...]`, STUDENT a run folder, TEACHER one too or a checkpoint."""
    paths = [argument for argument in argv if "=" not in argument]
    options = dict(argument.split("=", 1) for argument in argv if "=" in argument)
    if len(paths) != 2:
        raise RecipeError(f"usage: python -m askd.correspondence {USAGE}, got {' '.join(argv) or 'nothing'}")
    size, faces = (_number(options, key) for key in ("size", "faces"))
    if size is not None and size > 112 or faces is not None and faces < LEAST:
        raise RecipeError(f"size= must be at most 112 pixels and faces= at least {LEAST}, got size={size}, faces={faces}")
    out, stored = Path(options.pop("out", "correspondence")), Path(paths[0]) / "recipe.yaml"
    if not stored.is_file():
        raise CheckpointError(f"{paths[0]} is no run folder (no recipe.yaml); give a student's, such as runs/demo/student/seed0")
    recipe = load([f"recipe={stored}", *(f"{key}={value}" for key, value in options.items())])
    size = size or min(recipe.data.sizes)
    device = torch.device(choose_device(recipe))
    maps = channel_maps(recipe, Path(paths[0]), Path(paths[1]), size, faces or 1000, device)
    blocks = [correspond(ours, theirs) for ours, theirs in maps]
    text = f"{paths[0]} at {size} px against {paths[1]} at 112 px, {len(maps[0][0])} faces; channel attention before the sigmoid\n\n{table(blocks)}"
    out.mkdir(parents=True, exist_ok=True)
    plot(blocks, out / "correspondence.png")
    (out / "correspondence.md").write_text(f"{text}\n![correspondence](correspondence.png)\n")
    print(f"{text}\n{out / 'correspondence.md'}, {out / 'correspondence.png'}")


def channel_maps(recipe: Recipe, student: Path, teacher: Path, size: int, most: int, device: torch.device) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per block the channel attention (N, C) of student and teacher on at most `most` faces of eval.sets, before the sigmoid.

    CheckpointError where the two have no channels in common to compare.
    """
    names = (str(student), str(teacher))
    networks = [Frozen(load_backbone(path)[0], device) for path in (student, teacher)]
    images = _faces(recipe, most)
    found: tuple[list, list] = ([], [])
    for part in images.split(recipe.eval.batch):
        part = part.to(device)
        degradation = recipe.data.degradation.name
        small = degrade(part, size, EVALUATION_OF.get(degradation, degradation), quantise=recipe.data.quantise)
        for network, image, maps in zip(networks, (small, part), found):
            attention = network(to_unit(image)).attention
            maps.append([block.channel.flatten(1).float().cpu().numpy() for block in attention if block.channel is not None])
    ours, theirs = ([np.concatenate(block) for block in zip(*maps)] for maps in found)
    channels = [[block.shape[1] for block in side] for side in (ours, theirs)]
    if not ours or channels[0] != channels[1]:
        said = "; ".join(f"{name} has {', '.join(map(str, there)) or 'no'} channels in its blocks' attention" for name, there in zip(names, channels))
        raise CheckpointError(f"no channels to compare: {said}; give two networks of one architecture with channel attention")
    return list(zip(ours, theirs))


def _faces(recipe: Recipe, most: int) -> torch.Tensor:
    """Images of the first set of pairs in eval.sets, evenly drawn where there are more."""
    pairs = next((one for one in open_sets(recipe) if isinstance(one, PairSet)), None)
    if pairs is None or len(pairs.images) < LEAST:
        raise DataError(f"eval.sets={recipe.eval.sets} holds no set of pairs with {LEAST} or more images; name another")
    chosen = np.unique(np.linspace(0, len(pairs.images) - 1, most).astype(int)).tolist()
    return decode_all([pairs.images[i] for i in chosen], [pairs.image_names[i] for i in chosen])


def _number(options: dict[str, str], key: str) -> int | None:
    if (text := options.pop(key, None)) is None:
        return None
    if not text.isdigit() or not int(text):
        raise RecipeError(f"{key} must be a whole number above 0, got {text}")
    return int(text)


if __name__ == "__main__":
    cli.run("correspondence", WHAT, main, USAGE)
