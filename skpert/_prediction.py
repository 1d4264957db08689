"""Latent states and predicted expression, as functions of module, designs and population."""

import copy
from collections.abc import Callable, Iterator
from numbers import Real
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Distribution

from ._data import ENCODE_SIZE, Cells
from ._input.values import as_list
from ._rows import rows_of
from .module import PerturbationModule
from .nn import Table
from .parameters import REAL_VALUED
from .sparsity.embeddings import Embeddings
from .sparsity.masks import CalledMasks, FixedMasks, Masks

N_BASAL = 1000  # basal states over which a predicted response is averaged
LARGEST = 1e15  # library size, of which counts can be drawn and responses be summed

Array = NDArray[np.float32]
Reader = Callable[[PerturbationModule, Tensor, Cells], Distribution]


class Population(TypedDict):
    """What predictions draw on."""

    median: float  # library size of a training cell
    library: Array  # (n_control_cells, 1) library sizes of untreated cells
    environment: Array  # (N_BASAL, n_environments) of training cells


def population_of(cells: Cells, random: np.random.Generator) -> Population:
    """Library sizes of untreated cells, or of all if there are none; environments of all."""
    library, control = cells.library.numpy(), (cells.dosage == 0).all(1).numpy()
    drawn = random.integers(cells.n_cells, size=N_BASAL)
    return {
        "median": float(np.median(library)),
        "library": library[control] if control.any() else library,
        "environment": cells.environment.numpy()[drawn],
    }


def check_library_size(value: Any, likelihood: str) -> None:
    """ValueError unless it is None, or a number of counts that can be drawn."""
    if value is None:
        return
    if likelihood in REAL_VALUED:
        raise ValueError(
            f"library_size has no meaning with likelihood={likelihood!r}: leave it out"
        )
    number = isinstance(value, Real) and not isinstance(value, (bool, np.bool_))
    if not number or not torch.finfo(torch.float32).tiny <= value <= LARGEST:
        raise ValueError(
            f"library_size must be a positive number, such as 1e4, and at most {LARGEST:.0e}, "
            f"got {value!r}"
        )


def designs_of(encoder: Any, A: Any, environment: str | list[str] | None, library: float) -> Cells:
    """One row of cells, without expression, per design."""
    dosage = encoder.transform(A)
    n_designs = dosage.shape[0]
    if n_designs == 0:
        raise ValueError("A holds no design: give at least one, such as a perturbation's name")
    known = not set(as_list(environment)).isdisjoint(getattr(A, "columns", ()))
    nothing = np.empty((n_designs, 0))
    cells = Cells.from_arrays(nothing, dosage, encoder.environments(A) if known else nothing)
    return cells._replace(library=torch.full_like(cells.library, float(library)))


def check_one_or_each(designs: Cells, n_cells: int) -> None:
    """ValueError unless there is one design, or one for each cell."""
    if designs.n_cells not in (1, n_cells):
        raise ValueError(
            f"A has {designs.n_cells} designs for {n_cells} cells: give one design, or one per "
            "cell"
        )


def populations(designs: Cells, population: Population, n_cells: int) -> Iterator[Cells]:
    """``n_cells`` cells of each design in turn, in the environments of training if unsaid."""
    rows = population["environment"]
    environment = torch.from_numpy(rows[np.arange(n_cells) % len(rows)])
    for i in range(designs.n_cells):
        cells = designs.take(torch.full((n_cells,), i))
        if designs.environment.shape[1] < environment.shape[1]:
            cells = cells._replace(environment=environment)
        yield cells


def encoded(
    module: PerturbationModule, X: Any, n_latent: int, *, untreated: bool = False
) -> Array:
    """Posterior means of all latents, (n_cells, n_latent)."""
    x, encode = rows_of(X), module.encode_untreated if untreated else module.encode
    Z = np.empty((X.shape[0], n_latent), dtype=np.float32)
    for index in torch.arange(len(Z)).split(ENCODE_SIZE):
        Z[index] = encode(x.index_select(0, index).to(module.device)).cpu()
    return Z


def moments(module: PerturbationModule, cells: Cells) -> dict[str, Array]:
    """What ``module.posterior`` gives, for any number of cells."""
    batches = cells.minibatches(ENCODE_SIZE, shuffle=False)
    parts = [module.posterior(batch.to(module.device)) for batch in batches]
    return {name: torch.cat([part[name] for part in parts]).cpu().numpy() for name in parts[0]}


def expected(module: PerturbationModule, designs: Cells, population: Population) -> Array:
    """Mean expression over one sample of basal states, (n_designs, n_genes)."""
    z_basal = module.basal_states(N_BASAL)
    means = [
        module.intervene(z_basal, cells.to(module.device)).mean.mean(0)
        for cells in populations(designs, population, N_BASAL)
    ]
    expression: Array = torch.stack(means).cpu().numpy()
    return expression


