"""Host to device while the device computes: the next batch is on its way before this one is done with."""
from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

B = TypeVar("B", bound=NamedTuple)
MOVED = ("image", "label", "lr")  # what the device computes with; sizes and kernels are looked at on the host


def ahead(batches: Generator[B, None, None], device: torch.device) -> Generator[B, None, None]:
    """The batches, their images and labels on a CUDA device, copied from pinned memory on a stream of their own, one batch ahead.

    On a CPU the batches as they are.
    """
    with closing(batches):
        if device.type != "cuda":
            yield from batches
            return
        side, waiting = torch.cuda.Stream(device), None
        for batch in batches:
            with torch.cuda.stream(side):
                there = {name: part.to(device, non_blocking=True) for name in MOVED if isinstance(part := getattr(batch, name), Tensor)}
            copied = batch._replace(**there), side.record_event()
            if waiting is not None:
                yield _received(*waiting)
            waiting = copied


def _received(batch: B, copied: torch.cuda.Event) -> B:
    """The batch, for the current stream to use once the copy is done; its memory is not given away before that stream has used it."""
    stream = torch.cuda.current_stream()
    stream.wait_event(copied)
    for name in MOVED:
        if isinstance(part := getattr(batch, name), Tensor):
            part.record_stream(stream)
    return batch
