"""The only optimisation loop of the package, and what a module must offer to be trained by it."""

import copy
import math
import threading
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Normal
from torch.optim.adam import adam

from ._data import Cells
from .exceptions import TrainingWarning

N_STEPS = 5000  # gradient steps of a training of automatic length
N_JUDGED = 256  # training cells, at most, by which a training is judged
TOLERANCE, RELATIVE_TOLERANCE = 10.0, 0.1  # nats by which a cell may lose in a short training
N_RENEWING = 100  # minibatches at most that the statistics of batch norm are taken from anew
ADVICE = "lower learning_rate, raise n_epochs_kl_warmup, or look for extreme values in X"
GENERATOR = threading.RLock()  # held while torch's generators are ours


class PerturbationModule(Protocol):
    """All that the estimator base and the trainer call; a model is an ``nn.Module`` with these."""

    def loss_terms(self, cells: Cells, kl_weight: float = 1.0) -> dict[str, Tensor]:
        """Named scalars in nats per cell whose sum is the objective.

        A global variable gives its KL divided by the number of training cells.
        """

    def guide(self, cells: Cells) -> Normal:
        """Posterior q(z | x, a) of a latent state of which x is a function, (n_cells, n_latent).

        Scores start from it, and find a better one by the gradient of ``log_joint``.
        """

    def draw(self, n_draws: int) -> Any:
        """Samples of the variables that all cells share; None where there are none."""

    def log_joint(self, cells: Cells, z: Tensor, shared: Any) -> Tensor:
        """Log p(x, z | a) at any states z, (n_particles, n_cells), differentiable in these.

        Whatever else a cell has, such as its masks, is summed over. Where cells share variables,
        ``shared`` is what ``draw`` returned, and the result (n_draws, n_particles, n_cells).
        """

    def log_weights(self, cells: Cells, n_particles: int) -> Tensor:
        """Log p(x, z | a) - log q(z | x, a) at samples of q, (n_particles, n_cells).

        One sample each is what training is validated by.
        """

    def encode(self, x: Tensor) -> Tensor:
        """Posterior mean of the latent state that explains x, from x only, (n_cells, n_latent)."""

    def posterior(self, cells: Cells) -> dict[str, Tensor]:
        """Moments of the guide: at least ``z``, ``z_basal`` and ``scale``, (n_cells, n_latent)."""

    def basal_states(self, n_states: int) -> Tensor:
        """Latent states of untreated cells, drawn from the prior, (n_states, n_latent)."""

    def intervene(self, z_basal: Tensor, cells: Cells, *, sampled: bool = False) -> Distribution:
        """Distribution of expression of these basal states under the design of ``cells``.

        With ``sampled`` what is uncertain of the effects is drawn for each cell, where a model
        has a posterior of them; else it has its mean or most probable value.
        """

    def learned(self) -> dict[str, Tensor]:
        """What the estimator shows, by name, a row per perturbation: ``embedding``, ``mask``..."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters to train; ``lr`` and ``weight_decay`` of a group multiply the trainer's."""

    def extended(self, cells: Cells, n_new: int) -> "PerturbationModule":
        """A copy with all frozen, and parameters for the ``n_new`` perturbations of ``cells``."""

    def refined(self) -> "PerturbationModule":
        """A copy whose discrete structure is fixed at its most probable value, priors off."""

    def modules(self) -> Iterator[nn.Module]:
        """As ``nn.Module``."""

    def train(self, mode: bool = True) -> Any:
        """As ``nn.Module``."""

    def eval(self) -> Any:
        """As ``nn.Module``."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """As ``nn.Module``."""

    def state_dict(self) -> dict[str, Any]:
        """As ``nn.Module``."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """As ``nn.Module``."""


def train(
    module: PerturbationModule,
    cells: Cells,
    *,
    max_epochs: int,
    batch_size: int,
    learning_rate: float,
    schedule: str = "constant",
    weight_decay: float = 0.0,
    n_epochs_kl_warmup: int = 0,
    validation: Cells | None = None,
    patience: int | None = None,
    minibatches: Callable[[int], Iterator[Cells]] | None = None,
    on_epoch: Callable[[dict[str, float]], bool] | None = None,
) -> list[dict[str, float]]:
    """Minimise the sum of ``module.loss_terms``; return the history, a row per epoch.

    With ``validation`` cells the weights of the epoch with the best ELBO on them are kept, and
    training stops after ``patience`` epochs without a better one. ``on_epoch`` sees each row of
    the history and stops training by returning True. If a term is not finite, training stops
    with the weights kept so far; so it does at Ctrl-C, where ``on_epoch`` sees an empty row.
    Both warn. ``FloatingPointError`` if no weights were finite, or the ELBO under them is not.
    """
    rate = one_cycle if schedule == "one_cycle" else _constant
    some = judged(cells)
    before = mean_elbo(module, some)
    optimizer = _Adam(module, learning_rate, weight_decay, rate)
    history: list[dict[str, float]] = []
    best_elbo, best_epoch, best = -math.inf, 0, copy.deepcopy(module.state_dict())
    try:
        for epoch in range(max_epochs):
            kl_weight = min(1.0, epoch / n_epochs_kl_warmup) if n_epochs_kl_warmup else 1.0
            batches = (minibatches or cells.minibatches)(batch_size)
            done, end = epoch / max_epochs, (epoch + 1) / max_epochs
            span = done, 1 / (max_epochs * cells.n_cells), end
            row = _epoch(module, batches, optimizer, kl_weight, span)
            if validation is not None:
                row |= _validate(module, validation, kl_weight, batch_size)
            _check_finite(row, optimizer, epoch)
            history.append(row)
            if validation is None or row["validation_elbo"] > best_elbo:
                best_elbo, best_epoch = row.get("validation_elbo", best_elbo), epoch
                best = copy.deepcopy(module.state_dict())
            stop = on_epoch is not None and on_epoch(row)
            if stop or (patience is not None and epoch - best_epoch >= patience):
                break
    except (KeyboardInterrupt, FloatingPointError) as reason:
        if not history:
            raise
        message = f"{str(reason) or 'interrupted'}; the weights of epoch {best_epoch} are kept"
        warnings.warn(message, TrainingWarning, stacklevel=2)
        _tell_if_interrupted(on_epoch, reason)
    module.load_state_dict(best)
    _separate(module)
    if is_worse(before, mean_elbo(module, some)):
        _renew_statistics(module, (minibatches or cells.minibatches)(batch_size), some)
    return history


def _separate(module: PerturbationModule) -> None:
    """Give parameters aligned memory of their own, as a copy has: products are then the same."""
    for parameter in module.parameters():
        parameter.data, parameter.grad = parameter.data.clone(), None


def judged(cells: Cells) -> Cells:
    """Some of the cells, evenly spaced."""
    step = -(-cells.n_cells // N_JUDGED)
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
    kept, elbo = copy.deepcopy(module.state_dict()), mean_elbo(module, some)
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


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw from a generator of our own and leave the caller's as it was.

    Torch has one generator for all threads, so that one seeded piece of work waits for another.
    """
    with GENERATOR, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        set_seed(seed, device)
        yield


