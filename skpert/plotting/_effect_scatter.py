"""Effects on expression that a model predicts, against those that were measured."""

from numbers import Integral

import numpy as np
import pandas as pd
from sklearn.utils import check_scalar

from .._input.values import listed
from ..metrics import ate_pearson
from ._shared import (
    BLUE,
    SMALL,
    TEXT,
    VERMILION,
    check_axes,
    check_frame,
    check_matplotlib,
    clipped,
    fit_panels,
    panel_axes,
    settle,
    tidy,
)

_N_POINTS = 5000  # above which points would hide each other, and are counted in hexagons
_N_HEXAGONS = 60  # across a panel
_PLACES = [
    (4, 0),
    (-4, 0),
    (0, 5),
    (0, -5),
    (4, 6),
    (-4, 6),
    (4, -6),
    (-4, -6),
]  # of names, points


class EffectsDisplay:
    """Predicted against measured effects of perturbations on genes.

    A point is a pair of a perturbation and a gene; many are counted in hexagons. The dashed line
    is where they agree. Titles give Pearson correlations, over all genes and over those with the
    largest measured effects. More panels show single perturbations, with the latter genes in
    another colour and names of some of them. As in Figure 3 of Bereket and Karaletsos (SAMS-VAE,
    NeurIPS 2023).

    Parameters
    ----------
    measured : DataFrame of shape (n_perturbations, n_genes)
        Mean difference to control cells of each gene, for example of log1p counts.
    predicted : DataFrame of shape (n_perturbations, n_genes)
        The same by a model, in the same unit. Rows and columns are found by name; those that
        are not in ``measured`` are ignored.
    n_top : int, default=20
        Genes of largest absolute measured effect that are taken of each perturbation.
    unit : str, default=""
        Unit of the effects, such as "log1p counts per 10,000", for the labels of the axes.

    Attributes
    ----------
    pearson_ : Series of shape (2,)
        Correlation of all points, ``"all"``, and of the ``n_top`` genes of each perturbation,
        ``"top"``, in [-1, 1], higher is better; missing where effects do not vary.
    by_perturbation_ : DataFrame of shape (n_perturbations, 2)
        The same over the genes of each perturbation.
    axes_, figure_ : ndarray of matplotlib Axes of shape (n_panels,), matplotlib Figure
        Panel of all perturbations, then of those named, and their figure.

    Examples
    --------
    >>> import pandas as pd
    >>> from skpert.plotting import EffectsDisplay
    >>> measured = pd.DataFrame([[0.0, 1.0, 2.0], [1.0, 0.0, 0.0]], index=["JAK2", "SMAD4"])
    >>> display = EffectsDisplay(measured, 0.5 * measured, n_top=2).plot(perturbations=["JAK2"])
    >>> display.pearson_.round(3).to_dict()
    {'all': 1.0, 'top': 1.0}
    """

    def __init__(
        self, measured: pd.DataFrame, predicted: pd.DataFrame, *, n_top: int = 20, unit: str = ""
    ) -> None:
        self.measured = measured
        self.predicted = predicted
        self.n_top = n_top
        self.unit = unit

    def plot(
        self,
        axes=None,
        *,
        perturbations: str | list[str] = (),
        n_names: int = 8,
        width: float | None = None,
    ) -> "EffectsDisplay":
        """Draw the panels.

        Parameters
        ----------
        axes : matplotlib Axes or array of them of shape (n_panels,), default=None
            Where to draw; None makes a figure.
        perturbations : str or list of str, default=()
            Perturbations to show in a panel of their own, after that of all.
        n_names : int, default=8
            Genes of largest absolute measured effect to name in these panels at most; names that
            would hide each other are left out.
        width : float, default=None
            Width in inches of a figure of our own: 3.5 suits one column of a page, 7.2 two. None:
            as wide as what is shown.

        Returns
        -------
        display : EffectsDisplay
            This object, with the attributes of the drawing.

        Raises
        ------
        ValueError
            If a name of ``measured`` is not in ``predicted``, one of ``perturbations`` is not in
            ``measured``, ``n_top`` is below 1, ``n_names`` below 0, or ``axes`` are too few.
        """
        check_matplotlib(type(self))
        named = [perturbations] if isinstance(perturbations, str) else list(perturbations)
        measured, predicted = _matched(self.measured, self.predicted)
        _check_known(measured.index, named, "measured has no rows")
        x, y = measured.to_numpy(), predicted.to_numpy()
        n_top = min(check_scalar(self.n_top, "n_top", Integral, min_val=1), x.shape[1])
        self.pearson_, self.by_perturbation_ = _correlations(measured, predicted, n_top)
        rank = measured.abs().rank(axis=1, method="first", ascending=False)
        top = (rank <= n_top).to_numpy()
        n_names = min(check_scalar(n_names, "n_names", Integral, min_val=0), n_top)
        if axes is None:
            axes = panel_axes(1 + len(named), 3, (2.8, 2.8), width=width, least=2.0)
        self.axes_ = check_axes(axes, 1 + len(named))
        self.figure_ = self.axes_[0].figure
        title = f"{len(measured)} perturbation{'s' * (len(measured) > 1)}"
        _draw_all(self.axes_[0], x.ravel(), y.ravel(), f"{title}, {x.shape[1]} genes")
        for ax, i, name in zip(
            self.axes_[1:], measured.index.get_indexer(named), named, strict=True
        ):
            _draw_one(ax, x[i], y[i], top[i], clipped(name, 24))
        pearson = [self.pearson_, *self.by_perturbation_.loc[named].itertuples(index=False)]
        for ax, (r, r_top) in zip(self.axes_, pearson, strict=True):
            line = f"r = {_text(r)}; top {n_top}: {_text(r_top)}"
            tidy(ax)
            ax.set_title(f"{ax.get_title()}\n{line}", fontsize=TEXT)
            unit = f"\n({self.unit})" if self.unit else ""
            spec = ax.get_subplotspec()
            if spec is None or spec.is_first_col():
                ax.set_ylabel(f"predicted effect{unit}")
            ax.set_xlabel(f"measured effect{unit}")
        fit_panels(self.figure_, self.axes_)
        settle(self.figure_)
        for ax, i in zip(self.axes_[1:], measured.index.get_indexer(named), strict=True):
            largest = np.argsort(-np.abs(x[i]), kind="stable")[:n_names]
            _name_genes(ax, x[i], y[i], largest, measured.columns)
        return self


