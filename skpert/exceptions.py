"""Warnings of the package, so that they can be filtered by class.

Errors are the built-in ones: `ValueError` for input that cannot be used, `TypeError` for the wrong
kind of object, and `sklearn.exceptions.NotFittedError`.
"""

__all__ = ["DataWarning", "TrainingWarning"]


class DataWarning(UserWarning):
    """Something in the data is odd, yet the result can be used."""


class TrainingWarning(UserWarning):
    """Training ended otherwise than planned, for example by NaN or by Ctrl-C."""
