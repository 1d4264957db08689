"""Screens of any size, clocks of epochs, and memory: what timings share."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import sparse

CHECK_EVERY = 5  # epochs between two values of the held-out IWELBO


@dataclass(frozen=True)
class Size:
    """A simulated screen and what is trained on it."""

    n_cells: int = 12_800
    batch_size: int = 128
    n_genes: int = 300
    density: float = 1.0  # share of counts that are not zero; below 1 the screen is CSR
    n_perturbations: int = 50
    n_latent: int = 10


def screen(size):
    """Counts and labels; their values play no part in the time of a step."""
    random = np.random.default_rng(0)
    names = np.array(["control", *(f"P{i}" for i in range(size.n_perturbations))])
    labels = names[np.arange(size.n_cells) % len(names)]
    if size.density < 1:
        n_each = max(round(size.density * size.n_genes), 1)
        start = np.arange(0, size.n_cells * n_each + 1, n_each)
        steps = random.integers(1, size.n_genes // n_each + 1, size.n_cells * n_each)
        column = np.cumsum(steps.reshape(size.n_cells, n_each), axis=1) - 1
        counts = random.poisson(2.0, column.size).astype(np.float32) + 1
        shape = (size.n_cells, size.n_genes)
        return sparse.csr_array((counts, column.astype(np.int32).ravel(), start), shape), labels
    X = np.empty((size.n_cells, size.n_genes), dtype=np.float32)
    mean = random.gamma(2.0, 2.0, size.n_genes)
    for rows in np.array_split(np.arange(size.n_cells), -(-size.n_cells // 10_000)):
        X[rows] = random.poisson(mean, (len(rows), size.n_genes))
    return X, labels


class Clock:
    """Seconds of each epoch, of the clock and of the CPU, as scikit-learn's and Lightning's call.

    ``check`` is called every ``CHECK_EVERY`` epochs with the clock standing; True stops training.
    """

    def __init__(self, check=None):
        self.check, self.total, self.epochs = check, np.zeros(2), []
        self.start = self.now()

    @staticmethod
    def now():
        """Both clocks."""
        return np.array([time.perf_counter(), time.process_time()])

    def tick(self, model):
        """An epoch has ended; True asks to stop."""
        self.epochs.append(self.now() - self.start)
        self.total = self.total + self.epochs[-1]
        due = self.check is not None and len(self.epochs) % CHECK_EVERY == 0
        stop = due and self.check(model, len(self.epochs), self.total)
        self.start = self.now()
        return stop


class OurClock(Clock):
    """Callback of scikit-learn."""

    def setup(self, estimator, context):
        """As the protocol wants it."""

    def teardown(self, estimator, context):
        """As the protocol wants it."""

    def on_fit_task_begin(self, estimator, context):
        """Start with training, not with the preparation of the data."""
        if not self.epochs:
            self.start = self.now()

    def on_fit_task_end(self, estimator, context):
        """End an epoch."""
        return self.tick(None) if context.task_name == "epoch" else False


class OurCheckingClock(OurClock):
    """The same, shown the model of each epoch."""

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        """End an epoch."""
        return self.tick(fitted_estimator) if context.task_name == "epoch" else False


def peak_memory():
    """Largest resident set of this process so far, bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return 1024 * int(line.split()[1])
    raise RuntimeError("no VmHWM in /proc/self/status")


def in_turns(programs, n_repeats):
    """Rows of what programs measure, functions by name, as they take turns."""
    return [
        {"program": name, "repeat": repeat} | programs[name]()
        for repeat in range(n_repeats)
        for name in list(programs)[:: 1 if repeat % 2 else -1]
    ]
