"""Warnings of the package, so that they can be filtered by class.

Errors are the built-in ones: `ValueError` for input that cannot be used, `TypeError` for the wrong
kind of object, and `sklearn.exceptions.NotFittedError`. `FileUnavailableError` is a `ValueError`.
"""

import sys
import warnings

__all__ = ["DataWarning", "FileUnavailableError", "SamplingWarning", "TrainingWarning"]

OURS = ("skpert", "sklearn")  # packages whose frames a warning of data does not point at


class DataWarning(UserWarning):
    """Something in the data is odd, yet the result can be used."""


class SamplingWarning(UserWarning):
    """Too few samples stand behind a number for it to be compared with others."""


class TrainingWarning(UserWarning):
    """Training ended otherwise than planned: by NaN, by Ctrl-C, or with a model made worse."""


class FileUnavailableError(FileNotFoundError, ValueError):
    """A file is not there, cannot be opened, or cannot be downloaded as the one that was meant.

    Code that expects an `OSError` of whatever opens files catches it as well.
    """


def warn_of_data(message, category=DataWarning):
    """Warn at the line that called the package, however deep this is."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in OURS:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def recorded(name, call, *arguments):
    """What a call returns and its warnings, (category, text); its error has a note of ``name``.

    Arguments are not bound to the call, so that joblib's Dask and Ray backends find data among
    them, and send these once.
    """
    with warnings.catch_warnings(record=True) as caught:
        try:
            result = call(*arguments)
        except Exception as error:
            error.add_note(f"in {name}")
            raise
    return result, [(warning.category, str(warning.message)) for warning in caught]


def warn_once(caught, names):
    """Give each warning once, and say whose it is unless it is of all."""
    sources = {}
    for name, warned in zip(names, caught, strict=True):
        for warning in warned:
            sources.setdefault(warning, {})[name] = None
    for (category, message), of in sources.items():
        which = "" if len(of) == len(set(names)) else f" ({', '.join(of)})"
        warn_of_data(message + which, category)
