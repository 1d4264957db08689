import pickle

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from skpert.datasets import make_invariant

TYPES, CONDITIONS, BATCHES = ["T0", "T1"], ["C0", "C1"], ["B0", "B1", "B2"]
RELEASED = {  # the three published simulations, with fewer cells
    "sparse_shift": {"normalize": "cells"},
    "synthetic_data": {
        "cell_type_shift": (-20, 20),
        "condition_shift": (0, 5, 5.2),
        "batch_mean": 0,
        "batch_variance": 1,
        "shift_scale": 0,
        "correlated": True,
        "n_invariant": 3,
        "n_spurious": 2,
        "normalize": "cells",
    },
    "scripts": {
        "cell_type_shift": (-20, 20),
        "condition_shift": (0, 5, 5),
        "batch_mean": 1,
        "batch_variance": 1,
        "shift_scale": 0,
        "correlated": True,
        "n_invariant": 8,
        "n_spurious": 2,
        "normalize": "cells",
    },
}
published = pytest.mark.parametrize("options", RELEASED.values(), ids=RELEASED)


def small(n_cells_per_combination=40, *, random_state=0, **options):
    return make_invariant(
        n_cells_per_combination, n_genes=60, random_state=random_state, **options
    )


def blocks(data):
    return data.Z[:, : data.n_invariant], data.Z[:, data.n_invariant :]


def positions(data, column):
    """Level of each cell as a number, and how many there are."""
    return data.obs[column].cat.codes.to_numpy(), len(data.obs[column].cat.categories)


def invariant_residual(data):
    cell_type, condition = positions(data, "cell_type")[0], positions(data, "condition")[0]
    return blocks(data)[0] - data.invariant_mean[cell_type, condition]


def spurious_residual(data):
    """Spurious latents, standardised by the moments of their batch."""
    batch = positions(data, "batch")[0]
    centred = blocks(data)[1] - data.batch_mean[batch, None]
    return centred / np.sqrt(data.batch_variance)[batch, None]


def assert_covariance(residual, covariance):
    """Within five standard errors of the covariance of normal variables, mean zero."""
    n = len(residual)
    variance = np.diag(covariance)
    assert (np.abs(residual.mean(axis=0)) < 5 * np.sqrt(variance / n)).all()
    error = np.sqrt((np.outer(variance, variance) + covariance**2) / n)
    assert (np.abs(residual.T @ residual / n - covariance) < 5 * error).all()


@published
def test_published_simulations_have_the_planted_moments(options):
    data = small(400, **options)
    assert_covariance(invariant_residual(data), data.invariant_covariance)
    assert_covariance(spurious_residual(data), np.eye(data.n_spurious))
    assert stats.kstest(spurious_residual(data).ravel(), "norm").pvalue > 1e-3


@pytest.mark.parametrize(
    ("name", "n_cells", "n_latent", "n_levels"),
    [
        ("sparse_shift", 480, (9, 1), (2, 2, 3)),
        ("synthetic_data", 240, (3, 2), (2, 3, 1)),
        ("scripts", 240, (8, 2), (2, 3, 1)),
    ],
)
def test_published_simulations_have_the_published_sizes(name, n_cells, n_latent, n_levels):
    data = small(**RELEASED[name])
    assert data.X.shape == (n_cells, 60)
    assert data.X.dtype == np.float32
    assert (data.n_invariant, data.n_spurious) == n_latent
    assert data.Z.shape == (n_cells, sum(n_latent))
    columns = ["cell_type", "condition", "batch"]
    assert data.obs.columns.tolist() == columns == data.invariant + data.spurious
    assert tuple(positions(data, name)[1] for name in columns) == n_levels
    assert set(data.obs.value_counts()) == {40}


def test_means_of_the_released_sparse_shift():
    data = small(1, n_invariant=39)
    assert data.invariant_mean.shape == (2, 2, 39)
    shift = np.array([[5, 6], [2, 3]])  # (5, 2) of types plus (0, 1) of conditions
    residual = (data.invariant_mean - shift[..., None]) / 0.5
    assert stats.kstest(residual.ravel(), "norm").pvalue > 1e-3
    assert data.batch_mean.tolist() == [0, 1, 2]
    assert data.batch_variance.tolist() == [2, 3, 4]  # 1 + (1, 2, 3)


def test_without_scale_all_invariant_latents_have_the_shifts_as_mean():
    data = small(**RELEASED["synthetic_data"])
    expected = np.array([[-20, -15, -14.8], [20, 25, 25.2]])
    np.testing.assert_allclose(data.invariant_mean, np.repeat(expected[..., None], 3, axis=2))


