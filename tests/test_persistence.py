import inspect
import io
import json
import pickle
import zipfile

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator

import skpert
from skpert import IVAE, SVAE, VAE, BilinearRidge, SVAEPlus
from skpert.datasets import make_sparse_shift
from skpert.persistence import load, save
from skpert.preprocessing import GeneSetFeatures, PerturbationEncoder

PUBLIC = [getattr(skpert, name) for name in skpert.__all__]
ESTIMATORS = [c for c in PUBLIC if inspect.isclass(c) and issubclass(c, BaseEstimator)]

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
    "value", [None, True, 2**70, 0.1, float("-inf"), "ä", ("a", 1), [(), []], np.float32(0.1)]
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
        (VAE(random_state=np.random.RandomState(0)), "random_state is a RandomState.*an int"),
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


def test_a_write_that_breaks_off_leaves_the_old_file_and_no_other(screen, tmp_path):
    model = small(VAE).fit(screen.X, screen.A)
    save(model, tmp_path / "model")
    before = (tmp_path / "model").read_bytes()
    model._population["library"] = np.array([(None,)], dtype=[("a", object)])  # not writable
    with pytest.raises(ValueError, match="allow_pickle"):
        save(model, tmp_path / "model")
    assert (tmp_path / "model").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def with_document(path, change):
    """Rewrite the JSON document of a file."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    document = json.loads(entries["estimator.json"])
    change(document)
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
        ({"format": "other"}, "no file written by skpert.save"),
        ({"format_version": 99}, "format 99 of skpert 0.1.*install a newer one"),
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
    with pytest.raises(ValueError, match="Object arrays cannot be loaded"):
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
        with pytest.raises(ValueError, match="no file written by skpert.save, or is damaged"):
            load(tmp_path / "bad")
    with pytest.raises(FileNotFoundError):
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
