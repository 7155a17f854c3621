"""From a recipe to its method: the margin head, the terms and their projections, the teacher's class centres; and whether they fit."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from enum import Enum
from pathlib import Path

import torch
from torch import Tensor

from askd.centres import learnt_centres, mean_centres
from askd.collectives import Ranks, world_size
from askd.data.faces import FaceSet
from askd.distiller import Trunk
from askd.engine.shards import load_whole
from askd.errors import RecipeError
from askd.heads.classifier import MarginHead
from askd.heads.learners import LearnerHeads
from askd.heads.metric import METRICS, MetricHead
from askd.heads.sharded import ShardedHead
from askd.models.features import Backbone, Features
from askd.models.onnx_network import OnnxNetwork
from askd.models.projections import Projections
from askd.schema import Attention, CentreSource, Hint, Logits, Margin, OnBadImage, Projection, Recipe
from askd.teachers import Frozen
from askd.terms import REMEDIES, TERMS, Term, divergence_term

Head = MarginHead | MetricHead | LearnerHeads


def make_identity(recipe: Recipe, classes: int, ranks: Ranks = Ranks()) -> Head | None:
    """What a network learns identities with, by the recipe's `head`, at random: one per learner of an ensemble; None with head.weight=0."""
    if not recipe.head.weight:
        return None
    ensemble = recipe.network.ensemble
    if ensemble is None:
        return _head_of_width(recipe, recipe.network.embedding, classes, ranks)
    width = recipe.network.embedding // ensemble.learners
    return LearnerHeads([_head_of_width(recipe, width, classes, ranks) for _ in range(ensemble.learners)])


def _head_of_width(recipe: Recipe, width: int, classes: int, ranks: Ranks) -> MarginHead | MetricHead:
    if recipe.head.kind.name in METRICS:
        return MetricHead(recipe.head.kind.name, recipe.head.margin)
    return make_head(recipe, width, classes, ranks=ranks)


def make_taught_head(recipe: Recipe, width: int, classes: int, subcentres: int = 1, ranks: Ranks = Ranks()) -> MarginHead:
    """A head for a teacher's class centres, whose logits the recipe's `distill.logit` compares with the student's.

    Where it compares cosines, which have no margin, it is a plain one: AdaFace's norms are not looked for.
    """
    if recipe.distill.logit.logits is Logits.cosine:
        recipe = replace(recipe, head=replace(recipe.head, kind=Margin.arcface, margins=None, h=None))
    return make_head(recipe, width, classes, subcentres, ranks)


def needs_norms(recipe: Recipe) -> bool:
    """Whether `distill.logit` compares AdaFace's margin logits, which need the mean and spread of the teacher's feature norms."""
    logit = recipe.distill.logit
    return logit is not None and logit.logits is Logits.margin and recipe.head.kind is Margin.adaface


def make_head(recipe: Recipe, width: int, classes: int, subcentres: int | None = None, ranks: Ranks = Ranks()) -> MarginHead:
    """A new margin head by the recipe's `head`, at random; `subcentres` in place of the recipe's. RecipeError: it cannot be split so."""
    head = recipe.head
    given = {key: value for key, value in (("margins", head.margins), ("h", head.h)) if value is not None}
    given |= {"kind": head.kind.name, "subcentres": subcentres or head.subcentres, "label_smoothing": head.label_smoothing, "ranks": ranks}
    if not is_sharded(recipe):
        return MarginHead(width, classes, head.margin, head.logit_scale, **given)
    try:
        return ShardedHead(
            width, classes, head.margin, head.logit_scale, sample_rate=head.sample_rate, seed=recipe.seed, **given,
        )
    except ValueError as error:
        raise RecipeError(f"head.sharded: {error}; set head.sharded=false, or start fewer processes") from None


def is_sharded(recipe: Recipe) -> bool:
    """Whether the class centres lie on the processes in parts; a head that samples is of this kind on one process, too."""
    head, several = recipe.head, world_size() > 1
    if head.kind.name in METRICS:  # which have none
        return False
    if several and head.sharded is False and head.sample_rate < 1:
        raise RecipeError(f"head.sample_rate={head.sample_rate:g} on {world_size()} processes needs head.sharded=true (or null)")
    return head.sample_rate < 1 or several and head.sharded is not False


def teaches(recipe: Recipe) -> bool:
    """Whether the recipe takes anything from a teacher: a term, or its class centres."""
    return any(getattr(recipe.distill, key.name) is not None for key in fields(recipe.distill))


def make_terms(
    recipe: Recipe, heads: tuple[MarginHead | LearnerHeads, MarginHead] | None = None, ranks: Ranks | None = None,
) -> dict[str, tuple[float, Term]]:
    """The recipe's distillation terms: name -> (weight, loss). heads: student's and teacher's, for `logit`, left out without them.

    ranks: what the relations' batch lies on, None for this process alone.
    """
    besides = {"logit": {"heads": heads}, "relation": {"ranks": ranks} if ranks else {}}
    terms = {}
    for name, factory in TERMS.items():
        term = getattr(recipe.distill, name)
        if term is None or name == "logit" and heads is None:
            continue
        options = {key.name: getattr(term, key.name) for key in fields(term) if key.name != "weight"}
        options = {key: value.name if isinstance(value, Enum) else value for key, value in options.items()}
        terms[name] = term.weight, factory(**options, **besides.get(name, {}))
    return terms


