"""Pieces of HTML. Whatever is not markup already is escaped: a name can say anything and do nothing."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any


class Markup(str):
    """Text that is HTML already and goes into the page as it is."""

    __slots__ = ()


def safe(content: Any) -> Markup:
    """Markup as it is, a list piece by piece, everything else escaped."""
    if isinstance(content, Markup):
        return content
    if isinstance(content, list | tuple):
        return Markup("".join(safe(piece) for piece in content))
    return Markup(html.escape(str(content), quote=True))


def element(name: str, content: Any = "", **attributes: Any) -> Markup:
    """One element; `class_` and the like lose their underscore, inner ones become hyphens."""
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{safe(value)}"' for key, value in attributes.items()
    )
    return Markup(f"<{name}{told}>{safe(content)}</{name}>")


def paragraph(*content: Any, **attributes: Any) -> Markup:
    """A paragraph."""
    return element("p", list(content), **attributes)


def bullets(entries: Iterable[Any], kind: str = "ul", **attributes: Any) -> Markup:
    """A list; nothing where there are no entries."""
    found = [element("li", entry) for entry in entries]
    return element(kind, found, **attributes) if found else Markup("")


def table(caption: Any, header: Sequence[Any], rows: Iterable[Sequence[Any]]) -> Markup:
    """A table in a box of its own, which scrolls where the page is too narrow; the first column names the row."""
    head = element("thead", element("tr", [element("th", cell, scope="col") for cell in header]))
    body = element(
        "tbody",
        [
            element("tr", [element("th", row[0], scope="row"), *(element("td", cell) for cell in row[1:])])
            for row in rows
        ],
    )
    inner = element("table", [element("caption", caption), head, body])
    return element("div", inner, class_="scroll", tabindex="0", role="region", aria_label=caption)


def section(number: int, title: str, content: Iterable[Any]) -> Markup:
    """A numbered block of the page."""
    name = f"block-{number}"
    heading = element("h2", f"{number}. {title}", id=f"{name}-title")
    return element("section", [heading, *content], id=name, aria_labelledby=f"{name}-title")


def folded(title: Any, content: Any) -> Markup:
    """What opens on a click, without any script."""
    return element("details", [element("summary", title), content])
