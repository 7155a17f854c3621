"""What the types of a recipe cannot say: ranges, and keys that need or exclude one another."""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields

from askd.errors import RecipeError
from askd.schema import (
    Attention, Augment, CbamOrder, CbamParts, CentreSource, Distance, Distill, FeatureDistance, Hint, Learners, Logits, Margin, Network, Optimizer,
    Projection, Recipe, Sampler,
)


def check_values(recipe: Recipe) -> None:
    """RecipeError names the first key whose value cannot be, what it must be, and what it is."""

    def need(good: bool, key: str, value: object, expected: str) -> None:
        if not good:
            raise RecipeError(f"{key} must be {expected}, got {value}")

    for key, sizes in (("data.sizes", recipe.data.sizes), ("eval.sizes", recipe.eval.sizes), ("teacher.sizes", recipe.teacher.sizes)):
        need(bool(sizes), key, sizes, "at least one size in pixels")
        for size in sizes:
            need(1 <= size <= 112, key, size, "between 1 and 112 pixels")
    if recipe.data.augment is Augment.surveillance:
        need(recipe.data.quantise, "data.quantise", "false", "true with data.augment=surveillance, whose cameras store 8 bits")
    images, batch = recipe.data.images_per_identity, recipe.train.batch
    if recipe.data.sampler is Sampler.identities:
        divides = images is not None and images >= 1 and batch % images == 0
        need(divides, "data.images_per_identity", images, f"a divisor of train.batch={batch} with data.sampler=identities")
    else:
        need(images is None, "data.images_per_identity", images, f"left out with data.sampler={recipe.data.sampler.name}")
    need(recipe.data.sampler is not Sampler.pairs or batch % 4 == 0, "train.batch", batch, "a multiple of 4 with data.sampler=pairs")
    need(recipe.data.drop_last or recipe.data.sampler is Sampler.shuffle, "data.drop_last", "false", "true unless data.sampler=shuffle")
    need(0 <= recipe.data.holdout < 1, "data.holdout", recipe.data.holdout, "a fraction, 0 <= holdout < 1")
    for key, value, least in (
        ("data.min_images", recipe.data.min_images, 1), ("data.workers", recipe.data.workers, 0),
        ("network.reduction", recipe.network.reduction, 1), ("network.embedding", recipe.network.embedding, 1),
        ("train.lr", recipe.train.lr, 0), ("train.momentum", recipe.train.momentum, 0), ("train.weight_decay", recipe.train.weight_decay, 0),
        ("train.warmup_epochs", recipe.train.warmup_epochs, 0), ("train.batch", recipe.train.batch, 2),
        ("train.checkpoint_every", recipe.train.checkpoint_every, 1), ("train.log_every", recipe.train.log_every, 1),
        ("eval.batch", recipe.eval.batch, 1),
    ):
        need(least <= value < math.inf, key, value, f"at least {least}")
    for key, value in (
        ("head.logit_scale", recipe.head.logit_scale), ("train.gamma", recipe.train.gamma),
        ("train.power", recipe.train.power), ("eval.every_epochs", recipe.eval.every_epochs),
    ):
        need(0 < value < math.inf, key, value, "above 0")
    for key, length in (("train.epochs", recipe.train.epochs), ("teacher.epochs", recipe.teacher.epochs)):
        if length is not None:
            need(0 < length < math.inf, key, length, "above 0")
            warmup = recipe.train.warmup_epochs
            need(warmup < length, "train.warmup_epochs", warmup, f"below {key}={length:g}; set it to 0 for such a short run")
            grows = recipe.head.warmup_epochs
            need(grows <= length, "head.warmup_epochs", grows, f"at most {key}={length:g}, or the margin never comes to its own")
    need(0 <= recipe.seed < 2**63, "seed", recipe.seed, "from 0 to 2^63 - 1")
    need(recipe.train.clip is None or recipe.train.clip > 0, "train.clip", recipe.train.clip, "above 0, or null for no limit")
    accumulate, ema = recipe.train.accumulate, recipe.train.ema
    least = 3 if recipe.distill.relation is not None else 2
    fits = accumulate >= 1 and batch % accumulate == 0 and batch // accumulate >= least
    need(fits, "train.accumulate", accumulate, f"a divisor of train.batch={batch} that leaves {least} or more images in each part")
    need(ema is None or 0 < ema < 1, "train.ema", ema, "a decay between 0 and 1, or null for no average")
    both = recipe.debug.anomaly and recipe.compile
    need(not both, "compile", "true", "null or false with debug.anomaly=true, which looks into modules")
    if recipe.train.optimizer is Optimizer.sgd and recipe.train.nesterov:
        need(recipe.train.momentum > 0, "train.momentum", recipe.train.momentum, "above 0 with train.nesterov")
    need(recipe.network.spatial_kernel in (3, 7), "network.spatial_kernel", recipe.network.spatial_kernel, "3 or 7")
    for key in ("cbam_order", "cbam_parts", "cbam_pool"):
        value, default = getattr(recipe.network, key), getattr(Network, key)
        need(value is default or recipe.network.attention is Attention.cbam, f"network.{key}", value.name,
             f"{default.name} with network.attention={recipe.network.attention.name}, of which it is no option")
    spatial = recipe.network.spatial_kernel == 7 or recipe.network.cbam_parts is not CbamParts.channel
    need(spatial, "network.spatial_kernel", recipe.network.spatial_kernel, "left out with network.cbam_parts=channel, which has no spatial part")
    one_part = recipe.network.cbam_parts is not CbamParts.both
    need(not one_part or recipe.network.cbam_order is CbamOrder.channel_first, "network.cbam_order", recipe.network.cbam_order.name,
         f"channel_first with network.cbam_parts={recipe.network.cbam_parts.name}, which leaves nothing to order")
    need(0 <= recipe.network.dropout < 1, "network.dropout", recipe.network.dropout, "a probability below 1")
    _check_method(recipe, need)
    if recipe.teacher.cache:
        _check_cache(recipe, need)
    need(bool(recipe.eval.protocols), "eval.protocols", recipe.eval.protocols, "at least one of insightface, askd")
    choices = ["last", *recipe.eval.during]
    need(recipe.eval.select in choices, "eval.select", recipe.eval.select, f"one of {', '.join(choices)} (last, or a set of eval.during)")
    if "holdout" in recipe.eval.during:
        need(recipe.data.holdout > 0, "data.holdout", recipe.data.holdout, "above 0 when eval.during has holdout")


