"""The CRISPR interference screens of Replogle et al. 2022: genome-wide, and of essential genes."""

from functools import partial
from importlib.resources import files
from itertools import chain
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split
from sklearn.utils import Bunch, check_random_state

from .._input.values import check_integer
from ._download import RemoteFile, column, fetch_part, read_part

# Addresses with `ndownloader`: `plus.figshare.com` answers programs with an empty page. The MD5s
# are those of figshare's article 20029387 as others have written them down; of RPE1's some say
# that figshare does not state it, and those who name one agree. The file of the paper is in a
# public bucket; whether that can be read over https without an account was not tried, and its
# checksum is not known.
# (`aws s3 cp --no-sign-request s3://insitro-research-2023-sams-vae/data/replogle.h5ad`)
REPLOGLE = {
    "paper": RemoteFile(
        "replogle.h5ad",
        "https://insitro-research-2023-sams-vae.s3.amazonaws.com/data/replogle.h5ad",
    ),
    "raw": RemoteFile(
        "K562_gwps_raw_singlecell_01.h5ad",
        "https://ndownloader.figshare.com/files/35775507",
        "md5:887e3e6a8c8df6eadf7a3030a53c9546",
    ),
}
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
_N_CONTROLS = 2000


class ClusteredGenes(NamedTuple):
    """Table S3 of the paper, in the symbols of ``K562_gwps_raw_singlecell_01.h5ad``."""

    pathways: dict  # targets in each of the eight annotated clusters
    perturbations: list  # the 681 targets with strong responses that cluster, those included
    genes: list  # the 1,186 that respond


def clustered_genes():
    """Perturbations of K562 cells with strong, similar responses, and the genes that respond."""
    lines = (
        files(__package__).joinpath("replogle_2022_table_s3.gmt").read_text("utf-8").splitlines()
    )
    sets = {name: genes for name, _, *genes in (line.split("\t") for line in lines)}
    others, genes = sets.pop("OTHER_PERTURBATIONS"), sets.pop("RESPONDING_GENES")
    return ClusteredGenes(sets, [*chain(*sets.values()), *others], genes)


