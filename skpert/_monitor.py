"""What a user sees of training while it runs: scikit-learn callbacks and a line of progress."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from ._line import LONG, SOON, Line, line_wanted, spoken
from ._ranks import rank_and_size

try:
    from sklearn.callback import CallbackSupportMixin, ProgressBar
    from sklearn.callback import with_callbacks as told
except ImportError:  # scikit-learn below 1.9 has no callbacks

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands in for scikit-learn's."""

    ProgressBar = ()  # no object is an instance of it

    def told(method):
        """Return the method as it is."""
        return method


__all__ = ["CallbackSupportMixin", "Monitor", "watched", "with_callbacks"]

Method = TypeVar("Method", bound=Callable[..., Any])


def with_callbacks(method: Method) -> Method:
    """``fit`` with scikit-learn's callbacks, where it has them; it keeps its type."""
    fit: Method = told(method)
    return fit


@contextmanager
def watched(estimator, method, cells, n_new=None) -> Iterator["Monitor"]:
    """Monitor of ``adapt`` or ``refine`` of a fitted estimator; callbacks are told of fits only.

    So many perturbations are new to it; None is that all are known.
    """
    n_epochs = estimator._budget(cells).n_epochs
    monitor = Monitor(estimator, cells, n_epochs, method=method, n_new=n_new)
    monitor.begin({"module_": estimator.module_}, 0)
    try:
        yield monitor
    except BaseException:
        monitor.hide()
        raise
    monitor.close()


class Monitor:
    """Told of each epoch, it tells the callbacks and the user, and whether to stop.

    Parameters
    ----------
    estimator : estimator
        Being trained; its ``verbose`` is read.
    cells : Cells
        What it is trained on.
    n_epochs : int
        Largest number of epochs of one training.
    data : dict or None, default=None
        X and y of ``fit``, for callbacks; None is another method, of one training.
    method : str, default="fit"
        Which method of the estimator trains.
    n_new : int or None, default=None
        Number of new perturbations; None if none is.

    Attributes
    ----------
    stopped : bool
        Whether a callback or the user has asked to stop, so that no training begins after this.
    interrupted : bool
        Whether it was the user, by Ctrl-C.
    phase : str or None
        Name of the phase of the training, set by whoever trains.
    """

    def __init__(self, estimator, cells, n_epochs, data=None, *, method="fit", n_new=None):
        self.estimator, self.cells, self.phase = estimator, cells, None
        self.name = type(estimator).__name__ + ("" if method == "fit" else f".{method}")
        self.data, self.n_new = data or {}, n_new
        self.training, self.epoch, self.start = 0, 0, time.monotonic()
        self.n_epochs, self.n_trainings = n_epochs, 1 if data is None else estimator.n_init
        self.total = self.n_trainings * n_epochs
        self.stopped, self.interrupted = False, False
        self.n_done, self.last = 0, {}  # epochs since the start, and terms of the last one
        wanted = line_wanted(estimator.verbose)
        if rank_and_size()[0] or (estimator.verbose == "auto" and _has_bar(estimator)):
            wanted = None
        before = "first epoch" if n_new is None else "new perturbations"
        live = wanted == "live"
        self.line = Line(self._heading, self.total, live=live, before=before) if wanted else None
        self.context = None
        if data is not None and hasattr(estimator, "_init_callback_context"):
            self.context = estimator._init_callback_context(max_subtasks=self.total)
            self.context.call_on_fit_task_begin(estimator=estimator, **data)
            self._begin()

    def begin(self, fitted, number):
        """Training ``number`` begins; with these attributes a copy of the estimator is fitted."""
        self.data["reconstruction_attributes"] = fitted
        self.epoch = number * self.n_epochs
        self.training, self.device = number + 1, fitted["module_"].device

    def go_on(self, n_epochs):
        """So many epochs of this training were done before."""
        self.epoch += n_epochs

    def __call__(self, row):
        """Report an epoch's terms, none for an interrupt; True asks to stop."""
        if not row:
            self.hide()
            self.stopped = self.interrupted = True
            return True
        self.epoch += 1
        self.n_done += 1
        self.last = row
        if self.context is not None:
            stop = self.task.call_on_fit_task_end(estimator=self.estimator, **self.data)
            self.stopped = bool(stop)
            if not stop and self.epoch < self.total:
                self._begin()
        if self.line is not None:
            self._show()
        return self.stopped

    def hide(self):
        """Leave the place of the line to what is to be said."""
        if self.line is not None:
            self.line.hide()

    def close(self):
        """End the line of progress and the callbacks' task."""
        if self.context is not None:
            self.context.call_on_fit_task_end(estimator=self.estimator, **self.data)
        if self.line is not None and (self.line.begun or self.estimator.verbose != "auto"):
            seconds = spoken(time.monotonic() - self.start)
            done = f"{self.n_done} epochs in {seconds}, {_elbo(self.last)} nats per cell"
            self.line.end(f"{self.name}: {done if self.n_done else seconds}")
        self.hide()

    def _begin(self):
        self.task = self.context.subcontext(task_name="epoch")
        self.task.call_on_fit_task_begin(estimator=self.estimator)

    def _show(self):
        """Draw the line if the fit is a long one, or if it was asked for."""
        seconds = time.monotonic() - self.start
        left = seconds / self.n_done * (self.total - self.epoch)
        if seconds >= SOON and (seconds + left >= LONG):
            self.line.begin(seconds + left)
        elif self.line.live and self.estimator.verbose != "auto":
            self.line.begin()
        if self.line.begun:
            self.line.draw(self.epoch, self._place(), f"{_elbo(self.last)}, {spoken(left)} left")

    def _place(self):
        """Which training, phase and epoch this is."""
        number, n_trainings = self.training, self.n_trainings
        epoch = self.epoch - (number - 1) * self.n_epochs
        training = f"training {number}/{n_trainings}, " if n_trainings > 1 else ""
        phase = f"{self.phase} phase, " if self.phase else ""
        return f"{training}{phase}epoch {epoch:>{len(str(self.n_epochs))}}/{self.n_epochs}"

    def _heading(self, seconds):
        """What is trained on what, and how long that takes."""
        n_columns = len(self.estimator.perturbations_) if self.n_new is None else self.n_new
        of_covariates = hasattr(type(self.estimator), "covariates_")
        what = "columns of covariates" if of_covariates else "perturbations"
        what = what if self.n_new is None else f"new {what}"
        at_most = "at most" if self.estimator.patience is not None else "about"
        expected = "" if seconds is None else f", {at_most} {spoken(seconds)}"
        return (
            f"{self.name}: {self.cells.n_cells:,} cells, "
            f"{self.cells.n_genes:,} genes, {n_columns:,} {what}, {self.device}{expected}"
        )


def _has_bar(estimator):
    """Whether the user chose scikit-learn's bar."""
    return any(isinstance(each, ProgressBar) for each in getattr(estimator, "_skl_callbacks", ()))


def _elbo(row):
    """The ELBO of cells that are held out, without any the loss."""
    if "validation_elbo" in row:
        return f"ELBO {row['validation_elbo']:.1f}"
    return f"loss {sum(row.values()):.1f}"
