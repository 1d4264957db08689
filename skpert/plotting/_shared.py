"""What several displays use: their input, axes, labels, dendrograms and scales of colours."""

import re
from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import pdist
from sklearn.preprocessing import normalize

from .._input.values import listed

ROW, COLUMN = 0.19, 0.32  # inches of a row and a column in a figure of our own
N_OPTIMAL = 500  # perturbations up to which the order of the clustering is refined
_FONT_SIZES = 4.5, 6.0, 9.0  # smallest of all labels, that of some of them, largest
_LONGEST = 36  # characters of a label


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


def map_axes(width, n_rows, n_maps=1):
    """Axes of a new figure of maps side by side, as wide in inches and with so many rows."""
    import matplotlib.pyplot as plt

    size = width, np.clip(1.6 + ROW * n_rows, 3, 14)
    return plt.subplots(1, n_maps, figsize=size, sharey=True, layout="constrained")[1]


def panel_axes(n_panels, n_columns, size, margin=(0, 0)):
    """Axes of a new figure, at most ``n_columns`` in a row, each of a size in inches."""
    import matplotlib.pyplot as plt

    n_columns = min(n_panels, n_columns)
    n_rows = -(-n_panels // n_columns)
    figsize = size[0] * n_columns + margin[0], size[1] * n_rows + margin[1]
    figure = plt.figure(figsize=figsize, layout="constrained")
    return [figure.add_subplot(n_rows, n_columns, i + 1) for i in range(n_panels)]


def check_axes(axes, n_axes, what=""):
    """So many axes, as an array."""
    axes = np.ravel(axes)
    if len(axes) != n_axes:
        raise ValueError(f"axes must be {n_axes}{what}; got {len(axes)}")
    return axes


def draw_map(ax, frame, cmap, limits=None):
    """Heat map without frame, with names of as many rows as can be read at its right.

    Without limits, colours span the largest absolute value on either side of zero.
    """
    limit = frame.abs().max(axis=None) or 1.0
    low, high = limits or (-limit, limit)
    im = ax.imshow(frame, cmap, vmin=low, vmax=high, aspect="auto", interpolation="nearest")
    ax.tick_params(length=0, labelright=True, labelleft=False)
    ax.spines[:].set_visible(False)
    label_rows(ax, frame.index)
    return im


def label_rows(ax, names):
    """Names of rows, as many as can be read."""
    height = ax.get_window_extent().height * 72 / ax.figure.dpi
    size, step = font(height / len(names))
    shown = [clipped(name) for name in names[::step]]
    ax.set_yticks(range(0, len(names), step), shown, fontsize=size)


def label_latents(ax, names, n_dropped=0, *, why="are moved by nothing"):
    """Names of latents below a map, as many as can be read."""
    space = ax.get_window_extent().width * 72 / ax.figure.dpi / len(names)
    size, step = font(space)
    names = short_names([str(name) for name in names])
    upright = 0.7 * size * max(map(len, names)) > space  # too wide to lie side by side
    ax.set_xticks(range(0, len(names), step), names[::step], fontsize=size, rotation=90 * upright)
    ax.set_xlabel(f"latent ({n_dropped} more {why})" if n_dropped else "latent")


def font(space):
    """Font size for labels with so many points each, and which of them to show."""
    smallest, some, largest = _FONT_SIZES
    size = min(0.85 * space, largest)
    return (size, 1) if size >= smallest else (some, int(np.ceil(some / size)))


def clipped(name):
    """A name, without the middle of a very long one, or of the parts of a long combination."""
    parts = str(name).split("+")
    longest = max((_LONGEST + 1) // len(parts) - 1, 5)
    if len(str(name)) <= _LONGEST:
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


def draw_colorbar(ax, im, label):
    """Scale above a map, of the same size in inches whatever the map's."""
    box = ax.get_window_extent()
    inch_y, inch_x = ax.figure.dpi / box.height, ax.figure.dpi / box.width
    width = min(1, 3 * inch_x)
    scale_ax = ax.inset_axes([0, 1 + 0.12 * inch_y, width, 0.1 * inch_y])
    colorbar = ax.figure.colorbar(im, cax=scale_ax, orientation="horizontal")
    scale_ax.xaxis.set_ticks_position("top")
    scale_ax.xaxis.set_label_position("top")
    colorbar.set_label(label)
    colorbar.outline.set_visible(False)
    return colorbar
