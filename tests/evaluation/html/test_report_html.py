"""The page holds every figure that was found, whatever the models are called, and is the same bytes each time."""
from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from askd.evaluation.error_sheet import ShownError, ShownErrors
from askd.evaluation.figures import AttentionRow
from askd.evaluation.html.figures import thin_roc
from askd.evaluation.html.report import Findings, render, write_html
from askd.evaluation.html.tables import matrix_table
from askd.evaluation.map_similarity import MapDistance
from askd.evaluation.report import NATIVE, IdentificationRow, Row
from test_page import Read

EVIL = '<script>alert("x")</script>&amp; \' https://example.org/x.png'
RNG = np.random.default_rng(0)
SAME = np.arange(200) < 80


def row(model, size, accuracy, degradation="bicubic", **more):
    return Row(model, "lfw", size, "insightface", accuracy, 0.0125, 0.9 + accuracy / 100, (0.9, 0.95), "identity", 0.05,
               {0.1: 0.8765, 1e-6: None}, 200, 80, 120, "", degradation, accuracy_interval=(accuracy - 0.01, accuracy + 0.01), tar_intervals={0.1: (0.8, 0.9)}, **more)


def difference(value, low, high, **more):
    return {"set": "lfw", "size": 14, "figure": "accuracy", "protocol": "insightface", "value": value, "low": low, "high": high, "level": 0.95,
            "unit": "identity", **more}


def findings(name="student"):
    face, heat = RNG.integers(0, 256, (112, 112, 3)).astype(np.uint8), np.linspace(0, 1, 112 * 112).reshape(112, 112)
    error = ShownError((f"{name}/1.jpg", "b/2.jpg"), (face, face), (heat, heat), 0.5123, 0.25)
    cases = {"first_only": 31, "second_only": 12, "p": 0.001, "p_holm": 0.0421}
    return Findings(
        f"report of {name}",
        [row(model, size, accuracy) for model, size, accuracy in (("teacher", 112, 0.9876), ("teacher", 14, 0.75), (name, 112, 0.96), (name, 14, 0.885))],
        [IdentificationRow(name, "tinyface", NATIVE, {"rank-1": 0.4791, "TPIR @ FPIR 0.01": None}, {"rank-1": (0.46, 0.49)}, {1: 0.4791}, 3728, (3728,),
                           (155_997,), (157_871,), "no TPIR", "bicubic")],
        {"models": {name: {"path": f"runs/{name}", "sha256": "0123456789abcdef" * 4}}, "sets": {"lfw": {"sha256": "fedcba9876543210" * 4}}, "seed": 17,
         "versions": {"askd": "1.2.3"}, "quantise": False, "differences": "listed again"},
        [difference(0.0123, 0.001, 0.02, what="A-SKD: student - baseline"), difference(-0.01, -0.02, 0.03, what="headroom")],
        [difference(0.02, 0.01, 0.03, degradation="bicubic", first="teacher", second=name, mcnemar=cases, real=True)],
        [*(row(name, size, 0.9) for size in (112, 14)), row(name, 112, 0.8421, probe_size=14), row(name, 14, 0.8333, probe_size=112)],
        {("lfw", "insightface", "bicubic"): {(model, 14): thin_roc(RNG.normal(size=200) + SAME, SAME) for model in ("teacher", name)}},
        {("tinyface", "bicubic"): {(name, NATIVE): np.linspace(0.4791, 1, 3000)}},
        [AttentionRow(face, face, {"teacher": heat}, {name: heat})], "Attention maps",
        [ShownErrors(name, "lfw", 14, [error], [], 7, 0, "its fold's threshold", "Grad-CAM")],
        [MapDistance(name, "teacher", 14, "logits", part, block, 0.1, 0.3, 0.15, 0.25, 50) for part in ("channel", "spatial") for block in range(3)],
    )


