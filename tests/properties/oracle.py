"""What an input may end in: a right result or a clear error; everything else is `Wrong`."""

import random
import re
import traceback
import warnings
from contextlib import contextmanager
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy.sparse import issparse
from sklearn.exceptions import ConvergenceWarning, NotFittedError

import skpert
from skpert.exceptions import DataWarning, TrainingWarning

CLEAR = (ValueError, TypeError, NotFittedError)
OWN = [str(Path(skpert.__file__).parent), "sklearn/utils/", "sklearn/base.py"]
FAMILIAR = re.compile(r"could not convert string to float|Seed must be between")  # numpy's
INTERNAL = re.compile(
    r"out of bounds|out of range for|broadcast|dimension specified|mat1|must match the size"
    r"|has no attribute|object is not|not subscriptable|unhashable|'NoneType' object"
    r"|not supported between"
    r"|ufunc|to unpack|[Ss]ingular|did not converge|zero-size array|reduction operation"
    r"|concatenation axis|inconsistent shapes|dimension mismatch|[Tt]ensor|index \d+ is|axis \d"
    r"|Length mismatch|cannot reindex|duplicate labels|positional argument|truth value"
)


class Wrong(AssertionError):
    """Neither a right result nor a clear error; the first argument names the kind."""


def check_clear(error):
    """Wrong if a caller could not tell from the error what to do."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    kind = type(error).__name__
    where = f"{kind} from {Path(place.filename).name}:{place.name}: {str(error)[:150]}"
    if not isinstance(error, CLEAR):
        raise Wrong(where) from error
    if not any(path in place.filename for path in OWN) and not FAMILIAR.search(str(error)):
        raise Wrong(f"foreign {where}") from error
    if not str(error).strip() or INTERNAL.search(str(error)):
        raise Wrong(f"unclear {where}") from error


def named(result):
    """What is counted: "right", or the type of a clear error."""
    kinds = (NotFittedError, *CLEAR)
    return next((cls.__name__ for cls in kinds if isinstance(result, cls)), "right")


@contextmanager
def well_behaved(*inputs):
    """Check what a public function leaves alone: its inputs, global generators, the console."""
    before, state = fingerprint(inputs), _generators()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        named = "feature names" in str(warning.message)  # scikit-learn's own
        if not (named or issubclass(warning.category, (DataWarning, TrainingWarning))):
            if not issubclass(warning.category, ConvergenceWarning):
                place = f"{Path(warning.filename).name}: {str(warning.message)[:100]}"
                raise Wrong(f"{warning.category.__name__} leaks from {place}")
    if fingerprint(inputs) != before:
        raise Wrong("the caller's input was changed")
    if _generators() != state:
        raise Wrong("a global random generator was moved")


def _generators():
    legacy = np.random.get_state()  # noqa: NPY002, the one that nobody may move
    return joblib.hash([legacy, random.getstate(), torch.get_rng_state().numpy()])


def fingerprint(value):
    """Hash of all that a user sees of an input."""
    if isinstance(value, AnnData) and value.isbacked:
        return joblib.hash(Path(value.filename).read_bytes())
    if isinstance(value, AnnData):
        parts = value.X, value.obs, value.var, *(value.layers[name] for name in value.layers)
        return joblib.hash([fingerprint(part) for part in parts])
    if isinstance(value, pd.DataFrame):
        columns = [value.iloc[:, j] for j in range(value.shape[1])]
        return joblib.hash([list(value), *map(fingerprint, columns)])
    if isinstance(value, (pd.Series, pd.Index, pd.Categorical)):  # which cache what is asked for
        index = list(getattr(value, "index", ()))
        return joblib.hash([str(value.dtype), index, value.tolist()])
    if issparse(value):  # which may note that it is sorted
        parts = ("data", "indices", "indptr", "offsets", "coords", "row", "col", "rows", "_dict")
        return joblib.hash([value.format, value.shape, *(vars(value).get(p) for p in parts)])
    if isinstance(value, np.ma.MaskedArray):
        return joblib.hash([value.data, value.mask])
    if isinstance(value, tuple):
        return joblib.hash([fingerprint(item) for item in value])
    return joblib.hash(None if hasattr(value, "send") else value)  # no generator


def flat(result):
    """Numbers and texts of any result, by place."""
    if isinstance(result, dict):
        items = {name: value for name, value in result.items() if not callable(value)}
        return [part for name in sorted(items) for part in flat(items[name])]
    if isinstance(result, pd.DataFrame) and not all(dtype.kind == "f" for dtype in result.dtypes):
        return [part for name in result for part in flat(result[name])]
    if issparse(result):
        return [result.toarray()]
    if isinstance(result, (list, tuple)) and not all(map(np.isscalar, result)):
        return [part for item in result for part in flat(item)]
    return [np.asarray(result)]


def check_finite(result, *, nan=False):
    """Wrong if a number of the result is infinite, or NaN."""
    for part in flat(result):
        if part.dtype.kind in "fc":
            if np.isinf(part).any() or (np.isnan(part).any() and not nan):
                raise Wrong("the result holds NaN or infinity")


ZERO = 1e-12  # what is below is rounding


def same(one, other, what, *, rtol=1e-5, texts=True):
    """Wrong if two results differ by more than rounding; texts count only if so wanted."""
    one, other = flat(one), flat(other)
    if [part.shape for part in one] != [part.shape for part in other]:
        raise Wrong(f"the result has another shape: {what}")
    for a, b in zip(one, other, strict=True):
        if a.dtype.kind in "fciub" and b.dtype.kind in "fciub":
            size = np.abs(b[np.isfinite(b)]).max(initial=0) if b.size else 0
            close = np.allclose(a, b, rtol=rtol, atol=max(rtol * size, ZERO), equal_nan=True)
        else:
            close = not texts or np.array_equal(a.astype(str), b.astype(str))
        if not close:
            raise Wrong(f"the result differs: {what}")


def agree(given, plain, what, *, rtol=1e-5, texts=True):
    """Wrong if a form of the input ends in something else than the plain input does."""
    if isinstance(given, Exception) or isinstance(plain, Exception):
        if type(given) is not type(plain):
            told = next(end for end in (given, plain) if isinstance(end, Exception))
            side = "the form" if told is given else "the plain input"
            raise Wrong(f"an error for {side} only: {type(told).__name__}: {told}"[:250])
    else:
        same(given, plain, what, rtol=rtol, texts=texts)
