"""Distributions against scipy, sums to one, finite differences and the limits."""

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch.autograd import gradcheck

from skpert.distributions import (
    NegativeBinomial,
    NegativeBinomialShares,
    Poisson,
    PoissonShares,
    StraightThroughBernoulli,
    ZeroInflatedNegativeBinomial,
    dispersion_term,
    log_saturated,
)


def negative_binomial(x, mean, theta):
    x, mean, theta = (torch.tensor(v, dtype=torch.float64).reshape(-1) for v in (x, mean, theta))
    return NegativeBinomial(mean.log(), theta.log()).log_prob(x).item()


@pytest.mark.parametrize(
    ("x", "mean", "theta", "expected"),
    [
        (0.0, 2.0, 1.0, -1.0986122887),
        (3.0, 2.0, 1.0, -2.3150076130),
        (5.0, 2.5, 0.5, -3.2095302367),
        (10.0, 7.0, 4.0, -2.9102630733),
        (0.0, 1e-8, 1.0, -0.0000000100),
        (1.0, 0.3, 100.0, -1.5065192113),
        (3.0, 2.0, 1e6, -1.7123189269),
    ],
)
def test_negative_binomial_known_values(x, mean, theta, expected):
    assert negative_binomial(x, mean, theta) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-6)])
def test_poisson_known_value_and_the_negative_binomial_next_to_it(dtype, tolerance):
    x, log_mean = torch.tensor([3.0], dtype=dtype), torch.tensor([2.0], dtype=dtype).log()
    assert Poisson(log_mean).log_prob(x).item() == pytest.approx(-1.7123179275, abs=tolerance)
    log_theta = torch.tensor([1e6], dtype=dtype).log()
    next_to_it = NegativeBinomial(log_mean, log_theta).log_prob(x).item()
    assert next_to_it == pytest.approx(-1.7123189269, abs=tolerance)


def test_a_cell_sums_over_its_genes():
    x, rho, theta = [4.0, 1.0, 0.0], [0.5, 0.3, 0.2], [1.0, 2.0, 0.5]
    mean = 5 * torch.tensor(rho, dtype=torch.float64)
    p_x = NegativeBinomial(mean.log(), torch.tensor(theta, dtype=torch.float64).log())
    log_prob = p_x.log_prob(torch.tensor(x, dtype=torch.float64))
    assert log_prob.item() == pytest.approx(-4.4213403150, abs=1e-8)


def test_negative_binomial_sums_to_one_with_its_moments():
    x = torch.arange(2001, dtype=torch.float64)[:, None]
    log_mean, log_theta = (torch.tensor([v], dtype=torch.float64).log() for v in (7.0, 4.0))
    p_x = NegativeBinomial(log_mean, log_theta)
    mass = p_x.log_prob(x).exp()
    assert mass.sum().item() == pytest.approx(1, abs=1e-10)
    assert (mass * x[:, 0]).sum().item() == pytest.approx(7, abs=1e-8)
    assert p_x.variance.item() == pytest.approx(19.25)


@pytest.mark.parametrize("theta", [1e-3, 0.3, 1.0, 7.5, 300.0, 1e5])
def test_float32_agrees_with_scipy_for_every_dispersion(theta):
    x = np.array([0, 1, 2, 5, 17, 120, 3000], dtype=np.float32)
    mean = np.array([0.01, 0.5, 2, 9, 11, 100, 2500], dtype=np.float32)
    p_x = NegativeBinomial(
        torch.tensor(mean).log()[:, None], torch.tensor([np.log(theta)], dtype=torch.float32)
    )
    expected = stats.nbinom.logpmf(x, theta, theta / (theta + mean.astype(float)))
    np.testing.assert_allclose(
        p_x.log_prob(torch.tensor(x)[:, None]).numpy(), expected, rtol=2e-5, atol=6e-3
    )


def log_gamma_formula(x, log_mean, theta):
    """Log-probability of each count in float64; Poisson where theta is infinite."""
    x, mean = np.broadcast_arrays(x.astype(float), np.exp(log_mean.astype(float)))
    if np.isinf(theta):
        return special.xlogy(x, mean) - mean - special.gammaln(x + 1)
    constant = special.gammaln(x + theta) - special.gammaln(theta) - special.gammaln(x + 1)
    odds = special.xlogy(x, mean / theta) - (x + theta) * np.log1p(mean / theta)
    return odds + constant


