"""Real nulls: non-targeting guides of a real screen as perturbations of their own.

::

    python -m benchmarks.svae nulls schraivogel2020_tapseq_86guides.h5ad          # ten draws
    python -m benchmarks.svae nulls schraivogel2020_tapseq_86guides.h5ad --draws 2

The file is an AnnData with the guide of each cell in ``obs["guide"]``; names of non-targeting
guides hold ``--null`` ("non-targeting"). In each draw ten of these guides are the control, and
every other guide, non-targeting ones included, is a perturbation.
``SVAEPlus(random_state=draw)``, nothing else set, is fitted, and targets are called at a false
discovery rate of 5 %: of non-targeting guides none should have one.
"""

import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from skpert import SVAEPlus

from ..command import add_csv

N_CONTROL = 10  # guides


def score(draw, adata, guides, is_null, n_control):
    """Row of the table."""
    random = np.random.default_rng(draw)
    nulls = np.unique(guides[is_null])
    control = random.choice(nulls, n_control, replace=False)
    A = np.where(np.isin(guides, control), "control", guides)
    start = time.process_time()
    model = SVAEPlus(sep=None, random_state=draw).fit(adata.X, A)
    with_target = model.targets(fdr=0.05).any(axis=1)
    tested = np.setdiff1d(nulls, control)
    others = with_target.index.difference(tested)
    return {
        "draw": draw,
        "n_latent": model.n_latent_,
        "n_nulls": len(tested),
        "nulls_with_target": int(with_target[tested].sum()),
        "n_guides": len(others),
        "guides_with_target": int(with_target[others].sum()),
        "targets": "; ".join(others[with_target[others]]),
        "cpu_seconds": round(time.process_time() - start, 1),
    }


def add_arguments(parser):
    """Options of the command line."""
    add = parser.add_argument
    add("screen", type=Path, help="an .h5ad file")
    add("--null", default="non-targeting", help="what names of non-targeting guides hold")
    add("--guide", default="guide", help="column of obs with a guide for each cell")
    add("--draws", type=int, default=10)
    add("--controls", type=int, default=N_CONTROL, help="guides that are the control")
    add_csv(parser)


def run(args):
    """Fit one draw after another, and print each."""
    from anndata import read_h5ad

    adata = read_h5ad(args.screen)
    guides = adata.obs[args.guide].astype(str).to_numpy()
    known = ~np.isin(guides, ["nan", "unassigned", "None", ""])
    adata, guides = adata[known].copy(), guides[known]
    is_null = np.char.find(guides.astype(str), args.null) >= 0
    rows = []
    for draw in range(args.draws):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            rows.append(score(draw, adata, guides, is_null, args.controls))
        print(pd.Series(rows[-1]).to_string(), flush=True)
        pd.DataFrame(rows).to_csv(args.csv, index=False)
    table = pd.DataFrame(rows)
    print(f"non-targeting guides with a target: {table['nulls_with_target'].tolist()}")
    print(f"other guides with a target: {table['guides_with_target'].tolist()}")
