"""Distillation terms by name: the keys of a recipe's `distill`, each a loss over what student and teacher return."""
from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from askd.losses.attention import attention_similarity
from askd.losses.embedding import embedding_similarity
from askd.models.features import Features

Term = Callable[[Features, Features], Tensor]


def attention_term(space: str, reduction: str, channel: float, spatial: float) -> Term:
    """A-SKD's term over whole Features; see losses.attention.attention_similarity for its options."""

    def term(student: Features, teacher: Features) -> Tensor:
        return attention_similarity(student.attention, teacher.attention, space, reduction, channel, spatial)

    return term


def embedding_term(distance: str) -> Term:
    """The distance of the two embeddings; see losses.embedding.embedding_similarity."""

    def term(student: Features, teacher: Features) -> Tensor:
        return embedding_similarity(student.embedding, teacher.embedding, distance)

    return term


# Schema field -> factory; its arguments are the field's own keys but for the weight.
TERMS: dict[str, Callable[..., Term]] = {"attention": attention_term, "embedding": embedding_term}
