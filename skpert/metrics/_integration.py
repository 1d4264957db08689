"""Scores of an embedding that should keep biology and lose batches, as benchmarked by scIB."""

import pandas as pd
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

from ._batches import graph_connectivity, kbet, silhouette_batch
from ._cell_groups import (
    check_n_neighbors,
    mean_by_group,
    read_embedding,
    read_groups,
    read_labels,
    silhouette_widths,
)

N_STARTS = 10  # of k-means, of which the best is kept
BIO_CONSERVATION = ("isolated_labels", "kmeans_nmi", "kmeans_ari", "silhouette_label")
BATCH_CORRECTION = ("silhouette_batch", "kbet", "graph_connectivity")


def integration_scores(Z, labels, batch, *, n_neighbors: int = 15, random_state=None) -> pd.Series:
    """Conservation of biology and correction of batches in an embedding; higher is better.

    The seven scores of the comparison of inVAE with other models [2]_, and their means. They do
    not change under rotation, offset and scale of the embedding, nor with names of labels and
    batches. Compare embeddings of the same cells only: chance levels depend on labels and batches.
    An embedding inferred with the labels as input knows them beforehand.

    Parameters
    ----------
    Z : array-like of shape (n_cells, n_latent)
        Embedding of cells, such as the invariant latent states.
    labels : array-like of shape (n_cells,)
        Biological label of each cell, such as its cell type.
    batch : array-like of shape (n_cells,)
        Batch of each cell, such as its donor or lane.
    n_neighbors : int, default=15
        Cells in a neighbourhood of :func:`graph_connectivity`, the cell itself counted.
    random_state : int, RandomState instance or None, default=None
        Seeds k-means.

    Returns
    -------
    scores : Series of shape (10,)
        "isolated_labels" (:func:`isolated_label_score`), "kmeans_nmi" and "kmeans_ari"
        (:func:`kmeans_agreement`), "silhouette_label", "silhouette_batch", "kbet" and
        "graph_connectivity", the functions of that name; "bio_conservation", the mean of the first
        four; "batch_correction", the mean of the other three; and "total", 0.6 of the former plus
        0.4 of the latter. All in [0, 1] but "kmeans_ari", which may be below 0.

    Raises
    ------
    ValueError
        If ``Z`` holds NaN or all cells are the same, lengths differ, names are missing, there is
        one label or one batch only or one cell per label, there are fewer cells than
        ``n_neighbors``, or batches meet in no label of twelve cells.

    Notes
    -----
    Exact but for k-means. Silhouettes take most of the time, which grows with the square of the
    number of cells. Distances are never held for all pairs at once.

    References
    ----------
    .. [1] Luecken et al., Benchmarking atlas-level data integration in single-cell genomics
       (scIB), Nature Methods 19, 2022.
    .. [2] Aliee, Kapl, Hediyeh-Zadeh and Theis, Conditionally invariant representation learning
       for disentangling cellular heterogeneity (inVAE), arXiv 2307.00558, 2023, Figure 4.

    Examples
    --------
    >>> import numpy as np
    >>> from skpert.metrics import integration_scores
    >>> labels, batch = np.repeat(["T cell", "B cell"], 100), np.tile(["a", "b"], 100)
    >>> Z = np.arange(200.0)[:, None] + 1000 * (labels == "B cell")[:, None]
    >>> scores = integration_scores(Z, labels, batch, random_state=0)
    >>> scores[["kmeans_ari", "kbet", "total"]].round(2).tolist()
    [1.0, 1.0, 0.99]
    """
    values = read_embedding(Z, labels=labels, batch=batch)
    codes, batches = _read_groups(labels, batch, len(values))
    check_n_neighbors(n_neighbors, len(values))
    scores = {  # first, as labels without two batches are an error
        "silhouette_batch": silhouette_batch(Z, labels, batch),
        "kbet": kbet(Z, labels, batch),
        "graph_connectivity": graph_connectivity(Z, labels, n_neighbors=n_neighbors),
    }
    widths = silhouette_widths(values, codes)
    scores["isolated_labels"] = _rescaled(widths, codes)[_isolated(codes, batches)].mean()
    scores["silhouette_label"] = (widths.mean() + 1) / 2
    agreement = kmeans_agreement(Z, labels, random_state=random_state)
    return with_means(scores | agreement.add_prefix("kmeans_").to_dict())


def isolated_label_score(
    Z, labels, batch, *, method: str = "silhouette", random_state=None
) -> float:
    """How well labels of the fewest batches stand out, in [0, 1]; higher is better.

    Correcting batches tends to merge such labels with others. All labels with the least number of
    batches count alike; if every label is in every batch, that is all labels.

    Parameters
    ----------
    Z, labels, batch : as in :func:`integration_scores`
        Embedding, biological label and batch of each cell.
    method : {"silhouette", "f1"}, default="silhouette"
        "silhouette": ``(s + 1) / 2`` of the mean silhouette of the label's cells among all labels;
        0.5 where labels overlap, and for a label with one cell. "f1": the largest F1 score of any
        cluster of k-means, as many as there are labels, as a prediction of the label. scIB takes
        graph clusters of many resolutions for F1, which can only fit better.
    random_state : int, RandomState instance or None, default=None
        Seeds k-means.

    Returns
    -------
    score : float
        Mean over the isolated labels.

    Raises
    ------
    ValueError
        If ``Z`` holds NaN or all cells are the same, lengths differ, names are missing, there is
        one label or one batch only or one cell per label, or ``method`` is unknown.

    Examples
    --------
    >>> from skpert.metrics import isolated_label_score
    >>> Z, labels = [[0], [1], [4], [5], [20], [21]], list("TTBBNN")
    >>> round(isolated_label_score(Z, labels, list("ababbb")), 3)  # N, in b only
    0.969
    """
    if method not in ("silhouette", "f1"):
        raise ValueError(f"method must be 'silhouette' or 'f1', got {method!r}")
    Z = read_embedding(Z, labels=labels, batch=batch)
    labels, batch = _read_groups(labels, batch, len(Z))
    if method == "silhouette":
        by_label = _rescaled(silhouette_widths(Z, labels), labels)
    else:
        by_label = _best_f1(labels, _clusters(Z, labels, random_state))
    return float(by_label[_isolated(labels, batch)].mean())


