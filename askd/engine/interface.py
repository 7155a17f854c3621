"""What a training is given to train on, and what comes of it."""
from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


class Batches(Protocol):
    """Endless batches, each a function of its number alone, so that a step number is all there is to a position.

    batch_size: images per step over all ranks.
    """

    batch_size: int

    def iterate(self, start: int) -> Generator[Any, None, None]:
        """Batches number start, start + 1, ...; closed when training ends, which ends the processes that make them."""

    def skipped(self, batch: Any) -> Sequence[str]:
        """Why images of a batch had to be skipped, one line for each."""

    def cut(self, batch: Any, parts: int) -> Sequence[Any]:
        """A batch in equal micro-batches, for gradient accumulation."""


@dataclass(frozen=True)
class Summary:
    """What came of a training run.

    seconds, images_per_second: of this session, not of those before a resume; evaluation counts in the first only.
    best_*: None unless a metric was selected. metrics: of the last evaluation.
    skipped_images: over all steps and ranks, those before a resume included.
    """

    step: int
    seconds: float
    images_per_second: float
    best_step: int | None
    best_metric: float | None
    best_path: Path | None
    metrics: dict[str, float]
    skipped_images: int
