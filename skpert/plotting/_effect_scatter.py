"""Effects on expression that a model predicts, against those that were measured."""

from numbers import Integral

import numpy as np
import pandas as pd
from sklearn.utils import check_scalar

from .._input.values import listed
from ..metrics import ate_pearson
from ._shared import check_axes, check_frame, check_matplotlib, clipped, panel_axes

_N_POINTS = 5000  # above which points would hide each other, and are counted in hexagons
_N_HEXAGONS = 60  # across a panel


class EffectsDisplay:
    """Predicted against measured effects of perturbations on genes.

    A point is a pair of a perturbation and a gene; many are counted in hexagons. The dashed line
    is where they agree. Titles give Pearson correlations, over all genes and over those with the
    largest measured effects. More panels show single perturbations, with the latter genes in
    another colour. As in Figure 3 of Bereket and Karaletsos (SAMS-VAE, NeurIPS 2023).

    Parameters
    ----------
    measured : DataFrame of shape (n_perturbations, n_genes)
        Mean difference to control cells of each gene, for example of log1p counts.
    predicted : DataFrame of shape (n_perturbations, n_genes)
        The same by a model, in the same unit. Rows and columns are found by name; those that
        are not in ``measured`` are ignored.
    n_top : int, default=20
        Genes of largest absolute measured effect that are taken of each perturbation.

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
        self, measured: pd.DataFrame, predicted: pd.DataFrame, *, n_top: int = 20
    ) -> None:
        self.measured = measured
        self.predicted = predicted
        self.n_top = n_top

    def plot(self, axes=None, *, perturbations: str | list[str] = ()) -> "EffectsDisplay":
        """Draw the panels.

        Parameters
        ----------
        axes : matplotlib Axes or array of them of shape (n_panels,), default=None
            Where to draw; None makes a figure.
        perturbations : str or list of str, default=()
            Perturbations to show in a panel of their own, after that of all.

        Returns
        -------
        display : EffectsDisplay
            This object, with the attributes of the drawing.

        Raises
        ------
        ValueError
            If a name of ``measured`` is not in ``predicted``, one of ``perturbations`` is not in
            ``measured``, ``n_top`` is below 1, or ``axes`` are too few.
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
        axes = panel_axes(1 + len(named), 3, (3.6, 3.6)) if axes is None else axes
        self.axes_ = check_axes(axes, 1 + len(named))
        self.figure_ = self.axes_[0].figure
        title = f"{len(measured)} perturbation{'s' * (len(measured) > 1)}"
        _draw_all(self.axes_[0], x.ravel(), y.ravel(), f"{title}, {x.shape[1]} genes")
        for ax, i, name in zip(
            self.axes_[1:], measured.index.get_indexer(named), named, strict=True
        ):
            _draw_one(ax, x[i], y[i], top[i], clipped(name))
        pearson = [self.pearson_, *self.by_perturbation_.loc[named].itertuples(index=False)]
        for ax, (r, r_top) in zip(self.axes_, pearson, strict=True):
            line = f"r = {_text(r)}; top {n_top}: {_text(r_top)}"
            ax.set_title(f"{ax.get_title()}\n{line}", fontsize=9)
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
        ax.scatter(x, y, s=6, color="C0", alpha=0.4, linewidths=0)
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
    colorbar = ax.figure.colorbar(hexagons, ax=ax, shrink=0.7, aspect=25)
    colorbar.set_label("pairs of perturbation and gene", fontsize=8)
    colorbar.ax.tick_params(labelsize=8)
    colorbar.outline.set_visible(False)


def _draw_one(ax, x, y, top, title):
    """Points of one perturbation."""
    _frame_panel(ax, x, y, title)
    ax.scatter(x[~top], y[~top], s=8, color="C0", alpha=0.5, linewidths=0, label="other genes")
    ax.scatter(x[top], y[top], s=14, color="C1", linewidths=0, label=f"top {top.sum()}")
    ax.legend(frameon=False, fontsize=8, loc="upper left", handletextpad=0.1)


def _frame_panel(ax, x, y, title):
    """Square panel with the line of agreement; its limits."""
    low, high = min(x.min(), y.min()), max(x.max(), y.max())
    margin = 0.05 * (high - low) or 1.0
    limits = low - margin, high + margin
    ax.plot(limits, limits, color="0.5", linestyle="--", linewidth=0.8, zorder=0)
    ax.set(xlim=limits, ylim=limits, title=title)
    ax.set(xlabel="measured effect", ylabel="predicted effect", aspect="equal")
    ax.spines[["top", "right"]].set_visible(False)
    return limits
