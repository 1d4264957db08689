"""Effects of perturbations on expression that a fitted model predicts."""

from functools import partial

import numpy as np
import pandas as pd
from scipy.sparse import issparse
from sklearn.utils import check_random_state

from .._input.design import perturbation_labels
from .._input.values import is_positive_integer
from ..exceptions import warn_of_data
from ..metrics.cells import log_relative_counts

CHUNK = 1000  # cells drawn at once, as many as a prediction averages over
RELEASED_LIBRARY_SIZE = 1e4  # of every cell that the authors' code draws


def average_treatment_effect(
    estimator,
    A,
    control=None,
    *,
    method: str = "perturbseq",
    n_samples: int = 2500,
    X=None,
    library_size: float | None = None,
    statistic=None,
    random_state: int | np.random.RandomState | None = 0,
) -> pd.DataFrame:
    """Average treatment effect (ATE): expression under each design minus that under control.

    Both arms of a comparison start from the same cells, unless ``method="released"``: they share
    basal states, library sizes and, as far as the model's noise allows it, noise. A design without
    effect then gets exactly zero. Compare with :func:`skpert.metrics.differential_expression` by
    :func:`skpert.metrics.ate_pearson`.

    Parameters
    ----------
    estimator : estimator
        Fitted, with ``predict_intervention`` and ``sample_intervention``.
    A : str, array-like of shape (n_designs,) or (n_designs, n_perturbations), or DataFrame
        Designs, not cells: a row each; a bare string is one.
    control : str or None, default=None
        Label of the design to compare with; None is the estimator's control. If A is a frame
        that names environments, each design is compared within its own.
    method : {"perturbseq", "mean", "released"}, default="perturbseq"
        "perturbseq": mean over drawn cells of ``log2(1 + 1e4 * x / x.sum())``, for counts [1]_.
        "mean": difference of expected expression, in the units of X, without noise of drawing
        cells. "released": as "perturbseq", but as in the authors' code: every arm has cells of its
        own, each with 10,000 counts.
    n_samples : int, default=2500
        Cells drawn per arm; "mean" draws none. The standard error of an effect is at most
        ``sqrt(2 / n_samples)``, 0.03 by default, of a gene's standard deviation between cells,
        and less where the two arms share more than they differ.
    X : {array-like, sparse matrix, AnnData} of shape (n_cells, n_genes), default=None
        Control cells to start from; None draws basal states from the model.
    library_size : float or None, default=None
        Total counts of every cell. None: those of training controls ("perturbseq"), the
        estimator's default ("mean") or 10,000 ("released").
    statistic : callable or None, default=None
        What to take the difference of, in place of means: gets all drawn cells of an arm, of
        shape (n_samples, n_genes) and not transformed, and returns a number or a vector. For
        posterior predictive checks, such as the share of zeros of each gene.
    random_state : int, RandomState instance or None, default=0
        Seeds the draws.

    Returns
    -------
    effect : DataFrame of shape (n_designs, n_genes)
        A row per design, by label. With ``statistic`` as many columns as it has values.

    Raises
    ------
    ValueError
        If a design is unknown, "perturbseq" meets negative expression, or ``statistic`` is to be
        taken of "mean" or has more than one dimension.

    Warns
    -----
    DataWarning
        If drawn cells have no counts; "perturbseq" and "released" leave them out.

    References
    ----------
    .. [1] Bereket and Karaletsos, Modelling cellular perturbations with the sparse additive
       mechanism shift variational autoencoder, NeurIPS 2023, section 5.

    Examples
    --------
    >>> from skpert import IVAE
    >>> from skpert.datasets import make_sparse_shift
    >>> from skpert.inspection import average_treatment_effect
    >>> screen = make_sparse_shift(4, n_cells_per_perturbation=50, n_control_cells=50,
    ...                            n_latent=3, n_genes=50, random_state=0)
    >>> model = IVAE(n_latent=3, max_epochs=20, random_state=0).fit(screen.X, screen.A)
    >>> effect = average_treatment_effect(model, ["P0", "control"], n_samples=500)
    >>> effect.shape, bool(effect.loc["control"].any())
    ((2, 50), False)
    """
    _check_arguments(method, n_samples, statistic)
    control = getattr(estimator, "control", "control") if control is None else control
    if method == "released" and library_size is None:
        library_size = RELEASED_LIBRARY_SIZE
    options = {"X": X, "library_size": library_size}
    names, designs = _names(estimator, A), _rows(A)
    if not designs:
        raise ValueError("A holds no design: give at least one, such as a perturbation's name")
    random = check_random_state(random_state)
    shared = _seeds(random, n_samples)
    n_counted = []
    summary = partial(_log_mean, n_counted) if statistic is None else partial(_value, statistic)

    def arm(design):
        if method == "mean":
            return np.mean(estimator.predict_intervention(design, **options), 0, dtype=np.float64)
        seeds = _seeds(random, n_samples) if method == "released" else shared
        return summary(_draws(estimator, design, seeds, n_samples, options))

    controls, effects = {}, []
    for design in designs:
        untreated, key = _untreated(design, control, getattr(estimator, "perturbation", None))
        if key not in controls:
            controls[key] = arm(untreated)
        effects.append(arm(design) - controls[key])
    _warn_of_empty_cells(n_counted, n_samples)
    genes = getattr(estimator, "feature_names_in_", None)
    n_values = len(effects[0])
    return pd.DataFrame(
        np.stack(effects),
        index=pd.Index(names, name="perturbation"),
        columns=genes if genes is not None and len(genes) == n_values else range(n_values),
    )


