"""Numbers that describe perturbed genes, from which models learn what unseen ones would do."""

import warnings

import numpy as np
import pandas as pd
from scipy.sparse import csr_array, eye_array, issparse
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.decomposition import PCA
from sklearn.preprocessing import normalize
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.validation import check_is_fitted

from .._input.expression import FLOATS, LARGEST, read_matrix
from .._input.transaction import restored_on_failure
from .._input.values import check_integer, listed, text
from ..exceptions import warn_of_data
from ._genesets import as_names

RIDGE = 0.1  # penalty of the regression on similarities of features
MAX_CONTROLS = 10_000  # control cells that gene components are computed from
MISSING = {  # what is wrong with a name, and what to do, by kind
    "genes": (
        "are no measured genes, or have the name of two",
        "Leave their cells out, or describe them by one_hot, a table or GeneSetFeatures.",
    ),
    "one_hot": (
        "were not seen in training, and one-hot features hold nothing of them",
        "Choose features that describe unseen names: 'genes', a table or GeneSetFeatures.",
    ),
    "table": ("are not in the table of features", "Add a row for each, or leave them out."),
}


class TargetFeatures(TransformerMixin, BaseEstimator, auto_wrap_output_keys=None):
    """Describe perturbed genes by numbers, the measured genes by how they vary in control cells.

    Names are single perturbations, such as ``perturbations_`` of a model. A gene is looked up by
    its name, so that the order of the genes does not matter. What combinations do follows from
    their parts, and is left to the model.

    Parameters
    ----------
    features : {"genes", "one_hot"}, DataFrame, dict, transformer or None, default=None
        What describes a name.

        * "genes": principal component scores of the gene in control cells. Genes are the
          samples and control cells the features of the analysis.
        * "one_hot": its place among the training names. It says nothing of unseen names.
        * DataFrame with names as index and features as columns, or dict of 1-D vectors by
          name; other names than those of training can be in it, and are then known.
        * Transformer with ``fit(names, y=None)`` and ``transform(names)``, such as
          ``GeneSetFeatures(gmt)``. A copy is fitted to the training names; ``FrozenEstimator``
          of scikit-learn around a fitted one leaves it as it is.
        * None: "genes" if every training name is a measured gene, else "one_hot", and a warning.
    n_components : int, default=50
        Number of components for "genes"; fewer if there are not as many control cells, or not
        more genes.
    sparse_output : bool, default=False
        Whether one-hot features come as a sparse array, whose size grows with the number of
        names and not with its square.

    Attributes
    ----------
    kind_ : {"genes", "one_hot", "table", "transformer"}
        What ``features`` is, after None was resolved.
    n_features_out_ : int
        Number of features.
    names_ : ndarray of shape (n_known,) and dtype object
        Names with features, where the kind is not "transformer".
    table_ : ndarray or CSR array of shape (n_known, n_features) and dtype float64
        Features of these names, sparse where they are one-hot.
    transformer_ : estimator
        Fitted copy of ``features``, where the kind is "transformer".

    See Also
    --------
    GeneSetFeatures : Features from the gene sets that a gene is in.

    Notes
    -----
    Components are exact up to rounding, and their signs are fixed. Of more than 10,000 control
    cells, as many are taken at even distances. These are the embeddings of SCCVAE [1]_.

    References
    ----------
    .. [1] Liu, Zhang and Uhler. Learning Genetic Perturbation Effects with Variational Causal
       Inference. bioRxiv 2025.06.05.657988.

    Examples
    --------
    >>> from skpert.preprocessing import TargetFeatures
    >>> X_control = [[1.0, 1.5, 0.0], [2.0, 2.5, 0.5]]
    >>> features = TargetFeatures("genes", n_components=1)
    >>> features = features.fit(["B"], X_control, gene_names=["A", "B", "C"])
    >>> features.transform(["A", "B", "C"]).round(2).tolist()
    [[0.37], [1.07], [-1.43]]
    >>> TargetFeatures({"A": [1, 0], "B": [1, 1], "D": [0, 1]}).fit(["A", "B"]).transform(["D"])
    array([[0., 1.]])
    """

    # names are what scikit-learn calls X, not metadata to be routed
    __metadata_request__fit = {"names": UNUSED, "X_control": UNUSED, "gene_names": UNUSED}
    __metadata_request__transform = {"names": UNUSED}

    def __init__(
        self, features=None, *, n_components: int = 50, sparse_output: bool = False
    ) -> None:
        self.features = features
        self.n_components = n_components
        self.sparse_output = sparse_output

    def fit(self, names, X_control=None, gene_names=None) -> "TargetFeatures":
        """Learn the features of the training names.

        Parameters
        ----------
        names : array-like of shape (n_names,)
            Names of perturbed genes.
        X_control : {array-like, sparse matrix} of shape (n_cells, n_genes), default=None
            Log-normalised expression of control cells; only "genes" needs it.
        gene_names : array-like of shape (n_genes,), default=None
            Names of its columns. A name that is there twice is not used.

        Returns
        -------
        self : TargetFeatures
            The fitted transformer.

        Raises
        ------
        ValueError
            If a name has no features; if "genes" lacks control cells, names or a second gene;
            if the table has a name twice, vectors of different lengths, or a non-numeric entry.
        TypeError
            If ``features`` is an object that is none of the forms.

        Warns
        -----
        DataWarning
            If None becomes "one_hot".
        """
        with restored_on_failure(self):
            names = pd.unique(as_names(names))
            if len(names) == 0:
                raise ValueError("There are no names of perturbed genes to learn features of.")
            check_integer(self.n_components, "n_components", 1)
            self.kind_ = self._kind(names, X_control, gene_names)
            if self.kind_ == "transformer":
                self.transformer_ = clone(self.features).fit(names, None)
                self.n_features_out_ = _checked(self.transformer_, names).shape[1]
                return self
            if self.kind_ == "genes":
                known, self.table_ = _gene_components(X_control, gene_names, self.n_components)
            elif self.kind_ == "one_hot":
                known, self.table_ = names, eye_array(len(names), format="csr")
            else:
                known, self.table_ = _table(self.features)
            self.names_ = np.array(known, dtype=object)
            self.n_features_out_ = self.table_.shape[1]
            missing = names[~self.has(names)]
            if len(missing):
                raise ValueError(self._missing_message(missing))
            return self

    def transform(self, names) -> np.ndarray:
        """Features of names.

        Parameters
        ----------
        names : array-like of shape (n_names,)
            Names of perturbed genes, of training or not.

        Returns
        -------
        features : ndarray of shape (n_names, n_features) and dtype float64
            A row per name; a CSR array where they are one-hot and ``sparse_output`` is true. A
            transformer may give zeros for a name that it does not know.

        Raises
        ------
        ValueError
            If a name has no features.
        """
        check_is_fitted(self)
        names = as_names(names)
        if self.kind_ == "transformer":
            return self._transformed(names)
        row = self._rows(names)
        if (row < 0).any():
            raise ValueError(self._missing_message(pd.unique(names[row < 0])))
        values = self.table_[row]
        return values.toarray() if issparse(values) and not self.sparse_output else values

    def has(self, names) -> np.ndarray:
        """Whether there are features of names.

        Parameters
        ----------
        names : array-like of shape (n_names,)
            Names of perturbed genes.

        Returns
        -------
        known : ndarray of bool of shape (n_names,)
            False where `transform` raises an error or where a transformer has zeros only.
        """
        check_is_fitted(self)
        names = as_names(names)
        if self.kind_ != "transformer":
            return self._rows(names) >= 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.array([self._described(name) for name in names], dtype=bool)

    def _described(self, name):
        try:
            return self._transformed(np.array([name], dtype=object)).any()
        except (ValueError, KeyError):
            return False

    def _rows(self, names):
        """Row of ``table_`` for each name, -1 where there is none."""
        return pd.Index(self.names_).get_indexer(names)

    def _kind(self, names, X_control, gene_names):
        features = self.features
        if features is None:
            return _chosen(names, X_control, gene_names)
        if isinstance(features, str):
            if features not in ("genes", "one_hot"):
                raise ValueError(f"features={features!r} must be 'genes' or 'one_hot'.")
            return features
        if isinstance(features, (pd.DataFrame, dict)):
            return "table"
        if hasattr(features, "fit") and hasattr(features, "transform"):
            return "transformer"
        raise TypeError(
            "features must be None, 'genes', 'one_hot', a DataFrame with names as index, a dict "
            f"of vectors by name or a transformer of names; got a {type(features).__name__}."
        )

    def _transformed(self, names):
        return _checked(self.transformer_, names, self.n_features_out_)

    def _missing_message(self, missing):
        what, advice = MISSING[self.kind_]
        known = listed(self.names_, 5)
        return f"Names that {what}: {listed(missing, 10)}. Known are {known}. {advice}"


