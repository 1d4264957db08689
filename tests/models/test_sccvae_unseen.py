"""SCCVAE and perturbations it was not trained on: features, set and learned penetrances."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.preprocessing import normalize

from skpert import SCCVAE
from skpert.datasets import make_causal_shift
from skpert.models.sccvae import similarity_weights

FAST = {
    "n_latent": 4,
    "n_hidden": 16,
    "n_layers": 1,
    "max_epochs": 3,
    "n_particles": 5,
    "random_state": 0,
}
KINDS = pytest.mark.parametrize("kind", ["kernel", "network"])


def make_screen(likelihood="normal"):
    """Perturbations P0 to P5 are seen, P6 and P7 are not."""
    return make_causal_shift(
        8,
        n_cells_per_perturbation=40,
        n_control_cells=80,
        n_latent=4,
        n_genes=50,
        likelihood=likelihood,
        random_state=0,
    )


def fitted(**parameters):
    screen = make_screen(parameters.get("likelihood", "normal"))
    model = SCCVAE(**FAST | {"features": screen.features} | parameters)
    return screen, model.fit(screen.X[screen.train], screen.A[screen.train])


# Unseen perturbations


@KINDS
def test_unseen_perturbations_are_predicted_from_their_features_alone(kind):
    screen, model = fitted(shift_encoder=kind)
    twins = pd.concat([screen.features, screen.features.set_axis([f"Q{i}" for i in range(8)])])
    _, other = fitted(shift_encoder=kind, features=twins)
    np.testing.assert_array_equal(
        other.predict_intervention("P1"), model.predict_intervention("P1")
    )
    expected = model.predict_intervention(["P6", "P7"])
    np.testing.assert_allclose(other.predict_intervention(["Q6", "Q7"]), expected, atol=1e-6)
    many = model.predict_intervention(["P7", "P0", "P6", "P7", "control"])
    np.testing.assert_allclose(many[[2, 0]], expected, atol=1e-6)
    np.testing.assert_array_equal(many[0], many[3])
    np.testing.assert_array_equal(model.perturbations_, [f"P{i}" for i in range(6)])
    pair = model.predict_intervention("P7+P6")
    np.testing.assert_allclose(model.predict_intervention("P6+P7"), pair, atol=1e-6)


def test_an_unseen_perturbation_has_the_shift_and_penetrance_of_similar_ones():
    screen, model = fitted(penetrance="sum")
    model = model.with_penetrance({"P0": -2.0, "P3": 0.5})
    weights = similarity_weights(*np.split(screen.features.to_numpy(), [6]))
    penetrance = weights @ model.penetrance_
    strength = weights * np.abs(model.penetrance_)
    shift = strength @ model.shift_ / strength.sum(1, keepdims=True)
    reached = model.with_penetrance(dict(zip(["P6", "P7"], penetrance, strict=True)))
    np.testing.assert_allclose(reached.shift_[6:], shift, atol=1e-6)
    np.testing.assert_array_equal(reached.shift_[:6], model.shift_)
    np.testing.assert_allclose(
        reached.predict_intervention(["P6", "P7"]),
        model.predict_intervention(["P6", "P7"]),
        atol=1e-5,
    )


def test_what_has_the_features_of_a_known_perturbation_has_its_shift_by_the_network():
    features = make_screen().features
    features.loc["Q"] = features.loc["P2"]
    _, model = fitted(shift_encoder="network", features=features)
    shift = model.with_penetrance({"Q": 1.0}).shift_[6]
    np.testing.assert_allclose(normalize([shift]), normalize(model.shift_[2:3]), atol=1e-6)


@KINDS
def test_unseen_labels_are_scored(kind):
    screen, model = fitted(shift_encoder=kind)
    X, A = screen.X[screen.test], screen.A[screen.test]
    scores = model.score_cells(X, A)
    both = model.score_cells(np.r_[screen.X[:30], X], np.r_[np.full(30, "P1"), A])
    assert scores.shape == (80,)
    assert both[30:].mean() == pytest.approx(scores.mean(), abs=0.5)
    far = model.with_penetrance({"P6": 50.0, "P7": 50.0})
    assert far.score(X, A) < model.score(X, A) - 10


def test_genes_are_known_by_their_names():
    screen = make_screen()
    X = pd.DataFrame(screen.X[screen.train], columns=[f"P{i}" for i in range(50)])
    A = screen.A[screen.train]
    permuted = X.iloc[:, np.random.default_rng(0).permutation(50)]
    model, other = (SCCVAE(features="genes", **FAST).fit(x, A) for x in (X, permuted))
    names = ["P0", "P7", "P49"]
    features = [m.features_.transform(names) for m in (model, other)]
    np.testing.assert_allclose(*features, atol=1e-4)
    mixed = copy.copy(model)
    mixed.features_, mixed._features_of_targets = other.features_, other._features_of_targets
    predictions = [m.predict_intervention(["P7", "P49"]) for m in (model, mixed)]
    np.testing.assert_allclose(*predictions, atol=1e-4)
    with pytest.raises(ValueError, match="unknown perturbations: 'P50'"):
        model.predict_intervention("P50")


def test_names_without_features_are_not_predicted():
    screen, model = fitted(features="one_hot")
    for question in (
        lambda: model.predict_intervention(["P1", "P6"]),
        lambda: model.score(screen.X[screen.test], screen.A[screen.test]),
        lambda: model.posterior(screen.X[:1], ["P6"]),
        lambda: model.with_penetrance({"P6": 1.0}),
    ):
        with pytest.raises(ValueError, match="unknown perturbations: 'P6'.*`features`"):
            question()
    _, model = fitted()
    with pytest.raises(ValueError, match="unknown perturbations: 'P8'"):
        model.predict_intervention("P1+P8")


# Penetrances that are set or learned


@pytest.mark.parametrize(
    ("penetrance", "message"),
    [
        ({}, "finite numbers"),
        ({"P1": np.nan}, "finite numbers"),
        ({"P1": -np.inf}, "finite numbers"),
        ({"P1": 1.0, "Q": 1.0}, "unknown perturbations: 'Q'"),
    ],
)
def test_penetrances_that_make_no_sense_are_refused(penetrance, message):
    with pytest.raises(ValueError, match=message):
        fitted()[1].with_penetrance(penetrance)


def test_set_penetrances_change_a_copy_and_nothing_else():
    _, model = fitted()
    before = model.penetrance_.copy()
    other = model.with_penetrance(pd.Series({"P7": -0.7, "P2": 2.5}))
    np.testing.assert_array_equal(model.penetrance_, before)
    np.testing.assert_array_equal(other.perturbations_, [*model.perturbations_, "P7"])
    expected = np.append(before, -0.7).astype(np.float32)
    expected[2] = 2.5
    np.testing.assert_array_equal(other.penetrance_, expected)
    np.testing.assert_array_equal(other.shift_[:6], model.shift_)
    np.testing.assert_array_equal(
        other.predict_intervention(["P0", "control"]),
        model.predict_intervention(["P0", "control"]),
    )


def in_the_mean(model, name, penetrance, n_cells=7):
    """Cells whose mean is what the model predicts at this penetrance."""
    target = model.with_penetrance({name: penetrance}).predict_intervention(name)
    noise = np.random.default_rng(0).normal(size=(n_cells, target.shape[1]))
    return (target + noise - noise.mean(0)).astype(np.float32)


@KINDS
@pytest.mark.parametrize("share", [-1.5, 0.2, 1.0, 1.9])
def test_adapting_recovers_a_planted_penetrance_and_changes_nothing_else(kind, share):
    screen, model = fitted(shift_encoder=kind, penetrance="sum")
    largest = float(np.abs(model.penetrance_).max())
    X = in_the_mean(model, "P6", share * largest)
    controls = screen.X[screen.A == "control"]
    adapted = model.adapt(np.r_[X, controls], ["P6"] * len(X) + ["control"] * len(controls))
    step = 4 * largest / 60
    assert adapted.penetrance_[6] == pytest.approx(share * largest, abs=0.51 * step)
    assert adapted.perturbations_.tolist() == [f"P{i}" for i in range(7)]
    reached = model.with_penetrance({"P6": 1.0})
    np.testing.assert_allclose(adapted.shift_, reached.shift_, atol=1e-6)
    np.testing.assert_array_equal(adapted.penetrance_[:6], model.penetrance_)
    np.testing.assert_array_equal(adapted.shift_[:6], model.shift_)
    names = ["control", "P0", "P4+P1"]
    np.testing.assert_array_equal(
        adapted.predict_intervention(names), model.predict_intervention(names)
    )
    np.testing.assert_array_equal(adapted.transform(X), model.transform(X))
    weights, kept = model.module_.state_dict(), adapted.module_.state_dict()
    for name in weights:
        if not name.startswith(("shifts", "penetrance")):
            assert torch.equal(weights[name], kept[name]), name
    assert len(adapted.history_) == 0


def test_several_new_perturbations_are_adapted_to_each_by_its_own_cells():
    _, model = fitted()
    X = [in_the_mean(model, name, c) for name, c in (("P6", 0.9), ("P7", -0.4))]
    alone = [
        model.adapt(x, [name] * 7).penetrance_[6] for x, name in zip(X, ["P6", "P7"], strict=True)
    ]
    pairs = np.full_like(X[0], 100.0)
    adapted = model.adapt(np.r_[X[1], pairs, X[0]], ["P7"] * 7 + ["P6+P7"] * 7 + ["P6"] * 7)
    np.testing.assert_allclose(adapted.penetrance_[6:], alone, atol=1e-6)
    in_turn = model.adapt(X[0], ["P6"] * 7).adapt(X[1], ["P7"] * 7)
    np.testing.assert_allclose(in_turn.embedding_, adapted.embedding_, atol=1e-5)


def test_with_one_hot_features_a_new_perturbation_has_the_most_alike_shift():
    _, model = fitted(features="one_hot", max_epochs=10, penetrance="sum")
    X = in_the_mean(model, "P4", 1.5)
    adapted = model.adapt(X, ["new"] * len(X))
    np.testing.assert_allclose(adapted.shift_[6], model.shift_[4], atol=1e-6)
    step = 4 * float(np.abs(model.penetrance_).max()) / 60
    assert adapted.penetrance_[6] == pytest.approx(1.5, abs=step)


def test_adapting_refuses_what_is_known_or_has_no_features():
    screen, model = fitted()
    with pytest.raises(ValueError, match="'P1'.* known already"):
        model.adapt(screen.X[:4], ["P1", "P1", "P6", "P6"])
    with pytest.raises(ValueError, match="not in the table of features: 'P9'"):
        model.adapt(screen.X[:4], ["P6", "P6", "P9", "P9"])


# Recovery


@pytest.mark.slow
@KINDS
def test_responses_and_sizes_of_effects_are_recovered(kind):
    """The length of c S is the same in all rotations of the states, unlike its sum, c."""
    screen = make_causal_shift(
        24,
        n_unseen=4,
        n_cells_per_perturbation=60,
        n_control_cells=400,
        n_latent=5,
        n_genes=60,
        random_state=0,
    )
    model = SCCVAE(**FAST | {"n_latent": 5, "n_hidden": 32, "max_epochs": "auto"})
    model.set_params(features=screen.features, shift_encoder=kind)
    model.fit(screen.X[screen.train], screen.A[screen.train])
    lengths = (np.linalg.norm(e, axis=1) for e in (screen.effect[:20], model.embedding_))
    assert np.corrcoef(*lengths)[0, 1] > 0.9
    names = ["control", *screen.perturbations]
    truth, predicted = screen.expected(names), model.predict_intervention(names)
    changes = (truth[1:] - truth[0], predicted[1:] - predicted[0])
    correlation = [np.corrcoef(*change)[0, 1] for change in zip(*changes, strict=True)]
    assert np.median(correlation[:20]) > 0.94
    assert np.median(correlation[20:]) > 0.75


def test_reaching_shows_what_is_expected_of_unseen_perturbations():
    _, model = fitted()
    reached = model.reach(["P7", "P0", "P6+P1"])
    assert reached.perturbations_.tolist() == [*model.perturbations_, "P6", "P7"]
    np.testing.assert_array_equal(reached.penetrance_[:6], model.penetrance_)
    expected = model.predict_intervention(["P6", "P7"])
    np.testing.assert_array_equal(reached.predict_intervention(["P6", "P7"]), expected)
    told = model.with_penetrance(dict(zip(["P6", "P7"], reached.penetrance_[6:], strict=True)))
    np.testing.assert_allclose(told.predict_intervention(["P6", "P7"]), expected, atol=1e-6)
    assert model.reach("P0") is model


@pytest.mark.parametrize(
    "penetrance", [2.0, [1.0, 2.0], {"P0": "strong"}, {"P0": 1, "control": 1}]
)
def test_penetrances_that_are_no_numbers_by_name_are_refused(penetrance):
    with pytest.raises(ValueError, match="penetrance must map names"):
        fitted()[1].with_penetrance(penetrance)


def test_components_of_genes_come_from_so_many_control_cells(monkeypatch):
    """Rows become dense: of a large screen only some are taken, evenly."""
    screen = make_screen()
    frame = pd.DataFrame(screen.X, columns=[f"P{i}" for i in range(50)])
    monkeypatch.setattr("skpert.models.sccvae.MAX_CONTROLS", 20)
    settings = FAST | {"features": "genes", "n_components": 30, "validation_fraction": 0}
    few = SCCVAE(**settings).fit(frame, screen.A)
    assert few.features_.n_features_out_ == 20  # no more components than cells
