"""Numbers that describe compounds: what they bind, and what they look like."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from .._input.values import check_integer, listed, text
from ._genesets import as_names


class TargetGenes(TransformerMixin, BaseEstimator, auto_wrap_output_keys=None):
    """Describe compounds by the genes that they target.

    The features of a compound are the mean of those of its targets, of which each counts once.

    Parameters
    ----------
    targets : mapping or Series of str to str or list of str
        The target, or targets, of each compound by its name. A Series may have a row for each
        pair of compound and target.
    features : transformer
        Features of genes by name, such as ``GeneSetFeatures(gmt)``; a copy is fitted to the
        targets of the training compounds. ``FrozenEstimator`` around a fitted one leaves it as
        it is.

    Attributes
    ----------
    features_ : transformer
        The fitted copy.

    See Also
    --------
    CompoundFingerprints : Compounds by their structure.

    Examples
    --------
    >>> from skpert.preprocessing import GeneSetFeatures, TargetGenes
    >>> sets = GeneSetFeatures({"JAK-STAT": ["JAK1", "JAK2", "STAT1"]})
    >>> features = TargetGenes({"ruxolitinib": ["JAK1", "JAK2"], "fedratinib": "JAK2"}, sets)
    >>> features.fit_transform(["ruxolitinib", "fedratinib"]).tolist()
    [[1.0], [1.0]]
    """

    __metadata_request__fit = {"names": UNUSED}
    __metadata_request__transform = {"names": UNUSED}

    def __init__(self, targets, features) -> None:
        self.targets = targets
        self.features = features

    def fit(self, names, y=None) -> "TargetGenes":
        """Fit the features to the targets of these compounds.

        Parameters
        ----------
        names : array-like of shape (n_names,)
            Names of compounds.
        y : None
            Not used.

        Returns
        -------
        self : TargetGenes
            The fitted transformer.

        Raises
        ------
        ValueError
            If a compound has no target, or one of its targets is missing.
        """
        genes = [gene for row in self._targets_of(as_names(names)) for gene in row]
        self.features_ = clone(self.features).fit(pd.unique(np.array(genes, dtype=object)), None)
        return self

    def transform(self, names) -> np.ndarray:
        """Mean of the features of each compound's targets.

        Parameters
        ----------
        names : array-like of shape (n_names,)
            Names of compounds.

        Returns
        -------
        features : ndarray of shape (n_names, n_features) and dtype float64
            A row for each name.

        Raises
        ------
        ValueError
            If a compound has no target, one of its targets is missing, or a target has no
            features.
        """
        check_is_fitted(self)
        rows = self._targets_of(as_names(names))
        values = self.features_.transform(
            np.array([gene for row in rows for gene in row], dtype=object)
        )
        values = np.asarray(values.toarray() if issparse(values) else values, dtype=np.float64)
        if not rows:
            return values
        parts = np.split(values, np.cumsum([len(row) for row in rows])[:-1])
        return np.array([part.mean(0) for part in parts])

    @available_if(lambda self: hasattr(self.features, "get_feature_names_out"))
    def get_feature_names_out(self, input_features: None = None) -> np.ndarray:
        """Names of the features, where the transformer of genes has them.

        Parameters
        ----------
        input_features : None
            Ignored.

        Returns
        -------
        names : ndarray of shape (n_features,) and dtype object
            Those of ``features_``.
        """
        check_is_fitted(self)
        return self.features_.get_feature_names_out()

    def _targets_of(self, names):
        _check_by_name(self.targets, "targets")
        known = {}
        for name, targets in self.targets.items():  # a Series may have a name in several rows
            known.setdefault(text(name), []).extend(_one_or_more(targets))
        rows = [list(dict.fromkeys(known.get(name, []))) for name in names]
        missing = [n for n, row in zip(names, rows, strict=True) if all(g is None for g in row)]
        if missing:
            raise ValueError(
                f"Compounds without a target in `targets`: {listed(missing, 10)}. Give one, or "
                "leave their cells out."
            )
        partly = [name for name, row in zip(names, rows, strict=True) if None in row]
        if partly:
            raise ValueError(
                f"Compounds with a missing value among their targets: {listed(partly, 10)}. Leave "
                "the missing ones out."
            )
        return rows


def _one_or_more(targets):
    """Targets as a list of text, None for each that is missing."""
    targets = [targets] if pd.api.types.is_scalar(targets) else list(targets)
    return [None if pd.isna(target) else text(target) for target in targets]


class CompoundFingerprints(TransformerMixin, BaseEstimator, auto_wrap_output_keys=None):
    """Describe compounds by the counts of their substructures, as Morgan fingerprints.

    Needs RDKit, ``pip install 'skpert[compounds]'``.

    Parameters
    ----------
    smiles : mapping or Series of str to str
        The structure of each compound by its name, as SMILES.
    radius : int, default=2
        Bonds from the centre of a substructure to its border, at least 0.
    n_bits : int, default=2048
        Number of features, to which substructures are hashed.
    pharmacophores : bool, default=True
        Whether atoms are described by what they can bind (FCFP), which compounds of different
        scaffolds share, or by element and bonds (ECFP).

    Attributes
    ----------
    n_features_out_ : int
        Number of features.

    See Also
    --------
    TargetGenes : Compounds by their targets.

    References
    ----------
    .. [1] Rogers and Hahn, Extended-connectivity fingerprints, Journal of Chemical Information
       and Modeling 50 (2010) 742.

    Examples
    --------
    >>> from skpert.preprocessing import CompoundFingerprints
    >>> features = CompoundFingerprints({"ethanol": "CCO", "propanol": "CCCO"}, n_bits=64)
    >>> features.fit_transform(["ethanol", "propanol"]).shape  # doctest: +SKIP
    (2, 64)
    """

    __metadata_request__fit = {"names": UNUSED}
    __metadata_request__transform = {"names": UNUSED}

    def __init__(
        self, smiles, *, radius: int = 2, n_bits: int = 2048, pharmacophores: bool = True
    ) -> None:
        self.smiles = smiles
        self.radius = radius
        self.n_bits = n_bits
        self.pharmacophores = pharmacophores

    def fit(self, names, y=None):
        """Check that the structures of these compounds can be read.

        Parameters
        ----------
        names : array-like of shape (n_names,)
            Names of compounds.
        y : None
            Not used.

        Returns
        -------
        self : CompoundFingerprints
            The fitted transformer.

        Raises
        ------
        ImportError
            If RDKit is missing.
        ValueError
            If a compound has no structure, or one that RDKit cannot read.
        """
        check_integer(self.radius, "radius", 0)
        check_integer(self.n_bits, "n_bits", 1)
        self._molecules(as_names(names))
        self.n_features_out_ = self.n_bits
        return self

    def transform(self, names) -> np.ndarray:
        """Counts of substructures.

        Parameters
        ----------
        names : array-like of shape (n_names,)
            Names of compounds.

        Returns
        -------
        features : ndarray of shape (n_names, n_bits) and dtype float64
            A row for each name.

        Raises
        ------
        ValueError
            If a compound has no structure, or one that RDKit cannot read.
        """
        check_is_fitted(self)
        molecules = self._molecules(as_names(names))
        _, generators, _ = _rdkit()
        options = {"radius": self.radius, "fpSize": self.n_bits}
        if self.pharmacophores:
            options["atomInvariantsGenerator"] = generators.GetMorganFeatureAtomInvGen()
        generator = generators.GetMorganGenerator(**options)
        counts = [generator.GetCountFingerprintAsNumPy(molecule) for molecule in molecules]
        return np.array(counts, dtype=np.float64).reshape(len(counts), self.n_bits)

    def _molecules(self, names):
        known = _by_name(self.smiles, "smiles")
        chemistry, _, logs = _rdkit()
        missing = [name for name in names if not isinstance(known.get(name), str)]
        if missing:
            raise ValueError(
                f"Compounds without a structure in `smiles`: {listed(missing, 10)}. Give one, or "
                "leave their cells out."
            )
        with logs.BlockLogs():  # the error below says it
            molecules = [chemistry.MolFromSmiles(known[name]) for name in names]
        bad = [f"{n} ({known[n]})" for n, m in zip(names, molecules, strict=True) if m is None]
        if bad:
            raise ValueError(f"RDKit cannot read the structures of {listed(bad, 5)}.")
        return molecules


def _rdkit():
    """Modules of RDKit: molecules, fingerprints and logs."""
    try:
        from rdkit import Chem, rdBase
        from rdkit.Chem import rdFingerprintGenerator
    except ImportError as error:
        raise ImportError(
            "fingerprints need RDKit: pip install 'skpert[compounds]', or give a table of features"
        ) from error
    return Chem, rdFingerprintGenerator, rdBase


def _by_name(values, what):
    """Dict by name as text, from a mapping or a Series."""
    _check_by_name(values, what)
    return {text(name): value for name, value in values.items()}


def _check_by_name(values, what):
    if not isinstance(values, (Mapping, pd.Series)):
        raise ValueError(
            f"{what} must be a mapping or Series by name, got a {type(values).__name__}"
        )
