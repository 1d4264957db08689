"""Gene sets as features of perturbed genes."""

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import chain, count

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.validation import check_is_fitted

from .._input.files import existing, parse_text
from .._input.transaction import restored_on_failure
from .._input.values import listed
from ..exceptions import DataWarning, warn_of_data

_DATE = re.compile(
    r"\d{1,2}-(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)(-\d+)?", re.IGNORECASE
)


def read_gmt(path) -> dict[str, list[str]]:
    """Gene sets of a .gmt file: one set per line, name, description and genes between tabs.

    Empty lines and fields, quotes around fields, and lines that begin with ``#`` and have no tab
    are passed over.

    Parameters
    ----------
    path : str or path-like
        Text file, plain or gzipped, in UTF-8, or in UTF-16 with a byte order mark.

    Returns
    -------
    gene_sets : dict of str to list of str
        Names of the genes in each set, without repetition, in the order of the file. Of several
        sets with one name, the second has its description added, ``"name (description)"``, and
        further ones, or those without a description of their own, a number: ``"name (3)"``.

    Raises
    ------
    ValueError
        If the file is not there or is damaged, it holds no set, or a line is not of this form.

    Warns
    -----
    DataWarning
        If the text is not UTF-8, and is read as Windows-1252, or genes look like dates, which
        spreadsheets make of names such as SEPT2.
    """
    path = existing(path)
    gene_sets = parse_text(path, lambda lines: _parse_gmt(lines, path.name))
    dates = sorted({g for genes in gene_sets.values() for g in genes if _DATE.fullmatch(g)})
    if dates:
        warn_of_data(
            f"{path.name} has genes that look like dates, as spreadsheets make of SEPT2 or MARCH1 "
            f"({len(dates)}): {listed(dates, 5)}"
        )
    return gene_sets


def _parse_gmt(lines, file_name):
    gene_sets, seen = {}, Counter()
    for number, line in enumerate(lines, start=1):
        if not line.strip() or (line.startswith("#") and "\t" not in line.strip()):
            continue
        name, description, *genes = (_unquoted(field) for field in f"{line}\t".split("\t"))
        genes = list(dict.fromkeys(gene for gene in genes if gene))
        if not (name and genes):
            raise ValueError(
                f"Line {number} of {file_name} has no {'genes' if name else 'name'}; it must be a "
                f"name, a description and genes, between tabs, and is {line.strip()[:80]!r}."
            )
        seen[name] += 1
        gene_sets[_unused(name, description, seen[name], gene_sets)] = genes
    if not gene_sets:
        raise ValueError(f"{file_name} holds no gene set.")
    return gene_sets


def _unquoted(field):
    """Field without spaces around it, and without the quotes of a spreadsheet."""
    field = field.strip()
    if len(field) > 1 and field[0] == field[-1] == '"':
        return field[1:-1].replace('""', '"').strip()
    return field


def _unused(name, description, n_seen, taken):
    """Name of a set that no set before it has, of which ``n_seen`` have that name."""
    numbered = (f"{name} ({number})" for number in count(n_seen))
    choices = [name, f"{name} ({description})"] if description else [name]
    return next(choice for choice in chain(choices, numbered) if choice not in taken)


class GeneSetFeatures(TransformerMixin, BaseEstimator, auto_wrap_output_keys=None):
    """Describe perturbed genes by the gene sets that they are in.

    Names must be written as in the sets, capitals included. Only sets with one of the training
    targets become features.

    Parameters
    ----------
    gene_sets : str, path-like, dict of str to list of str, or DataFrame
        A .gmt file, the genes of each set by its name, or a table with a row for each gene of
        each set: names of sets in its column "source", of genes in "target", as decoupler has it.
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

    def __init__(
        self, gene_sets, *, min_genes: int = 3, max_genes: int = 300, weight=None
    ) -> None:
        self.gene_sets = gene_sets
        self.min_genes = min_genes
        self.max_genes = max_genes
        self.weight = weight

    def fit(self, targets, y=None) -> "GeneSetFeatures":
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
            If targets are not 1-D names, no set is left, sets hold something else than names of
            genes, or ``weight`` is unknown.
        """
        with restored_on_failure(self):
            if self.weight not in (None, "idf"):
                raise ValueError(f"weight={self.weight!r} must be None or 'idf'.")
            targets = set(as_names(targets))
            gene_sets = _gene_sets(self.gene_sets)
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

    def transform(self, targets) -> csr_array:
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
        targets = as_names(targets)
        row = pd.Index(self.genes_).get_indexer(targets)
        warn_of_unknown(targets[row < 0], "in no gene set")
        member = np.flatnonzero(row >= 0)
        pick = csr_array(
            (np.ones(len(member), dtype=np.float32), (member, row[member])),
            shape=(len(targets), len(self.genes_)),
        )
        return pick @ self.membership_

    def get_feature_names_out(self, input_features: None = None) -> np.ndarray:
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


def _gene_sets(given):
    """Genes of each set, in any accepted form; ValueError if they are not names."""
    if isinstance(given, pd.DataFrame):
        if not {"source", "target"} <= set(given.columns):
            raise ValueError(
                "A table of gene sets must have the columns 'source', names of sets, and "
                f"'target', names of genes; it has {listed(list(given.columns), 20)}."
            )
        given = dict(iter(given.groupby("source", sort=False, dropna=False)["target"]))
    elif not isinstance(given, Mapping):
        given = read_gmt(given)
    return {name: _checked_genes(name, genes) for name, genes in given.items()}


def _checked_genes(name, genes):
    listable = isinstance(genes, Iterable) and not isinstance(genes, (str, bytes, Mapping))
    found = list(genes) if listable else [None]
    if not isinstance(name, str) or not all(isinstance(gene, str) for gene in found):
        raise ValueError(
            "Gene sets must be a list of names of genes for each name of a set; the set "
            f"{name!r} is {str(genes)[:80]!r}."
        )
    return found


def as_names(targets):
    """Targets as a 1-D object array of text; ValueError if they are not that."""
    names = np.asarray(targets, dtype=object)
    if names.ndim != 1 or not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"Targets must be a 1-D list of names of genes; got shape {names.shape}, first "
            f"{names.ravel()[:1]}."
        )
    return names


def warn_of_unknown(names, where):
    """One warning, of the line that called ``transform``, for genes without features."""
    names = list(dict.fromkeys(names))
    if names:
        warnings.warn(
            f"Genes {where}, whose features are zero ({len(names)}): {listed(names, 20)}.",
            DataWarning,
            stacklevel=3,
        )


def _membership(sets):
    """Sorted genes of the sets, and which set holds which, (n_genes, n_sets) float32."""
    members = [(gene, j) for j, genes in enumerate(sets) for gene in genes]
    names, column = zip(*members, strict=True)
    row, genes = pd.factorize(np.array(names, dtype=object), sort=True)
    ones = np.ones(len(row), dtype=np.float32)
    return genes, csr_array((ones, (row, column)), shape=(len(genes), len(sets)))
