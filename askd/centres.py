"""Class centres that a teacher gives: the ones it learnt, or the means of its embeddings."""
from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor

from askd.data.decode import decode_rgb
from askd.data.faces import FaceSet
from askd.data.loader import to_unit
from askd.errors import CheckpointError, DataError
from askd.models.features import Features


def learnt_centres(run: Path, class_names: Sequence[str], asked_by: str) -> dict[str, Tensor]:
    """The state of the head that a run folder was trained with: `centres` (C * subcentres, E), and AdaFace's norms where it has them.

    asked_by: the key that wants them, for messages. CheckpointError where the run has no head (a foreign network, one trained without
    labels), or where its classes, by name and in order, are not `class_names`. An ensemble's heads come as one, see `whole`.
    """
    run = run.parent if run.suffix == ".safetensors" else run
    weights, names = run / "head.safetensors", run / "classes.txt"
    remedy = f"take the means of its embeddings ({asked_by}.source=mean), or another teacher"
    if not weights.is_file() or not names.is_file():
        lacks = "has no class centres (head.safetensors with classes.txt, of a run trained with labels)"
        raise CheckpointError(f"{asked_by}: teacher {run} {lacks}; {remedy}")
    theirs = names.read_text().splitlines()
    if theirs != list(class_names):
        at = next((i for i, (a, b) in enumerate(zip(theirs, class_names)) if a != b), min(len(theirs), len(class_names)))
        first = [side[at] if at < len(side) else "none" for side in (theirs, list(class_names))]
        raise CheckpointError(
            f"{asked_by}: teacher {run} learnt other classes: {len(theirs)} people, here {len(class_names)}; "
            f"class {at} is {first[0]!r} there and {first[1]!r} here; {remedy}"
        )
    try:
        state = safetensors.torch.load_file(weights)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{weights} is corrupt ({error}); train the teacher again, or {remedy}") from None
    if "heads.0.centres" in state:
        if len(state["heads.0.centres"]) != len(theirs) or "heads.0.norms.mean" in state:
            kind = "AdaFace" if "heads.0.norms.mean" in state else "several centres per class"
            raise CheckpointError(f"{asked_by}: teacher {run} is an ensemble with {kind}, of which no one head can be made; {remedy}")
        state = whole(state)
    if state.get("centres", torch.empty(0)).ndim != 2 or not len(state["centres"]) or len(state["centres"]) % len(theirs):
        raise CheckpointError(f"{weights} does not hold centres of {len(theirs)} classes; train the teacher again, or {remedy}")
    return state


def whole(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """One head of an ensemble's, which has one per learner: the learners' centres, each normalised, side by side.

    The cosine of a whole embedding to those is the mean of the learners' cosines.
    """
    learners = [state[f"heads.{m}.centres"] for m in range(len(state)) if f"heads.{m}.centres" in state]
    return {"centres": torch.cat([F.normalize(centres.float()) for centres in learners], 1)}


@torch.no_grad()
def mean_centres(
    teacher: Callable[[Tensor], Features], faces: FaceSet, device: torch.device, batch: int = 128, skip_bad: bool = False,
) -> Tensor:
    """Every class's mean of the teacher's normalised embeddings of its images at full resolution, and normalised: (C, E), on the CPU.

    Works with any teacher, also one that never saw these people. Decodes and embeds the whole set once. An image that cannot be read is a
    DataError, or with skip_bad is left out and named; so is a class of which none can.
    """
    total, left_out = None, []
    for start in range(0, len(faces), batch):
        pixels, indices = [], []
        for i in range(start, min(start + batch, len(faces))):
            try:
                pixels.append(decode_rgb(faces.encoded(i), faces.name(i)))
                indices.append(i)
            except DataError as error:
                if not skip_bad:
                    raise
                left_out.append(str(error))
        if not indices:
            continue
        image = to_unit(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).to(device))
        embedding = F.normalize(teacher(image).embedding.double()).cpu()
        if total is None:
            total = torch.zeros(len(faces.class_names), embedding.shape[1], dtype=torch.float64)
        total.index_add_(0, torch.from_numpy(np.asarray(faces.labels)[indices]), embedding)
    if left_out:
        print(f"warning: {len(left_out)} images are left out of the class means (data.on_bad_image=skip); the first: {left_out[0]}", file=sys.stderr)
    empty = [] if total is None else [faces.class_names[i] for i in (total == 0).all(1).nonzero().flatten().tolist()]
    if total is None or empty:
        raise DataError(f"no image of {empty[0] if empty else 'any class'} can be read, of which there is no class mean then; remove the class")
    return F.normalize(total).float()