def _check_cache(recipe: Recipe, need: Callable[[bool, str, object, str], None]) -> None:
    """A cached teacher is its embedding, of two images per file."""
    augment, distill = recipe.data.augment, recipe.distill
    alone = augment in (Augment.none, Augment.flip)
    need(alone, "teacher.cache", "true", f"false with data.augment={augment.name}, which changes the image that the teacher sees")
    terms = {key.name: term for key in fields(distill) if (term := getattr(distill, key.name)) is not None}
    for name in terms:
        looks = Distill(**{name: terms[name]}).teacher_parts()
        key = "relation.cross" if name == "relation" else name
        need(not looks, "teacher.cache", "true", f"false with distill.{key}, which looks at more than the teacher's embedding")
    need(bool(terms.keys() - {"centres"}) or not terms, "teacher.cache", "true", "false with distill.centres alone, which asks the teacher for no embedding")


def _check_method(recipe: Recipe, need: Callable[[bool, str, object, str], None]) -> None:
    head, distill = recipe.head, recipe.distill
    if head.kind is Margin.cosface:
        need(0 <= head.margin < 2, "head.margin", head.margin, "a difference of cosines, between 0 and 2, with head.kind=cosface")
    elif head.kind not in (Margin.contrastive, Margin.triplet):
        need(0 <= head.margin < 3.15, "head.margin", head.margin, "in radians, between 0 and pi")
    is_combined = head.kind is Margin.combined
    need((head.margins is not None) == is_combined, "head.margins", head.margins, "m1, m2, m3 with head.kind=combined, and null without it")
    if is_combined:
        fits = len(head.margins) == 3 and head.margins[0] >= 1 and 0 <= head.margins[1] < 3.15 and 0 <= head.margins[2] < 2
        need(fits, "head.margins", head.margins, "m1 >= 1, m2 in radians between 0 and pi, m3 between 0 and 2")
    need(head.h is None or head.kind is Margin.adaface and head.h > 0, "head.h", head.h, "above 0 with head.kind=adaface, null without it")
    need(head.subcentres >= 1, "head.subcentres", head.subcentres, "at least 1")
    need(0 <= head.label_smoothing < 1, "head.label_smoothing", head.label_smoothing, "a probability below 1")
    need(0 <= head.warmup_epochs < math.inf, "head.warmup_epochs", head.warmup_epochs, "at least 0")
    need(0 < head.sample_rate <= 1, "head.sample_rate", head.sample_rate, "above 0, and at most 1")
    need(head.sample_rate == 1 or head.weight > 0, "head.sample_rate", head.sample_rate, "1 with head.weight=0, which sees no classes")
    need(0 <= head.weight < math.inf, "head.weight", head.weight, "at least 0")
    _check_ensemble(recipe, need)
    for name in (key.name for key in fields(distill)):
        weight = getattr(getattr(distill, name), "weight", 0)
        need(0 <= weight < math.inf, f"distill.{name}.weight", weight, "at least 0")
    if distill.attention is not None:
        parts = [distill.attention.channel, distill.attention.spatial]
        need(_weighs(parts), "distill.attention", parts, "channel and spatial of 0 or more, one of them above 0")
    if distill.feature is not None:
        stages = distill.feature.stages
        distinct = bool(stages) and min(stages) >= 1 and len(set(stages)) == len(stages)
        need(distinct, "distill.feature.stages", stages, "distinct stages, from 1 on")
        if distill.feature.distance is FeatureDistance.at:
            hint = distill.feature.hint
            need(hint is Hint.none, "distill.feature.hint", hint.name, "none with distance=at, which sums over channels")
    if distill.relation is not None:
        factors = [distill.relation.distance, distill.relation.angle, distill.relation.cross]
        need(_weighs(factors), "distill.relation", factors, "distance, angle and cross of 0 or more, one of them above 0")
        need(recipe.train.batch >= 3, "train.batch", recipe.train.batch, "3 or more with distill.relation")
    if distill.logit is not None:
        need(distill.logit.temperature > 0, "distill.logit.temperature", distill.logit.temperature, "above 0")
        need(head.sample_rate == 1, "head.sample_rate", head.sample_rate, "1 with distill.logit, which compares all classes")
        means = distill.logit.source is CentreSource.mean and distill.logit.logits is Logits.margin and head.kind is Margin.adaface
        need(not means, "distill.logit.source", "mean", "learnt with AdaFace's margin logits, which need feature norms (or logits=cosine)")
    if distill.centres is not None and distill.centres.source is CentreSource.mean:
        need(head.subcentres == 1, "head.subcentres", head.subcentres, "1 with distill.centres.source=mean, which gives one centre per class")
    for name in ("logit", "centres"):
        if getattr(distill, name) is not None:
            need(head.weight > 0, "head.weight", head.weight, f"above 0 when distill.{name} is on: it needs class centres of the student")
    learns = head.weight > 0 or not recipe.baseline.enabled
    need(learns, "baseline.enabled", "true", "false with head.weight=0, which leaves it nothing to learn from")


