import pickle
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.sparse import csr_array

from skpert.datasets import make_additive_shift
from skpert.datasets._decoders import NormalDecoder, draw_haar_layer
from skpert.datasets._simulation import draw_combinations
from skpert.metrics import graph_scores
from skpert.preprocessing import PerturbationEncoder

LIKELIHOODS = ["negative_binomial", "poisson", "normal"]
NAMES = ["P0", "P1", "P2", "P3", "P4", "P5"]


def small(n_perturbations=6, *, n_cells_per_perturbation=30, random_state=0, **options):
    return make_additive_shift(
        n_perturbations,
        n_cells_per_perturbation=n_cells_per_perturbation,
        n_genes=60,
        random_state=random_state,
        **options,
    )


def mixed(**options):
    """Perturbations, combinations of three and control cells."""
    return small(n_combinations=4, n_parts=3, n_control_cells=20, **options)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_effects_add_up_in_latent_space(likelihood):
    data = mixed(likelihood=likelihood)
    assert np.array_equal(data.Z, data.Z_basal + data.dosage @ data.effect)
    shift = dict(zip(data.perturbations, data.mask * data.embedding, strict=True))
    shift["control"] = np.zeros(15)
    summed = [sum(shift[part] for part in label.split("+")) for label in data.A]
    np.testing.assert_allclose(data.Z - data.Z_basal, summed, atol=1e-12)


def test_basal_states_are_standard_normal_whatever_was_done():
    data = mixed(n_cells_per_perturbation=200)
    assert stats.kstest(data.Z_basal.ravel(), "norm").pvalue > 1e-3
    for label in np.unique(data.A.astype(str)):
        mean = data.Z_basal[data.A == label].mean(axis=0)
        assert np.abs(mean * np.sqrt((data.A == label).sum())).max() < 4.5


def test_dosages_are_what_the_encoder_reads_from_the_labels():
    data = mixed()
    dosage = PerturbationEncoder().fit(data.A).transform(data.A)
    assert np.array_equal(data.dosage.toarray(), dosage.toarray())


def test_cells_come_in_the_order_of_names_unless_shuffled():
    data = mixed(shuffle=False, n_cells_per_combination=7)
    assert data.perturbations.tolist() == NAMES
    order = [*NAMES, *data.combinations, "control"]
    assert data.A.tolist() == np.repeat(order, [30] * 6 + [7] * 4 + [20]).tolist()
    shuffled = mixed(n_cells_per_combination=7)
    assert (shuffled.A != data.A).any()
    assert sorted(shuffled.A) == sorted(data.A)


def test_combinations_are_distinct_sorted_and_of_the_asked_size():
    names = small(12, n_combinations=30, n_parts=3, n_cells_per_perturbation=1).combinations
    assert sorted(set(names)) == names.tolist()
    for name in names:
        parts = name.split("+")
        assert len(set(parts)) == 3
        assert parts == sorted(parts)


def test_many_perturbations_in_a_cell_are_poisson_in_number():
    data = small(n_cells_per_perturbation=500, multiplicity=2.0)
    n_parts = np.diff(data.dosage.indptr)
    assert len(data.X) == 3000
    assert abs(n_parts[data.A != "control"].mean() - 2 / (1 - np.exp(-2))) < 0.15
    names = np.array([label.split("+")[0] for label in data.A[n_parts == 1]])
    assert (data.perturbations[data.dosage[n_parts == 1].indices] == names).all()
    np.testing.assert_allclose(data.Z - data.Z_basal, data.dosage @ data.effect)


def test_every_combination_can_be_asked_for():
    names = small(n_combinations=15, n_cells_per_perturbation=1).combinations
    assert names.tolist() == ["+".join(pair) for pair in combinations(NAMES, 2)]
    assert small().combinations.tolist() == []


