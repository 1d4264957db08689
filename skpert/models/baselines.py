"""Predictions without a network, which every evaluation of a model should stand beside.

All are linear in expression. With b0 the mean of control cells and d_p the dosages of a design,
what is expected under it is

    b0 + c [d is not 0] + sum_p d_p r_p

with a centre c and responses r_p of single perturbations, (n_genes,) each:

=================  ======================  ======================================================
ControlMean        c = 0                   r_p = 0
PerturbedMean      c = mean effect         r_p = 0
AdditiveEffects    c = 0                   r_p by least squares of the effects that were measured
InteractionRidge   c = 0                   the same, and what combinations do beside the sum
BilinearRidge      c = mean effect         r_p = G W e_p, with genes' and targets' embeddings
EffectRegression   c = 0                   r_p = f(e_p), with any regressor f
=================  ======================  ======================================================
"""

from abc import ABC, abstractmethod
from copy import copy
from inspect import signature
from math import inf
from numbers import Integral, Real
from typing import Self

import numpy as np
import pandas as pd
from scipy.sparse import eye_array, issparse
from sklearn.base import BaseEstimator, clone
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.ensemble._forest import BaseForest
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods
from sklearn.utils.extmath import svd_flip
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from .._input.design import FOLDS, check_received, read_design
from .._input.expression import check_same_cells
from .._input.transaction import restored_on_failure
from .._input.values import check_weights, is_positive_integer, listed
from .._least_squares import ridge_operator
from .._pseudobulk import (
    Pseudobulk,
    measured_effects,
    packed,
    pseudobulk,
    scaled_sum,
    shifted,
    smoothed,
    unpacked,
)
from ..preprocessing import PerturbationEncoder, TargetFeatures, check_cells

FITTING = HasMethods(["fit", "predict"])
SHARED = {
    "data_parameters": """control : str, default="control"
        Label of the untreated cells.
    sep : str or None, default="+"
        What joins the names of a combination; None reads labels as they stand.
    perturbation : str, default="perturbation"
        Column of the labels, where the design is a DataFrame.
    layer : str or None, default=None
        Layer of an AnnData that holds the expression; None is its ``X``.""",
    "attributes": """perturbations_ : ndarray of shape (n_perturbations,)
        Sorted names, without the control; for a dosage matrix in the order of its columns.
    design_ : PerturbationEncoder
        The fitted encoder of the design.
    control_mean_ : ndarray of shape (n_genes,)
        Mean of control cells; of all training cells if there are none.
    effect_ : ndarray of shape (n_perturbations, n_genes)
        Predicted effect of each perturbation on its own.
    n_features_in_ : int
        Number of genes.
    feature_names_in_ : ndarray of shape (n_genes,)
        Names of genes, where X has names.""",
}


def _documented(cls):
    """Complete a class docstring with what all baselines share."""
    for name, text in SHARED.items():
        cls.__doc__ = cls.__doc__.replace(f"{{{name}}}", text)
    return cls


