"""The strong perturbations of the genome-wide screen of Replogle et al. 2022."""

import numpy as np
from sklearn.model_selection import train_test_split
from sklearn.utils import Bunch, check_random_state

from ._download import RemoteFile, get_data_home
from ._fetch import column, fetch_part, read_part
from ._replogle_lists import GENES, PATHWAYS, PERTURBATIONS

# The address with `ndownloader`: `plus.figshare.com` answers programs with an empty page. The MD5
# is the one that figshare states, as others have copied it. The file of the paper is in a public
# bucket; whether that can be read over https without an account was not tried, and its checksum
# is not known. (`aws s3 cp --no-sign-request s3://insitro-research-2023-sams-vae/data/replogle.h5ad`)
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

_CONTROL = "non-targeting"
_N_CONTROLS = 2000


def fetch_replogle_filtered(
    *, source="paper", data_home=None, download_if_missing=True, url=None, checksum=None
):
    """Genome-wide screen of K562 cells, filtered as in the sVAE+ and SAMS-VAE papers.

    Of the genome-wide CRISPR interference screen of Replogle et al. 2022 [1]_ this is the part
    that shows structure: cells whose target is one of the 681 with strong responses that cluster
    (table S3 of [1]_; sVAE+ [2]_ chose so), 2,000 of the 75,328 cells with non-targeting guides
    (SAMS-VAE [3]_ added these), and the 1,187 genes that respond. 118,641 cells, 722 pairs of
    guides. Needs anndata (``pip install 'skpert[data]'``).

    The part that is used is kept in ``replogle_filtered_SOURCE.h5ad``, which later calls read
    whatever ``url`` says; the file that it was taken from can then be deleted.

    Parameters
    ----------
    source : {"paper", "raw"}, default="paper"
        "paper" is the filtered file of [3]_ (0.6 GB), with the published split cell by cell.
        "raw" is the depositors' file of all 1,989,578 cells (65.8 GB), which is filtered here;
        the cells are then in the order of that file, so that the split has the published sizes,
        but not surely the same cells.
    data_home : str, path-like or None, default=None
        Folder of the files, see :func:`get_data_home`.
    download_if_missing : bool, default=True
        If False, a file that is not there is an error.
    url : str or None, default=None
        Address of a mirror of the file, ``https://``, ``http://`` or ``file://``; None means the
        publishers'.
    checksum : str or None, default=None
        "md5:..." or "sha256:..." of the file. None: that of the raw file is known, and that of
        the paper's is written beside it at the first download and must be met from then on.

    Returns
    -------
    screen : Bunch
        X : csr_matrix of shape (n_cells, n_genes), float32
            Counts.
        A : ndarray of shape (n_cells,), object
            Pair of guides, ``obs["sgID_AB"]``, with the strand "+" written "plus", since "+" joins
            combinations; "control" for non-targeting guides. The target is what comes before
            the first "_".
        obs : DataFrame of shape (n_cells, n_columns)
            All that the file says of the cells; ``obs["gene"]`` is the target.
        feature_names : ndarray of shape (n_genes,), object
            Gene symbols; HSPA14 occurs twice.
        split : ndarray of shape (n_cells,), object
            "train" (64 %), "val" (16 %) or "test" (20 %), at random.
        pathways : dict of str to list of str
            Targets in each of eight annotated clusters.
        DESCR : str
            What this is.

    Raises
    ------
    ValueError
        If a parameter is none of the above, or the file is not as expected.
    FileUnavailableError
        If the file cannot be had or is not the one that was meant; this is a ValueError and an
        OSError.

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
    data = fetch_part(
        REPLOGLE[source],
        get_data_home(data_home),
        f"replogle_filtered_{source}.h5ad",
        _read_filtered if source == "paper" else _filter,
        url=url,
        checksum=checksum,
        download_if_missing=download_if_missing,
    )
    A = np.array([_label(pair) for pair in column(data.obs, "sgID_AB")], dtype=object)
    return Bunch(
        X=data.X,
        A=A,
        obs=data.obs,
        feature_names=data.var.get("gene_name", data.var_names).to_numpy(dtype=object),
        split=_split(data.n_obs),
        pathways={name: list(genes) for name, genes in PATHWAYS.items()},
        DESCR=(
            f"Replogle et al. 2022, genes repressed in K562 cells: {data.n_obs} cells, "
            f"{(A == 'control').sum()} of them with non-targeting guides, {data.n_vars} genes, "
            f"{len(set(A) - {'control'})} pairs of guides."
        ),
    )


def _read_filtered(path):
    return read_part(
        path,
        cells=lambda obs: np.arange(len(obs)),
        genes=lambda var: np.ones(len(var), dtype=bool),
    )


def _filter(path):
    return read_part(
        path,
        cells=lambda obs: _kept(column(obs, "gene")),
        genes=lambda var: column(var, "gene_name").isin(GENES),
    )


def _kept(targets):
    """Positions of cells with a clustered target, and of 2,000 controls, in increasing order."""
    controls = np.flatnonzero(targets == _CONTROL)
    check_random_state(0).shuffle(controls)
    strong = np.flatnonzero(targets.isin(PERTURBATIONS))
    return np.sort(np.concatenate([strong, controls[:_N_CONTROLS]]))


def _label(pair):
    return "control" if _CONTROL in pair else pair.replace("+", "plus")


def _split(n_cells):
    """80 % and 20 % test, the former again 80 % train and 20 % validation."""
    split = np.full(n_cells, "train", dtype=object)
    rest, test = train_test_split(np.arange(n_cells), train_size=0.8, random_state=0)
    split[test] = "test"
    split[train_test_split(rest, train_size=0.8, random_state=0)[1]] = "val"
    return split
