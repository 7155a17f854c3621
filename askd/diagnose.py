"""Look into an ensemble: how alike its learners see, over training; where each looks; what each is worth beside all together."""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from askd import cli
from askd.benchmark import open_sets
from askd.data.degrade import EVALUATION_OF, degrade
from askd.data.loader import to_unit
from askd.data.pairs import PairSet
from askd.engine.dist import init_from_env
from askd.engine.precision import choose_precision
from askd.errors import DataError, RecipeError
from askd.evaluation.embed import decode_all, embed
from askd.evaluation.exhibits import distinct_faces
from askd.evaluation.figures import save
from askd.evaluation.learner_figures import plot_learners, plot_masks, plot_pairs, similarity_figure
from askd.evaluation.learners import BINS, overall, similarities
from askd.evaluation.report import write_whole
from askd.evaluation.retrieval import retrieve
from askd.evaluation.verification import score_pairs
from askd.models.ensemble import Ensemble
from askd.models.features import Backbone
from askd.recipe import load
from askd.schema import Recipe
from askd.teach import choose_device
from askd.teachers import load_backbone
from askd.watch import LEARNERS

WHAT = "Look into an ensemble's run: similarities between learners over training, their masks, each against the whole ensemble; " \
       "of a single network, its control, the same figures."
USAGE = "RUN_FOLDER [size=PIXELS] [out=FOLDER] [data.path=FOLDER] [eval.sets=[...]] [eval.protocols=[...]] [eval.batch=N] [device=...] [precision=...]"
KEYS = ("data.path", "eval.sets", "eval.protocols", "eval.batch", "device", "precision")  # of the run's recipe, that say how it is looked at
FACES = 5  # rows of the figure of masks


def main(argv: list[str]) -> None:
    """`python -m askd.diagnose RUN_FOLDER [key=value ...]`"""
    paths = [argument for argument in argv if "=" not in argument]
    options = dict(argument.split("=", 1) for argument in argv if "=" in argument)
    if len(paths) != 1:
        raise RecipeError(f"usage: python -m askd.diagnose {USAGE}, got {' '.join(argv) or 'nothing'}")
    run = Path(paths[0])
    out, size = Path(options.pop("out", run / "learners")), options.pop("size", None)
    for key in options.keys() - set(KEYS):
        raise RecipeError(f"{key}= says nothing here; askd.diagnose takes size=, out= and {', '.join(KEYS)}")
    if size is not None and not (size.isdigit() and 1 <= int(size) <= 112):
        raise RecipeError(f"size= must be a number of pixels, 1 to 112, got {size}")
    network, meta = load_backbone(run)
    recipe = load([f"recipe={run / 'recipe.yaml'}", *(f"{key}={value}" for key, value in options.items())])
    with init_from_env(choose_device(recipe)) as device:
        look = diagnose if isinstance(network, Ensemble) else diagnose_single
        print(look(recipe, run, network.eval().requires_grad_(False).to(device), int(size) if size else min(meta["sizes"]), out, device))


def diagnose_single(recipe: Recipe, run: Path, network: Backbone, size: int, out: Path, device: torch.device) -> str:
    """Writes figures.json to `out`, of a network without learners; returns the table that it prints."""
    pairs, images = set_of_pairs(recipe)
    row = figures(*embedded(recipe, network, size, images, device), pairs, recipe)
    out.mkdir(parents=True, exist_ok=True)
    document = {"set": pairs.name, "size": size, "protocol": recipe.eval.protocols[0].name, "network": row}
    write_whole(out / "figures.json", lambda path: path.write_text(json.dumps(document, indent=1)))
    return table({"network": row}, {}, pairs.name, size)


