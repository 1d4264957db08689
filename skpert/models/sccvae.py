r"""SCCVAE: perturbations shift the modules of a linear structural causal model.

.. math::

    z \sim \mathcal{N}(0, I), \qquad
    u = (I - A)^{-1} (z + c_p \, S_p), \quad S_p = \mathrm{shift}(\mathrm{features}_p), \qquad
    x_g \mid u \sim \mathcal{N}(f_g(u), \sigma_g^2)

with the penetrance :math:`c_p` of perturbation :math:`p`, its shift :math:`S_p`, which is not
negative and sums to one, and the weights :math:`A` of a graph between modules; :math:`c = 0` for
a control cell. Shifts follow from features of the perturbed gene, so that perturbations never
seen have them, too (Liu, Zhang and Uhler, Learning genetic perturbation effects with variational
causal inference, bioRxiv 2025.06.05.657988). In the code states are rows and
``B[i, j]`` is the edge from module i to module j: ``u = (z + c * S) @ inv(I - B)``.
"""

import math
from collections.abc import Callable, Iterator
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.sparse import issparse
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from .._data import ENCODE_SIZE, Cells, blocks
from .._input.cells import log_normalised, median_library_size
from .._input.expression import read_matrix
from .._input.penetrances import read_penetrances
from .._input.values import listed
from .._lengths import components, shift_lengths
from ..base import PerturbationVAE
from ..module import PerturbationModule, Phase
from ..nn import NormalHead, Table
from ..objectives import block_mmd, kl_from_unit_normal, log_unit_normal
from ..parameters import Interval, StrOptions, with_shared_parameters
from ..preprocessing import TargetFeatures
from ..preprocessing._target_features import similarity_weights

BLOCK_SIZE = 32  # cells of one perturbation that are compared with as many counterfactuals
MAX_CONTROLS = 10_000  # control cells that components of genes are computed from
N_BASAL_STATES = 1000  # of control cells, kept for predictions
RESPONSE_WEIGHT = 10.0  # of the squared error of mean counterfactuals, nats per unit
RECONSTRUCTION_SCALE = 0.25  # of control cells in the published objective
N_RESPONSES, LEAST_BASAL_STATES = 100_000, 100  # states decoded for all mean responses, for each
N_NUMBERS = 2**23  # of expression that is read at once after training
N_ROUNDS = 3  # of fitting penetrances to mean responses
N_CHOICES = 61  # penetrances that are tried for a perturbation that is added
LARGEST_ROW = 0.9  # sum of absolute weights of a row of a cyclic graph


class StructuralModel(nn.Module):
    """Linear structural causal model of modules: ``u = v @ inv(I - B)``, edges B[i, j]: i to j.

    An acyclic graph is solved as a triangular system, in an order of the modules in which all
    edges point forward. In a cyclic one the weights are scaled down where the absolute weights
    of a row sum to more than ``LARGEST_ROW``, so that I - B stays invertible.
    """

    graph: Tensor  # (n_latent, n_latent) 0 or 1
    order: Tensor  # (n_latent,) modules, causes first

    def __init__(self, graph: Tensor):
        super().__init__()
        order = causal_order(graph)
        self.acyclic = order is not None
        n = len(graph)
        self.register_buffer("graph", graph.float())
        order = torch.arange(n, device=graph.device) if order is None else order
        self.register_buffer("order", order)
        scale = min(0.1, 1 / math.sqrt(n))  # the published 0.1 makes last modules of 512 explode
        self.weight = nn.Parameter(torch.randn(n, n) * scale)

    def weights(self) -> Tensor:
        """B, zero where the graph has no edge, (n_latent, n_latent)."""
        B = self.weight * self.graph
        if self.acyclic:
            return B
        return B * (LARGEST_ROW / B.abs().sum(1).max().clamp(min=LARGEST_ROW))

    def forward(self, v: Tensor) -> Tensor:
        """States of all modules, given what each has of its own, (..., n_latent)."""
        B, rows = self.weights(), v.flatten(0, -2)
        identity = torch.eye(len(B), device=B.device)
        if not self.acyclic:
            u = torch.linalg.solve(identity - B, rows, left=False)
        else:
            B = B[self.order][:, self.order]
            u = torch.linalg.solve_triangular(
                identity - B, rows[:, self.order], upper=True, left=False, unitriangular=True
            )
            u = u[:, self.order.argsort()]
        return u.view_as(v)


class Independence(nn.Module):
    """No graph: every module is its own cause, and the model a conditional VAE."""

    def weights(self) -> None:
        """There are none."""
        return None

    def forward(self, v: Tensor) -> Tensor:
        """States as they are."""
        return v


def causal_order(graph: Tensor) -> Tensor | None:
    """Modules such that every edge points forward; None if the graph has a cycle."""
    edges, order = graph.bool(), []
    n_causes = edges.sum(0)  # that are not in the order yet
    remaining = torch.ones(len(graph), dtype=torch.bool, device=graph.device)
    while remaining.any():
        sources = remaining & (n_causes == 0)
        if not sources.any():
            return None
        order.append(sources.nonzero()[:, 0])
        remaining &= ~sources
        n_causes = n_causes - edges[sources].sum(0)
    return torch.cat(order) if order else torch.zeros(0, dtype=torch.long)