def test_correlated_covariance_of_three_latents():
    data = small(**RELEASED["synthetic_data"])
    assert data.invariant_covariance.tolist() == [[2, 2, 1], [2, 3, 2], [1, 2, 2]]


def test_correlated_covariance_is_the_released_one():
    n_invariant, n_latent = 6, 8  # as released: built on all latents, then cut
    root = np.eye(n_latent) + np.eye(n_latent, k=1) + np.eye(n_latent, k=-1)
    root[n_invariant - 1 :, n_invariant - 1 :] = np.eye(n_latent - n_invariant + 1)
    covariance = root @ root.T
    data = small(correlated=True, n_invariant=n_invariant, n_spurious=2)
    np.testing.assert_array_equal(data.invariant_covariance, covariance[:6, :6])
    np.testing.assert_array_equal(covariance[:6, 6:], 0)
    np.testing.assert_array_equal(covariance[6:, 6:], np.eye(2))


@pytest.mark.parametrize("n_invariant", range(1, 13))
def test_correlated_latents_are_dependent_for_two_and_every_third_number_after(n_invariant):
    data = small(1, correlated=True, n_invariant=n_invariant)
    rank = np.linalg.matrix_rank(data.invariant_covariance)
    assert rank == n_invariant - (n_invariant % 3 == 2)


def test_a_combination_of_the_latents_of_the_scripts_is_the_same_in_all_cells():
    invariant, _ = blocks(small(**RELEASED["scripts"]))
    weights = np.array([1, -1, 0, 1, -1, 0, 1, -1])
    np.testing.assert_allclose(invariant @ weights, 0, atol=1e-9)


def test_spurious_latents_depend_on_the_batch_alone():
    data = small(400, batch_mean=(-1, 0, 3), batch_variance=(0.5, 1, 4), n_spurious=3)
    spurious = blocks(data)[1]
    for batch, mean, variance in zip(BATCHES, (-1, 0, 3), (0.5, 1, 4), strict=True):
        own = spurious[data.obs["batch"] == batch]
        assert stats.kstest((own.ravel() - mean) / np.sqrt(variance), "norm").pvalue > 1e-3
    residual = spurious_residual(data)[:, 0]
    groups = data.obs.groupby(["cell_type", "condition"], observed=True).indices.values()
    assert stats.f_oneway(*(residual[rows] for rows in groups)).pvalue > 1e-3
    correlation = np.corrcoef(np.hstack([invariant_residual(data), spurious_residual(data)]).T)
    assert np.abs(correlation[:9, 9:]).max() < 5 / np.sqrt(len(data.Z))


def test_invariant_latents_do_not_depend_on_the_batch():
    data = small(400, correlated=True)
    residual = invariant_residual(data)
    for latent in residual.T:
        groups = [latent[data.obs["batch"] == batch] for batch in BATCHES]
        assert stats.f_oneway(*groups).pvalue > 1e-3


def test_one_number_is_one_level():
    data = small(cell_type_shift=1, condition_shift=[2.0], batch_mean=0, batch_variance=0)
    assert [positions(data, name)[1] for name in data.obs] == [1, 1, 1]
    assert (blocks(data)[1] == 0).all()


def test_a_variance_for_all_batches():
    data = small(batch_mean=range(5), batch_variance=0.25)
    assert data.batch_variance.tolist() == [0.25] * 5
    assert small(batch_mean=range(5)).batch_variance.tolist() == [2, 3, 4, 5, 6]


def test_without_spurious_latents_batches_do_not_differ():
    data = small(n_spurious=0)
    assert data.Z.shape == (480, 9)
    rows = pd.DataFrame({"cell_type": "T1", "condition": "C0", "batch": BATCHES})
    first, *others = data.expected(rows)
    for other in others:
        np.testing.assert_array_equal(other, first)


def test_names_of_levels_sort_as_their_numbers():
    data = small(1, batch_mean=np.zeros(12))
    names = data.obs["batch"].cat.categories.tolist()
    assert names == sorted(names) == [f"B{i:02d}" for i in range(12)]


def test_order_without_shuffling_is_batch_cell_type_condition():
    obs = small(5, shuffle=False).obs.astype(str)
    expected = [(t, c, b) for b in BATCHES for t in TYPES for c in CONDITIONS for _ in range(5)]
    assert list(obs.itertuples(index=False, name=None)) == expected


