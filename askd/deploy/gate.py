"""The parity gate: an export leaves the workshop only where it is the network that was trained, face by face and figure by figure."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from askd.data.degrade import BYTE_RANGE, CHAINS, EVALUATION_OF, downsample, round_to_8bit, upsample
from askd.data.kernels import SIDE
from askd.data.loader import to_unit
from askd.data.pairs import PairSet, stratify
from askd.deploy.agreement import accuracies
from askd.errors import CheckpointError
from askd.evaluation.roc import roc
from askd.evaluation.verification import Verification, score_pairs
from askd.runtime.recognizer import Recognizer, cosines

FARS = (1e-2, 1e-3, 1e-4)
BATCH = 32
MOST_FACES = 4000  # of the held-out set; larger ones are thinned evenly, fold by fold


@dataclass(frozen=True)
class Limit:
    """cosine: the least between PyTorch's and the export's embedding of one face; points: how far accuracy (%) may fall."""

    cosine: float
    points: float


LIMITS = {"fp32": Limit(0.9999, 0.1), "fp16": Limit(0.999, 0.1), "int8": Limit(0.98, 0.5)}


@dataclass(frozen=True)
class Line:
    """One line of the gate's table. faces: which, at `size` pixels. Accuracies: fractions, of PyTorch and of the export, or None."""

    faces: str
    size: int
    count: int
    least_cosine: float
    mean_cosine: float
    pytorch: float | None = None
    exported: float | None = None

    def complaint(self, limit: Limit) -> str | None:
        """Why this line forbids the export, or None."""
        if not self.least_cosine >= limit.cosine:
            return f"{self.faces} at {self.size} px: least cosine to PyTorch {self.least_cosine:.6f}, below {limit.cosine}"
        if self.pytorch is not None and not 100 * (self.pytorch - self.exported) <= limit.points + 1e-9:
            return (f"{self.faces} at {self.size} px: accuracy falls from {100 * self.pytorch:.2f} to {100 * self.exported:.2f} %, by more "
                    f"than {limit.points} points")
        return None


@dataclass(frozen=True)
class Measured:
    """The export on the held-out set at one size: its figures, and the thresholds that its own cosines give."""

    size: int
    result: Verification
    thresholds: list[dict]


def as_camera(images: Tensor, size: int, degradation: str) -> tuple[Tensor, Tensor]:
    """What a camera with faces of `size` pixels stores, uint8 (N, 3, size, size), and that as the network is shown it, (N, 3, 112, 112).

    images: uint8 (N, 3, 112, 112). The same steps as `degrade(..., quantise=True)`, and 8 bits at the end too: a file is given to the
    export and to PyTorch alike.
    """
    chain = CHAINS[EVALUATION_OF.get(degradation, degradation)]
    crop = images if size == SIDE else round_to_8bit(downsample(images, size, chain.down), BYTE_RANGE).to(torch.uint8)
    return crop, upsample(crop, chain.up)


@torch.inference_mode()
def both(reference: Callable[[Tensor], Tensor], recognizer: Recognizer, images: Tensor, size: int, degradation: str,
         ) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings (N, E) of the same faces at `size` pixels by PyTorch and by the export, each through its own preprocessing."""
    ours, theirs = [], []
    for some in images.split(BATCH):
        crop, seen = as_camera(some, size, degradation)
        if recognizer.input == "aligned":
            crop = seen = seen.round().to(torch.uint8)
        ours.append(reference(to_unit(seen)).float().numpy())
        theirs.append(recognizer.embed(crop.permute(0, 2, 3, 1).numpy()))
    return np.concatenate(ours), np.concatenate(theirs)


def inspect(reference: Callable[[Tensor], Tensor], recognizer: Recognizer, calibration: Tensor, pairs: PairSet, images: Tensor,
            sizes: list[int], degradation: str) -> tuple[list[Line], list[Measured]]:
    """The table, and the export's own figures.

    reference: the trained network, float32. calibration: uint8 (N, 3, 112, 112), looked at at the student's sizes; pairs, images: the
    held-out set, looked at at `sizes`. Faces are scored as a service does, by one embedding each and without their mirror images.
    """
    lines, figures = [], []
    for size in recognizer.sizes:
        ours, theirs = both(reference, recognizer, calibration, size, degradation)
        lines.append(_line("calibration", size, cosines(ours, theirs)))
    for size in sizes:
        ours, theirs = both(reference, recognizer, images, size, degradation)
        line = _line("held out", size, cosines(ours, theirs))
        if np.isfinite(line.mean_cosine):  # otherwise refused already, and nothing to score
            line = replace(line, **dict(zip(("pytorch", "exported"), accuracies(ours, theirs, pairs))))
            found = score_pairs(theirs, theirs, pairs.left, pairs.right, pairs.same, pairs.fold, "insightface")
            figures.append(Measured(size, found, measure_thresholds(theirs, pairs)))
        lines.append(line)
    return lines, figures


def judge(lines: list[Line], precision: str, what: str) -> None:
    """CheckpointError, with every complaint, unless all lines are within the precision's limits."""
    complaints = [complaint for line in lines if (complaint := line.complaint(LIMITS[precision])) is not None]
    if complaints:
        remedy = "; try precision=fp16, or calibrate on more faces" if precision == "int8" else ""
        raise CheckpointError(f"{what}: the {precision} export is not the network that was trained: {'; '.join(complaints)}. "
                              f"Nothing written{remedy}")


