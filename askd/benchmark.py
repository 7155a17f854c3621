"""Verify the networks of a run folder at every size: figures with intervals, differences that are real, and where each network looks."""
from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from askd import __version__, cli
from askd.data.cards import load_card, open_verification
from askd.data.pairs import PairSet
from askd.engine.dist import init_from_env
from askd.engine.precision import choose_precision
from askd.errors import CheckpointError, RecipeError
from askd.evaluation import report
from askd.evaluation.embed import decode_all, embed
from askd.evaluation.intervals import (
    Interval, Resamples, accuracy_metric, auc_metric, bootstrap, bootstrap_difference, resample_identities, resample_pairs, thin_impostors,
)
from askd.evaluation.overlay import look
from askd.evaluation.verification import Verification, roc, score_pairs
from askd.recipe import load
from askd.schema import Recipe
from askd.teach import choose_device, show_rendering
from askd.teachers import Frozen, load_backbone, load_network, weights_hash

WHAT = "Verify the networks of a run folder at every size of eval.sizes, on every set of eval.sets."
USAGE = "RUNS/RECIPE [seed=0] [eval.sizes=[112,14]] [key=value ...]"
RESAMPLES = 1000  # of the people, or of the pairs where people are unknown; a fifth where impostors had to be thinned
ROLES = ("teacher", "baseline", "student")


@dataclass
class Scored:
    """One network on one set at one size under one protocol; `kept` pairs and their resamples give its intervals."""

    result: Verification
    same: np.ndarray
    kept: np.ndarray
    resamples: Resamples

    def metrics(self) -> dict[str, Callable[[np.ndarray], float]]:
        """Figure -> function of pair weights, for bootstrap and bootstrap_difference; figures that the set cannot give are absent."""
        same, scores = self.same[self.kept], self.result.scores[self.kept]
        found = {"auc": auc_metric(scores, same)} if self.result.auc is not None else {}
        if self.result.accuracy is not None:
            found["accuracy"] = accuracy_metric(self.result.correct[self.kept])
        return found


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


def benchmark(recipe: Recipe, runs: dict[str, Path], out: Path, device: torch.device) -> list[report.Row]:
    """Score every network on every set of `eval`, print the table and write results.json, results.md and the figures to `out`."""
    sets = open_sets(recipe)
    backbones = {role: load_network(path)[0] for role, path in runs.items()}
    hashes = {role: weights_hash(backbone) for role, backbone in backbones.items()}
    networks = {role: Frozen(backbone, device, recipe.compile) for role, backbone in backbones.items()}
    images, places = pool(sets)
    resampling = {pairs.name: resamples_of(pairs) for pairs in sets}
    scored: dict[tuple, Scored] = {}
    with counting(len(networks) * len(recipe.eval.sizes) * len(images)) as advance:
        for role, network in networks.items():
            for size in recipe.eval.sizes:
                embeddings = embed_in(recipe, network, images, size, device, advance)
                for pairs in sets:
                    plain, flipped = (side[places[pairs.name]] for side in embeddings)
                    for protocol in recipe.eval.protocols:
                        result = score_pairs(plain, flipped, pairs.left, pairs.right, pairs.same, pairs.fold, protocol.name)
                        scored[pairs.name, role, size, protocol.name] = Scored(result, pairs.same, *resampling[pairs.name])
    rows = [make_row(*key, entry) for key, entry in scored.items()]
    differences = compare(recipe, scored)
    out.mkdir(parents=True, exist_ok=True)
    context = {
        "recipe": recipe.name, "seed": recipe.seed, "degradation": recipe.data.degradation.name, "trained_at_px": recipe.data.sizes,
        "precision": choose_precision(recipe.precision.name, device).why,
        "models": {role: {"path": str(path), "sha256": hashes[role]} for role, path in runs.items()},
        "differences": differences, "versions": {"askd": __version__, "torch": torch.__version__, "numpy": np.__version__},
    }
    report.write_json(out / "results.json", rows, context)
    (out / "results.md").write_text(report.markdown(rows) + "\n" + differences_markdown(differences))
    draw(recipe, networks, scored, rows, sets[0], images[places[sets[0].name]], out, device)
    console = Console()
    for table in report.tables(rows):
        console.print(table)
    if differences:
        print(differences_text(differences))
    return rows


