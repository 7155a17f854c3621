"""Score the networks of a run folder at every size: figures with intervals, differences that are real, and where each network looks."""
from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from askd import __version__, cli
from askd.data.cards import load_card, open_set
from askd.data.gallery import IdentificationSet
from askd.data.native import decode_native
from askd.data.pairs import PairSet
from askd.data.sets import EvaluationSet
from askd.engine.dist import init_from_env
from askd.engine.precision import choose_precision
from askd.errors import CheckpointError, RecipeError
from askd.evaluation import figures, report, tables
from askd.evaluation.differences import compare, differences_markdown, differences_text
from askd.evaluation.embed import embed_stored
from askd.evaluation.gather import Lot, check, gather, images_of
from askd.evaluation.overlay import look
from askd.evaluation.roc import roc
from askd.evaluation.scored import SEARCHED, Scored, ScoredPairs, ScoredSearches, score
from askd.recipe import load
from askd.schema import Recipe
from askd.teach import choose_device
from askd.teachers import Frozen, load_backbone, load_network, weights_hash
from askd.training_data import show_rendering

WHAT = "Score the networks of a run folder at every size of eval.sizes, on every set of eval.sets: pairs, galleries and templates."
USAGE = "RUNS/RECIPE [seed=0] [eval.sizes=[112,14]] [key=value ...]"
ROLES = ("teacher", "baseline", "student")


def main(argv: list[str]) -> None:
    """`python -m askd.benchmark RUNS/RECIPE [key=value ...]`"""
    paths = [argument for argument in argv if "=" not in argument]
    options = [argument for argument in argv if "=" in argument]
    if len(paths) != 1:
        raise RecipeError(f"usage: python -m askd.benchmark {USAGE}, got {' '.join(argv) or 'nothing'}")
    folder = Path(paths[0])
    seed = next((o.removeprefix("seed=") for o in reversed(options) if o.startswith("seed=")), "0")
    runs = {role: folder / role / f"seed{seed}" for role in ROLES if (folder / role / f"seed{seed}" / "meta.json").is_file()}
    if not runs:
        raise CheckpointError(f"{folder} holds no finished run of seed {seed} (looked for {{{','.join(ROLES)}}}/seed{seed}/meta.json)")
    last = runs.get("student") or next(iter(runs.values()))
    recipe = load([f"recipe={last / 'recipe.yaml'}", *options])
    if "student" in runs and "teacher" not in runs:
        runs = {"teacher": Path(load_backbone(runs["student"])[1]["teacher"]["path"]), **runs}
    with init_from_env(choose_device(recipe)) as device:
        benchmark(recipe, runs, folder / "benchmark" / f"seed{seed}", device)


def benchmark(recipe: Recipe, runs: dict[str, Path], out: Path, device: torch.device) -> None:
    """Score every network on every set of `eval`, print the tables and write results.json, results.md and the figures to `out`."""
    sets = open_sets(recipe)
    backbones = {role: load_network(path)[0] for role, path in runs.items()}
    hashes = {role: weights_hash(backbone) for role, backbone in backbones.items()}
    networks = {role: Frozen(backbone, device, bool(recipe.compile)) for role, backbone in backbones.items()}
    with counting("looking at", sum(len(images_of(one)) for one in sets)) as advance:
        lots = gather(sets, recipe.eval.sizes, advance)
    scored: dict[tuple[str, str, report.Size, str], Scored] = {}  # (set, role, size, protocol)
    notes = {one.name: lot.note for lot in lots for one, _ in lot.sets}
    with counting("embedding", len(networks) * sum(len(lot.sizes) * len(lot.images) for lot in lots)) as advance:
        for role, network in networks.items():
            for lot in lots:
                for size, (plain, mirrored) in embed_lot(recipe, network, lot, device, advance).items():
                    for one, places in lot.sets:
                        sides = (plain[places], mirrored[places]) if lot.keeps_both else (plain, None)
                        for protocol, found in score(one, *sides, [protocol.name for protocol in recipe.eval.protocols]).items():
                            scored[one.name, role, size, protocol] = found
    every = [found.row(role, name, size, notes[name]) for (name, role, size, _), found in scored.items()]
    rows = [row for row in every if isinstance(row, report.Row)]
    identification = [row for row in every if isinstance(row, report.IdentificationRow)]
    differences = compare(scored, recipe.data.sizes, recipe.eval.protocols[0].name)
    out.mkdir(parents=True, exist_ok=True)
    context = {
        "recipe": recipe.name, "seed": recipe.seed, "degradation": recipe.data.degradation.name, "trained_at_px": recipe.data.sizes,
        "precision": choose_precision(recipe.precision.name, device).why,
        "models": {role: {"path": str(path), "sha256": hashes[role]} for role, path in runs.items()},
        "differences": differences, "versions": {"askd": __version__, "torch": torch.__version__, "numpy": np.__version__},
    }
    report.write_json(out / "results.json", rows, context, identification)
    text = tables.markdown(rows, identification) + "\n" + differences_markdown(differences)
    report.write_whole(out / "results.md", lambda path: path.write_text(text, encoding="utf-8"))
    draw_scores(recipe, scored, rows, out)
    draw_attention(recipe, networks, lots[0], out, device)
    console = Console()
    for table in tables.tables(rows, identification):
        console.print(table)
    if differences:
        print(differences_text(differences))


