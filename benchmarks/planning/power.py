"""Predicted power and the realised share of calls, with 20 to 400 cells per perturbation.

::

    python -m benchmarks.planning power papalexi2021.h5ad --pilot 100
    python -m benchmarks.planning power                    # simulated screens, by default

``planning.power`` predicts which share of edges a screen of so many cells calls;
``planning.subsample`` says which it does call, in the latent space of the same model. There are
three comparisons (column ``compared``):

- "the same cells": the edges of a model of the whole screen, called from subsamples of its own
  cells (``--draws``) and by fits of their own (``--refits``). The more of its cells a subsample
  has, the more its sampling errors are those that made the edges, and the realised share tends
  to 1 whatever the power of a new screen is.
- "other cells": the cells are divided (``--divisions``) into a pilot, which calls edges and is all
  that ``power`` sees, and others, of which subsamples are taken, in the latent space of the whole.
- "pilot of N": a model of N cells per perturbation that has seen nothing else, and other cells.

Errors are in points, predicted less realised: that of the share of edges that is called again, and
that of all calls over the number of edges.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from skpert import SVAEPlus, load, save
from skpert.datasets import load_screen, make_sparse_shift
from skpert.planning import power, subsample
from skpert.sparsity.edges import edges_at_fdr

from .. import runner
from ..command import add_csv

FDR = 0.05
LEAST_PILOT = 1 / 3  # share of cells of a division that are its pilot
UNKNOWN = "unassigned"  # label of cells whose perturbation is not known; they are left out
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


def planned(model, X, A, args, seed):
    """Power of each edge, from these cells as a pilot, and their own edges."""
    options = {"n_cells": args.cells, "n_draws": args.tables, "random_state": seed}
    table = power(model, X, A, **options).screen
    sure = table.drop_duplicates(["perturbation", "latent"])
    sure = sure.pivot(index="perturbation", columns="latent", values="probability")
    edges = sure.where(edges_at_fdr(sure.to_numpy(), FDR), 0) > 0
    return table.set_index(["perturbation", "latent"]), edges


def share_of(table, edges):
    """Predicted share of these edges that is called, by cells."""
    wanted = edges.stack()
    wanted = wanted[wanted].index
    return table.loc[table.index.isin(wanted)].groupby("n_cells")["power"].mean()


def of_whole(model, X, A, args, seed):
    """Edges of a model of all cells, in subsamples of the same cells."""
    edges = model.targets(fdr=FDR) != 0
    table = planned(model, X, A, args, seed)[0]
    options = {"n_cells": args.cells, "random_state": seed}
    alone = subsample(model, X, A, refit=False, n_draws=args.draws, **options)
    by = alone.groupby("size")
    found = pd.DataFrame({"predicted": share_of(table, edges), "realised": by["recovered"].mean()})
    found["realised_error"] = by["recovered"].std() / np.sqrt(args.draws)
    found["calls_predicted"] = table.groupby("n_cells")["power"].sum()
    found["calls"], found["agreement"] = by["n_called"].mean(), by["agreement"].mean()
    found["n_edges"] = int(edges.to_numpy().sum())
    if args.refits:
        refitted = subsample(model, X, A, n_draws=args.refits, **options).groupby("size")
        found["refitted"] = refitted["recovered"].mean()
        found["calls_refitted"] = refitted["n_called"].mean()
    return found


def of_new_cells(model, X, A, is_pilot, args, seed):
    """Edges that cells of a pilot call, in subsamples of all other cells.

    An edge counts where its perturbation has as many other cells as are asked for.
    """
    table, edges = planned(model, X[is_pilot], A[is_pilot], args, seed)
    X, A = X[~is_pilot], A[~is_pilot]
    n_each = pd.Series(A).value_counts().reindex(edges.index, fill_value=0)
    rows = {}
    for n_cells in args.cells:
        counted = edges & (n_each >= n_cells).to_numpy()[:, None]
        options = {
            "n_cells": n_cells,
            "n_draws": args.draws,
            "random_state": seed,
            "edges": counted,
        }
        again = subsample(model, X, A, refit=False, **options)
        part = table[table["n_cells"] == n_cells]
        rows[n_cells] = {
            "predicted": share_of(part, counted).get(n_cells, np.nan),
            "realised": again["recovered"].mean(),
            "calls_predicted": part["power"].sum(),
            "calls": again["n_called"].mean(),
            "n_edges": int(edges.to_numpy().sum()),
            "n_counted": int(counted.to_numpy().sum()),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def of_other_half(model, X, A, args, seed):
    """Means over divisions of the cells, whose larger part has the most cells asked for."""
    n_each = pd.Series(A)[A != "control"].value_counts().median()
    share = max(1 - max(args.cells) / n_each, LEAST_PILOT)
    parts = []
    for division in range(args.divisions):
        draw = np.random.default_rng([seed, division]).uniform(size=len(A))
        is_pilot = pd.Series(draw).groupby(A).rank(pct=True).to_numpy() <= share
        parts.append(of_new_cells(model, X, A, is_pilot, args, seed))
    return pd.concat(parts).groupby(level=0).mean()


def of_pilot(X, A, args, seed):
    """A model of a pilot that sees nothing else, and cells that it has not seen."""
    kept = pilot_cells(A, args.pilot, seed)
    model = fitted(X[kept], A[kept], args, seed, f"pilot{args.pilot}")
    is_pilot = np.isin(np.arange(len(A)), kept)
    return of_new_cells(model, X, A, is_pilot, args, seed)


def pilot_cells(A, n_pilot, seed):
    """So many random cells of each perturbation, and the same share of control cells."""
    rng = np.random.default_rng(seed)
    order = pd.Series(rng.permutation(len(A)))
    names = pd.Series(A[order])
    share = n_pilot / names[names != "control"].value_counts().median()
    most = np.where(names == "control", share * (names == "control").sum(), n_pilot)
    return order[(names.groupby(names).cumcount() < most).to_numpy()].to_numpy()


def fitted(X, A, args, seed, name):
    """A model of these cells, read from the folder of models if it is there."""
    path = None if args.models is None else args.models / f"{name}_{seed}.skpert"
    if path is not None and path.exists():
        return load(path)
    model = SVAEPlus(random_state=seed).fit(X, A)
    if path is not None:
        save(model, path)
    return model


def rows(name, X, A, args, seed):
    """Rows of the CSV file, one per number of cells and kind of comparison."""
    model = fitted(X, A, args, seed, "whole")
    parts = {
        "the same cells": of_whole(model, X, A, args, seed),
        "other cells": of_other_half(model, X, A, args, seed),
    }
    if args.pilot:
        parts[f"pilot of {args.pilot}"] = of_pilot(X, A, args, seed)
    keys = {"screen": name, "seed": seed}
    tables = [table.assign(compared=kind, **keys) for kind, table in parts.items()]
    return pd.concat(tables).rename_axis("n_cells").reset_index()


def add_arguments(parser):
    """Options of the command line."""
    add = parser.add_argument
    add("path", type=Path, nargs="?", help="a screen; simulated ones without it")
    add("--seeds", type=int, nargs="+", default=[0], help="which, not how many")
    add("--cells", type=int, nargs="+", default=[20, 50, 100, 200, 400], help="per perturbation")
    add("--draws", type=int, default=10, help="of cells; default %(default)s")
    add("--refits", type=int, default=0, help="draws of cells to fit; default %(default)s")
    add("--tables", type=int, default=20, help="draws of planning.power; default %(default)s")
    add("--divisions", type=int, default=5, help="into pilot and other cells; default %(default)s")
    add("--pilot", type=int, default=0, help="cells of a pilot; default: none")
    add("--models", type=Path, help="folder where fitted models are kept and read; default: none")
    add_csv(parser)


def run(args):
    """Compare prediction and subsamples, one seed after another."""
    parts = []
    for seed in args.seeds:
        if args.path is None:
            screen, name = make_sparse_shift(**SIMULATED, random_state=seed), "simulated"
        else:
            screen, name = load_screen(args.path), args.path.stem
        known = screen.A != UNKNOWN
        table = rows(name, screen.X[known], screen.A[known], args, seed)
        table["error"] = 100 * (table["predicted"] - table["realised"])
        gap = table["calls_predicted"] - table["calls"]
        table["error_calls"] = 100 * gap / table["n_edges"].where(table["n_edges"] > 0)
        parts.append(table)
        print(table.round(3).to_string(index=False), flush=True)
        runner.replace(pd.concat(parts), args.csv, "screen")
