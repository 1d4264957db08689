"""A `fit` that fails leaves the object as it was."""

from contextlib import contextmanager


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
