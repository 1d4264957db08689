"""The parts of InVAE: total correlation, the exponential family, and which term trains what."""

import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from skpert._data import Cells
from skpert._mixing import whitening
from skpert._priors import LEAST_CURVATURE, PRIOR_WIDTH, ExponentialPrior, GaussianPrior, Natural
from skpert.models.invae import FIRST_WEIGHT, N_MEASURED, InvariantModule, _warming, share_read
from skpert.nn import Decoder, GaussianEncoder
from skpert.objectives import iwelbo, total_correlation

DOUBLE = torch.float64


def double(values):
    return torch.as_tensor(np.asarray(values), dtype=DOUBLE)


# Total correlation


MEAN = double([[0, 0, 0], [1, 0, -1], [0, 2, 1], [-1, 1, 0]])
VARIANCE = double([[1, 0.5, 1], [0.5, 1, 1], [1, 1, 0.25], [2, 1, 1]])
Z = double([[0.1, -0.2, 0.3], [0.9, 0.4, -1.2], [0.2, 1.5, 0.8], [-1.5, 0.7, 0.1]])
DOMAIN = torch.tensor([0, 0, 1, 1])
SAME = DOMAIN[:, None] == DOMAIN


def naive_total_correlation(z, q, n_first, n_cells, same):
    """The formula with a number for each pair of cells and each latent."""
    each = Normal(q.mean[None], q.stddev[None]).log_prob(z[:, None])
    each = each.masked_fill(~same[..., None], -torch.inf)
    constant = (same.sum(1) * n_cells).log()
    joint, first, second = (
        torch.logsumexp(block.sum(-1), 1) - constant
        for block in (each, each[..., :n_first], each[..., n_first:])
    )
    return joint - first - second


def test_total_correlation_known_values():
    tc = total_correlation(Z, Normal(MEAN, VARIANCE.sqrt()), 2, torch.tensor(100.0))
    np.testing.assert_allclose(tc, [4.6490126008, 4.9705831315, 4.9420140767, 4.8271092928])
    assert tc.mean().item() - math.log(400) == pytest.approx(-1.1442847717)


def test_total_correlation_within_domains_known_values():
    n_cells = double([60, 60, 40, 40])
    tc = total_correlation(Z, Normal(MEAN, VARIANCE.sqrt()), 2, n_cells, SAME)
    np.testing.assert_allclose(tc, [4.2270521585, 4.1698417944, 3.8232955658, 3.9323614677])
    alone = Normal(MEAN[:2], VARIANCE[:2].sqrt())
    apart = total_correlation(Z[:2], alone, 2, torch.tensor(60.0))
    np.testing.assert_allclose(tc[:2], apart)


def random_posteriors(n_cells, n_latent, dtype=DOUBLE):
    torch.manual_seed(0)
    q = Normal(torch.randn(n_cells, n_latent) + 5, torch.rand(n_cells, n_latent) + 0.05)
    return Normal(q.mean.to(dtype), q.stddev.to(dtype)), q.rsample().to(dtype)


@pytest.mark.parametrize("by_domain", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(DOUBLE, 1e-9), (torch.float32, 1e-3)])
def test_total_correlation_is_the_formula_over_all_pairs(dtype, tolerance, by_domain):
    q, z = random_posteriors(50, 6, dtype)
    domain = torch.arange(50) % 3
    same = domain[:, None] == domain if by_domain else torch.ones(50, 50, dtype=torch.bool)
    n_cells = (domain + 20.0).to(dtype)
    tc = total_correlation(z, q, 4, n_cells, same if by_domain else None)
    expected = naive_total_correlation(z, q, 4, n_cells, same)
    torch.testing.assert_close(tc, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("by_domain", [True, False])
def test_the_gradient_of_total_correlation_is_that_of_the_formula(by_domain):
    z, mean, variance = (
        torch.as_tensor(values).clone().requires_grad_() for values in (Z, MEAN, VARIANCE)
    )
    n_cells = double([60, 60, 40, 40])

    def of(z, mean, variance):
        q = Normal(mean, variance.sqrt())
        return total_correlation(z, q, 2, n_cells, SAME if by_domain else None)

    assert torch.autograd.gradcheck(of, (z, mean, variance))


@pytest.mark.parametrize("scale", [0.1, 0.01])
def test_narrow_posteriors_cost_no_digits_of_total_correlation(scale):
    torch.manual_seed(0)
    mean = 3 * torch.randn(200, 8)
    q = Normal(mean, torch.full_like(mean, scale))
    z, n_cells = q.rsample(), torch.tensor(200.0)
    exact = Normal(q.mean.double(), q.stddev.double())
    expected = total_correlation(z.double(), exact, 7, n_cells.double())
    tc = total_correlation(z, q, 7, n_cells).double()
    torch.testing.assert_close(tc, expected, atol=1e-4, rtol=0)


def test_total_correlation_does_not_depend_on_the_order_of_cells():
    order = torch.tensor([2, 0, 3, 1])
    n_cells = double([60, 60, 40, 40])
    tc = total_correlation(Z, Normal(MEAN, VARIANCE.sqrt()), 2, n_cells, SAME)
    q = Normal(MEAN[order], VARIANCE[order].sqrt())
    permuted = total_correlation(Z[order], q, 2, n_cells[order], SAME[order][:, order])
    torch.testing.assert_close(permuted, tc[order])


def test_the_number_of_cells_shifts_total_correlation_and_not_its_gradient():
    gradients, values = [], []
    for n_cells in (100.0, 1e5):
        mean = MEAN.clone().requires_grad_()
        tc = total_correlation(Z, Normal(mean, VARIANCE.sqrt()), 2, torch.tensor(n_cells))
        tc.mean().backward()
        gradients.append(mean.grad)
        values.append(tc.detach())
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=0)
    np.testing.assert_allclose(values[1] - values[0], math.log(1e3), rtol=1e-6)