class FreeShifts(nn.Module):
    """A shift of its own for every perturbation; unseen ones share those of similar ones."""

    def __init__(self, n_perturbations: int, n_latent: int):
        super().__init__()
        self.logits = Table(0.1 * torch.randn(n_perturbations, n_latent))

    def forward(self) -> Tensor:
        """Shifts on the simplex, (n_perturbations, n_latent)."""
        return self.of(None)

    def of(self, part: Tensor | None) -> Tensor:
        """Shifts of these perturbations, (*part.shape, n_latent), or all."""
        return torch.softmax(self.logits.of(part), -1)

    def extend(self, shift: Tensor) -> None:
        """Append perturbations with these shifts, and freeze all."""
        self.logits.extend(shift.clamp(min=1e-12).log())
        self.logits.extend(shift[:0])


class ShiftNetwork(nn.Module):
    """The published shift encoder: a network from features to the simplex."""

    features: Tensor  # (n_perturbations, n_features)

    def __init__(self, features: Tensor, n_latent: int, *, n_hidden: int, n_layers: int):
        super().__init__()
        self.register_buffer("features", features)
        widths = [features.shape[1]] + [n_hidden] * n_layers
        layers: list[nn.Module] = []
        for n_in, n_out in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.Linear(n_in, n_out), nn.LeakyReLU(0.2)]
        self.network = nn.Sequential(*layers, nn.Linear(widths[-1], n_latent))
        self.added = Table(torch.zeros(0, n_latent))

    def forward(self) -> Tensor:
        """Shifts on the simplex, (n_perturbations, n_latent)."""
        return torch.cat([torch.softmax(self.network(self.features), -1), self.added()])

    def of(self, part: Tensor) -> Tensor:
        """Shifts of these perturbations, (*part.shape, n_latent)."""
        return nn.functional.embedding(part, self())

    def extend(self, shift: Tensor) -> None:
        """Append perturbations with these shifts, and freeze all."""
        self.added.extend(shift)
        self.added.extend(shift[:0])


class Blocks(NamedTuple):
    """Minibatch of blocks of cells of one perturbation each, and a block of control cells."""

    cells: Cells
    controls: Cells

    @property
    def n_cells(self) -> int:
        """Number of cells in blocks of perturbations."""
        return self.cells.n_cells


