"""Which perturbations have similar effects."""

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import cut_tree, leaves_list, linkage
from scipy.spatial.distance import squareform
from sklearn.preprocessing import normalize
from sklearn.utils.validation import check_is_fitted

from ._shared import (
    COLOURS,
    N_OPTIMAL,
    ROW,
    TEXT,
    brackets,
    check_frame,
    check_matplotlib,
    check_width,
    clipped,
    draw_colorbar,
    draw_map,
    draw_tree,
    effects,
    fit_maps,
    points,
    read_pathways,
)

_METRICS = {"correlation": "Pearson correlation", "cosine": "cosine similarity"}
LEGEND_ROW = 0.17  # inches
_NO_PATHWAY, _OTHER = "0.92", "0.6"  # colours
# Tol's muted colours, for more pathways than there are colours of Okabe and Ito
_MUTED = (
    "#332288",
    "#88CCEE",
    "#DDCC77",
    "#CC6677",
    "#882255",
    "#44AA99",
    "#AA4499",
    "#999933",
    "#117733",
)


class EmbeddingClustersDisplay:
    """Similarity of all pairs of perturbations, ordered by a hierarchical clustering.

    As in Figure 7 of Lopez et al. (sVAE+, CLeaR 2023). The clustering is average linkage of one
    minus the similarity. Perturbations without a direction, whose effects are zero (or, for
    correlations, the same on all latents), are left out.

    Parameters
    ----------
    embedding : DataFrame of shape (n_perturbations, n_latent)
        Effect of each perturbation on each latent, or on each gene.
    pathways : dict of str to list of str, or Series, default=None
        Members of each pathway, or the pathway of each perturbation, which are shown as colours
        beside the map. Members that are not among the perturbations are ignored; a perturbation
        in several pathways has the colour of the first. Of more than nine pathways the largest
        nine have a colour of their own.
    n_clusters : int, default=None
        Number of clusters into which the tree is cut; None marks none.
    metric : {"correlation", "cosine"}, default="correlation"
        Similarity of two effects, in [-1, 1]; "cosine" does not subtract their means, which suits
        sparse effects, few latents and signs that matter.

    Attributes
    ----------
    similarity_ : DataFrame of shape (n_shown, n_shown)
        What is drawn, in the order of the clustering from the top.
    clusters_, pathways_ : Series of shape (n_shown,) or None
        Cluster of each perturbation, numbered from 1 at the top, and its pathway, missing where it
        has none, both in the same order.
    im_, colorbar_ : matplotlib AxesImage, matplotlib Colorbar
        The map and, above it, the scale of its colours.
    ax_, dendrogram_ax_, figure_ : matplotlib Axes, matplotlib Figure
        Axes of the map and of the dendrogram at its left, and their figure.

    Examples
    --------
    >>> import pandas as pd
    >>> from skpert.plotting import EmbeddingClustersDisplay
    >>> effects = pd.DataFrame([[1.0, 0, 0], [0, 1, 1], [2, 0, 0.1]], index=["A", "B", "C"])
    >>> display = EmbeddingClustersDisplay(effects, n_clusters=2).plot()
    >>> bool(display.clusters_["A"] == display.clusters_["C"] != display.clusters_["B"])
    True
    """

    def __init__(
        self,
        embedding: pd.DataFrame,
        *,
        pathways=None,
        n_clusters: int | None = None,
        metric: str = "correlation",
    ) -> None:
        self.embedding = embedding
        self.pathways = pathways
        self.n_clusters = n_clusters
        self.metric = metric

    @classmethod
    def from_estimator(
        cls,
        estimator,
        *,
        pathways=None,
        n_clusters=None,
        metric="correlation",
        ax=None,
        cmap="RdBu_r",
        width=None,
    ) -> "EmbeddingClustersDisplay":
        """Draw the similarity of the effects of a fitted estimator.

        Parameters
        ----------
        estimator : estimator
            With ``targets_``, or else with ``embedding_``; one without either is a ValueError.
        pathways, n_clusters, metric : as in :class:`EmbeddingClustersDisplay`
            What is shown.
        ax, cmap, width : as in :meth:`plot`
            How it is drawn.

        Returns
        -------
        display : EmbeddingClustersDisplay
            The map, drawn.
        """
        check_is_fitted(estimator)
        display = cls(effects(estimator), pathways=pathways, n_clusters=n_clusters, metric=metric)
        return display.plot(ax, cmap=cmap, width=width)

    def plot(
        self, ax=None, *, cmap="RdBu_r", width: float | None = None
    ) -> "EmbeddingClustersDisplay":
        """Draw the map.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure whose size follows from the number of rows.
        cmap : str or matplotlib Colormap, default="RdBu_r"
            Diverging colours, the middle of which is zero.
        width : float, default=None
            Width in inches of a figure of our own: 3.5 suits one column of a page, 7.2 two. None:
            as wide as what is shown.

        Returns
        -------
        display : EmbeddingClustersDisplay
            This object, with the attributes of the drawing.

        Raises
        ------
        ValueError
            If no perturbation has a direction or is in a pathway, or ``n_clusters`` is not
            between 1 and the number of those shown.
        """
        check_matplotlib(type(self))
        check_width(width)
        unit = _directions(check_frame(self.embedding, "embedding"), self.metric)
        tree = _tree(unit.to_numpy())
        order, joints = (leaves_list(tree), brackets(tree)) if len(tree) else ([0], [])
        unit = unit.iloc[order]
        self.clusters_ = _clusters(tree, order, unit.index, self.n_clusters)
        self.similarity_ = (unit @ unit.T).clip(-1, 1)
        self.pathways_ = None
        if self.pathways is not None:
            self.pathways_ = read_pathways(self.pathways, unit.index)
        self.ax_ = _axes(len(unit), self.pathways_, width) if ax is None else ax
        self.figure_ = self.ax_.figure
        self.im_ = draw_map(self.ax_, self.similarity_, cmap, (-1, 1))
        self.ax_.set_xticks([])
        n_silent = len(self.embedding) - len(unit)
        if n_silent:
            more = "perturbation has" if n_silent == 1 else "perturbations have"
            self.ax_.set_xlabel(f"{n_silent} more {more} no direction", fontsize=TEXT)
        strip = 0 if self.pathways_ is None else _draw_pathways(self.ax_, self.pathways_)
        self.dendrogram_ax_ = draw_tree(self.ax_, joints, len(unit), left=0.02 + strip)
        if self.clusters_ is not None:
            _draw_clusters(self.ax_, self.clusters_)
        self.colorbar_ = draw_colorbar(self.ax_, self.im_, _METRICS[self.metric])
        fit_maps(self.figure_, [(self.ax_, unit.index, None, self.colorbar_, None)])
        if strip:
            _place_legend(self.ax_)
        return self


