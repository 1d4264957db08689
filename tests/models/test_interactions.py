"""Interactions of combinations in ``SAMSVAE``: predictions, files, adaptation, bad input."""

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone

from skpert import SAMSVAE
from skpert.datasets import make_additive_shift
from skpert.exceptions import DataWarning
from skpert.inspection import interactions, latent_shifts
from skpert.persistence import load, save

PARAMETERS = {"n_latent": 2, "n_hidden": 8, "max_epochs": 4, "n_particles": 4, "random_state": 0}
PAIRS = ["P0+P1", "P0+P3", "P1+P2", "P2+P4", "P3+P4"]

pytestmark = pytest.mark.filterwarnings("ignore::skpert.exceptions.TrainingWarning")


@pytest.fixture(scope="module")
def screen():
    return make_additive_shift(
        5,
        n_cells_per_perturbation=20,
        n_combinations=6,
        n_interactions=2,
        n_control_cells=20,
        n_latent=2,
        n_genes=40,
        library_size=500,
        random_state=0,
    )


@pytest.fixture(scope="module")
def model(screen):
    return with_interactions(SAMSVAE(interactions=True, **PARAMETERS).fit(screen.X, screen.A))


def with_interactions(model):
    """The same, where each interaction is there, and the scale of pairs is 0.7."""
    module = model.module_
    n = module.n_first
    module.masks.logit.rows.data[:n] = 2.0
    module.masks.whole[:] = False
    module.interactions.scale[2] = 0.7
    return model


def shifts(model, designs):
    return latent_shifts(model, designs).to_numpy()


def test_a_measured_pair_has_the_scaled_sum_and_its_own_effect(model, screen):
    pairs, singles = list(screen.combinations), model.perturbations_
    single = dict(zip(singles, shifts(model, singles), strict=True))
    table = interactions(model).pivot(index="combination", columns="latent")
    assert table.index.tolist() == pairs
    expected = table["expected"].loc[pairs].to_numpy()
    sums = np.stack([0.7 * sum(single[part] for part in pair.split("+")) for pair in pairs])
    np.testing.assert_allclose(expected, sums, atol=1e-5)
    total = expected + table["interaction"].loc[pairs].to_numpy()
    np.testing.assert_allclose(shifts(model, pairs), total, atol=1e-5)
    backwards = ["+".join(pair.split("+")[::-1]) for pair in pairs]
    np.testing.assert_array_equal(shifts(model, pairs), shifts(model, backwards))


def test_an_unseen_combination_has_the_scaled_sum(model, screen):
    unseen = [p for p in ("P0+P1", "P1+P2", "P2+P3", "P0+P4") if p not in screen.combinations]
    single = dict(zip(model.perturbations_, shifts(model, model.perturbations_), strict=True))
    for name in [*unseen, "P0+P1+P2"]:
        sums = 0.7 * sum(single[part] for part in name.split("+"))
        np.testing.assert_allclose(shifts(model, [name])[0], sums, atol=1e-5)


def test_dosages_multiply_interactions(model, screen):
    pair = screen.combinations[0].split("+")
    given = np.isin(model.perturbations_, pair).astype(float)[None]
    row = interactions(model).pivot(index="combination", columns="latent")["interaction"]
    for a, b in ((1.0, 1.0), (2.0, 1.0), (2.0, 3.0)):
        dosage = given.copy()
        dosage[0, np.flatnonzero(given[0])] = a, b
        alone = np.diag(dosage[0])[np.flatnonzero(given[0])]
        sums = 0.7 * shifts(model, alone).sum(0)
        own = a * b * row.iloc[0].to_numpy()
        np.testing.assert_allclose(shifts(model, dosage)[0], sums + own, rtol=1e-4, atol=1e-5)


def test_all_methods_know_interactions(model, screen):
    X, A = screen.X[:50], screen.A[:50]
    assert model.predict_intervention(screen.combinations).shape == (6, 40)
    assert model.sample_intervention(screen.combinations[:2], 3, random_state=0).shape == (
        2,
        3,
        40,
    )
    assert np.isfinite(model.score(X, A))
    assert np.isfinite(model.joint_score(X, A))
    posterior = model.posterior(X, A)
    shift = shifts(model, A)
    np.testing.assert_allclose(posterior.z - posterior.z_basal, shift, atol=1e-5)
    for values in (model.embedding_, model.mask_probability_, model.standard_error_):
        assert len(values) == len(model.perturbations_) == 5


@pytest.mark.parametrize("parameters", [{}, {"n_latent": 3}, {"correlated_embedding": (4,)}])
@pytest.mark.parametrize("correlated", [True, False])
def test_files_and_pickles_hold_interactions(screen, parameters, correlated, tmp_path):
    parameters = PARAMETERS | {"correlated_basal": correlated} | parameters
    model = SAMSVAE(interactions=True, **parameters).fit(screen.X, screen.A)
    save(model, tmp_path / "model.skpert")
    for copy in (load(tmp_path / "model.skpert"), pickle.loads(pickle.dumps(model))):
        for name in ("predict_intervention",):
            np.testing.assert_array_equal(
                getattr(copy, name)(screen.combinations), getattr(model, name)(screen.combinations)
            )
        pd.testing.assert_frame_equal(interactions(copy), interactions(model))
        assert copy.get_params() == model.get_params()


