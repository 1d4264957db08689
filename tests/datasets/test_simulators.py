import pickle

import numpy as np
import pytest
from scipy import stats

from skpert.datasets import make_sparse_shift
from skpert.datasets._decoders import MixingDecoder, draw_layer
from skpert.datasets._simulation import TargetRule

NAMES = ["P0", "P1", "P2", "P3", "P4", "P5", "P6", "P7"]


def small(n_perturbations=8, *, n_cells_per_perturbation=30, random_state=0, **options):
    return make_sparse_shift(
        n_perturbations,
        n_cells_per_perturbation=n_cells_per_perturbation,
        n_genes=60,
        random_state=random_state,
        **options,
    )


@pytest.mark.parametrize(("n_in", "n_out"), [(5, 40), (40, 40), (40, 90)])
def test_rows_of_a_layer_are_orthogonal_and_as_long_as_the_gain(n_in, n_out):
    weight = draw_layer(n_in, n_out, np.random.RandomState(0))
    gain_squared = 2 / (1 + 0.2**2) * 2 / (n_in + n_out)
    np.testing.assert_allclose(weight @ weight.T, gain_squared * np.eye(n_in), atol=1e-12)


def test_softmax_runs_over_genes_or_over_cells():
    logits = np.array([[0.0, 1], [2, 0], [1, 1]])  # three cells, two genes
    by_gene = MixingDecoder((np.eye(2),), total=1.0)
    np.testing.assert_allclose(
        by_gene.rate(logits), [[0.2689414214, 0.7310585786], [0.880797078, 0.119202922], [0.5] * 2]
    )
    by_cell = MixingDecoder((np.eye(2),), 1.0, log_normalizer=np.log(np.exp(logits).sum(axis=0)))
    np.testing.assert_allclose(
        by_cell.rate(logits),
        [[0.0900305732, 0.4223187983], [0.6652409558, 0.1553624035], [0.2447284711, 0.4223187983]],
    )


def test_hidden_layers_leak_a_fifth_and_the_output_does_not():
    eye = np.eye(2)
    decoder = MixingDecoder((eye, eye, eye, eye), total=1.0, logit_scale=2.0)
    np.testing.assert_allclose(decoder.logits(np.array([[3.0, -1.0]])), [[1.5, -(0.2**3) / 2]])


def test_logits_have_unit_standard_deviation_over_the_data_set():
    data = small()
    decoder = data.rate.__self__
    assert decoder.logits(data.Z).std() == pytest.approx(1)
    widths = [weight.shape for weight in decoder.weights]
    assert widths == [(15, 40), (40, 40), (40, 40), (40, 60)]


def test_paper_normalisation_gives_each_cell_the_library_size():
    data = small(library_size=2e4)
    np.testing.assert_allclose(data.rate(data.Z).sum(axis=1), 2e4)
    np.testing.assert_allclose(data.expected_expression.sum(axis=1), 2e4)
    depth = data.X.sum(axis=1, dtype=float)  # Poisson with mean 2e4
    assert abs((depth.mean() - 2e4) / np.sqrt(2e4 / len(depth))) < 4


def test_released_normalisation_gives_each_gene_a_million_counts():
    data = small(normalize="cells")
    np.testing.assert_allclose(data.rate(data.Z).sum(axis=0), 1e6)
    totals = data.X.sum(axis=0, dtype=float)
    assert np.abs((totals - 1e6) / 1e3).max() < 5
    # the normaliser belongs to the data set: new cells do not change it
    np.testing.assert_allclose(data.rate(data.Z[:3]), data.rate(data.Z)[:3])


@pytest.mark.parametrize("normalize", ["genes", "cells"])
def test_counts_are_poisson_with_the_rate_as_mean(normalize):
    data = small(normalize=normalize, library_size=3e3)
    rate = data.rate(data.Z)
    residual = (data.X - rate) / np.sqrt(rate)
    assert abs(residual.mean()) < 4 / np.sqrt(rate.size)
    assert (residual**2).mean() == pytest.approx(1, abs=0.05)
    assert (data.X % 1 == 0).all()


