r"""Genes that are more dispersed than others of their mean, as integration papers select them.

.. math:: d_g = \log \frac{\mathrm{var}_g}{\mathrm{mean}_g}, \qquad
          \tilde d_g = \frac{d_g - \mathrm{mean}_{B(g)} d}{\mathrm{sd}_{B(g)} d}

:math:`B(g)` are the genes in the same of 20 bins of the log of 1 + the mean.
"""

import numpy as np
import pandas as pd
from sklearn.utils.sparsefuncs import mean_variance_axis

_N_BINS = 20


def most_dispersed(X_log, n_top_genes):
    """Mask of the genes with the largest normalised dispersion, (n_genes,).

    This is the method of Seurat's first versions, which scanpy has as its default. A tie at the
    threshold lets more genes through; a gene without variance never gets there.

    Parameters
    ----------
    X_log : CSR matrix of shape (n_cells, n_genes)
        Log of 1 + normalised counts; the method takes the logarithm off again.
    n_top_genes : int
        Number of genes.
    """
    scores = dispersion_scores(X_log)
    known = np.sort(scores[~np.isnan(scores)])[::-1]
    if not len(known):
        return np.zeros(len(scores), dtype=bool)
    limit = known[min(n_top_genes, len(known)) - 1]
    return np.nan_to_num(scores, nan=-np.inf) >= limit


def dispersion_scores(X_log):
    """Normalised dispersion of each gene, (n_genes,); nan for a gene without variance."""
    X = X_log.astype(np.float64)
    X.data = np.expm1(X.data)
    mean, variance = mean_variance_axis(X, axis=0)
    variance *= X.shape[0] / (X.shape[0] - 1)
    varies = variance > 0
    dispersion = np.full(len(mean), np.nan)
    dispersion[varies] = np.log(variance[varies] / mean[varies])
    grouped = pd.Series(dispersion).groupby(pd.cut(np.log1p(mean), _N_BINS, labels=False))
    centre, spread = grouped.transform("mean"), grouped.transform("std")
    alone = spread.isna()  # in its bin: the score is 1 by convention
    spread, centre = spread.where(~alone, centre), centre.where(~alone, 0.0)
    return ((dispersion - centre) / spread).to_numpy()
