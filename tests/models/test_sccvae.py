"""SCCVAE as an estimator: what it predicts, its graph, what it keeps and what it refuses."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import torch

from skpert import SCCVAE, load, save
from skpert._data import Cells
from skpert._upgrade import upgraded
from skpert.datasets import make_causal_shift
from skpert.exceptions import DataWarning
from skpert.models.sccvae import Independence, untreated

FAST = {
    "n_latent": 4,
    "n_hidden": 16,
    "n_layers": 1,
    "max_epochs": 3,
    "n_particles": 5,
    "random_state": 0,
}
KINDS = pytest.mark.parametrize("kind", ["kernel", "network"])
DAG = np.zeros((4, 4), dtype=int)
DAG[[3, 3, 0], [1, 0, 2]] = 1  # edges against the order of the modules
GRAPHS = [
    {"graph": "learned"},
    {"graph": "random", "edge_density": 0.7},
    {"graph": DAG},
    {"graph": "learned", "cyclic": True},
]


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


# What is predicted


@pytest.mark.parametrize("likelihood", ["normal", "negative_binomial"])
@pytest.mark.parametrize("name", ["P1", "P6"])
def test_without_penetrance_a_perturbation_is_the_control(likelihood, name):
    screen, model = fitted(likelihood=likelihood)
    none = model.with_penetrance({name: 0.0})
    control = model.predict_intervention("control")
    np.testing.assert_array_equal(none.predict_intervention(name), control)
    X, as_control = screen.X[:30], np.full(30, "control")
    np.testing.assert_array_equal(
        none.predict_intervention(name, X), model.predict_intervention("control", X)
    )
    np.testing.assert_array_equal(
        none.score_cells(X, np.full(30, name)), model.score_cells(X, as_control)
    )
    assert not np.allclose(model.predict_intervention(name), control, atol=1e-3)


@KINDS
@pytest.mark.parametrize("parameters", [*GRAPHS, {"graph": None}])
def test_states_are_those_of_the_equation(kind, parameters):
    screen, model = fitted(shift_encoder=kind, **parameters)
    assert (model.shift_ >= 0).all()
    product = model.penetrance_[:, None] * model.shift_
    np.testing.assert_allclose(model.embedding_, product, rtol=1e-5)
    sums = copy.copy(model).set_params(penetrance="sum")
    np.testing.assert_allclose(sums.shift_.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(sums.penetrance_, model.embedding_.sum(1), rtol=1e-5)
    B = np.zeros((4, 4)) if parameters["graph"] is None else model.graph_
    dosage = np.zeros((len(screen.X), 6))
    dosage[1::4, 2] = dosage[2::4, 0] = dosage[2::4, 4] = 1
    dosage[3::4, 5] = 0.3
    posterior = model.posterior(screen.X, dosage)
    change = dosage @ model.embedding_ @ np.linalg.inv(np.eye(4) - B)
    np.testing.assert_allclose(posterior.z - posterior.z_basal, change, atol=1e-5)
    np.testing.assert_array_equal(posterior.z[::4], posterior.z_basal[::4])
    v = posterior.z_exogenous + dosage @ model.embedding_
    np.testing.assert_allclose(posterior.z @ (np.eye(4) - B), v, atol=1e-5)
    np.testing.assert_array_equal(posterior.z, model.transform(screen.X))


def test_designs_that_mean_the_same_are_predicted_the_same():
    _, model = fitted()
    dosage = np.zeros((4, 6))
    dosage[1, 0] = dosage[2, [0, 3]] = 1
    dosage[3, 0] = 0.5
    control, single, double, half = model.predict_intervention(dosage)
    np.testing.assert_array_equal(model.predict_intervention("control")[0], control)
    np.testing.assert_array_equal(model.predict_intervention("P0+control")[0], single)
    np.testing.assert_array_equal(model.predict_intervention("P3+P0")[0], double)
    halved = model.with_penetrance({"P0": float(model.penetrance_[0]) / 2})
    np.testing.assert_allclose(halved.predict_intervention("P0")[0], half, atol=1e-6)
    turned = model.with_penetrance({"P0": -1.0})
    assert turned.penetrance_[0] == -1
    change, back = (m.predict_intervention("P0")[0] - control for m in (model, turned))
    assert np.corrcoef(change, back)[0, 1] < 0


def test_control_cells_are_predicted_by_their_mean_and_the_noise_is_the_residual():
    screen, model = fitted(validation_fraction=0)
    X, A = screen.X[screen.train], screen.A[screen.train]
    control = model.predict_intervention("control")[0]
    np.testing.assert_allclose(control, X[A == "control"].mean(0), atol=1e-4)
    decoded = np.mean([decode(model, X, seed) for seed in range(20)], 0)
    scale = model.module_.decoder.head.log_scale.detach().exp()
    np.testing.assert_allclose(scale**2, decoded, rtol=0.1)


def decode(model, X, seed):
    """Mean squared error of each gene, decoded from a draw of the posterior."""
    torch.manual_seed(seed)
    x, module = torch.from_numpy(X), model.module_
    with torch.no_grad():
        u = module.structure(module.encoder(x).sample())
        error = module.decoder(u, None, x[:, :0]).mean - x
    return error.square().mean(0).numpy()


def test_a_cell_without_perturbation_stays_itself_and_keeps_its_noise_under_one():
    screen, model = fitted()
    X = screen.X[screen.A == "control"].copy()
    np.testing.assert_allclose(model.predict_intervention("control", X), X, atol=1e-5)
    model.module_.encoder.hidden.linears[0].weight.data[:, 3] = 0  # nobody reads gene 3
    noisy = X.copy()
    noisy[:, 3] += np.random.default_rng(0).normal(size=len(X))
    np.testing.assert_array_equal(model.transform(noisy), model.transform(X))
    change, same = (model.predict_intervention("P2", x) - x for x in (X, noisy))
    np.testing.assert_allclose(change, same, atol=1e-5)
    assert np.abs(change).max() > 1e-3
    drawn = model.sample_intervention("P2", 5, X=X[:1], random_state=0)[0]
    np.testing.assert_allclose(drawn, np.tile(X[:1] + change[:1], (5, 1)), atol=1e-5)


# The graph


def test_a_learned_graph_has_all_edges_forward_and_a_given_one_its_own():
    graph = fitted()[1].graph_
    np.testing.assert_array_equal(graph != 0, np.triu(np.ones((4, 4)), 1) > 0)
    np.testing.assert_array_equal(fitted(graph=DAG)[1].graph_ != 0, DAG > 0)
    frame = fitted(graph=pd.DataFrame(DAG))[1].graph_
    np.testing.assert_array_equal(frame, fitted(graph=DAG.tolist())[1].graph_)
    cyclic = fitted(cyclic=True)[1].graph_
    np.testing.assert_array_equal(cyclic != 0, np.eye(4) == 0)
    assert np.abs(np.linalg.eigvals(cyclic)).max() < 0.91
    both = DAG + DAG.T
    np.testing.assert_array_equal(fitted(graph=both, cyclic=True)[1].graph_ != 0, both > 0)


def test_a_random_graph_has_its_density_and_follows_the_seed():
    settings = {"graph": "random", "n_latent": 100, "edge_density": 0.3, "max_epochs": 1}
    first, again, other = (
        fitted(**settings, random_state=seed)[1].graph_ != 0 for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert not np.tril(first).any()
    assert first[np.triu_indices(100, 1)].mean() == pytest.approx(0.3, abs=0.03)
    cyclic = fitted(**settings, cyclic=True)[1].graph_ != 0
    assert not cyclic.diagonal().any()
    assert cyclic.sum() / (100 * 99) == pytest.approx(0.3, abs=0.02)
    none = fitted(graph="random", edge_density=0)[1].graph_
    assert not none.any()


def test_without_a_graph_there_is_none_to_show():
    _, model = fitted(graph=None)
    assert not hasattr(model, "graph_")
    with pytest.raises(AttributeError, match="no attribute 'graph_'"):
        _ = model.graph_


@pytest.mark.parametrize("parameters", GRAPHS)
def test_no_score_and_no_prediction_tell_a_graph_from_none(parameters):
    """The decoder of the model without graph begins with what the graph did."""
    screen, model = fitted(**parameters)
    model.module_.structure.weight.data *= 3
    inverse = np.linalg.inv(np.eye(4) - model.graph_)
    other = copy.deepcopy(model).set_params(graph=None)
    other.module_.structure = Independence()
    weight = other.module_.decoder.hidden.linears[0].weight
    weight.data = weight.data @ torch.from_numpy(inverse).float().T
    first, second = model.transform(screen.X), other.transform(screen.X)
    np.testing.assert_allclose(second @ inverse, first, atol=1e-4)
    names, singles = ["control", "P0", "P3+P1", "P6"], ["P0"] * 20
    X = screen.X[:20]
    for question in (
        lambda m: m.predict_intervention(names),
        lambda m: m.predict_intervention("P2+P6", X),
        lambda m: m.score_cells(screen.X, screen.A),
        lambda m: m.posterior(X, singles).z_exogenous,
        lambda m: m.adapt(screen.X[screen.test], screen.A[screen.test]).embedding_,
    ):
        np.testing.assert_allclose(question(other), question(model), rtol=1e-4, atol=1e-4)


# Training


@pytest.mark.parametrize("objective", ["matched", "published"])
def test_the_kl_is_warmed_up_over_its_epochs(objective):
    """With a rate of nearly nothing, the networks stay as they are."""
    settings = {"objective": objective, "learning_rate": 1e-12, "max_epochs": 6}
    _, model = fitted(**settings, n_epochs_kl_warmup=4)
    ramp = model.history_["kl_z"].to_numpy()
    _, constant = fitted(**settings, n_epochs_kl_warmup=0)
    weights = ramp / constant.history_["kl_z"].mean()
    assert weights[0] == 0
    np.testing.assert_allclose(weights, [0, 0.25, 0.5, 0.75, 1, 1], rtol=0.1)


@pytest.mark.parametrize("objective", ["matched", "published"])
@KINDS
def test_the_same_seed_gives_the_same_model_and_another_does_not(objective, kind):
    first, again, other = (
        fitted(objective=objective, shift_encoder=kind, random_state=seed)[1] for seed in (0, 0, 1)
    )
    names = ["P0", "P6", "control"]
    expected = first.predict_intervention(names)
    np.testing.assert_array_equal(again.predict_intervention(names), expected)
    np.testing.assert_array_equal(first.predict_intervention(names), expected)
    np.testing.assert_array_equal(again.embedding_, first.embedding_)
    assert not np.allclose(other.embedding_, first.embedding_)


@KINDS
@pytest.mark.parametrize("parameters", [*GRAPHS, {"graph": None}])
def test_a_model_comes_back_from_a_file(kind, parameters, tmp_path):
    screen, model = fitted(shift_encoder=kind, **parameters)
    model = model.with_penetrance({"P1": 2.0})
    save(model, tmp_path / "model")
    for again in (load(tmp_path / "model"), pickle.loads(pickle.dumps(model))):
        names = ["P1", "P6", "P7+P2", "control"]
        np.testing.assert_allclose(
            again.predict_intervention(names), model.predict_intervention(names), atol=1e-6
        )
        np.testing.assert_allclose(again.embedding_, model.embedding_, atol=1e-6)
        X, A = screen.X[screen.test], screen.A[screen.test]
        assert again.score(X, A) == pytest.approx(model.score(X, A), rel=1e-6)
        if parameters["graph"] is not None:
            np.testing.assert_array_equal(again.graph_, model.graph_)


@pytest.mark.parametrize("kind", ["kernel"])
def test_what_was_adapted_comes_back_from_a_file(kind):
    screen, model = fitted(shift_encoder=kind)
    X, A = screen.X[screen.test], screen.A[screen.test]
    for other in (model.adapt(X, A), model.with_penetrance({"P6": 3.0, "P7": -1.0})):
        again = pickle.loads(pickle.dumps(other))
        np.testing.assert_array_equal(again.embedding_, other.embedding_)
        np.testing.assert_array_equal(again.perturbations_, other.perturbations_)
        names = ["P0", "P7+P6"]
        np.testing.assert_array_equal(
            again.predict_intervention(names), other.predict_intervention(names)
        )


@pytest.mark.parametrize("objective", ["matched", "published"])
@pytest.mark.parametrize("likelihood", ["negative_binomial", "zero_inflated_negative_binomial"])
def test_counts_of_unseen_perturbations_share_out_the_library(objective, likelihood):
    screen = make_screen("negative_binomial")
    X, A = screen.X[screen.train], screen.A[screen.train]
    model = SCCVAE(features=screen.features, likelihood=likelihood, objective=objective, **FAST)
    model.fit(X, A)
    predicted = model.predict_intervention(["P6", "P0", "control"], library_size=1000)
    assert (predicted > 0).all()
    if likelihood == "negative_binomial":
        np.testing.assert_allclose(predicted.sum(1), 1000, rtol=1e-4)
    else:
        assert (predicted.sum(1) < 1000).all()
    assert len(np.unique(predicted.round(4), axis=0)) == 3
    terms = model.set_params(max_epochs=10).fit(X, A).history_
    total = terms[["reconstruction", "response", "mmd"]].sum(1)
    assert total.iloc[-1] < total.iloc[0]


# Data at the edge


def test_normalised_expression_is_no_counts():
    screen = make_screen("negative_binomial")
    X = np.log1p(screen.X[screen.train])
    model = SCCVAE(features=screen.features, likelihood="negative_binomial", **FAST)
    with pytest.warns(DataWarning, match="not whole.*likelihood='normal'"):
        model.fit(X, screen.A[screen.train])


@KINDS
@pytest.mark.parametrize("objective", ["matched", "published"])
def test_a_single_control_cell_is_what_controls_are(kind, objective):
    screen = make_screen()
    X, A = screen.X[screen.train], screen.A[screen.train]
    kept = np.r_[np.flatnonzero(A == "control")[:1], np.flatnonzero(A != "control")]
    model = SCCVAE(features=screen.features, shift_encoder=kind, objective=objective, **FAST)
    model.set_params(validation_fraction=0).fit(X[kept], A[kept])
    np.testing.assert_allclose(model.predict_intervention("control"), X[kept[:1]], atol=1e-4)


def test_without_control_cells_effects_are_relative_to_all_cells():
    screen = make_screen()
    X, A = screen.X[screen.train], screen.A[screen.train]
    X, A = X[A != "control"], A[A != "control"]
    model = SCCVAE(features=screen.features, validation_fraction=0, **FAST)
    with pytest.warns(DataWarning, match="no control cell.*mean of all training cells"):
        model.fit(X, A)
    np.testing.assert_allclose(model.predict_intervention("control")[0], X.mean(0), atol=1e-4)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"graph": np.ones((4, 4)) - np.eye(4)}, "graph has a cycle.*cyclic=True"),
        ({"graph": np.zeros((3, 3))}, r"\(4, 4\).*got shape \(3, 3\)"),
        ({"graph": np.zeros(4)}, "Expected 2D array, got 1D"),
        ({"graph": 0.5 * DAG}, "array of 0 and 1.*from 0 to 0.5"),
        ({"graph": -DAG}, "from -1 to 0"),
        ({"graph": np.where(DAG, np.nan, 0)}, "graph contains NaN"),
        ({"graph": np.eye(4), "cyclic": True}, "zeros on the diagonal"),
        ({"graph": "dag"}, "'graph' parameter"),
        ({"edge_density": 1.5}, "'edge_density' parameter"),
        ({"shift_encoder": "linear"}, "'shift_encoder' parameter"),
        ({"objective": "elbo"}, "'objective' parameter"),
        ({"mmd_weight": -1.0}, "'mmd_weight' parameter"),
        ({"n_components": 0}, "'n_components' parameter"),
        ({"features": {"P0": [1.0]}}, "not in the table of features: 'P1'"),
        ({"features": {"P0": [1.0], "P1": [1.0, 2.0]}}, "of one length"),
        ({"features": "pca"}, "must be 'genes' or 'one_hot'"),
        ({"features": "genes"}, "needs control cells and the names of genes"),
    ],
)
def test_parameters_that_make_no_sense_are_named(parameters, message):
    with pytest.raises(ValueError, match=message):
        fitted(**parameters)


def test_without_features_that_fit_one_hot_ones_are_taken_and_it_is_said():
    with pytest.warns(DataWarning, match="one-hot features"):
        _, model = fitted(features=None)
    assert model.features_.kind_ == "one_hot"


def test_environments_change_the_decoder_and_not_the_perturbation():
    screen = make_screen()
    A = pd.DataFrame({"perturbation": screen.A, "batch": np.arange(len(screen.A)) % 3})
    X, seen = screen.X.copy(), screen.train
    X[A["batch"] == 2] += 5
    model = SCCVAE(features=screen.features, environment=["batch"], **FAST)
    model.fit(X[seen], A.iloc[seen])
    names = pd.DataFrame({"perturbation": ["P6", "P6", "control", "control"], "batch": [0, 2] * 2})
    same = model.with_penetrance({"P6": 0.0}).predict_intervention(names)
    np.testing.assert_array_equal(same[:2], same[2:])
    assert not np.allclose(same[1], same[0], atol=0.01)
    controls = A["perturbation"] == "control"
    unchanged = model.predict_intervention(A[controls], X[controls])
    np.testing.assert_allclose(unchanged, X[controls], atol=1e-5)


# What a penetrance is


def test_lengths_do_not_depend_on_how_penetrances_were_trained():
    screen, model = fitted(n_latent=3, validation_fraction=0)
    stronger = copy.copy(model)
    stronger.module_ = module = copy.deepcopy(model.module_)
    with torch.no_grad():
        module.penetrance.rows *= 3
        module._measure_lengths(*cells_of(model, screen))
    np.testing.assert_allclose(stronger.penetrance_, model.penetrance_, rtol=1e-4)
    np.testing.assert_allclose(stronger.embedding_, 3 * model.embedding_, rtol=1e-5)


def cells_of(model, screen):
    """Training cells, and those that are controls."""
    cells = Cells.of_design(screen.X[screen.train], model.design_, screen.A[screen.train])
    return cells, untreated(cells)


def test_an_unseen_perturbation_has_a_length_in_the_unit_of_the_others():
    _, model = fitted()
    reached = model.reach(["P6"])
    longer = float(model.module_.longer.median())
    length = np.linalg.norm(reached.embedding_[6]) * longer
    assert reached.penetrance_[6] == pytest.approx(length, rel=1e-5)


def test_what_was_saved_before_there_were_lengths_has_sums():
    _, model = fitted()
    state = model.__getstate__()
    weights = {k: v for k, v in state["module_"].items() if k != "longer"}
    older = {k: v for k, v in state.items() if k != "penetrance"} | {"module_": weights}
    restored = SCCVAE.__new__(SCCVAE)
    restored.__setstate__(upgraded(SCCVAE, older))
    np.testing.assert_allclose(restored.shift_.sum(1), 1, atol=1e-6)
    np.testing.assert_array_equal(restored.embedding_, model.embedding_)
