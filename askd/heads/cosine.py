"""Cosines of embeddings to class centres, without a normalised copy of the centres: there may be millions of them."""
from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-12  # torch's own, of F.normalize: shorter vectors are divided by it


def cosines(unit: Tensor, centres: Tensor) -> Tensor:
    """(B, C) of unit vectors (B, E) and centres (C, E) of any length; F.linear(unit, F.normalize(centres)) in a third of the passes over them."""
    return _Cosines.apply(unit, centres)


class _Cosines(torch.autograd.Function):
    """With n = 1 / |w|: cos = n (u . w), dcos/du = n w, dcos/dw = n u - n^2 cos w."""

    @staticmethod
    def forward(ctx, unit: Tensor, centres: Tensor) -> Tensor:
        inverse = centres.norm(dim=1).clamp_min_(EPS).reciprocal_()
        cosine = (unit @ centres.mT).mul_(inverse)
        ctx.save_for_backward(unit, centres, inverse, cosine)
        return cosine

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        unit, centres, inverse, cosine = ctx.saved_tensors
        scaled = gradient * inverse
        of_unit = scaled @ centres if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return of_unit, None
        along = torch.einsum("bc,bc->c", scaled, cosine) * inverse
        return of_unit, (scaled.mT @ unit).addcmul_(centres, along[:, None], value=-1)
