"""Network pieces shared by the models."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributions import Distribution, Independent, Normal

from ._ranks import add_up, drawn, is_divided
from .distributions import NegativeBinomialShares, PoissonShares, ZeroInflatedNegativeBinomial

aten: Any = torch.ops.aten  # derivatives that torch gives no name of their own


class DenseStack(nn.Module):
    """Hidden layers: linear, batch norm, ReLU, dropout; covariates enter every layer."""

    def __init__(
        self,
        n_in: int,
        n_hidden: int,
        n_layers: int,
        dropout: float,
        n_environments: int = 0,
        batch_norm: bool = True,
    ):
        super().__init__()
        widths = [n_in] + [n_hidden] * (n_layers - 1)
        self.n_environments = n_environments
        self.linears = nn.ModuleList(nn.Linear(n + n_environments, n_hidden) for n in widths)
        self.norms = nn.ModuleList(
            nn.BatchNorm1d(n_hidden, eps=1e-3, momentum=0.01) for _ in widths if batch_norm
        )
        self.dropout = dropout

    def forward(self, h: Tensor, environment: Tensor, extra: Tensor | None = None) -> Tensor:
        """Hidden representation, (n_rows, n_hidden).

        ``extra`` joins what the first layer makes of ``h``. Without environments it may have
        leading dimensions, (..., n_rows, n_hidden): the rows are then repeated, and only what
        comes after the first product is paid for each time.
        """
        leading = () if extra is None else extra.shape[:-2]
        for linear, norm in zip_longest(self.linears, self.norms):
            if self.n_environments:
                h = torch.cat([h, environment], -1)
            if norm is None:
                h = torch.relu(_joined(linear(h), extra))
                h = h * _kept(h, self.dropout, leading) if self.training and self.dropout else h
            elif self.training:
                weights = linear.weight, linear.bias, norm.weight, norm.bias
                h = _HiddenLayer.apply(h, *weights, extra, norm, self.dropout, leading)
            else:
                h = torch.relu_(norm(_joined(linear(h), extra)))
            extra = None
        return h.unflatten(0, (*leading, -1)) if leading else h


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
        extra: Tensor | None,
        norm: Any,
        rate: float,
        leading: tuple[int, ...],
    ) -> Tensor:
        before = _joined(torch.addmm(bias, h, weight.t()), extra)
        ctx.n_rows = None
        if is_divided():
            mean, variance, ctx.n_rows = _moments_of_all(before, norm)
            moments = mean, variance, False, 0.0, norm.eps
            y, *_ = torch.native_batch_norm(before, scale, shift, *moments)
            inverse_scale = variance.add_(norm.eps).rsqrt_()
        else:
            moving = norm.running_mean, norm.running_var
            y, mean, inverse_scale = torch.native_batch_norm(
                before, scale, shift, *moving, True, norm.momentum, norm.eps
            )
        y.relu_()
        if rate:
            y.mul_(_kept(y, rate, leading))
        ctx.save_for_backward(h, weight, before, scale, mean, inverse_scale, y)
        ctx.rate = rate
        ctx.extra = None if extra is None else extra.shape
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        h, weight, before, scale, mean, inverse_scale, y = ctx.saved_tensors
        grad = aten.threshold_backward.default(grad, y, 0)  # y is 0 where it was dropped, too
        if ctx.rate:
            grad.mul_(1 / (1 - ctx.rate))
        whole = ctx.n_rows is None  # else the slope of own rows depends on those of others
        own, of_scale, of_shift = aten.native_batch_norm_backward.default(
            *(grad, before, scale, None, None, mean, inverse_scale, True, 0.0), [whole, True, True]
        )
        if whole:
            grad = own
        else:
            sums = of_scale, of_shift
            grad = _slope_of_share(grad, before, scale, mean, inverse_scale, sums, ctx.n_rows)
        of_extra = None
        if ctx.extra is not None:
            of_extra = grad.view(ctx.extra)
            grad = of_extra.sum_to_size(*ctx.extra[-2:])
        of_h = grad @ weight if ctx.needs_input_grad[0] else None
        return of_h, grad.t() @ h, grad.sum(0), of_scale, of_shift, of_extra, None, None, None


def _moments_of_all(h: Tensor, norm: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance of rows that processes share, and number of rows; moving averages move."""
    centre = h.mean(0)
    variance, mean = (h - centre).square_().mean(0).double(), centre.double()
    own = torch.cat([mean, variance + mean.square(), mean.new_ones(1)]).mul_(len(h))
    add_up(own)  # in float64, to be exact where the mean is large
    n_rows = own[-1]
    mean, square = (own[:-1] / n_rows).chunk(2)
    variance = square.sub_(mean.square())
    unbiased = variance * (n_rows / (n_rows - 1))
    for moving, new in ((norm.running_mean, mean), (norm.running_var, unbiased)):
        moving.lerp_(new.to(moving), norm.momentum)
    return mean.to(h), variance.to(h), n_rows.to(h)


