"""What goes in: containers, sparse structure, names of cells and genes, counts and logarithms."""

import warnings
from inspect import getmembers, isclass

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline

import skpert
from skpert import AdditiveEffects, ControlMean, PerturbedMean, SVAEPlus
from skpert.base import PerturbationVAE
from skpert.exceptions import DataWarning
from skpert.metrics import (
    de_table,
    differential_expression,
    energy_distance,
    maximum_mean_discrepancy,
    mean_correlation_coefficient,
    response_weights,
)
from skpert.model_selection import PerturbationKFold, evaluate_perturbations
from skpert.preprocessing import HighlyVariableGenes, LogNormalize, detectable_perturbations

FAST = {"n_latent": 2, "n_hidden": 8, "n_layers": 1, "max_epochs": 1, "batch_size": 32}
FAST |= {"n_particles": 3, "device": "cpu", "random_state": 0}
CLASSES = [
    cls
    for _, cls in getmembers(skpert, isclass)
    if hasattr(cls, "predict_intervention") and cls is not skpert.PerturbationPipeline
]
A = np.array(["P0", "P1", "P2", "P3", "control"] * 16)
COUNTS = np.random.default_rng(0).negative_binomial(2, 0.2, (80, 6)).astype(np.float32)
LOGS = LogNormalize().fit_transform(COUNTS)
GENES = np.array([f"gene {g}" for g in range(6)])
CELLS = np.array([f"cell {i}" for i in range(80)])
OBS = pd.DataFrame({"perturbation": A}, index=CELLS)

pytestmark = pytest.mark.filterwarnings("ignore:Perturbations are described by one-hot")
every = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)


def estimator(cls):
    if issubclass(cls, PerturbationVAE):
        return cls(**FAST)
    features = {"features": pd.DataFrame(np.eye(4), index=sorted(set(A) - {"control"}))}
    return cls(**features) if cls.__name__ in ("BilinearRidge", "EffectRegression") else cls()


def values_of(model):
    """Expression that the model is meant for."""
    return COUNTS if getattr(model, "_counts", False) else LOGS


def outputs(model, X, A=A):
    """What a fitted model says of cells and of perturbations."""
    found = [model.predict_intervention(["P1", "control"]), model.predict_intervention(["P2"], X)]
    found.append(np.float64(model.score(X, A)))
    return [*found, model.transform(X)] if hasattr(model, "transform") else found


def assert_same(first, second, **tolerance):
    for one, other in zip(first, second, strict=True):
        np.testing.assert_allclose(one, other, **tolerance)


def adata(values, **parts):
    anndata = pytest.importorskip("anndata")
    parts = {"obs": OBS, "var": pd.DataFrame(index=GENES)} | parts
    return anndata.AnnData(values, **parts)


# Sparse structure


def with_duplicates(values, dtype):
    """The same matrix, each entry split in two at the same place, columns unsorted."""
    full = sparse.csr_matrix(values.astype(dtype))
    half = full.data // 2
    data = np.column_stack([half, full.data - half]).ravel()
    columns, ends = np.repeat(full.indices, 2), full.indptr * 2
    for i, j in zip(ends[:-1], ends[1:], strict=True):
        data[i:j], columns[i:j] = data[i:j][::-1], columns[i:j][::-1]
    return sparse.csr_matrix((data, columns, ends), shape=full.shape)


@every
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_entries_of_one_place_add_up(cls, dtype):
    model = estimator(cls)
    values = COUNTS if values_of(model) is COUNTS else np.round(LOGS * 9)  # whole, for uint8
    doubled = with_duplicates(values, dtype)
    before = doubled.data.copy(), doubled.indices.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        found = outputs(model.fit(doubled, A), doubled)
        expected = outputs(clone(model).fit(sparse.csr_matrix(values), A), values)
    assert_same(found, expected, rtol=1e-5)
    for array, kept in zip((doubled.data, doubled.indices), before, strict=True):
        np.testing.assert_array_equal(array, kept)


@every
def test_memory_layouts_and_empty_matrices_are_read(cls):
    model = estimator(cls).fit(values_of(estimator(cls)), A)
    values = values_of(model)
    backwards = np.ascontiguousarray(values[::-1, ::-1])[::-1, ::-1]
    assert_same(outputs(model, backwards), outputs(model, values))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        for empty in (sparse.csr_matrix((80, 6)), sparse.coo_array((80, 6), dtype=np.uint8)):
            assert_same(outputs(model, empty), outputs(model, np.zeros((80, 6))))
        for huge in (np.full((80, 6), 1e300), sparse.csc_matrix(np.full((80, 6), 1e300))):
            with pytest.raises(ValueError, match="infinity or a value too large"):
                model.score(huge, A)