def open_sets(recipe: Recipe) -> list[EvaluationSet]:
    """The sets of `eval.sets`, each with something to score; renders a demo set that is not there."""
    if not recipe.eval.sets:
        raise RecipeError(f"recipe {recipe.name} has no eval.sets to benchmark on; give eval.sets=[...]")
    card = load_card(recipe.data.set)
    card.prepare(recipe.data.path, workers=os.cpu_count() or 1, progress=show_rendering)
    sets = [open_set(spec, card, recipe.data.path) for spec in recipe.eval.sets]
    check(sets)
    return sets


def embed_lot(recipe: Recipe, network: Frozen, lot: Lot, device: torch.device, advance) -> dict[report.Size, tuple]:
    """{size: (plain, mirrored)}, (N, D) float32 each; or (their sum, None), half the memory, where nothing else is needed.

    Embedded as training would see the images: the recipe's degradation and precision.
    """
    kept: dict[report.Size, tuple] = {}
    with choose_precision(recipe.precision.name, device).autocast():
        for size, part, plain, mirrored in embed_stored(
            lambda seen: network(seen).embedding, lot.images, lot.sizes, recipe.data.degradation.name, device=device,
            batch=recipe.eval.batch, quantise=recipe.data.quantise,
        ):
            if size not in kept:
                shape = (len(lot.images), plain.shape[1])
                kept[size] = (np.empty(shape, np.float32), np.empty(shape, np.float32) if lot.keeps_both else None)
            first, second = kept[size]
            first[part] = plain if lot.keeps_both else plain + mirrored
            if lot.keeps_both:
                second[part] = mirrored
            advance(len(plain))
    return kept


def draw_scores(recipe: Recipe, scored: dict[tuple, Scored], rows: list[report.Row], out: Path) -> None:
    """accuracy.png and roc.png of the first set of pairs, cmc_SET.png of every set that is searched."""
    protocol, smallest = recipe.eval.protocols[0].name, min(recipe.data.sizes)
    shown = (("teacher", 112), ("teacher", smallest), ("baseline", smallest), ("student", smallest))
    shown += tuple((role, report.NATIVE) for role in ROLES)
    name = next((name for name, _, _, scored_by in scored if scored_by == protocol), None)
    sized = [row for row in rows if row.set == name and row.protocol == protocol and row.size != report.NATIVE]
    if sized:
        figures.plot_resolution(sized, out / "accuracy.png")
    curves = {}
    for role, size in shown:
        found = scored.get((name, role, size, protocol))
        if isinstance(found, ScoredPairs) and found.result.auc is not None:
            curves[f"{role}, {report.size_name(size)}"] = roc(found.result.scores, found.same)[:2]
    if curves:
        figures.plot_roc(curves, out / "roc.png", f"{name}, protocol {protocol}")
    for name in dict.fromkeys(name for name, _, _, scored_by in scored if scored_by == SEARCHED):
        searched = {(role, size): scored.get((name, role, size, SEARCHED)) for role, size in shown}
        curves = {
            f"{role}, {report.size_name(size)}": found.curve
            for (role, size), found in searched.items() if isinstance(found, ScoredSearches) and len(found.curve)
        }
        if curves:
            figures.plot_cmc(curves, out / f"cmc_{name.replace('/', '_')}.png", name)


def draw_attention(recipe: Recipe, networks: dict[str, Frozen], lot: Lot, out: Path, device: torch.device) -> None:
    """attention.png: where each network looks, in some faces of a lot's first set, if all of them have maps."""
    one, places = lot.sets[0]
    degradation, chosen = recipe.data.degradation.name, places[distinct_faces(one, 4)].tolist()
    seen = [decode_native(lot.images.encoded(index), lot.images.name(index), degradation) for index in chosen]
    faces = torch.from_numpy(np.stack(seen).round().astype(np.uint8)).permute(0, 3, 1, 2)
    size = 112 if report.NATIVE in lot.sizes else min(recipe.data.sizes)
    looks = {role: look(network, faces, 112 if role == "teacher" else size, degradation, device) for role, network in networks.items()}
    if any(heat is None for _, heat in looks.values()):
        return
    hr = faces.permute(0, 2, 3, 1).numpy()
    lr = next((seen for role, (seen, _) in looks.items() if role != "teacher"), hr)
    figures.plot_attention([
        figures.AttentionRow(
            hr[i], lr[i], {role: heat[i] for role, (_, heat) in looks.items() if role == "teacher"},
            {role: heat[i] for role, (_, heat) in looks.items() if role != "teacher"},
        ) for i in range(len(chosen))
    ], out / "attention.png")


def distinct_faces(one: EvaluationSet, count: int) -> list[int]:
    """Indices of `count` images spread over the set (over its probes, where it has some), of different people where people are known."""
    if isinstance(one, PairSet):
        shown, people = np.arange(len(one.images)), one.identity
    elif isinstance(one, IdentificationSet):
        shown, people = one.probe, one.identity[one.probe]
    else:
        shown, people = np.arange(len(one.images)), one.subject[one.template]
    first = np.arange(len(shown)) if people is None else np.unique(people, return_index=True)[1]
    return shown[first[np.linspace(0, len(first) - 1, min(count, len(first))).astype(int)]].tolist()


class counting:
    """A progress bar over images on a terminal, silence elsewhere; gives the function that advances it."""

    def __init__(self, doing: str, total: int):
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total} images"), TimeRemainingColumn())
        self.bar = Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())
        self.task = self.bar.add_task(doing, total=total)

    def __enter__(self):
        self.bar.start()
        return lambda images: self.bar.advance(self.task, images)

    def __exit__(self, *_: object) -> None:
        self.bar.stop()


if __name__ == "__main__":
    cli.run("benchmark", WHAT, main, USAGE)