@pytest.mark.parametrize("n_combinations", [2, 8])  # drawn one by one; from the list of all
def test_combinations_are_drawn_uniformly(n_combinations):
    rng = np.random.RandomState(0)
    drawn = [pair for _ in range(2000) for pair in draw_combinations(5, 2, n_combinations, rng)]
    _, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(counts) == 10
    assert np.abs(counts / (200 * n_combinations) - 1).max() < 4 / np.sqrt(200 * n_combinations)


def test_published_mask_has_two_targets_on_average_and_a_perturbation_may_have_none():
    n_targets = small(800, n_cells_per_perturbation=1).mask.sum(axis=1)
    expected = stats.binom(15, 2 / 15).pmf(np.arange(6)) * 800
    counts = np.bincount(n_targets, minlength=6)[:6]
    assert (np.abs(counts - expected) < 4.5 * np.sqrt(expected)).all()


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({"n_targets": 2}, {2}),
        ({"n_targets": (1, 3)}, {1, 2, 3}),
        ({"target_probability": 1.0}, {15}),
        ({"n_latent": 1}, {1}),
    ],
)
def test_numbers_of_targets_follow_the_arguments(options, allowed):
    assert set(small(60, n_cells_per_perturbation=1, **options).mask.sum(axis=1)) == allowed


def test_shifts_are_normal_around_plus_or_minus_the_effect_size():
    data = small(100, n_cells_per_perturbation=1, effect_size=3.0, effect_scale=0.2)
    assert abs((data.embedding > 0).mean() - 0.5) < 4 * 0.5 / np.sqrt(data.embedding.size)
    assert stats.kstest((np.abs(data.embedding).ravel() - 3.0) / 0.2, "norm").pvalue > 1e-3
    assert np.array_equal(data.effect, data.mask * data.embedding)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_given_effects_are_what_moves_the_cells(likelihood):
    effect = np.zeros((6, 15))
    effect[:3, 2], effect[3:5, [4, 7]] = 2.5, [-1.0, 0.5]
    data = mixed(effect=effect, likelihood=likelihood)
    assert np.array_equal(data.effect, effect)
    assert np.array_equal(data.mask, effect != 0)
    assert np.array_equal(data.Z, data.Z_basal + data.dosage @ effect)


def test_perturbations_of_the_same_effect_have_the_same_expected_expression():
    drawn = small().effect
    twins = small(effect=drawn[[0, 1, 2, 0, 1, 2]])
    assert np.array_equal(twins.expected_expression[:3], twins.expected_expression[3:])
    assert not np.allclose(twins.expected_expression[0], twins.expected_expression[1])


