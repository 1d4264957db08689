"""Power of a planned screen by the number of cells."""

import numpy as np
import pandas as pd

from .._input.values import check_number, listed
from ._shared import SMALL, check_axes, check_matplotlib, panel_axes, tidy

NEEDED = ["n_cells", "power"]
UNITS = {"latent": "effect", "gene": "log2_fold_change"}  # what has power, and the column of sizes
TITLES = {"effect": "effect (s.d. of a latent)", "log2_fold_change": "log2 fold change"}


class PowerDisplay:
    """Power by cells per perturbation, a curve for each size of effect.

    The line is the mean over latents, or genes, and the band reaches from the least to the largest
    of them: which effects a screen misses depends on where they are.

    Parameters
    ----------
    table : DataFrame
        ``latents`` or ``genes`` of what :func:`skpert.planning.power` returns.

    Attributes
    ----------
    mean_ : DataFrame of shape (n_numbers_of_cells, n_sizes)
        The curves as drawn.
    axes_, figure_ : matplotlib Axes, matplotlib Figure
        Axes of the drawing and their figure.

    Examples
    --------
    >>> import pandas as pd
    >>> from skpert.plotting import PowerDisplay
    >>> table = pd.DataFrame({"latent": ["a", "b", "a", "b"], "n_cells": [20, 20, 100, 100],
    ...                       "effect": 1.0, "power": [0.2, 0.4, 0.8, 0.9]})
    >>> PowerDisplay(table).plot().mean_[1.0].round(2).tolist()
    [0.3, 0.85]
    """

    def __init__(self, table) -> None:
        self.table = table

    @classmethod
    def from_power(cls, power, *, genes=False, ax=None, target=0.8, width=None) -> "PowerDisplay":
        """Draw what :func:`skpert.planning.power` returns.

        Parameters
        ----------
        power : Bunch
            Of that function.
        genes : bool, default=False
            Draw the power of genes, not of latents.
        ax, target, width : as in :meth:`plot`
            How it is drawn; errors are the same.

        Returns
        -------
        display : PowerDisplay
            The curves, drawn.
        """
        return cls(power["genes" if genes else "latents"]).plot(ax, target=target, width=width)

    def plot(self, ax=None, *, target=0.8, width: float | None = None) -> "PowerDisplay":
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        target : float, default=0.8
            Power that is marked by a line, strictly between 0 and 1.
        width : float, default=None
            Width in inches of a figure of our own: 3.5 suits one column of a page, 7.2 two. None:
            as wide as what is shown.

        Returns
        -------
        display : PowerDisplay
            This object, with the attributes of the drawing.

        Raises
        ------
        ValueError
            If the table lacks columns, or ``target`` is out of range.
        """
        check_matplotlib(type(self))
        check_number(target, "target", 0, 1, "neither")
        size = _size_of(self.table)
        by = self.table.groupby(["n_cells", size])["power"]
        self.mean_, low, high = (part.unstack() for part in (by.mean(), by.min(), by.max()))
        axes = panel_axes(1, 1, (3.5, 2.8), width=width) if ax is None else ax
        [self.axes_] = check_axes(axes, 1)
        self.figure_ = self.axes_.figure
        ax, shades = self.axes_, np.linspace(0.9, 0.2, self.mean_.shape[1])
        for shade, value in zip(shades, self.mean_, strict=True):
            colour = _colour(shade)
            ax.plot(self.mean_[value], color=colour, marker="o", markersize=3, label=f"{value:g}")
            ax.fill_between(low.index, low[value], high[value], color=colour, alpha=0.15, lw=0)
        ax.axhline(target, color="0.6", linestyle=":", linewidth=1)
        cells = self.mean_.index
        ax.set_xscale("log")
        ax.set_xticks(cells, [f"{n}" for n in cells])
        ax.minorticks_off()
        ax.set(ylim=(-0.02, 1.02), xlabel="cells per perturbation", ylabel="power")
        tidy(ax)
        above = {"loc": "lower left", "bbox_to_anchor": (-0.02, 1), "ncols": 4, "frameon": False}
        above |= {"handlelength": 1.4, "columnspacing": 1.0, "borderaxespad": 0.2}
        ax.legend(title=TITLES[size], fontsize=SMALL, title_fontsize=SMALL, **above)
        return self


def _size_of(table):
    """Column of the sizes of effects."""
    columns = table.columns if isinstance(table, pd.DataFrame) else []
    kinds = [size for unit, size in UNITS.items() if {unit, size, *NEEDED} <= set(columns)]
    if not kinds or not len(table):
        raise ValueError(
            f"table must have rows and the columns {listed(NEEDED, 5)}, and latent and effect, or "
            f"gene and log2_fold_change: give latents or genes of what skpert.planning.power "
            f"returns; got {listed(list(columns), 10)}"
        )
    return kinds[0]


def _colour(shade):
    """Colour of a curve, the darker the larger its effect."""
    from matplotlib import colormaps

    return colormaps["viridis"](shade)