def measure_thresholds(embeddings: np.ndarray, pairs: PairSet) -> list[dict]:
    """Per FAR of FARS the cosine to accept from (threshold), and the TAR there; None where there are fewer than 1 / FAR impostors.

    embeddings: (N, E) of the set's images. Where the people are known every two of its images are compared, else its own pairs.
    The FAR attained is the largest not above the one asked for, so the operating point exists.
    """
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    if pairs.identity is None:
        scores, same = (unit[pairs.left] * unit[pairs.right]).sum(1), pairs.same
    else:
        upper = np.triu_indices(len(unit), 1)
        scores, same = (unit @ unit.T)[upper], pairs.identity[upper[0]] == pairs.identity[upper[1]]
    far, tar, thresholds = roc(scores, same)
    impostors, rows = int((~same).sum()), []
    for target in FARS:
        at = int(np.searchsorted(far, target, side="right")) - 1
        known = impostors * target > 1 - 1e-9 and np.isfinite(thresholds[at])
        rows.append({"far": target, "threshold": round(float(thresholds[at]), 6) if known else None,
                     "tar": round(float(tar[at]), 6) if known else None, "impostors": impostors})
    return rows


def thinned(pairs: PairSet) -> PairSet:
    """The pairs to judge on, with folds, over at most about MOST_FACES images; images that no pair names are dropped.

    Every k-th pair where there are too many images. Then, where the people are known, all genuine pairs of the images that are left and
    as many impostors, drawn: the card's figures are of these, the gate looks at every two images (agreement.accuracies).
    """
    fold = pairs.fold if (pairs.fold >= 0).all() else stratify(pairs.same)
    kept = slice(None, None, -(-len(np.union1d(pairs.left, pairs.right)) // MOST_FACES))
    left, right, same, fold = pairs.left[kept], pairs.right[kept], pairs.same[kept], fold[kept]
    used, place = np.unique(np.concatenate([left, right]), return_inverse=True)
    left, right = place[:len(left)], place[len(left):]
    identity = None if pairs.identity is None else pairs.identity[used]
    if identity is not None:
        left, right = _balanced(identity)
        same = identity[left] == identity[right]
        fold = stratify(same)
    return replace(pairs, images=[pairs.images[i] for i in used], image_names=[pairs.image_names[i] for i in used], left=left, right=right,
                   same=same, fold=fold, identity=identity)


def _balanced(identity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All genuine pairs of N images, and as many impostor pairs, drawn from all of them where there are more."""
    left, right = np.triu_indices(len(identity), 1)
    same = identity[left] == identity[right]
    genuine, impostors = np.flatnonzero(same), np.flatnonzero(~same)
    count = min(len(genuine), len(impostors))
    chosen = np.concatenate([genuine, np.sort(np.random.default_rng(0).choice(impostors, count, replace=False))])
    return left[chosen], right[chosen]


def table(lines: list[Line], precision: str) -> str:
    """The gate's table as Markdown."""
    limit = LIMITS[precision]
    rows = [f"| faces | size | images | least cosine (>= {limit.cosine}) | mean cosine | PyTorch | exported | change (>= -{limit.points}) |",
            "|---|---:|---:|---:|---:|---:|---:|---:|"]
    for line in lines:
        cells = ["–"] * 3
        if line.pytorch is not None:
            cells = [f"{100 * line.pytorch:.2f} %", f"{100 * line.exported:.2f} %", f"{100 * (line.exported - line.pytorch):+.2f}"]
        rows.append(f"| {line.faces} | {line.size} px | {line.count} | {line.least_cosine:.6f} | {line.mean_cosine:.6f} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _line(faces: str, size: int, cosine: np.ndarray) -> Line:
    return Line(faces, size, len(cosine), float(cosine.min()), float(cosine.mean()))
