"""The screen of pairs of genes of Norman et al. 2019, and the two tasks set on it."""

from functools import partial
from numbers import Real

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split
from sklearn.utils import Bunch

from .._input.parts import read_parts
from .._input.values import check_integer
from ._download import RemoteFile, column, fetch_part, read_part

# "Norman processed" of the sc-pert collection, 1.7 GB, whose checksum is not known here. What
# seems to be the same file is at https://exampledata.scverse.org/pertpy/norman_2019.h5ad and,
# as the paper used it, at s3://insitro-research-2023-sams-vae/data/norman.h5ad; neither was
# compared.
NORMAN = RemoteFile("norman_2019.h5ad", "https://ndownloader.figshare.com/files/34027562")

_TEST_COMBINATIONS = 0.25  # share of combinations that are tested on, task="ood"


def norman_split(
    A,
    *,
    task: str = "ood",
    fraction: float = 1.0,
    seed: int = 0,
    control="control",
    sep: str = "+",
) -> np.ndarray:
    """Train, validation and test cells for the prediction of combinations, as for SAMS-VAE.

    Cells of single perturbations and controls are split 80/20 into train and validation. Cells
    of combinations are split 80/20 into those of training and test, and the former again 80/20
    into train and validation. Of these some are then left out, by task:

    * ``"ood"``, out of distribution: of the shuffled combinations the first ``fraction`` keep
      their train and validation cells, and the last quarter their test cells. Up to a fraction
      of 0.75 no combination that is tested was seen in training.
    * ``"data_efficiency"``: all validation and test cells stay, and ``fraction`` of the train
      cells of combinations.

    Test cells do not depend on the fraction, and what is trained on at a fraction is trained on
    at every larger one too.

    Parameters
    ----------
    A : array-like of shape (n_cells,)
        Labels. A combination must be written in one way: ``"A+B"`` and ``"B+A"`` count as two.
    task : {"ood", "data_efficiency"}, default="ood"
        What is left out.
    fraction : float, default=1.0
        Share in [0, 1] of combinations, or of their train cells, that are trained on; published
        for 0, 0.25, 0.5, 0.75 and 1.
    seed : int, default=0
        Of all shuffling; published for 0 to 4.
    control : str, default="control"
        Label of untreated cells.
    sep : str, default="+"
        What joins the names of a combination.

    Returns
    -------
    split : ndarray of shape (n_cells,), object
        "train", "val", "test", or None for a cell that is left out.

    Raises
    ------
    ValueError
        If task, fraction or seed is none of the above, or fewer than three cells have a
        combination or fewer than two have none.

    References
    ----------
    Bereket and Karaletsos, "Modelling cellular perturbations with the sparse additive mechanism
    shift variational autoencoder", NeurIPS 2023, and its released code.

    Examples
    --------
    >>> from skpert.datasets import norman_split
    >>> A = ["control"] * 10 + ["JAK2"] * 10 + ["JAK2+STAT1"] * 25
    >>> split = norman_split(A, task="data_efficiency", fraction=0.5)
    >>> [(split == part).sum().item() for part in ("train", "val", "test", None)]
    [24, 8, 5, 8]
    """
    _check_task(task, fraction, seed)
    missing = np.flatnonzero(pd.isna(np.asarray(A, dtype=object)))
    if len(missing):
        raise ValueError(f"{len(missing)} labels in A are missing, the first in row {missing[0]}")
    A = np.asarray(A, dtype=str)
    if A.ndim != 1:
        raise ValueError(f"A must hold one label per cell, got an array of shape {A.shape}")
    combined = _is_combination(A, control, sep)
    if combined.sum() < 3 or (~combined).sum() < 2:
        raise ValueError(
            f"at least 3 cells must have a combination (names joined by {sep!r}) and 2 cells "
            f"none; got {combined.sum()} and {(~combined).sum()}"
        )
    split = np.full(len(A), None, dtype=object)
    parted = partial(train_test_split, test_size=0.2, random_state=seed)
    train, val = parted(np.flatnonzero(~combined))
    split[train], split[val] = "train", "val"
    kept, test = parted(np.flatnonzero(combined))
    train, val = parted(kept)
    if task == "ood":
        names = _shuffled(np.unique(A[combined]), sep, seed)
        seen = names[: int(fraction * len(names))]
        tested = names[-int(np.ceil(_TEST_COMBINATIONS * len(names))) :]
        train, val = train[np.isin(A[train], seen)], val[np.isin(A[val], seen)]
        test = test[np.isin(A[test], tested)]
    else:
        train = train[: int(fraction * len(train))]
    split[train], split[val], split[test] = "train", "val", "test"
    return split


