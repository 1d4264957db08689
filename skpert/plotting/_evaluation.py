"""Estimators compared, perturbation by perturbation, between a floor and a ceiling."""

import numpy as np
import pandas as pd
from scipy.stats import t as student

from .._input.values import listed
from ..metrics.calibration import GREATER_IS_BETTER
from ._shared import (
    BLUE,
    SMALL,
    TEXT,
    VERMILION,
    check_axes,
    check_matplotlib,
    clipped,
    fit_panels,
    panel_axes,
    tidy,
)

_KEYS = ("estimator", "split", "perturbation", "context", "n_cells")
_POINTS = "0.45"
_LINES = {
    "floor": {"color": VERMILION, "linestyle": "--"},
    "ceiling": {"color": BLUE, "linestyle": "-"},
}
_TITLES = {
    "response_mse": "mean squared error\n(response)",
    "weighted_mse": "weighted\nmean squared error",
    "delta_pearson": "Pearson Δ\n(from control)",
    "delta_pearson_perturbed": "Pearson Δ\n(from perturbed mean)",
    "direction_same": "genes with\nthe right sign",
    "direction_opposite": "genes with\nthe opposite sign",
    "perturbation_discrimination": "perturbation\ndiscrimination (PDS)",
    "energy_distance": "energy distance",
    "maximum_mean_discrepancy": "maximum mean\ndiscrepancy (MMD)",
}
_LONGEST = 24  # characters of the name of an estimator
_JITTER = 0.27  # of the points of a row, to either side
_QUANTILES = 0.02, 0.98  # of the points of a panel between which its scale must reach


class EvaluationDisplay:
    """Scores of estimators by metric, with those of a floor and a ceiling as vertical lines.

    A panel is a metric and a row an estimator. Faint points are perturbations, each averaged over
    splits; the diamond is their mean, and the bar its 95 % t interval. An arrow says where a
    metric is better; it belongs to the metric, wherever floor and ceiling are. A few extreme
    points may lie outside of a panel; means and intervals never do.

    Parameters
    ----------
    per_perturbation : DataFrame
        Table of :func:`skpert.model_selection.evaluate_perturbations`: columns ``estimator``,
        ``perturbation`` and one for each metric.
    floor, ceiling : str or None, default=None
        Estimators to draw as lines; None draws no such line.

    Attributes
    ----------
    mean_ : DataFrame of shape (n_estimators, n_metrics)
        Means as drawn, floor and ceiling included.
    half_width_ : DataFrame of shape (n_estimators, n_metrics)
        Half of each interval; missing where fewer than two perturbations were predicted.
    axes_, figure_ : ndarray of matplotlib Axes of shape (n_metrics,), matplotlib Figure
        The panels and their figure.

    Notes
    -----
    Perturbations differ more than estimators do, so that intervals overlap where one estimator is
    better for almost all: see :func:`skpert.model_selection.paired_differences`.

    Examples
    --------
    >>> import pandas as pd
    >>> from skpert.plotting import EvaluationDisplay
    >>> table = pd.DataFrame({"estimator": ["additive", "additive", "floor", "floor"],
    ...                       "perturbation": ["JAK2", "SMAD4"] * 2,
    ...                       "response_mse": [1.0, 3.0, 2.0, 5.0]})
    >>> EvaluationDisplay(table, floor="floor").plot().mean_["response_mse"].to_dict()
    {'additive': 2.0, 'floor': 3.5}
    """

    def __init__(
        self,
        per_perturbation: pd.DataFrame,
        *,
        floor: str | None = None,
        ceiling: str | None = None,
    ) -> None:
        self.per_perturbation = per_perturbation
        self.floor = floor
        self.ceiling = ceiling

    @classmethod
    def from_evaluation(
        cls, result, *, metrics=None, axes=None, width=None
    ) -> "EvaluationDisplay":
        """Draw what an evaluation found.

        Parameters
        ----------
        result : Bunch
            Of :func:`skpert.model_selection.evaluate_perturbations`.
        metrics, axes, width : as in :meth:`plot`
            What is shown, and where; errors are the same.

        Returns
        -------
        display : EvaluationDisplay
            The panels, drawn.
        """
        display = cls(result.per_perturbation, floor=result.floor, ceiling=result.ceiling)
        return display.plot(axes, metrics=metrics, width=width)

    def plot(
        self,
        axes=None,
        *,
        metrics: str | list[str] | None = None,
        width: float | None = None,
    ) -> "EvaluationDisplay":
        """Draw the panels.

        Parameters
        ----------
        axes : matplotlib Axes or array of them of shape (n_metrics,), default=None
            Where to draw; None makes a figure.
        metrics : str, list of str or None, default=None
            Columns to show; None: all metrics.
        width : float, default=None
            Width in inches of a figure of our own: 3.5 suits one column of a page, 7.2 two. None:
            as wide as what is shown.

        Returns
        -------
        display : EvaluationDisplay
            This object, with the attributes of the drawing.

        Raises
        ------
        ValueError
            If a metric, the floor or the ceiling is not in the table, no other estimator is, or
            ``axes`` are too few.
        """
        check_matplotlib(type(self))
        scores = _averaged(self.per_perturbation, metrics)
        groups = scores.groupby(level="estimator", sort=False)
        self.mean_, self.half_width_ = groups.mean(), _half_width(groups)
        lines = {"floor": self.floor, "ceiling": self.ceiling}
        lines = {what: name for what, name in lines.items() if name is not None}
        unknown = [name for name in lines.values() if name not in self.mean_.index]
        rows = [name for name in self.mean_.index if name not in lines.values()]
        if unknown or not rows:
            raise ValueError(
                f"there must be other estimators than {listed(list(lines.values()), 2)}, and "
                f"these; the table has {listed(list(self.mean_.index), 10)}"
            )
        n_panels = self.mean_.shape[1]
        of_figure = axes is None
        self.axes_ = check_axes(
            _axes(n_panels, rows, width) if of_figure else axes, n_panels, ", one a metric"
        )
        self.figure_ = self.axes_[0].figure
        for ax, metric in zip(self.axes_, self.mean_, strict=True):
            self._draw(ax, scores[metric], rows, lines)
        _label_rows(self.axes_, rows)
        _add_legend(self.axes_, of_figure, self.figure_)
        fit_panels(self.figure_, self.axes_)
        return self

    def _draw(self, ax, scores, rows, lines):
        """One panel."""
        mean, half_width = self.mean_[scores.name], self.half_width_[scores.name]
        shown = [mean[list(lines.values())], (mean + half_width)[rows], (mean - half_width)[rows]]
        points = scores[scores.index.get_level_values("estimator").isin(rows)]
        shown += [mean[rows], points.quantile(list(_QUANTILES))]
        for what, name in lines.items():
            ax.axvline(mean[name], label=what, linewidth=1.3, zorder=1, **_LINES[what])
        for row, name in enumerate(rows):
            _draw_row(ax, row, scores[name], mean[name], half_width[name])
        shown = pd.concat(shown).dropna()
        low, high = (shown.min(), shown.max()) if len(shown) else (0.0, 1.0)
        margin = 0.06 * (high - low) or 0.5
        ax.set(xlim=(low - margin, high + margin), ylim=(len(rows) - 0.45, -0.55))
        ax.set_xlabel(_direction(scores.name), color="0.35")
        tidy(ax)
        ax.set_title(_TITLES.get(scores.name, str(scores.name).replace("_", " ")), fontsize=TEXT)
        ax.spines["left"].set_visible(False)