def malformed():
    """Sparse matrices of which scipy would read or write beyond the arrays."""
    for column in (99, -1, 10**8):
        for make in (sparse.csr_matrix, sparse.csc_array, sparse.bsr_matrix):
            X = make(LOGS)
            X.has_canonical_format  # noqa: B018 - scipy remembers the answer
            X.indices[1] = column
            yield X
        X = sparse.coo_matrix(LOGS)
        X.col[1] = column
        yield X
    X = sparse.csr_matrix(LOGS)
    X.indptr[3] = X.indptr[4] + 1
    yield X
    X = sparse.csr_matrix(LOGS)
    X.indptr[-1] = len(X.data) + 10
    yield X
    X = sparse.csr_array(LOGS)
    X.indptr[0] = 2
    yield X


READERS_OF_DESIGNS = [
    LogNormalize().fit,
    HighlyVariableGenes().fit,
    lambda X, A: de_table(X, A, space="lognorm"),
    lambda X, A: differential_expression(X, A, method="mean"),
    lambda X, A: detectable_perturbations(X, A, min_cells=2),
    lambda X, A: evaluate_perturbations({"c": ControlMean()}, X, A, space="lognorm", cv=2),
]
READERS = [
    *(estimator(cls).fit for cls in CLASSES),
    *READERS_OF_DESIGNS,
    lambda X, A: LogNormalize().fit(COUNTS).transform(X),
    lambda X, A: maximum_mean_discrepancy(X, LOGS),
    lambda X, A: energy_distance(LOGS, X),
]


@pytest.mark.parametrize("read", READERS)
def test_malformed_sparse_structure_is_never_trusted(read):
    for X in malformed():
        with pytest.raises(ValueError, match="X is a sparse matrix|Y is a sparse matrix"):
            read(X, A)


# Containers


@every
def test_cells_of_scanpy_are_read_from_wherever_they_lie(cls, tmp_path):
    anndata = pytest.importorskip("anndata")
    model = estimator(cls)
    values = values_of(model)
    expected = outputs(clone(model).fit(values, A), values)
    everything = adata(sparse.csr_matrix(values), layers={"own": values, "other": values + 1})
    everything.raw = everything.copy()
    forms = {None: everything, "own": everything.copy(), "raw": everything[:, :3]}
    forms["own"].X = None
    wider = adata(
        np.hstack([values, values]), var=pd.DataFrame(index=[*GENES, *np.char.add(GENES, "b")])
    )
    for layer, form in [*forms.items(), (None, wider[:, GENES])]:
        found = clone(model).set_params(layer=layer).fit(form, form.obs["perturbation"])
        assert_same(outputs(found, form, form.obs["perturbation"]), expected)
        assert found.feature_names_in_.tolist() == GENES.tolist()
    for name, content in {"dense": values, "sparse": sparse.csc_matrix(values)}.items():
        path = tmp_path / f"{name}.h5ad"
        adata(content).write_h5ad(path)
        backed = anndata.read_h5ad(path, backed="r")
        found = clone(model).fit(backed, backed.obs["perturbation"])
        assert_same(
            outputs(found, backed[20:70], A[20:70]), outputs(found, everything[20:70], A[20:70])
        )
        with pytest.raises(ValueError, match="backed by a file.*to_memory|inconsistent numbers"):
            found.score(backed[::-1], A[::-1])
        assert_same(outputs(found, backed), expected)
        backed.file.close()


def test_transformers_read_what_models_read():
    for transformer in (LogNormalize(), HighlyVariableGenes(4), LogNormalize(None)):
        expected = transformer.fit_transform(COUNTS)
        layered = adata(LOGS, layers={"counts": sparse.csr_matrix(COUNTS)})
        found = clone(transformer).set_params(layer="counts").fit(layered, OBS)
        assert found.feature_names_in_.tolist() == GENES.tolist()
        np.testing.assert_array_equal(found.transform(layered).toarray(), expected)
        np.testing.assert_array_equal(found.transform(layered[:, ::-1]).toarray(), expected)
        frame = pd.DataFrame(COUNTS, columns=GENES)[GENES[::-1]]
        frame = frame.assign(other=np.float32(1))
        np.testing.assert_array_equal(found.set_params(layer=None).transform(frame), expected)
        with pytest.raises(ValueError, match="lacks 1 of the 6 genes .*'gene 2'"):
            found.transform(frame.drop(columns="gene 2"))


