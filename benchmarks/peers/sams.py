"""SAMS-VAE and the conditional VAE written plainly in torch, as a peer for timings.

The models are those of the paper (Bereket and Karaletsos, NeurIPS 2023) as its equations read:
every density is taken at the sample, for all particles, through the operations and distributions
of torch. It stands for the released code, whose data loading and training loop would come on top.
"""

import math

import torch
from torch import nn
from torch.distributions import Bernoulli, Normal
from torch.nn.functional import leaky_relu

N_SCORED = 500  # cells that are scored at once


class ResidualNetwork(nn.Module):
    """Linear layers, all but the first around an identity, and a linear head."""

    def __init__(self, n_in, n_hidden, n_layers, n_out, slope=0.01):
        super().__init__()
        self.first = nn.Linear(n_in, n_hidden)
        self.blocks = nn.ModuleList(nn.Linear(n_hidden, n_hidden) for _ in range(n_layers - 1))
        self.head = nn.Linear(n_hidden, n_out)
        self.slope = slope

    def forward(self, h):
        """What the head makes of the hidden layers, (..., n_out)."""
        h = leaky_relu(self.first(h), self.slope)
        for block in self.blocks:
            h = h + leaky_relu(block(h), self.slope)
        return self.head(h)


class PlainVAE(nn.Module):
    """What both models share: networks that read more than the cell, likelihood and objectives.

    ``log_counts`` are the training cells, for mean and scale of the encoder's input; ``n_treated``
    is the number of them that received each perturbation.
    """

    def __init__(self, log_counts, n_treated, n_latent, n_read, n_decoded, n_hidden, slope=0.01):
        super().__init__()
        n_genes = log_counts.shape[1]
        self.encoder = ResidualNetwork(n_genes + n_read, n_hidden, 1, 2 * n_latent, slope)
        self.decoder = ResidualNetwork(n_decoded, n_hidden, 1, n_genes, slope)
        self.log_theta = nn.Parameter(torch.zeros(n_genes))
        self.register_buffer("mean", log_counts.mean(0))
        self.register_buffer("scale", log_counts.std(0))
        self.register_buffer("n_treated", n_treated)

    def encode(self, x, read):
        """Posterior of the state of each cell, given what else is read, (S, n_cells, n_read)."""
        x = ((torch.log1p(x) - self.mean) / self.scale).expand(len(read), -1, -1)
        return gaussian(self.encoder(torch.cat([x, read], -1)))

    def log_likelihood(self, x, decoded):
        """Negative binomial log-probability of each cell, (S, n_cells)."""
        mean = x.sum(-1, keepdim=True) * torch.softmax(self.decoder(decoded), -1) + 1e-4
        theta = self.log_theta.exp()
        log_total = (theta + mean).log()
        choices = torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
        log_prob = choices + theta * (theta.log() - log_total) + x * (mean.log() - log_total)
        return log_prob.sum(-1)

    def loss(self, x, dosage, n_particles):
        """Negative ELBO in nats per cell."""
        effect, log_ratio = self.draw(n_particles)
        share = (dosage != 0) / self.n_treated.clamp(min=1)
        return -(self.log_weights(x, dosage, effect) + log_ratio @ share.T).mean()

    @torch.no_grad()
    def score(self, x, dosage, n_particles):
        """Predictive IWELBO of each cell; all share the draws of masks and embeddings."""
        effect, _ = self.draw(n_particles)
        batches = zip(x.split(N_SCORED), dosage.split(N_SCORED), strict=True)
        weights = torch.cat([self.log_weights(*batch, effect) for batch in batches], -1)
        return torch.logsumexp(weights, 0) - math.log(n_particles)


class PlainSAMSVAE(PlainVAE):
    """Masks, embeddings that depend on them, and basal states that depend on both."""

    def __init__(
        self, log_counts, n_treated, n_latent, *, n_hidden, widths, mask_prior, slope=0.01
    ):
        super().__init__(log_counts, n_treated, n_latent, n_latent, n_latent, n_hidden, slope)
        n_perturbations = len(n_treated)
        self.mask_logit = nn.Parameter(torch.zeros(n_perturbations, n_latent))
        self.embedding = ResidualNetwork(
            n_latent + n_perturbations, widths[0], len(widths), 2 * n_latent
        )
        self.prior = Bernoulli(torch.tensor(mask_prior), validate_args=False)

    def draw(self, n_particles):
        """Masked embeddings, and log prior less log posterior of each row of them."""
        u = torch.rand(n_particles, *self.mask_logit.shape).clamp(1e-7, 1 - 1e-7)
        soft = torch.sigmoid(self.mask_logit + u.log() - (1 - u).log())
        mask = soft + (soft.round() - soft).detach()
        which = torch.eye(len(self.n_treated)).expand(n_particles, -1, -1)
        q_embedding = gaussian(self.embedding(torch.cat([mask, which], -1)))
        q_mask = Bernoulli(logits=self.mask_logit, validate_args=False)
        embedding = q_embedding.rsample()
        log_ratio = self.prior.log_prob(mask) - q_mask.log_prob(mask)
        log_ratio = log_ratio + log_unit(embedding) - q_embedding.log_prob(embedding)
        return mask * embedding, log_ratio.sum(-1)

    def log_weights(self, x, dosage, effect):
        """Log p(x, z_basal | shift) - log q(z_basal | x, shift), (S, n_cells)."""
        shift = dosage @ effect
        q = self.encode(x, shift)
        z = q.rsample()
        log_ratio = (log_unit(z) - q.log_prob(z)).sum(-1)
        return self.log_likelihood(x, z + shift) + log_ratio


class PlainConditionalVAE(PlainVAE):
    """Encoder and decoder read the dosages."""

    def __init__(self, log_counts, n_treated, n_latent, *, n_hidden, slope=0.01):
        n_read = len(n_treated)
        n_decoded = n_latent + n_read
        super().__init__(log_counts, n_treated, n_latent, n_read, n_decoded, n_hidden, slope)

    def draw(self, n_particles):
        """Nothing but the number of particles: cells share no variable."""
        return torch.ones(n_particles, 1, 1), torch.zeros(n_particles, len(self.n_treated))

    def log_weights(self, x, dosage, effect):
        """Log p(x, z | dosage) - log q(z | x, dosage), (S, n_cells)."""
        read = dosage.expand(len(effect), -1, -1)
        q = self.encode(x, read)
        z = q.rsample()
        log_ratio = (log_unit(z) - q.log_prob(z)).sum(-1)
        return self.log_likelihood(x, torch.cat([z, read], -1)) + log_ratio


def gaussian(moments):
    """Normal distribution of means and log-variances, side by side."""
    mean, log_variance = moments.chunk(2, -1)
    return Normal(mean, (log_variance.exp() + 1e-4).sqrt(), validate_args=False)


def log_unit(z):
    """Log-density of the standard normal."""
    return -(z.square() + math.log(2 * math.pi)) / 2
