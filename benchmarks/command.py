"""Command lines of the benchmarks, and text of figures.

A folder names its parts in ``PARTS``, by the module of each. A part has ``add_arguments(parser)``
and ``run(args)``, which returns how many jobs failed, or nothing.
"""

import argparse
from importlib import import_module
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def main(folder, arguments=None):
    """Run the part of a folder that the command line names; it prints its tables."""
    package = import_module(f"benchmarks.{folder}")
    plain = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    top = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{folder}", description=package.__doc__, **plain
    )
    parts = top.add_subparsers(dest="part", required=True)
    for name, file in package.PARTS.items():
        module = import_module(f"benchmarks.{folder}.{file}")
        text = module.__doc__
        parser = parts.add_parser(name, help=text.splitlines()[0], description=text, **plain)
        parser.set_defaults(run=module.run, csv=RESULTS / f"{folder}_{name}.csv")
        module.add_arguments(parser)
    args = top.parse_args(arguments)
    if n_failed := args.run(args):
        raise SystemExit(f"{n_failed} jobs failed, see above; a rerun tries them again")


def add_job_options(parser, seeds):
    """Options of all parts that run jobs."""
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=list(seeds), help="which, not how many")
    add("--quick", action="store_true", help="the first seed only")
    add("--jobs", type=int, default=1, help="processes, of one thread each")
    kept = "where results are kept; a job that is there is not run again; default %(default)s"
    add("--csv", type=Path, help=kept)


def add_model_options(parser, latent):
    """Size and length of training of models at their defaults."""
    add = parser.add_argument
    number = "number of latents; default %(default)s"
    add("--latent", type=number_or_auto, default=latent, help=number)
    add(
        "--epochs",
        type=number_or_auto,
        default="auto",
        help="of each training; default %(default)s",
    )


def number_or_auto(text):
    """Value of a parameter that may be "auto"."""
    return text if text == "auto" else int(text)


def add_csv(parser):
    """Where parts without jobs keep their results."""
    parser.add_argument("--csv", type=Path, help="written anew; default %(default)s")


def seeds_of(args):
    """Seeds that are asked for."""
    return args.seeds[: 1 if args.quick else None]


def spread(values, digits):
    """Mean and standard deviation as text, "-" if there are no values."""
    values = values.dropna()
    deviation = f" ± {values.std():.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{deviation}" if len(values) else "-"
