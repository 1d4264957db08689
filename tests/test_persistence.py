import inspect
import io
import json
import os
import pickle
import resource
import stat
import threading
import zipfile
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array
from sklearn.base import BaseEstimator, clone
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline

import skpert
from skpert import (
    IVAE,
    SVAE,
    VAE,
    BilinearRidge,
    EffectRegression,
    InVAE,
    PerturbedMean,
    SVAEPlus,
    _archive,
)
from skpert.datasets import make_sparse_shift
from skpert.persistence import FORMAT_VERSION, load, save
from skpert.preprocessing import GeneSetFeatures, PerturbationEncoder
from tests.data import make_saved

DATA = Path(__file__).parent / "data"
PUBLIC = [getattr(skpert, name) for name in skpert.__all__]
ESTIMATORS = [c for c in PUBLIC if inspect.isclass(c) and issubclass(c, BaseEstimator)]
OF_ANY = (Pipeline, EffectRegression)  # steps, regressor: pickle them
ESTIMATORS = [c for c in ESTIMATORS if not issubclass(c, OF_ANY)]

pytestmark = pytest.mark.filterwarnings("ignore::skpert.exceptions.DataWarning")


@pytest.fixture(scope="module")
def screen():
    return make_sparse_shift(
        4,
        n_cells_per_perturbation=20,
        n_control_cells=20,
        n_latent=2,
        n_genes=40,
        library_size=200,
        random_state=0,
    )


@pytest.fixture(scope="module")
def known(screen):
    return screen.A != "P3"


def small(cls, **parameters):
    parameters |= {"n_latent": 2, "max_epochs": 2, "n_particles": 5, "random_state": 0}
    return cls(**{k: v for k, v in parameters.items() if k in cls().get_params()})


def through_file(estimator, folder):
    save(estimator, folder / "model.skpert")
    return load(folder / "model.skpert")


def through_pickle(estimator, folder):
    return pickle.loads(pickle.dumps(estimator))


def through_joblib(estimator, folder):
    joblib.dump(estimator, folder / "model.joblib")
    return joblib.load(folder / "model.joblib")


COPIES = [through_file, through_pickle, through_joblib]


def assert_same(copy, model, X, A):
    """Equal bit for bit in all that a user can ask for."""
    names = [name.removeprefix("label=") for name in model.perturbations_]
    assert type(copy) is type(model)
    assert copy.get_params() == model.get_params()
    np.testing.assert_array_equal(copy.perturbations_, model.perturbations_)
    np.testing.assert_array_equal(
        copy.predict_intervention(names), model.predict_intervention(names)
    )
    assert copy.score(X, A) == model.score(X, A)
    if hasattr(model, "transform"):
        np.testing.assert_array_equal(copy.transform(X), model.transform(X))
    if hasattr(model, "history_"):
        pd.testing.assert_frame_equal(copy.history_, model.history_)
    if hasattr(model, "targets_"):
        pd.testing.assert_frame_equal(copy.targets_, model.targets_)
        assert (np.signbit(copy.targets_) == np.signbit(model.targets_)).all(axis=None)


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("cls", ESTIMATORS)
def test_a_fitted_estimator_is_the_same_after_its_way_through_a_file(
    cls, copied, screen, tmp_path
):
    model = small(cls).fit(screen.X, screen.A)
    assert_same(copied(model, tmp_path), model, screen.X, screen.A)


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_an_unfitted_estimator_keeps_its_parameters(cls, tmp_path):
    model = small(cls)
    copy = through_file(model, tmp_path)
    assert type(copy) is cls
    assert copy.get_params() == model.get_params()
    assert vars(copy) == vars(model)


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize(
    ("cls", "options"),
    [(VAE, {}), (IVAE, {}), (SVAE, {}), (SVAEPlus, {}), (SVAE, {"sparse": True})]
    + [(SVAEPlus, {"sparse": True})],
)
def test_an_adapted_estimator_too_and_it_can_be_adapted_again(
    cls, options, copied, screen, known, tmp_path
):
    model = small(cls).fit(screen.X[known], screen.A[known])
    adapted = model.adapt(screen.X[~known], screen.A[~known], **options)
    copy = copied(adapted, tmp_path)
    assert_same(copy, adapted, screen.X, screen.A)
    again = [m.adapt(screen.X[:9], ["new"] * 9, **options) for m in (copy, adapted)]
    assert_same(*again, screen.X, screen.A)


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("bound", ["practical", "exact"])
def test_a_refined_estimator_too(bound, copied, screen, tmp_path):
    model = small(SVAEPlus, bound=bound).fit(screen.X, screen.A)
    refined = model.refine(screen.X, screen.A)
    assert_same(copied(refined, tmp_path), refined, screen.X, screen.A)


