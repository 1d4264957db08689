import numpy as np
import pandas as pd
import pytest

from skpert import VAE, SVAEPlus
from skpert.datasets import make_sparse_shift
from skpert.planning import power, simulate_screen
from skpert.planning._depth import at_depth, deeper, thinned
from skpert.planning._pilot import errors, read_pilot
from skpert.planning._power import _moments, _two_sided
from skpert.plotting import PowerDisplay
from skpert.sparsity.edges import edge_probability, probability_of_values

FAST = {"n_cells": [10, 200], "n_draws": 4, "random_state": 0}


@pytest.fixture(scope="module")
def pilot():
    screen = make_sparse_shift(
        14,
        n_cells_per_perturbation=60,
        n_control_cells=120,
        n_latent=3,
        n_genes=50,
        n_targets=1,
        effect_size=1.5,
        library_size=5000,
        random_state=0,
    )
    options = {"validation_fraction": 0, "random_state": 0}  # errors are those of all cells
    model = SVAEPlus(n_latent=3, max_epochs=40, **options).fit(screen.X, screen.A)
    return model, screen.X, screen.A


def mean_power(found):
    return found.latents.groupby(["effect", "n_cells"])["power"].mean().unstack()


def test_power_rises_with_cells_and_with_the_size_of_the_effect(pilot):
    table = mean_power(power(*pilot, effect=[0.2, 0.6, 2.0], **FAST)).to_numpy()
    assert (np.diff(table, axis=0) >= 0).all()
    assert (np.diff(table, axis=1) >= 0).all()
    assert table[0, 0] < 0.2
    assert table[-1, -1] > 0.95


def test_escape_and_weak_guides_take_power(pilot):
    plain = mean_power(power(*pilot, effect=0.6, **FAST)).to_numpy()
    escaped = mean_power(power(*pilot, effect=0.6, response=0.5, **FAST)).to_numpy()
    weak = mean_power(power(*pilot, effect=0.6, efficacy=[1.0, 0.0], **FAST)).to_numpy()
    assert escaped[0, 1] < plain[0, 1] - 0.05
    assert weak[0, 1] < plain[0, 1] - 0.05


def test_edges_of_the_screen_have_the_power_of_their_own_effects(pilot):
    screen = power(*pilot, **FAST).screen
    edges = screen[(screen["probability"] > 0.99) & (screen["effect"].abs() > 1)]
    assert len(edges) > 10
    by_cells = edges.groupby("n_cells")["power"].mean()
    assert by_cells[200] > 0.95
    assert by_cells[10] < by_cells[200]
    assert len(screen) == 2 * 14 * 3


def test_minimal_effect_and_cells_needed_agree_with_power(pilot):
    found = power(*pilot, n_cells=[10, 50, 200], effect=[0.6, 2.0], n_draws=4, random_state=0)
    assert (found.minimal_effect.fillna(9.0).diff(axis=1).iloc[:, 1:] <= 0.05).all(axis=None)
    for size, needed in found.cells_needed.items():
        part = found.latents[found.latents["effect"] == size].pivot(
            index="latent", columns="n_cells", values="power"
        )
        for latent, n in needed.items():
            assert (n <= 200) == (part.loc[latent, 200] >= 0.8)


def test_standard_errors_are_those_of_a_difference_of_means():
    found = errors(np.array([1.0, 4.0]), [10, 40], 40)
    np.testing.assert_allclose(found**2, [[0.125, 0.5], [0.05, 0.2]])
    np.testing.assert_allclose(errors(np.ones(1), [10], 0) ** 2, [[0.1]])


def test_the_pilot_has_the_effects_and_errors_of_the_model(pilot):
    model = pilot[0]
    found = read_pilot(*pilot)[2]
    assert list(found.names) == list(model.perturbations_)
    np.testing.assert_allclose(found.standard_error, model.standard_error_, rtol=1e-3)


