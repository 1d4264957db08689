"""Distances of populations: known values, naive sums, closed forms, invariances, bias."""

import tracemalloc

import numpy as np
import pytest
import scipy.stats
from scipy.sparse import csc_array, csr_array, csr_matrix
from scipy.spatial.distance import cdist

from skpert.metrics import (
    distances,
    energy_distance,
    maximum_mean_discrepancy,
    released_energy_distance,
)

KNOWN_X = np.array([[0, 0], [1, 0], [0, 1], [1, 1], [2, 1]])
KNOWN_Y = np.array([[1, 1], [2, 2], [1, 3], [0, 2], [3, 1]])

X = np.random.default_rng(0).normal(size=(70, 6))
Y = np.random.default_rng(1).normal(0.3, 1.2, size=(50, 6))

UNBIASED = pytest.mark.parametrize("unbiased", [True, False])


def energy(X, Y, **options):
    return energy_distance(X, Y, **options)


def mmd(X, Y, **options):
    return maximum_mean_discrepancy(X, Y, **options)


def mmd_of_training(X, Y, **options):
    return maximum_mean_discrepancy(X, Y, bandwidths="training", **options)


DISTANCES = pytest.mark.parametrize("distance", [energy, mmd, mmd_of_training])


def naive(kernel, X, Y, unbiased):
    """The definition, over all pairs at once."""
    between = kernel(cdist(X, Y, "sqeuclidean")).mean()
    within = 0.0
    for Z in (X, Y):
        K = kernel(cdist(Z, Z, "sqeuclidean"))
        within += K[~np.eye(len(Z), dtype=bool)].mean() if unbiased else K.mean()
    return within - 2 * between


def sum_of_gaussians(X, Y, widths=None):
    pooled = np.vstack([X, Y])
    if widths is None:
        base = cdist(pooled, pooled, "sqeuclidean").sum() / (len(pooled) * (len(pooled) - 1))
        widths = [base / 4 * 2**i for i in range(5)]
    return lambda squared: sum(np.exp(-squared / w) for w in widths)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"unbiased": False}, 1.5751709585),
        ({"unbiased": False, "bandwidths": "training"}, 0.2110424419),
        ({"unbiased": False, "bandwidths": [2.0]}, 0.3877388718),
        ({"bandwidths": [2.0]}, 0.1202222427),
    ],
)
def test_known_discrepancies(options, expected):
    value = maximum_mean_discrepancy(KNOWN_X, KNOWN_Y, **options)
    assert value == pytest.approx(expected, rel=0, abs=1e-10)
    assert type(value) is float


def test_known_energies():
    biased = energy_distance(KNOWN_X, KNOWN_Y, unbiased=False)
    assert biased == pytest.approx(1.1606094171, rel=0, abs=1e-10)
    assert energy_distance(KNOWN_X, KNOWN_Y) == pytest.approx(0.5097997918, rel=0, abs=1e-10)
    released = distances._released_energy(KNOWN_X, KNOWN_Y, [1, 2, 3, 4, 0], [4, 3, 2, 1, 0])
    assert released == pytest.approx(0.4, rel=0, abs=1e-10)


@UNBIASED
def test_values_are_those_of_the_definition_in_tiles_of_any_size(unbiased, monkeypatch):
    expected = [
        naive(sum_of_gaussians(X, Y), X, Y, unbiased),
        naive(sum_of_gaussians(X, Y, [1.0, 30.0]), X, Y, unbiased),
        naive(lambda squared: -np.sqrt(squared), X, Y, unbiased),
    ]
    for tile in (9, 50, 512):
        monkeypatch.setattr(distances, "TILE", tile)
        values = [
            maximum_mean_discrepancy(X, Y, unbiased=unbiased),
            maximum_mean_discrepancy(X, Y, bandwidths=(1, 30), unbiased=unbiased),
            energy_distance(X, Y, unbiased=unbiased),
        ]
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-10)


