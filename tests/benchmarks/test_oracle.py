"""The bounds of the simulations against integrals that are known."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import poisson
from sklearn.utils import Bunch

from benchmarks.svae.oracle import (
    log_evidence,
    posterior_mode,
    supervised_encoder,
    true_model_nll,
)
from skpert.datasets import make_sparse_shift


@pytest.fixture(scope="module", params=["genes", "cells"])
def screen(request):
    return make_sparse_shift(
        5,
        n_cells_per_perturbation=60,
        n_latent=2,
        n_genes=40,
        n_targets=1,
        n_held_out=2,
        normalize=request.param,
        library_size=200,
        random_state=0,
    )


def held_out_cells(screen, n_cells):
    """Counts, prior means and true states of cells of the first held-out perturbation."""
    rows = np.flatnonzero(screen.A == screen.held_out[0])[:n_cells]
    effect = (screen.mask * screen.embedding)[screen.perturbations == screen.held_out[0]]
    return screen.X[rows], np.repeat(effect, len(rows), axis=0), screen.Z[rows]


def integrated(screen, x, mean):
    """Log p(x) of one cell of two latents by summing over a grid, refined where it matters."""
    low, high = mean - 7, mean + 7
    for _ in range(3):
        axes = [np.linspace(*ends, 161) for ends in zip(low, high, strict=True)]
        spacing = np.array([axis[1] - axis[0] for axis in axes])
        z = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
        log_prior = -((z - mean) ** 2).sum(1) / 2 - np.log(2 * np.pi)
        log_joint = screen.log_likelihood(np.tile(x, (len(z), 1)), z) + log_prior
        relevant = z[log_joint > log_joint.max() - 30]
        low, high = relevant.min(0) - spacing, relevant.max(0) + spacing
    return logsumexp(log_joint) + np.log(spacing).sum()


def test_evidence_is_the_integral_over_a_grid(screen):
    X, mean, Z = held_out_cells(screen, 3)
    estimate = log_evidence(X, mean, screen.rate, Z, 20_000, np.random.default_rng(0))
    exact = [integrated(screen, *cell) for cell in zip(X, mean, strict=True)]
    np.testing.assert_allclose(estimate.log_evidence, exact, atol=1e-2)
    assert (estimate.effective_sample_size > 100).all()


def test_evidence_without_dependence_on_the_state_is_poisson():
    expected = np.array([0.5, 2.0, 7.0])
    x = np.array([[0, 3, 5], [1, 0, 9]])
    estimate = log_evidence(
        x,
        np.array([[1.0, -2.0, 0.0], [0.0, 4.0, 1.0]]),
        lambda z: np.broadcast_to(expected, (len(z), 3)),
        np.zeros((2, 3)),
        50_000,
        np.random.default_rng(0),
    )
    np.testing.assert_allclose(
        estimate.log_evidence, poisson.logpmf(x, expected).sum(1), atol=1e-2
    )


def test_evidence_rises_with_particles_in_the_mean(screen):
    X, mean, Z = (np.repeat(values, 30, axis=0) for values in held_out_cells(screen, 60))
    random = np.random.default_rng(0)
    few, many = (
        log_evidence(X, mean, screen.rate, Z, n_particles, random).log_evidence
        for n_particles in (1, 30)
    )
    assert (many - few).mean() > 2 * (many - few).std() / len(few) ** 0.5


def test_posterior_mode_is_above_its_neighbourhood(screen):
    X, mean, Z = held_out_cells(screen, 10)
    mode, precision = posterior_mode(X, mean, screen.rate, Z)

    def log_joint(z):
        return screen.log_likelihood(X, z) - ((z - mean) ** 2).sum(1) / 2

    assert (log_joint(mode) >= log_joint(Z)).all()
    for step in np.vstack([np.eye(2), -np.eye(2)]):
        assert (log_joint(mode) > log_joint(mode + 0.05 * step)).all()
    assert (np.linalg.eigvalsh(precision) > 1).all()  # the prior's, and what the counts add


def test_true_shifts_beat_others_and_small_perturbations_do_not_count(screen):
    truth = true_model_nll(screen, n_particles=200)
    assert len(truth.effective_sample_size) == 120
    unshifted = Bunch(**{**screen, "embedding": np.zeros_like(screen.embedding)})
    assert truth.nll < true_model_nll(unshifted, n_particles=200).nll

    small = np.flatnonzero(screen.A == screen.held_out[1])[10:]
    kept = np.setdiff1d(np.arange(len(screen.A)), small)
    fewer = {name: screen[name][kept] for name in ("X", "A", "Z")}
    result = true_model_nll(Bunch(**{**screen, **fewer}), n_particles=200, min_cells=10)
    assert len(result.effective_sample_size) == 60


def test_supervised_encoder_finds_linear_states_and_leaves_the_generator_alone():
    random = np.random.default_rng(0)
    Z = random.normal(size=(2000, 2))
    X = random.poisson(np.exp(Z @ random.normal(size=(2, 30)) * 0.5 + 4))
    torch.manual_seed(0)
    scores = supervised_encoder(X, Z, n_epochs=10, batch_size=64)
    drawn = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(1))
    assert min(scores.values()) > 0.97
