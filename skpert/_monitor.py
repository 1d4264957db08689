"""What a user sees of training while it runs: scikit-learn callbacks and a line of progress."""

import sys
import time

from ._ranks import rank_and_size

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:  # scikit-learn below 1.9 has no callbacks

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands in for scikit-learn's."""

    def with_callbacks(method):
        """Return the method as it is."""
        return method


__all__ = ["CallbackSupportMixin", "Monitor", "with_callbacks"]


class Monitor:
    """Told of each epoch, it tells the callbacks and the user, and whether to stop.

    Parameters
    ----------
    estimator : estimator
        Being fitted; its ``n_init`` and ``verbose`` are read.
    X, y : array-like
        What it is fitted on.
    n_epochs : int
        Largest number of epochs of one training.

    Attributes
    ----------
    stopped : bool
        Whether a callback or the user has asked to stop, so that no training begins after this.
    interrupted : bool
        Whether it was the user, by Ctrl-C.
    """

    def __init__(self, estimator, X, y, n_epochs):
        self.estimator = estimator
        self.data = {"X": X, "y": y}
        self.training, self.epoch, self.start = 0, 0, time.monotonic()
        self.n_epochs, self.total = n_epochs, estimator.n_init * n_epochs
        self.stopped, self.interrupted = False, False
        self.verbose = estimator.verbose and rank_and_size()[0] == 0
        self.context = None
        if hasattr(estimator, "_init_callback_context"):
            self.context = estimator._init_callback_context(max_subtasks=self.total)
            self.context.call_on_fit_task_begin(estimator=estimator, X=X, y=y)
            self._begin()

    def begin(self, fitted, number):
        """Training ``number`` begins; with these attributes a copy of the estimator is fitted."""
        self.data["reconstruction_attributes"] = fitted
        self.epoch = number * self.n_epochs
        self.training = number + 1

    def go_on(self, n_epochs):
        """So many epochs of this training were done before."""
        self.epoch += n_epochs

    def __call__(self, row):
        """Report an epoch's terms, none for an interrupt; True asks to stop."""
        if not row:
            self.stopped = self.interrupted = True
            return True
        self.epoch += 1
        if self.context is not None:
            stop = self.task.call_on_fit_task_end(estimator=self.estimator, **self.data)
            self.stopped = bool(stop)
            if not stop and self.epoch < self.total:
                self._begin()
        if self.verbose:
            self._write(row)
        return self.stopped

    def close(self):
        """End the line of progress and the callbacks' task."""
        if self.context is not None:
            self.context.call_on_fit_task_end(estimator=self.estimator, **self.data)
        if self.verbose:
            sys.stderr.write("\n")

    def _begin(self):
        self.task = self.context.subcontext(task_name="epoch")
        self.task.call_on_fit_task_begin(estimator=self.estimator)

    def _write(self, row):
        seconds = time.monotonic() - self.start
        left = seconds / self.epoch * (self.total - self.epoch)
        terms = ", ".join(f"{name} {value:.2f}" for name, value in row.items())
        bar = "=" * (20 * self.epoch // self.total)
        n_init, n_epochs = self.estimator.n_init, self.n_epochs
        training = f"training {self.training}/{n_init}, " if n_init > 1 else ""
        epoch = self.epoch - (self.training - 1) * n_epochs
        sys.stderr.write(
            f"\r{type(self.estimator).__name__} [{bar:<20}] {training}epoch {epoch}/{n_epochs}, "
            f"{seconds:.0f} s, at most {left:.0f} s left, {terms}"
        )
        sys.stderr.flush()
