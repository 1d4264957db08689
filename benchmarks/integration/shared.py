"""Cells, models and tables of the benchmarks of integration."""

import importlib.util
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline

from skpert import NFIVAE, VAE, InVAE
from skpert.datasets import load_screen
from skpert.preprocessing import LogNormalize

from ..command import add_job_options, add_model_options
from ..runner import fingerprint

PCS = 10  # as many as latents
FACTORIZED, RAW = "InVAE, factorized", "InVAE, not whitened"
METHODS = ("PCA", "VAE", "iVAE", "NFIVAE", "InVAE", FACTORIZED, RAW, "scVI")
BLOCKS = ("InVAE", FACTORIZED, RAW)  # methods with two rows: invariant latents, and all
WHOLE = ", all latents"


class Covered(NamedTuple):
    """Cells with their covariates."""

    X: Any  # (n_cells, n_genes) counts
    obs: pd.DataFrame  # (n_cells, n_columns) the columns of both groups, of text
    invariant: list[str]
    spurious: list[str]

    def labels(self):
        """Biological labels by name; the primary ones, of all invariant columns, come first."""
        names = {" x ".join(self.invariant): joint(self.obs[self.invariant])}
        return names | {name: joint(self.obs[[name]]) for name in self.invariant[:1]}

    def environment(self):
        """Label of each cell's environment."""
        return joint(self.obs[self.spurious])

    def take(self, index):
        """These cells."""
        return self._replace(X=self.X[index], obs=self.obs.iloc[index])

    def described(self):
        """Short text that distinguishes these data from others."""
        print_ = fingerprint(self.X.data, *(self.obs[name].to_numpy() for name in self.obs))
        return f"{print_}, {'+'.join(self.invariant)} | {'+'.join(self.spurious)}"


def joint(frame):
    """Columns of text joined, (n_cells,) object."""
    return frame.astype(str).agg(" ".join, axis=1).to_numpy(dtype=object)


def read(path, invariant, spurious):
    """Cells of an ``.h5ad`` file; of invariant columns those that are absent or constant go.

    Raises
    ------
    ValueError
        If no invariant column is left, or a spurious one is absent or constant.
    """
    data = load_screen(path, perturbation=invariant[0])
    varying = {name for name in data.obs if data.obs[name].nunique() > 1}
    kept = [name for name in invariant if name in varying]
    if not kept or not varying.issuperset(spurious):
        raise ValueError(
            f"{path} needs a column of {invariant} and all of {spurious} with two values or more; "
            f"of its columns these have them: {sorted(varying)}"
        )
    obs = data.obs[[*kept, *spurious]].astype(str).astype(object)
    return Covered(data.X, obs.reset_index(drop=True), kept, list(spurious))


def model(method, covariates, seed, options):
    """Unfitted estimator of a row; ``covariates`` are cells, of which names are taken."""
    first, second = covariates.invariant, covariates.spurious
    common = {"random_state": seed, **options}
    both = {"invariant": first, "spurious": second or None}
    if method == "VAE":
        return VAE(**common)
    if method == "iVAE":
        return InVAE(invariant=first + second, prior="factorized", n_spurious=0, **common)
    if method == "NFIVAE":
        return NFIVAE(invariant=first + second, **common)
    prior = "factorized" if method == FACTORIZED else "nonfactorized"
    return InVAE(**both, prior=prior, whiten=method != RAW, **common)


