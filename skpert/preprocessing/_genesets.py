"""Gene sets as features of perturbed genes."""

import gzip
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.validation import check_is_fitted

from ..exceptions import DataWarning
from ._labels import listed
from ._transaction import all_or_nothing


def read_gmt(path):
    """Gene sets of a .gmt file: one set per line, name, description and genes between tabs.

    Parameters
    ----------
    path : str or path-like
        Text file, or a gzip of one if its name ends in ``.gz``.

    Returns
    -------
    gene_sets : dict of str to list of str
        Names of the genes in each set, without repetition, in the order of the file. When two
        sets have one name, the description is added to the second: ``"name (description)"``.

    Raises
    ------
    ValueError
        If a line holds no gene.
    """
    path = Path(path)
    gene_sets = {}
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            name, description, *genes = (field.strip() for field in f"{line}\t".split("\t"))
            if name in gene_sets:
                name = f"{name} ({description})"
            gene_sets[name] = list(dict.fromkeys(gene for gene in genes if gene))
            if not gene_sets[name]:
                raise ValueError(
                    f"Line {number} of {path.name} has no genes; it must be a name, a description "
                    f"and genes, between tabs, and is {line.strip()[:80]!r}."
                )
    return gene_sets


class GeneSetFeatures(TransformerMixin, BaseEstimator, auto_wrap_output_keys=None):
    """Describe perturbed genes by the gene sets that they are in.

    Names must be written as in the sets, capitals included. Only sets with one of the training
    targets become features.

    Parameters
    ----------
    gene_sets : str, path-like or dict of str to list of str
        A .gmt file, or the genes of each set by its name.
    min_genes, max_genes : int, default=3 and 300
        Sets of fewer or more genes are left out.
    weight : {None, "idf"}, default=None
        Value of a feature where the gene is in the set: 1, or the inverse frequency of the set,
        ``1 + log((1 + n_targets) / (1 + n_targets_in_set))``, which is large for rare sets.

    Attributes
    ----------
    set_names_ : ndarray of shape (n_sets,) and dtype object
        Names of the sets that are features, in the order of ``gene_sets``.
    membership_ : sparse CSR array of shape (n_genes, n_sets)
        Feature values of each gene of these sets.
    genes_ : ndarray of shape (n_genes,) and dtype object
        Sorted names of these genes.

    Examples
    --------
    >>> from skpert.preprocessing import GeneSetFeatures
    >>> features = GeneSetFeatures({"JAK-STAT": ["JAK1", "JAK2", "STAT1"]})
    >>> features.fit_transform(["JAK1", "JAK2"]).toarray().tolist()
    [[1.0], [1.0]]
    """

    # targets are what scikit-learn calls X, not metadata to be routed
    __metadata_request__fit = {"targets": UNUSED}
    __metadata_request__transform = {"targets": UNUSED}

    def __init__(self, gene_sets, *, min_genes=3, max_genes=300, weight=None):
        self.gene_sets = gene_sets
        self.min_genes = min_genes
        self.max_genes = max_genes
        self.weight = weight

    @all_or_nothing
    def fit(self, targets, y=None):
        """Choose the sets that hold training targets.

        Parameters
        ----------
        targets : array-like of shape (n_targets,)
            Names of perturbed genes, such as ``perturbations_`` of a model.
        y : None
            Ignored.

        Returns
        -------
        self : GeneSetFeatures
            The fitted transformer.

        Raises
        ------
        ValueError
            If targets are not 1-D names, no set is left, or ``weight`` is unknown.
        """
        if self.weight not in (None, "idf"):
            raise ValueError(f"weight={self.weight!r} must be None or 'idf'.")
        targets = set(_names(targets))
        gene_sets = (
            self.gene_sets if isinstance(self.gene_sets, dict) else read_gmt(self.gene_sets)
        )
        sets = {name: set(genes) for name, genes in gene_sets.items()}
        sets = {
            name: genes
            for name, genes in sets.items()
            if self.min_genes <= len(genes) <= self.max_genes and genes & targets
        }
        if not sets:
            raise ValueError(
                f"None of the {len(gene_sets)} gene sets has {self.min_genes} to "
                f"{self.max_genes} genes with a target among them. Targets are "
                f"{listed(sorted(targets), 3)}; genes of the sets are "
                f"{listed(sorted(set().union(*gene_sets.values())), 3)}."
            )
        self.set_names_ = np.array(list(sets), dtype=object)
        self.genes_, self.membership_ = _membership(sets.values())
        if self.weight == "idf":
            n_in_set = np.array([len(genes & targets) for genes in sets.values()])
            idf = 1 + np.log((1 + len(targets)) / (1 + n_in_set))
            self.membership_.data *= idf.astype(np.float32)[self.membership_.indices]
        return self

    def transform(self, targets):
        """Feature matrix of genes, also of genes that were no training targets.

        Parameters
        ----------
        targets : array-like of shape (n_targets,)
            Names of genes.

        Returns
        -------
        features : sparse CSR array of shape (n_targets, n_sets) and dtype float32
            0 where the gene is not in the set, else 1 or the weight of the set.

        Warns
        -----
        DataWarning
            If genes are in none of the sets; their rows are zero.
        """
        check_is_fitted(self)
        targets = _names(targets)
        row = pd.Index(self.genes_).get_indexer(targets)
        outside = list(dict.fromkeys(targets[row < 0]))
        if outside:
            warnings.warn(
                f"Genes in no gene set, whose features are zero ({len(outside)}): "
                f"{listed(outside, 20)}.",
                DataWarning,
                stacklevel=2,
            )
        member = np.flatnonzero(row >= 0)
        pick = csr_array(
            (np.ones(len(member), dtype=np.float32), (member, row[member])),
            shape=(len(targets), len(self.genes_)),
        )
        return pick @ self.membership_

    def get_feature_names_out(self, input_features=None):
        """Names of the gene sets, the columns of what `transform` returns.

        Parameters
        ----------
        input_features : None
            Ignored.

        Returns
        -------
        names : ndarray of shape (n_sets,) and dtype object
            The same as ``set_names_``.
        """
        check_is_fitted(self)
        return self.set_names_

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False  # names, not the X of scikit-learn
        tags.input_tags.string = True
        return tags


def _names(targets):
    """Targets as a 1-D object array of text; ValueError if they are not that."""
    names = np.asarray(targets, dtype=object)
    if names.ndim != 1 or not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"Targets must be a 1-D list of names of genes; got shape {names.shape}, first "
            f"{names.ravel()[:1]}."
        )
    return names


def _membership(sets):
    """Sorted genes of the sets, and which set holds which, (n_genes, n_sets) float32."""
    members = [(gene, j) for j, genes in enumerate(sets) for gene in genes]
    names, column = zip(*members, strict=True)
    row, genes = pd.factorize(np.array(names, dtype=object), sort=True)
    ones = np.ones(len(row), dtype=np.float32)
    return genes, csr_array((ones, (row, column)), shape=(len(genes), len(sets)))
