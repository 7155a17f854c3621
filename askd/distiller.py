"""The method: student trunk and margin head learn identities at low resolution while a frozen teacher shows, at high resolution, where to look."""
from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn

from askd.collectives import Ranks
from askd.models.features import Features


class Trunk(nn.Module):
    """What DDP wraps and what is called: the backbone, and the projections that terms need (models.projections), returning Features."""

    def __init__(self, backbone: nn.Module, projections: nn.Module | None = None):
        super().__init__()
        self.backbone, self.projections = backbone, projections

    def forward(self, image: Tensor) -> Features:
        features = self.backbone.forward_all(image)
        return features if self.projections is None else self.projections(features)


class Distiller:
    """L = w * L_identity(head, student on LR) + sum of weight * term(student on LR, teacher on HR): A-SKD when the term is attention.

    trunk: (B, 3, 112, 112) -> Features, trained. head: (embedding, label) -> scalar, trained, w its `head_weight`; None learns from
    the teacher alone. teacher: as trunk, frozen; never part of anyone's state_dict. terms: name -> (weight, loss of (student Features,
    teacher Features, label)), unweighted means as losses are. Without terms this trains a teacher or a baseline, and `hr` is not looked at.
    own: name -> (weight, loss of student Features), what a network learns of itself with or without a teacher: ABE's divergence.

    ranks: how the batch, of which this process has a part, lies on all of them. of_whole_batch: the parts of the loss that are of the whole
    batch already; the others are means over this rank's rows, and weighed by how many those are.
    """

    def __init__(
        self, trunk: Callable, head: nn.Module | None, teacher: Callable | None = None,
        terms: dict[str, tuple[float, Callable[[Features, Features, Tensor], Tensor]]] | None = None, head_weight: float = 1.0,
        own: dict[str, tuple[float, Callable[[Features], Tensor]]] | None = None, ranks: Ranks = Ranks(),
        of_whole_batch: Collection[str] = (),
    ):
        if bool(terms) != (teacher is not None):
            raise ValueError("distillation terms need a teacher, and a teacher needs terms")
        if head is None and not terms:
            raise ValueError("without a head and without terms there is nothing to learn")
        self.trunk, self.head, self.teacher, self.head_weight = trunk, head, teacher, head_weight
        self.terms, self.own, self.ranks, self.of_whole_batch = terms or {}, own or {}, ranks, of_whole_batch

    def __call__(self, hr: Tensor, lr: Tensor, label: Tensor) -> dict[str, Tensor]:
        """The loss and its unweighted parts, by name, for one batch: hr, lr (B, 3, 112, 112) in [-1, 1], label (B,).

        hr goes to the teacher alone: to a CachedTeacher the batch's rows in its place.
        """
        if self.terms:  # first, so that what it works with is given back before the student's activations pile up
            with torch.no_grad():
                teacher = self.teacher(hr)
        student = self.trunk(lr)
        parts, loss, share = {}, 0.0, self.ranks.share(len(label))

        def of_all_ranks(name: str, value: Tensor) -> Tensor:
            return value if name in self.of_whole_batch or share == 1 else share * value

        if self.head is not None:
            parts["identity"] = of_all_ranks("identity", self.head(student.identity, label))
            loss = self.head_weight * parts["identity"]
        for name, (weight, term) in self.own.items():
            parts[name] = of_all_ranks(name, term(student))
            loss = loss + weight * parts[name]
        for name, (weight, term) in self.terms.items():
            parts[name] = of_all_ranks(name, term(student, teacher, label))
            loss = loss + weight * parts[name]
        return {"loss": loss, **parts}