def diagnose(recipe: Recipe, run: Path, network: Ensemble, size: int, out: Path, device: torch.device) -> str:
    """Writes learners.json, similarities.png, pairs.png, masks.png and accuracy.png to `out`; returns the table that it prints.

    On the first set of pairs of eval.sets, at `size` pixels, images as the run's training saw them; what is over training, by the set that
    training watched, which titles name.
    """
    pairs, images = set_of_pairs(recipe)
    document = examine(recipe, network, size, pairs, images, device)
    rows, whole = document["learners"], document["ensemble"]
    out.mkdir(parents=True, exist_ok=True)
    log = run / LEARNERS
    document["over_training"] = [json.loads(line) for line in (log.read_text().splitlines() if log.is_file() else [])]
    write_whole(out / "learners.json", lambda path: path.write_text(json.dumps(document, indent=1)))
    history = [(line["step"], line["pairs"]) for line in document["over_training"]]
    watched = next((line["set"] for line in document["over_training"] if "set" in line), "the watched set")  # older runs do not name it
    panels = [(f"{watched}, step {step}", entries) for step, entries in history] or [(f"{pairs.name}, at the end", document["pairs"])]
    save(similarity_figure(panels), out / "similarities.png")
    plot_pairs(document["pairs"], history, out / "pairs.png", f"below: {pairs.name}, the finished network; above: {watched}, over training")
    measure = "accuracy" if whole["accuracy"] is not None else "auc"
    plot_learners({name.split()[1]: 100 * row[measure] for name, row in rows.items()}, 100 * whole[measure], f"{measure} (%)", out / "accuracy.png")
    if network.masks is not None:
        degradation = recipe.data.degradation.name
        chosen = images[distinct_faces(pairs, FACES)].to(device)
        seen = degrade(chosen, size, EVALUATION_OF.get(degradation, degradation), quantise=recipe.data.quantise)
        faces = seen.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        plot_masks(faces, network.masks_of(to_unit(seen)).float().cpu().numpy(), out / "masks.png")
    return table(rows | {"ensemble": whole}, document["overall"], pairs.name, size)


def set_of_pairs(recipe: Recipe) -> tuple[PairSet, torch.Tensor]:
    """The first of eval.sets that holds genuine and impostor pairs, and its images, decoded; DataError where none does."""
    pairs = next((one for one in open_sets(recipe) if isinstance(one, PairSet) and one.same.any() and not one.same.all()), None)
    if pairs is None:
        raise DataError(f"no set of eval.sets={recipe.eval.sets} holds genuine and impostor pairs; name one that does")
    return pairs, decode_all(pairs.images, pairs.image_names)


def examine(recipe: Recipe, network: Ensemble, size: int, pairs: PairSet, images: torch.Tensor, device: torch.device) -> dict:
    """How alike the learners see, and each one's figures beside the ensemble's, with `pairs` at `size` pixels: what learners.json holds."""
    plain, mirrored = embedded(recipe, network, size, images, device)
    entries = similarities(plain, network.learners, pairs.left, pairs.right, pairs.same)
    parts = [np.split(side, network.learners, axis=1) for side in (plain, mirrored)]
    return {
        "set": pairs.name, "size": size, "protocol": recipe.eval.protocols[0].name, "bins": np.linspace(-1, 1, BINS + 1).round(9).tolist(),
        "overall": overall(entries), "pairs": entries,
        "learners": {f"learner {m + 1}": figures(ours, theirs, pairs, recipe) for m, (ours, theirs) in enumerate(zip(*parts))},
        "ensemble": figures(plain, mirrored, pairs, recipe),
    }


def embedded(recipe: Recipe, network: Backbone, size: int, images: torch.Tensor, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of images and mirror images at `size` pixels, as the run's training saw them."""
    with choose_precision(recipe.precision.name, device).autocast():
        return embed(
            network, images, size, recipe.data.degradation.name, device=device, batch=recipe.eval.batch, quantise=recipe.data.quantise,
        )


def figures(plain: np.ndarray, mirrored: np.ndarray, pairs: PairSet, recipe: Recipe) -> dict[str, float | None]:
    """Verification of a learner's, or of whole, embeddings; retrieval among the set's images too, where their people are known."""
    scored = score_pairs(plain, mirrored, pairs.left, pairs.right, pairs.same, pairs.fold, recipe.eval.protocols[0].name)
    found = {"accuracy": scored.accuracy, "auc": scored.auc}
    if pairs.identity is not None:
        searched = retrieve(plain + mirrored, pairs.identity)
        found |= {f"recall@{k}": value for k, value in searched.recall.items()} | {"map@r": searched.map_at_r}
    return found


def table(rows: dict[str, dict], means: dict[str, float], name: str, size: int) -> str:
    """Markdown, figures in per cent."""
    measures = [key for key, value in next(iter(rows.values())).items() if value is not None]
    lines = [f"{name} at {size} px", "", f"| {'':<10} | {' | '.join(measures)} |", f"|{'-' * 12}|{'---:|' * len(measures)}"]
    lines += [f"| {who:<10} | {' | '.join(f'{100 * row[key]:.2f}' for key in measures)} |" for who, row in rows.items()]
    cosines = ["", "mean cosines: " + ", ".join(f"{kind} {mean:.3f}" for kind, mean in means.items())] if means else []
    return "\n".join([*lines, *cosines])


if __name__ == "__main__":
    cli.run("diagnose", WHAT, main, USAGE)
