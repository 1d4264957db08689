"""Predicted power and the realised share of calls, with 20 to 400 cells per perturbation.

::

    python -m benchmarks.planning power papalexi2021.h5ad --refits 1
    python -m benchmarks.planning power                    # simulated screens, by default

The edges of a model of the whole screen are the truth. ``planning.power`` predicts from these
cells, or from a pilot of ``--pilot`` cells per perturbation that is all it sees, which share of
them a screen of so many cells calls. Realised is what ``planning.subsample`` calls: of the cells
alone, in the latent space of the whole screen (``--draws``), and in fits of their own
(``--refits``). Errors are in points, predicted less realised: that of the share of edges that is
called again, and that of all calls over the number of edges. The former is too low where most
cells of the screen are in the subsample, whose edges are then those of the same cells.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from skpert import SVAEPlus
from skpert.datasets import load_screen, make_sparse_shift
from skpert.planning import power, subsample

from .. import runner
from ..command import add_csv

SIMULATED = {
    "n_perturbations": 30,
    "n_cells_per_perturbation": 450,
    "n_control_cells": 900,
    "n_latent": 5,
    "n_targets": (1, 2),
    "effect_size": 0.8,
    "effect_scale": 0.3,
    "library_size": 2000,
}


def predicted(model, X, A, edges, n_cells, n_tables, seed):
    """Predicted share of these edges that is called, and number of all calls, by cells."""
    plan = power(model, X, A, n_cells=n_cells, n_draws=n_tables, random_state=seed)
    table = plan.screen.set_index(["perturbation", "latent"])
    wanted = edges.stack()
    wanted = wanted[wanted].index
    share = table.loc[table.index.isin(wanted)].groupby("n_cells")["power"].mean()
    return share, table.groupby("n_cells")["power"].sum()


def from_pilot(X, A, n_pilot, n_cells, n_tables, seed):
    """Predicted number of calls from a pilot alone, as a share of its own probable edges."""
    rng = np.random.default_rng(seed)
    order = pd.Series(rng.permutation(len(A)))
    names = pd.Series(A[order])
    share = n_pilot / names[names != "control"].value_counts().median()
    most = np.where(names == "control", share * (names == "control").sum(), n_pilot)
    kept = order[(names.groupby(names).cumcount() < most).to_numpy()].to_numpy()
    model = SVAEPlus(random_state=seed).fit(X[kept], A[kept])
    plan = power(model, X[kept], A[kept], n_cells=n_cells, n_draws=n_tables, random_state=seed)
    sure = plan.screen[plan.screen["probability"] > 0.5]
    calls = plan.screen.groupby("n_cells")["power"].sum()
    return sure.groupby("n_cells")["power"].mean(), calls


def rows(name, X, A, args, seed):
    """Rows of the CSV file, one per number of cells."""
    model = SVAEPlus(random_state=seed).fit(X, A)
    edges = model.targets() != 0
    share, calls = predicted(model, X, A, edges, args.cells, args.tables, seed)
    options = {"n_cells": args.cells, "random_state": seed}
    alone = subsample(model, X, A, refit=False, n_draws=args.draws, **options)
    by = alone.groupby("size")
    found = pd.DataFrame({"predicted": share, "realised": by["recovered"].mean()})
    found["realised_error"] = by["recovered"].std() / np.sqrt(args.draws)
    found["calls_predicted"], found["calls"] = calls, by["n_called"].mean()
    found["agreement"] = by["agreement"].mean()
    if args.refits:
        refitted = subsample(model, X, A, n_draws=args.refits, **options).groupby("size")
        found["refitted"] = refitted["recovered"].mean()
        found["calls_refitted"] = refitted["n_called"].mean()
    if args.pilot:
        share, calls = from_pilot(X, A, args.pilot, args.cells, args.tables, seed)
        found["predicted_pilot"], found["calls_pilot"] = share, calls
    keys = {"screen": name, "seed": seed, "n_edges": int(edges.to_numpy().sum())}
    return found.rename_axis("n_cells").reset_index().assign(**keys)


def add_arguments(parser):
    """Options of the command line."""
    add = parser.add_argument
    add("path", type=Path, nargs="?", help="a screen; simulated ones without it")
    add("--seeds", type=int, nargs="+", default=[0], help="which, not how many")
    add("--cells", type=int, nargs="+", default=[20, 50, 100, 200, 400], help="per perturbation")
    add("--draws", type=int, default=10, help="of cells; default %(default)s")
    add("--refits", type=int, default=0, help="draws of cells to fit; default %(default)s")
    add("--tables", type=int, default=20, help="draws of planning.power; default %(default)s")
    add("--pilot", type=int, default=0, help="cells of a pilot; default: none")
    add_csv(parser)


def run(args):
    """Compare prediction and subsamples, one seed after another."""
    parts = []
    for seed in args.seeds:
        if args.path is None:
            screen, name = make_sparse_shift(**SIMULATED, random_state=seed), "simulated"
        else:
            screen, name = load_screen(args.path), args.path.stem
        parts.append(rows(name, screen.X, screen.A, args, seed))
        table = parts[-1]
        table["error"] = 100 * (table["predicted"] - table["realised"])
        gap = table["calls_predicted"] - table["calls"]
        table["error_calls"] = 100 * gap / table["n_edges"]
        print(table.round(3).to_string(index=False), flush=True)
        runner.write(pd.concat(parts), args.csv)