def set_seed(seed: int, device: torch.device) -> None:
    """Seed what work on this device draws from; ``torch.manual_seed`` seeds other GPUs, too."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(seed)


def _epoch(
    module: PerturbationModule,
    batches: Iterator[Cells],
    optimizer: "_Adam",
    kl_weight: float,
    span: tuple[float, float, float],
) -> dict[str, float]:
    """Follow the gradient over the minibatches and return the mean of each term, nats per cell.

    ``span`` is the share of the training that is done, what each cell adds to it, and what it is
    at the end of the epoch, even if minibatches hold some cells twice.
    """
    total, n_seen = torch.zeros(()), 0
    module.train()
    for batch in batches:
        terms = module.loss_terms(batch, kl_weight)
        values = torch.stack(tuple(terms.values()))
        values.sum().backward()
        optimizer.step(min(span[0] + span[1] * n_seen, span[2]))
        total = total.to(values.device) + values.detach() * batch.n_cells
        n_seen += batch.n_cells
    module.eval()
    return dict(zip(terms, (total / n_seen).tolist(), strict=True))  # synchronises, once


def _tell_if_interrupted(
    on_epoch: Callable[[dict[str, float]], bool] | None, reason: BaseException
) -> None:
    if on_epoch is not None and isinstance(reason, KeyboardInterrupt):
        on_epoch({})


class Budget(NamedTuple):
    """How long to train, and in what steps."""

    n_epochs: int
    batch_size: int
    n_epochs_kl_warmup: int


def budget(
    n_cells: int,
    max_epochs: int | str,
    batch_size: int | str,
    n_epochs_kl_warmup: int | str,
    n_steps: int = N_STEPS,
) -> Budget:
    """Replace what is "auto" by what suits the number of training cells.

    Minibatches are about an 80th of the cells, a power of two from 64 to 512; epochs are so many
    that ``n_steps`` minibatches are seen, from 20 to 200; the KL is warmed up over a third.
    """
    size = min(max(2 ** round(math.log2(n_cells / 80)), 64), 512)
    size = size if isinstance(batch_size, str) else batch_size
    n_epochs = min(max(round(n_steps * size / n_cells), 20), 200)
    n_epochs = n_epochs if isinstance(max_epochs, str) else max_epochs
    third = round(n_epochs / 3)
    warmup = third if isinstance(n_epochs_kl_warmup, str) else n_epochs_kl_warmup
    return Budget(n_epochs, size, warmup)


@contextmanager
def suitable_threads(n_elements: int) -> Iterator[None]:
    """One thread for minibatches of fewer than a million numbers, else as many as torch has.

    Small matrix products gain nothing from a second thread, and lose all where another program
    wants the same cores: the threads wait for each other at every operation.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1 if n_elements < 2**20 else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Adam:
    """Adam on one flat tensor per group, of which parameters and gradients become views.

    A step is one kernel a group instead of several a layer. The bookkeeping of
    ``torch.optim.Optimizer`` is left out: it is a twentieth of a step of small networks.
    """

    def __init__(
        self,
        module: PerturbationModule,
        learning_rate: float,
        weight_decay: float,
        schedule: Callable[[float], float],
    ):
        self.schedule = schedule
        self.groups = []
        for group in module.parameter_groups():
            values, gradient = _flat(group["params"])
            rate = learning_rate * group.get("lr", 1.0)
            decay = weight_decay * group.get("weight_decay", 1.0)
            n_steps = torch.zeros((), device=values.device)
            state = torch.zeros_like(values), torch.zeros_like(values), n_steps
            self.groups.append((values, gradient, state, rate, decay))

    @torch.no_grad()
    def step(self, progress: float) -> None:
        """Follow the gradient, and clear it, after this share of the training."""
        for values, gradient, (mean, square, n_steps), rate, decay in self.groups:
            adam(
                [values],
                [gradient],
                [mean],
                [square],
                [],
                [n_steps],
                fused=True,
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=rate * self.schedule(progress),
                weight_decay=decay,
                eps=1e-8,
                maximize=False,
            )
            gradient.zero_()


