"""The encoder of covariates: columns of a design frame to one matrix, what is unknown hidden."""

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.validation import check_is_fitted

from .._input.transaction import restored_on_failure
from .._input.values import as_design, as_list, listed
from ._columns import (
    as_numbers,
    category_codes,
    check_distinct,
    check_groups,
    check_unnamed,
    environment_matrix,
    learn_categories,
    learn_environments,
    learn_scale,
    select,
    standardised,
    unnamed_frame,
    warn_of_missing_categories,
)
from ._confounding import warn_of_nested_covariates


class CovariateEncoder(TransformerMixin, BaseEstimator, auto_wrap_output_keys=None):
    """Encode the covariates of each cell, such as cell type, donor and site.

    The design A of the cells is given in one of three forms:

    * A design frame, such as ``adata.obs``: a DataFrame of n_cells rows with the columns named by
      the parameters. Columns of floats are numbers, those of every other dtype categories; whole
      numbers that count or measure must hence be made floats, and coded categories with gaps
      categories.
    * Labels, text or numbers, of shape (n_cells,): one invariant covariate of categories, called
      "label".
    * An array or sparse matrix of numbers, of shape (n_cells, n_covariates): its columns are
      invariant covariates of numbers, called "0", "1", ...

    The last two need no names, and ``invariant``, ``spurious`` and ``environment`` must be None.
    Categories are compared as text; 1, 1.0 and "1" are the same. What is not known of a cell is
    hidden: all columns of the covariate are zero in its row. A value is missing if it is None,
    NaN, NaT, NA or blank text.

    Parameters
    ----------
    invariant : str, list of str or None, default=None
        Columns of the design frame with biological covariates, such as cell type.
    spurious : str, list of str or None, default=None
        Columns with technical covariates, such as site.
    environment : str, list of str or None, default=None
        Columns with nuisance covariates that a decoder alone reads, encoded as by
        `PerturbationEncoder`. They cannot be missing.

    Attributes
    ----------
    names_ : ndarray of shape (n_covariates,) and dtype object
        Covariates in the order of the parameters, invariant ones first.
    columns_, perturbations_ : ndarray of shape (n_columns,) and dtype object
        Columns of the encoding, for each of which models have one effect: ``"cell_type=B"`` for a
        category; ``"age"`` and ``"age (known)"`` for a number.
    covariate_ : ndarray of shape (n_columns,) and dtype int
        Covariate of each column, an index into ``names_``.
    n_invariant_columns_ : int
        Number of columns of invariant covariates, which come first.
    n_cells_ : ndarray of shape (n_columns,)
        Number of cells in which the column is not zero, at least 1.
    categories_ : dict of str to list of str
        Sorted categories of each covariate that has them.
    scales_ : dict of str to tuple of float
        Mean and standard deviation of each covariate of numbers, over the cells that have it.
    n_environments_, environment_names_, environment_categories_, environment_scales_
        As of `PerturbationEncoder`.

    See Also
    --------
    PerturbationEncoder : Encode perturbations, whose absence is a control and not unknown.

    Examples
    --------
    >>> import pandas as pd
    >>> from skpert.preprocessing import CovariateEncoder
    >>> obs = pd.DataFrame({"cell_type": ["T", "B", "B"], "age": [30.0, None, 40.0]})
    >>> encoder = CovariateEncoder(invariant=["cell_type", "age"]).fit(obs)
    >>> encoder.columns_.tolist()
    ['cell_type=B', 'cell_type=T', 'age', 'age (known)']
    >>> encoder.transform(obs).toarray().tolist()
    [[0.0, 1.0, -1.0, 1.0], [1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 1.0, 1.0]]
    >>> encoder.transform(obs[["cell_type"]].replace("T", "NK")).toarray().tolist()
    [[0.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]
    """

    # A is what scikit-learn calls X, not metadata to be routed
    __metadata_request__fit = {"A": UNUSED}
    __metadata_request__transform = {"A": UNUSED, "unseen": UNUSED}

    def __init__(
        self,
        *,
        invariant: str | list[str] | None = None,
        spurious: str | list[str] | None = None,
        environment: str | list[str] | None = None,
    ) -> None:
        self.invariant = invariant
        self.spurious = spurious
        self.environment = environment

    def fit(self, A, y=None) -> "CovariateEncoder":
        """Learn categories and scales.

        Parameters
        ----------
        A : {DataFrame, array-like, sparse matrix}
            Design in one of the three forms.
        y : None
            Ignored.

        Returns
        -------
        self : CovariateEncoder
            The fitted encoder.

        Raises
        ------
        ValueError
            If A is none of the forms, has fewer than 2 cells, or is a frame of which no column is
            named; if a column is absent or named twice; if a covariate has the same value in all
            cells that have it, no value at all, or an infinite one; if an environment has
            missing values.

        Warns
        -----
        DataWarning
            If categories look like missing values that were made text, such as "nan", or those
            of an invariant covariate come only with categories of a spurious one, or of an
            environment, that most cells share no category with.
        """
        with restored_on_failure(self):
            frame, n_invariant = self._read_training(A)
            if len(frame) < 2:
                raise ValueError(
                    f"A has n_samples={len(frame)} cells, and covariates need at least 2."
                )
            self._fit_environments(A)
            self._fit_covariates(frame, n_invariant)
            self.n_cells_ = self._encode(frame, "error").astype(bool).sum(0)
            warn_of_missing_categories(self.categories_ | self.environment_categories_)
            self._warn_of_nested(A, frame, n_invariant)
            return self

    def transform(self, A, *, unseen: str = "hide") -> csr_array:
        """Columns of all covariates in every cell.

        Parameters
        ----------
        A : {DataFrame, array-like, sparse matrix} or str
            Design in the form of training, or a DataFrame with columns called as in ``names_``,
            of which those that are absent are hidden. A bare string is one label.
        unseen : {"hide", "error"}, default="hide"
            What to do with a category that training did not have: hide it, or raise.

        Returns
        -------
        encoded : sparse CSR array of shape (n_cells, n_columns) and dtype float32
            1 in the column of the category; the standardised number, stored even where it is 0,
            and 1 in the column that says it is known; all zero where the covariate is hidden.

        Raises
        ------
        ValueError
            If A is of another form or width than in training, a number is infinite or is text,
            or a category is unseen and that is an error.
        """
        check_is_fitted(self)
        if unseen not in ("hide", "error"):
            raise ValueError(f"unseen must be 'hide' or 'error'; it is {unseen!r}.")
        return self._encode(self._read(A), unseen)

    def environments(self, A: pd.DataFrame) -> np.ndarray:
        """Nuisance covariates of every cell.

        Parameters
        ----------
        A : DataFrame of shape (n_cells, n_columns)
            Design frame with the columns named by ``environment``; any form if that is None.

        Returns
        -------
        environments : ndarray of shape (n_cells, n_environments) and dtype float32
            One-hot categories and standardised numbers; of width 0 without ``environment``.

        Raises
        ------
        ValueError
            If A is not a design frame, or a column or a value is missing, or a category is
            unknown.
        """
        check_is_fitted(self)
        columns = as_list(self.environment)
        if not columns:
            return np.zeros((len(self._read(A)), 0), dtype=np.float32)
        learned = self.environment_categories_, self.environment_scales_
        return environment_matrix(A, columns, *learned)

    def labels(self, A) -> np.ndarray:
        """One label per cell that joins its covariates, for messages and tables.

        Parameters
        ----------
        A : {DataFrame, array-like, sparse matrix} or str
            Design in the forms that `transform` takes.

        Returns
        -------
        labels : ndarray of shape (n_cells,) and dtype object
            Text such as ``"cell_type=B, site=s1"``, without what is hidden; empty text if all
            is.

        Raises
        ------
        ValueError
            As in `transform`, where unseen categories are hidden.
        """
        check_is_fitted(self)
        frame = self._read(A)
        parts = [self._texts(frame[name]) for name in frame]
        labels = np.empty(len(frame), dtype=object)
        for row in range(len(frame)):
            labels[row] = ", ".join(texts[row] for texts in parts if texts[row])
        return labels

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False  # not the X of scikit-learn
        tags.input_tags.sparse = True
        tags.input_tags.allow_nan = True
        tags.target_tags.one_d_labels = True
        return tags

    def _read_training(self, A):
        """Frame of the covariates of training, and how many of them are invariant."""
        groups = {
            group: [str(name) for name in as_list(getattr(self, group))]
            for group in ("invariant", "spurious", "environment")
        }
        check_groups(groups)
        names, given = [*groups["invariant"], *groups["spurious"]], as_design(A)
        if not isinstance(given, pd.DataFrame):
            check_unnamed(A, [*names, *groups["environment"]])
            frame = unnamed_frame(given)
            return frame, frame.shape[1]
        columns = listed(given.columns, 20)
        if not names:
            raise ValueError(
                f"A is a DataFrame with the columns {columns}: name those that are covariates by "
                "the parameters `invariant` and `spurious`."
            )
        frame = select(given, names)
        absent = [name for name in names if name not in frame]
        if absent:
            raise ValueError(f"A has no column {listed(absent, 20)}; its columns are {columns}.")
        return frame, len(groups["invariant"])

    def _read(self, A):
        """Frame of those covariates that A has, in the order of ``names_``."""
        given = as_design(A)
        if isinstance(given, pd.DataFrame):
            return select(given, self.names_)
        check_unnamed(A, [*as_list(self.invariant), *as_list(self.spurious)])
        frame = unnamed_frame(given)
        if frame.columns.tolist() != self.names_.tolist():
            raise ValueError(
                f"A gives the covariates {listed(frame.columns, 20)}, and training had "
                f"{listed(self.names_, 20)}. Give A in the same form and width, or a DataFrame "
                "with these columns."
            )
        return frame

    def _fit_environments(self, A):
        columns = as_list(self.environment)
        categories, scales, names = learn_environments(A, columns)
        self.environment_categories_, self.environment_scales_ = categories, scales
        self.environment_names_, self.n_environments_ = names, len(names)

    def _fit_covariates(self, frame, n_invariant):
        self.categories_, self.scales_, columns = {}, {}, []
        for name in frame:
            if pd.api.types.is_float_dtype(frame[name].dtype):
                self.scales_[name] = learn_scale(frame[name])
                columns.append([name, f"{name} (known)"])
            else:
                self.categories_[name] = learn_categories(frame[name])
                columns.append([f"{name}={category}" for category in self.categories_[name]])
        widths = [len(names) for names in columns]
        self.names_ = np.array(frame.columns, dtype=object)
        self.columns_ = np.array([name for names in columns for name in names], dtype=object)
        self.perturbations_ = self.columns_
        check_distinct(self.columns_)
        self.covariate_ = np.repeat(np.arange(len(widths)), widths)
        self.n_invariant_columns_ = sum(widths[:n_invariant])

    def _warn_of_nested(self, A, frame, n_invariant):
        """Warn of invariant categories that come with spurious ones, or environments, only."""
        names = [name for name in self.names_ if name in self.categories_]
        invariant = [name for name in names if name in self.names_[:n_invariant]]
        others = frame[[name for name in names if name not in invariant]]
        if self.environment_categories_:
            environment = as_design(A)[list(self.environment_categories_)]
            others = pd.concat([others, environment], axis=1)
        warn_of_nested_covariates(frame[invariant], others)

    def _encode(self, frame, unseen):
        """Encoding of the covariates in the frame; others are hidden."""
        starts = np.searchsorted(self.covariate_, np.arange(len(self.names_)))
        first = dict(zip(self.names_, starts, strict=True))
        column = [np.zeros((len(frame), 0), dtype=np.int32)]  # of each entry, -1 for none
        value = [np.zeros((len(frame), 0), dtype=np.float32)]
        for name in frame:
            if name in self.categories_:
                code = category_codes(frame[name], self.categories_[name], unseen)[:, None]
                entry = np.ones_like(code)
            else:
                mean, scale = self.scales_[name]
                number = standardised(frame[name], as_numbers(frame[name]), mean, scale)
                entry = np.column_stack([number, np.ones_like(number)])
                code = np.where(np.isnan(number)[:, None], -1, [0, 1])
            column.append(np.where(code < 0, -1, first[name] + code).astype(np.int32))
            value.append(entry.astype(np.float32))
        column, value = np.hstack(column), np.hstack(value)
        known = column >= 0
        indptr = np.concatenate([[0], np.cumsum(known.sum(1))]).astype(np.int32)
        shape = (len(frame), len(self.columns_))
        return csr_array((value[known], column[known], indptr), shape=shape)

    def _texts(self, values):
        """Name and value of a covariate in every cell, empty text where it is hidden."""
        if values.name in self.scales_:
            numbers = as_numbers(values)
            return ["" if np.isnan(x) else f"{values.name}={x:g}" for x in numbers]
        categories = self.categories_[values.name]
        texts = [*(f"{values.name}={category}" for category in categories), ""]
        return [texts[code] for code in category_codes(values, categories, "hide")]
