"""The identity head: cosines to learnt class centres, a margin on the true class, scaled cross-entropy."""
from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from askd.collectives import Ranks
from askd.heads.cosine import cosines
from askd.heads.margin import adaface, arcface, combined, cosface

MARGINS = ("arcface", "cosface", "adaface", "combined")


class MarginHead(nn.Module):
    """`classes` identities: embedding (B, E), label (B,) -> mean cross-entropy, computed in float32 outside autocast.

    margin: ArcFace's m in radians, CosFace's as a cosine, AdaFace's m; logit_scale: ArcFace's s, the factor on all cosines.
    kind: one of MARGINS; `combined` has its m1, m2, m3 in `margins`, `adaface` its concentration in `h`.
    subcentres: centres per class, of which the nearest counts (sub-center ArcFace, Deng et al., ECCV 2020).
    label_smoothing: probability that the target leaves to the other classes.
    ranks: AdaFace's statistics are those of the batch that lies on them. own: the classes whose centres are held here, None for all.
    """

    def __init__(
        self, embedding: int, classes: int, margin: float = 0.5, logit_scale: float = 64.0, kind: str = "arcface",
        margins: tuple[float, float, float] = (1.0, 0.5, 0.0), h: float = 0.333, subcentres: int = 1, label_smoothing: float = 0.0,
        ranks: Ranks = Ranks(), own: range | None = None,
    ):
        super().__init__()
        if kind not in MARGINS:
            raise ValueError(f"unknown margin {kind!r}; choose from {', '.join(MARGINS)}")
        self.classes, self.own, self.ranks = classes, range(classes) if own is None else own, ranks
        rows = range(self.own.start * subcentres, self.own.stop * subcentres)
        self.centres = nn.Parameter(xavier_rows(classes * subcentres, embedding, rows))
        self.kind, self.margin, self.margins, self.h, self.logit_scale = kind, margin, margins, h, logit_scale
        self.subcentres, self.label_smoothing = subcentres, label_smoothing
        self.warmup: Warmup | None = None
        self.norms = FeatureNorms() if kind == "adaface" else None

    def warm_up(self, steps: int, micro_batches: int = 1) -> None:
        """Let the margin grow linearly from none to its own over the next `steps` training steps, counted here and checkpointed.

        micro_batches: calls per step.
        """
        self.warmup = Warmup(steps, micro_batches)

    def cosine(self, embedding: Tensor) -> Tensor:
        """Cosines to every class's (nearest) centre, (B, E) -> (B, C) in [-1, 1]."""
        return self.cosine_to(self.centres, embedding)

    def cosine_to(self, centres: Tensor, embedding: Tensor) -> Tensor:
        """The same to some of the centres."""
        with torch.autocast(embedding.device.type, enabled=False):
            cosine = cosines(F.normalize(at_least_float32(embedding)), at_least_float32(centres)).clamp(-1, 1)
            return cosine if self.subcentres == 1 else cosine.unflatten(1, (-1, self.subcentres)).amax(2)

    def with_margin(self, cosine: Tensor, label: Tensor, embedding: Tensor) -> Tensor:
        """Cosines (B, C) with the margin on the true class; of the embeddings (B, E) AdaFace needs the lengths."""
        part = self.warmup.part() if self.warmup else 1.0
        with torch.autocast(embedding.device.type, enabled=False):
            if self.kind == "adaface":
                norm = at_least_float32(embedding.detach()).norm(dim=1)
                return adaface(cosine, label, norm, self.norms.mean, self.norms.std, part * self.margin, self.h)
            if self.kind == "combined":
                m1, m2, m3 = self.margins
                return combined(cosine, label, 1 + part * (m1 - 1), part * m2, part * m3)
            return {"arcface": arcface, "cosface": cosface}[self.kind](cosine, label, part * self.margin)

    def logits(self, embedding: Tensor, label: Tensor) -> Tensor:
        """Scaled cosines with the margin on the true class, (B, C): what the cross-entropy sees."""
        return self.logit_scale * self.with_margin(self.cosine(embedding), label, embedding)

    def forward(self, embedding: Tensor, label: Tensor) -> Tensor:
        if self.norms is not None and self.training:
            self.norms.update(self.ranks.gather(embedding.detach()))
        if self.warmup is not None and self.training:
            self.warmup.done += 1
        logits = self.logits(embedding, label)
        with torch.autocast(embedding.device.type, enabled=False):
            return F.cross_entropy(logits, label, label_smoothing=self.label_smoothing)


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision widened, float64 left alone."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def xavier_rows(rows: int, width: int, own: range, piece: int = 65536) -> Tensor:
    """Rows `own` of nn.init.xavier_uniform_ of (rows, width), drawn piece by piece: whoever holds which of them, all hold the same."""
    bound, kept = math.sqrt(6 / (rows + width)), torch.empty(len(own), width)
    for start in range(0, rows, piece):
        drawn = torch.empty(min(piece, rows - start), width).uniform_(-bound, bound)
        here = range(max(own.start, start), min(own.stop, start + piece))
        if len(here):
            kept[here.start - own.start : here.stop - own.start] = drawn[here.start - start : here.stop - start]
    return kept


class FeatureNorms(nn.Module):
    """Running mean and deviation of the embeddings' lengths over training batches: AdaFace's measure of image quality.

    Starts, as the released AdaFace code does, at 20 and 100; momentum 0.01, the paper's alpha of 0.99 seen from the other side.
    """

    def __init__(self, momentum: float = 0.01):
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.tensor(20.0))
        self.register_buffer("std", torch.tensor(100.0))

    @torch.no_grad()
    def update(self, embedding: Tensor) -> None:
        """Takes one batch (B, E) in, B of 2 or more."""
        norm = at_least_float32(embedding).norm(dim=1).clamp(1e-3, 100)
        self.mean.lerp_(norm.mean(), self.momentum)
        self.std.lerp_(norm.std(), self.momentum)


class Warmup(nn.Module):
    """How many calls in `steps` training steps have begun; kept in the checkpoint as a number, so that no step waits for a device to read it.

    Whatever else looks at the head's logits after the call, distillation say, is of the same step and sees the same margin.
    """

    def __init__(self, steps: int, micro_batches: int = 1):
        super().__init__()
        self.steps, self.micro_batches, self.done = steps, micro_batches, 0

    def part(self) -> float:
        """The part of the margin that counts in the call that has begun last, 0 to 1."""
        return min(max(self.done - 1, 0) // self.micro_batches / self.steps, 1.0)

    def get_extra_state(self) -> Tensor:
        """What state_dict holds of it."""
        return torch.tensor(self.done)

    def set_extra_state(self, state: Tensor) -> None:
        """Goes on from there."""
        self.done = int(state)
