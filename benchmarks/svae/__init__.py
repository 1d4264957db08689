"""sVAE+ and its relatives: the tables of its paper, recovery, defaults and real screens.

::

    python -m benchmarks.svae table1                          # its Table 1; also 4 to 8 and 10
    python -m benchmarks.svae recovery                        # of latents and edges, by default
    python -m benchmarks.svae latents                         # if their number is unknown
    python -m benchmarks.svae defaults                        # each default varied alone
    python -m benchmarks.svae sparsity                        # rules that choose a prior
    python -m benchmarks.svae known_biology papalexi2021.h5ad # is it found by every seed?
    python -m benchmarks.svae programmes papalexi2021.h5ad    # gene sets of latents
    python -m benchmarks.svae nulls tapseq.h5ad               # guides that target nothing
    python -m benchmarks.svae guides tapseq.h5ad              # which work, and on which genes
    python -m benchmarks.svae escape                          # cells that did not respond
    python -m benchmarks.svae responders papalexi2021.h5ad    # beside Mixscape
    python -m benchmarks.svae screens screen.h5ad             # its Table 2 on any screen

The paper is that of Lopez et al., CLeaR 2023. ``-h`` after a name says what it measures and lists
its options.
"""

PARTS = {
    name: name
    for name in (
        *("table1", "recovery", "latents", "defaults", "sparsity"),
        *("known_biology", "programmes", "nulls", "guides", "escape"),
        *("responders", "screens"),
    )
}
