"""Network pieces shared by the models."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributions import Distribution, Independent, Normal

from .distributions import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial

aten: Any = torch.ops.aten  # derivatives that torch gives no name of their own


class DenseStack(nn.Module):
    """Hidden layers: linear, batch norm, ReLU, dropout; covariates enter every layer."""

    def __init__(
        self, n_in: int, n_hidden: int, n_layers: int, dropout: float, n_environments: int = 0
    ):
        super().__init__()
        widths = [n_in] + [n_hidden] * (n_layers - 1)
        self.n_environments = n_environments
        self.linears = nn.ModuleList(nn.Linear(n + n_environments, n_hidden) for n in widths)
        self.norms = nn.ModuleList(
            nn.BatchNorm1d(n_hidden, eps=1e-3, momentum=0.01) for _ in widths
        )
        self.dropout = dropout

    def forward(self, h: Tensor, environment: Tensor) -> Tensor:
        """Hidden representation, (n_rows, n_hidden)."""
        for linear, norm in zip(self.linears, self.norms, strict=True):
            if self.n_environments:
                h = torch.cat([h, environment], -1)
            if self.training:
                weights = linear.weight, linear.bias, norm.weight, norm.bias
                h = _HiddenLayer.apply(h, *weights, norm, self.dropout)
            else:
                h = torch.relu_(norm(linear(h)))
        return h


class _HiddenLayer(torch.autograd.Function):
    """Layer in training, as one node of the graph instead of five.

    With small minibatches the nodes cost as much as the arithmetic.
    """

    @staticmethod
    def forward(
        ctx: Any,
        h: Tensor,
        weight: Tensor,
        bias: Tensor,
        scale: Tensor,
        shift: Tensor,
        norm: Any,
        rate: float,
    ) -> Tensor:
        before = torch.addmm(bias, h, weight.t())
        moving = norm.running_mean, norm.running_var
        y, mean, inverse_scale = torch.native_batch_norm(
            before, scale, shift, *moving, True, norm.momentum, norm.eps
        )
        y.relu_()
        if rate:
            y.mul_(_kept(y, rate))
        ctx.save_for_backward(h, weight, before, scale, mean, inverse_scale, y)
        ctx.eps, ctx.rate = norm.eps, rate
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        h, weight, before, scale, mean, inverse_scale, y = ctx.saved_tensors
        grad = aten.threshold_backward.default(grad, y, 0)  # y is 0 where it was dropped, too
        if ctx.rate:
            grad.mul_(1 / (1 - ctx.rate))
        grad, of_scale, of_shift = aten.native_batch_norm_backward.default(
            grad, before, scale, None, None, mean, inverse_scale, True, ctx.eps, [True] * 3
        )
        of_h = grad @ weight if ctx.needs_input_grad[0] else None
        return of_h, grad.t() @ h, grad.sum(0), of_scale, of_shift, None, None


def _kept(h: Tensor, rate: float) -> Tensor:
    """Factors of dropout, 0 or 1 / (1 - rate); 16 random bits each take a quarter of the time."""
    words = torch.empty(h.numel() // 4 + 1, dtype=torch.int64, device=h.device)
    bits = words.random_(-(2**63), None).view(torch.int16)[: h.numel()].view_as(h)
    kept = bits.to(h.dtype).sub_(round(rate * 2**16) - 2**15 - 1).clamp_(0, 1)
    return kept.mul_(1 / (1 - rate))


class GaussianEncoder(nn.Module):
    """Amortised posterior q(z | x) = N(mean(x), diag scale(x)^2)."""

    def __init__(self, n_in: int, n_latent: int, *, n_hidden: int, n_layers: int, dropout: float):
        super().__init__()
        self.hidden = DenseStack(n_in, n_hidden, n_layers, dropout)
        self.n_latent = n_latent
        self.moments = nn.Linear(n_hidden, 2 * n_latent)  # mean and log-variance, side by side

    def forward(self, x: Tensor) -> Normal:
        """Posterior of the latent state of each cell."""
        mean, log_variance = self.moments(self.hidden(x, x[:, :0])).chunk(2, -1)
        variance = log_variance.clamp(max=15).exp() + 1e-4
        return Normal(mean, variance.sqrt(), validate_args=False)

    @torch.no_grad()
    def turn(self, R: Tensor, centre: Tensor) -> None:
        """Let the mean be ``(mean - centre) @ R``; the scales, that this would mix, restart."""
        weight, bias = self.moments.weight, self.moments.bias
        n = self.n_latent
        weight[:n], bias[:n] = R.T @ weight[:n], (bias[:n] - centre) @ R
        weight[n:] *= 0.1
        bias[n:] = math.log(0.1)


class PoissonHead(nn.Module):
    r"""Counts with mean :math:`l \, \mathrm{softmax}(W h + b)`."""

    counts = True

    def __init__(self, n_hidden: int, n_genes: int):
        super().__init__()
        self.logits = nn.Linear(n_hidden, n_genes)

    def log_mean(self, h: Tensor, library: Tensor) -> Tensor:
        """Log of the expected counts; the floor keeps an empty cell's likelihood at one."""
        return torch.log_softmax(self.logits(h), -1) + library.clamp(min=1e-8).log()

    def forward(self, h: Tensor, library: Tensor) -> Distribution:
        """Distribution of the counts of each cell."""
        return Poisson(self.log_mean(h, library))