def fetch_replogle_filtered(
    *, source: str = "paper", data_home=None, download_if_missing=True, url=None, checksum=None
) -> Bunch:
    """Genome-wide screen of K562 cells, filtered as in the sVAE+ and SAMS-VAE papers.

    Of the genome-wide CRISPR interference screen of Replogle et al. 2022 [1]_ this is the part
    that shows structure: cells whose target is one of the 681 with strong responses that cluster
    (table S3 of [1]_; sVAE+ [2]_ chose so), 2,000 of the 75,328 cells with non-targeting guides
    (SAMS-VAE [3]_ added these), and the 1,187 genes that respond. 118,641 cells, 722 pairs of
    guides. The part that is used is kept in ``replogle_filtered_SOURCE.h5ad``.

    Parameters
    ----------
    source : {"paper", "raw"}, default="paper"
        "paper" is the filtered file of [3]_ (0.6 GB), with the published split cell by cell.
        "raw" is the depositors' file of all 1,989,578 cells (65.8 GB), which is filtered here;
        the cells are then in the order of that file, so that the split has the published sizes,
        but not surely the same cells.
    data_home, download_if_missing, url, checksum : optional
        Where files are and come from, see :func:`get_data_home`. The "raw" file has a known
        checksum, that of the paper has none.

    Returns
    -------
    screen : Bunch
        ``X``, counts, ``obs``, where "gene" is the target, ``feature_names``, gene symbols of
        which HSPA14 occurs twice, and ``DESCR``; see :func:`get_data_home`.

        A : ndarray of shape (n_cells,), object
            Pair of guides, ``obs["sgID_AB"]``, with the strand "+" written "plus", since "+" joins
            combinations; "control" for non-targeting guides. The target is what comes before
            the first "_".
        split : ndarray of shape (n_cells,), object
            "train" (64 %), "val" (16 %) or "test" (20 %), at random.
        pathways : dict of str to list of str
            Targets in each of eight annotated clusters.

    Raises
    ------
    ValueError
        If a parameter is none of the above, or the file is not as expected or not available
        (:class:`~skpert.exceptions.FileUnavailableError`, which is an OSError as well).

    References
    ----------
    .. [1] Replogle et al., "Mapping information-rich genotype-phenotype landscapes with
       genome-scale Perturb-seq", Cell 185, 2559-2575 (2022). Data: CC BY 4.0.
    .. [2] Lopez et al., "Learning causal representations of single cells via sparse mechanism
       shift modeling", CLeaR 2023.
    .. [3] Bereket and Karaletsos, "Modelling cellular perturbations with the sparse additive
       mechanism shift variational autoencoder", NeurIPS 2023.

    Examples
    --------
    >>> from skpert.datasets import fetch_replogle_filtered
    >>> screen = fetch_replogle_filtered()  # doctest: +SKIP
    >>> train = screen.split == "train"  # doctest: +SKIP
    >>> model.fit(screen.X[train], screen.A[train])  # doctest: +SKIP
    """
    if source not in REPLOGLE:
        raise ValueError(f"source must be 'paper' or 'raw', got {source!r}")
    name, read = f"replogle_filtered_{source}.h5ad", read_part if source == "paper" else _filter
    where = data_home, download_if_missing, url, checksum
    data = fetch_part(REPLOGLE[source], name, read, *where)
    pairs = column(data.obs, "sgID_AB").astype(object)
    A = pairs.where(~pairs.str.contains(_CONTROL), "control").str.replace("+", "plus")
    A = A.to_numpy(dtype=object)
    return Bunch(
        X=data.X,
        A=A,
        obs=data.obs,
        feature_names=data.var.get("gene_name", data.var_names).to_numpy(dtype=object),
        split=_split(data.n_obs),
        pathways=clustered_genes().pathways,
        DESCR=(
            f"Replogle et al. 2022, genes repressed in K562 cells: {data.n_obs} cells, "
            f"{(A == 'control').sum()} of them with non-targeting guides, {data.n_vars} genes, "
            f"{len(set(A) - {'control'})} pairs of guides."
        ),
    )


