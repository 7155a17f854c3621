"""Score any recognisers at every size: figures with intervals, differences that are real, galleries of one size against probes of another."""
from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict
from itertools import product
from pathlib import Path

import numpy as np
import torch
import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from askd import cli
from askd.data.cards import load_card, open_set
from askd.data.degrade import EVALUATION_OF
from askd.data.sets import EvaluationSet
from askd.embedders import FORMS, Embedder, open_embedder
from askd.embedding import VERSIONS, Setting, embed_lot
from askd.engine import dist
from askd.engine.precision import choose_precision
from askd.errors import CheckpointError, DataError, RecipeError
from askd.evaluation import report, tables
from askd.evaluation.differences import compare, differences_markdown, differences_text
from askd.evaluation.drawing import draw_scores
from askd.evaluation.exhibits import Exhibits, Views, attention_rows, errors_of, first_pairs, map_distances
from askd.evaluation.gather import Lot, check, fingerprint, gather, images_of
from askd.evaluation.html.figures import curves_of
from askd.evaluation.html.report import Findings, write_html
from askd.evaluation.longtable import write_csv
from askd.evaluation.paired import Cell, compare_models, comparison_tables, comparisons_markdown
from askd.evaluation.scored import RESAMPLES, Scored, score
from askd.evaluation.store import Store
from askd.recipe import load
from askd.schema import Recipe
from askd.teach import choose_device
from askd.teachers import load_backbone
from askd.training_data import show_rendering

WHAT = "Score recognisers at every size of eval.sizes, on every set of eval.sets: pairs, galleries and templates. " \
       f"A model of models= is {FORMS}; MODEL may be NAME=MODEL."
USAGE = "models=[MODEL,...] eval.sets=[SET,...] [eval.sizes=[112,56,28,14]] [out=report/] [cache=FOLDER] [errors=MODEL@SIZE] " \
        "[key=value ...]  |  RUNS/RECIPE [seed=0] [key=value ...]"
OWN = ("models=", "cache=", "errors=")  # keys that no other verb has
ROLES = ("teacher", "baseline", "student")
# Where no recipe says how: sets without a card, every protocol, every size against every other, and no format but the reference's.
DEFAULTS = {
    "name": "benchmark", "precision": "fp32", "out": "report", "data": {"set": "lfw"},
    "eval": {"protocols": ["insightface", "askd", "exact"], "cross": True},
}
WIDTH = 100  # columns: what every terminal has
Line = report.Row | report.IdentificationRow


def main(argv: list[str]) -> None:
    """`python -m askd.benchmark models=[...] key=value ...`, or `python -m askd.benchmark RUNS/RECIPE [key=value ...]`"""
    paths = [argument for argument in argv if "=" not in argument]
    options = [argument for argument in argv if "=" in argument and not argument.startswith(OWN)]
    own = dict(argument.split("=", 1) for argument in argv if argument.startswith(OWN))
    if len(paths) != ("models" not in own):
        raise RecipeError(f"usage: python -m askd.benchmark {USAGE}, got {' '.join(argv) or 'nothing'}")
    if "models" in own:
        recipe = load(options, start=DEFAULTS)
        out = Path(recipe.out if not any(option.startswith("recipe=") for option in options) else _given(options, "out", DEFAULTS["out"]))
    else:
        recipe, runs = runs_in(Path(paths[0]), options)
        out = Path(paths[0]) / "benchmark" / f"seed{_given(options, 'seed', '0')}"
    with dist.init_from_env(choose_device(recipe)) as device:
        models = models_named(own["models"], device, bool(recipe.compile)) if "models" in own else runs
        benchmark(recipe, models, out, device, Path(own.get("cache", out / "cache")), shared=True, errors=own.get("errors"))


def _given(options: list[str], key: str, default: str) -> str:
    return next((option.removeprefix(f"{key}=") for option in reversed(options) if option.startswith(f"{key}=")), default)


