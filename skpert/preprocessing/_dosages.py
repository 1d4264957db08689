"""Dosages on the scale on which effects add up: linear, logarithmic, or Hill curves."""

import numpy as np
import pandas as pd
from scipy.sparse import csr_array, issparse
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import check_array, check_consistent_length
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.validation import check_is_fitted

from .._input.design import read_design
from .._input.expression import check_same_cells
from .._input.transaction import restored_on_failure
from .._input.values import as_design, listed
from ..exceptions import warn_of_data
from ._curves import HILL_DOSES, fit_hill, hill, log_dose, means_of, response_p

KINDS = "linear", "log", "hill"
LEVEL = 0.95
DETECTED = 0.001  # p-value of a response to learn a curve from
COLUMNS = ["n_doses", "p", "ec50", "ec50_lower", "ec50_upper"]
COLUMNS += ["hill", "hill_lower", "hill_upper"]


class DosageTransform(TransformerMixin, BaseEstimator, auto_wrap_output_keys=None):
    r"""Dosages on the scale on which their effects add up, between 0 and 1.

    Additive models such as ``SAMSVAE`` take the effect of a perturbation times its dosage, so that
    ten times the dose has ten times the effect. Most drugs saturate. This makes dosages, in any
    unit, what they are worth beside the largest dose d' of each perturbation in `fit`:

    * ``"linear"``: :math:`d / d'`;
    * ``"log"``: :math:`\log(1 + d / d_1) / \log(1 + d' / d_1)`, for a smallest dose :math:`d_1`;
    * ``"hill"``: :math:`g(d) / g(d')` with :math:`g(d) = d^h / (\mathrm{EC}_{50}^h + d^h)`, whose
      two parameters are learned for each perturbation from responses of its cells.

    Effects of a model that is fitted on transformed dosages are those of the largest dose.

    Parameters
    ----------
    kind : {"linear", "log", "hill"}, default="log"
        The scale.

    Attributes
    ----------
    perturbations_ : ndarray of shape (n_perturbations,) and dtype object
        Names, in the order of the columns of A.
    smallest_, largest_ : ndarray of shape (n_perturbations,)
        Smallest dose above 0 and largest one.
    curves_ : DataFrame of shape (n_perturbations, 8)
        A row per perturbation, for ``"hill"`` only: ``n_doses``; ``p``, the p-value of a response
        at all; ``ec50``, the dose of half the largest effect, and ``hill``, the exponent h, with
        intervals of 95 %, ``ec50_lower`` and so on. An interval that is not bounded by the doses
        ends at 0 or infinity.

    See Also
    --------
    skpert.inspection.dose_response : A curve for each perturbation and latent, and which shape.

    Notes
    -----
    One curve per perturbation is learned for all responses together, by least squares on the means
    of doses, with responses made uncorrelated within doses. Where p is above 0.001, or there are
    fewer than three doses, no curve can be learned: h is 1, the EC50 the geometric mean of the
    doses, and a warning says so. Curves are learned before a model is fitted and not in its
    training, so that any model can be used, and the dosages of new cells have one meaning.

    Examples
    --------
    >>> import numpy as np
    >>> from skpert.preprocessing import DosageTransform
    >>> dose = np.repeat([0, 0.1, 0.3, 1, 3, 10], 50)
    >>> Z = dose / (1 + dose) + np.random.default_rng(0).normal(scale=0.2, size=300)
    >>> scale = DosageTransform("hill").fit(dose[:, None], Z[:, None])
    >>> scale.curves_[["ec50_lower", "ec50", "ec50_upper"]].round(1).to_numpy().tolist()
    [[0.7, 1.0, 1.7]]
    >>> scale.transform([[0], [1], [10]]).round(1).tolist()  # 1 for the largest dose
    [[0.0], [0.5], [1.0]]
    """

    # A is what scikit-learn calls X, not metadata to be routed
    __metadata_request__fit = {"A": UNUSED, "Z": UNUSED}
    __metadata_request__transform = {"A": UNUSED}

    def __init__(self, kind: str = "log") -> None:
        self.kind = kind

    def fit(self, A, Z=None) -> "DosageTransform":
        """Learn the doses, and for ``"hill"`` the curves.

        Parameters
        ----------
        A : {array-like, sparse matrix, DataFrame} of shape (n_cells, n_perturbations)
            Dosages in any unit; a row of zeros is a control cell. From labels and doses:
            ``pd.get_dummies(drug).drop(columns="control").mul(dose, axis=0)``.
        Z : array-like of shape (n_cells, n_responses), default=None
            Responses of the cells, such as latent states of a first model or principal components
            of log-normalised counts. For ``"hill"`` only.

        Returns
        -------
        self : DosageTransform
            The fitted transform.

        Raises
        ------
        ValueError
            If dosages are labels, negative or not finite, a perturbation has none, ``kind`` is
            unknown, or ``"hill"`` has no responses or no control cells.

        Warns
        -----
        DataWarning
            If a curve cannot be learned.
        """
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {listed(KINDS, 3)}, got {self.kind!r}")
        names, dosage = read_dosages(A)
        columns = dosage.tocsc()
        empty = np.diff(columns.indptr) == 0
        if empty.any():
            raise ValueError(
                f"A has columns of perturbations that no cell received: "
                f"{listed(names[empty], 10)}. Leave them out"
            )
        with restored_on_failure(self):
            self.perturbations_ = names
            parts = np.split(columns.data.astype(np.float64), columns.indptr[1:-1])
            self.smallest_ = np.array([part.min() for part in parts])
            self.largest_ = np.array([part.max() for part in parts])
            if self.kind == "hill":
                self.curves_ = _curves(names, dosage, _responses(Z, A, dosage))
        return self

    def transform(self, A):
        """Transformed dosages, in the form of A.

        Parameters
        ----------
        A : {array-like, sparse matrix, DataFrame} of shape (n_cells, n_perturbations)
            Dosages. Columns of a DataFrame are matched by name, those of an array by position.

        Returns
        -------
        dosages : {ndarray, sparse matrix, DataFrame} of shape (n_cells, n_perturbations)
            0 for 0 and 1 for the largest dose in `fit`; more above it.

        Raises
        ------
        ValueError
            As in `fit`, and if A has a perturbation that is unknown or another number of columns.
        """
        check_is_fitted(self)
        names, dosage = read_dosages(A)
        rows = self._rows(names, isinstance(as_design(A), pd.DataFrame))
        values = dosage.astype(np.float64)
        at = rows[values.indices]
        top, low = self.largest_[at], self.smallest_[at]
        if self.kind == "linear":
            values.data = values.data / top
        elif self.kind == "log":
            values.data = log_dose(values.data, low) / log_dose(top, low)
        else:
            curve = self.curves_["ec50"].to_numpy()[at], self.curves_["hill"].to_numpy()[at]
            values.data = hill(values.data, *curve) / hill(top, *curve)
        return _as_given(A, names, values)

    def _rows(self, names, by_name):
        """Row of each column of A among the perturbations."""
        if not by_name:
            if len(names) != len(self.perturbations_):
                raise ValueError(
                    f"A has {len(names)} columns, and had {len(self.perturbations_)} in fit"
                )
            return np.arange(len(names))
        place = {name: i for i, name in enumerate(self.perturbations_)}
        unknown = [name for name in names if name not in place]
        if unknown:
            raise ValueError(
                f"A has perturbations {listed(unknown, 5)}, unknown from fit; known are "
                f"{listed(self.perturbations_, 5)}"
            )
        return np.array([place[name] for name in names])


