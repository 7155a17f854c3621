"""One network on one set at one size: its figures, how they move when people are resampled, and its row in the report."""
from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from askd.data.gallery import IdentificationSet, TemplateSet
from askd.data.pairs import PairSet
from askd.data.sets import EvaluationSet
from askd.evaluation import templates
from askd.evaluation.identification import FPIR_TARGETS, RANKS, Search, cmc, metrics, search
from askd.evaluation.intervals import (
    Interval, Metric, Resamples, accuracy_metric, auc_metric, bootstrap, resample_identities, resample_pairs, resample_probes,
    thin_impostors,
)
from askd.evaluation.report import IdentificationRow, Row, Size
from askd.evaluation.verification import Verification, score_pairs

RESAMPLES = 1000  # of the people, or of the pairs where people are unknown; a fifth where impostors had to be thinned
SEARCHED = "identification"  # what stands where a protocol's name would
CMC_RANKS = (1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 300, 500, 1000)
COMPARED = ("rank-1", "TPIR @ FPIR 0.01", "TPIR @ FPIR 0.1")


@dataclass(frozen=True)
class ScoredPairs:
    """Pairs scored; `kept` of them and their resamples give the intervals."""

    result: Verification
    same: np.ndarray
    kept: np.ndarray
    resamples: Resamples

    def metrics(self) -> dict[str, Metric]:
        """Figure -> function of pair weights, to compare networks by; figures that the set cannot give are absent."""
        same, scores = self.same[self.kept], self.result.scores[self.kept]
        found = {"auc": auc_metric(scores, same)} if self.result.auc is not None else {}
        if self.result.accuracy is not None:
            found["accuracy"] = accuracy_metric(self.result.correct[self.kept])
        return found

    def row(self, model: str, set: str, size: Size, note: str) -> Row:
        """The line of the report, intervals included."""
        auc = bootstrap(self.metrics()["auc"], self.resamples) if self.result.auc is not None else None
        return Row.of(model, set, size, self.result, _ends(auc), self.resamples.unit, note)


@dataclass(frozen=True)
class ScoredSearches:
    """Probes searched for in each gallery."""

    searches: list[Search]
    resamples: Resamples

    def metrics(self) -> dict[str, Metric]:
        """Figure -> function of probe weights, to compare networks by."""
        every = metrics(self.searches)
        return {figure: every[figure] for figure in COMPARED}

    def row(self, model: str, set: str, size: Size, note: str) -> IdentificationRow:
        """The line of the report, intervals included."""
        found = {figure: bootstrap(metric, self.resamples) for figure, metric in metrics(self.searches).items()}
        curve = self.curve
        mated = tuple(int(one.mated.sum()) for one in self.searches)
        return IdentificationRow(
            model, set, size, {figure: interval.value for figure, interval in found.items()},
            {figure: _ends(interval) for figure, interval in found.items()}, {k: float(curve[k - 1]) for k in CMC_RANKS if k <= len(curve)},
            self.resamples.pairs, mated, tuple(one.candidates for one in self.searches), tuple(one.gallery for one in self.searches),
            "; ".join([*self._why_absent(), *([note] if note else [])]),
        )

    def _why_absent(self) -> list[str]:
        mated, candidates = [one.mated.sum() for one in self.searches], min(one.candidates for one in self.searches)
        if not min(mated):
            return ["no probe has a mate: no rank, no TPIR"]
        why = [f"{candidates} candidates: rank-{candidates} cannot fail"] if candidates <= max(RANKS) else []
        strangers = self.resamples.pairs - max(mated)
        if not strangers:
            return [*why, "every probe has a mate: no TPIR"]
        if strangers * min(FPIR_TARGETS) < 1:
            why += [f"{strangers} probes without a mate: no TPIR at an FPIR below {1 / strangers:.2g}"]
        return why

    @property
    def curve(self) -> np.ndarray:
        """The CMC, see `identification.cmc`."""
        return cmc(self.searches)


Scored = ScoredPairs | ScoredSearches


def score(one: EvaluationSet, plain: np.ndarray, mirrored: np.ndarray | None, protocols: list[str]) -> dict[str, Scored]:
    """Score a set under each protocol that is for its kind: `protocols` for pairs, else `templates` and `identification`.

    plain, mirrored: (N, D) embeddings of its images and of their mirror images; `mirrored` None: `plain` holds the sums.
    """
    if isinstance(one, PairSet):
        sampling = resamples_of(one.same, one.fold, one.identity, one.left, one.right)
        return {
            protocol: ScoredPairs(score_pairs(plain, mirrored, one.left, one.right, one.same, one.fold, protocol), one.same, *sampling)
            for protocol in protocols
        }
    if isinstance(one, IdentificationSet):
        found = [search(plain, one.probe, one.gallery, one.identity)]
        return {SEARCHED: ScoredSearches(found, resample_probes(one.identity[one.probe], RESAMPLES))}
    return _score_templates(one, plain)


def resamples_of(same, fold, identity, left, right) -> tuple[np.ndarray, Resamples]:
    """Which pairs take part (all, or thinned impostors), and how to resample them: people where they are known, else pairs.

    identity (N,): of what left and right index, or None.
    """
    kept = thin_impostors(same)
    count = RESAMPLES if len(kept) == len(same) else RESAMPLES // 5
    if identity is None:
        return kept, resample_pairs(fold[kept], count)
    return kept, resample_identities(identity[left[kept]], identity[right[kept]], same[kept], count)


def _score_templates(one: TemplateSet, embeddings: np.ndarray) -> dict[str, Scored]:
    pooled = templates.pool(embeddings, one.template, one.media, len(one.subject))
    scored: dict[str, Scored] = {}
    if len(one.left):
        result = templates.compare(pooled, one.left, one.right, one.same)
        kept, resamples = resamples_of(one.same, None, one.subject, one.left, one.right)
        few = replace(result, scores=result.scores[kept])  # the other millions have done their part
        scored[result.protocol] = ScoredPairs(few, one.same[kept], np.arange(len(kept)), resamples)
    if len(one.probe):
        found = templates.identify(pooled, one.probe, one.galleries, one.subject)
        scored[SEARCHED] = ScoredSearches(found, resample_probes(one.subject[one.probe], RESAMPLES))
    return scored


def _ends(interval: Interval | None) -> tuple[float, float] | None:
    return None if interval is None or interval.low is None else (interval.low, interval.high)