@UNBIASED
@DISTANCES
@pytest.mark.parametrize("form", [csr_array, csr_matrix, csc_array, np.float32, np.ndarray.tolist])
def test_every_form_of_cells_has_the_same_distance(form, distance, unbiased):
    counts = np.random.default_rng(2).poisson(0.7, size=(40, 8)).astype(float)
    expected = distance(counts[:25], counts[25:], unbiased=unbiased)
    value = distance(form(counts[:25]), form(counts[25:]), unbiased=unbiased)
    assert value == pytest.approx(expected, rel=1e-12)
    assert distance(form(counts[:25]), counts[25:], unbiased=unbiased) == value


@DISTANCES
def test_a_population_is_at_no_distance_from_itself(distance):
    assert distance(X, X, unbiased=False) == pytest.approx(0, abs=1e-9)
    repeated = np.repeat(X, 3, axis=0)  # the same distribution in other cells
    assert distance(X, repeated, unbiased=False) == pytest.approx(0, abs=1e-8)
    assert distance(X, X) < 0  # the correction, nothing being there to correct


@UNBIASED
@DISTANCES
def test_symmetry_and_invariance_to_order_rotation_and_translation(distance, unbiased):
    expected = distance(X, Y, unbiased=unbiased)
    rng = np.random.default_rng(3)
    rotation, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    for A, B in [
        (Y, X),
        (rng.permutation(X), rng.permutation(Y)),
        (X @ rotation, Y @ rotation),
        (X + 7.5, Y + 7.5),
    ]:
        assert distance(A, B, unbiased=unbiased) == pytest.approx(expected, rel=1e-9)


@DISTANCES
def test_a_large_common_offset_costs_no_precision(distance):
    A, B = np.round(X * 256) / 256, np.round(Y * 256) / 256  # sums with 2^24 are exact
    assert distance(A + 2.0**24, B + 2.0**24) == pytest.approx(distance(A, B), rel=1e-6)


def test_memory_is_bounded_by_tiles_and_not_by_pairs():
    cells = csr_array(np.random.default_rng(10).poisson(0.1, size=(2500, 40)).astype(float))
    tracemalloc.start()
    energy_distance(cells, cells[::-1])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 0.4 * 8 * 2500**2


def test_scale():
    """Energy is in the unit of expression; bandwidths that follow the cells take the unit off."""
    assert energy_distance(3 * X, 3 * Y) == pytest.approx(3 * energy_distance(X, Y))
    discrepancy = maximum_mean_discrepancy(X, Y)
    assert maximum_mean_discrepancy(1e-3 * X, 1e-3 * Y) == pytest.approx(discrepancy)
    assert maximum_mean_discrepancy(3 * X, 3 * Y, bandwidths=[9.0]) == pytest.approx(
        maximum_mean_discrepancy(X, Y, bandwidths=[1.0])
    )


@pytest.mark.parametrize("shift", [0.01, 1.0, 100.0])
def test_two_cells_have_a_closed_form(shift):
    a, b = np.array([[1.0, 2.0]]), np.array([[1.0 + shift, 2.0]])
    assert energy_distance(a, b, unbiased=False) == pytest.approx(2 * shift)
    single = maximum_mean_discrepancy(a, b, bandwidths=[4.0], unbiased=False)
    assert single == pytest.approx(2 - 2 * np.exp(-(shift**2) / 4))
    relative = maximum_mean_discrepancy(a, b, unbiased=False)  # each width is a share of shift^2
    assert relative == pytest.approx(10 - 2 * sum(np.exp(-4 / 2**i) for i in range(5)))


@UNBIASED
@pytest.mark.parametrize("constant", [0.0, 0.1, -1e9 / 3])
def test_cells_that_are_all_the_same_are_at_distance_zero(constant, unbiased):
    A, B = np.full((7, 3), constant), np.full((4, 3), constant)
    assert maximum_mean_discrepancy(A, B, unbiased=unbiased) == 0.0
    assert energy_distance(A, B, unbiased=unbiased) == 0.0


