"""An embedding and groups of its cells, as the scores of integration read and compare them."""

from numbers import Integral

import numpy as np
from sklearn import config_context
from sklearn.metrics import silhouette_samples
from sklearn.neighbors import NearestNeighbors
from sklearn.utils import check_scalar

from .._input.expression import check_same_cells, read_matrix
from .._input.values import factors, filled

MEMORY = 64  # MiB of distances held at once; more is slower


def read_embedding(Z, *, labels=None, batch=None, input_name="Z"):
    """Validated embedding in float64 with mean 0 and largest coordinate 1, (n_cells, n_latent).

    Names of cells must be those of ``labels`` and ``batch``, where both have names.
    """
    check_same_cells(Z, labels, (input_name, "labels"))
    check_same_cells(Z, batch, (input_name, "batch"))
    Z = read_matrix(Z, input_name, least=2)
    if not np.ptp(Z, axis=0).any():
        raise ValueError(f"{input_name} is the same for all {len(Z)} cells: there is no distance")
    Z = Z - Z.mean(axis=0)  # distances of cells far from the origin would be rounded
    return Z / np.abs(Z).max()


def read_groups(names, n_cells, input_name, *, least=1):
    """Number of the group of each cell, (n_cells,), in order of first appearance."""
    names = filled(names) if np.ma.isMaskedArray(names) else np.asarray(names, dtype=object)
    if names.shape != (n_cells,):
        raise ValueError(
            f"{input_name} must hold one name for each of the {n_cells} cells, and has shape "
            f"{names.shape}"
        )
    codes, groups = factors(names, f"{input_name} must hold text or numbers")
    if (codes < 0).any():
        cell = np.flatnonzero(codes < 0)[0]
        raise ValueError(f"{input_name} is missing for {(codes < 0).sum()} cells, first {cell}")
    if len(groups) < least:
        raise ValueError(
            f"{input_name} is {groups[0]!r} for all cells: the score compares two or more"
        )
    return codes


def read_labels(labels, n_cells):
    """Number of the label of each cell, of two labels or more, one of which has two cells."""
    codes = read_groups(labels, n_cells, "labels", least=2)
    if codes.max() + 1 == n_cells:
        raise ValueError(f"each of the {n_cells} cells has a label of its own: nothing to group")
    return codes


def silhouette_widths(Z, codes):
    """Silhouette of each cell, (n_cells,) in [-1, 1]; exact, in blocks of cells."""
    with config_context(working_memory=MEMORY):
        return silhouette_samples(Z, codes)


def neighbourhoods(Z, n_neighbors):
    """Numbers of each cell, first, and of those nearest to it, (n_cells, n_neighbors)."""
    others = NearestNeighbors(n_neighbors=n_neighbors - 1).fit(Z).kneighbors(return_distance=False)
    return np.column_stack([np.arange(len(Z)), others])


def check_n_neighbors(n_neighbors, n_cells):
    """Whether so many cells can be a neighbourhood."""
    check_scalar(n_neighbors, "n_neighbors", Integral, min_val=2)
    if n_neighbors > n_cells:
        raise ValueError(f"n_neighbors={n_neighbors}, and there are only {n_cells} cells")


def mean_by_group(values, codes):
    """Mean of values over the cells of each group, (n_groups,)."""
    return np.bincount(codes, weights=values) / np.bincount(codes)
