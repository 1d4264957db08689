"""Masks and embeddings by pathway."""

import textwrap

import numpy as np
from sklearn.utils.validation import check_is_fitted

from .._input.values import listed
from ._shared import (
    COLUMN,
    NARROW,
    SMALL,
    TEXT,
    check_axes,
    check_frame,
    check_matplotlib,
    check_width,
    clipped,
    cluster_rows,
    draw_colorbar,
    draw_map,
    fit_maps,
    label_latents,
    map_axes,
    named_rows,
    order_columns,
    points,
    read_pathways,
    short_names,
)

_OTHERS = "no pathway"
_LINE = 9.5  # points of a line of text
_LONGEST, _PER_INCH = 22, 3  # characters of a line of a name, and in an inch of the figure


class PathwayTargetsDisplay:
    """Masks, and beside them embeddings, of perturbations grouped by pathway.

    As in Figure 2 of Bereket and Karaletsos (SAMS-VAE, NeurIPS 2023). Pathways stand in the order
    in which they are given, and in each pathway perturbations with similar embeddings stand
    together. Columns are the latents that some perturbation shown moves with a probability above
    one half, from those of the first rows to those of the last.

    Parameters
    ----------
    probability : DataFrame of shape (n_perturbations, n_latent)
        Probability that a perturbation moves a latent, in [0, 1], or masks of 0 and 1.
    embedding : DataFrame of shape (n_perturbations, n_latent)
        Effect of each perturbation on each latent, with the same names.
    pathways : dict of str to list of str, or Series
        Members of each pathway, or the pathway of each perturbation, missing where it has none.
        Members that are not among the perturbations are ignored, and pathways without any
        other; a perturbation in several pathways stands in the first.
    show_others : bool, default=True
        Whether perturbations in no pathway stand below the others or are left out.

    Attributes
    ----------
    probability_, embedding_ : DataFrame of shape (n_shown, n_targeted)
        What is drawn, in the order of the figure.
    pathways_ : Series of shape (n_shown,)
        Pathway of each row, missing where it has none; categorical, in the order of the figure.
    axes_, figure_ : ndarray of matplotlib Axes of shape (2,), matplotlib Figure
        Axes of the masks and of the embeddings, and their figure.
    images_, colorbars_ : list of matplotlib AxesImage, list of matplotlib Colorbar
        These maps and their scales.

    Examples
    --------
    >>> import pandas as pd
    >>> from skpert.plotting import PathwayTargetsDisplay
    >>> mask = pd.DataFrame([[0.9, 0.1], [0.2, 1.0], [1.0, 0.0]], index=["A", "B", "C"])
    >>> display = PathwayTargetsDisplay(mask, 2 * mask, {"NER": ["B"], "40S": ["A", "D"]}).plot()
    >>> display.pathways_
    B    NER
    A    40S
    C    NaN
    Name: pathway, dtype: category
    Categories (2, ...): ['NER', '40S']
    """

    def __init__(self, probability, embedding, pathways, *, show_others: bool = True) -> None:
        self.probability = probability
        self.embedding = embedding
        self.pathways = pathways
        self.show_others = show_others

    @classmethod
    def from_estimator(
        cls,
        estimator,
        pathways,
        *,
        show_others=True,
        axes=None,
        cmaps=("Greys", "RdBu_r"),
        width=None,
    ) -> "PathwayTargetsDisplay":
        """Draw the masks and embeddings of a fitted estimator.

        Parameters
        ----------
        estimator : estimator
            With ``mask_probability_``, without which it is a ValueError, and ``embedding_``.
        pathways, show_others : as in :class:`PathwayTargetsDisplay`
            What is shown.
        axes, cmaps, width : as in :meth:`plot`
            How it is drawn.

        Returns
        -------
        display : PathwayTargetsDisplay
            The maps, drawn.
        """
        check_is_fitted(estimator)
        probability = named_rows(estimator, "mask_probability_")
        embedding = named_rows(estimator, "embedding_")
        return cls(probability, embedding, pathways, show_others=show_others).plot(
            axes, cmaps=cmaps, width=width
        )

    def plot(
        self, axes=None, *, cmaps=("Greys", "RdBu_r"), width: float | None = None
    ) -> "PathwayTargetsDisplay":
        """Draw the maps.

        Parameters
        ----------
        axes : array of matplotlib Axes of shape (2,), default=None
            Where to draw; None makes a figure whose size follows from the number of rows.
        cmaps : tuple of two str or matplotlib Colormap, default=("Greys", "RdBu_r")
            Colours of probabilities, and diverging ones of embeddings.
        width : float, default=None
            Width in inches of a figure of our own: 3.5 suits one column of a page, 7.2 two. None:
            as wide as what is shown.

        Returns
        -------
        display : PathwayTargetsDisplay
            This object, with the attributes of the drawing.

        Raises
        ------
        ValueError
            If no perturbation is in a pathway, ``probability`` is outside [0, 1] or has other
            names than ``embedding``, or ``axes`` are not two.
        """
        check_matplotlib(type(self))
        check_width(width)
        probability, embedding = _checked(self.probability, self.embedding)
        pathways = read_pathways(self.pathways, probability.index)
        rows = _grouped(embedding.to_numpy(), pathways, self.show_others)
        strength = probability.to_numpy()[rows]
        columns = order_columns(np.where(strength > 0.5, strength, 0))
        self.probability_ = probability.iloc[rows, columns]
        self.embedding_ = embedding.iloc[rows, columns]
        self.pathways_ = pathways.iloc[rows]
        if axes is None:
            wide = np.clip(3.8 + 2 * COLUMN * len(columns), 7, 16) if width is None else width
            axes = map_axes(wide, len(rows), 2)
        self.axes_ = check_axes(axes, 2, ", for masks and embeddings")
        self.figure_ = self.axes_[0].figure
        self._plot_maps(cmaps)
        n_dropped = probability.shape[1] - len(columns)
        label_latents(self.axes_[1], _latents(self.embedding_))
        label_latents(self.axes_[0], _latents(self.embedding_), n_dropped, why="are in no mask")
        self.axes_[0].xaxis.set_label_text(self.axes_[0].get_xlabel(), ha="left", x=0)
        self.axes_[1].set_xlabel("")  # that of the first is below both
        _draw_pathways(self.axes_, self.pathways_)
        names = [None, self.pathways_.index]
        fit_maps(
            self.figure_,
            [
                (ax, rows, _latents(self.embedding_), colorbar, None)
                for ax, rows, colorbar in zip(self.axes_, names, self.colorbars_, strict=True)
            ],
        )
        _place_names(self.axes_[0], self.pathways_)
        return self

    def _plot_maps(self, cmaps):
        drawn = [
            (self.probability_, (0, 1), "probability"),
            (self.embedding_, None, "embedding (prior s.d.)"),
        ]
        self.images_, self.colorbars_ = [], []
        for ax, cmap, (frame, limits, label) in zip(self.axes_, cmaps, drawn, strict=True):
            self.images_.append(draw_map(ax, frame, cmap, limits))
            self.colorbars_.append(draw_colorbar(ax, self.images_[-1], label))
        self.axes_[0].tick_params(labelright=False)


