"""The only optimisation loop of the package."""

import math
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from ._data import Cells
from ._graphs import LEAST_STEPS, Recorder, Replayed, cuda_graph
from ._optimizer import Adam
from ._progress import Progress
from ._ranks import add_up, anywhere, rank_and_size, shares
from ._runtime import seeded
from .exceptions import TrainingWarning, warn_of_data
from .module import PerturbationModule

N_PROBED = 256  # training cells, at most, by which a training is assessed
TOLERANCE, RELATIVE_TOLERANCE = 10.0, 0.1  # nats by which a cell may lose in a short training
N_TELLING = 2000  # steps of a training that tells how many latents there are
N_RISES = 8  # of the weight of the KL until it is 1, at least, over parts of epochs
N_RENEWING = 100  # minibatches at most that the statistics of batch norm are taken from anew
ADVICE = "lower learning_rate, raise n_epochs_kl_warmup, or look for extreme values in X"


def train(
    module: PerturbationModule,
    cells: Cells,
    optimizer: Adam,
    *,
    max_epochs: int,
    batch_size: int,
    n_epochs_kl_warmup: float = 0,
    validation: Cells | None = None,
    patience: int | None = None,
    on_epoch: Callable[[dict[str, float]], bool] | None = None,
    progress: Progress | None = None,
    record: Recorder | None = None,
) -> list[dict[str, float]]:
    """Minimise the sum of ``module.loss_terms``; return the history, a row per epoch.

    The optimiser has the parameters of the module, and serves this training alone. With
    ``validation`` cells the weights of the epoch with the best ELBO on them are kept, and
    training stops after ``patience`` epochs without a better one. ``on_epoch`` sees each row of
    the history and stops training by returning True. If a term is not finite, training stops
    with the weights kept so far; so it does at Ctrl-C, where ``on_epoch`` sees an empty row.
    Both warn. ``FloatingPointError`` if no weights were finite, or the ELBO under them is not.
    A training that stands somewhere goes on from there. Steps are replayed as ``record`` says;
    None is a CUDA graph where there is a GPU.
    """
    some, batches = probe(cells), module.minibatches(cells)
    progress = progress or Progress()
    history, before, best = _standing(progress, module, optimizer, some)
    step, take = _steps(module, optimizer, max_epochs * cells.n_cells / batch_size, record)
    try:
        for epoch in range(len(history), max_epochs):
            start, end = epoch / max_epochs, (epoch + 1) / max_epochs
            means = Means()
            module.train()
            for batch, n_cells, weight in shares(batches(batch_size), module):
                share = min(start + 1 / (max_epochs * cells.n_cells) * means.n_cells, end)
                done = epoch + min(means.n_cells / cells.n_cells, 0.999)
                kl_weight = _kl_weight(done, n_epochs_kl_warmup)
                rate = optimizer.schedule(share)  # a minibatch may hold cells twice
                means.add(take(batch, kl_weight, rate, weight), n_cells)
            row = means.row(step.names) | _validate(module, validation, kl_weight, batch_size)
            _check_finite(row | {"a weight": optimizer.total()}, epoch)
            history.append(row)
            best.keep(row.get("validation_elbo"), epoch)
            stop = anywhere(on_epoch is not None and on_epoch(row), cells.dosage.device)
            if stop or (patience is not None and epoch - best.epoch >= patience):
                break
            progress.stands(history, before, best, optimizer.state())
    except (KeyboardInterrupt, FloatingPointError) as reason:
        if not history:
            raise
        _stopped(reason, best.epoch, on_epoch)
    best.restore()
    if is_worse(before, mean_elbo(module, some)):
        _renew_statistics(module, batches(batch_size), some)
    return history


def _kl_weight(n_epochs: float, n_warmup: float) -> float:
    """Weight of the KL after so many epochs: it rises with each, or more often over a part."""
    if not n_warmup:
        return 1.0
    grain = 1.0 if float(n_warmup).is_integer() else min(1.0, n_warmup / N_RISES)
    return min(1.0, math.floor(n_epochs / grain + 1e-6) * grain / n_warmup)


