"""Which perturbations have similar effects."""

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import cut_tree, leaves_list, linkage
from scipy.spatial.distance import squareform
from sklearn.preprocessing import normalize
from sklearn.utils.validation import check_is_fitted

from ._shared import (
    N_OPTIMAL,
    ROW,
    brackets,
    check_frame,
    check_matplotlib,
    clipped,
    draw_colorbar,
    draw_map,
    draw_tree,
    effects,
    label_rows,
    read_pathways,
)

_METRICS = {"correlation": "Pearson correlation", "cosine": "cosine similarity"}
_NO_PATHWAY = "0.9"  # colour


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
        in several pathways has the colour of the first.
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
    ) -> "EmbeddingClustersDisplay":
        """Draw the similarity of the effects of a fitted estimator.

        Parameters
        ----------
        estimator : estimator
            With ``targets_``, or else with ``embedding_``; one without either is a ValueError.
        pathways, n_clusters, metric : as in :class:`EmbeddingClustersDisplay`
            What is shown.
        ax, cmap : as in :meth:`plot`
            How it is drawn.

        Returns
        -------
        display : EmbeddingClustersDisplay
            The map, drawn.
        """
        check_is_fitted(estimator)
        display = cls(effects(estimator), pathways=pathways, n_clusters=n_clusters, metric=metric)
        return display.plot(ax, cmap=cmap)

    def plot(self, ax=None, *, cmap="RdBu_r") -> "EmbeddingClustersDisplay":
        """Draw the map.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure whose size follows from the number of rows.
        cmap : str or matplotlib Colormap, default="RdBu_r"
            Diverging colours, the middle of which is zero.

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
        unit = _directions(check_frame(self.embedding, "embedding"), self.metric)
        tree = _tree(unit.to_numpy())
        order, joints = (leaves_list(tree), brackets(tree)) if len(tree) else ([0], [])
        unit = unit.iloc[order]
        self.clusters_ = _clusters(tree, order, unit.index, self.n_clusters)
        self.similarity_ = (unit @ unit.T).clip(-1, 1)
        self.pathways_ = None
        if self.pathways is not None:
            self.pathways_ = read_pathways(self.pathways, unit.index)
        self.ax_ = _axes(len(unit)) if ax is None else ax
        self.figure_ = self.ax_.figure
        self.im_ = draw_map(self.ax_, self.similarity_, cmap, (-1, 1))
        self.ax_.set_xticks([])
        n_silent = len(self.embedding) - len(unit)
        if n_silent:
            self.ax_.set_xlabel(f"{n_silent} more perturbations have no direction")
        strip = 0 if self.pathways_ is None else _draw_pathways(self.ax_, self.pathways_)
        self.dendrogram_ax_ = draw_tree(self.ax_, joints, len(unit), left=0.02 + strip)
        if self.clusters_ is not None:
            _draw_clusters(self.ax_, self.clusters_)
        self.colorbar_ = draw_colorbar(self.ax_, self.im_, _METRICS[self.metric])
        if strip:  # the legend takes from the height of the rows
            for _ in range(2):  # the layout converges in the second pass
                self.figure_.draw_without_rendering()
            label_rows(self.ax_, unit.index)
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


def _axes(n_rows):
    """Axes of a new figure for a square map of so many rows."""
    import matplotlib.pyplot as plt

    side = np.clip(ROW * n_rows, 2.5, 11)
    return plt.subplots(figsize=(side + 2.8, side + 1.4), layout="constrained")[1]


def _draw_pathways(ax, pathways):
    """Strip of colours left of the map and their legend below; its width in widths of the map."""
    from matplotlib.colors import ListedColormap

    colours = _colours(len(pathways.cat.categories))
    codes = pathways.cat.codes.to_numpy()
    strip_ax = ax.inset_axes([-0.05, 0, 0.035, 1], sharey=ax)
    strip_ax.imshow(
        codes[:, None],
        ListedColormap([_NO_PATHWAY, *colours]),
        vmin=-1.5,
        vmax=len(colours) - 0.5,
        aspect="auto",
        interpolation="nearest",
        extent=(0, 1, len(codes) - 0.5, -0.5),
    )
    strip_ax.axis("off")
    named = [*zip(map(clipped, pathways.cat.categories), colours, strict=True)]
    if (codes < 0).any():
        named.append(("no pathway", _NO_PATHWAY))
    _draw_legend(ax, named)
    return 0.05


def _draw_legend(ax, named):
    """Legend below the map, of pairs of name and colour."""
    from matplotlib.patches import Patch

    box = ax.get_window_extent()
    inch_y, inch_x = ax.figure.dpi / box.height, ax.figure.dpi / box.width
    ax.legend(
        handles=[Patch(color=colour, label=name) for name, colour in named],
        ncols=max(1, int(0.4 / inch_x)),
        loc="upper left",
        bbox_to_anchor=(-0.05, -0.25 * inch_y),  # below a line of text
        frameon=False,
        fontsize=8,
        handlelength=1,
    )


def _colours(n_colours):
    """As many distinct colours, none of them grey as long as there are enough."""
    from matplotlib import colormaps

    for name, n_pairs in (("tab10", 1), ("tab20", 2)):
        greys = range(7 * n_pairs, 8 * n_pairs)
        colours = [c for i, c in enumerate(colormaps[name].colors) if i not in greys]
        if n_colours <= len(colours):
            return colours[:n_colours]
    return list(colormaps["turbo"](np.linspace(0.03, 0.97, n_colours)))


def _draw_clusters(ax, clusters):
    """Squares around the clusters."""
    from matplotlib.patches import Rectangle

    n_members = clusters.value_counts(sort=False).to_numpy()
    starts = np.cumsum(n_members) - n_members - 0.5
    for start, n in zip(starts, n_members, strict=True):
        square = Rectangle((start, start), n, n, fill=False, edgecolor="0.1", linewidth=1.2)
        ax.add_patch(square).set_clip_on(False)
