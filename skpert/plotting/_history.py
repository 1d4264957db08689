"""The course of a training."""

from sklearn.utils.validation import check_is_fitted

from ._shared import check_axes, check_matplotlib, panel_axes


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
    axes_, figure_ : ndarray of matplotlib Axes of shape (n_panels,), matplotlib Figure
        A panel per term of the loss, in the order of the columns; the last is the validation
        ELBO, where there is one. And their figure.
    lines_ : dict of str to matplotlib Line2D
        The curves, by column of ``history``.
    """

    def __init__(self, history) -> None:
        self.history = history

    @classmethod
    def from_estimator(cls, estimator, *, axes=None) -> "HistoryDisplay":
        """Draw the history of a fitted estimator.

        Parameters
        ----------
        estimator : estimator
            With ``history_``.
        axes : as in :meth:`plot`
            Where to draw.

        Returns
        -------
        display : HistoryDisplay
            The curves, drawn.
        """
        check_is_fitted(estimator)
        return cls(estimator.history_).plot(axes)

    def plot(self, axes=None) -> "HistoryDisplay":
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
        check_matplotlib(type(self))
        terms = [c for c in self.history if c != "phase" and not c.startswith("validation_")]
        panels = terms + [c for c in self.history if c == "validation_elbo"]
        if not panels:
            raise ValueError("there is no epoch to show: nothing was left to train")
        axes = panel_axes(len(panels), 4, (2.9, 2.6)) if axes is None else axes
        self.axes_ = check_axes(axes, len(panels), f", for {panels}")
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