def _stopped(reason: BaseException, epoch: int, on_epoch: Any) -> None:
    """Say why training ended, and what is kept."""
    if on_epoch is not None and isinstance(reason, KeyboardInterrupt):
        on_epoch({})
    message = f"{str(reason) or 'interrupted'}; the weights of epoch {epoch} are kept"
    warnings.warn(message, TrainingWarning, stacklevel=3)


def _standing(
    progress: Progress, module: PerturbationModule, optimizer: Adam, some: Cells
) -> tuple[list[dict[str, float]], float, "Best"]:
    """History, ELBO of some cells before training, and the best weights, where it stands."""
    if progress.epochs is None:
        return [], mean_elbo(module, some), Best(module)
    optimizer.load_state(progress.epochs.moments)
    progress.resume_random()
    return progress.epochs.history, progress.epochs.before, progress.epochs.best


class GradientStep:
    """Gradient of the objective on a minibatch, and a step along it."""

    def __init__(self, module: PerturbationModule, optimizer: Adam):
        self.module, self.optimizer = module, optimizer
        self.names: tuple[str, ...] = ()  # of the terms of the objective

    def __call__(self, batch: Any, kl_weight: Any, rate: Any, weight: Any = 1.0) -> Tensor:
        """Terms, (n_terms,), of a share of a minibatch weighed, before the step."""
        terms = self.module.loss_terms(batch, kl_weight)
        values: Tensor = weight * torch.stack(tuple(terms.values()))
        self.names = tuple(terms)
        values.sum().backward()
        self.optimizer.follow(rate)
        return values.detach()


def _steps(
    module: PerturbationModule,
    optimizer: Adam,
    n_steps: float,
    record: Recorder | None,
) -> tuple[GradientStep, Callable[..., Tensor]]:
    """The step, and itself or where that is asked for, or pays, what replays it."""
    step, changed = GradientStep(module, optimizer), [*optimizer.tensors(), *module.buffers()]
    if record is None:
        pays = n_steps >= LEAST_STEPS and rank_and_size()[1] == 1
        if not pays or changed[0].device.type != "cuda":
            return step, step
        record = partial(cuda_graph, device=changed[0].device)
    return step, Replayed(step, changed, record)


class Means:
    """Mean of each term over the cells of an epoch, nats per cell."""

    def __init__(self) -> None:
        self.total, self.n_cells = torch.zeros(()), 0

    def add(self, values: Tensor, n_cells: int) -> None:
        """Count the terms of a minibatch in."""
        self.total = self.total.to(values.device) + values * n_cells
        self.n_cells += n_cells

    def row(self, names: tuple[str, ...]) -> dict[str, float]:
        """Means by name; the one synchronisation with the device in an epoch."""
        add_up(self.total)
        return dict(zip(names, (self.total / self.n_cells).tolist(), strict=True))


def weights_of(module: PerturbationModule) -> dict[str, Tensor]:
    """A copy of all parameters and buffers."""
    return {name: values.clone() for name, values in module.state_dict().items()}


class Best:
    """The best weights so far."""

    def __init__(self, module: PerturbationModule):
        self.module, self.elbo, self.epoch = module, -math.inf, 0
        self.weights = weights_of(module)

    def keep(self, elbo: float | None, epoch: int) -> None:
        """Keep the weights of this epoch if they are the best, or if that is not known."""
        if elbo is None or elbo > self.elbo:
            self.elbo, self.epoch = self.elbo if elbo is None else elbo, epoch
            self.weights = weights_of(self.module)

    def restore(self) -> None:
        """Give them back, each in aligned memory of its own: products are then those of a copy."""
        self.module.load_state_dict(self.weights)
        for parameter in self.module.parameters():
            parameter.data, parameter.grad = parameter.data.clone(), None


