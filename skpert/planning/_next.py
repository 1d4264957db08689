"""Which perturbations to measure next, by what their features say of each other."""

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist, pdist
from sklearn.utils import check_random_state

from .._input.values import as_list, check_finite, check_integer, listed, text

STRATEGIES = "k_centre", "determinant", "total", "variance", "random"


def next_perturbations(
    features,
    candidates=None,
    *,
    measured=(),
    n=10,
    strategy="k_centre",
    length_scale=None,
    noise=0.1,
    sep="+",
    random_state=None,
) -> pd.DataFrame:
    r"""Batch of perturbations to measure next, chosen by their features.

    By default each further perturbation is the candidate furthest from all that were measured or
    chosen before it (k-centre, greedy; Gonzalez 1985): no candidate is then further from them than
    twice the least distance that any batch of this size could reach.

    The other strategies take effects as a Gaussian process on features, with the covariance
    :math:`k(u, v) = \exp(-|u - v|^2 / 2 l^2)` and a variance ``noise`` of what features do not
    say. Its posterior covariance given what was measured does not depend on the effects, so that
    a batch can be chosen at once.

    Parameters
    ----------
    features : DataFrame of shape (n_known, n_features)
        What is known of each perturbation, index: names, such as a table of
        :class:`~skpert.preprocessing.TargetFeatures`, standardised if columns have units. A pair
        ``"A+B"`` without a row has the sum of its parts.
    candidates : list of str or None, default=None
        Perturbations or combinations that may be measured. None: all rows of ``features`` that
        were not measured.
    measured : list of str, default=()
        Perturbations that were.
    n : int, default=10
        Size of the batch.
    strategy : {"k_centre", "determinant", "total", "variance", "random"}, default="k_centre"
        "k_centre" takes, one after another, the candidate furthest from all measured and chosen
        ones; where there are none, first the one whose furthest candidate is nearest.
        "determinant" takes what adds most to the log-determinant of the posterior covariance of
        the batch, which is what is least known given all before it.
        "total" takes what lowers the summed posterior variance of all candidates most:
        perturbations that many others are like, not those that are like none.
        "variance" takes those with the largest posterior variance, however alike they are, and
        "random" any, to compare with.
    length_scale : float or None, default=None
        ``l``, in units of the features; None: the median distance of pairs of rows. The order
        of "k_centre" does not depend on it, nor on ``noise``.
    noise : float, default=0.1
        Variance of what features do not say, over that of effects, above 0.
    sep : str, default="+"
        What joins the parts of a combination.
    random_state : int, RandomState instance or None, default=None
        Seeds the random strategy.

    Returns
    -------
    batch : DataFrame of shape (n, 3)
        Index: names, in the order chosen. ``distance`` to the nearest one measured or chosen
        before, in units of the features, NaN of the first if nothing was measured; ``variance``
        in [0, 1], of the effect of each given what was measured; ``gain``, what it adds to the
        log-determinant given those before it, nats times two.

    Raises
    ------
    ValueError
        If there are fewer candidates than ``n``, one of them was measured or is there twice, a
        perturbation has no features, or features are not finite numbers.

    References
    ----------
    Gonzalez (1985). Clustering to minimize the maximum intercluster distance. Theoretical Computer
    Science 38, 293-306.

    Examples
    --------
    >>> import pandas as pd
    >>> from skpert.planning import next_perturbations
    >>> features = pd.DataFrame({"x": [0.0, 0.1, 1.0, 3.0, 3.1]}, index=list("ABCDE"))
    >>> next_perturbations(features, measured=["A"], n=2).index.tolist()  # not D and E, alike
    ['E', 'C']
    """
    check_integer(n, "n", 1)
    check_finite(noise, "noise", "neither")
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy must be one of {STRATEGIES}, got {strategy!r}")
    table = _table(features)
    measured = [text(name) for name in as_list(measured)]
    names = _candidates(table, candidates, measured, n)
    known, new = _rows(table, measured, sep), _rows(table, names, sep)
    if length_scale is None:
        length_scale = np.median(pdist(table.to_numpy())) if len(table) > 1 else 1.0
        length_scale = length_scale or 1.0
    check_finite(length_scale, "length_scale", "neither")
    covariance = _posterior(known, new, length_scale, noise)
    variance = covariance.diagonal().copy()
    if strategy == "k_centre":
        first = _centres(known, new, n)
    elif strategy == "random":
        first = check_random_state(random_state).permutation(len(names))[:n]
    elif strategy == "variance":
        first = np.argsort(-variance, kind="stable")[:n]
    else:
        first = None
    chosen, gain = _in_turn(covariance, noise, n, first, total=strategy == "total")
    index = pd.Index([names[i] for i in chosen], name="perturbation")
    distance = _distances(known, new[chosen])
    return pd.DataFrame({"distance": distance, "variance": variance[chosen], "gain": gain}, index)


