"""ABE-M, attention-based ensembles (Kim et al., ECCV 2018), on any backbone of ours; and M plain heads, the paper's control."""
from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from askd.models.features import AttentionMaps, Features
from askd.models.staged import StagedBackbone

KINDS = ("abe", "heads")


class Masks(nn.Module):
    """The M attention modules A_m, as one grouped network: S's output (B, C, H, W) -> masks (B, M, C, H, W) in (0, 1).

    Each learner has `depth` residual blocks that keep the size, C/2 channels between their two convolutions, then a 1x1 convolution
    to C channels and a sigmoid. The paper writes no nonlinearity there; the sigmoid makes a mask of it. Xavier weights, as in the paper.
    """

    def __init__(self, learners: int, channels: int, depth: int):
        super().__init__()
        self.learners = learners
        self.blocks = nn.Sequential(*(MaskBlock(learners, channels, shared=index == 0) for index in range(depth)))
        self.last = nn.Conv2d(learners * channels, learners * channels, 1, groups=learners)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                xavier_per_learner(module, learners)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.blocks(x)).sigmoid().unflatten(1, (self.learners, -1))


class MaskBlock(nn.Module):
    """BN - conv3x3 - BN - PReLU - conv3x3 - BN, plus the input, for every learner by itself: (B, M C, H, W) -> the same.

    shared: the input is S's output, (B, C, H, W), one for all learners, and so is its batch norm.
    """

    def __init__(self, learners: int, channels: int, shared: bool):
        super().__init__()
        outer, inner, inputs, groups = learners * channels, learners * max(channels // 2, 1), learners * channels, learners
        if shared:
            inputs, groups = channels, 1
        self.learners = learners
        self.residual = nn.Sequential(
            nn.BatchNorm2d(inputs), nn.Conv2d(inputs, inner, 3, padding=1, groups=groups, bias=False),
            nn.BatchNorm2d(inner), nn.PReLU(inner), nn.Conv2d(inner, outer, 3, padding=1, groups=learners, bias=False),
            nn.BatchNorm2d(outer),
        )

    def forward(self, x: Tensor) -> Tensor:
        residual = self.residual(x)
        return residual + (x if x.shape[1] == residual.shape[1] else x.repeat(1, self.learners, 1, 1))


def xavier_per_learner(conv: nn.Conv2d, learners: int) -> None:
    """Xavier-uniform weights, every learner's as wide as they are by themselves."""
    for weight in conv.weight.detach().chunk(learners):
        nn.init.xavier_uniform_(weight)


class LearnerNorm(nn.Module):
    """A batch norm for M learners, (M B, ...) learner after learner: scale and offset are shared, the statistics each learner's own.

    As in a loop over learners, where each one's batch is normalised by itself. Statistics of all learners together would leave each a
    constant offset, which alone meets the divergence loss and says nothing of the image.
    """

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d, learners: int):
        super().__init__()
        self.weight, self.bias, self.momentum, self.eps = norm.weight, norm.bias, norm.momentum, norm.eps
        self.register_buffer("running_mean", norm.running_mean.repeat(learners, 1))
        self.register_buffer("running_var", norm.running_var.repeat(learners, 1))
        self.register_buffer("num_batches_tracked", norm.num_batches_tracked.clone())

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.num_batches_tracked.add_(1)
        batches = x.unflatten(0, (len(self.running_mean), -1)).unbind()
        return torch.cat([
            F.batch_norm(batch, mean, var, self.weight, self.bias, self.training, self.momentum, self.eps)
            for batch, mean, var in zip(batches, self.running_mean, self.running_var)
        ])


def norm_by_learner(part: nn.Module, learners: int) -> None:
    """Put a LearnerNorm in the place of every batch norm within a module."""
    for name, child in part.named_children():
        if isinstance(child, (nn.BatchNorm1d, nn.BatchNorm2d)):
            setattr(part, name, LearnerNorm(child, learners))
        else:
            norm_by_learner(child, learners)


