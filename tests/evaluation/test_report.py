"""Tables hold the rows' figures, JSON is the same bytes for the same rows, figures draw what they were given."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from matplotlib.image import imread
from rich.console import Console

from askd.evaluation import figures, report, tables
from askd.evaluation.figures import AttentionRow
from askd.evaluation.report import NATIVE, IdentificationRow, Row
from askd.evaluation.roc import roc
from askd.evaluation.verification import score_pairs

ROWS = [
    Row(
        model,
        "demo",
        size,
        "insightface",
        accuracy,
        0.0125,
        auc,
        (auc - 0.01, auc + 0.01),
        "identity",
        0.05,
        {0.1: 0.9, 1e-6: None},
        600,
        300,
        300,
    )
    for model, size, accuracy, auc in [
        ("teacher", 112, 0.98765, 0.98),
        ("teacher", 14, 0.75, 0.8),
        ("student", 112, 0.96, 0.97),
        ("student", 14, 0.885, 0.9),
    ]
]
WITHOUT_FOLDS = Row(
    "teacher",
    "all pairs",
    24,
    "askd",
    auc=0.91234,
    auc_interval=(0.9, 0.92),
    interval_unit="pair",
    pairs=10,
    genuine=4,
    impostors=6,
    note="no folds: no accuracy",
)

FIGURES = {"rank-1": 0.4791, "rank-20": 0.6789, "TPIR @ FPIR 0.01": None}
SEARCHED = [
    IdentificationRow(
        model, "tinyface", NATIVE, FIGURES | {"rank-1": rank_1}, {"rank-1": (rank_1 - 0.02, rank_1 + 0.02)},
        {1: rank_1, 20: 0.6789}, 3728, (3728,), (155_997,), (157_871,), "every probe has a mate: no TPIR",
    )
    for model, rank_1 in [("teacher", 0.4791), ("student", 0.5)]
]


def printed(table, width=80):
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return console.file.getvalue()


def test_terminal_table_shows_every_cell_and_fits():
    text = printed(tables.table(ROWS, "demo", "insightface"))
    assert max(map(len, text.splitlines())) <= 80
    lines = [line.split() for line in text.splitlines()]
    assert ["1x", "8x"] in lines and ["model", "112", "px", "14", "px"] in lines
    assert ["teacher", "98.77", "±1.25", "75.00", "±1.25"] in lines and [
        "0.9800",
        "0.8000",
    ] in lines  # rounded, not cut
    assert "protocol insightface, 300 genuine + 300 impostor pairs" in text
    six = [Row("student (A-SKD)", "demo", size, "askd", 0.9, 0.1, 0.9) for size in (112, 56, 28, 24, 14, 7)]
    assert max(map(len, printed(tables.table(six, "demo", "askd"), 100).splitlines())) <= 100
    assert printed(tables.table(six, "demo", "askd"), 100).count("90.00 ±10.00") == 6


def test_a_missing_figure_is_a_dash_with_its_reason():
    text = printed(tables.table([WITHOUT_FOLDS], "all pairs", "askd"))
    assert "0.9123" in text and "0.9000–0.9200" in text and "4.7x" in text and "no folds: no accuracy" in text
    both = [*ROWS[:1], Row("student", "demo", 14, "insightface")]
    assert (
        printed(tables.table(both, "demo", "insightface")).count("–") == 6
    )  # two empty cells and two without figures, but for 98.77


def test_markdown_holds_every_figure():
    text = tables.markdown([*ROWS, WITHOUT_FOLDS])
    assert "| teacher | 98.77 ±1.25 / 0.9800 | 75.00 ±1.25 / 0.8000 |" in text
    assert "| student | 14 | 0.9000 | 0.8900–0.9100 | 5.00 | 90.00 | too few impostors |" in text
    assert (
        "| model | px | AUC | 95 % interval by identity | EER (%) | TAR (%) @ FAR 0.1 | TAR (%) @ FAR 1e-06 |" in text
    )
    assert "## all pairs" in text and "95 % interval by pair" in text
    widths = [line.count(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert widths == [2] * 4 + [6] * 6 + [1] * 3 + [4] * 3


def test_searches_are_a_line_per_model_and_size():
    identification, = tables.tables([], SEARCHED)
    text = printed(identification)
    assert max(map(len, text.splitlines())) <= 80 and "TPIR @" not in text
    lines = [line.split() for line in text.splitlines()]
    assert ["teacher", "native", "47.91", "67.89"] in lines and ["45.9–49.9", "–"] in lines
    assert "3,728 probes; gallery of 157,871 images (155,997 candidates, 3,728 probes with a mate)" in " ".join(text.split())
    assert "every probe has a mate: no TPIR" in text
    assert len(tables.tables([*ROWS, WITHOUT_FOLDS], SEARCHED)) == 3
    text = tables.markdown(ROWS, SEARCHED)
    assert "## tinyface: identification" in text and "| student | native | 50.00 (48.0–52.0) | 67.89 (–) |" in text


def test_templates_are_quoted_at_the_far_of_the_field():
    row = Row("student", "ijbc", 112, "templates", auc=0.99, tar={1e-4: 0.9123, 1e-6: None}, pairs=10**6, impostors=10**5)
    text = printed(tables.table([row], "ijbc", "templates"))
    assert "TAR (%) @ FAR 0.0001, AUC" in text and "91.23" in text and "0.9900" in text


def test_rows_come_from_a_verification():
    rng = np.random.default_rng(0)
    plain = rng.normal(size=(40, 8)).astype(np.float32)
    left, right = rng.integers(40, size=(2, 60))
    same, fold = np.arange(60) % 2 == 0, np.arange(60) // 10
    result = score_pairs(plain, plain, left, right, same, fold, "insightface")
    row = Row.of("student", "lfw", 28, result, (0.4, 0.6), "pair")
    assert (row.protocol, row.accuracy, row.accuracy_std, row.auc, row.eer) == (
        "insightface",
        result.accuracy,
        result.accuracy_std,
        result.auc,
        result.eer,
    )
    assert row.tar == result.tar_at_far and (row.pairs, row.genuine, row.impostors, row.interval_unit) == (
        60,
        30,
        30,
        "pair",
    )


def test_json_is_whole_sorted_and_the_same_bytes(tmp_path):
    context = {"seed": 0, "degradation": "bicubic", "note": "größer"}
    report.write_json(tmp_path / "new" / "a.json", [*ROWS, WITHOUT_FOLDS], context, SEARCHED)
    report.write_json(tmp_path / "b.json", [*ROWS, WITHOUT_FOLDS], dict(reversed(context.items())), SEARCHED)
    assert (tmp_path / "new" / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    document = json.loads((tmp_path / "b.json").read_text(encoding="utf-8"))
    assert document["context"] == context
    assert document["identification"][0]["cmc"] == {"1": 0.4791, "20": 0.6789} and document["identification"][0]["size"] == "native"
    assert document["rows"][0]["tar"] == {"0.1": 0.9, "1e-06": None} and document["rows"][0]["accuracy"] == 0.98765
    assert list(document["rows"][4]) == sorted(document["rows"][4]) and document["rows"][4]["accuracy"] is None


def test_a_json_that_cannot_be_written_leaves_the_old_one(tmp_path):
    report.write_json(tmp_path / "a.json", ROWS, {})
    before = (tmp_path / "a.json").read_bytes()
    with pytest.raises(ValueError):
        report.write_json(tmp_path / "a.json", [Row("x", "y", 112, "askd", auc=float("nan"))], {})
    assert (tmp_path / "a.json").read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_figures_are_written_and_have_ink(tmp_path):
    figures.plot_resolution([*ROWS, WITHOUT_FOLDS], tmp_path / "resolution.png")
    rng, same = np.random.default_rng(0), np.arange(400) < 100
    curves = {name: roc(rng.normal(size=400) + gap * same, same)[:2] for name, gap in [("teacher", 2), ("student", 1)]}
    figures.plot_roc(curves, tmp_path / "roc.png", "demo, 8x")
    figures.plot_cmc({"teacher": np.linspace(0.4, 1, 5000), "student": np.array([0.5, 0.75, 1])}, tmp_path / "cmc.png", "demo")
    for name, colours in [(name, figures.COLOURS[:2]) for name in ("resolution.png", "roc.png", "cmc.png")]:
        pixels = np.rint(imread(tmp_path / name)[..., :3] * 255).astype(int)
        for colour in colours:
            wanted = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
            assert (np.abs(pixels - wanted).max(-1) == 0).sum() > 200, f"{name} draws no line in {colour}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cmc.png", "resolution.png", "roc.png"]


def test_attention_lies_on_the_face_it_belongs_to(tmp_path):
    grey = np.full((112, 112, 3), 120, np.uint8)
    left_half, nowhere = np.zeros((14, 14)), np.zeros((7, 7))
    left_half[:, :7] = 1
    figures.plot_attention(
        [AttentionRow(grey, grey, {"teacher": left_half}, {"student": nowhere})], tmp_path / "attention.png"
    )
    pixels = imread(tmp_path / "attention.png")[..., :3]
    middle = pixels[pixels.shape[0] // 2]
    # viridis at 0.6 over grey, in green: yellow at 1 is 0.91 * 0.6 + 0.47 * 0.4, violet at 0 0.005 * 0.6 + 0.47 * 0.4
    yellow = np.flatnonzero((np.abs(middle[:, 1] - 0.731) < 0.01) & (middle[:, 2] < 0.4))
    violet = np.flatnonzero((np.abs(middle[:, 1] - 0.191) < 0.01) & (middle[:, 2] > 0.3))
    face = 1.4 * 150  # a face is some 1.4 inches wide at 150 dpi
    assert 0.3 * face < len(yellow) < 0.6 * face and 1.1 * face < len(violet) < 1.8 * face
    assert yellow.max() < violet.min() and violet.max() > len(middle) / 2


def test_bad_input_is_named(tmp_path):
    with pytest.raises(ValueError, match="two rows for teacher on demo at 112 px"):
        tables.tables([ROWS[0], ROWS[0]])
    with pytest.raises(ValueError, match="at least one row"):
        tables.markdown([])
    with pytest.raises(ValueError, match="there are 'demo' under 'insightface'"):
        tables.table(ROWS, "lfw", "askd")
    face = np.zeros((112, 112, 3), np.uint8)
    with pytest.raises(ValueError, match=r"\(H, W\) in \[0, 1\]"):
        figures.plot_attention([AttentionRow(face, face, {"teacher": np.full((7, 7), 2.0)}, {})], tmp_path / "a.png")
    with pytest.raises(ValueError, match="the same models"):
        figures.plot_attention(
            [AttentionRow(face, face, {"teacher": np.zeros((7, 7))}, {}), AttentionRow(face, face, {}, {})],
            tmp_path / "a",
        )
    assert not list(tmp_path.iterdir())


def test_scale_names():
    assert [report.scale_name(size) for size in (112, 56, 28, 24, 14, 10, 7)] == [
        "1x",
        "2x",
        "4x",
        "4.7x",
        "8x",
        "11x",
        "16x",
    ]
