"""Scores against exact evidence, and what they must not depend on."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from skpert import (
    CPAVAE,
    IVAE,
    NFIVAE,
    SAMSVAE,
    SCCVAE,
    SVAE,
    VAE,
    BetaVAE,
    ConditionalVAE,
    InVAE,
    SVAEPlus,
)
from skpert._data import Cells
from skpert._scoring import MAX_REFINED, Proposal, evidence, fitted, normal_noise, weighed
from skpert.datasets import make_sparse_shift
from skpert.exceptions import SamplingWarning
from skpert.models.sams import AdditiveModule
from skpert.models.svae import ShiftModule
from skpert.nn import Table
from skpert.objectives import iwelbo
from skpert.sparsity.embeddings import Embeddings
from skpert.sparsity.masks import CalledMasks, FixedMasks

pytestmark = pytest.mark.filterwarnings("ignore::skpert.exceptions.DataWarning")

ESTIMATORS = [VAE, BetaVAE, IVAE, SVAE, SVAEPlus, ConditionalVAE, CPAVAE, SAMSVAE, SCCVAE]
ESTIMATORS += [InVAE, NFIVAE]
FAST = {"n_latent": 3, "n_hidden": 16, "n_layers": 1, "max_epochs": 3, "batch_size": 32}
FAST |= {"n_particles": 20, "device": "cpu", "random_state": 0}
FAST |= {"likelihood": "negative_binomial"}
CPU = torch.device("cpu")
SCREEN = make_sparse_shift(
    3,
    n_cells_per_perturbation=20,
    n_control_cells=20,
    n_latent=3,
    n_genes=40,
    library_size=300,
    random_state=0,
)
X, A = SCREEN.X, SCREEN.A


@pytest.fixture(scope="module")
def models():
    return {cls: cls(**FAST).fit(X, A) for cls in ESTIMATORS}


# One cell at a time


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_a_score_does_not_depend_on_the_cells_beside_it(models, cls):
    model = models[cls]
    scores, std = model.score_cells(X, A, return_std=True)
    order = np.random.default_rng(0).permutation(len(X))
    for index in (order, order[:7], order[::3], *order[:3, None], [4, 4, 4]):
        of_these = model.score_cells(X[index], A[index], return_std=True)
        np.testing.assert_allclose(of_these[0], scores[index], atol=1e-4)
        np.testing.assert_allclose(of_these[1], std[index], atol=1e-4)


def test_a_score_does_not_depend_on_the_minibatch(models, monkeypatch):
    expected = models[SAMSVAE].score_cells(X, A, return_std=True)
    monkeypatch.setattr("skpert._scoring.MAX_ELEMENTS", 7 * 2 * 3 * 256)  # seven cells
    found = models[SAMSVAE].score_cells(X, A, return_std=True)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_scores_do_not_depend_on_the_seed_of_a_model_without_uncertain_effects(models):
    """Noise that models share cancels when they are compared."""
    model = models[VAE]
    other = model._copy()
    other._seed = 12345
    np.testing.assert_array_equal(other.score_cells(X, A), model.score_cells(X, A))


def test_noise_has_the_moments_of_a_normal_distribution_and_is_the_same_at_every_call():
    noise = normal_noise(1024, 5, 3)
    np.testing.assert_allclose(noise.mean(0), 0, atol=0.01)
    np.testing.assert_allclose(torch.cov(noise.T), np.eye(5), atol=0.05)
    assert noise.isfinite().all()
    torch.testing.assert_close(normal_noise(100, 5, 3), noise[:100], rtol=0, atol=0)
    assert not torch.equal(normal_noise(100, 5, 4), noise[:100])
    assert normal_noise(0, 5, 3).shape == (0, 5)


# Exact evidence: x ~ N(W z, 1/2), with a guide that is far off


class Encoder(nn.Module):
    """Off by three standard deviations, and without the correlation of the posterior."""

    n_latent = 2

    def __init__(self, weight):
        super().__init__()
        precision = torch.eye(2) + 2 * weight.T @ weight
        self.register_buffer("gain", 2 * torch.linalg.solve(precision, weight.T))
        self.register_buffer("scale", precision.inverse().diagonal().sqrt())

    def forward(self, x):
        mean = x @ self.gain.T + 3 * self.scale
        return Normal(mean, self.scale.expand_as(mean))


class Decoder(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def features(self, x):
        return x

    def forward(self, z, library, environment):
        return Independent(Normal(z @ self.weight.T, math.sqrt(0.5)), 1)


WEIGHT = torch.tensor([[2.0, 1.8], [-1.5, -1.0], [0.5, 1.0]])
SHIFT = torch.tensor([[1.5, -1.0], [0.5, 2.0]])


def linear_module(mask_logit=None):
    masks = FixedMasks(torch.full_like(SHIFT, torch.inf))
    if mask_logit is not None:
        masks = CalledMasks(mask_logit)
    return ShiftModule(Encoder(WEIGHT), Decoder(WEIGHT), Table(SHIFT), masks).eval()


def linear_cells(n_cells=60):
    generator = torch.Generator().manual_seed(0)
    x = 2 * torch.randn(n_cells, 3, generator=generator)
    part = torch.arange(n_cells)[:, None] % 2
    dosage = (torch.arange(n_cells) % 3 > 0).float()[:, None]
    return Cells(x, torch.ones(n_cells, 1), part, dosage, torch.zeros(n_cells, 0))


def exact(cells, mean):
    covariance = WEIGHT @ WEIGHT.T + 0.5 * torch.eye(3)
    return MultivariateNormal(mean @ WEIGHT.T, covariance).log_prob(cells.x)


@torch.no_grad()
def test_scores_reach_the_exact_evidence_where_the_guide_does_not():
    module, cells = linear_module(), linear_cells()
    expected = exact(cells, cells.shift(SHIFT))
    torch.manual_seed(0)
    assert (iwelbo(module.log_weights(cells, 100)) - expected).mean() < -0.5
    found = evidence(module, cells, 100, CPU)
    assert (found.log_evidence - expected).abs().max() < 0.05
    assert found.standard_error.max() < 0.06


@torch.no_grad()
def test_masks_are_summed_over():
    logit = torch.tensor([[0.3, -1.0], [torch.inf, 0.0]])
    module, cells = linear_module(logit), linear_cells()
    terms = []
    for mask in torch.cartesian_prod(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0])):
        chance = torch.where(mask > 0, torch.sigmoid(logit), torch.sigmoid(-logit)).prod(1)
        terms.append(chance[cells.part[:, 0]].log() + exact(cells, cells.shift(mask * SHIFT)))
    found = evidence(module, cells, 2000, CPU).log_evidence.float()
    torch.testing.assert_close(found, torch.logsumexp(torch.stack(terms), 0), rtol=0, atol=0.03)


@torch.no_grad()
def test_the_fitted_distribution_is_the_posterior_of_a_linear_model():
    module, cells = linear_module(), linear_cells()
    fit = fitted(lambda z: module.log_joint(cells, z), module.guide(cells), 6)
    precision = torch.eye(2) + 2 * WEIGHT.T @ WEIGHT
    mean = torch.linalg.solve(precision, (2 * cells.x @ WEIGHT + cells.shift(SHIFT)).T).T
    covariance = fit.root @ fit.root.mT / (1 + 2 / 3 / math.sqrt(2))  # which is widened
    torch.testing.assert_close(fit.mean, mean, rtol=0, atol=1e-3)
    torch.testing.assert_close(
        covariance, precision.inverse().expand_as(covariance), rtol=0.02, atol=1e-4
    )
    z = fit.at(normal_noise(5, 2, 0).float())
    reference = MultivariateNormal(fit.mean, fit.root @ fit.root.mT).log_prob(z)
    torch.testing.assert_close(fit.log_prob(z), reference, rtol=1e-4, atol=1e-4)


def test_a_slope_that_is_not_finite_leaves_the_guide():
    q = Normal(torch.zeros(3, 2), torch.ones(3, 2))
    poison = torch.tensor([1.0, torch.nan, torch.inf])
    fit = fitted(lambda z: -((z - 1) * poison[:, None]).square().sum(-1), q)
    assert fit.root.isfinite().all()
    torch.testing.assert_close(fit.mean[0], torch.ones(2), rtol=0, atol=0.1)


# Bounds in expectation


@torch.no_grad()
@pytest.mark.parametrize("n_particles", [2, 10])
def test_weights_are_unbiased_and_the_bound_holds(n_particles):
    """Over the noise the mean weight is the evidence, and its logarithm no more than that."""
    module, cells = linear_module(), linear_cells(6)
    q = module.guide(cells)
    n_guide, n_runs = math.ceil(n_particles / 10), 20_000
    fit = fitted(lambda z: module.log_joint(cells, z), q)
    noise = torch.randn(n_particles * n_runs, 2, generator=torch.Generator().manual_seed(0))
    sizes = n_guide * n_runs, (n_particles - n_guide) * n_runs
    proposal = Proposal(q, fit, *noise.split(sizes))
    log_weights = torch.cat(
        [module.log_joint(cells, z) - log_r for z, log_r in proposal.particles(5000)]
    )
    by_run = [part.reshape(n_runs, -1, 6) for part in log_weights.split(sizes)]
    estimates = iwelbo(torch.cat(by_run, 1).transpose(0, 1))
    off = estimates - exact(cells, cells.shift(SHIFT))
    assert (off.mean(0) < 0).all()
    torch.testing.assert_close(off.exp().mean(0), torch.ones(6), rtol=0, atol=0.03)


@torch.no_grad()
def test_a_single_particle_gives_the_elbo_of_the_guide():
    module, cells = linear_module(), linear_cells()
    precision = torch.eye(2) + 2 * WEIGHT.T @ WEIGHT
    mean = torch.linalg.solve(precision, (2 * cells.x @ WEIGHT + cells.shift(SHIFT)).T).T
    q = module.guide(cells)
    guide = MultivariateNormal(q.mean, q.variance.diag_embed())
    kl = kl_divergence(guide, MultivariateNormal(mean, precision_matrix=precision))
    expected = exact(cells, cells.shift(SHIFT)) - kl
    found = evidence(module, cells, 1, CPU)
    assert kl.median() > 50
    torch.testing.assert_close(found.log_evidence.float(), expected, rtol=0, atol=0.5)
    assert found.standard_error.isnan().all()


# How far off


@torch.no_grad()
def test_the_standard_error_is_the_spread_over_noise():
    module, cells = linear_module(), linear_cells(4)
    q = module.guide(cells)
    fit = fitted(lambda z: module.log_joint(cells, z), q)
    generator, runs = torch.Generator().manual_seed(0), []
    for _ in range(300):
        noise = torch.randn(50, 2, generator=generator)
        particles = Proposal(q, fit, noise[:1], noise[1:]).particles(50)
        runs.append(weighed(lambda z: module.log_joint(cells, z), particles))
    scores, errors = (torch.stack(part) for part in zip(*runs, strict=True))
    torch.testing.assert_close(errors.mean(0), scores.std(0), rtol=0.2, atol=0)


class Identity(nn.Module):
    n_latent = 1

    def forward(self, x, shift):
        mean = (2 * x + shift) / 3
        return Normal(mean, torch.full_like(mean, math.sqrt(1 / 3)))


class NoDecoder(nn.Module):
    def forward(self, z, library, environment):
        return Independent(Normal(z, math.sqrt(0.5)), 1)


def uncertain_effects():
    """x ~ N(z, 1/2), z ~ N(a e, 1), and e ~ N(0.4, 0.3^2) in the posterior."""
    embeddings = Embeddings((1, 1), 1.0).double()
    embeddings.loc.rows.data.fill_(0.4)
    embeddings.log_scale.rows.data.fill_(math.log(0.3 - 1e-4))
    columns = nn.Linear(1, 1, bias=False).double()
    nn.init.ones_(columns.weight)
    masks = FixedMasks(torch.full((1, 1), torch.inf, dtype=torch.float64))
    parts = Identity(), NoDecoder(), nn.Identity(), masks, embeddings
    return AdditiveModule(*parts, torch.tensor([2.0]).double(), columns=columns).eval()


@torch.no_grad()
def test_uncertain_effects_are_averaged_over_and_their_error_is_told():
    x = torch.tensor([[0.2], [1.1], [-2.0]], dtype=torch.float64)
    dosage = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)
    cells = Cells(x, x, torch.zeros(3, 1, dtype=torch.long), dosage, x[:, :0])
    module = uncertain_effects()
    scale = (1.5 + (0.3 * dosage).square()).sqrt()
    expected = Normal(0.4 * dosage, scale).log_prob(x)[:, 0]
    runs = []
    for seed in range(40):
        torch.manual_seed(seed)
        runs.append(evidence(module, cells, 200, CPU))
    scores, errors = (torch.stack(part) for part in zip(*runs, strict=True))
    torch.testing.assert_close(scores.mean(0), expected, rtol=0, atol=0.03)
    spread = (scores - expected).square().mean(0).sqrt()
    assert errors[:, 2].mean() > 3 * errors[:, 0].mean()
    assert (errors.mean(0) > 0.7 * spread).all()
    assert (errors.mean(0)[2] < 1.5 * spread[2]).all()


@pytest.mark.parametrize("cls", [VAE, SAMSVAE, InVAE, SCCVAE])
def test_more_particles_make_the_error_smaller(models, cls):
    model = models[cls]
    one, few, many = (
        model.score_cells(X, A, n_particles=n, return_std=True) for n in (1, 20, 500)
    )
    assert np.isnan(one[1]).all()
    assert 2 * np.median(many[1]) < np.median(few[1]) < 0.5
    assert abs(few[0].mean() - many[0].mean()) < 4 * np.median(few[1])
    np.testing.assert_array_equal(model.score_cells(X, A), few[0])


def test_score_warns_where_few_particles_decide():
    """Many latents, so that the guide stays as it is, and counts that pin them down."""
    deep = (X * 300).astype(np.float32)
    settings = FAST | {"n_latent": MAX_REFINED + 1, "n_particles": 100}
    model = VAE(**settings).fit(deep, A)
    with pytest.warns(SamplingWarning, match=r"of n_particles=100, [1-4]\.\d decide") as caught:
        model.score(deep, A)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    scores, std = model.score_cells(deep, A, n_particles=20, return_std=True)
    one = model.score_cells(deep[:1], A[:1], n_particles=20, return_std=True)
    np.testing.assert_allclose(one, (scores[:1], std[:1]), rtol=1e-5)
