"""The strength of perturbations that were never seen, chosen from what is known of them."""

import numpy as np
import pandas as pd
from sklearn.utils import Bunch

from .._input.expression import read_matrix
from .._input.penetrances import check_grid, check_names
from .._input.values import listed


def select_penetrance(estimator, perturbations, reference=None, *, grid=None) -> Bunch:
    r"""Choose the penetrance of perturbations, seen or not, by their mean expression.

    .. math:: c_p = \operatorname{argmin}_c \;
              \tfrac{1}{n} \sum_g \bigl(\hat x_{pg}(c) - r_{pg}\bigr)^2

    :math:`\hat x_p(c)` is what the estimator expects under perturbation :math:`p` with penetrance
    :math:`c`, and :math:`r_p` the reference, over :math:`n` genes. Features say which modules an
    unseen perturbation moves, but less well how far; that one number must come from elsewhere.

    Parameters
    ----------
    estimator : SCCVAE
        Fitted; it stays as it is.
    perturbations : str or array-like of str of shape (n_perturbations,)
        Names of single perturbations, known or with features.
    reference : {array-like, DataFrame, estimator} or None, default=None
        Where the mean expression is taken from.

        * None: nothing is chosen. Known perturbations keep what was learned, and unseen ones
          what the estimator expects, the penetrance of those with similar features.
        * DataFrame with perturbations as index, others are ignored, and genes as columns, or
          array of shape (n_perturbations, n_genes) in the order of ``perturbations``: mean
          expression, such as bulk data, in the units of the estimator's predictions.
        * Fitted estimator with ``predict_intervention``, such as :class:`~skpert.BilinearRidge`,
          trained on the same cells.
    grid : array-like of shape (n_grid,) or None, default=None
        Penetrances that are tried, of any sign; a negative one reverses the effect. None: 41
        from the smallest to the largest that was learned, and 0.

    Returns
    -------
    selection : Bunch
        ``estimator``, a copy with the penetrances chosen; ``penetrance``, a Series of them by
        name; ``errors``, a DataFrame of shape (n_perturbations, n_grid) of mean squared errors,
        in squared units of expression, None where nothing was chosen; ``source``, a str that says
        where they are from: "features", "given means" or "predictions of BilinearRidge".

    Raises
    ------
    ValueError
        If a perturbation is repeated, a combination, the control or without features, the
        reference lacks one or has other genes, or reference or grid are empty or not finite.
    TypeError
        If the estimator has no penetrances.

    Warnings
    --------
    Means of test cells, given as the reference, are an oracle: one number of every perturbation is
    then fitted to what is to be predicted, and scores are not those of a prediction. The published
    tables for unseen perturbations are made so [1]_. Report ``source`` beside a score.

    References
    ----------
    .. [1] Liu, Zhang and Uhler, Learning genetic perturbation effects with variational causal
       inference, bioRxiv 2025.06.05.657988; the choice is that of its released code.

    Examples
    --------
    >>> from skpert import SCCVAE, BilinearRidge
    >>> from skpert.datasets import make_causal_shift
    >>> from skpert.model_selection import select_penetrance
    >>> screen = make_causal_shift(8, n_cells_per_perturbation=40, n_control_cells=80,
    ...                            n_latent=4, n_genes=50, random_state=0)
    >>> X, A = screen.X[screen.train], screen.A[screen.train]
    >>> model = SCCVAE(n_latent=4, features=screen.features, max_epochs=2, random_state=0)
    >>> model = model.fit(X, A)
    >>> ridge = BilinearRidge(screen.features).fit(X, A)
    >>> selection = select_penetrance(model, ["P6", "P7"], ridge)
    >>> selection.source, selection.errors.shape
    ('predictions of BilinearRidge', (2, 41))
    >>> selection.estimator.predict_intervention(["P6", "P7"]).shape
    (2, 50)
    """
    names = check_names(estimator, perturbations)
    chosen, errors, source = estimator.reach(names), None, "features"
    if reference is None:
        penetrance = pd.Series(chosen.penetrance_, chosen.perturbations_)[names]
    else:
        source, means = _reference(estimator, names, reference)
        grid = check_grid(estimator, grid)
        errors = _errors(chosen, names, means, grid)
        penetrance = pd.Series(grid[errors.to_numpy().argmin(1)], names)
        chosen = chosen.with_penetrance(penetrance)
    penetrance = penetrance.rename_axis("perturbation").rename("penetrance")
    return Bunch(estimator=chosen, penetrance=penetrance, errors=errors, source=source)


def _errors(estimator, names, means, grid):
    """Mean squared error of each perturbation at each penetrance."""
    errors = np.empty((len(names), len(grid)))
    for column, c in enumerate(grid):
        predicted = estimator.with_penetrance(dict.fromkeys(names, c)).predict_intervention(names)
        errors[:, column] = np.mean((predicted - means) ** 2, axis=1, dtype=np.float64)
    return pd.DataFrame(
        errors,
        index=pd.Index(names, name="perturbation"),
        columns=pd.Index(grid, name="penetrance"),
    )


def _reference(estimator, names, reference):
    """Where the means are from, and the means, (n_perturbations, n_genes)."""
    source = "given means"
    if hasattr(reference, "predict_intervention"):
        source = f"predictions of {type(reference).__name__}"
        reference = reference.predict_intervention(names)
    elif isinstance(reference, pd.DataFrame):
        reference = _rows(estimator, names, reference)
    means = read_matrix(reference, "reference")
    expected = len(names), estimator.n_features_in_
    if means.shape != expected:
        raise ValueError(
            f"reference has shape {means.shape}, but {expected[0]} perturbations of {expected[1]} "
            "genes are asked for: give a row for each, with the genes of fit"
        )
    return source, means


def _rows(estimator, names, frame):
    """Rows of these names, with the genes in the order of ``fit`` where these have names."""
    if not frame.index.is_unique:
        repeated = frame.index[frame.index.duplicated()].unique()
        raise ValueError(f"reference has several rows of one name: {listed(repeated, 5)}")
    missing = [name for name in names if name not in frame.index]
    if missing:
        raise ValueError(
            f"reference has no rows for {listed(missing, 5)}: its index must name perturbations"
        )
    genes = getattr(estimator, "feature_names_in_", frame.columns)
    missing = [gene for gene in genes if gene not in frame.columns]
    if missing:
        raise ValueError(f"reference has no columns for the genes {listed(missing, 5)}")
    return frame.loc[names, list(genes)]
