"""Which figures a benchmark draws, and of what."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from askd.data.gallery import IdentificationSet
from askd.data.native import decode_native
from askd.data.pairs import PairSet
from askd.data.sets import EvaluationSet
from askd.evaluation import figures
from askd.evaluation.cross import headline, matrices, value_of
from askd.evaluation.gather import Lot
from askd.evaluation.overlay import look
from askd.evaluation.report import NATIVE, IdentificationRow, Row, Size, size_name
from askd.evaluation.roc import roc
from askd.evaluation.scored import SEARCHED, Scored, ScoredPairs, ScoredSearches


def draw_scores(
    scored: dict[tuple, Scored], rows: Sequence[Row], matrix: Sequence[Row | IdentificationRow], protocol: str, out: Path,
    shown: Sequence[tuple[str, Size]],
) -> None:
    """accuracy.png, degradations.png and roc.png of the first set of pairs, cmc_SET.png and cross_SET.png of every set that has them.

    scored: by (set, model, degradation, size, protocol), of which the first degradation is drawn; pairs under `protocol`. shown: the
    curves, as (model, size). matrix: rows of galleries and probes of any two sizes.
    """
    first = next(iter(scored))[2]
    name = next((name for name, _, _, _, by in scored if by == protocol), None)
    sized = [row for row in rows if row.set == name and row.protocol == protocol and row.size != NATIVE]
    if any(row.auc is not None for row in sized):
        figures.plot_resolution([row for row in sized if row.degradation == first], out / "accuracy.png")
        if len({row.degradation for row in sized}) > 1:
            figures.plot_degradations(sized, out / "degradations.png")
    curves = {}
    for model, size in shown:
        found = scored.get((name, model, first, size, protocol))
        if isinstance(found, ScoredPairs) and found.result.auc is not None:
            curves[f"{model}, {size_name(size)}"] = roc(found.result.scores, found.same)[:2]
    if curves:
        figures.plot_roc(curves, out / "roc.png", f"{name}, protocol {protocol}")
    for name in dict.fromkeys(name for name, _, _, _, by in scored if by == SEARCHED):
        searched = {(model, size): scored.get((name, model, first, size, SEARCHED)) for model, size in shown}
        curves = {
            f"{model}, {size_name(size)}": found.curve
            for (model, size), found in searched.items() if isinstance(found, ScoredSearches) and len(found.curve)
        }
        if curves:
            figures.plot_cmc(curves, out / f"cmc_{_in_a_file_name(name)}.png", name)
    across: dict[tuple[str, str], dict] = {}
    for (name, by, degradation, model), found in matrices(matrix).items():
        measure = headline(list(found.values()))
        if degradation == first and any(value_of(row, measure) is not None for row in found.values()):
            across.setdefault((name, by), {})[model] = found
    for (name, by), found in across.items():
        suffix = "_search" if by == SEARCHED and (name, "templates") in across else ""
        figures.plot_cross(found, out / f"cross_{_in_a_file_name(name)}{suffix}.png", f"{name}, protocol {by}, {first}")


def _in_a_file_name(name: str) -> str:
    return name.replace("/", "_")


def draw_attention(networks: Mapping[str, object], lot: Lot, degradation: str, lowest: int, out: Path, device: torch.device) -> None:
    """attention.png: where each network looks, in some faces of a lot's first set, if all of them have maps.

    networks: by name, each with `look`. The teacher is shown full-size faces, the others faces of `lowest` pixels, or as they are.
    """
    one, places = lot.sets[0]
    chosen = places[distinct_faces(one, 4)].tolist()
    seen = [decode_native(lot.images.encoded(index), lot.images.name(index), degradation) for index in chosen]
    faces = torch.from_numpy(np.stack(seen).round().astype(np.uint8)).permute(0, 3, 1, 2)
    size = 112 if NATIVE in lot.sizes else lowest
    looks = {role: look(network.look, faces, 112 if role == "teacher" else size, degradation, device) for role, network in networks.items()}
    if any(heat is None for _, heat in looks.values()):
        return
    hr = faces.permute(0, 2, 3, 1).numpy()
    lr = next((seen for role, (seen, _) in looks.items() if role != "teacher"), hr)
    figures.plot_attention([
        figures.AttentionRow(
            hr[i], lr[i], {role: heat[i] for role, (_, heat) in looks.items() if role == "teacher"},
            {role: heat[i] for role, (_, heat) in looks.items() if role != "teacher"},
        ) for i in range(len(chosen))
    ], out / "attention.png")


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