def test_the_total_correlation_of_independent_blocks_is_the_constant():
    """Posteriors on a grid of one block by the other: their mixture is a product."""
    rows, columns = torch.meshgrid(torch.randn(4), torch.randn(5), indexing="ij")
    mean = torch.stack([rows.flatten(), columns.flatten()], 1).double()
    q = Normal(mean, torch.full_like(mean, 0.3))
    tc = total_correlation(q.rsample(), q, 1, torch.tensor(100.0))
    np.testing.assert_allclose(tc, math.log(100), rtol=1e-5)


def test_total_correlation_of_many_normal_cells_is_their_mutual_information():
    torch.manual_seed(0)
    covariance = double([[1, 0.8], [0.8, 1]])
    mean = MultivariateNormal(torch.zeros(2, dtype=DOUBLE), covariance).sample((1500,))
    q = Normal(mean, torch.full_like(mean, 0.5))
    tc = total_correlation(q.rsample(), q, 1, torch.tensor(1500.0)) - math.log(1500)
    correlation = 0.8 / 1.25
    assert tc.mean().item() == pytest.approx(-0.5 * math.log(1 - correlation**2), abs=0.03)


# Score matching


def set_natural(prior, linear, quadratic, units=0.0):
    """Let the natural parameters be these in all cells; ``quadratic`` is negative."""
    last, n = prior.network[-1], prior.n_latent
    bias = torch.zeros_like(last.bias)
    bias[:n] = double(linear)
    bias[n : 2 * n] = torch.log(torch.expm1(-double(quadratic) - LEAST_CURVATURE))
    bias[2 * n :] = double(units)
    last.weight.data.zero_()
    last.bias.data = bias.data
    return prior


def exponential(n_latent, linear=0.0, quadratic=-0.5, units=0.0, n_covariates=2):
    torch.manual_seed(0)
    prior = ExponentialPrior(n_covariates, n_latent).double()
    return set_natural(prior, linear, quadratic, units).eval()


def random_prior(n_latent, n_covariates=3):
    """Every weight drawn: the density of each row of covariates is far from normal."""
    torch.manual_seed(1)
    prior = ExponentialPrior(n_covariates, n_latent).double()
    nn.init.normal_(prior.network[-1].weight, std=0.2)
    nn.init.normal_(prior.network[-1].bias, std=0.5)
    nn.init.normal_(prior.units.weight)
    return prior.eval()


STATES = double([[-1], [0], [0.5], [2], [3]])


@pytest.mark.parametrize(
    ("regularization", "linear", "quadratic", "loss"),
    [
        (0.0, 0.4411764706, -0.2450980392, -0.2450980392),
        (0.01, 0.4368932039, -0.2427184466, -0.2427184466),
        (0.1, 0.4017857143, -0.2232142857, -0.2232142857),
        (1.0, 0.2227722772, -0.1237623762, -0.1237623762),
    ],
)
def test_score_matching_is_least_at_the_known_normal(regularization, linear, quadratic, loss):
    """The loss is convex in the parameters of a normal distribution."""
    prior = exponential(1, linear, quadratic)
    value = prior.score_matching(STATES, torch.zeros(5, 2, dtype=DOUBLE), regularization).mean()
    assert value.item() == pytest.approx(loss, abs=1e-9)
    value.backward()
    np.testing.assert_allclose(prior.network[-1].bias.grad[:2], 0, atol=1e-9)


def test_score_matching_known_values_away_from_the_minimum():
    prior, nothing = exponential(1, 1.0, -0.5), torch.zeros(5, 2, dtype=DOUBLE)
    losses = [prior.score_matching(STATES, nothing, reg).mean().item() for reg in (0.0, 0.1)]
    assert losses == pytest.approx([0.025, 0.125])


