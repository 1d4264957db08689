"""Batches of perturbations chosen by features, in hindsight.

::

    python -m benchmarks.planning next effects_norman2019.csv.gz   # pairs, from singles' effects
    python -m benchmarks.planning next effects_norman2019.csv.gz --gmt sets.gmt  # singles
    python -m benchmarks.planning next dagher2023_nelisa.h5ad

The pool is the pairs of a table of effects (names ``A_B``; features: the sum of the effects of
their parts), its singles (features: gene sets), or the compounds of wells (features: fingerprints
of hashed pieces of SMILES). After ``--start`` random ones, batches of ``--batch`` are chosen as k
centres, by log-determinant, by the total variance that is left, by variance alone, or at random;
Gaussian process regression on the same features predicts all that were not measured. The error is
over that of their mean; the area under its curve, mean over batches, is compared with random
choice by pairs of repeats.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist, pdist
from scipy.stats import t as student

from skpert.planning import next_perturbations
from skpert.preprocessing import read_gmt

from .. import runner
from ..command import add_csv

NOISE = 0.3  # variance over that of effects
HASHES, PIECES = 512, (2, 3, 4)  # columns of a fingerprint, and lengths of pieces of SMILES
SEED = 7919  # of the hash
STRATEGIES = "k_centre", "determinant", "total", "variance", "random"


def pairs_of_table(path):
    """Features, the sum of parts, and effects of the pairs of a table."""
    table = pd.read_csv(path, index_col=0).select_dtypes("number")
    parts = {name: str(name).split("_") for name in table.index}
    pairs = [n for n, of in parts.items() if len(of) == 2 and set(of) <= set(table.index)]
    features = pd.DataFrame([table.loc[parts[n]].sum().to_numpy() for n in pairs], index=pairs)
    return features, table.loc[pairs]


def singles_of_table(path, gmt):
    """Gene sets of each single perturbation, rows of unit length, and its effects."""
    table = pd.read_csv(path, index_col=0).select_dtypes("number")
    singles = [name for name in table.index if "_" not in str(name)]
    sets = [set(genes) for genes in read_gmt(gmt).values()]
    member = np.array([[name in genes for genes in sets] for name in singles], dtype=float)
    member = member[:, member.sum(0) > 1]
    member /= np.maximum(np.linalg.norm(member, axis=1, keepdims=True), 1e-9)
    return pd.DataFrame(member, index=singles), table.loc[singles]


def compounds_of_wells(path):
    """Fingerprints and mean effects of the compounds of a screen of wells."""
    from anndata import read_h5ad

    adata = read_h5ad(path)
    X = adata.X.toarray() if hasattr(adata.X, "toarray") else np.asarray(adata.X)
    spread = X.std(0) + 1e-9
    labels = adata.obs["perturbation"].astype(str).to_numpy()
    mean = pd.DataFrame(X / spread).groupby(labels).mean()
    effects = mean.drop("control") - mean.loc["control"]
    column = next(c for c in adata.obs if c.lower() == "smiles")
    smiles = pd.Series(adata.obs[column].astype(str).to_numpy()).groupby(labels).first()
    return fingerprints(smiles.loc[effects.index]), effects


def fingerprints(smiles):
    """Hashed pieces of SMILES, rows of unit length."""
    counts = np.zeros((len(smiles), HASHES))
    for row, text in zip(counts, smiles, strict=True):
        for length in PIECES:
            for i in range(len(text) - length + 1):
                piece = sum(ord(c) * SEED**j for j, c in enumerate(text[i : i + length]))
                row[piece % HASHES] = 1
    counts /= np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-9)
    return pd.DataFrame(counts, index=smiles.index)


def curve(features, effects, strategy, args, seed):
    """Error of all that were not measured, after each batch."""
    rng = np.random.default_rng(seed)
    names = features.index.to_numpy()
    measured = list(rng.permutation(names)[: args.start])
    distance = cdist(features, features)
    scale = np.median(pdist(features.to_numpy()))
    kernel, errors = np.exp(-(distance**2) / (2 * scale**2)), []
    while len(measured) + args.batch < len(names):
        known = features.index.get_indexer(measured)
        errors.append(_error(kernel, effects.to_numpy(), known))
        options = {"measured": measured, "n": args.batch, "noise": NOISE, "length_scale": scale}
        batch = next_perturbations(
            features, strategy=strategy, sep=None, random_state=int(rng.integers(2**31)), **options
        )
        measured += list(batch.index)
    return errors


def _error(kernel, effects, known):
    """Mean squared error of the rest, over the squared distance of all from their mean."""
    rest = np.setdiff1d(np.arange(len(effects)), known)
    mean = effects[known].mean(0)
    covariance = kernel[np.ix_(known, known)] + NOISE * np.eye(len(known))
    predicted = kernel[np.ix_(rest, known)] @ np.linalg.solve(covariance, effects[known] - mean)
    per_row = np.square(effects[rest] - mean - predicted).sum(1).mean()
    return float(per_row / np.square(effects - effects.mean(0)).sum(1).mean())


def add_arguments(parser):
    """Options of the command line."""
    add = parser.add_argument
    add("path", type=Path, help="a table of effects, or an .h5ad of wells")
    add("--gmt", type=Path, help="gene sets: singles of the table, not pairs")
    add("--repeats", type=int, default=20, help="of the first batch; default %(default)s")
    add("--start", type=int, default=10, help="measured before; default %(default)s")
    add("--batch", type=int, default=10, help="size; default %(default)s")
    add_csv(parser)


def run(args):
    """Choose, predict, and print areas with intervals."""
    if args.gmt is not None:
        features, effects = singles_of_table(args.path, args.gmt)
    else:
        read = compounds_of_wells if args.path.suffix == ".h5ad" else pairs_of_table
        features, effects = read(args.path)
    print(f"{args.path.name}: {len(features)} perturbations, {features.shape[1]} features")
    data, rows = args.path.name.split(".")[0] + " singles" * (args.gmt is not None), []
    for repeat in range(args.repeats):
        for strategy in STRATEGIES:
            errors = curve(features, effects, strategy, args, repeat)
            keys = {"data": data, "repeat": repeat, "strategy": strategy, "start": args.start}
            rows.append(keys | {"batch": args.batch, "error": round(float(np.mean(errors)), 5)})
    table = pd.DataFrame(rows)
    runner.replace(table, args.csv, "data")
    area = table.pivot(index="repeat", columns="strategy", values="error")
    print(area.mean().round(4).to_string())
    for other in STRATEGIES[1:]:
        gain = area[other] - area[STRATEGIES[0]]
        half = student.ppf(0.975, len(gain) - 1) * gain.std() / np.sqrt(len(gain))
        print(f"{STRATEGIES[0]} beats {other} by {gain.mean():.4f} ± {half:.4f}")