def test_shuffling_keeps_cells_and_covariates_together():
    data = small(shuffle=True)
    assert data.obs.index.tolist() == [f"cell{i}" for i in range(480)]
    assert data.obs["batch"].ne(small(shuffle=False).obs["batch"]).any()
    # a cell is far nearer to the mean of its own type than to that of the other
    distance = np.abs(blocks(data)[0].mean(axis=1)[:, None] - [5.5, 2.5])
    assert (distance.argmin(axis=1) == positions(data, "cell_type")[0]).mean() > 0.98
    own = data.log_likelihood(data.X, data.Z)
    assert (own > data.log_likelihood(data.X, data.Z[::-1])).mean() > 0.99


@pytest.mark.parametrize(
    ("unbalanced", "rows"),
    [
        (0.0, [[30, 30, 30], [30, 30, 30]]),
        (0.5, [[60, 15, 15], [15, 60, 15]]),
        (0.25, [[46, 22, 22], [22, 46, 22]]),  # 22.5 is rounded to even
        (1.0, [[90, 0, 0], [0, 90, 0]]),
    ],
)
def test_unbalanced_batches_have_more_of_their_own_condition(unbalanced, rows):
    data = small(30, batch_mean=(0, 1, 2, 3), condition_shift=(0, 1, 2), unbalanced=unbalanced)
    obs = data.obs
    for cell_type in TYPES:
        own = obs[obs["cell_type"] == cell_type]
        table = pd.crosstab(own["batch"], own["condition"], dropna=False).to_numpy()
        assert table[:2].tolist() == rows
        assert table[3].tolist() == rows[0]  # round again
        assert table.sum(axis=1).tolist() == [90] * 4


def test_unbalanced_batches_differ_in_composition_and_not_given_the_covariates():
    data = small(300, unbalanced=0.8, condition_shift=(0, 5), batch_mean=(0, 1))
    invariant, spurious = blocks(data)
    assert abs(np.corrcoef(invariant[:, 0], spurious[:, 0])[0, 1]) > 0.1
    residual = np.hstack([invariant_residual(data), spurious_residual(data)])
    assert_covariance(residual, np.eye(10))


def test_normalisation_over_genes_gives_each_cell_the_library_size():
    data = small(library_size=2e4)
    np.testing.assert_allclose(data.rate(data.Z).sum(axis=1), 2e4)
    np.testing.assert_allclose(data.expected(data.obs[:5]).sum(axis=1), 2e4)


def test_normalisation_over_cells_gives_each_gene_a_million_counts():
    data = small(normalize="cells")
    np.testing.assert_allclose(data.rate(data.Z).sum(axis=0), 1e6)


@pytest.mark.parametrize("normalize", ["genes", "cells"])
def test_counts_are_poisson_and_their_likelihood_says_so(normalize):
    data = small(normalize=normalize, library_size=3e3)
    rate = data.rate(data.Z)
    residual = (data.X - rate) / np.sqrt(rate)
    assert abs(residual.mean()) < 4 / np.sqrt(rate.size)
    assert (residual**2).mean() == pytest.approx(1, abs=0.05)
    expected = stats.poisson.logpmf(data.X.astype(float), rate).sum(axis=1)
    np.testing.assert_allclose(data.log_likelihood(data.X, data.Z), expected, rtol=1e-9)


def test_expected_counts_are_the_mean_rate_of_such_cells():
    data = small(correlated=True, batch_variance=(1, 1, 4))
    obs = pd.DataFrame({"cell_type": ["T1"], "condition": ["C0"], "batch": ["B2"]})
    rng = np.random.RandomState(1)
    invariant = rng.multivariate_normal(
        data.invariant_mean[1, 0], data.invariant_covariance, size=100_000, check_valid="ignore"
    )
    rate = data.rate(np.hstack([invariant, rng.normal(2, 2, size=(100_000, 1))]))
    relative = data.expected(obs)[0] / rate.mean(axis=0) - 1
    assert np.abs(relative).max() < 0.03


def test_expected_counts_go_by_the_columns_and_not_by_their_order():
    data = small()
    obs = data.obs[:30]
    expected = data.expected(obs)
    assert expected.shape == (30, 60)
    reordered = obs[["batch", "condition", "cell_type"]].astype(str)[::-1]
    np.testing.assert_array_equal(data.expected(reordered)[::-1], expected)


def test_combinations_without_cells_can_be_expected():
    data = small(unbalanced=1.0)
    absent = pd.DataFrame({"cell_type": ["T0"], "condition": ["C1"], "batch": ["B0"]})
    assert not (data.obs == absent.loc[0]).all(axis=1).any()
    balanced = small()  # the same means and another network
    assert data.expected(absent).shape == balanced.expected(absent).shape
    np.testing.assert_array_equal(data.invariant_mean, balanced.invariant_mean)


