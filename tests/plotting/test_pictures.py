"""Pictures of all displays: compared with those of before (`--mpl`), and nothing overlaps."""

from itertools import combinations

import pytest

from tests.plotting.drawings import DRAWINGS

plt = pytest.importorskip("matplotlib.pyplot")
pytest.importorskip("pytest_mpl")

COLUMN, PAGE = 3.5, 7.2  # inches, of one column and of two
MAPS = {  # axes that each display draws on
    "targets": ["ax"],
    "pathways": ["axes"] * 2,
    "clusters": ["ax"],
    "interactions": ["ax"],
    "direct": ["axes"] * 2,
}
OTHERS = {
    "intervals": ["ax"],
    "combinations": ["axes"] * 3,
    "history": ["axes"] * 3,
    "evaluation": ["axes"] * 3,
    "effects": ["axes"] * 3,
    "programmes": ["ax"],
    "predictive": ["axes"] * 3,
    "dose_response": ["axes"] * 5,
    "ec50": ["axes"],
    "power": ["ax"],
}
MORE = [("targets", 30), ("targets", 200), ("pathways", 30), ("clusters", 30)]
# Letters have other pixels by another version of FreeType, and axes that a layout fits to them are
# elsewhere. So these have fixed places and no letters, which other tests read.
PLACES = {"left": 0.2, "right": 0.96, "bottom": 0.2, "top": 0.78, "wspace": 0.3}
COMPARE = {"baseline_dir": "pictures", "savefig_kwargs": {"dpi": 60}, "style": "default"}


def drawn(name, n, keywords):
    """Figure of a display on axes of fixed places, without letters."""
    figure = plt.figure(figsize=(COLUMN if len(keywords) == 1 else 5, 2.2 if n < 200 else 4))
    axes = figure.subplots(1, len(keywords), gridspec_kw=PLACES)
    DRAWINGS[name](n, **{keywords[0]: axes})
    figure.canvas.draw()
    for text in figure.findobj(plt.Text):
        text.set_visible(False)
    return figure


# versions of matplotlib differ by a line of pixels at the edges of rows
@pytest.mark.mpl_image_compare(**COMPARE, tolerance=30, remove_text=True)
@pytest.mark.parametrize(("name", "n"), [(name, 5) for name in MAPS] + MORE)
def test_map(name, n):
    return drawn(name, n, MAPS[name])


@pytest.mark.mpl_image_compare(**COMPARE, tolerance=15, remove_text=True)
@pytest.mark.parametrize("name", OTHERS)
def test_drawing(name):
    return drawn(name, 5, OTHERS[name])


def texts(figure):
    """Every text that is seen, and where it is, in pixels."""
    figure.canvas.draw()
    renderer, unseen = figure.canvas.get_renderer(), set()
    for axes in figure.findobj(plt.Axes):
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks() + axis.get_minor_ticks():
                if not (axes.axison and low <= tick.get_loc() <= high):
                    unseen |= {tick.label1, tick.label2}
            if not axes.axison:
                unseen.add(axis.label)
    found = [text for text in figure.findobj(plt.Text) if text not in unseen]
    found = [text for text in found if text.get_visible() and text.get_text().strip()]
    return [(text.get_text(), text.get_window_extent(renderer)) for text in found]


@pytest.mark.parametrize(("n", "width"), [(5, COLUMN), (30, PAGE), (200, COLUMN)])
@pytest.mark.parametrize("name", DRAWINGS)
def test_no_texts_overlap_and_all_are_within_the_figure(name, n, width):
    figure = DRAWINGS[name](n, width=width).figure_
    assert figure.get_figwidth() == pytest.approx(width)
    assert figure.get_figheight() <= 12
    found = texts(figure)
    assert len(found) > 5
    boxes = [(text, box.shrunk(0.96, 0.8)) for text, box in found]
    over = [(a, b) for (a, one), (b, other) in combinations(boxes, 2) if one.overlaps(other)]
    assert not over
    outside = [
        text
        for text, box in found
        if box.x0 < -1 or box.y0 < -1 or box.x1 > figure.bbox.x1 + 1 or box.y1 > figure.bbox.y1 + 1
    ]
    assert not outside
