"""Least squares of sparse designs, at a cost that grows with their entries.

Columns that share no row with others are a problem of their own, in which a dense solution is
cheap: a screen of single perturbations falls apart into single numbers. What hangs together in
thousands of columns is solved by conjugate gradients.
"""

import numpy as np
from scipy.sparse import block_array, csr_array
from scipy.sparse.csgraph import connected_components

SINGULAR = 1e-10  # of the largest eigenvalue of a design; what is below is not identifiable
MOST_COLUMNS = 1000  # of a problem that is solved dense
MOST_ENTRIES = 2**22  # of its dense matrix
MOST_STEPS, RESIDUAL = 1000, 1e-10  # of conjugate gradients
N_PROBES = 200  # random vectors from which the diagonal of a large inverse is estimated


def components(design):
    """Rows and columns of each part of a design that shares neither with others.

    Columns without an entry are in none.

    Parameters
    ----------
    design : sparse array of shape (n_rows, n_columns)
        Entries that are stored count, zero or not.

    Yields
    ------
    rows, columns : ndarray of int
        Sorted.
    """
    n_rows = design.shape[0]
    part = connected_components(block_array([[None, design], [design.T, None]]), directed=False)[1]
    rows, columns = (_places(p, part.max() + 1) for p in (part[:n_rows], part[n_rows:]))
    for of_rows, of_columns in zip(rows, columns, strict=True):
        if len(of_rows) and len(of_columns):
            yield of_rows, of_columns


def _places(codes, n_codes):
    """Where each code stands."""
    ends = np.cumsum(np.bincount(codes, minlength=n_codes))
    return np.split(np.argsort(codes, kind="stable"), ends[:-1])


def least_squares(design, targets):
    """Solution of least squared error, the smallest of them.

    Parameters
    ----------
    design : sparse array of shape (n_rows, n_columns)
        What explains.
    targets : ndarray of shape (n_rows, n_targets)
        What is to be explained.

    Returns
    -------
    solution : ndarray of shape (n_columns, n_targets) and dtype float64
        Zero in columns without an entry.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse import csr_array
    >>> from skpert._least_squares import least_squares
    >>> design = csr_array([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
    >>> least_squares(design, np.array([[3.0], [4.0]])).ravel()
    array([3., 2., 2.])
    """
    design = csr_array(design, dtype=np.float64)
    size = design.multiply(design).sum(0)
    solution = (design.T @ targets) / np.where(size > 0, size, 1)[:, None]  # of columns alone
    for rows, columns in components(design):
        if len(columns) == 1:
            continue
        part, found = design[rows][:, columns], None
        if len(columns) > MOST_COLUMNS or part.shape[0] * part.shape[1] > MOST_ENTRIES:
            found = _conjugate_gradients(part.T @ part, part.T @ targets[rows])
        if found is None:
            found = np.linalg.lstsq(part.toarray(), targets[rows], rcond=None)[0]
        solution[columns] = found
    return solution


def ridge_operator(M, alpha):
    """``(M'M + alpha I)^-1 M'``, the least norm one for alpha = 0; sparse for a sparse M."""
    if isinstance(M, np.ndarray):
        return _dense_ridge_operator(M, alpha)
    entries, places = [], []
    for rows, columns in components(M):
        block = _dense_ridge_operator(M[rows][:, columns].toarray(), alpha)
        entries.append(block.ravel())
        places.append([axis.ravel() for axis in np.meshgrid(columns, rows, indexing="ij")])
    if not entries:
        return csr_array(M.shape[::-1])
    return csr_array((np.concatenate(entries), np.hstack(places)), shape=M.shape[::-1])


def _dense_ridge_operator(M, alpha):
    U, s, Vt = np.linalg.svd(M, full_matrices=False)
    kept = s > s.max(initial=0) * max(M.shape) * np.finfo(np.float64).eps
    gain = np.divide(s, s**2 + alpha, out=np.zeros_like(s), where=kept)
    return (Vt.T * gain) @ U.T


def with_intercept(design, product, *, intercept=True):
    """Solution of least squared error by a design with a last column of ones, and variances.

    Parameters
    ----------
    design : sparse array of shape (n_rows, n_columns + 1)
        The last column is the intercept.
    product : ndarray of shape (n_columns + 1, n_targets)
        The transposed design times what is to be explained.
    intercept : bool, default=True
        Whether it may differ from zero. It is zero, too, where columns add up to it.

    Returns
    -------
    solution : ndarray of shape (n_columns + 1, n_targets)
        Of columns that only come together, the smallest.
    share : ndarray of shape (n_columns,)
        Diagonal of the inverse: the variance of an effect, in that of a row. From a thousand
        columns that hang together it is estimated, with an error of some percent.
    """
    n, columns = design.shape[1] - 1, design[:, :-1]
    total = np.asarray(columns.sum(0)).ravel()
    found, share = _pseudo_inverse(columns.T @ columns, np.column_stack([product[:n], total]))
    effect, of_total = found[:, :-1], found[:, -1]
    rest = design.shape[0] - total @ of_total  # of the intercept, beyond what the columns say
    if not intercept or rest <= SINGULAR * design.shape[0]:
        return np.vstack([effect, np.zeros_like(product[n:])]), share
    level = (product[n] - total @ effect) / rest
    return np.vstack([effect - np.outer(of_total, level), level]), share + of_total**2 / rest