def _flat(parameters: list[nn.Parameter]) -> tuple[Tensor, Tensor]:
    """Two tensors of which the parameters, and their gradients, become views."""
    values = torch.cat([p.detach().flatten() for p in parameters])
    gradient = torch.zeros_like(values)
    sizes = [p.numel() for p in parameters]
    views = values.split(sizes), gradient.split(sizes)
    for parameter, value, slope in zip(parameters, *views, strict=True):
        parameter.data, parameter.grad = value.view_as(parameter), slope.view_as(parameter)
    return values, gradient


def one_cycle(progress: float) -> float:
    """Learning rate relative to its peak after this share of the training, 0 to 1.

    Rises from 1/25 over the first 30 % and falls to nothing, both along a cosine (Smith and
    Topin 2018, in the two-phase form of fastai).
    """
    if progress < 0.3:
        return 1 - 0.96 * (1 + math.cos(math.pi * progress / 0.3)) / 2
    return (1 + math.cos(math.pi * min((progress - 0.3) / 0.7, 1.0))) / 2


def _constant(progress: float) -> float:
    return 1.0


@torch.no_grad()
def _validate(
    module: PerturbationModule, cells: Cells, kl_weight: float, batch_size: int
) -> dict[str, float]:
    """Mean of each term and of the ELBO over held-out cells, nats per cell."""
    row: dict[str, float] = defaultdict(float)
    for batch in cells.minibatches(8 * batch_size, shuffle=False):
        share = batch.n_cells / cells.n_cells
        for name, term in module.loss_terms(batch, kl_weight).items():
            row[f"validation_{name}"] += float(term) * share
        row["validation_elbo"] += float(module.log_weights(batch, 1).mean()) * share
    return dict(row)


def _check_finite(row: dict[str, float], optimizer: _Adam, epoch: int) -> None:
    row = row | {"a weight": float(sum(values.sum() for values, *_ in optimizer.groups))}
    for name, value in row.items():
        if not math.isfinite(value):
            raise FloatingPointError(f"{name} became {value} in epoch {epoch}: {ADVICE}")
