"""One network on one set at one size: its figures, how they move when people are resampled, and its row in the report."""
from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from askd.data.gallery import IdentificationSet, TemplateSet
from askd.data.pairs import PairSet
from askd.data.sets import EvaluationSet
from askd.evaluation import templates
from askd.evaluation.identification import FPIR_TARGETS, RANKS, Search, cmc, metrics, search
from askd.evaluation.intervals import (
    Interval, Resamples, draw, pair_metrics, percentiles, resample_identities, resample_pairs, resample_probes, thin_impostors,
)
from askd.evaluation.report import IdentificationRow, Row, Size
from askd.evaluation.roc import FAR_TARGETS
from askd.evaluation.verification import Verification, score_pairs

RESAMPLES = 1000  # of the people, or of the pairs where people are unknown; a fifth where impostors had to be thinned
SEARCHED = "identification"  # what stands where a protocol's name would
CMC_RANKS = (1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 300, 500, 1000)

Sides = tuple[np.ndarray, np.ndarray | None]  # embeddings (N, D), plain and mirrored; or their sum, and None


@dataclass(frozen=True)
class ScoredPairs:
    """Pairs scored; `kept` of them and their resamples give the intervals."""

    result: Verification
    same: np.ndarray
    kept: np.ndarray
    resamples: Resamples

    @cached_property
    def figures(self) -> dict[str, float | None]:
        """Figure -> value, None where the set cannot give it."""
        tars = {f"TAR @ FAR {far:g}": self.result.tar_at_far[far] for far in FAR_TARGETS}
        return {"auc": self.result.auc, "accuracy": self.result.accuracy, **tars}

    @cached_property
    def drawn(self) -> np.ndarray:
        """(resamples, figures): the figures of every resample, in their order; thresholds of the folds are held fixed."""
        correct = None if self.result.correct is None else self.result.correct[self.kept]
        return draw(pair_metrics(self.result.scores[self.kept], self.same[self.kept], correct, FAR_TARGETS), self.resamples)

    @property
    def decided(self) -> np.ndarray | None:
        """bool (P,), the pairs decided rightly, or None without thresholds."""
        return self.result.correct

    def interval(self, figure: str) -> Interval:
        """Of one figure, 95 %."""
        return percentiles(self.figures[figure], self.drawn[:, list(self.figures).index(figure)], self.resamples.unit)

    def row(self, model: str, set: str, size: Size, note: str, degradation: str = "", probe_size: Size | None = None) -> Row:
        """The line of the report, intervals included."""
        tars = {far: _ends(self.interval(f"TAR @ FAR {far:g}")) for far in FAR_TARGETS}
        return Row.of(
            model, set, size, self.result, _ends(self.interval("auc")), self.resamples.unit, note, degradation=degradation,
            probe_size=probe_size, accuracy_interval=_ends(self.interval("accuracy")), tar_intervals=tars,
        )


