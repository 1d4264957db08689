"""Targets of combinations beside those of single perturbations."""

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_is_fitted

from .._input.parts import parts_of_names
from .._input.values import listed
from ._shared import (
    COLOURS,
    COLUMN,
    ROW,
    SMALL,
    TALLEST,
    check_axes,
    check_frame,
    check_matplotlib,
    check_width,
    cluster_rows,
    draw_colorbar,
    draw_map,
    draw_nothing,
    effects,
    fit_maps,
    label_latents,
    order_columns,
    short_names,
    tidy,
)

_PANELS = ["number of targets", "size of effects", "latents of combinations only"]
_NAMES = {1: "single", 2: "double", 3: "triple"}  # by number of parts
_GOLDEN = (5**0.5 - 1) / 2  # its multiples modulo 1 spread points evenly


class CombinationTargetsDisplay:
    """Latents that combinations move, beside those that single perturbations move.

    Three panels, as in Figure 5 of Lopez et al. (sVAE+, CLeaR 2023): how many latents a
    perturbation moves, as shares of the single ones and of the combinations; the size of their
    effects, the norm over latents, with medians; and a map of the latents that a combination moves
    but none of its parts does, with a row for each combination that has any.

    Parameters
    ----------
    targets : DataFrame of shape (n_perturbations, n_latent)
        Effect of each perturbation on each latent, zero where it has none. Rows whose names
        have several parts, as "A+B", are combinations.
    combinations : list of str, default=None
        Which combinations to show; None takes all that are rows. One that is not a row has the
        sum of its parts as its effect, which is what an additive model says; its parts then
        must be rows. A sum moves no latent that its parts do not.
    sep : str or None, default="+"
        What stands between the parts of a name.

    Attributes
    ----------
    summary_ : DataFrame of shape (n_shown, 4)
        A row per perturbation: ``n_parts``; ``n_targets``, the latents it moves; ``norm`` of its
        effect over latents; and ``n_emergent``, the latents that it moves and none of its parts
        does, missing where a part was not measured alone, and for single perturbations.
    emergent_ : DataFrame of shape (n_combinations, n_latent)
        Effects of combinations on latents that none of their parts moves, zero elsewhere, for
        all combinations whose parts are rows.
    axes_, figure_ : ndarray of matplotlib Axes of shape (3,), matplotlib Figure
        The panels and their figure.
    im_, colorbar_ : matplotlib AxesImage and Colorbar, or None
        The map of the third panel and its scale; None where there is nothing to show.

    Examples
    --------
    >>> import pandas as pd
    >>> from skpert.plotting import CombinationTargetsDisplay
    >>> targets = pd.DataFrame([[1.0, 0, 0], [0, 2, 0], [1, 2, 3]], index=["A", "B", "A+B"])
    >>> display = CombinationTargetsDisplay(targets).plot()
    >>> display.summary_["n_targets"].tolist()
    [1, 1, 3]
    >>> display.emergent_.loc["A+B"].tolist()
    [0.0, 0.0, 3.0]
    """

    def __init__(
        self,
        targets: pd.DataFrame,
        *,
        combinations: list[str] | None = None,
        sep: str | None = "+",
    ) -> None:
        self.targets = targets
        self.combinations = combinations
        self.sep = sep

    @classmethod
    def from_estimator(
        cls,
        estimator,
        *,
        combinations: list[str] | None = None,
        axes=None,
        cmap="RdBu_r",
        width=None,
    ) -> "CombinationTargetsDisplay":
        """Draw the targets of a fitted estimator.

        Parameters
        ----------
        estimator : estimator
            With ``targets_``, or else with ``embedding_``, without either of which it is a
            ValueError; its parameter ``sep`` is used.
        combinations : list of str, default=None
            Which combinations to show; None takes all that the estimator has. For an additive
            model, which has effects of single perturbations only, those to be summed.
        axes, cmap, width : as in :meth:`plot`
            How they are drawn.

        Returns
        -------
        display : CombinationTargetsDisplay
            The panels, drawn.
        """
        check_is_fitted(estimator)
        sep = getattr(estimator, "sep", "+")
        display = cls(effects(estimator), combinations=combinations, sep=sep)
        return display.plot(axes, cmap=cmap, width=width)

    def plot(
        self, axes=None, *, cmap="RdBu_r", width: float | None = None
    ) -> "CombinationTargetsDisplay":
        """Draw the panels.

        Parameters
        ----------
        axes : array of matplotlib Axes of shape (3,), default=None
            Where to draw; None makes a figure.
        cmap : str or matplotlib Colormap, default="RdBu_r"
            Diverging colours, the middle of which is zero.
        width : float, default=None
            Width in inches of a figure of our own: 3.5 suits one column of a page, 7.2 two. None:
            as wide as what is shown.

        Returns
        -------
        display : CombinationTargetsDisplay
            This object, with the attributes of the drawing.

        Raises
        ------
        ValueError
            If there is no combination, one of those named has a part that is not a row, or
            ``axes`` are not three.
        """
        check_matplotlib(type(self))
        check_width(width)
        targets = check_frame(self.targets, "targets")
        shown, parts = _shown(targets, self.combinations, self.sep)
        self.emergent_ = _emergent(targets, shown, parts)
        self.summary_ = _summary(shown, parts, self.emergent_)
        drawn = _ordered(self.emergent_)
        axes = _axes(*drawn.shape, width) if axes is None else axes
        self.axes_ = check_axes(axes, 3, f", for {_PANELS}")
        self.figure_ = self.axes_[0].figure
        _draw_counts(self.axes_[0], self.summary_)
        _draw_norms(self.axes_[1], self.summary_)
        self.im_, self.colorbar_ = _draw_emergent(self.axes_[2], drawn, self.emergent_, cmap)
        if len(drawn):
            latents = short_names([str(name) for name in drawn.columns])
            fit_maps(self.figure_, [(self.axes_[2], drawn.index, latents, self.colorbar_, None)])
        return self


