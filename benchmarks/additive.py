"""SAMS-VAE, CPA-VAE, the conditional VAE and sVAE+ with default parameters, side by side.

::

    python -m benchmarks.additive papalexi papalexi2021.h5ad --split split.npz
    python -m benchmarks.additive norman norman2019.h5ad   # combinations, seen and unseen
    python -m benchmarks.additive simulated                # against the truth
    python -m benchmarks.additive speed                    # beside a plain torch implementation

The questions are those of the SAMS-VAE paper (Bereket and Karaletsos, NeurIPS 2023): are held-out
cells likelier, effects on expression closer to the measured ones, and those of combinations
foretold? Baselines from the data alone stand beside the models, and below each table whether the
orderings of the paper hold, and in how many seeds. Nothing is tuned to a data set. ``-h`` after a
name tells what it measures and its options.

A finished job is written to the CSV file at once, and a job that is in the file is not run again.
"""

import argparse

from . import _additive_norman, _additive_papalexi, _additive_simulated, _additive_speed

PARTS = {
    "papalexi": _additive_papalexi,
    "norman": _additive_norman,
    "simulated": _additive_simulated,
    "speed": _additive_speed,
}


def _arguments():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.additive",
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
