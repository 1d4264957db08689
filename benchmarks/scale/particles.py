"""What a particle is worth: ways to draw latent states for the importance-weighted ELBO.

::

    python -m benchmarks.scale particles                     # four models, deep and shallow counts
    python -m benchmarks.scale particles --models SVAEPlus --cells 100

Models are fitted with default parameters to simulated screens of 1e5 and 2e3 counts per cell, and
the same new cells are scored in each of several ways, with the same code for the weights. The
reference is 5,000 particles of the fitted proposal with noise of its own. A value below zero is
what a way loses to it, nats per cell, as a mean over seeds of the noise; beside it stand the
standard deviation of the mean score over these seeds and the CPU seconds of one of them, fitting
of the proposal included.

* ``guide``: particles of the encoder's posterior, with noise of their own for each cell, as most
  programs do; ``shared noise`` takes the same for all cells, ``Sobol`` a randomised
  quasi-Monte-Carlo set. ``x 1.3`` widens the posterior.
* ``half x 1.5, mixed``: half of the particles from the guide, half from one of 1.5 times the
  scale, weighed against the mixture.
* ``moments``: half of the particles, weighed, give mean and covariance of a normal distribution,
  from which, mixed with the guide, the other half comes, which alone is weighed for the score.
* ``fitted, 2 rounds``: what ``score_cells`` does; fewer and more rounds beside it.
"""

import math
import time
import warnings
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch.distributions import Normal

import skpert
from skpert._scoring import (
    N_ROUNDS,
    SHARE_OF_GUIDE,
    Fitted,
    Proposal,
    fitted,
    normal_noise,
    weighed,
)
from skpert.datasets import make_causal_shift, make_invariant, make_sparse_shift
from skpert.exceptions import DataWarning

from .. import runner
from ..command import add_csv

DEPTHS = {"deep": 1e5, "shallow": 2e3}  # counts per cell
REFERENCE = 5000  # particles
N_CELLS_AT_ONCE = 100
N_AT_ONCE = 20  # particles
SHRINKAGE = 0.2  # of a covariance of few particles towards the guide's


def screen(model, library_size):
    """Counts and design for a model, with more genes where counts are few."""
    n_genes = 100 if library_size > 1e4 else 400
    shared = {"n_genes": n_genes, "library_size": library_size, "random_state": 0}
    if model == "InVAE":
        cells = make_invariant(100, **shared)
        return cells.X, cells.obs
    if model == "SCCVAE":
        cells = make_causal_shift(20, likelihood="negative_binomial", **shared)
        return cells.X, cells.A
    cells = make_sparse_shift(
        20, n_cells_per_perturbation=150, n_control_cells=300, n_latent=10, **shared
    )
    return cells.X, cells.A


MODELS = {
    "SVAEPlus": {},
    "SAMSVAE": {},
    "InVAE": {"invariant": ["cell_type"], "spurious": ["batch"]},
    "SCCVAE": {"likelihood": "negative_binomial", "n_latent": 10},
}