def test_pipelines_and_searches_take_anndata():
    data = adata(sparse.csr_matrix(COUNTS))
    model = make_pipeline(LogNormalize(), AdditiveEffects()).fit(data, data.obs)
    assert model.score(data, data.obs) == pytest.approx(
        AdditiveEffects().fit(LOGS, A).score(LOGS, A)
    )
    train, test = train_test_split(np.arange(80), stratify=A, random_state=0)
    fitted = SVAEPlus(**FAST).fit(data[train], data.obs.iloc[train])
    assert np.isfinite(fitted.score(data[test], data.obs.iloc[test]))
    search = GridSearchCV(
        SVAEPlus(edges="learned", **FAST), {"sparsity": [1, 10]}, cv=PerturbationKFold(2)
    )
    assert np.isfinite(search.fit(data, data.obs).cv_results_["mean_test_score"]).all()


def test_pandas_output_carries_the_names_of_cells():
    data = adata(COUNTS)
    for transformer in (LogNormalize(), HighlyVariableGenes(3), SVAEPlus(**FAST)):
        table = transformer.set_output(transform="pandas").fit(data, OBS).transform(data[5:9])
        assert table.index.tolist() == CELLS[5:9].tolist()
        assert table.columns.tolist() == transformer.get_feature_names_out().tolist()


class Unreadable:
    """A container of another library, with a shape and no way into numpy."""

    shape = (80, 6)

    def __len__(self):
        return 80

    def __getitem__(self, index):
        return Unreadable()


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("container", "message"),
    [
        (Unreadable(), "is a Unreadable and holds no rows of numbers"),
        ({"X": LOGS}, "is a dict .* give its 'X'"),
        ("screen.h5ad", "no such file or folder: screen.h5ad"),
        ((row for row in LOGS), "is a generator"),
        (np.ma.array(LOGS, mask=LOGS > 5), "masked values"),
        (LOGS[0], "Expected 2D array"),
        (LOGS[None], "3"),
        (np.full((80, 6), "text"), "text|could not convert"),
    ],
)
def test_other_containers_are_refused_at_once(read, container, message):
    with pytest.raises((ValueError, TypeError), match=message):
        read(container, A)


def test_embeddings_are_arrays_not_anndata():
    for call in (mean_correlation_coefficient, skpert.metrics.latent_r2):
        with pytest.raises(TypeError, match="must be an array, but is a AnnData: give its .X"):
            call(adata(LOGS), LOGS[:, :2])


def test_a_layer_that_is_not_there_is_refused():
    data = adata(None, layers={"counts": COUNTS})
    with pytest.raises(ValueError, match=r"X.X is None; .* such as layer='counts'"):
        SVAEPlus(**FAST).fit(data, OBS)
    with pytest.raises(ValueError, match=r"no layer 'raw' in X; its layers are \['counts'\]"):
        LogNormalize(layer="raw").fit(data)


# Names


def renamed(order=None, prefix="cell "):
    order = np.arange(80) if order is None else order
    return pd.DataFrame({"perturbation": A[order]}, index=[f"{prefix}{i}" for i in order])


@every
def test_cells_of_other_names_or_order_are_refused(cls):
    model = estimator(cls)
    data = adata(values_of(model))
    frame = pd.DataFrame(values_of(model), index=CELLS, columns=GENES)
    shuffled = np.random.default_rng(1).permutation(80)
    labels = OBS["perturbation"]
    fitted = clone(model).fit(data, labels)
    for X in (data, frame):
        for design, message in (
            (renamed(shuffled), "same cells in another order.*A.loc.X.(obs_names|index)"),
            (renamed(prefix="other "), "names of different cells.*80 of the 80.*to_numpy"),
        ):
            design = design["perturbation"]
            with pytest.raises(ValueError, match=message):
                clone(model).fit(X, design)
            with pytest.raises(ValueError, match=message):
                fitted.score(X, design)
            with pytest.raises(ValueError, match=message):
                fitted.predict_intervention(design, X)
        with pytest.raises(ValueError, match="X and sample_weight have the same cells in another"):
            fitted.score(X, labels, sample_weight=pd.Series(np.ones(80), index=CELLS[shuffled]))


