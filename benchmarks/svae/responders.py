"""Shares of responders of a real screen beside those of Mixscape, on the same cells.

::

    python -m benchmarks.svae responders papalexi2021_thp1_crispr.h5ad

The screen is that of Papalexi et al. 2021 (25 knock-outs in THP-1 cells), for which Mixscape was
made. ``SVAEPlus(random_state=seed)``, nothing else set, is fitted to all cells, and
``inspection.responders`` gives shares of knock-outs and of guides, by latent states; Mixscape (of
pertpy, see ``benchmarks/peers/mixscape.py``) classifies the cells of a knock-out by its
differentially expressed genes, beside control cells of the same replicate. There is no truth. What
is printed are both shares; how far the two agree on cells, the area under the ROC curve of our
probability for the classes of Mixscape; and correlations of shares over knock-outs and over guides
in which both find a response, and of those of the interferon-gamma chain alone, whose response is
large enough for Mixscape on the genes of this file.
"""

import time
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import roc_auc_score

from skpert import SVAEPlus
from skpert.datasets import load_screen
from skpert.inspection import responders

from .. import runner
from ..command import add_csv
from .known_biology import PATHWAY

MIN_CELLS = 30  # of a guide, to count
OURS = ["n_cells", "share", "lower", "upper", "shift", "detected"]


def rows(model, screen, guides, theirs, seed):
    """A row of the table per knock-out, and per guide."""
    start = time.perf_counter()
    of_genes = responders(model, screen.X, screen.A)
    of_guides = responders(model, screen.X, screen.A, guides=guides)
    cells = of_genes.cells.assign(guide=guides, mixscape=theirs).reset_index(drop=True)
    seconds = round(time.perf_counter() - start, 1)
    parts = []
    for unit, keys in (("knock-out", ["perturbation"]), ("guide", ["perturbation", "guide"])):
        shares = (of_genes if unit == "knock-out" else of_guides).shares[OURS]
        by = cells[cells["perturbation"] != model.control].groupby(keys)
        table = shares.join(by["mixscape"].mean())
        if unit == "knock-out":
            table["area"] = by.apply(_area, include_groups=False)
        parts.append(table.reset_index().assign(unit=unit))
    return pd.concat(parts).assign(seed=seed, seconds=seconds)


def _area(cells):
    """Agreement on the cells of a knock-out."""
    known = cells.dropna(subset="probability")
    if known["mixscape"].nunique() < 2:
        return np.nan
    return roc_auc_score(known["mixscape"], known["probability"])


def print_tables(table):
    """Both shares of each knock-out, means over seeds, and correlations."""
    genes = table[table["unit"] == "knock-out"]
    by = genes.groupby("perturbation")
    shown = by[["n_cells", "share", "lower", "upper", "mixscape", "area"]].mean()
    shown["detected"] = by["detected"].sum().astype(str) + f" of {genes['seed'].nunique()}"
    shown = shown.sort_values("mixscape", ascending=False)
    print(shown.to_string(float_format="{:.3f}".format, na_rep="-"))
    for (seed, unit), part in table.groupby(["seed", "unit"]):
        both = part[part["detected"] & (part["mixscape"] > 0) & (part["n_cells"] >= MIN_CELLS)]
        agreed = (part["detected"] == (part["mixscape"] > 0)).sum()
        text = f"seed {seed}, {unit}s: both find a response in {len(both)}, agree on whether there"
        text += f" is one in {agreed} of {len(part)}"
        print(text)
        print(f"    shares of these: {_compared(both)}")
        print(f"    of the chain: {_compared(both[both['perturbation'].isin(PATHWAY)])}")


def _compared(table):
    """How far the two shares agree, as text."""
    if len(table) < 3:
        return "too few"
    pair = table["share"], table["mixscape"]
    text = (
        f"{len(table)}, correlation {pearsonr(*pair)[0]:.2f}, of ranks {spearmanr(*pair)[0]:.2f}"
    )
    return f"{text}, mean difference {(pair[0] - pair[1]).mean():+.3f}"


def add_arguments(parser):
    """Options of the command line."""
    add = parser.add_argument
    add("path", type=Path, help="the screen, counts and labels, with names of genes")
    add("--guide", default="guide_id", help="column of guides; default %(default)s")
    add("--batch", default="batch", help="column of replicates; default %(default)s")
    add("--seeds", type=int, nargs="+", default=list(range(3)), help="which, not how many")
    add_csv(parser)


def run(args):
    """Fit every seed, classify the cells by both, and print the shares."""
    from ..peers import mixscape  # pertpy is no extra

    screen = load_screen(args.path)
    guides = screen.obs[args.guide].astype(str).to_numpy()
    batch = screen.obs[args.batch].astype(str).to_numpy()
    genes, parts = screen.feature_names, []
    start = time.perf_counter()
    theirs = mixscape.responded(screen.X, screen.A, control="control", genes=genes, batch=batch)
    print(f"Mixscape: {time.perf_counter() - start:.0f} s", flush=True)
    for seed in args.seeds:
        model = SVAEPlus(random_state=seed).fit(screen.X, screen.A)
        parts.append(rows(model, screen, guides, theirs, seed))
        print(f"seed {seed}", flush=True)
    table = pd.concat(parts, ignore_index=True)
    runner.write(table, args.csv)
    print_tables(table)