def test_true_mask_scores_one_in_any_order_of_latents():
    mask = small(40, n_cells_per_perturbation=1).mask
    order = np.random.RandomState(0).permutation(15)
    for match in (None, np.argsort(order)):
        scores = graph_scores(mask, mask[:, order], match=match)
        assert scores.precision == scores.recall == scores.f1 == 1.0


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_means_of_cells_are_the_expected_expression(likelihood):
    data = small(
        3,
        n_combinations=2,
        n_cells_per_perturbation=1500,
        n_control_cells=1500,
        likelihood=likelihood,
    )
    labels = [*data.perturbations, *data.combinations, "control"]
    expected = data.expected(labels)
    cells = [data.X[data.A == label].astype(float) for label in labels]
    error = [X.std(axis=0) / np.sqrt(len(X)) for X in cells]
    deviation = ([X.mean(axis=0) for X in cells] - expected) / error
    assert np.abs(deviation).max() < 5.5
    assert np.sqrt((deviation**2).mean()) == pytest.approx(1, abs=0.25)
    means = [data.rate(data.Z_basal + data.Z[i] - data.Z_basal[i]).mean(axis=0) for i in (0, 1)]
    np.testing.assert_allclose(means, data.expected(data.A[:2]), rtol=0.15, atol=0.1)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_expected_expression_depends_on_the_design_alone(likelihood):
    data = mixed(likelihood=likelihood)
    single, pair = data.expected_expression[1], data.expected("P1+P4")[0]
    one, both = np.eye(6)[1], np.eye(6)[1] + np.eye(6)[4]
    for part in ("P1", "P1+P1", "P1 + control"):
        np.testing.assert_allclose(data.expected(part), [single], rtol=1e-12)
    labels = ["P4+P1", "P1", "P1+P4", "control", "P1"]
    rows = [pair, single, pair, data.control_expression, single]
    np.testing.assert_allclose(data.expected(labels), rows, rtol=1e-12)
    np.testing.assert_allclose(data.expected(pd.Series(labels, index=range(5, 10))), rows)
    dosage = np.array([both, one, both, 0 * one, one])
    for design in (dosage, csr_array(dosage), pd.DataFrame(dosage, columns=NAMES), dosage > 0):
        np.testing.assert_allclose(data.expected(design), rows, rtol=1e-12)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_dosages_of_any_size_scale_the_shift(likelihood):
    data = small(likelihood=likelihood, n_targets=3)
    doses = np.array([[0.5, 0, 1.7, 0, 0, 0]])
    basal = np.random.RandomState(1).normal(size=(100_000, 15))
    mean = data.rate(basal + 0.5 * data.effect[0] + 1.7 * data.effect[2]).mean(axis=0)
    expected = data.expected(doses)[0]
    scale = 1.0 if likelihood == "normal" else expected
    assert np.abs((mean - expected) / scale).max() < 0.08
    assert np.abs((mean - expected) / scale).mean() < 0.008


def test_a_perturbation_without_targets_is_a_control():
    data = small(40, n_cells_per_perturbation=1)
    idle = ~data.mask.any(axis=1)
    assert idle.any()
    assert np.array_equal(
        data.expected_expression[idle], np.tile(data.control_expression, (idle.sum(), 1))
    )


def test_expected_counts_of_a_cell_sum_to_its_library_size():
    data = mixed(library_size=3e3, library_scale=0.5)
    np.testing.assert_allclose(data.rate(data.Z).sum(axis=1), 3e3)
    np.testing.assert_allclose(data.expected(["P0+P1", "control"]).sum(axis=1), 3e3)
    own = data.rate(data.Z, data.library_size)
    np.testing.assert_allclose(own.sum(axis=1), data.library_size)
    np.testing.assert_allclose(data.rate(data.Z, 6e3), 2 * data.rate(data.Z))


def test_library_sizes_are_log_normal_with_the_asked_mean():
    data = small(n_cells_per_perturbation=500, library_size=3e3, library_scale=0.5)
    log_size = np.log(data.library_size / 3e3)
    assert stats.kstest((log_size + 0.5**2 / 2) / 0.5, "norm").pvalue > 1e-3
    assert data.library_size.mean() == pytest.approx(3e3, rel=4 * 0.53 / np.sqrt(3000))
    assert np.array_equal(small(library_scale=0.0).library_size, np.full(180, 1e4))


@pytest.mark.parametrize("likelihood", LIKELIHOODS[:2])
def test_counts_have_the_variance_of_their_distribution(likelihood):
    data = small(n_cells_per_perturbation=1000, likelihood=likelihood, library_size=3e3)
    assert (data.X % 1 == 0).all()
    rate = data.rate(data.Z, data.library_size)
    variance = rate + (rate**2 / data.dispersion if "dispersion" in data else 0)
    ratio = ((data.X - rate) ** 2 / variance).mean(axis=0)  # of each gene
    assert ratio.mean() == pytest.approx(1, abs=0.03)
    assert np.abs(ratio - 1).max() < 0.3


def test_dispersions_are_log_uniform_or_fixed():
    data = make_additive_shift(
        2, n_cells_per_perturbation=1, n_genes=2000, dispersion=(0.5, 50.0), random_state=0
    )
    assert stats.kstest(np.log10(data.dispersion), "uniform", (np.log10(0.5), 2)).pvalue > 1e-3
    np.testing.assert_allclose(small(dispersion=3).dispersion, np.full(60, 3.0))


