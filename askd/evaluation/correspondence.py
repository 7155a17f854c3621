"""Do the channels of two networks correspond? Their channel attention correlated over faces, channel by channel and under the best assignment."""
from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy.optimize import linear_sum_assignment

DRAWS = 1000  # random assignments that chance is told by


@dataclass(frozen=True)
class Correspondence:
    """One block. Correlations are means over its channels of Pearson's r, -1 to 1, on faces that no assignment was chosen on.

    same: every channel of the student with the teacher's of the same number. best: with its partner in the one-to-one assignment that
    fits other faces best. chance, spread: mean and standard deviation over random assignments. kept: fraction of channels that the best
    assignment leaves where they are; 1 / channels by chance. ways: in how many independent ways the teacher's channels vary over
    faces, (sum of eigenvalues of their covariance)^2 / sum of squares; near 1 all channels rise and fall together, and any assignment fits.
    """

    channels: int
    same: float
    best: float
    chance: float
    spread: float
    kept: float
    ways: float


def correspond(student: np.ndarray, teacher: np.ndarray, seed: int = 0) -> Correspondence:
    """Channel attention of N faces in one block of either network, (N, C) each, row by row the same face; N of 4 or more.

    The assignment is chosen on the even faces and judged, like everything else here, on the odd ones. A channel that is the same for all
    faces correlates with nothing: r = 0. ValueError for other shapes.
    """
    if student.ndim != 2 or student.shape != teacher.shape or len(student) < 4:
        raise ValueError(f"channel attention of the same four or more faces is needed, got {student.shape} and {teacher.shape}")
    own = np.arange(student.shape[1])
    fitted, judged = (correlations(student[half::2], teacher[half::2]) for half in (0, 1))
    partner = linear_sum_assignment(fitted, maximize=True)[1]
    rng = np.random.default_rng(seed)
    random = [judged[own, rng.permutation(own)].mean() for _ in range(DRAWS)]
    values = np.linalg.eigvalsh(np.cov(teacher[1::2], rowvar=False).reshape(len(own), len(own))).clip(0)
    return Correspondence(
        len(own), float(judged[own, own].mean()), float(judged[own, partner].mean()), float(np.mean(random)), float(np.std(random)),
        float((partner == own).mean()), float(values.sum() ** 2 / (values**2).sum()) if values.any() else 0.0,
    )


def correlations(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Pearson's r over the rows of two arrays (N, C) and (N, D), column by column: (C, D); 0 where a column is constant."""
    def standard(x: np.ndarray) -> np.ndarray:
        centred = x.astype(np.float64) - x.mean(0, dtype=np.float64)
        length = np.linalg.norm(centred, axis=0)
        noise = 1e-6 * np.abs(x).max(0) * np.sqrt(len(x))  # float32's own
        return np.where(length > noise, centred / np.where(length > noise, length, 1), 0)

    return standard(ours).T @ standard(theirs)


def table(blocks: Sequence[Correspondence]) -> str:
    """Markdown, a row per block."""
    rows = ["| block | channels | same channel | best assignment | chance | kept by it (by chance) | ways the teacher's vary |",
            "|---:|---:|---:|---:|---:|---:|---:|"]
    for number, block in enumerate(blocks, 1):
        rows.append(
            f"| {number} | {block.channels} | {block.same:+.3f} | {block.best:+.3f} | {block.chance:+.3f} ± {block.spread:.3f} | "
            f"{100 * block.kept:.1f} % ({100 / block.channels:.1f} %) | {block.ways:.1f} |"
        )
    return "\n".join(rows) + "\n"


def plot(blocks: Sequence[Correspondence], path: str | os.PathLike) -> None:
    """Correlation by block: same channel, best assignment, and the band of random ones."""
    at = np.arange(1, len(blocks) + 1)
    chance, spread = (np.array([getattr(block, name) for block in blocks]) for name in ("chance", "spread"))
    figure = Figure(figsize=(max(5.0, 2 + 0.3 * len(blocks)), 3.6), layout="constrained")
    axes = figure.subplots()
    axes.fill_between(at, chance - 2 * spread, chance + 2 * spread, color="0.85", label="random assignments, ± 2 sd")
    axes.plot(at, [block.best for block in blocks], "s--", color="tab:orange", label="best assignment")
    axes.plot(at, [block.same for block in blocks], "o-", color="tab:blue", label="same channel")
    axes.axhline(0, color="0.4", linewidth=1)
    axes.set(xlabel="block", ylabel="mean correlation over faces", ylim=(-1, 1.02))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(fontsize=8, loc="lower right")
    partial = Path(path).with_name(Path(path).name + ".tmp")
    figure.savefig(partial, dpi=150, format="png")
    os.replace(partial, path)
