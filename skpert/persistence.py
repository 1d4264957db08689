"""Fitted estimators as files that hold data only: reading one runs no code.

A file is a zip archive of a JSON document, ``estimator.json``, and arrays in numpy's format. The
document is the tree of the estimator's state. What JSON has no word for is an object of one key,
``{kind: content}``, where ``kind`` is one of those at the end of this module.
"""

import json
import math
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator

from . import _archive
from ._learned import check_learned, check_parameters
from ._upgrade import upgraded
from .preprocessing import CovariateEncoder, GeneSetFeatures, PerturbationEncoder, TargetFeatures

__all__ = ["load", "save"]

FORMAT_VERSION = 4  # 1 had no digest; before 3 masks had other names; before 4 all latents in use
DEEPEST = 60  # values within values that are read
N_WORDS = 624  # of the state of a Mersenne twister


def save(estimator, path) -> None:
    """Write an estimator, fitted or not, to a file that ``load`` reads.

    Unlike a pickle the file holds no code, so that it can be taken from others, and does not
    depend on the device on which the estimator was trained. It is written beside its destination,
    flushed to the disk and moved there: an existing file is replaced as a whole, with its
    permissions, or left as it is. Of a link, the file that it leads to is replaced.

    Parameters
    ----------
    estimator : estimator
        A model, baseline or ``PerturbationPipeline`` of ``skpert``, one of its encoders,
        ``TargetFeatures`` or ``GeneSetFeatures``, and these in a ``FrozenEstimator``. All that it
        holds must be of these, or data; the notes list what is refused. Callbacks are not saved.
    path : str or path-like
        The file, such as ``"model.skpert"``; the name is used as it stands.

    Raises
    ------
    ValueError
        If it is not a skpert estimator, holds what is not data, or could not be loaded again,
        for example as its parameters were changed after the fit; or if the file cannot be
        written, or is a folder, a device or a pipe.
    TypeError
        If ``path`` is not the name of a file.

    See Also
    --------
    load : Read the file.

    Notes
    -----
    Use ``pickle`` or ``joblib`` for what is refused:

    * pipelines with other steps, ``LogNormalize`` and those of scikit-learn included;
    * ``FeatureUnion``, ``ControlExpression``, ``TargetGenes`` and ``CompoundFingerprints``, also
      as the features of a model;
    * a fitted ``EffectRegression``, which holds a regressor of scikit-learn;
    * ``ConformalIntervals``;
    * searches, of which ``best_estimator_`` may be saved.

    Files of ``pickle`` and ``joblib`` can run code when they are read: open only your own.

    Examples
    --------
    >>> import tempfile
    >>> from skpert import SVAEPlus
    >>> from skpert.persistence import load, save
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(SVAEPlus(n_latent=3), f"{folder}/model.skpert")
    ...     load(f"{folder}/model.skpert")
    SVAEPlus(n_latent=3)
    """
    path, name, arrays = _archive.file_name(path), type(estimator).__name__, {}
    try:
        document = {
            "format": "skpert",
            "format_version": FORMAT_VERSION,
            "skpert_version": _skpert().__version__,
            "estimator": _encode_estimator(estimator, arrays, name),
        }
        document["sha256"] = _archive.digest(document, arrays)
    except RecursionError as error:
        raise ValueError(f"{name} holds values that are nested too deeply to be saved") from error
    try:
        _interpreted(json.loads(_archive.encoded(document)), dict(arrays))
    except Exception as error:  # the same that load turns into a ValueError
        raise ValueError(
            f"{name} is not saved, as load would refuse it: {error!s:.500}. If its parameters "
            "were changed since fit, change them back, or fit it again"
        ) from error
    _archive.write(path, document, arrays)


