"""The command ``skpert``: fit, evaluate and simulate without a line of Python."""

import sys
import warnings

from . import _evaluate, _fit, _simulate
from ._arguments import Parser

__all__ = ["main"]

EXPECTED = (ValueError, TypeError, OSError, ImportError)  # of what a user gave


def main(arguments: list[str] | None = None) -> int:
    """Run the command ``skpert``.

    Parameters
    ----------
    arguments : list of str or None, default=None
        What follows ``skpert``; None takes it from the command line.

    Returns
    -------
    status : int
        0 if all went well, 2 after an error, of which one sentence is written to the standard
        error stream, and 130 after Ctrl-C.

    Examples
    --------
    >>> import tempfile
    >>> from skpert.command import main
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     main(["simulate", f"{folder}/screen.h5ad", "--n-perturbations", "3", "--n-cells-per-"
    ...           "perturbation", "20", "--n-control-cells", "20"])
    80 cells, 60 genes, 3 perturbations
    written: .../screen.h5ad
    0
    """
    options = _parser().parse_args(arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        for category in (DeprecationWarning, FutureWarning, PendingDeprecationWarning):
            warnings.simplefilter("ignore", category)  # are for who writes code
        warnings.showwarning = _warn
        try:
            options.run(options)
        except KeyboardInterrupt:
            if options.debug:
                raise
            return _say("error: interrupted", 130)
        except Exception as error:
            if options.debug:
                raise
            unexpected = "" if isinstance(error, EXPECTED) else f"{type(error).__name__}: "
            hint = " (unexpected: --debug shows where it arose)" if unexpected else ""
            return _say(f"error: {unexpected}{error}{hint}", 2)
    return 0


def _parser():
    parser = Parser(
        prog="skpert",
        description="Causal representation learning for single-cell perturbation screens.",
    )
    verbs = parser.add_subparsers(metavar="{fit,evaluate,simulate}", required=True)
    for module in (_fit, _evaluate, _simulate):
        module.add_to(verbs)
    return parser


def _say(text, status=None):
    """Write one line to the standard error stream; status."""
    sys.stderr.write("skpert: " + " ".join(text.split()) + "\n")
    return status


def _warn(message, category, filename, lineno, file=None, line=None):
    """Show a warning in place of ``warnings.showwarning``: without where it is in the code."""
    _say(f"warning: {message}")
