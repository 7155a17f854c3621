"""A model's embeddings of a lot of images: computed once, by all processes together, and kept on disk under what they depend on."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import onnxruntime
import timm
import torch
from torch import Tensor

from askd import __version__
from askd.data.degrade import EVALUATION_OF
from askd.embedders import Embedder
from askd.engine import dist
from askd.engine.precision import Precision
from askd.errors import TrainingError
from askd.evaluation.embed import embed_stored
from askd.evaluation.gather import Lot
from askd.evaluation.report import FULL_SIZE, NATIVE, Size
from askd.evaluation.store import Store, Unfinished

VERSIONS = {"askd": __version__, "torch": torch.__version__, "onnxruntime": onnxruntime.__version__, "timm": timm.__version__}


@dataclass(frozen=True)
class Setting:
    """How images are embedded, whichever the model. batch: images per forward pass; quantise: LR images to 8 bits; shared: by all ranks."""

    device: torch.device
    precision: Precision
    batch: int = 128
    quantise: bool = False
    compile: bool = False
    shared: bool = False


def embed_lot(
    embedder: Embedder, lot: Lot, degradation: str, store: Store, setting: Setting, advance: Callable[[int], None],
) -> dict[Size, np.ndarray]:
    """{size: float32 (sides, N, D), mapped from `store`} at every size of the lot; {} on ranks other than the main one.

    sides: plain and mirrored where pairs are scored, else their sum alone. Sizes that are in the store already are not embedded again.
    advance(n): n more images at one size are done.
    """
    if not setting.shared and not dist.is_main():
        return {}
    keys = {size: about(embedder, lot, size, degradation, setting) for size in lot.sizes}
    found = {size: store.find(key) for size, key in keys.items()} if dist.is_main() else {}
    missing = [size for size in lot.sizes if found.get(size) is None]
    if setting.shared:
        missing = dist.all_gather(missing)[0]
    if dist.is_main():
        advance((len(lot.sizes) - len(missing)) * len(lot.images))
    begun: dict[Size, Unfinished] = {}
    try:
        for size, part, rows in _rows(embedder, lot, degradation, missing, setting):
            if size not in begun:
                begun[size] = store.create(keys[size], len(rows), len(lot.images), rows.shape[2])
            begun[size].rows[:, part] = rows
            advance(rows.shape[1])
    except TrainingError as error:
        raise TrainingError(f"{embedder.name}: {error}") from None
    else:
        return {**found, **{size: unfinished.finish() for size, unfinished in begun.items()}} if dist.is_main() else {}
    finally:
        for unfinished in begun.values():
            unfinished.abandon()


def _rows(embedder: Embedder, lot: Lot, degradation: str, sizes: Sequence[Size], setting: Setting):
    """(size, which images, float32 (sides, B, D)) of every batch on the main rank; the others compute their share and get nothing.

    Batches are dealt out whole, so that each is what it would be in a single process.
    """
    share = (dist.rank(), dist.world_size()) if setting.shared else (0, 1)
    rounds = -(-len(lot.images) // (setting.batch * share[1])) if sizes else 0

    def forward(seen: Tensor) -> Tensor:
        with setting.precision.autocast():
            return embedder.embed(seen)

    batches = embed_stored(
        forward, lot.images, sizes, degradation, device=setting.device, batch=setting.batch, quantise=setting.quantise, share=share,
    )
    for _ in range(rounds):
        mine = [
            (size, part, np.stack([plain, mirrored]) if lot.keeps_both else (plain + mirrored)[None])
            for size, part, plain, mirrored in islice(batches, len(sizes))
        ]
        for theirs in (dist.gather(mine) or []) if setting.shared else [mine]:
            yield from theirs


def about(embedder: Embedder, lot: Lot, size: Size, degradation: str, setting: Setting) -> dict:
    """All that the embeddings of a lot at one size depend on, as JSON values: what they are stored under."""
    small = size not in (FULL_SIZE, NATIVE)
    return {
        "model": embedder.sha256 or f"this very {id(embedder)}", "images": lot.sha256, "size": size,
        "degradation": None if size == FULL_SIZE else EVALUATION_OF.get(degradation, degradation),
        "quantise": small and setting.quantise, "flip": "both" if lot.keeps_both else "sum", "batch": setting.batch,
        "precision": str(setting.precision.dtype), "device": setting.device.type, "compile": setting.compile, "versions": VERSIONS,
    }
