"""From a recipe to the data that it trains on: card, faces, held-out people, batches."""
from __future__ import annotations

import os
import sys

import torch

from askd.data.cards import Card, load_card
from askd.data.faces import FaceSet, Subset, split_by_hash
from askd.data.loader import TrainingBatches
from askd.engine import dist
from askd.errors import DataError, RecipeError
from askd.schema import OnBadImage, Recipe


def open_training(recipe: Recipe, together: bool = True) -> tuple[Card, FaceSet, FaceSet | None]:
    """The card, the training faces, and the held-out identities (None without data.holdout); renders a demo set that is not there.

    together: all ranks call this, and wait for the one that renders; False where one rank does alone, whose barrier would meet another's.
    """
    card = load_card(recipe.data.set)
    if dist.is_main():
        card.prepare(recipe.data.path, workers=max(recipe.data.workers, os.cpu_count() or 1), progress=show_rendering)
    if together:
        dist.barrier()
    faces = card.training_faces(recipe.data.path, min_images=recipe.data.min_images)
    if dist.is_main():
        for finding in card.check(recipe.data.path):
            print(f"warning: {finding}", file=sys.stderr)
    held_out = None
    if recipe.data.holdout > 0:
        kept, out = split_by_hash(faces.class_names, recipe.data.holdout)
        faces, held_out = Subset(faces, kept), Subset(faces, out)
    if len(faces) < recipe.train.batch:
        raise DataError(f"{recipe.data.set}: {len(faces)} training images are fewer than train.batch={recipe.train.batch}; lower it")
    return card, faces, held_out


def make_batches(recipe: Recipe, faces: FaceSet, sizes: list[int], device: torch.device) -> TrainingBatches:
    """This rank's batches of the training faces; RecipeError where the sampler cannot make any."""
    try:
        batches = TrainingBatches(
            faces, batch=recipe.train.batch, sizes=sizes, augment=recipe.data.augment.name, degradation=recipe.data.degradation.name,
            sampler=recipe.data.sampler.name, images_per_identity=recipe.data.images_per_identity,
            skip_bad=recipe.data.on_bad_image is OnBadImage.skip, seed=recipe.seed, workers=recipe.data.workers, rank=dist.rank(),
            world=dist.world_size(), drop_last=recipe.data.drop_last, accumulate=recipe.train.accumulate, device=device,
        )
    except ValueError as error:
        raise RecipeError(f"data.sampler={recipe.data.sampler.name} of {recipe.data.set}: {error}") from None
    if batches.least < 2 and not (recipe.train.sync_bn and dist.world_size() > 1):
        parts = f" with train.accumulate={recipe.train.accumulate}" if recipe.train.accumulate > 1 else ""
        raise RecipeError(
            f"train.batch={recipe.train.batch}{parts} leaves a process with one image at times, of which "
            "batch norm has no statistics; enlarge the batch, or set train.sync_bn=true where there are several processes"
        )
    if recipe.distill.relation is not None and batches.least * dist.world_size() < 3:
        raise RecipeError(
            f"train.batch={recipe.train.batch} leaves fewer than three images at times, of which distill.relation finds no angles; change it, or "
            "leave an epoch's last batch out (data.drop_last=true)"
        )
    return batches


def show_rendering(done: int, total: int) -> None:
    """One line that is overwritten while demo faces are drawn."""
    end = "\n" if done == total else ""
    if sys.stderr.isatty() or done == total:
        print(f"\rrendering the demo's faces: {done}/{total}", end=end, file=sys.stderr, flush=True)
