"""Titration of perturbations in silico."""

import numpy as np
import pandas as pd
from sklearn.utils import Bunch, check_random_state

from .._input.penetrances import check_grid, check_names
from ..metrics import energy_distance
from ._latents import on_log_scale


def titrate(
    estimator,
    perturbations,
    grid=None,
    *,
    X=None,
    measured=None,
    n_samples: int = 300,
    metric=energy_distance,
    random_state: int | np.random.RandomState | None = 0,
) -> Bunch:
    """Titrate perturbations in silico: what the model expects at one penetrance after another.

    With control cells, the distance of the cells that they would become to measured ones says
    which penetrance these look like: 0 for control cells, its own for the cells of the
    perturbation. It is the model's answer, and an extrapolation beyond the penetrances of the
    training. The figure is Figure 5 of Liu, Zhang and Uhler (SCCVAE, bioRxiv 2025.06.05.657988).

    Parameters
    ----------
    estimator : SCCVAE
        Fitted.
    perturbations : str or array-like of str of shape (n_perturbations,)
        Names of single perturbations, known or with features.
    grid : array-like of shape (n_grid,) or None, default=None
        Penetrances, of any sign. None: 41 from the smallest to the largest that was learned, and
        0.
    X : {array-like, sparse matrix, AnnData} of shape (n_cells, n_genes), default=None
        Control cells that are perturbed. None: there are no distances.
    measured : {array-like, sparse matrix, AnnData} of shape (n_measured, n_genes), default=None
        Cells to which distances are; None is ``X``.
    n_samples : int, default=300
        Cells drawn for each distance, by the same draws at every penetrance.
    metric : callable, default=energy_distance
        Distance of two populations, ``metric(cells, measured)``, of real values or log-normalised
        counts. It should be the same measure at all penetrances, such as
        :func:`skpert.metrics.maximum_mean_discrepancy` with ``bandwidths`` given.
    random_state : int, RandomState instance or None, default=0
        Seeds the draws.

    Returns
    -------
    titration : Bunch
        ``expression``, a DataFrame of expected expression with a row for each pair of
        ``perturbation`` and ``penetrance`` and a column for each gene; ``distance``, a DataFrame
        of shape (n_perturbations, n_grid), None without ``X``.

    Raises
    ------
    ValueError
        If a perturbation is repeated, a combination, the control or without features, the grid
        is empty or not finite, or there is something ``measured`` and no ``X``.
    TypeError
        If the estimator has no penetrances.

    Examples
    --------
    >>> from skpert import SCCVAE
    >>> from skpert.datasets import make_causal_shift
    >>> from skpert.inspection import titrate
    >>> screen = make_causal_shift(8, n_cells_per_perturbation=40, n_control_cells=80,
    ...                            n_latent=4, n_genes=50, random_state=0)
    >>> X, A = screen.X[screen.train], screen.A[screen.train]
    >>> model = SCCVAE(n_latent=4, features=screen.features, max_epochs=2, random_state=0)
    >>> titration = titrate(model.fit(X, A), "P7", [0, 1, 2], X=X[A == "control"])
    >>> titration.expression.loc["P7"].shape
    (3, 50)
    >>> bool(titration.distance.loc["P7"].is_monotonic_increasing)  # further from control
    True
    """
    names = check_names(estimator, perturbations)
    grid = check_grid(estimator, grid)
    if X is None and measured is not None:
        raise ValueError("measured cells are compared with perturbed control cells: give X, too")
    compare = None if X is None else _comparison(estimator, X, measured, metric)
    seed = check_random_state(random_state).randint(2**31 - 1)
    expression, distance = [], np.empty((len(names), len(grid)))
    for column, c in enumerate(grid):
        changed = estimator.with_penetrance(dict.fromkeys(names, c))
        expression.append(changed.predict_intervention(names))
        for row, name in enumerate(names if X is not None else ()):
            cells = changed.sample_intervention([name], n_samples, X=X, random_state=seed)[0]
            distance[row, column] = compare(cells)
    names, grid = pd.Index(names, name="perturbation"), pd.Index(grid, name="penetrance")
    return Bunch(
        expression=_expression(estimator, expression, names, grid),
        distance=None if X is None else pd.DataFrame(distance, names, grid),
    )


def _expression(estimator, expression, names, grid):
    """Rows by perturbation, then by penetrance."""
    values = np.stack(expression, axis=1)  # (n_perturbations, n_grid, n_genes)
    return pd.DataFrame(
        values.reshape(-1, values.shape[2]),
        index=pd.MultiIndex.from_product([names, grid]),
        columns=getattr(estimator, "feature_names_in_", None),
    )


def _comparison(estimator, X, measured, metric):
    """Distance of drawn cells to measured ones, counts on the log-normalised scale of these."""
    reference, normalise = on_log_scale(estimator, X if measured is None else measured)
    return lambda cells: metric(normalise(cells), reference)
