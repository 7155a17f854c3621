"""The main job: teacher (if there is none yet), baseline (if asked for), A-SKD student, and what `after` says: benchmark, export."""
from __future__ import annotations

import time
from pathlib import Path

import torch

from askd import cli
from askd.benchmark import benchmark, open_sets
from askd.engine import dist
from askd.errors import RecipeError
from askd.export import export
from askd.recipe import load
from askd.schema import After, Recipe
from askd.teach import build_backbone, check_terms, choose_device, make_terms, open_training, train_role
from askd.teachers import load_backbone

WHAT = "Distil a low-resolution student from a high-resolution teacher; trains the teacher first where there is none."
NOT_INHERITED = ("recipe", "name", "data.sizes", "network.init", "teacher.", "distill.", "baseline.")


def main(argv: list[str]) -> None:
    """`python -m askd.distill recipe=NAME [key=value ...]`"""
    began = time.monotonic()
    recipe = load(argv)
    if not make_terms(recipe):
        raise RecipeError(f"recipe {recipe.name} distils nothing; give it a term (distill.attention.weight=5, say), or use askd.teach")
    teaching = teacher_recipe(recipe, argv)
    with dist.init_from_env(choose_device(recipe)) as device:
        check_first(recipe, teaching)
        teacher = find_teacher(recipe, teaching, device)
        runs = {"teacher": teacher}
        if recipe.baseline.enabled:
            runs["baseline"] = train_role(recipe, "baseline", device, teacher)
        runs["student"] = train_role(recipe, "student", device, teacher)
        if dist.is_main():
            finish(recipe, runs, device)
            print(f"\ndone in {(time.monotonic() - began) / 60:.1f} minutes")
        dist.barrier()


def teacher_recipe(recipe: Recipe, argv: list[str]) -> Recipe:
    """The recipe that trains the teacher: `teacher.recipe` under the same command line, or this one."""
    if recipe.teacher.recipe is None:
        return recipe
    inherited = [argument for argument in argv if not argument.startswith(NOT_INHERITED)]
    return load([f"recipe={recipe.teacher.recipe}", *inherited])


def check_first(recipe: Recipe, teaching: Recipe) -> None:
    """Find before any training what would stop it hours later: missing data, benchmark sets, a teacher that does not fit."""
    open_training(recipe)
    if After.benchmark in recipe.after:
        open_sets(recipe)
    checkpoint = recipe.teacher.checkpoint
    teacher = build_backbone(teaching, "teacher", None) if checkpoint is None else load_backbone(checkpoint)[0]
    student = build_backbone(recipe, "student", teacher)  # the baseline is the same
    check_terms(make_terms(recipe), student, teacher, recipe.network.backbone, checkpoint or teaching.network.backbone)


def find_teacher(recipe: Recipe, teaching: Recipe, device: torch.device) -> Path:
    """The run folder or checkpoint of the teacher; trains it by `teaching` where `teacher.checkpoint` names none."""
    if recipe.teacher.checkpoint is not None:
        return Path(recipe.teacher.checkpoint)
    why = f"no teacher yet (teacher.checkpoint is not set): training it by recipe {teaching.name}\n"
    return train_role(teaching, "teacher", device, why=why)


def finish(recipe: Recipe, runs: dict[str, Path], device: torch.device) -> None:
    """The verbs of `after`, then where everything lies and what to try next."""
    folder, seed = Path(recipe.out) / recipe.name, f"seed{recipe.seed}"
    if After.benchmark in recipe.after:
        benchmark(recipe, runs, folder / "benchmark" / seed, device)
    exported = export(runs["student"], folder / "export" / seed) if After.export in recipe.after else None
    print("\nwhere everything lies")
    for role, path in runs.items():
        print(f"  {role:<10} {path}")
    if After.benchmark in recipe.after:
        print(f"  {'benchmark':<10} {folder / 'benchmark' / seed}: results.json, results.md, accuracy.png, roc.png, attention.png")
    if exported is not None:
        print(f"  {'export':<10} {exported}")
    print("what to try next")
    print(f"  tensorboard --logdir {folder}")
    term, (weight, _) = next(iter(make_terms(recipe).items()))
    print(
        f"  python -m askd.distill recipe={runs['student'] / 'recipe.yaml'} name={recipe.name}_w{4 * weight:g} "
        f"teacher.checkpoint={runs['teacher']} distill.{term}.weight={4 * weight:g}"
    )
    if After.benchmark not in recipe.after:
        print(f"  python -m askd.benchmark {folder} seed={recipe.seed}")
    if exported is None:
        print(f"  python -m askd.export {runs['student']}")


if __name__ == "__main__":
    cli.run("distill", WHAT, main)
