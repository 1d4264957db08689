r"""What the truth itself scores on a simulated screen: the bounds of every method.

The evidence of a cell under the true model,

.. math:: p(x \mid a) = \int \mathrm{Poisson}(x; \mathrm{rate}(z)) \, N(z; m_a \circ e_a, I) \, dz

is estimated by importance sampling from a Student t around the mode of the integrand, whose shape
is that of Laplace's approximation.
"""

import numpy as np
import torch
from scipy.special import gammaln, logsumexp
from sklearn.utils import Bunch, gen_batches
from torch import nn

from skpert.metrics import latent_r2, mean_correlation_coefficient

N_ROWS = 2**14  # latent states that go through the decoder at once
STEP = 1e-5  # of the finite differences
DEGREES = 10  # of freedom of the proposal: its tails are heavier than the posterior's
INFLATION = 1.05  # of its scale


def true_model_nll(screen, *, n_particles=1000, min_cells=10, random_state=0):
    """Interventional NLL of the true decoder and the true shifts on the held-out perturbations.

    Parameters
    ----------
    screen : Bunch
        As ``skpert.datasets.make_sparse_shift`` returns it, with ``n_held_out``.
    n_particles : int, default=1000
        Samples of the latent state per cell.
    min_cells : int, default=10
        A perturbation needs more cells than this to count.
    random_state : int, default=0
        Seeds the samples.

    Returns
    -------
    result : Bunch
        ``nll``, nats per cell, the mean over perturbations of the mean over their cells; lower is
        better. ``effective_sample_size``, (n_cells,), between 1 and ``n_particles``.
    """
    random = np.random.default_rng(random_state)
    effect = dict(zip(screen.perturbations, screen.mask * screen.embedding, strict=True))
    nll, sizes = [], []
    for name in screen.held_out:
        rows = np.flatnonzero(screen.A == name)
        if len(rows) <= min_cells:
            continue
        mean = np.broadcast_to(effect[name], (len(rows), len(effect[name])))
        evidence = log_evidence(
            screen.X[rows], mean, screen.rate, screen.Z[rows], n_particles, random
        )
        nll.append(-evidence.log_evidence.mean())
        sizes.append(evidence.effective_sample_size)
    return Bunch(nll=float(np.mean(nll)), effective_sample_size=np.concatenate(sizes))