@pytest.mark.parametrize("noise_fraction", [0.2, 0.5])
def test_published_recipe_sets_variances_of_mean_and_noise(noise_fraction):
    data = small(n_cells_per_perturbation=2000, likelihood="normal", noise_fraction=noise_fraction)
    mean = data.rate(data.Z)
    np.testing.assert_allclose(mean.var(axis=0), 1, rtol=1e-9)
    np.testing.assert_allclose(data.noise_scale**2, noise_fraction / (1 - noise_fraction))
    share = (data.X - mean).var(axis=0) / data.X.var(axis=0, dtype=float)
    np.testing.assert_allclose(share, noise_fraction, atol=0.03)
    assert (
        stats.kstest(((data.X - mean) / data.noise_scale).ravel()[:20_000], "norm").pvalue > 1e-3
    )


def test_a_feature_without_variance_keeps_unit_noise():
    data = small(1, n_cells_per_perturbation=1, likelihood="normal")  # one cell: no variance
    assert np.array_equal(data.noise_scale, np.ones(60))


def test_published_network_has_four_hidden_layers_with_orthogonal_weights():
    weights = small(likelihood="normal").rate.__self__.weights
    assert [weight.shape for weight in weights] == [(15, 50), *[(50, 50)] * 3, (50, 60)]
    for weight in weights:
        np.testing.assert_allclose(weight @ weight.T, np.eye(len(weight)), atol=1e-12)


def test_orthogonal_weights_have_no_preferred_sign():
    rng = np.random.RandomState(0)
    entries = np.array([draw_haar_layer(3, 4, rng) for _ in range(4000)])
    assert np.abs(entries.mean(axis=0)).max() < 4.5 * 0.5 / np.sqrt(4000)
    np.testing.assert_allclose((entries**2).mean(axis=0), 0.25, atol=0.02)


def test_output_of_the_normal_network_is_linear_and_hidden_layers_leak():
    eye = np.eye(2)
    decoder = NormalDecoder((eye,) * 5, np.array([1.0, 2.0]), np.ones(2))
    np.testing.assert_allclose(decoder.rate([[3.0, -1.0]]), [[3.0, -(0.2**4) / 2]])


def test_log_likelihood_is_that_of_scipy():
    data = small()
    rate, theta = data.rate(data.Z, data.library_size), data.dispersion
    expected = stats.nbinom.logpmf(data.X.astype(float), theta, theta / (theta + rate)).sum(axis=1)
    np.testing.assert_allclose(data.log_likelihood(data.X, data.Z), expected, rtol=1e-9)
    data = small(likelihood="poisson")
    rate = data.rate(data.Z, data.library_size)
    expected = stats.poisson.logpmf(data.X.astype(float), rate).sum(axis=1)
    np.testing.assert_allclose(data.log_likelihood(data.X, data.Z), expected, rtol=1e-9)
    data = small(likelihood="normal")
    expected = stats.norm(data.rate(data.Z), data.noise_scale).logpdf(data.X).sum(axis=1)
    np.testing.assert_allclose(data.log_likelihood(data.X, data.Z), expected, rtol=1e-9)


def test_large_dispersion_is_poisson():
    negative_binomial, poisson = small(dispersion=1e9), small(likelihood="poisson")
    X, Z = poisson.X, poisson.Z
    np.testing.assert_allclose(
        negative_binomial.log_likelihood(X, Z), poisson.log_likelihood(X, Z), rtol=1e-4
    )


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_true_states_explain_cells_best(likelihood):
    data = small(likelihood=likelihood)
    true = data.log_likelihood(data.X, data.Z)
    moved = data.Z + np.random.RandomState(0).normal(size=data.Z.shape)
    assert (true > data.log_likelihood(data.X, moved)).mean() > 0.99