def _weighs(factors: list[float]) -> bool:
    return all(0 <= factor < math.inf for factor in factors) and any(factors)


def _check_ensemble(recipe: Recipe, need: Callable[[bool, str, object, str], None]) -> None:
    """Ensembles and what they learn from; metric losses. Whether a backbone has the branch is seen when it is built."""
    ensemble, head, divergence = recipe.network.ensemble, recipe.head, recipe.head.divergence
    learners = 1 if ensemble is None else ensemble.learners
    if ensemble is not None:
        need(learners >= 1, "network.ensemble.learners", learners, "at least 1")
        width = recipe.network.embedding
        need(width % learners == 0, "network.embedding", width, f"a multiple of network.ensemble.learners={learners}")
        need(ensemble.branch >= 1, "network.ensemble.branch", ensemble.branch, "a stage of the backbone, from 1 on")
        need(ensemble.depth >= 1, "network.ensemble.depth", ensemble.depth, "at least 1")
        masks = ensemble.kind is Learners.abe or ensemble.depth == 1
        need(masks, "network.ensemble.depth", ensemble.depth, "left out with network.ensemble.kind=heads, which has no attention modules")
        term = recipe.distill.embedding
        reaches = term is None or term.distance is Distance.cosine or term.projection is Projection.linear
        need(reaches, "distill.embedding.projection", "none",
             f"linear with distance=l2 and network.ensemble, whose embeddings all have the length {learners**0.5:.3g}")
        centres = recipe.distill.centres is None
        need(centres, "distill.centres", "a section", "null with network.ensemble, whose learners have class centres each (distill.logit takes them)")
    if divergence is not None:
        need(learners >= 2, "network.ensemble.learners", learners, "2 or more with head.divergence, which keeps learners apart (or drop that)")
        need(0 <= divergence.weight < math.inf, "head.divergence.weight", divergence.weight, "at least 0")
        need(0 < divergence.margin <= 4, "head.divergence.margin", divergence.margin, "a squared distance above 0, at most 4")
    if head.kind in (Margin.contrastive, Margin.triplet):
        kind = head.kind.name
        need(0 < head.margin <= 4, "head.margin", head.margin, f"a squared distance above 0, at most 4, with head.kind={kind}")
        sampler, images = recipe.data.sampler, recipe.data.images_per_identity
        together = sampler is Sampler.pairs or sampler is Sampler.identities and images is not None and images >= 2
        need(together, "data.sampler", sampler.name, f"pairs, or identities with 2 or more images each, with head.kind={kind}")
        for key, value, none in (
            ("subcentres", head.subcentres, 1), ("label_smoothing", head.label_smoothing, 0), ("warmup_epochs", head.warmup_epochs, 0),
            ("sample_rate", head.sample_rate, 1), ("sharded", head.sharded, None),
        ):
            need(value == none, f"head.{key}", value, f"{'null' if none is None else none} with head.kind={kind}, which has no class centres")
        for name in ("logit", "centres"):
            need(getattr(recipe.distill, name) is None, f"distill.{name}", "a section", f"null with head.kind={kind}: no class centres")