class Baseline(BaseEstimator, ABC):
    """Conduct of all baselines; a subclass learns a centre and responses."""

    _parameter_constraints = {"sep": [str, None], "perturbation": [str], "layer": [str, None]}

    def __init__(self, *, control="control", sep="+", perturbation="perturbation", layer=None):
        self.control = control
        self.sep = sep
        self.perturbation = perturbation
        self.layer = layer

    @abstractmethod
    def _learn(self, bulk, controls):
        """Centre, (n_genes,), and responses, (n_perturbations, n_genes or 1).

        Means of ``bulk``, which has no control, are relative to ``control_mean_``; ``controls``
        are control cells.
        """

    def _unseen(self, names):
        """Responses to perturbations that were not trained on."""
        return 0.0

    def _measured(self, bulk, centre):
        """Responses that these treatments show."""
        return np.zeros((bulk.dosage.shape[1], 1))

    def fit(self, X, y) -> Self:
        """Learn from expression and design.

        Parameters
        ----------
        X : {array-like, sparse matrix, AnnData, path} of shape (n_cells, n_genes)
            Log-normalised expression.
        y : array-like of shape (n_cells,) or (n_cells, n_perturbations), or DataFrame
            The design A: a label per cell, dosages (a row of zeros is a control cell), or a
            frame with a column of labels such as ``adata.obs``. Pass it by position.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If X holds NaN or infinity, if A is missing, of another length, with missing labels
            or negative dosages, names a single condition, or has a column of a perturbation
            that no cell received.
        """
        with restored_on_failure(self):
            self._validate_params()
            parameters = {k: getattr(self, k) for k in ("control", "sep", "perturbation")}
            design = PerturbationEncoder(**parameters).fit(y)
            check_received(design, "Leave them out")
            values = self._expression(X, y, reset=True)
            bulk = pseudobulk(values, design.transform(y))
            self.design_, self.perturbations_ = design, design.perturbations_
            treated = bulk.treated
            share = bulk.weight if treated.all() else bulk.weight * ~treated
            self.control_mean_ = np.average(bulk.mean, axis=0, weights=share)
            controls = values[~treated[bulk.codes]]
            self._keep(values, bulk)
            self._centre, self._responses = self._learn(self._relative(bulk), controls)
            return self

    def adapt(self, X, A) -> Self:
        """Add perturbations never trained on, with all else kept as it is.

        Parameters
        ----------
        X : {array-like, sparse matrix, AnnData, path} of shape (n_cells, n_genes)
            Cells of the new perturbations.
        A : array-like of shape (n_cells,) or DataFrame
            Their design, in any form that ``fit`` takes. Control cells change nothing.

        Returns
        -------
        adapted : estimator
            A new fitted estimator; this one stays as it is. Where perturbations have responses
            of their own, those of the new ones are the effects measured on these cells.

        Raises
        ------
        ValueError
            If a perturbation is known already, or X or A are not as ``fit`` wants them.
        """
        check_is_fitted(self)
        values = self._expression(X, A)
        design = self.design_.extended(A)
        new = design.transform(A)[:, len(self.perturbations_) :]
        rows = self._measured(self._relative(pseudobulk(values, new)), self._centre)
        adapted = copy(self)
        adapted.design_, adapted.perturbations_ = design, design.perturbations_
        adapted._responses = np.vstack([self._responses, rows])
        return adapted

    def predict_intervention(self, A, X=None, *, library_size=None) -> np.ndarray:
        """Expected expression under interventions.

        Parameters
        ----------
        A : str, array-like of shape (n_designs,) or (n_designs, n_perturbations), or DataFrame
            Designs to predict; a bare string is one.
        X : {array-like, sparse matrix, AnnData, path} of shape (n_cells, n_genes), default=None
            Control cells. If given, the predicted effect is added to these very cells, that of
            the one design of A, or of each cell's own row of A.
        library_size : None
            For the signature of the other models; counts alone have library sizes.

        Returns
        -------
        expression : ndarray of shape (n_designs, n_genes) or (n_cells, n_genes)
            In the units of training; values below zero are possible.

        Raises
        ------
        ValueError
            If A names what cannot be predicted, its length does not match X, or
            ``library_size`` is given.
        """
        effects, _ = self._effects(A, library_size)
        if X is None:
            return self.control_mean_ + effects
        X = self._expression(X, A if len(effects) > 1 else None)
        if len(effects) not in (1, X.shape[0]):
            raise ValueError(
                f"A has {len(effects)} designs for {X.shape[0]} cells: give one design, or one "
                "per cell"
            )
        return shifted(X, effects)

    def sample_intervention(self, A, n_samples, *, X=None, library_size=None, random_state=None):
        """Expression of cells drawn under interventions.

        Parameters
        ----------
        A : str, array-like of shape (n_designs,) or (n_designs, n_perturbations), or DataFrame
            Designs; a bare string is one.
        n_samples : int
            Cells per design.
        X : {array-like, sparse matrix, AnnData, path} of shape (n_cells, n_genes), default=None
            Control cells to draw from, with replacement; None draws from those of training, or
            from all training cells if they had no control.
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
            If A names what cannot be predicted, ``n_samples`` is below 1, or ``library_size``
            is given.
        """
        effects, treated = self._effects(A, library_size)
        if not is_positive_integer(n_samples):
            raise ValueError(f"n_samples must be an integer of at least 1, got {n_samples!r}")
        random = np.random.default_rng(check_random_state(random_state).randint(2**31 - 1))
        samples = np.empty((len(effects), n_samples, self.n_features_in_), dtype=np.float32)
        if X is not None:
            X = self._expression(X)
        for i, effect in enumerate(effects):
            if X is None:
                samples[i] = self._draw(effect, treated[i], n_samples, random)
            else:
                samples[i] = shifted(X[random.integers(X.shape[0], size=n_samples)], effect)
        return samples

    def score(self, X, y, sample_weight=None) -> float:
        """Minus the mean squared error of the means of perturbations; at most 0, higher is better.

        Parameters
        ----------
        X : {array-like, sparse matrix, AnnData, path} of shape (n_cells, n_genes)
            Expression.
        y : array-like of shape (n_cells,) or (n_cells, n_perturbations), or DataFrame
            The design A. Perturbations that were not trained on count too.
        sample_weight : array-like of shape (n_cells,), default=None
            Weights of the cells in the mean of their perturbation.

        Returns
        -------
        score : float
            Mean over distinct treatments of the mean over genes. Control cells do not count.

        Raises
        ------
        ValueError
            If A names what cannot be predicted, or has no perturbed cell.
        """
        check_is_fitted(self)
        check_same_cells(X, sample_weight, ("X", "sample_weight"))
        values = self._expression(X, y)
        names, dosage = self._read(y)
        if sample_weight is not None:
            sample_weight = check_weights(sample_weight, values)
        bulk = pseudobulk(values, dosage, sample_weight)
        counted = bulk.treated & (bulk.weight > 0)
        if not counted.any():
            raise ValueError(
                f"A has no perturbed cell, and a score is the error of their means. {FOLDS}"
            )
        try:
            effects = self._combined(names, bulk.dosage[counted])
        except ValueError as error:  # of names that were not trained on
            raise ValueError(f"{str(error).rstrip('.')}. {FOLDS}") from error
        expected = self.control_mean_ + effects
        return -float(np.mean((expected - bulk.mean[counted]) ** 2))

    @property
    def effect_(self) -> pd.DataFrame:
        """Predicted effect of each perturbation on its own, (n_perturbations, n_genes)."""
        check_is_fitted(self)
        return self._combined(self.perturbations_, eye_array(len(self.perturbations_)).tocsr())

    def _expression(self, X, A=None, *, reset=False):
        """Validated expression, float32, of the cells of the design A."""
        return check_cells(self, X, counts=False, layer=self.layer, reset=reset, design=A)

    def _read(self, A):
        """Names and dosages, (n_designs, n_names), of any form of A; names may be unknown."""
        parameters = {k: getattr(self, k) for k in ("control", "sep", "perturbation")}
        design = read_design(A, **parameters, known=self.design_.columns_)
        if design.form == "array":  # columns by position
            return self.perturbations_, self.design_.transform(A)
        return design.names, design.dosage[design.codes]

    def _effects(self, A, library_size):
        """Effect of each design, (n_designs, n_genes), and whether it is none of control."""
        check_is_fitted(self)
        if library_size is not None:
            raise ValueError(
                "library_size applies to count models only; these predictions are in the units of "
                "X, log-normalised expression: leave it out"
            )
        names, dosage = self._read(A)
        if dosage.shape[0] == 0:
            raise ValueError("A holds no design: give at least one, such as a perturbation's name")
        return self._combined(names, dosage), np.diff(dosage.indptr) > 0

    def _combined(self, names, dosage):
        """Sum of the responses of each design, and the centre where it is not the control."""
        used = np.unique(dosage.indices)  # a column of zeros may have any name
        known = pd.Index(self.perturbations_).get_indexer(names[used])
        responses = np.zeros((len(used), self.n_features_in_))
        responses[known >= 0] = self._responses[known[known >= 0]]
        if (known < 0).any():
            responses[known < 0] = self._unseen(names[used[known < 0]])
        treated = np.diff(dosage.indptr) > 0
        return dosage.astype(np.float64)[:, used] @ responses + treated[:, None] * self._centre

    def _relative(self, bulk):
        """Treatments without the control, relative to its mean."""
        keep = bulk.treated
        mean = bulk.mean[keep] - self.control_mean_
        return Pseudobulk(bulk.dosage[keep], mean, bulk.weight[keep], bulk.codes)

    def _keep(self, values, bulk):
        """Keep the cells that samples are drawn from."""
        treated = bulk.treated
        self._cells = packed(values if treated.all() else values[~treated[bulk.codes]])

    def _draw(self, effect, treated, n_samples, random):
        cells = unpacked(self._cells)
        return shifted(cells[random.integers(cells.shape[0], size=n_samples)], effect)

    def __sklearn_tags__(self):
        """Capabilities, as scikit-learn asks for them."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        return tags


@_documented
class ControlMean(Baseline):
    """Predict that a perturbation does nothing.

    Any perturbation can be asked for, seen in training or not. Samples are control cells.
    Expression is log-normalised, as by
    ``make_perturbation_pipeline(LogNormalize(), ControlMean())``.

    Parameters
    ----------
    {data_parameters}

    Attributes
    ----------
    {attributes}

    See Also
    --------
    PerturbedMean : The mean effect for every perturbation.

    Examples
    --------
    >>> from skpert import ControlMean
    >>> X, A = [[1.0, 2.0], [3.0, 2.0], [5.0, 0.0], [7.0, 0.0]], ["control", "control", "A", "A"]
    >>> ControlMean().fit(X, A).predict_intervention(["A", "B"]).tolist()
    [[2.0, 2.0], [2.0, 2.0]]
    """

    def _learn(self, bulk, controls):
        return np.zeros(self.n_features_in_), np.zeros((bulk.dosage.shape[1], 1))


@_documented
class PerturbedMean(Baseline):
    """Predict the mean effect of the training perturbations for every perturbation.

    Any perturbation can be asked for, seen in training or not. Each treatment of training, a
    combination being one, counts once, however many its cells. Samples are treated training
    cells. Expression is log-normalised, as by
    ``make_perturbation_pipeline(LogNormalize(), PerturbedMean())``.

    Parameters
    ----------
    {data_parameters}

    Attributes
    ----------
    {attributes}

    See Also
    --------
    ControlMean : No effect.
    BilinearRidge : The mean effect, and more where targets resemble those of training.

    Examples
    --------
    >>> from skpert import PerturbedMean
    >>> X = [[1.0, 2.0], [1.0, 2.0], [3.0, 2.0], [3.0, 2.0], [1.0, 5.0], [1.0, 5.0]]
    >>> model = PerturbedMean().fit(X, ["control", "control", "A", "A", "B", "B"])
    >>> model.predict_intervention(["C", "control"]).tolist()
    [[2.0, 3.5], [1.0, 2.0]]
    """

    def _learn(self, bulk, controls):
        return bulk.mean.mean(0), np.zeros((bulk.dosage.shape[1], 1))

    def _keep(self, values, bulk):
        super()._keep(values, bulk)
        treated = bulk.treated[bulk.codes]
        codes = bulk.codes[treated]
        order = np.argsort(codes, kind="stable")
        self._treated_cells = packed(values[np.flatnonzero(treated)[order]])
        n_cells = np.bincount(codes, minlength=len(bulk.treated))
        self._n_treated_cells = n_cells[bulk.treated]

    def _draw(self, effect, treated, n_samples, random):
        if not treated:
            return super()._draw(effect, treated, n_samples, random)
        n_cells = self._n_treated_cells
        treatment = random.integers(len(n_cells), size=n_samples)
        within = random.integers(n_cells[treatment])
        start = np.cumsum(n_cells) - n_cells
        return shifted(unpacked(self._treated_cells)[start[treatment] + within], 0)


class SumOfParts(Baseline):
    """Baseline whose predictions for combinations are sums of effects of parts, times a scale."""

    def _combined(self, names, dosage):
        effects = super()._combined(names, dosage)
        several = np.diff(dosage.indptr) > 1
        return np.where(several[:, None], self.scale_, 1.0) * effects

    def _measured(self, bulk, centre):
        return measured_effects(bulk, centre, self.scale_)

    def _unseen(self, names):
        raise ValueError(
            f"A has unknown perturbations: {listed(names, 10)}. Known are "
            f"{listed(self.perturbations_, 20)}, and the control {self.control!r}. Effects of "
            "others can be learned with adapt, or predicted by BilinearRidge"
        )


@_documented
class AdditiveEffects(SumOfParts):
    """Predict that a combination does what its parts do, added up.

    Effects of single perturbations are the least squares solution over all training cells, given
    the mean of control cells: mean differences where every cell had one perturbation. Parts that
    only co-occur share their effect evenly. Samples are control cells, shifted by the
    effect. Expression is log-normalised, as by
    ``make_perturbation_pipeline(LogNormalize(), AdditiveEffects())``.

    Parameters
    ----------
    scale : float or "learned", default=1.0
        What the sum is multiplied by where a design has several parts. "learned" finds it
        together with the effects, by least squares over the combinations of training; without
        any it is 1. Effects of pairs are usually smaller than their sums, and this one number is
        hard to beat [2]_.
    {data_parameters}

    Attributes
    ----------
    scale_ : float
        The scale of sums.
    {attributes}

    See Also
    --------
    InteractionRidge : Learns from other combinations what one does beside the sum.
    BilinearRidge : Answers for perturbations that were not trained on, too.

    References
    ----------
    .. [1] Ahlmann-Eltze, Huber and Anders. Deep-learning-based gene perturbation effect
       prediction does not yet outperform simple linear baselines. Nature Methods (2025).
    .. [2] Norman et al. Exploring genetic interaction manifolds constructed from rich single-cell
       phenotypes. Science (2019).

    Examples
    --------
    >>> from skpert import AdditiveEffects
    >>> X = [[1.0, 2.0], [1.0, 2.0], [3.0, 2.0], [3.0, 2.0], [1.0, 5.0], [1.0, 5.0]]
    >>> model = AdditiveEffects().fit(X, ["control", "control", "A", "A", "B", "B"])
    >>> model.predict_intervention("A+B").round(6).tolist()
    [[3.0, 5.0]]
    """

    def __init__(
        self, *, scale=1.0, control="control", sep="+", perturbation="perturbation", layer=None
    ) -> None:
        super().__init__(control=control, sep=sep, perturbation=perturbation, layer=layer)
        self.scale = scale

    def _learn(self, bulk, controls):
        good = self.scale == "learned" or (isinstance(self.scale, Real) and abs(self.scale) < inf)
        if not good:
            raise ValueError(f"scale={self.scale!r} must be a finite number or 'learned'")
        self.scale_, responses = scaled_sum(bulk, self.scale)
        return np.zeros(self.n_features_in_), responses


@_documented
class InteractionRidge(SumOfParts):
    r"""Predict what a combination does beside the scaled sum of its parts, as others alike do.

    .. math:: \hat y = c \, s + \sum_i k(s, s_i) \, w_i, \qquad
              k(s, s') = \exp\left(-\gamma \lVert s - s' \rVert^2\right)

    with the sum of effects of the parts :math:`s`, a scale :math:`c` and training combinations
    :math:`i`, whose residuals a kernel ridge regression smooths: combinations whose sums are alike
    interact alike. Single perturbations, and everything without combinations in training, are as
    in ``AdditiveEffects(scale="learned")``. Expression is log-normalised, as by
    ``make_perturbation_pipeline(LogNormalize(), InteractionRidge())``.

    Parameters
    ----------
    gamma : float or "auto", default="auto"
        Of the kernel, over the mean squared distance between sums of training. "auto" takes that
        of .1, .3, 1, 3 and 10 with the least leave-one-out error.
    alpha : float or "auto", default="auto"
        Ridge penalty; "auto" takes the best of .1, .3, 1, 3, 10 and 100, leaving one out.
    {data_parameters}

    Attributes
    ----------
    scale_ : float
        The scale of sums.
    gamma_ : float
        Gamma that was used, in units of one over squared effects.
    alpha_ : float
        Alpha that was used.
    {attributes}

    See Also
    --------
    AdditiveEffects : The sum of parts, scaled or not.

    Examples
    --------
    >>> import numpy as np
    >>> from skpert import InteractionRidge
    >>> labels = np.repeat(["control", "A", "B", "C", "A+B", "A+C"], 2)
    >>> X = np.repeat([[0.0, 0], [2, 0], [0, 2], [2, 2], [1, 1], [2, 1]], 2, axis=0)
    >>> InteractionRidge().fit(X, labels).predict_intervention(["B+C"]).round(1).tolist()
    [[1.0, 2.0]]
    """

    def __init__(
        self,
        *,
        gamma: float | str = "auto",
        alpha: float | str = "auto",
        control="control",
        sep: str | None = "+",
        perturbation: str = "perturbation",
        layer: str | None = None,
    ) -> None:
        super().__init__(control=control, sep=sep, perturbation=perturbation, layer=layer)
        self.gamma = gamma
        self.alpha = alpha

    def _learn(self, bulk, controls):
        for name in ("gamma", "alpha"):
            value = getattr(self, name)
            if value != "auto" and not (isinstance(value, Real) and 0 < value < inf):
                raise ValueError(f"{name}={value!r} must be a positive number or 'auto'")
        self.scale_, responses = scaled_sum(bulk, "learned")
        several = np.diff(bulk.dosage.indptr) > 1
        self._sums = bulk.dosage[several].astype(np.float64) @ responses
        rest = bulk.mean[several] - self.scale_ * self._sums
        self.gamma_, self.alpha_, self._sums, self._weights = smoothed(
            self._sums, rest, self.gamma, self.alpha
        )
        return np.zeros(self.n_features_in_), responses

    def _combined(self, names, dosage):
        effects = super()._combined(names, dosage)
        several = np.diff(dosage.indptr) > 1
        if several.any() and len(self._sums):
            sums = effects[several] / self.scale_
            effects[several] += rbf_kernel(sums, self._sums, self.gamma_) @ self._weights
        return effects


@_documented
class BilinearRidge(Baseline):
    """Predict effects of perturbations never seen from numbers that describe their targets.

    Effects Y, (n_genes, n_treatments), are means of treated cells less the mean of controls,
    modelled as ``c + G W E`` by ridge regression from both sides, with the embeddings of genes G
    and of targets E. Embeddings of the parts of a combination are added. The defaults learn each
    gene by itself, G = I, which is kernel ridge regression on the cosine similarity of targets.
    Expression is log-normalised, as by
    ``make_perturbation_pipeline(LogNormalize(), BilinearRidge())``.

    Parameters
    ----------
    features : None, str, DataFrame, dict or transformer, default=None
        Features of targets, as ``skpert.preprocessing.TargetFeatures`` takes them, such as
        ``GeneSetFeatures(gmt)``. None: with ``n_gene_components`` the target's row of G; else how
        the target varies in control cells if all targets are measured genes, or one-hot, with
        a warning, if not.
    n_gene_components : int or None, default=None
        Principal components of the mean expression of conditions that embed genes; None is
        G = I.
    alpha_genes : float, default=0.1
        Ridge penalty on the side of G, where it is not I.
    alpha_targets : float, default=0.1
        Ridge penalty on the side of the targets.
    normalize_features : bool, default=True
        Whether the features of each target are scaled to unit length, so that
        ``alpha_targets`` has the same meaning for all.
    center : {"perturbations", "conditions", "contrast"} or None, default="perturbations"
        What c is: the mean effect of training perturbations, the same with the control counted as
        an effect of zero, or zero. "contrast": the first, but no part of predictions.
    {data_parameters}

    Attributes
    ----------
    center_ : ndarray of shape (n_genes,)
        The centre c.
    target_features_ : TargetFeatures
        Fitted features of targets; ``has(names)`` says which can be predicted.
    gene_embedding_ : ndarray of shape (n_genes, n_gene_components)
        The embedding G, where there is one.
    {attributes}

    See Also
    --------
    PerturbedMean : What this is for targets without any feature.
    skpert.preprocessing.GeneSetFeatures : Features from the gene sets that a gene is in.

    Notes
    -----
    As published [1]_: ``BilinearRidge(n_gene_components=10, normalize_features=False,
    center="conditions")``. The control itself has no effect here; published code would predict
    c for it.

    ``GeneSetFeatures`` drops sets without a training target, so that unseen targets look more
    like those of training than they are. Fit it to all genes of the sets before, and give
    ``sklearn.frozen.FrozenEstimator(features)``, for a similarity that counts every set.

    References
    ----------
    .. [1] Ahlmann-Eltze, Huber and Anders. Deep-learning-based gene perturbation effect
       prediction does not yet outperform simple linear baselines. Nature Methods (2025).

    Examples
    --------
    >>> from skpert import BilinearRidge
    >>> X = [[1.0, 2.0], [1.0, 2.0], [3.0, 2.0], [3.0, 2.0], [1.0, 5.0], [1.0, 5.0]]
    >>> features = {"A": [1, 0], "B": [0, 1], "C": [1, 0.1]}  # C is much like A
    >>> model = BilinearRidge(features).fit(X, ["control", "control", "A", "A", "B", "B"])
    >>> model.predict_intervention("C").round(1).tolist()
    [[2.8, 2.3]]
    """

    def __init__(
        self,
        features=None,
        *,
        n_gene_components: int | None = None,
        alpha_genes: float = 0.1,
        alpha_targets: float = 0.1,
        normalize_features: bool = True,
        center: str | None = "perturbations",
        control="control",
        sep: str | None = "+",
        perturbation: str = "perturbation",
        layer: str | None = None,
    ) -> None:
        self.features = features
        self.n_gene_components = n_gene_components
        self.alpha_genes = alpha_genes
        self.alpha_targets = alpha_targets
        self.normalize_features = normalize_features
        self.center = center
        self.control = control
        self.sep = sep
        self.perturbation = perturbation
        self.layer = layer

    def _learn(self, bulk, controls):
        self._check_parameters()
        vars(self).pop("gene_embedding_", None)
        n_conditions = len(bulk.mean) + (self.center == "conditions" and controls.shape[0] > 0)
        self.center_ = (self.center is not None) * bulk.mean.sum(0) / n_conditions
        features, residual = self.features, bulk.mean - self.center_  # (n_treatments, n_genes)
        gene_names = getattr(self, "feature_names_in_", None)
        if self.n_gene_components is not None:
            means = bulk.mean + self.control_mean_
            if controls.shape[0]:
                means = np.vstack([means, self.control_mean_])
            G = self.gene_embedding_ = _components(means.T, self.n_gene_components)
            residual = (G @ (ridge_operator(G, self.alpha_genes) @ residual.T)).T
            features = self._own_features(gene_names) if features is None else features
        self.target_features_ = TargetFeatures(features, sparse_output=True)
        self.target_features_.fit(self.perturbations_, controls, gene_names)
        embedding = self._embedding(self.perturbations_)
        self._smoothed = residual
        self._solution = ridge_operator(bulk.dosage.astype(float) @ embedding, self.alpha_targets)
        added = (self.center != "contrast") * self.center_
        return added, embedding @ (self._solution @ self._smoothed)

    def _measured(self, bulk, centre):
        return measured_effects(bulk, self.center_)

    def _unseen(self, names):
        return self._embedding(names) @ (self._solution @ self._smoothed)

    def _embedding(self, names):
        """Features of targets, (n_names, n_features); one-hot ones are sparse."""
        values = self.target_features_.transform(names)
        if self.normalize_features and not issparse(values):
            norm = np.linalg.norm(values, axis=1, keepdims=True)
            values = values / np.where(norm > 0, norm, 1)
        return values

    def _own_features(self, gene_names):
        """Rows of the gene embedding as a table by name."""
        table = pd.DataFrame(self.gene_embedding_, index=gene_names)
        table = table[~table.index.duplicated(keep=False)]
        names = self.perturbations_
        outside = names[~np.isin(names, [] if gene_names is None else table.index.astype(str))]
        if len(outside):
            raise ValueError(
                f"Perturbations that are no measured genes, by name: {listed(outside, 10)}. With "
                "n_gene_components, targets are described by the embedding of their genes: give X "
                "with names of genes, or other `features`, or leave these cells out"
            )
        return table

    def _check_parameters(self):
        n, alphas = self.n_gene_components, (self.alpha_genes, self.alpha_targets)
        if n is not None and (not isinstance(n, Integral) or n < 1):
            raise ValueError(
                f"n_gene_components must be None or an integer of at least 1, got {n!r}"
            )
        if not all(isinstance(alpha, Real) and 0 <= alpha < np.inf for alpha in alphas):
            raise ValueError(f"alpha_genes and alpha_targets must be at least 0, got {alphas}")
        if self.center not in ("perturbations", "conditions", "contrast", None):
            raise ValueError(
                f"center={self.center!r} must be 'perturbations', 'conditions', 'contrast' or None"
            )


def _has_std(model):
    regressor = ExtraTreesRegressor() if model.regressor is None else model.regressor
    forest = isinstance(regressor, BaseForest)
    return forest or "return_std" in signature(regressor.predict).parameters


@_documented
class EffectRegression(Baseline):
    """Predict effects of perturbations never seen by any regressor of scikit-learn.

    Features of targets are its input, effects its outputs: means of treated cells less the mean
    of controls. Effects of the parts of a combination are added.
    The default, extremely randomised trees, finds the few gene sets that matter where ridge
    regression takes all to be alike, if several perturbations of a process were measured.
    Expression is log-normalised, as by
    ``make_perturbation_pipeline(LogNormalize(), EffectRegression(features))``.

    Parameters
    ----------
    features : None, str, DataFrame, dict or transformer, default=None
        Features of targets, as ``skpert.preprocessing.TargetFeatures`` takes them. A
        ``FeatureUnion`` puts several kinds side by side, which for ridge is a sum of kernels.
    regressor : regressor or None, default=None
        Of several outputs; a copy is fitted. None: ``ExtraTreesRegressor(200, max_features=0.3)``.
    random_state : int, RandomState instance or None, default=None
        Seeds the default regressor.
    {data_parameters}

    Attributes
    ----------
    target_features_ : TargetFeatures
        Fitted; ``has(names)`` says which can be predicted.
    regressor_ : regressor
        Fitted copy.
    used_features_ : ndarray of bool of shape (n_features,)
        Features in which at least two training perturbations differ from the rest.
    {attributes}

    See Also
    --------
    BilinearRidge : Ridge regression, from the side of genes, too.
    skpert.preprocessing.TargetGenes : Gene sets for compounds.

    Notes
    -----
    ``adapt`` adds measured effects and fits nothing. ``save`` refuses it: use joblib.

    Examples
    --------
    >>> from sklearn.linear_model import Ridge
    >>> from skpert import EffectRegression
    >>> X = [[1.0, 2.0], [1.0, 2.0], [3.0, 2.0], [3.0, 2.0], [1.0, 5.0], [1.0, 5.0]]
    >>> features = {"A": [1, 0], "B": [0, 1], "C": [0.5, 0.5]}
    >>> model = EffectRegression(features, Ridge(1e-6))
    >>> model = model.fit(X, ["control", "control", "A", "A", "B", "B"])
    >>> model.predict_intervention("C").round(1).tolist()
    [[2.0, 3.5]]
    """

    _parameter_constraints = Baseline._parameter_constraints | {"regressor": [None, FITTING]}

    def __init__(
        self,
        features=None,
        regressor=None,
        *,
        random_state: int | np.random.RandomState | None = None,
        control="control",
        sep: str | None = "+",
        perturbation: str = "perturbation",
        layer: str | None = None,
    ) -> None:
        super().__init__(control=control, sep=sep, perturbation=perturbation, layer=layer)
        self.features = features
        self.regressor = regressor
        self.random_state = random_state

    def _learn(self, bulk, controls):
        regressor = self.regressor
        if regressor is None:
            seed = check_random_state(self.random_state).randint(2**31 - 1)
            regressor = ExtraTreesRegressor(200, max_features=0.3, random_state=seed)
        features = TargetFeatures(self.features)
        gene_names = getattr(self, "feature_names_in_", None)
        self.target_features_ = features.fit(self.perturbations_, controls, gene_names)
        values = features.transform(self.perturbations_)
        used = (values != np.median(values, axis=0)).sum(0) > 1
        self.used_features_ = used | (not used.any())  # all, where none is shared
        values = values[:, self.used_features_]
        self.regressor_ = clone(regressor).fit(values, measured_effects(bulk, 0))
        return np.zeros(self.n_features_in_), self._unseen(self.perturbations_)

    @available_if(_has_std)
    def predict_std(self, A) -> np.ndarray:
        """Standard deviation of predicted effects, over members of an ensemble or of a posterior.

        Only with regressors that are forests, or whose ``predict`` takes ``return_std``. Members
        may agree and be wrong: ``skpert.model_selection.ConformalIntervals`` compares with errors.

        Parameters
        ----------
        A : str, array-like of shape (n_designs,) or (n_designs, n_perturbations), or DataFrame
            Designs; a bare string is one. Variances of the parts of a combination are added.

        Returns
        -------
        std : ndarray of shape (n_designs, n_genes)
            In the units of training; zero for the control.
        """
        check_is_fitted(self)
        names, dosage = self._read(A)
        used = np.unique(dosage.indices)
        values = self._described(names[used])
        if hasattr(self.regressor_, "estimators_"):
            std = np.std([tree.predict(values) for tree in self.regressor_.estimators_], axis=0)
        else:
            std = self.regressor_.predict(values, return_std=True)[1]
        std = np.broadcast_to(std.reshape(len(used), -1), (len(used), self.n_features_in_))
        return np.sqrt((dosage.astype(np.float64) ** 2)[:, used] @ std**2)

    def _measured(self, bulk, centre):
        return measured_effects(bulk, centre)

    def _described(self, names):
        return self.target_features_.transform(names)[:, self.used_features_]

    def _unseen(self, names):
        predicted = self.regressor_.predict(self._described(names))
        return np.reshape(predicted, (len(names), self.n_features_in_))


def _components(M, n_components):
    """Principal component scores of the rows of M, as many as there can be."""
    U, s, Vt = np.linalg.svd(M - M.mean(0), full_matrices=False)
    U, _ = svd_flip(U, Vt)
    n_components = min(n_components, max(len(M) - 1, 1), M.shape[1])
    return U[:, :n_components] * s[:n_components]