def _pseudo_inverse(gram, right):
    """Pseudo-inverse of a sparse symmetric matrix times ``right``, and its diagonal."""
    gram = csr_array(gram)
    diagonal = gram.diagonal()
    inverse = np.divide(1, diagonal, out=np.zeros(len(diagonal)), where=diagonal > 0)
    solution = inverse[:, None] * right  # of columns alone
    part = connected_components(gram, directed=False)[1]
    for columns in _places(part, part.max(initial=-1) + 1):
        if len(columns) == 1:
            continue
        block, found = gram[columns][:, columns], None
        if len(columns) > MOST_COLUMNS:
            found = _large_inverse(block, right[columns])
        if found is None:
            dense = _hermitian_inverse(block.toarray())
            found = dense @ right[columns], dense.diagonal()
        solution[columns], inverse[columns] = found
    return solution, inverse


def _hermitian_inverse(gram):
    values, vectors = np.linalg.eigh(gram)
    kept = values > SINGULAR * values[-1]
    return (vectors[:, kept] / values[kept]) @ vectors[:, kept].T


def _large_inverse(gram, right):
    """The same for one that is not singular, its diagonal by random signs; None if it is."""
    root = np.sqrt(gram.diagonal())[:, None]
    scaled = csr_array(gram / root / root.T)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (len(root), N_PROBES))
    found = _conjugate_gradients(scaled, np.hstack([right / root, signs]))
    if found is None:
        return None
    diagonal = (found[:, -N_PROBES:] * signs).mean(1)
    return found[:, :-N_PROBES] / root, np.maximum(diagonal, 1) / root[:, 0] ** 2


def _conjugate_gradients(gram, right):
    """Solutions for all columns of ``right``, the smallest; None if they are not found."""
    solution, rest = np.zeros_like(right), right
    direction, size = rest, (rest**2).sum(0)
    enough = RESIDUAL**2 * size
    for _ in range(MOST_STEPS):
        if (size <= enough).all():
            return solution
        image = gram @ direction
        curvature = (direction * image).sum(0)
        if (curvature <= np.finfo(float).eps * size)[size > enough].any():
            return None
        step = np.divide(size, curvature, out=np.zeros_like(size), where=size > enough)
        solution, rest = solution + step * direction, rest - step * image
        before, size = size, (rest**2).sum(0)
        direction = (
            rest + np.divide(size, before, out=np.zeros_like(size), where=before > 0) * direction
        )
    return None


def without_covariates(values, part, amount, covariate):
    """Residuals of least squares on covariates and an intercept, and the rank of these.

    The covariate of most columns, which may be thousands, is taken out as means of its groups.

    Parameters
    ----------
    values : ndarray of shape (n_rows, n_targets)
        What is to be explained.
    part, amount : ndarray of shape (n_rows, n_parts)
        Columns of the design in each row, and what they hold there.
    covariate : ndarray of shape (n_columns,)
        To which covariate a column belongs, an index.

    Returns
    -------
    residual : ndarray of shape (n_rows, n_targets)
        What no linear function of the covariates explains.
    rank : int
        Of the design.

    Examples
    --------
    >>> import numpy as np
    >>> from skpert._least_squares import without_covariates
    >>> values, category = np.array([[1.0], [3.0], [7.0]]), np.array([[0], [0], [1]])
    >>> residual, rank = without_covariates(values, category, np.ones((3, 1)), np.zeros(2, int))
    >>> residual.ravel(), rank
    (array([-1.,  1.,  0.]), 2)
    """
    n_rows, n_columns = len(values), len(covariate)
    if n_columns == 0:
        return values - values.mean(0), 1
    given = amount != 0
    own = given & (covariate[part] == np.bincount(covariate).argmax())
    own &= (own.sum(1) < 2).all()  # a number has two columns
    entries = (amount * own).sum(1), (np.arange(n_rows), (part * own).sum(1))
    groups = csr_array(entries, shape=(n_rows, n_columns))
    size = groups.multiply(groups).sum(0)

    def within(values):
        mean = (groups.T @ values) / np.where(size > 0, size, 1)[:, None]
        return values - groups @ mean

    columns, place = np.unique(part[given & ~own], return_inverse=True)
    others = np.zeros((n_rows, len(columns) + 1))
    others[:, -1] = 1
    np.add.at(others, ((given & ~own).nonzero()[0], place), amount[given & ~own])
    smallest = np.linalg.norm(others) * n_rows * np.finfo(np.float64).eps
    basis, length, _ = np.linalg.svd(within(others), full_matrices=False)
    basis, rest = basis[:, length > smallest], within(values)
    return rest - basis @ (basis.T @ rest), int((size > 0).sum()) + basis.shape[1]
