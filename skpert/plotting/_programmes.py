"""Which programmes each latent is made of, and its genes."""

import numpy as np
import pandas as pd

from .._input.values import check_integer, check_number, listed
from ..inspection import enrich, latent_genes
from ..inspection._enrichment import in_words
from ._shared import (
    ROW,
    SMALL,
    TALLEST,
    TEXT,
    check_matplotlib,
    check_width,
    clipped,
    font,
    order_columns,
    points,
    settle,
    short_names,
)

N_UNCALLED = 5  # sets that are shown where none is called
SHOWN = 0.25  # largest q of a dot
LARGEST_LOG = 6  # minus log10 of q above which dots do not grow
AREA = 16.0  # points squared, of a dot per unit of minus log10 q
GENE_INCHES = 1.0, 2.2  # least and greatest width of a column of genes
SET_INCHES, LEAST_INCHES = 0.24, 0.12  # width of a column of dots, and the least of them
CHARACTER = 4.4  # points, mean width of a character of the names of genes
LONGEST_SET = 32  # characters of the name of a set
UP, DOWN = "#b2182b", "#2166ac"


class LatentProgrammesDisplay:
    """Dots for the gene sets of each latent, and the genes that it moves most.

    Rows are latents, columns gene sets. The area of a dot is minus the decimal logarithm of q, and
    a black edge marks those that are called; red sets go up with the latent, blue ones down. At
    the right are the genes of the largest fold changes up and down, largest first.

    Parameters
    ----------
    enriched : DataFrame
        The table of :func:`skpert.inspection.enrich`.
    genes : DataFrame, default=None
        The table of :func:`skpert.inspection.latent_genes`; None draws dots only.

    Attributes
    ----------
    q_ : DataFrame of shape (n_latents, n_sets)
        q of what is drawn, in the order of the figure, negative where a set goes down.
    top_genes_ : DataFrame of shape (n_latents, 2)
        Genes of each latent that go "up" and "down", as text; None without ``genes``.
    ax_, figure_ : matplotlib Axes, matplotlib Figure
        Axes of the dots, and their figure.

    Examples
    --------
    >>> from skpert import VAE
    >>> from skpert.datasets import make_sparse_shift
    >>> from skpert.plotting import LatentProgrammesDisplay
    >>> screen = make_sparse_shift(5, n_cells_per_perturbation=40, n_control_cells=40, n_latent=3,
    ...                            n_genes=50, random_state=0)
    >>> model = VAE(n_latent=3, max_epochs=2, random_state=0).fit(screen.X, screen.A)
    >>> sets = {"even": [str(g) for g in range(0, 50, 2)], "first": ["0", "1", "2", "3"]}
    >>> display = LatentProgrammesDisplay.from_estimator(model, sets)
    >>> display.q_.shape
    (3, 2)
    """

    def __init__(self, enriched: pd.DataFrame, genes: pd.DataFrame | None = None) -> None:
        self.enriched = enriched
        self.genes = genes

    @classmethod
    def from_estimator(
        cls,
        estimator,
        sets,
        *,
        method: str = "rank",
        X=None,
        genes=None,
        untargeted: bool = False,
        ax=None,
        width=None,
    ) -> "LatentProgrammesDisplay":
        """Find genes and sets of the latents of a fitted model, and draw them.

        Parameters
        ----------
        estimator : estimator
            Fitted, with ``transform``.
        sets : str, path-like, dict of str to list of str, or DataFrame
            Gene sets, in the forms of :func:`skpert.inspection.enrich`.
        method : {"rank", "top"}, default="rank"
            The test, as in :func:`skpert.inspection.enrich`.
        X : {array-like, sparse matrix, AnnData} of shape (n_cells, n_genes), default=None
            Cells to start from, as in :func:`skpert.inspection.latent_genes`.
        genes : array-like of str of shape (n_genes,), default=None
            Names of the genes; None takes those seen in ``fit``.
        untargeted : bool, default=False
            Whether to test and show latents that no perturbation targets, too.
        ax, width : as in :meth:`plot`
            Where to draw.

        Returns
        -------
        display : LatentProgrammesDisplay
            The figure, drawn.
        """
        table = latent_genes(estimator, X=X, genes=genes)
        enriched = enrich(table, sets, method=method, untargeted=untargeted)
        return cls(enriched, table).plot(ax, width=width)

    def plot(
        self,
        ax=None,
        *,
        fdr: float = 0.05,
        n_sets: int = 25,
        n_genes: int = 5,
        width: float | None = None,
    ) -> "LatentProgrammesDisplay":
        """Draw the dots, and names of genes beside them.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure whose size follows from what is shown.
        fdr : float, default=0.05
            Largest q of a set that is called, in [0, 1]. Sets that are called for a latent are
            shown, and the best five if there are none.
        n_sets : int, default=25
            Sets to show at most, those of smallest q, as far as there is room.
        n_genes : int, default=5
            Genes up, and as many down, to name for each latent, as far as there is room.
        width : float, default=None
            Width in inches of a figure of our own: 3.5 suits one column of a page, 7.2 two. None:
            as wide as what is shown.

        Returns
        -------
        display : LatentProgrammesDisplay
            This object, with the attributes of the drawing.

        Raises
        ------
        ValueError
            If nothing was tested, a latent is not in ``genes``, or a number is out of range.
        """
        check_matplotlib(type(self))
        check_number(fdr, "fdr", 0, 1, "both")
        check_integer(n_sets, "n_sets", 1)
        check_integer(n_genes, "n_genes", 1)
        check_width(width)
        shown = self.genes is not None
        n_sets = min(n_sets, _most(ax, shown, width))
        self.q_ = _chosen(self.enriched, fdr, n_sets)
        self.top_genes_ = None
        if self.genes is not None:
            self.top_genes_ = _top(self.genes, self.q_.index, n_genes)
        ax = _axes(self.q_, shown, width) if ax is None else ax
        self.ax_, self.figure_ = ax, ax.figure
        _draw_dots(ax, self.q_, fdr)
        n_left = self.enriched.loc[self.enriched["q"] <= fdr, "set"].nunique() - self.q_.shape[1]
        more = f" ({n_left} more are called)" if n_left > 0 else ""
        ax.set_xlabel(f"gene set{more}", fontsize=TEXT)
        if shown:
            _write_genes(ax, self.top_genes_, _gene_inches(self.q_.shape[1], width))
        settle(self.figure_)
        _label(ax, self.q_)
        return self