def runs_in(folder: Path, options: list[str]) -> tuple[Recipe, dict[str, Path]]:
    """The recipe and the runs {role: folder} of a folder RUNS/RECIPE; a teacher that lies elsewhere is found through its student."""
    seed = _given(options, "seed", "0")
    runs = {role: folder / role / f"seed{seed}" for role in ROLES if (folder / role / f"seed{seed}" / "meta.json").is_file()}
    if not runs:
        raise CheckpointError(f"{folder} holds no finished run of seed {seed} (looked for {{{','.join(ROLES)}}}/seed{seed}/meta.json)")
    last = runs.get("student") or next(iter(runs.values()))
    recipe = load([f"recipe={last / 'recipe.yaml'}", *options])
    if "student" in runs and "teacher" not in runs:
        runs = {"teacher": Path(load_backbone(runs["student"])[1]["teacher"]["path"]), **runs}
    return recipe, runs


def models_named(given: str, device: torch.device, compile: bool = False) -> dict[str, Embedder]:
    """The recognisers of `models=`, by name."""
    try:
        listed = yaml.safe_load(given)
    except yaml.YAMLError:
        raise RecipeError(f"models={given} cannot be read; lists are written [a,b]") from None
    listed = listed if isinstance(listed, list) else [listed]
    if not listed or not all(isinstance(spec, str) and spec for spec in listed):
        raise RecipeError(f"models={given} must list models: {FORMS}")
    found: dict[str, Embedder] = {}
    for embedder in (open_embedder(spec, device, compile) for spec in listed):
        if embedder.name in found:
            raise RecipeError(f"two models are called {embedder.name} ({found[embedder.name].path}, {embedder.path}); name one NAME={embedder.path}")
        found[embedder.name] = embedder
    return found


def benchmark(
    recipe: Recipe, models: Mapping[str, Path | Embedder], out: Path, device: torch.device, cache: Path | None = None, shared: bool = False,
    errors: str | None = None,
) -> None:
    """Score every model on every set of `eval`, print the tables and write results.json, .csv, .md, report.html and the figures to `out`.

    models: by name, anything that `open_embedder` opens, or an Embedder, of a Python callable, say. cache: the folder where embeddings stay
    for the next time; None: they go when this is done. shared: every rank calls this, and takes its part in embedding; the main one does
    all else. Otherwise the main rank alone may call it. errors: MODEL@SIZE whose hardest errors are shown; None: the last model's, at
    the smallest size it was made for.
    """
    sets = open_sets(recipe)
    embedders = {name: model if isinstance(model, Embedder) else open_embedder(model, device, bool(recipe.compile), name) for name, model in models.items()}
    setting = Setting(device, choose_precision(recipe.precision.name, device), recipe.eval.batch, recipe.data.quantise, bool(recipe.compile), shared)
    degradations = [degradation.name for degradation in recipe.eval.degradations] or [recipe.data.degradation.name]
    with counting("looking at", sum(len(images_of(one)) for one in sets)) as advance:
        lots = gather(sets, list(dict.fromkeys(recipe.eval.sizes)), advance)
    mistaken = errors_named(errors, embedders, lots, lowest_size(recipe, embedders))
    passing = out / f".embeddings.{os.getpid()}"
    try:
        kept, unkept = Store(cache or passing), Store(passing)
        embedded = {}
        total = len(embedders) * len(degradations) * sum(len(lot.sizes) * len(lot.images) for lot in lots)
        with counting("embedding", total) as advance:
            for (name, embedder), (index, lot), degradation in product(embedders.items(), enumerate(lots), degradations):
                store = unkept if embedder.sha256 is None else kept
                embedded[name, index, degradation] = embed_lot(embedder, lot, degradation, store, setting, advance)
        if dist.is_main():
            scored, rows, cross = score_all(recipe, lots, embedded)
            present(recipe, sets, lots, embedders, setting, out, scored, rows, cross, mistaken)
    finally:
        shutil.rmtree(passing, ignore_errors=True)


def open_sets(recipe: Recipe) -> list[EvaluationSet]:
    """The sets of `eval.sets`, each with something to score; renders a demo set that is not there."""
    if not recipe.eval.sets:
        raise RecipeError(f"recipe {recipe.name} has no eval.sets to benchmark on; give eval.sets=[...]")
    card = load_card(recipe.data.set)
    card.prepare(recipe.data.path, workers=os.cpu_count() or 1, progress=show_rendering)
    sets = [open_set(spec, card, recipe.data.path) for spec in recipe.eval.sets]
    check(sets)
    return sets


