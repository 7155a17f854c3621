"""The parts of a report that show faces: where networks look, what their attention does, and what they got wrong.

A network here is anything with `look` (images (B, 3, 112, 112) in [-1, 1] -> Features) and `module`, its PyTorch network or None.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from askd.data.degrade import EVALUATION_OF, degrade
from askd.data.gallery import IdentificationSet
from askd.data.loader import to_unit
from askd.data.native import decode_native
from askd.data.pairs import PairSet
from askd.data.sets import EvaluationSet
from askd.evaluation import figures
from askd.evaluation.attribution import attribute
from askd.evaluation.error_sheet import ShownErrors, plot_errors, show_errors
from askd.evaluation.figures import AttentionRow
from askd.evaluation.gather import Lot
from askd.evaluation.gradcam import halves_of
from askd.evaluation.hardest import hardest_errors
from askd.evaluation.map_similarity import MapDistance, Maps, compare_maps, gather_maps
from askd.evaluation.report import FULL_SIZE, NATIVE, Size
from askd.evaluation.scored import ScoredPairs

FACES, COMPARED = 4, 100  # faces shown, and faces whose maps are compared
BATCH = 50


class Views:
    """Images of a lot as networks see them: float32 (B, 3, 112, 112) in 0..255 on `device`."""

    def __init__(self, lot: Lot, degradation: str, device: torch.device, quantise: bool = False):
        self.lot, self.degradation, self.device, self.quantise = lot, EVALUATION_OF.get(degradation, degradation), device, quantise

    def __call__(self, images: Sequence[int], size: Size) -> Tensor:
        """The images of these numbers at `size` pixels, or NATIVE."""
        encoded = self.lot.images
        faces = np.stack([decode_native(encoded.encoded(index), encoded.name(index), self.degradation) for index in images])
        if NATIVE in self.lot.sizes:
            return torch.from_numpy(faces).permute(0, 3, 1, 2).to(self.device)
        hr = torch.from_numpy(faces.astype(np.uint8)).permute(0, 3, 1, 2).to(self.device)  # aligned ones: as they are stored
        return degrade(hr, size, self.degradation, quantise=self.quantise)


def attention_rows(networks: Mapping[str, object], views: Views, low: Size) -> tuple[list[AttentionRow], str]:
    """Some faces of the lot's first set, and where each network looks in them; in words, what the heat is.

    A network called teacher is shown faces at full size, the others faces of `low` pixels, or of native size where the set has such.
    """
    one, places = views.lot.sets[0]
    chosen = places[distinct_faces(one, FACES)].tolist()
    full, low = (NATIVE, NATIVE) if NATIVE in views.lot.sizes else (FULL_SIZE, low)
    hr, lr = views(chosen, full), views(chosen, low)
    heats, how = {}, {}
    for name, network in networks.items():
        heats[name], said = attribute(network.look, to_unit(hr if name == "teacher" else lr), halves=halves_of(network.module))
        how.setdefault(said, []).append(name)
    note = "; ".join(f"{', '.join(names)}: {said}" for said, names in how.items()) if len(how) > 1 else next(iter(how))
    return [
        AttentionRow(_pixels(hr)[face], _pixels(lr)[face], {name: heat[face] for name, heat in heats.items() if name == "teacher"},
                     {name: heat[face] for name, heat in heats.items() if name != "teacher"}) for face in range(len(chosen))
    ], note[0].upper() + note[1:] if len(how) == 1 else note


def map_distances(networks: Mapping[str, object], views: Views, sizes: Sequence[Size], space: str) -> list[MapDistance]:
    """How far each network's attention maps are from the teacher's, which sees full-size faces, at every size.

    The teacher is the network of that name, else the first with maps; it is compared with itself at the smaller sizes. Empty where no
    network has maps, where a set has fewer than two people or faces, and for faces of native size, which have no other size.
    """
    one, places = views.lot.sets[0]
    chosen = places[distinct_faces(one, COMPARED)].tolist()
    if NATIVE in views.lot.sizes or len(chosen) < 2:
        return []

    def maps(network: object, size: Size) -> Maps:
        parts = [chosen[start:start + BATCH] for start in range(0, len(chosen), BATCH)]
        return gather_maps(network.look, (to_unit(views(part, size)) for part in parts), space)

    with torch.inference_mode():
        looking = {name: network for name, network in networks.items() if network.look(to_unit(views(chosen[:1], FULL_SIZE))).attention}
        if not looking:
            return []
        teacher = "teacher" if "teacher" in looking else next(iter(looking))
        theirs = maps(looking[teacher], FULL_SIZE)
        return [
            row for name, network in looking.items() for size in sizes if (name, size) != (teacher, FULL_SIZE)
            for row in compare_maps(name, teacher, size, maps(network, size), theirs)
        ]


def errors_of(
    model: str, network: object, views: Views, one: PairSet, places: np.ndarray, size: Size, found: ScoredPairs,
) -> ShownErrors:
    """The hardest errors of one network on pairs of the lot; places: of the set's images in the lot."""
    names = [views.lot.images.name(int(index)) for index in places]
    errors = hardest_errors(found.result, one.same, one.fold, one.left, one.right)
    return show_errors(model, one.name, size, errors, found.result.scores, one.left, one.right, names,
                       lambda both: views(places[both].tolist(), size), network.look, halves_of(network.module))


def first_pairs(lots: Sequence[Lot]) -> tuple[Lot, PairSet, np.ndarray] | None:
    """The first set of pairs, its lot, and where its images are in that; None without any."""
    return next(((lot, one, places) for lot in lots for one, places in lot.sets if isinstance(one, PairSet)), None)


@dataclass(frozen=True)
class Exhibits:
    """What a report shows with faces; `draw` makes the figures of it."""

    faces: list[AttentionRow]
    faces_note: str
    distances: list[MapDistance]
    errors: list[ShownErrors]

    def draw(self, out: Path) -> None:
        """attention.png, attention_similarity.png where networks have maps, errors.png where there are errors."""
        figures.plot_attention(self.faces, out / "attention.png")
        if self.distances:
            figures.plot_distances(self.distances, out / "attention_similarity.png")
        for errors in self.errors:
            plot_errors(errors, out / "errors.png")


def distinct_faces(one: EvaluationSet, count: int) -> list[int]:
    """Indices of `count` images spread over the set (over its probes, where it has some), of different people where people are known."""
    if isinstance(one, PairSet):
        shown, people = np.arange(len(one.images)), one.identity
    elif isinstance(one, IdentificationSet):
        shown, people = one.probe, one.identity[one.probe]
    else:
        shown, people = np.arange(len(one.images)), one.subject[one.template]
    first = np.arange(len(shown)) if people is None else np.unique(people, return_index=True)[1]
    return shown[first[np.linspace(0, len(first) - 1, min(count, len(first))).astype(int)]].tolist()


def _pixels(seen: Tensor) -> np.ndarray:
    return np.ascontiguousarray(seen.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())
