"""Lung cancer of the Human Tumor Atlas Network, as the inVAE paper shows it."""

from sklearn.utils import Bunch

from ._download import RemoteFile, get_data_home
from ._fetch import column, fetch_part, read_part

# "Combined samples" of CELLxGENE's collection 62e8f058-9c37-48bc-9200-e767f318a8ec, 1.4 GB. Three
# others have written down this address and that it has 147,137 cells; one of them, that counts are
# in raw/X, symbols in var/feature_name, and diseases and treatments in columns of these names. It
# was not fetched here, and no checksum of it is published.
LUNG_CANCER = RemoteFile(
    "htan_msk_sclc_combined.h5ad",
    "https://datasets.cellxgene.cziscience.com/a9d92e38-9a6e-401b-8484-74bb15122341.h5ad",
)

_INVARIANT, _SPURIOUS = ("disease", "cell_type"), ("assay", "treatment")


def fetch_lung_cancer(*, data_home=None, download_if_missing=True, url=None, checksum=None):
    """Lung cancer before and after treatment, as in the inVAE paper.

    Counts of cells from tumours of the lung and from healthy tissue, of the Human Tumor Atlas
    Network [1]_, in the form of CELLxGENE: all genes, no split. The paper shows latents in which
    diseases and cell types differ, and assays and treatments do not. Needs anndata
    (``pip install 'skpert[data]'``).

    The file has 1.4 GB and is fetched once; the counts are then kept in ``lung_cancer.h5ad``,
    which later calls read whatever ``url`` says, and the file can be deleted.

    Parameters
    ----------
    data_home : str, path-like or None, default=None
        Folder of the files, see :func:`get_data_home`.
    download_if_missing : bool, default=True
        If False, a file that is not there is an error.
    url : str or None, default=None
        Address of a mirror, or of another release, ``https://``, ``http://`` or ``file://``; None
        means CELLxGENE.
    checksum : str or None, default=None
        "md5:..." or "sha256:..." of the file. None: no checksum of it is known, so that of the
        first download is written beside it and must be met from then on.

    Returns
    -------
    data : Bunch
        X : csr_matrix of shape (n_cells, n_genes), float32
            Counts.
        obs : DataFrame of shape (n_cells, n_columns)
            All that the file says of the cells, at least the four columns below.
        feature_names : ndarray of shape (n_genes,), object
            Gene symbols.
        invariant, spurious : list of str
            Columns of ``obs`` that the paper wants kept, "disease" and "cell_type", and those
            that it wants removed, "assay" and "treatment".
        DESCR : str
            What this is.

    Raises
    ------
    ValueError
        If the file is not as expected.
    FileUnavailableError
        If the file cannot be had or is not the one that was meant; this is a ValueError and an
        OSError.

    See Also
    --------
    fetch_hematopoiesis : The paper's other data set, with a split.

    Notes
    -----
    The paper counts 155,098 cells, as does the atlas's own publication, and this file is known to
    have 147,137. Which file the paper read, and how it selected genes, is not public.

    References
    ----------
    .. [1] Chan et al., "Signatures of plasticity, metastasis, and immunosuppression in an atlas
       of human small cell lung cancer", Cancer Cell 39, 1479-1496 (2021).
    .. [2] Aliee, Kapl, Hediyeh-Zadeh and Theis, "Conditionally invariant representation learning
       for disentangling cellular heterogeneity", arXiv:2307.00558.

    Examples
    --------
    >>> from skpert.datasets import fetch_lung_cancer
    >>> from skpert.preprocessing import HighlyVariableGenes
    >>> data = fetch_lung_cancer()  # doctest: +SKIP
    >>> X = HighlyVariableGenes(2000).fit_transform(data.X)  # doctest: +SKIP
    >>> model.fit(X, data.obs)  # doctest: +SKIP
    """
    data = fetch_part(
        LUNG_CANCER,
        get_data_home(data_home),
        "lung_cancer.h5ad",
        _read,
        url=url,
        checksum=checksum,
        download_if_missing=download_if_missing,
    )
    n_levels = {name: data.obs[name].nunique() for name in _INVARIANT + _SPURIOUS}
    return Bunch(
        X=data.X,
        obs=data.obs,
        feature_names=data.var.get("feature_name", data.var_names.to_series()).to_numpy(
            dtype=object
        ),
        invariant=[*_INVARIANT],
        spurious=[*_SPURIOUS],
        DESCR=(
            f"Chan et al. 2021, lung cancer: {data.n_obs} cells, {data.n_vars} genes; "
            f"{', '.join(f'{n} levels of {name}' for name, n in n_levels.items())}."
        ),
    )


def _read(path):
    data = read_part(path, raw=True)
    for name in _INVARIANT + _SPURIOUS:
        column(data.obs, name)
    return data
