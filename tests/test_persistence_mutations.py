"""Files changed at random load as estimators whose methods work, or are a ValueError.

``python -m tests.test_persistence_mutations 10000`` prints the outcomes of as many changes.
"""

import copy
import json
import resource
import signal
import sys
import warnings
import zipfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import issparse
from sklearn.base import clone

from skpert import _archive
from skpert.persistence import load
from skpert.preprocessing import CovariateEncoder, PerturbationEncoder

FILES = sorted((Path(__file__).parent / "data" / "format_2").glob("*.skpert"))
JUNK = [None, True, -1, 0, 1, 7, 2**31, 10**9, 2**63, 2**70, -(10**30), 0.5, 1e308, 1e999]
JUNK += ["", "control", "A+B", "G0", "x" * 1000, "\ud800", [], {}, [1], [[]], {"dict": []}]
JUNK += [{"float": "nan"}, {"float": "inf"}, {"tuple": []}, {"objects": [[10**9, 0], []]}]
DTYPES = ["f8", "f4", ">f4", "i8", "i4", "?", "U3", "c8", "M8[s]"]
N_CHANGES = 210
FINE = ("refused", "works")
SECONDS, BYTES = 10, 2**30  # that a file may take, at most, on a machine that is busy


def parts_of(path):
    with zipfile.ZipFile(path) as archive:
        document = json.loads(archive.read(_archive.DOCUMENT))
    return document, _archive.read(path)[1]


def nodes(value, found=None):
    """Every list and object of a document."""
    found = [] if found is None else found
    if isinstance(value, list | dict):
        found.append(value)
        for item in value.values() if isinstance(value, dict) else value:
            nodes(item, found)
    return found


def change_document(document, random):
    """Change one value of the estimator."""
    places = [node for node in nodes(document["estimator"]) if node]
    if not places:
        return
    node = places[random.integers(len(places))]
    key = list(node)[random.integers(len(node))] if isinstance(node, dict) else None
    key = int(random.integers(len(node))) if key is None else key
    choice, value = random.integers(8), node[key]
    if choice == 0:
        del node[key]
    elif choice == 1 and isinstance(node, list):
        node.append(value)
    elif choice == 2 and isinstance(value, int | float):
        node[key] = [value + 1, value - 1, value * 10**6, -value, value / 2][random.integers(5)]
    elif choice == 3 and isinstance(value, str):
        names = [n[k] for n in places for k in (n if isinstance(n, dict) else range(len(n)))]
        names = [name for name in names if isinstance(name, str)]
        node[key] = names[random.integers(len(names))]
    elif choice == 4:
        other = places[random.integers(len(places))]
        node[key] = copy.deepcopy(other)
    elif choice == 5 and isinstance(node, dict):
        node[["array", "csr", "frame", "estimator", "path"][random.integers(5)]] = node.pop(key)
    else:
        node[key] = JUNK[random.integers(len(JUNK))]


def with_value(array, random):
    """The array with one other value; all of them are that in one case of two."""
    of_floats = array.dtype.kind == "f"
    values = [np.nan, np.inf, 0, -1, 1e30, 10**6] if of_floats else [0, 1, 99, 2**30, -1]
    if not array.size or array.dtype.kind not in "fi":
        return array
    changed = array.copy()
    changed.flat[random.integers(array.size)] = values[random.integers(len(values))]
    return changed if random.integers(2) else np.full_like(array, changed.flat[0])


ARRAY_CHANGES = [
    with_value,
    with_value,
    lambda array, random: array.T,
    lambda array, random: array.ravel(),
    lambda array, random: array[..., :-1] if array.ndim else array[None],
    lambda array, random: np.repeat(array, 2, axis=0) if array.ndim else array,
    lambda array, random: array.astype(DTYPES[random.integers(len(DTYPES))]),
]


def change_arrays(document, arrays, random):
    """Change one array, its values, its shape or its dtype, or which arrays there are."""
    names = list(arrays)
    name, other = (names[random.integers(len(names))] for _ in range(2))
    choice = random.integers(10)
    if choice < len(ARRAY_CHANGES):
        arrays[name] = ARRAY_CHANGES[choice](arrays[name], random)
    elif choice == 7:
        arrays[name], arrays[other] = arrays[other], arrays[name]
    elif choice == 8:
        arrays[f"arrays/{len(arrays)}.npy"] = arrays[name]
    else:
        del arrays[names[-1]]


def change_bytes(content, random):
    """Change the file itself."""
    at, choice = int(random.integers(len(content))), random.integers(4)
    if choice == 0:
        return content[:at]
    if choice == 1:
        return content[:at] + content[at + int(random.integers(1, 50)) :]
    changed = bytearray(content)
    for _ in range(int(random.integers(1, 5))):
        changed[int(random.integers(len(changed)))] ^= 1 << int(random.integers(8))
    return bytes(changed)