class NegativeBinomialHead(PoissonHead):
    """Overdispersed counts, one inverse dispersion per gene for all cells."""

    def __init__(self, n_hidden: int, n_genes: int):
        super().__init__(n_hidden, n_genes)
        self.log_dispersion = nn.Parameter(torch.randn(n_genes))  # log theta

    def forward(self, h: Tensor, library: Tensor) -> Distribution:
        """Distribution of the counts of each cell."""
        return NegativeBinomial(self.log_mean(h, library), self.log_dispersion)


class ZeroInflatedHead(NegativeBinomialHead):
    """Overdispersed counts with dropout that depends on the latent state."""

    def __init__(self, n_hidden: int, n_genes: int):
        super().__init__(n_hidden, n_genes)
        self.dropout_logit = nn.Linear(n_hidden, n_genes)

    def forward(self, h: Tensor, library: Tensor) -> Distribution:
        """Distribution of the counts of each cell."""
        log_mean = self.log_mean(h, library)
        return ZeroInflatedNegativeBinomial(log_mean, self.log_dispersion, self.dropout_logit(h))


class NormalHead(nn.Module):
    """Real-valued expression with one scale per gene; the library size plays no part."""

    counts = False

    def __init__(self, n_hidden: int, n_genes: int):
        super().__init__()
        self.mean = nn.Linear(n_hidden, n_genes)
        self.log_scale = nn.Parameter(torch.zeros(n_genes))

    def forward(self, h: Tensor, library: Tensor) -> Distribution:
        """Distribution of the expression of each cell."""
        scale = self.log_scale.clamp(min=-7).exp()  # a gene that is constant has no density
        return Independent(Normal(self.mean(h), scale, validate_args=False), 1)


LIKELIHOODS: dict[str, Any] = {
    "negative_binomial": NegativeBinomialHead,
    "poisson": PoissonHead,
    "zero_inflated_negative_binomial": ZeroInflatedHead,
    "normal": NormalHead,
}


class Decoder(nn.Module):
    """Distribution of expression p(x | z) under one of ``LIKELIHOODS``."""

    def __init__(
        self,
        n_latent: int,
        n_genes: int,
        *,
        n_hidden: int,
        n_layers: int,
        likelihood: str,
        n_environments: int = 0,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.hidden = DenseStack(n_latent, n_hidden, n_layers, dropout, n_environments)
        self.head = LIKELIHOODS[likelihood](n_hidden, n_genes)

    @torch.no_grad()
    def turn(self, R: Tensor, centre: Tensor) -> None:
        """Make of ``(z - centre) @ R`` what was made of ``z``."""
        weight, bias = self.hidden.linears[0].parameters()
        of_states = weight[:, : len(R)]  # environments follow
        bias.add_(of_states @ centre)
        of_states.copy_(of_states @ R)

    def features(self, x: Tensor) -> Tensor:
        """What an encoder reads: log(1 + counts), or the values as they are."""
        return torch.log1p(x) if self.head.counts else x

    def forward(self, z: Tensor, library: Tensor, environment: Tensor) -> Distribution:
        """Distribution of expression given latent states, (..., n_cells, n_latent)."""
        leading = z.shape[:-1]
        rows = environment.expand(*leading, -1).flatten(0, -2)
        h = self.hidden(z.flatten(0, -2), rows)
        p_x: Distribution = self.head(h.unflatten(0, leading), library)
        return p_x


class Table(nn.Module):
    """One row of parameters per perturbation; rows can be added, and the old ones frozen."""

    frozen: Tensor  # (n_frozen, n_latent)

    def __init__(self, rows: Tensor):
        super().__init__()
        self.register_buffer("frozen", rows[:0])
        self.rows = nn.Parameter(rows)  # (n_rows, n_latent), the last ones

    def forward(self) -> Tensor:
        """All rows, (n_perturbations, n_latent)."""
        return torch.cat([self.frozen, self.rows]) if len(self.frozen) else self.rows

    def extend(self, rows: Tensor) -> None:
        """Freeze the rows there are and append new ones to be learned."""
        self.frozen = self().detach()
        self.rows = nn.Parameter(rows.to(self.frozen))

    def thaw(self) -> None:
        """Make all rows learnable again."""
        self.rows = nn.Parameter(self().detach())
        self.frozen = self.rows.detach()[:0]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load a table that was extended since it was made as this one."""
        frozen, rows = state_dict[f"{prefix}frozen"], state_dict[f"{prefix}rows"]
        if rows.shape != self.rows.shape:
            self.frozen, self.rows = torch.empty_like(frozen), nn.Parameter(torch.empty_like(rows))
        super()._load_from_state_dict(state_dict, prefix, *args)
