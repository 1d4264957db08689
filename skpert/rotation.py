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

import numpy as np
from scipy.linalg import polar
from scipy.optimize import linear_sum_assignment
from sklearn.utils import check_array, check_random_state

N_ANGLES = 8  # of the search over the plane of two columns
N_LEVELS = 6  # of the penalty's scale, from coarse to fine
LARGEST_STEP = 0.5  # radians
MAX_JUMPS = 10  # from a valley to a lower one
TINY = np.finfo(float).tiny


def sparse_rotation(M, *, scale=None, n_starts=8, random_state=0):
    """Rotation that makes a matrix sparse.

    It minimises the sum of ``log(1 + (M @ R)**2 / scale**2)``. Every start descends while the
    penalty's scale shrinks from the size of the entries to ``scale``, so that it settles the
    coarse picture first; the best end is then searched for better axes in the plane of each two
    columns, at angles all round, and descends again.

    Parameters
    ----------
    M : array-like of shape (n_rows, n_latent)
        Any real matrix; for instance the shift of each perturbation along each latent.
    scale : float or array-like of shape (n_rows,), default=None
        Size, in the units of ``M``, below which an entry counts as noise; an array gives each
        row its own. By default a tenth of the usual length of a row, which is the root of the
        mean squared length, each row weighing by its squared length.
    n_starts : int, default=8
        Number of starts: the identity, then random rotations.
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
    >>> from skpert.rotation import sparse_rotation
    >>> turn = np.array([[0.8, -0.6], [0.6, 0.8]])
    >>> M = np.array([[5, 0], [0, 3], [-4, 0]]) @ turn
    >>> np.round(M @ sparse_rotation(M), 6) + 0.0
    array([[ 5.,  0.],
           [ 0.,  3.],
           [-4.,  0.]])
    """
    M = check_array(M, dtype=np.float64, input_name="M")
    n_latent = M.shape[1]
    scale = _default_scale(M) if scale is None else _check_scale(scale, len(M))
    if n_latent == 1 or not M.any():
        return np.eye(n_latent)
    M = M / scale  # from here on the penalty is log(1 + y^2)
    R = _anneal(M, _starts(n_latent, n_starts, check_random_state(random_state)))
    return _nearest_to_identity(polar(_jump(M, R))[0])


def _check_scale(scale, n_rows):
    """Scale as a column that divides the rows."""
    scale = np.asarray(scale, dtype=np.float64)
    if scale.shape not in ((), (n_rows,)):
        raise ValueError(f"scale is a number or one per row, ({n_rows},); got {scale.shape}.")
    if not (np.isfinite(scale) & (scale > 0)).all():
        raise ValueError(f"scale must be finite and above 0; got {scale}.")
    return scale.reshape(-1, 1)


def _default_scale(M):
    """Tenth of the usual length of a row that has one."""
    largest = np.abs(M).max()
    squares = ((M / (largest or 1)) ** 2).sum(1)  # so that no square overflows
    return 0.1 * largest * np.sqrt((squares**2).sum() / (squares.sum() or 1))


def _starts(n_latent, n_starts, random):
    """The identity, then random rotations, (n_starts, n_latent, n_latent)."""
    gaussian = random.normal(size=(n_starts - 1, n_latent, n_latent))
    return np.concatenate([np.eye(n_latent)[None], np.linalg.qr(gaussian)[0]])


def _objective(Y):
    """Sum of penalties of each matrix in a stack."""
    return np.log1p(Y * Y).sum((-2, -1))


def _anneal(M, R):
    """Best rotation after descents from all starts, while the scale shrinks to 1."""
    coarsest = 2 * np.sqrt(np.mean(M * M))
    if coarsest > 1:
        for level in np.geomspace(coarsest, 1, N_LEVELS + 1)[:-1]:
            R = _descend(M / level, R, max_iter=4)
    R = _descend(M, R)
    return R[_objective(M @ R).argmin()]


def _descend(M, R, max_iter=100, tol=1e-8):
    """Local minima from a stack of rotations, (n_starts, n_latent, n_latent).

    Newton's method over the angles of all planes of two columns, with the diagonal of the Hessian
    for the Hessian. A step that does not lead down is cut to a quarter.
    """
    R, identity = R.copy(), np.eye(M.shape[1])
    Y = M @ R
    loss, length = _objective(Y), np.ones(len(R))
    for _ in range(max_iter):
        angles, slope = _newton_angles(Y)
        going = np.flatnonzero(length * slope > tol * (1 + loss))
        if not len(going):
            break
        half = angles[going] * (length[going] / 2)[:, None, None]
        turned = R[going] @ np.linalg.solve(identity - half, identity + half)  # Cayley
        Y_turned = M @ turned
        loss_turned = _objective(Y_turned)
        lower = loss_turned < loss[going]
        length[going] = np.where(lower, np.minimum(1, 2 * length[going]), length[going] / 4)
        better = going[lower]
        R[better], Y[better], loss[better] = turned[lower], Y_turned[lower], loss_turned[lower]
    return R


def _newton_angles(Y):
    """Step in the angle of each plane (skew-symmetric), and how steeply it leads down."""
    weight = 1 / (1 + Y * Y)
    first = Y * weight  # half the penalty's derivatives
    second = weight * (1 - 2 * Y * first)
    product = Y.swapaxes(1, 2) @ first
    gradient = product - product.swapaxes(1, 2)
    curvature = (Y * Y).swapaxes(1, 2) @ second
    diagonal = product.diagonal(axis1=1, axis2=2)
    pull = diagonal[:, :, None] + diagonal[:, None, :]
    curvature = curvature + curvature.swapaxes(1, 2) - pull
    angles = -gradient / np.maximum(np.abs(curvature), 0.1 * pull + TINY)
    angles = np.clip(angles, -LARGEST_STEP, LARGEST_STEP)
    return angles, -(angles * gradient).sum((1, 2))


def _jump(M, R):
    """Rotation after searches of all planes for lower valleys, each followed by a descent."""
    for _ in range(MAX_JUMPS):
        found = _descend(M, _search_planes(M, R)[None])[0]
        if _objective(M @ found) > (1 - 1e-6) * _objective(M @ R):
            break
        R = found
    return R


def _search_planes(M, R):
    """Rotation after one turn of each plane of two columns to the best of ``N_ANGLES`` angles.

    Turned by an angle t, a row's two entries a and b have (1 + y_a^2) (1 + y_b^2) equal to a
    constant minus a multiple of cos(4t) and of sin(4t), whence the quarter circle is all there is.
    """
    n_rows, turns = len(M), 2 * np.pi * np.arange(N_ANGLES) / N_ANGLES
    columns = np.concatenate([M @ R, R]).T  # (n_latent, n_rows + n_latent)
    for i, j in _disjoint_pairs(len(R)):
        a, b = columns[i, :n_rows, None], columns[j, :n_rows, None]
        difference, cross = (a * a - b * b) / 2, a * b
        constant = (1 + (a * a + b * b) / 2) ** 2 - (difference**2 + cross**2) / 2
        cosine = (difference**2 - cross**2) / (2 * constant)
        sine = difference * cross / constant
        loss = np.log1p(-cosine * np.cos(turns) - sine * np.sin(turns)).sum(1)  # (pairs, angles)
        angle = ((turns[loss.argmin(1)] + np.pi) % (2 * np.pi) - np.pi)[:, None] / 4
        c, s = np.cos(angle), np.sin(angle)
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
