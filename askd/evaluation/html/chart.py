"""Line charts as SVG inside the page: colours from its style, so that they follow the theme; marks and dashes, for who sees no colours."""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from askd.evaluation.html.page import Html, tag
from askd.evaluation.html.style import LIGHT

WIDTH, HEIGHT = 440, 290  # units; drawn some 360 pixels wide on a phone
LEFT, RIGHT, TOP, BOTTOM = 60, 12, 10, 44
DASHES = (None, "8 4", "2 4", "9 3 2 3", "14 4", "5 3", "2 2")
SIDES = {1: 4, 2: 3, 3: 4, 4: 3, 5: 5, 6: 6}  # of the polygon that marks the place-th line; a circle first
TURNS = {1: 45, 2: -90, 3: 0, 4: 90, 5: -90, 6: 0}  # degrees


@dataclass(frozen=True)
class Axis:
    """What an axis shows: from `low` at its start to `high` at its end (either may be the larger), ticks (value, text)."""

    label: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    log: bool = False

    def along(self, value: float) -> float:
        """0 at `low`, 1 at `high`."""
        low, high, value = (math.log(number) if self.log else number for number in (self.low, self.high, value))
        return (value - low) / (high - low)


@dataclass(frozen=True)
class Line:
    """One line. place: its colour and mark, the same in every chart of a page; reach: (low, high) of a bar per point, or None.

    dashed: None as `place` has it where there are no marks; words: of each point, shown where a pointer rests on it.
    """

    name: str
    place: int
    points: Sequence[tuple[float, float]]
    reach: Sequence[tuple[float, float] | None] = ()
    marks: bool = True
    dashed: bool | None = None
    steps: bool = False
    words: Sequence[str] = ()


def chart(title: str, lines: Sequence[Line], across: Axis, up: Axis) -> Html:
    """A figure: its title, the lines over their axes, and the legend below."""
    drawn = [_frame(across, up), *(_line(line, across, up, place, len(lines)) for place, line in enumerate(lines))]
    plot = tag("svg", *drawn, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=f"{title}: {up.label} over {across.label}")
    return tag("figure", tag("figcaption", title), plot, legend(lines))


def legend(lines: Sequence[Line]) -> Html:
    """Names with the stroke and mark of each line."""
    return tag("ul", (
        tag("li", tag("svg", tag("line", x1=1, y1=7, x2=33, y2=7, class_="line", stroke_dasharray=_dash(line)),
                      _mark(line.place, 17, 7) if line.marks else None, viewBox="0 0 34 14", class_=_class(line), aria_hidden="true"),
            tag("span", line.name))
        for line in lines), class_="legend")


def linear_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers, 1, 2 or 5 times a power of ten apart, that cover low..high: the first not above it, the last not below."""
    if high <= low:
        low, high = low - 0.5, low + 0.5
    rough = (high - low) / (most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(place * step, 12) for place in range(first, last + 1)]


def _frame(across: Axis, up: Axis) -> Html:
    left, right, top, bottom = LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM
    parts = []
    for value, text in up.ticks:
        y = _y(up, value)
        parts += [tag("line", x1=left, y1=y, x2=right, y2=y, class_="grid"), tag("text", text, x=left - 7, y=_near(float(y) + 4.5), text_anchor="end")]
    for value, text in across.ticks:
        x = _x(across, value)
        parts += [tag("line", x1=x, y1=top, x2=x, y2=bottom, class_="grid"), tag("text", text, x=x, y=bottom + 17, text_anchor="middle")]
    parts += [
        tag("path", d=f"M{left} {top}V{bottom}H{right}", class_="axis"),
        tag("text", across.label, x=(left + right) / 2, y=HEIGHT - 7, text_anchor="middle"),
        tag("text", up.label, x=0, y=0, text_anchor="middle", transform=f"translate(12 {(top + bottom) / 2}) rotate(-90)"),
    ]
    return tag("g", *parts)


def _line(line: Line, across: Axis, up: Axis, number: int, of: int) -> Html:
    aside = 3.0 * (number - (of - 1) / 2) if line.reach else 0.0  # so that bars of equal sizes do not hide each other
    places = [(_near(float(_x(across, x)) + aside), _y(up, y)) for x, y in line.points]
    path = "".join(
        (f"M{x} {y}" if not k else f"H{x}V{y}" if line.steps else f"L{x} {y}") for k, (x, y) in enumerate(places)
    )
    parts = [tag("path", d=path, class_="line", stroke_dasharray=_dash(line))] if len(places) > 1 else []
    for (x, _), reach in zip(places, line.reach):
        if reach is not None:
            low, high = (_y(up, end) for end in reach)
            x = float(x)
            parts.append(tag("path", d=f"M{_near(x - 3)} {low}H{_near(x + 3)}M{_near(x)} {low}V{high}M{_near(x - 3)} {high}H{_near(x + 3)}", class_="bar"))
    if line.marks:
        words = line.words or [None] * len(places)
        parts += [_mark(line.place, float(x), float(y), word) for (x, y), word in zip(places, words)]
    return tag("g", *parts, class_=_class(line))


def _mark(place: int, x: float, y: float, words: str | None = None) -> Html:
    shape = place % len(LIGHT)
    title = () if words is None else (tag("title", words),)
    if shape == 0:
        return tag("circle", *title, cx=_near(x), cy=_near(y), r=4.5, class_="mark")
    corners = (math.radians(TURNS[shape] + 360 * k / SIDES[shape]) for k in range(SIDES[shape]))
    points = " ".join(f"{_near(x + 5.6 * math.cos(corner))},{_near(y + 5.6 * math.sin(corner))}" for corner in corners)
    return tag("polygon", *title, points=points, class_="mark")


def _class(line: Line) -> str:
    return f"c{line.place % len(LIGHT)}"


def _dash(line: Line) -> str | None:
    if line.dashed is None:
        return None if line.marks else DASHES[line.place % len(DASHES)]
    return "3 4" if line.dashed else None


def _x(axis: Axis, value: float) -> str:
    return _near(LEFT + axis.along(value) * (WIDTH - LEFT - RIGHT))


def _y(axis: Axis, value: float) -> str:
    return _near(HEIGHT - BOTTOM - min(max(axis.along(value), -0.02), 1.02) * (HEIGHT - TOP - BOTTOM))


def _near(value: float) -> str:
    """A tenth of a unit is finer than any screen, and the same on every machine."""
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text
