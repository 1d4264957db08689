"""Posterior predictive checks: the data among replicates, perturbation by perturbation."""

import numpy as np

from .._input.values import check_number, listed
from ..inspection import posterior_predictive_check
from ._shared import (
    ROW,
    SMALL,
    TALLEST,
    TITLE,
    VERMILION,
    check_axes,
    check_matplotlib,
    check_width,
    fit_panels,
    label_rows,
    tidy,
)

NEEDED = ["statistic", "perturbation", "observed", "expected", "lower", "upper", "q"]
PANEL, LABELS = 1.9, 1.4  # inches of a panel, and of the names of rows
DISTANCE = "distance\n(1: as expected)"
SCALES = {"ate": "correlation"} | dict.fromkeys(
    ("mean", "variance", "zero_fraction", "coefficient_of_variation"), DISTANCE
)
FOUND, NOT_FOUND = VERMILION, "0.2"


class PosteriorPredictiveDisplay:
    """Each statistic of the cells of a perturbation beside its replicates under the model.

    A panel per statistic and a row per perturbation, those at the top that the model explains
    worst: a bar from ``lower`` to ``upper`` of the replicates, and a dot for the data, red and
    larger where the false discovery rate is low.

    Parameters
    ----------
    table : DataFrame
        ``table`` of what :func:`skpert.inspection.posterior_predictive_check` returns.

    Attributes
    ----------
    ordered_ : Index
        Perturbations in the order of the rows, from the top.
    axes_, figure_ : ndarray of matplotlib Axes, matplotlib Figure
        An axes per statistic; their figure.

    Examples
    --------
    >>> import pandas as pd
    >>> from skpert.plotting import PosteriorPredictiveDisplay
    >>> table = pd.DataFrame({"statistic": "ate", "perturbation": ["JAK2", "SMAD4"],
    ...                       "observed": [0.9, 0.4], "expected": [0.9, 0.8],
    ...                       "lower": [0.8, 0.7], "upper": [0.95, 0.9], "q": [0.5, 0.02]})
    >>> PosteriorPredictiveDisplay(table).plot().ordered_.tolist()
    ['SMAD4', 'JAK2']
    """

    def __init__(self, table) -> None:
        self.table = table

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        A,
        statistic=("mean", "variance", "zero_fraction"),
        *,
        cells: str = "new",
        n_replicates: int = 100,
        random_state: int | np.random.RandomState | None = 0,
        axes=None,
        fdr=0.05,
        width=None,
    ) -> "PosteriorPredictiveDisplay":
        """Check a fitted estimator and draw what is found.

        Parameters
        ----------
        estimator : fitted estimator
            The model to be checked.
        X : {array-like, sparse matrix, AnnData} of shape (n_cells, n_genes)
            Expression.
        A : array-like of shape (n_cells,) or (n_cells, n_perturbations), or DataFrame
            Design.
        statistic : str, callable or sequence of these
            As in :func:`skpert.inspection.posterior_predictive_check`.
        cells : {"new", "same"}, default="new"
            Whether replicates are of new cells, or of these.
        n_replicates : int, default=100
            Number of replicates.
        random_state : int, RandomState instance or None, default=0
            Seeds the replicates.
        axes, fdr, width : as in :meth:`plot`
            How it is drawn.

        Returns
        -------
        display : PosteriorPredictiveDisplay
            The panels, drawn.
        """
        check_matplotlib(cls)
        options = {"cells": cells, "n_replicates": n_replicates, "random_state": random_state}
        check = posterior_predictive_check(estimator, X, A, statistic, **options)
        return cls(check.table).plot(axes, fdr=fdr, width=width)

    def plot(
        self, axes=None, *, fdr: float = 0.05, width: float | None = None
    ) -> "PosteriorPredictiveDisplay":
        """Draw the panels.

        Parameters
        ----------
        axes : array-like of matplotlib Axes, default=None
            One for each statistic; None makes a figure.
        fdr : float, default=0.05
            Dots are red where ``q`` is at most this, in [0, 1].
        width : float, default=None
            Width in inches of a figure of our own: 3.5 suits one column of a page, 7.2 two. None:
            as wide as what is shown.

        Returns
        -------
        display : PosteriorPredictiveDisplay
            This object, with the attributes of the drawing.

        Raises
        ------
        ValueError
            If the table lacks columns or rows, or ``fdr`` is out of range.
        """
        check_matplotlib(type(self))
        check_width(width)
        check_number(fdr, "fdr", 0, 1, "both")
        table = self._read()
        statistics = table["statistic"].unique()
        self.ordered_ = _worst_first(table)
        if axes is None:
            axes = _new_axes(len(statistics), len(self.ordered_), width)
        self.axes_ = check_axes(axes, len(statistics), " (one per statistic)")
        self.figure_ = self.axes_[0].figure
        for ax, statistic in zip(self.axes_, statistics, strict=True):
            rows = table[table["statistic"] == statistic].set_index("perturbation")
            _draw_panel(ax, rows.reindex(self.ordered_), fdr)
            ax.set_xlabel(SCALES.get(statistic, "value"))
            tidy(ax)
            ax.set_title(statistic.replace("_", " "), fontsize=TITLE)
            ax.spines["left"].set_visible(False)
        label_rows(self.axes_[0], self.ordered_)
        for ax in self.axes_[1:]:
            ax.tick_params(labelleft=False)
        _draw_legend(self.axes_[-1], fdr)
        fit_panels(self.figure_, self.axes_)
        label_rows(self.axes_[0], self.ordered_)
        return self

    def _read(self):
        missing = [name for name in NEEDED if name not in getattr(self.table, "columns", ())]
        if missing or not len(self.table):
            what = f"has no column {listed(missing, 7)}" if missing else "has no rows"
            raise ValueError(
                f"table {what}: give the table of skpert.inspection.posterior_predictive_check"
            )
        repeated = self.table.duplicated(["statistic", "perturbation"])
        if repeated.any():
            first = self.table[repeated].iloc[0]
            raise ValueError(
                f"table has several rows of {first['statistic']!r} and {first['perturbation']!r}"
            )
        return self.table


