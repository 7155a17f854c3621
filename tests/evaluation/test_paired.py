"""Comparisons of models subtract their figures, count their disagreements, and call real only what both tests call so."""
from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import binomtest

from askd.data.gallery import IdentificationSet
from askd.data.pairs import PairSet
from askd.evaluation.gather import Encoded
from askd.evaluation.paired import comparison_tables, comparisons_markdown, compare_models
from askd.evaluation.scored import score

PEOPLE = 60
IDENTITY = np.repeat(np.arange(PEOPLE), 3)


def faces(spread, seed):
    rng = np.random.default_rng(seed)
    return (np.random.default_rng(9).normal(size=(PEOPLE, 12))[IDENTITY] + spread * rng.normal(size=(len(IDENTITY), 12))).astype(np.float32)


def pair_set(folds=True):
    rng = np.random.default_rng(3)
    left, right = np.triu_indices(len(IDENTITY), 1)
    same = IDENTITY[left] == IDENTITY[right]
    chosen = np.sort(np.append(np.flatnonzero(same), rng.choice(np.flatnonzero(~same), same.sum(), replace=False)))
    left, right, same = left[chosen], right[chosen], same[chosen]
    return PairSet("lfw", [b""] * len(IDENTITY), left, right, same, np.arange(len(left)) % 6 if folds else np.full(len(left), -1), IDENTITY, [])


@pytest.fixture(scope="module")
def scored():
    models = {"good": faces(0.6, 1), "alike": faces(0.6, 2), "poor": faces(1.4, 3)}
    searched = IdentificationSet("gallery", Encoded([], []), np.setdiff1d(np.arange(180), np.arange(0, 180, 3)), np.arange(0, 180, 3), IDENTITY)
    found = {}
    for model, embeddings in models.items():
        for protocol, one in score(pair_set(), embeddings, embeddings, ["exact", "insightface"]).items():
            found["lfw", model, "bicubic", 14, protocol] = one
        for protocol, one in score(searched, embeddings, None, []).items():
            found["gallery", model, "bicubic", 14, protocol] = one
    return found


def test_every_two_models_are_subtracted_and_counted(scored):
    entries = compare_models(scored, "exact")
    lfw = {(entry["first"], entry["second"], entry["figure"]): entry for entry in entries if entry["set"] == "lfw"}
    two = [("good", "alike"), ("good", "poor"), ("alike", "poor")]
    assert set(lfw) == {(*names, figure) for names in two for figure in ("accuracy", "auc", "TAR @ FAR 0.001")} - {
        (*names, "TAR @ FAR 0.001") for names in two}  # 180 impostors are too few for that
    assert {entry["protocol"] for entry in entries} == {"exact", "identification"}
    for first, second in two:
        a, b = (scored["lfw", model, "bicubic", 14, "exact"] for model in (first, second))
        entry = lfw[first, second, "accuracy"]
        assert entry["value"] == pytest.approx(a.result.accuracy - b.result.accuracy) and entry["unit"] == "identity"
        assert entry["low"] <= entry["value"] <= entry["high"]
        only = [int((x.result.correct & ~y.result.correct).sum()) for x, y in ((a, b), (b, a))]
        cases = entry["mcnemar"]
        assert [cases["first_only"], cases["second_only"]] == only
        assert cases["p"] == pytest.approx(binomtest(only[0], sum(only)).pvalue) and cases["p"] <= cases["p_holm"] <= 3 * cases["p"]
        assert lfw[first, second, "auc"]["mcnemar"] is None
    assert [lfw[(*names, "accuracy")]["real"] for names in two] == [False, True, True]
    rank = {(entry["first"], entry["second"]): entry for entry in entries if entry["figure"] == "rank-1"}
    a, b = (scored["gallery", model, "bicubic", 14, "identification"].searches[0] for model in ("good", "poor"))
    assert rank["good", "poor"]["mcnemar"]["first_only"] == int(((a.rank == 1) & (b.rank != 1)).sum())
    assert rank["good", "poor"]["real"] and not rank["good", "alike"]["real"]


def test_a_difference_is_real_only_where_both_tests_say_so(scored):
    """The same decisions on some pairs swapped: an interval may exclude 0 where McNemar's test, adjusted, does not."""
    entries = [entry for entry in compare_models(scored, "exact") if entry["mcnemar"]]
    for entry in entries:
        excludes = not entry["low"] <= 0 <= entry["high"]
        assert entry["real"] == (excludes and entry["mcnemar"]["p_holm"] < 0.05)


def test_the_tables_fit_and_say_it(scored):
    named = {(name, f"{model} with a long name", degradation, size, by): found for size in (112, 80, 56, 28, 14, 7)
             for (name, model, degradation, _, by), found in scored.items() if by == "exact"}
    text = io.StringIO()
    for table in comparison_tables(compare_models(named, "exact")):
        Console(file=text, width=100).print(table)
    assert max(map(len, text.getvalue().splitlines())) <= 100 and "…" not in text.getvalue()
    assert text.getvalue().count(" *\n") + text.getvalue().count(" * ") >= 12  # two of three, at six sizes
    markdown = comparisons_markdown(compare_models(scored, "exact"))
    line, = [line for line in markdown.splitlines() if "good - poor" in line and "| accuracy |" in line]
    assert line.endswith("| yes |") and "identity" in line
    assert comparisons_markdown([]) == "" and comparison_tables([]) == []


def test_without_folds_auc_is_compared(scored):
    found = {("lfw", model, "bicubic", 14, "exact"): score(pair_set(folds=False), embeddings, embeddings, ["exact"])["exact"]
             for model, embeddings in (("a", faces(0.6, 1)), ("b", faces(1.4, 3)))}
    entries = compare_models(found, "exact")
    assert [(entry["figure"], entry["mcnemar"]) for entry in entries] == [("auc", None)] and entries[0]["real"]
    table, = comparison_tables(entries)
    assert "auc" in table.title
