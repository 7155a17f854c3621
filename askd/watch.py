"""What is scored while a network trains: the sets of `eval.during`, at the training sizes, and where the network looks."""
from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from askd.data.cards import Card, open_set
from askd.data.faces import FaceSet
from askd.data.pairs import PairSet, all_pairs
from askd.engine import dist
from askd.engine.log import drop_lines_past
from askd.engine.precision import Precision
from askd.errors import DataError
from askd.evaluation.embed import decode_all, embed
from askd.evaluation.learner_figures import as_image, similarity_figure
from askd.evaluation.learners import overall, similarities
from askd.evaluation.overlay import attention_figure
from askd.evaluation.verification import score_pairs
from askd.models.ensemble import Ensemble
from askd.models.features import Backbone
from askd.schema import Recipe
from askd.teachers import Frozen

LEARNERS = "learners.jsonl"  # in the run folder: what `similarities` found at each evaluation


def watched_set(name: str, card: Card, recipe: Recipe, held_out: FaceSet | None) -> tuple[PairSet, torch.Tensor]:
    """A verification set to score during training, and this rank's part of its images, decoded: ranks share the embedding."""
    pairs = all_pairs(held_out, "holdout") if name == "holdout" else open_set(name, card, recipe.data.path)
    if not isinstance(pairs, PairSet):
        raise DataError(f"eval.during={name}: is no set of pairs; name a verification set, and leave this one to eval.sets")
    if pairs.same.all() or not pairs.same.any():
        kind = "genuine" if pairs.same.all() else "impostors"
        raise DataError(f"eval.during={name}: all {len(pairs)} pairs are {kind}, so there is no AUC to watch; name another set")
    first, last = (len(pairs.images) * (dist.rank() + more) // dist.world_size() for more in (0, 1))
    if first == last:  # more processes than images
        return pairs, torch.empty(0, 3, 112, 112, dtype=torch.uint8)
    return pairs, decode_all(pairs.images[first:last], pairs.image_names[first:last])


def make_evaluate(
    watched: dict[str, tuple[PairSet, torch.Tensor]], backbone: Backbone, sizes: list[int], recipe: Recipe,
    precision: Precision, device: torch.device, teacher: Frozen | None, folder: Path,
) -> Callable[[int], dict[str, float | np.ndarray]]:
    """A function that scores the sets at the training sizes: SET/auc (mean over sizes), SET/<size>px/{auc,accuracy}, and the attention figure.

    Every rank embeds its part of the images by rank 0's weights and buffers, and rank 0 scores; all get the numbers.
    Of an ensemble also how alike its learners see the first set, at the smallest size: learners/{self,positive,negative}, a figure, and
    a line of LEARNERS in the run folder.
    """
    first_pairs, first_images = next(iter(watched.values()))

    def score(step: int) -> dict[str, float | np.ndarray]:
        backbone.eval()
        dist.broadcast_buffers(backbone)
        results = {}
        for name, (pairs, images) in watched.items():
            areas = []
            for size in sizes:
                plain = flipped = np.empty((0, recipe.network.embedding), np.float32)
                if len(images):
                    with precision.autocast():
                        plain, flipped = embed(
                            backbone, images, size, recipe.data.degradation.name, device=device, batch=recipe.eval.batch,
                            quantise=recipe.data.quantise,
                        )
                plain, flipped = dist.gather_rows(plain), dist.gather_rows(flipped)
                if not dist.is_main():
                    continue
                scored = score_pairs(plain, flipped, pairs.left, pairs.right, pairs.same, pairs.fold, recipe.eval.protocols[0].name)
                results[f"{name}/{size}px/auc"] = scored.auc
                if scored.accuracy is not None:
                    results[f"{name}/{size}px/accuracy"] = scored.accuracy
                areas.append(scored.auc)
                if isinstance(backbone, Ensemble) and pairs is first_pairs and size == min(sizes):
                    results |= compare_learners(step, plain, backbone.learners, pairs, folder)
            if areas:
                results[f"{name}/auc"] = math.fsum(areas) / len(areas)
        if not dist.is_main():
            return results
        networks = {"student": (backbone.forward_all, min(sizes))} | ({"teacher": (teacher.forward_all, 112)} if teacher else {})
        figure = attention_figure(networks, first_images[:4], recipe.data.degradation.name, device)
        return results | ({"attention": figure} if figure is not None else {})

    def evaluate(step: int) -> dict[str, float | np.ndarray]:
        return dist.all_gather(score(step))[0]

    return evaluate


def compare_learners(step: int, plain: np.ndarray, learners: int, pairs: PairSet, folder: Path) -> dict[str, float | np.ndarray]:
    """Mean cosines and their figure, as `make_evaluate` returns them; appends the histograms to LEARNERS, past lines of later steps dropped."""
    entries, path = similarities(plain, learners, pairs.left, pairs.right, pairs.same), folder / LEARNERS
    drop_lines_past(path, step - 1)
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, "set": pairs.name, "pairs": entries}) + "\n")
    figure = similarity_figure([(f"step {step}", entries)])
    return {f"learners/{kind}": mean for kind, mean in overall(entries).items()} | {"learners": as_image(figure)}