def test_environments_names_of_genes_and_pandas_output_are_kept(screen, tmp_path):
    X = pd.DataFrame(screen.X, columns=[f"gene {g}" for g in range(40)])
    A = pd.DataFrame({"perturbation": screen.A, "donor": ["D1", "D2"] * 50})
    A["age"] = np.arange(100.0)
    model = small(SVAEPlus, environment=["donor", "age"]).set_output(transform="pandas")
    copy = through_file(model.fit(X, A), tmp_path)
    assert copy.score(X, A) == model.score(X, A)
    np.testing.assert_array_equal(copy.feature_names_in_, model.feature_names_in_)
    pd.testing.assert_frame_equal(copy.transform(X), model.transform(X))


def test_an_encoder_of_designs_can_be_saved_alone(tmp_path):
    A = pd.DataFrame({"perturbation": ["control", "A", "A+B", "A"], "donor": list("xyxy")})
    encoder = PerturbationEncoder(environment=["donor"]).fit(A)
    copy = through_file(encoder, tmp_path)
    np.testing.assert_array_equal(copy.environments(A), encoder.environments(A))
    np.testing.assert_array_equal(copy.transform(A).toarray(), encoder.transform(A).toarray())


@pytest.mark.parametrize(
    "value",
    [None, True, 2**70, 0.1, float("-inf"), "ä", b"\xff", ("a", 1), [(), []], np.float32(0.1)]
    + [np.str_("a"), Path("sets.gmt"), {1: {"a": [None]}}],
)
def test_a_parameter_of_any_plain_kind_is_kept(value, tmp_path):
    copy = through_file(VAE(control=value), tmp_path)
    assert copy.control == value
    assert type(copy.control) is type(value)


