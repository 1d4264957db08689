"""What training and scoring cost, and how exact scores are.

::

    python -m benchmarks.scale throughput   # steps, memory and growth, beside scvi-tools
    python -m benchmarks.scale fit_many     # many seeds: one by one, threads, processes, stacked
    python -m benchmarks.scale scoring      # the IWELBO beside its decoder
    python -m benchmarks.scale precision    # likelihoods in float32
    python -m benchmarks.scale particles    # what a particle of the IWELBO is worth

``-h`` after a name says what it measures and lists its options.
"""

PARTS = {name: name for name in ("throughput", "fit_many", "scoring", "precision", "particles")}
