"""Predicted effects: exact for a linear model, paired arms, and those of skpert's own models."""

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array
from sklearn.utils import check_random_state

from skpert import IVAE, VAE
from skpert.exceptions import DataWarning
from skpert.inspection import _treatment_effects, average_treatment_effect
from skpert.preprocessing import PerturbationEncoder

FAST = {"n_latent": 3, "n_hidden": 16, "n_layers": 1, "max_epochs": 3, "batch_size": 32}
FAST |= {"device": "cpu", "random_state": 0, "learning_rate": 0.02}

A = np.repeat(["control", "P0", "P1", "P2"], 25)
X = np.random.default_rng(0).poisson(3.0, (100, 20)).astype(np.float32)
X[A == "P0", :5] *= 3
DONORS = np.tile(["d1", "d2"], 50)
X[DONORS == "d2", 5:10] *= 4


class LinearModel:
    """x = (z + a E) W + noise, with z and noise of a seed the same for every design."""

    def __init__(self, noise=1.0):
        random = np.random.default_rng(0)
        self.noise = noise
        self.W = random.normal(size=(3, 8))
        self.E = random.normal(size=(2, 3)) * [[1, 0, 1], [0, 1, 0]]  # embedding times mask
        self.effect = pd.DataFrame(self.E @ self.W, ["A", "B"])
        self.encoder = PerturbationEncoder().fit(["control", "A", "A", "B", "B"])

    def predict_intervention(self, A, X=None, *, library_size=None):
        return self.encoder.transform(A) @ self.E @ self.W

    def sample_intervention(self, A, n_samples, *, X=None, library_size=None, random_state=None):
        random = check_random_state(random_state)
        z, noise = random.normal(size=(n_samples, 3)), random.normal(size=(n_samples, 8))
        shift = self.encoder.transform(A) @ self.E
        return (z + shift[:, None]) @ self.W + self.noise * noise


@pytest.fixture(scope="module")
def model():
    return IVAE(**FAST).fit(pd.DataFrame(X, columns=[f"gene {g}" for g in range(20)]), A)


@pytest.fixture(scope="module")
def deep_model():
    """Counts so deep that cells differ by their latent state rather than by noise."""
    random = np.random.default_rng(0)
    z = random.normal(size=(400, 2)) + np.repeat([[0, 0], [1.0, 0]], 200, 0)
    rate = np.exp(z @ random.normal(size=(2, 20)))
    deep = random.poisson(5e4 * rate / rate.sum(1, keepdims=True))
    parameters = FAST | {"n_latent": 2, "max_epochs": 30, "likelihood": "poisson"}
    return IVAE(**parameters).fit(deep, np.repeat(["control", "A"], 200))


def mean(cells):
    return cells.mean(0)


# A model whose effects are known


def test_effects_of_a_linear_model_are_its_shifts_decoded():
    linear = LinearModel()
    effect = average_treatment_effect(linear, ["A", "B", "A+B", "control"], method="mean")
    expected = np.vstack([linear.effect, linear.effect.sum(), np.zeros(8)])
    np.testing.assert_allclose(effect, expected, rtol=0, atol=1e-12)
    assert effect.index.tolist() == ["A", "B", "A+B", "control"]
    drawn = average_treatment_effect(linear, ["A", "B"], statistic=mean, n_samples=3)
    np.testing.assert_allclose(drawn, linear.effect, rtol=0, atol=1e-12)  # noise cancels


def test_arms_with_cells_of_their_own_have_the_standard_error_of_two_samples():
    linear, n_samples = LinearModel(), 100
    options = {"method": "released", "statistic": mean, "n_samples": n_samples}
    effects = np.array(
        [average_treatment_effect(linear, "A", random_state=k, **options)[:1] for k in range(400)]
    )
    variance = (linear.W**2).sum(0) + linear.noise**2  # between cells
    z_scores = (effects[:, 0] - linear.effect.loc["A"].to_numpy()) / np.sqrt(
        2 * variance / n_samples
    )
    assert np.abs(z_scores.mean(0)).max() < 4 / np.sqrt(400)
    np.testing.assert_allclose(z_scores.std(0), 1, atol=0.15)