@pytest.mark.parametrize("read", READERS_OF_DESIGNS)
def test_functions_compare_names_of_cells_too(read):
    for X in (adata(COUNTS), pd.DataFrame(COUNTS, index=CELLS, columns=GENES)):
        with pytest.raises(ValueError, match="same cells in another order"):
            read(X, renamed(np.arange(80)[::-1]))


def test_metrics_of_embeddings_compare_names_too():
    Z, back = pd.DataFrame(LOGS, index=CELLS), np.arange(80)[::-1]
    labels, batch = pd.Series(A, index=CELLS), pd.Series(np.repeat(["b1", "b2"], 40), index=CELLS)
    metrics = skpert.metrics
    for call in (
        lambda labels, batch, other: metrics.silhouette_label(Z, labels),
        lambda labels, batch, other: metrics.graph_connectivity(Z, labels),
        lambda labels, batch, other: metrics.kmeans_agreement(Z, labels, random_state=0),
        lambda labels, batch, other: metrics.principal_component_regression(Z, batch),
        lambda labels, batch, other: metrics.pcr_comparison(Z, Z**2, batch),
        lambda labels, batch, other: metrics.integration_scores(Z, labels, batch, random_state=0),
        lambda labels, batch, other: mean_correlation_coefficient(Z, other),
    ):
        assert np.isfinite(call(labels, batch, Z)).all()
        with pytest.raises(ValueError, match="have the same cells in another order"):
            call(labels.iloc[back], batch.iloc[back], Z.iloc[back])


def test_a_default_index_is_no_name():
    X, labels = pd.DataFrame(LOGS, columns=GENES), pd.Series(A)
    expected = ControlMean().fit(LOGS, A).control_mean_
    for one, other in (
        (X, labels.set_axis(CELLS)),
        (X.set_axis(CELLS), labels),
        (adata(LOGS, obs=None), labels.set_axis(np.arange(100, 180))),
        (X.set_axis(["twice"] * 80), labels.set_axis(["twice"] * 80)),
    ):
        np.testing.assert_array_equal(ControlMean().fit(one, other).control_mean_, expected)
    with pytest.raises(ValueError, match="same cells in another order: row 0 is '0' in X"):
        ControlMean().fit(X, labels[::-1])


@every
def test_genes_go_by_name(cls):
    model = estimator(cls)
    values = values_of(model)
    data, frame = adata(values), pd.DataFrame(values, columns=GENES)
    model.fit(data, A)
    expected = outputs(model, values_named := frame)
    wide = pd.concat([frame[GENES[::-1]], frame.add_prefix("another ")], axis=1)
    wider = adata(sparse.csc_matrix(wide.to_numpy()), var=pd.DataFrame(index=wide.columns))
    for form in (wide, wider, data[:, GENES[[3, 1, 0, 2, 5, 4]]]):
        assert_same(outputs(model, form), expected)
    new = ["new", "control"] * 40
    if cls not in (skpert.InVAE, skpert.NFIVAE):
        adapted = [model.adapt(form, new).predict_intervention("new") for form in (frame, wide)]
        np.testing.assert_array_equal(*adapted)
    for missing in (frame.drop(columns=["gene 4"]), data[:, :4]):
        with pytest.raises(ValueError, match="lacks [12] of the 6 genes that .* 'gene 4'"):
            model.score(missing, A)
    assert values_named is frame


@every
def test_genes_of_one_name_are_refused_with_the_remedy(cls):
    names = ["TBCE", "TBCE", *GENES[2:]]
    model = estimator(cls)
    twice = adata(values_of(model))
    twice.var_names = names
    for X in (twice, pd.DataFrame(values_of(model), columns=names)):
        with pytest.raises(ValueError, match="not unique: 'TBCE' .2 times.*var_names_make_unique"):
            clone(model).fit(X, A)


# Counts and logarithms