def test_files_of_one_estimator_are_equal(tmp_path):
    for name in "ab":
        save(VAE(random_state=0), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (VAE(control=np.random.default_rng(0)), "VAE.control is Generator"),
        (VAE(control=np.zeros(2, dtype=[("a", "f4")])), "VAE.control is of dtype"),
        (VAE(n_latent=0), "not saved.*'n_latent' parameter of VAE must be an int"),
        (VAE(control=print), "VAE.control is builtin_function_or_method"),
        (VAE(environment=[{"a"}]), r"VAE.environment\[0\] is set"),
        (PCA(), "estimators of skpert only.*sklearn.decomposition._pca.PCA"),
        (type("VAE", (VAE,), {})(), "skpert only.*and VAE is a .*VAE: pickle it"),
    ],
)
def test_what_is_not_data_or_not_ours_is_refused_and_the_old_file_stays(
    estimator, message, tmp_path
):
    save(SVAEPlus(), tmp_path / "model")
    with pytest.raises(ValueError, match=message):
        save(estimator, tmp_path / "model")
    assert isinstance(load(tmp_path / "model"), SVAEPlus)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def with_document(path, change):
    """Rewrite the JSON document of a file."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    document = json.loads(entries["estimator.json"])
    change(document)
    if "sha256" in document:
        arrays = _archive.read(path)[1]
        del document["sha256"]
        document["sha256"] = _archive.digest(document, arrays)
    entries["estimator.json"] = json.dumps(document)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


@pytest.mark.parametrize(
    "name",
    ["os.system", "subprocess.Popen", "PCA", "skpert.VAE", "PerturbationVAE", ["VAE"], None],
)
def test_a_class_that_is_not_ours_is_refused(name, tmp_path):
    save(VAE(), tmp_path / "model")
    with_document(tmp_path / "model", lambda d: d["estimator"]["estimator"].__setitem__(0, name))
    with pytest.raises(ValueError, match="does not fit skpert"):
        load(tmp_path / "model")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "not a skpert file"),
        ({"format_version": 99}, "format 99 of skpert 0.1.*install a newer one"),
        ({"format_version": 0}, "format 0 of skpert 0.1.*it is corrupt"),
        ({"format_version": True}, "format True of skpert 0.1.*it is corrupt"),
        ({"estimator": {"dict": []}}, "holds no estimator"),
        ({"estimator": {"call": ["print", []]}}, "does not fit"),
        ({"estimator": {"array": "arrays/0.npy"}}, "does not fit"),
        ({"estimator": {"estimator": ["VAE", {"dict": [["module_", {"dict": []}]]}]}}, "not fit"),
    ],
)
def test_a_document_that_makes_no_sense_is_refused(change, message, tmp_path):
    save(VAE(), tmp_path / "model")
    with_document(tmp_path / "model", lambda document: document.update(change))
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "model")


class Trap:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("code of the file was run",)


def test_pickled_arrays_are_refused(tmp_path):
    save(VAE(), tmp_path / "model")
    pickled = io.BytesIO()
    np.save(pickled, np.array([Trap()], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(tmp_path / "model", "a") as archive:
        archive.writestr("arrays/0.npy", pickled.getvalue())
    with pytest.raises(ValueError, match="has the dtype object"):
        load(tmp_path / "model")


def test_damaged_and_foreign_files_are_refused(screen, tmp_path):
    save(small(VAE).fit(screen.X, screen.A), tmp_path / "model")
    content = (tmp_path / "model").read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    archive = io.BytesIO()
    np.savez(archive, a=np.zeros(3))
    for bad in (content[:-100], content[:middle], flipped, b"", b"text", archive.getvalue()):
        (tmp_path / "bad").write_bytes(bad)
        with pytest.raises(ValueError, match="not a skpert file, or is corrupt"):
            load(tmp_path / "bad")
    with pytest.raises(ValueError, match="absent cannot be read: No such file"):
        load(tmp_path / "absent")


@pytest.mark.parametrize("wrap", [lambda features: features, FrozenEstimator])
def test_features_from_gene_sets_are_kept(wrap, tmp_path):
    sets = {"one": ["P0", "P1", "Q"], "two": ["P1", "P2", "R"], "three": ["P0", "P3", "Q"]}
    features = wrap(GeneSetFeatures(sets, weight="idf").fit(["P0", "P1", "P2", "P3"]))
    A = np.repeat(["control", "P0", "P1", "P2", "P3"], 8)
    X = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    model = BilinearRidge(features).fit(X, A)
    save(model, tmp_path / "model.skpert")
    again = load(tmp_path / "model.skpert")
    names = ["Q", "R", "P0"]
    assert np.array_equal(again.predict_intervention(names), model.predict_intervention(names))


FRAME = pd.DataFrame({"one": [0.5, -0.0], "two": [1, 2]}, index=["G0", "G1"]).rename_axis("gene")


@pytest.mark.parametrize(
    "value",
    [
        FRAME,
        FRAME.rename_axis(columns="feature"),
        FRAME.set_axis(range(2), axis=1),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(3, dtype=">i2"),
        np.array(["a", "bc"]),
        np.array([["a", None], [1, 2.5]], dtype=object),
        {"G0": np.array([1.0, 2.0]), "G1": [1, 2]},
    ],
)
def test_parameters_of_arrays_and_frames_are_kept_bit_for_bit(value, tmp_path):
    copy = clone(through_file(clone(BilinearRidge(features=value)), tmp_path)).features
    if isinstance(value, pd.DataFrame):
        pd.testing.assert_frame_equal(copy, value, check_exact=True)
        assert (np.signbit(copy) == np.signbit(value)).all(axis=None)
    elif isinstance(value, np.ndarray):
        assert (copy.dtype, copy.flags.f_contiguous) == (value.dtype, value.flags.f_contiguous)
        np.testing.assert_array_equal(copy, value, strict=True)
    else:
        assert copy.keys() == value.keys()
        np.testing.assert_array_equal(copy["G0"], value["G0"], strict=True)
        assert copy["G1"] == value["G1"]


def test_a_generator_goes_on_from_where_it_was(screen, tmp_path):
    random_state = np.random.RandomState(3)
    random_state.normal(size=5)  # keeps the second of a pair
    model = small(VAE).set_params(random_state=random_state).fit(screen.X, screen.A)
    copy = through_file(model, tmp_path)
    drawn = copy.random_state.normal(size=700), random_state.normal(size=700)
    np.testing.assert_array_equal(*drawn)
    np.testing.assert_array_equal(copy.transform(screen.X), model.transform(screen.X))


@pytest.mark.parametrize(
    "frame",
    [
        FRAME.astype({"two": "Int64"}),
        FRAME.set_axis(pd.MultiIndex.from_tuples([("a", 1), ("b", 2)]), axis=0),
        FRAME.set_axis(pd.CategoricalIndex(["a", "b"]), axis=0),
    ],
)
def test_frames_that_would_come_back_as_others_are_refused(frame, tmp_path):
    with pytest.raises(ValueError, match="BilinearRidge.features is a DataFrame that save cannot"):
        save(BilinearRidge(frame), tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_a_list_within_itself_is_refused(tmp_path):
    value = []
    value.append(value)
    with pytest.raises(ValueError, match="nested too deeply"):
        save(VAE(control=value), tmp_path / "model")


def test_parameters_changed_since_fit_are_told_before_a_file_is_written(screen, tmp_path):
    model = small(VAE).fit(screen.X, screen.A).set_params(n_latent=3)
    with pytest.raises(ValueError, match="parameters were changed since fit"):
        save(model, tmp_path / "model")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", [None, 3, io.BytesIO(), ["model"]])
@pytest.mark.parametrize("function", [load, lambda path: save(VAE(), path)])
def test_what_names_no_file_is_a_type_error(function, path):
    with pytest.raises(TypeError, match="path must be the name of a file, str or path-like"):
        function(path)


def test_a_link_stays_and_leads_to_the_new_file(tmp_path):
    (tmp_path / "folder").mkdir()
    for name in ("old", "absent"):
        (tmp_path / f"to {name}").symlink_to(tmp_path / "folder" / name)
    (tmp_path / "folder" / "old").write_text("old")
    for name in ("old", "absent"):
        save(VAE(), tmp_path / f"to {name}")
        assert (tmp_path / f"to {name}").is_symlink()
        assert isinstance(load(tmp_path / "folder" / name), VAE)
    assert len(list((tmp_path / "folder").iterdir())) == 2


def test_what_is_no_regular_file_is_refused_and_stays(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "link", "folder", os.devnull):
        before = os.stat(tmp_path / name).st_mode
        for function in (load, lambda path: save(VAE(), path)):
            with pytest.raises(ValueError, match="is no regular file"):
                function(tmp_path / name)
        assert os.stat(tmp_path / name).st_mode == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "link", "pipe"]


@pytest.mark.parametrize("path", ["absent/model", "file/model", "loop", "x" * 300, ""])
def test_where_no_file_can_be_is_a_value_error(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(ValueError, match=r"cannot be written: \w|no regular file"):
        save(VAE(), path)
    with pytest.raises(ValueError, match=r"cannot be read: \w|no regular file"):
        load(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "loop"]


def test_a_name_as_long_as_names_can_be_is_no_problem(tmp_path):
    save(VAE(), tmp_path / ("x" * 255))
    assert isinstance(load(tmp_path / ("x" * 255)), VAE)


def test_permissions_are_those_of_a_new_file_or_of_the_one_replaced(tmp_path):
    (tmp_path / "new").write_text("")
    usual = (tmp_path / "new").stat().st_mode
    save(VAE(), tmp_path / "model")
    assert (tmp_path / "model").stat().st_mode == usual
    (tmp_path / "model").chmod(0o640)
    save(VAE(), tmp_path / "model")
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == 0o640


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_read_only_files_and_folders_are_a_value_error(tmp_path):
    save(VAE(), tmp_path / "model")
    (tmp_path / "model").chmod(0o400)
    with pytest.raises(ValueError, match="read-only"):
        save(VAE(), tmp_path / "model")
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match="cannot be written: Permission denied"):
        save(VAE(), tmp_path / "other")


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path):
    save(SVAEPlus(), tmp_path / "model")
    before = (tmp_path / "model").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(ValueError, match="cannot be written: File too large"):
            save(VAE(), tmp_path / "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "model").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_of_saves_at_the_same_time_one_is_there_in_the_end(tmp_path):
    classes = [VAE, IVAE, SVAE, SVAEPlus]
    threads = [
        threading.Thread(target=save, args=(cls(), tmp_path / "model")) for cls in classes * 4
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert type(load(tmp_path / "model")) in classes
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("version", range(1, FORMAT_VERSION + 1))
def test_files_of_this_and_older_versions_give_what_they_gave(version):
    files = sorted((DATA / f"format_{version}").glob("*.skpert"))
    assert len(files) == 35 + (version > 3)  # models, variants and encoders
    encoders = {name: values for name, (_, values) in make_saved.encoders().items()}
    for file in files:
        estimator, expected = load(file), np.load(file.with_suffix(".npz"))
        if file.stem in encoders:
            found = make_saved.encoded(estimator, encoders[file.stem])
        else:
            found = make_saved.answers(estimator)
        assert set(found) == set(expected)
        for name, values in found.items():
            np.testing.assert_allclose(values, expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:X looks like raw counts")
@pytest.mark.parametrize("version", range(1, FORMAT_VERSION + 1))
def test_models_of_this_and_older_versions_learn_new_perturbations(version):
    X, _ = make_saved.cells()
    for name in ("VAE", "SVAEPlus", "SAMSVAE", "ConditionalVAE", "ControlMean"):
        adapted = load(DATA / f"format_{version}" / f"{name}.skpert").adapt(X, ["new"] * len(X))
        assert adapted.perturbations_[-1] == "new"
        assert not adapted.design_.nested_.any()


@pytest.mark.parametrize("edges", ["called", "learned"])
def test_a_pickle_of_before_edges_were_a_parameter_still_works(edges, screen):
    model = small(SVAEPlus, edges=edges, init="rotation" if edges == "called" else "random")
    model.fit(screen.X, screen.A)
    old = {"masks.logit.": "mask_logit.", "masks.penalty.": "penalty."}
    old |= {"masks.standard_error.": "standard_error."}
    state, weights = model.__getstate__(), {}
    for name, values in state["module_"].items():
        for new in old:
            name = name.replace(new, old[new])
        weights |= {} if "difference" in name else {name: values}
    for name in ("edges", "batch_norm", "adam_epsilon", "max_gradient_norm"):
        del state[name]
    again = SVAEPlus.__new__(SVAEPlus)
    again.__setstate__(state | {"module_": weights})
    assert again.get_params() == model.get_params()
    np.testing.assert_array_equal(again.targets_, model.targets_)
    np.testing.assert_array_equal(again.transform(screen.X), model.transform(screen.X))


def rewritten(path, change, *, compression=zipfile.ZIP_STORED):
    """Rewrite the entries of a file, a dict that ``change`` changes."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in (change(entries) or entries).items():
            archive.writestr(name, content)