def test_a_statistic_sees_all_drawn_cells_as_they_are():
    linear = LinearModel()
    shapes = []

    def largest_spread(cells):
        shapes.append(cells.shape)
        return cells.std(0).max()

    effect = average_treatment_effect(linear, ["A", "B"], statistic=largest_spread, n_samples=2100)
    assert shapes == [(2100, 8)] * 3  # one control arm serves both
    np.testing.assert_allclose(effect, [[0], [0]], atol=1e-12)  # a shift does not widen
    second_moment = average_treatment_effect(
        linear, "A", statistic=lambda cells: np.cov(cells.T)[0, :2]
    )
    assert second_moment.shape == (1, 2)
    with pytest.raises(ValueError, match=r"a number or a vector, got an array of shape \(8, 8\)"):
        average_treatment_effect(linear, "A", statistic=lambda cells: cells.T @ cells)


# Models of skpert


@pytest.mark.parametrize("method", ["perturbseq", "mean"])
def test_without_effect_the_arms_are_the_same_cells(method):
    model = VAE(**FAST).fit(X, A)
    effect = average_treatment_effect(model, ["P0", "P2"], method=method, n_samples=50)
    np.testing.assert_array_equal(effect, np.zeros((2, 20)))
    released = average_treatment_effect(model, ["P0", "P2"], method="released", n_samples=50)
    assert (np.abs(released) > 0).mean(axis=None) > 0.9


def test_the_mean_is_the_difference_of_predictions(model):
    expected = model.predict_intervention(["P2", "P0"]) - model.predict_intervention("control")
    effect = average_treatment_effect(model, ["P2", "P0"], method="mean")
    np.testing.assert_allclose(effect, expected, rtol=1e-4, atol=1e-5)
    assert effect.columns.tolist() == model.feature_names_in_.tolist()
    larger = average_treatment_effect(model, ["P2", "P0"], method="mean", library_size=1000)
    one = average_treatment_effect(model, ["P2", "P0"], method="mean", library_size=1)
    np.testing.assert_allclose(larger, 1000 * one, rtol=1e-3, atol=1e-3)


def test_drawn_cells_are_those_of_the_estimator(model, monkeypatch):
    monkeypatch.setattr(_treatment_effects, "CHUNK", 20)
    random = np.random.RandomState(7)
    draws = [(n, random.randint(2**31 - 1)) for n in (20, 20, 10)]

    def log_mean(design):
        cells = [model.sample_intervention(design, n, random_state=s)[0] for n, s in draws]
        cells = np.concatenate(cells).astype(np.float64)
        return np.log2(1 + 1e4 * cells / cells.sum(1, keepdims=True)).mean(0)

    effect = average_treatment_effect(model, ["P1", "P0"], n_samples=50, random_state=7)
    for design in ("P0", "P1"):
        np.testing.assert_allclose(effect.loc[design], log_mean(design) - log_mean("control"))


def test_arms_that_start_from_the_same_cells_vary_less(deep_model):
    def spread(method):
        options = {"method": method, "n_samples": 40, "library_size": 1e4}
        effects = [
            average_treatment_effect(deep_model, "A", random_state=seed, **options).to_numpy()
            for seed in range(40)
        ]
        return np.std(effects, axis=0).mean()

    assert spread("perturbseq") < 0.8 * spread("released")


def test_both_ways_estimate_the_same_effect(deep_model):
    options = {"n_samples": 20_000, "library_size": 1e4}
    paired, released = (
        average_treatment_effect(deep_model, "A", method=method, **options).to_numpy()
        for method in ("perturbseq", "released")
    )
    assert np.abs(paired).max() > 0.3
    np.testing.assert_allclose(paired, released, atol=0.1)


@pytest.mark.parametrize("method", ["perturbseq", "mean", "released"])
def test_the_same_seed_gives_the_same_effect(model, method):
    effects = [
        average_treatment_effect(model, ["P0"], method=method, n_samples=20, random_state=seed)
        for seed in (0, 0, np.random.RandomState(0), 1)
    ]
    pd.testing.assert_frame_equal(effects[0], effects[1])
    pd.testing.assert_frame_equal(effects[0], effects[2])
    assert effects[0].equals(effects[3]) == (method == "mean")


@pytest.mark.parametrize("method", ["perturbseq", "mean"])
def test_order_and_form_of_designs_do_not_matter(model, method):
    names = ["P2", "control", "P0"]
    expected = average_treatment_effect(model, names, method=method, n_samples=20)
    assert expected.index.tolist() == names
    hot = np.array([[0.0, 0, 1], [0, 0, 0], [1, 0, 0]])
    frame = pd.DataFrame({"perturbation": names, "n_counts": [1, 2, 3]})
    forms = [np.array(names), pd.Series(names), pd.Categorical(names), frame, hot.tolist()]
    forms += [hot, csr_array(hot), pd.DataFrame(hot, columns=["P0", "P1", "P2"])]
    for form in forms:
        effect = average_treatment_effect(model, form, method=method, n_samples=20)
        pd.testing.assert_frame_equal(effect, expected)
    turned = average_treatment_effect(model, names[::-1], method=method, n_samples=20)
    pd.testing.assert_frame_equal(turned, expected[::-1])
    alone = average_treatment_effect(model, "P0", method=method, n_samples=20)
    pd.testing.assert_frame_equal(alone, expected.loc[["P0"]])


