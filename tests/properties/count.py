"""Generate inputs and print the counts of what they end in.

    python -m tests.properties.count [--inputs 10000] [--seed 0] [estimators] [functions]

Right results and clear errors are counted by type; whatever else an input ends in is printed with
the smallest input of its kind, and the exit status is 1.
"""

import argparse
import sys
import time
from collections import Counter

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings

from . import estimators, functions
from .oracle import Wrong

SUBJECTS = {
    "estimators": (estimators.uses, estimators.outcome),
    "functions": (functions.calls, functions.outcome),
}


def count(subject, n_inputs, number):
    """Counts by outcome, and the shortest input of each kind that is wrong."""
    inputs, outcome = SUBJECTS[subject]
    counts, wrong = Counter(), {}

    @seed(number)
    @settings(
        max_examples=n_inputs,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs())
    def run(use):
        try:
            counts[outcome(use)] += 1
        except Wrong as error:
            counts["WRONG"] += 1
            wrong.setdefault(str(error), []).append(repr(use))

    run()
    return counts, wrong


def main(arguments=None):
    """Print counts for each subject; return whether all was right."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("subjects", nargs="*", default=list(SUBJECTS))
    parser.add_argument("--inputs", type=int, default=10_000, help="for each subject")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    n_wrong = 0
    for subject in options.subjects:
        start = time.perf_counter()
        counts, wrong = count(subject, options.inputs, options.seed)
        print(f"{sum(counts.values())} inputs to {subject}, {time.perf_counter() - start:.0f} s")
        for name, number in counts.most_common():
            print(f"{number:8d}  {name}")
        for kind, found in sorted(wrong.items(), key=lambda item: -len(item[1])):
            print(f"\n{len(found)} x {kind}\n    {min(found, key=len)}")
        n_wrong += counts["WRONG"]
    return n_wrong == 0


if __name__ == "__main__":
    sys.exit(not main())
