"""The screens of essential genes of Replogle et al. 2022, in K562 and in RPE1 cells."""

from numbers import Integral

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split
from sklearn.utils import Bunch

from ._download import RemoteFile, get_data_home
from ._fetch import column, fetch_part, read_part

# The address with `ndownloader`: `plus.figshare.com` answers programs with an empty page. The
# MD5s are those of figshare's article 20029387 as others have written them down; of RPE1's some
# say that figshare does not state it, and those who name one agree.
ESSENTIAL = {
    "K562": RemoteFile(
        "K562_essential_raw_singlecell_01.h5ad",
        "https://ndownloader.figshare.com/files/35773219",
        "md5:4f1122ce1c7f13299a68df6459a266d3",
    ),
    "RPE1": RemoteFile(
        "rpe1_raw_singlecell_01.h5ad",
        "https://ndownloader.figshare.com/files/35775606",
        "md5:6a2a9d0d2bf4ec147f4d1104043b268c",
    ),
}

_CONTROL = "non-targeting"


def fetch_replogle_essential(
    cell_line="K562",
    *,
    min_cells=200,
    seed=0,
    data_home=None,
    download_if_missing=True,
    url=None,
    checksum=None,
):
    """Screens of essential genes, repressed in K562 or RPE1 cells, as in the SCCVAE paper.

    Counts of Replogle et al. 2022 [1]_: all cells with non-targeting guides, and those of every
    target that has at least ``min_cells`` cells. No gene is left out. Needs anndata
    (``pip install 'skpert[data]'``).

    The part that is used is kept in ``replogle_essential_CELL-LINE_MIN-CELLS.h5ad``, which later
    calls read whatever ``url`` says; the file that it was taken from can then be deleted.

    Parameters
    ----------
    cell_line : {"K562", "RPE1"}, default="K562"
        Leukaemia cells (file of 10.7 GB, 8,563 genes, 10,691 control cells), or immortalised
        cells of the retina's pigment epithelium (8.7 GB, 8,749 genes).
    min_cells : int, default=200
        Number of cells that a target needs to be kept, at least 3. Memory grows with the cells.
    seed : int, default=0
        Of the split into train, validation and test cells. The published one had none.
    data_home : str, path-like or None, default=None
        Folder of the files, see :func:`get_data_home`.
    download_if_missing : bool, default=True
        If False, a file that is not there is an error.
    url : str or None, default=None
        Address of a mirror of the file, ``https://``, ``http://`` or ``file://``; None means
        figshare.
    checksum : str or None, default=None
        "md5:..." or "sha256:..." of the file; None means the public file's, which is known.

    Returns
    -------
    screen : Bunch
        X : csr_matrix of shape (n_cells, n_genes), float32
            Counts.
        A : ndarray of shape (n_cells,), object
            Target of the cell, or "control" for non-targeting guides.
        obs : DataFrame of shape (n_cells, n_columns)
            All that the file says of the cells, and ``obs["perturbation"]``, which is A.
        feature_names : ndarray of shape (n_genes,), object
            Gene symbols; a few occur twice.
        split : ndarray of shape (n_cells,), object
            "train" (70 %), "val" (10 %) or "test" (20 %) of the cells of every target, at random;
            "train" for all control cells. What a target's cells get depends on the seed and on
            them alone, so that it stays when other targets are left out.
        DESCR : str
            What this is.

    Raises
    ------
    ValueError
        If a parameter is none of the above, or the file is not as expected.
    FileUnavailableError
        If the file cannot be had or is not the one that was meant; this is a ValueError and an
        OSError.

    See Also
    --------
    fetch_replogle_filtered : The genome-wide screen of K562 cells.

    Notes
    -----
    The recipe of [2]_ goes on as follows. Counts become the log of 1 + counts at the median
    library size, :class:`~skpert.preprocessing.LogNormalize` with ``target_sum=None``. Targets
    stay that :func:`~skpert.preprocessing.detectable_perturbations` keeps, and that are in a
    list of 512 genes: 279 of them in K562 cells; that list comes with the paper's code, and is
    not applied here. For the task out of distribution the targets are dealt to five folds, each
    of which is tested once: ``LeavePerturbationsOut(5, random_state=0)``, and of the others'
    cells an eighth is for validation, ``validation_fraction=1/8``.

    References
    ----------
    .. [1] Replogle et al., "Mapping information-rich genotype-phenotype landscapes with
       genome-scale Perturb-seq", Cell 185, 2559-2575 (2022). Data: CC BY 4.0.
    .. [2] Liu, Zhang and Uhler, "Learning genetic perturbation effects with variational causal
       inference", bioRxiv 2025.06.05.657988.

    Examples
    --------
    >>> import numpy as np
    >>> from skpert.datasets import fetch_replogle_essential
    >>> from skpert.preprocessing import LogNormalize, detectable_perturbations
    >>> screen = fetch_replogle_essential("RPE1")  # doctest: +SKIP
    >>> X = LogNormalize(target_sum=None).fit_transform(screen.X)  # doctest: +SKIP
    >>> table = detectable_perturbations(X, screen.A, random_state=0)  # doctest: +SKIP
    >>> names = ["control", *table.index[table.kept]]  # doctest: +SKIP
    >>> train = np.isin(screen.A, names) & (screen.split == "train")  # doctest: +SKIP
    >>> model.fit(X[train], screen.A[train])  # doctest: +SKIP
    """
    _check(cell_line, min_cells, seed)
    data = fetch_part(
        ESSENTIAL[cell_line],
        get_data_home(data_home),
        f"replogle_essential_{cell_line}_{min_cells}.h5ad",
        lambda path: _read(path, min_cells),
        url=url,
        checksum=checksum,
        download_if_missing=download_if_missing,
    )
    targets = column(data.obs, "gene").to_numpy(dtype=object)
    A = np.where(targets == _CONTROL, "control", targets)
    return Bunch(
        X=data.X,
        A=A,
        obs=data.obs.assign(perturbation=A),
        feature_names=data.var.get("gene_name", data.var_names).to_numpy(dtype=object),
        split=_split(A, seed),
        DESCR=(
            f"Replogle et al. 2022, essential genes repressed in {cell_line} cells: {data.n_obs} "
            f"cells, {(A == 'control').sum()} of them with non-targeting guides, {data.n_vars} "
            f"genes, {len(set(A) - {'control'})} targets with at least {min_cells} cells."
        ),
    )


def _check(cell_line, min_cells, seed):
    if cell_line not in ESSENTIAL:
        raise ValueError(f"cell_line must be 'K562' or 'RPE1', got {cell_line!r}")
    for name, value, least in (("min_cells", min_cells, 3), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")


def _read(path, min_cells):
    return read_part(
        path,
        cells=lambda obs: _kept(column(obs, "gene").astype(str), min_cells),
        genes=lambda var: np.ones(len(var), dtype=bool),
    )


def _kept(targets, min_cells):
    """Positions of controls, and of cells whose target has enough of them."""
    n_cells = targets.map(targets.value_counts())
    return np.flatnonzero((n_cells >= min_cells) | (targets == _CONTROL))


def _split(A, seed):
    """Of each target's cells a fifth for test, and of the rest an eighth for validation."""
    split = np.full(len(A), "train", dtype=object)
    for name, cells in pd.Series(A).groupby(A).indices.items():
        if name != "control":
            rest, test = train_test_split(cells, test_size=1 / 5, random_state=seed)
            split[test] = "test"
            split[train_test_split(rest, test_size=1 / 8, random_state=seed)[1]] = "val"
    return split
