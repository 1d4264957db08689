"""Masks and embeddings: what a draw costs, against closed forms and torch's distributions."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Bernoulli, Beta, Normal, kl_divergence

from skpert.sparsity.effects import LEAST_STABILITY, LatentEffects, edge_logit
from skpert.sparsity.embeddings import EmbeddingNetwork, Embeddings
from skpert.sparsity.masks import BernoulliMasks, BetaBernoulliMasks, CalledMasks, FixedMasks
from skpert.sparsity.rotation import sparse_rotation

EVERY, SOME = None, torch.tensor([[1], [0], [1]])


def difference(costs, name):
    """Log q - log p, which is the KL where it is analytic."""
    log_p, log_q = costs[name]
    return (log_q - log_p).detach()


@pytest.mark.parametrize(
    ("q", "p", "kl"),
    [
        (0.5, 0.001, 2.7612307091),
        (0.5, 0.01, 1.6144630804),
        (0.9, 0.01, 3.8205752276),
        (0.9933071491, 0.7310585786, 0.2797749353),
        (0.3, 0.3, 0.0),
    ],
)
def test_bernoulli_masks_have_the_known_kl(q, p, kl):
    masks = BernoulliMasks(torch.logit(torch.full((2, 3), q, dtype=torch.float64)), p)
    _, costs = masks.draw(EVERY, (), True)
    np.testing.assert_allclose(difference(costs, "mask"), [3 * kl] * 2, atol=3e-6)


def test_a_drawn_mask_costs_its_log_ratio():
    logit = torch.full((4, 1), 0.4, dtype=torch.float64)
    masks = BernoulliMasks(logit, 0.01)
    torch.manual_seed(0)
    mask, costs = masks.draw(EVERY, (50,), False)
    expected = torch.where(mask[..., 0] > 0, 4.0921549336, -0.9029649165)
    np.testing.assert_allclose(difference(costs, "mask"), expected.detach(), atol=1e-6)
    assert set(mask.unique().tolist()) == {0, 1}


def test_a_mask_that_is_fixed_costs_nothing():
    logit = torch.tensor([[torch.inf, -torch.inf]])
    for masks in (
        BernoulliMasks(logit, 0.01),
        BetaBernoulliMasks(logit, (1.0, 9.0), "point"),
        BetaBernoulliMasks(logit, (1.0, 9.0), "beta"),
    ):
        for analytic in (True, False):
            mask, costs = masks.draw(EVERY, (7,), analytic)
            assert torch.equal(mask, torch.tensor([1.0, 0.0]).expand(7, 1, 2))
            assert all(not difference(costs, name).any() for name in costs)
        assert not masks.logit.rows.requires_grad


@pytest.mark.parametrize(
    ("x", "b", "log_density"),
    [(0.3, 100.0, -30.7056492639), (0.01, 100.0, 3.6101869365), (0.3, 1.0, 0.0)],
)
def test_a_point_posterior_costs_the_known_beta_density(x, b, log_density):
    logit = torch.logit(torch.full((2, 2), x, dtype=torch.float64))
    _, costs = BetaBernoulliMasks(logit, (1.0, b), "point").draw(EVERY, (), True)
    cost = difference(costs, "mask_probability")
    np.testing.assert_allclose(cost, [-2 * log_density] * 2, rtol=1e-5, atol=1e-8)


def test_a_beta_posterior_costs_its_kl():
    logit = torch.tensor([[0.3, -1.0]], dtype=torch.float64)
    masks = BetaBernoulliMasks(logit, (2.0, 5.0), "beta")
    masks.log_size.rows.data += 0.7
    size = 2 * math.exp(0.7)
    a, b = size * torch.sigmoid(logit), size * torch.sigmoid(-logit)
    exact = kl_divergence(Beta(a, b), Beta(torch.tensor(2.0), torch.tensor(5.0))).sum(-1)
    torch.manual_seed(0)
    _, costs = masks.draw(EVERY, (), True)
    np.testing.assert_allclose(difference(costs, "mask_probability"), exact, rtol=1e-6)
    mask, costs = masks.draw(EVERY, (20_000,), False)
    estimate = difference(costs, "mask_probability").mean(0)
    np.testing.assert_allclose(estimate, exact, rtol=0.05)
    np.testing.assert_allclose(mask.mean(0).detach(), torch.sigmoid(logit), atol=0.02)


@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_embeddings_have_the_kl_of_torch(scale):
    torch.manual_seed(0)
    embeddings = Embeddings((3, 2), scale).double()
    embeddings.loc.rows.data = torch.randn(3, 2, dtype=torch.float64)
    mask = torch.ones(3, 2, dtype=torch.float64)
    q = embeddings.posterior(EVERY, mask)
    assert q.stddev.mean().item() == pytest.approx(0.1 + 1e-4)
    exact = kl_divergence(q, Normal(0.0, torch.tensor(scale).double())).sum(-1)
    _, costs = embeddings.draw(EVERY, mask, True)
    np.testing.assert_allclose(difference(costs, "embedding"), exact.detach(), rtol=1e-6)
    drawn, costs = embeddings.draw(EVERY, mask.expand(5, 3, 2), False)
    exact = q.log_prob(drawn) - Normal(0.0, torch.tensor(scale).double()).log_prob(drawn)
    np.testing.assert_allclose(difference(costs, "embedding"), exact.sum(-1).detach(), rtol=1e-6)


def test_rows_of_some_perturbations_are_those_of_all():
    torch.manual_seed(0)
    masks = BernoulliMasks(torch.randn(3, 2), 0.1)
    embeddings = Embeddings((3, 2), 1.0, EmbeddingNetwork(3, 2, (8, 8)))
    torch.nn.init.normal_(embeddings.network.moments.weight)
    embeddings.loc.rows.data = torch.randn(3, 2)
    mask = torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    every, some = embeddings.posterior(EVERY, mask), embeddings.posterior(SOME, mask[SOME])
    torch.testing.assert_close(some.mean, every.mean[SOME])
    torch.testing.assert_close(some.stddev, every.stddev[SOME])
    (_, first), (_, second) = (masks.draw(part, (), True) for part in (EVERY, SOME))
    torch.testing.assert_close(difference(second, "mask"), difference(first, "mask")[SOME])


def test_the_network_adds_nothing_at_first_and_depends_on_the_mask_later():
    torch.manual_seed(0)
    embeddings = Embeddings((3, 2), 1.0, EmbeddingNetwork(3, 2, (8, 8)))
    zeros, ones = torch.zeros(3, 2), torch.ones(3, 2)
    assert not embeddings.posterior(EVERY, ones).mean.any()
    torch.nn.init.normal_(embeddings.network.moments.weight)
    with_edges, without = (embeddings.posterior(EVERY, mask).mean for mask in (ones, zeros))
    assert (with_edges - without).abs().min() > 0


def test_rotated_embeddings_keep_lengths_and_total_variance():
    torch.manual_seed(0)
    embeddings = Embeddings((5, 3), 1.0)
    embeddings.loc.rows.data, embeddings.log_scale.rows.data = torch.randn(2, 5, 3)
    before = embeddings.loc(), embeddings.log_scale().exp().square().sum(1)
    R = torch.linalg.qr(torch.randn(3, 3)).Q
    embeddings.project(R)
    torch.testing.assert_close(embeddings.loc() @ R.T, before[0])
    torch.testing.assert_close(embeddings.log_scale().exp().square().sum(1), before[1])


def test_called_masks_of_new_rows_leave_the_known_ones():
    torch.manual_seed(0)
    masks = CalledMasks(torch.full((6, 2), torch.inf))
    effect = torch.tensor([[3.0, 0.0]] * 3 + [[0.0, -2.5]] * 3) + 0.05 * torch.randn(6, 2)
    masks.record(effect, torch.full((6, 2), 0.1))
    masks.call()
    assert torch.equal(masks.most_probable(), effect.abs() > 1)
    known = masks.probability()
    masks.extend(2)
    assert masks.most_probable()[6:].all()
    masks.record(torch.tensor([[2.9, 0.1], [0.0, 0.1]]), torch.full((2, 2), 0.1))
    masks.call()
    assert torch.equal(masks.probability()[:6], known)
    assert masks.most_probable()[6:].tolist() == [[True, False], [False, False]]


def effects_of(M):
    """Noisy effects, of 400 cells each."""
    M = torch.as_tensor(M, dtype=torch.float64)
    M = M + 0.05 * torch.randn(M.shape, generator=torch.manual_seed(0), dtype=torch.float64)
    n_rows, n_latent = M.shape
    share = torch.full((n_rows, 1), 0.0025, dtype=torch.float64)
    one = torch.eye(n_latent, dtype=torch.float64)
    return LatentEffects(M, torch.zeros(n_latent).double(), one, share, torch.tensor(True))


def called(M):
    effects = effects_of(M)
    masks = CalledMasks(torch.full(effects.mean.shape, torch.inf))
    masks.record(effects.mean, effects.standard_error)
    masks.call_first(effects, missing=False)
    return masks


def test_a_small_share_of_a_large_effect_is_cross_talk():
    M = torch.kron(torch.eye(4), torch.tensor([[5.0], [4.0], [-4.0], [-5.0], [4.5]]))
    M[:3, 1], M[3:5, 2] = 0.4, 1.0  # the first at most a tenth of the largest of their rows
    errors = torch.full(M.shape, 0.03)
    probability = torch.sigmoid(edge_logit(M, errors))
    any_size = torch.sigmoid(edge_logit(M, errors, largest_cross_talk=0))
    assert (probability[:3, 1] < 1e-9).all()
    assert (any_size[:3, 1] > 1e-6).all()
    others = torch.ones_like(M, dtype=torch.bool)
    others[:3, 1] = False
    torch.testing.assert_close(probability[others], any_size[others], rtol=0, atol=1e-3)


def test_axes_that_hang_on_single_rows_have_no_edges_and_all_shifts_act():
    random = np.random.default_rng(3)
    M = np.zeros((12, 10))  # few rows, many axes
    for row in M:
        targets = random.choice(10, random.integers(1, 4), replace=False)
        row[targets] = 5 * random.choice([-1, 1], len(targets))
    masks = called(M @ sparse_rotation(M))
    unstable = masks.stability < LEAST_STABILITY
    assert 0 < unstable.sum() < 10
    assert not (masks.probability() > 0.5)[:, unstable].any()
    assert torch.equal(masks.whole, unstable)  # shifts on the others are sparse
    assert (masks.acting()[:, unstable] == torch.inf).all()
    masks.extend(1)
    assert torch.equal((masks.probability() > 0.5)[-1], ~unstable)  # says nothing of these, either
    assert (masks.acting()[-1] == torch.inf).all()


def test_fixed_masks_are_what_they_are_started_with():
    masks = FixedMasks(torch.full((2, 2), torch.inf))
    found = torch.tensor([[True, False], [False, True]])
    masks.start(found)
    mask, costs = masks.draw(SOME, (4,), True)
    assert costs == {}
    assert torch.equal(mask, found.float()[SOME].expand(4, 3, 1, 2))
    learned = BernoulliMasks(torch.full((2, 2), torch.inf), 0.1)
    learned.start(found)
    probability = torch.where(found, *torch.tensor([0.8808, 0.1192]))
    torch.testing.assert_close(learned.probability(), probability, atol=1e-4, rtol=0)
    assert learned.logit.rows.requires_grad


def test_the_prior_of_all_masks_sums_as_in_the_paper():
    masks = BernoulliMasks(torch.zeros(2, 3, dtype=torch.float64), 0.01)
    _, costs = masks.draw(EVERY, (), True)
    assert difference(costs, "mask").sum().item() == pytest.approx(9.6867784824, abs=1e-5)
    q, p = Bernoulli(0.5), Bernoulli(0.01)
    assert kl_divergence(q, p).item() == pytest.approx(9.6867784824 / 6, abs=1e-6)
    assert stats.bernoulli(0.01).logpmf(1) == pytest.approx(math.log(0.01))
