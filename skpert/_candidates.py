"""Several trainings of one model, of which the best is kept."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ._data import Cells
from ._input.values import listed
from ._monitor import Monitor
from ._progress import Progress
from ._runtime import set_seed
from ._scoring import mean_iwelbo
from ._training import warn_if_few
from .exceptions import TrainingWarning, warn_of_data

N_CHOOSING = 10  # particles at most that score a training when the best of several is kept


def begun(
    estimator: Any, training: Cells, monitor: Monitor, progress: Progress, start: Any = None
) -> tuple[Any, Any]:
    """Module of the next training, and its phases if they are not those of a first one.

    It is that which stands already, or in the first training a copy of ``start``.
    """
    phases, number = None, progress.number
    if progress.module is None and number == 0 and start is not None:
        n_epochs = estimator._budget(training).n_epochs
        progress.module, phases = start.restarted(n_epochs)
    elif progress.module is None:
        if number:
            set_seed(progress.seeds[number], progress.device)
        progress.module = estimator._make_module(training).to(progress.device)
    monitor.begin({"module_": progress.module, "n_iter_": 1}, number)
    return progress.module, phases


@contextmanager
def attempt(progress: Progress, monitor: Monitor) -> Iterator[None]:
    """Skip a training that breaks down or is interrupted, unless it is the only one."""
    number, n_trainings = progress.number + 1, len(progress.seeds)
    try:
        try:
            yield
        finally:
            monitor.hide()
    except (KeyboardInterrupt, FloatingPointError, torch.linalg.LinAlgError) as reason:
        interrupted = isinstance(reason, KeyboardInterrupt)
        if progress.kept is None and (interrupted or number == n_trainings):
            raise
        message = f"restart {number} of {n_trainings} "
        message += f"{'was interrupted' if interrupted else 'failed'} and was skipped"
        message += f": {reason}" if str(reason) else ""
        warnings.warn(message, TrainingWarning, stacklevel=4)
        monitor.stopped |= interrupted
        monitor.interrupted |= interrupted
    progress.number = number
    progress.forget()


def compare(
    estimator: Any,
    progress: Progress,
    result: tuple[Any, ...],
    training: Cells,
    validation: Cells | None,
) -> None:
    """Keep a training, its module first, if it is the best; they are scored if there are several.

    The score is what the module prefers, or the IWELBO of cells that are held out, if any are.
    """
    progress.kept = progress.kept or result
    if len(progress.seeds) == 1:
        return
    score = result[0].preference(training)
    if score is None:
        n_particles = min(estimator.n_particles, N_CHOOSING)
        score = mean_iwelbo(validation or training, n_particles, progress.seeds[0], result[0])
    if score > progress.highest:
        progress.kept, progress.highest = result, score


def warn_of_result(estimator: Any, module: Any, training: Cells, n_epochs: int) -> None:
    """Warn if training found too few latents, or if the module doubts its result."""
    n_steps = n_epochs * training.n_cells / estimator._budget(training).batch_size
    warn_if_few(module.n_found, estimator._n_most, n_steps)
    if (doubt := module.doubt(training)) is not None:
        warn_of_data(doubt, TrainingWarning)


def check_same_model(estimator: Any, start: Any, before: dict[str, Any]) -> None:
    """ValueError unless a module, of an estimator of these attributes, can be trained further."""
    same = {
        "perturbations": (before["perturbations_"], estimator.perturbations_),
        "genes": tuple(_genes(attributes) for attributes in (before, vars(estimator))),
    }
    for what, (old, new) in same.items():
        if not np.array_equal(old, new):
            raise ValueError(
                f"warm_start=True goes on from the fit before, whose {what} were others: "
                f"{listed(old, 3)} then, {listed(new, 3)} now. Give the same, or fit anew with "
                "warm_start=False"
            )
    with torch.device("meta"):
        sizes = estimator.n_features_in_, estimator.design_.n_environments_
        module = estimator._make_module(Cells.of_shape(estimator._n_training_cells, *sizes))
    shapes = [
        {k: None if k.endswith((".frozen", ".rows")) else v.shape for k, v in parts.items()}
        for parts in (module.state_dict(), start.state_dict())
    ]
    if shapes[0] != shapes[1] or not _are_as_many(start.encoder.n_latent, estimator):
        raise ValueError(
            "warm_start=True goes on from the fit before, whose networks had other sizes: set "
            "the parameters that it had, or fit anew with warm_start=False"
        )


def _are_as_many(n_latent: int, estimator: Any) -> bool:
    """Whether the parameters allow for so many latents; where axes are found, for fewer, too."""
    most = estimator._n_most
    fewer = getattr(estimator, "init", None) == "rotation"
    return most is None or n_latent == most or (fewer and n_latent < most)


def _genes(attributes: dict[str, Any]) -> Any:
    """Names, or where there are none numbers."""
    return attributes.get("feature_names_in_", np.arange(attributes["n_features_in_"]))
