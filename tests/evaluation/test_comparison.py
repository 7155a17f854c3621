"""Means, paired differences and intervals of a study, by hand."""
from __future__ import annotations

import cv2
import pytest

from askd.evaluation.comparison import baseline_of, compared, label_of, paired, plot_differences, tables, values_of


def line(method, seed, accuracy, auc=0.9, sizes=(14,), rate=100.0, at=14):
    rows = [{"set": "lfw", "protocol": "askd", "size": at, "accuracy": accuracy, "auc": auc}]
    return {"method": method, "sizes": list(sizes), "seed": seed, "rows": rows, "cost": {"images_per_second": rate, "memory_gb": 1.5}}


LINES = [
    line("teacher", 0, 0.95, sizes=(112,), at=112), line("teacher", 1, 0.97, sizes=(112,), at=112),
    line("base", 0, 0.80), line("base", 1, 0.82), line("base", 2, 0.99),
    line("kd", 0, 0.81, rate=80), line("kd", 1, 0.86, rate=90), line("askd", 0, 0.79), line("kd", 0, 0.7, sizes=(112, 14)),
]


def test_labels_tell_one_size_from_all():
    assert [label_of(entry) for entry in LINES[-2:]] == ["askd", "kd, one for all sizes"]
    assert values_of(LINES, "kd", 14, "lfw", "askd", "accuracy") == {0: 0.81, 1: 0.86}


def test_differences_are_paired_by_seed():
    points, interval = paired({0: 0.81, 1: 0.86, 5: 0.1}, {0: 0.80, 1: 0.82, 2: 0.99})
    assert points == pytest.approx([1, 4])
    # Two seeds: t(0.975, 1) = 12.706, the standard error (4 - 1) / 2.
    assert (interval.value, interval.low, interval.high) == pytest.approx((2.5, 2.5 - 12.706 * 1.5, 2.5 + 12.706 * 1.5), rel=1e-4)
    assert paired({0: 0.5}, {1: 0.5}) is None


def test_the_tables_say_it_all():
    text = tables(LINES)
    assert "### lfw, protocol askd: accuracy (%)" in text and "auc (%)" in text
    for row in (
        "| teacher | 96.00 ± 1.41 (2) |  |", "| base |  | 87.00 ± 10.44 (3) |",
        "| kd |  | 83.50 ± 3.54 (2) |", "| askd |  | 79.00 (1) |",
        "| headroom: teacher at full resolution - base | 14 | +15.00, +15.00 | +15.00 [+15.00, +15.00] | yes |",
        "| kd - base | 14 | +1.00, +4.00 | +2.50 [-16.56, +21.56] | no |", "| askd - base | 14 | -1.00 | -1.00 [one seed: none] |  |",
        "| kd, one for all sizes - kd | 14 | -11.00 |", "| kd | 85.0 | 0.85 | 1.5 |",
    ):
        assert row in text, text


def test_without_a_baseline_the_first_method_is_one():
    lines = [line("teacher", 0, 0.95, sizes=(112,), at=112), line("abe4_div0", 0, 0.80), line("abe4", 0, 0.83, rate=50)]
    text = tables(lines)
    assert "| abe4 - abe4_div0 | 14 | +3.00 |" in text and "teacher at full resolution - abe4_div0 | 14 | +15.00 |" in text
    assert "| of abe4_div0 |" in text and "| abe4 | 50.0 | 0.50 | 1.5 |" in text
    text = tables([*lines, line("base+se", 0, 0.70)])  # its kin goes first, wherever it stands
    assert "| abe4 - base+se | 14 | +13.00 |" in text and "| abe4_div0 - base+se | 14 | +10.00 |" in text and "headroom: teacher at full resolution - base+se" in text


def test_one_teacher_of_all_seeds_has_no_spread():
    given = [{**line("teacher", seed, 0.95, sizes=(112,), at=112), "sha256": "same"} for seed in (0, 1, 2)]
    trained = [{**line("base", seed, 0.8), "sha256": f"own {seed}"} for seed in (0, 1, 2)]
    text = tables(given + trained)
    assert "| teacher | 95.00 (one for all) |" in text and "| base |  | 80.00 ± 0.00 (3) |" in text


def test_a_teacher_scored_again_at_more_sizes_counts_once():
    twice = [{**line("teacher", 0, 0.95, sizes=(112,), at=at), "sha256": "same"} for at in (112, 112, 14)]
    assert "| teacher | 95.00 (1) | 95.00 (1) |" in tables(twice)


def test_tar_where_there_are_enough_impostors():
    lines = [line("base", 0, 0.8), line("kd", 0, 0.9), line("base", 0, 0.7, at=28), line("kd", 0, 0.7, at=28)]
    assert "TAR" not in tables(lines)  # rows of old files have none
    for entry, tar in zip(lines, (0.5, 0.625, None, 0.3)):
        entry["rows"][0]["tar"] = {"0.01": 0.9, "0.001": tar}
    text = tables(lines).split("TAR at FAR 0.001 (%)")[1]
    assert "| base |  | 50.00 (1) |" in text and "| kd | 30.00 (1) | 62.50 (1) |" in text
    assert "| kd - base | 14 | +12.50 |" in text and "| 28 |" not in text


def test_a_method_that_changes_the_network_is_compared_with_its_own_baseline():
    labels = ["teacher", "teacher, attention=se", "base", "askd", "base+se", "askd_channel+se", "base+se+from_random", "kd+se+from_random", "askd+kernel3"]
    assert compared(labels) == [
        ("askd", "base"), ("base+se", "base"), ("askd_channel+se", "base+se"), ("base+se+from_random", "base+se"),
        ("kd+se+from_random", "base+se+from_random"), ("askd+kernel3", "base"),
    ]
    assert baseline_of("kd+se, one for all sizes", labels) == "base+se"
    assert compared(["base, one for all sizes"]) == [("base, one for all sizes", "base")]
    assert compared(["base", "base, one for all sizes", "askd", "askd, one for all sizes"]) == [
        ("base, one for all sizes", "base"), ("askd", "base"), ("askd, one for all sizes", "askd"), ("askd, one for all sizes", "base, one for all sizes")]
    text = tables([line("base+se", 0, 0.80), line("askd_channel+se", 0, 0.83), line("teacher, attention=se", 0, 0.95, sizes=(112,), at=112)])
    assert "| askd_channel+se - base+se | 14 | +3.00 |" in text and "teacher, attention=se -" not in text and "| teacher, attention=se | 95.00 (1) |" in text


def test_a_figure_where_there_is_something_to_compare(tmp_path):
    assert plot_differences(LINES, tmp_path / "d.png")
    assert cv2.imread(str(tmp_path / "d.png")).std() > 1 and not list(tmp_path.glob("*.tmp"))
    assert not plot_differences(LINES[:2], tmp_path / "none.png") and not (tmp_path / "none.png").exists()