def _checked(transformer, names, width=None):
    """Dense features from a transformer, (n_names, width) float64."""
    values = transformer.transform(names)
    values = np.asarray(values.toarray() if issparse(values) else values, dtype=np.float64)
    if values.ndim != 2 or values.shape != (len(names), width or values.shape[1]):
        raise ValueError(
            f"{type(transformer).__name__} must return a row for each of {len(names)} names, all "
            f"of the same width; it returned shape {values.shape}."
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{type(transformer).__name__} returned NaN or infinite features.")
    return values


def _chosen(names, X_control, gene_names):
    """Kind that None is resolved to, with a warning if it is "one_hot"."""
    if gene_names is None or _no_cells(X_control):
        reason = "there are no control cells, or the genes have no names"
    elif len(gene_names) < 2:
        reason = "there is one gene only"
    else:
        genes, once = _genes(gene_names)
        outside = names[~np.isin(names, genes[once])]
        if len(outside) == 0:
            return "genes"
        reason = f"perturbations are no measured genes: {listed(outside, 10)}"
    warn_of_data(
        f"Perturbations are described by one-hot features, because {reason}. Unseen ones cannot "
        "be predicted; give `features` if that matters, such as GeneSetFeatures or a table."
    )
    return "one_hot"


def _no_cells(X):
    return X is None or (X.shape[0] if hasattr(X, "shape") else len(X)) == 0


def _genes(gene_names):
    """Names of genes as text, and which of them are unique."""
    names = pd.Series([text(name) for name in gene_names], dtype=object)
    return names.to_numpy(), ~names.duplicated(keep=False).to_numpy()


def _gene_components(X_control, gene_names, n_components):
    """Names of genes and their principal component scores, (n_genes, n_components)."""
    if gene_names is None or _no_cells(X_control):
        raise ValueError(
            "features='genes' needs control cells and the names of genes: give X as a DataFrame "
            "or AnnData that has both, or choose other features."
        )
    X = read_matrix(X_control, "X_control", dtype=FLOATS, accept_sparse=True, largest=LARGEST)
    names, once = _genes(gene_names)
    if len(names) != X.shape[1] or len(names) < 2:
        raise ValueError(
            "features='genes' needs at least 2 genes and a name for each: X_control has "
            f"{X.shape[1]} genes, gene_names {len(names)}."
        )
    return names[once], _scores(X, n_components)[once]


def _scores(X, n_components):
    """Component scores of genes, from cells; sparse in between, as log-normalised counts are."""
    if X.shape[0] > MAX_CONTROLS:
        X = X[np.linspace(0, X.shape[0] - 1, MAX_CONTROLS).astype(np.int64)]
    X = csr_array(X, dtype=np.float64).T.tocsr()  # (n_genes, n_cells)
    X.sort_indices()
    n_components = min(n_components, X.shape[0] - 1, X.shape[1])
    if (X.max(axis=0).toarray() == X.min(axis=0).toarray()).all():
        raise ValueError(
            "X_control has the same value for all genes in each cell: genes cannot be "
            "distinguished."
        )
    if n_components < min(X.shape):
        return PCA(n_components, svd_solver="arpack", random_state=0).fit_transform(X)
    return PCA(n_components, svd_solver="full").fit_transform(X.toarray())


def _table(features):
    """Names and values of a table, (n_known, n_features) float64."""
    if isinstance(features, dict):
        vectors = {name: np.asarray(vector) for name, vector in features.items()}
        shapes = sorted({vector.shape for vector in vectors.values()})
        if len(shapes) != 1 or len(shapes[0]) != 1:
            raise ValueError(
                f"The vectors of features must be 1-D and of one length; shapes are {shapes}."
            )
        features = pd.DataFrame(np.array(list(vectors.values())), index=list(vectors))
    names = pd.Index([text(name) for name in features.index], dtype=object)
    if names.has_duplicates:
        raise ValueError(
            f"The table of features has names twice: {listed(names[names.duplicated()], 10)}."
        )
    if not all(pd.api.types.is_numeric_dtype(dtype) for dtype in features.dtypes):
        raise ValueError(
            "The table of features must hold numbers, with names as its index; its dtypes are "
            f"{listed(features.dtypes.unique(), 5)}."
        )
    values = features.to_numpy(dtype=np.float64, na_value=np.nan)
    bad = names[~np.isfinite(values).all(axis=1)]
    if len(bad) or values.size == 0:
        raise ValueError(
            f"The table of features, of shape {values.shape}, must hold a finite number in every "
            f"place; names with NaN or infinity: {listed(bad, 10) or 'none'}."
        )
    return names, values


def similarity_weights(features, new):
    """How much each known perturbation counts for new ones, rows that sum to one.

    Weights of a ridge regression on the cosine similarity of features, with the mean of all for
    what nothing is similar to; negative ones are set to zero. (n_new, n_known).
    """
    known, new = normalize(features), normalize(new)
    if len(known) > known.shape[1]:
        gram = known.T @ known + RIDGE * np.eye(known.shape[1])
        weights = (known @ np.linalg.solve(gram, new.T)).T
    else:
        gram = known @ known.T + RIDGE * np.eye(len(known))
        weights = np.linalg.solve(gram, known @ new.T).T
    weights += (1 - weights.sum(1, keepdims=True)) / len(known)
    weights = weights.clip(min=0)
    return weights / weights.sum(1, keepdims=True)
