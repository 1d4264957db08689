"""Several trainings of one model, of which the best is kept."""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ._monitor import Monitor
from .exceptions import TrainingWarning


class Candidates:
    """The best of several trainings; one that breaks down does not take the others with it."""

    def __init__(self, n_trainings: int, monitor: Monitor, score: Callable[[Any], float]):
        self.n_trainings, self.monitor = n_trainings, monitor
        self.score = score  # of a module; asked only if there are several
        self.number, self.highest = 0, -math.inf
        self.kept: Any = None

    @contextmanager
    def attempt(self) -> Iterator[None]:
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

    def add(self, module: Any, result: tuple[Any, float, float]) -> None:
        """Keep this training, of this history and ELBO before and after, if it is the best."""
        self.kept = self.kept or (module, *result)
        if self.n_trainings > 1 and (score := self.score(module)) > self.highest:
            self.kept, self.highest = (module, *result), score

    def best(self) -> Any:
        """Module and history of the best training, and its ELBO before and after."""
        return self.kept