def open_sets(recipe: Recipe) -> list[PairSet]:
    """The verification sets of `eval.sets`; renders a demo set that is not there."""
    if not recipe.eval.sets:
        raise RecipeError(f"recipe {recipe.name} has no eval.sets to benchmark on; give eval.sets=[...]")
    card = load_card(recipe.data.set)
    card.prepare(recipe.data.path, workers=os.cpu_count() or 1, progress=show_rendering)
    return [open_verification(spec, card, recipe.data.path) for spec in recipe.eval.sets]


def pool(sets: list[PairSet]) -> tuple[torch.Tensor, dict[str, np.ndarray]]:
    """Every distinct image of all sets, decoded once, uint8 (N, 3, 112, 112), and where each set's images are among them."""
    index: dict[bytes, int] = {}
    names, places = [], {}
    for pairs in sets:
        for encoded, name in zip(pairs.images, pairs.image_names):
            if encoded not in index:
                index[encoded] = len(names)
                names.append(name)
        places[pairs.name] = np.array([index[encoded] for encoded in pairs.images])
    return decode_all(list(index), names), places


def embed_in(recipe: Recipe, network: Frozen, images, size: int, device: torch.device, advance) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings as training would see the images: the recipe's degradation and precision."""
    with choose_precision(recipe.precision.name, device).autocast():
        return embed(
            lambda seen: network(seen).embedding, images, size, recipe.data.degradation.name, device=device, batch=recipe.eval.batch,
            quantise=recipe.data.quantise, progress=advance,
        )


def resamples_of(pairs: PairSet) -> tuple[np.ndarray, Resamples]:
    """Which pairs take part (all, or thinned impostors), and how to resample them: people where they are known, else pairs."""
    kept = thin_impostors(pairs.same)
    count = RESAMPLES if len(kept) == len(pairs.same) else RESAMPLES // 5
    if pairs.identity is None:
        return kept, resample_pairs(pairs.fold[kept], count)
    return kept, resample_identities(pairs.identity[pairs.left[kept]], pairs.identity[pairs.right[kept]], pairs.same[kept], count)


def make_row(set_name: str, role: str, size: int, protocol: str, entry: Scored) -> report.Row:
    """One line of the report, intervals included."""
    result = entry.result
    auc = bootstrap(entry.metrics()["auc"], entry.resamples) if result.auc is not None else None
    interval = None if auc is None or auc.low is None else (auc.low, auc.high)
    return report.Row.of(role, set_name, size, result, interval, entry.resamples.unit)


def compare(recipe: Recipe, scored: dict[tuple, Scored]) -> list[dict]:
    """Headroom first (teacher at 112 minus baseline at each training size), then student minus baseline there; paired resamples."""
    found = []
    protocol = recipe.eval.protocols[0].name
    for name in dict.fromkeys(key[0] for key in scored):
        for size in recipe.data.sizes:
            for what, first, second in (
                ("headroom: teacher at 112 px - baseline", ("teacher", 112), ("baseline", size)),
                ("A-SKD: student - baseline", ("student", size), ("baseline", size)),
            ):
                a, b = (scored.get((name, *which, protocol)) for which in (first, second))
                if a is None or b is None:
                    continue
                mine, other = a.metrics(), b.metrics()
                for figure in sorted(mine.keys() & other.keys()):
                    interval = bootstrap_difference(mine[figure], other[figure], a.resamples)
                    found.append({"set": name, "what": what, "size": size, "figure": figure, "protocol": protocol, **as_dict(interval)})
    return found


