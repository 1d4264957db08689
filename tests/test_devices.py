"""Everything that a fitted estimator can do, on a GPU: a pretended one, and a real one if any."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_array
from sklearn.base import clone

from skpert import (
    CPAVAE,
    IVAE,
    NFIVAE,
    SAMSVAE,
    SCCVAE,
    SVAE,
    VAE,
    BetaVAE,
    ConditionalVAE,
    ControlMean,
    InVAE,
    SVAEPlus,
    inspection,
    load,
    model_selection,
    plotting,
    save,
)
from skpert.exceptions import TrainingWarning
from tests.fake_device import fake_cuda

pytestmark = [
    pytest.mark.filterwarnings("ignore:Perturbations are described by one-hot"),
    pytest.mark.filterwarnings("ignore:X looks like raw counts"),
]
DEVICE = torch.device("cuda", 0)
SMALL = {"n_latent": 3, "n_hidden": 16, "n_layers": 1, "max_epochs": 2, "batch_size": 32}
SMALL |= {"n_particles": 2, "random_state": 0, "device": "cuda"}

A = np.repeat(["control", "P0", "P1", "P2", "P0+P1"], 12)
OBS = pd.DataFrame({"perturbation": A, "batch": ["a", "b"] * 30, "type": list("xyxyz") * 12})
X = np.random.default_rng(0).poisson(3.0, (60, 20)).astype(np.float32)
X[A == "P0", :5] *= 3
NEW = np.repeat(["new", "control"], 5)

EFFECTS = {
    "VAE": VAE(),
    "BetaVAE": BetaVAE(likelihood="poisson"),
    "IVAE": IVAE(environment=["batch"]),
    "SVAE": SVAE(dropout=0.1),
    "SVAE-learned": SVAE(edges="learned", sparsity=1.0),
    "SVAEPlus": SVAEPlus(n_init=2),
    "SVAEPlus-random": SVAEPlus(edges="learned", init="random", bound="exact"),
    "SVAEPlus-learned": SVAEPlus(
        edges="learned", sparsity=3.0, likelihood="zero_inflated_negative_binomial"
    ),
    "ConditionalVAE": ConditionalVAE(input_transform="log_standardize"),
    "CPAVAE": CPAVAE(correlated_basal=True, likelihood="normal"),
    "SAMSVAE": SAMSVAE(),
    "SAMSVAE-random": SAMSVAE(
        edges="learned", init="random", correlated_embedding=True, n_train_particles=2
    ),
    "SAMSVAE-beta": SAMSVAE(
        edges="learned",
        mask_prior=(1.0, 3.0),
        mask_posterior="beta",
        objective="iwelbo",
        correlated_basal=True,
    ),
    "SCCVAE": SCCVAE(likelihood="negative_binomial", environment=["batch"]),
    "SCCVAE-normal": SCCVAE(graph="random", edge_density=0.5),
    "SCCVAE-cyclic": SCCVAE(cyclic=True, objective="published", shift_encoder="network"),
    "SCCVAE-conditional": SCCVAE(graph=None, likelihood="heteroscedastic_normal"),
}
CONDITIONS = {
    "InVAE": InVAE(invariant=["type"], spurious="batch"),
    "InVAE-factorized": InVAE(invariant="type", spurious="batch", prior="factorized"),
    "InVAE-none": InVAE(
        invariant="type", n_spurious=0, environment=["batch"], likelihood="normal", whiten=False
    ),
    "NFIVAE": NFIVAE(invariant=["type", "batch"]),
    "NFIVAE-labels": NFIVAE(),
}


FITTED = {}


@pytest.fixture(
    params=["pretended", pytest.param("real", marks=pytest.mark.gpu)], scope="module", autouse=True
)
def cuda(request):
    FITTED.clear()
    if request.param == "real":
        if not torch.cuda.is_available():
            pytest.skip("no GPU")
        yield
    else:
        with pytest.MonkeyPatch.context() as patch, fake_cuda(patch):
            yield
    FITTED.clear()


def fitted(estimator):
    """Trained on the GPU, once for all tests."""
    key = repr(estimator)
    if key not in FITTED:
        FITTED[key] = clone(estimator).set_params(**SMALL).fit(X, design(estimator))
    return FITTED[key]


def design(estimator):
    """A frame where the estimator reads one, else labels."""
    reads = estimator.environment or getattr(estimator, "invariant", None)
    return OBS if reads else A


def on_device(model):
    state = model.module_.state_dict().values()
    return {tensor.device for tensor in state} == {DEVICE}


def finite(*results):
    return all(np.isfinite(np.asarray(result, dtype=np.float64)).all() for result in results)


def answers(model, X, A):
    """All that the methods of every model give."""
    rows = A.iloc[[0, -1]] if isinstance(A, pd.DataFrame) else A[[0, -1]]
    sizes = {"library_size": 500.0} if model._counts else {}
    yield model.transform(X)
    yield model.score_cells(X[:9], A[:9], n_particles=2)
    yield model.score(X, A)
    yield from model.posterior(X).values()
    yield from model.posterior(X, A).values()
    yield model.predict_intervention(rows)
    yield model.predict_intervention(rows, **sizes)
    yield model.predict_intervention(rows[:1], X[:7])
    yield model.predict_intervention(A[:7], X[:7])
    yield model.sample_intervention(rows, 4, random_state=0)
    yield model.sample_intervention(rows, 4, X=X[:7], random_state=0, **sizes)


def learned(model):
    """What the model shows of perturbations."""
    names = ("embedding_", "mask_", "mask_probability_", "targets_", "shift_", "penetrance_")
    return {name: getattr(model, name) for name in names if hasattr(model, name)}


@pytest.mark.parametrize("estimator", (EFFECTS | CONDITIONS).values(), ids=[*EFFECTS, *CONDITIONS])
def test_a_model_is_trained_and_asked_on_the_device(estimator):
    model = fitted(estimator)
    assert on_device(model)
    assert finite(*answers(model, X, design(estimator)))
    assert finite(*learned(model).values())
    refined = model.refine(X, design(estimator))
    assert on_device(refined)
    assert finite(refined.transform(X), refined.score(X, design(estimator)))


@pytest.mark.parametrize("estimator", EFFECTS.values(), ids=list(EFFECTS))
def test_new_perturbations_are_learned_on_the_device(estimator):
    model = fitted(estimator)
    new = OBS[:10].assign(perturbation=NEW) if estimator.environment else NEW
    options = [{"sparse": True}, {}] if isinstance(model, SVAE | SVAEPlus) else [{}]
    for option in options:
        adapted = model.adapt(X[:10], new, **option)
        assert on_device(adapted)
        assert finite(*answers(adapted, X[:10], new[:10]))
        assert finite(*learned(adapted).values())
        assert on_device(adapted.refine(X[:10], new))


@pytest.mark.parametrize("estimator", (EFFECTS | CONDITIONS).values(), ids=[*EFFECTS, *CONDITIONS])
def test_a_model_leaves_the_device_with_its_answers(estimator, tmp_path):
    model = fitted(estimator)
    save(model, tmp_path / "model")
    for other in (pickle.loads(pickle.dumps(model)), load(tmp_path / "model")):
        assert other.module_.device.type == "cpu"
        np.testing.assert_allclose(other.transform(X), model.transform(X), rtol=1e-4, atol=1e-5)
        for name, shown in learned(model).items():
            np.testing.assert_allclose(getattr(other, name), shown, rtol=1e-5, atol=1e-6)
        assert finite(other.score(X, design(estimator)))


@pytest.mark.parametrize("device", ["cuda", "cpu"])
@pytest.mark.parametrize("cls", [VAE, SVAEPlus, SAMSVAE, SCCVAE, InVAE])
def test_generators_of_all_devices_stay_untouched(cls, device):
    def state():
        return [torch.get_rng_state().tolist(), torch.cuda.get_rng_state().tolist()]

    before = state()
    model = cls(**SMALL | {"device": device}).fit(X, A)
    model.score(X, A), model.sample_intervention(A[:1], 3, random_state=0)
    pickle.loads(pickle.dumps(model)).predict_intervention(A[:1])
    assert state() == before


def test_sparse_cells_are_as_dense_ones_on_the_device():
    model, other = fitted(SVAEPlus()), SVAEPlus(**SMALL).fit(csr_array(X), A)
    np.testing.assert_allclose(other.transform(csr_array(X)), model.transform(X), atol=1e-5)
    assert finite(*answers(other, csr_array(X), A))
    assert on_device(other.adapt(csr_array(X[:10]), NEW))


def test_the_automatic_device_is_the_one_there_is():
    model = VAE(**SMALL | {"device": "auto"}).fit(X, A)
    assert model.module_.device == DEVICE


def test_a_device_that_fails_is_an_error_or_left_alone(monkeypatch):
    def broken(*arguments, **options):
        if str(options.get("device", "cpu")).startswith("cuda"):
            raise RuntimeError("CUDA error: out of memory\nmore of it")
        return zeros(*arguments, **options)

    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", broken)
    with pytest.warns(TrainingWarning, match=r"\(CUDA error: out of memory\): .* on the CPU"):
        model = VAE(**SMALL | {"device": "auto"}).fit(X, A)
    assert model.module_.device.type == "cpu"
    with pytest.raises(ValueError, match="device='cuda:0' cannot be used here"):
        VAE(**SMALL | {"device": "cuda:0"}).fit(X, A)


@pytest.mark.parametrize("name", ["meta", "nonsense", "cuda:x"])
def test_what_is_no_device_for_numbers_is_an_error(name):
    with pytest.raises(ValueError, match=f"device='{name}' cannot be used here"):
        VAE(**SMALL | {"device": name}).fit(X, A)


@pytest.mark.parametrize("estimator", [SAMSVAE(), CPAVAE(), ConditionalVAE()])
def test_joint_scores_are_computed_on_the_device(estimator):
    model = fitted(estimator)
    if hasattr(model, "joint_score"):
        assert finite(model.joint_score(X, A, n_particles=3))
    assert finite(model.predict_intervention(pd.DataFrame({"P0": [0.5, 2.0], "P1": [1.0, 0.0]})))


@pytest.mark.parametrize("estimator", CONDITIONS.values(), ids=list(CONDITIONS))
def test_likelihoods_and_normalisers_of_conditions_on_the_device(estimator):
    model, rows = fitted(estimator), design(estimator)
    Z = model.posterior(X, rows).z
    assert finite(model.log_normaliser(rows[:30]))
    environment = rows if estimator.environment else None
    assert finite(model.log_likelihood(X, np.stack([Z, Z]), environment))
    search = inspection.posterior_search(
        model, X[:9], X, rows, A=None if environment is None else rows[:9], n_candidates=4
    )
    assert finite(search.Z)


def test_unseen_perturbations_and_penetrances_on_the_device():
    features = pd.DataFrame(np.eye(4, 3), index=["P0", "P1", "P2", "P3"])
    model = fitted(SCCVAE(features=features, graph="learned"))
    reached = model.reach(["P3"])
    assert on_device(reached)
    assert finite(reached.shift_, reached.graph_, model.predict_intervention(["P3", "P0+P3"]))
    assert finite(model.score_cells(X[:5], ["P3"] * 5), model.posterior(X[:5], ["P3"] * 5).z)
    assert finite(model.sample_intervention("P3", 3, random_state=0))
    changed = model.with_penetrance({"P3": 2.0, "P0": 0.0})
    assert on_device(changed)
    assert finite(changed.predict_intervention(["P3"]))
    assert on_device(model.adapt(X[:10], np.repeat(["P3", "control"], 5)))
    titration = inspection.titrate(model, ["P0", "P3"], [0.0, 1.0], X=X[:20], n_samples=10)
    assert finite(titration.expression, titration.distance)
    selection = model_selection.select_penetrance(model, ["P3"], X[:1], grid=[0.0, 1.0])
    assert on_device(selection.estimator)


@pytest.mark.parametrize("estimator", EFFECTS.values(), ids=list(EFFECTS))
def test_a_model_is_inspected_on_the_device(estimator):
    model, rows = fitted(estimator), design(estimator)
    designs = rows.iloc[[15]] if isinstance(rows, pd.DataFrame) else ["P0"]
    draws = ["perturbseq", "released"] if model._counts else []
    for method in ["mean", *draws]:
        effect = inspection.average_treatment_effect(model, designs, method=method, n_samples=9)
        assert finite(effect)
    assert finite(inspection.latent_shifts(model, designs))
    assert finite(inspection.latent_distances(model, X, rows))
    genes = inspection.latent_genes(model, gradients=True).drop(columns=["latent", "agreement"])
    assert finite(genes)
    assert finite(inspection.latent_genes(model, X=X)["log2_fold_change"])
    assert finite(model_selection.udr_score([model, model], X))
    if hasattr(model, "mask_probability_"):
        assert finite(model.targets(fdr=0.5))
        assert len(inspection.latent_summary(model)) == 3


@pytest.mark.parametrize("estimator", EFFECTS.values(), ids=list(EFFECTS))
def test_a_model_is_selected_on_the_device(estimator):
    if estimator.environment:
        pytest.skip("environments are no matter of selection")
    model = fitted(estimator)
    result = model_selection.interventional_nll(
        model, X[:10], NEW, X, A, n_particles=3, min_cells=0
    )
    assert finite(result.nll)
    assert on_device(result.estimator)


def test_estimators_are_compared_on_the_device():
    (model,) = model_selection.fit_many([SAMSVAE(**SMALL)], X, A, n_jobs=1)
    assert on_device(model)
    evaluation = model_selection.evaluate_perturbations(
        {"model": SAMSVAE(**SMALL), "control": ControlMean()},
        X,
        A,
        space="counts",
        cv=[(np.arange(48), np.arange(48, 60))],
        metrics=["response_mse"],
    )
    assert finite(evaluation.summary.loc["model"])


def test_a_model_is_drawn_from_the_device():
    pytest.importorskip("matplotlib").use("Agg")
    model = fitted(SVAEPlus())
    plotting.HistoryDisplay.from_estimator(model)
    plotting.TargetsDisplay.from_estimator(model)
    plotting.CombinationTargetsDisplay.from_estimator(model)
    plotting.PathwayTargetsDisplay.from_estimator(model, {"a": ["P0"], "b": ["P1"]})
    display = plotting.EmbeddingClustersDisplay.from_estimator(fitted(IVAE()), metric="cosine")
    assert finite(display.embedding)


def test_rows_on_disk_are_read_and_go_to_the_gpu():
    class Rows:
        shape = X.shape

        def __getitem__(self, rows):
            return csr_array(X[rows])

    model = VAE(**SMALL, memory="stream").fit(Rows(), A)
    assert model.module_.device == DEVICE
    Z = model.transform(Rows())
    np.testing.assert_allclose(Z, model.transform(X), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.score_cells(Rows(), A), model.score_cells(X, A), rtol=1e-5)
