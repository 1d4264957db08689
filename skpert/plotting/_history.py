"""The course of a training."""

import textwrap

import numpy as np
from sklearn.utils.validation import check_is_fitted

from ._shared import (
    BLUE,
    SMALL,
    VERMILION,
    check_axes,
    check_matplotlib,
    fit_panels,
    panel_axes,
    tidy,
)

TRAINING, HELD_OUT = "training cells", "held-out cells"
TERMS = {"elbo": "ELBO", "kl": "KL", "l1": "L1"}  # as titles say them
STARTS = {  # of phases, and what is done before each
    "decoder": "redundant latents are left out",
    "narrow": "redundant latents are left out",
    "sparse": "latents are rotated and edges called",
}
TINTS = "0.9", "0.96"  # of every second phase and of the others, after the first


class HistoryDisplay:
    """Course of the training: each term of the loss and the validation ELBO, by epoch.

    The scale of each panel follows the later nine tenths of the epochs, so that the steep start
    does not flatten what comes after it. Phases of the training have different tints. A term may
    jump where a phase begins, as the latents are changed there: before "decoder" or "narrow" those
    that are functions of the others are left out, before "sparse" they are rotated and edges are
    called, after which latents that a perturbation does not move have prior mean zero.

    Parameters
    ----------
    history : DataFrame of shape (n_epochs, n_columns)
        ``history_`` of an estimator.

    Attributes
    ----------
    axes_, figure_ : ndarray of matplotlib Axes of shape (n_panels,), matplotlib Figure
        A panel per term of the loss, in the order of the columns; the last is the validation
        ELBO, where there is one. And their figure.
    lines_ : dict of str to matplotlib Line2D
        The curves, by column of ``history``.

    Examples
    --------
    >>> import pandas as pd
    >>> from skpert.plotting import HistoryDisplay
    >>> history = pd.DataFrame({"phase": ["dense", "dense", "sparse"], "kl_z": [0.0, 4.0, 3.0]})
    >>> [ax.get_title() for ax in HistoryDisplay(history).plot().axes_]
    ['KL of z']
    """

    def __init__(self, history) -> None:
        self.history = history

    @classmethod
    def from_estimator(cls, estimator, *, axes=None, width=None) -> "HistoryDisplay":
        """Draw the history of a fitted estimator.

        Parameters
        ----------
        estimator : estimator
            With ``history_``.
        axes, width : as in :meth:`plot`
            Where to draw.

        Returns
        -------
        display : HistoryDisplay
            The curves, drawn.
        """
        check_is_fitted(estimator)
        return cls(estimator.history_).plot(axes, width=width)

    def plot(self, axes=None, *, width: float | None = None) -> "HistoryDisplay":
        """Draw the curves.

        Parameters
        ----------
        axes : array of matplotlib Axes of shape (n_panels,), default=None
            Where to draw; None makes a figure, which has a legend and says what happens between
            phases.
        width : float, default=None
            Width in inches of a figure of our own: 3.5 suits one column of a page, 7.2 two. None:
            as wide as what is shown.

        Returns
        -------
        display : HistoryDisplay
            This object, with the attributes of the drawing.

        Raises
        ------
        ValueError
            If no epoch was run, as in an ``adapt`` without training, or ``axes`` are too few.
        """
        check_matplotlib(type(self))
        terms = [c for c in self.history if c != "phase" and not c.startswith("validation_")]
        panels = terms + [c for c in self.history if c == "validation_elbo"]
        if not panels:
            raise ValueError("there is no epoch to show: nothing was left to train")
        of_figure = axes is None
        axes = panel_axes(len(panels), 4, (2.2, 1.8), (0, 0.6), width=width) if of_figure else axes
        self.axes_ = check_axes(axes, len(panels), f", for {panels}")
        self.figure_ = self.axes_[0].figure
        self.lines_ = {}
        runs = _runs(self.history)
        for ax, name in zip(self.axes_, panels, strict=True):
            self._plot_panel(ax, name, runs)
        self.axes_[0].set_ylabel("nats per cell")
        if of_figure:
            _add_legend(self.figure_, self.axes_, runs)
        else:
            place = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
            self.axes_[-1].legend(frameon=False, fontsize=SMALL, **place)
        fit_panels(self.figure_, self.axes_)
        return self

    def _plot_panel(self, ax, name, runs):
        labels = {name: TRAINING, f"validation_{name}": HELD_OUT}
        if name == "validation_elbo":
            labels = {name: HELD_OUT}
        curves = self.history[[column for column in labels if column in self.history]]
        for (start, end, phase), tint in zip(runs[1:], _tints(runs), strict=True):
            ax.axvspan(start - 0.5, end + 0.5, color=tint, linewidth=0, zorder=0, label=phase)
        for column, values in curves.items():
            held_out = labels[column] == HELD_OUT
            style = (VERMILION, "--") if held_out and len(curves.columns) > 1 else (BLUE, "-")
            style = (VERMILION, "-") if name == "validation_elbo" else style
            options = {"color": style[0], "linestyle": style[1], "linewidth": 1.2}
            at = np.arange(len(values))
            [self.lines_[column]] = ax.plot(at, values, label=labels[column], **options)
        late = curves.iloc[len(curves) // 10 :]
        low, high = late.min().min(), late.max().max()
        margin = 0.08 * (high - low) or 1.0
        ax.set(ylim=(low - margin, high + margin), xlabel="epoch")
        if name == "validation_elbo":
            best = int(self.history[name].argmax())
            ax.axvline(
                best, color="0.3", linestyle=":", linewidth=1.2, label=f"best epoch, {best}"
            )
        tidy(ax, _title(name))


def _title(name):
    """A term of the loss, in words."""
    kind, *of = name.removeprefix("validation_").split("_")
    return " ".join([TERMS.get(kind, kind), *(["of"] if of and kind == "kl" else []), *of])


def _runs(history):
    """First and last epoch of each phase, and its name."""
    if "phase" not in history:
        return [(0, len(history) - 1, "")]
    phase = history["phase"].to_numpy()
    starts = np.flatnonzero(np.r_[True, phase[1:] != phase[:-1]])
    return [*zip(starts, np.r_[starts[1:], len(phase)] - 1, phase[starts], strict=True)]


def _tints(runs):
    return [TINTS[i % 2] for i in range(len(runs) - 1)]


def _add_legend(figure, axes, runs):
    """Curves, phases and the best epoch above all panels, and below them why terms jump."""
    from matplotlib.patches import Patch

    handles = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    phases = {phase: handles.pop(phase, None) for _, _, phase in runs}
    if len(runs) > 1:
        first = Patch(facecolor="white", edgecolor="0.8", linewidth=0.6)
        tints = [first, *(Patch(color=tint) for tint in _tints(runs))]
        handles |= {f"phase: {phase}": tint for phase, tint in zip(phases, tints, strict=False)}
    inches = figure.get_figwidth()
    figure.legend(
        handles=list(handles.values()),
        labels=list(handles),
        loc="outside upper center",
        ncols=int(np.clip(inches / 1.25, 1, len(handles))),
        frameon=False,
        fontsize=SMALL,
        handlelength=1.4,
        columnspacing=1.2,
    )
    why = [f"Before “{phase}” {STARTS[phase]}" for phase in phases if phase in STARTS]
    if why:
        text = ". ".join(why) + ": terms may jump there."
        line = int(72 * inches / (0.52 * SMALL))
        figure.supxlabel(textwrap.fill(text, line), fontsize=SMALL, color="0.35")