def test_latent_states_are_normal_around_the_masked_embedding():
    data = small(n_cells_per_perturbation=400, n_control_cells=400)
    effect = dict(zip(data.perturbations, data.mask * data.embedding, strict=True))
    effect["control"] = np.zeros(15)
    residual = data.Z - np.stack([effect[label] for label in data.A])
    assert stats.kstest(residual.ravel(), "norm").pvalue > 1e-3
    for label in effect:
        assert np.abs(residual[data.A == label].mean(axis=0)).max() < 4.5 / np.sqrt(400)
    assert np.abs(np.corrcoef(residual.T) - np.eye(15)).max() < 0.1


def test_shifts_are_normal_around_plus_or_minus_the_effect_size():
    data = small(60, n_cells_per_perturbation=1, effect_size=3.0, effect_scale=0.2)
    assert abs((data.embedding > 0).mean() - 0.5) < 4 * 0.5 / np.sqrt(data.embedding.size)
    assert stats.kstest((np.abs(data.embedding).ravel() - 3.0) / 0.2, "norm").pvalue > 1e-3


def test_labels_sort_in_the_order_of_rows_and_control_comes_on_top():
    data = small(n_control_cells=7, shuffle=False)
    assert data.perturbations.tolist() == sorted(data.perturbations) == NAMES
    assert data.A.tolist() == np.repeat([*NAMES, "control"], [30] * 8 + [7]).tolist()
    hundred = make_sparse_shift(100, n_cells_per_perturbation=1, random_state=0)
    assert hundred.perturbations[[0, 99]].tolist() == ["P00", "P99"]
    assert sorted(hundred.A) == hundred.perturbations.tolist()


def test_shuffling_moves_cells_and_keeps_their_numbers():
    data = small(n_control_cells=7)
    labels, counts = np.unique(data.A.astype(str), return_counts=True)
    assert labels.tolist() == [*NAMES, "control"]
    assert counts.tolist() == [30] * 8 + [7]
    assert (data.A[:30] != "P0").any()


def test_number_and_choice_of_targets_are_uniform():
    rule = TargetRule(n_latent=7, n_covered=6, low=2, high=4, with_replacement=False)
    mask = rule.draw(3000, np.random.RandomState(0))
    numbers, counts = np.unique(mask.sum(axis=1), return_counts=True)
    assert numbers.tolist() == [2, 3, 4]
    assert stats.chisquare(counts).pvalue > 1e-3
    times = mask[:, :6].sum(axis=0)  # of each latent, around 3000 * 3 / 6
    assert np.abs(times - 1500).max() < 4 * np.sqrt(3000 / 4)
    assert not mask[:, 6].any()


def test_drawing_with_replacement_leaves_fewer_targets():
    rule = TargetRule(n_latent=3, n_covered=3, low=2, high=2, with_replacement=True)
    n_targets = rule.draw(3000, np.random.RandomState(0)).sum(axis=1)
    assert set(n_targets) == {1, 2}
    # both draws hit the same of three latents with probability 1/3
    assert stats.binomtest(int((n_targets == 1).sum()), 3000, 1 / 3).pvalue > 1e-3


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({}, {1, 2, 3}),
        ({"n_targets": 2}, {2}),
        ({"n_targets": [4, 5]}, {4, 5}),
        ({"n_targets": 15}, {15}),
        ({"n_targets": 3, "n_latent": 2, "replace_targets": True}, {1, 2}),
    ],
)
def test_numbers_of_targets_follow_the_arguments(options, allowed):
    data = small(40, n_cells_per_perturbation=1, **options)
    assert set(data.mask.sum(axis=1)) == allowed


