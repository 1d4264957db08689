"""The map of what combinations do beyond the sum of their parts."""

import numpy as np

from .._input.values import listed
from ..inspection import interactions
from ._shared import (
    COLUMN,
    SMALL,
    check_axes,
    check_matplotlib,
    check_width,
    cluster_rows,
    draw_colorbar,
    draw_map,
    draw_nothing,
    draw_tree,
    fit_maps,
    label_latents,
    map_axes,
    note_rest,
    order_columns,
    points,
    short_names,
)

NEEDED = ["combination", "latent", "interaction", "called", "kind"]
MARKERS = {"synergy": "^", "suppression": "v", "epistasis": "s", "emergent": "o"}
MARKED = 0.45  # of a cell of the map
LEAST_WIDTH, LEGEND = 4.5, 30  # inches of the map, and points from it to the legend below


class InteractionsDisplay:
    """Map of called interactions: combinations in rows, latents in columns, kinds as symbols.

    Colours are effects beyond the sum of the parts; those that are not called are white. Rows are
    in the order of a hierarchical clustering at unit length. Combinations that add up are counted
    in one line below, latents without any interaction are left out.

    Parameters
    ----------
    interactions : DataFrame
        What :func:`skpert.inspection.interactions` returns.

    Attributes
    ----------
    ordered_ : DataFrame of shape (n_shown, n_latents_shown)
        Interactions that are drawn, in the order of the map; zero where none is called.
    silent_ : Index
        Combinations without a row: those that add up.
    kinds_ : DataFrame of the same shape
        Kind of each, "additive" where none is called.
    ax_, figure_ : matplotlib Axes and Figure
        The map and its figure.
    im_, colorbar_ : matplotlib AxesImage and Colorbar
        Its colours and their scale; None where all combinations add up.

    Examples
    --------
    >>> import pandas as pd
    >>> from skpert.plotting import InteractionsDisplay
    >>> table = pd.DataFrame({"combination": ["A+B", "A+C"], "latent": ["z0", "z0"],
    ...                       "interaction": [0.1, -2.0], "called": [False, True],
    ...                       "kind": ["additive", "suppression"]})
    >>> InteractionsDisplay(table).plot().ordered_["z0"].tolist()
    [-2.0]
    """

    def __init__(self, interactions) -> None:
        self.interactions = interactions

    @classmethod
    def from_estimator(
        cls, estimator, *, fdr: float = 0.05, ax=None, cmap="RdBu_r", width=None
    ) -> "InteractionsDisplay":
        """Draw the interactions of a fitted estimator.

        Parameters
        ----------
        estimator : estimator
            Fitted ``SAMSVAE(interactions=True)``.
        fdr : float, default=0.05
            False discovery rate at which interactions are called.
        ax, cmap, width : as in :meth:`plot`
            How they are drawn.

        Returns
        -------
        display : InteractionsDisplay
            The map, drawn.
        """
        return cls(interactions(estimator, fdr=fdr)).plot(ax, cmap=cmap, width=width)

    def plot(self, ax=None, *, cmap="RdBu_r", width: float | None = None) -> "InteractionsDisplay":
        """Draw the map.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        cmap : str or matplotlib Colormap, default="RdBu_r"
            Diverging colours, the middle of which is zero.
        width : float, default=None
            Width in inches of a figure of our own: 3.5 suits one column of a page, 7.2 two. None:
            as wide as what is shown.

        Returns
        -------
        display : InteractionsDisplay
            This object, with the attributes of the drawing.

        Raises
        ------
        ValueError
            If columns are missing, a row comes twice, or there is no row.
        """
        check_matplotlib(type(self))
        check_width(width)
        effects, kinds = self._tables()
        rows, joints, n_moving = cluster_rows(effects.to_numpy())
        columns = order_columns(np.abs(effects.to_numpy()[rows]))
        self.silent_ = effects.index[rows[n_moving:]]
        rows = rows[:n_moving]
        self.ordered_, self.kinds_ = (part.iloc[rows, columns] for part in (effects, kinds))
        if ax is None:
            wide = np.clip(3.2 + COLUMN * len(columns), LEAST_WIDTH, 16)
            ax = map_axes(wide if width is None else width, len(rows) + 3)
        (self.ax_,) = check_axes(ax, 1)
        self.figure_ = self.ax_.figure
        if n_moving:
            self._plot_map(cmap, joints, effects.shape[1])
        else:
            self.im_ = self.colorbar_ = None
            draw_nothing(self.ax_, _rest(len(self.silent_)))
        return self

    def _plot_map(self, cmap, joints, n_latents):
        ax, frame, n_silent = self.ax_, self.ordered_, len(self.silent_)
        self.im_ = draw_map(ax, frame, cmap)
        label_latents(ax, frame.columns, n_latents - frame.shape[1], why="have no interaction")
        draw_tree(ax, joints, len(frame))
        note = note_rest(ax, _rest(n_silent)) if n_silent else None
        self.colorbar_ = draw_colorbar(ax, self.im_, "beyond the sum (prior s.d.)")
        self._draw_kinds()
        latents = short_names([str(name) for name in frame.columns])
        fit_maps(self.figure_, [(ax, frame.index, latents, self.colorbar_, note)])
        self._place_legend()

    def _tables(self):
        """Called interactions and their kinds, (n_combinations, n_latent)."""
        table = self.interactions
        missing = [name for name in NEEDED if name not in getattr(table, "columns", ())]
        if missing or not len(table):
            raise ValueError(
                f"interactions has {'no column ' + listed(missing, 5) if missing else 'no row'}: "
                "give what skpert.inspection.interactions returns"
            )
        twice = table.duplicated(["combination", "latent"])
        if twice.any():
            names = table.loc[twice, "combination"].unique()
            raise ValueError(f"interactions has several rows of one latent for {listed(names, 5)}")
        shown = table.assign(interaction=table["interaction"].where(table["called"], 0.0))
        wide = shown.pivot(index="combination", columns="latent")
        order = table["latent"].unique()
        order = sorted(order, key=lambda name: (len(str(name)), str(name)))
        effects = wide["interaction"][order].fillna(0.0).astype(np.float64)
        return effects, wide["kind"][order].fillna("additive")

    def _draw_kinds(self):
        """A symbol for each called interaction, and what it means."""
        shape = self.ordered_.shape
        side = min(points(self.ax_, "height") / shape[0], points(self.ax_, "width") / shape[1])
        size = np.clip((MARKED * side) ** 2, 2, 40)
        for kind, marker in MARKERS.items():
            row, column = np.nonzero((self.kinds_ == kind).to_numpy())
            if len(row):
                style = {"c": "white", "edgecolors": "0.2", "linewidths": 0.6}
                self.ax_.scatter(column, row, s=size, marker=marker, label=kind, **style)
        style = {"frameon": False, "fontsize": SMALL, "handletextpad": 0.2, "columnspacing": 1}
        legend = self.ax_.legend(loc="upper left", ncols=2, **style)
        for handle in legend.legend_handles:
            handle.set_sizes([20])
        self._place_legend()

    def _place_legend(self):
        """Below the name of the axis, whatever the height of the map."""
        above = -LEGEND / points(self.ax_, "height")
        self.ax_.get_legend().set_bbox_to_anchor((-0.02, above), self.ax_.transAxes)


def _rest(n_silent):
    return f"{n_silent} combination{'s add' if n_silent != 1 else ' adds'} up"
