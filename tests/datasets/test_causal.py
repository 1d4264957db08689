import pickle

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import softmax

from skpert.datasets import make_causal_shift
from skpert.datasets._causal import causal_states, topological_order

KINDS = {
    "normal": {},
    "linear": {"linear": True},
    "poisson": {"likelihood": "poisson"},
    "negative_binomial": {"likelihood": "negative_binomial"},
}
all_kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
NAMES = ["P0", "P1", "P2", "P3", "P4", "P5", "P6", "P7"]
CHAIN = np.eye(5, k=-1)  # 4 -> 3 -> 2 -> 1 -> 0, against the order of latents


def small(n_perturbations=8, *, n_cells_per_perturbation=30, random_state=0, **options):
    options = {"n_control_cells": 40, "n_latent": 5, "n_genes": 60} | options
    return make_causal_shift(
        n_perturbations,
        n_cells_per_perturbation=n_cells_per_perturbation,
        random_state=random_state,
        **options,
    )


def shift_of_cells(data):
    effect = dict(zip(data.perturbations, data.penetrance[:, None] * data.shift, strict=True))
    effect["control"] = np.zeros(data.shift.shape[1])
    return np.stack([effect[label] for label in data.A])


def test_causal_states_of_three_latents():
    B = np.array([[0, 0.5, -0.3], [0, 0, 0.8], [0, 0, 0]])
    z, shift = np.array([1, 2, -1]), 2 * np.array([0.2, 0.5, 0.3])
    np.testing.assert_allclose(causal_states(z, shift, B), [1.4, 3.7, 2.14], rtol=1e-12)
    np.testing.assert_allclose(causal_states(z, 0, B), [1, 2.5, 0.7], rtol=1e-12)
    inverse = [[1, 0.5, 0.1], [0, 1, 0.8], [0, 0, 1]]
    np.testing.assert_allclose(causal_states(np.eye(3), 0, B), inverse, atol=1e-12)
    assert np.linalg.slogdet(np.eye(3) - B) == (1, 0)


def test_names_of_latents_do_not_matter():
    rng = np.random.RandomState(0)
    B = np.triu(rng.normal(size=(6, 6)), k=1)
    z, shift, order = rng.normal(size=(9, 6)), rng.random_sample(6), rng.permutation(6)
    renamed = causal_states(z[:, order], shift[order], B[np.ix_(order, order)])
    np.testing.assert_allclose(renamed, causal_states(z, shift, B)[:, order], rtol=1e-10)


def test_causes_come_first():
    assert topological_order(CHAIN) == [4, 3, 2, 1, 0]
    assert topological_order(CHAIN.T) == [0, 1, 2, 3, 4]


@all_kinds
@pytest.mark.parametrize("graph", [None, CHAIN], ids=["drawn", "given"])
def test_states_solve_the_structural_equations(graph, kind):
    data = small(graph=graph, **kind)
    rebuilt = data.U @ data.weights + data.Z + shift_of_cells(data)
    np.testing.assert_allclose(data.U, rebuilt, rtol=1e-12, atol=1e-12)
    sign, log_volume = np.linalg.slogdet(np.eye(5) - data.weights)
    assert (sign, log_volume) == (1, pytest.approx(0, abs=1e-12))


def test_basal_states_are_standard_normal_whatever_was_done():
    data = small(n_cells_per_perturbation=400, n_control_cells=400)
    assert stats.kstest(data.Z.ravel(), "norm").pvalue > 1e-3
    for label in [*NAMES, "control"]:
        assert np.abs(data.Z[data.A == label].mean(axis=0)).max() < 4.5 / np.sqrt(400)


def test_control_cells_have_no_shift():
    data = small()
    control = data.A == "control"
    unmoved = causal_states(data.Z, 0, data.weights)
    np.testing.assert_allclose(data.U[control], unmoved[control], atol=1e-12)
    assert (data.U[~control] != unmoved[~control]).any(axis=1).all()


def test_without_edges_shifts_add_up():
    data = small(edge_probability=0)
    assert not data.graph.any()
    assert np.array_equal(data.U, data.Z + shift_of_cells(data))


