r"""The rotation that makes a matrix sparse.

Where the latent state of a cell under perturbation :math:`p` is :math:`\mathcal N(\mu_p, I)`, any
rotation of the latent space gives the same model: the unit covariance looks the same from all
sides. What singles out one set of axes is that a perturbation moves few of them. So, given the
shifts of all perturbations in any such space, as rows of a matrix :math:`M`, the axes are those of

.. math:: \min_{R^\top R = I} \; \sum_{p, k} \log\bigl(1 + (M R)_{p k}^2 / s_p^2\bigr).

A rotation keeps the sum of squares, so only their division between the axes counts, and the
logarithm makes it cheapest to have those of a row on few. The scale :math:`s` parts effects, which
should be few whatever their size, from noise. Nothing here knows a model.
"""

import math
from numbers import Integral, Real

import numpy as np
from scipy.linalg import polar
from scipy.optimize import linear_sum_assignment
from sklearn.utils import check_random_state, check_scalar

from .._input.expression import read_matrix

ROUGH = 0.06  # scale of the first search, in usual lengths of a row
FINE = 2.5  # scale of the last, in medians of the entries' sizes
FINE_RANGE = 0.01, 0.2  # limits of the last, in usual lengths of a row
__all__ = ["axis_stability", "sparse_rotation"]

N_SEARCHED = 1000  # rows at most that searches from several starts look at
N_FEW_STARTS = 5  # where many searches tell of one
N_ANGLES = 8  # of the search over the plane of two columns
MAX_JUMPS = 20  # from a valley to a lower one
LARGEST_STEP = 0.5  # radians
SAME = 1e-4  # relative difference of two sums of penalties that count as equal
TINY, EPS = np.finfo(float).tiny, np.finfo(float).eps


def sparse_rotation(
    M,
    *,
    scale: float | None = None,
    standard_error=None,
    n_starts: int = 20,
    random_state: int | np.random.RandomState | None = 0,
) -> np.ndarray:
    """Rotation that makes a matrix sparse.

    It minimises the sum of ``log(1 + (M @ R)**2 / scale**2)``. Every start descends to a local
    minimum, then jumps to a lower one as long as rotations in the planes of two columns, by any
    angle, lead there. The best of them is followed while the scale goes from six percent of the
    usual length of a row (or ``scale``, if that is more) to what it should be.

    Parameters
    ----------
    M : array-like of shape (n_rows, n_latent)
        Any real matrix; for instance the shift of each perturbation along each latent.
    scale : float, default=None
        Size, in the units of ``M``, below which an entry counts as noise. By default 2.5 times
        the median of the entries' sizes as the first search leaves them, which in a sparse matrix
        is 1.7 times the standard deviation of the noise; within 1 and 20 percent of the usual
        length of a row (the root mean square, where each row weighs by its squared length).
    standard_error : array-like of shape (n_rows,), default=None
        Sampling error of the entries of each row, for instance one over the root of a
        perturbation's number of cells. Rows are then measured, and ``scale`` given, in units of
        it, so that a row known poorly has little say. By default all rows are equally good.
    n_starts : int, default=20
        Most starts to take: the identity, then random rotations. Meeting the lowest minimum a
        second time ends the search, most often after two.
    random_state : int, RandomState instance or None, default=0
        Draws the random starts.

    Returns
    -------
    R : ndarray of shape (n_latent, n_latent)
        Orthogonal matrix. Order and signs of its columns, which do not matter to sparsity, are
        those that bring it closest to the identity, so that it can be a reflection, and the
        columns of an ``M`` that is sparse already stay where they are.

    Examples
    --------
    >>> import numpy as np
    >>> from skpert.sparsity.rotation import sparse_rotation
    >>> rotation = np.array([[0.8, -0.6], [0.6, 0.8]])
    >>> M = np.array([[5, 0], [0, 3], [-4, 0]]) @ rotation
    >>> np.round(M @ sparse_rotation(M), 6) + 0.0
    array([[ 5.,  0.],
           [ 0.,  3.],
           [-4.,  0.]])
    """
    M = read_matrix(M, "M")
    check_scalar(n_starts, "n_starts", Integral, min_val=1)
    if scale is not None:
        check_scalar(scale, "scale", Real, min_val=0, include_boundaries="neither")
    if standard_error is not None:
        M = M / _check_standard_error(standard_error, len(M))
    length = _usual_length(M)
    if M.shape[1] == 1 or length == 0:
        return np.eye(M.shape[1])
    rough = max(ROUGH * length, scale or 0.0)
    R = _best_valley(_largest(M) / rough, n_starts, check_random_state(random_state))
    fine = scale or _fine_scale(M @ R, length)
    n_steps = 1 + int(abs(math.log(rough / fine)))
    for level in np.geomspace(rough, fine, n_steps + 1)[1:]:
        R = _descend(M / level, R)
    R, _ = _jump(M / fine, R)
    return _nearest_to_identity(polar(_descend(M / fine, R, tol=1e-13))[0])