def read_dosages(A, control="control"):
    """Names of the columns of A, and dosages as CSR; ValueError if these are none."""
    design = read_design(A, control=control, sep=None, perturbation="perturbation")
    if design.form == "labels":
        raise ValueError(
            "A holds labels, and a dose is needed for each cell and perturbation. From a column "
            "of drugs and one of doses: "
            'pd.get_dummies(drug).drop(columns="control").mul(dose, axis=0)'
        )
    if not len(design.names):
        raise ValueError("A has no columns: give one of dosages for each perturbation")
    return design.names, csr_array(design.dosage)


def alone(dosage):
    """Rows of control cells, and for each perturbation those that have it alone and its dose."""
    n_parts = np.diff(dosage.indptr)
    rows = np.flatnonzero(n_parts == 1)
    column, dose = dosage.indices[dosage.indptr[rows]], dosage.data[dosage.indptr[rows]]
    parts = [(rows[column == j], dose[column == j]) for j in range(dosage.shape[1])]
    return np.flatnonzero(n_parts == 0), parts


def _responses(Z, A, dosage):
    """Responses whose covariance within doses is the unit matrix."""
    if Z is None:
        raise ValueError(
            'kind="hill" learns curves from responses of the cells: give Z, such as '
            "model.transform(X)"
        )
    check_same_cells(A, Z, ("A", "Z"))
    Z = check_array(Z, dtype=np.float64)
    check_consistent_length(dosage, Z)
    groups = pd.DataFrame(dosage.toarray()).groupby(list(range(dosage.shape[1]))).ngroup()
    within = Z - pd.DataFrame(Z).groupby(groups.to_numpy()).transform("mean").to_numpy()
    values, axes = np.linalg.eigh(within.T @ within / len(Z))
    used = values > 1e-9 * max(values.max(initial=0), 1e-300)
    if not used.any():
        raise ValueError("Z does not vary between cells of the same dose: nothing can be learned")
    return Z @ axes[:, used] / np.sqrt(values[used])


