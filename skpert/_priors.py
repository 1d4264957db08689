"""Distributions of latent states given covariates of the cell."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import softplus

LEAST_CURVATURE = 1e-3  # of the exponential family, minus its quadratic weights
N_PROPOSALS = 2000  # samples from which a normaliser is estimated
N_ROUNDS = 3  # of moving the proposal to where the prior has its mass
N_MOVERS = 500  # samples that move it
WIDENING = 1.2  # of its variance
N_ROWS = 32  # covariate combinations whose normalisers are estimated at once
PRIOR_WIDTH = 64  # hidden units of the networks of a prior


class Natural(NamedTuple):
    """Parameters of an exponential family for each row of covariates."""

    linear: Tensor  # (n_rows, n_latent) lambda_1
    quadratic: Tensor  # (n_rows, n_latent) lambda_2, negative
    units: Tensor  # (n_rows, PRIOR_WIDTH) weights of the units of T, from lambda_T


class GaussianPrior(nn.Module):
    """p(z | covariates), normal with independent latents; N(0, I) without covariates.

    With ``apart`` its means differ between covariates from the start.
    """

    def __init__(self, n_covariates: int, n_latent: int, n_layers: int = 1, *, apart: float = 0.0):
        super().__init__()
        self.n_latent = n_latent
        self.network = None
        if n_covariates:
            self.network = _network(n_covariates, 2 * n_latent, n_layers)
            last: Any = self.network[-1]
            nn.init.normal_(last.weight[:n_latent], std=apart)

    def forward(self, covariates: Tensor) -> Normal:
        """Prior of each cell."""
        if self.network is None:
            zero = covariates.new_zeros(len(covariates), self.n_latent)
            return Normal(zero, torch.ones_like(zero), validate_args=False)
        mean, log_scale = self.network(covariates).chunk(2, -1)
        return Normal(mean, log_scale.clamp(-5, 5).exp(), validate_args=False)

    def log_prob(self, z: Tensor, covariates: Tensor) -> Tensor:
        """Log-density, (..., n_cells)."""
        log_prob: Tensor = self(covariates).log_prob(z).sum(-1)
        return log_prob

    def cost(self, q: Normal, z: Tensor, covariates: Tensor, leads: Tensor) -> Tensor:
        """KL(q || prior) of each cell, in closed form; of these, some do not move the prior."""
        prior = self(covariates)
        mean, scale = (
            torch.where(leads[:, None], parameter, parameter.detach())
            for parameter in (prior.mean, prior.stddev)
        )
        kl: Tensor = kl_divergence(q, Normal(mean, scale, validate_args=False)).sum(-1)
        return kl

    def sample(self, covariates: Tensor) -> Tensor:
        """One state for each cell, (n_cells, n_latent)."""
        drawn: Tensor = self(covariates).sample()
        return drawn


class ExponentialPrior(nn.Module):
    """p(z | covariates), an exponential family with neural sufficient statistics.

    The units of T are bounded and the quadratic weights negative, so that the density can be
    normalised whatever the weights. Only ``score_matching`` has gradients for the weights.
    """

    def __init__(self, n_covariates: int, n_latent: int, n_layers: int = 1):
        super().__init__()
        self.n_latent = n_latent
        self.units = nn.Linear(n_latent, PRIOR_WIDTH)  # T is linear in tanh of these
        n_out = 2 * n_latent + PRIOR_WIDTH
        self.network = _network(n_covariates, n_out, n_layers)
        last: Any = self.network[-1]
        half = math.log(math.expm1(0.5 - LEAST_CURVATURE))  # z ~ N(0, I) at the start
        with torch.no_grad():
            last.bias[n_latent : 2 * n_latent] = half
        self.normalisers: dict[bytes, tuple[float, float]] = {}

    def natural(self, covariates: Tensor) -> Natural:
        """Natural parameters of each cell."""
        n = self.n_latent
        out = self.network(covariates)
        quadratic = -softplus(out[:, n : 2 * n]) - LEAST_CURVATURE
        return Natural(out[:, :n], quadratic, out[:, 2 * n :])

    def unnormalised(self, z: Tensor, natural: Natural) -> Tensor:
        """Log-density but for the normaliser, (..., n_cells); no gradient for the weights."""
        linear, quadratic, weights = (parameter.detach() for parameter in natural)
        units = torch.tanh(z @ self.units.weight.detach().T + self.units.bias.detach())
        return (units * weights).sum(-1) + (z * (linear + quadratic * z)).sum(-1)

    def score_matching(self, z: Tensor, covariates: Tensor, regularization: float) -> Tensor:
        r"""Score-matching loss at each cell, (n_cells,); no gradient for z.

        .. math:: \sum_j \partial_j^2 \log p + \tfrac12 (\partial_j \log p)^2
                  + \mathrm{reg} \, (\partial_j^2 \log p)^2

        The second derivatives are the diagonal of the Hessian itself (the released code has sums
        of its rows), which for units tanh(a) has the closed form
        :math:`\sum_h w_h (-2 t_h)(1 - t_h^2) W_{hj}^2 + 2 \lambda_{2j}`.
        """
        slope, curvature = self.derivatives(z.detach(), self.natural(covariates))
        loss = curvature + slope.square() / 2 + regularization * curvature.square()
        return loss.sum(-1)

    def derivatives(self, z: Tensor, natural: Natural) -> tuple[Tensor, Tensor]:
        """Gradient and diagonal of the Hessian of the log-density, (n_cells, n_latent) each."""
        W = self.units.weight
        t = torch.tanh(self.units(z))
        slopes = natural.units * (1 - t.square())
        gradient = slopes @ W + natural.linear + 2 * natural.quadratic * z
        diagonal = (-2 * t * slopes) @ W.square() + 2 * natural.quadratic
        return gradient, diagonal

    def cost(self, q: Normal, z: Tensor, covariates: Tensor, leads: Tensor) -> Tensor:
        """Log q(z) - log p(z) of each cell, but for the normaliser; none moves the prior."""
        with torch.no_grad():
            natural = self.natural(covariates)
        cost: Tensor = -q.entropy().sum(-1) - self.unnormalised(z, natural)
        return cost

    def log_prob(self, z: Tensor, covariates: Tensor) -> Tensor:
        """Log-density with the estimated normaliser, (..., n_cells)."""
        log_z = self.log_normaliser(covariates)[0]
        return self.unnormalised(z, self.natural(covariates)) - log_z

    def train(self, mode: bool = True) -> "ExponentialPrior":
        """As ``nn.Module``; normalisers are forgotten, as weights change between two calls."""
        self.normalisers = {}
        return super().train(mode)

    @torch.no_grad()
    def log_normaliser(self, covariates: Tensor) -> tuple[Tensor, Tensor]:
        """Log Z of each cell's prior and its standard error, (n_cells,) each.

        One estimate per distinct row of covariates, kept until training goes on.
        """
        rows, inverse = covariates.unique(dim=0, return_inverse=True)
        keys = [row.tobytes() for row in rows.cpu().numpy()]
        new = [i for i, key in enumerate(keys) if key not in self.normalisers]
        for start in range(0, len(new), N_ROWS):
            chosen = new[start : start + N_ROWS]
            _, log_z, error = self._proposals(rows[chosen])
            values = zip(log_z.tolist(), error.tolist(), strict=True)
            self.normalisers |= dict(zip([keys[i] for i in chosen], values, strict=True))
        table = torch.tensor([self.normalisers[key] for key in keys]).to(covariates)
        return table[inverse, 0], table[inverse, 1]

    def _proposals(self, rows: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
        """Weighted samples of each prior, its log normaliser and the standard error of that.

        Importance sampling from an even mixture of the prior's own normal factor, against which
        weights are bounded, and a normal distribution moved to where the mass is. The normaliser
        is a ratio to that of the normal factor, and exact where there is nothing else.
        """
        natural = self.natural(rows)
        own = _normal_factor(natural)
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(N_PROPOSALS, 1, self.n_latent, generator=generator).to(rows)
        moved = own
        for _ in range(N_ROUNDS):
            z = moved.mean + moved.stddev * noise[:N_MOVERS]
            weight = self.unnormalised(z, natural) - moved.log_prob(z).sum(-1)
            share = torch.softmax(weight, 0)[..., None]
            mean = (share * z).sum(0)
            variance = (share * (z - mean).square()).sum(0) * WIDENING + 1e-6
            moved = Normal(mean, variance.sqrt(), validate_args=False)
        half = N_PROPOSALS // 2
        z = torch.cat(
            [own.mean + own.stddev * noise[:half], moved.mean + moved.stddev * noise[half:]]
        )
        log_own = own.log_prob(z).sum(-1)
        log_q = torch.logaddexp(log_own, moved.log_prob(z).sum(-1)) - math.log(2)
        log_weight = self.unnormalised(z, natural) - log_q
        base = log_own - log_q  # the weights if there were nothing but the normal factor
        log_z = torch.logsumexp(log_weight, 0) - torch.logsumexp(base, 0)
        spread = torch.softmax(log_weight, 0) - torch.softmax(base, 0)
        return (z, log_weight), log_z, spread.square().sum(0).sqrt()

    @torch.no_grad()
    def sample(self, covariates: Tensor) -> Tensor:
        """One state for each cell, drawn from proposals by their weights, (n_cells, n_latent)."""
        rows, inverse = covariates.unique(dim=0, return_inverse=True)
        drawn = covariates.new_empty(len(covariates), self.n_latent)
        for i, row in enumerate(rows):
            (z, log_weight), _, _ = self._proposals(row[None])
            cells = (inverse == i).nonzero()[:, 0]
            index = torch.multinomial(torch.softmax(log_weight[:, 0], 0), len(cells), True)
            drawn[cells] = z[index, 0]
        return drawn


def _network(n_in: int, n_out: int, n_layers: int) -> nn.Sequential:
    """Hidden layers; all outputs are zero at the start."""
    last = nn.Linear(PRIOR_WIDTH, n_out)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    widths = [n_in] + [PRIOR_WIDTH] * (n_layers - 1)
    hidden = [part for n in widths for part in (nn.Linear(n, PRIOR_WIDTH), nn.ReLU())]
    return nn.Sequential(*hidden, last)


def _normal_factor(natural: Natural) -> Normal:
    """What the linear and quadratic parts alone make, normalised."""
    variance = -0.5 / natural.quadratic
    return Normal(natural.linear * variance, variance.sqrt(), validate_args=False)
