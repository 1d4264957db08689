"""Forest plot: effects with their intervals, latent by latent."""

import numpy as np
import pandas as pd

from ._shared import SMALL, TALLEST, TEXT, label_rows, points, settle

ROW, BLOCK, LEAST = 0.15, 3.4, 2.2  # inches of a row, of a block of rows with labels, at least
LONGEST, MOST = 55, 5  # rows of a block, as long as there are no more blocks than that
AREA = 30.0  # of the dot of an edge that is certain, square points
SHOWN = (1.0, 0.75, 0.5)  # probabilities in the legend


def forest_rows(targets, edges):
    """A row per effect that is not zero, and one with the name of the latent before its first.

    Latents come in the order of the columns of ``targets``, the effects of each from the largest.
    """
    long = targets.rename_axis(index="perturbation", columns="latent").stack()
    long = long[long != 0].rename("effect").reset_index()
    table = edges[["perturbation", "latent", "lower", "upper", "probability"]]
    rows = long.merge(table, "left", ["perturbation", "latent"], validate="one_to_one")
    missing = rows[rows["probability"].isna()]
    if len(missing):
        first = missing.iloc[0]
        raise ValueError(
            f"edges have no row for {len(missing)} effects of targets, the first is that of "
            f"{first['perturbation']!r} on {first['latent']!r}"
        )
    parts = []
    for latent in targets.columns:
        of_latent = rows[rows["latent"] == latent].sort_values("effect", ascending=False)
        if len(of_latent):
            parts += [pd.DataFrame({"latent": [latent]}), of_latent]
    return pd.concat(parts, ignore_index=True) if parts else rows


def blocks(rows, width=None):
    """Rows in blocks of about the same length, none of which ends with the name of a latent."""
    most = MOST if width is None else int(np.clip(width / LEAST, 1, MOST))
    n_blocks = min(max(-(-len(rows) // LONGEST), 1), most)
    length, start, found = -(-len(rows) // n_blocks), 0, []
    while start < len(rows):
        stop = min(start + length, len(rows))
        if stop < len(rows) and pd.isna(rows["effect"].iloc[stop - 1]):
            stop -= stop - start > 1
        found.append(rows.iloc[start:stop])
        start = stop
    return found or [rows]


def forest_axes(parts, width=None):
    """Axes of a new figure, one for each block of rows."""
    import matplotlib.pyplot as plt

    n_rows = max(1, *map(len, parts))
    width = max(BLOCK * len(parts), 4.5) if width is None else width
    size = width, np.clip(1.2 + ROW * n_rows, 1.8, TALLEST)
    figure, axes = plt.subplots(1, len(parts), figsize=size, sharex=True, layout="constrained")
    for ax in np.ravel(axes):
        ax.set_ylim(n_rows - 0.5, -0.5)
    return np.ravel(axes)


def area(ax):
    """Of the dot of an edge that is certain, square points, less where rows are narrow."""
    row = points(ax, "height") / np.ptp(ax.get_ylim())
    return min(AREA, row**2)


def fit_forest(axes, parts, names):
    """Names of rows and of latents, for the size that the blocks have."""
    settle(axes[0].figure)
    for ax, rows in zip(axes, parts, strict=True):
        if len(rows):
            label_rows(ax, [names.get(name, "") for name in rows["perturbation"]])
        row = points(ax, "height") / np.ptp(ax.get_ylim())
        last = -np.inf
        for text in ax.texts:
            free = (text.get_position()[1] - last) * row >= SMALL
            text.set_visible(free)
            last = text.get_position()[1] if free else last


def draw_forest(ax, rows, limit, names, latents, cmap):
    """Dots and whiskers of a block of rows, whose labels are ``names`` and ``latents``."""
    from matplotlib.collections import LineCollection

    if not ax.yaxis_inverted():
        ax.set_ylim(max(len(rows), 1) - 0.5, -0.5)
    row = np.arange(len(rows))
    is_name = rows["effect"].isna().to_numpy()
    edges, at = rows[~is_name], row[~is_name]
    ends = np.stack([edges["lower"], at, edges["upper"], at], 1).reshape(-1, 2, 2)
    whiskers = ax.add_collection(LineCollection(ends, colors="0.3", linewidths=1.2, zorder=2))
    areas = area(ax) * edges["probability"]
    style = {"cmap": cmap, "vmin": -limit, "vmax": limit, "edgecolors": "0.3", "linewidths": 0.5}
    dots = ax.scatter(edges["effect"], at, areas, edges["effect"], zorder=3, **style)
    ax.axvline(0, color="0.6", linewidth=0.8, zorder=0)
    if len(rows):
        label_rows(ax, [names.get(name, "") for name in rows["perturbation"]])
    else:
        ax.set_yticks([])
    for i in row[is_name]:
        text = f"latent {latents[rows['latent'].iloc[i]]}"
        ax.text(0.01, i, text, transform=ax.get_yaxis_transform(), va="center", fontsize=SMALL)
        ax.axhline(i - 0.5, color="0.85", linewidth=0.6, zorder=0)
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.set_xlim(-1.05 * limit, 1.05 * limit)
    ax.set_xlabel("shift (prior s.d., sign arbitrary)", fontsize=TEXT)
    ax.tick_params(axis="x", labelsize=SMALL)
    return dots, whiskers


def draw_probabilities(ax):
    """Legend of the areas of dots, above the axes."""
    handles = [
        ax.scatter([], [], area(ax) * p, "0.7", edgecolors="0.3", linewidths=0.5, label=f"{p:g}")
        for p in SHOWN
    ]
    options = {"fontsize": SMALL, "title_fontsize": SMALL, "frameon": False, "borderaxespad": 0.2}
    options |= {"handletextpad": 0.1, "columnspacing": 0.8}
    options |= {"loc": "lower right", "bbox_to_anchor": (1, 1)}
    return ax.legend(handles=handles, title="probability", ncols=len(SHOWN), **options)
