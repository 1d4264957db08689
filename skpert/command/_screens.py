"""Screens that a command reads, and files that it writes."""

import os
from pathlib import Path

import numpy as np
import pandas as pd

from .._input.values import listed, text
from ..datasets import load_screen
from ..preprocessing import HighlyVariableGenes


def read(options):
    """AnnData of the cells that have a label, with the counts as ``X``."""
    anndata = require("anndata", "data")
    screen = load_screen(options.screen, perturbation=options.perturbation, layer=options.layer)
    obs = screen.obs.copy()
    obs.index = obs.index.astype(str)
    var = pd.DataFrame(index=pd.Index(screen.feature_names).astype(str))
    adata = anndata.AnnData(screen.X, obs=obs, var=var)
    labelled = pd.notna(screen.A)
    if not labelled.all():
        adata = adata[labelled].copy()
    _check_control(adata.obs[options.perturbation], options)
    if options.n_top_genes is not None:
        kept = HighlyVariableGenes(n_top_genes=options.n_top_genes).fit(adata).get_support()
        adata = adata[:, kept].copy()
    return adata


def write(adata, path):
    """Write an AnnData as an h5ad file; columns of several types are written as text."""
    for column in adata.obs.select_dtypes(object):
        adata.obs[column] = adata.obs[column].map(text, na_action="ignore")
    adata.write_h5ad(path, compression="gzip")


class Output:
    """Folder for files of these names; ValueError if it cannot take them.

    It is made by ``make``, and files of an earlier run are removed by ``clear``, so that none of
    them is lost, or stays beside new ones, when something goes wrong.
    """

    def __init__(self, path, names, overwrite):
        self.folder, self.names = Path(os.path.expanduser(path)), names
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"output {str(self.folder)!r} is a file: name a folder")
        there = [name for name in names if (self.folder / name).exists()]
        if there and not overwrite:
            raise ValueError(
                f"output {str(self.folder)!r} has {listed(there, 5)} already: name another "
                "folder, or replace them with --overwrite"
            )

    def check_keeps(self, path):
        """ValueError if this file, which is read, would be replaced."""
        path = Path(os.path.expanduser(path)).resolve()
        if path in [(self.folder / name).resolve() for name in self.names]:
            raise ValueError(f"{path.name!r} would be replaced by results: name another folder")

    def make(self):
        """Make the folder, and see whether it can be written to."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror
            raise ValueError(f"output {str(self.folder)!r} cannot be made: {reason}") from error
        if not os.access(self.folder, os.W_OK):
            raise ValueError(f"output {str(self.folder)!r} cannot be written to: name another")

    def clear(self):
        """Remove files of these names."""
        for name in self.names:
            (self.folder / name).unlink(missing_ok=True)

    def tell(self, names):
        """Print what was written."""
        print("written: " + ", ".join(str(self.folder / name) for name in names))


def require(name, extra):
    """Import a library; ImportError that names the extra it comes with."""
    try:
        return __import__(name)
    except ImportError as error:
        message = f"this needs {name}: pip install 'skpert[{extra}]'"
        raise ImportError(message) from error


def _check_control(labels, options):
    """ValueError if a control was named and no cell has that label."""
    found = sorted({text(label) for label in labels.unique()})
    if options.control is not None and text(options.control) not in found:
        raise ValueError(
            f"no cell has the label {options.control!r} of --control in column "
            f"{options.perturbation!r}, which has {listed(found, 8)}"
        )


def check_environments(obs, options):
    """ValueError if a column of ``--environment`` is not there."""
    for column in options.environment or ():
        if column not in obs:
            raise ValueError(
                f"{options.screen} has no column {column!r} of --environment: it has "
                f"{listed(list(obs.columns), 8)}"
            )


def size(adata, labels, control):
    """How many cells, genes and perturbations there are."""
    n_labels = len(np.setdiff1d(pd.unique(labels.map(text)), [text(control)]))
    return f"{adata.n_obs:,} cells, {adata.n_vars:,} genes, {n_labels:,} perturbations"
