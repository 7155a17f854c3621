"""The heads of an ensemble's learners: class centres of its own, or a metric loss, for each."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class LearnerHeads(nn.Module):
    """Mean over learners of each one's own head: learners' embeddings (B, M, D), label (B,) -> scalar.

    Centres that learners shared would pull their embeddings of an image together, against the divergence loss. The paper sums over
    learners; its weight of the divergence is stated for that in losses.divergence.
    """

    def __init__(self, heads: Sequence[nn.Module]):
        super().__init__()
        self.heads = nn.ModuleList(heads)

    @property
    def logit_scale(self) -> float:
        """Every learner's: the factor on cosines."""
        return self.heads[0].logit_scale

    @property
    def warmup(self) -> nn.Module | None:
        """Every learner's: how far the margin has grown."""
        return self.heads[0].warmup

    def warm_up(self, steps: int, micro_batches: int = 1) -> None:
        """See MarginHead.warm_up."""
        for head in self.heads:
            head.warm_up(steps, micro_batches)

    def forward(self, learners: Tensor, label: Tensor) -> Tensor:
        return torch.stack([head(learners[:, m], label) for m, head in enumerate(self.heads)]).mean()

    def cosine(self, learners: Tensor) -> Tensor:
        """Mean over learners of the cosines to every class, (B, M, D) -> (B, C): the cosine of whole embeddings to whole centres."""
        return torch.stack([head.cosine(learners[:, m]) for m, head in enumerate(self.heads)]).mean(0)

    def logits(self, learners: Tensor, label: Tensor) -> Tensor:
        """Mean over learners of the logits with the margin, (B, C)."""
        return torch.stack([head.logits(learners[:, m], label) for m, head in enumerate(self.heads)]).mean(0)