def test_bandwidths_add_up():
    widths = [0.5, 3.0, 40.0]
    parts = [maximum_mean_discrepancy(X, Y, bandwidths=[width]) for width in widths]
    assert maximum_mean_discrepancy(X, Y, bandwidths=widths) == pytest.approx(sum(parts))


@DISTANCES
def test_only_the_unbiased_distance_is_zero_on_average_in_one_population(distance):
    rng = np.random.default_rng(4)
    pairs = [(rng.normal(size=(6, 3)), rng.normal(size=(9, 3))) for _ in range(400)]
    unbiased = np.array([distance(A, B) for A, B in pairs])
    assert abs(unbiased.mean()) < 3 * unbiased.std() / np.sqrt(len(pairs))
    assert (unbiased < 0).mean() > 0.3
    biased = np.array([distance(A, B, unbiased=False) for A, B in pairs])
    assert biased.min() > 0
    assert biased.mean() > 10 * unbiased.std() / np.sqrt(len(pairs))


@pytest.mark.parametrize("shift", [0.0, 0.5, 3.0])
def test_energy_of_two_normals_tends_to_its_closed_form(shift):
    rng = np.random.default_rng(5)
    value = energy_distance(rng.normal(size=(3000, 1)), rng.normal(shift, 1, size=(3000, 1)))
    between = scipy.stats.foldnorm.mean(shift / np.sqrt(2), scale=np.sqrt(2))  # |N(shift, 2)|
    assert value == pytest.approx(2 * between - 4 / np.sqrt(np.pi), rel=0.05, abs=0.003)


def test_discrepancy_of_two_normals_tends_to_its_closed_form():
    rng = np.random.default_rng(6)
    A, B = rng.normal(size=(3000, 1)), rng.normal(1.0, 1, size=(3000, 1))
    value = maximum_mean_discrepancy(A, B, bandwidths=[2.0])
    expected = 2 / np.sqrt(3) * (1 - np.exp(-1 / 6))  # a Gaussian kernel of N(., 2)
    assert value == pytest.approx(expected, rel=0.1)


def test_energy_of_one_gene_is_the_square_of_scipy():
    expected = scipy.stats.energy_distance(X[:, 0], Y[:, 0]) ** 2
    value = energy_distance(X[:, :1], Y[:, :1], unbiased=False)
    assert value == pytest.approx(expected, rel=1e-6)


@DISTANCES
def test_distances_see_more_than_the_mean(distance):
    rng = np.random.default_rng(7)
    A, B = rng.normal(size=(300, 4)), rng.normal(0, 2, size=(300, 4))
    same = distance(A, rng.normal(size=(300, 4)))
    assert distance(A - A.mean(0), B - B.mean(0)) > 10 * abs(same)


def test_blocks_are_compared_one_by_one():
    Z = X[::-1] + 0.5
    blocks = [maximum_mean_discrepancy(X[i : i + 32], Z[i : i + 32]) for i in (0, 32)]
    expected = pytest.approx(np.mean(blocks))
    assert maximum_mean_discrepancy(X, Z, block_size=32) == expected
    far = np.vstack([Z[:64], Z[64:] + 1e3])  # cells that fill no block do not count
    assert maximum_mean_discrepancy(X, far, block_size=32) == expected
    whole = maximum_mean_discrepancy(X, Z, block_size=70)
    assert whole == pytest.approx(maximum_mean_discrepancy(X, Z))


def test_blocks_keep_the_bias_of_few_cells_however_many_there_are():
    rng = np.random.default_rng(8)
    A, B = rng.normal(size=(1600, 3)), rng.normal(size=(1600, 3))
    options = {"bandwidths": [6.0], "unbiased": False}
    spread = 1 - (1 + 4 / 6) ** -1.5  # K(0, 0) - E K: in each gene, (1 + 4 / w) ** -0.5
    published = maximum_mean_discrepancy(A, B, block_size=32, **options)
    assert published == pytest.approx(2 * spread / 32, rel=0.2)
    assert maximum_mean_discrepancy(A, B, **options) < 0.1 * published


