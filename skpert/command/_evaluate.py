"""``skpert evaluate``: models compared on held-out cells."""

from sklearn.pipeline import make_pipeline

from ..model_selection import LeavePerturbationsOut, PerturbationKFold, evaluate_perturbations
from ..preprocessing import LogNormalize
from . import _arguments as arguments
from ._screens import Output, read, size

SUMMARY, TABLE, CALIBRATED = "summary.csv", "per_perturbation.csv", "calibrated.csv"
TEXT = """Compare models by what they predict for held-out cells. Beside them stand a floor, which
knows no perturbation, and a ceiling, one half of the held-out cells as prediction of the other.
Written are the mean of each metric (summary.csv), the same between 0 at the floor and 1 at the
ceiling (calibrated.csv), and all values (per_perturbation.csv)."""


def add_to(verbs):
    """Add the verb to a parser."""
    example = "skpert evaluate screen.h5ad --model SVAEPlus --model AdditiveEffects -o scores/"
    parser = arguments.add_verb(verbs, "evaluate", run, TEXT, example)
    arguments.add_design(parser)
    parser.add_argument("-o", "--output", metavar="FOLDER", help="default: print the means only")
    names = [*arguments.MODELS, *arguments.BASELINES]
    parser.add_argument(
        "--model",
        choices=names,
        action="append",
        metavar="NAME",
        help=f"may be repeated (default: SVAEPlus); one of {', '.join(names)}",
    )
    parser.add_argument(
        "--hold-out",
        choices=("cells", "perturbations"),
        default="cells",
        help="what is predicted: cells of known perturbations, the default, or unseen ones",
    )
    parser.add_argument("--n-splits", type=int, default=5, metavar="N", help="fits (default: 5)")
    parser.add_argument("--metrics", nargs="+", metavar="NAME", help="columns (default: all)")
    parser.add_argument("--n-jobs", type=int, metavar="N", help="processes (default: 1)")
    arguments.add_training(parser)
    arguments.add_overwrite(parser)


def run(options):
    """Evaluate, and print the means."""
    names = list(dict.fromkeys(options.model or ["SVAEPlus"]))
    estimators = {name: _estimator(name, options, names) for name in names}
    files = [SUMMARY, CALIBRATED, TABLE]
    output = options.output and Output(options.output, files, options.overwrite)
    adata = read(options)
    design = {
        "control": "control" if options.control is None else options.control,
        "sep": "+" if options.sep is None else options.sep,
        "perturbation": options.perturbation,
    }
    if output:
        output.make()
    splitter = PerturbationKFold if options.hold_out == "cells" else LeavePerturbationsOut
    print(size(adata, adata.obs[options.perturbation], design["control"]), flush=True)
    result = evaluate_perturbations(
        estimators,
        adata,
        adata.obs,
        cv=splitter(options.n_splits, random_state=options.random_state, **design),
        space="counts",
        metrics=options.metrics,
        n_jobs=options.n_jobs,
        random_state=options.random_state,
        **design,
    )
    print(result.summary.round(4).T.to_string())
    if output:
        output.clear()
        result.summary.to_csv(output.folder / SUMMARY)
        result.calibrated.to_csv(output.folder / CALIBRATED)
        result.per_perturbation.to_csv(output.folder / TABLE, index=False)
        output.tell(files)


def _estimator(name, options, names):
    """Model, or baseline of log-normalised expression."""
    estimator = arguments.estimator(name, options, names)
    if name in arguments.BASELINES:
        return make_pipeline(LogNormalize(), estimator)
    return estimator