def bits(array):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array)
    return stream.getvalue()


FIRST = "arrays/0.npy"
HEADER = bits(np.zeros(0, dtype=np.float32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda entries: entries.update({"../evil": b""}), "its entries are not"),
        (lambda entries: entries.update({"arrays/99.npy": entries[FIRST]}), "entries are not"),
        (lambda entries: entries.pop("estimator.json"), "."),
        (lambda entries: entries.pop(FIRST), "entries are not"),
        (lambda entries: entries.update({FIRST: entries[FIRST] + b"x"}), "not the size of its"),
        (lambda entries: entries.update({FIRST: bits(np.zeros(7))}), "another digest"),
        (lambda entries: entries.update({FIRST: HEADER.replace(b"(0,)", b"(-9,)")}), "shape"),
        (lambda entries: entries.update({FIRST: HEADER.replace(b"(0,)", b"(9**9,)")}), "."),
        (lambda entries: entries.update({FIRST: b"x"}), "magic"),
        (lambda entries: entries.update({"estimator.json": b"[" * 10**6}), "at most"),
        (lambda entries: entries.update({"estimator.json": b'{"format": NaN}'}), "NaN is not"),
        (lambda entries: entries.update({"estimator.json": b"7"}), "document is not ours"),
    ],
)
def test_entries_that_save_does_not_write_are_refused(change, message, screen, tmp_path):
    save(small(VAE).fit(screen.X, screen.A), tmp_path / "model")
    rewritten(tmp_path / "model", lambda entries: (change(entries), entries)[1])
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "model")