def test_some_cells_have_the_same_likelihood_as_among_all():
    data = small()
    rows = np.array([5, 3, 80])
    np.testing.assert_allclose(
        data.log_likelihood(data.X[rows], data.Z[rows], data.library_size[rows]),
        data.log_likelihood(csr_array(data.X), data.Z)[rows],
    )
    with pytest.raises(ValueError, match="X has 3 cells and the data set 180: give"):
        data.log_likelihood(data.X[rows], data.Z[rows])


def test_likelihood_and_rate_name_what_does_not_fit():
    data, normal = small(), small(likelihood="normal")
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        normal.log_likelihood(normal.X, normal.Z[1:])
    with pytest.raises(ValueError, match="Z has 14 columns, the data set has 15"):
        data.rate(data.Z[:, 1:])
    with pytest.raises(ValueError, match="X must hold counts"):
        data.log_likelihood(data.X - 0.5, data.Z)
    with pytest.raises(ValueError, match=r"one for each of 180 cells, its shape is \(2,\)"):
        data.rate(data.Z, [1e3, 2e3])
    with pytest.raises(ValueError, match="must be positive, the smallest is 0"):
        data.rate(data.Z, 0)
    with pytest.raises(ValueError, match="library_size contains NaN"):
        data.rate(data.Z, np.nan)


@pytest.mark.parametrize(
    ("A", "message"),
    [
        (["P1", "P6+P0"], r"unknown perturbations \['P6'\]"),
        ([1.0, 0, 0, 0, 0, 0], "dosages must be 2-D"),
        (np.zeros((2, 5)), "A has 5 columns, the data set 6 perturbations"),
        (-np.eye(6), "not be negative, the smallest is -1.0"),
        (np.full((1, 6), np.nan), "A contains NaN"),
        (pd.DataFrame(np.eye(6), columns=NAMES[::-1]), "in their order, got .'P5', 'P4'"),
        ([], "Expected 2D array"),
    ],
)
def test_designs_that_mean_nothing_are_named(A, message):
    with pytest.raises(ValueError, match=message):
        small().expected(A)


def test_same_seed_same_data_other_seed_other_data():
    first, again, other = mixed(), mixed(), mixed(random_state=1)
    for name in ("X", "A", "Z", "mask", "embedding", "library_size", "expected_expression"):
        assert np.array_equal(first[name], again[name])
        assert not np.array_equal(first[name], other[name])


def test_kind_of_expression_leaves_graph_and_latents_alone():
    screens = [mixed(likelihood=likelihood) for likelihood in LIKELIHOODS]
    for name in ("A", "Z", "mask", "embedding"):
        assert np.array_equal(screens[0][name], screens[1][name])
        assert np.array_equal(screens[0][name], screens[2][name])
    assert np.array_equal(screens[0].library_size, screens[1].library_size)


