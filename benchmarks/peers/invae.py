"""InVAE written plainly in torch, as a peer for timings.

Model and step are those that the paper (Aliee, Kapl, Hediyeh-Zadeh and Theis, arXiv 2307.00558)
and its released code describe: score matching by autograd through autograd, whose second
derivatives are sums of rows of the Hessian, an unnormalised prior whose networks are constants in
the ELBO, and the total correlation from all pairs of cells of a minibatch. It stands for the
released code, whose data loading would come on top.
"""

import math

import torch
from torch import nn

LEAST_VARIANCE = 1e-4


def network(n_in, n_hidden, n_out, *, norm=True, last=True):
    """A hidden layer, and one more of ``n_out`` units, with or without what follows it."""
    layers = []
    for sizes, ends in (((n_in, n_hidden), True), ((n_hidden, n_out), last)):
        layers.append(nn.Linear(*sizes))
        layers += [nn.BatchNorm1d(sizes[1], momentum=0.01, eps=1e-3)] if norm else []
        layers += [nn.ReLU(), nn.Dropout(0.1)] if ends else []
    return nn.Sequential(*layers)


class PlainInVAE(nn.Module):
    """Encoder, decoder, and the networks of both priors."""

    def __init__(self, n_genes, n_invariant_columns, n_columns, n_latent=10, n_hidden=128):
        super().__init__()
        self.n_invariant = i = n_latent - 1
        self.n_columns = n_invariant_columns
        self.encoder = network(n_genes + n_columns, n_hidden, n_hidden)
        self.mean = nn.Linear(n_hidden, n_latent)
        self.log_variance = nn.Linear(n_hidden, n_latent)
        self.decoder = network(n_latent, n_hidden, n_hidden, last=False)
        self.rate = nn.Linear(n_hidden, n_genes)
        self.log_dispersion = nn.Parameter(torch.randn(n_genes))
        plain = {"norm": False, "last": False}
        self.statistics = network(i, n_hidden, 2 * n_latent, **plain)
        self.weights = network(n_invariant_columns, n_hidden, 2 * n_latent, **plain)
        self.linear = network(n_invariant_columns, n_hidden, 2 * i, **plain)
        n_spurious_columns = n_columns - n_invariant_columns
        self.spurious = network(n_spurious_columns, n_hidden, 1, **plain)

    def posterior(self, x, covariates):
        """Mean and variance of z, (n_cells, n_latent)."""
        h = self.encoder(torch.cat([torch.log1p(x), covariates], 1))
        return self.mean(h), self.log_variance(h).exp() + LEAST_VARIANCE

    def log_likelihood(self, x, z):
        """Log p(x | z), (n_cells,)."""
        share = torch.softmax(self.rate(self.decoder(z)), -1)
        return negative_binomial(x, x.sum(1, keepdim=True) * share, self.log_dispersion.exp())

    def log_prior(self, z, covariates):
        """Unnormalised log density of invariant latents, (n_cells,)."""
        linear, quadratic = self.linear(covariates).chunk(2, -1)
        units = (self.statistics(z) * self.weights(covariates)).sum(-1)
        return units + (z * linear + z.square() * quadratic).sum(-1)

    def score_matching(self, z, covariates):
        """Score-matching loss, by autograd through autograd, one latent after another."""
        z = z.detach().requires_grad_()
        (slope,) = torch.autograd.grad(self.log_prior(z, covariates).sum(), z, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.sum(), z, create_graph=True)
        return (curvature + slope.square() / 2).sum(1).mean()

    def terms(self, x, covariates, noise, n_cells):
        """Terms of the objective.

        Parameters
        ----------
        x : Tensor of shape (n_cells, n_genes)
            Counts.
        covariates : Tensor of shape (n_cells, n_columns)
            One-hot, the invariant ones first.
        noise : Tensor of shape (n_cells, n_latent)
            Standard normal.
        n_cells : int
            Number of training cells.
        """
        mean, variance = self.posterior(x, covariates)
        z = mean + variance.sqrt() * noise
        i, of_invariant = self.n_invariant, covariates[:, : self.n_columns]
        fixed = [*self.statistics.parameters(), *self.weights.parameters()]
        fixed += self.linear.parameters()
        for parameter in fixed:
            parameter.requires_grad_(False)
        log_p = self.log_prior(z[:, :i], of_invariant)
        for parameter in fixed:
            parameter.requires_grad_(True)
        spread = self.spurious(covariates[:, self.n_columns :]).exp() + LEAST_VARIANCE
        log_p = log_p + normal(z[:, i:], torch.zeros_like(spread), spread).sum(1)
        log_q = normal(z, mean, variance).sum(1)
        return {
            "reconstruction": -self.log_likelihood(x, z).mean(),
            "kl": (log_q - log_p).mean(),
            "total_correlation": total_correlation(z, mean, variance, i, n_cells).mean(),
            "score_matching": self.score_matching(z[:, :i], of_invariant),
        }


def normal(z, mean, variance):
    """Log density of independent normal variables."""
    return -((z - mean).square() / variance + (2 * math.pi * variance).log()) / 2


def negative_binomial(x, mean, theta, tiny=1e-8):
    """Log probability of counts, summed over genes, (n_cells,)."""
    total = (theta + mean + tiny).log()
    log_p = theta * ((theta + tiny).log() - total) + x * ((mean + tiny).log() - total)
    log_p = log_p + torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
    return log_p.sum(-1)


def total_correlation(z, mean, variance, n_invariant, n_cells):
    """Estimate from all pairs of cells for all latents at once, (n_cells,)."""
    pairs = normal(z[:, None], mean[None], variance[None])  # (n_cells, n_cells, n_latent)
    log_n = math.log(len(z) * n_cells)

    def density(block):
        return torch.logsumexp(block.sum(-1), 1) - log_n

    blocks = density(pairs[..., :n_invariant]) + density(pairs[..., n_invariant:])
    return density(pairs) - blocks


def optimiser(model):
    """Adam as in the released examples."""
    return torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-4)


def step(model, optimizer, x, covariates, n_cells, tc_weight=1.0):
    """One step; returns the loss."""
    noise = torch.randn(len(x), model.n_invariant + 1)
    terms = model.terms(x, covariates, noise, n_cells)
    loss = sum(terms.values()) + (tc_weight - 1) * terms["total_correlation"]
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()