def score_all(recipe: Recipe, lots: list[Lot], embedded: dict[tuple[str, int, str], dict]) -> tuple[dict[Cell, Scored], list[Line], list[Line]]:
    """Everything scored at one size, its rows, and the rows of galleries at one size and probes at another under the first protocol."""
    protocols = [protocol.name for protocol in recipe.eval.protocols]
    scored: dict[Cell, Scored] = {}
    rows: list[Line] = []
    cross: list[Line] = []
    with counting("scoring", sum(len(lots[index].sets) * len(sizes) for (_, index, _), sizes in embedded.items()), "set and size") as advance:
        for (model, index, degradation), by_size in embedded.items():
            lot = lots[index]
            used = EVALUATION_OF.get(degradation, degradation)
            for one, places in lot.sets:
                sides = {size: _sides(rows_, places, lot.keeps_both) for size, rows_ in by_size.items()}
                for size, probes in sides.items():
                    for protocol, found in _score(one, probes, protocols, None, f"{model} on {one.name} at {report.size_name(size)}").items():
                        scored[one.name, model, used, size, protocol] = found
                        rows.append(found.row(model, one.name, size, lot.note, used))
                    for enrolled in [other for other in sides if recipe.eval.cross and other != size]:
                        where = f"{model} on {one.name} at {report.size_name(enrolled)} and {report.size_name(size)}"
                        for found in _score(one, probes, protocols[:1], sides[enrolled], where).values():
                            cross.append(found.row(model, one.name, enrolled, lot.note, used, size))
                    advance(1)
    return scored, rows, cross


def _sides(embedded: np.ndarray, places: np.ndarray, both: bool) -> tuple[np.ndarray, np.ndarray | None]:
    return (embedded[0][places], embedded[1][places]) if both else (embedded[0], None)


def _score(one: EvaluationSet, probes: tuple, protocols: list[str], gallery: tuple | None, where: str) -> dict[str, Scored]:
    try:
        return score(one, *probes, protocols, gallery)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def present(
    recipe: Recipe, sets: list[EvaluationSet], lots: list[Lot], embedders: dict[str, Embedder], setting: Setting, out: Path,
    scored: dict[Cell, Scored], every: list[Line], cross: list[Line], mistaken: tuple[str, report.Size] | None,
) -> None:
    """Write what was found to `out`, and print the tables."""
    rows = [row for row in every if isinstance(row, report.Row)]
    identification = [row for row in every if isinstance(row, report.IdentificationRow)]
    first = next(iter(scored))[2]
    differences = compare(
        {(name, model, size, by): found for (name, model, degradation, size, by), found in scored.items() if degradation == first},
        recipe.data.sizes, recipe.eval.protocols[0].name,
    )
    comparisons = compare_models(scored, recipe.eval.protocols[0].name)
    hashes = {one.name: fingerprint(one, lot.hashes[places]) for lot in lots for one, places in lot.sets}
    context = {
        "recipe": recipe.name, "seed": recipe.seed, "degradation": recipe.data.degradation.name, "trained_at_px": recipe.data.sizes,
        "degradations": list(dict.fromkeys(degradation for _, _, degradation, _, _ in scored)), "quantise": recipe.data.quantise,
        "precision": setting.precision.why, "batch": setting.batch, "flip": "embeddings of the image and of its mirror image",
        "intervals": {"level": 0.95, "resamples": RESAMPLES, "seed": 0},
        "models": {name: {"path": embedder.path, "sha256": embedder.sha256, "input": embedder.input} for name, embedder in embedders.items()},
        "sets": {one.name: {"sha256": hashes[one.name], "images": len(images_of(one))} for one in sets},
        "differences": differences, "versions": {**VERSIONS, "numpy": np.__version__, "python": platform.python_version()},
    }
    exhibits = exhibit(recipe, lots, embedders, setting, scored, mistaken)
    out.mkdir(parents=True, exist_ok=True)
    attention = [asdict(row) for row in exhibits.distances]
    report.write_json(out / "results.json", rows, context, identification, cross=cross, comparisons=comparisons, attention=attention)
    write_csv(out / "results.csv", [*every, *cross])
    matrix = [row for row in every if getattr(row, "protocol", None) in (None, recipe.eval.protocols[0].name, "templates")] + cross if cross else []
    parts = [tables.markdown(rows, identification), tables.cross_markdown(matrix), differences_markdown(differences), comparisons_markdown(comparisons)]
    report.write_whole(out / "results.md", lambda path: path.write_text("\n".join(filter(None, parts)), encoding="utf-8"))
    exhibits.draw(out)
    draw_scores(scored, rows, matrix, recipe.eval.protocols[0].name, out, shown(recipe, scored))
    title = "Face recognition at low resolution" + (f": {recipe.name}" if recipe.name != DEFAULTS["name"] else "")
    write_html(out / "report.html", Findings(
        title, rows, identification, context, differences, comparisons, matrix, *curves_of(scored, recipe.eval.protocols[0].name),
        exhibits.faces, exhibits.faces_note, exhibits.errors, exhibits.distances,
    ))
    console = Console(width=min(WIDTH, Console().width) if sys.stdout.isatty() else WIDTH)
    for table in [*tables.tables(rows, identification), *tables.cross_tables(matrix), *comparison_tables(comparisons)]:
        console.print(table)
    if differences:
        print(differences_text(differences))


