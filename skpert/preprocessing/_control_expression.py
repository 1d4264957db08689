"""Numbers that describe genes by how control cells express them."""

import numpy as np
import pandas as pd
from scipy.sparse import csr_array, issparse
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.decomposition import TruncatedSVD
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.validation import check_is_fitted

from .._input.expression import FLOATS, LARGEST, read_expression, read_matrix
from .._input.values import check_integer, text
from ._genesets import as_names, warn_of_unknown

MAX_NUMBERS = 2**26  # of expression that become dense at once


class ControlExpression(TransformerMixin, BaseEstimator, auto_wrap_output_keys=None):
    r"""Describe perturbed genes by how control cells express them.

    The features of a gene are its level, which is the mean of its log-normalised expression and
    the share of cells that express it, in standard deviations over genes, and its co-expression:
    principal components of its correlations with all genes, scaled to unit length. The cosine
    similarity of two genes' co-expression is that of their rows of the correlation matrix, up to
    components that are left out.

    It is fitted to control cells, and transforms names. Give models
    ``FrozenEstimator(ControlExpression().fit(controls))``, alone or beside others in a
    ``FeatureUnion``: no treated cell then has a part in it.

    Parameters
    ----------
    level : bool, default=True
        Whether level is among the features.
    coexpression : bool, default=True
        Whether co-expression is.
    n_components : int, default=50
        Number of components of co-expression; fewer where there are fewer genes or cells.

    Attributes
    ----------
    genes_ : ndarray of shape (n_known,) and dtype object
        Names with features. Names that two genes have are left out.
    table_ : DataFrame of shape (n_known, n_features)
        Their features, with names of both.
    n_features_out_ : int
        Number of features.

    See Also
    --------
    TargetFeatures : With ``"genes"``, components of expression itself, of training's own controls.
    GeneSetFeatures : Features of genes whether measured or not.

    Examples
    --------
    >>> import pandas as pd
    >>> from skpert.preprocessing import ControlExpression
    >>> controls = pd.DataFrame({"A": [0.0, 1.0, 2.0], "B": [0.1, 1.1, 2.0], "C": [3.0, 1.0, 0.0]})
    >>> features = ControlExpression(level=False, n_components=1).fit(controls)
    >>> features.transform(["A", "B", "C"]).round(2).tolist()
    [[1.0], [1.0], [-1.0]]
    """

    __metadata_request__fit = {"gene_names": UNUSED}
    __metadata_request__transform = {"names": UNUSED}

    def __init__(
        self, *, level: bool = True, coexpression: bool = True, n_components: int = 50
    ) -> None:
        self.level = level
        self.coexpression = coexpression
        self.n_components = n_components

    def fit(self, X, y=None, *, gene_names=None) -> "ControlExpression":
        """Learn the features of genes.

        Parameters
        ----------
        X : {array-like, sparse matrix, DataFrame, AnnData} of shape (n_cells, n_genes)
            Log-normalised expression of control cells, at least two.
        y : None
            Not used.
        gene_names : array-like of shape (n_genes,), default=None
            Names of genes; None takes the columns of a DataFrame or the ``var_names`` of an
            AnnData.

        Returns
        -------
        self : ControlExpression
            The fitted transformer.

        Raises
        ------
        ValueError
            If genes have no names or no name is that of one gene only, cells or genes are fewer
            than two, X holds NaN or infinity, or neither level nor co-expression is asked for.
        """
        check_integer(self.n_components, "n_components", 1)
        if not (self.level or self.coexpression):
            raise ValueError("level and coexpression are both False: no feature is left")
        if gene_names is None:
            gene_names = getattr(X, "columns", getattr(X, "var_names", None))
        if gene_names is None:
            raise ValueError(
                "genes have no names: give X as a DataFrame or AnnData, or gene_names"
            )
        X = read_expression(X).values if hasattr(X, "var_names") else X
        X = read_matrix(X, "X", dtype=FLOATS, accept_sparse=True, largest=LARGEST)
        names = np.array([text(name) for name in gene_names], dtype=object)
        if len(names) != X.shape[1] or min(X.shape) < 2:
            raise ValueError(
                f"X needs at least 2 cells, 2 genes and a name for each: it has shape {X.shape}, "
                f"and there are {len(names)} names"
            )
        blocks = [_levels(X)] if self.level else []
        blocks += [_coexpression(X, self.n_components)] if self.coexpression else []
        once = ~pd.Index(names).duplicated(keep=False)
        if not once.any():
            raise ValueError(
                f"no gene is known by its name: each of the {len(names)} names, such as "
                f"{names[0]!r}, is that of several genes. Make them unique"
            )
        self.table_ = pd.concat(blocks, axis=1).set_axis(names)[once]
        self.genes_ = names[once]
        self.n_features_out_ = self.table_.shape[1]
        return self

    def transform(self, names) -> np.ndarray:
        """Features of genes.

        Parameters
        ----------
        names : array-like of shape (n_names,)
            Names of genes.

        Returns
        -------
        features : ndarray of shape (n_names, n_features) and dtype float64
            A row for each name; zeros for genes that are not measured.

        Warns
        -----
        DataWarning
            If genes are not measured, or their name is that of several; their rows are zero.
        """
        check_is_fitted(self)
        names = as_names(names)
        row = pd.Index(self.genes_).get_indexer(names)
        warn_of_unknown(names[row < 0], "that are not measured under one name")
        return np.where(row[:, None] >= 0, self.table_.to_numpy()[row], 0.0)

    def get_feature_names_out(self, input_features: None = None) -> np.ndarray:
        """Names of the features, the columns of what `transform` returns.

        Parameters
        ----------
        input_features : None
            Ignored.

        Returns
        -------
        names : ndarray of shape (n_features,) and dtype object
            Columns of ``table_``, such as ``"mean"`` and ``"co-expression 0"``.
        """
        check_is_fitted(self)
        return self.table_.columns.to_numpy(dtype=object)


def _levels(X):
    """Mean and share of cells that express each gene, in standard deviations over genes."""
    values = csr_array(X)
    share = np.bincount(values.indices[values.data > 0], minlength=X.shape[1]) / X.shape[0]
    table = np.column_stack([np.asarray(values.mean(axis=0)).ravel(), share]).astype(np.float64)
    spread = table.std(0)
    table = (table - table.mean(0)) / np.where(spread > 0, spread, 1)
    return pd.DataFrame(table, columns=["mean", "share expressing"])


def _coexpression(X, n_components):
    """Components of the correlations of each gene with all, rows of unit length."""
    n_cells, n_genes = X.shape
    n_taken = min(n_cells, max(MAX_NUMBERS // n_genes, 2))
    X = X[np.linspace(0, n_cells - 1, n_taken).astype(np.int64)]
    values = np.asarray(X.toarray() if issparse(X) else X, dtype=np.float64)
    spread = values.std(0)
    standard = (values - values.mean(0)) / np.where(spread > 1e-9 * spread.max(), spread, np.inf)
    n_components = min(n_components, n_genes, n_taken)
    if standard.any():
        svd = TruncatedSVD(n_components, random_state=0).fit(standard)
        scores = svd.components_.T * svd.singular_values_**2
    else:  # no gene varies, and a share of the variance would be 0 / 0
        scores = np.zeros((n_genes, n_components))
    length = np.linalg.norm(scores, axis=1, keepdims=True)
    scores /= np.where(length > 1e-9 * max(length.max(), 1e-300), length, np.inf)
    return pd.DataFrame(scores, columns=[f"co-expression {k}" for k in range(n_components)])
