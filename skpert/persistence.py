"""Fitted estimators as files that hold data only: reading one runs no code.

A file is a zip archive of a JSON document, ``estimator.json``, and arrays in numpy's format. The
document is the tree of the estimator's state. What JSON has no word for is an object of one key,
``{kind: content}``, where ``kind`` is one of those in ``_DECODERS``.
"""

import json
import math
import os
import zipfile
import zlib
from importlib import import_module
from pathlib import Path
from uuid import uuid4

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator

from .preprocessing import CovariateEncoder, GeneSetFeatures, PerturbationEncoder, TargetFeatures

__all__ = ["load", "save"]

FORMAT_VERSION = 1
_DOCUMENT = "estimator.json"


def save(estimator, path):
    """Write an estimator, fitted or not, to a file that ``load`` reads.

    Unlike a pickle the file holds no code, so that it can be taken from others, and does not
    depend on the device on which the estimator was trained. It is written beside its destination
    and then moved there: an existing file is replaced as a whole or left as it is.

    Parameters
    ----------
    estimator : estimator
        Any estimator of ``skpert``, or a ``PerturbationEncoder``. Callbacks are not saved.
    path : str or path-like
        The file, such as ``"model.skpert"``; the name is used as it stands.

    Raises
    ------
    ValueError
        If the estimator is none of ours, or holds what is not data, such as a ``RandomState``
        instance as ``random_state``.

    See Also
    --------
    load : Read the file.

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
    path, arrays = Path(path), {}
    document = {
        "format": "skpert",
        "format_version": FORMAT_VERSION,
        "skpert_version": _skpert().__version__,
        "estimator": _encode_estimator(estimator, arrays, type(estimator).__name__),
    }
    partial = path.with_name(f".{path.name}.{uuid4().hex}.partial")
    try:
        with zipfile.ZipFile(partial, "x") as archive:
            # no time of writing: the same estimator gives the same file
            archive.writestr(zipfile.ZipInfo(_DOCUMENT), json.dumps(document, allow_nan=False))
            for entry, array in arrays.items():
                with archive.open(zipfile.ZipInfo(entry), "w", force_zip64=True) as stream:
                    np.lib.format.write_array(stream, array, allow_pickle=False)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load(path):
    """Estimator that ``save`` wrote, on the CPU; no code is taken from the file.

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
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged or of another kind, is of a newer format, or names a class that is
        no estimator of ``skpert``.

    See Also
    --------
    save : Write the file, with an example.
    """
    document, arrays = _read(path)
    writer, version = document.get("skpert_version"), document.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise ValueError(
            f"{path} has format {version!r} of skpert {writer}; skpert {_skpert().__version__} "
            f"reads formats up to {FORMAT_VERSION}: install a newer one"
        )
    try:
        estimator = _decode(document["estimator"], arrays)
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{path}, written by skpert {writer}, does not fit skpert {_skpert().__version__}: "
            f"{error}"
        ) from error
    if not isinstance(estimator, BaseEstimator):
        raise ValueError(f"{path} holds no estimator")
    return estimator


def _read(path):
    """Document and arrays of a file, nothing of which has been interpreted yet."""
    try:
        with zipfile.ZipFile(path) as archive:
            document = json.loads(archive.read(_DOCUMENT))
            if document["format"] != "skpert":
                raise ValueError("its document is not ours")
            arrays = {}
            for entry in archive.namelist():
                if entry.endswith(".npy"):
                    with archive.open(entry) as stream:
                        arrays[entry] = np.lib.format.read_array(stream, allow_pickle=False)
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise ValueError(
            f"{path} is no file written by skpert.save, or is damaged: {error}"
        ) from error
    return document, arrays


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
        return {"scalar": _add(np.asarray(value), arrays)}
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": str(value)}
    if type(value) not in _ENCODERS:
        raise ValueError(_cannot_save(value, name))
    return _ENCODERS[type(value)](value, arrays, name)


def _cannot_save(value, name):
    if isinstance(value, np.random.RandomState):
        return (
            f"{name} is a RandomState instance, whose state is not saved: give an int, "
            "set_params(random_state=0); a fitted estimator stays as it is"
        )
    return f"{name} is {type(value).__name__}, which save cannot write as data"


def _encode_estimator(estimator, arrays, name):
    cls = type(estimator)
    if _classes().get(cls.__name__) is not cls:
        raise ValueError(
            f"save writes estimators of skpert only ({', '.join(sorted(_classes()))}), and "
            f"{name} is a {cls.__module__}.{cls.__qualname__}: pickle it"
        )
    state = estimator.__getstate__()
    state = {key: value for key, value in state.items() if key != "_skl_callbacks"}
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
    return {"array": _add(array, arrays)}


def _add(array, arrays):
    """Name of the archive's entry that holds the array."""
    entry = f"arrays/{len(arrays)}.npy"
    arrays[entry] = array
    return entry


def _encode_frame(frame, arrays, name):
    columns = [frame.iloc[:, i].to_numpy() for i in range(frame.shape[1])]
    parts = [frame.columns.tolist(), frame.index.to_numpy(), frame.index.name, columns]
    return {"frame": _encode_list(parts, arrays, name)}


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
}


def _decode(value, arrays):
    """Value of its JSON form."""
    if isinstance(value, list):
        return [_decode(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    [(kind, content)] = value.items()
    return _DECODERS[kind](content, arrays)


def _decode_estimator(content, arrays):
    name, state = content
    classes = _classes()
    if name not in classes:
        raise ValueError(
            f"it names the class {name!r}, and the only ones allowed are "
            f"{', '.join(sorted(classes))}"
        )
    estimator = classes[name].__new__(classes[name])
    estimator.__setstate__(_decode(state, arrays))
    return estimator


def _decode_objects(content, arrays):
    shape, items = content
    array = np.empty(len(items), dtype=object)
    for i, item in enumerate(items):  # one by one: an item may be a sequence
        array[i] = _decode(item, arrays)
    return array.reshape(shape)


def _decode_frame(content, arrays):
    columns, index, name, values = _decode(content, arrays)
    frame = pd.DataFrame(dict(enumerate(values)), index=pd.Index(index, name=name))
    frame.columns = columns
    return frame


def _decode_csr(content, arrays):
    data, indices, indptr, shape = _decode(content, arrays)
    return csr_array((data, indices, indptr), shape=tuple(shape))


_DECODERS = {
    "array": lambda entry, arrays: arrays[entry],
    "scalar": lambda entry, arrays: arrays[entry][()],
    "float": lambda text, arrays: float(text),
    "tuple": lambda items, arrays: tuple(_decode(items, arrays)),
    "dict": lambda items, arrays: {_decode(k, arrays): _decode(v, arrays) for k, v in items},
    "objects": _decode_objects,
    "frame": _decode_frame,
    "csr": _decode_csr,
    "estimator": _decode_estimator,
}
