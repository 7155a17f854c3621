"""Ensembles over seeds: how alike their learners see, and what each learner is worth beside the ensemble, of a study's lines.

A line is comparison's, with "learners": what diagnose.examine found, of a network that is an ensemble.
"""
from __future__ import annotations

import os
import statistics
from collections.abc import Sequence

from askd.evaluation.comparison import grid, label_of
from askd.evaluation.figures import save
from askd.evaluation.intervals import mean_and_t_interval
from askd.evaluation.learner_figures import similarity_figure
from askd.evaluation.learners import KINDS


def learner_table(lines: Sequence[dict]) -> str:
    """Markdown, a row per method and size, means ± standard deviations over seeds; empty where no line is of an ensemble.

    How alike the learners see: the mean cosine of self, genuine and impostor pairs. Then AUC and, where the set's people are known, Recall@1
    (%) of the mean and the best learner and of all together; the ensemble's difference to both in points, paired by seed. The best is
    chosen on the very pairs, which favours it: the mean is what one learner is worth.
    """
    groups: dict[tuple[str, int], dict[int, dict]] = {}
    for line in lines:
        if line.get("learners"):
            groups.setdefault((label_of(line), line["learners"]["size"]), {})[line["seed"]] = line["learners"]
    if not groups:
        return ""
    rows = [["mean cosine", "px", "one image, two learners", "genuine", "impostor"]]
    for (label, size), by_seed in groups.items():
        rows.append([label, str(size), *(_mean([one["overall"][kind] for one in by_seed.values() if kind in one["overall"]], 3) for kind in KINDS)])
    parts = [grid(rows)]
    first = next(iter(next(iter(groups.values())).values()))
    for measure, name in (("auc", "AUC (%)"), ("recall@1", "Recall@1 (%)")):
        rows = [[name, "px", "mean learner", "best learner", "ensemble", "ensemble - mean [95 % t interval]", "ensemble - best [95 % t interval]"]]
        for (label, size), by_seed in groups.items():
            found = [one for one in by_seed.values() if measure in one["ensemble"]]
            single = [[100 * row[measure] for row in one["learners"].values()] for one in found]
            mean, best, whole = [statistics.fmean(of) for of in single], [max(of) for of in single], [100 * one["ensemble"][measure] for one in found]
            if found:
                gains = [_gain(whole, mean), _gain(whole, best)] if len(single[0]) > 1 else ["", ""]
                rows.append([label, str(size), _mean(mean), _mean(best), _mean(whole), *gains])
        parts += [grid(rows)] if len(rows) > 1 else []
    return "\n\n".join([f"### Learners, on {first['set']}, protocol {first['protocol']}", *parts]) + "\n"


def plot_similarities(lines: Sequence[dict], path: str | os.PathLike) -> bool:
    """Histograms of cosines between learners at the end of training, a panel per method and size, of its first seed; False without any."""
    panels = {}
    for line in lines:
        if line.get("learners") and "self" in line["learners"]["overall"]:
            panels.setdefault(f"{label_of(line)}, {line['learners']['size']} px", line["learners"]["pairs"])
    if panels:
        save(similarity_figure(list(panels.items()), most=len(panels)), path)
    return bool(panels)


def _gain(ours: Sequence[float], theirs: Sequence[float]) -> str:
    interval = mean_and_t_interval([one - other for one, other in zip(ours, theirs)])
    return f"{interval.value:+.2f} " + ("[one seed: none]" if interval.low is None else f"[{interval.low:+.2f}, {interval.high:+.2f}]")


def _mean(values: Sequence[float], digits: int = 2) -> str:
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{spread}" if values else ""