def warnings_of(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    messages = [str(warning.message) for warning in caught if warning.category is DataWarning]
    return [message for message in messages if "one-hot" not in message]


@every
def test_one_warning_says_that_counts_are_not_logarithms_and_the_reverse(cls):
    model = estimator(cls)
    wrong = LOGS if values_of(model) is COUNTS else COUNTS
    [message] = warnings_of(lambda: clone(model).fit(wrong, A))
    assert "not whole" in message or "raw counts: all values are whole, the largest is" in message
    assert not warnings_of(lambda: clone(model).fit(values_of(model), A))


def test_functions_say_so_too():
    for X, space in ((COUNTS, "lognorm"), (LOGS, "counts")):
        for call in (
            lambda X, space: de_table(X, A, space=space),
            lambda X, space: response_weights(X, A, space=space),
            lambda X, space: (
                evaluate_perturbations(
                    {"mean": PerturbedMean(), "no effect": ControlMean()},
                    *(X, A),
                    **{"space": space, "cv": 2, "random_state": 0},
                )
                if space == "lognorm"
                else de_table(X, A, space=space)
            ),
        ):
            [message] = warnings_of(lambda: call(X, space))  # noqa: B023
            assert (
                f"X looks like {'raw counts' if space == 'lognorm' else 'log-normalised'}"
                in message
            )
    [message] = warnings_of(lambda: LogNormalize().fit_transform(LOGS))
    assert "normalise once" in message
    [message] = warnings_of(lambda: differential_expression(LOGS, A))
    assert "method='mean' takes logs" in message


@pytest.mark.parametrize(
    "values", [LOGS - LOGS.mean(0), (LOGS > 3).astype(int), np.eye(80, 6), LOGS / np.log(2)]
)
def test_scaled_binary_and_base_two_values_are_not_taken_for_counts(values):
    assert not warnings_of(lambda: ControlMean().fit(values, A))


def test_normalised_expression_before_the_logarithm_is_told():
    [message] = warnings_of(lambda: ControlMean().fit(np.expm1(LOGS), A))
    assert "expression before the logarithm: the largest value is" in message


def test_genes_of_other_names_than_text_go_by_name_too():
    for names in ([7157, 1956, 672, 675, 4609, 3845], [1.5, "a", 2, "b", 3, "c"], range(9, 3, -1)):
        frame = pd.DataFrame(COUNTS, columns=list(names))
        model = SVAEPlus(**FAST).fit(frame, A)
        assert model.feature_names_in_.tolist() == [str(name) for name in names]
        np.testing.assert_array_equal(model.transform(frame.iloc[:, ::-1]), model.transform(frame))
        with pytest.raises(ValueError, match="lacks 1 of the 6 genes"):
            model.transform(frame.iloc[:, 1:])
    data = adata(COUNTS, var=None)
    model = SVAEPlus(**FAST).fit(data, A)
    back = pd.DataFrame(COUNTS).iloc[:, ::-1]
    np.testing.assert_array_equal(model.transform(back), model.transform(data))
    levels = pd.DataFrame(COUNTS, columns=pd.MultiIndex.from_product([["a"], GENES]))
    with pytest.raises(ValueError, match="names of several levels"):
        LogNormalize().fit(levels)


def test_genes_that_were_not_trained_on_may_hold_anything():
    frame = pd.DataFrame(COUNTS, columns=GENES)
    model = SVAEPlus(**FAST).fit(frame, A)
    odd = frame.assign(missing=np.nan, text="a")
    np.testing.assert_array_equal(model.transform(odd), model.transform(frame))


@every
def test_values_that_no_expression_has_are_refused(cls):
    model = estimator(cls).fit(values_of(estimator(cls)), A)
    for huge in (3e38, 1e19, -1e19):
        values = values_of(model).copy()
        values[0, 0] = huge
        with pytest.raises(ValueError, match="size|as a count|Negative values"):
            model.score(values, A)
    with pytest.raises(ValueError, match="library_size"):
        model.sample_intervention("P1", 2, library_size=1e30)
    with pytest.raises(ValueError, match="n_samples must be an integer of at least 1, got True"):
        model.sample_intervention("P1", True)


def test_other_libraries_containers_name_the_remedy():
    mudata = pytest.importorskip("mudata")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        both = mudata.MuData({"rna": adata(COUNTS)})
    for read in (SVAEPlus(**FAST).fit, LogNormalize().fit):
        with pytest.raises(TypeError, match=r"give one modality, such as mdata\['rna'\]"):
            read(both, A)
    with pytest.raises(ValueError, match="A has no columns"):
        SVAEPlus(**FAST).fit(COUNTS, pd.DataFrame(index=range(80)))