def fitted_model(name, X, A, n_cells):
    """A model trained on all cells but the last, shuffled, and these."""
    order = np.random.default_rng(0).permutation(len(X))
    train, test = order[:-n_cells], order[-n_cells:]
    A_train, A_test = (A.iloc[i] if hasattr(A, "iloc") else A[i] for i in (train, test))
    estimator = getattr(skpert, name)(random_state=0, device="cpu", **MODELS[name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        estimator.fit(X[train], A_train)
    return estimator, X[test], A_test


def guide(log_joint, q, n, seed, *, noise="Sobol", width=1.0):
    """Particles of the guide, and their log-densities."""
    generator, n_latent = torch.Generator().manual_seed(seed), q.mean.shape[1]
    if noise == "Sobol":
        noise = normal_noise(n, n_latent, seed).float()[:, None]
    else:
        n_cells = len(q.mean) if noise == "own" else 1
        noise = torch.randn(n, n_cells, n_latent, generator=generator)
    r = Normal(q.mean, width * q.stddev)
    for part in noise.split(N_AT_ONCE):
        z = r.mean + r.stddev * part
        yield z, r.log_prob(z).sum(-1)


def mixed(log_joint, q, n, seed, *, width):
    """Half of the particles from the guide and half from a wider one."""
    wide = Fitted.to_guide(Normal(q.mean, width * q.stddev))
    yield from _proposal(q, wide, n // 2, n - n // 2, seed).particles(N_AT_ONCE)


def moments(log_joint, q, n, seed):
    """Half of the particles for moments, the other half from where they say, and the guide."""
    z, log_r = (torch.cat(part) for part in zip(*guide(log_joint, q, n // 2, seed), strict=True))
    log_p = torch.cat([_by_cell(log_joint(part)) for part in z.split(N_AT_ONCE)])
    share = torch.softmax(log_p - log_r, 0)[..., None]
    mean = (share * z).sum(0)
    covariance = torch.einsum("kci,kcj->cij", share * (z - mean), z - mean)
    covariance = torch.lerp(covariance, q.variance.diag_embed(), SHRINKAGE)
    root = torch.linalg.cholesky(covariance)
    determinant = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    fit = Fitted(mean, root, torch.linalg.inv(root), determinant).widened()
    yield from _proposal(q, fit, n // 4, n - n // 2 - n // 4, seed + 1).particles(N_AT_ONCE)


def refined(log_joint, q, n, seed, *, n_rounds=N_ROUNDS):
    """What ``score_cells`` does, with other noise."""
    n_guide = math.ceil(SHARE_OF_GUIDE * n)
    fit = fitted(log_joint, q, n_rounds)
    yield from _proposal(q, fit, n_guide, n - n_guide, seed).particles(N_AT_ONCE)


def _proposal(q, fit, n_guide, n_fitted, seed):
    n_latent = q.mean.shape[1]
    noise = (
        normal_noise(n, n_latent, s).float()
        for n, s in ((n_guide, 2 * seed), (n_fitted, 2 * seed + 1))
    )
    return Proposal(q, fit, *noise)


def _by_cell(log_joint):
    """Average over draws of what cells share."""
    return log_joint if log_joint.ndim == 2 else log_joint.logsumexp(0) - math.log(len(log_joint))


WAYS = {
    "guide": (partial(guide, noise="own"), (100, 1000, 5000)),
    "guide, shared noise": (partial(guide, noise="shared"), (100,)),
    "guide, Sobol": (guide, (100, 1000, 5000)),
    "guide x 1.1": (partial(guide, width=1.1), (100,)),
    "guide x 1.3": (partial(guide, width=1.3), (100,)),
    "half x 1.5, mixed": (partial(mixed, width=1.5), (100,)),
    "moments": (moments, (100, 1000)),
    "fitted, 1 round": (partial(refined, n_rounds=1), (30, 100)),
    "fitted, 2 rounds": (refined, (10, 30, 100, 1000)),
    "fitted, 3 rounds": (partial(refined, n_rounds=3), (30, 100)),
}


@torch.no_grad()
def score(estimator, X, A, way, n_particles, seed):
    """Mean score, median standard error of a cell, and CPU seconds."""
    start = time.process_time()
    module, cells = estimator.module_, estimator._check(X, A)
    torch.manual_seed(seed)
    shared, parts = module.draw(100), []
    for batch in cells.minibatches(N_CELLS_AT_ONCE, shuffle=False):
        log_joint = partial(module.log_joint, batch, shared=shared)
        particles = way(log_joint, module.guide(batch), n_particles, seed)
        parts.append(weighed(log_joint, particles))
    log_evidence, error = (torch.cat(part) for part in zip(*parts, strict=True))
    return float(log_evidence.mean()), float(error.median()), time.process_time() - start


def rows(name, depth, n_cells, n_seeds):
    """Results of all ways for one model and depth."""
    estimator, X, A = fitted_model(name, *screen(name, DEPTHS[depth]), n_cells)
    reference = np.mean([score(estimator, X, A, refined, REFERENCE, s)[0] for s in (98, 99)])
    for way, (particles, numbers) in WAYS.items():
        for n in numbers:
            runs = [score(estimator, X, A, particles, n, seed) for seed in range(n_seeds)]
            values, errors, seconds = (np.array(part) for part in zip(*runs, strict=True))
            yield {
                "model": name,
                "depth": depth,
                "way": way,
                "n_particles": n,
                "score": values.mean(),
                "to_reference": values.mean() - reference,
                "sd_of_mean": values.std(ddof=1),
                "standard_error": errors.mean(),
                "cpu_seconds": seconds.mean(),
            }


def add_arguments(parser):
    """Options of the command line."""
    add = parser.add_argument
    add("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    add("--depths", nargs="+", choices=list(DEPTHS), default=list(DEPTHS))
    add("--cells", type=int, default=200, help="cells to score")
    add("--seeds", type=int, default=5, help="of the noise")
    add_csv(parser)


def run(args):
    """Measure all and print a line for each."""
    torch.set_num_threads(1)
    table = []
    for name in args.models:
        for depth in args.depths:
            print(f"\n{name}, {DEPTHS[depth]:g} counts: nats to the reference, sd, CPU seconds")
            for row in rows(name, depth, args.cells, args.seeds):
                table.append(row)
                print(
                    f"{row['way']:22}{row['n_particles']:6}{row['to_reference']:9.3f}"
                    f"{row['sd_of_mean']:8.3f}{row['cpu_seconds']:8.2f}",
                    flush=True,
                )
    runner.write(pd.DataFrame(table).round(4), args.csv)
