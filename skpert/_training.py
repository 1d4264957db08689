"""The only optimisation loop of the package, and what a module must offer to be trained by it."""

import copy
import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ._data import Cells
from .exceptions import TrainingWarning


class PerturbationModule(Protocol):
    """All that the estimator base and the trainer call; a model is an ``nn.Module`` with these."""

    def loss_terms(self, cells: Cells, kl_weight: float = 1.0) -> dict[str, Tensor]:
        """Named scalars in nats per cell whose sum is the objective.

        A global variable gives its KL divided by the number of training cells.
        """

    def log_weights(self, cells: Cells, n_particles: int) -> Tensor:
        """Log p(x, z | a) - log q(z | x, a) at samples of q, (n_particles, n_cells)."""

    def encode(self, x: Tensor) -> Tensor:
        """Posterior mean of the latent state that explains x, from x only, (n_cells, n_latent)."""

    def posterior(self, cells: Cells) -> dict[str, Tensor]:
        """Moments of the guide: at least ``z``, ``z_basal`` and ``scale``, (n_cells, n_latent)."""

    def basal_states(self, n_states: int) -> Tensor:
        """Latent states of untreated cells, drawn from the prior, (n_states, n_latent)."""

    def intervene(self, z_basal: Tensor, cells: Cells) -> Distribution:
        """Distribution of expression of these basal states under the design of ``cells``."""

    def learned(self) -> dict[str, Tensor]:
        """What the estimator shows, by name, a row per perturbation: ``embedding``, ``mask``..."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters to train; ``lr`` and ``weight_decay`` of a group multiply the trainer's."""

    def extended(self, cells: Cells, n_new: int) -> "PerturbationModule":
        """A copy with all frozen, and parameters for the ``n_new`` perturbations of ``cells``."""

    def refined(self) -> "PerturbationModule":
        """A copy whose discrete structure is fixed at its most probable value, priors off."""

    def train(self, mode: bool = True) -> Any:
        """As ``nn.Module``."""

    def eval(self) -> Any:
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
    Both warn.
    """
    optimizer = _optimizer(module, learning_rate, weight_decay)
    rate = one_cycle if schedule == "one_cycle" else _constant
    history: list[dict[str, float]] = []
    best_elbo, best_epoch, best = -math.inf, 0, copy.deepcopy(module.state_dict())
    try:
        for epoch in range(max_epochs):
            kl_weight = min(1.0, epoch / n_epochs_kl_warmup) if n_epochs_kl_warmup else 1.0
            total, n_seen = torch.zeros(()), 0
            module.train()
            for batch in (minibatches or cells.minibatches)(batch_size):
                terms = module.loss_terms(batch, kl_weight)
                values = torch.stack(tuple(terms.values()))
                progress = (epoch + n_seen / cells.n_cells) / max_epochs
                _step(optimizer, values.sum(), rate(progress))
                total = total.to(values.device) + values.detach() * batch.n_cells
                n_seen += batch.n_cells
            module.eval()
            row = dict(zip(terms, (total / n_seen).tolist(), strict=True))  # synchronises, once
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
    module.eval()
    return history


def _tell_if_interrupted(
    on_epoch: Callable[[dict[str, float]], bool] | None, reason: BaseException
) -> None:
    if on_epoch is not None and isinstance(reason, KeyboardInterrupt):
        on_epoch({})


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


def _optimizer(
    module: PerturbationModule, learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Adam on one flat tensor per group of parameters."""
    groups: list[dict[str, Any]] = [
        {
            "params": [_flat(group["params"])],
            "lr": learning_rate * group.get("lr", 1.0),
            "weight_decay": weight_decay * group.get("weight_decay", 1.0),
        }
        for group in module.parameter_groups()
    ]
    for group in groups:
        group["peak"] = group["lr"]
    return torch.optim.Adam(groups, fused=True)


def _flat(parameters: list[nn.Parameter]) -> nn.Parameter:
    """Tensor of which the parameters, and their gradients, become views.

    An optimiser's step is then a few kernels instead of a few for every layer, which is a fifth
    of the time of a step of small networks.
    """
    flat = nn.Parameter(torch.cat([p.detach().flatten() for p in parameters]))
    flat.grad = torch.zeros_like(flat)
    sizes = [p.numel() for p in parameters]
    views = zip(parameters, flat.detach().split(sizes), flat.grad.split(sizes), strict=True)
    for parameter, values, gradient in views:
        parameter.data = values.view_as(parameter)
        parameter.grad = gradient.view_as(parameter)
    return flat


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


def _step(optimizer: torch.optim.Optimizer, loss: Tensor, factor: float) -> None:
    """Follow the gradient, at this factor of the peak learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
    optimizer.zero_grad(set_to_none=False)
    loss.backward()
    optimizer.step()


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


def _check_finite(row: dict[str, float], optimizer: torch.optim.Optimizer, epoch: int) -> None:
    weights = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    row = row | {"a weight": float(sum(weight.detach().sum() for weight in weights))}
    for name, value in row.items():
        if not math.isfinite(value):
            raise FloatingPointError(
                f"{name} became {value} in epoch {epoch}: lower learning_rate, raise "
                "n_epochs_kl_warmup, or look for extreme values in X"
            )
