"""Figures of fitted models; matplotlib is imported when one is drawn."""

import re

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import pdist
from sklearn.preprocessing import normalize
from sklearn.utils.validation import check_is_fitted

__all__ = ["HistoryDisplay", "TargetsDisplay"]

_ROW, _COLUMN = 0.19, 0.32  # inches of a row and a column in a figure of our own
_FONT_SIZES = 4.5, 6.0, 9.0  # smallest of all labels, that of some of them, largest
_N_OPTIMAL = 500  # perturbations up to which the order of the clustering is refined


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

    Attributes
    ----------
    ordered_ : DataFrame of shape (n_perturbations, n_targeted)
        What is drawn, in the order of the figure from the top and from the left.
    im_ : matplotlib AxesImage
        The map; ``im_.set_clim(-2, 2)`` sets other limits of the colours than the largest effect.
    ax_, dendrogram_ax_ : matplotlib Axes
        Axes of the map and of the dendrogram at its left.
    colorbar_ : matplotlib Colorbar
        Scale of the colours, above it.
    figure_ : matplotlib Figure
        Figure that holds them.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("Agg")
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

    def __init__(self, targets):
        self.targets = targets

    @classmethod
    def from_estimator(cls, estimator, *, ax=None, cmap="RdBu_r"):
        """Draw the map of a fitted estimator.

        Parameters
        ----------
        estimator : estimator
            With ``targets_``, or else with ``embedding_``, all of which is then drawn.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure whose size follows from the number of rows.
        cmap : str or matplotlib Colormap, default="RdBu_r"
            Diverging colours, the middle of which is zero.

        Returns
        -------
        display : TargetsDisplay
            The map, drawn.

        Raises
        ------
        ValueError
            If the estimator learns no effects on latents.
        """
        check_is_fitted(estimator)
        return cls(_effects(estimator)).plot(ax, cmap=cmap)

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
        _check_matplotlib(type(self))
        self.ordered_, brackets, n_moving = _ordered(self.targets)
        n_rows, n_columns = self.ordered_.shape
        self.ax_ = _axes(n_rows, n_columns) if ax is None else ax
        self.figure_ = self.ax_.figure
        values = self.ordered_.to_numpy()
        limit = np.abs(values).max() or 1.0
        self.im_ = self.ax_.imshow(
            values, cmap, vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest"
        )
        _label(self.ax_, self.ordered_, self.targets.shape[1])
        self.dendrogram_ax_ = _draw_tree(self.ax_, brackets, n_moving, n_rows)
        self.colorbar_ = _draw_colorbar(self.ax_, self.im_)
        return self


def _effects(estimator):
    """DataFrame of effects, of all of the embedding where there are no targets."""
    if hasattr(estimator, "targets_"):
        return estimator.targets_
    if not hasattr(estimator, "embedding_"):
        raise ValueError(f"{type(estimator).__name__} learns no effects of perturbations")
    return pd.DataFrame(
        estimator.embedding_,
        index=pd.Index(estimator.perturbations_, name="perturbation"),
        columns=estimator.get_feature_names_out(),
    )


def _ordered(targets):
    """Rows and columns as drawn, the dendrogram of the rows that move, and their number."""
    effects = targets.to_numpy(dtype=np.float64)
    moving = np.flatnonzero(effects.any(axis=1))
    silent = np.flatnonzero(~effects.any(axis=1))
    brackets = []
    if len(moving) > 1:
        distance = pdist(normalize(effects[moving]))
        tree = linkage(distance, "average", optimal_ordering=len(moving) <= _N_OPTIMAL)
        brackets, moving = _brackets(tree), moving[leaves_list(tree)]
    strength = np.abs(effects[moving])
    targeted = np.flatnonzero(strength.any(axis=0))
    # latents by the mean position of what moves them, so that blocks run along the diagonal
    position = np.arange(len(moving)) @ strength[:, targeted] / strength[:, targeted].sum(axis=0)
    columns = targeted[np.argsort(position, kind="stable")]
    if not len(columns):
        columns = np.arange(effects.shape[1])
    return targets.iloc[np.concatenate([moving, silent]), columns], brackets, len(moving)