def write_changed(source, target, random):
    """Write a file that is changed in one or two places, its digest right unless by bytes."""
    if random.random() < 0.15:
        target.write_bytes(change_bytes(source.read_bytes(), random))
        return
    document, arrays = parts_of(source)
    for _ in range(1 + (random.random() < 0.2)):
        if arrays and random.random() < 0.4:
            change_arrays(document, arrays, random)
        else:
            change_document(document, random)
    document.pop("sha256", None)
    try:
        document["sha256"] = _archive.digest(document, arrays)
    except ValueError:  # infinite numbers, which JSON does not have
        document["sha256"] = ""
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr(_archive.DOCUMENT, json.dumps(document))
        for name, array in arrays.items():
            with archive.open(name, "w") as stream:
                np.lib.format.write_array(stream, array, allow_pickle=False)


def design(encoder):
    """Frame of dosages or covariates that an encoder knows, a row for a few of its names."""
    categories = {**getattr(encoder, "categories_", {}), **encoder.environment_categories_}
    scales = {**getattr(encoder, "scales_", {}), **encoder.environment_scales_}
    columns = {name: found[0] for name, found in categories.items()}
    columns |= {name: mean for name, (mean, _) in scales.items()}
    if isinstance(encoder, PerturbationEncoder):
        if not columns:
            return pd.DataFrame({encoder.perturbations_[0]: [1.0, 1.0]})
        columns[encoder.perturbation] = encoder.perturbations_[0]
    return pd.DataFrame(columns, index=[0, 1])


def use(estimator):
    """Call what users call."""
    clone(estimator)
    repr(estimator)
    if not set(vars(estimator)) - {*estimator.get_params(), "_sklearn_output_config"}:
        return  # not fitted
    if isinstance(estimator, PerturbationEncoder | CovariateEncoder):
        A = design(estimator)
        assert estimator.transform(A).shape == (2, len(estimator.perturbations_))
        assert estimator.environments(A).shape == (2, estimator.n_environments_)
        estimator.labels(A)
    elif not hasattr(estimator, "design_"):
        features = estimator.transform(["G1"])
        assert np.isfinite(features.data if issparse(features) else features).all()
    else:
        use_model(estimator)


def use_model(model):
    model.set_params(layer=None)  # these cells are no AnnData
    A = design(model.design_)
    X = np.ones((2, model.n_features_in_), dtype=np.float32)
    if hasattr(model, "feature_names_in_"):
        X = pd.DataFrame(X, columns=model.feature_names_in_)
    assert model.predict_intervention(A).shape == X.shape
    assert np.isfinite(model.predict_intervention(A, X)).all()
    assert model.sample_intervention(A, 3, random_state=0).shape == (2, 3, X.shape[1])
    assert np.isfinite(model.score(X, A))
    if not hasattr(model, "module_"):
        assert model.effect_.shape == (len(model.perturbations_), X.shape[1])
        return
    assert np.isfinite(model.transform(X)).all()
    model.posterior(X, A)
    assert len(model.get_feature_names_out())
    assert len(model.history_) >= 0
    learned = model.module_.learned()
    if "mask" in learned:
        assert model.targets_.shape == model.mask_.shape
    if "mask_probability" in learned:
        model.targets()


@contextmanager
def limited(seconds, n_bytes):
    """Raise TimeoutError, and MemoryError, when a block takes more than that."""

    def stop(number, frame):
        raise TimeoutError

    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, stop)
    resource.setrlimit(resource.RLIMIT_AS, (in_use + n_bytes, before[1]))
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.signal(signal.SIGALRM, handler)


def outcome(path):
    """What becomes of a file: "refused", "works", or what goes wrong."""
    try:
        with limited(SECONDS, BYTES):
            estimator = load(path)
    except ValueError:
        return "refused"
    except BaseException as error:
        return f"load: {type(error).__name__}: {error}"
    try:
        with limited(6 * SECONDS, BYTES):
            use(estimator)
    except BaseException as error:
        return f"use: {type(error).__name__}: {error}"
    return "works"


def outcomes(numbers, folder):
    """Outcome of each number of a change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in numbers:
            source = FILES[number % len(FILES)]
            target = folder / "changed.skpert"
            write_changed(source, target, np.random.default_rng(number))
            yield number, source.stem, outcome(target)


def test_a_changed_file_is_refused_or_works(tmp_path):
    found = list(outcomes(range(N_CHANGES), tmp_path))
    wrong = [(number, stem, what) for number, stem, what in found if what not in FINE]
    assert not wrong
    assert {what for _, _, what in found} == set(FINE)


if __name__ == "__main__":
    import tempfile

    counts = Counter()
    first, last = (0, int(sys.argv[1])) if len(sys.argv) == 2 else map(int, sys.argv[1:])
    with tempfile.TemporaryDirectory() as name:
        for number, stem, found in outcomes(range(first, last), Path(name)):
            counts[found[:150]] += 1
            if found not in FINE:
                print(number, stem, found[:300], flush=True)
            if number % 1000 == 999:
                print(number + 1, dict(counts), flush=True)
    for found, count in counts.most_common():
        print(f"{count:6} {found}")
