"""What training and scoring cost, and how exact scores are.

::

    python -m benchmarks.scale throughput   # steps, memory and growth, beside scvi-tools
    python -m benchmarks.scale fit_many     # many seeds: one by one, threads, processes, stacked
    python -m benchmarks.scale scoring      # the IWELBO beside its decoder
    python -m benchmarks.scale precision    # likelihoods in float32
    python -m benchmarks.scale particles    # what a particle of the IWELBO is worth
    python -m benchmarks.scale faults       # trainings that are killed and go on
    python -m benchmarks.scale ranks        # several processes under torchrun, beside one
    python -m benchmarks.scale cluster      # many fits on Dask or Ray, a worker of which dies
    python -m benchmarks.scale gpu          # all that is to be known of a GPU, in ten minutes
    python -m benchmarks.scale disk         # cells on disk: memory, time, loading beside others
    python -m benchmarks.scale optimisers   # quality against time by optimiser, on a screen
    python -m benchmarks.scale growth       # exponents of time and memory, of every estimator

``-h`` after a name says what it measures and lists its options.
"""

NAMES = (
    *("throughput", "fit_many", "scoring", "precision", "particles"),
    *("faults", "ranks", "cluster", "gpu", "disk", "growth", "optimisers"),
)
PARTS = {name: name for name in NAMES}
