"""Plans of the next screen: predicted power, simulated screens, and batches chosen by features.

::

    python -m benchmarks.planning power screen.h5ad       # predicted and realised share of calls
    python -m benchmarks.planning power                   # the same of simulated screens
    python -m benchmarks.planning simulate screen.h5ad    # is a simulated screen like a real one?
    python -m benchmarks.planning next effects.csv.gz     # a table, or an .h5ad of wells

``-h`` after a name says what it measures and lists its options.
"""

PARTS = {name: name for name in ("power", "simulate", "next")}