def axis_stability(
    M,
    moved,
    *,
    standard_error=None,
    n_resamples: int = 20,
    random_state: int | np.random.RandomState | None = 0,
) -> np.ndarray:
    """How far each axis is still found without a fifth of the rows.

    Where few rows meet many axes, other rotations are as sparse as the best one, and which one
    that is hangs on single rows. An axis of which that holds says nothing.

    Parameters
    ----------
    M : array-like of shape (n_rows, n_latent)
        Shifts on the axes that were found; its sparsest rotation is about the identity.
    moved : array-like of bool of shape (n_rows, n_latent)
        Which rows move which axis. Where none of these is left, an axis cannot be found.
    standard_error : array-like of shape (n_rows,), default=None
        As in ``sparse_rotation``.
    n_resamples : int, default=20
        Number of searches, each without another fifth of the rows.
    random_state : int, RandomState instance or None, default=0
        Draws the rows, and the starts of the searches.

    Returns
    -------
    stability : ndarray of shape (n_latent,)
        Mean cosine of the angle between the axis and the nearest one of each search in which a
        row that moves it took part, in [0, 1]; 1 where there was none. Axes that no row moves do
        not count: with them no effect is confused.

    Examples
    --------
    >>> import numpy as np
    >>> from skpert.sparsity.rotation import axis_stability
    >>> M = np.kron(np.eye(3), [[4.0], [3.0], [-3.0], [-4.0]])
    >>> axis_stability(M, M != 0).round(2)
    array([1., 1., 1.])
    """
    M = read_matrix(M, "M")
    moved = np.asarray(moved, dtype=bool)
    if moved.shape != M.shape:
        raise ValueError(
            f"moved has shape {moved.shape} and M {M.shape}: each entry needs its own."
        )
    check_scalar(n_resamples, "n_resamples", Integral, min_val=1)
    if standard_error is not None:
        standard_error = _check_standard_error(standard_error, len(M))[:, 0]
    random = check_random_state(random_state)
    total, counts = np.zeros(M.shape[1]), np.zeros(M.shape[1])
    n_left = len(M) - max(len(M) // 5, 1)
    for _ in range(n_resamples if n_left > 1 else 0):
        rows = np.sort(random.permutation(len(M))[:n_left])
        errors = None if standard_error is None else standard_error[rows]
        settings = {"n_starts": N_FEW_STARTS, "random_state": random}
        R = sparse_rotation(M[rows], standard_error=errors, **settings)
        present = moved[rows].any(0)
        nearest = R[:, np.abs(R).argmax(1)]  # of each axis, the column next to it
        length = np.sqrt((nearest[moved.any(0)] ** 2).sum(0))
        total += np.where(present, np.abs(nearest.diagonal()) / np.maximum(length, TINY), 0)
        counts += present
    return np.where(counts > 0, total / np.maximum(counts, 1), 1.0)


def _check_standard_error(standard_error, n_rows):
    """Standard errors as a column that divides the rows."""
    standard_error = read_matrix(standard_error, "standard_error", ensure_2d=False)
    if standard_error.shape != (n_rows,):
        raise ValueError(
            f"standard_error has shape {standard_error.shape}; M has {n_rows} rows, so it "
            f"should have shape ({n_rows},)."
        )
    if standard_error.min() <= 0:
        raise ValueError(f"standard_error must be positive; got {standard_error.min():g}.")
    return standard_error[:, None]


def _usual_length(M):
    """Root mean square of the rows' lengths, each weighing by its square."""
    largest = np.abs(M).max()
    squares = ((M / (largest or 1.0)) ** 2).sum(1)  # no square overflows
    return largest * math.sqrt((squares**2).sum() / (squares.sum() or 1.0))


def _fine_scale(Y, length):
    """Scale just above the noise, by the median size of an entry."""
    lowest, highest = FINE_RANGE
    return np.clip(FINE * np.median(np.abs(Y)), lowest * length, highest * length)


def _largest(M):
    """Rows for searches from several starts, all or the longest."""
    if len(M) <= N_SEARCHED:
        return M
    length = np.square(M / np.abs(M).max()).sum(1)
    return M[np.sort(np.argsort(-length, kind="stable")[:N_SEARCHED])]


def _penalty(Y):
    return np.log1p(Y * Y).sum()


def _best_valley(M, n_starts, random):
    """Lowest local minimum from several starts; one that is found twice ends the search."""
    R, best, lowest = np.eye(M.shape[1]), None, np.inf
    for _ in range(n_starts):
        R, loss = _jump(M, _descend(M, R), lowest)
        if math.isclose(loss, lowest, rel_tol=SAME):
            break
        if loss < lowest:
            best, lowest = R, loss
        R = np.linalg.qr(random.normal(size=R.shape))[0]
    return best


def _jump(M, R, known=np.inf):
    """Rotation, and its loss, after searches of all planes for lower valleys.

    Each search is followed by a descent. A valley whose loss is ``known`` is not searched again.
    """
    loss = _penalty(M @ R)
    for _ in range(MAX_JUMPS):
        if math.isclose(loss, known, rel_tol=SAME):
            break
        found = _descend(M, _search_planes(M, R))
        loss_found = _penalty(M @ found)
        if loss_found >= (1 - SAME) * loss:
            break
        R, loss = found, loss_found
    return R, loss


def _descend(M, R, tol=1e-6, max_iter=200):
    """Local minimum next to a rotation.

    Newton's method over the angles of all planes of two columns, with the diagonal of the Hessian
    for the Hessian. A step that does not lead down is cut to a quarter.
    """
    identity, length = np.eye(len(R)), 1.0
    Y = M @ R
    loss = _penalty(Y)
    for _ in range(max_iter):
        angles, slope = _newton_angles(Y)
        while length * slope > tol * loss:
            half = angles * (length / 2)
            rotated = R @ np.linalg.solve(identity - half, identity + half)  # Cayley's rotation
            Y = M @ rotated
            loss_rotated = _penalty(Y)
            if loss_rotated < loss:
                break
            length /= 4
        else:
            break
        R, loss, length = rotated, loss_rotated, min(1.0, 2 * length)
    return R


def _newton_angles(Y):
    """Step in the angle of each plane (skew-symmetric), and how steeply it leads down."""
    weight = 1 / (1 + Y * Y)
    first = Y * weight  # half the penalty's derivatives
    second = weight * (1 - 2 * Y * first)
    product = Y.T @ first
    gradient = product - product.T
    pull = product.diagonal() + product.diagonal()[:, None]
    curvature = (Y * Y).T @ second
    curvature = np.abs(curvature + curvature.T - pull)  # on a hilltop, too, the step leads down
    angles = -gradient / np.maximum(curvature, 0.3 * pull + TINY)
    angles = np.clip(angles, -LARGEST_STEP, LARGEST_STEP)
    return angles, -(angles * gradient).sum()


def _search_planes(M, R):
    """Rotation after one rotation of each plane of two columns to the best of ``N_ANGLES`` angles.

    Rotated by an angle t, a row's two entries a and b have (1 + y_a^2) (1 + y_b^2) equal to a
    constant less multiples of cos(4t) and of sin(4t), whence an eighth of the circle to either
    side is all there is.
    """
    n_rows, angles = len(M), np.linspace(-np.pi / 4, np.pi / 4, N_ANGLES, endpoint=False)
    columns = np.concatenate([M @ R, R]).T  # (n_latent, n_rows + n_latent)
    for i, j in _disjoint_pairs(len(R)):
        a, b = columns[i, :n_rows], columns[j, :n_rows]
        difference, cross = (a * a - b * b) / 2, a * b
        constant = (1 + (a * a + b * b) / 2) ** 2 - (difference**2 + cross**2) / 2
        cosine = (cross**2 - difference**2) / (2 * constant)
        sine = -difference * cross / constant
        losses = np.empty((N_ANGLES, len(i)))
        for k, angle in enumerate(4 * angles):  # one at a time stays in the cache
            change = np.cos(angle) * cosine + np.sin(angle) * sine
            losses[k] = np.log1p(np.maximum(change, EPS - 1)).sum(1)
        best = angles[losses.argmin(0)][:, None]
        c, s = np.cos(best), np.sin(best)
        columns[i], columns[j] = c * columns[i] + s * columns[j], c * columns[j] - s * columns[i]
    return columns[:, n_rows:].T


def _disjoint_pairs(n_latent):
    """Rounds of a tournament, each two arrays of columns that meet; all pairs meet once."""
    order = np.arange(n_latent + n_latent % 2)
    for _ in range(len(order) - 1):
        i, j = order[: len(order) // 2], order[: len(order) // 2 - 1 : -1]
        met = np.maximum(i, j) < n_latent  # with an odd number of columns one pauses
        yield i[met], j[met]
        order[1:] = np.roll(order[1:], 1)


def _nearest_to_identity(R):
    """The same columns in the order and with the signs that bring them closest to the identity."""
    order = linear_sum_assignment(np.abs(R), maximize=True)[1]
    R = R[:, order]
    return R * np.where(R.diagonal() < 0, -1.0, 1.0)