def fetch_replogle_essential(
    cell_line: str = "K562",
    *,
    min_cells: int = 200,
    seed: int = 0,
    data_home=None,
    download_if_missing=True,
    url=None,
    checksum=None,
) -> Bunch:
    """Screens of essential genes, repressed in K562 or RPE1 cells, as in the SCCVAE paper.

    Counts of Replogle et al. 2022 [1]_: all cells with non-targeting guides, and those of every
    target that has at least ``min_cells`` cells. No gene is left out. The part that is used is
    kept in ``replogle_essential_CELL-LINE_MIN-CELLS.h5ad``.

    Parameters
    ----------
    cell_line : {"K562", "RPE1"}, default="K562"
        Leukaemia cells (file of 10.7 GB, 8,563 genes, 10,691 control cells), or immortalised
        cells of the retina's pigment epithelium (8.7 GB, 8,749 genes).
    min_cells : int, default=200
        Number of cells that a target needs to be kept, at least 3. Memory grows with the cells.
    seed : int, default=0
        Of the split into train, validation and test cells. The published one had none.
    data_home, download_if_missing, url, checksum : optional
        Where files are and come from, see :func:`get_data_home`; the public files are on
        figshare and have known checksums.

    Returns
    -------
    screen : Bunch
        ``X``, counts, ``obs``, where "perturbation" is A, ``feature_names``, gene symbols of which
        a few occur twice, and ``DESCR``; see :func:`get_data_home`.

        A : ndarray of shape (n_cells,), object
            Target of the cell, or "control" for non-targeting guides.
        split : ndarray of shape (n_cells,), object
            "train" (70 %), "val" (10 %) or "test" (20 %) of the cells of every target, at random;
            "train" for all control cells. What a target's cells get depends on the seed and on
            them alone, so that it stays when other targets are left out.

    Raises
    ------
    ValueError
        If a parameter is none of the above, or the file is not as expected or not available
        (:class:`~skpert.exceptions.FileUnavailableError`, which is an OSError as well).

    See Also
    --------
    fetch_replogle_filtered : The genome-wide screen of K562 cells.

    Notes
    -----
    The protocol of [2]_ continues as follows. Counts become the log of 1 + counts at the median
    library size, :class:`~skpert.preprocessing.LogNormalize` with ``target_sum=None``. Targets
    are kept if :func:`~skpert.preprocessing.detectable_perturbations` keeps them and they are in
    a list of 512 genes: 279 of them in K562 cells; that list comes with the paper's code, and is
    not applied here. For the task out of distribution the targets are assigned to five folds, each
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
    if cell_line not in ESSENTIAL:
        raise ValueError(f"cell_line must be 'K562' or 'RPE1', got {cell_line!r}")
    check_integer(min_cells, "min_cells", 3)
    check_integer(seed, "seed", 0)
    name = f"replogle_essential_{cell_line}_{min_cells}.h5ad"
    read = partial(read_part, cells=lambda obs: _with_enough(column(obs, "gene"), min_cells))
    where = data_home, download_if_missing, url, checksum
    data = fetch_part(ESSENTIAL[cell_line], name, read, *where)
    targets = column(data.obs, "gene").to_numpy(dtype=object)
    A = np.where(targets == _CONTROL, "control", targets)
    return Bunch(
        X=data.X,
        A=A,
        obs=data.obs.assign(perturbation=A),
        feature_names=data.var.get("gene_name", data.var_names).to_numpy(dtype=object),
        split=_split_by_target(A, seed),
        DESCR=(
            f"Replogle et al. 2022, essential genes repressed in {cell_line} cells: {data.n_obs} "
            f"cells, {(A == 'control').sum()} of them with non-targeting guides, {data.n_vars} "
            f"genes, {len(set(A) - {'control'})} targets with at least {min_cells} cells."
        ),
    )


def _filter(path):
    lists = clustered_genes()
    return read_part(
        path,
        cells=lambda obs: _kept(column(obs, "gene"), lists.perturbations),
        genes=lambda var: column(var, "gene_name").isin(lists.genes),
    )


def _kept(targets, clustered):
    """Positions of cells with a clustered target, and of 2,000 controls, in increasing order."""
    controls = np.flatnonzero(targets == _CONTROL)
    check_random_state(0).shuffle(controls)
    strong = np.flatnonzero(targets.isin(clustered))
    return np.sort(np.concatenate([strong, controls[:_N_CONTROLS]]))


def _split(n_cells):
    """80 % and 20 % test, the former again 80 % train and 20 % validation."""
    split = np.full(n_cells, "train", dtype=object)
    rest, test = train_test_split(np.arange(n_cells), train_size=0.8, random_state=0)
    split[test] = "test"
    split[train_test_split(rest, train_size=0.8, random_state=0)[1]] = "val"
    return split


def _with_enough(targets, min_cells):
    """Positions of controls, and of cells whose target has enough of them."""
    targets = targets.astype(str)
    n_cells = targets.map(targets.value_counts())
    return np.flatnonzero((n_cells >= min_cells) | (targets == _CONTROL))


def _split_by_target(A, seed):
    """Of each target's cells a fifth for test, and of the rest an eighth for validation."""
    split = np.full(len(A), "train", dtype=object)
    for name, cells in pd.Series(A).groupby(A).indices.items():
        if name != "control":
            rest, test = train_test_split(cells, test_size=1 / 5, random_state=seed)
            split[test] = "test"
            split[train_test_split(rest, test_size=1 / 8, random_state=seed)[1]] = "val"
    return split