@pytest.mark.parametrize(
    ("obs", "message"),
    [
        ([["T0", "C0", "B0"]], "obs must be a DataFrame with the columns batch, cell_type, cond"),
        (pd.DataFrame(columns=["cell_type", "condition", "batch"]), "at least one row"),
        (pd.DataFrame({"cell_type": ["T0"], "batch": ["B0"]}), r"no column \['condition'\]"),
        (
            pd.DataFrame({"cell_type": ["T0"], "condition": ["C7"], "batch": ["B0"]}),
            r"obs has \['C7'\] as condition; known are \['C0', 'C1'\]",
        ),
        (
            pd.DataFrame({"cell_type": [None], "condition": ["C0"], "batch": ["B0"]}),
            "as cell_type; known are",
        ),
    ],
)
def test_expected_counts_of_what_is_not_there(obs, message):
    with pytest.raises(ValueError, match=message):
        small(1).expected(obs)


def test_the_data_make_an_anndata():
    data = small()
    adata = anndata.AnnData(data.X, obs=data.obs, obsm={"Z": data.Z})
    assert adata.obs["cell_type"].cat.categories.tolist() == TYPES


def test_same_seed_same_data_other_seed_other_data():
    first, again, other = small(), small(), small(random_state=1)
    pd.testing.assert_frame_equal(first.obs, again.obs)
    for name in ("X", "Z", "invariant_mean"):
        assert np.array_equal(first[name], again[name])
        assert not np.array_equal(first[name], other[name])


@pytest.mark.parametrize(
    ("name", "total", "checksum"),
    [
        ("sparse_shift", 59998168, 30095794630),
        ("synthetic_data", 59989192, 29727966956),
        ("scripts", 59998299, 29899503174),
    ],
)
def test_a_seed_means_the_same_counts_in_every_release(name, total, checksum):
    counts = small(**RELEASED[name]).X.astype(np.int64).ravel()
    assert counts.sum() == total
    assert counts @ (np.arange(counts.size) % 1009) == checksum


def test_arguments_and_the_global_generator_are_left_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    batch_mean = np.array([0.0, 1.0])
    data = small(batch_mean=batch_mean)
    data.batch_mean[0] = 7
    assert batch_mean.tolist() == [0, 1]
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_pickling_keeps_the_truth():
    data = small()
    copy = pickle.loads(pickle.dumps(data))
    assert np.array_equal(copy.expected(copy.obs[:3]), data.expected(data.obs[:3]))
    assert np.array_equal(copy.log_likelihood(copy.X, copy.Z), data.log_likelihood(data.X, data.Z))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_cells_per_combination": 0}, "n_cells_per_combination == 0"),
        ({"cell_type_shift": ()}, r"cell_type_shift must be a finite number, .* got \(\)"),
        ({"cell_type_shift": "high"}, "cell_type_shift must be a finite number"),
        ({"condition_shift": (0, np.nan)}, "condition_shift must be a finite number"),
        ({"batch_mean": [[0, 1]]}, "batch_mean must be a finite number"),
        ({"batch_variance": (1, 2)}, "one for each of the 3 numbers in batch_mean"),
        ({"batch_variance": (1, 2, -3)}, "number that is not negative"),
        ({"batch_variance": -1}, "number that is not negative"),
        ({"shift_scale": -0.5}, "shift_scale == -0.5"),
        ({"shift_scale": np.inf}, "shift_scale == inf"),
        ({"shift_scale": np.nan}, "shift_scale must be a number between 0 and inf"),
        ({"unbalanced": 1.5}, "unbalanced == 1.5"),
        ({"unbalanced": np.nan}, "unbalanced must be a number between 0 and 1"),
        ({"unbalanced": 0.5, "batch_mean": 0}, "needs at least two batches and two conditions"),
        ({"unbalanced": 0.5, "condition_shift": 0}, "got 3 and 1"),
        ({"n_invariant": 0}, "n_invariant == 0"),
        ({"n_spurious": -1}, "n_spurious == -1"),
        ({"n_spurious": 32}, "n_latent=41 and n_genes=60"),
        ({"normalize": "gene"}, "'genes' or 'cells', got 'gene'"),
        ({"library_size": 0.0}, "library_size == 0"),
        ({"library_size": np.inf}, "must be finite"),
    ],
)
def test_impossible_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)


def test_wrong_types_are_named():
    with pytest.raises(TypeError, match="n_invariant must be an instance of int"):
        small(n_invariant=2.5)