@pytest.mark.parametrize("n_covered", [1, 2, 7])
def test_only_covered_latents_are_targeted(n_covered):
    mask = small(60, n_cells_per_perturbation=1, n_covered=n_covered).mask
    assert mask[:, :n_covered].any(axis=0).all()
    assert not mask[:, n_covered:].any()
    assert set(mask.sum(axis=1)) == set(range(1, min(n_covered, 3) + 1))


@pytest.mark.parametrize(
    ("fraction", "n_latent", "numbers"),
    [(0.2, 5, {1}), (0.2, 15, {3}), (0.5, 15, {7, 8}), (0.9, 15, {13, 14}), (1.0, 5, {5})],
)
def test_target_fraction_is_exact_and_even(fraction, n_latent, numbers):
    mask = small(20, n_cells_per_perturbation=1, n_latent=n_latent, target_fraction=fraction).mask
    assert mask.sum() == round(fraction * 20 * n_latent)
    assert set(mask.sum(axis=1)) == numbers


def test_target_fraction_counts_covered_latents():
    mask = small(20, n_cells_per_perturbation=1, n_covered=4, target_fraction=0.5).mask
    assert mask.sum(axis=1).tolist() == [2] * 20


def test_held_out_perturbations_are_the_last_and_have_their_own_strength():
    data = small(
        60,
        n_cells_per_perturbation=1,
        target_fraction=0.2,
        effect_size=1.0,
        effect_scale=0.1,
        n_held_out=20,
        held_out_effect_size=3.0,
        held_out_target_fraction=0.5,
    )
    assert data.held_out.tolist() == [f"P{i}" for i in range(40, 60)]
    assert data.mask[:40].mean() == pytest.approx(0.2)
    assert data.mask[40:].mean() == pytest.approx(0.5)
    np.testing.assert_allclose(np.abs(data.embedding[:40]).mean(), 1, atol=0.02)
    np.testing.assert_allclose(np.abs(data.embedding[40:]).mean(), 3, atol=0.02)
    assert set(data.held_out) <= set(data.A)


def test_held_out_perturbations_are_like_the_others_by_default():
    data = small(60, n_cells_per_perturbation=1, n_held_out=30)
    assert data.held_out.tolist() == data.perturbations[30:].tolist()
    assert set(data.mask[30:].sum(axis=1)) == {1, 2, 3}
    np.testing.assert_allclose(np.abs(data.embedding[30:]).mean(), 5, atol=0.1)
    assert small(60, n_cells_per_perturbation=1).held_out.tolist() == []


@pytest.mark.parametrize("normalize", ["genes", "cells"])
def test_expected_expression_is_the_mean_rate_over_basal_states(normalize):
    data = small(normalize=normalize)
    basal = np.random.RandomState(1).normal(size=(100_000, 15))
    effect = data.mask * data.embedding
    for expected, shift in [
        (data.expected_expression[5], effect[5]),
        (data.control_expression, 0.0),
    ]:
        relative = expected / data.rate(basal + shift).mean(axis=0) - 1
        assert np.abs(relative).max() < 0.08
        assert np.abs(relative).mean() < 0.008


def test_log_likelihood_is_the_poisson_probability_of_a_cell():
    data = small()
    expected = stats.poisson.logpmf(data.X.astype(float), data.rate(data.Z)).sum(axis=1)
    np.testing.assert_allclose(data.log_likelihood(data.X, data.Z), expected, rtol=1e-9)
    assert (data.log_likelihood(data.X, data.Z) > data.log_likelihood(data.X, data.Z[::-1])).all()


def test_log_likelihood_rejects_what_is_not_the_same_cells():
    data = small()
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        data.log_likelihood(data.X, data.Z[1:])
    with pytest.raises(ValueError, match="Z has 14 columns, the data set has 15"):
        data.log_likelihood(data.X, data.Z[:, 1:])
    with pytest.raises(ValueError, match="X has 59 columns, the data set has 60"):
        data.log_likelihood(data.X[:, 1:], data.Z)
    with pytest.raises(ValueError, match="X must hold counts"):
        data.log_likelihood(data.X + 0.5, data.Z)


