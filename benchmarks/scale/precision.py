"""How far the likelihoods of counts in float32 are from float64, as cells get deeper.

::

    python -m benchmarks.scale precision            # a minute
    python -m benchmarks.scale precision --quick    # one number of genes

Counts of simulated cells are scored at states of as many particles as an importance-weighted ELBO
would take: the network's output differs between them, and is the same in both types. Errors are
float32 minus float64, in nats per cell: standard deviation and largest, and the same for what is
left when the mean over the particles of a cell is taken off, which is what importance weights see.
Beside them stand those of the formula as it is usually written, with x log m and log gamma
functions. A float32 number between 4,096 and 8,192 is rounded by up to 0.00024.
"""

import numpy as np
import torch
from torch.nn.functional import logsigmoid, softplus

from skpert.distributions import (
    NegativeBinomialShares,
    PoissonShares,
    ZeroInflatedNegativeBinomial,
)

N_CELLS, N_PARTICLES = 50, 20
LIKELIHOODS = ("negative_binomial", "poisson", "zero_inflated_negative_binomial")


class Screen:
    """Counts, and what a decoder says of them, in either type."""

    def __init__(self, total, n_genes, likelihood):
        self.likelihood = likelihood
        random = np.random.default_rng(0)
        theta = np.exp(random.normal(1, 1, n_genes))
        state = random.normal(0, 1.5, n_genes) + random.normal(0, 0.1, (N_CELLS, n_genes))
        share = np.exp(state) / np.exp(state).sum(1, keepdims=True)
        mean = total * share
        if likelihood != "poisson":
            mean = mean * random.gamma(theta, 1 / theta, mean.shape)
        moved = 0.02 * random.normal(size=(N_PARTICLES, *mean.shape))
        values = random.poisson(mean), state + moved, np.log(theta), moved[0] - 2
        self.values = [torch.tensor(value, dtype=torch.float32) for value in values]

    def log_prob(self, dtype, formula):
        """Log-probability of each cell for each particle, (n_particles, n_cells), float64."""
        x, logits, log_theta, dropout_logit = (value.to(dtype) for value in self.values)
        log_library = x.sum(1, keepdim=True).log()
        if formula == "usual":
            log_mean = torch.log_softmax(logits, -1) + log_library
            return self._usual(x, log_mean, log_theta, dropout_logit).double()
        if self.likelihood == "negative_binomial":
            p_x = NegativeBinomialShares(logits, log_library, log_theta)
        elif self.likelihood == "poisson":
            p_x = PoissonShares(logits, log_library)
        else:
            log_mean = torch.log_softmax(logits, -1) + log_library
            p_x = ZeroInflatedNegativeBinomial(log_mean, log_theta, dropout_logit)
        return p_x.log_prob(x).double()

    def _usual(self, x, log_mean, log_theta, dropout_logit):
        if self.likelihood == "poisson":
            return (x * log_mean - log_mean.exp() - torch.lgamma(x + 1)).sum(-1)
        theta, spread = log_theta.exp(), softplus(log_mean - log_theta)
        constant = torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
        value = x * (log_mean - log_theta) - (x + theta) * spread + constant
        if self.likelihood == "negative_binomial":
            return value.sum(-1)
        value = value + logsigmoid(-dropout_logit)
        zero = torch.logaddexp(logsigmoid(dropout_logit), value)
        return torch.where(x > 0, value, zero).sum(-1)


def errors(screen, formula):
    """Standard deviation and largest error, of all and between particles of a cell."""
    error = screen.log_prob(torch.float32, formula) - screen.log_prob(torch.float64, formula)
    between = error - error.mean(0)
    return [f(e) for e in (error, between) for f in (torch.std, lambda e: e.abs().max())]


def add_arguments(parser):
    """Options of the command line."""
    parser.add_argument("--quick", action="store_true", help="one number of genes")


def run(args):
    """Measure and print."""
    torch.set_num_threads(1)
    heads = f"{'of a cell':^18}{'between particles':^18}"
    print(f"{'':48} | {'around the saturated model':^36} | {'usual formula':^36}")
    print(f"{'counts':>8} {'genes':>6} {'likelihood':32} | {heads} | {heads}")
    for total in (1e4, 1e5, 1e6):
        for n_genes in (1000,) if args.quick else (100, 1000, 2000):
            for likelihood in LIKELIHOODS:
                screen = Screen(total, n_genes, likelihood)
                ours, usual = (
                    "".join(f"{error:9.5f}" for error in errors(screen, formula))
                    for formula in ("saturated", "usual")
                )
                print(f"{total:8.0f} {n_genes:6} {likelihood:32} | {ours} | {usual}", flush=True)
