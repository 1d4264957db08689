"""The map of which latents each perturbation moves."""

import numpy as np
from sklearn.utils.validation import check_is_fitted

from .._input.values import listed
from ..preprocessing._confounding import confounding_of
from ._shared import (
    COLUMN,
    check_matplotlib,
    cluster_rows,
    draw_colorbar,
    draw_map,
    draw_tree,
    effects,
    label_latents,
    map_axes,
    order_columns,
)


class TargetsDisplay:
    """Map of which latents each perturbation moves, and how far.

    Rows are perturbations in the order of a hierarchical clustering of their effects at unit
    length (average linkage), so that those of one programme stand together whatever their
    strength; perturbations that move nothing stand at the bottom. Columns are the latents that
    some perturbation moves, from those of the first rows to those of the last.

    Parameters
    ----------
    targets : DataFrame of shape (n_perturbations, n_latent)
        Effect of each perturbation on each latent, zero where it has none.
    confounded : DataFrame, default=None
        Perturbations whose effect may be that of another column of the design, which a dagger
        marks: ``confounded_`` of a :class:`~skpert.preprocessing.PerturbationEncoder`.

    Attributes
    ----------
    ordered_ : DataFrame of shape (n_perturbations, n_targeted)
        What is drawn, in the order of the figure from the top and from the left.
    im_, colorbar_ : matplotlib AxesImage, matplotlib Colorbar
        The map and, above it, the scale of its colours; ``im_.set_clim(-2, 2)`` sets other limits
        of the colours than the largest effect.
    ax_, dendrogram_ax_, figure_ : matplotlib Axes, matplotlib Figure
        Axes of the map and of the dendrogram at its left, and their figure.

    Examples
    --------
    >>> from skpert import SVAEPlus
    >>> from skpert.datasets import make_sparse_shift
    >>> from skpert.plotting import TargetsDisplay
    >>> screen = make_sparse_shift(5, n_cells_per_perturbation=40, n_control_cells=40, n_latent=3,
    ...                            n_genes=50, random_state=0)
    >>> model = SVAEPlus(n_latent=3, max_epochs=2, random_state=0).fit(screen.X, screen.A)
    >>> display = TargetsDisplay.from_estimator(model)
    >>> display.ordered_.shape
    (5, 3)
    """

    def __init__(self, targets, confounded=None):
        self.targets = targets
        self.confounded = confounded

    @classmethod
    def from_estimator(cls, estimator, *, ax=None, cmap="RdBu_r"):
        """Draw the map of a fitted estimator.

        Parameters
        ----------
        estimator : estimator
            With ``targets_``, or else with ``embedding_``, all of which is then drawn; one without
            either is a ValueError. Perturbations that are confounded are marked.
        ax, cmap : as in :meth:`plot`
            How it is drawn.

        Returns
        -------
        display : TargetsDisplay
            The map, drawn.
        """
        check_is_fitted(estimator)
        return cls(effects(estimator), confounding_of(estimator)).plot(ax, cmap=cmap)

    def plot(self, ax=None, *, cmap="RdBu_r"):
        """Draw the map.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure whose size follows from the number of rows.
        cmap : str or matplotlib Colormap, default="RdBu_r"
            Diverging colours, the middle of which is zero.

        Returns
        -------
        display : TargetsDisplay
            This object, with the attributes of the drawing.
        """
        check_matplotlib(type(self))
        values = self.targets.to_numpy(dtype=np.float64)
        rows, joints, n_moving = cluster_rows(values)
        self.ordered_ = self.targets.iloc[rows, order_columns(np.abs(values[rows]))]
        n_rows, n_columns = self.ordered_.shape
        if ax is None:
            ax = map_axes(np.clip(2.8 + COLUMN * n_columns, 4.5, 12), n_rows)
        self.ax_, self.figure_ = ax, ax.figure
        marks = {} if self.confounded is None else dict.fromkeys(self.confounded["perturbation"])
        marked = self.ordered_.rename(index={name: f"{name} †" for name in marks})
        self.im_ = draw_map(ax, marked, cmap)
        label_latents(ax, self.ordered_.columns, self.targets.shape[1] - n_columns)
        if not marks.keys().isdisjoint(self.ordered_.index):
            columns = listed(self.confounded["column"].unique(), 3)
            ax.set_xlabel(f"{ax.get_xlabel()}\n† confounded with {columns}")
        self.dendrogram_ax_ = draw_tree(ax, joints, n_moving)
        if n_moving < n_rows:
            _mark_silent(ax, self.dendrogram_ax_, n_moving, n_rows)
        self.colorbar_ = draw_colorbar(ax, self.im_, "shift (prior s.d.)")
        return self


def _mark_silent(ax, tree_ax, n_moving, n_rows):
    """Line and note at the rows without effect."""
    ax.axhline(n_moving - 0.5, color="0.6", linewidth=0.8)
    middle = (n_moving + n_rows - 1) / 2
    note = f"no target\n({n_rows - n_moving})"
    tree_ax.text(0, middle, note, ha="right", va="center", fontsize=8, color="0.35")