def kmeans_agreement(Z, labels, *, random_state=None) -> pd.Series:
    """Agreement of labels with clusters of the embedding, 1 the best; higher is better.

    Cells are grouped by k-means into as many clusters as there are labels, the best of ten starts,
    as in scib-metrics; scIB takes graph clusters.

    Parameters
    ----------
    Z, labels : as in :func:`integration_scores`
        Embedding and biological label of each cell. k-means rarely finds a label of few cells.
    random_state : int, RandomState instance or None, default=None
        Seeds the starts.

    Returns
    -------
    agreement : Series of shape (2,)
        "nmi": mutual information of label and cluster over the mean of their entropies, in
        [0, 1], not adjusted for chance, so that many small labels raise it. "ari": adjusted
        Rand index, in [-0.5, 1] and near 0 by chance.

    Raises
    ------
    ValueError
        If ``Z`` holds NaN or all cells are the same, lengths differ, names are missing, or there
        is one label only or one cell per label.

    Examples
    --------
    >>> from skpert.metrics import kmeans_agreement
    >>> agreement = kmeans_agreement([[0], [1], [5], [6]], list("TTBB"), random_state=0)
    >>> agreement.round(6).to_dict()
    {'nmi': 1.0, 'ari': 1.0}
    """
    Z = read_embedding(Z, labels=labels)
    labels = read_labels(labels, len(Z))
    clusters = _clusters(Z, labels, random_state)
    nmi = normalized_mutual_info_score(labels, clusters)
    return pd.Series({"nmi": nmi, "ari": adjusted_rand_score(labels, clusters)}, dtype=float)


def silhouette_label(Z, labels) -> float:
    """Separation of labels by their silhouette (ASW), in [0, 1]; higher is better.

    It is ``(s + 1) / 2`` of the mean silhouette ``s`` over all cells, as in scIB: 0.5 where labels
    overlap, below it where most cells are nearer to another label. Labels of many cells weigh
    more. Compact labels score higher than elongated ones, whatever separates them.

    Parameters
    ----------
    Z, labels : as in :func:`integration_scores`
        Embedding and biological label of each cell. The only cell of a label has ``s = 0``.

    Returns
    -------
    score : float
        Exact; time grows with the square of the number of cells, memory does not.

    Raises
    ------
    ValueError
        If ``Z`` holds NaN or all cells are the same, lengths differ, names are missing, or there
        is one label only or one cell per label.

    Examples
    --------
    >>> from skpert.metrics import silhouette_label
    >>> round(silhouette_label([[0.0], [1.0], [10.0], [11.0]], list("TTBB")), 4)
    0.9499
    """
    Z = read_embedding(Z, labels=labels)
    return float((silhouette_widths(Z, read_labels(labels, len(Z))).mean() + 1) / 2)


def _read_groups(labels, batch, n_cells):
    """Numbers of the label and of the batch of each cell, two or more of either."""
    return read_labels(labels, n_cells), read_groups(batch, n_cells, "batch", least=2)


def _rescaled(widths, labels):
    """Mean silhouette of each label, from [-1, 1] to [0, 1]."""
    return (mean_by_group(widths, labels) + 1) / 2


def _isolated(labels, batch):
    """Whether a label is in as few batches as any."""
    n_batches = (contingency_matrix(labels, batch) > 0).sum(axis=1)
    return n_batches == n_batches.min()


def _clusters(Z, labels, random_state):
    """Cluster of each cell by k-means, as many as labels."""
    kmeans = KMeans(labels.max() + 1, n_init=N_STARTS, random_state=random_state)
    return kmeans.fit_predict(Z)


def _best_f1(labels, clusters):
    """Largest F1 of any cluster as a prediction of each label, (n_labels,)."""
    shared = contingency_matrix(labels, clusters)
    sizes = shared.sum(axis=1, keepdims=True) + shared.sum(axis=0, keepdims=True)
    return (2 * shared / sizes).max(axis=1)


def with_means(scores):
    """The seven scores in the order of the paper, the mean of either class, and the total."""
    scores = pd.Series(scores, dtype=float)[[*BIO_CONSERVATION, *BATCH_CORRECTION]]
    bio, batch = scores[list(BIO_CONSERVATION)].mean(), scores[list(BATCH_CORRECTION)].mean()
    scores["bio_conservation"], scores["batch_correction"] = bio, batch
    scores["total"] = 0.6 * bio + 0.4 * batch
    return scores
