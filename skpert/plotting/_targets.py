"""The map of which latents each perturbation moves."""

import numpy as np
from sklearn.utils.validation import check_is_fitted

from .._effects import effects as table_of_effects
from .._input.values import listed
from ..inspection._enrichment import names_of
from ..preprocessing._confounding import confounding_of
from ._intervals import (
    blocks,
    draw_forest,
    draw_probabilities,
    fit_forest,
    forest_axes,
    forest_rows,
)
from ._shared import (
    COLUMN,
    SMALL,
    check_matplotlib,
    check_width,
    cluster_rows,
    draw_colorbar,
    draw_map,
    draw_nothing,
    draw_tree,
    effects,
    fit_maps,
    label_latents,
    map_axes,
    note_rest,
    order_columns,
    short_names,
    without_effect,
)

SURE = 0.9  # probability of an edge below which a circle marks it


class TargetsDisplay:
    """Map of which latents each perturbation moves, and how far.

    Rows are perturbations in the order of a hierarchical clustering of their effects at unit
    length (average linkage), so that those of one programme stand together whatever their
    strength. Those that move nothing are counted in one line below. Columns are the latents that
    some perturbation moves, from those of the first rows to those of the last; another fit may
    have them in another order and with other signs. A circle marks edges of low probability.

    Parameters
    ----------
    targets : DataFrame of shape (n_perturbations, n_latent)
        Effect of each perturbation on each latent, zero where it has none.
    confounded : DataFrame, default=None
        Perturbations whose effect may be that of another column of the design, which a dagger
        marks: ``confounded_`` of a :class:`~skpert.preprocessing.PerturbationEncoder`.
    edges : DataFrame, default=None
        Probabilities, and intervals for ``kind="intervals"``: the table of
        :func:`skpert.inspection.effects`, or its columns ``perturbation``, ``latent``, ``lower``,
        ``upper`` and ``probability``, with a row for each effect in ``targets`` that is not zero.

    Attributes
    ----------
    ordered_ : DataFrame of shape (n_shown, n_targeted)
        What is drawn, in the order of the map from the top and from the left.
    silent_ : Index
        Perturbations without a row: those that move nothing, unless ``show_silent``.
    im_, colorbar_ : matplotlib AxesImage, matplotlib Colorbar
        The map and, above it, the scale of its colours; ``im_.set_clim(-2, 2)`` sets other limits
        of the colours than the largest effect. Only of a map, as is ``dendrogram_ax_``; None where
        no perturbation has a row.
    ax_, dendrogram_ax_, figure_ : matplotlib Axes, matplotlib Figure
        Axes of the map and of the dendrogram at its left, and their figure. Of intervals ``ax_``
        is the first of ``axes_``.
    rows_, axes_ : DataFrame, ndarray of matplotlib Axes
        Only of intervals: effects in the order of the figure, with a row that has but the name of
        the latent before those of each, and the axes of their blocks from the left.

    Examples
    --------
    >>> from skpert import SVAEPlus
    >>> from skpert.datasets import make_sparse_shift
    >>> from skpert.plotting import TargetsDisplay
    >>> screen = make_sparse_shift(5, n_cells_per_perturbation=40, n_control_cells=40, n_latent=3,
    ...                            n_genes=50, random_state=0)
    >>> model = SVAEPlus(n_latent=3, max_epochs=2, random_state=0).fit(screen.X, screen.A)
    >>> display = TargetsDisplay.from_estimator(model)
    >>> len(display.ordered_) + len(display.silent_)
    5
    """

    def __init__(self, targets, confounded=None, edges=None) -> None:
        self.targets = targets
        self.confounded = confounded
        self.edges = edges

    @classmethod
    def from_estimator(
        cls,
        estimator,
        *,
        ax=None,
        cmap="RdBu_r",
        kind="map",
        names=None,
        show_silent=False,
        width=None,
    ) -> "TargetsDisplay":
        """Draw the map of a fitted estimator.

        Parameters
        ----------
        estimator : estimator
            With ``targets_``, or else with ``embedding_``, all of which is then drawn; one without
            either is a ValueError. Perturbations that are confounded are marked.
        ax, cmap, kind, names, show_silent, width : as in :meth:`plot`
            How it is drawn; "intervals" of one without ``mask_probability_`` is a ValueError.

        Returns
        -------
        display : TargetsDisplay
            The map, drawn.
        """
        check_is_fitted(estimator)
        probable = kind == "intervals" or hasattr(estimator, "mask_probability_")
        edges = table_of_effects(estimator) if probable else None
        display = cls(effects(estimator), confounding_of(estimator), edges)
        return display.plot(
            ax, cmap=cmap, kind=kind, names=names, show_silent=show_silent, width=width
        )

    def plot(
        self,
        ax=None,
        *,
        cmap="RdBu_r",
        kind: str = "map",
        names=None,
        show_silent: bool = False,
        width: float | None = None,
    ) -> "TargetsDisplay":
        """Draw the map, or the effects with their intervals.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure whose size follows from the number of rows.
        cmap : str or matplotlib Colormap, default="RdBu_r"
            Diverging colours, the middle of which is zero.
        kind : {"map", "intervals"}, default="map"
            "map" is the matrix of effects. "intervals" is a list of them, latent by latent: a dot
            for each, whose area is the probability of the edge, and a line from ``lower`` to
            ``upper`` where there is an interval. Without ``ax`` a long list is in several blocks.
        names : dict of str to str or DataFrame, default=None
            What to call latents, or the table of :func:`skpert.inspection.enrich`, which names
            them as :func:`skpert.inspection.latent_names` does.
        show_silent : bool, default=False
            Whether perturbations that move nothing have rows of their own in a map, at the bottom.
        width : float, default=None
            Width in inches of a figure of our own: 3.5 suits one column of a page, 7.2 two. None:
            as wide as what is shown.

        Returns
        -------
        display : TargetsDisplay
            This object, with the attributes of the drawing.

        Raises
        ------
        ValueError
            If ``kind`` is neither, or "intervals" without ``edges`` of all targets, or ``names``
            are of neither form, of none of the latents, or the same for two of them.
        """
        check_matplotlib(type(self))
        check_width(width)
        named = names_of(names, self.targets.columns)
        if kind not in ("map", "intervals"):
            raise ValueError(f"kind must be 'map' or 'intervals', got {kind!r}")
        values = self.targets.to_numpy(dtype=np.float64)
        rows, joints, n_moving = cluster_rows(values)
        n_shown = len(rows) if show_silent else n_moving
        columns = order_columns(np.abs(values[rows]))
        self.ordered_ = self.targets.iloc[rows[:n_shown], columns]
        self.silent_ = self.targets.index[rows[n_shown:]]
        if kind == "intervals":
            return self._plot_intervals(ax, cmap, named, width)
        if ax is None:
            wide = np.clip(2.8 + COLUMN * len(columns), 4.5, 12) if width is None else width
            ax = map_axes(wide, n_shown + (n_shown < len(rows)))
        self.ax_, self.figure_ = ax, ax.figure
        if n_shown:
            self._plot_map(cmap, named, joints, n_moving)
        else:
            self.im_ = self.colorbar_ = self.dendrogram_ax_ = None
            draw_nothing(ax, without_effect(len(rows)))
        return self

    def _plot_map(self, cmap, named, joints, n_moving):
        ax, n_rows = self.ax_, len(self.ordered_)
        marked = self.ordered_.rename(index=self._marked())
        self.im_ = draw_map(ax, marked, cmap)
        shown = _names_of_latents(self.ordered_.columns, named)
        label_latents(ax, shown, self.targets.shape[1] - self.ordered_.shape[1])
        self._note_confounding(ax, self.ordered_.index)
        self._mark_unsure(ax)
        self.dendrogram_ax_ = draw_tree(ax, joints, n_moving)
        if n_moving < n_rows:
            _mark_silent(ax, self.dendrogram_ax_, n_moving, n_rows)
        note = note_rest(ax, without_effect(len(self.silent_))) if len(self.silent_) else None
        self.colorbar_ = draw_colorbar(ax, self.im_, "shift (prior s.d., sign arbitrary)")
        fit_maps(self.figure_, [(ax, marked.index, shown, self.colorbar_, note)])

    def _mark_unsure(self, ax):
        """Circles at edges of low probability, and what they mean."""
        if self.edges is None:
            return
        probability = self.edges.pivot(
            index="perturbation", columns="latent", values="probability"
        ).reindex(index=self.ordered_.index, columns=self.ordered_.columns)
        unsure = (self.ordered_ != 0) & (probability < SURE)
        row, column = np.nonzero(unsure.to_numpy())
        if len(row):
            ax.scatter(column, row, s=9, facecolors="none", edgecolors="0.2", linewidths=0.7)
            ax.set_xlabel(f"{ax.get_xlabel()}\n○ probability below {SURE:g}")

    def _plot_intervals(self, ax, cmap, named, width):
        if self.edges is None:
            raise ValueError(
                "kind='intervals' needs edges, the table of skpert.inspection.effects: give it to "
                "TargetsDisplay, or use TargetsDisplay.from_estimator"
            )
        self.rows_ = forest_rows(self.ordered_, self.edges)
        parts = blocks(self.rows_, width) if ax is None else [self.rows_]
        self.axes_ = forest_axes(parts, width) if ax is None else np.array([ax])
        self.ax_, self.figure_ = self.axes_[0], self.axes_[0].figure
        limit = self.rows_[["effect", "lower", "upper"]].abs().max(axis=None)
        limit = limit if limit > 0 else 1.0  # NaN without effects
        names = {name: name for name in self.ordered_.index} | self._marked()
        columns = self.ordered_.columns
        latents = dict(zip(columns, _names_of_latents(columns, named), strict=True))
        for block, part in zip(self.axes_, parts, strict=True):
            draw_forest(block, part, limit, names, latents, cmap)
        draw_probabilities(self.axes_[-1])
        self._note_confounding(self.ax_, self.rows_["perturbation"])
        fit_forest(self.axes_, parts, names)
        return self

    def _marked(self):
        """Names with a dagger, of perturbations that are confounded."""
        if self.confounded is None:
            return {}
        return {name: f"{name} †" for name in self.confounded["perturbation"]}

    def _note_confounding(self, ax, shown):
        """Say below what the dagger means, if one is shown."""
        if not self._marked().keys().isdisjoint(shown):
            columns = listed(self.confounded["column"].unique(), 3)
            ax.set_xlabel(f"{ax.get_xlabel()}\n† confounded with {columns}")


def _names_of_latents(latents, named):
    """Names given, and short ones for the other latents."""
    short = short_names([str(latent) for latent in latents])
    return [named.get(latent, other) for latent, other in zip(latents, short, strict=True)]


def _mark_silent(ax, tree_ax, n_moving, n_rows):
    """Line and note at the rows without effect."""
    ax.axhline(n_moving - 0.5, color="0.6", linewidth=0.8)
    middle = (n_moving + n_rows - 1) / 2
    note = f"no target\n({n_rows - n_moving})"
    tree_ax.text(0, middle, note, ha="right", va="center", fontsize=SMALL, color="0.35")
