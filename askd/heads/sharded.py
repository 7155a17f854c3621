"""The identity head with its class centres split over the ranks: no rank ever holds all centres, or all logits.

Every rank sees the whole batch's embeddings, makes the logits of its own classes, and the ranks add up what a softmax needs: the largest
logit, the sum of exponentials, the true class's logit. arcface_torch calls this PartialFC (An et al., ICCVW 2021 and CVPR 2022), with
`sample_rate` below 1 in particular. torch's own loss parallelism has no label smoothing and no place for a margin.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from askd.collectives import rank, reduce_max, reduce_sum, world_size
from askd.heads.classifier import MarginHead


class ShardedHead(MarginHead):
    """As MarginHead, but called with a rank's part of the batch, and the loss it returns is that of the whole batch, on every rank.

    Rank r of W holds the classes from C r / W on, and stays outside DDP. `logits` and `cosine` have the whole batch's rows and the
    columns of these classes: (B of all, C here).
    sample_rate: the part of all classes that a training step sees: its own people, and every other class with this probability, drawn by
    (seed, training steps so far), and so the same on any number of ranks. The centres' gradient is then sparse, of the drawn rows alone.
    label_smoothing is spread over the classes that a step sees. ValueError for fewer classes than ranks.
    """

    def __init__(self, embedding: int, classes: int, *args, sample_rate: float = 1.0, seed: int = 0, **options):
        if classes < world_size():
            raise ValueError(f"{classes} classes cannot be split over {world_size()} processes")
        own = range(classes * rank() // world_size(), classes * (rank() + 1) // world_size())
        super().__init__(embedding, classes, *args, own=own, **options)
        self.draws = Draws(sample_rate, seed) if sample_rate < 1 else None
        self.shards = {"centres": (own.start * self.subcentres, classes * self.subcentres)}  # first row, rows in all: see engine.shards

    def cosine(self, embedding: Tensor) -> Tensor:
        """Cosines of the whole batch to the (nearest) centres of the classes here."""
        return self._cosine(self.ranks.gather(embedding), self.centres)

    def logits(self, embedding: Tensor, label: Tensor) -> Tensor:
        """Scaled cosines of the whole batch to the classes here, with the margin where the true class is one of them."""
        embedding, label = self.ranks.gather(embedding), self.ranks.gather(label)
        return self._logits(embedding, self._cosine(embedding, self.centres), *self._columns(label))

    def forward(self, embedding: Tensor, label: Tensor) -> Tensor:
        embedding, label = self.ranks.gather(embedding), self.ranks.gather(label)
        if self.norms is not None and self.training:
            self.norms.update(embedding.detach())
        if self.warmup is not None and self.training:
            self.warmup.done += 1
        centres, (column, here) = self.centres, self._columns(label)
        if self.draws is not None and self.training:
            drawn = self.draws.take(self.classes, self.own, column[here])
            rows = (drawn[:, None] * self.subcentres + torch.arange(self.subcentres, device=drawn.device)).flatten()
            centres, column = F.embedding(rows, self.centres, sparse=True), torch.searchsorted(drawn, column)
        logits = self._logits(embedding, self._cosine(embedding, centres), column, here)
        return _ShardedCrossEntropy.apply(logits, column, here, self.label_smoothing)

    def _columns(self, label: Tensor) -> tuple[Tensor, Tensor]:
        """The true class's place among the classes here, and whether it is here; 0 where it is not."""
        here = (label >= self.own.start) & (label < self.own.stop)
        return torch.where(here, label - self.own.start, 0), here

    def _cosine(self, embedding: Tensor, centres: Tensor) -> Tensor:
        if world_size() > 1 and centres.requires_grad:
            # Every rank's loss counts, and DDP takes the mean for the trunk; here it is taken by dividing.
            centres = centres.view_as(centres)
            centres.register_hook(lambda gradient: gradient / world_size())
        return self.cosine_to(centres, embedding)

    def _logits(self, embedding: Tensor, cosine: Tensor, column: Tensor, here: Tensor) -> Tensor:
        if not cosine.shape[1]:  # none of the classes here was drawn
            return cosine
        with torch.autocast(embedding.device.type, enabled=False):
            true = cosine.gather(1, column[:, None])
            moved = self.with_margin(true, torch.zeros_like(column), embedding)
            target = self.logit_scale * torch.where(here[:, None], moved, true)
            return (self.logit_scale * cosine).scatter_(1, column[:, None], target)


class Draws(nn.Module):
    """Which classes a training step sees; the count of steps is kept in the checkpoint."""

    def __init__(self, rate: float, seed: int):
        super().__init__()
        self.rate, self.seed, self.done = rate, seed, 0

    def take(self, classes: int, own: range, positive: Tensor) -> Tensor:
        """The classes of `own` for the next step, counted from its start, sorted: `positive` ones and a part `rate` of the others."""
        generator = torch.Generator(positive.device).manual_seed((self.seed * 1_000_003 + self.done) % 2**63)
        self.done += 1
        keep = torch.rand(classes, generator=generator, device=positive.device)[own.start : own.stop] < self.rate
        keep[positive] = True
        return keep.nonzero().flatten()

    def get_extra_state(self) -> Tensor:
        """What state_dict holds of it."""
        return torch.tensor(self.done)

    def set_extra_state(self, state: Tensor) -> None:
        """Goes on from there."""
        self.done = int(state)


class _ShardedCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of logits (B, C here) whose columns lie on the ranks; as every rank's loss counts, the gradient is W times its own."""

    @staticmethod
    def forward(ctx, logits: Tensor, column: Tensor, here: Tensor, smoothing: float) -> Tensor:
        top = _largest(logits)
        shifted = logits - top[:, None]
        true = torch.where(here, shifted.gather(1, column[:, None])[:, 0], 0) if logits.shape[1] else torch.zeros_like(top)
        spread = shifted.sum(1) if smoothing else torch.zeros_like(top)
        powers = shifted.exp_()
        sums = torch.cat([powers.sum(1), true, spread, top.new_full((1,), logits.shape[1])])
        total, true, spread, classes = reduce_sum(sums).split([*[len(top)] * 3, 1])
        ctx.save_for_backward(powers, total, column, here, classes)
        ctx.smoothing = smoothing
        return (total.log() - (1 - smoothing) * true - smoothing / classes * spread).mean()

    @staticmethod
    def backward(ctx, gradient: Tensor):
        powers, total, column, here, classes = ctx.saved_tensors
        factor = gradient * world_size() / len(powers)
        logits = powers * (factor / total)[:, None]
        if ctx.smoothing:
            logits -= factor * ctx.smoothing / classes
        if logits.shape[1]:
            logits.scatter_add_(1, column[:, None], torch.where(here, factor * (ctx.smoothing - 1), 0)[:, None])
        return logits, None, None, None


def _largest(logits: Tensor) -> Tensor:
    return reduce_max(logits.amax(1) if logits.shape[1] else logits.new_full((len(logits),), -torch.inf))


def sharded_divergence(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """losses.logit.softened_divergence of logits (B, C here) whose columns lie on the ranks, the same on every rank."""
    with torch.autocast(student.device.type, enabled=False):
        ours, theirs = (_log_softmax(logits / temperature) for logits in (student, teacher.detach()))
        return temperature**2 * reduce_sum(F.kl_div(ours, theirs, reduction="sum", log_target=True)) / len(student)


def _log_softmax(logits: Tensor) -> Tensor:
    shifted = logits - _largest(logits)[:, None]
    return shifted - reduce_sum(shifted.exp().sum(1)).log()[:, None]
