"""Intervals for perturbations that were never seen, from errors on held-out perturbations."""

import warnings
from math import ceil, floor
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, MetaEstimatorMixin, clone
from sklearn.pipeline import Pipeline
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_is_fitted

from .._input.transaction import restored_on_failure
from .._input.values import check_number
from ..exceptions import DataWarning
from ..parameters import REAL_VALUED
from ._rounds import Screen, split_cells
from ._truth import label_means

DIFFICULTIES = ("size", "std", None)
READ = {"control": "control", "sep": "+", "perturbation": "perturbation", "layer": None}


class Fold(NamedTuple):
    """An estimator that did not see some perturbations, and how far off it was there."""

    estimator: object
    scale: np.ndarray  # (n_genes,) spread of genes over training perturbations
    names: np.ndarray  # (n_held_out,)
    residuals: np.ndarray  # (n_held_out, n_genes) measured less predicted
    difficulty: np.ndarray  # (n_held_out,)


def _has(method):
    return available_if(lambda wrapper: hasattr(wrapper.estimator, method))


class ConformalIntervals(MetaEstimatorMixin, BaseEstimator):
    r"""Intervals, and a reliability, for what an estimator predicts of unseen perturbations.

    Training perturbations are held out fold by fold, and the errors on them say how wide the
    intervals of new ones must be (CV+ [1]_): for each gene the interval ends at the
    :math:`\lceil (1 - \alpha)(n + 1) \rceil`-th smallest of the :math:`n` values

    .. math:: \hat x_{-k(p)} + \sigma_{-k(p)} \, |x_p - \hat x_{-k(p), p}| / \sigma_{-k(p), p}

    with the predictions for the new perturbation by the estimator of the fold :math:`k(p)` in
    which :math:`p` was held out, :math:`1 - \alpha` the level and :math:`\sigma` the difficulty.
    Perturbations are what is drawn, not cells: intervals are for the measured mean of one more
    perturbation that is like those of training, measured with about as many cells.

    Parameters
    ----------
    estimator : estimator
        With ``predict_intervention`` of perturbations that it was not trained on, such as
        ``SCCVAE``, ``BilinearRidge``, ``EffectRegression`` or ``PerturbedMean``; copies are
        fitted. Of log-normalised expression: ``LogNormalize`` goes before it in a
        ``make_perturbation_pipeline``, and a model of counts is refused.
    level : float, default=0.9
        Share of new perturbations whose measured mean is to be within, in (0, 1).
    simultaneous : bool, default=False
        Whether the level is that of all genes at once, for most questions far too wide. False:
        of each gene by itself, so that a tenth of a perturbation's genes are expected to be
        outside at level 0.9.
    difficulty : {"size", "std"} or None, default="size"
        What widths are proportional to, and reliability is of: "size", the root mean square over
        genes of the predicted effect, plus its median over held-out perturbations, as effects
        that are large are missed by more; "std", that of the estimator's own ``predict_std``, as
        ``EffectRegression`` has it for trees; None, nothing: all intervals of a gene are alike.
    cv : int, splitter, iterable of (train, test) or None, default=None
        Folds over perturbations; None is 10, or as many as there are perturbations. A single
        pair of train and test cells, ``[(train, test)]``, is split conformal prediction.
    n_jobs : int or None, default=None
        Number of processes over folds; None is 1.
    random_state : int, RandomState instance or None, default=None
        Seeds the default folds, and estimators without ``random_state``.

    Attributes
    ----------
    estimator_ : estimator
        Fitted to all cells; it makes the predictions.
    folds_ : list of Fold
        The estimator of each fold, ``names`` of what was held out and its ``residuals``.
    perturbations_ : ndarray of shape (n_perturbations,)
        Names of the perturbations of training.
    n_features_in_ : int
        Number of genes.

    See Also
    --------
    evaluate_perturbations : Reports coverage and reliability of estimators with intervals.
    error_by_share_answered : Error of the surest predictions.

    Notes
    -----
    Coverage is marginal over perturbations: 90 % of all, not 90 % of those that are called
    reliable. It assumes that the new perturbation is exchangeable with those of training, as if
    the screen had been a random draw from a list that holds both; with targets of another
    kind nothing is guaranteed. For a single pair of train and test cells it is at least the
    level. For folds at least :math:`1 - 2\alpha` is proven, and about :math:`1 - \alpha` is
    what is found, a little more with few perturbations.

    At least :math:`\lceil 1/\alpha \rceil - 1` perturbations must be held out, nine at level 0.9:
    of fewer no quantile is large enough.

    References
    ----------
    .. [1] Barber, Candes, Ramdas and Tibshirani, Predictive inference with the jackknife+,
       Annals of Statistics 49 (2021) 486.

    Examples
    --------
    >>> from skpert import BilinearRidge
    >>> from skpert.datasets import make_causal_shift
    >>> from skpert.model_selection import ConformalIntervals
    >>> screen = make_causal_shift(16, n_cells_per_perturbation=40, n_control_cells=80,
    ...                            n_latent=4, n_genes=50, random_state=0)
    >>> X, A = screen.X[screen.train], screen.A[screen.train]
    >>> model = ConformalIntervals(BilinearRidge(screen.features), random_state=0).fit(X, A)
    >>> lower, upper = model.predict_interval(["P14", "P15"])
    >>> lower.shape, bool((lower < upper).all())
    ((2, 50), True)
    >>> model.reliability(["P14", "P15"]).shape
    (2,)
    """

    def __init__(
        self,
        estimator,
        *,
        level: float = 0.9,
        simultaneous: bool = False,
        difficulty: str | None = "size",
        cv=None,
        n_jobs: int | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.estimator = estimator
        self.level = level
        self.simultaneous = simultaneous
        self.difficulty = difficulty
        self.cv = cv
        self.n_jobs = n_jobs
        self.random_state = random_state

    def fit(self, X, y):
        """Fit the estimator, and once more without each fold of perturbations.

        Parameters
        ----------
        X : {array-like, sparse matrix, DataFrame, AnnData} of shape (n_cells, n_genes)
            Log-normalised expression.
        y : array-like of shape (n_cells,) or (n_cells, n_perturbations), or DataFrame
            The design A, as the estimator takes it. Pass it by position.

        Returns
        -------
        self : ConformalIntervals
            The fitted estimator.

        Raises
        ------
        ValueError
            If too few perturbations can be held out for the level, one is held out twice, the
            estimator predicts counts or cannot predict what it was not trained on, or a
            parameter is none of those listed.
        """
        with restored_on_failure(self):
            self._check_parameters()
            names = self.estimator.get_params(deep=False)
            names = {key: names.get(key, value) for key, value in READ.items()}
            screen = Screen(X, y, space="lognorm", **names)
            tested = set(screen.labels) - {screen.control}
            if len(tested) < 2:
                raise ValueError(
                    "intervals need at least 2 perturbations, as one is held out while others are "
                    f"trained on; A has {len(tested)}"
                )
            self._check_enough(len(tested))
            cv = min(10, len(tested)) if self.cv is None else self.cv
            random = check_random_state(self.random_state)
            splits = split_cells(cv, screen, random.randint(2**31 - 1))
            seed = random.randint(2**31 - 1)
            estimator = _seeded(self.estimator, seed)
            self.estimator_ = clone(estimator).fit(X, y)
            self.folds_ = Parallel(n_jobs=self.n_jobs)(
                delayed(_fold)(estimator, screen, *split, self.difficulty) for split in splits
            )
            held_out = np.concatenate([fold.names for fold in self.folds_])
            if len(set(held_out)) < len(held_out):
                raise ValueError(
                    "cv holds a perturbation out twice: give folds that do not overlap"
                )
            self._check_enough(len(held_out))
            self.perturbations_ = self.estimator_.perturbations_
            self.n_features_in_ = self.estimator_.n_features_in_
            if hasattr(self.estimator_, "feature_names_in_"):
                self.feature_names_in_ = self.estimator_.feature_names_in_
            return self

    def predict_intervention(self, A, X=None, *, library_size=None) -> np.ndarray:
        """Expected expression under interventions, of the estimator fitted to all cells.

        Parameters
        ----------
        A : object
            As the estimator takes it.
        X : object
            As the estimator takes it.
        library_size : object
            As the estimator takes it.

        Returns
        -------
        expression : ndarray of shape (n_designs, n_genes)
            As the estimator gives it.
        """
        check_is_fitted(self)
        return self.estimator_.predict_intervention(A, X, library_size=library_size)

    @_has("sample_intervention")
    def sample_intervention(
        self, A, n_samples, *, X=None, library_size=None, random_state=None
    ) -> np.ndarray:
        """Cells drawn under interventions, by the estimator fitted to all cells.

        Parameters
        ----------
        A : object
            As the estimator takes it.
        n_samples : object
            As the estimator takes it.
        X : object
            As the estimator takes it.
        library_size : object
            As the estimator takes it.
        random_state : object
            As the estimator takes it.

        Returns
        -------
        expression : ndarray of shape (n_designs, n_samples, n_genes)
            As the estimator gives it.
        """
        check_is_fitted(self)
        options = {"library_size": library_size, "random_state": random_state}
        return self.estimator_.sample_intervention(A, n_samples, X=X, **options)

    @_has("score")
    def score(self, X, y) -> float:
        """Score of the estimator fitted to all cells, so that a search can choose its parameters.

        Parameters
        ----------
        X : {array-like, sparse matrix, DataFrame, AnnData} of shape (n_cells, n_genes)
            Log-normalised expression.
        y : array-like of shape (n_cells,) or (n_cells, n_perturbations), or DataFrame
            The design A.

        Returns
        -------
        score : float
            As the estimator gives it, higher is better. It does not depend on the intervals.
        """
        check_is_fitted(self)
        return self.estimator_.score(X, y)

    def predict_interval(self, A) -> np.ndarray:
        """Bounds of the mean expression that is measured under interventions.

        Parameters
        ----------
        A : str, array-like of shape (n_designs,) or (n_designs, n_perturbations), or DataFrame
            Designs that were not trained on; a bare string is one. Of a perturbation of
            training the mean is known better than this.

        Returns
        -------
        lower, upper : ndarray of shape (n_designs, n_genes)
            In the units of training. Bounds below zero are not cut.

        Raises
        ------
        ValueError
            If the estimator cannot predict a design.
        """
        check_is_fitted(self)
        known = np.concatenate([fold.difficulty for fold in self.folds_])
        size = float(np.median(known)) or 1.0  # added, so that no difficulty is zero
        scores = np.concatenate([self._scores(fold, size) for fold in self.folds_])
        found = [_predicted(fold.estimator, A, self.difficulty) for fold in self.folds_]
        counts = [len(fold.names) for fold in self.folds_]
        mean = np.array([mean for mean, _ in found])  # (n_folds, n_designs, n_genes)
        width = np.array([difficulty for _, difficulty in found]) + size
        n_below = floor(round((1 - self.level) * (len(known) + 1), 9))
        lower, upper = np.empty(mean.shape[1:]), np.empty(mean.shape[1:])
        for i in range(mean.shape[1]):  # values of all designs at once could be large
            center = np.repeat(mean[:, i], counts, axis=0)  # (n_held_out, n_genes)
            half = np.repeat(width[:, i], counts)[:, None] * scores
            lower[i] = np.partition(center - half, n_below - 1, axis=0)[n_below - 1]
            upper[i] = -np.partition(-center - half, n_below - 1, axis=0)[n_below - 1]
        return lower, upper

    def _scores(self, fold, size):
        """Absolute errors over the difficulty; with one score for all genes, in their units."""
        score = np.abs(fold.residuals)
        if self.simultaneous:
            score = (score / fold.scale).max(1, keepdims=True) * fold.scale
        return score / (fold.difficulty + size)[:, None]

    @available_if(lambda wrapper: wrapper.difficulty is not None)
    def reliability(self, A) -> np.ndarray:
        """How sure predictions are, among those of held-out perturbations; with a difficulty.

        Parameters
        ----------
        A : str, array-like of shape (n_designs,) or (n_designs, n_perturbations), or DataFrame
            Designs that were not trained on; a bare string is one.

        Returns
        -------
        reliability : ndarray of shape (n_designs,)
            In (0, 1], higher is surer: the share of held-out perturbations, the new one among
            them, that are at least as difficult. Answering those from 0.5 on answers the surest
            half. It ranks the expected size of errors, which is small where effects are small;
            it is no probability to be right.

        Raises
        ------
        ValueError
            If the estimator cannot predict a design.
        """
        check_is_fitted(self)
        if self.difficulty is None:
            raise ValueError(
                "with difficulty=None all predictions are alike: give 'size' or 'std'"
            )
        known = np.concatenate([fold.difficulty for fold in self.folds_])
        new = np.mean([_predicted(f.estimator, A, self.difficulty)[1] for f in self.folds_], 0)
        return (1 + (known >= new[:, None]).sum(1)) / (len(known) + 1)

    def _check_parameters(self):
        check_number(self.level, "level", 0, 1, "neither")
        if self.difficulty not in DIFFICULTIES:
            raise ValueError(f"difficulty={self.difficulty!r} must be one of {DIFFICULTIES}")
        if isinstance(self.estimator, Pipeline):
            raise ValueError(
                "the estimator is a pipeline, whose predictions have other units than X: put "
                "ConformalIntervals into its last step"
            )
        if not hasattr(self.estimator, "predict_intervention"):
            raise ValueError(f"estimator has no predict_intervention: {self.estimator!r}")
        if self.difficulty == "std" and not hasattr(self.estimator, "predict_std"):
            raise ValueError("difficulty='std' needs an estimator with predict_std: give 'size'")
        likelihood = self.estimator.get_params(deep=False).get("likelihood", "normal")
        if likelihood not in REAL_VALUED:
            raise ValueError(
                f"the estimator predicts counts (likelihood={likelihood!r}), whose means depend "
                "on library sizes: give one of log-normalised expression"
            )

    def _check_enough(self, n_held_out):
        needed = ceil(round(1 / (1 - self.level), 9)) - 1
        if n_held_out < needed:
            raise ValueError(
                f"{n_held_out} perturbations can be held out, and level={self.level:g} needs "
                f"{needed}: an interval of this level would be infinite. Lower the level"
            )


def _seeded(estimator, seed):
    model = clone(estimator)
    parameters = model.get_params(deep=False)
    if "random_state" in parameters and parameters["random_state"] is None:
        model.set_params(random_state=int(seed))
    return model


def _fold(estimator, screen, train, test, difficulty):
    """What an estimator fitted to the training cells misses of the others."""
    model = clone(estimator)
    if model.get_params(deep=False).get("layer") is not None:
        model.set_params(layer=None)  # it was read
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # the fit to all cells gave them
        model.fit(screen.like_given(screen.values[train]), screen.design(train))
    treated = test[screen.labels[test] != screen.control]
    means = label_means(screen.values[treated], screen.labels[treated])
    trained = train[screen.labels[train] != screen.control]
    seen = label_means(screen.values[trained], screen.labels[trained])
    known = np.intersect1d(means.index, seen.index)
    if len(known):
        raise ValueError(
            f"cv trains on and tests {len(known)} perturbations, such as {known[0]!r}: hold out "
            "all of their cells"
        )
    mean, difficult = _predicted(model, _queries(screen, treated, means.index), difficulty)
    scale = seen.to_numpy().std(0)
    scale = np.maximum(scale, 1e-3 * scale.max() or 1.0)  # of genes that are always zero
    return Fold(model, scale, means.index.to_numpy(), means.to_numpy() - mean, difficult)


def _queries(screen, cells, labels):
    """One design for each label, in the form that the screen has."""
    first = pd.Series(cells).groupby(screen.labels[cells]).first()[labels]
    rows = [screen.query(cell) for cell in first]
    if isinstance(rows[0], pd.DataFrame):
        table = pd.concat(rows, ignore_index=True)
        return table.fillna(0) if table.dtypes.map(pd.api.types.is_numeric_dtype).all() else table
    return np.concatenate(rows)


def _predicted(estimator, A, difficulty):
    """Expected expression, (n_designs, n_genes), and difficulty, (n_designs,)."""
    mean = np.asarray(estimator.predict_intervention(A), dtype=np.float64)
    if difficulty is None:
        return mean, np.zeros(len(mean))
    if difficulty == "std":
        effect = estimator.predict_std(A)
    else:
        effect = mean - _reference(estimator)
    return mean, np.sqrt(np.mean(np.square(effect), axis=1))


def _reference(estimator):
    """Expected expression of control cells."""
    if hasattr(estimator, "control_mean_"):
        return estimator.control_mean_
    none = np.zeros((1, len(estimator.perturbations_)))
    return np.asarray(estimator.predict_intervention(none))[0]


def error_by_share_answered(
    per_perturbation: pd.DataFrame, metric: str, *, shares=(0.1, 0.25, 0.5, 0.75, 1.0)
) -> pd.DataFrame:
    """Error of the surest predictions, where the others are left unanswered.

    Parameters
    ----------
    per_perturbation : DataFrame
        Of :func:`evaluate_perturbations`, with estimators that have a ``reliability``, such as
        :class:`ConformalIntervals`.
    metric : str
        Column of it.
    shares : sequence of float, default=(0.1, 0.25, 0.5, 0.75, 1.0)
        Shares of the perturbations to answer, in (0, 1], the surest first; at least one.

    Returns
    -------
    errors : DataFrame of shape (n_estimators, n_shares)
        Mean of the metric over perturbations that are answered, within each split by rank, so
        that reliabilities of different fits need not be on one scale, and averaged over splits
        with the number answered as weight.

    Raises
    ------
    ValueError
        If the table lacks a column or reliabilities, the metric is not of numbers, or shares are
        not a list of numbers in (0, 1], at least one.

    Examples
    --------
    >>> import pandas as pd
    >>> from skpert.model_selection import error_by_share_answered
    >>> table = pd.DataFrame({"estimator": "ridge", "split": 0, "perturbation": ["A", "B"],
    ...                       "reliability": [0.9, 0.2], "response_mse": [1.0, 3.0]})
    >>> error_by_share_answered(table, "response_mse", shares=[0.5, 1])
    share      0.5  1.0
    estimator
    ridge      1.0  2.0
    """
    columns = ("estimator", "split", metric, "reliability")
    missing = [name for name in columns if name not in per_perturbation]
    if missing:
        raise ValueError(
            f"the table has no {missing}: evaluate an estimator with a reliability, such as "
            "ConformalIntervals"
        )
    if not pd.api.types.is_numeric_dtype(per_perturbation[metric]):
        raise ValueError(f"metric={metric!r} must be a column of numbers, and holds others")
    if np.ndim(shares) != 1 or not len(shares):
        raise ValueError(f"shares must be a list of at least one number in (0, 1], got {shares!r}")
    shares = [float(share) for share in shares]
    if not all(0 < share <= 1 for share in shares):
        raise ValueError(f"shares must be in (0, 1], got {shares}")
    table = per_perturbation.dropna(subset=[metric, "reliability"])
    if table.empty:
        raise ValueError(
            f"no row of the table has both a reliability and {metric!r}: evaluate an estimator "
            "with a reliability, such as ConformalIntervals"
        )
    keys = [table["estimator"], table["split"]]
    place = table.groupby(["estimator", "split"])["reliability"].rank(
        ascending=False, method="first"
    )
    n = place.groupby(keys).transform("size")
    errors = {
        share: table[place <= np.maximum(np.round(share * n), 1)]
        .groupby("estimator", sort=False)[metric]
        .mean()
        for share in shares
    }
    return pd.DataFrame(errors).rename_axis(index="estimator", columns="share")