def of_whole_batch(recipe: Recipe) -> set[str]:
    """The parts of the loss that every rank computes for the whole batch."""
    return {"relation"} | ({"identity", "logit"} if is_sharded(recipe) else set())


def make_own_terms(recipe: Recipe) -> dict[str, tuple[float, Callable[[Features], Tensor]]]:
    """What a network learns of itself, with or without a teacher: name -> (weight, loss), ABE's divergence where the recipe has it."""
    term = recipe.head.divergence
    return {} if term is None else {"divergence": (term.weight, divergence_term(term.margin, term.reduction.name))}


def make_projections(recipe: Recipe, student: Backbone, teacher: Backbone | OnnxNetwork) -> Projections | None:
    """What the recipe's terms need on the student's side, at random but for no one else's random numbers; None where that is nothing.

    A stage that either network lacks gets no hint: its term says so.
    """
    feature, embedding = recipe.distill.feature, recipe.distill.embedding
    hints = []
    if feature is not None and feature.hint is not Hint.none:
        count = min(len(student.feature_info), len(teacher.feature_info))
        hints = [(s, *(side.feature_info[s - 1]["channels"] for side in (student, teacher))) for s in feature.stages if s <= count]
    linear = embedding is not None and embedding.projection is Projection.linear
    if not hints and not linear:
        return None
    with torch.random.fork_rng(devices=()):
        return Projections(
            hints, batch_norm=bool(hints) and feature.hint is Hint.conv_bn,
            embedding=(student.head_hidden_size, teacher.head_hidden_size) if linear else None,
        )


def check_method(recipe: Recipe, student: Backbone, teacher: Backbone | OnnxNetwork, teacher_name: str) -> Projections | None:
    """The projections of the recipe's terms; RecipeError before training where a term cannot compare the two networks.

    Found by one forward pass of four blank images. Class centres, which depend on the people, are looked at by inherit_centres.
    """
    if recipe.distill.attention is not None and recipe.network.attention is Attention.none:
        raise RecipeError("network.attention must be se, bam or cbam when distill.attention is on, got none")
    projections, student_name = make_projections(recipe, student, teacher), recipe.network.backbone
    trunk, blank = Trunk(student, projections).eval(), torch.zeros(4, 3, 112, 112)
    with torch.no_grad():
        ours, theirs = trunk(blank), (teacher if isinstance(teacher, OnnxNetwork) else teacher.eval()).forward_all(blank)
        theirs = theirs.only(recipe.distill.teacher_parts())  # as in training
        for name, (_, term) in make_terms(recipe).items():
            try:
                term(ours, theirs, torch.zeros(4, dtype=torch.long))
            except ValueError as error:
                raise RecipeError(
                    f"distill.{name} does not fit student {student_name} and teacher {teacher_name}: {error}; {REMEDIES[name]}"
                ) from None
    centres = recipe.distill.centres
    if centres is not None and student.head_hidden_size != teacher.head_hidden_size:
        raise RecipeError(
            f"distill.centres does not fit student {student_name} and teacher {teacher_name}: embeddings of {student.head_hidden_size} and "
            f"{teacher.head_hidden_size}; set network.embedding={teacher.head_hidden_size}"
        )
    trunk.train()
    return projections


def inherit_centres(
    recipe: Recipe, head: Head | None, teacher: Frozen, teacher_path: Path, faces: FaceSet, device: torch.device, ranks: Ranks = Ranks(),
) -> tuple[MarginHead | LearnerHeads, MarginHead] | None:
    """The student's head and one with the teacher's class centres, where `logit` needs them; sets the student's for `centres`.

    CheckpointError, naming both, where the teacher did not learn these very classes.
    """
    def centres_of(source: CentreSource, name: str) -> dict[str, torch.Tensor]:
        if source is CentreSource.mean:
            return {"centres": mean_centres(teacher, faces, device, skip_bad=recipe.data.on_bad_image is OnBadImage.skip)}
        return learnt_centres(teacher_path, faces.class_names, f"distill.{name}")

    inherited, logit = recipe.distill.centres, recipe.distill.logit
    if inherited is not None:
        state = centres_of(inherited.source, "centres")
        load_whole(head, head.state_dict() | {"centres": state["centres"]}, f"{teacher_path} (its class centres)")
        head.centres.requires_grad_(inherited.trainable)
    if logit is None:
        return None
    state, classes = centres_of(logit.source, "logit"), len(faces.class_names)
    with torch.random.fork_rng(devices=()):
        theirs = make_taught_head(recipe, state["centres"].shape[1], classes, len(state["centres"]) // classes, ranks)
    load_whole(theirs, {name: state[name] for name in theirs.state_dict() if name in state}, f"{teacher_path} (its head)")
    theirs.warmup = head.warmup  # whose margin grows, the teacher's grows with it
    return head, theirs.to(device).requires_grad_(False).eval()
