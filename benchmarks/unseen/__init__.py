"""Effects of perturbations that were never seen: SCCVAE beside baselines without a network.

::

    python -m benchmarks.unseen papalexi papalexi2021.h5ad --gmt folder_of_gene_sets
    python -m benchmarks.unseen authors papalexi2021.h5ad --split split.npz
    python -m benchmarks.unseen simulated            # against the truth
    python -m benchmarks.unseen tables screen.h5ad   # in the layout of the paper's tables
    python -m benchmarks.unseen speed                # beside a plain torch implementation
    python -m benchmarks.unseen contexts folder      # lines and donors with controls only
    python -m benchmarks.unseen gene_set_ridge papalexi2021.h5ad --gmt folder_of_gene_sets
    python -m benchmarks.unseen intervals folder     # coverage, reliability, discrimination

The questions are those of the SCCVAE paper (Liu, Zhang and Uhler, bioRxiv 2025.06.05.657988):
does a causal graph between modules help to predict unseen perturbations, and is the model better
than linear ones, with nothing chosen on the test cells? What was chosen on them is called oracle.
``-h`` after a name says what it measures and lists its options.
"""

PARTS = {
    name: name
    for name in (
        "papalexi",
        "authors",
        "simulated",
        "contexts",
        "tables",
        "speed",
        "gene_set_ridge",
        "intervals",
    )
}
