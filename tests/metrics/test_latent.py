import numpy as np
import pytest
from scipy.stats import ortho_group, spearmanr
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score

from skpert.metrics import latent_r2, match_latents, mean_correlation_coefficient

# columns of Z: the third true latent, flipped; the first, scaled; the second, cubed and flipped
Z_TRUE = np.array([[0.0, 1, 2], [1, 0, 1], [2, 3, 0], [3, 1, 1], [4, 5, 5], [0, 2, 1]])
Z = np.column_stack([-2 * Z_TRUE[:, 2] + 1, 3 * Z_TRUE[:, 0], -(Z_TRUE[:, 1] ** 3)])


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_known_correlations():
    assert mean_correlation_coefficient(Z_TRUE, Z) == pytest.approx(0.9703754247, abs=1e-10)
    assert mean_correlation_coefficient(Z_TRUE, Z, method="spearman") == pytest.approx(1)


def test_known_variance_explained():
    assert latent_r2(Z_TRUE, Z) == pytest.approx(0.9716102764, abs=1e-10)


@pytest.mark.parametrize("method", ["pearson", "spearman"])
def test_flipped_latents_are_matched_by_absolute_correlation(method):
    assert match_latents(Z_TRUE, Z, method=method).tolist() == [1, 2, 0]  # signed: [1, 0, 2]


def test_spearman_agrees_with_scipy(rng):
    Z_true, Z = rng.integers(5, size=(50, 2)), rng.integers(5, size=(50, 2))  # many ties
    rho = np.abs(spearmanr(Z_true, Z).statistic[:2, 2:])
    best = max(rho[0, 0] + rho[1, 1], rho[0, 1] + rho[1, 0]) / 2
    assert mean_correlation_coefficient(Z_true, Z, method="spearman") == pytest.approx(best)


def test_pairs_are_one_to_one_and_best_in_sum(rng):
    z = rng.normal(size=(1000, 2))
    mixed = np.column_stack([z[:, 0] + 0.5 * z[:, 1], z[:, 0]])
    # both true latents like column 0 or 1; each column may serve once
    assert match_latents(z, mixed).tolist() == [1, 0]


@pytest.mark.parametrize("method", ["pearson", "spearman"])
def test_order_sign_scale_and_offset_do_not_matter(method, rng):
    Z_true, Z = rng.normal(size=(2, 300, 6))
    changed = (Z * [1e-3, -1, 5, -2e6, 1, 1] + 7)[:, [3, 1, 0, 5, 4, 2]]
    score = mean_correlation_coefficient(Z_true, Z, method=method)
    assert mean_correlation_coefficient(Z_true, changed, method=method) == pytest.approx(score)
    assert mean_correlation_coefficient(Z_true, Z_true[:, ::-1], method=method) == pytest.approx(1)


def test_monotone_functions_matter_to_pearson_only(rng):
    Z_true = rng.normal(size=(300, 4))
    assert mean_correlation_coefficient(Z_true, np.exp(2 * Z_true)) < 0.8
    assert mean_correlation_coefficient(
        Z_true, np.exp(2 * Z_true), method="spearman"
    ) == pytest.approx(1)


def test_rotation_loses_correlation_and_keeps_variance_explained(rng):
    Z_true = rng.normal(size=(2000, 10))
    rotated = Z_true @ ortho_group.rvs(10, random_state=0)
    assert mean_correlation_coefficient(Z_true, rotated) < 0.75
    assert latent_r2(Z_true, rotated) == pytest.approx(1)


def test_noise_scores_at_chance(rng):
    Z_true, Z = rng.normal(size=(2, 4000, 5))
    assert mean_correlation_coefficient(Z_true, Z) < 3 / np.sqrt(4000)
    assert latent_r2(Z_true, Z) == pytest.approx(5 / 3999, abs=2e-3)


def test_true_latents_without_partner_count_as_zero(rng):
    Z_true = rng.normal(size=(200, 4))
    assert mean_correlation_coefficient(Z_true, Z_true[:, [2]]) == pytest.approx(1 / 4)
    assert match_latents(Z_true, Z_true[:, [2]]).tolist() == [-1, -1, 0, -1]


def test_surplus_latents_do_no_harm(rng):
    Z_true = rng.normal(size=(200, 2))
    Z = np.column_stack([rng.normal(size=(200, 3)), Z_true])
    assert mean_correlation_coefficient(Z_true, Z) == pytest.approx(1)
    assert match_latents(Z_true, Z).tolist() == [3, 4]


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e8])
def test_constant_latents_correlate_with_nothing(constant, rng):
    Z_true = rng.normal(size=(333, 2))
    dead = np.column_stack([Z_true[:, 0], np.full(333, constant)])
    assert mean_correlation_coefficient(Z_true, dead[:, 1:]) == 0
    assert mean_correlation_coefficient(Z_true, dead) == pytest.approx(1 / 2)
    assert mean_correlation_coefficient(dead, Z_true) == pytest.approx(1 / 2)
    assert mean_correlation_coefficient(dead, Z_true, method="spearman") == pytest.approx(1 / 2)
    assert latent_r2(dead, Z_true) == pytest.approx(1 / 2)


def test_variance_explained_agrees_with_scikit_learn(rng):
    Z = rng.normal(size=(100, 4)) + 3
    Z = np.column_stack([Z, Z[:, 0] - Z[:, 1], np.full(100, 2.0)])  # collinear and constant
    Z_true = Z[:, :3] @ rng.normal(size=(3, 3)) + rng.normal(size=(100, 3)) - 5
    expected = r2_score(Z_true, LinearRegression().fit(Z, Z_true).predict(Z))
    assert latent_r2(Z_true, Z) == pytest.approx(expected)


def test_tiny_and_huge_latents_do_not_under_or_overflow(rng):
    Z_true = rng.normal(size=(100, 2))
    assert mean_correlation_coefficient(Z_true, Z_true * [1e-200, 1e200]) == pytest.approx(1)
    assert latent_r2(Z_true, Z_true * [1e-200, 1e200]) == pytest.approx(1)


@pytest.mark.parametrize("metric", [mean_correlation_coefficient, match_latents, latent_r2])
def test_unusable_latents_are_errors(metric):
    with pytest.raises(ValueError, match="Input Z contains NaN"):
        metric(Z_TRUE, np.where(Z == 0, np.nan, Z))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        metric(Z_TRUE, Z[1:])
    with pytest.raises(ValueError, match="Expected 2D array"):
        metric(Z_TRUE, Z[:, 0])
    with pytest.raises(ValueError, match="minimum of 2 is required"):
        metric(Z_TRUE[:1], Z[:1])


@pytest.mark.parametrize("metric", [mean_correlation_coefficient, match_latents])
def test_unknown_method_is_an_error(metric):
    with pytest.raises(ValueError, match="'pearson' or 'spearman', got 'kendall'"):
        metric(Z_TRUE, Z, method="kendall")
