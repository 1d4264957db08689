"""Whether every seed finds the known biology of a real screen, and in what time.

::

    python -m benchmarks.svae known_biology papalexi2021_thp1_crispr.h5ad --split split.npz

The screen is that of Papalexi et al. 2021 (25 knock-outs in THP-1 cells). IFNGR1, IFNGR2, JAK2
and STAT1 are one pathway and should share a latent; IRF1 is downstream of it and should have a
target; SMAD4 belongs to another; eight knock-outs move no gene detectably and should have no
target. ``SVAEPlus(random_state=seed)``, nothing else set, is fitted, and ``VAE`` beside it; the
split holds rows ``train``, ``val`` and ``test`` (the first two are given to ``fit``, which takes a
tenth of them to choose the epoch; without a file a fifth of the cells is tested on). Scores are
IWELBO(100) on the test cells, nats per cell.
"""

import time
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from skpert import VAE, SVAEPlus
from skpert.datasets import load_screen

from .. import runner
from ..command import add_csv, number_or_auto

PATHWAY = ["IFNGR1", "IFNGR2", "JAK2", "STAT1"]
OTHER, DOWNSTREAM = "SMAD4", "IRF1"
SILENT = ["ATF2", "CAV1", "CD86", "ETV7", "IRF7", "MARCH8", "PDCD1LG2", "STAT5A"]


def score(method, seed, screen, train, test, n_latent):
    """Row of the table; biology for the model with targets."""
    model = method(n_latent=n_latent, random_state=seed)
    start, cpu = time.perf_counter(), time.process_time()
    model.fit(screen.X[train], screen.A[train])
    row = {
        "method": method.__name__,
        "seed": seed,
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "epochs": model.n_iter_,
        "n_latent": model.n_latent_,
        "iwelbo": model.score(screen.X[test], screen.A[test]),
    }
    return row | biology(model) if hasattr(model, "mask_") else row


def biology(model):
    """Which of the known facts the targets show."""
    targets = model.targets_
    strongest = targets.abs().idxmax(axis=1).where((targets != 0).any(axis=1))
    shared = set(strongest[PATHWAY])
    calls = targets[(targets != 0).any(axis=1)]
    return {
        "pathway_on_one": len(shared) == 1 and not strongest[PATHWAY].isna().any(),
        "downstream": pd.notna(strongest[DOWNSTREAM]),
        "other_elsewhere": pd.notna(strongest[OTHER]) and strongest[OTHER] not in shared,
        "silent_with_targets": ", ".join(name for name in SILENT if targets.loc[name].any()),
        "targets": "; ".join(
            f"{name} " + ", ".join(f"{k[8:]}:{v:+.2f}" for k, v in row[row != 0].items())
            for name, row in calls.iterrows()
        ),
    }


def add_arguments(parser):
    """Options of the command line."""
    add = parser.add_argument
    add("path", type=Path, help="the screen, counts and labels")
    add("--split", type=Path, help=".npz with rows train, val and test")
    add("--seeds", type=int, nargs="+", default=list(range(5)), help="which, not how many")
    add("--latent", type=number_or_auto, default="auto", help="default %(default)s")
    add_csv(parser)


def run(args):
    """Fit every seed and print what was found."""
    screen = load_screen(args.path)
    if args.split:
        rows = np.load(args.split)
        train, test = np.concatenate([rows["train"], rows["val"]]), rows["test"]
    else:
        cells = np.arange(len(screen.A))
        train, test = train_test_split(cells, test_size=0.2, stratify=screen.A, random_state=0)
    table = []
    for seed in args.seeds:
        for method in (SVAEPlus, VAE):
            table.append(score(method, seed, screen, train, test, args.latent))
            print(table[-1], flush=True)
    runner.write(table, args.csv)
    table = pd.DataFrame(table)
    print(table.groupby("method")[["iwelbo", "seconds", "cpu_seconds"]].agg(["mean", "max"]))
    found = table.dropna(subset="pathway_on_one")
    print(f"pathway on one latent: {int(found['pathway_on_one'].sum())} of {len(found)} seeds")
    print(f"{DOWNSTREAM} with a target: {int(found['downstream'].sum())}")
    print(f"{OTHER} on another: {int(found['other_elsewhere'].sum())}")
    print(f"no target for silent knock-outs: {(found['silent_with_targets'] == '').sum()}")