def _chosen(enriched, fdr, n_sets):
    """Signed q of the sets to show, a row per latent."""
    if not isinstance(enriched, pd.DataFrame) or not len(enriched):
        raise ValueError(
            "enriched must be the table of skpert.inspection.enrich with a row at least; nothing "
            "is tested where no perturbation targets a latent, unless untargeted=True"
        )
    best = enriched.groupby("set", sort=False)[["q", "p"]].min().sort_values(["q", "p"])
    called = best[best["q"] <= fdr]
    names = called.index[:n_sets] if len(called) else best.index[: min(n_sets, N_UNCALLED)]
    q = enriched["q"].clip(lower=1e-300) * np.where(enriched["direction"] == "down", -1, 1)
    wide = enriched.assign(q=q).pivot(index="unit", columns="set", values="q")
    wide = wide.reindex(index=enriched["unit"].unique(), columns=names)
    return wide.iloc[:, order_columns(-np.log10(wide.abs().fillna(1).to_numpy()) + 1e-9)]


def _top(genes, latents, n_genes):
    """Genes of largest fold changes up and down, as text."""
    missing = [latent for latent in latents if latent not in set(genes["latent"])]
    if missing:
        raise ValueError(f"genes has no rows of the latents {listed(missing, 5)}")
    column = "log2_fold_change"
    found = {}
    for latent, of in genes[genes["latent"].isin(latents)].groupby("latent"):
        up, down = of[of[column] > 0], of[of[column] < 0]
        up, down = up.nlargest(n_genes, column), down.nsmallest(n_genes, column)
        found[latent] = [", ".join(map(str, part["gene"])) for part in (up, down)]
    return pd.DataFrame.from_dict(found, "index", columns=["up", "down"]).loc[list(latents)]


def _most(ax, with_genes, width):
    """Sets whose names have room."""
    if ax is None and width is None:
        return np.inf
    inches = points(ax, "width") / 72 if ax is not None else width - 0.8
    if with_genes and ax is None:
        inches -= 2 * GENE_INCHES[0]
    return max(int(inches / LEAST_INCHES), 1)


