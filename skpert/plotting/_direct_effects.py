"""The map of direct effects on genes, beside that of effects on latents."""

import numpy as np

from .._input.values import listed
from ._shared import (
    COLUMN,
    TEXT,
    check_axes,
    check_matplotlib,
    check_width,
    cluster_rows,
    draw_colorbar,
    draw_map,
    draw_nothing,
    draw_tree,
    effects,
    fit_maps,
    label_columns,
    label_latents,
    map_axes,
    note_rest,
    order_columns,
    points,
    short_names,
    without_effect,
)

NEEDED = ["perturbation", "gene", "log2_fold_change", "called", "target"]
LEAST = 6  # columns that a map is as wide as
LARGEST = 3.0  # log2 fold change from which colours do not deepen


class DirectEffectsDisplay:
    """Map of the genes that each perturbation changes directly, and of the latents it moves.

    Rows are perturbations in the order of a hierarchical clustering of both at unit length;
    those that change nothing are counted in one line below. Genes are those that some perturbation
    changes; a dot marks the gene that a perturbation is meant to act on.

    Parameters
    ----------
    direct : DataFrame
        What :func:`skpert.inspection.direct_effects` returns.
    targets : DataFrame of shape (n_perturbations, n_latent), default=None
        Effect of each perturbation on each latent, zero where it has none; None: genes alone.

    Attributes
    ----------
    ordered_ : DataFrame of shape (n_shown, n_changed_genes)
        Log2 fold changes that are drawn, in the order of the map; zero where none is called.
    silent_ : Index
        Perturbations without a row: those that change no gene and move no latent.
    axes_, figure_ : ndarray of matplotlib Axes, matplotlib Figure
        Axes of the map of latents, if there is one, and of that of genes; their figure.

    Examples
    --------
    >>> import pandas as pd
    >>> from skpert.plotting import DirectEffectsDisplay
    >>> direct = pd.DataFrame({"perturbation": ["JAK2", "JAK2", "SMAD4"],
    ...                        "gene": ["JAK2", "IRF1", "SMAD4"],
    ...                        "log2_fold_change": [-1.5, -0.2, -2.0],
    ...                        "called": [True, False, True], "target": [True, False, True]})
    >>> DirectEffectsDisplay(direct).plot().ordered_.columns.tolist()
    ['JAK2', 'SMAD4']
    """

    def __init__(self, direct, targets=None) -> None:
        self.direct = direct
        self.targets = targets

    @classmethod
    def from_estimator(
        cls, estimator, direct, *, axes=None, cmap="RdBu_r", width=None
    ) -> "DirectEffectsDisplay":
        """Draw direct effects beside the targets of a fitted estimator.

        Parameters
        ----------
        estimator : estimator
            With ``targets_``, or else with ``embedding_``.
        direct : DataFrame
            What :func:`skpert.inspection.direct_effects` returns for it.
        axes, cmap, width : as in :meth:`plot`
            How it is drawn.

        Returns
        -------
        display : DirectEffectsDisplay
            The maps, drawn.
        """
        return cls(direct, effects(estimator)).plot(axes, cmap=cmap, width=width)

    def plot(
        self, axes=None, *, cmap="RdBu_r", width: float | None = None
    ) -> "DirectEffectsDisplay":
        """Draw the maps.

        Parameters
        ----------
        axes : array-like of matplotlib Axes, default=None
            Two with ``targets``, else one; None makes a figure.
        cmap : str or matplotlib Colormap, default="RdBu_r"
            Diverging colours, the middle of which is zero.
        width : float, default=None
            Width in inches of a figure of our own: 3.5 suits one column of a page, 7.2 two. None:
            as wide as what is shown.

        Returns
        -------
        display : DirectEffectsDisplay
            This object, with the attributes of the drawing.

        Raises
        ------
        ValueError
            If columns are missing, or perturbations of ``direct`` are not in ``targets``.
        """
        check_matplotlib(type(self))
        check_width(width)
        changes, own = self._tables()
        parts = [changes] if self.targets is None else [self._targets_of(changes), changes]
        scaled = [part.to_numpy() / max(np.abs(part.to_numpy()).max(), 1e-12) for part in parts]
        rows, joints, n_moving = cluster_rows(np.hstack(scaled))
        self.silent_ = changes.index[rows[n_moving:]]
        rows = rows[:n_moving]
        parts = [p.iloc[rows, order_columns(np.abs(p.to_numpy()[rows]))] for p in parts]
        self.ordered_ = parts[-1]
        if axes is None:
            wide = 3.2 + COLUMN * sum(max(p.shape[1], LEAST) for p in parts)
            wide = np.clip(wide, 5, 16) if width is None else width
            axes = map_axes(wide, len(rows) + 3, len(parts))
        self.axes_ = check_axes(axes, len(parts), " (latents and genes)" * (len(parts) > 1))
        self.figure_ = self.axes_[0].figure
        if n_moving:
            _share_width(self.axes_, parts)
            self._plot_maps(parts, own, cmap, joints)
        else:
            for ax in self.axes_[1:]:
                ax.axis("off")
            draw_nothing(self.axes_[0], without_effect(len(self.silent_)))
        return self

    def _plot_maps(self, parts, own, cmap, joints):
        maps = []
        if len(parts) > 1:
            colorbar = self._draw_latents(self.axes_[0], parts[0], cmap)
            names = short_names([str(name) for name in parts[0].columns])
            maps.append((self.axes_[0], None, names, colorbar, None))
        colorbar = self._draw_genes(self.axes_[-1], own, cmap)
        draw_tree(self.axes_[0], joints, len(self.ordered_))
        maps.append((self.axes_[-1], self.ordered_.index, _genes(self.ordered_), colorbar, None))
        if len(self.silent_):  # rows are shared: one line makes room in both maps
            maps[0] = (*maps[0][:-1], note_rest(self.axes_[0], without_effect(len(self.silent_))))
        fit_maps(self.figure_, maps)

    def _tables(self):
        """Called log2 fold changes and targets, (n_perturbations, n_genes)."""
        missing = [name for name in NEEDED if name not in getattr(self.direct, "columns", ())]
        if missing:
            raise ValueError(
                f"direct has no column {listed(missing, 5)}: give what "
                "skpert.inspection.direct_effects returns"
            )
        table = self.direct
        change = table["log2_fold_change"].where(table["called"], 0.0)
        wide = table.assign(change=change).pivot(index="perturbation", columns="gene")
        changes = wide["change"].fillna(0.0)
        return changes, wide["target"].reindex_like(changes).fillna(0).astype(bool)

    def _targets_of(self, changes):
        absent = changes.index.difference(self.targets.index)
        if len(absent):
            raise ValueError(f"targets has no rows {listed(list(absent), 5)}, which direct has")
        return self.targets.loc[changes.index].astype(np.float64)

    def _draw_latents(self, ax, frame, cmap):
        im = draw_map(ax, frame, cmap)
        ax.tick_params(labelright=False)
        label_latents(ax, frame.columns)
        return draw_colorbar(ax, im, "shift (prior s.d.)")

    def _draw_genes(self, ax, own, cmap):
        frame = self.ordered_
        limit = min(max(frame.abs().max(axis=None), 0.1), LARGEST)
        im = draw_map(ax, frame, cmap, (-limit, limit))
        label_columns(ax, _genes(frame))
        row, column = np.nonzero((own.loc[frame.index, frame.columns] & (frame != 0)).to_numpy())
        ax.set_xlabel("gene (dot: target)" if len(row) else "gene", fontsize=TEXT)
        side = min(points(ax, "width") / frame.shape[1], points(ax, "height") / len(frame))
        ax.scatter(column, row, s=np.clip(0.12 * side**2, 2, 12), c="white", linewidths=0)
        return draw_colorbar(ax, im, "log2 fold change")


def _genes(frame):
    return [str(name) for name in frame.columns]


def _share_width(axes, parts):
    """Columns of both maps are about equally wide."""
    if len(axes) > 1 and axes[0].get_subplotspec() is not None:
        grid = axes[0].get_subplotspec().get_gridspec()
        grid.set_width_ratios([max(part.shape[1], LEAST) for part in parts])
