"""How often edges and latents come back when a model is fitted again."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone

from skpert import IVAE, SAMSVAE, SVAE, VAE, SVAEPlus
from skpert._bootstrap import bootstrapped, conditions, drawn
from skpert._data import Cells
from skpert.datasets import make_sparse_shift
from skpert.exceptions import DataWarning
from skpert.inspection import stability
from skpert.inspection._stability import matched
from skpert.preprocessing import PerturbationEncoder


def simulated(effect_size=4.0, n_cells=100):
    return make_sparse_shift(
        20,
        n_cells_per_perturbation=n_cells,
        n_control_cells=100,
        n_latent=3,
        n_genes=50,
        n_targets=1,
        effect_size=effect_size,
        library_size=5000,
        random_state=0,
    )


@pytest.fixture(scope="module")
def screen():
    return simulated()


@pytest.fixture(scope="module")
def model(screen):
    return SVAEPlus(n_latent=3, max_epochs=25, random_state=0).fit(screen.X, screen.A)


@pytest.fixture(scope="module")
def found(model, screen):
    return stability(model, screen.X, screen.A, n_refits=2, random_state=0)


@pytest.fixture(scope="module")
def quick(screen):
    return SVAEPlus(n_latent=3, n_hidden=8, max_epochs=2, random_state=0).fit(screen.X, screen.A)


def test_strong_effects_come_back_and_nothing_else(found, model, screen):
    called = (model.targets() != 0).to_numpy()
    assert called.sum() == 20
    np.testing.assert_array_equal(found.edges, called)
    assert (found.latents["correlation"] > 0.9).all()
    assert found.latents["returned"].tolist() == [1, 1, 1]


def test_tables_have_the_names_of_the_model(found, model):
    for table in (found.edges, found.effect_std):
        assert table.index.tolist() == model.perturbations_.tolist()
        assert table.columns.tolist() == model.get_feature_names_out().tolist()
    assert found.latents.index.tolist() == model.get_feature_names_out().tolist()


def test_effects_spread_by_about_their_standard_error(found, model):
    ratio = found.effect_std.to_numpy() / model.standard_error_
    assert 0.3 < np.median(ratio) < 3


def test_the_number_of_jobs_changes_nothing_and_the_seed_does(quick, screen):
    options = {"n_refits": 2, "random_state": 3}
    X, A = screen.X[:600], screen.A[:600]
    one = stability(quick, X, A, n_jobs=1, **options)
    two = stability(quick, X, A, n_jobs=2, **options)
    other = stability(quick, X, A, n_refits=2, random_state=4)
    for name, table in one.items():
        pd.testing.assert_frame_equal(table, two[name])
    assert not one.latents.equals(other.latents)


def test_seeds_are_full_fits(quick, screen):
    found = stability(quick, screen.X, screen.A, n_refits=1, resample="seeds", random_state=5)
    seed = np.random.RandomState(5).randint(2**31 - 1, size=1)[0]
    refit = clone(quick).set_params(random_state=int(seed)).fit(screen.X, screen.A)
    Z, other = (m.transform(screen.X)[:, : m.n_latent_] for m in (quick, refit))
    correlation = np.abs(np.corrcoef(Z.T, other.T)[: quick.n_latent_, quick.n_latent_ :])
    assert found.latents["correlation"].sum() <= correlation.max(1).sum() + 1e-4
    possible = np.append(correlation.round(4), 0)  # of a latent that is empty, or has no match
    assert np.isin(found.latents["correlation"].round(4), possible).all()
    assert found.effect_std.isna().all(axis=None)  # of a single number


def test_the_model_and_the_global_generators_stay_as_they_are(quick, screen):
    before, state = quick.transform(screen.X), torch.get_rng_state()
    stability(quick, screen.X, screen.A, n_refits=1, random_state=0)
    np.testing.assert_array_equal(quick.transform(screen.X), before)
    assert torch.equal(torch.get_rng_state(), state)


def test_latents_are_matched_by_absolute_correlation_and_signs_aligned():
    random = np.random.default_rng(0)
    Z, edges = random.normal(size=(500, 3)), random.random((6, 3)) < 0.5
    effects = random.normal(size=(6, 3))
    noise = 0.1 * random.normal(size=(500, 2))
    found = matched(Z, -2 * Z[:, [2, 0]] + noise, edges[:, [2, 0]], -effects[:, [2, 0]])
    np.testing.assert_array_equal(found[0][:, [0, 2]], edges[:, [0, 2]])
    np.testing.assert_allclose(found[2][:, [0, 2]], effects[:, [0, 2]])
    np.testing.assert_allclose(found[1], [1, 0, 1], atol=0.01)
    assert not found[0][:, 1].any()  # for it no latent is left
    assert np.isnan(found[2][:, 1]).all()


@pytest.mark.parametrize("empty", ["of the model", "of the refit"])
def test_a_latent_that_is_constant_or_another_has_no_match(empty):
    random = np.random.default_rng(0)
    Z, Z_refit = (random.normal(size=(500, 3)) for _ in range(2))
    Z_refit[:, 0] = Z[:, 0]
    (Z if empty == "of the model" else Z_refit)[:, 2] = 0
    edges, correlation, effects = matched(Z, Z_refit, np.ones((4, 3), bool), np.ones((4, 3)))
    assert edges.tolist() == [[True, False, False]] * 4
    assert correlation[0] == pytest.approx(1)
    assert correlation[1:].max() < 0.2
    assert np.isnan(effects[:, 1:]).all()


@pytest.mark.parametrize(
    "model",
    [
        SVAE(edges="learned"),
        SVAEPlus(edges="learned", init="random"),
        SVAEPlus(edges="learned", bound="exact"),
        SAMSVAE(),
        SAMSVAE(edges="learned", mask_prior=(1, 10), mask_posterior="beta"),
        SAMSVAE(correlated_embedding=True, correlated_basal=False),
    ],
    ids=str,
)
def test_every_model_with_edges(model, screen):
    model = clone(model).set_params(n_latent=3, n_hidden=8, max_epochs=3, random_state=0)
    X, A = screen.X[:600], screen.A[:600]
    model.fit(X, A)
    found = stability(model, X, A, n_refits=1, random_state=0)
    assert found.edges.isin([0, 1]).all(axis=None)
    refit = bootstrapped(model, X, A, 0, 0.5)
    for (name, before), (_, after) in zip(  # trained and fixed are the same parts
        model.module_.named_parameters(), refit.module_.named_parameters(), strict=True
    ):
        assert before.requires_grad == after.requires_grad, name


def test_a_model_adapted_or_refined_is_trained_on_whole(screen):
    last = screen.A == "P19"
    X, A = screen.X, screen.A
    model = SVAEPlus(n_latent=3, n_hidden=8, max_epochs=3, random_state=0)
    adapted = model.fit(X[~last], A[~last]).adapt(X[last], A[last])
    for other in (adapted, adapted.refine(X, A)):
        found = stability(other, X, A, n_refits=1, random_state=0)
        assert found.edges.index.tolist() == other.perturbations_.tolist()
        assert len(found.edges) == 20


def test_frames_with_names_of_cells(screen):
    X = pd.DataFrame(screen.X[:300], index=[f"cell{i}" for i in range(300)])
    X.columns = [f"gene{i}" for i in range(X.shape[1])]
    A = pd.DataFrame({"perturbation": screen.A[:300]}, index=X.index)
    model = SVAEPlus(n_latent=2, n_hidden=4, max_epochs=2, random_state=0).fit(X, A)
    model.set_output(transform="pandas")
    assert stability(model, X, A, n_refits=1, random_state=0).edges.shape[1] == 2


def test_every_condition_keeps_its_number_of_cells():
    A = ["control"] * 3 + ["A"] * 4 + ["B+A"] * 2 + ["B"] + ["A+B"] * 3
    X = np.arange(13.0)[:, None]
    encoder = PerturbationEncoder(additive=True).fit(A)
    cells = Cells.of_design(X.astype(np.float32), encoder, A)
    condition = conditions(cells)
    assert len(condition.unique()) == 4
    torch.manual_seed(0)
    seen = set()
    for _ in range(50):
        index = drawn(condition)
        assert torch.equal(condition[index].bincount(), condition.bincount())
        seen |= {tuple(index.tolist())}
    assert len(seen) > 40
    assert {i for index in seen for i in index} == set(range(13))


def test_dosages_of_one_perturbation_are_one_condition():
    dosage = np.array([[0.0, 0.0], [0.5, 0.0], [1.5, 0.0], [0.0, 2.0], [1.0, 1.0]])
    encoder = PerturbationEncoder(additive=True).fit(dosage)
    cells = Cells.of_design(np.ones((5, 1), dtype=np.float32), encoder, dosage)
    condition = conditions(cells)
    assert condition[1] == condition[2]
    assert len(condition.unique()) == 4


def test_a_bootstrap_goes_through_all_phases_again_from_trained_weights(quick, screen):
    X, A = screen.X[:600], screen.A[:600]
    model = clone(quick).set_params(max_epochs=15).fit(X, A)
    refit = bootstrapped(model, X, A, 0, 0.2)
    assert refit.n_iter_ == 3
    assert refit.history_["phase"].tolist() == ["dense", "sparse", "sparse"]
    fresh = clone(model).set_params(max_epochs=3).fit(X, A)
    assert refit.score(X, A) > fresh.score(X, A)


def test_bad_input_is_refused(quick, screen):
    X, A = screen.X, screen.A
    for n_refits in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="n_refits must be an integer of at least 1"):
            stability(quick, X, A, n_refits=n_refits)
    with pytest.raises(ValueError, match="resample must be 'cells' or 'seeds', got 'genes'"):
        stability(quick, X, A, resample="genes")
    with pytest.raises(ValueError, match="fdr must be in"):
        stability(quick, X, A, fdr=2)
    rest = ~np.isin(A, ["P03", "P05"])
    with pytest.raises(ValueError, match="2 perturbations of the fit have no cells in A: 'P0"):
        stability(quick, X[rest], A[rest])
    with pytest.raises(ValueError, match="A has no control cells"):
        stability(quick, X[A != "control"], A[A != "control"])
    with pytest.raises(ValueError, match="not known|unknown|Unknown"):
        stability(quick, X, np.where(A == "P03", "new", A))
    with pytest.raises(ValueError, match="not fitted"):
        stability(clone(quick), X, A)


@pytest.mark.parametrize("cls", [VAE, IVAE])
def test_models_without_called_edges_are_refused(cls, screen):
    model = cls(n_latent=2, n_hidden=4, max_epochs=1, random_state=0).fit(screen.X, screen.A)
    with pytest.raises(ValueError, match=f"{cls.__name__} calls no edges: give SVAEPlus"):
        stability(model, screen.X, screen.A)


def test_warnings_of_refits_are_given_once():
    screen = simulated(n_cells=20)
    X = screen.X[:200] / 2
    model = SVAEPlus(n_latent=2, n_hidden=4, max_epochs=1, random_state=0)
    with pytest.warns(DataWarning):
        model.fit(X, screen.A[:200])
    with pytest.warns(DataWarning) as caught:
        stability(model, X, screen.A[:200], n_refits=3, random_state=0)
    assert len({str(warning.message) for warning in caught}) == len(caught)