def _check_arguments(method, n_samples, statistic):
    if method not in ("perturbseq", "mean", "released"):
        raise ValueError(
            f"method must be 'perturbseq', 'mean' or 'released', got {method!r}; pass your own as "
            "statistic"
        )
    if not is_positive_integer(n_samples):
        raise ValueError(f"n_samples must be an integer of at least 1, got {n_samples!r}")
    if statistic is not None and method == "mean":
        raise ValueError(
            "method='mean' draws no cells to take a statistic of: choose 'perturbseq' for arms "
            "that start from the same cells, or 'released'"
        )


def _names(estimator, A):
    """Canonical label of each design, with the names that the estimator learned."""
    if hasattr(estimator, "design_"):
        return estimator.design_.labels(A)
    known = [name for name in ("control", "sep", "perturbation") if hasattr(estimator, name)]
    return perturbation_labels(A, **{name: getattr(estimator, name) for name in known})


def _rows(A):
    """Each design by itself, in the form of A."""
    if isinstance(A, pd.DataFrame):
        return [A.iloc[[i]] for i in range(len(A))]
    if issparse(A):
        A = A.tocsr()
        return [A[[i]] for i in range(A.shape[0])]
    return [[design] for design in ([A] if isinstance(A, str) else A)]


def _untreated(design, control, column):
    """Control arm of a design, and a key that equal ones share."""
    if column not in getattr(design, "columns", ()):
        return [control], None
    design = design.assign(**{column: control})
    return design, tuple(map(str, design.iloc[0]))


def _seeds(random, n_samples):
    """One seed per chunk of cells."""
    return [int(random.randint(2**31 - 1)) for _ in range(0, n_samples, CHUNK)]


def _draws(estimator, design, seeds, n_samples, options):
    """Cells of one arm, a chunk at a time."""
    for chunk, seed in enumerate(seeds):
        size = min(CHUNK, n_samples - chunk * CHUNK)
        yield estimator.sample_intervention(design, size, **options, random_state=seed)[0]


def _log_mean(n_counted, draws):
    """Mean of the log-transformed cells that have counts; their number is appended."""
    total, n_cells = 0.0, 0
    for cells in draws:
        Y, counted = log_relative_counts(cells)
        total, n_cells = total + Y.sum(0), n_cells + int(counted.sum())
    n_counted.append(n_cells)
    return total / n_cells if n_cells else np.full_like(total, np.nan)


def _value(statistic, draws):
    """The statistic of all cells, as a vector."""
    value = np.atleast_1d(np.asarray(statistic(np.concatenate(list(draws))), dtype=np.float64))
    if value.ndim > 1:
        raise ValueError(
            f"statistic must return a number or a vector, got an array of shape {value.shape}: "
            "ravel it"
        )
    return value


def _warn_of_empty_cells(n_counted, n_samples):
    n_drawn = n_samples * len(n_counted)
    n_empty = n_drawn - sum(n_counted)
    if n_empty:
        warn_of_data(
            f"{n_empty} of {n_drawn} drawn cells have no counts and are left out: a larger "
            "library_size would prevent it"
        )