class CausalModule(PerturbationModule):
    """The equation above in torch, with the same symbols."""

    divisible = False  # a minibatch is of blocks, each compared with others
    rates = {"penetrance": 10.0, "shifts.logits": 10.0, "log_dispersion": 30.0, "log_scale": 30.0}
    basal: Tensor  # (N_BASAL_STATES, n_latent) z of control cells, for predictions
    longer: Tensor  # (n_perturbations,) than a shift of the training is what cells show of it
    control_mean: Tensor  # (n_genes,) what the response of no perturbation is, on average
    library: Tensor  # () median total counts of the training cells

    def __init__(
        self,
        encoder,
        decoder,
        structure: StructuralModel | Independence,
        shifts: FreeShifts | ShiftNetwork,
        n_perturbations: int,
        n_genes: int,
        *,
        objective: str,
        mmd_weight: float,
        library: float,
        refit_penetrance: bool = True,
    ):
        super().__init__(encoder, decoder)  # q(z + c S | x) and p(x | u)
        self.structure = structure  # v -> u
        self.shifts = shifts  # S
        self.penetrance = Table(torch.ones(n_perturbations, 1))  # c
        self.objective = objective
        self.mmd_weight = mmd_weight
        self.refit_penetrance = refit_penetrance
        self.register_buffer("basal", torch.randn(N_BASAL_STATES, encoder.n_latent))
        self.register_buffer("longer", torch.ones(n_perturbations))
        self.register_buffer("control_mean", torch.zeros(n_genes))
        self.register_buffer("library", torch.tensor(library))

    def shift(self, cells: Cells) -> Tensor:
        """Sum of dosage times c S over each cell's perturbations, (n_cells, n_latent)."""
        return cells.summed(self.penetrance.of(cells.part) * self.shifts.of(cells.part))

    def minibatches(self, cells: Cells) -> Callable[[int], Iterator[Blocks]]:
        """Blocks of cells, each minibatch with control cells of its own to be compared with."""
        controls, of_cells = untreated(cells), blocks(cells, BLOCK_SIZE)

        def paired(batch_size: int) -> Iterator[Blocks]:
            for batch in of_cells(batch_size):
                device = batch.dosage.device
                index = torch.randint(controls.n_cells, (BLOCK_SIZE,), device=device)
                yield Blocks(batch, controls.take(index))

        return paired

    def phases(self, n_epochs: int) -> list[Phase]:
        """One, after which all is set that has a closed form."""
        return [Phase(n_epochs, self.finalise)]

    later_phases = phases

    def loss_terms(self, cells: Cells | Blocks, kl_weight: float = 1.0) -> dict[str, Tensor]:
        """Terms of the objective; held-out cells, which come as they are, have the ELBO's."""
        if isinstance(cells, Cells):
            return self._elbo_terms(cells, kl_weight)
        if self.objective == "published":
            return self._published_terms(*cells, kl_weight)
        return self._matched_terms(*cells, kl_weight)

    def _elbo_terms(self, cells: Cells, kl_weight: float) -> dict[str, Tensor]:
        q = self.guide(cells)
        p_x = self.decoder(self.structure(q.rsample()), cells.library, cells.environment)
        kl = _kl(q, self.shift(cells))
        return {"reconstruction": -cells.log_prob(p_x).mean(), "kl_z": kl_weight * kl.mean()}

    def _matched_terms(self, cells: Cells, controls: Cells, kl_weight: float) -> dict[str, Tensor]:
        """The ELBO, and how far counterfactuals of control cells are from measured cells."""
        n, shift = cells.n_cells, self.shift(cells)
        q = self.encoder(self.features(torch.cat([cells.x, controls.x])))
        v = q.rsample()
        of_blocks = shift[::BLOCK_SIZE, None]  # (n_blocks, 1, n_latent)
        changed = (v[n:] + of_blocks).flatten(0, 1)
        h = self._hidden(torch.cat([v, changed]), cells, controls)
        p_x = self.decoder.head(h[:n], cells.library)
        kl = _kl(Normal(q.mean[:n], q.stddev[:n], validate_args=False), shift)
        basal, moved = self._levels(h[n : n + BLOCK_SIZE]), self._levels(h[n + BLOCK_SIZE :])
        counterfactual = self._levels_of(controls) - basal + moved.unflatten(0, (-1, BLOCK_SIZE))
        measured = self._levels_of(cells).unflatten(0, (-1, BLOCK_SIZE))
        gap = counterfactual.mean(1) - measured.mean(1)
        return {
            "reconstruction": -cells.log_prob(p_x).mean(),
            "kl_z": kl_weight * kl.mean(),
            "response": RESPONSE_WEIGHT * gap.square().sum(-1).mean(),
            "mmd": self.mmd_weight * block_mmd(counterfactual, measured).mean(),
        }

    def _published_terms(
        self, cells: Cells, controls: Cells, kl_weight: float
    ) -> dict[str, Tensor]:
        """Squared errors of control cells, and of treated ones against any control, as released.

        Means over genes and over modules; a likelihood of counts takes the place of the errors.
        """
        q = self.guide(controls)
        z = q.rsample()
        changed = (z + self.shift(cells)[::BLOCK_SIZE, None]).flatten(0, 1)
        h = self._hidden(torch.cat([z, changed]), cells, controls)
        basal, moved = h[:BLOCK_SIZE], h[BLOCK_SIZE:]
        predicted = self._levels(moved).unflatten(0, (-1, BLOCK_SIZE))
        measured = self._levels_of(cells).unflatten(0, (-1, BLOCK_SIZE))
        return {
            "reconstruction": RECONSTRUCTION_SCALE * self._error(basal, controls),
            "response": self._error(moved, cells),
            "kl_z": kl_weight * _kl(q, torch.zeros_like(z)).mean() / z.shape[1],
            "mmd": self.mmd_weight * block_mmd(predicted, measured).mean(),
        }

    def _hidden(self, v: Tensor, cells: Cells, controls: Cells) -> Tensor:
        """Last hidden layer of the decoder for (cells,) control cells and counterfactuals."""
        rows = torch.cat([controls.environment, cells.environment])
        if len(v) > len(rows):
            rows = torch.cat([cells.environment, rows])
        h: Tensor = self.decoder.hidden(self.structure(v), rows)
        return h

    def _levels(self, h: Tensor) -> Tensor:
        """Expected expression as a log-normalised value, (n_cells, n_genes)."""
        library = self.library.expand(len(h), 1)
        mean: Tensor = self.decoder.head(h, library).mean
        return mean.log1p() if self.decoder.head.counts else mean

    def _levels_of(self, cells: Cells) -> Tensor:
        """Measured expression on the same scale."""
        x: Tensor = cells.x
        if self.decoder.head.counts:
            return (x * (self.library / cells.library.clamp(min=1))).log1p()
        return x

    def _error(self, h: Tensor, cells: Cells) -> Tensor:
        p_x = self.decoder.head(h, cells.library)
        if self.decoder.head.counts:
            return -cells.log_prob(p_x).mean() / cells.n_genes
        error: Tensor = (p_x.mean - cells.x).square().mean()
        return error

    def guide(self, cells: Cells) -> Normal:
        """Posterior q(v | x) of v = z + c S."""
        q: Normal = self.encoder(self.features(cells.x))
        return q

    def log_joint(self, cells: Cells, z: Tensor, shared: None = None) -> Tensor:
        """Log p(x, v | a) at states v = z + c S."""
        p_x = self.decoder(self.structure(z), cells.library, cells.environment)
        return cells.log_prob(p_x) + log_unit_normal(z - self.shift(cells)).sum(-1)

    def encode(self, x: Tensor) -> Tensor:
        """Posterior mean of u, (n_cells, n_latent)."""
        u: Tensor = self.structure(self.encoder(self.features(x)).mean)
        return u

    def posterior(self, cells: Cells) -> dict[str, Tensor]:
        """Means of u with and without the perturbation, and the scale of z."""
        q, shift = self.guide(cells), self.shift(cells)
        z = q.mean - shift
        basal, u = self.structure(z), self.structure(q.mean)
        return {"z": u, "z_basal": basal, "scale": q.stddev, "z_exogenous": z}

    def basal_states(self, n_states: int) -> Tensor:
        """States u of control cells of the training, each once before any comes again."""
        order = torch.randperm(len(self.basal), device=self.basal.device)
        index = torch.arange(n_states, device=order.device) % len(order)
        u: Tensor = self.structure(self.basal[order[index]])
        return u

    def intervene(self, z_basal: Tensor, cells: Cells, *, sampled: bool = False) -> Distribution:
        """Distribution of expression of these states u after the shifts of ``cells``.

        Where the cells' own real-valued expression is known, so is their noise: they keep it.
        """
        u = z_basal + self.structure(self.shift(cells))
        p_x: Distribution = self.decoder(u, cells.library, cells.environment)
        if self.decoder.head.counts or not cells.n_genes:
            return p_x
        before = self.decoder(z_basal, cells.library, cells.environment)
        mean = cells.x + p_x.mean - before.mean
        return Independent(Normal(mean, torch.zeros_like(mean), validate_args=False), 1)

    def learned(self) -> dict[str, Tensor]:
        """Shifts, penetrances, their product, lengths of shifts and the weights of the graph."""
        shift, penetrance = self.shifts(), self.penetrance()
        learned = {"embedding": penetrance * shift, "shift": shift, "penetrance": penetrance[:, 0]}
        of_others = self.longer.median().expand(len(shift) - len(self.longer))
        learned["length"] = shift.norm(dim=1) * torch.cat([self.longer, of_others])
        weights = self.structure.weights()
        return learned if weights is None else learned | {"graph": weights}

    @torch.no_grad()
    def finalise(self, cells: Cells) -> None:
        """Set what has a closed form, given all else, and keep what predictions need.

        With a normal likelihood these are the bias of the decoder, from which the mean response
        to nothing is the mean of control cells, and the scales of genes, from the residuals; and
        penetrances, so that the size of mean responses is that measured.
        """
        controls = untreated(cells)
        self.eval()
        place = torch.linspace(0, controls.n_cells - 1, len(self.basal)).round().long()
        chosen = controls.subset(place.to(self.basal.device))
        self.basal.copy_(torch.cat([self.guide(batch).sample() for batch in _passed(chosen)]))
        total = torch.zeros_like(self.control_mean)
        total = sum((self._levels_of(batch).sum(0) for batch in _passed(controls)), total)
        self.control_mean.copy_(total / controls.n_cells)
        if not self.decoder.head.counts:
            self._fit_observations(cells, chosen.environment)
        if self.refit_penetrance:
            self._fit_penetrances(cells)
        self._measure_lengths(cells, chosen)

    def _fit_penetrances(self, cells: Cells) -> None:
        """Multiply each penetrance by the slope of the measured on the predicted change.

        Changes are those of mean expression, measured in the cells that have this perturbation
        alone. A few rounds, as responses are not linear.
        """
        rows = self.penetrance.rows
        measured, received = self._measured_changes(cells)
        for _ in range(N_ROUNDS):
            change = self._changes(self.penetrance() * self.shifts())
            slope = (change * measured).sum(1) / change.square().sum(1).clamp(min=1e-12)
            slope = torch.where(received, slope.clamp(0.1, 2), 1)
            rows.mul_(slope[len(slope) - len(rows) :, None])

    def _measured_changes(self, cells: Cells) -> tuple[Tensor, Tensor]:
        """Mean change by a dosage of one of each perturbation, and which were given alone."""
        n = len(self.penetrance())
        total, dosage = self.basal.new_zeros(n, len(self.control_mean)), self.basal.new_zeros(n)
        for batch in _passed(cells):
            alone = ((batch.dosage > 0).sum(1, keepdim=True) == 1).float()
            place = batch.dosage.argmax(1, keepdim=True)
            part = batch.part.gather(1, place)[:, 0]
            total.index_add_(0, part, alone * (self._levels_of(batch) - self.control_mean))
            dosage.index_add_(0, part, (alone * batch.dosage.gather(1, place))[:, 0])
        return total / dosage.clamp(min=1e-12)[:, None], dosage > 0

    def _measure_lengths(self, cells: Cells, controls: Cells) -> None:
        """Compare the lengths of shifts with distances of cells from controls.

        Distances are taken in posterior means and components of expression together.
        """
        axes = components(torch.cat([self._levels_of(batch) for batch in _passed(controls)]))

        def features(batch: Cells) -> Tensor:
            projected = self._levels_of(batch).double() @ axes
            return torch.cat([self.guide(batch).mean.double(), projected], 1)

        n = len(self.longer)
        learned = (self.penetrance() * self.shifts())[:n].norm(dim=1).clamp(min=1e-12)
        longer = shift_lengths(_passed(cells), features, n).to(learned) / learned
        known = longer.isfinite()
        self.longer.copy_(torch.where(known, longer, longer[known].median() if known.any() else 1))

    def _changes(self, shifts: Tensor) -> Tensor:
        """Mean change of expression by each shift over the basal states, (n_shifts, n_genes).

        Of many shifts, each is seen in fewer of the states.
        """
        n_states = max(N_RESPONSES // max(len(shifts), 1), LEAST_BASAL_STATES)
        basal = self.structure(self.basal[:: -(-len(self.basal) // n_states)])
        environment = basal.new_zeros(len(basal), self.decoder.hidden.n_environments)
        shifts = self.structure(torch.cat([torch.zeros_like(shifts[:1]), shifts]))
        hidden = (self.decoder.hidden(basal + shift, environment) for shift in shifts)
        if self.decoder.head.counts:
            levels = torch.stack([self._levels(h).mean(0) for h in hidden])
        else:  # the mean is linear in the last layer
            levels = self._levels(torch.stack([h.mean(0) for h in hidden]))
        return levels[1:] - levels[0]

    def _fit_observations(self, cells: Cells, environment: Tensor) -> None:
        head: Any = self.decoder.head
        hidden = self.decoder.hidden(self.structure(self.basal), environment)
        head.mean.bias.add_(self.control_mean - head.mean(hidden.mean(0)))  # linear in these
        if not isinstance(head, NormalHead):
            return
        total = torch.zeros_like(self.control_mean)
        for batch in _passed(cells):
            u = self.structure(self.guide(batch).sample())
            error = head(self.decoder.hidden(u, batch.environment), None).mean - batch.x
            total += error.square().sum(0)
        head.log_scale.copy_((total / cells.n_cells).clamp(min=1e-12).log() / 2)

    def extended(self, cells: Cells, n_new: int) -> "CausalModule":
        """A copy with all frozen, and the most alike of the known shifts for each new one."""
        return self.reached(*self.chosen(cells, [self.shifts().detach()] * n_new))

    def reached(self, shift: Tensor, penetrance: Tensor) -> "CausalModule":
        """A copy with all frozen, that knows perturbations of these shifts and penetrances."""
        module = self.continued(frozen=True)
        module.shifts.extend(shift)
        module.penetrance.extend(penetrance[:, None])
        module.penetrance.extend(penetrance[:0, None])
        return module.requires_grad_(False)

    @torch.no_grad()
    def chosen(self, cells: Cells, candidates: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Shift, of some candidates each, and penetrance that best explain new perturbations.

        They are the last that ``cells`` know of; what counts is the mean expression.
        """
        n_known, shifts, penetrances = len(self.penetrance()), [], []
        wide = 2 * float(self.penetrance().abs().max())
        grid = torch.linspace(-wide, wide, N_CHOICES, device=self.basal.device)
        for new, of_new in enumerate(candidates):
            received = ((cells.part == n_known + new) & (cells.dosage > 0)).any(1)
            alone = received & ((cells.dosage > 0).sum(1) == 1)
            rows = (alone if alone.any() else received).nonzero()[:, 0]
            taken = cells.take(rows)
            change = self._levels_of(taken).mean(0) - self.control_mean
            best = int(self.errors(change, of_new, grid).argmin())
            shifts.append(of_new[best // N_CHOICES])
            dosage = taken.dosage[taken.part == n_known + new].mean()
            penetrances.append(grid[best % N_CHOICES] / dosage)
        return torch.stack(shifts), torch.stack(penetrances)

    @torch.no_grad()
    def errors(self, change: Tensor, shifts: Tensor, grid: Tensor) -> Tensor:
        """Mean squared errors of the mean change of expression, (n_shifts, n_grid)."""
        tried = (grid[:, None] * shifts[:, None]).flatten(0, 1)
        errors = (self._changes(tried) - change).square().mean(1)
        return errors.view(len(shifts), len(grid))

    def refined(self) -> "CausalModule":
        """A copy to be trained on; shifts that were added to a network's stay."""
        module = self.continued(frozen=False)
        module.penetrance.unfreeze()
        if isinstance(module.shifts, FreeShifts):
            module.shifts.logits.unfreeze()
        return module


def _kl(q: Normal, prior_mean: Tensor) -> Tensor:
    """KL(q || N(prior_mean, I)), (n_cells,), nats."""
    return kl_from_unit_normal(q, prior_mean).sum(-1)


@with_shared_parameters
class SCCVAE(PerturbationVAE):
    """Single-cell causal VAE: perturbations shift modules of a causal model, unseen ones too.

    Parameters
    ----------
    {n_latent}
    features : {"genes", "one_hot"}, DataFrame, dict, transformer or None, default=None
        What describes a perturbed gene, as in :class:`~skpert.preprocessing.TargetFeatures`: its
        principal components in control cells, a table, or a transformer of names such as
        ``GeneSetFeatures``. None: components where every perturbation is a measured gene, else
        one-hot, with a warning: nothing unseen can then be predicted.
    graph : {"learned", "random"}, array-like of shape (n_latent, n_latent) or None, \
            default="learned"
        Edges between modules, of which the weights are learned: all from earlier to later
        modules, a random part of these, those where a matrix has 1 in row i and column j (edge
        from i to j), or none, which is the conditional model.
    cyclic : bool, default=False
        Whether the graph may have cycles; "learned" is then all edges but those of a module to
        itself. Weights are kept so small that the model has one solution.
    edge_density : float, default=0.03
        Probability of each edge of a random graph.
    shift_encoder : {"kernel", "network"}, default="kernel"
        How shifts follow from features. "kernel" learns one for each perturbation of the training,
        and an unseen one has the average of those of similar features. "network" is the published
        one, a network with a softmax at the end, for screens with hundreds of perturbations.
    n_components : int, default=50
        Number of principal components that describe a gene.
    objective : {"matched", "published"}, default="matched"
        "matched" adds to the ELBO of all cells how far counterfactuals of control cells, which
        keep what the decoder cannot explain of their cell, are from the measured cells: by their
        mean, and by the maximum mean discrepancy (MMD). "published" compares decoded control
        cells, by squared error and MMD, and has the ELBO of control cells only.
    mmd_weight : float, default=10.0
        Weight of the MMD in the objective.
    refit_penetrance : bool, default=True
        Whether penetrances are fitted once more after training, so that the size of the mean
        response to each perturbation is that measured; False keeps the trained ones, as released.
    penetrance : {"length", "sum"}, default="length"
        What a penetrance is. "length" is how far cells move, in standard deviations of control
        cells along the shift, which does not depend on the axes of latents and is identified.
        "sum" is the published one, the sum of the shift over modules, which is not.
    {network_parameters}
    {shared_parameters}

    Attributes
    ----------
    shift_ : ndarray of shape (n_perturbations, n_latent)
        Shift of each module by each perturbation at a penetrance of one, at least 0; rows sum to
        one if ``penetrance="sum"``.
    penetrance_ : ndarray of shape (n_perturbations,)
        Factor of each shift; its unit is that of ``penetrance``.
    embedding_ : ndarray of shape (n_perturbations, n_latent)
        Their product, the effect before it passes through the graph.
    graph_ : ndarray of shape (n_latent, n_latent)
        Weights of the edges from row to column. Absent without a graph.
    features_ : TargetFeatures
        The fitted features of perturbed genes.
    {shared_attributes}

    See Also
    --------
    skpert.model_selection.select_penetrance : Penetrance of unseen perturbations from bulk data.
    BilinearRidge : The linear model that it is to be compared with.

    Notes
    -----
    ``max_epochs="auto"`` is 1,500 gradient steps here: trained for longer, counterfactuals differ
    more from cell to cell than those of perturbations never seen should.

    The decoder starts with a free linear map, so that models with any graph, or none, are one
    class of functions: the graph is a regulariser, and no evidence for edges between processes,
    let alone between genes (see the user guide).

    An unseen perturbation has the shift, unless a network gives it, and the penetrance of similar
    ones; ``with_penetrance`` sets others. Published numbers take what fits its test cells best.

    References
    ----------
    .. [1] Liu, Zhang and Uhler, Learning genetic perturbation effects with variational causal
       inference, bioRxiv 2025.06.05.657988.

    Examples
    --------
    >>> from skpert import SCCVAE
    >>> from skpert.datasets import make_causal_shift
    >>> screen = make_causal_shift(8, n_cells_per_perturbation=40, n_control_cells=80,
    ...                            n_latent=4, n_genes=50, random_state=0)
    >>> model = SCCVAE(n_latent=4, features=screen.features, likelihood="normal", max_epochs=2,
    ...                random_state=0).fit(screen.X[screen.train], screen.A[screen.train])
    >>> model.shift_.shape
    (6, 4)
    >>> model.predict_intervention(["P6", "P7"]).shape  # neither was seen
    (2, 50)
    """

    _parameter_constraints = PerturbationVAE._parameter_constraints | {
        "features": [object],
        "graph": [StrOptions({"learned", "random"}), "array-like", None],
        "cyclic": ["boolean"],
        "edge_density": [Interval(Real, 0, 1, closed="both")],
        "shift_encoder": [StrOptions({"kernel", "network"})],
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "objective": [StrOptions({"matched", "published"})],
        "mmd_weight": [Interval(Real, 0, None, closed="left")],
        "refit_penetrance": ["boolean"],
        "penetrance": [StrOptions({"length", "sum"})],
    }

    def __init__(
        self,
        n_latent: int = 64,
        *,
        features=None,
        graph="learned",
        cyclic: bool = False,
        edge_density: float = 0.03,
        shift_encoder: str = "kernel",
        n_components: int = 50,
        objective: str = "matched",
        mmd_weight: float = 10.0,
        refit_penetrance: bool = True,
        penetrance="length",
        n_hidden: int = 128,
        n_layers: int = 2,
        dropout: float = 0.0,
        batch_norm: bool = True,
        likelihood: str = "normal",
        control="control",
        sep: str | None = "+",
        perturbation: str = "perturbation",
        environment: str | list[str] | None = None,
        layer: str | None = None,
        max_epochs: int | str = "auto",
        batch_size: int | str = "auto",
        learning_rate: float = 3e-3,
        schedule: str = "one_cycle",
        weight_decay: float = 1e-6,
        adam_epsilon: float = 1e-8,
        max_gradient_norm: float | None = None,
        n_epochs_kl_warmup: int | str = "auto",
        validation_fraction: float = 0.1,
        patience: int | None = None,
        n_init: int = 1,
        n_particles: int = 100,
        device: str = "auto",
        memory: str = "auto",
        checkpoint=None,
        warm_start: bool = False,
        random_state: int | np.random.RandomState | None = None,
        verbose: int | str = "auto",
    ) -> None:
        self._store(locals())

    _n_steps = 1500

    def _prepare(self, cells):
        """Fit the features of targets, which need control cells if they are gene components."""
        controls = untreated(cells)
        n_taken = min(controls.n_cells, MAX_CONTROLS)  # rows become dense
        rows = torch.linspace(0, controls.n_cells - 1, n_taken, dtype=torch.float64).long()
        values = controls.take(rows.to(cells.dosage.device)).x.cpu().numpy()
        if self._counts:
            values = log_normalised(values, median_library_size(values))
        names = getattr(self, "feature_names_in_", None)
        settings = {"n_components": self.n_components, "sparse_output": True}
        self.features_ = TargetFeatures(self.features, **settings)
        self.features_.fit(self.perturbations_, values, names)
        self._features_of_targets = self.features_.transform(self.perturbations_)
        self._graph = _graph(self)

    def _make_module(self, cells):
        networks = self._networks(cells)
        features, n_known = self._features_of_targets, self._features_of_targets.shape[0]
        if self.shift_encoder == "kernel":
            shifts = FreeShifts(n_known, self.n_latent)
        else:
            features = features.toarray() if issparse(features) else features
            features = torch.from_numpy(features).float()
            sizes = {"n_hidden": self.n_hidden, "n_layers": self.n_layers}
            shifts = ShiftNetwork(features, self.n_latent, **sizes)
        structure = Independence()
        if self.graph is not None:
            structure = StructuralModel(torch.from_numpy(self._graph.copy()))
        return CausalModule(
            *networks,
            structure,
            shifts,
            n_known,
            cells.n_genes,
            objective=self.objective,
            mmd_weight=self.mmd_weight,
            library=self._population["median"],
            refit_penetrance=self.refit_penetrance,
        )

    def with_penetrance(self, penetrance) -> "SCCVAE":
        """Set the penetrance of perturbations, seen or not.

        Parameters
        ----------
        penetrance : dict or Series of str to float
            Penetrances by names of single perturbations: 0 does nothing, below 0 reverses the
            sign of the effect, beyond those of the training is extrapolation.

        Returns
        -------
        estimator : SCCVAE
            A fitted copy; this one stays as it is.

        Raises
        ------
        ValueError
            If a name is unknown and has no features, or a penetrance is no finite number.
        """
        check_is_fitted(self)
        penetrance = read_penetrances(penetrance)
        names = penetrance.index.to_numpy(dtype=object)
        other = self._reaching(names)
        position = pd.Index(other.perturbations_).get_indexer(names)
        if (position < 0).any():
            raise ValueError(
                "penetrance must map names of single perturbations, as text, to numbers, got "
                f"{listed(names[position < 0], 10)}"
            )
        module = other.module_.continued(frozen=True)
        rows = module.penetrance().detach().clone()
        values = penetrance.to_numpy() / other._units()[position]
        rows[position, 0] = torch.from_numpy(values).to(rows)
        module.penetrance = Table(rows)
        other = other._copy()
        other.module_ = module.eval()
        return other

    def reach(self, A) -> "SCCVAE":
        """Return an estimator that knows unseen perturbations from their features alone.

        Predictions and scores do so by themselves; this is to look at what is expected of them.

        Parameters
        ----------
        A : str, array-like of shape (n_designs,) or (n_designs, n_perturbations), or DataFrame
            Designs with the perturbations, in any form that ``fit`` takes.

        Returns
        -------
        estimator : SCCVAE
            A fitted copy whose ``perturbations_`` end with the new ones, or this one.

        Raises
        ------
        ValueError
            If a perturbation has no features.
        """
        check_is_fitted(self)
        return self._reaching(A)

    def adapt(self, X, A) -> "SCCVAE":
        """Learn the penetrance of perturbations never trained on; all else stays.

        Shifts follow from features; with one-hot ones, a new perturbation has the shift of the
        known one that explains its cells best. Nothing is trained.

        Parameters
        ----------
        X : {array-like, sparse matrix, AnnData, path} of shape (n_cells, n_genes)
            Cells of the new perturbations; control cells change nothing.
        A : array-like of shape (n_cells,) or (n_cells, n_perturbations), or DataFrame
            Their design, in any form that ``fit`` takes.

        Returns
        -------
        adapted : SCCVAE
            A new fitted estimator; this one stays as it is.

        Raises
        ------
        ValueError
            If a perturbation is known or has no features, or X or A are not as ``fit`` wants.
        """
        check_is_fitted(self)

        def extend(cells, n_new):
            names = self.design_.unknown(A)
            if self.features_.kind_ == "one_hot":
                return self.module_.extended(cells, n_new)
            shift, _ = self._expected_effects(names)
            return self.module_.reached(*self.module_.chosen(cells, list(shift[:, None])))

        return self._adapted(X, A, extend)

    def _reaching(self, A):
        """Estimator that knows the perturbations of A, those unseen from their features."""
        names = self.design_.unknown(A)
        if not len(names):
            return self
        if self.features_.kind_ != "transformer":
            missing = names[~self.features_.has(names)]
            if len(missing):
                raise ValueError(
                    f"A has unknown perturbations: {listed(missing, 10)}. Known are "
                    f"{listed(self.perturbations_, 20)}, and the control {self.control!r}. Others "
                    "can be predicted where fit is given `features` that describe them."
                )
        other = self._copy()
        other.design_ = self.design_.with_names(names)
        other.perturbations_ = other.design_.perturbations_
        with torch.no_grad():
            other.module_ = self.module_.reached(*self._expected_effects(names)).eval()
        return other

    @torch.no_grad()
    def _expected_effects(self, names):
        """Shift and penetrance of unseen perturbations, from those of similar features."""
        new = self.features_.transform(names)
        n_known = self._features_of_targets.shape[0]
        shift, penetrance = self.module_.shifts(), self.module_.penetrance()
        weights = similarity_weights(self._features_of_targets, new)
        weights = torch.from_numpy(weights).to(shift)
        strength = weights * penetrance[:n_known, 0].abs()
        if self.shift_encoder == "kernel":
            total = strength.sum(1, keepdim=True)
            share = torch.where(total > 0, strength / total.clamp(min=1e-12), weights)
            new_shift = share @ shift[:n_known]
        else:
            x = torch.from_numpy(new).to(shift)
            new_shift = torch.softmax(self.module_.shifts.network(x), -1)
        return new_shift, weights @ penetrance[:n_known, 0]

    @property
    def shift_(self) -> np.ndarray:
        """Shift of each module by each perturbation, (n_perturbations, n_latent)."""
        return self._learned("shift") / self._units()[:, None]

    @property
    def penetrance_(self) -> np.ndarray:
        """Factor of each shift, (n_perturbations,)."""
        return self._learned("penetrance") * self._units()

    def _units(self):
        """Penetrance of each perturbation where the sum of its shift is one."""
        length = self._learned("length")
        return length if self.penetrance == "length" else np.ones_like(length)

    @property
    def graph_(self) -> np.ndarray:
        """Weights of the edges from row to column, (n_latent, n_latent)."""
        return self._learned("graph")


def _passed(cells):
    """All cells as they stand, as many at once as have some millions of numbers."""
    return cells.minibatches(min(ENCODE_SIZE, N_NUMBERS // cells.n_genes + 2), shuffle=False)


def untreated(cells):
    """Control cells; all cells where there are none."""
    control = (cells.dosage == 0).all(1)
    return cells.subset(control.nonzero()[:, 0]) if control.any() else cells


def _graph(estimator):
    """Edges that have weights, (n_latent, n_latent); None without a graph."""
    kind, n = estimator.graph, estimator.n_latent
    if kind is None:
        return None
    if isinstance(kind, str):
        graph = np.ones((n, n), dtype=np.float32)
        if kind == "random":
            graph = np.float32(torch.rand(n, n).numpy() < estimator.edge_density)
        return graph * (1 - np.eye(n, dtype=np.float32)) if estimator.cyclic else np.triu(graph, 1)
    graph = read_matrix(kind, "graph", dtype=np.float64)
    if graph.shape != (n, n) or not np.isin(graph, (0, 1)).all() or graph.diagonal().any():
        raise ValueError(
            f"graph must be an array of 0 and 1 of shape (n_latent, n_latent)=({n}, {n}), with "
            f"zeros on the diagonal; got shape {graph.shape} and values from "
            f"{graph.min(initial=np.inf):g} to {graph.max(initial=-np.inf):g}"
        )
    if causal_order(torch.from_numpy(graph)) is None and not estimator.cyclic:
        raise ValueError(
            "graph has a cycle: remove an edge of it, or set cyclic=True to model it with weights "
            "that are kept small"
        )
    return graph.astype(np.float32)