def test_compressed_encrypted_linked_and_repeated_entries_are_refused(tmp_path):
    save(VAE(), tmp_path / "model")
    content = (tmp_path / "model").read_bytes()
    listing = content.index(b"PK\1\2")
    encrypted = content[: listing + 8] + b"\1" + content[listing + 9 :]
    linked = content[: listing + 40] + b"\0\xa0" + content[listing + 42 :]
    rewritten(tmp_path / "model", lambda entries: None, compression=zipfile.ZIP_DEFLATED)
    compressed = (tmp_path / "model").read_bytes()
    twice = pytest.warns(UserWarning, match="Duplicate name")
    with zipfile.ZipFile(tmp_path / "model", "a") as archive, twice:
        archive.writestr("estimator.json", "{}")
    for bad in (encrypted, compressed):
        (tmp_path / "bad").write_bytes(bad)
        with pytest.raises(ValueError, match="is compressed or encrypted"):
            load(tmp_path / "bad")
    (tmp_path / "bad").write_bytes(linked)
    with pytest.raises(ValueError, match="estimator.json is no regular file"):
        load(tmp_path / "bad")
    with pytest.raises(ValueError, match="each once"):
        load(tmp_path / "model")


def with_attribute(path, name, change):
    """Rewrite an attribute of the outermost estimator, a JSON value."""

    def changed(document):
        items = document["estimator"]["estimator"][1]["dict"]
        [item] = [item for item in items if item[0] == name]
        item[1] = change(item[1])

    with_document(path, changed)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("n_features_in_", 10**9, "has shape"),
        ("n_features_in_", 10**30, "size"),
        ("n_features_in_", "40", "."),
        ("n_latent", 10**9, "has shape"),
        ("n_hidden", 10**9, "has shape"),
        ("n_layers", 10**9, "n_layers of SVAEPlus is too large"),
        ("n_particles", 10**9, "n_particles of SVAEPlus is too large"),
        ("random_state", -1, "random_state"),
        ("sep", 5, "sep"),
        ("_n_training_cells", 10**30, "size"),
        ("_seed", 2**70, "_seed is"),
        ("n_iter_", None, "n_iter_ is None"),
        ("history_", [], "history_ is no history"),
        ("module_", None, "module_"),
        ("design_", {"estimator": ["VAE", {"dict": []}]}, "n_environments_"),
        ("design_", {"estimator": ["CovariateEncoder", {"dict": []}]}, "n_environments_"),
        ("perturbations_", {"objects": [[4], ["P0", "P0", "P1", "P2"]]}, "different names"),
        ("perturbations_", {"objects": [[1], ["P0"]]}, "."),
        ("_population", {"dict": []}, "_population is incomplete"),
        ("learning_rate", {"list": []}, "."),
        ("control", [[[[["x"] * 2] * 2] * 2] * 2] * 2, None),
    ],
)
def test_numbers_that_do_not_belong_to_the_arrays_are_refused(
    name, value, message, screen, tmp_path
):
    save(small(SVAEPlus).fit(screen.X, screen.A), tmp_path / "model")
    with_attribute(tmp_path / "model", name, lambda before: value)
    if message is None:
        assert load(tmp_path / "model").control == value
        return
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "model")


