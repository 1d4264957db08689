"""The encoder of designs: labels, dosages or a design frame to one matrix of dosages."""

from copy import deepcopy

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.validation import check_is_fitted

from .._input.design import (
    FOLDS,
    as_interventions,
    distinct,
    read_design,
    treatment_labels,
    warn_of_controls,
    warn_of_inseparable,
    warn_of_names,
    warn_of_single_cells,
)
from .._input.parts import doubt
from .._input.transaction import restored_on_failure
from .._input.values import as_design, as_list, listed, text
from ..exceptions import warn_of_data
from ._columns import environment_matrix, learn_environments, warn_of_missing_categories
from ._confounding import confounded, no_confounding, table_of, warn_of_confounded


class PerturbationEncoder(TransformerMixin, BaseEstimator, auto_wrap_output_keys=None):
    """Encode what was done to each cell as dosages of perturbations.

    The design A of a screen is given in one of three forms:

    * Labels, text or numbers, of shape (n_cells,). ``control`` names the untreated cells and
      ``"A+B"`` is a combination, in which order, blanks, repetition and the control do not matter:
      ``"A + control"`` is ``"A"``. Labels are compared as text; 1, 1.0 and "1" are the same.
    * Dosages, at least 0, of shape (n_cells, n_columns): array, sparse matrix or DataFrame of
      numbers; a row of zeros is a control. Names are the columns of the DataFrame (the column
      ``control``, if there is one, is no perturbation), or "0", "1", ... A single dosage must be
      given as a column.
    * A design frame, such as ``adata.obs``: a DataFrame of n_cells rows that has the column named
      by ``perturbation``, which holds labels.

    Parameters
    ----------
    control : str, default="control"
        Label of untreated cells.
    sep : str or None, default="+"
        Separator between the parts of a combination; None: every label is one perturbation.
    perturbation : str, default="perturbation"
        Column of a design frame that holds the labels.
    environment : str, list of str or None, default=None
        Columns of the design frame with nuisance covariates, such as donor or lane. Columns of
        floats are standardised; those of every other dtype are categories, one-hot.
    additive : bool, default=True
        Whether a combination is the sum of its parts. If not, every distinct combination is an
        intervention of its own, and dosages other than 0 and 1 are an error.

    Attributes
    ----------
    perturbations_ : ndarray of shape (n_perturbations,) and dtype object
        Names, control excluded; sorted for labels, columns in their order for dosages. If not
        ``additive``, combinations such as ``"A+B"`` are names too: sorted with the others for
        labels, after all columns for dosages.
    columns_ : ndarray of shape (n_columns,) and dtype object
        Names of single perturbations: what the columns of a dosage array without names mean.
        The same as ``perturbations_`` if ``additive``.
    n_cells_ : ndarray of shape (n_perturbations,)
        Number of cells with a dosage above 0.
    nested_ : ndarray of bool of shape (n_perturbations,)
        Whether the effect is not identifiable, as it cannot be separated from that of the
        environments, or of another column of the design frame that may be a batch: no control
        cell shares a level with the perturbation, nor does a chain of other perturbations lead
        from one to the other. False for those of one or two cells, and for those that were added
        later.
    confounded_ : DataFrame of shape (n_found, 6)
        A row for each perturbation and column of the design frame that go together: their names,
        ``perturbation`` and ``column``; ``levels`` of the column that the perturbation is in, or
        more often in; ``share`` of its cells that is in these, and ``share_of_reference``, that of
        control cells (without any, of all other cells); ``separable``, False for those that
        ``nested_`` marks. An effect that is separable is learned without the column's if the
        column is in ``environment``. Empty for designs that are no frame.
    n_control_cells_ : int
        Number of untreated cells.
    n_environments_ : int
        Width of the matrix of environments.
    environment_names_ : ndarray of shape (n_environments,) and dtype object
        Its columns: ``"donor=D1"`` for a category, ``"age"`` for a number.
    environment_categories_ : dict of str to list of str
        Sorted categories of each column that holds categories.
    environment_scales_ : dict of str to tuple of float
        Mean and standard deviation of each column that holds floats.

    See Also
    --------
    perturbation_labels : The canonical label of each cell, without an encoder.

    Notes
    -----
    Names may contain ``sep``, as "(+)-JQ1" and the guide "CCNE2_+_9590" do. Whether a label is
    such a name or a combination is decided in `fit`, by all labels:

    * it is a combination if all of its parts are labels of their own (or the control); a part
      may be a name that contains ``sep`` itself, as in "(+)-JQ1+Vorinostat";
    * else it is a name, and a warning lists it, if one of the other parts does not look like one:
      it has no letter (where not all parts are numbers), begins or ends with a sign such as "_"
      or "-", or has a bracket without its partner;
    * else it is a combination, and if no part is a label of its own, a warning says so.

    Later a label that is a known name is that name. ``sep=None`` disables all of this.

    Examples
    --------
    >>> from skpert.preprocessing import PerturbationEncoder
    >>> A = ["control", "control", "A", "A", "B", "B", "A+B"]
    >>> encoder = PerturbationEncoder().fit(A)
    >>> encoder.perturbations_.tolist(), encoder.n_cells_.tolist()
    (['A', 'B'], [3, 3])
    >>> encoder.transform(["B + A", "control"]).toarray().tolist()
    [[1.0, 1.0], [0.0, 0.0]]
    """

    # A is what scikit-learn calls X, not metadata to be routed
    __metadata_request__fit = {"A": UNUSED}
    __metadata_request__transform = {"A": UNUSED}

    def __init__(
        self,
        *,
        control="control",
        sep: str | None = "+",
        perturbation: str = "perturbation",
        environment: str | list[str] | None = None,
        additive: bool = True,
    ) -> None:
        self.control = control
        self.sep = sep
        self.perturbation = perturbation
        self.environment = environment
        self.additive = additive

    def fit(self, A, y=None) -> "PerturbationEncoder":
        """Learn the names of perturbations and environments.

        Parameters
        ----------
        A : {array-like, sparse matrix, DataFrame}
            Design in one of the three forms.
        y : None
            Ignored.

        Returns
        -------
        self : PerturbationEncoder
            The fitted encoder.

        Raises
        ------
        ValueError
            If A is none of the forms, is empty, has missing labels, negative or missing dosages
            or missing environments, has no perturbed cell, or has one perturbation only and no
            control cell.

        Warns
        -----
        DataWarning
            If perturbations have a single cell, if some only co-occur, or occur only with an
            environment of their own, if there are no control cells, if the name of a
            perturbation looks like that of a control or like a missing value, or if it is in
            doubt whether a label that contains ``sep`` is a combination.
        """
        with restored_on_failure(self):
            singles = self._read(A)
            if len(singles.codes) == 0:
                raise ValueError("A is empty: it has n_samples=0 cells.")
            design = self._interventions(singles)
            self._fit_environments(A)
            self.columns_, self.perturbations_ = singles.names, design.names
            dosage = self._encode(design, singles.names)
            self.n_cells_ = np.bincount(dosage.indices, minlength=dosage.shape[1])
            self.n_control_cells_ = int((np.diff(dosage.indptr) == 0).sum())
            self._check_contrast(design)
            self._mark_confounded(A, design)
            warn_of_names(singles, self.sep)
            warn_of_missing_categories(self.environment_categories_)
            warn_of_single_cells(self.perturbations_, self.n_cells_)
            warn_of_controls(self.columns_, text(self.control), self.n_control_cells_)
            warn_of_inseparable(self.perturbations_, dosage, doubt(singles.doubtful, self.sep))
            return self

    def transform(self, A) -> csr_array:
        """Dosage of every perturbation in every cell.

        Parameters
        ----------
        A : {array-like, sparse matrix, DataFrame} or str
            Design in one of the three forms; a bare string is one label. Columns of a DataFrame
            of dosages are matched by name, those of an array by their position in ``columns_``.

        Returns
        -------
        dosage : sparse CSR array of shape (n_cells, n_perturbations) and dtype float32
            0 or more; a row of zeros is a control.

        Raises
        ------
        ValueError
            As in `fit`, and if a perturbation is unknown, or an array has another number of
            columns. If not ``additive``, an unseen combination is unknown.
        """
        check_is_fitted(self)
        singles = self._read_known(A)
        return self._encode(self._interventions(singles), singles.names)

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
            n_cells = len(self._read_known(A).codes)
            return np.zeros((n_cells, 0), dtype=np.float32)
        learned = self.environment_categories_, self.environment_scales_
        return environment_matrix(A, columns, *learned)

    def labels(self, A) -> np.ndarray:
        """One canonical label per cell, for any form of A; works before `fit` too.

        Parameters
        ----------
        A : {array-like, sparse matrix, DataFrame} or str
            Design in one of the three forms.

        Returns
        -------
        labels : ndarray of shape (n_cells,) and dtype object
            As `perturbation_labels` gives them.
        """
        design = self._read_known(A) if hasattr(self, "columns_") else self._read(A)
        return treatment_labels(design, control=self.control, sep=self.sep)

    def extended(self, A) -> "PerturbationEncoder":
        """Return a fitted encoder that knows the perturbations of A as well.

        Parameters
        ----------
        A : array-like of shape (n_cells,) or DataFrame of shape (n_cells, n_columns)
            Design of new perturbations, with or without control cells.

        Returns
        -------
        encoder : PerturbationEncoder
            A copy whose ``perturbations_`` are the present ones followed by the new, sorted.
            Their cells are counted in ``n_cells_``; all else is as before.

        Raises
        ------
        ValueError
            If a perturbation is known already, or A has none.
        """
        check_is_fitted(self)
        singles = self._read(A, self.columns_)
        design = self._interventions(singles)
        count = np.bincount(design.dosage[design.codes].indices, minlength=len(design.names))
        n_cells = dict(zip(design.names[count > 0], count[count > 0], strict=True))
        new = sorted(n_cells)
        known = [name for name in new if name in set(self.perturbations_)]
        if not new:
            raise ValueError("A has no perturbed cell; it must hold new perturbations.")
        if known:
            raise ValueError(
                f"A holds {listed(known, 10)}, known already; leave them out. Dosages of new "
                "perturbations need a DataFrame with their names."
            )
        warn_of_names(singles, self.sep)
        if singles.doubtful:
            warn_of_data(doubt(singles.doubtful, self.sep))
        warn_of_single_cells(new, np.array([n_cells[name] for name in new]))
        encoder = self.with_names(new)
        encoder.n_cells_[len(self.n_cells_) :] = [n_cells[name] for name in new]
        parts = sorted(set(singles.names[np.unique(singles.dosage.indices)]) - set(self.columns_))
        encoder.columns_ = np.array([*self.columns_, *parts], dtype=object)
        return encoder

    def unknown(self, A) -> np.ndarray:
        """Names of perturbations in A that are not known.

        Parameters
        ----------
        A : {array-like, sparse matrix, DataFrame} or str
            Design in one of the three forms.

        Returns
        -------
        names : ndarray of shape (n_unknown,) and dtype object
            Sorted names; those of single perturbations if ``additive``.
        """
        check_is_fitted(self)
        design = self._interventions(self._read_known(A))
        received = set(design.names[np.unique(design.dosage[design.codes].indices)])
        return np.array(sorted(received - set(self.perturbations_)), dtype=object)

    def with_names(self, names) -> "PerturbationEncoder":
        """Return a fitted encoder that knows more perturbations, without cells of them.

        Parameters
        ----------
        names : array-like of shape (n_names,)
            Names of perturbations, none of them known yet.

        Returns
        -------
        encoder : PerturbationEncoder
            A copy whose ``perturbations_`` and ``columns_`` are the present ones and these.
        """
        encoder = deepcopy(self)
        encoder.perturbations_ = np.array([*self.perturbations_, *names], dtype=object)
        encoder.columns_ = np.array([*self.columns_, *names], dtype=object)
        encoder.n_cells_ = np.pad(self.n_cells_, (0, len(names)))
        encoder.nested_ = np.pad(self.nested_, (0, len(names)))
        return encoder

    def __setstate__(self, state):
        """Restore; what was saved before nesting was looked for marks no perturbation."""
        if "perturbations_" in state:
            nested = np.zeros(len(state["perturbations_"]), dtype=bool)
            state = {"nested_": nested, "confounded_": no_confounding()} | state
        super().__setstate__(state)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False  # not the X of scikit-learn
        tags.input_tags.positive_only = True
        tags.input_tags.sparse = True
        tags.target_tags.one_d_labels = True
        return tags

    def _read(self, A, known=()):
        return read_design(
            A, control=self.control, sep=self.sep, perturbation=self.perturbation, known=known
        )

    def _read_known(self, A):
        """Read A with the columns of an array named as in training."""
        design = self._read(A, self.columns_)
        if design.form != "array":
            return design
        if len(design.names) != len(self.columns_):
            raise ValueError(
                f"The dosages A have {len(design.names)} columns, but {len(self.columns_)} are "
                f"expected, in this order: {listed(self.columns_, 20)}. A DataFrame with names "
                "may have fewer."
            )
        return design._replace(names=self.columns_)

    def _interventions(self, design):
        if self.additive:
            return design
        return as_interventions(design, control=self.control, sep=self.sep)

    def _encode(self, design, singles):
        """Dosage of each cell in the order of ``perturbations_``; single names are ``singles``."""
        known = {name: j for j, name in enumerate(self.perturbations_)}
        column = np.array([known.get(name, -1) for name in design.names], dtype=np.int32)
        dosage = design.dosage
        used = np.unique(dosage.indices)  # a column of zeros may have any name
        unknown = design.names[used[column[used] < 0]]
        if len(unknown):
            raise ValueError(self._unknown_message(design, unknown, singles))
        encoded = csr_array(
            (dosage.data, column[dosage.indices], dosage.indptr),
            shape=(dosage.shape[0], len(known)),
        )
        encoded = encoded[design.codes]
        encoded.sort_indices()
        return encoded

    def _unknown_message(self, design, unknown, singles):
        message = (
            f"A has unknown perturbations: {listed(unknown, 10)}. Known are "
            f"{listed(self.perturbations_, 20)}, and the control {text(self.control)!r}."
        )
        if not self.additive and not set(unknown) <= set(singles):
            message += (
                " This model treats a combination as an intervention of its own and cannot "
                "predict one that it has not seen."
            )
        return f"{message} {FOLDS}" if len(design.codes) > design.dosage.shape[0] else message

    def _check_contrast(self, design):
        n_cells = len(design.codes)
        if not self.n_cells_.any():
            raise ValueError(
                f"A has no perturbed cell: each of its n_samples={n_cells} cells is the control "
                f"{text(self.control)!r}."
            )
        if distinct(design).dosage.shape[0] == 1:
            label = treatment_labels(design, control=self.control, sep=self.sep)[0]
            raise ValueError(
                f"A has one perturbation only, {label!r} in each of its n_samples={n_cells} "
                "cells, and no control cell to compare it with."
            )

    def _mark_confounded(self, A, design):
        """Find the perturbations that go with the levels of another column."""
        found, frame = [], as_design(A)
        if isinstance(frame, pd.DataFrame) and self.perturbation in frame.columns:
            environment = as_list(self.environment)
            matrix = self.environments(A) if environment else None
            found = confounded(distinct(design), frame, environment, self.perturbation, matrix)
        self.confounded_ = table_of(found)
        lost = self.confounded_["perturbation"][~self.confounded_["separable"]]
        self.nested_ = np.isin(design.names, lost)
        warn_of_confounded(found)

    def _fit_environments(self, A):
        columns = as_list(self.environment)
        categories, scales, names = learn_environments(A, columns, self.perturbation)
        self.environment_categories_, self.environment_scales_ = categories, scales
        self.environment_names_, self.n_environments_ = names, len(names)