def _shown(targets, combinations, sep):
    """Effects of what is shown, single perturbations first, and the sorted parts of each."""
    named = [*targets.index, *(() if combinations is None else combinations)]
    of = parts_of_names(list(map(str, named)), sep or None)
    rows = {of[str(name)]: name for name in targets.index}
    if len(rows) < len(targets):
        twice = [name for name in targets.index if rows[of[str(name)]] != name]
        raise ValueError(f"targets has other rows with the same parts as {listed(twice, 5)}")
    single = {name: parts for parts, name in rows.items() if len(parts) == 1}
    if combinations is None:
        combined = {name: parts for parts, name in rows.items() if len(parts) > 1}
    else:
        combined = {name: of[str(name)] for name in combinations}
    if not combined or min(map(len, combined.values())) < 2:
        raise ValueError(
            f"there is no combination to show: names with sep={sep!r} between their parts are "
            f"needed, and {listed(list(combined or targets.index), 3)} have none. For an additive "
            "model, name those to be summed in combinations."
        )
    by_part = {parts[0]: name for name, parts in single.items()}
    effect = {name: targets.loc[name] for name in single}
    for name, parts in combined.items():
        same = parts in rows
        effect[name] = targets.loc[rows[parts]] if same else _sum(targets, name, parts, by_part)
    return pd.DataFrame(effect).T, single | combined


def _sum(targets, name, parts, by_part):
    """Sum of the effects of the parts."""
    unknown = [part for part in parts if part not in by_part]
    if unknown:
        raise ValueError(
            f"combination {name!r} is not a row of targets, and cannot be summed: there is no row "
            f"{listed(unknown, 5)}"
        )
    return targets.loc[[by_part[part] for part in parts]].sum()


def _emergent(targets, shown, parts):
    """Effects of combinations where all of their parts have none, if these are known."""
    single = {of[0]: name for name, of in parts.items() if len(of) == 1}
    known = [name for name, of in parts.items() if len(of) > 1 and single.keys() >= set(of)]
    alone = [targets.loc[[single[part] for part in parts[name]]].any() for name in known]
    moved = np.array(alone, dtype=bool).reshape(len(known), targets.shape[1])
    return shown.loc[known].mask(moved, 0.0)


