"""Each paper's settings are one call, and what they say can be trained."""

import numpy as np
import pytest
from torch import nn

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
    ControlMean,
    InVAE,
    SVAEPlus,
    published,
)

MODELS = {
    **dict.fromkeys((VAE, BetaVAE, IVAE, SVAE, SVAEPlus), ("simulation", "norman", "replogle")),
    **dict.fromkeys((ConditionalVAE, CPAVAE, SAMSVAE), ("replogle", "norman")),
    **dict.fromkeys((InVAE, NFIVAE), ("integration",)),
    SCCVAE: ("replogle",),
}
CASES = [(cls, name) for cls, names in MODELS.items() for name in (None, *names)]
A = np.repeat(["control", "P0", "P1"], 24)
X = np.random.default_rng(0).poisson(3.0, (72, 12)).astype(np.float32)


@pytest.mark.parametrize(("cls", "experiment"), CASES)
@pytest.mark.filterwarnings("ignore::skpert.exceptions.DataWarning")
@pytest.mark.filterwarnings("ignore::skpert.exceptions.TrainingWarning")
def test_published_settings_train(cls, experiment):
    model = published(cls, experiment)
    assert type(model) is cls
    size = {"n_latent": 3, "n_hidden": 8, "max_epochs": 2, "random_state": 0}
    model.set_params(**size, batch_size=32).fit(X, A)
    if hasattr(model, "prior") or cls is NFIVAE:
        assert np.isfinite(model.transform(X)).all()
    else:
        assert np.isfinite(model.predict_intervention(["P0"])).all()


@pytest.mark.parametrize(
    ("cls", "experiment", "expected"),
    [
        (SVAEPlus, "simulation", {"n_latent": 15, "max_epochs": 300, "patience": 45}),
        (SVAEPlus, "simulation", {"edges": "learned", "init": "random", "adam_epsilon": 1e-8}),
        (SVAE, None, {"norm": "mean", "edges": "learned", "n_epochs_kl_warmup": 50}),
        (IVAE, "replogle", {"n_latent": 50, "max_epochs": 100, "adam_epsilon": 0.01}),
        (SAMSVAE, None, {"mask_prior": 0.001, "batch_norm": False, "max_gradient_norm": None}),
        (SAMSVAE, "norman", {"mask_prior": 0.01, "max_gradient_norm": 100.0, "n_latent": 200}),
        (CPAVAE, None, {"n_train_particles": 5, "learning_rate": 3e-4, "batch_size": 512}),
        (InVAE, None, {"n_prior_layers": 1, "learning_rate": 1e-3, "weight_decay": 1e-4}),
        (SCCVAE, None, {"refit_penetrance": False, "n_latent": 512, "n_hidden": 1024}),
    ],
)
def test_figures_are_those_of_the_papers(cls, experiment, expected):
    model = published(cls, experiment)
    assert {name: getattr(model, name) for name in expected} == expected


def test_what_no_paper_has_is_refused():
    with pytest.raises(ValueError, match="must be one of 'VAE'"):
        published(ControlMean)
    with pytest.raises(ValueError, match="has the experiments 'replogle', 'norman'"):
        published(SAMSVAE, "simulation")
    with pytest.raises(ValueError, match="has the experiments"):
        published(VAE, ["norman"])


def test_the_printed_l1_norm_is_the_sum_of_edge_probabilities():
    settings = {"n_latent": 3, "n_hidden": 8, "max_epochs": 1, "batch_norm": False}
    terms = []
    for norm in ("mean", "sum"):
        model = published(SVAE).set_params(norm=norm, n_epochs_kl_warmup=0, **settings)
        terms.append(model.set_params(random_state=0, learning_rate=1e-9).fit(X, A).history_)
    ratio = terms[1]["sparsity"] / terms[0]["sparsity"]
    assert ratio.to_numpy() == pytest.approx(2 * 3)  # perturbations times latents


@pytest.mark.filterwarnings("ignore::skpert.exceptions.DataWarning")
def test_penetrances_are_fitted_once_more_unless_they_should_stay():
    kept, refitted = (
        SCCVAE(refit_penetrance=refit, n_latent=3, max_epochs=1, random_state=0).fit(X, A)
        for refit in (False, True)
    )
    np.testing.assert_allclose(kept.penetrance_, refitted.penetrance_, rtol=1e-5)  # as measured
    kept, refitted = (model.set_params(penetrance="sum") for model in (kept, refitted))
    assert not np.allclose(kept.penetrance_, refitted.penetrance_)
    np.testing.assert_array_equal(kept.shift_, refitted.shift_)


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.filterwarnings("ignore::skpert.exceptions.DataWarning")
def test_networks_of_priors_have_the_depth_that_is_asked_for(depth):
    module = InVAE(n_latent=3, n_prior_layers=depth, max_epochs=1).fit(X, A).module_
    linears = [part for part in module.invariant.network if isinstance(part, nn.Linear)]
    assert len(linears) == depth + 1


def test_networks_without_batch_norm_have_none():
    module = published(SAMSVAE).set_params(n_latent=3, max_epochs=1, n_hidden=8).fit(X, A).module_
    assert not any("norm" in name for name in module.state_dict())