@pytest.mark.parametrize("method", ["perturbseq", "mean"])
def test_any_design_can_be_the_control(model, method):
    options = {"method": method, "n_samples": 20}
    there = average_treatment_effect(model, "P0", "P1", **options)
    back = average_treatment_effect(model, "P1", "P0", **options)
    np.testing.assert_array_equal(there, -back.to_numpy())
    both = average_treatment_effect(model, ["P0", "P1"], **options)
    np.testing.assert_allclose(there.loc["P0"], both.loc["P0"] - both.loc["P1"], atol=1e-12)


def test_the_control_is_the_estimators():
    model = IVAE(control="NT", **FAST).fit(X, np.where(A == "control", "NT", A))
    effect = average_treatment_effect(model, ["P0", "NT"], method="mean")
    assert not effect.loc["NT"].any()
    assert effect.loc["P0"].any()
    with pytest.raises(ValueError, match="unknown perturbations: 'control'"):
        average_treatment_effect(model, "P0", "control")


def test_effects_start_from_given_cells(model):
    cells = pd.DataFrame(X[:10], columns=model.feature_names_in_)
    effect = average_treatment_effect(model, "P0", method="mean", X=cells)
    moved, same = (model.predict_intervention(design, cells) for design in ("P0", "control"))
    np.testing.assert_allclose(effect.loc["P0"], (moved - same).mean(0), rtol=1e-4, atol=1e-5)
    drawn = average_treatment_effect(model, "P0", X=cells, n_samples=50)
    assert not drawn.equals(average_treatment_effect(model, "P0", n_samples=50))


def test_a_design_is_compared_within_its_environment():
    obs = pd.DataFrame({"perturbation": A, "donor": DONORS})
    model = IVAE(environment=["donor"], **FAST).fit(X, obs)
    designs = pd.DataFrame({"perturbation": ["P0", "P0", "P1"], "donor": ["d1", "d2", "d1"]})
    effect = average_treatment_effect(model, designs, method="mean")
    controls = model.predict_intervention(designs.assign(perturbation="control"))
    np.testing.assert_allclose(
        effect, model.predict_intervention(designs) - controls, rtol=1e-4, atol=1e-5
    )
    assert np.abs(controls[0] - controls[1]).max() > 1  # far more than the effects would be off


def test_drawn_cells_without_counts_are_left_out(model):
    with pytest.warns(DataWarning, match=r"of 400 drawn cells have no counts") as caught:
        effect = average_treatment_effect(model, "P0", n_samples=200, library_size=2)
    assert len(caught) == 1
    assert np.isfinite(effect).all(axis=None)
    with pytest.warns(DataWarning, match="400 of 400"):
        effect = average_treatment_effect(model, "P0", n_samples=200, library_size=1e-9)
    assert effect.isna().all(axis=None)


def test_real_values_have_means_but_no_log_counts():
    model = IVAE(likelihood="normal", **FAST).fit(X - 3, A)
    effect = average_treatment_effect(model, "P0", method="mean")
    np.testing.assert_allclose(
        average_treatment_effect(model, "P0", statistic=mean, n_samples=20_000), effect, atol=0.1
    )
    with pytest.raises(ValueError, match="use method='mean' for expression that can be negative"):
        average_treatment_effect(model, "P0")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"A": "P9"}, "unknown perturbations: 'P9'"),
        ({"A": []}, "A holds no design"),
        ({"control": "P9"}, "unknown perturbations: 'P9'"),
        ({"method": "difference"}, "method must be 'perturbseq', 'mean' or 'released'"),
        ({"n_samples": 0}, "n_samples must be an integer of at least 1"),
        ({"method": "mean", "statistic": mean}, "method='mean' draws no cells"),
        ({"library_size": -1}, "library_size must be a positive number"),
    ],
)
def test_bad_options_are_told(model, options, message):
    with pytest.raises(ValueError, match=message):
        average_treatment_effect(model, **{"A": "P0"} | options)