@pytest.mark.parametrize("theta", [1e-4, 1e-2, 0.7, 1.0, 30.0, 1e4, 1e6, 1e8, np.inf])
def test_float32_loses_nothing_whatever_the_count_its_mean_and_the_dispersion(theta):
    """What is left is the rounding of the mean, exp(log_mean), and of the result."""
    x = np.float32([0, 1e-3, 0.4, 1, 1.5, 2, 3, 10, 77.7, 1e3, 12_345, 1e5, 1e6])[:, None]
    ratio = np.r_[10.0 ** np.arange(-6, 7), 0.5, 0.9, 1.1, 2, 1 + np.float_power(10, -np.r_[2:7])]
    log_mean = np.log(np.where(x > 0, x, 1) * ratio).astype(np.float32)
    means, counts = torch.tensor(log_mean)[..., None], torch.tensor(x)[..., None]
    log_theta = torch.tensor([np.log(theta)], dtype=torch.float32)
    p_x = Poisson(means) if np.isinf(theta) else NegativeBinomial(means, log_theta)
    exact = log_gamma_formula(x, log_mean, np.exp(log_theta.double().item()))
    error = np.abs(p_x.log_prob(counts).double().numpy() - exact)
    mean = np.exp(log_mean.astype(float))
    slope = np.abs(x - mean) if np.isinf(theta) else np.abs(x - mean) * theta / (mean + theta)
    assert (error < 2e-6 + 4e-7 * slope + 1e-6 * np.abs(exact)).all()
    if not np.isinf(theta):
        kept = ZeroInflatedNegativeBinomial(means, log_theta, torch.tensor([0.3]))
        zero, kept_share = x[:, 0] == 0, special.log_expit(-0.3)
        exact = exact + kept_share
        exact[zero] = np.logaddexp(exact[zero], special.log_expit(0.3))
        error = np.abs(kept.log_prob(counts).double().numpy() - exact)
        assert (error < 2e-6 + 4e-7 * slope + 1e-6 * np.abs(exact)).all()


@pytest.mark.parametrize("family", ["negative_binomial", "poisson", "zero_inflated", "shares"])
@pytest.mark.parametrize(("total", "n_genes"), [(1e5, 100), (1e5, 2000), (1e6, 100), (1e6, 1000)])
def test_deep_cells_are_scored_as_in_float64(family, total, n_genes):
    """A thousandth of a nat, between particles of a cell less; Poisson genes among the others."""
    random = np.random.default_rng(0)
    theta = 10 ** random.uniform(-4, 8, n_genes)
    state = random.normal(0, 1, (8, n_genes))
    mean = total * np.exp(state) / np.exp(state).sum(1, keepdims=True)
    if family != "poisson":
        shape = np.maximum(theta, 0.3)
        mean = mean * random.gamma(shape, 1 / shape, mean.shape)
    x = torch.tensor(random.poisson(mean) + 0.25 * (random.random(mean.shape) < 0.1)).float()
    moved = torch.tensor(state + 0.01 * random.normal(size=(30, *mean.shape))).float()
    dispersion, library = torch.tensor(np.log(theta)).float(), torch.full((8, 1), total)

    def log_prob(dtype):
        logits, log_theta, log_library = (
            moved.to(dtype),
            dispersion.to(dtype),
            library.to(dtype).log(),
        )
        log_mean = torch.log_softmax(logits, -1) + log_library
        p_x = {
            "shares": NegativeBinomialShares(logits, log_library, log_theta),
            "poisson": PoissonShares(logits, log_library),
            "negative_binomial": NegativeBinomial(log_mean, log_theta),
            "zero_inflated": ZeroInflatedNegativeBinomial(log_mean, log_theta, -logits),
        }[family]
        return p_x.log_prob(x.to(dtype)).double()

    error = log_prob(torch.float32) - log_prob(torch.float64)
    bound = {1e5: 1e-3, 1e6: 1e-2}[total]
    assert error.abs().max() < bound
    assert (error - error.mean(0)).std() < bound / 2