def probe(cells: Cells) -> Cells:
    """Some of the cells, evenly spaced."""
    step = -(-cells.n_cells // N_PROBED)
    return cells.take(torch.arange(0, cells.n_cells, step, device=cells.dosage.device))


@torch.no_grad()
def mean_elbo(module: PerturbationModule, cells: Cells) -> float:
    """Mean ELBO of these cells, nats, with the same noise for every module."""
    module.eval()
    with seeded(0, cells.dosage.device):
        return float(module.log_weights(cells, 1).mean())


def is_worse(before: float, after: float) -> bool:
    """Whether an ELBO is not finite, or clearly below what it was."""
    if not math.isfinite(before):
        return not math.isfinite(after)
    return not after >= before - TOLERANCE - RELATIVE_TOLERANCE * abs(before)


@torch.no_grad()
def _renew_statistics(module: PerturbationModule, batches: Iterator[Cells], some: Cells) -> None:
    """Take what batch norm keeps from minibatches anew, unless that is worse still.

    After few steps its moving averages are those of other weights.
    """
    kept, elbo = weights_of(module), mean_elbo(module, some)
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm1d)]
    momentum = [norm.momentum for norm in norms]
    module.train()
    for number, batch in enumerate(islice(batches, N_RENEWING), 1):
        for norm in norms:
            norm.momentum = 1 / number
        module.loss_terms(batch)
    for norm, usual in zip(norms, momentum, strict=True):
        norm.momentum = usual
    renewed = mean_elbo(module, some)
    if math.isfinite(elbo) and not renewed > elbo:
        module.load_state_dict(kept)
    elif not math.isfinite(renewed):
        raise FloatingPointError(f"the ELBO of training cells became {renewed}: {ADVICE}")


@torch.no_grad()
def check_predictions(module: PerturbationModule, cells: Cells) -> None:
    """FloatingPointError if latent states of these cells, or predictions, are not finite."""
    with seeded(0, cells.dosage.device):
        treated = cells._replace(x=cells.x[:, :0])
        p_x = module.intervene(module.basal_states(cells.n_cells), treated, sampled=True)
        made = {"latent states": module.encode(cells.x), "expected expression": p_x.mean}
        for name, values in made.items():
            if not values.isfinite().all():
                raise FloatingPointError(f"{name} are not finite after training: {ADVICE}")


@torch.no_grad()
def _validate(
    module: PerturbationModule, cells: Cells | None, kl_weight: float, batch_size: int
) -> dict[str, float]:
    """Mean of each term and of the ELBO over held-out cells, if there are any; nats per cell."""
    module.eval()
    if cells is None:
        return {}
    names: tuple[str, ...] = ()
    total = torch.zeros((), dtype=torch.float64, device=cells.dosage.device)
    for batch in cells.minibatches(8 * batch_size, shuffle=False):
        terms = module.loss_terms(batch, kl_weight) | {"elbo": module.log_weights(batch, 1).mean()}
        names = tuple(terms)
        share = batch.n_cells / cells.n_cells
        total = total + torch.stack(tuple(terms.values())).double() * share
    return {f"validation_{name}": value for name, value in zip(names, total.tolist(), strict=True)}


def _check_finite(values: dict[str, float], epoch: int) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise FloatingPointError(f"{name} became {value} in epoch {epoch}: {ADVICE}")


def warn_if_worse(before: float, after: float) -> None:
    """Warn if training made the model worse."""
    if is_worse(before, after):
        warnings.warn(
            f"training made the model worse: the ELBO of training cells is {after:.5g} nats per "
            f"cell, {before - after:.3g} below what it was before. Do not use it: lower "
            "learning_rate, train for longer, or look for extreme values in X",
            TrainingWarning,
            stacklevel=4,
        )


def warn_if_few(n_found: int, n_most: int | None, n_steps: float) -> None:
    """Warn of too few latents, if training was long enough to know."""
    if n_most is not None and n_found > n_most and n_steps >= N_TELLING:
        warn_of_data(
            f"these cells vary along {n_found} latents and n_latent={n_most}: what perturbations "
            "do to the others shows in these, so that few edges can be called. Give more, or "
            "n_latent='auto'"
        )