class Ensemble(nn.Module):
    """M learners that share their first stages: images (B, 3, 112, 112) -> M embeddings, each normalised, concatenated (B, E).

    build() makes a backbone with embeddings of E/M. S is its stem and first `branch` stages, G the rest and the neck.
    kind `abe`: B_m(x) = G(S(x) * A_m(S(x))), A_m a module of Masks, G one for all learners, which go through it as one batch of
    M B images. G's weights are shared, the statistics of its batch norms each learner's own (LearnerNorm).
    kind `heads`: B_m(x) = G_m(S(x)), each learner with weights of its own for G and no mask, one after another.
    ValueError for a branch that the backbone does not have, an unknown kind, or no learner or attention block.
    """

    def __init__(self, build: Callable[[], StagedBackbone], learners: int, branch: int = 3, depth: int = 1, kind: str = "abe"):
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"unknown ensemble {kind!r}; choose from {', '.join(KINDS)}")
        if learners < 1 or depth < 1:
            raise ValueError(f"an ensemble needs at least one learner and one attention block, got {learners} and {depth}")
        self.trunk = build()  # all of S, and G or the first learner's
        if not 1 <= branch <= len(self.trunk.stages):
            raise ValueError(f"network.ensemble.branch must be a stage after which to branch, 1 to {len(self.trunk.stages)}, got {branch}")
        self.learners, self.branch, self.kind = learners, branch, kind
        self.masks = Masks(learners, self.trunk.feature_info[branch - 1]["channels"], depth) if kind == "abe" else None
        if kind == "abe":
            for part in (*self.trunk.stages[branch:], self.trunk.neck):
                norm_by_learner(part, learners)
        self.heads = nn.ModuleList(self._without_start(build()) for _ in range(learners - 1 if kind == "heads" else 0))
        self.feature_info = self.trunk.feature_info
        self.num_features, self.head_hidden_size = self.trunk.num_features, learners * self.trunk.head_hidden_size

    def forward(self, x: Tensor) -> Tensor:
        """The one embedding that everybody else sees, (B, 3, 112, 112) -> (B, E), of length sqrt(M)."""
        return self.forward_all(x).embedding

    def forward_features(self, x: Tensor) -> Tensor:
        """The last feature map, mean over learners, (B, 3, 112, 112) -> (B, C, 7, 7): what timm means by this name."""
        return self.forward_all(x).stages[-1]

    def forward_all(self, x: Tensor) -> Features:
        """Features as the plain backbone has them, and each learner's embedding; of one pass over (B, 3, 112, 112).

        One attention map per block and one output per stage, S's as they are, G's the mean over learners (attention before its sigmoid):
        so any term compares an ensemble with any network of the same backbone, and asks where the learners look together, not each.
        """
        shared, attention, stages = self.trunk.through(x, 0, self.branch)
        if self.kind == "abe":
            masked = (shared * self.masks(shared).transpose(0, 1)).flatten(0, 1)  # (M B, C, H, W), learner after learner
            last, maps, outputs = self.trunk.through(masked, self.branch)
            learners = self._apart(self.trunk.neck(last))
            maps = [AttentionMaps(*(None if part is None else self._apart(part) for part in block)) for block in maps]
            outputs = [self._apart(output) for output in outputs]
        else:
            runs = [network.through(shared, self.branch) for network in (self.trunk, *self.heads)]
            learners = torch.stack([network.neck(last) for network, (last, _, _) in zip((self.trunk, *self.heads), runs)], 1)
            maps = [AttentionMaps(*(None if part[0] is None else torch.stack(part, 1) for part in zip(*blocks)))
                    for blocks in zip(*(maps for _, maps, _ in runs))]
            outputs = [torch.stack(output, 1) for output in zip(*(outputs for _, _, outputs in runs))]
        maps = [AttentionMaps(*(None if part is None else part.mean(1) for part in block)) for block in maps]
        embedding = F.normalize(learners.float(), dim=2).flatten(1)
        return Features(embedding, (*attention, *maps), (*stages, *(output.mean(1) for output in outputs)), learners=learners)

    def masks_of(self, x: Tensor) -> Tensor | None:
        """Each learner's mask on each image, (B, 3, 112, 112) -> (B, M, C, H, W) in (0, 1); None for plain heads."""
        return None if self.masks is None else self.masks(self.trunk.through(x, 0, self.branch)[0])

    def _apart(self, batch: Tensor) -> Tensor:
        return batch.unflatten(0, (self.learners, -1)).transpose(0, 1)  # (M B, ...) -> (B, M, ...)

    def _without_start(self, network: StagedBackbone) -> StagedBackbone:
        network.drop_start(self.branch)
        return network