def _directions(embedding, metric):
    """Rows at unit length, centred for a correlation, without those that are zero."""
    if metric not in _METRICS:
        raise ValueError(f"metric must be one of {list(_METRICS)}; got {metric!r}")
    centre = embedding.mean(axis=1) if metric == "correlation" else 0.0
    centred = embedding.sub(centre, axis=0)
    # what is left of equal numbers is the rounding of their mean
    some = np.linalg.norm(centred, axis=1) > 1e-9 * np.linalg.norm(embedding, axis=1)
    if not some.any():
        raise ValueError(
            f"no perturbation has a direction by metric={metric!r}: effects are zero"
            + (" or the same on all latents" if metric == "correlation" else "")
        )
    centred = centred[some]
    return pd.DataFrame(normalize(centred), index=centred.index, columns=centred.columns)


def _tree(unit):
    """Average linkage, empty for one row."""
    if len(unit) == 1:
        return np.empty((0, 4))
    distance = np.clip(1 - unit @ unit.T, 0, 2)
    np.fill_diagonal(distance, 0)
    refined = len(unit) <= N_OPTIMAL
    return linkage(squareform(distance, checks=False), "average", optimal_ordering=refined)


def _clusters(tree, order, names, n_clusters):
    """Series of cluster numbers from the top, None for none."""
    if n_clusters is None:
        return None
    if not 1 <= n_clusters <= len(names):
        raise ValueError(
            f"n_clusters must be between 1 and {len(names)}, the number of perturbations shown; "
            f"got {n_clusters}"
        )
    flat = cut_tree(tree, n_clusters)[order, 0] if len(tree) else np.zeros(1, dtype=int)
    return pd.Series(pd.factorize(flat)[0] + 1, index=names, name="cluster")