def as_dict(interval: Interval) -> dict:
    """An interval as JSON has it."""
    return {"value": interval.value, "low": interval.low, "high": interval.high, "unit": interval.unit, "level": interval.level}


def differences_text(differences: list[dict]) -> str:
    """One line per difference, in points (hundredths), with its 95 % interval and whether it excludes zero."""
    lines = []
    for d in differences:
        low, high = ("  ?", "  ?") if d["low"] is None else (f"{100 * d['low']:+.2f}", f"{100 * d['high']:+.2f}")
        real = "" if d["low"] is None or d["low"] <= 0 <= d["high"] else "  *"
        lines.append(f"{d['set']:<14} {d['size']:>3} px  {d['what']:<40} {d['figure']:<8} {100 * d['value']:+.2f} [{low}, {high}]{real}")
    return "\n".join(lines + ["(points; 95 % interval; * excludes zero)"]) if lines else ""


def differences_markdown(differences: list[dict]) -> str:
    """The same lines as a code block."""
    return f"```\n{differences_text(differences)}\n```\n" if differences else ""


def draw(
    recipe: Recipe, networks: dict[str, Frozen], scored: dict[tuple, Scored], rows: list[report.Row], pairs: PairSet,
    images: torch.Tensor, out: Path, device: torch.device,
) -> None:
    """accuracy.png, roc.png and attention.png, on one set and its images."""
    name, protocol, size = pairs.name, recipe.eval.protocols[0].name, min(recipe.data.sizes)
    report.plot_resolution([row for row in rows if row.set == name and row.protocol == protocol], out / "accuracy.png")
    curves = {}
    for role, at in (("teacher", 112), ("teacher", size), ("baseline", size), ("student", size)):
        entry = scored.get((name, role, at, protocol))
        if entry is not None and entry.result.auc is not None:
            curves[f"{role}, {at} px"] = roc(entry.result.scores, entry.same)[:2]
    if curves:
        report.plot_roc(curves, out / "roc.png", f"{name}, protocol {protocol}")
    chosen = distinct_faces(pairs, 4)
    faces = images[chosen]
    looks = {
        role: look(network, faces, 112 if role == "teacher" else size, recipe.data.degradation.name, device)
        for role, network in networks.items()
    }
    if all(heat is not None for _, heat in looks.values()):
        hr = faces.permute(0, 2, 3, 1).numpy()
        lr = next((seen for role, (seen, _) in looks.items() if role != "teacher"), hr)
        report.plot_attention([
            report.AttentionRow(
                hr[i], lr[i], {role: heat[i] for role, (_, heat) in looks.items() if role == "teacher"},
                {role: heat[i] for role, (_, heat) in looks.items() if role != "teacher"},
            ) for i in range(len(chosen))
        ], out / "attention.png")


def distinct_faces(pairs: PairSet, count: int) -> list[int]:
    """Indices of `count` images spread over the set, of different people where people are known."""
    if pairs.identity is None:
        return np.linspace(0, len(pairs.images) - 1, count).astype(int).tolist()
    _, first = np.unique(pairs.identity, return_index=True)
    return first[np.linspace(0, len(first) - 1, min(count, len(first))).astype(int)].tolist()


class counting:
    """A progress bar over images on a terminal, silence elsewhere; gives the function that advances it."""

    def __init__(self, total: int):
        columns = (TextColumn("benchmark"), BarColumn(), TextColumn("{task.completed}/{task.total} images"), TimeRemainingColumn())
        self.bar = Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())
        self.task = self.bar.add_task("benchmark", total=total)

    def __enter__(self):
        self.bar.start()
        return lambda images: self.bar.advance(self.task, images)

    def __exit__(self, *_: object) -> None:
        self.bar.stop()


if __name__ == "__main__":
    cli.run("benchmark", WHAT, main, USAGE)
