"""InVAE and NFIVAE: what covariates may change, special cases, bad input."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array
from sklearn.base import clone

from skpert import NFIVAE, InVAE, load, save
from skpert._data import Cells
from skpert.datasets import make_invariant
from skpert.exceptions import TrainingWarning
from skpert.metrics import integration_scores, latent_r2
from skpert.models.invae import first_weight

FAST = {
    "max_epochs": 4,
    "n_hidden": 16,
    "n_layers": 1,
    "random_state": 0,
    "n_particles": 5,
    "device": "cpu",
}
COLUMNS = {"invariant": ["cell_type", "condition"], "spurious": "batch"}
DATA = make_invariant(20, n_invariant=3, n_spurious=1, n_genes=40, random_state=0)
X, OBS = DATA.X, DATA.obs
PRIORS = pytest.mark.parametrize("prior", ["nonfactorized", "factorized"])


def fitted(**settings):
    return InVAE(4, **COLUMNS | FAST | settings).fit(X, OBS)


@pytest.fixture(scope="module")
def models():
    return {prior: fitted(prior=prior) for prior in ("nonfactorized", "factorized")}


def hidden(n_cells):
    """Design of cells of which no covariate is known."""
    return pd.DataFrame(index=range(n_cells))


# Covariates that are not known


@PRIORS
def test_states_come_from_expression_alone(models, prior):
    model = models[prior]
    np.testing.assert_array_equal(model.transform(X), model.posterior(X).z[:, :3])
    of_nothing = model.posterior(X, hidden(len(X)))
    for name, values in model.posterior(X).items():
        np.testing.assert_array_equal(of_nothing[name], values)
    assert not np.allclose(model.posterior(X, OBS).z, of_nothing.z)


@PRIORS
def test_labels_of_test_cells_never_reach_transform(models, prior):
    """Scores that look at cell types are not circular."""
    model = models[prior]
    labelled = pd.DataFrame(X, index=OBS.index)
    np.testing.assert_array_equal(model.transform(labelled.to_numpy()), model.transform(X))
    shuffled = OBS.sample(frac=1, random_state=0).set_index(OBS.index)
    before = model.transform(X)
    model.score(X, shuffled)
    np.testing.assert_array_equal(model.transform(X), before)


@PRIORS
def test_unseen_categories_missing_values_and_absent_columns_are_all_hidden(models, prior):
    model = models[prior]
    designs = [
        OBS.assign(batch="elsewhere"),
        OBS.assign(batch=pd.Series([None] * len(X), OBS.index, dtype=object)),
        OBS[["condition", "cell_type"]],
    ]
    scores = [model.score_cells(X, design) for design in designs]
    states = [model.posterior(X, design).z for design in designs]
    for score, z in zip(scores, states, strict=True):
        np.testing.assert_array_equal(score, scores[0])
        np.testing.assert_array_equal(z, states[0])
    assert not np.allclose(scores[0], model.score_cells(X, OBS))


def test_a_number_that_is_missing_is_hidden():
    x, obs = X[::3], OBS[::3]  # each cell has a normaliser of its own
    age = np.random.default_rng(0).normal(40, 10, len(x))
    obs = obs.assign(age=np.where(np.arange(len(x)) % 5 == 0, np.nan, age))
    model = InVAE(4, invariant=["cell_type", "age"], spurious="batch", **FAST).fit(x, obs)
    assert model.covariates_ == ["cell_type", "age", "batch"]
    first = obs.iloc[:1]
    assert np.isnan(first["age"]).all()
    np.testing.assert_array_equal(
        model.posterior(x[:1], first).z, model.posterior(x[:1], first.drop(columns="age")).z
    )
    known = model.posterior(x[:1], first.assign(age=40.0)).z
    assert not np.allclose(known, model.posterior(x[:1], first).z)
    assert np.isfinite(model.score(x, obs))


# Interventions


def reading(model, block):
    """Copy of a model whose decoder reads one block of latents only."""
    model = copy.deepcopy(model)
    weight = model.module_.decoder.hidden.linears[0].weight.data
    weight[:, 3:] *= block == "spurious"
    weight[:, :3] *= block == "invariant"
    return model


@PRIORS
def test_another_environment_keeps_what_is_invariant(models, prior):
    elsewhere = pd.DataFrame({"batch": ["B1"]})
    model = reading(models[prior], "invariant")
    same = model.predict_intervention(hidden(1), X[:9])
    np.testing.assert_allclose(model.predict_intervention(elsewhere, X[:9]), same, rtol=1e-5)
    model = reading(models[prior], "spurious")
    same = model.predict_intervention(hidden(1), X[:9])
    assert not np.allclose(model.predict_intervention(elsewhere, X[:9]), same, rtol=1e-2)


@PRIORS
def test_another_condition_keeps_what_is_spurious(models, prior):
    condition = pd.DataFrame({"condition": ["C1"]})
    model = reading(models[prior], "spurious")
    same = model.predict_intervention(hidden(1), X[:9])
    np.testing.assert_allclose(model.predict_intervention(condition, X[:9]), same, rtol=1e-5)
    model = reading(models[prior], "invariant")
    same = model.predict_intervention(hidden(1), X[:9])
    assert not np.allclose(model.predict_intervention(condition, X[:9]), same, rtol=1e-2)


@PRIORS
def test_a_design_of_nothing_reconstructs_the_cells(models, prior):
    model = models[prior]
    z = model.posterior(X[:5]).z
    predicted = model.predict_intervention(hidden(1), X[:5])
    np.testing.assert_allclose(predicted.sum(1), X[:5].sum(1), rtol=1e-4)
    assert model.log_likelihood(X[:5], z).shape == (5,)
    each = model.predict_intervention(hidden(5), X[:5])
    np.testing.assert_allclose(each, predicted, rtol=1e-5)


@PRIORS
def test_answers_about_populations_are_repeatable(models, prior):
    model, design = models[prior], OBS.iloc[[0, 50]]
    first = model.predict_intervention(design, library_size=100)
    np.testing.assert_array_equal(model.predict_intervention(design, library_size=100), first)
    np.testing.assert_allclose(first.sum(1), 100, rtol=1e-4)
    samples = model.sample_intervention(design, 3, random_state=0)
    assert samples.shape == (2, 3, 40)
    np.testing.assert_array_equal(model.sample_intervention(design, 3, random_state=0), samples)


@PRIORS
def test_what_was_not_in_training_cannot_be_predicted(models, prior):
    with pytest.raises(ValueError, match="elsewhere"):
        models[prior].predict_intervention(OBS.iloc[:1].assign(batch="elsewhere"), X[:1])
    with pytest.raises(ValueError, match="elsewhere"):
        models[prior].sample_intervention(OBS.iloc[:1].assign(batch="elsewhere"), 2)


def test_labels_are_one_invariant_covariate():
    labels = OBS["condition"].to_numpy()
    model = InVAE(4, **FAST).fit(X, labels)
    named = InVAE(4, invariant="condition", **FAST).fit(X, OBS)
    np.testing.assert_array_equal(model.transform(X), named.transform(X))
    assert model.covariates_ == ["label"]
    bare = model.predict_intervention("C1")
    np.testing.assert_array_equal(model.predict_intervention(["C1"]), bare)
    assert not np.allclose(model.predict_intervention("C0"), bare)


# Blocks


def test_latents_are_shown_by_block():
    shown = {latent: fitted(latent=latent, n_spurious=1) for latent in ("all", "spurious")}
    shown["invariant"] = fitted()
    states = {name: model.transform(X) for name, model in shown.items()}
    np.testing.assert_array_equal(
        np.hstack([states["invariant"], states["spurious"]]), states["all"]
    )
    names = ["invariant0", "invariant1", "invariant2", "spurious0"]
    assert shown["all"].get_feature_names_out().tolist() == names
    assert shown["invariant"].get_feature_names_out().tolist() == names[:3]
    assert shown["spurious"].get_feature_names_out().tolist() == names[3:]
    frame = shown["spurious"].set_output(transform="pandas").transform(X)
    assert frame.columns.tolist() == names[3:]


@PRIORS
@pytest.mark.parametrize("n_spurious", [0, 1, 3])
def test_blocks_may_be_empty_or_single(prior, n_spurious):
    columns = {"invariant": ["cell_type"], "spurious": "batch" if n_spurious else None}
    model = fitted(prior=prior, n_spurious=n_spurious, **columns)
    assert model.transform(X).shape == (len(X), 4 - n_spurious)
    assert ("total_correlation" in model.history_) == (n_spurious > 0)
    assert ("score_matching" in model.history_) == (prior == "nonfactorized")
    assert np.isfinite(model.score(X, OBS))


def test_nfivae_is_invae_without_spurious_latents():
    columns = ["cell_type", "condition", "batch"]
    model = NFIVAE(4, invariant=columns, **FAST).fit(X, OBS)
    other = InVAE(4, invariant=columns, n_spurious=0, total_correlation=0.0, **FAST).fit(X, OBS)
    np.testing.assert_array_equal(model.transform(X), other.transform(X))
    assert model.score(X, OBS) == other.score(X, OBS)
    assert model.get_feature_names_out().tolist() == [f"invariant{i}" for i in range(4)]


def test_the_ivae_of_the_paper_is_the_factorized_special_case():
    """One block under one normal prior: all that is left in the objective is the ELBO."""
    model = InVAE(
        3, invariant=list(OBS), prior="factorized", n_spurious=0, validation_fraction=0, **FAST
    ).fit(X, OBS)
    assert set(model.history_) == {"phase", "reconstruction", "kl_z"}
    assert model.module_.spurious.network is None
    assert model.transform(X).shape == (len(X), 3)


def test_environments_reach_the_decoder_and_nothing_else():
    columns = {"invariant": ["cell_type"], "spurious": None, "environment": ["batch"]}
    model = fitted(n_spurious=0, **columns)
    assert model.covariates_ == ["cell_type"]
    moved = OBS.assign(batch="B0")
    np.testing.assert_array_equal(model.posterior(X, moved).z, model.posterior(X, OBS).z)
    Z = model.transform(X)
    in_batch = OBS["batch"] == "B0"
    changed = model.log_likelihood(X, Z, OBS) != model.log_likelihood(X, Z, moved)
    assert changed[~in_batch].mean() > 0.9
    assert not changed[in_batch].any()
    there, here = (model.predict_intervention(obs[:5], X[:5]) for obs in (moved, OBS))
    assert not np.allclose(there, here)


def test_latents_are_whitened_if_asked_for():
    raw = fitted(whiten=False, latent="all")
    shown = fitted(latent="all")
    a, b = raw.transform(X), shown.transform(X)
    for block in (slice(0, 3), slice(3, 4)):
        map_ = np.linalg.lstsq(a[:, block], b[:, block], rcond=None)[0]
        np.testing.assert_allclose(a[:, block] @ map_, b[:, block], atol=1e-3)
        np.testing.assert_allclose(map_, map_.T, atol=1e-3)
    np.testing.assert_array_equal(raw.module_.whitening, np.eye(4))
    design = OBS.iloc[[0]].drop(columns="batch")
    answers = [m.predict_intervention(design, library_size=50) for m in (raw, shown)]
    np.testing.assert_allclose(*answers, rtol=1e-3)
    np.testing.assert_allclose(raw.score(X, OBS), shown.score(X, OBS), rtol=1e-6)


# The normaliser


def test_normalisers_are_shown_a_row_each(models):
    estimates = models["nonfactorized"].log_normaliser(OBS)
    assert estimates.shape == (len(OBS), 2)
    assert len(estimates.drop_duplicates()) == 4  # cell types and conditions
    assert (estimates["standard_error"] < 0.1).all()
    assert not models["factorized"].log_normaliser(OBS).to_numpy().any()


def test_normalisers_are_those_of_the_weights_that_are_kept():
    model = fitted(max_epochs=6)
    history = model.history_["validation_elbo"]
    assert history.argmax() < 5
    again = pickle.loads(pickle.dumps(model))
    pd.testing.assert_frame_equal(again.log_normaliser(OBS), model.log_normaliser(OBS))


# Training


@pytest.mark.parametrize(
    ("n_cells", "weight"), [(20, 1), (300, 1), (450, 30**0.5), (600, 30), (10**6, 30)]
)
def test_warm_up_comes_from_above_where_there_are_cells_enough(n_cells, weight):
    assert first_weight(n_cells) == pytest.approx(weight)


def test_the_encoder_reads_cells_as_if_all_had_one_depth(models):
    for model in models.values():
        np.testing.assert_allclose(
            model.transform(3 * X), model.transform(X), rtol=1e-3, atol=1e-4
        )


def test_thinning_is_for_training_and_for_counts():
    seeded = {"max_epochs": 2, "validation_fraction": 0}
    none, half, again = (fitted(thinning=share, **seeded) for share in (0.0, 0.5, 0.5))
    np.testing.assert_array_equal(half.transform(X), again.transform(X))
    assert not np.allclose(none.transform(X), half.transform(X))
    values = np.log1p(X)
    none, half = (
        InVAE(4, **COLUMNS | FAST | seeded, likelihood="normal", thinning=share).fit(values, OBS)
        for share in (0.0, 0.5)
    )
    np.testing.assert_array_equal(none.transform(values), half.transform(values))


def test_a_last_minibatch_of_one_cell_is_trained_on():
    model = fitted(batch_size=len(X) - 1, validation_fraction=0)
    assert np.isfinite(model.history_.drop(columns="phase")).all(None)


@PRIORS
def test_trainings_are_repeatable_and_sparse_cells_are_dense_ones(models, prior):
    model = models[prior]
    again = clone(model).fit(csr_array(X), OBS)
    np.testing.assert_allclose(again.transform(csr_array(X)), model.transform(X), atol=1e-5)
    np.testing.assert_array_equal(clone(model).fit(X, OBS).transform(X), model.transform(X))


@PRIORS
def test_models_come_back_from_files(prior, tmp_path):
    model = fitted(prior=prior, conditioning="none", score_regularization=0.1)
    save(model, tmp_path / "model")
    for other in (load(tmp_path / "model"), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(other.transform(X), model.transform(X))
        pd.testing.assert_frame_equal(other.log_normaliser(OBS), model.log_normaliser(OBS))
        assert other.score(X, OBS) == model.score(X, OBS)


@PRIORS
@pytest.mark.parametrize("likelihood", ["normal", "heteroscedastic_normal"])
def test_real_values_are_reconstructed(prior, likelihood):
    values = np.log1p(X)
    values -= values.mean(0)
    settings = {"prior": prior, "likelihood": likelihood, "max_epochs": 40}
    model = InVAE(4, **COLUMNS | FAST | settings).fit(values, OBS)
    rest = values - model.predict_intervention(hidden(1), values)
    assert rest.var() < 0.7 * values.var()


def test_what_a_state_is_worth_is_its_likelihood(models):
    model = models["nonfactorized"]
    z = model.posterior(X[:6]).z
    candidates = np.stack([z, z[::-1]])
    both = model.log_likelihood(X[:6], candidates)
    np.testing.assert_allclose(both[0], model.log_likelihood(X[:6], z), rtol=1e-5)
    np.testing.assert_allclose(both[1], model.log_likelihood(X[:6], z[::-1]), rtol=1e-5)
    with pytest.raises(ValueError, match=r"expected \(\.\.\., 6, 4\)"):
        model.log_likelihood(X[:6], z[:5])


# Bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"spurious": "cell_type"}, "'cell_type' is named more than once"),
        ({"spurious": "site"}, "A has no column 'site'"),
        ({"invariant": None, "spurious": None}, "name those that are covariates"),
        ({"n_spurious": 4}, "leaves none that is invariant"),
        ({"n_spurious": 5}, "leaves none that is invariant"),
        ({"invariant": None}, "needs an invariant covariate"),
        ({"hide": 1.0}, "hide"),
        ({"prior": "normal"}, "prior"),
        ({"latent": "both"}, "latent"),
    ],
)
def test_settings_that_make_no_sense_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        fitted(**settings)


def test_designs_that_make_no_sense_are_named(models):
    with pytest.raises(ValueError, match="is 'B0' in all cells"):
        InVAE(4, **COLUMNS | FAST).fit(X, OBS.assign(batch="B0"))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        InVAE(4, **COLUMNS | FAST).fit(X, OBS[:-1])
    with pytest.raises(ValueError, match="requires y to be passed"):
        InVAE(4, **COLUMNS | FAST).fit(X, None)
    with pytest.raises(ValueError, match="cannot adapt to new ones"):
        models["factorized"].adapt(X, OBS)


# Recovery


@pytest.mark.slow
@PRIORS
def test_the_invariant_block_keeps_biology_and_loses_the_batch(prior):
    """In the best of three starts; some start may go wrong."""
    cells = make_invariant(
        100,
        n_invariant=3,
        batch_mean=(0.0, 3.0, 6.0),
        batch_variance=1.0,
        library_size=1e4,
        random_state=1,
    )
    biology, batch = cells.Z[:, :3], cells.Z[:, 3:]
    settings = {"n_hidden": 64, "max_epochs": 40, "latent": "all", "n_init": 3}
    model = InVAE(8, **COLUMNS, prior=prior, random_state=0, **settings)
    Z = model.fit(cells.X, cells.obs).transform(cells.X)
    assert latent_r2(biology, Z[:, :7]) > 0.8
    assert latent_r2(batch, Z[:, :7]) < 0.65
    assert latent_r2(batch, Z[:, 7:]) > 0.9
    assert latent_r2(biology, Z[:, 7:]) < 0.1


def test_a_prediction_without_any_known_covariate_names_the_columns(models):
    mistyped = pd.DataFrame({"bacth": ["B0"]})
    with pytest.raises(
        ValueError, match="none of the covariates 'cell_type'.*columns are 'bacth'"
    ):
        models["factorized"].predict_intervention(mistyped)


# Several trainings


def test_the_best_of_several_trainings_is_the_one_with_the_highest_total():
    settings = {"validation_fraction": 0, "max_epochs": 2}
    seeds = np.random.RandomState(0).randint(2**31 - 1, size=2)
    first, best = fitted(**settings), fitted(n_init=2, **settings)
    cells = Cells.of_design(X, first.design_, OBS)
    assert first._seed == seeds[0]
    assert best.module_.preference(cells) >= first.module_.preference(cells)
    read = first.set_params(latent="invariant").transform(X)
    labels = OBS[COLUMNS["invariant"]].astype(str).agg(" ".join, axis=1)
    total = integration_scores(read, labels, OBS["batch"], random_state=0)["total"]
    assert first.module_.preference(cells) == pytest.approx(total, abs=0.02)


def test_a_fit_whose_invariant_latents_show_environments_warns():
    environment = np.tile(["a", "b"], 150)
    shifted = np.random.default_rng(0).poisson(5.0, (300, 20)).astype(np.float32)
    shifted[environment == "b", :10] *= 4
    obs = pd.DataFrame({"site": environment, "cell_type": np.repeat(["x", "y"], 150)})
    model = InVAE(3, invariant="cell_type", spurious="site", **FAST | {"max_epochs": 1})
    with pytest.warns(TrainingWarning, match="do not mix in the invariant latents"):
        model.fit(shifted, obs)
    without = InVAE(3, invariant=["cell_type", "site"], n_spurious=0, **FAST | {"max_epochs": 1})
    without.fit(shifted, obs)  # nothing is to mix