def _curves(names, dosage, Z):
    """Table of learned curves, one per perturbation for all responses."""
    controls, parts = alone(dosage)
    if len(controls) < 2:
        raise ValueError(
            f"A has {len(controls)} control cells, whose rows are zero: two or more are needed to "
            "learn curves"
        )
    table, failed = pd.DataFrame(index=pd.Index(names, name="perturbation"), columns=COLUMNS), []
    columns = dosage.tocsc()
    for j, (rows, dose) in enumerate(parts):
        both = np.concatenate([np.zeros(len(controls)), dose.astype(np.float64)])
        row = _curve(means_of(both, Z[np.concatenate([controls, rows])]))
        if np.isnan(row[2]):
            failed.append(names[j])
            own = columns.data[columns.indptr[j] : columns.indptr[j + 1]].astype(np.float64)
            row[2:] = [np.exp(np.log(np.unique(own)).mean()), 0, np.inf, 1.0, 0, np.inf]
        table.iloc[j] = row
    if failed:
        warn_of_data(
            f"No curve could be learned for {len(failed)} of {len(names)} perturbations, whose "
            f"responses are not detected or which have fewer than {HILL_DOSES} doses alone: "
            f"{listed(failed, 5)}; their exponent is 1 and their EC50 the mean of their doses"
        )
    return table.astype(np.float64).astype({"n_doses": int})


def _curve(means):
    """Row of the table, NaN for what cannot be learned."""
    row = [0, np.nan, *[np.nan] * 6]
    if means is None or len(means.dose) < 2:
        return row
    row[:2] = len(means.dose) - 1, response_p(means)[1]
    if row[0] < HILL_DOSES or row[1] > DETECTED:
        return row
    found = fit_hill(means, LEVEL)
    return [*row[:2], *found.ec50, *found.exponent]


def _as_given(A, names, values):
    """Dosages in the form of A."""
    if issparse(A):
        return values
    form = as_design(A)
    if not isinstance(form, pd.DataFrame):
        return values.toarray()
    sparse = all(isinstance(dtype, pd.SparseDtype) for dtype in form.dtypes)
    frame = pd.DataFrame.sparse.from_spmatrix(values, index=form.index, columns=names)
    return frame if sparse else frame.sparse.to_dense()
