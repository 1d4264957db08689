"""What a user sees of training while it runs: scikit-learn callbacks and a line of progress."""

import sys
import time

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
        Being fitted; its ``max_epochs`` and ``verbose`` are read.
    X, y : array-like
        What it is fitted on.
    fitted : dict
        Attributes that make a copy of the estimator a fitted one.
    """

    def __init__(self, estimator, X, y, fitted):
        self.estimator = estimator
        self.data = {"X": X, "y": y, "reconstruction_attributes": fitted}
        self.epoch, self.start = 0, time.monotonic()
        self.context = None
        if hasattr(estimator, "_init_callback_context"):
            self.context = estimator._init_callback_context(max_subtasks=estimator.max_epochs)
            self.context.call_on_fit_task_begin(estimator=estimator, X=X, y=y)
            self._begin()

    def __call__(self, row):
        """Report an epoch's terms; True asks to stop."""
        self.epoch += 1
        stop = False
        if self.context is not None:
            stop = self.task.call_on_fit_task_end(estimator=self.estimator, **self.data)
            if not stop and self.epoch < self.estimator.max_epochs:
                self._begin()
        if self.estimator.verbose:
            self._write(row)
        return bool(stop)

    def close(self):
        """End the line of progress and the callbacks' task."""
        if self.context is not None:
            self.context.call_on_fit_task_end(estimator=self.estimator, **self.data)
        if self.estimator.verbose:
            sys.stderr.write("\n")

    def _begin(self):
        self.task = self.context.subcontext(task_name="epoch")
        self.task.call_on_fit_task_begin(estimator=self.estimator)

    def _write(self, row):
        seconds = time.monotonic() - self.start
        total = self.estimator.max_epochs
        left = seconds / self.epoch * (total - self.epoch)
        terms = ", ".join(f"{name} {value:.2f}" for name, value in row.items())
        bar = "=" * (20 * self.epoch // total)
        sys.stderr.write(
            f"\r{type(self.estimator).__name__} [{bar:<20}] epoch {self.epoch}/{total}, "
            f"{seconds:.0f} s, at most {left:.0f} s left, {terms}"
        )
        sys.stderr.flush()
