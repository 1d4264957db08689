"""A `fit` that fails leaves the object as it was."""

from collections.abc import Callable
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

Method = TypeVar("Method", bound=Callable[..., Any])


@contextmanager
def restored_on_failure(estimator):
    """Give the estimator back the attributes it had if what is done to it fails."""
    before = vars(estimator).copy()
    try:
        yield
    except BaseException:
        vars(estimator).clear()
        vars(estimator).update(before)
        raise


def all_or_nothing(fit: Method) -> Method:
    """Return ``fit(X, y)`` as a method that leaves the estimator as it was if it fails.

    Callbacks of scikit-learn are taken down by its own decorator, which has to be within.
    """

    @wraps(fit)
    def guarded(self, X, y):
        with restored_on_failure(self):
            return fit(self, X, y)

    return guarded  # type: ignore[return-value]
