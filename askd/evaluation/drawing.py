"""Which figures a benchmark draws, and of what."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from askd.evaluation import figures
from askd.evaluation.cross import headline, matrices, value_of
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
