"""The main job: teacher (if there is none yet), baseline (if asked for), distilled student, and what `after` says: benchmark, export."""
from __future__ import annotations

import time
from pathlib import Path

import torch

from askd import cli
from askd.backbone import build_backbone
from askd.benchmark import benchmark, open_sets
from askd.centres import learnt_centres
from askd.data.faces import FaceSet
from askd.engine import dist
from askd.errors import RecipeError
from askd.export import export
from askd.heads.metric import METRICS
from askd.method import check_method, make_terms, needs_norms, teaches
from askd.recipe import epochs, load
from askd.schema import After, CentreSource, Margin, Recipe, Teacher
from askd.teach import choose_device, train_role
from askd.teachers import load_network
from askd.training_data import open_training

WHAT = "Distil a low-resolution student from a high-resolution teacher; trains the teacher first where there is none."
NO_NORMS = "distill.logit compares AdaFace's margin logits, which need the feature norms of a teacher trained with head.kind=adaface (or logits=cosine)"
NOT_INHERITED = (
    "recipe", "method", "name", "data.sizes", "network.init", "teacher.checkpoint", "teacher.recipe", "teacher.cache", "distill.", "baseline.",
    "head.weight",
)


def main(argv: list[str]) -> None:
    """`python -m askd.distill recipe=NAME [key=value ...]`"""
    began = time.monotonic()
    recipe = load(argv)
    if not teaches(recipe):
        raise RecipeError(f"recipe {recipe.name} distils nothing; give it a term (distill.attention.weight=5, say), or use askd.teach")
    with dist.init_from_env(choose_device(recipe)) as device:
        check_first(recipe, argv)
        teacher = find_teacher(recipe, argv, device)
        runs = {"teacher": teacher}
        if recipe.baseline.enabled:
            runs["baseline"] = train_role(recipe, "baseline", device, teacher)
        runs["student"] = train_role(recipe, "student", device, teacher)
        if dist.is_main():
            finish(recipe, runs, device)
            print(f"\ndone in {(time.monotonic() - began) / 60:.1f} minutes")
        dist.barrier()


def teacher_recipe(recipe: Recipe, argv: list[str]) -> Recipe:
    """The recipe that trains the teacher: `teacher.recipe` under the same command line, or this one.

    RecipeError where `teacher.epochs` or `teacher.sizes` says otherwise than that recipe, whose own count, unless a checkpoint spares the training.
    """
    if recipe.teacher.recipe is None:
        return recipe
    teaching = load([f"recipe={recipe.teacher.recipe}", *inherited(argv)])
    role = "student" if has_teacher(teaching) else "teacher"
    sizes = teaching.data.sizes if role == "student" else teaching.teacher.sizes
    for key, ours, theirs in (
        ("epochs", recipe.teacher.epochs, epochs(teaching, role)), ("sizes", recipe.teacher.sizes, sizes),
    ):
        if recipe.teacher.checkpoint is None and ours not in (None, Teacher().sizes, theirs):
            own = "train.epochs, data.sizes" if role == "student" else f"teacher.{key}"
            raise RecipeError(f"teacher.{key}={ours}, but {teaching.name}, which trains the teacher, says {theirs}; change that recipe ({own})")
    return teaching


def inherited(argv: list[str]) -> list[str]:
    """What of a student's command line holds for the recipe of its teacher, too."""
    return [argument for argument in argv if not argument.startswith(NOT_INHERITED)]


def has_teacher(recipe: Recipe) -> bool:
    """Whether a recipe names a teacher, so that what it trains for others is its student."""
    return recipe.teacher.checkpoint is not None or recipe.teacher.recipe is not None


def check_first(recipe: Recipe, argv: list[str], students: tuple[str, ...] = ()) -> None:
    """Find before any training what would stop it hours later: missing data, benchmark sets, a teacher that does not fit.

    students: the recipes whose teacher is trained by this one.
    """
    if recipe.name in students:
        raise RecipeError(f"teacher.recipe goes in a circle through {', '.join(students)}; name a teacher.checkpoint in one of them")
    faces = check_data(recipe)
    checkpoint, teaching, source = recipe.teacher.checkpoint, teacher_recipe(recipe, argv), learnt_from(recipe)
    if checkpoint is None:
        teacher = build_backbone(teaching, "teacher", None)
        if source and teaching.network.ensemble is not None and (teaching.head.kind is Margin.adaface or teaching.head.subcentres > 1):
            kind = "AdaFace" if teaching.head.kind is Margin.adaface else "several centres per class"
            raise RecipeError(f"{source} takes class centres from an ensemble with {kind}, of which no one head can be made; give it source=mean")
        if source and teaching.head.kind.name in METRICS:
            raise RecipeError(f"{source} takes class centres from a teacher that {teaching.name} trains with head.kind={teaching.head.kind.name}, "
                              "which has none; give it source=mean")
        if needs_norms(recipe) and teaching.head.kind is not Margin.adaface:
            raise RecipeError(f"{NO_NORMS}, and {teaching.name} trains its own with {teaching.head.kind.name}")
        if source and not teaching.head.weight:
            raise RecipeError(f"{source} takes class centres from a teacher that {teaching.name} trains without any; give it source=mean")
        if source and teaching is not recipe and open_training(teaching)[1].class_names != faces.class_names:
            raise RecipeError(f"{source} takes class centres from a teacher that {teaching.name} has other people for; give it source=mean")
        if teaching is not recipe and has_teacher(teaching):
            check_first(teaching, [f"recipe={recipe.teacher.recipe}", *inherited(argv)], (*students, recipe.name))
    else:
        teacher = load_network(checkpoint)[0]
        if source:
            state = learnt_centres(Path(checkpoint), faces.class_names, source)
            if needs_norms(recipe) and "norms.mean" not in state:
                raise RecipeError(f"{NO_NORMS}, and {checkpoint} has none")
    student = build_backbone(recipe, "student", teacher)  # the baseline is the same
    check_method(recipe, student, teacher, checkpoint or teaching.network.backbone)


def check_data(recipe: Recipe) -> FaceSet:
    """The training images, once they and, where there is to be a benchmark, its sets are found and open."""
    faces = open_training(recipe)[1]
    if After.benchmark in recipe.after:
        open_sets(recipe)
    return faces


def learnt_from(recipe: Recipe) -> str | None:
    """The distillation that needs class centres which the teacher learnt, if there is one."""
    for name in ("logit", "centres"):
        if (term := getattr(recipe.distill, name)) is not None and term.source is CentreSource.learnt:
            return f"distill.{name}"
    return None


def find_teacher(recipe: Recipe, argv: list[str], device: torch.device) -> Path:
    """The run folder or checkpoint of the teacher; trains it by `teacher.recipe`, and its own teacher before, where none is named."""
    if recipe.teacher.checkpoint is not None:
        return Path(recipe.teacher.checkpoint)
    teaching = teacher_recipe(recipe, argv)
    why = f"no teacher yet (teacher.checkpoint is not set): training it by recipe {teaching.name}\n"
    if teaching is recipe or not has_teacher(teaching):
        return train_role(teaching, "teacher", device, why=why)
    above = find_teacher(teaching, [f"recipe={recipe.teacher.recipe}", *inherited(argv)], device)
    return train_role(teaching, "student", device, above, why=why)


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
        print(f"  {'benchmark':<10} {folder / 'benchmark' / seed}: results.json, results.md and the figures")
    if exported is not None:
        print(f"  {'export':<10} {exported}")
    print("what to try next")
    print(f"  tensorboard --logdir {folder}")
    for term, (weight, _) in list(make_terms(recipe).items())[:1]:
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