def _summary(shown, parts, emergent):
    """Numbers of a row per perturbation."""
    summary = pd.DataFrame(index=shown.index.rename("perturbation"))
    summary["n_parts"] = [len(parts[name]) for name in shown.index]
    summary["n_targets"] = shown.astype(bool).sum(axis=1)
    summary["norm"] = np.linalg.norm(shown, axis=1)
    summary["n_emergent"] = emergent.astype(bool).sum(axis=1).astype("Int64")
    return summary


def _ordered(emergent):
    """Combinations and latents of the map, in its order, similar ones together."""
    some = emergent.loc[emergent.any(axis=1), emergent.any()]
    some = some.iloc[cluster_rows(some.to_numpy())[0]]
    return some.iloc[:, order_columns(some.abs().to_numpy())]


def _axes(n_rows, n_columns, width):
    """Two panels above, and below them a map of so many rows and columns."""
    import matplotlib.pyplot as plt

    above, rows = 2.4, 1.0 + ROW * n_rows
    below = np.clip(rows, 1.2, TALLEST - above) if n_rows else 0.5
    width = np.clip(2.0 + COLUMN * n_columns, 6, 12) if width is None else width
    figure = plt.figure(figsize=(width, above + below), layout="constrained")
    upper, lower = figure.add_gridspec(2, 1, height_ratios=[above, below])
    # grids within the grid, so that the names of rows below take no room above
    places = [*upper.subgridspec(1, 2), *lower.subgridspec(1, 1)]
    return [figure.add_subplot(place) for place in places]


def _draw_counts(ax, summary):
    """Share of the perturbations that have each number of targets."""
    from matplotlib.ticker import MaxNLocator

    groups = summary.groupby("n_parts")["n_targets"]
    width = 0.8 / len(groups)
    for i, (n_parts, n_targets) in enumerate(groups):
        share = np.bincount(n_targets) / len(n_targets)
        position = np.arange(len(share)) + (i + 0.5) * width - 0.4
        ax.bar(position, share, width, color=_colour(i), label=_group(n_parts, len(n_targets)))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    ax.set(xlabel="latents moved", ylabel="share of perturbations")
    ax.set_xlim(-0.6, max(summary["n_targets"].max(), 1) + 0.6)
    tidy(ax)
    above = {"loc": "lower left", "bbox_to_anchor": (-0.02, 1)}
    ax.legend(frameon=False, fontsize=SMALL, handlelength=1, labelspacing=0.2, **above)


def _colour(i):
    return COLOURS[i % len(COLOURS)]


def _group(n_parts, n_members):
    return f"{_NAMES.get(n_parts, f'{n_parts} parts')} ({n_members})"


def _draw_norms(ax, summary):
    """A point per perturbation, and the medians."""
    names = []
    for i, (n_parts, norm) in enumerate(summary.groupby("n_parts")["norm"]):
        aside = (np.arange(len(norm)) * _GOLDEN) % 1 - 0.5
        ax.scatter(
            i + 0.5 * aside, norm, s=14, color=_colour(i), alpha=0.6, linewidths=0, clip_on=False
        )
        ax.plot([i - 0.35, i + 0.35], [norm.median()] * 2, color="0.15", linewidth=1.5)
        names.append(_group(n_parts, len(norm)).replace(" (", "\n("))
    ax.set_xticks(range(len(names)), names)
    ax.set(xlim=(-0.6, len(names) - 0.4), ylabel="size of the effect (norm, prior s.d.)")
    ax.set_ylim(0, 1.05 * summary["norm"].max() or 1)
    tidy(ax)


def _draw_emergent(ax, drawn, emergent, cmap):
    """Map of the latents that only combinations move, or a sentence that there is none."""
    if not len(drawn):
        note = "no combination moves a latent that none of its parts moves"
        if not len(emergent):
            note = "no combination has all of its parts measured alone"
        draw_nothing(ax, note)
        return None, None
    im = draw_map(ax, drawn, cmap)
    label_latents(ax, drawn.columns, emergent.shape[1] - drawn.shape[1], why="are not moved so")
    return im, draw_colorbar(ax, im, "shift by combinations only (prior s.d.)")
