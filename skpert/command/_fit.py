"""``skpert fit``: from a screen to targets, embedding, model and report."""

from .._input.values import check_number
from ..annotation import annotate
from ..persistence import save
from ..plotting import TargetsDisplay
from ..reporting import report
from . import _arguments as arguments
from ._screens import Output, check_environments, read, require, size, write

TARGETS, FIGURE, CELLS = "targets.csv", "targets.png", "cells.h5ad"
MODEL, REPORT = "model.skpert", "report.html"
TEXT = """Fit a model to a screen. Written are the targets of perturbations (targets.csv and
targets.png, where the model calls any), the cells with their embedding and other annotations
(cells.h5ad, for scanpy), the model (model.skpert, for skpert.load) and a report (report.html)."""


def add_to(verbs):
    """Add the verb to a parser."""
    example = "skpert fit screen.h5ad --perturbation gene --control NT -o out/"
    parser = arguments.add_verb(verbs, "fit", run, TEXT, example)
    arguments.add_design(parser)
    parser.add_argument(
        "-o", "--output", required=True, metavar="FOLDER", help="where results go; made if absent"
    )
    parser.add_argument("--model", choices=arguments.MODELS, default="SVAEPlus", metavar="NAME")
    parser.add_argument(
        "--environment", action="append", metavar="COLUMN", help="batch or donor; may be repeated"
    )
    parser.add_argument("--fdr", type=float, default=0.05, help="of targets (default: 0.05)")
    parser.add_argument(
        "--compare",
        action="store_true",
        help="compare with simpler models in the report: three times the time of one fit",
    )
    parser.add_argument("--no-report", action="store_true", help="write no report")
    arguments.add_training(parser)
    arguments.add_overwrite(parser)


def run(options):
    """Fit, and write what was found."""
    if not options.no_report:
        for name in ("jinja2", "matplotlib"):
            _needed_for_report(name)
    check_number(options.fdr, "fdr", 0, 1, "both")
    estimator = arguments.estimator(options.model, options)
    output = Output(options.output, [TARGETS, FIGURE, CELLS, MODEL, REPORT], options.overwrite)
    output.check_keeps(options.screen)
    adata, folder = read(options), output.folder
    check_environments(adata.obs, options)
    output.make()
    print(size(adata, adata.obs[options.perturbation], estimator.control), flush=True)
    model = estimator.fit(adata, adata.obs)
    output.clear()
    save(model, folder / MODEL)
    written = [MODEL, *_targets(model, options, folder), CELLS]
    write(annotate(adata.copy(), model, adata.obs, fdr=options.fdr), folder / CELLS)
    if not options.no_report:
        settings = {"compare": options.compare, "fdr": options.fdr}
        settings["random_state"] = options.random_state
        report(model, adata, adata.obs, folder / REPORT, **settings)
        written.append(REPORT)
    output.tell(written)


def _targets(model, options, folder):
    """Say which perturbations move which latents; names of the files written."""
    if not hasattr(model, "mask_probability_"):
        print(f"{_latents(model)}; {options.model} calls no targets")
        return []
    targets = model.targets(fdr=options.fdr)
    edges = targets.to_numpy() != 0
    print(
        f"{_latents(model)}; {edges.any(1).sum()} of {len(targets)} perturbations have targets, "
        f"{edges.sum()} in all, at a false discovery rate of {options.fdr:g}"
    )
    targets.to_csv(folder / TARGETS)
    if options.no_report:
        return [TARGETS]
    display = TargetsDisplay(targets).plot()
    display.figure_.savefig(folder / FIGURE, dpi=150)
    return [TARGETS, FIGURE]


def _latents(model):
    return f"{model.n_latent_} latent{'s' * (model.n_latent_ != 1)}"


def _needed_for_report(name):
    try:
        require(name, "report")
    except ImportError as error:
        raise ImportError(f"{error}, or leave figure and report out with --no-report") from error