def _axes(n_rows, pathways, width):
    """Axes of a new figure for a square map of so many rows, with room for a legend below."""
    import matplotlib.pyplot as plt

    side = np.clip(ROW * n_rows, 2, 7) if width is None else np.clip(width - 1.9, 1.2, 7)
    names = [] if pathways is None else [clipped(n) for n in pathways.cat.categories]
    lines = -(-(min(len(names), len(_MUTED)) + 1) // _n_columns(names, 72 * side)) if names else 0
    figsize = side + 2.8 if width is None else width, side + 1.0 + LEGEND_ROW * lines
    return plt.subplots(figsize=figsize, layout="constrained")[1]


def _n_columns(names, width):
    """Columns of a legend below a map of so many points."""
    entry = 0.6 * TEXT * max(map(len, names)) + 3 * TEXT
    return max(1, int(1.3 * width / entry))


def _draw_pathways(ax, pathways):
    """Strip of colours left of the map and their legend below; its width in widths of the map."""
    from matplotlib.colors import ListedColormap

    colours = _colours(pathways)
    shades = [colours.get(name, _OTHER) for name in pathways.cat.categories]
    codes = pathways.cat.codes.to_numpy()
    strip_ax = ax.inset_axes([-0.05, 0, 0.035, 1], sharey=ax)
    strip_ax.imshow(
        codes[:, None],
        ListedColormap([_NO_PATHWAY, *shades]),
        vmin=-1.5,
        vmax=len(shades) - 0.5,
        aspect="auto",
        interpolation="nearest",
        extent=(0, 1, len(codes) - 0.5, -0.5),
    )
    strip_ax.axis("off")
    named = [(clipped(name), colour) for name, colour in colours.items()]
    if len(colours) < len(shades):
        named.append((f"{len(shades) - len(colours)} other pathways", _OTHER))
    if (codes < 0).any():
        named.append(("no pathway", _NO_PATHWAY))
    _draw_legend(ax, named)
    return 0.05


def _draw_legend(ax, named):
    """Legend below the map, of pairs of name and colour."""
    from matplotlib.patches import Patch

    ax.legend(
        handles=[Patch(color=colour, label=name) for name, colour in named],
        ncols=_n_columns([name for name, _ in named], points(ax, "width")),
        loc="upper left",
        frameon=False,
        fontsize=TEXT,
        handlelength=1,
    )
    _place_legend(ax)


def _place_legend(ax):
    """Below a line of text, whatever the height of the map."""
    ax.get_legend().set_bbox_to_anchor((-0.05, -15 / points(ax, "height")), ax.transAxes)


def _colours(pathways):
    """Colour of each pathway that has one, in their order."""
    names, palette = list(pathways.cat.categories), COLOURS
    if len(names) > len(COLOURS):
        most = pathways.value_counts().index[: len(_MUTED)]
        names, palette = [name for name in names if name in set(most)], _MUTED
    return dict(zip(names, palette, strict=False))


def _draw_clusters(ax, clusters):
    """Squares around the clusters."""
    from matplotlib.patches import Rectangle

    n_members = clusters.value_counts(sort=False).to_numpy()
    starts = np.cumsum(n_members) - n_members - 0.5
    for start, n in zip(starts, n_members, strict=True):
        square = Rectangle((start, start), n, n, fill=False, edgecolor="0.1", linewidth=1.2)
        ax.add_patch(square).set_clip_on(False)
