import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csc_array, csr_array, csr_matrix, issparse
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from skpert.exceptions import DataWarning
from skpert.preprocessing import HighlyVariableGenes, LogNormalize
from skpert.preprocessing._genes import _clipped_variance, _local_quadratic


@pytest.fixture(scope="module")
def screen():
    """Simulate counts of 600 cells in 4 groups; 200 of 1500 genes differ between groups."""
    rng = np.random.default_rng(0)
    rate = np.exp(rng.normal(0, 0.3, 600))[:, None] * np.exp(rng.normal(-0.5, 1.3, 1500))
    varies = rng.choice(1500, 200, replace=False)
    rate[:, varies] *= np.exp(rng.normal(0, 0.7, (4, 200)))[rng.integers(0, 4, 600)]
    return rng.poisson(rng.gamma(5, rate / 5)).astype(np.float32), varies


@pytest.mark.filterwarnings("ignore::skpert.exceptions.DataWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks(
    [LogNormalize(), LogNormalize(target_sum=None), HighlyVariableGenes(n_top_genes=2)]
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def test_log_normalize_is_the_formula():
    X = np.array([[1, 3, 0], [0, 0, 0], [10, 0, 30]])
    expected = np.log1p([[2500, 7500, 0], [0, 0, 0], [2500, 0, 7500]])
    np.testing.assert_allclose(LogNormalize().fit_transform(X), expected)
    totals = np.expm1(LogNormalize(50).fit_transform(X)).sum(axis=1)
    np.testing.assert_allclose(totals, [50, 0, 50])


@pytest.mark.parametrize("sparse", [csr_matrix, csr_array, csc_array])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_log_normalize_of_sparse_is_sparse_and_the_same(screen, sparse, dtype):
    X = screen[0][:50].astype(dtype)
    given = sparse(X)
    X_log = LogNormalize(target_sum=None).fit_transform(given)
    assert issparse(X_log)
    assert X_log.format == "csr"
    assert X_log.dtype == dtype
    dense = LogNormalize(target_sum=None).fit_transform(X)
    np.testing.assert_allclose(X_log.toarray(), dense, rtol=1e-6)
    np.testing.assert_array_equal(given.toarray(), X)


def test_log_normalize_to_the_median_of_training_cells_with_counts():
    normalize = LogNormalize(target_sum=None).fit([[0, 0], [4, 0], [1, 5], [2, 6]])
    assert normalize.target_sum_ == 6
    np.testing.assert_allclose(normalize.transform([[1, 2]]), np.log1p([[2, 4]]))
    assert LogNormalize(target_sum=None).fit([[0, 0]]).target_sum_ == 1


@pytest.mark.parametrize("estimator", [LogNormalize(), HighlyVariableGenes()])
@pytest.mark.parametrize("sparse", [np.array, csr_matrix])
def test_negative_counts_are_an_error(estimator, sparse):
    with pytest.raises(ValueError, match="Negative values in data"):
        estimator.fit(sparse([[1.0, 2.0], [0.0, -1.0]]))


def test_parameters_out_of_range():
    with pytest.raises(ValueError, match="target_sum=0 must be a positive number"):
        LogNormalize(0).fit([[1]])
    with pytest.raises(ValueError, match="they are 0 and 0.3"):
        HighlyVariableGenes(0).fit([[1], [2]])
    with pytest.raises(ValueError, match="they are 9 and 1.5"):
        HighlyVariableGenes(9, span=1.5).fit([[1], [2]])


def test_local_regression_of_a_parabola_is_exact():
    x = np.sort(np.random.default_rng(0).normal(size=100))
    y = 1 - 2 * x + 3 * x**2
    np.testing.assert_allclose(_local_quadratic(x, y, 0.3, n_points=3)[[0, -1]], y[[0, -1]])
    at_knots = np.isin(x, np.quantile(x, np.linspace(0, 1, 100)))
    np.testing.assert_allclose(_local_quadratic(x, y, 0.3, 100)[at_knots], y[at_knots])


def test_local_regression_is_weighted_least_squares():
    rng = np.random.default_rng(1)
    x, y = np.sort(rng.uniform(size=41)), rng.normal(size=41)
    distance = np.abs(x - x[20])
    weight = (1 - np.clip(distance / (np.sort(distance)[20] * 1.001), 0, 1) ** 3) ** 3
    parabola = np.polynomial.Polynomial.fit(x, y, 2, w=np.sqrt(weight))
    np.testing.assert_allclose(_local_quadratic(x, y, 0.5, 41)[20], parabola(x[20]))


@pytest.mark.parametrize("x", [[0.0], [0.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
def test_local_regression_of_few_or_equal_points(x):
    y = np.arange(len(x)) if len(set(x)) > 1 else np.full(len(x), 2.0)
    np.testing.assert_allclose(_local_quadratic(np.array(x), y, 0.3), y, atol=1e-12)


def test_clipped_variance_is_the_formula(screen):
    X = screen[0][:, :50].astype(float)
    X[0, :] = 1000  # clipped: 600 cells, so at 24.5 standard deviations
    mean, scale = X.mean(axis=0), np.linspace(0.5, 2, 50)
    standardized = np.minimum((X - mean) / scale, np.sqrt(600))
    expected = (standardized**2).sum(axis=0) / 599
    assert (standardized.max(axis=0) == np.sqrt(600)).all()
    np.testing.assert_allclose(_clipped_variance(X, mean, scale), expected)
    np.testing.assert_allclose(_clipped_variance(csr_matrix(X), mean, scale), expected)


def test_most_of_the_genes_that_vary_are_selected(screen):
    X, varies = screen
    selected = HighlyVariableGenes(200).fit(X).get_support(indices=True)
    assert len(selected) == 200
    chance = 200 / 1500
    assert np.isin(selected, varies).mean() > 4 * chance


def test_genes_without_an_effect_have_unit_variance():
    rng = np.random.default_rng(0)
    X = rng.poisson(np.exp(rng.uniform(-2, 4, 400)), size=(2000, 400))
    variances = HighlyVariableGenes(1).fit(X).standardized_variances_
    np.testing.assert_allclose(variances, 1, atol=0.2)
    np.testing.assert_allclose(variances.mean(), 1, atol=0.01)


@pytest.mark.parametrize("sparse", [csr_matrix, csc_array])
def test_genes_of_sparse_counts_are_the_same(screen, sparse):
    X = screen[0].copy()
    X[:, 3] = 0
    X[:, 5] = 2
    dense, given = HighlyVariableGenes(100).fit(X), sparse(X)
    selector = HighlyVariableGenes(100).fit(given)
    np.testing.assert_allclose(selector.means_, X.mean(axis=0, dtype=np.float64))
    np.testing.assert_allclose(
        selector.variances_, X.var(axis=0, ddof=1, dtype=np.float64), atol=1e-12
    )
    np.testing.assert_allclose(
        selector.standardized_variances_, dense.standardized_variances_, atol=1e-12
    )
    assert selector.standardized_variances_[[3, 5]] == pytest.approx([0, 0], abs=1e-12)
    selected = selector.transform(given)
    assert issparse(selected)
    np.testing.assert_array_equal(selected.toarray(), X[:, dense.get_support()])


def test_order_of_genes_and_cells_does_not_matter(screen):
    X = screen[0]
    rng = np.random.default_rng(0)
    genes, cells = rng.permutation(X.shape[1]), rng.permutation(len(X))
    expected = HighlyVariableGenes(100).fit(X).get_support()
    shuffled = HighlyVariableGenes(100).fit(X[cells][:, genes]).get_support()
    np.testing.assert_array_equal(shuffled, expected[genes])


def test_names_of_genes_survive_a_pipeline(screen):
    frame = pd.DataFrame(screen[0][:, :30]).add_prefix("G")
    pipeline = make_pipeline(HighlyVariableGenes(5), LogNormalize()).set_output(transform="pandas")
    result = pipeline.fit_transform(frame)
    kept = frame.columns[HighlyVariableGenes(5).fit(screen[0][:, :30]).get_support()]
    assert result.columns.tolist() == kept.tolist()
    assert pipeline.get_feature_names_out().tolist() == kept.tolist()


def test_all_genes_when_there_are_fewer():
    assert HighlyVariableGenes().fit([[1, 2, 0], [3, 2, 0]]).get_support().all()


def test_values_that_are_not_whole_are_warned_of():
    with pytest.warns(DataWarning, match="not whole, such as 0.5; put it before"):
        HighlyVariableGenes().fit([[1, 2], [0.5, 3]])


@pytest.mark.parametrize("n_top_genes", [100, 500])
def test_agreement_with_scanpy(screen, n_top_genes):
    scanpy = pytest.importorskip("scanpy")
    pytest.importorskip("skmisc")
    adata = scanpy.AnnData(csr_matrix(screen[0]))
    scanpy.pp.highly_variable_genes(adata, flavor="seurat_v3", n_top_genes=n_top_genes)
    selector = HighlyVariableGenes(n_top_genes).fit(adata.X)
    assert (selector.get_support() & adata.var["highly_variable"]).sum() >= 0.97 * n_top_genes
    reference = adata.var["variances_norm"]
    np.testing.assert_allclose(selector.standardized_variances_, reference, rtol=0.05)
