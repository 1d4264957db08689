"""Arguments of the command, and the estimators that they describe."""

import argparse
import ast
import inspect

import skpert

from .._input.values import listed
from ..models import baselines

BASELINES = [name for name in skpert.__all__ if hasattr(baselines, name)]
MODELS = [
    name
    for name in skpert.__all__
    if inspect.isclass(cls := getattr(skpert, name))
    and hasattr(cls, "score_cells")
    and name not in BASELINES
]


class Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line."""

    def error(self, message):
        """Write it and exit with status 2."""
        self.exit(2, f"{self.prog}: error: {message} ({self.prog} --help lists the arguments)\n")


def add_verb(verbs, name, run, text, example):
    """Parser of ``skpert name``, with what all of these have."""
    parser = verbs.add_parser(
        name,
        help=text.partition(".")[0],
        description=text,
        epilog=f"Example: {example}",
        allow_abbrev=False,
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.set_defaults(run=run)
    return parser


def add_design(parser):
    """Arguments that say which cells, and what was done to them."""
    parser.add_argument("screen", help="counts and labels: .h5ad, .zarr, .loom, .mtx, .csv ...")
    parser.add_argument(
        "--perturbation",
        default="perturbation",
        metavar="COLUMN",
        help="column with the label of each cell (default: perturbation)",
    )
    parser.add_argument(
        "--control",
        metavar="LABEL",
        help="label of untreated cells (default: control)",
    )
    parser.add_argument("--sep", help="what joins the names of a combination (default: +)")
    parser.add_argument("--layer", help="layer that holds the counts (default: X)")
    parser.add_argument(
        "--n-top-genes",
        type=int,
        metavar="N",
        help="keep the N genes that vary most between cells (default: all)",
    )


def add_training(parser):
    """Arguments that say how to train."""
    parser.add_argument("--n-latent", type=value, metavar="N", help="latents, at most")
    parser.add_argument("--random-state", type=int, default=0, metavar="SEED", help="default: 0")
    parser.add_argument("--max-epochs", type=value, metavar="N", help="length of training")
    parser.add_argument("--device", help='such as "cpu" or "cuda:0" (default: a GPU if one works)')
    parser.add_argument(
        "--verbose",
        type=value,
        help="0: no progress; 1: also in a log (default: in a terminal only)",
    )
    add_settings(parser, "any parameter of the model, such as n_hidden=64; may be repeated")


def add_settings(parser, text):
    """The argument ``--set``, which may be repeated."""
    parser.add_argument(
        "--set", type=setting, action="append", default=[], metavar="NAME=VALUE", help=text
    )


def add_overwrite(parser):
    """The argument ``--overwrite``."""
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")


def value(text):
    """Number, list, True or None as Python writes it, else the text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def setting(text):
    """Pair of a name and a value, of ``name=value``."""
    name, equals, given = text.partition("=")
    if not (equals and name.isidentifier()):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form name=value")
    return name, value(given)


def estimator(name, options, names=()):
    """Unfitted estimator; of these options those that are given, and all that are ``--set``.

    A setting that no estimator of ``names`` has is an error.
    """
    made = getattr(skpert, name)()
    known, given = made.get_params(deep=False), dict(options.set)
    shared = "control sep perturbation random_state max_epochs device verbose".split()
    shared = {key: getattr(options, key) for key in shared if key in known}
    shared |= {key: getattr(options, key, None) for key in ("environment", "n_latent")}
    chosen = {key: each for key, each in shared.items() if each is not None}
    everything = set(known).union(*(getattr(skpert, n)().get_params(deep=False) for n in names))
    for key in [*given, *chosen]:
        if key not in everything:
            raise ValueError(
                f"{name} has no parameter {key!r}: it has {listed(sorted(known), len(known))}"
            )
    made.set_params(**{k: v for k, v in (chosen | given).items() if k in known})
    if name in MODELS:
        made._validate_params()  # before anything is read
    return made
