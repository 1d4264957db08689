"""Which guides a cell has, from their counts."""

import numpy as np
import pandas as pd
from scipy.sparse import csr_array, issparse
from sklearn.utils import Bunch

from .._input.expression import cell_names, read_matrix
from .._input.values import check_integer, check_number, listed


def assign_guides(
    counts, *, guides=None, targets=None, control=(), min_counts: int = 3, min_share: float = 0.1
) -> Bunch:
    """Design of cells with any number of guides, from the counts of guides.

    A cell has a guide with at least ``min_counts`` counts and at least ``min_share`` of all its
    guide counts, so that neither ambient guides nor chimeric reads count. A cell without a guide
    is no control cell: nothing is known of it, and ``assigned`` leaves it out.

    Parameters
    ----------
    counts : {array-like, sparse matrix, DataFrame} of shape (n_cells, n_guides)
        Counts of guides, such as ``adata.obsm["guide_counts"]``.
    guides : array-like of str of shape (n_guides,), default=None
        Names of the guides; None takes the columns of a DataFrame.
    targets : mapping or Series of str to str, default=None
        Gene of each guide, whose guides are then one perturbation; None: every guide is one.
    control : str or collection of str, default=()
        Guides, or with ``targets`` genes, that are no perturbation, such as non-targeting ones. A
        cell with these alone is a control cell.
    min_counts : int, default=3
        Fewest counts of a guide that a cell has.
    min_share : float, default=0.1
        Smallest share of a guide that a cell has in all its guide counts, in [0, 1]. With thirty
        guides in a cell each has a thirtieth: 0 leaves this to ``min_counts``.

    Returns
    -------
    assignment : Bunch
        ``design``, a DataFrame of sparse 0 and 1 of shape (n_cells, n_perturbations), the columns
        in sorted order, as ``fit`` of additive models takes it; ``assigned``, bool of shape
        (n_cells,), whether a cell has a guide at all, control ones included; ``n_guides``, int of
        shape (n_cells,), how many. Rows of cells that are not assigned are zero in ``design``,
        where they would pass for control cells: train on ``X[assigned], design[assigned]``.

    Raises
    ------
    ValueError
        If counts are negative or not finite, names are missing, repeated or not as many as
        columns, a guide has no target, a control is unknown, or no cell has a guide.

    Examples
    --------
    >>> from skpert.preprocessing import assign_guides
    >>> counts = [[9, 0, 1, 0], [0, 7, 0, 8], [0, 0, 0, 12], [1, 0, 0, 0]]
    >>> found = assign_guides(counts, guides=["JAK2-1", "JAK2-2", "IRF1-1", "NT-1"],
    ...                       targets={"JAK2-1": "JAK2", "JAK2-2": "JAK2", "IRF1-1": "IRF1",
    ...                                "NT-1": "control"}, control="control")
    >>> found.design.sparse.to_dense()
       IRF1  JAK2
    0     0     1
    1     0     1
    2     0     0
    3     0     0
    >>> found.assigned.tolist(), found.n_guides.tolist()
    ([True, True, True, False], [1, 2, 1, 0])
    """
    check_integer(min_counts, "min_counts", 1)
    check_number(min_share, "min_share", 0, 1, "both")
    names = _names(counts, guides)
    values = csr_array(counts) if issparse(counts) else csr_array(read_matrix(counts, "counts"))
    if values.shape[1] != len(names):
        raise ValueError(f"counts have {values.shape[1]} columns and guides are {len(names)}")
    if not np.isfinite(values.data).all():
        raise ValueError(
            "counts of guides have NaN or infinite values: give 0 where none is known"
        )
    if values.nnz and values.data.min() < 0:
        raise ValueError(f"counts of guides are negative: {values.data.min():g}")
    perturbations = _perturbations(names, targets)
    known, controls = set(perturbations), {control} if isinstance(control, str) else set(control)
    if controls - known:
        what = "guides" if targets is None else "targets"
        raise ValueError(
            f"no {what} are named {listed(sorted(controls - known), 5)}, as control is"
        )
    total = np.asarray(values.sum(axis=1)).ravel()
    rows, columns = values.nonzero()
    found = np.asarray(values[rows, columns]).ravel()
    has = (found >= min_counts) & (found >= min_share * total[rows])
    rows, columns = rows[has], columns[has]
    if not len(rows):
        raise ValueError(
            f"no cell has a guide with min_counts={min_counts}, min_share={min_share}"
        )
    n_guides = np.bincount(rows, minlength=values.shape[0])
    kept = sorted(known - controls)
    place = {name: i for i, name in enumerate(kept)}
    of_guide = np.array([place.get(name, -1) for name in perturbations])[columns]
    treated = of_guide >= 0
    shape = values.shape[0], len(kept)
    cells = csr_array((np.ones(treated.sum()), (rows[treated], of_guide[treated])), shape=shape)
    cells.data[:] = 1  # two guides of a gene are one perturbation
    design = pd.DataFrame.sparse.from_spmatrix(cells.astype(np.int8), columns=kept)
    index = cell_names(counts)
    design.index = design.index if index is None else index
    return Bunch(design=design, assigned=n_guides > 0, n_guides=n_guides)


def _names(counts, guides):
    if guides is None and not isinstance(counts, pd.DataFrame):
        raise ValueError("counts have no names of guides: give guides, or a DataFrame")
    names = [str(name) for name in (counts.columns if guides is None else guides)]
    repeated = pd.Index(names)[pd.Index(names).duplicated()].unique()
    if len(repeated):
        raise ValueError(f"names of guides are repeated: {listed(list(repeated), 5)}")
    return names


def _perturbations(names, targets):
    """Name of the perturbation of each guide."""
    if targets is None:
        return names
    targets = {str(guide): str(gene) for guide, gene in dict(targets).items()}
    missing = [name for name in names if name not in targets]
    if missing:
        raise ValueError(f"targets has no gene for {len(missing)} guides: {listed(missing, 5)}")
    return [targets[name] for name in names]