def test_effects_are_drawn_from_their_posterior(pilot):
    found = read_pilot(*pilot)[2]
    seen = np.full(found.effect.shape, 0.05)
    seen[0, 0], seen[1, 0] = 3.0, 0.6
    found = found._replace(effect=seen)
    probability = np.zeros(seen.shape)
    probability[0, 0] = 1.0
    rng = np.random.default_rng(0)
    width = np.full(seen.shape, 0.05)
    draws = np.stack([found.drawn(probability, width, rng) for _ in range(400)])
    error = found.standard_error
    np.testing.assert_allclose(draws[:, 0, 0].mean(), 3.0, atol=0.05)  # an edge as it was seen
    np.testing.assert_allclose(draws[:, 0, 0].std(), error[0, 0], rtol=0.15)
    kept = draws.mean(0) / seen
    core = width**2 / (width**2 + error**2)
    assert abs(kept[2:].mean() - core[2:].mean()) < 0.2  # the core of the null is shrunk most
    assert core[1, 0] < kept[1, 0] < 1  # its tail less


def test_less_depth_is_less_effect(pilot):
    values, labels, found = read_pilot(*pilot)
    rng = np.random.default_rng(0)
    ratio, variance = at_depth(pilot[0], values, labels, found, 0.02, rng)
    assert (ratio / np.sqrt(variance / found.variance) < 0.95).all()  # signal over noise
    np.testing.assert_array_equal(thinned(values, 1.0, rng), values)


def test_information_says_of_less_depth_what_thinned_counts_say(pilot):
    values, labels, found = read_pilot(*pilot)

    def signal(function, depth):
        ratio, variance = function(
            pilot[0], values, labels, found, depth, np.random.default_rng(0)
        )
        return ratio / np.sqrt(variance / found.variance)

    by_depth = [signal(deeper, depth) for depth in (0.02, 0.2, 1.0, 3.0)]
    assert (np.diff(by_depth, axis=0) > 0).all()
    np.testing.assert_allclose(by_depth[2], 1)
    np.testing.assert_allclose(signal(deeper, 0.02), signal(at_depth, 0.02), atol=0.15)


def test_more_depth_gives_little_where_cells_themselves_differ(pilot):
    options = {"n_cells": 60, "effect": [0.3, 0.6], "n_draws": 6, "random_state": 0}
    plain, deep = (
        mean_power(power(*pilot, depth=depth, **options)).to_numpy() for depth in (1.0, 1e3)
    )
    np.testing.assert_allclose(deep, plain, atol=0.1)  # a cell has 5,000 counts already
    means = [power(*pilot, depth=d, genes=[0], **options).genes["mean"][0] for d in (1.0, 4.0)]
    np.testing.assert_allclose(means[1], 4 * means[0])


@pytest.mark.parametrize("likelihood", ["normal", "zero_inflated_negative_binomial"])
def test_more_depth_needs_a_likelihood_that_knows_of_it(pilot, likelihood):
    _, X, A = pilot
    X = np.log1p(X) if likelihood == "normal" else X
    options = {"n_latent": 2, "max_epochs": 1, "likelihood": likelihood, "random_state": 0}
    model = SVAEPlus(**options).fit(X, A)
    with pytest.raises(ValueError, match=f"depth=2.0 .*likelihood='{likelihood}'"):
        power(model, X, A, depth=2.0, **FAST)
    if likelihood == "normal":
        with pytest.raises(ValueError, match="depth=0.5 has no meaning"):
            power(model, X, A, depth=0.5, **FAST)
        with pytest.raises(ValueError, match="depth=2.0 has no meaning"):
            simulate_screen(model, 5, depth=2.0)
    else:
        assert power(model, X, A, depth=0.5, **FAST).latents["power"].between(0, 1).all()


def test_a_pilot_without_cells_is_refused(pilot):
    model, X, A = pilot
    with pytest.raises(ValueError, match="0 sample|at least one|no cells|minimum of 1"):
        power(model, X[:0], A[:0], **FAST)
    control = A == "control"
    with pytest.raises(ValueError, match="no perturbation with 2 cells beside the control"):
        power(model, X[control], A[control], **FAST)


def test_values_are_judged_as_entries_of_the_table_are():
    rng = np.random.default_rng(0)
    M = 0.05 * rng.normal(size=(40, 4))
    M[np.arange(30), np.arange(30) % 4] += 2.0
    e = np.full(M.shape, 0.05)
    values = np.array([0.0, 0.1, 1.5, 2.0, -2.0])
    found = probability_of_values(M, e, values, np.full((5, 4), 0.05))
    assert (found[:2] < 0.1).all()
    assert (found[2:] > 0.95).all()
    np.testing.assert_allclose(found[3], found[4])
    row = np.append(np.zeros(3), 2.0)
    inside = edge_probability(np.vstack([M, row]), np.full((41, 4), 0.05))
    assert abs(inside[-1, -1] - found[3, -1]) < 0.01
    assert (probability_of_values(0 * M, e, values, np.full((5, 4), 0.05)) == 0).all()