def test_released_energy_over_all_pairs_is_twice_the_error_of_the_means():
    turns = [np.roll(np.arange(5), turn) for turn in range(5)]  # each cell meets each once
    values = [distances._released_energy(KNOWN_X, KNOWN_Y[turn], turn, turn) for turn in turns]
    error = np.mean((KNOWN_X.mean(0) - KNOWN_Y.mean(0)) ** 2)
    assert error == pytest.approx(0.9)
    assert np.mean(values) == pytest.approx(2 * error)


def test_released_energy_is_noisy_and_biased_by_cells_that_stay_in_place():
    rng = np.random.default_rng(9)
    A, B = rng.normal(size=(3200, 20)), rng.normal(0, 2, size=(3200, 20))
    value = released_energy_distance(A, B, random_state=0)
    assert value == pytest.approx(2 * (1 + 4) / 32, abs=0.15)  # the true means are equal
    assert abs(released_energy_distance(A, B, block_size=None, random_state=0)) < 0.15
    few = [released_energy_distance(A[:32], B[:32], random_state=seed) for seed in range(20)]
    assert np.std(few) > 0.1
    assert min(few) < 0


def test_released_energy_in_blocks():
    Z = X + np.arange(6)
    value = released_energy_distance(X, Z, random_state=0)
    assert value == released_energy_distance(X, Z, random_state=0)
    assert value != released_energy_distance(X, Z, random_state=1)
    assert value == pytest.approx(released_energy_distance(csr_array(X), Z, random_state=0))
    assert value == released_energy_distance(X[:64], Z[:64], random_state=0)
    rng = np.random.RandomState(0)
    blocks = []
    for rows in (slice(0, 32), slice(32, 64)):
        orders = rng.permutation(32), rng.permutation(32)
        blocks.append(distances._released_energy(X[rows], Z[rows], *orders))
    assert value == pytest.approx(np.mean(blocks))


@pytest.mark.parametrize(
    "distance", [energy_distance, maximum_mean_discrepancy, released_energy_distance]
)
@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (X[:, :4], "6 genes and Y 4: give the same genes"),
        (X[:0], "0 sample"),
        (X[:, 0], "Expected 2D array"),
        (np.where(X > 1, np.nan, X), "Y contains NaN"),
        (csr_array(np.where(X > 1, np.inf, X)), "Y contains infinity"),
    ],
)
def test_bad_cells_are_told(distance, cells, message):
    with pytest.raises(ValueError, match=message):
        distance(X, cells)


@DISTANCES
def test_one_cell_has_no_unbiased_distance(distance):
    with pytest.raises(ValueError, match="70 in X and 1 in Y: use unbiased=False"):
        distance(X, Y[:1])
    assert distance(X, Y[:1], unbiased=False) > 0


@pytest.mark.parametrize(
    "bandwidths", [[], [1.0, 0.0], [-1.0], [np.nan], [np.inf], 2.0, [[1.0]], "median"]
)
def test_bad_bandwidths_are_told(bandwidths):
    with pytest.raises(ValueError, match="bandwidths must be"):
        maximum_mean_discrepancy(X, Y, bandwidths=bandwidths)


@pytest.mark.parametrize("distance", [maximum_mean_discrepancy, released_energy_distance])
def test_bad_blocks_are_told(distance):
    with pytest.raises(ValueError, match="X has 70 of them and Y 50: resample"):
        distance(X, Y, block_size=32)
    with pytest.raises(ValueError, match="70 cells do not fill a block of 71"):
        distance(X, X, block_size=71)
    for block_size in (0, 8.0):
        with pytest.raises(ValueError, match="block_size must be an integer"):
            distance(X, X, block_size=block_size)


def test_a_block_of_one_cell_has_no_unbiased_distance():
    with pytest.raises(ValueError, match="block_size must be an integer >= 2 or None, got 1"):
        maximum_mean_discrepancy(X, X, block_size=1)
    assert maximum_mean_discrepancy(X, X + 1, block_size=1, unbiased=False) > 0
