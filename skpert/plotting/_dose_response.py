"""Dose-response curves, and the doses of half the effect."""

from collections.abc import Mapping

import numpy as np

from .._input.values import as_list, check_integer, listed
from ..inspection import dose_response
from ..preprocessing._curves import hill, log_dose
from ._shared import (
    COLOURS,
    SMALL,
    TEXT,
    check_axes,
    check_matplotlib,
    check_width,
    clipped,
    label_rows,
    panel_axes,
    points,
    settle,
    short_names,
    tidy,
)

KINDS = "curves", "ec50"
NEEDED = {
    "curves": ["perturbation", "latent", "shape", "q", "maximum", "hill"]
    + ["ec50", "ec50_lower", "ec50_upper"],
    "doses": ["perturbation", "latent", "dose", "shift", "lower", "upper", "fitted"],
}
PANEL = 1.9, 1.6  # inches
MARGIN = 0.3, 0.7
N_COLUMNS = 6
STYLES = [(colour, line) for line in ("-", "--", ":") for colour in COLOURS]  # of as many latents
OTHER = "0.6", "-"
ENTRY = 0.62  # inches of a latent in the legend
LONGEST, BLOCK, ROW = 50, 3.2, 0.16  # rows of a block; inches of a block and of a row
LEAST_BLOCK = 2.2
BEYOND = 1.0  # decades around the measured doses that are shown of intervals


