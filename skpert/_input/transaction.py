"""Nothing is half-changed: a `fit` that fails leaves the object as it was."""

from functools import wraps


def all_or_nothing(fit):
    """Return ``fit`` as a method that leaves the estimator as it was if it fails."""

    @wraps(fit)
    def guarded(self, *args, **kwargs):
        before = vars(self).copy()
        try:
            return fit(self, *args, **kwargs)
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise

    return guarded
