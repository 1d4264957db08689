"""SCCVAE written plainly in torch, as a peer for timings.

Model, objective and step are those that the paper (Liu, Zhang and Uhler, bioRxiv
2025.06.05.657988) and its released configuration describe: double precision, an explicit inverse
of I - B, one block of 32 cells of one perturbation and 32 control cells a step, squared errors
and a KL divergence that are means over genes and modules, and gradients clipped for every tensor
by itself. It stands for the released code, whose data loading would come on top.
"""

import torch
from torch import nn

BLOCK_SIZE = 32
BANDWIDTHS = [1000 / 32 * 2**i for i in range(10)]
RECONSTRUCTION, MMD = 0.25, 10.0  # weights of terms


def network(n_in, n_hidden, n_out=None):
    """Two hidden layers, and a linear one unless there is none."""
    layers = [nn.Linear(n_in, n_hidden), nn.LeakyReLU(0.2)]
    layers += [nn.Linear(n_hidden, n_hidden), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, *([nn.Linear(n_hidden, n_out)] if n_out else []))


class PlainSCCVAE(nn.Module):
    """Encoder, shift encoder, weights of an upper triangular graph, penetrances and decoder."""

    def __init__(self, n_genes, n_features, n_perturbations, n_latent=512, n_hidden=1024):
        super().__init__()
        self.encoder = network(n_genes, n_hidden)
        self.mean = nn.Linear(n_hidden, n_latent)
        self.log_variance = nn.Linear(n_hidden, n_latent)
        self.shift = network(n_features, n_hidden, n_latent)
        self.decoder = network(n_latent, n_hidden, n_genes)
        self.weight = nn.Parameter(0.1 * torch.randn(n_latent, n_latent))
        self.penetrance = nn.Parameter(torch.ones(n_perturbations))
        self.register_buffer("graph", torch.triu(torch.ones(n_latent, n_latent), 1))
        self.double()

    def posterior(self, x):
        """Mean and variance of z, (n_cells, n_latent)."""
        h = self.encoder(x)
        return self.mean(h), self.log_variance(h).exp() + 1e-4

    def decoded(self, z, shift):
        """Expression of the states that follow from z with a shift, (n_cells, n_genes)."""
        identity = torch.eye(len(self.weight), dtype=z.dtype)
        inverse = torch.linalg.inv(identity - self.weight * self.graph)
        return self.decoder((z + shift) @ inverse)

    def terms(self, x, y, features, dosage, noise):
        """Weighted terms of the objective.

        Parameters
        ----------
        x, y : Tensor of shape (n_cells, n_genes)
            Control cells, and as many of one perturbation.
        features : Tensor of shape (n_features,)
            Of its target.
        dosage : Tensor of shape (n_perturbations,)
            Which one it is; zeros for control cells.
        noise : Tensor of shape (n_cells, n_latent)
            Standard normal.
        """
        mean, variance = self.posterior(x)
        z = mean + variance.sqrt() * noise
        shift = (dosage @ self.penetrance) * torch.softmax(self.shift(features), -1)
        x_hat, y_hat = self.decoded(z, torch.zeros_like(shift)), self.decoded(z, shift)
        kl = (mean.square() + variance - variance.log() - 1) / 2
        return {
            "reconstruction": RECONSTRUCTION * (x_hat - x).square().mean(),
            "response": (y_hat - y).square().mean(),
            "kl": kl.mean(),
            "mmd": MMD * discrepancy(y_hat, y),
        }


def discrepancy(x, y):
    """Squared MMD under the sum of ten Gaussian kernels, cells compared with themselves too."""
    cells = torch.cat([x, y])
    squares = cells.square().sum(1)
    squares = (squares[:, None] + squares - 2 * cells @ cells.T).clamp(min=0)
    kernel = sum(torch.exp(-squares / width) for width in BANDWIDTHS)
    n = len(x)
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()


def optimiser(model):
    """Adam as released."""
    return torch.optim.Adam(model.parameters(), lr=5e-4, eps=0.01, weight_decay=1e-6)


def step(model, optimizer, controls, y, features, dosage, kl_weight=1.0):
    """One step on a block of cells of one perturbation; returns the loss."""
    x = controls[torch.randint(len(controls), (len(y),))]
    noise = torch.randn(len(y), len(model.weight), dtype=torch.float64)
    terms = model.terms(x, y, features, dosage, noise)
    loss = sum(terms.values()) + (kl_weight - 1) * terms["kl"]
    optimizer.zero_grad()
    loss.backward()
    for parameter in model.parameters():
        if parameter.grad is not None:
            torch.nn.utils.clip_grad_norm_(parameter, 1.0)
    optimizer.step()
    return loss.detach()
