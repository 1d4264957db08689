"""What several displays use: their input, axes, labels, dendrograms and scales of colours."""

import re
import textwrap
from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import pdist
from sklearn.preprocessing import normalize

from .._input.values import check_number, listed

ROW, COLUMN = 0.19, 0.32  # inches of a row and a column in a figure of our own
N_OPTIMAL = 500  # perturbations up to which the order of the clustering is refined
TALLEST, NARROW = 9.5, 5.0  # inches of a page, and of the width of one column
SMALL, TEXT, TITLE = 7, 8, 9  # points of numbers, of labels and of titles
# Okabe and Ito's colours, which the colour-blind distinguish, without black and yellow
BLUE, ORANGE, SKY, VERMILION, PURPLE, GREEN = (
    "#0072B2",
    "#E69F00",
    "#56B4E9",
    "#D55E00",
    "#CC79A7",
    "#009E73",
)
COLOURS = BLUE, ORANGE, SKY, VERMILION, PURPLE, GREEN
_FONT_SIZES = 5.0, 6.0, TEXT  # smallest of all labels, that of some of them, largest
_LONGEST = 36  # characters of a label
_FOR_NAMES = 0.3  # of the width of a figure, for names of rows
_CHARACTER = 0.6  # of the size of a font, its mean width
_LINE = 12.0  # points of a line of text
_SCALE = 6.0, 7.0, 180.0  # points: from a map to its scale, its thickness, its greatest length
_GAP = 3.0  # points between names below a map
_MOST_LINES = 3  # of a name below a map
_WHOLE = {"break_long_words": False, "break_on_hyphens": False}


def check_matplotlib(display):
    """ImportError that names the extra, where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        message = f"{display.__name__} needs matplotlib: pip install 'skpert[plot]'"
        raise ImportError(message) from error


def check_frame(frame, name):
    """A DataFrame of finite numbers with distinct names of rows, as float64."""
    if not isinstance(frame, pd.DataFrame):
        raise ValueError(
            f"{name} must be a DataFrame with names of perturbations as its index; got "
            f"{type(frame).__name__}"
        )
    if not frame.size:
        raise ValueError(f"{name} is empty: it has shape {frame.shape}")
    for names, what in ((frame.index, "rows"), (frame.columns, "columns")):
        repeated = names[names.duplicated()].unique()
        if len(repeated):
            raise ValueError(f"{name} has several {what} of one name: {listed(repeated, 5)}")
    values = frame.astype(np.float64)
    missing = ~np.isfinite(values).all(axis=1)
    if missing.any():
        raise ValueError(
            f"{name} has NaN or infinite values in the rows {listed(frame.index[missing], 5)}; "
            "leave these out"
        )
    return values


def effects(estimator):
    """DataFrame of effects, of all of the embedding where there are no targets."""
    if hasattr(estimator, "targets_"):
        return estimator.targets_
    return named_rows(estimator, "embedding_")


def named_rows(estimator, attribute):
    """DataFrame of a learned array of shape (n_perturbations, n_latent)."""
    if not hasattr(estimator, attribute):
        what = "masks" if "mask" in attribute else "effects"
        raise ValueError(f"{type(estimator).__name__} learns no {what} of perturbations")
    return pd.DataFrame(
        getattr(estimator, attribute),
        index=pd.Index(estimator.perturbations_, name="perturbation"),
        columns=estimator.get_feature_names_out(),
    )


def read_pathways(pathways, names):
    """Pathway of each name, missing where it has none, with pathways in the order given."""
    if isinstance(pathways, pd.Series):
        pairs = [(pathway, name) for name, pathway in pathways.items() if pd.notna(pathway)]
    elif isinstance(pathways, Mapping):
        members = [[m] if isinstance(m, str) else m for m in pathways.values()]
        pairs = [(p, name) for p, of in zip(pathways, members, strict=True) for name in of]
    else:
        raise ValueError(
            "pathways must be a dict of the members of each pathway, or a Series of the pathway "
            f"of each perturbation; got {type(pathways).__name__}"
        )
    first = {}
    for pathway, name in pairs:
        first.setdefault(str(name), str(pathway))
    found = [first.get(str(name)) for name in names]
    if not any(found):
        raise ValueError(
            f"no member of pathways is a perturbation: the {len(first)} members are "
            f"{listed(list(first), 3)}, the {len(names)} perturbations are "
            f"{listed(list(names), 3)}"
        )
    order = dict.fromkeys(str(pathway) for pathway, _ in pairs)
    categories = [pathway for pathway in order if pathway in found]
    return pd.Series(pd.Categorical(found, categories), index=names, name="pathway")


def cluster_rows(values):
    """Rows by a clustering of their directions, zeros last; its brackets; number of others."""
    moving, silent = np.flatnonzero(values.any(axis=1)), np.flatnonzero(~values.any(axis=1))
    joints = []
    if len(moving) > 1:
        distance = pdist(normalize(values[moving]))
        tree = linkage(distance, "average", optimal_ordering=len(moving) <= N_OPTIMAL)
        joints, moving = brackets(tree), moving[leaves_list(tree)]
    return np.concatenate([moving, silent]), joints, len(moving)


def order_columns(strength):
    """Columns that are not zero, all if there are none, by the mean position of their rows."""
    moved = np.flatnonzero(strength.any(axis=0))
    if not len(moved):
        return np.arange(strength.shape[1])
    # so that blocks run along the diagonal
    position = np.arange(len(strength)) @ strength[:, moved] / strength[:, moved].sum(axis=0)
    return moved[np.argsort(position, kind="stable")]


def brackets(tree):
    """Lines of a dendrogram, (4, 2) arrays of height and row; scipy's recursion ends too soon."""
    n_leaves = len(tree) + 1
    row, height = np.empty(2 * n_leaves - 1), np.zeros(2 * n_leaves - 1)
    row[leaves_list(tree)] = np.arange(n_leaves)
    lines = []
    for node, (a, b, top, _) in enumerate(tree, start=n_leaves):
        a, b = int(a), int(b)
        lines.append(np.c_[[height[a], top, top, height[b]], row[[a, a, b, b]]])
        row[node], height[node] = (row[a] + row[b]) / 2, top
    return lines


