"""Posterior predictive checks: uniform p-values of a right model, and small ones of wrong ones."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_array
from scipy.stats import kstest
from sklearn.utils import Bunch

from skpert import SAMSVAE, SCCVAE, VAE, ControlMean, InVAE, SVAEPlus
from skpert._prediction import posterior_draw, replicated
from skpert.datasets import make_additive_shift, make_sparse_shift
from skpert.inspection import _predictive, posterior_predictive_check
from skpert.metrics import differential_expression

FAST = {"n_latent": 3, "n_hidden": 16, "n_layers": 1, "max_epochs": 4, "batch_size": 64}
FAST |= {"device": "cpu", "random_state": 0}
N = 39  # replicates: p-values are multiples of 1 / 40


@pytest.fixture(scope="module")
def screen():
    return make_additive_shift(
        12,
        n_cells_per_perturbation=20,
        n_combinations=6,
        n_cells_per_combination=40,
        n_control_cells=60,
        n_latent=3,
        n_genes=40,
        random_state=0,
    )


@pytest.fixture(scope="module")
def additive(screen):
    return SAMSVAE(edges="learned", **FAST | {"max_epochs": 20}).fit(screen.X, screen.A)


@pytest.fixture(scope="module")
def sparse_shift():
    data = make_sparse_shift(
        8, n_cells_per_perturbation=30, n_control_cells=60, n_latent=3, n_genes=40, random_state=0
    )
    return Bunch(
        X=data.X, A=data.A, model=SVAEPlus(**FAST | {"max_epochs": 20}).fit(data.X, data.A)
    )


def simulated(model, X, A, seed):
    """Cells that the model itself makes, with a draw of what is uncertain of its effects."""
    cells = model._check(X, A)
    with model._inference(seed):
        return np.concatenate(list(replicated(posterior_draw(model.module_), cells, 500, None)))


def share_of_first(cells):
    """Share of the first genes, a number."""
    return (cells[:, :5].sum(1) / cells.sum(1)).mean()


@pytest.mark.parametrize("family", ["additive", "sparse"])
def test_p_values_of_data_from_the_model_are_uniform(family, additive, screen, sparse_shift):
    model, data = (
        (additive, screen) if family == "additive" else (sparse_shift.model, sparse_shift)
    )
    statistics, found = ["mean", "variance", "zero_fraction", "ate", share_of_first], []
    for seed in range(4):
        X = simulated(model, data.X, data.A, seed)
        check = posterior_predictive_check(
            model, X, data.A, statistics, n_replicates=N, random_state=seed
        )
        found.append(check.table)
    for statistic, rows in pd.concat(found).groupby("statistic"):
        if statistic != "zero_fraction":  # which is zero in most of these data sets
            assert kstest(rows["p"], "uniform").pvalue > 0.005, statistic
        assert np.mean(rows["p"] <= 0.05) < 0.25, statistic  # of 36, some of the same cells


def test_noise_that_is_too_narrow_is_found():
    random = np.random.default_rng(0)
    A = np.repeat(["control", "A", "B"], 80)
    rate = random.gamma(1.0, 1.0, (240, 20)) * np.linspace(1, 10, 20)
    X = random.poisson(rate)
    statistics = ["variance", "zero_fraction", "coefficient_of_variation"]
    tables = [
        posterior_predictive_check(
            SVAEPlus(likelihood=likelihood, **FAST | {"max_epochs": 20, "n_latent": 1}).fit(X, A),
            X,
            A,
            statistics,
            n_replicates=N,
        )
        for likelihood in ("poisson", "negative_binomial")
    ]
    wrong, right = (check.table.groupby("statistic")["observed"].max() for check in tables)
    assert (tables[0].table["p"] == 1 / (N + 1)).all()
    assert (wrong > 2 * right).all()
    genes = tables[0].genes.query("statistic == 'variance'")
    assert (genes["observed"] > genes["upper"]).mean() > 0.8


def test_pair_that_does_not_add_up_is_found_and_no_other(additive, screen):
    X = simulated(additive, screen.X, screen.A, 5)
    labels = additive.design_.labels(screen.A)
    pairs = sorted({label for label in labels if "+" in label})
    largest = max(pairs, key=lambda pair: np.abs(_effect(additive, pair)).sum())
    X[labels == largest] = X[labels == largest][:, ::-1]  # of other genes
    check = posterior_predictive_check(additive, X, screen.A, ["mean", "ate"], n_replicates=N)
    p = check.table.pivot(index="perturbation", columns="statistic", values="p")
    assert (p.loc[largest] <= 0.1).all()  # draws of effects differ, and with the processor
    assert np.mean(p["mean"].drop(largest) <= 0.05) < 0.25
    pooled = check.pooled.pivot(index="pool", columns="statistic", values="p")
    assert pooled.index.tolist() == ["all", "double", "single"]
    assert (pooled.loc["double"] <= 0.1).all()
    assert (pooled.loc["double"] < pooled.loc["single"]).all()


def _effect(model, name):
    return model.predict_intervention([name]) - model.predict_intervention(["control"])


def test_values_of_the_data_are_what_their_names_say(additive, screen):
    def largest(cells):
        return cells.max()

    statistics = ["mean", "variance", "zero_fraction", "coefficient_of_variation", "ate", largest]
    check = posterior_predictive_check(additive, screen.X, screen.A, statistics, n_replicates=2)
    labels, X = additive.design_.labels(screen.A), np.asarray(screen.X, dtype=np.float64)
    wide = check.genes.pivot(
        index=["statistic", "perturbation"], columns="gene", values="observed"
    )
    for name in ("control", labels[labels != "control"][0]):
        zero_fraction = (X[labels == name] == 0).mean(0)
        np.testing.assert_allclose(wide.loc["zero_fraction", name], zero_fraction, rtol=1e-6)
        cells = 1e4 * X[labels == name] / X[labels == name].sum(1, keepdims=True)
        np.testing.assert_allclose(wide.loc["mean", name], cells.mean(0), rtol=1e-5)
        np.testing.assert_allclose(wide.loc["variance", name], cells.var(0), rtol=1e-4)
        expected = cells.std(0) / cells.mean(0)
        np.testing.assert_allclose(wide.loc["coefficient_of_variation", name], expected, 1e-4)
    measured = differential_expression(screen.X, screen.A)
    found = wide.loc["ate"].drop("control")
    np.testing.assert_allclose(found.loc[measured.index], measured, atol=1e-4)
    of_cells = check.table.query("statistic == 'largest'").set_index("perturbation")
    by_label = pd.Series(X.max(1)).groupby(labels).max()
    pd.testing.assert_series_equal(of_cells["observed"], by_label, check_names=False)
    assert (of_cells["n_cells"] == pd.Series(labels).value_counts()[of_cells.index]).all()


def test_summary_holds_to_its_definition(additive, screen):
    """Distances from the mean of the data and all replicates; a rank among all is the p-value."""
    check = posterior_predictive_check(
        additive, screen.X, screen.A, share_of_first, n_replicates=N
    )
    values = check.replicates["share_of_first"]
    table = check.table.set_index("perturbation")
    above = (values >= table["observed"]).sum() + 1
    below = (values <= table["observed"]).sum() + 1
    expected = np.minimum(2 * np.minimum(above, below) / (N + 1), 1)
    pd.testing.assert_series_equal(table["p"], expected, check_names=False)
    np.testing.assert_allclose(table["expected"], values.mean())
    inside = (values >= table["lower"]) & (values <= table["upper"])
    assert inside.mean().between(0.9, 0.96).all()
    assert (table["q"] >= table["p"]).all()
    greater = posterior_predictive_check(
        additive, screen.X, screen.A, share_of_first, n_replicates=N, alternative="greater"
    )
    np.testing.assert_allclose(greater.table["p"], above / (N + 1))


def test_vectors_are_compared_as_named_statistics_are(additive, screen):
    def means(cells):
        return (1e4 * cells / cells.sum(1, keepdims=True)).mean(0)

    check = posterior_predictive_check(
        additive, screen.X, screen.A, ["mean", means], n_replicates=5
    )
    named, own = (rows for _, rows in check.table.groupby("statistic", sort=False))
    np.testing.assert_allclose(own["observed"], named["observed"], rtol=1e-3)
    np.testing.assert_array_equal(own["p"], named["p"])


def test_form_of_the_data_and_size_of_blocks_change_nothing(additive, screen, monkeypatch):
    options = {"statistic": ["variance", share_of_first], "n_replicates": 3}
    whole = posterior_predictive_check(additive, screen.X, screen.A, **options)
    sparse = posterior_predictive_check(additive, csr_array(screen.X), screen.A, **options)
    pd.testing.assert_frame_equal(sparse.table, whole.table)
    order = np.random.default_rng(0).permutation(len(screen.A))
    monkeypatch.setattr(_predictive, "MAX_ELEMENTS", 40 * 7)
    blocks = posterior_predictive_check(additive, screen.X[order], screen.A[order], **options)
    columns = ["statistic", "perturbation", "gene", "observed"]
    pd.testing.assert_frame_equal(blocks.genes[columns], whole.genes[columns], rtol=1e-5)


def test_draws_are_seeded_and_leave_everything_as_it_was(additive, screen):
    before, state = torch.get_rng_state(), additive.module_.state_dict()
    kept = {name: value.clone() for name, value in state.items()}
    checks = [
        posterior_predictive_check(
            additive, screen.X, screen.A, "mean", n_replicates=2, random_state=seed
        ).replicates
        for seed in (0, 0, 1)
    ]
    pd.testing.assert_frame_equal(checks[0], checks[1])
    assert not checks[0].equals(checks[2])
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(kept[name], value) for name, value in state.items())


def test_draw_of_the_posterior_is_shared_by_cells_and_has_its_moments(additive):
    module = additive.module_
    effects = torch.stack([posterior_draw(module).effect() for _ in range(200)])
    probability = torch.sigmoid(module.masks.acting())
    q = module.embeddings.posterior(None, module.masks.most_probable().float())
    error = (probability * (q.mean.square() + q.stddev.square()) / 200).sqrt()
    assert ((effects.mean(0) - probability * q.mean).abs() < 5 * error + 1e-4).all()
    assert (effects.std(0) > 0).any()


def test_effects_that_were_seen_have_their_sampling_error(sparse_shift):
    module = sparse_shift.model.module_
    drawn = torch.stack([posterior_draw(module).embedding() for _ in range(100)])
    error = module.masks.standard_error()
    torch.testing.assert_close(drawn.mean(0), module.embedding(), atol=0.3 * error.max(), rtol=0)
    torch.testing.assert_close(drawn.std(0), error, rtol=0.4, atol=1e-6)


def test_same_cells_have_their_own_states():
    """Of cells under a wrong label the same cells look as they do, and new ones do not."""
    random = np.random.default_rng(0)
    A = np.repeat(["control", "A"], 100)
    rate = np.where(A[:, None] == "A", np.linspace(1, 20, 20), np.linspace(20, 1, 20))
    X = random.poisson(5 * rate)
    model = SVAEPlus(likelihood="poisson", **FAST | {"n_latent": 1, "max_epochs": 20}).fit(X, A)
    swapped = np.where(A == "A", "control", "A")
    new, same = (
        posterior_predictive_check(model, X, swapped, "mean", cells=cells, n_replicates=5).genes
        for cells in ("new", "same")
    )
    off_new, off_same = (np.abs(g["observed"] - g["expected"]).mean() for g in (new, same))
    assert off_same < 0.3 * off_new


def test_other_models(sparse_shift):
    X, A = sparse_shift.X, sparse_shift.A
    frame = pd.DataFrame({"condition": A})
    invae = InVAE(invariant=["condition"], n_latent=3, max_epochs=2, random_state=0).fit(X, frame)
    for cells in ("new", "same"):
        check = posterior_predictive_check(invae, X, frame, cells=cells, n_replicates=2)
        assert check.pooled["pool"].unique().tolist() == ["all"]
    parameters = {
        "likelihood": "negative_binomial",
        "features": pd.DataFrame(np.eye(8), sorted(set(A) - {"control"})),
    }
    sccvae = SCCVAE(n_latent=3, max_epochs=2, random_state=0, **parameters).fit(X, A)
    assert len(posterior_predictive_check(sccvae, X, A, "ate", n_replicates=2).table) == 8
    with pytest.raises(ValueError, match="SCCVAE does not draw the states of the same cells"):
        posterior_predictive_check(sccvae, X, A, cells="same")
    with pytest.raises(ValueError, match="ControlMean has no latents"):
        posterior_predictive_check(ControlMean().fit(np.log1p(X), A), X, A)


def test_real_values_have_effects_in_their_own_units():
    random = np.random.default_rng(0)
    A = np.repeat(["control", "A"], 50)
    X = random.normal(size=(100, 10)) + (A == "A")[:, None]
    model = VAE(likelihood="normal", **FAST).fit(X, A)
    check = posterior_predictive_check(model, X, A, "ate", n_replicates=3)
    observed = check.genes.query("perturbation == 'A'")["observed"]
    np.testing.assert_allclose(observed, X[A == "A"].mean(0) - X[A != "A"].mean(0), rtol=1e-4)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"statistic": "median"}, "statistic 'median' is neither callable nor one of 'mean'"),
        ({"statistic": []}, "statistic is empty"),
        (
            {"statistic": [share_of_first, share_of_first]},
            "two statistics have the name 'share_of_first'",
        ),
        ({"statistic": lambda cells: cells}, "must return a number or a vector"),
        ({"statistic": None}, "statistic must be a name, a function, or a list of these"),
        ({"statistic": [["mean"]]}, r"statistic \['mean'\] is neither callable nor"),
        ({"statistic": lambda cells: "high"}, "statistic '<lambda>' must return numbers"),
        ({"statistic": lambda cells: []}, "statistic '<lambda>' returned an empty array"),
        ({"cells": "old"}, "cells must be 'new' or 'same', got 'old'"),
        ({"n_replicates": 1}, "n_replicates must be an integer of at least 2, got 1"),
        ({"alternative": "less than"}, "alternative must be 'two-sided'"),
        ({"level": 1.0}, "level == 1.0, must be < 1"),
    ],
)
def test_bad_input(changed, message, additive, screen):
    with pytest.raises(ValueError, match=message):
        posterior_predictive_check(additive, screen.X, screen.A, **{"n_replicates": 2} | changed)


def test_values_that_are_not_finite_have_no_p(additive, screen):
    def ratio(cells):
        return np.inf

    check = posterior_predictive_check(additive, screen.X, screen.A, ratio, n_replicates=2)
    assert check.table[["observed", "p", "q"]].isna().all(axis=None)


def test_control_cells_alone(additive, screen):
    control = screen.A == "control"
    check = posterior_predictive_check(
        additive, screen.X[control], screen.A[control], share_of_first, n_replicates=2
    )
    assert check.table["perturbation"].tolist() == ["control"]
    assert check.pooled.empty
    assert check.genes.empty


def test_effects_need_controls_and_known_perturbations(additive, screen):
    treated = screen.A != "control"
    with pytest.raises(ValueError, match="'ate' compares perturbed cells with control cells"):
        posterior_predictive_check(additive, screen.X[treated], screen.A[treated], "ate")
    with pytest.raises(ValueError, match="P99"):
        posterior_predictive_check(additive, screen.X[:5], ["P99"] * 5)