def test_a_shift_moves_descendants_and_nothing_else():
    graph = np.zeros((5, 5))
    graph[1, 2] = graph[2, 4] = 1  # 1 -> 2 -> 4; 0 and 3 stand alone
    data = small(graph=graph)
    total = causal_states(np.eye(5), 0, data.weights)  # total effect of row on column
    descendants = np.eye(5, dtype=bool)
    descendants[1, [2, 4]] = descendants[2, 4] = True
    assert np.array_equal(total != 0, descendants)
    assert total[1, 4] == pytest.approx(data.weights[1, 2] * data.weights[2, 4])


def test_shifts_are_the_softmax_of_the_features():
    data = small(40)
    logits = data.features.to_numpy() @ data.feature_weights
    np.testing.assert_allclose(data.shift, softmax(logits, axis=1))
    np.testing.assert_allclose(data.shift.sum(axis=1), 1)
    assert (data.shift > 0).all()
    assert np.array_equal(data.effect, data.penetrance[:, None] * data.shift)


def test_logits_have_the_asked_standard_deviation_and_features_are_standard_normal():
    data = small(400, n_cells_per_perturbation=1, n_features=40, n_latent=30, sharpness=3.0)
    assert stats.kstest(data.features.to_numpy().ravel(), "norm").pvalue > 1e-3
    logits = data.features.to_numpy() @ data.feature_weights
    assert logits.std() == pytest.approx(3, rel=0.05)


def test_blunt_shifts_are_even_and_sharp_ones_have_one_target():
    np.testing.assert_allclose(small(sharpness=0).shift, np.full((8, 5), 0.2))
    assert small(sharpness=1000).shift.max(axis=1).min() > 0.99


def test_features_correlate_within_clusters_only():
    data = small(60, n_cells_per_perturbation=1, n_clusters=4, n_features=400)
    assert np.bincount(data.clusters).tolist() == [15] * 4
    correlation = np.corrcoef(data.features)
    same = data.clusters[:, None] == data.clusters
    within = correlation[same & ~np.eye(60, dtype=bool)]
    assert within.mean() == pytest.approx(0.9, abs=0.02)
    assert np.abs(correlation[~same]).max() < 5 / np.sqrt(400)


@pytest.mark.parametrize(("n_clusters", "largest"), [(None, 1), (8, 1), (3, 3), (1, 8)])
def test_clusters_are_as_even_as_they_can_be(n_clusters, largest):
    counts = np.bincount(small(n_clusters=n_clusters).clusters)
    assert counts.max() == largest
    assert np.ptp(counts) <= 1


@pytest.mark.parametrize("penetrance", [(0.5, 3.0), (-2.0, 3.0), (0, 1)])
def test_penetrances_are_uniform(penetrance):
    low, high = penetrance
    drawn = small(500, n_cells_per_perturbation=1, penetrance=penetrance).penetrance
    assert stats.kstest(drawn, "uniform", (low, high - low)).pvalue > 1e-3


def test_a_penetrance_of_zero_leaves_controls():
    data = small(penetrance=0, linear=True)
    assert np.array_equal(data.penetrance, np.zeros(8))
    np.testing.assert_allclose(data.expected_expression, np.zeros((8, 60)), atol=1e-12)