def embeddings(method, cells, new, seed, options):
    """Latents of new cells, of which models are shown the expression only.

    Parameters
    ----------
    method : str
        One of ``METHODS``.
    cells : Covered
        What the model is fitted to. Covariates that are missing are hidden from it.
    new : Covered
        Cells to be embedded; scVI reads expression only, too.
    seed : int
        Of the model.
    options : dict
        Parameters of our models, ``n_latent`` among them.

    Returns
    -------
    latents : dict of str to ndarray of shape (n_new_cells, n_features)
        By row of the table.
    seconds : float
        What fitting took.
    """
    start = time.perf_counter()
    if method == "scVI":
        from ..peers.scvi import embedded  # needs the extra

        Z = embedded(cells, new, seed, options)
        return {method: Z}, time.perf_counter() - start
    if method == "PCA":
        n_pcs = min(PCS, *(size - 1 for size in cells.X.shape))
        fitted = make_pipeline(LogNormalize(), PCA(n_pcs, random_state=seed)).fit(cells.X)
    else:
        any_labels = np.resize(["control", "other"], len(cells.obs))  # VAE does not use them
        design = any_labels if method == "VAE" else cells.obs
        fitted = model(method, cells, seed, options).fit(cells.X, design)
    seconds = time.perf_counter() - start
    if method not in BLOCKS:
        return {method: fitted.transform(new.X)}, seconds
    names = {"invariant": method, "all": method + WHOLE}
    return {
        row: fitted.set_params(latent=latent).transform(new.X) for latent, row in names.items()
    }, seconds


def available(methods):
    """The methods that can be run here; says which cannot."""
    if "scVI" in methods and importlib.util.find_spec("scvi") is None:
        print("scVI is left out: it needs the extra `bench` (pip install 'skpert[bench]')")
        return [method for method in methods if method != "scVI"]
    return list(methods)


def halves(cells, seed):
    """Random half of each cell, 0 or 1; strata of labels and environment differ by one cell."""
    random = np.random.default_rng(seed)
    _, strata = np.unique(joint(cells.obs), return_inverse=True)
    key = random.permutation(strata.max() + 1)[strata]  # pairs of odd cells change with the seed
    order = random.permutation(len(key))
    order = order[np.argsort(key[order], kind="stable")]
    half = np.empty(len(key), dtype=int)
    half[order] = np.arange(len(key)) % 2
    return half


def add_options(parser, methods=METHODS):
    """Options of all parts that run jobs."""
    parser.add_argument("--methods", nargs="+", choices=methods, default=list(methods))
    parser.add_argument("--starts", type=int, default=1, help="n_init of our models")
    add_model_options(parser, latent=10)
    add_job_options(parser, range(5))


def add_file(parser):
    """The file and its columns."""
    add = parser.add_argument
    add("file", type=Path, help="counts in .h5ad format")
    add(
        "--invariant",
        nargs="+",
        default=["cell_type", "perturbation"],
        help="columns of biology; absent and constant ones are left out; default %(default)s",
    )
    add("--spurious", nargs="+", default=["donor"], help="of environments; default %(default)s")


def options_of(args):
    """Parameters of our models that the command line sets."""
    options = {"n_latent": args.latent, "max_epochs": args.epochs}
    return options if args.starts == 1 else options | {"n_init": args.starts}


def mean_and_deviation(table, metrics, keys=("estimator",)):
    """Text of mean and standard deviation over seeds, after all else is averaged within one."""
    per_seed = table.groupby([*keys, "seed"], sort=False)[list(metrics)].mean()
    groups = per_seed.groupby(list(keys), sort=False)
    mean, deviation = groups.mean(), groups.std()
    text = mean.map("{:.3f}".format) + " ± " + deviation.map("{:.3f}".format)
    return text.mask(mean.isna(), "-").replace(r" ± nan", "", regex=True)


def print_differences(table, metrics, references):
    """Each estimator less a reference, seed by seed: mean, deviation, and seeds where higher."""
    per_seed = table.groupby(["estimator", "seed"], sort=False)[list(metrics)].mean()
    found = per_seed.index.unique("estimator")
    for reference in found.intersection(references, sort=False):
        print(f"\nless {reference}, by seed: mean ± standard deviation, seeds where higher")
        for name in found.drop(reference):
            less = (per_seed.loc[name] - per_seed.loc[reference]).dropna()
            texts = [f"{metric} {_summary(less[metric])}" for metric in metrics]
            print(f"  {name:32} {'; '.join(texts)}")


def _summary(values):
    """Mean, standard deviation if there is one, and how many are above 0."""
    deviation = f" ± {values.std():.3f}" if len(values) > 1 else ""
    return f"{values.mean():+.3f}{deviation}, {(values > 0).sum()} of {len(values)}"