def _averaged(table, metrics):
    """Scores of each estimator and perturbation, averaged over splits."""
    known = [name for name in table if name not in _KEYS]
    wanted = known if metrics is None else [metrics] if isinstance(metrics, str) else list(metrics)
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        raise ValueError(f"no metrics {listed(unknown, 5)}: the table has {listed(known, 10)}")
    units = [name for name in ("perturbation", "context") if name in table]
    return table.groupby(["estimator", *units], sort=False)[wanted].mean()


def _half_width(groups):
    n = groups.count()
    return groups.sem() * student.ppf(0.975, (n - 1).where(n > 1))


def _axes(n_panels, rows, width):
    """Axes of a new figure, with room for the names of rows."""
    names = 0.06 * max(len(clipped(name, _LONGEST)) for name in rows)  # inches
    size, margin = (2.0, 0.95 + 0.26 * len(rows)), (names + 0.1, 0.4)
    axes = panel_axes(n_panels, 3, size, margin, width=width, least=1.1, lowest=1)
    axes[0].figure.get_layout_engine().set(h_pad=0.07)
    return axes


def _draw_row(ax, row, scores, mean, half_width):
    """Points of perturbations, their mean and its interval."""
    scores = scores.dropna()
    if not len(scores):
        note = ax.text(0.5, row, "not predicted", transform=ax.get_yaxis_transform())
        note.set(ha="center", va="center", fontsize=TEXT, color="0.45", style="italic")
        note.set_bbox({"color": "white", "pad": 1.5})
        return
    offset = _JITTER * (2 * np.random.default_rng(row).random(len(scores)) - 1)
    alpha = np.clip(15 / len(scores), 0.2, 0.7)
    ax.scatter(
        scores,
        row + offset,
        s=7,
        color=_POINTS,
        alpha=alpha,
        linewidths=0,
        zorder=2,
        label="perturbation",
    )
    ax.errorbar(
        mean,
        row,
        xerr=None if np.isnan(half_width) else half_width,
        fmt="D",
        color="black",
        markersize=4,
        linewidth=1.2,
        capsize=2,
        zorder=3,
        label="mean, 95 % interval",
    )


def _direction(metric):
    """Where better is; empty for a metric that is not known."""
    if metric not in GREATER_IS_BETTER:
        return ""
    return "better →" if GREATER_IS_BETTER[metric] else "← better"


def _label_rows(axes, rows):
    """Names of estimators, at the first panel of each row of panels."""
    for ax in axes:
        spec = ax.get_subplotspec()
        first = spec is None or spec.is_first_col()
        ax.set_yticks(
            range(len(rows)), [clipped(name, _LONGEST) if first else "" for name in rows]
        )
        ax.tick_params(axis="y", length=0)
        for row in range(1, len(rows)):
            ax.axhline(row - 0.5, color="0.92", linewidth=0.8, zorder=0)


def _add_legend(axes, of_figure, figure):
    """One legend for all panels, below a figure of our own."""
    handles = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    arguments = list(handles.values()), list(handles)
    if of_figure:
        n_columns = int(np.clip(figure.get_figwidth() / 1.2, 1, len(handles)))
        place = {"loc": "outside lower center", "ncols": n_columns, "frameon": False}
        figure.legend(*arguments, fontsize=SMALL, **place)
    else:
        place = {"loc": "center left", "bbox_to_anchor": (1, 0.5), "frameon": False}
        axes[-1].legend(*arguments, fontsize=SMALL, **place)