@pytest.mark.parametrize("name", ["transform", "_inference", "colour_", "_parameter_constraints"])
def test_attributes_that_the_class_does_not_have_are_refused(name, screen, tmp_path):
    model = small(VAE).fit(screen.X, screen.A)
    vars(model)[name] = 1
    with pytest.raises(ValueError, match=f"VAE has no attribute '{name}'"):
        save(model, tmp_path / "model")


@pytest.mark.parametrize(
    ("weight", "value"),
    [
        ("encoder.moments.bias", np.nan),
        ("encoder.moments.bias", np.inf),
        ("encoder.moments.bias", 3e38),
        ("embedding.rows", -np.inf),
        ("masks.logit.rows", np.nan),
    ],
)
def test_weights_that_are_not_finite_are_refused(weight, value, screen, tmp_path):
    model = small(SVAEPlus).fit(screen.X, screen.A)
    model.module_.state_dict()[weight].fill_(value)
    with pytest.raises(ValueError, match="not finite"):
        save(model, tmp_path / "model")


def test_one_array_is_not_taken_for_two(screen, tmp_path):
    save(small(VAE).fit(screen.X, screen.A), tmp_path / "model")

    def repeat(weights):
        weights["dict"][0][1] = weights["dict"][1][1]
        return weights

    with_attribute(tmp_path / "model", "module_", repeat)
    with pytest.raises(ValueError, match="is absent, or is taken already"):
        load(tmp_path / "model")


def test_sparse_cells_with_indices_out_of_range_are_refused(screen, tmp_path):
    model = PerturbedMean().fit(csr_array(screen.X), screen.A)
    assert_same(through_file(model, tmp_path), model, screen.X, screen.A)
    model._treated_cells[1][3] = 10**6
    with pytest.raises(ValueError, match="indices"):
        save(model, tmp_path / "model")


def test_a_file_of_a_class_that_has_got_a_parameter_since_takes_its_default(tmp_path):
    save(VAE(n_latent=3), tmp_path / "model")

    def drop(document):
        items = document["estimator"]["estimator"][1]["dict"]
        items[:] = [item for item in items if item[0] != "dropout"]

    with_document(tmp_path / "model", drop)
    assert load(tmp_path / "model").get_params() == VAE(n_latent=3).get_params()


def test_what_a_module_computes_from_other_data_cannot_be_changed(screen, tmp_path):
    model = small(InVAE).fit(screen.X, screen.A)
    model.module_.covariate[0] = 99
    with pytest.raises(ValueError, match="covariate is not what follows from the rest"):
        save(model, tmp_path / "model")
