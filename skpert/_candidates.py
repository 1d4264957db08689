"""What a training came to: whether it can be used, and which of several is the best."""

import math
import warnings
from contextlib import contextmanager

import torch

from ._training import is_worse
from .exceptions import TrainingWarning


class Candidates:
    """The best of several trainings; one that breaks down does not take the others with it."""

    def __init__(self, n_trainings, monitor):
        self.n_trainings, self.monitor = n_trainings, monitor
        self.number, self.kept, self.score = 0, None, -math.inf

    @contextmanager
    def attempt(self):
        """Skip a training that breaks down or is interrupted, unless it is the only one."""
        self.number += 1
        try:
            yield
        except (KeyboardInterrupt, FloatingPointError, torch.linalg.LinAlgError) as reason:
            interrupted = isinstance(reason, KeyboardInterrupt)
            if self.kept is None and (interrupted or self.number == self.n_trainings):
                raise
            message = f"restart {self.number} of {self.n_trainings} "
            message += f"{'was interrupted' if interrupted else 'failed'} and was skipped"
            message += f": {reason}" if str(reason) else ""
            warnings.warn(message, TrainingWarning, stacklevel=4)
            self.monitor.stopped |= interrupted

    def add(self, module, result, score):
        """Keep this training if it is the best; ``score`` is asked only if there are several."""
        self.kept = self.kept or (module, *result)
        if self.n_trainings > 1 and (value := score()) > self.score:
            self.kept, self.score = (module, *result), value

    def best(self):
        """Module and history of the best training."""
        module, history, *elbo = self.kept
        warn_if_worse(*elbo)
        return module, history


def warn_if_worse(before, after):
    if is_worse(before, after):
        warnings.warn(
            f"training made the model worse: the ELBO of training cells is {after:.5g} nats per "
            f"cell, {before - after:.3g} below what it was before. Do not use it: lower "
            "learning_rate, train for longer, or look for extreme values in X",
            TrainingWarning,
            stacklevel=4,
        )
