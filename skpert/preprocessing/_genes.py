"""Transformers of counts that go before a model in a pipeline."""

from numbers import Real
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.feature_selection import SelectorMixin
from sklearn.utils.validation import check_is_fitted, check_non_negative

from .._input.cells import (
    check_cells,
    fractional,
    log_normalised,
    median_library_size,
    warn_if_logs,
)
from .._input.expression import FLOATS, with_cell_names
from .._input.transaction import restored_on_failure
from ..exceptions import warn_of_data


class LogNormalize(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Log of counts scaled to the same library size: ``log1p(target_sum * x / x.sum())``.

    A cell without counts stays zero; sparse stays sparse. For models of log-normalised
    expression; models with a likelihood of counts take the counts themselves.

    Parameters
    ----------
    target_sum : float or None, default=1e4
        Library size, in counts, that every cell is scaled to; None: the median library size of
        the training cells that have counts.
    layer : str or None, default=None
        Layer of an AnnData that holds the counts; None is its ``X``, "raw" its ``raw``.

    Attributes
    ----------
    target_sum_ : float
        Library size that every cell is scaled to.
    n_features_in_ : int
        Number of genes.
    feature_names_in_ : ndarray of shape (n_genes,)
        Names of genes, if X in `fit` had any.

    Examples
    --------
    >>> from skpert.preprocessing import LogNormalize
    >>> LogNormalize(target_sum=4).fit_transform([[1, 1], [0, 0]]).round(3)
    array([[1.099, 1.099],
           [0.   , 0.   ]])
    """

    def __init__(self, target_sum: float | None = 1e4, *, layer: str | None = None) -> None:
        self.target_sum = target_sum
        self.layer = layer

    def fit(self, X, y=None) -> "LogNormalize":
        """Learn the library size to scale to.

        Parameters
        ----------
        X : {array-like, sparse matrix, DataFrame, AnnData} of shape (n_cells, n_genes)
            Counts.
        y : object, default=None
            Design A of the same cells, of which only their names are compared with those of X.

        Returns
        -------
        self : LogNormalize
            The fitted transformer.

        Raises
        ------
        ValueError
            If X has negative, missing or infinite values, or ``target_sum`` is not positive.
        """
        with restored_on_failure(self):
            X = _counts(self, X, reset=True, design=y)
            warn_if_logs(X, "LogNormalize expects counts: normalise once")
            if self.target_sum is None:
                self.target_sum_ = median_library_size(X)
            elif isinstance(self.target_sum, Real) and 0 < self.target_sum < np.inf:
                self.target_sum_ = float(self.target_sum)
            else:
                raise ValueError(
                    f"target_sum={self.target_sum!r} must be a positive number of counts, or None."
                )
            return self

    def transform(self, X) -> Any:
        """Log-normalised expression.

        Parameters
        ----------
        X : {array-like, sparse matrix, DataFrame, AnnData} of shape (n_cells, n_genes)
            Counts.

        Returns
        -------
        X_log : ndarray or sparse CSR matrix of shape (n_cells, n_genes)
            Natural log of 1 + counts per ``target_sum_``; float32 for float32, else float64.

        Raises
        ------
        ValueError
            If X has negative, missing or infinite values, or another number of genes.
        """
        check_is_fitted(self)
        return with_cell_names(self, log_normalised(_counts(self, X), self.target_sum_), X)

    def __sklearn_tags__(self):
        return _counts_tags(super().__sklearn_tags__())


class HighlyVariableGenes(SelectorMixin, BaseEstimator):
    """Select the genes that vary more between cells than genes of their mean do.

    The method is that of Seurat v3. The log of a gene's variance is predicted from the log of its
    mean by local quadratic regression over all genes; counts are standardised with the predicted
    variance and clipped at ``sqrt(n_cells)`` from above, and genes are ranked by the variance
    that remains. Only the training cells are looked at, and not what was done to them.

    Parameters
    ----------
    n_top_genes : int, default=2000
        Number of genes to select; all, if there are fewer.
    span : float, default=0.3
        Fraction of the genes in each local regression, in (0, 1].
    layer : str or None, default=None
        Layer of an AnnData that holds the counts; None is its ``X``, "raw" its ``raw``.

    Attributes
    ----------
    means_ : ndarray of shape (n_genes,)
        Mean count of each gene.
    variances_ : ndarray of shape (n_genes,)
        Variance of its counts.
    standardized_variances_ : ndarray of shape (n_genes,)
        Variance of its standardised and clipped counts: 1 as expected, 0 for a constant gene.
    n_features_in_ : int
        Number of genes.
    feature_names_in_ : ndarray of shape (n_genes,)
        Names of genes, if X in `fit` had any.

    Notes
    -----
    The regression is evaluated at up to 200 quantiles of the log means and interpolated linearly
    between them; the reference interpolates otherwise, so that ranks close to the threshold can
    differ.

    References
    ----------
    Stuart, Butler et al. Comprehensive integration of single-cell data. Cell 177 (2019).

    Examples
    --------
    >>> import numpy as np
    >>> from skpert.preprocessing import HighlyVariableGenes
    >>> counts = np.random.default_rng(0).poisson(np.arange(1, 101) / 10, size=(200, 100))
    >>> counts[:100, 50] += 9
    >>> HighlyVariableGenes(n_top_genes=1).fit(counts).get_support(indices=True).tolist()
    [50]
    """

    def __init__(
        self, n_top_genes: int = 2000, *, span: float = 0.3, layer: str | None = None
    ) -> None:
        self.n_top_genes = n_top_genes
        self.span = span
        self.layer = layer

    def fit(self, X, y=None) -> "HighlyVariableGenes":
        """Rank the genes.

        Parameters
        ----------
        X : {array-like, sparse matrix, DataFrame, AnnData} of shape (n_cells, n_genes)
            Counts of at least two cells.
        y : object, default=None
            Design A of the same cells, of which only their names are compared with those of X.

        Returns
        -------
        self : HighlyVariableGenes
            The fitted selector.

        Raises
        ------
        ValueError
            If X has negative, missing or infinite values, or a parameter is out of range.

        Warns
        -----
        DataWarning
            If X has values that are not whole.
        """
        with restored_on_failure(self):
            X = _counts(self, X, reset=True, design=y, least=2)
            if self.n_top_genes < 1 or not 0 < self.span <= 1:
                raise ValueError(
                    "n_top_genes must be at least 1 and span in (0, 1]; they are "
                    f"{self.n_top_genes!r} and {self.span!r}."
                )
            _warn_unless_whole(X)
            self.means_, self.variances_ = _mean_and_variance(X)
            varies = self.variances_ > 0
            expected = np.ones(X.shape[1])
            if varies.any():
                logs = np.log10([self.means_[varies], self.variances_[varies]])
                expected[varies] = 10 ** _local_quadratic(*logs, self.span)
            self.standardized_variances_ = _clipped_variance(X, self.means_, np.sqrt(expected))
            return self

    def transform(self, X) -> Any:
        """Counts of the selected genes.

        Parameters
        ----------
        X : {array-like, sparse matrix, DataFrame, AnnData} of shape (n_cells, n_genes)
            Counts.

        Returns
        -------
        X_selected : ndarray or sparse CSR matrix of shape (n_cells, n_selected_genes)
            float32 for float32, else float64.

        Raises
        ------
        ValueError
            If X has negative, missing or infinite values, or lacks genes of `fit`.
        """
        check_is_fitted(self)
        return with_cell_names(self, _counts(self, X)[:, self.get_support(indices=True)], X)

    def _get_support_mask(self):
        check_is_fitted(self)
        order = np.argsort(-self.standardized_variances_, kind="stable")
        mask = np.zeros(len(order), dtype=bool)
        mask[order[: self.n_top_genes]] = True
        return mask

    def __sklearn_tags__(self):
        return _counts_tags(super().__sklearn_tags__())


def _counts(transformer, X, *, reset=False, design=None, least=1):
    """Validated counts, (n_cells, n_genes), dense or CSR."""
    X = check_cells(
        transformer,
        X,
        counts=None,
        layer=transformer.layer,
        reset=reset,
        design=design,
        dtype=FLOATS,
        least=least,
    )
    check_non_negative(X, type(transformer).__name__)
    return X


def _counts_tags(tags):
    tags.input_tags.sparse = True
    tags.input_tags.positive_only = True
    tags.transformer_tags.preserves_dtype = ["float64", "float32"]
    return tags


def _warn_unless_whole(X):
    n_fractional, example = fractional(X.data if issparse(X) else X, first_only=True)
    if n_fractional:
        warn_of_data(
            "HighlyVariableGenes expects counts, but X has values that are not whole, such as "
            f"{example:.4g}; put it before any normalisation."
        )


def _gene_sums(X, values):
    """Sum over cells of ``values``, one for each stored value of X; float64."""
    if issparse(X):
        return np.bincount(X.indices, weights=values, minlength=X.shape[1])
    return values.sum(axis=0, dtype=np.float64)


def _mean_and_variance(X):
    """Mean and unbiased variance of each gene, (n_genes,) float64 each."""
    n_cells = X.shape[0]
    if not issparse(X):
        return X.mean(axis=0, dtype=np.float64), X.var(axis=0, ddof=1, dtype=np.float64)
    mean = _gene_sums(X, X.data) / n_cells
    n_absent = n_cells - np.bincount(X.indices, minlength=X.shape[1])
    squares = _gene_sums(X, (X.data - mean[X.indices]) ** 2) + n_absent * mean**2
    return mean, squares / (n_cells - 1)


def _clipped_variance(X, mean, scale):
    """Variance of ``(X - mean) / scale`` after clipping at sqrt(n_cells) from above."""
    n_cells = X.shape[0]
    limit = mean + scale * np.sqrt(n_cells)
    clipped = np.minimum(X.data, limit[X.indices]) if issparse(X) else np.minimum(X, limit)
    total, squares = _gene_sums(X, clipped), _gene_sums(X, clipped**2)
    return (n_cells * mean**2 + squares - 2 * mean * total) / ((n_cells - 1) * scale**2)


def _local_quadratic(x, y, span, n_points=200):
    """Fit y by loess: at each x the parabola of the nearest points, with tricube weights."""
    n_near = max(int(np.ceil(span * len(x))), min(len(x), 3))
    knots = np.unique(np.quantile(x, np.linspace(0, 1, n_points)))
    fitted = np.empty(len(knots))
    for i, knot in enumerate(knots):
        offset = x - knot
        distance = np.abs(offset)
        width = np.partition(distance, n_near - 1)[n_near - 1]
        near = distance <= width
        weight = (1 - (distance[near] / (width * 1.001 or 1)) ** 3) ** 3
        root = np.sqrt(weight)
        powers = np.vander(offset[near], 3, increasing=True)
        fitted[i] = np.linalg.lstsq(powers * root[:, None], y[near] * root, rcond=None)[0][0]
    return np.interp(x, knots, fitted)
