"""Many estimators fitted on the same cells at once."""

from joblib import effective_n_jobs
from sklearn.base import clone
from sklearn.utils import check_consistent_length
from sklearn.utils.parallel import Parallel, delayed

from .._input.stored import is_path
from ..exceptions import recorded, warn_once


def fit_many(estimators, X, A, *, n_jobs: int | None = None) -> list:
    """Fit several estimators on the same cells, at the same time.

    For seeds of one setting, as ``udr_score`` wants them, and for the values of a grid::

        models = fit_many([SVAEPlus(random_state=seed) for seed in range(8)], X, A)
        models[udr_score(models, X).argmax()]

        grid = ParameterGrid({"n_latent": [5, 10, 15], "random_state": range(3)})
        fit_many([SVAEPlus(**values) for values in grid], X, A)

    Parameters
    ----------
    estimators : list of estimators
        Of any classes; they stay as they are.
    X : {array-like, sparse matrix, AnnData, path} of shape (n_cells, n_genes)
        Expression, as all of them take it. Of data on disk give the path: each process opens it.
    A : array-like of shape (n_cells,) or (n_cells, n_perturbations), or DataFrame
        Its design.
    n_jobs : int or None, default=None
        Number of processes; 1 fits here, one after another. None and -1 start one per core, or
        take all workers of a ``joblib.parallel_config`` such as Dask's, and never more than there
        are estimators.

    Returns
    -------
    fitted : list of estimators
        In the order given, each what ``clone(estimator).fit(X, A)`` is, bit for bit.

    Raises
    ------
    TypeError
        If ``estimators`` is no list, or holds what is no estimator.
    ValueError
        If it is empty, or X and A have different lengths.

    Notes
    -----
    On a CPU processes pay off, as ``benchmarks.scale fit_many`` measures: threads wait for the one
    random generator of torch, and stacking networks of several seeds saves little where a step is
    mostly arithmetic. The first call starts the processes, which takes a few seconds, more than
    some small fits; they wait some minutes for the next one. They share the arrays of X, mapped
    into memory, but each keeps the training cells in float32 while it fits. A warning is given
    once, not per fit.

    A process has its share of the cores as threads. That changes no bit as long as a minibatch has
    fewer than a million numbers, for which ``fit`` takes one thread anyway.

    On a GPU, where this was not measured, processes share the device, and each holds a context of
    some hundred MB; expect a gain smaller than their number while one small network leaves the GPU
    idle most of the time. Stacked networks would do better there. Choose ``n_jobs`` by the GPU's
    memory; fitted models come back on the CPU.

    Examples
    --------
    >>> from skpert import IVAE
    >>> from skpert.datasets import make_sparse_shift
    >>> from skpert.model_selection import fit_many, udr_score
    >>> screen = make_sparse_shift(5, n_cells_per_perturbation=40, n_control_cells=40, n_latent=3,
    ...                            n_genes=50, random_state=0)
    >>> seeds = [IVAE(n_latent=3, max_epochs=2, random_state=seed) for seed in range(3)]
    >>> models = fit_many(seeds, screen.X, screen.A, n_jobs=1)
    >>> udr_score(models, screen.X).shape
    (3,)
    """
    estimators = _checked(estimators)
    if not is_path(X):
        check_consistent_length(X, A)
    n_jobs = min(effective_n_jobs(-1 if n_jobs is None else n_jobs), len(estimators))
    results = Parallel(n_jobs=n_jobs)(
        delayed(recorded)(f"estimators[{i}], {estimator!r}", clone(estimator).fit, X, A)
        for i, estimator in enumerate(estimators)
    )
    fitted, caught = zip(*results, strict=True)
    warn_once(caught, [f"estimators[{i}]" for i in range(len(estimators))])
    return list(fitted)


def _checked(estimators):
    """A list of estimators whose parameters are valid, before any of them takes its time."""
    if hasattr(estimators, "fit") or isinstance(estimators, (str, dict)):
        raise TypeError(
            f"estimators must be a list of estimators, got {estimators!r}: put it into a list"
        )
    estimators = list(estimators)
    if not estimators:
        raise ValueError("there is nothing to fit: estimators is empty")
    for i, estimator in enumerate(estimators):
        if isinstance(estimator, type):
            raise TypeError(f"estimators[{i}] is the class {estimator.__name__}: give an instance")
        if not (hasattr(estimator, "fit") and hasattr(estimator, "get_params")):
            raise TypeError(
                f"estimators[{i}] is no estimator, which has fit and get_params: {estimator!r}"
            )
        if hasattr(estimator, "_parameter_constraints"):
            estimator._validate_params()
    return estimators