def _worst_first(table):
    """Perturbations by their mean distance from what is expected, in units of the interval."""
    width = (table["upper"] - table["lower"]).replace(0, np.nan)
    off = (table["observed"] - table["expected"]).abs() / width
    mean = off.groupby(table["perturbation"]).mean().fillna(0)
    return mean.sort_values(ascending=False, kind="stable").index


def _new_axes(n_panels, n_rows, width):
    import matplotlib.pyplot as plt

    high = np.clip(1.5 + ROW * n_rows, 2.2, TALLEST)
    size = LABELS + PANEL * n_panels if width is None else width, high
    return plt.subplots(1, n_panels, figsize=size, sharey=True, layout="constrained")[1]


def _draw_panel(ax, rows, fdr):
    """Bars and dots of one statistic; a perturbation without it has an empty row."""
    at = np.arange(len(rows))
    height = ax.get_window_extent().height * 72 / ax.figure.dpi / len(rows)
    ax.hlines(at, rows["lower"], rows["upper"], "0.75", linewidth=np.clip(0.6 * height, 1, 6))
    found = rows["q"].to_numpy() <= fdr
    area = (np.clip(0.55 * height, 1.5, 4) * np.where(found, 1.3, 1)) ** 2
    colors = np.where(found, FOUND, NOT_FOUND)
    ax.scatter(rows["observed"], at, area, c=colors, linewidths=0, zorder=3)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)


def _draw_legend(ax, fdr):
    from matplotlib.lines import Line2D

    dot = {"marker": "o", "linestyle": "", "markersize": 4}
    handles = [
        Line2D([], [], color="0.75", linewidth=4, label="replicates"),
        Line2D([], [], color=NOT_FOUND, label="data", **dot),
        Line2D([], [], color=FOUND, label=f"data, q ≤ {fdr:g}", **dot),
    ]
    options = {"loc": "outside lower center", "fontsize": SMALL, "frameon": False}
    return ax.figure.legend(handles=handles, ncols=3, **options)