def log_evidence(X, mean, rate, start, n_particles, random):
    """Log p(x) of each cell for z ~ N(mean, I) and x ~ Poisson(rate(z)), nats.

    Parameters
    ----------
    X : ndarray of shape (n_cells, n_genes)
        Counts.
    mean : ndarray of shape (n_cells, n_latent)
        Prior mean of the latent state of each cell.
    rate : callable
        Expected counts of latent states, (n, n_latent) to (n, n_genes).
    start : ndarray of shape (n_cells, n_latent)
        Where the search of the mode starts.
    n_particles : int
        Samples of the latent state per cell.
    random : Generator
        Source of the samples.

    Returns
    -------
    result : Bunch
        ``log_evidence`` and ``effective_sample_size``, (n_cells,) each.
    """
    x = np.asarray(X, dtype=np.float64)
    mode, precision = posterior_mode(x, mean, rate, start)
    root = np.linalg.cholesky(precision)
    log_weights = np.empty((len(x), n_particles))
    for rows in gen_batches(len(x), max(N_ROWS // n_particles, 1)):
        z, log_q = _student(mode[rows], root[rows], n_particles, random)
        log_p = _log_joint(x[rows, None], mean[rows, None], rate, z)
        log_weights[rows] = log_p - log_q
    total = logsumexp(log_weights, axis=1)
    effective = np.exp(2 * total - logsumexp(2 * log_weights, axis=1))
    return Bunch(log_evidence=total - np.log(n_particles), effective_sample_size=effective)


def posterior_mode(x, mean, rate, start, *, n_steps=30):
    """Mode of the posterior of each cell, by Gauss-Newton steps, and its precision there.

    Parameters
    ----------
    x : ndarray of shape (n_cells, n_genes)
        Counts.
    mean : ndarray of shape (n_cells, n_latent)
        Prior means.
    rate : callable
        Expected counts of latent states.
    start : ndarray of shape (n_cells, n_latent)
        First guess.
    n_steps : int, default=30
        Number of steps; a step that lowers the posterior is not taken but shortened.

    Returns
    -------
    mode : ndarray of shape (n_cells, n_latent)
        The best states found.
    precision : ndarray of shape (n_cells, n_latent, n_latent)
        Fisher information of the counts plus that of the prior.
    """
    z, best = start.copy(), _log_joint(x, mean, rate, start)
    length = np.ones(len(x))
    step, precision = _newton_step(x, mean, rate, z)
    for _ in range(n_steps):
        candidate = z + length[:, None] * step
        value = _log_joint(x, mean, rate, candidate)
        better = value > best + 1e-9
        z[better], best[better] = candidate[better], value[better]
        length = np.where(better, np.minimum(2 * length, 1), length / 4)
        if length.max() < 1e-3:  # nothing to gain anywhere
            break
        if better.any():
            step[better], precision[better] = _newton_step(
                x[better], mean[better], rate, z[better]
            )
    return z, precision


def _newton_step(x, mean, rate, z):
    """Step to the mode of the quadratic that touches here, and the quadratic's precision."""
    expected = rate(z)
    slopes = [
        (np.log(rate(z + STEP * direction)) - np.log(expected)) / STEP
        for direction in np.eye(z.shape[1])
    ]
    jacobian = np.stack(slopes, axis=1)  # of log rates, (n_cells, n_latent, n_genes)
    gradient = np.einsum("nig,ng->ni", jacobian, x - expected) + mean - z
    precision = (jacobian * expected[:, None]) @ jacobian.swapaxes(1, 2) + np.eye(z.shape[1])
    return np.linalg.solve(precision, gradient[..., None])[..., 0], precision


def _log_joint(x, mean, rate, z):
    """Log p(x, z), (...) for z of shape (..., n_latent)."""
    expected = rate(z.reshape(-1, z.shape[-1])).reshape(*z.shape[:-1], -1)
    counts = (x * np.log(expected)).sum(-1) - expected.sum(-1) - gammaln(x + 1).sum(-1)
    prior = -((z - mean) ** 2).sum(-1) / 2 - z.shape[-1] / 2 * np.log(2 * np.pi)
    return counts + prior


def _student(mode, root, n_particles, random):
    """Samples (n_cells, n_particles, n_latent) and their log density; ``root``: of precision."""
    n_cells, n_latent = mode.shape
    noise = random.normal(size=(n_cells, n_latent, n_particles))
    noise /= np.sqrt(random.chisquare(DEGREES, size=(n_cells, 1, n_particles)) / DEGREES)
    offset = INFLATION * np.linalg.solve(root.swapaxes(1, 2), noise)
    log_volume = n_latent * np.log(INFLATION) - np.log(np.diagonal(root, axis1=1, axis2=2)).sum(-1)
    log_density = (
        gammaln((DEGREES + n_latent) / 2)
        - gammaln(DEGREES / 2)
        - n_latent / 2 * np.log(DEGREES * np.pi)
        - (DEGREES + n_latent) / 2 * np.log1p((noise**2).sum(1) / DEGREES)
    )
    return mode[:, None] + offset.swapaxes(1, 2), log_density - log_volume[:, None]


def supervised_encoder(X, Z, *, n_epochs=60, batch_size=256, random_state=0):
    """Recovery of the latent states by a network that is shown them: the bound of any encoder.

    A network of the encoder's size (two layers of 128 on log counts) is trained with squared
    error on 90 percent of the cells and scored on the others.

    Parameters
    ----------
    X : ndarray of shape (n_cells, n_genes)
        Counts.
    Z : ndarray of shape (n_cells, n_latent)
        True latent states.
    n_epochs : int, default=60
        Passes over the training cells.
    batch_size : int, default=256
        Cells of one gradient step.
    random_state : int, default=0
        Seeds weights, split and minibatches.

    Returns
    -------
    scores : dict of str to float
        ``pearson_mcc``, ``spearman_mcc`` and ``r2`` on the cells held out.
    """
    with torch.random.fork_rng():
        torch.manual_seed(random_state)
        x = torch.log1p(torch.as_tensor(X, dtype=torch.float32))
        z = torch.as_tensor(Z, dtype=torch.float32)
        test, train = torch.randperm(len(x)).split([len(x) // 10, len(x) - len(x) // 10])
        network = _regressor(x.shape[1], z.shape[1])
        n_steps = n_epochs * (len(train) // batch_size)
        optimizer = torch.optim.Adam(network.parameters())
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=n_steps)
        for _ in range(n_epochs):
            order = train[torch.randperm(len(train))]
            for index in order[: len(order) // batch_size * batch_size].split(batch_size):
                loss = (network(x[index]) - z[index]).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        network.eval()
        with torch.no_grad():
            predicted, truth = network(x[test]).numpy(), z[test].numpy()
    return {
        "pearson_mcc": mean_correlation_coefficient(truth, predicted),
        "spearman_mcc": mean_correlation_coefficient(truth, predicted, method="spearman"),
        "r2": latent_r2(truth, predicted),
    }


def _regressor(n_in, n_out, n_hidden=128):
    return nn.Sequential(
        nn.Linear(n_in, n_hidden),
        nn.BatchNorm1d(n_hidden),
        nn.ReLU(),
        nn.Linear(n_hidden, n_hidden),
        nn.BatchNorm1d(n_hidden),
        nn.ReLU(),
        nn.Linear(n_hidden, n_out),
    )