def test_the_saturated_model_is_the_poisson_of_its_counts():
    x = np.float32([0, 0.001, 0.5, 1, 2, 2.5, 30, 4000, 1e6])
    values, x = torch.tensor(x)[:, None], x.astype(float)
    exact = special.xlogy(x, x) - x - special.gammaln(x + 1)
    np.testing.assert_allclose(log_saturated(values), exact, rtol=1e-6, atol=2e-7)
    np.testing.assert_allclose(log_saturated(values.double()), exact, rtol=1e-9, atol=1e-9)
    assert log_saturated(torch.zeros(5000)).abs() < 1e-4


def test_fast_dispersion_term_and_its_slope_agree_with_float64():
    x = torch.tensor([0.0, 1.0, 2.5, 8.0, 60.0, 900.0])[:, None]
    for start in [1e-3, 0.1, 0.9, 3.0, 25.0, 400.0, 1e5]:
        theta = torch.tensor([start], requires_grad=True)
        exact_theta = theta.detach().double().requires_grad_()
        value = dispersion_term(x, theta)
        exact = dispersion_term(x.double(), exact_theta)
        np.testing.assert_allclose(value.detach(), exact.detach(), rtol=1e-5, atol=2e-4)
        (slope,) = torch.autograd.grad(value.sum(), theta)
        (exact_slope,) = torch.autograd.grad(exact.sum(), exact_theta)
        np.testing.assert_allclose(slope.numpy(), exact_slope.numpy(), rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.03, 0.6])
def test_counts_that_add_nothing_are_passed_over(share):
    """Values as others do it, whether few counts are above 1 or most."""
    torch.manual_seed(0)
    x = torch.bernoulli(torch.full((30, 400), 0.3))
    x = torch.where(torch.rand(30, 400) < share, torch.randint(2, 90, (30, 400)) / 2, x)
    theta = torch.logspace(-2, 3, 400).requires_grad_()
    weight = torch.rand(30)
    exact_theta = theta.detach().double().requires_grad_()
    value, exact = dispersion_term(x, theta), dispersion_term(x.double(), exact_theta)
    np.testing.assert_allclose(value.detach(), exact.detach(), rtol=1e-5, atol=1e-3)
    (slope,) = torch.autograd.grad((weight * value).sum(), theta)
    (exact_slope,) = torch.autograd.grad((weight * exact).sum(), exact_theta)
    np.testing.assert_allclose(slope, exact_slope, rtol=2e-3, atol=1e-4)
    assert torch.equal(dispersion_term(x, theta.detach()), value.detach())


def test_no_counts_give_nothing():
    theta = torch.logspace(-4, 6, 2000)
    assert dispersion_term(torch.zeros(3, 2000), theta).abs().max() < 1e-4


def test_a_dispersion_without_bound_stays_finite():
    log_theta = torch.tensor([60.0], requires_grad=True)
    log_prob = NegativeBinomial(torch.tensor([2.0]), log_theta).log_prob(torch.tensor([5.0]))
    log_prob.backward()
    assert log_prob.item() == pytest.approx(stats.poisson.logpmf(5, np.exp(2)), abs=1e-5)
    assert log_theta.grad.item() == 0


@pytest.mark.parametrize("log_theta", [-100.0, 100.0])
def test_shares_stay_finite_whatever_the_dispersion(log_theta):
    log_theta = torch.full((3,), log_theta, requires_grad=True)
    logits = torch.tensor([[0.0, 50.0, -50.0]], requires_grad=True)
    log_library = torch.full((1, 1), 12.0)
    p_x = NegativeBinomialShares(logits, log_library, log_theta)
    log_prob = p_x.log_prob(torch.tensor([[0.0, 1e5, 0.0]]))
    slopes = torch.autograd.grad(log_prob.sum(), [logits, log_theta])
    assert all(torch.isfinite(values).all() for values in (log_prob, *slopes))


