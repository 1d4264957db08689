"""What a training leaves behind: something usable, or a warning, or an error."""

import re
import warnings

import numpy as np
import pytest
import torch

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
from skpert._training import is_worse, mean_elbo, probe
from skpert.exceptions import TrainingWarning

pytestmark = [
    pytest.mark.filterwarnings("ignore:Perturbations are described by one-hot"),
    pytest.mark.filterwarnings("ignore::skpert.exceptions.DataWarning"),
]
ESTIMATORS = [VAE, BetaVAE, IVAE, SVAE, SVAEPlus, ConditionalVAE, CPAVAE, SAMSVAE, SCCVAE]
ESTIMATORS += [InVAE, NFIVAE]
SMALL = {"n_latent": 3, "n_hidden": 16, "max_epochs": 2, "n_particles": 2}
SMALL |= {"random_state": 0, "device": "cpu"}
A = np.repeat(["control", "P0", "P1", "P2", "P3"], 12)
X = np.random.default_rng(0).poisson(3.0, (60, 10)).astype(np.float32)
X[A == "P0", :3] *= 3
SCREENS = {
    "counts": X,
    "zeros": 0 * X,
    "constant": np.full_like(X, 7),
    "one gene": X[:, :1],
    "deep": np.random.default_rng(0).poisson(3000.0, X.shape).astype(np.float32),
    "real values": np.random.default_rng(0).normal(size=X.shape).astype(np.float32),
}
DIVERGING = [{"learning_rate": 10.0}, {"learning_rate": 1e3}, {"learning_rate": 1e30}]
DIVERGING += [{"learning_rate": 1e3, "validation_fraction": 0.0}]


def answers(model, X=X):
    """What a user asks of a fitted model."""
    yield model.transform(X)
    yield model.score_cells(X, A)
    yield model.predict_intervention(A[11:13])
    yield model.predict_intervention(A[:1], X)
    yield model.sample_intervention(A[11:13], 5, random_state=0)
    yield model.sample_intervention(A[11:13], 5, X=X, random_state=0)


def trained(train):
    """What ``train`` returns, or None with an error, and whether it warned of the training."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model = train()
        except ValueError as error:
            if not re.search("(became|not finite).*lower learning_rate", str(error)):
                raise
            return None, False
    return model, any(issubclass(warning.category, TrainingWarning) for warning in caught)


def elbos(model, X, A):
    """Of the untrained module and of the trained one, for the same cells."""
    cells = probe(model._check(X, A))
    torch.manual_seed(0)
    before = model._make_module(cells)
    return mean_elbo(before, cells), mean_elbo(model.module_, cells)


@pytest.mark.parametrize("settings", DIVERGING, ids=str)
@pytest.mark.parametrize("cls", ESTIMATORS)
def test_what_diverged_is_never_returned_as_good(cls, settings):
    model, warned = trained(lambda: cls(**SMALL | settings).fit(X, A))
    if model is None:
        return
    assert all(np.isfinite(answer).all() for answer in answers(model))
    assert warned or not is_worse(*elbos(model, X, A))


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_what_diverges_later_is_not_returned_as_good_either(cls):
    model = cls(**SMALL).fit(X, A).set_params(learning_rate=100.0)
    refined, warned = trained(lambda: model.refine(X, A))
    assert refined is None or warned
    if refined is not None:
        assert all(np.isfinite(answer).all() for answer in answers(refined))


@pytest.mark.parametrize("cls", [ConditionalVAE, SAMSVAE, SVAEPlus])
def test_new_perturbations_that_diverge_are_not_returned_as_good(cls):
    options = {"sparsity": 2.0} if cls is SVAEPlus else {}
    model = cls(**SMALL, **options).fit(X, A).set_params(learning_rate=1e4, n_epochs_kl_warmup=0)
    sparse = {"sparse": True} if cls is SVAEPlus else {}
    new = np.where(A[:24] == "P0", "new", "control")
    adapted, warned = trained(lambda: model.adapt(X[:24], new, **sparse))
    assert adapted is None or warned or adapted.score(X[:24], new) > -100
    assert all(np.isfinite(answer).all() for answer in answers(model))


@pytest.mark.parametrize("max_epochs", [1, 2, 3])
@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("cls", [VAE, IVAE, SVAEPlus, CPAVAE, SAMSVAE, SCCVAE, InVAE])
def test_a_short_training_is_no_worse_than_none(cls, screen, max_epochs):
    values = SCREENS[screen]
    real = screen == "real values" or cls is SCCVAE
    likelihood = "normal" if real else "negative_binomial"
    model = cls(**SMALL | {"max_epochs": max_epochs, "likelihood": likelihood}).fit(values, A)
    assert not is_worse(*elbos(model, values, A))


@pytest.mark.parametrize(
    "settings",
    [{"n_epochs_kl_warmup": 50}, {"batch_size": 2}, {"weight_decay": 1e6}, {"patience": 1}],
    ids=str,
)
@pytest.mark.parametrize("cls", [VAE, SVAEPlus, SAMSVAE, InVAE])
def test_parameters_at_the_ends_of_their_ranges_leave_a_usable_model(cls, settings):
    model = cls(**SMALL | settings).fit(X, A)
    assert all(np.isfinite(answer).all() for answer in answers(model))


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_values_too_large_for_float32_are_an_error_that_says_so(cls):
    model = cls(**SMALL | {"likelihood": "normal"})
    with pytest.raises(ValueError, match="holds a value of size .* look where it comes from"):
        model.fit(X * np.float32(1e30), A)
    assert not hasattr(model, "module_")


def test_the_warning_says_by_how_much_and_what_to_do():
    expected = r"made the model worse: .* nats per cell, .* below .* lower learning_rate"
    with pytest.warns(TrainingWarning, match=expected):
        VAE(**SMALL | {"learning_rate": 100.0}).fit(X, A)


class Unsteady(VAE):
    """Diverges in some of its trainings."""

    def _optimise(self, *arguments, **settings):
        self.number_ = getattr(self, "number_", 0) + 1
        kept = self.learning_rate
        self.learning_rate = 1e3 if self.number_ in self.diverging_ else kept
        try:
            return super()._optimise(*arguments, **settings)
        finally:
            self.learning_rate = kept


def test_of_several_trainings_only_the_one_that_is_kept_is_warned_of():
    model = Unsteady(n_init=3, **SMALL)
    model.diverging_ = {1, 3}
    model.fit(X, A)  # no warning
    assert model.score(X, A) > -100
    model.diverging_ = {4, 5, 6}
    with pytest.warns(TrainingWarning, match="worse"):
        model.fit(X, A)


def test_assessing_draws_no_numbers_from_the_training():
    model = VAE(**SMALL).fit(X, A)
    cells = probe(model._check(X, A))
    torch.manual_seed(0)
    first = mean_elbo(model.module_, cells)
    assert first == mean_elbo(model.module_, cells)
    after = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(3))


def test_samples_of_extreme_dispersions_are_counts():
    model = VAE(**SMALL).fit(X, A)
    for value in (-200.0, 200.0):
        torch.nn.init.constant_(model.module_.decoder.head.log_dispersion, value)
        samples = model.sample_intervention("P0", 200, library_size=1e9, random_state=0)
        assert np.isfinite(samples).all()
        assert (samples >= 0).all()
    assert samples.mean() == pytest.approx(1e9 / X.shape[1], rel=0.01)  # the Poisson limit