def check_width(width):
    """Error for what is no width of a figure."""
    if width is not None:
        check_number(width, "width", 2, 40, "both")


def map_axes(width, n_rows, n_maps=1):
    """Axes of a new figure of maps side by side, as wide in inches and with so many rows."""
    import matplotlib.pyplot as plt

    size = width, np.clip(1.5 + ROW * n_rows, 2.4, TALLEST)
    return plt.subplots(1, n_maps, figsize=size, sharey=True, layout="constrained")[1]


def panel_axes(n_panels, n_columns, size, margin=(0, 0), *, width=None, least=1.4, lowest=0.7):
    """Axes of a new figure, at most ``n_columns`` in a row, each of a size in inches.

    In a figure of a given width they are narrower or fewer in a row, but not narrower than
    ``least``, and not lower than a share ``lowest`` of their size.
    """
    import matplotlib.pyplot as plt

    check_width(width)
    n_columns = min(n_panels, n_columns)
    wide, high = size
    if width is not None:
        n_columns = int(np.clip((width - margin[0]) / least, 1, n_columns))
        wide = (width - margin[0]) / n_columns
        high *= np.clip(wide / size[0], lowest, 1)
    n_rows = -(-n_panels // n_columns)
    figsize = wide * n_columns + margin[0], high * n_rows + margin[1]
    figure = plt.figure(figsize=figsize, layout="constrained")
    return [figure.add_subplot(n_rows, n_columns, i + 1) for i in range(n_panels)]


def settle(figure):
    """Lay a figure out, so that its axes are as large as in the picture."""
    if figure.get_layout_engine() is not None:
        for _ in range(2):  # the layout converges in the second pass
            figure.canvas.figure.draw_without_rendering()


def points(ax, side):
    """Width or height of axes."""
    return getattr(ax.get_window_extent(), side) * 72 / ax.figure.dpi


def check_axes(axes, n_axes, what=""):
    """So many axes, as an array."""
    axes = np.ravel(axes)
    if len(axes) != n_axes:
        raise ValueError(f"axes must be {n_axes}{what}; got {len(axes)}")
    return axes


def draw_map(ax, frame, cmap, limits=None):
    """Heat map in a thin frame, with names of as many rows as can be read at its right.

    Without limits, colours span the largest absolute value on either side of zero.
    """
    limit = frame.abs().max(axis=None) or 1.0
    low, high = limits or (-limit, limit)
    im = ax.imshow(frame, cmap, vmin=low, vmax=high, aspect="auto", interpolation="nearest")
    ax.tick_params(length=0, labelright=True, labelleft=False)
    ax.spines[:].set(color="0.8", linewidth=0.6)
    label_rows(ax, frame.index)
    return im


def draw_nothing(ax, text):
    """A sentence instead of a drawing."""
    ax.axis("off")
    text = textwrap.fill(text, max(_fitting(points(ax, "width"), TEXT), 20))
    place = {"ha": "center", "va": "center", "transform": ax.transAxes}
    ax.text(0.5, 0.5, text, color="0.35", fontsize=TEXT, **place)


def label_rows(ax, names):
    """Names of rows, as many as can be read."""
    n_rows = max(len(names), np.ptp(ax.get_ylim()))
    size, step = font(points(ax, "height") / n_rows)
    inches = ax.figure.bbox.width / ax.figure.dpi
    size = min(size, TEXT if inches > NARROW else SMALL)
    longest = _fitting(_FOR_NAMES * 72 * inches, size)
    shown = [clipped(name, min(longest, _LONGEST)) for name in names[::step]]
    ax.set_yticks(range(0, len(names), step), shown, fontsize=size)


def label_columns(ax, names):
    """Names below a map, as many as can be read; upright if they are too long to lie."""
    space = points(ax, "width") / len(names)
    line = max(_fitting(space - _GAP, TEXT), 1)
    lying = [textwrap.fill(name, line, **_WHOLE) for name in names]
    widest = max(len(line) for name in lying for line in name.split("\n"))
    if widest <= line and max(n.count("\n") for n in lying) < _MOST_LINES:
        ax.set_xticks(range(len(names)), lying, fontsize=TEXT, rotation=0)
        return
    size, step = font(space)
    upright = 0.8 * size * max(map(len, names)) > space * step
    if upright and space > 2.5 * size:  # room for two lines
        names = [textwrap.fill(name, max(len(name) // 2 + 4, 12), **_WHOLE) for name in names]
    ax.set_xticks(range(0, len(names), step), names[::step], fontsize=size, rotation=90 * upright)


def label_latents(ax, names, n_dropped=0, *, why="are moved by nothing"):
    """Names of latents below a map, and how many are left out."""
    label_columns(ax, short_names([str(name) for name in names]))
    more = f" ({n_dropped} more {why})" if n_dropped else ""
    ax.set_xlabel(f"latent{more}", fontsize=TEXT)


def note_rest(ax, text):
    """One line below the rows of a map, for those that have none of their own."""
    place = {"transform": ax.get_yaxis_transform(), "va": "center", "clip_on": False}
    note = ax.text(0.01, 0, text, color="0.35", fontsize=SMALL, **place)
    note.set_in_layout(False)  # it may be longer than the map, and lies above one beside it
    ax.set_zorder(1)
    _place_note(note)
    return note


def without_effect(n_silent):
    """What the line below says of perturbations."""
    return f"{n_silent} perturbation{'s' * (n_silent != 1)} without a called effect"


def _place_note(note):
    """Room for a line below the rows, in axes whose size may have changed."""
    n_shown = len(note.axes.images[0].get_array())
    height = points(note.axes, "height")
    room = n_shown * _LINE / max(height - _LINE, _LINE)
    note.axes.set_ylim(n_shown - 0.5 + room, -0.5)
    note.set_y(n_shown - 0.5 + room / 2)


def _fitting(space, size):
    """Characters in so many points."""
    return int(space / (_CHARACTER * size))


def font(space):
    """Font size for labels with so many points each, and which of them to show."""
    smallest, some, largest = _FONT_SIZES
    size = min(0.85 * space, largest)
    return (size, 1) if size >= smallest else (some, int(np.ceil(some / size)))


def clipped(name, most=_LONGEST):
    """A name, without the middle of a very long one, or of the parts of a long combination."""
    parts = str(name).split("+")
    longest = max((most + 1) // len(parts) - 1, 5)
    if len(str(name)) <= most:
        return str(name)
    head, tail = longest // 2, longest - longest // 2 - 1
    return "+".join(p if len(p) <= longest else f"{p[:head]}…{p[-tail:]}" for p in parts)


def short_names(names):
    """Names without what all have in common before a number: svaeplus3 is 3."""
    numbers = [re.fullmatch(r"(\D+)(\d+)", name) for name in names]
    if all(numbers) and len({number[1] for number in numbers}) == 1:
        return [number[2] for number in numbers]
    return [clipped(name) for name in names]


def draw_tree(ax, joints, n_leaves, *, left=0.02):
    """Dendrogram at the left of a map, whose leaves are its first rows."""
    from matplotlib.collections import LineCollection

    tree_ax = ax.inset_axes([-0.18 - left, 0, 0.18, 1], sharey=ax)
    width = 0.8 if n_leaves < 200 else 0.3
    tree_ax.add_collection(LineCollection(joints, colors="0.35", linewidths=width))
    tree_ax.set_xlim(2, 0)  # the largest distance of two directions
    tree_ax.axis("off")
    return tree_ax


class _Above:
    """Place of the scale of a map: as far above it and as thick, in points, whatever its size."""

    def __init__(self, ax):
        self.ax = ax

    def __call__(self, _axes, _renderer):
        from matplotlib.transforms import Bbox, TransformedBbox

        box, point = self.ax.get_window_extent(), self.ax.figure.dpi / 72
        distance, thickness, longest = (point * number for number in _SCALE)
        place = box.x0, box.y1 + distance, min(box.width, longest), thickness
        return TransformedBbox(Bbox.from_bounds(*place), self.ax.figure.transSubfigure.inverted())


def draw_colorbar(ax, im, label):
    """Scale above a map."""
    scale_ax = ax.inset_axes([0, 1, 1, 0.1])
    scale_ax.set_axes_locator(_Above(ax))
    colorbar = ax.figure.colorbar(im, cax=scale_ax, orientation="horizontal")
    scale_ax.xaxis.set_ticks_position("top")
    scale_ax.xaxis.set_label_position("top")
    scale_ax.tick_params(labelsize=SMALL, pad=1.5, length=2.5)
    colorbar.set_label(label, fontsize=TEXT, labelpad=2)
    colorbar.outline.set_visible(False)
    fit_colorbar(colorbar, ax)
    return colorbar


def fit_colorbar(colorbar, ax):
    """As many numbers, and characters in a line of the label, as the size of the map allows."""
    from matplotlib.ticker import MaxNLocator

    width = points(ax, "width")
    n_numbers = int(np.clip(min(width, _SCALE[2]) / 28, 2, 8))
    colorbar.locator = MaxNLocator(n_numbers, steps=[1, 2, 5, 10])
    colorbar.update_ticks()
    label = " ".join(colorbar.ax.get_xlabel().split())
    line = max(_fitting(min(width, _SCALE[2]), TEXT), 12)
    colorbar.ax.set_xlabel(textwrap.fill(label, line), fontsize=TEXT)


def fit_maps(figure, maps):
    """Adapt labels to the sizes that the layout gives: of axes, rows, columns, scale and note.

    What a map does not have is None.
    """
    settle(figure)
    for ax, rows, columns, colorbar, note in maps:
        if note is not None:
            _place_note(note)
        if rows is not None:
            label_rows(ax, rows)
        if columns is not None:
            label_columns(ax, columns)
        if colorbar is not None:
            fit_colorbar(colorbar, ax)


def fit_panels(figure, axes):
    """Lines of titles and labels, and numbers below, for the sizes that the panels have."""
    settle(figure)
    for ax in axes:
        width, height = points(ax, "width"), points(ax, "height")
        if ax.get_xscale() == "linear":
            steps = [1, 2, 5, 10] if width > 50 else [1, 5, 10]
            ax.locator_params(axis="x", nbins=int(np.clip(width / 30, 2, 6)), steps=steps)
        _wrap(ax.xaxis.label, width)
        _wrap(ax.yaxis.label, height)
        _wrap(ax.title, 1.15 * width)


def _wrap(text, space):
    """A text in lines of at most so many points."""
    longest = max(_fitting(space, 0.9 * text.get_fontsize()), 8)
    lines = text.get_text().split("\n")
    text.set_text("\n".join(textwrap.fill(line, longest, **_WHOLE) for line in lines))


def tidy(ax, title=None):
    """Small numbers and labels, and no frame at the top and at the right."""
    ax.tick_params(labelsize=SMALL)
    ax.xaxis.label.set_size(TEXT)
    ax.yaxis.label.set_size(TEXT)
    if title is not None:
        ax.set_title(title, fontsize=TITLE)
    ax.spines[["top", "right"]].set_visible(False)