def _table(features):
    """Finite features by name, float64."""
    if not isinstance(features, pd.DataFrame) or not features.size:
        raise ValueError("features must be a DataFrame, a row of numbers for each perturbation")
    try:
        table = features.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"features must be numbers, got others in it: {error}") from error
    table.index = [text(name) for name in table.index]
    repeated = table.index[table.index.duplicated()]
    if len(repeated):
        raise ValueError(f"features has several rows of {listed(list(repeated), 5)}")
    missing = table.index[~np.isfinite(table).all(axis=1)]
    if len(missing):
        raise ValueError(
            f"features are missing or infinite for {len(missing)} perturbations, "
            f"{listed(list(missing), 5)}: fill them, or leave these out"
        )
    return table


def _candidates(table, candidates, measured, n):
    done = set(measured)
    if candidates is None:
        names = [name for name in table.index if name not in done]
    else:
        names = [text(name) for name in as_list(candidates)]
    again = [name for name in names if name in done]
    if again:
        raise ValueError(f"candidates were measured already: {listed(again, 5)}")
    if len(set(names)) < len(names):
        raise ValueError("candidates holds a name more than once")
    if n > len(names):
        raise ValueError(f"n={n} perturbations are asked for, and there are {len(names)}")
    return names


def _rows(table, names, sep):
    """Features of each name, those of a combination the sum of its parts."""
    parts = {name: [name] if name in table.index or not sep else name.split(sep) for name in names}
    known = set(table.index)
    missing = [name for name, of in parts.items() if not known.issuperset(of)]
    if missing:
        raise ValueError(
            f"features has no row for {len(missing)} perturbations: {listed(missing, 5)}"
        )
    place, values = {name: i for i, name in enumerate(table.index)}, table.to_numpy()
    rows = [values[[place[part] for part in of]].sum(0) for of in parts.values()]
    return np.array(rows).reshape(len(names), table.shape[1])


def _posterior(known, new, length_scale, noise):
    """Covariance of effects of the new ones given those that were measured."""

    def kernel(u, v):
        return np.exp(-cdist(u, v, "sqeuclidean") / (2 * length_scale**2))

    covariance = kernel(new, new)
    if not len(known):
        return covariance
    factor = np.linalg.cholesky(kernel(known, known) + noise * np.eye(len(known)))
    explained = np.linalg.solve(factor, kernel(known, new))
    return covariance - explained.T @ explained


def _centres(known, new, n):
    """Candidates furthest from all that were measured or chosen, one after another."""
    if len(known):
        nearest = cdist(known, new).min(0)
    else:
        # Minus the distance to its furthest candidate: the largest is that of the single centre.
        nearest = -cdist(new, new).max(0)
    chosen = []
    for _ in range(n):
        chosen.append(int(nearest.argmax()))
        to_chosen = cdist(new[chosen[-1:]], new)[0]
        one = not len(known) and len(chosen) == 1
        nearest = to_chosen if one else np.minimum(nearest, to_chosen)
        nearest[chosen] = -np.inf  # may coincide with others, and is not taken twice
    return np.array(chosen)


def _distances(known, chosen):
    """Distance of each to the nearest measured or chosen before it, NaN where there is none."""
    found = np.full(len(chosen), np.nan)
    for i, row in enumerate(chosen):
        before = np.vstack([known, chosen[:i]])
        if len(before):
            found[i] = cdist(row[None], before).min()
    return found


def _in_turn(covariance, noise, n, given, *, total=False):
    """Perturbations one after another, and what each adds given those before it."""
    rest, chosen, gain = covariance.copy(), [], []
    open_ = np.ones(len(rest), dtype=bool)
    for step in range(n):
        score = rest.diagonal()
        if total:
            score = np.square(rest).sum(0) / (score + noise)
        left = np.where(open_, score, -np.inf)
        best = int(left.argmax()) if given is None else int(given[step])
        variance = max(rest[best, best], 0.0)
        gain.append(np.log1p(variance / noise))
        chosen.append(best)
        open_[best] = False
        column = rest[:, best].copy()
        rest -= np.outer(column, column) / (variance + noise)
    return np.array(chosen), np.array(gain)
