"""Whether latents of a real screen get the programmes that are known, in every seed.

::

    python -m benchmarks.svae programmes papalexi2021_thp1_crispr.h5ad --gmt hallmark.gmt

The screen is that of Papalexi et al. 2021 (25 knock-outs in THP-1 cells). IFNGR1, IFNGR2, JAK2 and
STAT1 are one pathway and should share a latent, whose first Hallmark set should be the interferon
gamma response, at 5 % over all latents that are targeted and all sets. ``SVAEPlus(
random_state=seed)``, nothing else set, is fitted to all cells. Genes of a latent are ranked by the
response of the decoder and by integrated gradients of decoder and encoder, and sets tested by both
tests of ``enrich``; genes are shuffled to see what is called then. ``called_untargeted`` counts
what would be called for latents that nothing targets if these were tested, too: their axes are
arbitrary, and what they are made of is real (such as the cell cycle) but no effect.
"""

import time
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import kstest

from skpert import SVAEPlus
from skpert.datasets import load_screen
from skpert.inspection import enrich, latent_genes, latent_names

from .. import runner
from ..command import add_csv
from .known_biology import PATHWAY

FIRST, FDR = "INTERFERON_GAMMA_RESPONSE", 0.05
WAYS = ["log2_fold_change", "decoder_gradient", "encoder_gradient"]
N_SHUFFLED = 100  # shuffles of the genes of a table


def rows(model, names, seed, sets):
    """A row of the table per way to rank genes and per test."""
    start = time.perf_counter()
    genes = latent_genes(model, genes=names, gradients=True)
    seconds = round(time.perf_counter() - start, 1)
    strongest = model.targets_.abs().idxmax(axis=1)[PATHWAY]
    chain = strongest.mode()[0]
    agreement = genes.loc[genes["latent"] == chain, "agreement"].iloc[0]
    for way in WAYS:
        for method in ("rank", "top"):
            enriched = enrich(genes, sets, method=method, column=way)
            of_chain = enriched[enriched["unit"] == chain].iloc[0]
            called = enriched[enriched["q"] <= FDR]
            every = enrich(genes, sets, method=method, column=way, untargeted=True)
            others = every[~every["unit"].isin(enriched["unit"])]
            share, p = shuffled(genes, sets, method, way, seed)
            yield {
                "seed": seed,
                "way": way,
                "method": method,
                "chain_on_one": strongest.nunique() == 1,
                "latent": chain,
                "first": of_chain["set"],
                "p": of_chain["p"],
                "q": of_chain["q"],
                "found": FIRST in of_chain["set"] and of_chain["q"] <= FDR,
                "agreement": agreement,
                "n_targeted": enriched["unit"].nunique(),
                "called": len(called),
                "called_untargeted": int((others["q"] <= FDR).sum()),
                "shuffled_calls": share,
                "shuffled_ks_p": p,
                "seconds_genes": seconds,
                "names": "; ".join(latent_names(enriched, fdr=FDR).values()),
            }


def shuffled(genes, sets, method, way, seed):
    """Share of shuffles of genes in which a set is called, and whether p-values are uniform.

    Those of over-representation have few values, and are not.
    """
    wide = genes[genes["targeted"]].pivot(index="latent", columns="gene", values=way)
    random, n_called, p = np.random.default_rng(seed), 0, []
    for _ in range(N_SHUFFLED):
        null = pd.DataFrame(random.permuted(wide, axis=1), wide.index, wide.columns)
        enriched = enrich(null, sets, method=method)
        n_called += bool((enriched["q"] <= FDR).any())
        # sets share genes: one of each latent, so that values are independent; rows are sorted
        # by p, so that which one has to be drawn anew
        p += enriched.groupby("unit")["p"].sample(1, random_state=random).tolist()
    uniform = kstest(p, "uniform").pvalue if method == "rank" else np.nan
    return n_called / N_SHUFFLED, uniform


def add_arguments(parser):
    """Options of the command line."""
    add = parser.add_argument
    add("path", type=Path, help="the screen, counts and labels, with names of genes")
    add("--gmt", type=Path, required=True, help="gene sets, such as Hallmark of MSigDB")
    add("--seeds", type=int, nargs="+", default=list(range(5)), help="which, not how many")
    add_csv(parser)


def run(args):
    """Fit every seed and print what its latents are made of."""
    screen = load_screen(args.path)
    table = []
    for seed in args.seeds:
        model = SVAEPlus(random_state=seed).fit(screen.X, screen.A)
        for row in rows(model, screen.feature_names, seed, args.gmt):
            table.append(row)
            print(row, flush=True)
    runner.write(table, args.csv)
    table = pd.DataFrame(table)
    by = table.groupby(["way", "method"], sort=False)
    summary = by[["found", "chain_on_one"]].sum().assign(seeds=by.size(), largest_q=by["q"].max())
    summary[["called", "shuffled_calls"]] = by[["called", "shuffled_calls"]].mean()
    summary["least_ks_p"] = by["shuffled_ks_p"].min()
    print(summary.to_string(float_format="{:.3g}".format))
