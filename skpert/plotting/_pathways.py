"""Masks and embeddings by pathway."""

import numpy as np
from sklearn.utils.validation import check_is_fitted

from .._input.values import listed
from ._shared import (
    COLUMN,
    check_axes,
    check_frame,
    check_matplotlib,
    clipped,
    cluster_rows,
    draw_colorbar,
    draw_map,
    label_latents,
    map_axes,
    named_rows,
    order_columns,
    read_pathways,
)

_OTHERS = "no pathway"
_LINE = 11.0  # points between the names of two pathways


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
        cls, estimator, pathways, *, show_others=True, axes=None, cmaps=("Greys", "RdBu_r")
    ) -> "PathwayTargetsDisplay":
        """Draw the masks and embeddings of a fitted estimator.

        Parameters
        ----------
        estimator : estimator
            With ``mask_probability_``, without which it is a ValueError, and ``embedding_``.
        pathways, show_others : as in :class:`PathwayTargetsDisplay`
            What is shown.
        axes, cmaps : as in :meth:`plot`
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
            axes, cmaps=cmaps
        )

    def plot(self, axes=None, *, cmaps=("Greys", "RdBu_r")) -> "PathwayTargetsDisplay":
        """Draw the maps.

        Parameters
        ----------
        axes : array of matplotlib Axes of shape (2,), default=None
            Where to draw; None makes a figure whose size follows from the number of rows.
        cmaps : tuple of two str or matplotlib Colormap, default=("Greys", "RdBu_r")
            Colours of probabilities, and diverging ones of embeddings.

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
        probability, embedding = _checked(self.probability, self.embedding)
        pathways = read_pathways(self.pathways, probability.index)
        rows = _grouped(embedding.to_numpy(), pathways, self.show_others)
        strength = probability.to_numpy()[rows]
        columns = order_columns(np.where(strength > 0.5, strength, 0))
        self.probability_ = probability.iloc[rows, columns]
        self.embedding_ = embedding.iloc[rows, columns]
        self.pathways_ = pathways.iloc[rows]
        if axes is None:
            axes = map_axes(np.clip(3.8 + 2 * COLUMN * len(columns), 7, 16), len(rows), 2)
        self.axes_ = check_axes(axes, 2, ", for masks and embeddings")
        self.figure_ = self.axes_[0].figure
        drawn = [
            (self.probability_, (0, 1), "probability of a shift"),
            (self.embedding_, None, "embedding (prior s.d.)"),
        ]
        n_dropped = probability.shape[1] - len(columns)
        self.images_, self.colorbars_ = [], []
        for ax, cmap, (frame, limits, label) in zip(self.axes_, cmaps, drawn, strict=True):
            self.images_.append(draw_map(ax, frame, cmap, limits))
            label_latents(ax, frame.columns, n_dropped, why="are in no mask")
            self.colorbars_.append(draw_colorbar(ax, self.images_[-1], label))
        self.axes_[0].tick_params(labelright=False)
        _draw_pathways(self.axes_, self.pathways_)
        return self


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
    ends = n_members.cumsum().to_numpy() - 0.5
    for ax in axes:
        ax.hlines(ends[:-1], *ax.get_xlim(), color="0.3", linewidth=0.8)
    left = axes[0]
    row = left.get_window_extent().height * 72 / left.figure.dpi / len(pathways)  # points
    middles = ends - n_members.to_numpy() / 2
    places = _apart(middles, _LINE / row, len(pathways))
    edge = left.get_yaxis_transform()
    for name, n, middle, place in zip(names, n_members, middles, places, strict=True):
        left.plot([-0.01, -0.05], [middle, place], "0.6", lw=0.8, transform=edge, clip_on=False)
        text = f"{clipped(name)} ({n})"
        left.text(-0.06, place, text, ha="right", va="center", fontsize=9, transform=edge)


def _apart(middles, distance, n_rows):
    """Places near the middles, a distance from each other, within the rows if they fit."""
    steps = distance * np.arange(len(middles))
    places = np.maximum.accumulate(middles - steps) + steps
    latest = n_rows - 0.5 - distance / 2 - steps[::-1]
    return np.minimum(places, np.maximum(latest, middles[0] + steps)) if len(steps) else places
