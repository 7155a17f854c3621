"""Distillation terms by name: the keys of a recipe's `distill`, each a loss over what student and teacher return."""
from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from askd.collectives import Ranks
from askd.heads.classifier import MarginHead
from askd.heads.learners import LearnerHeads
from askd.heads.sharded import ShardedHead, sharded_divergence
from askd.losses.attention import attention_similarity
from askd.losses.divergence import divergence
from askd.losses.embedding import embedding_similarity
from askd.losses.feature import feature_similarity
from askd.losses.logit import softened_divergence
from askd.losses.relation import cross_sample_affinity, relational_angle, relational_distance
from askd.models.features import Features

Term = Callable[[Features, Features, Tensor], Tensor]  # (student, teacher, label (B,)) -> scalar


def attention_term(space: str, reduction: str, channel: float, spatial: float, distance: str = "cosine") -> Term:
    """A-SKD's term over whole Features; see losses.attention.attention_similarity for its options."""

    def term(student: Features, teacher: Features, label: Tensor) -> Tensor:
        return attention_similarity(student.attention, teacher.attention, space, reduction, channel, spatial, distance)

    return term


def feature_term(distance: str, hint: str, stages: Sequence[int]) -> Term:
    """Stage outputs, counted from 1, the student's through its hint convolutions unless `hint` is none; see losses.feature."""

    def term(student: Features, teacher: Features, label: Tensor) -> Tensor:
        for who, there in (("student", student.stages), ("teacher", teacher.stages)):
            if max(stages) > len(there):
                raise ValueError(f"stages {', '.join(map(str, stages))} are asked for, the {who} has {len(there)}")
        ours = [student.stages[stage - 1] for stage in stages] if hint == "none" else student.hints
        return feature_similarity(ours, [teacher.stages[stage - 1] for stage in stages], distance)

    return term


def relation_term(distance: float, angle: float, cross: float, ranks: Ranks = Ranks()) -> Term:
    """RKD's two relations of embeddings and F-SKD's of the last stage, each times its own factor, in the whole batch; see losses.relation."""

    def term(student: Features, teacher: Features, label: Tensor) -> Tensor:
        total = 0.0
        if distance or angle:
            ours, theirs = ranks.gather(student.embedding), ranks.gather(teacher.embedding)
        if distance:
            total = total + distance * relational_distance(ours, theirs)
        if angle:
            total = total + angle * relational_angle(ours, theirs)
        if cross:
            if not student.stages or not teacher.stages:
                raise ValueError(f"cross needs stages; the student has {len(student.stages)}, the teacher {len(teacher.stages)}")
            total = total + cross * cross_sample_affinity(ranks.gather(student.stages[-1]), ranks.gather(teacher.stages[-1]))
        return total

    return term


def logit_term(temperature: float, logits: str, source: str, heads: tuple[MarginHead | LearnerHeads, MarginHead]) -> Term:
    """KD between the student's head and one that holds the teacher's class centres, under the student's scale and margin.

    logits: `margin` softens what the cross-entropy sees, margin included, as F-SKD does; `cosine` the scaled cosines without it.
    Heads whose classes lie on several ranks make one divergence of the whole batch.
    source: where those centres are from has been seen to by whoever built the heads.
    """
    student_head, teacher_head = heads
    distance = sharded_divergence if isinstance(teacher_head, ShardedHead) else softened_divergence

    def of(head: MarginHead | LearnerHeads, embedding: Tensor, label: Tensor) -> Tensor:
        return head.logits(embedding, label) if logits == "margin" else head.logit_scale * head.cosine(embedding)

    def term(student: Features, teacher: Features, label: Tensor) -> Tensor:
        return distance(of(student_head, student.identity, label), of(teacher_head, teacher.embedding, label), temperature)

    return term


def embedding_term(distance: str, projection: str) -> Term:
    """The distance of the two embeddings, the student's through its projection unless that is none; see losses.embedding."""

    def term(student: Features, teacher: Features, label: Tensor) -> Tensor:
        ours = student.embedding if projection == "none" else student.projected
        return embedding_similarity(ours, teacher.embedding, distance)

    return term


def divergence_term(margin: float, reduction: str) -> Callable[[Features], Tensor]:
    """ABE's divergence of one image's embeddings by an ensemble's learners; of the student alone, see losses.divergence."""

    def term(student: Features) -> Tensor:
        if student.learners is None:
            raise ValueError("divergence needs the learners of an ensemble; this network has one embedding")
        return divergence(student.learners, margin, reduction)

    return term


# Schema field -> factory; its arguments are the field's own keys but for the weight. KD's takes the two heads besides.
# The relations' takes how the batch lies on the ranks, too.
TERMS: dict[str, Callable[..., Term]] = {
    "attention": attention_term, "feature": feature_term, "relation": relation_term, "logit": logit_term, "embedding": embedding_term,
}
# What would fit where a term cannot compare two networks.
REMEDIES = {
    "attention": "use a teacher of the student's attention and blocks (network.*), a run of ours, or drop the term",
    "feature": "use a teacher that is a run of ours with such stages (unequal channels: distill.feature.hint=conv_bn), or drop the term",
    "relation": "use a teacher of the student's widths (network.*), distill.relation.cross=0, or drop the term",
    "logit": "use a teacher run that was trained on these classes, distill.logit.source=mean, or drop the term",
    "embedding": "set network.embedding to the teacher's width, or distill.embedding.projection=linear",
}
