"""The method: student trunk and margin head learn identities at low resolution while a frozen teacher shows, at high resolution, where to look."""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from askd.models.features import Features


class Trunk(nn.Module):
    """What DDP wraps and what is called: the backbone, returning Features."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone

    def forward(self, image: Tensor) -> Features:
        return self.backbone.forward_all(image)


class Distiller:
    """L = L_identity(head, student on LR) + sum of weight * term(student on LR, teacher on HR): A-SKD when the term is attention.

    trunk: (B, 3, 112, 112) -> Features, trained. head: (embedding, label) -> scalar, trained. teacher: as trunk, frozen; never part
    of anyone's state_dict. terms: name -> (weight, loss of (student Features, teacher Features)), unweighted means as losses are.
    Without terms this trains a teacher or a baseline, and `hr` is not looked at.
    """

    def __init__(
        self, trunk: Callable, head: nn.Module, teacher: Callable | None = None,
        terms: dict[str, tuple[float, Callable[[Features, Features], Tensor]]] | None = None,
    ):
        if bool(terms) != (teacher is not None):
            raise ValueError("distillation terms need a teacher, and a teacher needs terms")
        self.trunk, self.head, self.teacher, self.terms = trunk, head, teacher, terms or {}

    def __call__(self, hr: Tensor, lr: Tensor, label: Tensor) -> dict[str, Tensor]:
        """The loss and its unweighted parts, by name, for one batch: hr, lr (B, 3, 112, 112) in [-1, 1], label (B,)."""
        student = self.trunk(lr)
        parts = {"identity": self.head(student.embedding, label)}
        loss = parts["identity"]
        if self.terms:
            with torch.no_grad():
                teacher = self.teacher(hr)
            for name, (weight, term) in self.terms.items():
                parts[name] = term(student, teacher)
                loss = loss + weight * parts[name]
        return {"loss": loss, **parts}