def _latents(frame):
    return short_names([str(name) for name in frame.columns])


def _checked(probability, embedding):
    """Both frames, with the rows and columns of the first."""
    probability = check_frame(probability, "probability")
    embedding = check_frame(embedding, "embedding")
    if (probability < 0).any(axis=None) or (probability > 1).any(axis=None):
        low, high = probability.min(axis=None), probability.max(axis=None)
        raise ValueError(f"probability must be in [0, 1]; got {low:.3g} to {high:.3g}")
    for what in ("index", "columns"):
        of, other = getattr(probability, what), getattr(embedding, what)
        if set(of) != set(other):
            different = list(of.symmetric_difference(other))
            raise ValueError(
                f"probability and embedding must have the same {what}; only one of them has "
                f"{listed(different, 5)}"
            )
    return probability, embedding.loc[probability.index, probability.columns]


def _grouped(values, pathways, show_others):
    """Rows by pathway, those without one last, and by a clustering in each."""
    codes = pathways.cat.codes.to_numpy()
    groups = [np.flatnonzero(codes == code) for code in range(len(pathways.cat.categories))]
    if show_others:
        groups.append(np.flatnonzero(codes < 0))
    return np.concatenate([rows[cluster_rows(values[rows])[0]] for rows in groups])


def _draw_pathways(axes, pathways):
    """Lines between the pathways, and their names at the left."""
    n_members = pathways.value_counts(sort=False, dropna=False)  # in the order of the rows
    names = n_members.index.astype(object).fillna(_OTHERS)
    for ax in axes:
        ends = n_members.cumsum().to_numpy()[:-1] - 0.5
        ax.hlines(ends, *ax.get_xlim(), color="0.3", linewidth=0.8)
    left = axes[0]
    inches = left.figure.bbox.width / left.figure.dpi
    line = int(np.clip(_PER_INCH * inches, 10, _LONGEST))
    size = TEXT if inches > NARROW else SMALL
    edge = left.get_yaxis_transform()
    for name, n in zip(names, n_members, strict=True):
        left.plot([-0.01, -0.05], [0, 0], "0.6", lw=0.8, transform=edge, clip_on=False)
        text = textwrap.fill(f"{clipped(name, 3 * line - 4)} ({n})", line)
        left.text(-0.06, 0, text, ha="right", va="center", fontsize=size, transform=edge)
    _place_names(left, pathways)


def _place_names(ax, pathways):
    """Names of pathways beside their rows, and apart from each other."""
    n_members = pathways.value_counts(sort=False, dropna=False).to_numpy()
    row = points(ax, "height") / len(pathways)
    middles = n_members.cumsum() - 0.5 - n_members / 2
    heights = np.array([text.get_text().count("\n") + 1 for text in ax.texts]) * _LINE + 1
    if heights.sum() > points(ax, "height"):  # no room for several lines
        for text in ax.texts:
            text.set_text(clipped(" ".join(text.get_text().split()), _LONGEST))
        heights = np.full(len(heights), _LINE + 1)
    places = _apart(middles, heights / row, len(pathways))
    for line, text, middle, place in zip(ax.lines, ax.texts, middles, places, strict=True):
        line.set_ydata([middle, place])
        text.set_y(place)


def _apart(middles, heights, n_rows):
    """Places near the middles of texts that high, below each other, in the rows if they fit."""
    steps = np.r_[0, np.cumsum((heights[1:] + heights[:-1]) / 2)]
    places = np.maximum.accumulate(middles - steps) + steps
    latest = n_rows - 0.5 - heights[-1] / 2 - (steps[-1] - steps)
    return np.minimum(places, np.maximum(latest, middles[0] + steps))