def test_drawn_graphs_have_the_asked_density_and_go_forward():
    data = small(n_latent=40, n_genes=60, likelihood="poisson", edge_probability=0.3)
    assert not np.tril(data.graph).any()
    assert stats.binomtest(int(data.graph.sum()), 40 * 39 // 2, 0.3).pvalue > 1e-3
    complete = small(edge_probability=1).graph
    assert np.array_equal(complete, np.triu(np.ones((5, 5), dtype=bool), k=1))


def test_weights_lie_on_the_edges_within_their_range_and_have_both_signs():
    options = {"n_latent": 40, "likelihood": "poisson", "edge_weight": (0.1, 0.2)}
    data = small(edge_probability=0.5, **options)
    assert np.array_equal(data.weights != 0, data.graph)
    strength = data.weights[data.graph]
    assert stats.kstest(np.abs(strength), "uniform", (0.1, 0.1)).pvalue > 1e-3
    assert stats.binomtest(int((strength > 0).sum()), len(strength), 0.5).pvalue > 1e-3
    assert np.array_equal(np.abs(small(graph=CHAIN, edge_weight=0.5).weights), 0.5 * CHAIN)


@pytest.mark.parametrize("form", [np.array, pd.DataFrame, lambda g: g.astype(bool).tolist()])
def test_a_given_graph_is_kept_in_its_order(form):
    data = small(graph=form(CHAIN))
    assert data.graph.dtype == bool
    assert np.array_equal(data.graph, CHAIN)
    assert np.array_equal(data.U[:, 4], (data.Z + shift_of_cells(data))[:, 4])  # the root


def test_train_holds_seen_perturbations_and_all_controls():
    data = small(n_unseen=3)
    assert data.perturbations.tolist() == NAMES == sorted(NAMES)
    assert data.perturbations[~data.seen].tolist() == NAMES[5:]
    assert sorted(set(data.A[data.test])) == NAMES[5:]
    labels, counts = np.unique(data.A[data.train].astype(str), return_counts=True)
    assert labels.tolist() == [*NAMES[:5], "control"]
    assert counts.tolist() == [30] * 5 + [40]
    assert np.array_equal(np.sort(np.r_[data.train, data.test]), np.arange(len(data.X)))


@pytest.mark.parametrize(("n_perturbations", "n_unseen"), [(1, 0), (3, 0), (4, 1), (8, 2)])
def test_a_quarter_is_unseen_by_default(n_perturbations, n_unseen):
    data = small(n_perturbations)
    assert (~data.seen).sum() == n_unseen
    assert len(data.test) == 30 * n_unseen
    assert list(data.features.index) == data.perturbations.tolist()


def test_unseen_shifts_follow_from_features_of_the_seen():
    data = small(40, n_unseen=10)
    log_shift = np.log(data.shift)
    contrasts = log_shift - log_shift.mean(axis=1, keepdims=True)
    F, seen = data.features.to_numpy(), data.seen
    slopes = np.linalg.lstsq(F[seen], contrasts[seen], rcond=None)[0]
    np.testing.assert_allclose(softmax(F[~seen] @ slopes, axis=1), data.shift[~seen], rtol=1e-8)


def test_cells_come_in_the_order_of_names_unless_shuffled():
    data = small(shuffle=False)
    order = np.repeat([*NAMES, "control"], [30] * 8 + [40]).tolist()
    assert data.A.tolist() == order
    shuffled = small().A.tolist()
    assert shuffled != order
    assert sorted(shuffled) == sorted(order)


def test_expected_expression_of_a_linear_decoder_has_a_closed_form():
    data = small(linear=True, n_genes=9, graph=CHAIN)
    total = np.linalg.inv(np.eye(5) - data.weights) @ data.loadings
    expected = data.penetrance[:, None] * data.shift @ total
    np.testing.assert_allclose(data.expected_expression, expected, atol=1e-12)
    np.testing.assert_allclose(data.control_expression, np.zeros(9), atol=1e-12)
    np.testing.assert_allclose(data.rate(data.U), data.U @ data.loadings)
    both = data.expected("P1+P2")[0]
    np.testing.assert_allclose(both, expected[1] + expected[2], atol=1e-12)


def test_expression_of_controls_under_a_linear_decoder_has_its_covariance():
    data = small(1, linear=True, n_genes=6, n_control_cells=20_000)
    X = data.X[data.A == "control"].astype(float)
    total = np.linalg.inv(np.eye(5) - data.weights) @ data.loadings
    covariance = total.T @ total + np.diag(data.noise_scale**2)
    error = np.sqrt((np.outer(*[np.diag(covariance)] * 2) + covariance**2) / len(X))
    assert np.abs((np.cov(X.T) - covariance) / error).max() < 4.5


@all_kinds
def test_means_of_cells_are_the_expected_expression(kind):
    data = small(3, n_cells_per_perturbation=4000, n_control_cells=4000, **kind)
    cells = [data.X[data.A == label].astype(float) for label in [*data.perturbations, "control"]]
    expected = np.vstack([data.expected_expression, data.control_expression])
    error = [X.std(axis=0) / np.sqrt(len(X)) for X in cells]
    deviation = ([X.mean(axis=0) for X in cells] - expected) / error
    assert np.abs(deviation).max() < 5.5
    assert np.sqrt((deviation**2).mean()) == pytest.approx(1, abs=0.3)


@all_kinds
def test_dosages_scale_the_penetrance(kind):
    data = small(**kind)
    basal = np.random.RandomState(1).normal(size=(100_000, 5))
    moved = causal_states(basal, 1.7 * data.penetrance[2] * data.shift[2], data.weights)
    mean, expected = data.rate(moved).mean(axis=0), data.expected(1.7 * np.eye(8)[[2]])[0]
    scale = expected if "likelihood" in kind else 1.0
    assert np.abs((mean - expected) / scale).max() < 0.05
    single = data.expected(["P2", "control"])
    np.testing.assert_allclose(single, [data.expected_expression[2], data.control_expression])


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("noise_fraction", [0.2, 0.5])
def test_normal_genes_have_unit_variance_and_their_share_of_noise(linear, noise_fraction):
    data = small(linear=linear, n_cells_per_perturbation=500, noise_fraction=noise_fraction)
    np.testing.assert_allclose(data.rate(data.U).var(axis=0), 1)
    np.testing.assert_allclose(data.noise_scale**2, noise_fraction / (1 - noise_fraction))
    residual = (data.X - data.rate(data.U)) / data.noise_scale
    assert stats.kstest(residual.ravel()[:20_000], "norm").pvalue > 1e-3


def test_log_likelihood_is_that_of_scipy():
    for data in (small(), small(linear=True)):
        expected = stats.norm(data.rate(data.U), data.noise_scale).logpdf(data.X).sum(axis=1)
        np.testing.assert_allclose(data.log_likelihood(data.X, data.U), expected, rtol=1e-9)
    data = small(likelihood="poisson")
    rate = data.rate(data.U, data.library_size)
    expected = stats.poisson.logpmf(data.X.astype(float), rate).sum(axis=1)
    np.testing.assert_allclose(data.log_likelihood(data.X, data.U), expected, rtol=1e-9)
    data = small(likelihood="negative_binomial")
    rate, theta = data.rate(data.U, data.library_size), data.dispersion
    expected = stats.nbinom.logpmf(data.X.astype(float), theta, theta / (theta + rate)).sum(axis=1)
    np.testing.assert_allclose(data.log_likelihood(data.X, data.U), expected, rtol=1e-9)


@all_kinds
def test_causal_states_explain_cells_better_than_basal_states(kind):
    data = small(edge_probability=1, **kind)
    gain = data.log_likelihood(data.X, data.U) - data.log_likelihood(data.X, data.Z)
    assert (gain > 0).mean() > 0.95


def test_same_seed_same_data_other_seed_other_data():
    first, again, other = small(), small(), small(random_state=1)
    names = ["X", "A", "Z", "U", "weights", "shift", "penetrance", "train", "expected_expression"]
    for name in names:
        assert np.array_equal(first[name], again[name])
        assert not np.array_equal(first[name], other[name])
    pd.testing.assert_frame_equal(first.features, again.features)


def test_graph_and_kind_of_expression_leave_the_rest_alone():
    others = [small(graph=CHAIN), small(edge_probability=1), small(penetrance=2.0)]
    for other in others + [small(**kind) for kind in KINDS.values()]:
        for name in ("A", "Z", "shift", "test"):
            assert np.array_equal(other[name], small()[name])


def test_global_generator_is_left_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    small()
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


@all_kinds
def test_pickling_keeps_the_truth(kind):
    data = small(**kind)
    copy = pickle.loads(pickle.dumps(data))
    assert np.array_equal(copy.expected("P0+P2"), data.expected("P0+P2"))
    assert np.array_equal(copy.log_likelihood(copy.X, copy.U), data.log_likelihood(data.X, data.U))


@all_kinds
def test_one_cell_of_one_perturbation_of_one_latent(kind):
    data = small(1, n_cells_per_perturbation=1, n_control_cells=0, n_latent=1, **kind)
    assert data.X.shape == (1, 60)
    assert data.A.tolist() == ["P0"]
    assert (data.train.tolist(), data.test.tolist()) == ([0], [])
    np.testing.assert_allclose(data.shift, [[1.0]])
    np.testing.assert_allclose(data.U, data.Z + data.penetrance)
    assert np.isfinite(data.X).all()
    assert np.isfinite(data.expected_expression).all()


@pytest.mark.parametrize(
    ("edges", "cycle"),
    [
        ([(1, 1)], "1 -> 1"),
        ([(0, 3), (3, 0), (0, 1)], "(0 -> 3 -> 0|3 -> 0 -> 3)"),
        ([(0, 2), (2, 1), (1, 0)], "(0 -> 2 -> 1 -> 0|2 -> 1 -> 0 -> 2|1 -> 0 -> 2 -> 1)"),
    ],
)
def test_cycles_are_named(edges, cycle):
    graph = np.zeros((5, 5))
    graph[tuple(np.transpose(edges))] = 1
    with pytest.raises(ValueError, match=f"graph must have no cycle, it has {cycle}: remove"):
        small(graph=graph)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_perturbations": 0}, "n_perturbations == 0"),
        ({"n_cells_per_perturbation": 0}, "n_cells_per_perturbation == 0"),
        ({"n_control_cells": -1}, "n_control_cells == -1"),
        ({"n_unseen": -1}, "n_unseen == -1"),
        ({"n_unseen": 8}, "n_unseen=8 must leave some of the n_perturbations=8"),
        ({"n_latent": 0}, "n_latent == 0"),
        ({"n_latent": 51}, "n_latent <= 50 <= n_genes, got n_latent=51 and n_genes=60"),
        ({"n_latent": 41, "likelihood": "poisson"}, "n_latent <= 40 <= n_genes"),
        ({"n_latent": 61, "linear": True}, "got n_latent=61 and n_genes=60"),
        ({"graph": np.zeros((4, 4))}, r"graph has shape \(4, 4\); .* n_latent=5 latents"),
        ({"graph": 0.5 * CHAIN}, "graph must hold 0 and 1 only: weights are drawn"),
        ({"graph": np.full((5, 5), np.nan)}, "graph contains NaN"),
        ({"edge_probability": 1.1}, "edge_probability == 1.1"),
        ({"edge_probability": np.nan}, "edge_probability must be a number between 0 and 1"),
        ({"edge_weight": 0.0}, "edge_weight must be a number above 0 .* got 0.0"),
        ({"edge_weight": (0.5, 0.2)}, r"got \(0.5, 0.2\)"),
        ({"penetrance": (1, 2, 3)}, r"penetrance must be a number .* got \(1, 2, 3\)"),
        ({"penetrance": np.nan}, "got nan"),
        ({"penetrance": (0, np.inf)}, r"got \(0, inf\)"),
        ({"n_features": 0}, "n_features == 0"),
        ({"n_clusters": 9}, "n_clusters == 9"),
        ({"sharpness": -1.0}, "sharpness == -1"),
        ({"likelihood": "gaussian"}, "'normal'.*got 'gaussian'"),
        ({"likelihood": "poisson", "linear": True}, "linear=True needs likelihood='normal'"),
        ({"library_size": np.inf}, "must be finite"),
        ({"library_scale": -0.1}, "library_scale == -0.1"),
        ({"dispersion": (2.0, 1.0)}, r"got \(2.0, 1.0\)"),
        ({"noise_fraction": 1.0}, "noise_fraction == 1"),
    ],
)
def test_impossible_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)


def test_wrong_types_are_named():
    with pytest.raises(TypeError, match="n_unseen must be an instance of int"):
        small(n_unseen=2.5)