def _axes(q, with_genes, width):
    """Axes of a new figure with room for names of sets below and of genes at the right."""
    import matplotlib.pyplot as plt

    n_latents, n_sets = q.shape
    words = in_words(q.columns)
    names = 0.06 * max(len(clipped(words[name], LONGEST_SET)) for name in q.columns)
    if width is None:
        genes = 2 * GENE_INCHES[1] if with_genes else 1.0
        width = max(1.0 + SET_INCHES * max(n_sets, 4) + genes, 3.5)
    size = width, np.clip(1.2 + names + 1.2 * ROW * n_latents, 2.2, TALLEST)
    return plt.subplots(figsize=size, layout="constrained")[1]


def _gene_inches(n_sets, width):
    """Width of a column of genes, less in a narrow figure."""
    room = 2 * GENE_INCHES[1] if width is None else width - 0.8 - 0.14 * max(n_sets, 4)
    return float(np.clip(room / 2, *GENE_INCHES))


def _draw_dots(ax, q, fdr):
    values = q.to_numpy()
    rows, columns = np.nonzero(np.abs(values) <= max(SHOWN, fdr))
    found = values[rows, columns]
    area = AREA * np.clip(-np.log10(np.abs(found)), 0.3, LARGEST_LOG)
    edges = np.where(np.abs(found) <= fdr, "black", "none")
    colors = np.where(found > 0, UP, DOWN)
    ax.grid(color="0.92", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.scatter(columns, rows, area, colors, edgecolors=edges, linewidths=0.8)
    n_rows, n_columns = q.shape
    ax.set(xlim=(-0.7, max(n_columns, 4) - 0.3), ylim=(n_rows - 0.4, -0.6))
    ax.set_ylabel("latent", fontsize=TEXT)
    _label(ax, q)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    _legend(ax, fdr)


def _label(ax, q):
    """Names of sets and of latents, for the size that the axes have."""
    words = in_words(q.columns)
    size, _ = font(points(ax, "width") / max(q.shape[1], 4))
    texts = [clipped(words[name], LONGEST_SET) for name in q.columns]
    ax.set_xticks(range(q.shape[1]), texts, rotation=90, fontsize=size)
    size, step = font(points(ax, "height") / len(q))
    names = short_names([str(name) for name in q.index])
    ax.set_yticks(range(0, len(q), step), names[::step], fontsize=size)


def _legend(ax, fdr):
    """Sizes and colours, above the dots."""
    examples = [(fdr, "0.6", f"q = {fdr:g}"), (1e-4, "0.6", "q = 0.0001")]
    examples += [(fdr, UP, "up"), (fdr, DOWN, "down")]
    handles = [
        ax.scatter([], [], AREA * -np.log10(max(q, 1e-6)), color, edgecolors="black", label=label)
        for q, color, label in examples
        if 0 < q < 1
    ]
    ax.legend(
        handles=handles,
        ncols=len(handles),
        loc="lower left",
        bbox_to_anchor=(-0.02, 1),
        frameon=False,
        fontsize=SMALL,
        handletextpad=0.1,
        columnspacing=0.8,
        borderaxespad=2.4,
    )


def _write_genes(ax, top, inches):
    """Names of genes at the right of each row, as many as fit into columns so wide."""
    size, step = font(points(ax, "height") / len(top))
    size = min(size, SMALL)
    most = int(72 * inches / (CHARACTER * size / SMALL)) - 2
    for i, (column, color) in enumerate((("up", UP), ("down", DOWN))):
        x = 8 + 72 * inches * i  # points from the right edge
        style = {"textcoords": "offset points", "color": color, "va": "center"}
        head = f"{column} with the latent" if most > 20 else column
        ax.annotate(head, (1, 1), (x, 9), xycoords="axes fraction", fontsize=SMALL, **style)
        for row in range(0, len(top), step):
            text = top[column].iloc[row]
            text = text if len(text) <= most else text[:most].rsplit(",", 1)[0] + ", …"
            at = {"xycoords": ("axes fraction", "data"), "fontsize": size}
            ax.annotate(text, (1, row), (x, 0), **at, **style)