def test_slopes_in_float32_are_those_of_the_formula():
    torch.manual_seed(0)
    x = torch.poisson(20 * torch.rand(6, 50) ** 3)
    log_mean, log_theta, weight = torch.randn(3, 6, 50), torch.randn(50), torch.rand(3, 6)
    inputs = [tensor.requires_grad_() for tensor in (log_mean, log_theta)]
    value = NegativeBinomial(*inputs).log_prob(x)
    slopes = torch.autograd.grad((weight * value).sum(), inputs)
    exact_inputs = [tensor.detach().double().requires_grad_() for tensor in inputs]
    mean, theta = (tensor.exp() for tensor in exact_inputs)
    formula = x * (mean / (mean + theta)).log() + theta * (theta / (mean + theta)).log()
    formula = formula + torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
    np.testing.assert_allclose(value.detach(), formula.detach().sum(-1), rtol=1e-5)
    exact = torch.autograd.grad((weight[..., None] * formula).sum(), exact_inputs)
    for slope, exact_slope in zip(slopes, exact, strict=True):
        np.testing.assert_allclose(slope, exact_slope, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n_particles", [(), (3,)])
def test_a_large_minibatch_is_the_sum_of_its_cells(n_particles):
    torch.manual_seed(0)
    x = torch.poisson(2 * torch.rand(70, 9000))  # more than one block
    log_mean = torch.randn(*n_particles, 70, 9000, requires_grad=True)
    log_theta = torch.randn(9000, requires_grad=True)
    value = NegativeBinomial(log_mean, log_theta).log_prob(x)
    cells = [NegativeBinomial(log_mean[..., i, :], log_theta).log_prob(x[i]) for i in range(70)]
    torch.testing.assert_close(value, torch.stack(cells, -1))
    slopes = torch.autograd.grad(value.sum(), (log_mean, log_theta))
    expected = torch.autograd.grad(torch.stack(cells).sum(), (log_mean, log_theta))
    for slope, exact in zip(slopes, expected, strict=True):
        torch.testing.assert_close(slope, exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n_particles", [(), (2,)])
def test_particles_share_the_slope_of_the_dispersion(n_particles):
    torch.manual_seed(0)
    x = torch.poisson(3 * torch.rand(4, 3, dtype=torch.float64))
    log_mean = torch.randn(*n_particles, 4, 3, dtype=torch.float64, requires_grad=True)
    log_theta = torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda m, t: NegativeBinomial(m, t).log_prob(x), (log_mean, log_theta))


def test_poisson_agrees_with_scipy_and_is_the_limit():
    x, mean = torch.tensor([[3.0, 0.0]]), torch.tensor([[2.0, 0.4]])
    log_prob = Poisson(mean.log()).log_prob(x)
    assert log_prob.item() == pytest.approx(stats.poisson.logpmf([3, 0], [2, 0.4]).sum(), abs=1e-5)
    limit = NegativeBinomial(mean.log(), torch.full((2,), 15.0)).log_prob(x)
    assert limit.item() == pytest.approx(log_prob.item(), abs=1e-4)


def test_zero_inflation_mixes_a_zero_with_the_counts():
    log_mean, log_theta = torch.tensor([0.7]), torch.tensor([0.2])
    logit = torch.tensor([-0.4])
    lost = torch.sigmoid(logit).item()
    x = torch.arange(400.0)[:, None]
    mass = ZeroInflatedNegativeBinomial(log_mean, log_theta, logit).log_prob(x).exp()
    counts = NegativeBinomial(log_mean, log_theta).log_prob(x).exp()
    expected = (1 - lost) * counts
    expected[0] += lost
    np.testing.assert_allclose(mass.numpy(), expected.numpy(), atol=1e-6)
    mean = ZeroInflatedNegativeBinomial(log_mean, log_theta, logit).mean
    assert (mass * x[:, 0]).sum().item() == pytest.approx(mean.item(), rel=1e-3)


@pytest.mark.parametrize("family", ["negative_binomial", "poisson", "zero_inflated"])
def test_gradients_by_finite_differences(family):
    torch.manual_seed(0)
    x = torch.poisson(3 * torch.rand(4, 3, dtype=torch.float64))
    log_mean = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    log_theta = torch.randn(3, dtype=torch.float64, requires_grad=True)
    logit = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    functions = {
        "negative_binomial": lambda m, t, d: NegativeBinomial(m, t).log_prob(x),
        "poisson": lambda m, t, d: Poisson(m).log_prob(x),
        "zero_inflated": lambda m, t, d: ZeroInflatedNegativeBinomial(m, t, d).log_prob(x),
    }
    function = functions[family]
    assert gradcheck(
        lambda m, t, d: function(m, t, d) + 0 * (t.sum() + d.sum()), (log_mean, log_theta, logit)
    )


@pytest.mark.parametrize(
    "p_x",
    [
        Poisson(torch.tensor([0.2, 1.5])),
        NegativeBinomial(torch.tensor([0.2, 1.5]), torch.tensor([0.0, 1.0])),
        ZeroInflatedNegativeBinomial(
            torch.tensor([0.2, 1.5]), torch.tensor([0.0, 1.0]), torch.tensor([-1.0, 0.5])
        ),
    ],
)
def test_samples_have_the_mean(p_x):
    torch.manual_seed(0)
    x = p_x.sample((40_000,))
    assert x.shape == (40_000, 2)
    error = (x.mean(0) - p_x.mean).abs() / (x.std(0) / 200)
    assert error.max() < 4


@pytest.mark.parametrize(
    ("logit", "u", "temperature", "soft", "hard", "slope"),
    [
        (0.0, 0.5, 1.0, 0.5, 0, 0.25),
        (5.0, 0.5, 1.0, 0.9933071491, 1, 0.0066480567),
        (0.4, 0.25, 1.0, 0.3321199731, 0, 0.2218162966),
        (0.4, 0.25, 0.5, 0.1982568985, 0, 0.3179022014),
        (-2.0, 0.95, 1.0, 0.7199954378, 1, 0.2016020073),
    ],
)
def test_masks_are_hard_and_their_slope_is_soft(logit, u, temperature, soft, hard, slope):
    logits = torch.tensor([logit], dtype=torch.float64, requires_grad=True)
    mask = StraightThroughBernoulli(logits, temperature).relaxed(
        torch.tensor([u], dtype=torch.float64)
    )
    assert mask.item() == hard
    mask.backward()
    assert logits.grad.item() == pytest.approx(slope, abs=1e-8)
    assert soft * (1 - soft) / temperature == pytest.approx(slope, abs=1e-8)


def test_masks_occur_with_their_probability_and_never_in_between():
    torch.manual_seed(0)
    logits = torch.tensor([-30.0, -1.0, 0.0, 2.0, torch.inf])
    mask = StraightThroughBernoulli(logits).rsample((20_000,))
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    np.testing.assert_allclose(mask.mean(0).numpy(), torch.sigmoid(logits).numpy(), atol=0.015)
    assert mask[:, -1].min() == 1


@pytest.mark.parametrize("shape", [(6, 9), (3, 6, 9)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shares_of_a_library_are_the_negative_binomial_of_their_means(shape, dtype):
    torch.manual_seed(0)
    x = torch.poisson(3 * torch.rand(6, 9)).to(dtype)
    logits = torch.randn(shape, dtype=dtype, requires_grad=True)
    log_dispersion = torch.randn(9, dtype=dtype, requires_grad=True)
    log_library = x.sum(1, keepdim=True).log()
    shares = NegativeBinomialShares(logits, log_library, log_dispersion)
    log_mean = torch.log_softmax(logits, -1) + log_library
    plain = NegativeBinomial(log_mean, log_dispersion)
    torch.testing.assert_close(shares.mean, plain.mean)
    torch.testing.assert_close(shares.log_prob(x), plain.log_prob(x), atol=1e-4, rtol=1e-5)
    weight = torch.randn(shape[:-1], dtype=dtype)
    slopes = [
        torch.autograd.grad((weight * p.log_prob(x)).sum(), (logits, log_dispersion))
        for p in (shares, plain)
    ]
    for first, second in zip(*slopes, strict=True):
        torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", [(6, 9), (3, 6, 9)])
def test_shares_of_a_library_are_the_poisson_of_their_means(shape):
    torch.manual_seed(0)
    x = torch.poisson(3 * torch.rand(6, 9)).double()
    logits = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    log_library = x.sum(1, keepdim=True).log()
    shares = PoissonShares(logits, log_library)
    plain = Poisson(torch.log_softmax(logits, -1) + log_library)
    torch.testing.assert_close(shares.mean, plain.mean)
    torch.testing.assert_close(shares.log_prob(x), plain.log_prob(x))
    assert gradcheck(lambda t: PoissonShares(t, log_library).log_prob(x), logits)


def test_slopes_of_shares_by_finite_differences():
    torch.manual_seed(0)
    x = torch.poisson(3 * torch.rand(4, 5)).double()
    inputs = [torch.randn(2, 4, 5), torch.randn(5)]
    logits, log_dispersion = (t.double().requires_grad_() for t in inputs)
    log_library = x.sum(1, keepdim=True).log()

    def log_prob(logits, log_dispersion):
        return NegativeBinomialShares(logits, log_library, log_dispersion).log_prob(x)

    assert gradcheck(log_prob, (logits, log_dispersion))