def _brackets(tree):
    """Lines of a dendrogram, (4, 2) arrays of height and row; scipy's recursion ends too soon."""
    n_leaves = len(tree) + 1
    row, height = np.empty(2 * n_leaves - 1), np.zeros(2 * n_leaves - 1)
    row[leaves_list(tree)] = np.arange(n_leaves)
    brackets = []
    for node, (a, b, top, _) in enumerate(tree, start=n_leaves):
        a, b = int(a), int(b)
        brackets.append(np.c_[[height[a], top, top, height[b]], row[[a, a, b, b]]])
        row[node], height[node] = (row[a] + row[b]) / 2, top
    return brackets


def _axes(n_rows, n_columns):
    """Axes of a new figure that fits so many rows and columns."""
    import matplotlib.pyplot as plt

    size = np.clip(2.8 + _COLUMN * n_columns, 4.5, 12), np.clip(1.6 + _ROW * n_rows, 3, 14)
    return plt.subplots(figsize=size, layout="constrained")[1]


def _label(ax, ordered, n_latent):
    """Names of rows at the right, as many as can be read, and of latents below."""
    n_rows, n_columns = ordered.shape
    box = ax.get_window_extent()
    points = 72 / ax.figure.dpi
    size, step = _font(box.height * points / n_rows)
    ax.set_yticks(range(0, n_rows, step), ordered.index[::step].astype(str), fontsize=size)
    space = box.width * points / n_columns
    size, step = _font(space)
    names = _short([str(name) for name in ordered.columns])
    upright = 0.7 * size * max(map(len, names)) > space  # too wide to lie side by side
    ax.set_xticks(range(0, n_columns, step), names[::step], fontsize=size, rotation=90 * upright)
    ax.tick_params(length=0, labelright=True, labelleft=False)
    ax.spines[:].set_visible(False)
    n_dropped = n_latent - n_columns
    ax.set_xlabel(f"latent ({n_dropped} more are moved by nothing)" if n_dropped else "latent")


def _font(space):
    """Font size for labels with so many points each, and which of them to show."""
    smallest, some, largest = _FONT_SIZES
    size = min(0.85 * space, largest)
    return (size, 1) if size >= smallest else (some, int(np.ceil(some / size)))


def _short(names):
    """Names without what all have in common before a number: svaeplus3 is 3."""
    numbers = [re.fullmatch(r"(\D+)(\d+)", name) for name in names]
    if all(numbers) and len({number[1] for number in numbers}) == 1:
        return [number[2] for number in numbers]
    return names


def _draw_tree(ax, brackets, n_moving, n_rows):
    """Dendrogram left of the map, whose leaves are its rows."""
    from matplotlib.collections import LineCollection

    tree_ax = ax.inset_axes([-0.2, 0, 0.18, 1], sharey=ax)
    width = 0.8 if n_moving < 200 else 0.3
    tree_ax.add_collection(LineCollection(brackets, colors="0.35", linewidths=width))
    tree_ax.set_xlim(2, 0)  # the largest distance of two directions
    tree_ax.axis("off")
    if n_moving < n_rows:
        ax.axhline(n_moving - 0.5, color="0.6", linewidth=0.8)
        middle = (n_moving + n_rows - 1) / 2
        note = f"no target\n({n_rows - n_moving})"
        tree_ax.text(0, middle, note, ha="right", va="center", fontsize=8, color="0.35")
    return tree_ax


def _draw_colorbar(ax, im):
    """Scale above the map, of the same size in inches whatever the map's."""
    box = ax.get_window_extent()
    inch_y, inch_x = ax.figure.dpi / box.height, ax.figure.dpi / box.width
    scale_ax = ax.inset_axes([0, 1 + 0.12 * inch_y, min(1, 3 * inch_x), 0.1 * inch_y])
    colorbar = ax.figure.colorbar(im, cax=scale_ax, orientation="horizontal")
    scale_ax.xaxis.set_ticks_position("top")
    scale_ax.xaxis.set_label_position("top")
    colorbar.set_label("shift (prior s.d.)")
    colorbar.outline.set_visible(False)
    return colorbar


