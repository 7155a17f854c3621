"""The table of ensembles over seeds, against a table computed by hand."""
from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t

from askd.evaluation.learner_comparison import learner_table, plot_similarities
from askd.evaluation.learners import similarities


def line(seed: int, cosine: float, aucs: list[float], whole: float, method: str = "abe2", sizes: tuple[int, ...] = (14,)) -> dict:
    document = {
        "set": "verify", "protocol": "insightface", "size": min(sizes), "overall": {"self": cosine, "positive": 0.5, "negative": 0.25},
        "learners": {f"learner {place + 1}": {"auc": auc} for place, auc in enumerate(aucs)}, "ensemble": {"auc": whole},
    }
    return {"method": method, "sizes": list(sizes), "seed": seed, "learners": document}


def cells(text: str, method: str) -> list[str]:
    return next([cell.strip() for cell in row.strip("|").split("|")] for row in text.splitlines() if row.startswith(f"| {method} |"))


def test_the_means_of_two_seeds():
    text = learner_table([line(0, 0.8, [0.90, 0.92], 0.93), {"method": "base", "sizes": [14], "seed": 0}, line(1, 0.6, [0.94, 0.90], 0.97)])
    assert text.startswith("### Learners, on verify, protocol insightface") and "Recall" not in text
    half, of_mean = (t.ppf(0.975, 1) * np.std(points, ddof=1) / np.sqrt(2) for points in ([1, 3], [2, 5]))
    cosines, areas = text.split("| AUC (%) |")
    assert cells(cosines, "abe2") == ["abe2", "14", "0.700 ± 0.141", "0.500 ± 0.000", "0.250 ± 0.000"]
    assert cells(areas, "abe2") == [
        "abe2", "14", "91.50 ± 0.71", "93.00 ± 1.41", "95.00 ± 2.83",
        f"+3.50 [{3.5 - of_mean:+.2f}, {3.5 + of_mean:+.2f}]", f"+2.00 [{2 - half:+.2f}, {2 + half:+.2f}]",
    ]
    assert "| base |" not in text


def test_one_seed_has_no_interval_and_one_learner_nothing_to_beat():
    text = learner_table([line(0, 0.8, [0.90, 0.92], 0.93), line(0, 0.1, [0.9], 0.9, "abe1")])
    areas = text.split("| AUC (%) |")[1]
    assert cells(areas, "abe2")[-1] == "+1.00 [one seed: none]" and cells(areas, "abe1")[-2:] == ["", ""]
    assert "one for all sizes" in learner_table([line(0, 0.8, [0.9, 0.9], 0.9, sizes=(112, 14))])


def test_recall_is_said_where_it_is_known():
    known = line(0, 0.8, [0.90, 0.92], 0.93)
    for row, recall in zip((*known["learners"]["learners"].values(), known["learners"]["ensemble"]), (0.30, 0.34, 0.40)):
        row["recall@1"] = recall
    recalls = learner_table([known, line(0, 0.8, [0.90, 0.92], 0.93, "abe4")]).split("| Recall@1 (%) |")[1]
    assert cells(recalls, "abe2")[2:] == ["32.00", "34.00", "40.00", "+8.00 [one seed: none]", "+6.00 [one seed: none]"]
    assert "abe4" not in recalls


def test_nothing_is_said_of_single_networks(tmp_path):
    single = [{"method": "base", "sizes": [14], "seed": 0}]
    assert learner_table(single) == "" and not plot_similarities(single, tmp_path / "none.png") and not list(tmp_path.iterdir())


def test_the_figure_has_a_panel_per_method(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("askd.evaluation.learner_comparison.similarity_figure", lambda panels, most: seen.append((panels, most)))
    monkeypatch.setattr("askd.evaluation.learner_comparison.save", lambda figure, path: None)
    lines = [line(0, 0.8, [0.9, 0.9], 0.9), line(1, 0.7, [0.9, 0.9], 0.9), line(0, 0.1, [0.9, 0.9], 0.9, "heads4")]
    for number, one in enumerate(lines):
        one["learners"]["pairs"] = number
    assert plot_similarities(lines, tmp_path / "some.png") and seen == [([("abe2, 14 px", 0), ("heads4, 14 px", 2)], 2)]


@pytest.mark.parametrize("pairs", [1, (1 << 16) + 3])
def test_many_pairs_are_compared_in_blocks(pairs):
    embeddings, draws = np.random.default_rng(0).normal(size=(5, 8)), np.random.default_rng(1)
    left, right, same = draws.integers(0, 5, pairs), draws.integers(0, 5, pairs), np.ones(pairs, bool)
    one, _, _ = similarities(embeddings, 2, left, right, same)
    unit = embeddings[:, :4] / np.linalg.norm(embeddings[:, :4], axis=1, keepdims=True)
    assert one["positive"]["mean"] == pytest.approx((unit[left] * unit[right]).sum(1).mean()) and sum(one["positive"]["counts"]) == pairs
