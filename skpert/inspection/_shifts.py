"""How far perturbations move the latent state, and whether that is what cells show."""

import copy

import numpy as np
import pandas as pd
from sklearn.preprocessing import StandardScaler
from sklearn.utils import _safe_indexing, check_consistent_length, check_random_state
from sklearn.utils.validation import check_is_fitted

from .._input.cells import log_normalised, median_library_size
from ..base import REAL_VALUED
from ..metrics import maximum_mean_discrepancy
from ..preprocessing import check_cells


def latent_shifts(estimator, A):
    """Change of the mean latent state under each design, unseen perturbations included.

    For ``SCCVAE`` it is the change of u, behind the graph: ``penetrance * shift @ inv(I - B)``.
    For models with targets it is the sum of their rows, each times its dosage.

    Parameters
    ----------
    estimator : estimator
        Fitted, with ``posterior``.
    A : str, array-like of shape (n_designs,) or (n_designs, n_perturbations), or DataFrame
        Designs, not cells: a row each; a bare string is one.

    Returns
    -------
    shifts : DataFrame of shape (n_designs, n_latent)
        A row per design, by label, in units of the latent state.

    Raises
    ------
    ValueError
        If a design is unknown and cannot be predicted.

    Examples
    --------
    >>> from skpert import SCCVAE
    >>> from skpert.datasets import make_causal_shift
    >>> from skpert.inspection import latent_shifts
    >>> screen = make_causal_shift(8, n_cells_per_perturbation=40, n_control_cells=80,
    ...                            n_latent=4, n_genes=50, random_state=0)
    >>> model = SCCVAE(n_latent=4, features=screen.features, max_epochs=2, random_state=0)
    >>> model = model.fit(screen.X[screen.train], screen.A[screen.train])
    >>> latent_shifts(model, ["P0", "P7", "control"]).shape  # P7 was not seen
    (3, 4)
    """
    check_is_fitted(estimator)
    A = [A] if isinstance(A, str) else A
    labels = estimator.design_.labels(A)
    X = np.ones(
        (len(labels), estimator.n_features_in_)
    )  # what shifts a cell is not its expression
    if hasattr(estimator, "feature_names_in_"):
        X = pd.DataFrame(X, columns=estimator.feature_names_in_)
    reader = copy.copy(estimator)
    reader.layer = None  # of an AnnData, which X is not
    posterior = reader.posterior(X, A)
    return pd.DataFrame(
        posterior.z - posterior.z_basal,
        index=pd.Index(labels, name="perturbation"),
        columns=estimator.get_feature_names_out(),
    )


def latent_distances(estimator, X, A, *, max_cells=500, random_state=0):
    """Distance of each perturbation to control, in the latent space and in measured expression.

    A model that has understood how strong perturbations are moves those far whose cells are far
    from control. The rank correlation is ``latent_distances(...).corr("spearman")``. For
    perturbations of the training it is a check of the fit; for others it is a prediction.

    Parameters
    ----------
    estimator : estimator
        Fitted, with ``posterior``.
    X : {array-like, sparse matrix, AnnData} of shape (n_cells, n_genes)
        Measured cells, controls among them.
    A : array-like of shape (n_cells,) or (n_cells, n_perturbations), or DataFrame
        Their design. A combination is a perturbation of its own.
    max_cells : int, default=500
        Cells of a perturbation, and of controls, that are compared; drawn from more.
    random_state : int, RandomState instance or None, default=0
        Seeds the draws.

    Returns
    -------
    distances : DataFrame of shape (n_perturbations, 3)
        A row per perturbation of A: ``latent``, the length of its row of :func:`latent_shifts`;
        ``expression``, the unbiased squared MMD of its cells to controls (see
        :func:`skpert.metrics.maximum_mean_discrepancy`), about 0 without an effect and NaN for a
        single cell; ``n_cells``, how many were measured.

    Raises
    ------
    ValueError
        If there are not two control cells, a perturbation is unknown and cannot be predicted, or
        ``max_cells`` is below 2.

    Notes
    -----
    Counts are log-normalised to the median of their totals, real values taken as they are. All
    perturbations are compared with the same kernel: its bandwidths are ``b / 4 * 2 ** i`` for
    ``i`` from 0 to 4, with the mean squared distance ``b`` of two cells of X. In the paper each
    comparison has a kernel of its own, which makes large distances look smaller.

    References
    ----------
    .. [1] Liu, Zhang and Uhler, Learning genetic perturbation effects with variational causal
       inference, bioRxiv 2025.06.05.657988, Figure 4.

    Examples
    --------
    >>> from skpert import SCCVAE
    >>> from skpert.datasets import make_causal_shift
    >>> from skpert.inspection import latent_distances
    >>> screen = make_causal_shift(8, n_cells_per_perturbation=40, n_control_cells=80,
    ...                            n_latent=4, n_genes=50, random_state=0)
    >>> model = SCCVAE(n_latent=4, features=screen.features, max_epochs=2, random_state=0)
    >>> model = model.fit(screen.X[screen.train], screen.A[screen.train])
    >>> distances = latent_distances(model, screen.X, screen.A)
    >>> distances.columns.tolist(), len(distances)
    (['latent', 'expression', 'n_cells'], 8)
    """
    check_is_fitted(estimator)
    if max_cells < 2:
        raise ValueError(f"max_cells must be at least 2, got {max_cells!r}")
    values = _real_values(estimator, X, A)
    labels = pd.Series(estimator.design_.labels(A))
    check_consistent_length(values, labels)
    random = np.random.default_rng(check_random_state(random_state).randint(2**31 - 1))
    rows = {name: index.to_numpy() for name, index in labels.groupby(labels).groups.items()}
    controls = rows.pop(str(estimator.control), [])
    if len(controls) < 2 or not rows:
        raise ValueError(
            f"A has {len(controls)} cells of the control {estimator.control!r} and {len(rows)} "
            "perturbations: at least two cells and one perturbation are compared"
        )
    drawn = values[_some(controls, max_cells, random)]
    bandwidths = _bandwidths(values)
    designs = _safe_indexing(A, np.array([index[0] for index in rows.values()]))
    table = pd.DataFrame({"latent": np.linalg.norm(latent_shifts(estimator, designs), axis=1)})
    table["expression"] = [
        maximum_mean_discrepancy(
            values[_some(index, max_cells, random)], drawn, bandwidths=bandwidths
        )
        if len(index) > 1
        else np.nan
        for index in rows.values()
    ]
    table["n_cells"] = list(map(len, rows.values()))
    return table.set_index(pd.Index(list(rows), name="perturbation"))


def _real_values(estimator, X, A):
    """Expression that squared distances make sense of."""
    counts = getattr(estimator, "likelihood", "normal") not in REAL_VALUED
    values = check_cells(estimator, X, counts=counts, layer=estimator.layer, design=A)
    return log_normalised(values, median_library_size(values)) if counts else values


def _some(rows, max_cells, random):
    """All rows, or so many of them."""
    return rows if len(rows) <= max_cells else random.choice(rows, max_cells, replace=False)


def _bandwidths(values):
    """Widths b / 4 * 2^i; b, the mean squared distance of two cells, is twice their variance."""
    n_cells = values.shape[0]
    variance = StandardScaler(with_mean=False).fit(values).var_.sum() * n_cells / (n_cells - 1)
    return 2 * variance / 4 * 2.0 ** np.arange(5)
