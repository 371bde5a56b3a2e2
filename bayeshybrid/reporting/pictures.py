"""Matplotlib figures as pieces of the page: inline SVG, in colours that follow light and dark.

Ids get a prefix of their own, or the clip paths of one picture would cut another. Dates and random names are left
out, so that the same input gives the same bytes.
"""

from __future__ import annotations

import colorsys
import html
import io
import re
from typing import TYPE_CHECKING

import numpy as np

from bayeshybrid.plots import density
from bayeshybrid.reporting.markup import Markup, element, safe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOUR = re.compile(r"#[0-9a-f]{6}\b")
DARKEST, LIGHTEST = 0.15, 0.93
POINTS = 60


class Pictures:
    """The pictures of one page: numbers them and collects their colours."""

    def __init__(self) -> None:
        self.count = 0
        self.colours: set[str] = set()

    def add(self, figure: Figure, shows: str, caption: str = "") -> Markup:
        """A figure as an element that says in words what it shows."""
        self.count += 1
        drawn = self._themed(_inlined(_written(figure, f"picture {self.count}"), f"p{self.count}"))
        head = f'<svg role="img" aria-label="{safe(shows)}" class="picture" '
        picture = Markup(drawn.replace("<svg ", head, 1))
        words = [element("figcaption", caption)] if caption else []
        return element("figure", [picture, *words])

    def beside(self, several: list[Markup], *, small: bool = False) -> Markup:
        """Pictures side by side where there is room; small ones two on a phone."""
        return element("div", several, class_="pictures small" if small else "pictures")

    def ridge(self, before: np.ndarray | None, after: np.ndarray, shows: str) -> Markup:
        """Two small densities of one number on the same scale: pale before the data, strong after."""
        self.count += 1
        ends = [after.min(), after.max(), *([] if before is None else np.quantile(before, [0.01, 0.975]))]
        # Finer where what is held after the data is narrow beside what was assumed before
        grid = np.union1d(
            np.linspace(min(ends), max(ends), POINTS), np.linspace(after.min(), after.max(), POINTS)
        )
        paths = []
        for draws, kind in ((before, "before"), (after, "after")):
            if draws is None or not np.all(np.isfinite(draws)) or np.ptp(draws) == 0:
                continue
            height = density(np.asarray(draws, float), grid)
            x = 150 * (grid - grid[0]) / np.ptp(grid)
            y = 30 - 27 * height / max(height.max(), 1e-300)
            line = " ".join(f"L{a:.1f} {b:.1f}" for a, b in zip(x, y, strict=True))
            paths.append(f'<path class="{kind}" d="M0 30 {line} L150 30 Z"/>')
        inside = "".join(paths)
        return Markup(
            f'<svg class="ridge" viewBox="0 0 150 32" role="img" aria-label="{safe(shows)}">{inside}</svg>'
        )

    @property
    def css(self) -> str:
        """The colours as variables, for light and for dark pages."""
        light = "".join(f"--c{colour[1:]}:{colour};" for colour in sorted(self.colours))
        dark = "".join(f"--c{colour[1:]}:{darkened(colour)};" for colour in sorted(self.colours))
        return f":root{{{light}}}\n@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"

    def _themed(self, drawn):
        """Every colour of a style becomes a variable."""

        def named(found):
            colour = found.group(0)
            self.colours.add(colour)
            return f"var(--c{colour[1:]})"

        return re.sub(r'(?<= style=")[^"]*', lambda style: COLOUR.sub(named, style.group(0)), drawn)


def darkened(colour: str) -> str:
    """The same hue with light and dark exchanged, for a dark page."""
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    hue, lightness, saturation = colorsys.rgb_to_hls(red, green, blue)
    turned = colorsys.hls_to_rgb(hue, LIGHTEST - (LIGHTEST - DARKEST) * lightness, 0.9 * saturation)
    return "#" + "".join(f"{round(255 * part):02x}" for part in turned)


def _written(figure, salt):
    """The figure as SVG text with letters as letters, without date and without a ground of its own."""
    import matplotlib

    for axes in figure.axes:
        axes.patch.set_visible(False)
    figure.patch.set_visible(False)
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    kept = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(kept, format="svg", metadata=nothing)
    return kept.getvalue()


def _inlined(drawn, prefix):
    """The svg element alone, with ids of its own, no fixed size, and the page's font."""
    drawn = drawn[drawn.index("<svg ") :]
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r"<style type=.*?</style>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r"<!--.*?-->\s*", "", drawn, flags=re.DOTALL)
    head, rest = drawn.split(">", 1)
    box = re.findall(r'viewBox="[^"]*"', head)[0]
    width = float(re.findall(r"[\d.]+", box)[2])
    rest = re.sub(r'\bid="([^"]*)"', rf'id="{prefix}-\1"', rest)
    rest = re.sub(r"url\(#([^)]*)\)", rf"url(#{prefix}-\1)", rest)
    rest = re.sub(r'xlink:href="#([^"]*)"', rf'href="#{prefix}-\1"', rest)
    rest = re.sub(r"font: ([^;\"]*?)px [^;\"]*", r"font: \1px var(--font)", rest)
    rest = re.sub(r"font-family: [^;\"]*", "font-family: var(--font)", rest)
    rest = re.sub(r' fill="(#\w{6})"', r' style="fill: \1"', rest)  # the grounds of hatches
    return f'<svg {box} style="max-width:{1.5 * width:.0f}px">{rest}'.strip()


def plain_text(drawn: str) -> str:
    """The words inside a picture, for tests and for search."""
    return " ".join(html.unescape(word) for word in re.findall(r"<text[^>]*>([^<]*)</text>", drawn))