@dataclass(frozen=True)
class ScoredSearches:
    """Probes searched for in each gallery."""

    searches: list[Search]
    resamples: Resamples

    @cached_property
    def figures(self) -> dict[str, float | None]:
        """Figure -> value, None where the set cannot give it."""
        every = {figure: metric(np.ones(self.resamples.pairs)) for figure, metric in metrics(self.searches).items()}
        return {figure: None if np.isnan(value) else value for figure, value in every.items()}

    @cached_property
    def drawn(self) -> np.ndarray:
        """(resamples, figures): the figures of every resample, in their order."""
        every = metrics(self.searches).values()
        return draw(lambda weights: np.array([metric(weights) for metric in every]), self.resamples)

    @property
    def decided(self) -> np.ndarray:
        """bool, for every gallery and probe with a mate in it: whether the mate came first."""
        return np.concatenate([one.rank[one.mated] == 1 for one in self.searches])

    def interval(self, figure: str) -> Interval:
        """Of one figure, 95 %."""
        return percentiles(self.figures[figure], self.drawn[:, list(self.figures).index(figure)], self.resamples.unit)

    def row(self, model: str, set: str, size: Size, note: str, degradation: str = "", probe_size: Size | None = None) -> IdentificationRow:
        """The line of the report, intervals included."""
        curve = self.curve
        mated = tuple(int(one.mated.sum()) for one in self.searches)
        return IdentificationRow(
            model, set, size, dict(self.figures), {figure: _ends(self.interval(figure)) for figure in self.figures},
            {k: float(curve[k - 1]) for k in CMC_RANKS if k <= len(curve)},
            self.resamples.pairs, mated, tuple(one.candidates for one in self.searches), tuple(one.gallery for one in self.searches),
            "; ".join([*self._why_absent(), *([note] if note else [])]), degradation, probe_size,
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


def score(one: EvaluationSet, plain: np.ndarray, mirrored: np.ndarray | None, protocols: list[str],
          gallery: Sides | None = None) -> dict[str, Scored]:
    """Score a set under each protocol that is for its kind: `protocols` for pairs, else `templates` and `identification`.

    plain, mirrored: (N, D) embeddings of its images and of their mirror images; `mirrored` None: `plain` holds the sums.
    gallery: those of the same images at another size, from which the galleries' are taken, and each pair's left image or template:
    what was enrolled at one size is compared with what is seen at the other.
    """
    if isinstance(one, PairSet):
        left = one.left
        if gallery is not None:
            plain, mirrored = (np.concatenate(both) for both in zip((plain, mirrored), gallery))
            left = one.left + len(one.images)
        sampling = resamples_of(one.same, one.fold, one.identity, one.left, one.right)
        return {
            protocol: ScoredPairs(score_pairs(plain, mirrored, left, one.right, one.same, one.fold, protocol), one.same, *sampling)
            for protocol in protocols
        }
    if isinstance(one, IdentificationSet):
        found = [search(plain, one.probe, one.gallery, one.identity, enrolled=None if gallery is None else gallery[0])]
        return {SEARCHED: ScoredSearches(found, resample_probes(one.identity[one.probe], RESAMPLES))}
    return _score_templates(one, plain, None if gallery is None else gallery[0])


def resamples_of(same, fold, identity, left, right) -> tuple[np.ndarray, Resamples]:
    """Which pairs take part (all, or thinned impostors), and how to resample them: people where they are known, else pairs.

    identity (N,): of what left and right index, or None.
    """
    kept = thin_impostors(same)
    count = RESAMPLES if len(kept) == len(same) else RESAMPLES // 5
    if identity is None:
        return kept, resample_pairs(fold[kept], count)
    return kept, resample_identities(identity[left[kept]], identity[right[kept]], same[kept], count)


def _score_templates(one: TemplateSet, embeddings: np.ndarray, gallery: np.ndarray | None) -> dict[str, Scored]:
    pooled = templates.pool(embeddings, one.template, one.media, len(one.subject))
    enrolled = pooled if gallery is None else templates.pool(gallery, one.template, one.media, len(one.subject))
    scored: dict[str, Scored] = {}
    if len(one.left):
        both = pooled if gallery is None else np.concatenate([pooled, enrolled])
        result = templates.compare(both, one.left + (0 if gallery is None else len(pooled)), one.right, one.same)
        kept, resamples = resamples_of(one.same, None, one.subject, one.left, one.right)
        few = replace(result, scores=result.scores[kept])  # the other millions have done their part
        scored[result.protocol] = ScoredPairs(few, one.same[kept], np.arange(len(kept)), resamples)
    if len(one.probe):
        found = templates.identify(pooled, one.probe, one.galleries, one.subject, enrolled)
        scored[SEARCHED] = ScoredSearches(found, resample_probes(one.subject[one.probe], RESAMPLES))
    return scored


def _ends(interval: Interval | None) -> tuple[float, float] | None:
    return None if interval is None or interval.low is None else (interval.low, interval.high)