def _slope_of_share(
    grad: Tensor,
    before: Tensor,
    scale: Tensor,
    mean: Tensor,
    inverse_scale: Tensor,
    sums: tuple[Tensor, Tensor],
    n_rows: Tensor,
) -> Tensor:
    """Gradient of own rows before batch norm, whose mean and variance it has to take into account.

    ``sums`` over own rows are the gradients of scale and shift.
    """
    means = torch.stack(sums)
    add_up(means)
    means /= n_rows
    slope = (before - mean).mul_(means[0] * inverse_scale).add_(means[1])
    return torch.sub(grad, slope, out=slope).mul_(scale * inverse_scale)


def _joined(product: Tensor, extra: Tensor | None) -> Tensor:
    """Sum of the two, with leading dimensions made rows."""
    return product if extra is None else (product + extra).flatten(0, -2)


def _kept(h: Tensor, rate: float, leading: Iterable[int] = ()) -> Tensor:
    """Factors of dropout, 0 or 1 / (1 - rate), of rows of cells for each leading dimension."""
    shape = h.unflatten(0, (*leading, -1)).shape
    bits = drawn(_random_bits_of, shape, -2, h.device).reshape(h.shape).to(h.dtype)
    kept = bits.sub_(round(rate * 2**16) - 2**15 - 1).clamp_(0, 1)
    return kept.mul_(1 / (1 - rate))


def _random_bits(like: Tensor) -> Tensor:
    """Whole numbers from -2^15 to 2^15 - 1; 16 random bits each take a quarter of the time."""
    return _random_bits_of(like.shape, device=like.device).to(like.dtype)