def exhibit(
    recipe: Recipe, lots: list[Lot], embedders: dict[str, Embedder], setting: Setting, scored: dict[Cell, Scored],
    mistaken: tuple[str, report.Size] | None,
) -> Exhibits:
    """What is shown with faces, of the first degradation: where networks look, how alike their maps are, the hardest errors of `mistaken`."""
    first, pairs = next(iter(scored))[2], first_pairs(lots)
    views = Views(lots[0], first, setting.device, setting.quantise)
    faces, note = attention_rows(embedders, views, lowest_size(recipe, embedders))
    space = recipe.distill.attention.space.name if recipe.distill.attention else "maps"
    distances = map_distances(embedders, views, list(dict.fromkeys(recipe.eval.sizes)), space)
    errors = []
    if mistaken and pairs:
        (model, size), (lot, one, places) = mistaken, pairs
        found = scored[one.name, model, first, size, recipe.eval.protocols[0].name]
        if found.result.auc is not None:
            errors = [errors_of(model, embedders[model], Views(lot, first, setting.device, setting.quantise), one, places, size, found)]
    return Exhibits(faces, note, distances, errors)


def lowest_size(recipe: Recipe, embedders: Mapping[str, object]) -> int:
    """The smallest size that the last model was made for, as far as that is known."""
    return min(recipe.data.sizes if "student" in embedders else recipe.eval.sizes)


def errors_named(given: str | None, embedders: Mapping[str, object], lots: list[Lot], lowest: int) -> tuple[str, report.Size] | None:
    """The model and size of errors=MODEL@SIZE, or those shown unless it is given; None without pairs."""
    pairs = first_pairs(lots)
    if pairs is None:
        if given is not None:
            raise RecipeError(f"errors={given}, but none of eval.sets has pairs")
        return None
    sizes = {str(size): size for size in pairs[0].sizes}
    if given is None:
        return list(embedders)[-1], sizes.get(str(lowest), min(pairs[0].sizes))
    model, _, size = given.rpartition("@")
    if model not in embedders or size not in sizes:
        raise RecipeError(f"errors={given} must be MODEL@SIZE with MODEL among {', '.join(embedders)} and SIZE among {', '.join(sizes)}")
    return model, sizes[size]


def shown(recipe: Recipe, scored: dict[Cell, Scored]) -> list[tuple[str, report.Size]]:
    """Which curves a ROC or CMC shows: of our roles the teacher at 112 and all at the smallest training size, of others both ends."""
    models = list(dict.fromkeys(model for _, model, _, _, _ in scored))
    smallest = min(recipe.data.sizes)
    if set(models) <= set(ROLES):
        ends = [("teacher", report.FULL_SIZE), *((role, smallest) for role in ROLES)]
    else:
        ends = list(product(models, dict.fromkeys((max(recipe.eval.sizes), min(recipe.eval.sizes)))))
    return [*ends, *((model, report.NATIVE) for model in models)]


class counting:
    """A progress bar on a terminal, with the time left, and silence elsewhere and on ranks other than the main one."""

    def __init__(self, doing: str, total: int, what: str = "images"):
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total} " + what), TimeRemainingColumn())
        self.bar = Progress(*columns, console=Console(stderr=True), disable=not (sys.stderr.isatty() and dist.is_main()))
        self.task = self.bar.add_task(doing, total=total)

    def __enter__(self):
        self.bar.start()
        return lambda count: self.bar.advance(self.task, count)

    def __exit__(self, *_: object) -> None:
        self.bar.stop()


if __name__ == "__main__":
    cli.run("benchmark", WHAT, main, USAGE)
