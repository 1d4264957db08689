"""SAMS-VAE, CPA-VAE, the conditional VAE and sVAE+ with default parameters, side by side.

::

    python -m benchmarks.additive papalexi papalexi2021.h5ad --split split.npz
    python -m benchmarks.additive norman norman2019.h5ad   # combinations, seen and unseen
    python -m benchmarks.additive predictive norman2019.h5ad  # does the model make such data?
    python -m benchmarks.additive simulated                # against the truth
    python -m benchmarks.additive speed                    # beside a plain torch implementation
    python -m benchmarks.additive pathways --simulated     # pathways from masks
    python -m benchmarks.additive multiplicity             # eight perturbations in a cell
    python -m benchmarks.additive pairs effects.csv.gz     # pairs of a screen from other pairs
    python -m benchmarks.additive interactions             # effects beyond sums that were planted
    python -m benchmarks.additive doses                    # dose-response curves

The questions are those of the SAMS-VAE paper (Bereket and Karaletsos, NeurIPS 2023): are held-out
cells likelier, effects on expression closer to the measured ones, and those of combinations
predicted? Baselines from the data alone stand beside the models, and below each table whether the
orderings of the paper hold, and in how many seeds. Nothing is tuned to a data set. ``-h`` after a
name says what it measures and lists its options.
"""

NAMES = (
    *("papalexi", "norman", "predictive", "simulated"),
    *("speed", "pathways", "multiplicity", "doses", "pairs", "interactions"),
)
PARTS = {name: name for name in NAMES}