def _check_task(task, fraction, seed):
    """Check what chooses a split."""
    if task not in ("ood", "data_efficiency"):
        raise ValueError(f"task must be 'ood' or 'data_efficiency', got {task!r}")
    if isinstance(fraction, bool) or not isinstance(fraction, Real) or not 0 <= fraction <= 1:
        raise ValueError(f"fraction must be a number from 0 to 1, got {fraction!r}")
    check_integer(seed, "seed", 0)


def _is_combination(A, control, sep):
    """Whether each label joins two names or more, the control aside."""
    names, codes = np.unique(A, return_inverse=True)
    parts = read_parts(names.tolist(), control, sep).of
    return np.array([len(parts[name]) > 1 for name in names.tolist()], dtype=bool)[codes]


def _shuffled(names, sep, seed):
    """Names of combinations in an order that depends on the seed only.

    They are first sorted as in the file's own spelling, ``A_B__A_B``.
    """
    names = np.array(sorted(names, key=lambda name: name.replace(sep, "_") + "__"))
    np.random.default_rng(seed).shuffle(names)
    return names


def fetch_norman(
    *,
    task: str = "ood",
    fraction: float = 1.0,
    seed: int = 0,
    data_home=None,
    download_if_missing=True,
    url=None,
    checksum=None,
) -> Bunch:
    """Screen of single genes and pairs, activated in K562 cells, as in the SAMS-VAE paper.

    Norman et al. 2019 [1]_ in the form of the sc-pert collection: raw counts of the 5,000 highly
    variable genes in 111,255 cells, with 105 genes and 131 pairs of them activated. Of the file
    (1.7 GB) the part that is used is kept in ``norman.h5ad``.

    Parameters
    ----------
    task : {"ood", "data_efficiency"}, default="ood"
        What is left out of training, see :func:`norman_split`.
    fraction : float in [0, 1], default=1.0
        Share of combinations, or of their cells, that are trained on.
    seed : int, default=0
        Of the split; published for 0 to 4.
    data_home, download_if_missing, url, checksum : optional
        Where files are and come from, see :func:`get_data_home`; the public file is on figshare,
        and no checksum of it is known.

    Returns
    -------
    screen : Bunch
        ``X``, counts, ``obs``, ``feature_names``, gene symbols, and ``DESCR``; see
        :func:`get_data_home`.

        A : ndarray of shape (n_cells,), object
            "control", "GENE", or "GENE1+GENE2" in the order of the file.
        split : ndarray of shape (n_cells,), object
            "train", "val", "test", or None for a cell that is left out. For other splits call
            ``norman_split(screen.A, ...)``.

    Raises
    ------
    ValueError
        If a parameter is none of the above, or the file is not as expected or not available
        (:class:`~skpert.exceptions.FileUnavailableError`, which is an OSError as well).

    References
    ----------
    .. [1] Norman et al., "Exploring genetic interaction manifolds constructed from rich
       single-cell phenotypes", Science 365, 786-793 (2019).

    Examples
    --------
    >>> from skpert.datasets import fetch_norman
    >>> screen = fetch_norman(task="ood", fraction=0.5)  # doctest: +SKIP
    >>> train = screen.split == "train"  # doctest: +SKIP
    >>> model.fit(screen.X[train], screen.A[train])  # doctest: +SKIP
    """
    _check_task(task, fraction, seed)
    where = data_home, download_if_missing, url, checksum
    read = partial(read_part, genes=lambda var: column(var, "highly_variable"), layer="counts")
    data = fetch_part(NORMAN, "norman.h5ad", read, *where)
    A = _labels(data.obs)
    n_pairs = len(np.unique(A[_is_combination(A.astype(str), "control", "+")]))
    return Bunch(
        X=data.X,
        A=A,
        obs=data.obs,
        feature_names=data.var_names.to_numpy(dtype=object),
        split=norman_split(A, task=task, fraction=fraction, seed=seed),
        DESCR=(
            f"Norman et al. 2019, genes activated in K562 cells: {data.n_obs} cells, "
            f"{data.n_vars} highly variable genes, {n_pairs} combinations."
        ),
    )


def _labels(obs):
    """Genes of each cell, from the columns ``guide_GENE`` of zeros and ones."""
    guides = [
        name
        for name in obs.columns
        if "guide_" in name and pd.api.types.is_numeric_dtype(obs[name])  # not guide_identity
    ]
    genes = np.array([name.removeprefix("guide_") for name in guides], dtype=object)
    identities = column(obs, "guide_identity").astype(str)
    chosen = obs[guides].to_numpy() != 0
    labels = [
        _join(genes[row], identity) for row, identity in zip(chosen, identities, strict=True)
    ]
    return np.array(labels, dtype=object)


def _join(genes, identity):
    """Label of genes in the order that the identity of the guides, ``A_B__A_B``, has them in."""
    return "+".join(sorted(genes, key=lambda gene: f"_{identity}".find(f"_{gene}_"))) or "control"
