"""What a model is to the rest of the package, and a recipe for a new one.

A model is an ``nn.Module`` that inherits from :class:`PerturbationModule` and says four things:
its posterior (``guide``), its joint density (``log_joint``), its objective (``loss_terms``) and
what an intervention does (``intervene``). All else has a default, which a model replaces where
it differs:

===========================  =====================================================================
``shift``, ``learned``       how a design moves a latent state; what the estimator shows of that
``features``, ``encode``     what the encoder reads, and the state that follows from expression
``encode_untreated``         the same of cells known to be untreated
``decode``                   expression of such states, as ``encode`` gives them
``posterior``                moments of the guide, as ``estimator.posterior`` gives them
``log_weights``              weights of samples of the guide, by which training is validated
``draw``                     samples of variables that all cells share
``basal_states``             the prior of the latent state of untreated cells
``rates``                    parameters that learn faster than the networks
``phases``                   the phases of a first training, and what follows each
``later_phases``             those of a training that goes on, in ``adapt`` and ``refine``
``minibatches``              how training cells are put together
``preference``, ``doubt``    which of several trainings is the best, and what to warn of
``extended``, ``refined``    copies that learn new perturbations, or have masks without a prior
``continued``                a copy whose training goes on from here
``restarted``                a copy for another training from these weights, and its phases
===========================  =====================================================================

A module is abstract or final: no model inherits from another.
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Normal

from ._data import Cells as Cells
from .nn import Decoder, GaussianEncoder, Table
from .objectives import sampled


class Phase(NamedTuple):
    """A part of training.

    What training or ``finalise`` changes has to be a parameter, a buffer or a ``Table``: files and
    pickles hold nothing else of a module.
    """

    n_epochs: int
    finalise: Callable[[Cells], None] | None = None  # what follows it, given the training cells
    name: str | None = None  # in the history; None where there is but one
    rate: float = 1.0  # learning rate, relative
    warmup: float = 1 / 3  # share over which the KL comes in, if this is the first phase
    n_warming: float = math.inf  # cells that are seen until then, at most; one counts repeatedly


class PerturbationModule(nn.Module, ABC):
    """All that estimators, training and scoring ask of a model."""

    rates: ClassVar[dict[str, float]] = {}  # part of a parameter's name: learning rate, relative
    divisible: Any = True  # whether processes can share a minibatch: no loss beside means of cells

    def __init__(
        self, encoder: GaussianEncoder, decoder: Decoder, columns: nn.Linear | None = None
    ):
        super().__init__()
        self.encoder = encoder
        self.columns = columns  # of the encoder's first layer, for what it reads beside x
        self.decoder = decoder
        self.frozen = False  # whether the networks keep their weights and batch statistics
        self.fresh = True  # whether training starts here, rather than goes on
        self.n_found = 0  # latents that training found in the data, of which some may be kept

    @abstractmethod
    def guide(self, cells: Cells) -> Normal:
        """Posterior q(z | x, a) of a latent state of which x is a function, (n_cells, n_latent).

        Scores start from it, and find a better one by the gradient of ``log_joint``.
        """

    @abstractmethod
    def log_joint(self, cells: Cells, z: Tensor, shared: Any = None) -> Tensor:
        """Log p(x, z | a) at any states z, (n_particles, n_cells), differentiable in these.

        Whatever else a cell has, such as its masks, is summed over. Where cells share variables,
        ``shared`` is what ``draw`` returned, and the result (n_draws, n_particles, n_cells).
        """

    @abstractmethod
    def loss_terms(self, cells: Any, kl_weight: float = 1.0) -> dict[str, Tensor]:
        """Named scalars in nats per cell whose sum is the objective.

        A global variable gives its KL divided by the number of training cells. In training,
        ``cells`` is what ``minibatches`` made; held-out cells come as ``Cells``.
        """

    @abstractmethod
    def intervene(self, z_basal: Tensor, cells: Cells, *, sampled: bool = False) -> Distribution:
        """Distribution of expression of these basal states under the design of ``cells``.

        With ``sampled`` what is uncertain of the effects is drawn for each cell, where a model
        has a posterior of them; else it has its mean or most probable value.
        """

    def log_weights(self, cells: Cells, n_particles: int) -> Tensor:
        """Log p(x, z | a) - log q(z | x, a) at samples of q, (n_particles, n_cells).

        One sample each is what training is validated by.
        """
        z, log_q = sampled(self.guide(cells), n_particles)
        return self.log_joint(cells, z) - log_q

    def shift(self, cells: Cells) -> Tensor:
        """How far the design of each cell moves its latent state, (n_cells, n_latent), or (1,)."""
        return cells.dosage.new_zeros(1)

    def learned(self) -> dict[str, Tensor]:
        """What the estimator shows, by name, a row per perturbation: ``embedding``, ``mask``..."""
        return {}

    def features(self, x: Tensor) -> Tensor:
        """What the encoder reads, (n_cells, n_genes)."""
        return self.decoder.features(x)

    def encode(self, x: Tensor) -> Tensor:
        """Posterior mean of the latent state that explains x, from x only, (n_cells, n_latent)."""
        mean: Tensor = self.encoder(self.features(x)).mean
        return mean

    def encode_untreated(self, x: Tensor) -> Tensor:
        """The same of cells of which it is known that they are untreated."""
        return self.encode(x)

    def decode(self, z: Tensor, cells: Cells) -> Distribution:
        """Distribution of expression of states as ``encode`` gives them, whatever led to them."""
        p_x: Distribution = self.decoder(z, cells.library, cells.environment)
        return p_x

    def posterior(self, cells: Cells) -> dict[str, Tensor]:
        """Moments of the guide: at least ``z``, ``z_basal`` and ``scale``, (n_cells, n_latent)."""
        q = self.guide(cells)
        return {"z": q.mean, "scale": q.stddev, "z_basal": q.mean - self.shift(cells)}

    def draw(self, n_draws: int) -> Any:
        """Samples of the variables that all cells share; None where there are none."""
        return None

    def basal_states(self, n_states: int) -> Tensor:
        """Latent states of untreated cells, drawn from the prior, (n_states, n_latent)."""
        return torch.randn(n_states, self.encoder.n_latent, device=self.device)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def phases(self, n_epochs: int) -> list[Phase]:
        """Phases of a first training of so many epochs; the KL is warmed up in the first one."""
        return [Phase(n_epochs)]

    def later_phases(self, n_epochs: int) -> list[Phase]:
        """Phases of a training that goes on from here; no known row may change in ``adapt``."""
        return [Phase(n_epochs)]

    def minibatches(self, cells: Cells) -> Callable[[int], Iterator[Any]]:
        """Function of the batch size that goes through the training cells once, in new order."""
        return cells.minibatches

    def preference(self, cells: Cells) -> float | None:
        """How good a training is, by its cells; None leaves that to the evidence of others."""
        return None

    def doubt(self, cells: Cells) -> str | None:
        """What users should know of a training, by its cells; None if nothing is wrong."""
        return None

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters to train; ``lr`` and ``weight_decay`` of a group multiply the trainer's.

        Those with a rate of their own do not decay.
        """
        groups: dict[float | None, dict[str, Any]] = {}
        trained = [(n, p) for n, p in self.named_parameters() if p.requires_grad]
        for part in (None, *self.rates):
            rate = None if part is None else self.rates[part]
            found = [p for n, p in trained if self._part(n) == part]
            decay = {} if rate is None else {"lr": rate, "weight_decay": 0.0}
            if found:
                groups.setdefault(rate, {"params": [], **decay})["params"] += found
        return list(groups.values())

    def _part(self, name: str) -> str | None:
        """The first of ``rates`` that this parameter's name has; None has the networks' rate."""
        return next((part for part in self.rates if f".{part}." in f".{name}."), None)

    def train(self, mode: bool = True) -> Self:
        """As ``nn.Module``; networks that are frozen keep their batch statistics."""
        return super().train(mode and not self.frozen)

    def continued(self, *, frozen: bool) -> Self:
        """A copy whose training goes on from here, with its parameters frozen or free."""
        module = copy.deepcopy(self).requires_grad_(not frozen)
        module.fresh, module.frozen = False, frozen
        return module

    def extended(self, cells: Cells, n_new: int) -> Self:
        """A copy with all frozen, and rows for the ``n_new`` last perturbations of ``cells``."""
        module = self.continued(frozen=True)
        for table in module.modules():
            if isinstance(table, Table):
                table.extend(table().new_zeros(n_new, table.rows.shape[1]))
        return module

    def refined(self) -> Self:
        """A copy whose discrete structure is fixed at its most probable value, priors off."""
        module = self.continued(frozen=False)
        for table in module.modules():
            if isinstance(table, Table):
                table.unfreeze()
        return module

    def restarted(self, n_epochs: int) -> tuple[Self, list[Phase]]:
        """A copy to be trained again from these weights, and the phases of that."""
        module = PerturbationModule.refined(self)
        for table in module.modules():
            if isinstance(table, Table) and not table.rows.isfinite().all():
                table.requires_grad_(False)  # masks that are fixed
        return module, module.later_phases(n_epochs)
