"""Integration: biology that is kept and environments that are lost, by InVAE and others.

::

    python -m benchmarks.integration bmmc neurips2021_bmmc_cite_starter.h5ad
    python -m benchmarks.integration kang kang2018_pbmc_muscat_2donors.h5ad
    python -m benchmarks.integration transfer kang2018_pbmc_muscat_2donors.h5ad
    python -m benchmarks.integration simulated    # against the truth
    python -m benchmarks.integration speed        # beside a plain torch implementation
    python -m benchmarks.integration search FILE  # random search by validation ELBO

The questions are those of the inVAE paper (Aliee, Kapl, Hediyeh-Zadeh and Theis, arXiv
2307.00558). The encoder of that model reads cell types, so that latents of labelled cells know
them; here no label of a cell that is scored was shown to any model. ``-h`` after a name tells what
it measures and its options.

A finished job is written to the CSV file at once, and a job that is in the file is not run again.
"""

import argparse

from . import (
    _integration_halves,
    _integration_search,
    _integration_simulated,
    _integration_speed,
    _integration_transfer,
)

PARTS = {
    "bmmc": _integration_halves,
    "kang": _integration_halves,
    "transfer": _integration_transfer,
    "simulated": _integration_simulated,
    "speed": _integration_speed,
    "search": _integration_search,
}


def parser():
    """Command line of all parts."""
    top = argparse.ArgumentParser(
        prog="python -m benchmarks.integration",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parts = top.add_subparsers(dest="part", required=True)
    for name, module in PARTS.items():
        part = parts.add_parser(
            name,
            help=module.__doc__.splitlines()[0],
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(part, name)
    return top


def main(arguments=None):
    """Run what is missing, then print the tables."""
    args = parser().parse_args(arguments)
    if n_failed := PARTS[args.part].run(args):
        raise SystemExit(f"{n_failed} jobs failed, see above; a rerun tries them again")


if __name__ == "__main__":
    main()