def test_power_of_genes_is_that_of_simulated_tests():
    rng = np.random.default_rng(0)
    signal = np.array([0.5, 3.0, 6.0])
    found = _two_sided(signal, 0.05, 0.1)
    level = 0.05 / 0.95 * 0.1 / 0.9 * found
    z = np.abs(rng.normal(signal, 1, (200_000, 3)))
    from scipy.stats import norm

    np.testing.assert_allclose((z > norm.isf(level / 2)).mean(0)[1:], found[1:], atol=0.01)
    assert (np.diff(found) >= 0).all()


def test_moments_are_those_of_the_negative_binomial():
    rng = np.random.default_rng(0)
    theta, mean = 2.0, np.array([1.0, 5.0])
    counts = rng.negative_binomial(theta, theta / (theta + mean), (20_000, 2)).astype(float)
    other = np.full((20_000, 1), 1000.0)  # a library of constant size
    found = _moments(counts, np.hstack([counts, other]))
    np.testing.assert_allclose(found[0], mean, rtol=0.05)
    np.testing.assert_allclose(found[1], 1 / theta, rtol=0.1)


def test_genes_have_a_power(pilot):
    found = power(*pilot, genes=[0, 3], log2_fold_change=[0.1, 2.0], **FAST).genes
    assert set(found["gene"]) == {0, 3}
    assert len(found) == 8
    wide = found.groupby(["log2_fold_change", "n_cells"])["power"].mean().unstack().to_numpy()
    assert (np.diff(wide, axis=0) > 0).all()
    assert (np.diff(wide, axis=1) >= 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_cells": 0}, "n_cells must be integers of at least 1, got 0"),
        ({"n_cells": []}, "n_cells must be integers of at least 1, got none"),
        ({"n_cells": [2.5]}, "n_cells must be integers"),
        ({"effect": -1.0}, "effect must be positive numbers, got -1"),
        ({"efficacy": 1.5}, r"efficacy must be in \[0, 1\]"),
        ({"fdr": 0.0}, "fdr"),
        ({"depth": 0.0}, "depth"),
        ({"depth": np.inf}, "depth must be finite"),
        ({"efficacy": -0.5}, r"efficacy must be in \[0, 1\], of one or of each guide; got -0.5"),
        ({"efficacy": [1.0, np.nan]}, r"efficacy must be in \[0, 1\]"),
        ({"efficacy": []}, r"efficacy must be in \[0, 1\]"),
        ({"efficacy": "high"}, "efficacy must be numbers in"),
        ({"n_cells": "many"}, "n_cells must be integers of at least 1, got 'many'"),
        ({"n_cells": [10, np.nan]}, "n_cells must be integers of at least 1, got nan"),
        ({"effect": np.nan}, "effect must be positive numbers, got nan"),
        ({"n_perturbations": 0}, "n_perturbations must be an integer of at least 1"),
        ({"n_draws": 0}, "n_draws must be an integer of at least 1"),
        ({"response": 0.0}, "response"),
        ({"n_control_cells": 0}, "n_control_cells must be an integer of at least 1"),
        ({"genes": "nothing"}, "genes has 'nothing'"),
    ],
)
def test_bad_plans_are_refused(pilot, options, message):
    with pytest.raises(ValueError, match=message):
        power(*pilot, **FAST | options)


def test_models_without_edges_are_refused(pilot):
    _, X, A = pilot
    vae = VAE(n_latent=2, max_epochs=1, random_state=0).fit(X, A)
    with pytest.raises(ValueError, match="calls no edges"):
        power(vae, X, A)


def test_display_draws_a_curve_for_each_effect(pilot):
    display = PowerDisplay.from_power(power(*pilot, effect=[0.5, 2.0], **FAST))
    assert display.mean_.shape == (2, 2)
    assert len(display.axes_.get_lines()) == 3
    genes = power(*pilot, genes=[0], **FAST)
    assert PowerDisplay.from_power(genes, genes=True).mean_.shape == (2, 3)
    with pytest.raises(ValueError, match="table must have rows"):
        PowerDisplay(pd.DataFrame({"power": [1.0]})).plot()