def counterfactual(module: PerturbationModule, designs: Cells, X: Any, own: bool) -> Array:
    """Mean expression of these cells under one design, or one each, (n_cells, n_genes).

    With ``own`` each cell keeps its library size.
    """
    x, responses = rows_of(X), np.empty(X.shape, dtype=np.float32)
    for index in torch.arange(X.shape[0]).split(ENCODE_SIZE):
        rows = x.index_select(0, index).to(module.device)
        cells = designs.take(index if designs.n_cells > 1 else torch.zeros_like(index))
        cells = cells.to(module.device)._replace(x=rows)
        if own:
            cells = cells._replace(library=rows.sum(1, keepdim=True))
        states = module.encode_untreated(rows)
        responses[index] = module.intervene(states, cells).mean.cpu()
    return responses


class Source:
    """Where drawn cells have their library sizes from, and their states, if cells are given."""

    def __init__(self, population: Population):
        self.population, self.library = population, population["library"]
        self.x: Any = None
        self.states: Array | None = None

    def take(self, module: PerturbationModule, X: Any, n_latent: int) -> None:
        """Draw from these cells, with their posterior means."""
        self.library = np.asarray(X.sum(1), dtype=np.float32).reshape(-1, 1)
        self.x, self.states = rows_of(X), encoded(module, X, n_latent, untreated=True)

    def draw(
        self, module: PerturbationModule, cells: Cells, chosen: NDArray[np.int64], own: bool
    ) -> tuple[Tensor, Cells]:
        """Basal states, and the cells with what they have of the chosen ones."""
        if own:
            sizes = torch.from_numpy(self.library[chosen]).to(module.device)
            cells = cells._replace(library=sizes)
        if self.states is None:
            return module.basal_states(cells.n_cells), cells
        rows = self.x.index_select(0, torch.from_numpy(chosen)).to(module.device)
        states = torch.from_numpy(self.states[chosen]).to(module.device)
        return states, cells._replace(x=rows)


def drawn(
    module: PerturbationModule,
    designs: Cells,
    source: Source,
    shape: tuple[int, int, int],
    own: bool,
    random: np.random.Generator,
) -> Array:
    """Cells of each design, (n_designs, n_samples, n_genes).

    With ``own`` they have library sizes of the source.
    """
    samples = np.empty(shape, dtype=np.float32)
    for i, cells in enumerate(populations(designs, source.population, shape[1])):
        chosen = random.integers(len(source.library), size=shape[1])
        z_basal, cells = source.draw(module, cells.to(module.device), chosen, own)
        samples[i] = module.intervene(z_basal, cells, sampled=True).sample().cpu()
    return samples


def posterior_draw(module: PerturbationModule) -> PerturbationModule:
    """A copy whose masks and effects are one draw of their posterior, which all cells share.

    Effects without a posterior of their own, on which edges were called, have the sampling error
    with which they were seen. What is a point estimate stays what it is.
    """
    networks = {id(part): part for part in (module.encoder, module.decoder)}  # shared
    module = copy.deepcopy(module, networks)
    masks = getattr(module, "masks", None)
    if not isinstance(masks, Masks):
        return module
    mask = torch.sigmoid(masks.acting()).bernoulli()
    embeddings = getattr(module, "embeddings", None)
    if isinstance(embeddings, Embeddings):
        effect, _ = embeddings.draw(None, mask, False)
        shape = (effect.shape[0], effect.shape[1])
        module.embeddings = Embeddings(shape, float(embeddings.prior_scale))
        module.embeddings.loc = Table(effect)
        module.embeddings.log_scale = Table(torch.full_like(effect, -torch.inf))
    elif isinstance(masks, CalledMasks):
        effect = module.learned()["embedding"]
        noise = torch.randn_like(effect) * masks.standard_error().to(effect)
        module.embedding = Table(effect + noise)
    fixed = FixedMasks(torch.where(mask > 0, torch.inf, -torch.inf))
    module.masks = fixed.to(module.device)
    return module


def replicated(
    module: PerturbationModule, cells: Cells, size: int, read: Reader | None
) -> Iterator[Array]:
    """Expression drawn for these cells, ``size`` of them at a time, as they stand.

    Latent states come from the guide, and ``read`` makes expression of them; without it they are
    those of new cells of the same design, library and environment.
    """
    if read is None:
        cells = cells._replace(x=cells.library[:, :0])
    for batch in cells.minibatches(size, shuffle=False):
        batch = batch.to(module.device)
        if read is None:
            z = module.basal_states(batch.n_cells)
            p_x = module.intervene(z, batch, sampled=True)
        else:
            q = module.guide(batch)
            p_x = read(module, q.mean + q.stddev * torch.randn_like(q.mean), batch)
        counts: Array = p_x.sample().cpu().numpy()
        yield counts
