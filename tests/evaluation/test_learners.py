"""Cosines between learners, counted pair by pair in a loop."""
from __future__ import annotations

import numpy as np
import pytest

from askd.evaluation.learner_figures import COLOUR_OF, as_image, plot_learners, plot_masks, plot_pairs, similarity_figure
from askd.evaluation.learners import BINS, overall, pooled, similarities

LEARNERS, WIDTH = 3, 4
LEFT, RIGHT = np.array([0, 1, 2, 3, 4]), np.array([1, 2, 3, 4, 5])
SAME = np.array([True, False, True, False, False])


def draw(seed=0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(6, LEARNERS * WIDTH))


def cosine(embeddings, i, p, j, q):
    a, b = embeddings[i].reshape(LEARNERS, WIDTH)[p], embeddings[j].reshape(LEARNERS, WIDTH)[q]
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def test_equals_the_loop():
    embeddings = draw()
    entries = {tuple(entry["learners"]): entry for entry in similarities(embeddings, LEARNERS, LEFT, RIGHT, SAME)}
    assert set(entries) == {(p, q) for p in (1, 2, 3) for q in (1, 2, 3) if p <= q}
    for (p, q), entry in entries.items():
        expected = {"self": [cosine(embeddings, i, p - 1, i, q - 1) for i in range(6)] if p != q else []}
        for kind, chosen in (("positive", SAME), ("negative", ~SAME)):
            pairs = [(i, j) for i, j, took in zip(LEFT, RIGHT, chosen) if took]
            pairs += [(j, i) for i, j in pairs] if p != q else []
            expected[kind] = [cosine(embeddings, i, p - 1, j, q - 1) for i, j in pairs]
        for kind, cosines in expected.items():
            if not cosines:
                assert kind not in entry
                continue
            assert entry[kind]["mean"] == pytest.approx(np.mean(cosines)) and entry[kind]["std"] == pytest.approx(np.std(cosines))
            assert entry[kind]["counts"] == np.histogram(cosines, BINS, (-1, 1))[0].tolist()


def test_one_learner_copied_is_like_itself_and_scale_does_not_matter():
    one = np.random.default_rng(1).normal(size=(6, WIDTH))
    entries = similarities(np.concatenate([one, 3 * one, 0.1 * one], 1), LEARNERS, LEFT, RIGHT, SAME)
    means = overall(entries)
    assert means["self"] == pytest.approx(1)
    assert [entry["positive"]["mean"] for entry in entries] == pytest.approx(6 * [means["positive"]])


def test_overall_takes_self_across_and_the_rest_within_learners():
    embeddings = draw(2)
    entries = similarities(embeddings, LEARNERS, LEFT, RIGHT, SAME)
    across = np.mean([cosine(embeddings, i, p, i, q) for i in range(6) for p in range(3) for q in range(p)])
    within = np.mean([cosine(embeddings, i, p, j, p) for i, j in ((0, 1), (2, 3)) for p in range(3)])
    assert overall(entries)["self"] == pytest.approx(across) and overall(entries)["positive"] == pytest.approx(within)
    assert pooled(entries, "self").sum() == 18 and pooled(entries, "negative").sum() == 9
    assert "self" not in overall(similarities(embeddings, 1, LEFT, RIGHT, SAME))
    with pytest.raises(ValueError, match="embeddings of 12 do not divide among 5"):
        similarities(embeddings, 5, LEFT, RIGHT, SAME)


def test_figures_show_first_and_last(tmp_path):
    entries = similarities(draw(), LEARNERS, LEFT, RIGHT, SAME)
    figure = similarity_figure([(f"step {step}", entries) for step in range(9)], most=3)
    assert [axes.get_title() for axes in figure.axes] == ["step 0", "step 4", "step 8"]
    image = as_image(figure)
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.std() > 0
    plot_masks(np.zeros((2, 112, 112, 3), np.uint8), np.random.default_rng(0).random((2, LEARNERS, 5, 7, 7)), tmp_path / "masks.png")
    plot_learners({"1": 80.0, "2": 82.0}, 85.0, "accuracy (%)", tmp_path / "accuracy.png")
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in ("masks.png", "accuracy.png"))


def test_every_pair_of_learners_has_its_histograms_and_its_course(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr("askd.evaluation.learner_figures.save", lambda figure, path: saved.append(figure))
    entries, before = (similarities(draw(seed), LEARNERS, LEFT, RIGHT, SAME) for seed in (0, 1))
    plot_pairs(entries, [(5, before), (9, entries)], tmp_path / "pairs.png")
    plot_pairs(entries, [], tmp_path / "pairs.png")
    grid = np.array(saved[0].axes).reshape(LEARNERS, LEARNERS)
    assert grid[0, 0].get_title() == "learner 1" and grid[2, 1].get_title() == grid[1, 2].get_title() == "learners 2, 3"
    course = next(line for line in grid[1, 2].get_lines() if line.get_color() == COLOUR_OF["self"])
    assert course.get_xydata().tolist() == [[5, entry_of(before, 2, 3)["self"]["mean"]], [9, entry_of(entries, 2, 3)["self"]["mean"]]]
    marked = {line.get_color(): line.get_xdata()[0] for line in grid[2, 1].get_lines()}
    assert marked == {COLOUR_OF[kind]: entry_of(entries, 2, 3)[kind]["mean"] for kind in COLOUR_OF}
    assert [axes.axison for axes in saved[1].axes] == [True, False, False, True, True, False, True, True, True]


def entry_of(entries, p, q):
    return next(entry for entry in entries if entry["learners"] == [p, q])
