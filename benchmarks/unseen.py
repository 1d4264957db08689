"""Effects of perturbations that were never seen: SCCVAE beside baselines without a network.

::

    python -m benchmarks.unseen papalexi papalexi2021.h5ad --gmt folder_of_gene_sets
    python -m benchmarks.unseen authors papalexi2021.h5ad --split split.npz
    python -m benchmarks.unseen simulated            # against the truth
    python -m benchmarks.unseen tables screen.h5ad   # in the layout of the paper's tables
    python -m benchmarks.unseen speed                # beside a plain torch implementation

The questions are those of the SCCVAE paper (Liu, Zhang and Uhler, bioRxiv 2025.06.05.657988):
does a causal graph between modules help to foretell unseen perturbations, and is the model better
than linear ones, with nothing chosen on the test cells? What was chosen on them is called oracle.
``-h`` after a name tells what it measures and its options.

A finished job is written to the CSV file at once, and a job that is in the file is not run again.
"""

import argparse

from . import (
    _unseen_authors,
    _unseen_papalexi,
    _unseen_simulated,
    _unseen_speed,
    _unseen_tables,
)

PARTS = {
    "papalexi": _unseen_papalexi,
    "authors": _unseen_authors,
    "simulated": _unseen_simulated,
    "tables": _unseen_tables,
    "speed": _unseen_speed,
}


def _arguments():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.unseen",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parts = parser.add_subparsers(dest="part", required=True)
    for name, module in PARTS.items():
        module.add_arguments(
            parts.add_parser(
                name,
                help=module.__doc__.splitlines()[0],
                description=module.__doc__,
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
        )
    return parser.parse_args()


def main():
    """Run what is missing, then print the tables."""
    args = _arguments()
    if n_failed := PARTS[args.part].run(args):
        raise SystemExit(f"{n_failed} jobs failed, see above; a rerun tries them again")


if __name__ == "__main__":
    main()
