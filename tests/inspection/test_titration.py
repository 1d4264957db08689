"""Titration of penetrance: exact at the ends, and lowest where the cells are."""

import numpy as np
import pandas as pd
import pytest

from skpert import SCCVAE, BilinearRidge
from skpert.datasets import make_causal_shift
from skpert.inspection import titrate
from skpert.metrics import energy_distance
from skpert.preprocessing import LogNormalize

FAST = {"n_latent": 4, "n_hidden": 16, "n_layers": 1, "device": "cpu", "random_state": 0}
GENES = [f"gene {g}" for g in range(50)]


@pytest.fixture(scope="module")
def screen():
    return make_causal_shift(
        6,
        n_cells_per_perturbation=80,
        n_control_cells=200,
        n_latent=4,
        n_genes=50,
        penetrance=3.0,
        random_state=0,
    )


@pytest.fixture(scope="module")
def model(screen):
    X = pd.DataFrame(screen.X[screen.train], columns=GENES)
    return SCCVAE(features=screen.features, max_epochs=20, **FAST).fit(X, screen.A[screen.train])


@pytest.fixture
def cells(screen):
    return pd.DataFrame(screen.X, columns=GENES).groupby(screen.A).get_group


def test_expression_is_that_of_the_estimator_at_each_penetrance(model):
    expression = titrate(model, ["P5", "P0"], [0, 1, -2.5]).expression
    assert expression.index.names == ["perturbation", "penetrance"]
    assert expression.index.tolist()[:4] == [("P5", 0), ("P5", 1), ("P5", -2.5), ("P0", 0)]
    assert expression.columns.tolist() == GENES
    told = model.with_penetrance({"P5": -2.5})
    np.testing.assert_array_equal(expression.loc[("P5", -2.5)], told.predict_intervention("P5")[0])
    control = model.predict_intervention("control")[0]
    np.testing.assert_array_equal(expression.loc[("P0", 0)], control)
    assert titrate(model, "P0", [1]).distance is None


def test_the_grid_spans_what_was_learned(model):
    penetrance = titrate(model, "P5").expression.loc["P5"].index
    assert penetrance[0] == 0
    np.testing.assert_allclose(penetrance[-1], model.penetrance_.max(), rtol=1e-6)
    assert len(penetrance) == 41


def test_distances_are_those_of_drawn_cells(model, cells):
    controls, measured = cells("control"), cells("P1")
    titration = titrate(model, ["P0", "P1"], [0, 2], X=controls, measured=measured, n_samples=50)
    assert titration.distance.shape == (2, 2)
    assert titration.distance.loc["P0", 0] == titration.distance.loc["P1", 0]

    def gap(drawn, reference):
        return float(np.linalg.norm(drawn.mean(0) - reference.mean(0)))

    own = titrate(model, "P1", [2], X=controls, metric=gap, n_samples=50, random_state=5)
    told, seed = model.with_penetrance({"P1": 2}), np.random.RandomState(5).randint(2**31 - 1)
    drawn = told.sample_intervention(["P1"], 50, X=controls, random_state=seed)[0]
    np.testing.assert_allclose(own.distance.loc["P1", 2], gap(drawn, controls.to_numpy()))


def test_cells_are_nearest_where_the_model_learned_that_they_are(screen, model, cells):
    strongest = np.argmax(model.embedding_.sum(1))
    seen, learned = model.perturbations_[strongest], model.penetrance_[strongest]
    grid = np.linspace(-1, 1, 21) * 2 * learned
    own = titrate(model, seen, grid, X=cells("control"), measured=cells(seen)).distance.loc[seen]
    assert abs(own.idxmin() - learned) < 0.5 * learned
    control = titrate(model, seen, grid, X=cells("control")).distance.loc[seen]
    assert abs(control.idxmin()) <= np.diff(grid)[0]
    assert control.loc[control.index >= 0].is_monotonic_increasing


def test_counts_are_compared_on_the_scale_of_the_measured(screen):
    random = np.random.default_rng(0)
    X = random.poisson(4, (len(screen.A), 50))
    model = SCCVAE(features=screen.features, likelihood="poisson", max_epochs=1, **FAST)
    model.fit(X, screen.A)
    controls = X[screen.A == "control"]
    titration = titrate(model, "P0", [1], X=controls, n_samples=40)
    seed = np.random.RandomState(0).randint(2**31 - 1)
    told = model.with_penetrance({"P0": 1})
    drawn = told.sample_intervention(["P0"], 40, X=controls, random_state=seed)[0]
    scale = LogNormalize(target_sum=None).fit(controls.astype(np.float32))
    expected = energy_distance(scale.transform(drawn), scale.transform(controls))
    np.testing.assert_allclose(titration.distance.loc["P0", 1], expected, rtol=1e-4)


def test_what_cannot_be_titrated_is_refused(model, cells):
    with pytest.raises(ValueError, match=r"single perturbations, got 'P0\+P1'"):
        titrate(model, "P0+P1")
    with pytest.raises(ValueError, match="single perturbations, got 'control'"):
        titrate(model, ["control"])
    with pytest.raises(ValueError, match="unknown perturbations: 'P9'"):
        titrate(model, "P9")
    with pytest.raises(ValueError, match="grid must be one or more finite numbers"):
        titrate(model, "P0", [])
    with pytest.raises(ValueError, match="give X, too"):
        titrate(model, "P0", measured=cells("P0"))
    with pytest.raises(TypeError, match="BilinearRidge has no penetrances"):
        titrate(BilinearRidge(), "P0")
