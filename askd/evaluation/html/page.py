"""HTML that cannot be broken by what it shows: whatever is not markup already is escaped where it meets a tag."""
from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

import cv2
import numpy as np

from askd.evaluation.html.style import STYLE

EMPTY = {"br", "circle", "hr", "img", "line", "meta", "path", "polygon", "polyline", "rect"}
# Nothing is fetched and nothing runs, whatever a name should smuggle in.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


class Html(str):
    """Markup; any other string is text."""


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """<name attributes>children</name>. Children: Html as it is, None not at all, iterables one by one, anything else as text.

    Attributes: class_="x" is class="x", stroke_width=2 is stroke-width="2"; None leaves one out.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"' for key, value in attributes.items() if value is not None
    )
    if name in EMPTY and not children:
        return Html(f"<{name}{given}>" if name in ("br", "hr", "img", "meta") else f"<{name}{given}/>")
    return Html(f"<{name}{given}>{joined(children)}</{name}>")


def joined(children: object) -> Html:
    """Children as `tag` takes them, without a tag around them."""
    if children is None:
        return Html("")
    if isinstance(children, str):
        return Html(children if isinstance(children, Html) else escape(children))
    if isinstance(children, Iterable):
        return Html("".join(joined(child) for child in children))
    return Html(escape(str(children)))


def page(title: str, *body: object) -> str:
    """A whole document in one file: its style inside it, no script, nothing to fetch. What no UTF-8 can hold (a file's name may) is "?"."""
    head = tag(
        "head", tag("meta", charset="utf-8"), tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY), tag("meta", name="color-scheme", content="light dark"),
        tag("title", title), tag("style", Html(STYLE)),
    )
    text = f"<!DOCTYPE html>\n{tag('html', head, tag('body', tag('main', *body)), lang='en')}\n"
    return text.encode("utf-8", "replace").decode("utf-8")


def table(head: Sequence[object], body: Iterable[Sequence[object]], label: str, class_: str | None = None, stub: int = 1) -> Html:
    """A table in a box of its own that scrolls where the screen is narrow. Cells: children of a cell, or a whole <td> or <th>.

    stub: how many columns, from the left, are names rather than numbers; the first of them stays in view.
    """
    def cell(content: object, column: int, kind: str) -> Html:
        if isinstance(content, Html) and content.startswith(("<td", "<th")):
            return content
        scope = {"th": "col", "td": None}[kind] if kind == "th" or column else "row"
        return tag("th" if column == 0 else kind, content, scope=scope, class_="name" if column < stub else None)

    rows = [tag("tr", (cell(content, column, "td") for column, content in enumerate(row))) for row in body]
    top = tag("thead", tag("tr", (cell(content, column, "th") for column, content in enumerate(head))))
    # Focusable, so that it scrolls by the arrow keys too.
    return tag("div", tag("table", top, tag("tbody", rows), class_=class_), class_="scroll", tabindex=0, role="region", aria_label=label)


def image(pixels: np.ndarray, text: str) -> Html:
    """An image uint8 (H, W, 3) RGB inside the page, as PNG; text: what it shows, for who does not see it."""
    encoded = cv2.imencode(".png", np.ascontiguousarray(pixels[..., ::-1]), [cv2.IMWRITE_PNG_COMPRESSION, 9])[1]
    source = "data:image/png;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")
    return tag("img", src=source, alt=text, width=pixels.shape[1], height=pixels.shape[0])
