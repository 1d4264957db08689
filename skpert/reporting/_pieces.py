"""What a page is made of: sections of sentences, figures and tables, all of them plain data."""

import base64
import io
import re
import warnings
from typing import NamedTuple

import numpy as np

N_SHOWN = 12  # rows of a table before the rest is folded
LARGEST = 10**6  # bytes of a vector graphic, beyond which it is drawn in pixels
DPI = 130  # of those
WIDEST = 44  # characters of a name in a cell of a table


class Bar(NamedTuple):
    """An interval and the value within, as per cent of the width of a cell."""

    lower: float | None
    value: float | None
    upper: float | None
    zero: float  # where a thin line stands


class Picture(NamedTuple):
    """A figure as a data URI."""

    uri: str
    alt: str  # what it shows, for those who cannot see it
    width: int  # pixels
    caption: str


class Table(NamedTuple):
    """Rows of text and of ``Bar``; the first ``n_shown`` are seen without a click."""

    caption: str
    columns: list  # pairs of a name and whether its cells are numbers
    rows: list
    n_shown: int = N_SHOWN


class Section(NamedTuple):
    """A heading and what stands below it."""

    title: str
    lead: list  # paragraphs
    parts: list = ()  # of Picture and Table, in their order
    points: list = ()  # a list of sentences
    key: bool = False  # whether its first sentence is one of those at the top

    @property
    def name(self):
        """Anchor of a link."""
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")


def number(value, digits=2):
    """A number with a true minus sign; a dash where there is none."""
    if value is None or not np.isfinite(value):
        return "–"
    text = f"{value:,.{digits}f}"
    return text.lstrip("-") if float(text.replace(",", "")) == 0 else text.replace("-", "−")


def small(value):
    """A p-value or q to two digits."""
    if value is None or not np.isfinite(value):
        return "–"
    return f"{value:.2g}".replace("e-0", "e-").replace("-", "−")


def interval(lower, upper, digits=2):
    """Two ends; a dash where there is no interval."""
    if not np.isfinite([lower, upper]).all():
        return "–"
    return f"{number(lower, digits)} to {number(upper, digits)}"


def bar(lower, value, upper, low, high):
    """The interval on a scale from ``low`` to ``high``; what lies beyond is cut off."""

    def place(x):
        share = (x - low) / max(high - low, 1e-12)
        return round(100 * float(np.clip(share, 0, 1)), 1) if np.isfinite(x) else None

    return Bar(place(lower), place(value), place(upper), place(0.0))


def count(n, noun, plural=None):
    """A number and its noun: 1 cell, 1,200 cells."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def shortened(name):
    """A name that does not make a table too wide; guides often differ by their ends alone."""
    name, half = str(name), WIDEST // 2
    return name if len(name) <= WIDEST else f"{name[:half]}…{name[1 - half :]}"


def picture(draw, alt, caption=""):
    """What a display draws, whatever the reader's own style of matplotlib is."""
    import matplotlib.pyplot as plt

    plain = plt.style.context("default"), plt.rc_context({"svg.hashsalt": "skpert"})
    with plain[0], plain[1], warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # of names, no doubt of results
        figure = draw().figure_
        try:
            uri, width = _encoded(figure)
        finally:
            plt.close(figure)
    return Picture(uri, alt, width, caption)


def _encoded(figure):
    """Data URI of a figure, and its width in pixels of a page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    content, kind = buffer.getvalue(), "svg+xml"
    points = float(re.search(rb'width="([\d.]+)pt"', content)[1])
    if len(content) > LARGEST:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", bbox_inches="tight", dpi=DPI)
        content, kind = buffer.getvalue(), "png"
    text = base64.b64encode(content).decode()
    return f"data:image/{kind};base64,{text}", round(points * 96 / 72)