@pytest.mark.parametrize(
    "combinations", [[[0, 9]], [[1, 0]], [[0, -1]], [[0, 1], [0, 1]], [[-1, 1]], [[0.0, 1.0]]]
)
def test_a_file_with_combinations_that_are_none_is_refused(model, combinations, tmp_path):
    other = pickle.loads(pickle.dumps(model))
    other._combinations = np.array(combinations)
    with pytest.raises(ValueError, match="not saved"):
        save(other, tmp_path / "model.skpert")


def test_adapting_keeps_all_that_is_known(model, screen, tmp_path):
    new = np.isin(screen.A, ["P0", "P0+P1", "P2"])
    A = np.where(screen.A == "P0", "Q", np.where(screen.A == "P2", "R", "Q+R"))
    adapted = model.adapt(screen.X[new], A[new])
    designs = [*model.perturbations_, *screen.combinations, "P0+P1+P2"]
    before, after = (m.predict_intervention(designs) for m in (model, adapted))
    np.testing.assert_array_equal(before, after)
    both = shifts(adapted, ["Q", "P1", "Q+P1"])
    np.testing.assert_allclose(both[2], 0.7 * (both[0] + both[1]), atol=1e-5)
    pd.testing.assert_frame_equal(interactions(model), interactions(adapted))
    save(adapted, tmp_path / "model.skpert")
    again = load(tmp_path / "model.skpert").predict_intervention(["Q+P2"])
    np.testing.assert_array_equal(again, adapted.predict_intervention(["Q+P2"]))


def test_refining_and_going_on_keep_combinations(screen):
    model = SAMSVAE(interactions=True, warm_start=True, **PARAMETERS).fit(screen.X, screen.A)
    refined = model.refine(screen.X, screen.A)
    assert interactions(refined).shape == interactions(model).shape
    before = model._combinations
    model.fit(screen.X, screen.A)
    np.testing.assert_array_equal(model._combinations, before)
    assert len(interactions(model)) == 2 * len(before)


def test_going_on_with_the_first_combinations_is_refused(screen):
    model = SAMSVAE(interactions=True, warm_start=True, **PARAMETERS)
    single = ~pd.Series(screen.A).str.contains("+", regex=False).to_numpy()
    with pytest.warns(DataWarning, match="finds no combination"):
        model.fit(screen.X[single], screen.A[single])
    with pytest.raises(ValueError, match="had no combinations with interactions; these have"):
        model.fit(screen.X, screen.A)
    model.set_params(warm_start=False).fit(screen.X, screen.A)


def test_without_interactions_nothing_changes(screen):
    model = SAMSVAE(**PARAMETERS).fit(screen.X, screen.A)
    assert not any("interactions" in name for name in model.module_.state_dict())
    assert not hasattr(model, "_combinations")
    assert len(model.module_.n_treated) == 5
    with pytest.raises(ValueError, match=r"fit SAMSVAE\(interactions=True\)"):
        interactions(model)


def test_a_screen_without_combinations_adds_up(screen):
    single = np.array([("+" not in label) for label in screen.A])
    parameters, cells = PARAMETERS, (screen.X[single], screen.A[single])
    model = SAMSVAE(interactions=True, **parameters)
    with pytest.warns(DataWarning, match="no combination of at least 5"):
        model.fit(*cells)
    plain = SAMSVAE(**parameters).fit(*cells)
    np.testing.assert_array_equal(model.transform(screen.X), plain.transform(screen.X))
    with pytest.raises(ValueError, match="each part measured alone"):
        interactions(model)


def test_environments_and_clones(screen):
    obs = pd.DataFrame({"perturbation": screen.A, "batch": np.arange(len(screen.A)) % 2})
    obs["batch"] = obs["batch"].map({0: "a", 1: "b"})
    model = SAMSVAE(interactions=True, environment="batch", **PARAMETERS)
    model = clone(model).fit(screen.X, obs)
    assert model.get_params()["interactions"] is True
    assert len(interactions(model)) == 12
    assert model.predict_intervention(obs[:3]).shape == (3, 40)


def test_learned_edges_are_refused(screen):
    model = SAMSVAE(interactions=True, edges="learned", **PARAMETERS)
    with pytest.raises(ValueError, match="needs edges='called'"):
        model.fit(screen.X, screen.A)


def test_weights_are_the_same_for_any_order_of_perturbations_in_a_label(model, screen):
    swapped = ["+".join(label.split("+")[::-1]) for label in screen.A[:30]]
    np.testing.assert_array_equal(
        model.score_cells(screen.X[:30], screen.A[:30]), model.score_cells(screen.X[:30], swapped)
    )