def _random_bits_of(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """The same as float32 of a shape."""
    size = math.prod(shape)
    words = torch.empty(size // 4 + 1, dtype=torch.int64, device=device)
    bits = words.random_(-(2**63), None).view(torch.int16)[:size]
    return bits.view(shape).float()


def thinned(x: Tensor, share: Tensor) -> Tensor:
    """Counts of cells of which a share is kept: what is to be expected, rounded at random."""
    chance = _random_bits(x).add_(2**15).mul_(2.0**-16)  # in [0, 1)
    return chance.add_(x * share).floor_()


class GaussianEncoder(nn.Module):
    """Amortised posterior q(z | x) = N(mean(x), diag scale(x)^2)."""

    def __init__(
        self,
        n_in: int,
        n_latent: int,
        *,
        n_hidden: int,
        n_layers: int,
        dropout: float,
        batch_norm: bool = True,
    ):
        super().__init__()
        self.hidden = DenseStack(n_in, n_hidden, n_layers, dropout, batch_norm=batch_norm)
        self.n_latent = n_latent
        self.moments = nn.Linear(n_hidden, 2 * n_latent)  # mean and log-variance, side by side

    def forward(self, x: Tensor, extra: Tensor | None = None) -> Normal:
        """Posterior of the latent state of each cell.

        ``extra`` is what else is known, as the first hidden layer takes it,
        (..., n_cells, n_hidden); its leading dimensions are those of the result.
        """
        mean, log_variance = self.moments(self.hidden(x, x[:, :0], extra)).chunk(2, -1)
        scale: Tensor = _Scale.apply(log_variance)
        return Normal(mean, scale, validate_args=False)

    @torch.no_grad()
    def project(self, projection: Tensor, centre: Tensor, *, restart: bool = True) -> None:
        """Let the mean be ``(mean - centre) @ projection``; the scales, that it mixes, restart.

        Without ``restart``, for a rotation that is the end of training, each log-variance becomes
        the mean of the old ones, as much of each as the new latent has of the old one.
        """
        n, n_kept = projection.shape
        weight, bias = self.moments.weight[:n], self.moments.bias[:n]
        old, share = self.moments, projection.square()
        self.n_latent = n_kept
        self.moments = nn.Linear(weight.shape[1], 2 * n_kept, device=weight.device)
        self.moments.weight[:n_kept] = projection.T @ weight
        self.moments.bias[:n_kept] = (bias - centre) @ projection
        self.moments.weight[n_kept:] = 0
        self.moments.bias[n_kept:] = math.log(0.1)
        if not restart:
            self.moments.weight[n_kept:] = share.T @ old.weight[n:]
            self.moments.bias[n_kept:] = share.T @ old.bias[n:]


class _Scale(torch.autograd.Function):
    """Standard deviation for a log-variance, of at least 0.01, as one node instead of four."""

    @staticmethod
    def forward(ctx: Any, log_variance: Tensor) -> Tensor:
        variance = log_variance.clamp(max=15).exp_()
        scale = (variance + 1e-4).sqrt_()
        ctx.save_for_backward(variance, scale)
        return scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        variance, scale = ctx.saved_tensors
        slope: Tensor = variance.div(scale).mul_(grad).mul_(0.5)
        return slope


class CountHead(nn.Module, ABC):
    r"""Counts with mean :math:`l \, \mathrm{softmax}(W h + b)`."""

    counts = True

    def __init__(self, n_hidden: int, n_genes: int):
        super().__init__()
        self.logits = nn.Linear(n_hidden, n_genes)

    @abstractmethod
    def forward(self, h: Tensor, library: Tensor) -> Distribution:
        """Distribution of the counts of each cell; an empty one has a likelihood of one."""


class PoissonHead(CountHead):
    """Counts whose variance is their mean."""

    def forward(self, h: Tensor, library: Tensor) -> Distribution:
        """Distribution of the counts of each cell."""
        return PoissonShares(self.logits(h), library.clamp(min=1e-8).log())


class NegativeBinomialHead(CountHead):
    """Overdispersed counts, one inverse dispersion per gene for all cells."""

    def __init__(self, n_hidden: int, n_genes: int):
        super().__init__(n_hidden, n_genes)
        self.log_dispersion = nn.Parameter(torch.randn(n_genes))  # log theta

    def forward(self, h: Tensor, library: Tensor) -> Distribution:
        """Distribution of the counts of each cell."""
        log_library = library.clamp(min=1e-8).log()
        return NegativeBinomialShares(self.logits(h), log_library, self.log_dispersion)


class ZeroInflatedHead(CountHead):
    """Overdispersed counts with dropout that depends on the latent state."""

    def __init__(self, n_hidden: int, n_genes: int):
        super().__init__(n_hidden, n_genes)
        self.log_dispersion = nn.Parameter(torch.randn(n_genes))  # log theta
        self.dropout_logit = nn.Linear(n_hidden, n_genes)

    def forward(self, h: Tensor, library: Tensor) -> Distribution:
        """Distribution of the counts of each cell."""
        log_mean = torch.log_softmax(self.logits(h), -1) + library.clamp(min=1e-8).log()
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


class HeteroscedasticHead(nn.Module):
    """Real-valued expression whose variance depends on the latent state, too."""

    counts = False

    def __init__(self, n_hidden: int, n_genes: int):
        super().__init__()
        self.mean = nn.Linear(n_hidden, n_genes)
        self.log_variance = nn.Linear(n_hidden, n_genes)

    def forward(self, h: Tensor, library: Tensor) -> Distribution:
        """Distribution of the expression of each cell."""
        scale = _Scale.apply(self.log_variance(h))
        return Independent(Normal(self.mean(h), scale, validate_args=False), 1)


LIKELIHOODS: dict[str, Any] = {
    "negative_binomial": NegativeBinomialHead,
    "poisson": PoissonHead,
    "zero_inflated_negative_binomial": ZeroInflatedHead,
    "normal": NormalHead,
    "heteroscedastic_normal": HeteroscedasticHead,
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
        batch_norm: bool = True,
    ):
        super().__init__()
        sizes = n_hidden, n_layers, dropout, n_environments
        self.hidden = DenseStack(n_latent, *sizes, batch_norm=batch_norm)
        self.head = LIKELIHOODS[likelihood](n_hidden, n_genes)

    @torch.no_grad()
    def project(self, lift: Tensor, centre: Tensor) -> None:
        """Make of ``z`` what was made of ``centre + z @ lift``."""
        n_kept, n = lift.shape
        first: Any = self.hidden.linears[0]
        of_states, of_others = first.weight[:, :n], first.weight[:, n:]  # such as environments
        n_in = n_kept + of_others.shape[1]
        narrow = nn.Linear(n_in, len(of_states), device=of_states.device)
        narrow.weight.copy_(torch.cat([of_states @ lift.T, of_others], 1))
        narrow.bias.copy_(first.bias + of_states @ centre)
        self.hidden.linears[0] = narrow

    def features(self, x: Tensor) -> Tensor:
        """What an encoder reads: log(1 + counts), or the values as they are."""
        return torch.log1p(x) if self.head.counts else x

    def forward(
        self, z: Tensor, library: Tensor, environment: Tensor, extra: Tensor | None = None
    ) -> Distribution:
        """Distribution of expression given latent states, (..., n_cells, n_latent).

        ``extra`` is what else is known of each cell, as the first hidden layer takes it,
        (n_cells, n_hidden).
        """
        leading = z.shape[:-1]
        rows = environment.expand(*leading, -1).flatten(0, -2)
        if extra is not None:
            extra = extra.expand(*leading, -1).flatten(0, -2)
        h = self.hidden(z.flatten(0, -2), rows, extra)
        p_x: Distribution = self.head(h.unflatten(0, leading), library)
        return p_x


class InputTransform(nn.Module):
    """What an encoder reads: (t(x) - mean) / scale, with t(x) either x or log(1 + x)."""

    mean: Tensor  # (n_genes,)
    scale: Tensor  # (n_genes,)

    def __init__(self, n_genes: int, *, log: bool):
        super().__init__()
        self.log = log
        self.register_buffer("mean", torch.zeros(n_genes))
        self.register_buffer("scale", torch.ones(n_genes))

    @classmethod
    def of(
        cls, kind: str | None, n_genes: int, expression: Iterable[Tensor], *, counts: bool
    ) -> "InputTransform":
        """The transform of the parameter ``input_transform``, fitted to expression if it needs it.

        "auto" takes the logarithm of counts, and leaves real values as they are.
        """
        if kind == "auto":
            kind = "log" if counts else None
        if kind in ("log", "log_standardize") and not counts:
            raise ValueError(
                f"input_transform={kind!r} takes the logarithm of counts, which real values are "
                "not: give 'standardize' or None"
            )
        transform = cls(n_genes, log=kind in ("log", "log_standardize"))
        if kind in ("standardize", "log_standardize"):
            transform.standardise(expression)
        return transform

    def forward(self, x: Tensor) -> Tensor:
        """Features of each cell, (n_cells, n_genes)."""
        return (self._values(x) - self.mean) / self.scale

    def _values(self, x: Tensor) -> Tensor:
        return torch.log1p(x) if self.log else x

    @torch.no_grad()
    def standardise(self, batches: Iterable[Tensor]) -> None:
        """Take mean and standard deviation of each gene; a constant gene keeps its scale."""
        n_cells, total, square = 0, torch.zeros(()), torch.zeros(())
        for x in batches:
            values = self._values(x.double())
            n_cells, total = n_cells + len(x), total.to(values) + values.sum(0)
            square = square.to(values) + values.square().sum(0)
        mean = total / n_cells
        variance = (square - n_cells * mean.square()) / max(n_cells - 1, 1)
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(variance > 1e-12 * (1 + mean.square()), variance, 1).sqrt())


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

    def of(self, part: Tensor | None) -> Tensor:
        """Rows of these perturbations, (*part.shape, n_latent), or all."""
        rows: Tensor = self() if part is None else nn.functional.embedding(part, self())
        return rows

    def extend(self, rows: Tensor) -> None:
        """Freeze the rows there are and append new ones to be learned."""
        self.frozen = self().detach()
        self.rows = nn.Parameter(rows.to(self.frozen))

    def narrow(self, n_latent: int) -> None:
        """Keep the first columns of each row."""
        trained = self.rows.requires_grad
        self.frozen = self.frozen[:, :n_latent]
        self.rows = nn.Parameter(self.rows.detach()[:, :n_latent].clone(), requires_grad=trained)

    def unfreeze(self) -> None:
        """Make all rows learnable again."""
        self.rows = nn.Parameter(self().detach())
        self.frozen = self.rows.detach()[:0]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load a table that was extended since it was made as this one."""
        frozen, rows = state_dict[f"{prefix}frozen"], state_dict[f"{prefix}rows"]
        if (frozen.shape, rows.shape) != (self.frozen.shape, self.rows.shape):
            self.frozen, self.rows = torch.empty_like(frozen), nn.Parameter(torch.empty_like(rows))
        super()._load_from_state_dict(state_dict, prefix, *args)