def test_curvature_is_the_trace_and_not_the_sum_of_the_rows():
    """One unit makes the density near (1, -1) that of the precision [[2, 1/2], [1/2, 1]]."""
    z, precision = double([[1, -1]]), double([[2, 0.5], [0.5, 1]])
    prior = exponential(2, 0.0, [-0.75, -0.25])
    t = torch.tanh(torch.ones(1, dtype=DOUBLE))
    weight = torch.zeros(PRIOR_WIDTH, dtype=DOUBLE)
    weight[0] = -0.5 / (-2 * t * (1 - t**2))
    prior.units.weight.data[0], prior.units.bias.data[0] = 1.0, 1.0
    slope = prior.derivatives(z, Natural(z * 0, double([[-0.75, -0.25]]), weight))[0].detach()
    set_natural(prior, -z @ precision - slope, [-0.75, -0.25], weight.numpy())
    loss, more = (prior.score_matching(z, z * 0, reg).item() for reg in (0.0, 1.0))
    assert loss == pytest.approx(-1.75)
    assert more - loss == pytest.approx(5.0)


def log_density(prior, natural, z):
    """Unnormalised, written out for one state, with gradients for all that is in it."""
    linear, quadratic, weights = natural
    return weights @ torch.tanh(prior.units(z)) + linear @ z + quadratic @ z**2


def test_derivatives_are_those_of_autograd():
    prior, z = random_prior(4), torch.randn(6, 4, dtype=DOUBLE)
    natural = prior.natural(torch.randn(6, 3, dtype=DOUBLE))
    gradient, diagonal = prior.derivatives(z, natural)
    for i in range(6):
        row = Natural(*(parameter[i] for parameter in natural))
        density = partial(log_density, prior, row)
        slope = torch.autograd.functional.jacobian(density, z[i])
        hessian = torch.autograd.functional.hessian(density, z[i])
        torch.testing.assert_close(gradient[i], slope)
        torch.testing.assert_close(diagonal[i], hessian.diagonal())
        assert (hessian.sum(0) - hessian.diagonal()).abs().max() > 0.1


def test_derivatives_are_the_differences_of_the_density_that_states_are_charged_with():
    prior, z, h = random_prior(3), torch.randn(5, 3, dtype=DOUBLE), 2e-4
    natural = prior.natural(torch.randn(5, 3, dtype=DOUBLE))
    gradient, diagonal = prior.derivatives(z, natural)
    for j, step in enumerate(h * torch.eye(3, dtype=DOUBLE)):
        below, here, above = (prior.unnormalised(z + s * step, natural) for s in (-1, 0, 1))
        torch.testing.assert_close((above - below) / (2 * h), gradient[:, j], atol=1e-5, rtol=0)
        second = (above - 2 * here + below) / h**2
        torch.testing.assert_close(second, diagonal[:, j], atol=1e-4, rtol=0)


# The normaliser and samples


def log_integral(prior, covariates):
    """Log Z and the first two moments of a density of one latent, by quadrature."""
    natural = Natural(*(p.detach()[0] for p in prior.natural(covariates[None])))

    def density(x, power=0):
        with torch.no_grad():
            value = log_density(prior, natural, double([x])).item()
        return x**power * math.exp(value)

    total, first, second = (quad(density, -30, 30, (k,), limit=200)[0] for k in range(3))
    mean = first / total
    return math.log(total), mean, math.sqrt(second / total - mean**2)


def test_the_normaliser_of_a_normal_density_is_exact():
    linear, quadratic = double([1.0, -2.0, 0.3]), double([-0.5, -3.0, -0.05])
    prior = exponential(3, linear, quadratic)
    log_z, error = prior.log_normaliser(torch.zeros(2, 2, dtype=DOUBLE))
    exact = (0.5 * torch.log(math.pi / -quadratic) - linear**2 / (4 * quadratic)).sum().item()
    np.testing.assert_allclose(log_z, [exact, exact], rtol=1e-6)
    np.testing.assert_allclose(error, 0, atol=1e-12)


@pytest.mark.parametrize("row", range(4))
def test_the_normaliser_is_the_integral_within_its_standard_error(row):
    prior = random_prior(1)
    covariates = double([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]])
    log_z, error = prior.log_normaliser(covariates)
    exact = log_integral(prior, covariates[row])[0]
    assert 0 < error[row] < 0.05
    assert abs(log_z[row] - exact) < 4 * error[row]