class DoseResponseDisplay:
    """Curves through the shifts at each dose, or the doses of half the largest effect.

    Parameters
    ----------
    response : Bunch
        What :func:`skpert.inspection.dose_response` returns.

    Attributes
    ----------
    shown_ : DataFrame
        Rows of ``response.curves`` that are drawn, in the order of the figure.
    axes_, figure_ : ndarray of matplotlib Axes, matplotlib Figure
        A panel per perturbation, or per block of rows, and their figure.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> from skpert import VAE
    >>> from skpert.datasets import make_sparse_shift
    >>> from skpert.plotting import DoseResponseDisplay
    >>> screen = make_sparse_shift(5, n_cells_per_perturbation=40, n_control_cells=40, n_latent=3,
    ...                            n_genes=50, random_state=0)
    >>> model = VAE(n_latent=3, max_epochs=2, random_state=0).fit(screen.X, screen.A)
    >>> A = pd.get_dummies(screen.A).drop(columns="control") * 1.0
    >>> A[::2] *= 10  # as if half of the cells had ten times the dose
    >>> DoseResponseDisplay.from_estimator(model, screen.X, A).shown_["shape"].isin(["none"]).sum()
    np.int64(0)
    """

    def __init__(self, response) -> None:
        self.response = response

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        A,
        *,
        replicate=None,
        fdr=0.05,
        level=0.95,
        kind="curves",
        axes=None,
        width=None,
    ) -> "DoseResponseDisplay":
        """Fit the curves of cells and draw them.

        Parameters
        ----------
        estimator, X, A, replicate, fdr, level : as in :func:`skpert.inspection.dose_response`
            Fitted model, cells, their dosages and their wells, and what is called a response.
        kind, axes, width : as in :meth:`plot`
            How it is drawn.

        Returns
        -------
        display : DoseResponseDisplay
            The figure, drawn.
        """
        found = dose_response(estimator, X, A, replicate=replicate, fdr=fdr, level=level)
        return cls(found).plot(axes, kind=kind, width=width)

    def plot(
        self,
        axes=None,
        *,
        kind: str = "curves",
        perturbations: str | list[str] | None = None,
        n_panels: int = 24,
        width: float | None = None,
    ) -> "DoseResponseDisplay":
        """Draw the curves.

        Parameters
        ----------
        axes : array-like of matplotlib Axes, default=None
            One for each panel; None makes a figure.
        kind : {"curves", "ec50"}, default="curves"
            ``"curves"``: a panel per perturbation, with a line for each latent that responds,
            dots for the shifts at each dose and whiskers for their intervals. ``"ec50"``: a row
            per perturbation, with a dot at the dose of half the effect for each latent that
            saturates, and its interval, clipped a decade beyond the doses; the most potent first.
        perturbations : str or list of str, default=None
            Which to show, in this order. None: those that respond, the clearest first (smallest q)
            for curves.
        n_panels : int, default=24
            Most panels of curves, unless ``perturbations`` are named.
        width : float, default=None
            Width in inches of a figure of our own: 3.5 suits one column of a page, 7.2 two. None:
            as wide as what is shown.

        Returns
        -------
        display : DoseResponseDisplay
            This object, with the attributes of the drawing.

        Raises
        ------
        ValueError
            If the tables lack columns, a perturbation is unknown, or axes are too few.
        """
        check_matplotlib(type(self))
        check_integer(n_panels, "n_panels", 1)
        check_width(width)
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {listed(KINDS, 2)}, got {kind!r}")
        curves, doses = _tables(self.response)
        names = as_list(perturbations)
        unknown = [name for name in names if name not in set(curves["perturbation"])]
        if unknown:
            raise ValueError(f"response has no perturbations {listed(unknown, 5)}")
        called = curves[curves["shape"] != "none"]
        styles = _styles(called, curves)
        if kind == "curves":
            chosen = names or called.sort_values("q")["perturbation"].unique()[:n_panels].tolist()
            self.shown_ = _in_order(called, chosen)
            self._plot_curves(axes, doses, chosen, styles, called, width)
        else:
            called = called[called["shape"] == "hill"].sort_values("ec50")
            chosen = names or called["perturbation"].unique().tolist()
            self.shown_ = _in_order(called, chosen)
            self._plot_ec50(axes, doses, chosen, styles, width)
        return self

    def _plot_curves(self, axes, doses, names, styles, called, width):
        n_panels = max(len(names), 1)
        own_figure = axes is None
        if own_figure:
            axes = panel_axes(n_panels, N_COLUMNS, PANEL, MARGIN, width=width, least=1.0)
        self.axes_ = check_axes(axes, n_panels, ", one per perturbation")
        self.figure_ = self.axes_[0].figure
        for ax, name in zip(self.axes_, names, strict=False):
            own = self.shown_[self.shown_["perturbation"] == name]
            of_name = doses[doses["perturbation"] == name]
            for row in own.itertuples():
                points = of_name[of_name["latent"] == row.latent]
                _draw_curve(ax, points, row, styles[row.latent])
            ax.set_xscale("log")
            low, high = of_name["dose"].min(), of_name["dose"].max()
            ax.set_xlim(low / (high / low) ** 0.08, high * (high / low) ** 0.08)
            ax.axhline(0, color="0.6", linewidth=0.8, zorder=0)
            tidy(ax)
            ax.set_title(clipped(name, 20), fontsize=TEXT)
        if not names:
            _say_nothing(self.axes_[0], "no dose has an effect")
        n_left = called["perturbation"].nunique() - self.shown_["perturbation"].nunique()
        label = self.figure_ if own_figure else self.axes_[0]
        (label.supxlabel if own_figure else label.set_xlabel)("dose", fontsize=TEXT)
        shift = "shift of the latent (prior s.d.)"
        (label.supylabel if own_figure else label.set_ylabel)(shift, fontsize=TEXT)
        _draw_legend(self.figure_, self.axes_[0], styles, self.shown_, n_left)
        _fit_decades(self.figure_, self.axes_)

    def _plot_ec50(self, axes, doses, names, styles, width):
        most = len(names) if width is None else max(int(width / LEAST_BLOCK), 1)
        n_blocks = min(max(-(-len(names) // LONGEST), 1), most) or 1
        parts = np.array_split(np.array(names, dtype=object), n_blocks)
        length = max(map(len, parts))
        size = BLOCK, float(np.clip(0.8 + ROW * length, 1.8, 10))
        if axes is None:
            options = {"width": width, "least": LEAST_BLOCK, "lowest": 1}
            axes = panel_axes(n_blocks, n_blocks, size, MARGIN, **options)
        self.axes_ = check_axes(axes, n_blocks, ", one per block of rows")
        self.figure_ = self.axes_[0].figure
        within = 10**BEYOND
        limits = doses["dose"].min() / within, doses["dose"].max() * within
        for ax, part in zip(self.axes_, parts, strict=True):
            ax.set(xscale="log", xlim=limits, ylim=(max(length, 1) - 0.5, -0.5))
            for i, name in enumerate(part):
                own = self.shown_[self.shown_["perturbation"] == name]
                _draw_intervals(ax, i, own, limits, styles)
                if i % 2:
                    ax.axhspan(i - 0.5, i + 0.5, color="0.96", zorder=0, linewidth=0)
            ax.tick_params(axis="y", length=0)
            tidy(ax)
            ax.spines["left"].set_visible(False)
            ax.set_xlabel("dose of half the effect", fontsize=TEXT)
        if not names:
            _say_nothing(self.axes_[0], "no effect saturates")
        _draw_legend(self.figure_, self.axes_[0], styles, self.shown_, 0)
        _label_blocks(self.axes_, parts, length)
        _fit_decades(self.figure_, self.axes_)
        _label_blocks(self.axes_, parts, length)


def _label_blocks(axes, parts, length):
    """Names of rows of blocks of one length."""
    for ax, part in zip(axes, parts, strict=True):
        if len(part):
            label_rows(ax, list(part) + [""] * (length - len(part)))


def _fit_decades(figure, axes):
    """Numbers at as many powers of ten as a panel has room for, and none between them."""
    from matplotlib.ticker import LogLocator, NullLocator

    settle(figure)
    for ax in axes:
        if ax.get_xscale() == "log":
            n_numbers = int(np.clip(points(ax, "width") / 26, 2, 6))
            ax.xaxis.set_major_locator(LogLocator(numticks=n_numbers))
            ax.xaxis.set_minor_locator(NullLocator())


def _tables(response):
    """Both tables, with all columns that are drawn."""
    for name, columns in NEEDED.items():
        table = response.get(name) if isinstance(response, Mapping) else None
        missing = columns if table is None else [c for c in columns if c not in table]
        if missing:
            raise ValueError(
                f"response has no {name} with columns {listed(missing, 5)}: give what "
                "skpert.inspection.dose_response returns"
            )
    return response["curves"], response["doses"]


def _styles(called, curves):
    """Colour and line of each latent; those with most responses have one of their own."""
    order = [name for name in curves["latent"].unique() if name in set(called["latent"])]
    most = called["latent"].value_counts().index[: len(STYLES)]
    own = [name for name in order if name in set(most)]
    return dict.fromkeys(order, OTHER) | dict(zip(own, STYLES, strict=False))


def _in_order(table, names):
    """Rows of these perturbations, in their order."""
    place = {name: i for i, name in enumerate(names)}
    rows = table[table["perturbation"].isin(place)]
    return rows.iloc[np.argsort(rows["perturbation"].map(place).to_numpy(), kind="stable")]


def _draw_curve(ax, points, row, style):
    """Dots, whiskers and the best curve of one latent."""
    dose, fitted = points["dose"].to_numpy(), points["fitted"].to_numpy()
    error = np.stack([points["shift"] - points["lower"], points["upper"] - points["shift"]])
    colour, line = style
    whiskers = {"fmt": "o", "markersize": 2.5, "elinewidth": 0.8}
    ax.errorbar(dose, points["shift"], error, color=colour, **whiskers)
    at = np.geomspace(dose[0], dose[-1], 100)
    basis = at if row.shape == "linear" else log_dose(at, dose[0])
    basis = hill(at, row.ec50, row.hill) if row.shape == "hill" else basis
    share = (basis - basis[0]) / (basis[-1] - basis[0])  # of the way to the last dose
    values = fitted[0] + share * (fitted[-1] - fitted[0])
    ax.plot(at, values, line, color=colour, linewidth=1.2)
    if row.shape == "hill" and dose[0] <= row.ec50 <= dose[-1]:
        ax.plot(row.ec50, np.interp(row.ec50, at, values), "x", color=colour, markersize=5)


def _draw_intervals(ax, i, rows, limits, styles):
    """Dots and whiskers of one perturbation, latents below each other."""
    for k, row in enumerate(rows.itertuples()):
        y = i + (k - (len(rows) - 1) / 2) * 0.7 / max(len(rows), 2)
        colour, line = styles[row.latent]
        ends = np.clip([row.ec50_lower, row.ec50_upper], *limits)
        ax.plot(ends, [y, y], line, color=colour, linewidth=1.2, solid_capstyle="butt")
        if limits[0] <= row.ec50 <= limits[1]:
            ax.plot(row.ec50, y, "o", color=colour, markersize=3.5)
        for end, edge, marker in ((ends[0], limits[0], "<"), (ends[1], limits[1], ">")):
            if end == edge:
                ax.plot(edge, y, marker, color=colour, markersize=4, clip_on=False)


def _say_nothing(ax, text):
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", fontsize=TEXT)
    ax.set_yticks([])


def _draw_legend(figure, ax, styles, shown, n_left):
    """Latents above all panels, and how many perturbations are not shown."""
    drawn = {name: style for name, style in styles.items() if name in set(shown["latent"])}
    named = {name: style for name, style in drawn.items() if style != OTHER}
    pairs = list(zip(short_names(list(named)), named.values(), strict=True))
    pairs += [("other", OTHER)] if len(named) < len(drawn) else []
    handles = [
        ax.plot([], [], f"o{line}", color=colour, markersize=3, label=label)[0]
        for label, (colour, line) in pairs
    ]
    if handles:
        n_columns = int(figure.get_figwidth() / (ENTRY + 0.07 * max(len(p[0]) for p in pairs)))
        options = {
            "fontsize": SMALL,
            "title_fontsize": SMALL,
            "frameon": False,
            "borderaxespad": 0.2,
        }
        options["title"] = f"latent ({n_left} more perturbations respond)" if n_left else "latent"
        options["ncols"] = min(max(n_columns, 1), len(handles))
        figure.legend(handles=handles, loc="outside upper left", **options)
