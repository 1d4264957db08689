r"""What a perturbation does in a context of which only control cells were seen.

With the effects :math:`\Delta_{cp}` that were measured in other contexts :math:`c`, such as cell
lines or donors, and means :math:`b_c` of their control cells, what is expected in the context k is

.. math:: b_k + s \sum_{c \ne k} w_{kc} \Delta_{cp}, \qquad \sum_c w_{kc} = 1

with one scale :math:`s` for all. Weights are equal (``"mean"``), 1 for the context whose controls
are nearest (``"nearest"``), or fall with the distance of controls (``"similar"``).
"""

from copy import copy
from math import inf
from numbers import Real
from typing import Self

import numpy as np
from scipy.sparse import csr_array, issparse
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state, gen_batches
from sklearn.utils.validation import check_is_fitted

from .._input.contexts import context_labels
from .._input.design import FOLDS, check_received
from .._input.expression import check_same_cells
from .._input.transaction import restored_on_failure
from .._input.values import as_list, check_weights, is_positive_integer, listed
from ..exceptions import warn_of_data
from ..preprocessing import PerturbationEncoder, check_cells

N_CELLS = 4096  # that are summed at once
EFFECTS = ("similar", "mean", "nearest")
SHARPNESS = 2.0  # of weights that fall with the squared distance, over its median


