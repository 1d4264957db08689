"""The map of what combinations do beyond the sum of their parts."""

import numpy as np

from .._input.values import listed
from ..inspection import interactions
from ._shared import (
    COLUMN,
    check_axes,
    check_matplotlib,
    cluster_rows,
    draw_colorbar,
    draw_map,
    draw_tree,
    label_latents,
    map_axes,
    order_columns,
)

NEEDED = ["combination", "latent", "interaction", "called", "kind"]
MARKERS = {"synergy": "^", "suppression": "v", "epistasis": "s", "emergent": "o"}
MARKED = 0.45  # of a cell of the map
LEAST_WIDTH, LEGEND = 4.5, 0.5  # inches: of the map, and of the legend below it


class InteractionsDisplay:
    """Map of called interactions: combinations in rows, latents in columns, kinds as symbols.

    Colours are effects beyond the sum of the parts; those that are not called are white. Rows are
    in the order of a hierarchical clustering at unit length. Combinations that add up stand at the
    bottom, latents without any interaction are left out.

    Parameters
    ----------
    interactions : DataFrame
        What :func:`skpert.inspection.interactions` returns.

    Attributes
    ----------
    ordered_ : DataFrame of shape (n_combinations, n_latents_shown)
        Interactions that are drawn, in the order of the map; zero where none is called.
    kinds_ : DataFrame of the same shape
        Kind of each, "additive" where none is called.
    ax_, figure_ : matplotlib Axes and Figure
        The map and its figure.
    im_, colorbar_ : matplotlib AxesImage and Colorbar
        Its colours and their scale.

    Examples
    --------
    >>> import pandas as pd
    >>> from skpert.plotting import InteractionsDisplay
    >>> table = pd.DataFrame({"combination": ["A+B", "A+C"], "latent": ["z0", "z0"],
    ...                       "interaction": [0.1, -2.0], "called": [False, True],
    ...                       "kind": ["additive", "suppression"]})
    >>> InteractionsDisplay(table).plot().ordered_["z0"].tolist()
    [-2.0, 0.0]
    """

    def __init__(self, interactions) -> None:
        self.interactions = interactions

    @classmethod
    def from_estimator(
        cls, estimator, *, fdr: float = 0.05, ax=None, cmap="RdBu_r"
    ) -> "InteractionsDisplay":
        """Draw the interactions of a fitted estimator.

        Parameters
        ----------
        estimator : estimator
            Fitted ``SAMSVAE(interactions=True)``.
        fdr : float, default=0.05
            False discovery rate at which interactions are called.
        ax, cmap : as in :meth:`plot`
            How they are drawn.

        Returns
        -------
        display : InteractionsDisplay
            The map, drawn.
        """
        return cls(interactions(estimator, fdr=fdr)).plot(ax, cmap=cmap)

    def plot(self, ax=None, *, cmap="RdBu_r") -> "InteractionsDisplay":
        """Draw the map.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        cmap : str or matplotlib Colormap, default="RdBu_r"
            Diverging colours, the middle of which is zero.

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
        effects, kinds = self._tables()
        rows, joints, n_moving = cluster_rows(effects.to_numpy())
        columns = order_columns(np.abs(effects.to_numpy()[rows]))
        self.ordered_, self.kinds_ = (part.iloc[rows, columns] for part in (effects, kinds))
        if ax is None:
            width = max(3.2 + COLUMN * len(columns), LEAST_WIDTH)
            ax = map_axes(min(width, 16), len(rows))
        (self.ax_,) = check_axes(ax, 1)
        self.figure_ = self.ax_.figure
        self.im_ = draw_map(self.ax_, self.ordered_, cmap)
        self._draw_kinds()
        why = "have no interaction"
        label_latents(self.ax_, self.ordered_.columns, effects.shape[1] - len(columns), why=why)
        draw_tree(self.ax_, joints, n_moving)
        self.colorbar_ = draw_colorbar(self.ax_, self.im_, "beyond the sum (s.d.)")
        return self

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
        box, shape = self.ax_.get_window_extent(), self.ordered_.shape
        side = min(box.height / shape[0], box.width / shape[1]) * 72 / self.figure_.dpi
        size = np.clip((MARKED * side) ** 2, 2, 40)
        for kind, marker in MARKERS.items():
            row, column = np.nonzero((self.kinds_ == kind).to_numpy())
            if len(row):
                style = {"c": "white", "edgecolors": "0.2", "linewidths": 0.6}
                self.ax_.scatter(column, row, s=size, marker=marker, label=kind, **style)
        if self.ax_.get_legend_handles_labels()[0]:
            self.ax_.legend(
                loc="upper left",
                bbox_to_anchor=(-0.02, -LEGEND * self.figure_.dpi / box.height),
                ncols=2,
                frameon=False,
                fontsize=8,
                handletextpad=0.2,
            )