def _matched(measured, predicted):
    """Both frames, with the rows and columns of the first."""
    measured = check_frame(measured, "measured")
    predicted = check_frame(predicted, "predicted")
    _check_known(predicted.index, measured.index, "predicted has no rows")
    _check_known(predicted.columns, measured.columns, "predicted has no columns")
    return measured, predicted.loc[measured.index, measured.columns]


def _check_known(known, names, what):
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"{what} {listed(unknown, 5)}; it has {listed(list(known), 3)}")


def _correlations(measured, predicted, n_top):
    """Correlations of all genes and of the top ones, pooled and of each perturbation."""
    tops = {"all": None, "top": n_top}
    pooled = {key: ate_pearson(measured, predicted, top=top) for key, top in tops.items()}
    each = {
        key: ate_pearson(measured, predicted, top=top, average="perturbation")
        for key, top in tops.items()
    }
    return pd.Series(pooled, name="pearson"), pd.DataFrame(each)


def _text(r):
    return "–" if np.isnan(r) else f"{r:.2f}"


def _draw_all(ax, x, y, title):
    """All points, or their number in hexagons where they are many."""
    low, high = _frame_panel(ax, x, y, title)
    if len(x) <= _N_POINTS:
        ax.scatter(x, y, s=6, color=BLUE, alpha=0.4, linewidths=0)
        return
    hexagons = ax.hexbin(
        x,
        y,
        gridsize=_N_HEXAGONS,
        bins="log",
        mincnt=1,
        extent=(low, high, low, high),
        linewidths=0.2,
    )
    ax.set(xlim=(low, high), ylim=(low, high))
    scale_ax = ax.inset_axes([0.06, 0.93, 0.36, 0.035])
    colorbar = ax.figure.colorbar(hexagons, cax=scale_ax, orientation="horizontal")
    colorbar.set_label("pairs", fontsize=SMALL, labelpad=1)
    scale_ax.tick_params(labelsize=SMALL, pad=1, length=2)
    colorbar.outline.set_visible(False)


def _draw_one(ax, x, y, top, title):
    """Points of one perturbation."""
    _frame_panel(ax, x, y, title)
    ax.scatter(x[~top], y[~top], s=8, color=BLUE, alpha=0.5, linewidths=0, label="other genes")
    ax.scatter(x[top], y[top], s=12, color=VERMILION, linewidths=0, label=f"top {top.sum()}")
    ax.legend(frameon=False, fontsize=SMALL, loc="upper left", handletextpad=0.1, borderpad=0)


def _name_genes(ax, x, y, chosen, names):
    """Names beside the points of genes, where they hide neither each other nor the legend."""
    renderer = ax.figure.canvas.get_renderer()
    inside, taken = ax.get_window_extent(), [ax.get_legend().get_window_extent(renderer)]
    radius = 2.5 * ax.figure.dpi / 72
    pixels = ax.transData.transform(np.c_[x[chosen], y[chosen]])
    for gene, pixel in zip(chosen, pixels, strict=True):
        others = pixels[np.abs(pixels - pixel).max(axis=1) > 0]
        for right, up in _PLACES:
            text = ax.annotate(
                clipped(names[gene], 16),
                (x[gene], y[gene]),
                (right, up),
                textcoords="offset points",
                fontsize=SMALL - 1,
                ha="center" if not right else "left" if right > 0 else "right",
                va="center" if not up else "bottom" if up > 0 else "top",
            )
            box = text.get_window_extent(renderer)
            within = inside.x0 < box.x0 and box.x1 < inside.x1
            within = within and inside.y0 < box.y0 and box.y1 < inside.y1
            if within and not (box.count_overlaps(taken) or _hides(box.padded(radius), others)):
                taken.append(box.padded(radius))
                break
            text.remove()


def _hides(box, points):
    (x0, y0), (x1, y1) = box.get_points()
    x, y = points.T
    return bool(((x0 < x) & (x < x1) & (y0 < y) & (y < y1)).any())


def _frame_panel(ax, x, y, title):
    """Square panel with the line of agreement; its limits."""
    low, high = min(x.min(), y.min()), max(x.max(), y.max())
    margin = 0.05 * (high - low) or 1.0
    limits = low - margin, high + margin
    ax.plot(limits, limits, color="0.5", linestyle="--", linewidth=0.8, zorder=0)
    ax.set(xlim=limits, ylim=limits, title=title)
    ax.set_aspect("equal")
    ax.locator_params(nbins=5)
    return limits