def test_same_seed_same_data_other_seed_other_data():
    first, again, other = small(), small(), small(random_state=1)
    for name in ("X", "A", "Z", "mask", "embedding", "expected_expression"):
        assert np.array_equal(first[name], again[name])
        assert not np.array_equal(first[name], other[name])


@pytest.mark.parametrize(
    ("options", "total", "checksum"),
    [
        ({}, 23998253, 11956597781),
        ({"normalize": "cells"}, 59998801, 29615498940),
        (
            {"replace_targets": True, "n_latent": 5, "n_covered": 3, "n_targets": 2},
            23993084,
            11924955773,
        ),
        ({"random_state": 7, "library_size": 2e3}, 480559, 238342027),
    ],
)
def test_a_seed_means_the_same_counts_in_every_release(options, total, checksum):
    counts = small(**options).X.astype(np.int64).ravel()
    assert counts.sum() == total
    assert counts @ (np.arange(counts.size) % 1009) == checksum


def test_scale_and_normalisation_leave_graph_and_latents_alone():
    data, released, weak = small(), small(normalize="cells"), small(effect_size=1.0)
    assert np.array_equal(data.Z, released.Z)
    assert np.array_equal(data.mask, weak.mask)


def test_global_generator_is_left_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    small()
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_pickling_keeps_the_decoder():
    data = small(normalize="cells")
    copy = pickle.loads(pickle.dumps(data))
    assert np.array_equal(copy.rate(copy.Z), data.rate(data.Z))
    assert np.array_equal(copy.log_likelihood(copy.X, copy.Z), data.log_likelihood(data.X, data.Z))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_latent": 41}, "n_latent=41 and n_genes=60"),
        ({"n_perturbations": 0}, "n_perturbations == 0"),
        ({"n_cells_per_perturbation": 0}, "n_cells_per_perturbation == 0"),
        ({"n_latent": 0}, "n_latent == 0"),
        ({"n_control_cells": -1}, "n_control_cells == -1"),
        ({"effect_size": -1.0}, "effect_size == -1"),
        ({"effect_scale": np.nan}, "must be finite"),
        ({"library_size": 0.0}, "library_size == 0"),
        ({"normalize": "gene"}, "'genes' or 'cells', got 'gene'"),
        ({"n_targets": 0}, "n_targets must be >= 1"),
        ({"n_targets": (3, 1)}, r"got \(3, 1\)"),
        ({"n_targets": (1, 2, 3)}, r"got \(1, 2, 3\)"),
        ({"n_targets": 4, "n_covered": 3}, "n_targets=4 exceeds the 3 covered latents"),
        ({"n_covered": 16}, "n_covered == 16"),
        ({"target_fraction": 0.0}, "target_fraction == 0"),
        ({"target_fraction": 1.1}, "target_fraction == 1.1"),
        ({"target_fraction": 0.5, "replace_targets": True}, "replace_targets=True"),
        ({"n_held_out": 8}, "n_held_out=8 must leave some of the n_perturbations=8"),
        ({"held_out_effect_size": 2.0}, "need n_held_out > 0"),
        ({"n_held_out": 2, "held_out_effect_size": -2.0}, "held_out_effect_size == -2"),
        ({"n_held_out": 2, "held_out_target_fraction": 0.0}, "held_out_target_fraction == 0"),
    ],
)
def test_impossible_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)


def test_too_few_genes_are_named():
    with pytest.raises(ValueError, match="n_latent=15 and n_genes=39"):
        make_sparse_shift(n_genes=39)


def test_wrong_types_are_named():
    with pytest.raises(TypeError, match="n_latent must be an instance of int"):
        small(n_latent=2.5)