def test_densities_of_independent_latents_have_the_product_of_their_normalisers():
    prior = random_prior(2)
    prior.units.weight.data[: PRIOR_WIDTH // 2, 0] = 0
    prior.units.weight.data[PRIOR_WIDTH // 2 :, 1] = 0
    covariates = double([[1, 0, 0]])
    whole, natural = prior.log_normaliser(covariates), prior.natural(covariates)
    exact = 0.0
    for j, half in ((1, slice(PRIOR_WIDTH // 2)), (0, slice(PRIOR_WIDTH // 2, None))):
        weights = torch.zeros(PRIOR_WIDTH, dtype=DOUBLE)
        weights[half] = natural.units[0, half].detach()
        linear, quadratic = (part[0, j].item() for part in natural[:2])
        one = exponential(1, linear, quadratic, weights, n_covariates=3)
        one.units.weight.data = prior.units.weight.data[:, [j]]
        one.units.bias.data = prior.units.bias.data
        exact += log_integral(one, covariates[0])[0]
    assert abs(whole[0].item() - exact) < 4 * whole[1].item()


def test_samples_have_the_moments_of_the_density():
    prior = random_prior(1)
    row = double([0, 1, 0])
    _, mean, deviation = log_integral(prior, row)
    torch.manual_seed(0)
    z = prior.sample(row.expand(20_000, -1))
    assert z.mean().item() == pytest.approx(mean, abs=0.1 * deviation)
    assert z.std().item() == pytest.approx(deviation, rel=0.1)


def test_samples_follow_the_covariates_of_their_own_row():
    prior = random_prior(1)
    rows = double([[1, 0, 0], [0, 0, 2]])
    z = prior.sample(rows[torch.arange(8000) % 2])
    means = [log_integral(prior, row)[1:] for row in rows]
    for i, (mean, deviation) in enumerate(means):
        assert z[i::2].mean().item() == pytest.approx(mean, abs=0.15 * deviation)


def test_the_density_is_proper_whatever_the_weights():
    prior = random_prior(3)
    for p in prior.network.parameters():
        p.data *= 100
    natural = prior.natural(100 * torch.randn(200, 3, dtype=DOUBLE))
    assert natural.quadratic.max() <= -LEAST_CURVATURE
    far = torch.tensor([1e9], dtype=DOUBLE).expand(200, 3)
    assert (prior.unnormalised(far, natural) < -1e6).all()


def test_normalisers_are_estimated_once_a_row_and_forgotten_in_training():
    prior, covariates = random_prior(2), torch.eye(3, dtype=DOUBLE)
    log_z = prior.log_normaliser(covariates)[0]
    assert len(prior.normalisers) == 3
    prior.network[-1].bias.data[2] += 1
    torch.testing.assert_close(prior.log_normaliser(covariates[[2, 0]])[0], log_z[[2, 0]])
    prior.train()
    moved = prior.eval().log_normaliser(covariates)[0]
    assert (moved - log_z).abs().min() > 0.01


@pytest.mark.parametrize("make", [GaussianPrior, ExponentialPrior])
def test_priors_are_standard_normal_before_training(make):
    torch.manual_seed(0)
    prior, z = make(3, 2).eval(), torch.randn(7, 2)
    expected = Normal(0.0, 1.0).log_prob(z).sum(-1)
    torch.testing.assert_close(prior.log_prob(z, torch.randn(7, 3)), expected)


def test_the_cost_of_a_state_is_the_kl_on_average():
    """Up to the normaliser, which no state changes."""
    q = Normal(double([[0.3, -1.0]]), double([[0.5, 1.5]]))
    linear, quadratic = double([0.7, -0.4]), double([-1.0, -0.25])
    prior, covariates = exponential(2, linear, quadratic), torch.zeros(1, 2, dtype=DOUBLE)
    torch.manual_seed(0)
    everywhere = torch.ones(1, dtype=torch.bool)
    cost = prior.cost(q, q.rsample((50_000,)), covariates, everywhere).mean()
    variance = -0.5 / quadratic
    kl = kl_divergence(q, Normal(linear * variance, variance.sqrt())).sum()
    log_z = prior.log_normaliser(covariates)[0]
    assert (cost + log_z - kl).abs().item() < 0.03
    factorized = GaussianPrior(0, 2)
    torch.testing.assert_close(
        factorized.cost(q, q.mean, covariates[:, :0], everywhere),
        kl_divergence(q, Normal(0.0, 1.0)).sum(-1),
    )


# Which term trains what


N_GENES, N_INVARIANT, N_SPURIOUS = 12, 3, 2
SIZES = {"n_hidden": 16, "n_layers": 2}
SETTINGS = {
    "tc_weight": 1.5,
    "by_domain": True,
    "hide": 0.5,
    "thinning": 0.5,
    "regularization": 0.1,
}
COVARIATE = torch.tensor([0, 0, 0, 1, 1, 2, 2])  # two invariant covariates, and a spurious one


def random_module(prior=ExponentialPrior, *, likelihood="negative_binomial", **settings):
    torch.manual_seed(0)
    n_latent = N_INVARIANT + N_SPURIOUS
    module = InvariantModule(
        GaussianEncoder(N_GENES, n_latent, dropout=0.0, **SIZES),
        Decoder(n_latent, N_GENES, likelihood=likelihood, **SIZES),
        nn.Linear(len(COVARIATE), SIZES["n_hidden"], bias=False),
        prior(5, N_INVARIANT),
        GaussianPrior(2, N_SPURIOUS),
        COVARIATE,
        5,
        torch.full((400, 1), 6.0),
        **SETTINGS | settings,
    )
    for p in (module.invariant, module.spurious):
        nn.init.normal_(p.network[-1].weight, std=0.1)
    return module.eval()


def random_cells(n_cells=40):
    torch.manual_seed(1)
    x = torch.poisson(6 * torch.rand(n_cells, N_GENES))
    part = torch.stack([torch.randint(3, (n_cells,)), 3 + torch.randint(2, (n_cells,))], 1)
    part = torch.cat([part, 5 + torch.randint(2, (n_cells, 1))], 1)
    return Cells(x, x.sum(1, keepdim=True), part, torch.ones(n_cells, 3), x[:, :0])


def reached(module, *terms):
    """Parts of the module that get gradients from these terms of the objective."""
    module.zero_grad(set_to_none=True)
    losses = module.loss_terms(random_cells())
    sum(losses[term] for term in terms).backward()
    moved = [n for n, p in module.named_parameters() if p.grad is not None and p.grad.any()]
    return {name.split(".")[0] for name in moved}


def test_score_matching_trains_the_invariant_prior_and_nothing_else():
    module = random_module()
    assert reached(module, "score_matching") == {"invariant"}
    assert all(p.grad.any() for p in module.invariant.parameters())


def test_the_other_terms_never_reach_the_exponential_family():
    module = random_module()
    networks = {"encoder", "columns"}
    assert reached(module, "reconstruction") == {*networks, "decoder"}
    assert reached(module, "kl_z") == {*networks, "spurious"}
    assert reached(module, "total_correlation") == networks
    assert reached(module, "reconstruction", "kl_z", "total_correlation") == {
        *networks,
        "decoder",
        "spurious",
    }


def test_a_factorized_prior_learns_from_the_kl():
    module = random_module(GaussianPrior)
    assert reached(module, "kl_z") == {"encoder", "columns", "invariant", "spurious"}
    assert "score_matching" not in module.loss_terms(random_cells())


@pytest.mark.parametrize("prior", [ExponentialPrior, GaussianPrior])
@pytest.mark.parametrize("likelihood", ["negative_binomial", "normal"])
def test_every_parameter_is_trained_once(prior, likelihood):
    module = random_module(prior, likelihood=likelihood).train()
    sum(module.loss_terms(random_cells()).values()).backward()
    assert all(p.grad.any() for p in module.parameters())
    trained = [id(p) for group in module.parameter_groups() for p in group["params"]]
    assert sorted(trained) == sorted(id(p) for p in module.parameters())


def test_warm_up_weighs_all_but_the_reconstruction():
    module, terms = random_module(), []
    for kl_weight in (1.0, 0.5):
        torch.manual_seed(0)
        terms.append(module.loss_terms(random_cells(), kl_weight))
    full, warm = terms
    assert set(full) == {"reconstruction", "kl_z", "total_correlation", "score_matching"}
    for name, term in full.items():
        expected = term if name == "reconstruction" else math.sqrt(FIRST_WEIGHT) * term
        torch.testing.assert_close(warm[name], expected)


def test_warm_up_leaves_cells_of_unknown_covariates_alone():
    module, costs = random_module(), []
    cells = random_cells()
    cells = cells._replace(dosage=torch.zeros_like(cells.dosage))
    for kl_weight in (1.0, 0.5):
        torch.manual_seed(0)
        costs.append(module.loss_terms(cells, kl_weight)["kl_z"])
    torch.testing.assert_close(*costs)


def test_a_block_without_covariates_is_warmed_up():
    covariates = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    assert _warming(covariates, 7.0).tolist() == [7, 1]
    assert (_warming(covariates[:, :0], 7.0).expand(2) == 7).all()


class BlindModule(InvariantModule):
    """Training hides all covariates of all cells, but from the encoder only."""

    def _hidden(self, values, share=None):
        return values if share is not None else torch.zeros_like(values)


@pytest.mark.parametrize("prior", [ExponentialPrior, GaussianPrior])
def test_cells_whose_covariates_are_hidden_follow_the_priors_and_do_not_move_them(prior):
    module = random_module(prior)
    module.__class__ = BlindModule
    assert reached(module, *module.loss_terms(random_cells())) == {"encoder", "decoder"}


@pytest.mark.parametrize("prior", [ExponentialPrior, GaussianPrior])
def test_cells_of_unknown_covariates_have_priors_of_their_own(prior):
    module, cells = random_module(prior), random_cells()
    cells = cells._replace(dosage=torch.zeros_like(cells.dosage))
    terms = module.loss_terms(cells)
    terms["score_matching" if prior is ExponentialPrior else "kl_z"].backward()
    assert module.invariant.network[-1].bias.grad.any()


# Latents as they are shown


def normal_states(n_cells, seed=0):
    """Means and variances around what two categories and a number make of them."""
    generator = torch.Generator().manual_seed(seed)
    draw = partial(torch.randn, generator=generator, dtype=DOUBLE)
    category = torch.arange(n_cells) % 2
    covariates = torch.stack([category == 0, category == 1, torch.arange(n_cells) % 5 - 2.0], 1)
    mixing = double([[1.0, 0.5, 0.0], [0.0, 2.0, -0.3], [0.0, 0.0, 0.1]])
    mean = 5 * covariates.double() @ draw(3, 3) + draw(n_cells, 3) @ mixing
    return mean, 0.1 + draw(n_cells, 3).square(), covariates, mixing


def entries(covariates, covariate=(0, 0, 1)):
    """Columns of each cell, what they hold, and to which covariate a column belongs."""
    n = covariates.shape[1]
    part = torch.arange(n).expand(len(covariates), -1)
    return part, covariates.double(), torch.tensor(covariate, dtype=torch.long)[:n]


@pytest.mark.parametrize("covariate", [(0, 0, 0, 1, 1), (0, 1, 1, 1, 1), (0, 1, 2, 3, 4)])
def test_units_are_those_of_dense_least_squares(covariate):
    generator = torch.Generator().manual_seed(0)
    mean, variance = torch.randn(2, 200, 3, generator=generator, dtype=DOUBLE)
    variance = variance.square()
    kind, site = torch.randint(4, (2, 200), generator=generator)  # 3 is unknown
    covariates = torch.eye(4)[kind][:, :3], torch.eye(4)[site][:, :2] * torch.tensor([1.0, 2.0])
    covariates = torch.cat(covariates, 1)
    known = covariates.any(1)
    design = torch.cat([torch.ones(200, 1), covariates], 1)[known].double()
    residual = mean[known] - design @ (torch.linalg.pinv(design) @ mean[known])
    n_free = len(design) - int(torch.linalg.matrix_rank(design))
    spread = residual.T @ residual / n_free + variance[known].mean(0).diag()
    found = whitening(mean, variance, *entries(covariates, covariate))
    torch.testing.assert_close(found @ spread @ found, torch.eye(3, dtype=DOUBLE))


def test_whitened_latents_have_unit_spread_within_conditions():
    mean, variance, covariates, mixing = normal_states(200_000)
    found = whitening(mean, variance, *entries(covariates))
    torch.testing.assert_close(found, found.T)
    spread = mixing.T @ mixing + variance.mean(0).diag()
    expected = torch.eye(3, dtype=DOUBLE)
    torch.testing.assert_close(found @ spread @ found, expected, atol=0.02, rtol=0)


def test_cells_of_unknown_covariates_do_not_set_the_unit():
    mean, variance, covariates, _ = normal_states(500)
    known = whitening(mean, variance, *entries(covariates))
    others = (torch.cat([part, 100 * part]) for part in (mean, variance))
    more = whitening(*others, *entries(torch.cat([covariates, torch.zeros_like(covariates)])))
    torch.testing.assert_close(more, known)
    nothing = whitening(mean, variance, *entries(covariates[:, :0]))
    spread = torch.cov(mean.T) + variance.mean(0).diag()
    torch.testing.assert_close(nothing @ spread @ nothing, torch.eye(3, dtype=DOUBLE))
    alone = whitening(mean[:1], variance[:1], *entries(covariates[:1]))
    torch.testing.assert_close(alone, variance[:1].rsqrt().diag_embed()[0])


@pytest.mark.parametrize("prior", [ExponentialPrior, GaussianPrior])
def testwhitening_changes_how_latents_are_shown_and_nothing_else(prior):
    module, cells = random_module(prior), random_cells()

    def answers():
        z = module.encode(cells.x)
        torch.manual_seed(0)
        weights = module.log_weights(cells, 2)
        expected = module.intervene(z, designs(cells)).mean
        return cells.log_prob(module.decode(z, cells)), weights, expected

    before, z = answers(), module.encode(cells.x)
    module.whiten(cells)
    assert not torch.allclose(module.encode(cells.x), z)
    torch.testing.assert_close(answers(), before, rtol=1e-4, atol=1e-4)
    n = N_INVARIANT
    assert not module.whitening[:n, n:].any()
    assert not module.whitening[n:, :n].any()
    states = module._read(cells, module.covariates(cells)).sample((50_000,)) @ module.whitening
    shown = module.posterior(cells)
    torch.testing.assert_close(states.mean(0), shown["z"], atol=0.05, rtol=0)
    torch.testing.assert_close(states.std(0), shown["scale"], rtol=0.03, atol=0)


def test_many_cells_are_represented_by_some():
    """By every third of those here."""
    module, cells = random_module(), random_cells(3 * N_MEASURED)
    module.whiten(cells)
    of_all = module.whitening.clone()
    module.whiten(cells.take(torch.arange(0, cells.n_cells, 3)))
    assert torch.equal(module.whitening, of_all)
    module.whiten(cells.take(torch.arange(1, cells.n_cells, 3)))
    assert not torch.equal(module.whitening, of_all)


def test_environments_are_apart_at_the_start_where_asked_for():
    torch.manual_seed(0)
    for apart, differ in ((0.0, False), (1.0, True)):
        means = GaussianPrior(2, 3, apart=apart)(torch.eye(2)).mean
        assert bool((means[0] != means[1]).all()) == differ


def test_domains_are_the_known_values_of_the_spurious_covariates():
    """Hidden from the encoder or not: training knows where a cell comes from."""
    module, cells = random_module(tc_weight=1.0), random_cells()
    site = cells.part[:, 2]
    torch.manual_seed(0)
    tc = module.loss_terms(cells)["total_correlation"].item()
    q = module._read(cells, module.covariates(cells))
    torch.manual_seed(0)
    same = site[:, None] == site
    n_cells = 400 * same.float().mean(1)
    expected = naive_total_correlation(q.rsample(), q, N_INVARIANT, n_cells, same).mean().item()
    assert tc == pytest.approx(expected, rel=1e-4)


# Hidden covariates


def test_training_hides_covariates_of_the_stated_share_of_cells():
    module = random_module(hide=0.4).train()
    torch.manual_seed(0)
    known = module._hidden(torch.ones(40_000, len(COVARIATE)))
    of_covariate = known[:, [0, 3, 5]]
    assert (known == of_covariate[:, COVARIATE]).all()  # a covariate is hidden as a whole
    assert (known.sum(1) == 0).float().mean().item() == pytest.approx(0.4 + 0.6e-3, abs=0.01)
    shown = of_covariate[known.any(1)]
    np.testing.assert_allclose(shown.mean(0), 0.9, atol=0.01)


def test_nothing_is_hidden_outside_training_or_without_a_share():
    values = torch.rand(20, len(COVARIATE))
    assert torch.equal(random_module(hide=0.9)._hidden(values), values)
    assert torch.equal(random_module(hide=0.0).train()._hidden(values), values)


@pytest.mark.parametrize("prior", [ExponentialPrior, GaussianPrior])
def test_states_from_expression_alone_are_those_with_all_covariates_hidden(prior):
    module, cells = random_module(prior), random_cells()
    hidden = cells._replace(dosage=torch.zeros_like(cells.dosage))
    assert torch.equal(module.encode(cells.x), module.posterior(hidden)["z"])
    assert not torch.allclose(module.encode(cells.x), module.posterior(cells)["z"])


# Interventions


def designs(cells, **known):
    """Cells of which only these parts are known."""
    shown = [name in known for name in ("type", "state", "site")]
    part = torch.tensor([known.get(name, 0) for name in ("type", "state", "site")])
    n = cells.n_cells
    return cells._replace(part=part.expand(n, -1), dosage=torch.tensor(shown).float().expand(n, 3))


@pytest.mark.parametrize("prior", [ExponentialPrior, GaussianPrior])
def test_a_block_without_a_given_covariate_stays_with_the_cells(prior):
    module, cells = random_module(prior), random_cells()
    z, states = module.encode(cells.x), []
    decode = module.decoder.forward
    module.decoder.forward = lambda z, *others: states.append(z) or decode(z, *others)
    for known in ({}, {"site": 6}, {"type": 2}, {"state": 3, "site": 5}):
        module.intervene(z, designs(cells, **known))
    kept = [(torch.equal(s[:, :3], z[:, :3]), torch.equal(s[:, 3:], z[:, 3:])) for s in states]
    assert kept == [(True, True), (True, False), (False, True), (False, False)]


@pytest.mark.parametrize("prior", [ExponentialPrior, GaussianPrior])
def test_a_population_has_all_its_states_from_the_priors(prior):
    module, cells = random_module(prior), random_cells()
    states = []
    module.decoder.forward = lambda z, *others: states.append(z)
    of_nothing = designs(cells)._replace(x=cells.x[:, :0])
    module.intervene(module.basal_states(40), of_nothing)
    assert (states[0] != 0).all()


def test_thinning_leaves_at_least_a_hundred_counts():
    x = torch.tensor([60.0, 200.0, 20_000.0]).repeat_interleave(2000)[:, None].expand(-1, 5) / 5
    torch.manual_seed(0)
    share = share_read(x, 0.95).reshape(3, 2000)
    least = torch.tensor([1.0, 0.5, 0.05])  # all, half, a twentieth
    torch.testing.assert_close(share.min(1).values, least, atol=0.005, rtol=0)
    torch.testing.assert_close(share.mean(1), (1 + least) / 2, atol=0.03, rtol=0)
    torch.testing.assert_close(
        share_read(x, 0.2)[4000:].min(), torch.tensor(0.8), atol=0.01, rtol=0
    )


# Exact evidence of a linear model


NOISE = 0.5  # variance
BIAS = double([0.1, 0.0, -0.2])
LOADINGS = double([[1.0, 0.5], [-0.5, 1.0], [0.0, 0.0]])  # of an invariant and a spurious latent
PRIOR_MEAN = double([[0.8, -0.5], [2.0, -1.0]])  # of both latents, each with two categories
PRIOR_VARIANCE = double([0.5, 2.0])


class LinearEncoder(nn.Module):
    """Exact posterior, if its scale is not changed; covariates arrive as precision times mean."""

    n_latent = 2

    def __init__(self, scale):
        super().__init__()
        precision = PRIOR_VARIANCE.reciprocal() + (LOADINGS**2).sum(0) / NOISE
        self.variance, self.scale = precision.reciprocal(), scale

    def forward(self, x, shift):
        mean = self.variance * ((x - BIAS) @ LOADINGS / NOISE + shift)
        return Normal(mean, self.scale * self.variance.sqrt().expand_as(mean))


class LinearDecoder(nn.Module):
    """x ~ N(W z + b, NOISE)."""

    head = SimpleNamespace(counts=False)

    def features(self, x):
        return x

    def forward(self, z, library, environment):
        return Independent(Normal(z @ LOADINGS.T + BIAS, math.sqrt(NOISE)), 1)


def linear_prior(means, variance, factorized):
    """Prior of one latent with a mean for each of two categories."""
    if factorized:
        prior = GaussianPrior(2, 1)
        prior.network = nn.Linear(2, 2, bias=False)
        log_scale = double(variance).log().div(2).expand(2)
        prior.network.weight.data = torch.stack([means, log_scale])
        return prior
    prior = exponential(1, 0.0, -0.5 / variance)
    prior.network[0].weight.data.zero_()
    prior.network[0].weight.data[:2] = torch.eye(2)
    prior.network[0].bias.data.zero_()
    prior.network[-1].weight.data[0, :2] = means / variance  # natural parameter
    return prior


def linear_module(factorized, scale=1.0):
    columns = nn.Linear(4, 2, bias=False)
    columns.weight.data = torch.block_diag(*PRIOR_MEAN / PRIOR_VARIANCE[:, None])
    spurious = linear_prior(PRIOR_MEAN[1], PRIOR_VARIANCE[1].item(), True)
    invariant = linear_prior(PRIOR_MEAN[0], PRIOR_VARIANCE[0].item(), factorized)
    settings = SETTINGS | {"tc_weight": 0.0, "regularization": 0.0}
    parts = LinearEncoder(scale), LinearDecoder(), columns, invariant, spurious
    module = InvariantModule(*parts, torch.tensor([0, 0, 1, 1]), 2, torch.ones(100, 1), **settings)
    return module.double().eval()


def linear_cells(n_cells=200):
    torch.manual_seed(0)
    x = torch.randn(n_cells, 3, dtype=DOUBLE)
    part = torch.stack([torch.randint(2, (n_cells,)), 2 + torch.randint(2, (n_cells,))], 1)
    return Cells(x, x[:, :1], part, torch.ones(n_cells, 2, dtype=DOUBLE), x[:, :0])


def evidence(cells):
    mean = torch.stack([PRIOR_MEAN[0, cells.part[:, 0]], PRIOR_MEAN[1, cells.part[:, 1] - 2]], 1)
    covariance = LOADINGS * PRIOR_VARIANCE @ LOADINGS.T + NOISE * torch.eye(3)
    return MultivariateNormal(mean @ LOADINGS.T + BIAS, covariance).log_prob(cells.x)


@pytest.mark.parametrize("factorized", [True, False])
def test_log_weights_are_the_evidence_when_the_guide_is_exact(factorized):
    cells = linear_cells()
    weights = linear_module(factorized).log_weights(cells, 5).detach()
    np.testing.assert_allclose(weights, evidence(cells).expand(5, -1), atol=1e-5)


@pytest.mark.parametrize("factorized", [True, False])
def test_the_bound_rises_from_the_objective_to_the_evidence(factorized):
    """A nonfactorized objective lacks the normaliser, and has score matching beside it."""
    cells, module = linear_cells(), linear_module(factorized, scale=1.4)
    with torch.no_grad():
        terms = [module.loss_terms(cells) for _ in range(100)]
        elbo = -np.mean([(t["reconstruction"] + t["kl_z"]).item() for t in terms])
        if not factorized:
            elbo -= module.invariant.log_normaliser(module.covariates(cells)[:, :2])[0].mean()
        one = module.log_weights(cells, 200).mean().item()
        bounds = {k: iwelbo(module.log_weights(cells, k)).mean().item() for k in (10, 2000)}
    assert one == pytest.approx(float(elbo), abs=0.02)
    assert one < bounds[10] < bounds[2000]
    assert bounds[2000] == pytest.approx(evidence(cells).mean().item(), abs=0.02)


# Devices


@pytest.mark.parametrize("prior", [ExponentialPrior, GaussianPrior])
def test_nothing_is_left_behind_on_another_device(prior):
    """The meta device refuses to mix with tensors of the CPU, as a GPU does."""
    module, cells = random_module(prior).to("meta"), random_cells().to(torch.device("meta"))
    tensors = [*module.loss_terms(cells).values(), *module.posterior(cells).values()]
    z = module.basal_states(cells.n_cells)
    tensors += [
        z,
        module.encode(cells.x),
        cells.log_prob(module.decode(z.new_zeros(40, 5), cells)),
    ]
    if prior is GaussianPrior:  # the values of covariates decide what else has to be done
        tensors += [module.log_weights(cells, 3), module.intervene(z, cells).mean]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
