"""Batch norm over the whole batch that lies on several ranks: torch's SyncBatchNorm on CUDA, the same for the CPU, which torch's refuses.

An ensemble's batch norms, which torch does not know, are ours on both.
"""
from __future__ import annotations

import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn

from askd.collectives import reduce_sum, world_size
from askd.models.ensemble import LearnerNorm


def synchronise_batch_norms(network: nn.Module, device: torch.device) -> nn.Module:
    """The network with its batch norms so, parameters and buffers being the same tensors; nothing to do for one process."""
    if world_size() == 1:
        return network
    if device.type == "cuda":  # timm's, as torch's would drop the activations that are part of timm's own batch norms
        network = convert_sync_batchnorm(network)
    _replace(network)
    return network


def _replace(network: nn.Module) -> None:
    for name, child in network.named_children():
        if isinstance(child, (nn.BatchNorm1d, nn.BatchNorm2d)):
            setattr(network, name, _WholeBatchNorm.like(child))
        elif isinstance(child, LearnerNorm):
            setattr(network, name, _WholeLearnerNorm.like(child))
        else:
            _replace(child)


class _WholeBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm1d and 2d on the CPU, and what timm's have behind them, dropout and activation; every rank has at least one row."""

    @classmethod
    def like(cls, norm: nn.modules.batchnorm._BatchNorm) -> _WholeBatchNorm:
        """With a batch norm's parameters, buffers, submodules and options."""
        made = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        made._parameters, made._buffers, made._modules, made.training = norm._parameters, norm._buffers, norm._modules, norm.training
        return made

    def _check_input_dim(self, x: Tensor) -> None:
        if x.ndim not in (2, 4):
            raise ValueError(f"expected (B, C) or (B, C, H, W), got {tuple(x.shape)}")

    def forward(self, x: Tensor) -> Tensor:
        x = self._over_ranks(x) if self.training else super().forward(x)
        for behind in self.children():
            x = behind(x)
        return x

    @torch.compiler.disable  # its collectives are no part of a graph
    def _over_ranks(self, x: Tensor) -> Tensor:
        self._check_input_dim(x)
        normalised, *statistics = _Normalise.apply(x, self.weight, self.bias, self.eps)
        _keep(self, *statistics)
        return normalised


class _WholeLearnerNorm(LearnerNorm):
    """An ensemble's batch norm: every learner's statistics are of its own rows on all ranks, in one exchange for all learners."""

    @classmethod
    def like(cls, norm: LearnerNorm) -> _WholeLearnerNorm:
        """With the norm's parameters, buffers and options."""
        made = cls(norm, len(norm.running_mean))
        made._parameters, made._buffers, made.training = norm._parameters, norm._buffers, norm.training
        return made

    def forward(self, x: Tensor) -> Tensor:
        return self._over_ranks(x) if self.training else super().forward(x)

    @torch.compiler.disable  # see _WholeBatchNorm
    def _over_ranks(self, x: Tensor) -> Tensor:
        learners = len(self.running_mean)
        apart = x.unflatten(0, (learners, -1)).transpose(0, 1).flatten(1, 2)  # (M B, C, ...) -> (B, M C, ...)
        normalised, *statistics = _Normalise.apply(apart, self.weight.repeat(learners), self.bias.repeat(learners), self.eps)
        _keep(self, *statistics)
        return normalised.unflatten(1, (learners, -1)).transpose(0, 1).flatten(0, 1)


@torch.no_grad()
def _keep(norm: _WholeBatchNorm | _WholeLearnerNorm, mean: Tensor, variance: Tensor, count: Tensor) -> None:
    """Move a norm's running statistics towards a batch's, whose channels are theirs, row after row."""
    norm.num_batches_tracked += 1
    norm.running_mean.lerp_(mean.view_as(norm.running_mean).to(norm.running_mean.dtype), norm.momentum)
    unbiased = (variance * count / (count - 1)).view_as(norm.running_var)
    norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), norm.momentum)


class _Normalise(torch.autograd.Function):
    """weight * (x - mean) / sqrt(variance + eps) + bias with the statistics of all ranks' rows, which are returned besides.

    The passes over x are torch's own batch norm, told what the statistics are. Its gradient then lacks what flows through them:
    -weight / sqrt(variance + eps) / count * (sum of dy + x_hat * sum of dy x_hat), sums over all ranks.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, eps: float):
        axes = [axis for axis in range(x.ndim) if axis != 1]
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        here = wide.numel() // wide.shape[1]
        sums = reduce_sum(torch.cat([wide.sum(axes), wide.new_full((1,), here)]))
        count = sums[-1]
        mean = sums[:-1] / count
        # The deviation from the ranks' common mean, in a second exchange: sums of squares would cancel.
        own_variance, own_mean = torch.var_mean(wide, axes, correction=0)
        variance = reduce_sum(here * (own_variance + (own_mean - mean).square())) / count
        normalised = torch.native_batch_norm(x, weight, bias, mean, variance, False, 0.0, eps)[0]
        ctx.save_for_backward(x, weight, mean, variance, count)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance, count)
        return normalised, mean, variance, count

    @staticmethod
    def backward(ctx, gradient: Tensor, *_):
        x, weight, mean, variance, count = ctx.saved_tensors
        dx, dweight, dbias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, variance, None, None, False, ctx.eps, [True, True, True],
        )
        sum_dy, sum_dy_x = reduce_sum(torch.stack([dbias, dweight])) / count
        inverse = (variance + ctx.eps).rsqrt()
        slope = weight * inverse
        through_x = slope * inverse * sum_dy_x
        shape = [1, -1] + [1] * (x.ndim - 2)
        through_mean = slope * sum_dy - through_x * mean
        dx = dx - (through_x.view(shape) * x + through_mean.view(shape)).to(dx.dtype)
        return dx, dweight, dbias, None