def load(path) -> Any:
    """Estimator that ``save`` wrote, on the CPU; no code is taken from the file.

    Nothing in the file is trusted. It takes no more memory than its own size warrants, and what
    was learned has to fit together and to work: the network is built without memory, compared
    with the arrays that are there, filled with them and tried on one cell.

    Parameters
    ----------
    path : str or path-like
        File written by ``save``.

    Returns
    -------
    estimator : estimator
        Its methods return bit for bit what those of the saved estimator return on the same
        machine.

    Raises
    ------
    ValueError
        If the file cannot be read, is damaged or of another kind, is of a newer format, or holds
        anything that is not an estimator of ``skpert`` whose methods work.
    TypeError
        If ``path`` is not the name of a file.

    See Also
    --------
    save : Write the file, with an example.

    Notes
    -----
    The file holds a SHA-256 digest of its content, by which damage is found. It says nothing of
    who wrote the file: whoever can change the file can change the digest.
    """
    path = _archive.file_name(path)
    document, arrays = _archive.read(path)
    writer, version = document.get("skpert_version"), document.get("format_version")
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        newer = type(version) is int and version > FORMAT_VERSION
        raise ValueError(
            f"{path} has format {version!r:.20} of skpert {writer!s:.20}, and skpert "
            f"{_skpert().__version__} reads formats 1 to {FORMAT_VERSION}: "
            + ("install a newer one" if newer else "it is corrupt")
        )
    if version > 1 and document.pop("sha256", None) != _archive.digest(document, arrays):
        raise ValueError(f"{path} is corrupt: its content has another digest than it says")
    try:
        return _interpreted(document, arrays)
    except Exception as error:  # whatever it is, it was in the file
        raise ValueError(
            f"{path}, written by skpert {writer!s:.20}, does not fit skpert "
            f"{_skpert().__version__}: {error!s:.500}"
        ) from error


def _interpreted(document, arrays):
    """Estimator of a document, which takes all arrays, each once."""
    estimator = _decode(document["estimator"], arrays)
    if not isinstance(estimator, BaseEstimator):
        raise ValueError("it holds no estimator")
    if arrays:
        raise ValueError(f"it holds {len(arrays)} arrays that belong nowhere")
    return estimator


def _skpert():
    """The package, which is complete only after this module."""
    return import_module(__package__)


def _classes():
    """Every class that a file may name, by name."""
    public = (getattr(_skpert(), name) for name in _skpert().__all__)
    known = [cls for cls in public if isinstance(cls, type) and issubclass(cls, BaseEstimator)]
    parts = [PerturbationEncoder, CovariateEncoder, TargetFeatures, GeneSetFeatures]
    return {cls.__name__: cls for cls in [*known, *parts, FrozenEstimator]}


def _encode(value, arrays, name):
    """JSON form of a value, whose arrays are added to ``arrays``; ``name`` is for errors."""
    if isinstance(value, BaseEstimator):
        return _encode_estimator(value, arrays, name)
    if isinstance(value, np.generic):  # before str and float, of which some are subclasses
        return {"scalar": _add(np.asarray(value), arrays, name)}
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, Path):
        return {"path": str(value)}
    if type(value) not in _ENCODERS:
        raise ValueError(f"{name} is {type(value).__name__}, which save cannot write as data")
    return _ENCODERS[type(value)](value, arrays, name)


def _encode_estimator(estimator, arrays, name):
    cls = type(estimator)
    if _classes().get(cls.__name__) is not cls:
        raise ValueError(
            f"save writes estimators of skpert only ({', '.join(sorted(_classes()))}), and "
            f"{name} is a {cls.__module__}.{cls.__qualname__}: pickle it"
        )
    left_out = ("_skl_callbacks", "_sklearn_version")  # what listens to fit; of a FrozenEstimator
    state = {k: v for k, v in estimator.__getstate__().items() if k not in left_out}
    return {"estimator": [cls.__name__, _encode_dict(state, arrays, name)]}


def _encode_dict(values, arrays, name):
    items = values.items()
    return {
        "dict": [[_encode(k, arrays, name), _encode(v, arrays, f"{name}.{k}")] for k, v in items]
    }


def _encode_list(values, arrays, name):
    return [_encode(value, arrays, f"{name}[{i}]") for i, value in enumerate(values)]


def _encode_tuple(values, arrays, name):
    return {"tuple": _encode_list(values, arrays, name)}


def _encode_array(array, arrays, name):
    if array.dtype == object:
        items = _encode_list(array.ravel().tolist(), arrays, name)
        return {"objects": [list(array.shape), items]}
    return {"array": _add(array, arrays, name)}


def _add(array, arrays, name):
    """Name of the archive's entry that holds the array."""
    if array.dtype.kind not in _archive.STORABLE or array.dtype.itemsize == 0:
        raise ValueError(f"{name} is of dtype {array.dtype}, which save cannot write as data")
    entry = f"arrays/{len(arrays)}.npy"
    arrays[entry] = array
    return entry


def _encode_frame(frame, arrays, name):
    columns = [frame.iloc[:, i].to_numpy() for i in range(frame.shape[1])]
    index, labels = frame.index, frame.columns
    parts = [labels.tolist(), index.to_numpy(), index.name, columns, labels.name]
    try:
        pd.testing.assert_frame_equal(_frame(*parts), frame, check_exact=True, check_freq=False)
    except (AssertionError, TypeError) as error:
        raise ValueError(
            f"{name} is a DataFrame that save cannot write as data: give its columns and its "
            f"index dtypes of numpy. {error}"
        ) from error
    return {"frame": _encode_list(parts, arrays, name)}


