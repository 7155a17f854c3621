"""Whatever a stranger calls their folders, the page stays the page; its colours can be told apart by any eyes; ticks are round."""
from __future__ import annotations

import base64
from html.parser import HTMLParser
from itertools import combinations

import cv2
import numpy as np
import pytest
from hypothesis import given, strategies as st

from askd.evaluation.html.chart import Axis, Line, chart, linear_ticks
from askd.evaluation.html.page import Html, image, joined, page, table, tag
from askd.evaluation.html.style import DARK, LIGHT


class Read(HTMLParser):
    """Tags that are opened and closed in order, and the text between them."""

    EMPTY = {"meta", "img", "br", "hr"}

    def __init__(self, text: str):
        super().__init__()
        self.open, self.tags, self.text = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@given(st.text(), st.text())
def test_any_text_comes_back_as_it_was(text, value):
    text, value = (one.replace("\r", "").replace("\x00", "") for one in (text, value))
    read = Read(tag("p", text, title=value))
    assert "".join(read.text) == text and read.tags == [("p", {"title": value})] and not read.open


def test_only_markup_is_markup():
    assert tag("p", "<b>", Html("<b></b>")) == "<p>&lt;b&gt;<b></b></p>"
    assert tag("p", None, [1, ["a", ("b",)]], class_="x", stroke_width=2, title=None) == '<p class="x" stroke-width="2">1ab</p>'
    assert tag("line", x1=1) == '<line x1="1"/>' and tag("img", alt='"') == '<img alt="&quot;">'
    assert isinstance(joined("a"), Html) and not isinstance(Html("a") + "<", Html)  # what is put together by hand is text again


def test_a_page_parses_and_fetches_nothing():
    read = Read(page("<title>", tag("p", "x")))
    assert not read.open and "".join(read.text).count("<title>") == 1
    assert "a?b" in page("x", "a\udcffb")  # a file's name that is no UTF-8
    policy, = (given["content"] for name, given in read.tags if given.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_a_table_has_its_own_scroll_and_named_rows():
    read = Read(table(["model", "a"], [["one", 1], ["two", tag("td", 2, class_="best")]], "label"))
    assert read.tags[0][1]["class"] == "scroll" and read.tags[0][1]["tabindex"] == "0"
    assert [given.get("scope") for name, given in read.tags if name in ("th", "td")] == ["col", "col", "row", None, "row", None]
    assert ("td", {"class": "best"}) in read.tags and "".join(read.text) == "modelaone1two2"


def test_an_image_is_its_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    given = Read(image(pixels, "noise")).tags[0][1]
    encoded = base64.b64decode(given["src"].removeprefix("data:image/png;base64,"))
    assert (cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)[..., ::-1] == pixels).all()
    assert (given["alt"], given["width"], given["height"]) == ("noise", "7", "5")


def test_a_chart_puts_points_where_they_belong():
    across = Axis("size", 100, 1, [(100, "100"), (10, "10"), (1, "1")], log=True)
    up = Axis("value", 0, 2, [(0, "0"), (2, "2")])
    drawn = Read(chart("<t>", [Line("a", 0, [(100, 0), (10, 1), (1, 2)]), Line("b<", 8, [(10, 2)], [(1, 2)], words=["w<"])], across, up))
    circles = [(given["cx"], given["cy"]) for name, given in drawn.tags if name == "circle" and "cy" in given][:3]
    assert circles == [("60", "246"), ("244", "128"), ("428", "10")]
    bar, = (given["d"] for name, given in drawn.tags if given.get("class") == "bar")
    assert bar == "M242.5 128H248.5M245.5 128V10M242.5 10H248.5"  # 1.5 units aside: the second line of two
    assert [given["class"] for name, given in drawn.tags if name == "g" and "class" in given] == ["c0", "c1"]  # eight colours on, the second again
    assert not drawn.open and "".join(drawn.text).count("b<") == 1 and "w<" in drawn.text


@given(st.floats(-1e4, 1e4), st.floats(1e-3, 1e4))
def test_ticks_cover_and_are_round(low, span):
    ticks = linear_ticks(low, low + span)
    steps = np.diff(ticks)
    assert ticks[0] <= low + 1e-6 * span and ticks[-1] >= low + span * (1 - 1e-6) and 2 <= len(ticks) <= 8
    leading = float(f"{steps[0]:.6e}".split("e")[0])
    assert np.allclose(steps, steps[0], rtol=1e-4) and any(abs(leading - one) < 1e-3 for one in (1, 2, 5, 10))


def test_flat_values_have_an_axis_too():
    assert linear_ticks(1, 1)[0] < 1 < linear_ticks(1, 1)[-1]


# Machado, Oliveira & Fernandes 2009, severity 1.0, on linear RGB.
EYES = {
    "normal": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def linear(colour: str) -> np.ndarray:
    value = np.array([int(colour[place:place + 2], 16) for place in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ rgb.clip(0, 1) / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("colours, paper", [(LIGHT, "#ffffff"), (DARK, "#15181c")], ids=["light", "dark"])
def test_colours_stand_out_and_apart_for_all_eyes(colours, paper):
    light = [float(linear(colour) @ [0.2126, 0.7152, 0.0722]) + 0.05 for colour in (*colours, paper)]
    assert all(max(one, light[-1]) / min(one, light[-1]) >= 3 for one in light[:-1])  # WCAG 2, for graphics
    for matrix in EYES.values():
        seen = [lab(np.array(matrix) @ linear(colour)) for colour in colours]
        assert min(np.linalg.norm(a - b) for a, b in combinations(seen[:4], 2)) > 16
        assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 9