def test_every_part_is_there():
    text = " ".join("".join(part for part in Read(render(findings())).text).split())
    for said in (
        "report of student", "98.76 ± 1.25", "97.76–99.76", "88.50 ± 1.25", "0.9000–0.9500", "87.65", "80.0–90.0", "too few", "80 genuine and 120 impostor",
        "47.91", "46.0–49.0", "no TPIR", "+1.23", "+0.10 to +2.00", "−1.00", "31 : 12", "0.0421", "84.21", "83.33", "fedcba9876543210", "0123456789abcdef",
        "1.2.3", "seed17", "Attention maps", "7 in all, the worst 1 first", "cosine 0.512, threshold 0.250", "student/1.jpg", "Grad-CAM", "another face", "3 of 3",
        "Of 3 differences compared, 2 are real", "rank-1 47.9 %",
    ):
        assert said in text, said
    assert "listed again" not in text  # what has a section of its own is not listed again
    assert text.count("not shown") == 1


def test_names_of_strangers_stay_names():
    plain, evil = (Read(render(findings(name))) for name in ("student", EVIL))
    assert [name for name, _ in plain.tags] == [name for name, _ in evil.tags] and not evil.open
    assert "script" not in {name for name, _ in evil.tags} and "".join(evil.text).count(EVIL) > 20


@pytest.mark.parametrize("name", ["student", EVIL])
def test_nothing_is_fetched(name):
    page = render(findings(name))
    for tag, given in Read(page).tags:
        for key, value in given.items():
            assert not key.startswith("on"), (tag, key)
            if key in ("src", "href", "action", "data", "srcset", "poster", "background", "xlink:href"):
                assert value.startswith(("data:image/png;base64,", "#")), (tag, key)
            if key == "style":
                assert "url" not in value
        assert tag not in ("link", "script", "iframe", "object", "embed", "base", "form")
    style = re.search("<style>(.*?)</style>", page, re.S).group(1)
    assert "url(" not in style and "@import" not in style and "prefers-color-scheme:dark" in style and "@media print" in style


def test_links_lead_somewhere():
    read = Read(render(findings()))
    assert [given["href"] for name, given in read.tags if name == "a"] == [f"#{given['id']}" for name, given in read.tags if name == "section"]


def test_same_findings_same_bytes(tmp_path):
    global RNG
    for name in ("a", "b"):
        RNG = np.random.default_rng(0)
        write_html(tmp_path / name / "report.html", findings())
    assert (tmp_path / "a" / "report.html").read_bytes() == (tmp_path / "b" / "report.html").read_bytes()


def test_what_is_missing_has_no_section():
    page = render(Findings("only pairs", [Row("one", "mine", 112, "askd", auc=0.9, pairs=10, genuine=4, impostors=6, note="no folds: no accuracy")]))
    read = Read(page)
    assert [given["id"] for name, given in read.tags if name == "section"] == ["verification"]
    assert "no folds: no accuracy" in "".join(read.text) and "svg" not in {name for name, _ in read.tags}
    with pytest.raises(ValueError, match="at least one row"):
        render(Findings("nothing", []))


def test_degradations_stand_apart():
    found = findings()
    both = replace(found, rows=[*found.rows, *(replace(one, degradation="area", accuracy=0.5) for one in found.rows)])
    text = "".join(Read(render(both)).text)
    assert "lfw, protocol insightface, area" in text and "Degradations: bicubic and area." in text and "50.00 ± 1.25" in text


def test_shades_follow_the_values():
    matrix = {(a, b): row("m", a, value, probe_size=b) for (a, b), value in {(112, 112): 0.9, (112, 14): 0.7, (14, 112): 0.8, (14, 14): None}.items()
              if value is not None}
    cells = [given for name, given in Read(matrix_table(matrix, "accuracy", "x")).tags if name == "td"]
    shades = [float(re.search(r"/ ([\d.]+)\)", given["style"]).group(1)) if "style" in given else None for given in cells]
    assert shades == [0.62, 0.0, 0.31, None] and cells[0]["class"] == "best"