def _encode_random_state(random_state, arrays, name):
    kind, *state = random_state.get_state()
    if kind != "MT19937":
        raise ValueError(f"{name} is a RandomState of {kind}, which save cannot write as data")
    return {"random_state": _encode_list(state, arrays, name)}


def _encode_csr(matrix, arrays, name):
    parts = [matrix.data, matrix.indices, matrix.indptr, list(matrix.shape)]
    return {"csr": _encode_list(parts, arrays, name)}


_ENCODERS = {
    dict: _encode_dict,
    list: _encode_list,
    tuple: _encode_tuple,
    np.ndarray: _encode_array,
    np.memmap: _encode_array,
    pd.DataFrame: _encode_frame,
    csr_array: _encode_csr,
    bytes: lambda value, arrays, name: {"bytes": value.decode("latin-1")},
    np.random.RandomState: _encode_random_state,
}


def _decode(value, arrays, depth=0):
    """Value of its JSON form; arrays that it takes are removed from ``arrays``."""
    if depth > DEEPEST:
        raise ValueError("its values are nested too deeply")
    if isinstance(value, list):
        return [_decode(item, arrays, depth + 1) for item in value]
    if not isinstance(value, dict):
        return value
    [(kind, content)] = value.items()
    if kind in _OF_TEXT:
        return _OF_TEXT[kind](content)
    if kind in _OF_ARRAYS:
        return _OF_ARRAYS[kind](content, arrays)
    return _OF_VALUES[kind](*_decode(content, arrays, depth + 1))


def _taken(entry, arrays):
    """Array that nothing else has: a small file must not make a large estimator of one array."""
    if entry not in arrays:
        raise ValueError(f"array {entry!r:.40} is absent, or is taken already")
    return arrays.pop(entry)


def _float(text):
    if text not in ("nan", "inf", "-inf"):
        raise ValueError(f"{text!r:.20} is no number")
    return float(text)


def _estimator(name, state):
    classes = _classes()
    if name not in classes:
        raise ValueError(
            f"it names the class {name!r:.80}, and the only ones allowed are "
            f"{', '.join(sorted(classes))}"
        )
    cls = classes[name]
    state = upgraded(cls, {k: v for k, v in state.items() if k != "_sklearn_version"})
    check_parameters(cls, state)
    if cls is FrozenEstimator:  # as the only class of scikit-learn it would look for a version
        [estimator] = state.values()
        if not isinstance(estimator, BaseEstimator):
            raise ValueError(f"it freezes a {type(estimator).__name__}")
        return cls(estimator)
    estimator = cls.__new__(cls)
    estimator.__setstate__(state)
    check_learned(estimator)
    return estimator


def _objects(shape, items):
    array = np.empty(len(items), dtype=object)
    for i, item in enumerate(items):  # one by one: an item may be a sequence
        array[i] = item
    return array.reshape(shape)


def _frame(columns, index, name, values, columns_name=None):
    frame = pd.DataFrame(dict(enumerate(values)), index=pd.Index(index, name=name))
    frame.columns = pd.Index(columns, name=columns_name)
    for label in (*frame.columns, *frame.index):
        hash(label)  # is a TypeError for what is no label
    return frame


def _csr(data, indices, indptr, shape):
    matrix = csr_array((data, indices, indptr), shape=tuple(shape))
    matrix.check_format(full_check=True)
    return matrix


def _random_state(words, position, has_gauss, gauss):
    if words.dtype != np.uint32 or words.shape != (N_WORDS,) or not 0 <= position <= N_WORDS:
        raise ValueError("the state of a RandomState is none")
    random_state = np.random.RandomState()
    random_state.set_state(("MT19937", words, position, has_gauss, gauss))
    return random_state


_OF_TEXT = {
    "float": _float,
    "path": Path,
    "bytes": lambda text: text.encode("latin-1"),
}
_OF_ARRAYS = {
    "array": _taken,
    "scalar": lambda entry, arrays: _taken(entry, arrays)[()],
}
_OF_VALUES = {
    "tuple": lambda *items: items,
    "dict": lambda *items: dict(items),
    "objects": _objects,
    "frame": _frame,
    "csr": _csr,
    "random_state": _random_state,
    "estimator": _estimator,
}