class ContextEffects(BaseEstimator):
    """Predict that a perturbation does in a new context what it does in others.

    The baselines of the zero-shot context: a cell line, donor or patient of which training has
    control cells, and no perturbed ones. Effects of other contexts are averaged, scaled, and added
    to what control cells of the new one express. Where the perturbation was measured in the
    context itself, its effect there is the prediction. A combination is a treatment of its own.
    Expression is log-normalised, as by
    ``make_perturbation_pipeline(LogNormalize(), ContextEffects("donor"))``.

    Parameters
    ----------
    context : str, list of str or None, default=None
        Columns of the design frame that name the context; several name it together. None takes
        all cells to be of one context.
    effect : {"similar", "mean", "nearest"}, default="similar"
        Whose effects are taken: those of all other contexts with weights
        ``exp(-2 d^2 / median(d^2))``, where d is the euclidean distance of the means of control
        cells; of all with equal weights; or of the nearest alone.
    scale : float or "learned", default="learned"
        What the effect is multiplied by. "learned" is the least squares solution where each
        context of training in turn is predicted from the others; 1 where none can be. It is
        near zero where effects do not carry over.
    control : str, default="control"
        Label of the untreated cells.
    sep : str or None, default="+"
        What joins the names of a combination; None reads labels as they stand.
    perturbation : str, default="perturbation"
        Column of the labels, where the design is a DataFrame.
    layer : str or None, default=None
        Layer of an AnnData that holds the expression; None is its ``X``.

    Attributes
    ----------
    contexts_ : ndarray of shape (n_contexts,)
        Sorted names of contexts, such as ``"D1, B cell"``.
    perturbations_ : ndarray of shape (n_perturbations,)
        Sorted names, without the control, combinations among them.
    design_ : PerturbationEncoder
        The fitted encoder of the design.
    control_means_ : ndarray of shape (n_contexts, n_genes)
        Mean of control cells of each context; of all its cells if there are none.
    measured_ : ndarray of shape (n_contexts, n_perturbations), bool
        Which perturbations were measured in which contexts.
    effects_ : ndarray of shape (n_contexts, n_perturbations, n_genes)
        Effects that were measured, zero elsewhere.
    scale_ : float
        The scale.
    n_features_in_ : int
        Number of genes.
    feature_names_in_ : ndarray of shape (n_genes,)
        Names of genes, where X has names.

    See Also
    --------
    skpert.model_selection.LeaveContextsOut : Leaves the perturbed cells of contexts out.
    AdditiveEffects : Effects of perturbations in cells of one context.

    Notes
    -----
    The learned scale also takes account of noise: effects of few cells are drawn towards zero.

    Examples
    --------
    >>> import pandas as pd
    >>> from skpert import ContextEffects
    >>> A = pd.DataFrame({"perturbation": ["control", "A", "control", "A", "control"],
    ...                   "line": ["K562", "K562", "A172", "A172", "T98G"]})
    >>> X = [[1.0, 2.0], [3.0, 2.0], [4.0, 2.0], [5.0, 2.0], [2.0, 1.0]]
    >>> model = ContextEffects("line", effect="mean", scale=1).fit(X, A)
    >>> new = pd.DataFrame({"perturbation": ["A"], "line": ["T98G"]})
    >>> model.predict_intervention(new).tolist()
    [[3.5, 1.0]]
    """

    _parameter_constraints = {"sep": [str, None], "perturbation": [str], "layer": [str, None]}

    def __init__(
        self,
        context: str | list[str] | None = None,
        *,
        effect: str = "similar",
        scale: float | str = "learned",
        control="control",
        sep: str | None = "+",
        perturbation: str = "perturbation",
        layer: str | None = None,
    ) -> None:
        self.context = context
        self.effect = effect
        self.scale = scale
        self.control = control
        self.sep = sep
        self.perturbation = perturbation
        self.layer = layer

    def fit(self, X, y) -> Self:
        """Learn from expression and design.

        Parameters
        ----------
        X : {array-like, sparse matrix, AnnData, path} of shape (n_cells, n_genes)
            Log-normalised expression.
        y : DataFrame of shape (n_cells, n_columns)
            The design A, a frame with a column of labels and those of the contexts, such as
            ``adata.obs``. Without ``context`` any form without dosages. Pass it by position.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If X holds NaN or infinity, if A is missing, of another length, lacks a column, has
            missing labels or contexts, dosages other than 0 and 1, or a single condition.

        Warns
        -----
        DataWarning
            If a context has no control cell: its effects are relative to the mean of its cells.
        """
        with restored_on_failure(self):
            self._validate_params()
            self._check_parameters()
            parameters = {k: getattr(self, k) for k in ("control", "sep", "perturbation")}
            design = PerturbationEncoder(**parameters, additive=False).fit(y)
            check_received(design, "Leave them out")
            values = check_cells(self, X, counts=False, layer=self.layer, reset=True, design=y)
            labels = context_labels(y, self.context)
            self.design_, self.perturbations_ = design, design.perturbations_
            self.contexts_, codes = np.unique(labels, return_inverse=True)
            self._learn(values, codes, _treatment(design, y))
            return self

    def adapt(self, X, A):
        """Add perturbations never trained on, with all else kept as it is.

        Parameters
        ----------
        X : {array-like, sparse matrix, AnnData, path} of shape (n_cells, n_genes)
            Cells of the new perturbations, in contexts of training.
        A : DataFrame of shape (n_cells, n_columns)
            Their design. Control cells change nothing.

        Returns
        -------
        adapted : ContextEffects
            A new fitted estimator; this one stays as it is, and so does the scale.

        Raises
        ------
        ValueError
            If a perturbation is known already, a context is not, or X or A are not as ``fit``
            wants them.
        """
        check_is_fitted(self)
        values = check_cells(self, X, counts=False, layer=self.layer, design=A)
        design, labels = self.design_.extended(A), context_labels(A, self.context)
        self._means(labels)  # all are known
        treatment = _treatment(design, A) - len(self.perturbations_)
        kept, n_new = treatment >= 0, len(design.perturbations_) - len(self.perturbations_)
        codes = np.searchsorted(self.contexts_, labels[kept]) * n_new + treatment[kept]
        found, means, _ = _means(values[kept], codes)
        effects = np.zeros((len(self.contexts_), n_new, values.shape[1]))
        measured = np.zeros(effects.shape[:2], dtype=bool)
        measured.flat[found] = True
        effects[measured] = means - self.control_means_[found // n_new]
        adapted = copy(self)
        adapted.design_, adapted.perturbations_ = design, design.perturbations_
        adapted.effects_ = np.concatenate([self.effects_, effects], 1)
        adapted.measured_ = np.concatenate([self.measured_, measured], 1)
        return adapted

    def predict_intervention(self, A, X=None, *, library_size=None) -> np.ndarray:
        """Expected expression under interventions.

        Parameters
        ----------
        A : DataFrame of shape (n_designs, n_columns)
            Designs to predict, with the columns of the contexts; without ``context`` also a label
            or labels.
        X : {array-like, sparse matrix, AnnData, path} of shape (n_cells, n_genes), default=None
            Control cells. If given, the predicted effect is added to these very cells, that of
            the one design of A, or of each cell's own row of A. Their context may then be one
            that was not trained on; the mean of its cells stands for its controls.
        library_size : None
            For the signature of the other models; counts alone have library sizes.

        Returns
        -------
        expression : ndarray of shape (n_designs, n_genes) or (n_cells, n_genes)
            In the units of training; values below zero are possible.

        Raises
        ------
        ValueError
            If A names an unknown perturbation or, without X, an unknown context, lacks a column,
            its length does not match X, or ``library_size`` is given.
        """
        check_is_fitted(self)
        labels, treatment = self._read(A, library_size)
        if X is None:
            means = self._means(labels)
            rows = [means[label] for label in labels]
            return np.array(rows) + self._effects(labels, treatment, means)
        X = check_cells(
            self, X, counts=False, layer=self.layer, design=A if len(labels) > 1 else None
        )
        if len(labels) not in (1, X.shape[0]):
            raise ValueError(
                f"A has {len(labels)} designs for {X.shape[0]} cells: give one design, or one "
                "per cell"
            )
        means = self._means(labels, X, of_cells=labels if len(labels) > 1 else None)
        return _shifted(X, self._effects(labels, treatment, means))

    def sample_intervention(
        self, A, n_samples, *, X=None, library_size=None, random_state=None
    ) -> np.ndarray:
        """Expression of cells drawn under interventions.

        Parameters
        ----------
        A : DataFrame of shape (n_designs, n_columns)
            Designs, as in ``predict_intervention``.
        n_samples : int
            Cells per design.
        X : {array-like, sparse matrix, AnnData, path} of shape (n_cells, n_genes), default=None
            Control cells to draw from, with replacement, of the context of the designs. None
            draws from those of training in the context of each.
        library_size : None
            For the signature of the other models; counts alone have library sizes.
        random_state : int, RandomState instance or None, default=None
            Seeds the draws.

        Returns
        -------
        expression : ndarray of shape (n_designs, n_samples, n_genes) and dtype float32
            Cells that are drawn, shifted by the predicted effect.

        Raises
        ------
        ValueError
            As in ``predict_intervention``, and if ``n_samples`` is below 1.
        """
        check_is_fitted(self)
        labels, treatment = self._read(A, library_size)
        if not is_positive_integer(n_samples):
            raise ValueError(f"n_samples must be an integer of at least 1, got {n_samples!r}")
        if X is not None:
            X = check_cells(self, X, counts=False, layer=self.layer)
        effects = self._effects(labels, treatment, self._means(labels, X))
        random = np.random.default_rng(check_random_state(random_state).randint(2**31 - 1))
        samples = np.empty((len(labels), n_samples, self.n_features_in_), dtype=np.float32)
        for i, label in enumerate(labels):
            cells = self._controls_of(label) if X is None else X
            samples[i] = _shifted(
                cells[random.integers(cells.shape[0], size=n_samples)], effects[i]
            )
        return samples

    def score(self, X, y, sample_weight=None) -> float:
        """Minus the mean squared error of the means of perturbations; at most 0, higher is better.

        Parameters
        ----------
        X : {array-like, sparse matrix, AnnData, path} of shape (n_cells, n_genes)
            Expression.
        y : DataFrame of shape (n_cells, n_columns)
            The design A.
        sample_weight : array-like of shape (n_cells,), default=None
            Weights of the cells in the mean of their perturbation.

        Returns
        -------
        score : float
            Mean over treatments in contexts of the mean over genes. Control cells do not count.

        Raises
        ------
        ValueError
            If A names what cannot be predicted, or has no perturbed cell.
        """
        check_is_fitted(self)
        check_same_cells(X, sample_weight, ("X", "sample_weight"))
        values = check_cells(self, X, counts=False, layer=self.layer, design=y)
        try:
            labels, treatment = self._read(y, None)
        except ValueError as error:  # of names that were not trained on
            raise ValueError(f"{str(error).rstrip('.')}. {FOLDS}") from error
        weight = np.ones(len(labels)) if sample_weight is None else sample_weight
        weight = check_weights(weight, values) * (treatment >= 0)
        names, codes = np.unique(labels, return_inverse=True)
        codes = codes * len(self.perturbations_) + treatment
        codes, means, size = _means(values, codes, weight)
        if not size.any():
            raise ValueError(f"A has no perturbed cell with a weight above zero. {FOLDS}")
        codes, means = codes[size > 0], means[size > 0]
        labels, treatment = (
            names[codes // len(self.perturbations_)],
            codes % len(self.perturbations_),
        )
        controls = self._means(labels)
        expected = np.array([controls[label] for label in labels])
        expected += self._effects(labels, treatment, controls)
        return -float(np.mean((expected - means) ** 2))

    def _learn(self, values, codes, treatment):
        """Means and effects of all contexts, and the scale."""
        n_perturbations = len(self.perturbations_)
        shape = len(self.contexts_), n_perturbations + 1
        found, means, _ = _means(values, codes * shape[1] + treatment + 1)
        table = np.zeros((*shape, values.shape[1]))
        seen = np.zeros(shape, dtype=bool)
        table.reshape(-1, values.shape[1])[found], seen.flat[found] = means, True
        without = np.flatnonzero(~seen[:, 0])
        for context in without:
            table[context, 0] = np.asarray(values[codes == context].mean(0, dtype=np.float64))
        if 0 < len(without) < len(seen):  # the encoder warns where there is no control at all
            warn_of_data(
                f"contexts without a control cell: {listed(self.contexts_[without], 5)}; their "
                "effects are relative to the mean of their cells"
            )
        self.control_means_, self.measured_ = table[:, 0], seen[:, 1:]
        self.effects_ = np.where(seen[:, 1:, None], table[:, 1:] - table[:, :1], 0)
        kept = np.flatnonzero((treatment < 0) | np.isin(codes, without))
        kept = kept[np.argsort(codes[kept], kind="stable")]
        self._cells = _packed(values[kept])
        self._ends = np.cumsum(np.bincount(codes[kept], minlength=len(seen)))
        self.scale_ = self._learned_scale() if self.scale == "learned" else float(self.scale)

    def _learned_scale(self):
        """Least squares over what is measured in a context and predicted from the others."""
        product = square = 0.0
        for k, mean in enumerate(self.control_means_):
            others = self.measured_.copy()
            others[k] = False
            for p in np.flatnonzero(self.measured_[k] & others.any(0)):
                predicted = self._carried(mean, p, others[:, p])
                product += predicted @ self.effects_[k, p]
                square += predicted @ predicted
        return product / square if square > 0 else 1.0

    def _carried(self, mean, perturbation, contexts):
        """Effect of a perturbation where controls have this mean, from these contexts."""
        rows = np.flatnonzero(contexts)
        distance = ((self.control_means_[rows] - mean) ** 2).sum(1)
        if self.effect == "nearest":
            return self.effects_[rows[distance.argmin()], perturbation]
        unit = np.median(distance) if self.effect == "similar" else 0.0
        weight = np.exp(SHARPNESS * (distance.min() - distance) / unit) if unit else distance >= 0
        return weight @ self.effects_[rows, perturbation] / weight.sum()

    def _effects(self, labels, treatment, means):
        """Effect of each design in its context, (n_designs, n_genes)."""
        known = {name: k for k, name in enumerate(self.contexts_)}
        effects, found = np.zeros((len(labels), self.n_features_in_)), {}
        for i, key in enumerate(zip(labels, treatment, strict=True)):
            label, p = key
            if p >= 0 and key not in found:
                k = known.get(label)
                if k is not None and self.measured_[k, p]:
                    found[key] = self.effects_[k, p]
                else:
                    found[key] = self.scale_ * self._carried(means[label], p, self.measured_[:, p])
            if p >= 0:
                effects[i] = found[key]
        return effects

    def _means(self, labels, X=None, of_cells=None):
        """Mean of control cells of each context that is named; of new ones that of X.

        ``of_cells`` are the contexts of the cells, if these are of several.
        """
        means = dict(zip(self.contexts_, self.control_means_, strict=True))
        new = sorted(set(labels) - set(means))
        if new and X is None:
            raise ValueError(
                f"A has contexts that were not trained on: {listed(new, 5)}. Known are "
                f"{listed(self.contexts_, 10)}. Train on control cells of these, too, or give "
                "their control cells as X"
            )
        for label in new:
            cells = X if of_cells is None else X[of_cells == label]
            means[label] = np.asarray(cells.mean(0, dtype=np.float64)).ravel()
        return means

    def _controls_of(self, label):
        k = int(np.searchsorted(self.contexts_, label))
        start = self._ends[k - 1] if k else 0
        return _unpacked(self._cells)[start : self._ends[k]]

    def _read(self, A, library_size):
        """Context of each design, and the number of its treatment, -1 for the control."""
        if library_size is not None:
            raise ValueError(
                "library_size applies to count models only; these predictions are in the units of "
                "X, log-normalised expression: leave it out"
            )
        treatment = _treatment(self.design_, A)
        if not len(treatment):
            raise ValueError("A holds no design: give at least one, such as a perturbation's name")
        if not as_list(self.context):
            return np.full(len(treatment), "", dtype=object), treatment
        return context_labels(A, self.context), treatment

    def _check_parameters(self):
        if self.effect not in EFFECTS:
            raise ValueError(f"effect={self.effect!r} must be one of {EFFECTS}")
        if self.scale != "learned" and not (
            isinstance(self.scale, Real) and abs(self.scale) < inf
        ):
            raise ValueError(f"scale={self.scale!r} must be a finite number or 'learned'")

    def __sklearn_tags__(self):
        """Capabilities, as scikit-learn asks for them."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        return tags


def _treatment(design, A):
    """Number of the intervention of each cell, -1 for the control."""
    dosage = design.transform(A)
    treatment = np.full(dosage.shape[0], -1)
    treatment[np.diff(dosage.indptr) > 0] = dosage.indices
    return treatment


def _means(X, codes, weight=None):
    """Distinct codes, the means of their cells in float64, and the total weights of these."""
    weight = np.ones(len(codes)) if weight is None else weight
    found, codes = np.unique(codes, return_inverse=True)
    total = np.zeros((len(found), X.shape[1]))
    for cells in gen_batches(X.shape[0], N_CELLS):
        some, rows = np.unique(codes[cells], return_inverse=True)
        member = (weight[cells], (rows, np.arange(len(rows))))
        part = csr_array(member, shape=(len(some), len(rows))) @ X[cells]
        total[some] += part.toarray() if issparse(part) else part
    size = np.bincount(codes, weights=weight, minlength=len(found))
    return found, total / np.where(size > 0, size, 1)[:, None], size


def _packed(X):
    """Cells as plain arrays, which can be written to files."""
    return (X.data, X.indices, X.indptr, X.shape[1]) if issparse(X) else X


def _unpacked(packed):
    """Cells as they were before they were packed for a file."""
    if not isinstance(packed, tuple):
        return packed
    *arrays, n_genes = packed
    return csr_array(tuple(arrays), shape=(len(arrays[-1]) - 1, n_genes))


def _shifted(cells, effect):
    """Dense cells with an effect added, float32."""
    cells = cells.toarray() if issparse(cells) else cells
    return (cells + effect).astype(np.float32)
