"""Objectives against the closed forms."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Bernoulli, Normal, kl_divergence

from skpert.objectives import beta_log_prob, iwelbo, kl_from_unit_normal


@pytest.mark.parametrize(
    ("x", "b", "expected"),
    [(0.3, 100.0, -30.7056492639), (0.01, 100.0, 3.6101869365), (0.5, 2.0, 0.0), (0.3, 1.0, 0.0)],
)
def test_beta_known_values(x, b, expected):
    logit = torch.logit(torch.tensor(x, dtype=torch.float64))
    assert beta_log_prob(logit, torch.tensor(b, dtype=torch.float64)).item() == pytest.approx(
        expected, abs=1e-8
    )


def test_beta_is_finite_where_the_probability_rounds_to_one():
    assert beta_log_prob(torch.tensor(40.0), torch.tensor(100.0)).item() == pytest.approx(
        np.log(100) - 99 * 40, rel=1e-6
    )


def test_beta_slope_is_linear_in_the_probability():
    logit = torch.tensor([5.0, -1.0], dtype=torch.float64, requires_grad=True)
    (-beta_log_prob(logit, torch.tensor(100.0))).sum().backward()
    np.testing.assert_allclose(
        logit.grad.numpy(), 99 * torch.sigmoid(logit.detach()).numpy(), atol=1e-8
    )
    assert logit.grad[0].item() == pytest.approx(98.3374077585, abs=1e-8)


@pytest.mark.parametrize(
    ("q", "p", "expected"),
    [(0.5, 0.001, 2.7612307091), (0.9, 0.01, 3.8205752276), (0.3, 0.3, 0.0)],
)
def test_bernoulli_kl_known_values(q, p, expected):
    q, p = (Bernoulli(probs=torch.tensor(v, dtype=torch.float64)) for v in (q, p))
    assert kl_divergence(q, p).item() == pytest.approx(expected, abs=1e-8)


def test_gaussian_kl_known_value():
    mean, variance = torch.tensor([[0.5, -1.0], [0.25, 2.0]], dtype=torch.float64)
    prior_mean = torch.tensor([0.0, 1.0], dtype=torch.float64)
    kl = kl_from_unit_normal(Normal(mean, variance.sqrt()), prior_mean).sum()
    assert kl.item() == pytest.approx(2.5965735903, abs=1e-8)


W = np.array([[1.0, 0.5], [-0.5, 1.0], [0.2, -0.3]])
B = np.array([0.1, 0.0, -0.2])
X = np.array([1.0, -0.5, 0.3])


def log_weights(z, mean, scale):
    log_p = stats.norm.logpdf(X, z @ W.T + B, np.sqrt(0.5)).sum(1) + stats.norm.logpdf(z).sum(1)
    return log_p - stats.norm.logpdf(z, mean, scale).sum(1)


def test_iwelbo_known_value_of_four_particles():
    z = np.array([[0, 0], [1, -0.5], [0.3, 0.2], [-0.2, -0.4]])
    weights = torch.tensor(log_weights(z, [0.4, -0.2], [0.6, 0.7]))[:, None]
    assert iwelbo(weights).item() == pytest.approx(-3.3811084742, abs=1e-8)
    assert weights.mean().item() == pytest.approx(-3.4673589452, abs=1e-8)


def test_iwelbo_rises_to_the_exact_evidence():
    random = np.random.default_rng(0)
    z = random.normal(size=(200_000, 2)) * [0.6, 0.7] + [0.4, -0.2]
    weights = torch.tensor(log_weights(z, [0.4, -0.2], [0.6, 0.7]))
    bounds = [iwelbo(weights.reshape(k, -1)).mean().item() for k in (1, 2, 5, 50, 200_000)]
    assert np.all(np.diff(bounds) > 0)
    assert bounds[0] == pytest.approx(-3.7301953965, abs=0.01)
    assert bounds[-1] == pytest.approx(-3.4291812325, abs=0.01)