def test_global_generator_is_left_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    mixed()
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_pickling_keeps_the_truth(likelihood):
    data = mixed(likelihood=likelihood)
    copy = pickle.loads(pickle.dumps(data))
    assert np.array_equal(copy.expected("P0+P2"), data.expected("P0+P2"))
    assert np.array_equal(copy.log_likelihood(copy.X, copy.Z), data.log_likelihood(data.X, data.Z))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_perturbations": 0}, "n_perturbations == 0"),
        ({"n_cells_per_perturbation": 0}, "n_cells_per_perturbation == 0"),
        ({"n_control_cells": -1}, "n_control_cells == -1"),
        ({"n_combinations": -1}, "n_combinations == -1"),
        ({"n_parts": 1}, "n_parts == 1"),
        ({"n_combinations": 16}, "n_combinations=16 asked for, .* have 15 of n_parts=2"),
        ({"n_combinations": 1, "n_parts": 7}, "have 0 of n_parts=7"),
        ({"n_cells_per_combination": 0}, "n_cells_per_combination == 0"),
        ({"multiplicity": 0}, "multiplicity == 0"),
        ({"multiplicity": 7}, "multiplicity == 7, must be <= 6"),
        ({"multiplicity": 2, "n_combinations": 3}, "n_combinations or multiplicity"),
        ({"n_latent": 0}, "n_latent == 0"),
        ({"n_latent": 41}, "n_latent <= 40 <= n_genes, got n_latent=41 and n_genes=60"),
        ({"n_latent": 51, "likelihood": "normal"}, "n_latent <= 50 <= n_genes"),
        ({"effect_size": -1.0}, "effect_size == -1"),
        ({"effect_scale": np.nan}, "must be finite"),
        ({"target_probability": 0.0}, "target_probability == 0"),
        ({"target_probability": np.nan}, "target_probability must be a number between 0 and 1"),
        ({"target_probability": 0.1, "n_targets": 2}, "either target_probability or n_targets"),
        ({"n_targets": 0}, "n_targets must be >= 1"),
        ({"effect": np.ones((6, 3))}, r"effect has shape \(6, 3\); .* are \(6, 15\)"),
        ({"effect": np.full((6, 15), np.inf)}, "effect contains infinity"),
        ({"effect": np.ones((6, 15)), "n_targets": 2}, "give effect, .*or the rule for targets"),
        ({"effect": np.ones((6, 15)), "target_probability": 0.1}, "or the rule for targets"),
        ({"n_targets": (2, 16)}, r"n_targets=\(2, 16\) exceeds the 15 latents"),
        ({"likelihood": "gaussian"}, "'normal'.*got 'gaussian'"),
        ({"library_size": 0.0}, "library_size == 0"),
        ({"library_scale": -0.1}, "library_scale == -0.1"),
        ({"library_scale": np.nan}, "library_scale must be a number between 0 and 3"),
        ({"dispersion": 0.0}, "dispersion must be > 0, .* got 0.0"),
        ({"dispersion": (2.0, 1.0)}, r"got \(2.0, 1.0\)"),
        ({"dispersion": np.inf}, "got inf"),
        ({"noise_fraction": 1.0}, "noise_fraction == 1"),
        ({"noise_fraction": np.nan}, "noise_fraction must be a number"),
    ],
)
def test_impossible_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)


def test_wrong_types_are_named():
    with pytest.raises(TypeError, match="n_combinations must be an instance of int"):
        small(n_combinations=2.5)


def test_interactions_shift_one_latent_of_cells_of_their_combination():
    options = {"n_combinations": 6, "n_interactions": 3, "n_control_cells": 5}
    data, plain = small(**options), small(**options | {"n_interactions": 0})
    assert data.interaction.shape == (6, data.Z.shape[1])
    assert (data.interaction != 0).sum(1).tolist().count(1) == 3
    assert np.abs(data.interaction[data.interaction != 0]).min() > 2
    assert not plain.interaction.any()
    row = {name: data.interaction[i] for i, name in enumerate(data.combinations)}
    own = np.stack([row.get(label, 0 * data.Z[0]) for label in data.A])
    np.testing.assert_allclose(data.Z, data.Z_basal + data.dosage @ data.effect + own)


def test_expected_expression_has_interactions_times_the_product_of_dosages():
    effect = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    data = small(2, n_combinations=1, n_interactions=1, n_latent=3, effect=effect)
    both = np.array([[1.0, 1.0]])
    np.testing.assert_array_equal(data.expected(both), data.expected(["P0+P1"]))
    for dosage in (both, 2 * both):
        given = data.expected(dosage)
        shift = dosage @ data.effect + dosage.prod() * data.interaction
        Z = np.random.default_rng(0).normal(size=(100_000, 3)) + shift
        np.testing.assert_allclose(given[0], data.rate(Z).mean(0), rtol=0.05)


@pytest.mark.parametrize("n", [-1, 4])
def test_more_interactions_than_combinations_are_refused(n):
    with pytest.raises(ValueError, match="n_interactions"):
        small(n_combinations=3, n_interactions=n)