class HistoryDisplay:
    """Course of the training: each term of the loss and the validation ELBO, by epoch.

    The scale of each panel follows the later nine tenths of the epochs, so that the steep start
    does not flatten what comes after it.

    Parameters
    ----------
    history : DataFrame of shape (n_epochs, n_columns)
        ``history_`` of an estimator.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes of shape (n_panels,)
        A panel per term of the loss, in the order of the columns; the last is the validation
        ELBO, where there is one.
    lines_ : dict of str to matplotlib Line2D
        The curves, by column of ``history``.
    figure_ : matplotlib Figure
        Figure that holds them.
    """

    def __init__(self, history):
        self.history = history

    @classmethod
    def from_estimator(cls, estimator, *, axes=None):
        """Draw the history of a fitted estimator.

        Parameters
        ----------
        estimator : estimator
            With ``history_``.
        axes : array of matplotlib Axes of shape (n_panels,), default=None
            Where to draw; None makes a figure.

        Returns
        -------
        display : HistoryDisplay
            The curves, drawn.
        """
        check_is_fitted(estimator)
        return cls(estimator.history_).plot(axes)

    def plot(self, axes=None):
        """Draw the curves.

        Parameters
        ----------
        axes : array of matplotlib Axes of shape (n_panels,), default=None
            Where to draw; None makes a figure.

        Returns
        -------
        display : HistoryDisplay
            This object, with the attributes of the drawing.

        Raises
        ------
        ValueError
            If no epoch was run, as in an ``adapt`` without training, or ``axes`` are too few.
        """
        _check_matplotlib(type(self))
        terms = [c for c in self.history if c != "phase" and not c.startswith("validation_")]
        panels = terms + [c for c in self.history if c == "validation_elbo"]
        if not panels:
            raise ValueError("there is no epoch to show: nothing was left to train")
        self.axes_ = np.ravel(_panels(len(panels)) if axes is None else axes)
        if len(self.axes_) != len(panels):
            raise ValueError(f"axes must be {len(panels)}, for {panels}; got {len(self.axes_)}")
        self.figure_ = self.axes_[0].figure
        self.lines_ = {}
        for ax, name in zip(self.axes_, panels, strict=True):
            self._plot_panel(ax, name)
        self.axes_[0].set_ylabel("nats per cell")
        return self

    def _plot_panel(self, ax, name):
        labels = {name: "training cells", f"validation_{name}": "held-out cells"}
        if name == "validation_elbo":
            labels = {name: "held-out cells"}
        curves = self.history[[column for column in labels if column in self.history]]
        for column, values in curves.items():
            colour = "C1" if labels[column] == "held-out cells" else "C0"
            [self.lines_[column]] = ax.plot(values, colour, linewidth=1.2, label=labels[column])
        late = curves.iloc[len(curves) // 10 :]
        low, high = late.min().min(), late.max().max()
        margin = 0.08 * (high - low) or 1.0
        ax.set(ylim=(low - margin, high + margin), xlabel="epoch", title=name)
        if name == "validation_elbo":
            best = self.history[name].idxmax()
            ax.axvline(best, color="0.6", linestyle=":", label=f"best epoch, {best}")
            ax.set_title("ELBO")
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, fontsize=8)


def _panels(n_panels):
    """Axes of a new figure, at most four in a row."""
    import matplotlib.pyplot as plt

    n_columns = min(n_panels, 4)
    n_rows = -(-n_panels // n_columns)
    figure = plt.figure(figsize=(2.9 * n_columns, 2.6 * n_rows), layout="constrained")
    return [figure.add_subplot(n_rows, n_columns, i + 1) for i in range(n_panels)]


def _check_matplotlib(display):
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        message = f"{display.__name__} needs matplotlib: pip install 'skpert[plot]'"
        raise ImportError(message) from error
