"""Integration: biology that is kept and environments that are lost, by InVAE and others.

::

    python -m benchmarks.integration bmmc neurips2021_bmmc_cite_starter.h5ad
    python -m benchmarks.integration kang kang2018_pbmc_muscat_2donors.h5ad
    python -m benchmarks.integration few neurips2021_bmmc_cite_starter.h5ad
    python -m benchmarks.integration transfer kang2018_pbmc_muscat_2donors.h5ad
    python -m benchmarks.integration simulated    # against the truth
    python -m benchmarks.integration speed        # beside a plain torch implementation
    python -m benchmarks.integration search FILE  # random search by validation ELBO

The questions are those of the inVAE paper (Aliee, Kapl, Hediyeh-Zadeh and Theis, arXiv
2307.00558). The encoder of that model reads cell types, so that latents of labelled cells know
them; here no label of a cell that is scored was shown to any model. ``-h`` after a name says what
it measures and lists its options.
"""

PARTS = {
    "bmmc": "halves",
    "kang": "halves",
    **{name: name for name in ("few", "transfer", "simulated", "speed", "search")},
}
