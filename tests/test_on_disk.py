"""Expression on disk: the same numbers as in memory, little memory, and files that are damaged."""

import logging
import tracemalloc
from functools import partial
from inspect import getmembers, isclass

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.model_selection import cross_val_score

import skpert
from skpert import (
    SAMSVAE,
    SCCVAE,
    VAE,
    AdditiveEffects,
    BilinearRidge,
    ControlMean,
    PerturbedMean,
    SVAEPlus,
    _data,
)
from skpert._input import stored
from skpert._input.cells import check_cells
from skpert._rows import DiskRows, blockwise_order
from skpert.base import PerturbationVAE
from skpert.exceptions import DataWarning
from skpert.inspection import direct_effects
from skpert.metrics import differential_expression
from skpert.model_selection import PerturbationKFold, fit_many
from skpert.preprocessing import LogNormalize

anndata = pytest.importorskip("anndata")
h5py = pytest.importorskip("h5py")
zarr = pytest.importorskip("zarr")

N_AT_ONCE, N_BLOCK, BATCH = 64, 2, 24
N_CELLS, N_GENES = 330, 12
RANDOM = np.random.default_rng(0)
A = RANDOM.choice(["control", "P0", "P1", "P2"], N_CELLS)
X = RANDOM.poisson(1.0, (N_CELLS, N_GENES)).astype(np.float32)
X[A == "P0", :4] *= 3
X[:, 0] += 1  # no cell is empty
CSR = sparse.csr_matrix(X)
GENES = pd.Index([f"gene {j}" for j in range(N_GENES)])
CELLS = pd.Index([f"cell {i}" for i in range(N_CELLS)])
OBS = pd.DataFrame({"perturbation": A}, index=CELLS)
FAST = {"n_latent": 2, "n_hidden": 8, "n_layers": 1, "max_epochs": 2, "batch_size": BATCH}
FAST |= {"n_particles": 3, "device": "cpu", "random_state": 0}
CLASSES = [cls for _, cls in getmembers(skpert, isclass) if issubclass(cls, PerturbationVAE)]

pytestmark = [
    pytest.mark.filterwarnings("ignore:Perturbations are described by one-hot"),
    pytest.mark.filterwarnings("ignore:Writing zarr v2 data"),
    pytest.mark.filterwarnings("ignore:X (does not have valid|has) feature names:UserWarning"),
]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Few rows are read at once."""
    monkeypatch.setattr(stored, "MOST_ROWS", N_AT_ONCE)
    monkeypatch.setattr(stored, "FEWEST_ROWS", N_BLOCK)


@pytest.fixture
def same_order(monkeypatch):
    """Cells in memory come in the order of those on disk."""

    def order(x, batch_size, device):
        n_window = N_AT_ONCE // batch_size * batch_size
        return blockwise_order(x.shape[0], N_BLOCK, n_window).to(device)

    monkeypatch.setattr(_data, "random_order", order)


class Blocks:
    """Rows that are handed out as a library of its own would, and counted."""

    def __init__(self, values, fails_after=np.inf):
        self.values, self.shape, self.read = values, values.shape, []
        self.fails_after = fails_after

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        self.read.append(rows.stop - rows.start)
        if len(self.read) > self.fails_after:
            raise OSError("the disk is gone")
        return self.values[rows]


def adata(values, **parts):
    return anndata.AnnData(values, obs=OBS.copy(), var=pd.DataFrame(index=GENES), **parts)


def h5ad(folder, values=CSR, **parts):
    path = folder / "screen.h5ad"
    adata(values, **parts).write_h5ad(path)
    return path


def zarr_store(folder, values=CSR):
    path = folder / "screen.zarr"
    adata(values).write_zarr(path)
    return path


def dataset(folder):
    file = h5py.File(folder / "plain.h5", "w")
    return file.create_dataset("X", data=X.astype(np.uint16), chunks=(7, 5))


def zarr_array(folder):
    array = zarr.open_array(str(folder / "array.zarr"), mode="w", shape=X.shape, dtype="i4")
    array[:] = X.astype(np.int32)
    return array


def memmap(folder):
    np.save(folder / "X.npy", X)
    return np.load(folder / "X.npy", mmap_mode="r")


def doubled():
    """Each value as the sum of two entries, columns in reverse order."""
    indices = np.concatenate([np.tile(row.indices[::-1], 2) for row in CSR])
    values = np.concatenate([np.tile(row.data[::-1] / 2, 2) for row in CSR])
    return sparse.csr_matrix((values, indices, 2 * CSR.indptr), shape=CSR.shape)


def lazy(folder):
    array = pytest.importorskip("dask.array")
    return array.from_array(X, chunks=(50, 12))


KINDS = {
    "h5ad, sparse": h5ad,
    "h5ad, dense": partial(h5ad, values=X),
    "h5ad, float64": partial(h5ad, values=CSR.astype(np.float64)),
    "zarr, sparse": zarr_store,
    "zarr, dense": partial(zarr_store, values=X),
    "backed, sparse": lambda folder: anndata.read_h5ad(h5ad(folder), backed="r"),
    "backed, dense": lambda folder: anndata.read_h5ad(h5ad(folder, X), backed="r"),
    "layer": lambda folder: str(h5ad(folder, None, layers={"counts": CSR})),
    "sparse dataset": lambda folder: anndata.io.sparse_dataset(h5py.File(h5ad(folder))["X"]),
    "AnnData of a sparse dataset": lambda folder: adata(
        anndata.io.sparse_dataset(h5py.File(h5ad(folder))["X"])
    ),
    "data set": dataset,
    "zarr array": zarr_array,
    "memmap": memmap,
    "dask": lazy,
    "blocks": lambda folder: Blocks(X),
    "sparse blocks": lambda folder: Blocks(CSR),
    "blocks with duplicates": lambda folder: Blocks(doubled()),
}


def fitted(X, A=A, cls=SVAEPlus, **parameters):
    return cls(**FAST | parameters).fit(X, A)


def outputs(model, X, A=A):
    names = model.perturbations_[:2]
    found = [model.transform(X), model.score_cells(X, A), *model.posterior(X, A).values()]
    found += [model.predict_intervention(["P1"], X), model.predict_intervention(names)]
    return [*found, model.sample_intervention(names, 3, X=X, random_state=0)]


def assert_same(first, second):
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def assert_same_models(first, second):
    pd.testing.assert_frame_equal(first.history_, second.history_)
    weights, others = (model.module_.state_dict() for model in (first, second))
    assert weights.keys() == others.keys()
    for name, values in weights.items():
        assert torch.equal(values, others[name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_training_and_answers_are_those_of_cells_in_memory(kind, tmp_path, same_order):
    held, layer = KINDS[kind](tmp_path), "counts" if kind == "layer" else None
    model = fitted(held, layer=layer, memory="stream")
    in_memory = fitted(X if kind == "h5ad, dense" else CSR)
    assert_same_models(model, in_memory)
    assert_same(outputs(model, held), outputs(in_memory, X))
    for memory in ("load", "auto"):
        assert_same_models(fitted(held, layer=layer, memory=memory), in_memory)


@pytest.mark.filterwarnings("ignore::skpert.exceptions.DataWarning")
@pytest.mark.parametrize("cls", CLASSES)
def test_every_model_learns_the_same_from_disk(cls, tmp_path, same_order):
    path = h5ad(tmp_path)
    model, in_memory = (fitted(held, cls=cls, memory="stream") for held in (path, X))
    assert_same_models(model, in_memory)
    np.testing.assert_array_equal(model.transform(path), in_memory.transform(X))


@pytest.mark.filterwarnings("ignore::skpert.exceptions.DataWarning")
@pytest.mark.parametrize("cls", [SVAEPlus, SCCVAE])
@pytest.mark.parametrize("likelihood", ["normal", "zero_inflated_negative_binomial"])
def test_restarts_learn_the_same_from_disk(cls, likelihood, tmp_path, same_order):
    options = {"cls": cls, "likelihood": likelihood, "n_init": 2, "memory": "stream"}
    assert_same_models(fitted(h5ad(tmp_path), **options), fitted(X, **options))


@pytest.mark.parametrize("cls", [AdditiveEffects, BilinearRidge, ControlMean, PerturbedMean])
def test_baselines_read_files(cls, tmp_path):
    logs = LogNormalize().fit_transform(X)
    model = cls()
    if "features" in model.get_params():
        model.set_params(features=pd.DataFrame(np.eye(3), index=["P0", "P1", "P2"]))
    path = h5ad(tmp_path, logs)
    first, second = clone(model).fit(path, OBS), model.fit(logs, A)
    np.testing.assert_array_equal(
        first.predict_intervention(["P1"], path), second.predict_intervention(["P1"], adata(logs))
    )
    assert first.score(path, OBS) == second.score(adata(logs), A)


def test_what_comes_after_a_fit_is_the_same(tmp_path, same_order):
    path, known = h5ad(tmp_path), A != "P2"
    model, in_memory = (
        fitted(Blocks(X[known]), A[known], memory="stream"),
        fitted(X[known], A[known]),
    )
    assert_same_models(
        model.refine(Blocks(X[known]), A[known]), in_memory.refine(CSR[known], A[known])
    )
    new = ~known | (A == "control")
    assert_same_models(model.adapt(Blocks(X[new]), A[new]), in_memory.adapt(X[new], A[new]))
    full = fitted(path, memory="stream")
    table = direct_effects(full, path, OBS)
    pd.testing.assert_frame_equal(table, direct_effects(full, adata(X), OBS))


def test_other_programs_of_the_package_read_files(tmp_path):
    path = h5ad(tmp_path)
    np.testing.assert_array_equal(
        LogNormalize().fit_transform(path).toarray(), LogNormalize().fit_transform(CSR).toarray()
    )
    pd.testing.assert_frame_equal(
        differential_expression(path, OBS), differential_expression(adata(CSR), OBS)
    )


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
@pytest.mark.parametrize("cls", [VAE, SVAEPlus, SAMSVAE])
def test_few_rows_are_read_at_once(cls, form):
    held = Blocks(form(X))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skpert._rows.HELD_BYTES", 0)  # held-out cells stay on disk
        model = fitted(held, cls=cls, memory="stream")
    n_passes = sum(held.read) / N_CELLS
    assert max(held.read) <= N_AT_ONCE
    assert 4 < n_passes < 30
    outputs(model, held)
    assert max(held.read) <= N_AT_ONCE


def test_folds_of_a_backed_screen(tmp_path):
    backed, model = anndata.read_h5ad(h5ad(tmp_path), backed="r"), VAE(**FAST)
    folds = {"cv": PerturbationKFold(2, random_state=0)}
    expected = cross_val_score(model, CSR, OBS, **folds)
    np.testing.assert_array_equal(cross_val_score(model, backed, OBS, **folds), expected)


def test_a_training_goes_on_when_the_disk_is_back(tmp_path, monkeypatch):
    monkeypatch.setattr("skpert._progress.EVERY", 0.0)
    options = {"memory": "stream", "max_epochs": 8}
    whole = Blocks(CSR)
    expected = fitted(whole, **options)
    options["checkpoint"] = tmp_path
    with pytest.raises(ValueError, match="the disk is gone"):
        fitted(Blocks(CSR, len(whole.read) // 2), **options)
    rest = Blocks(CSR)
    assert_same_models(fitted(rest, **options), expected)
    assert len(rest.read) < 0.9 * len(whole.read)


def test_memory_does_not_grow_with_the_file(tmp_path):
    n_cells, n_genes = 15_000, 300
    with h5py.File(tmp_path / "big.h5", "w") as file:
        values = file.create_dataset("X", (n_cells, n_genes), dtype=np.uint8)
        values[:] = np.random.default_rng(0).poisson(1.0, (n_cells, n_genes))
        tracemalloc.start()
        try:
            options = FAST | {"max_epochs": 1, "batch_size": 512}
            model = VAE(**options, memory="stream", validation_fraction=0.02)
            model.fit(values, np.resize(["control", "P0"], n_cells))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 4 * n_cells * n_genes / 3  # a third of what the matrix would take


# Order


@pytest.mark.parametrize(("n_rows", "n_block", "n_window"), [(103, 4, 24), (5, 10, 7), (64, 1, 9)])
def test_order_of_blocks_has_each_row_once_and_near_ones_together(n_rows, n_block, n_window):
    order = blockwise_order(n_rows, n_block, n_window)
    assert sorted(order.tolist()) == list(range(n_rows))
    for window in order.split(n_window):
        whole = [row for row in window.tolist() if row % n_block == 0]
        assert len(window) <= n_window
        assert len({row // n_block for row in window.tolist()}) <= len(whole) + 2
    assert not torch.equal(order, blockwise_order(n_rows, n_block, n_window))


def test_any_rows_can_be_taken():
    rows = DiskRows(stored.StoredRows(Blocks(CSR), "X"))
    for index in (torch.tensor([300, 3, 3, 0, 329]), torch.arange(0, 330, 40), torch.arange(330)):
        np.testing.assert_array_equal(rows.index_select(0, index).numpy(), X[index])
        subset = rows.subset(index).subset(torch.tensor([2, 0]))
        np.testing.assert_array_equal(subset.index_select(0, torch.arange(2)), X[index[[2, 0]]])
    assert rows.subset(torch.zeros(0, dtype=torch.long)).index_select(
        0, torch.zeros(0, dtype=torch.long)
    ).shape == (0, N_GENES)


# Names


def test_genes_and_cells_go_by_their_names(tmp_path):
    path = h5ad(tmp_path)
    model = fitted(path, memory="stream")
    assert model.feature_names_in_.tolist() == GENES.tolist()
    wider = np.hstack([X[:, ::-1], X[:, :3] + 1])
    other = tmp_path / "other.h5ad"
    names = pd.DataFrame(index=[*GENES[::-1], "a", "b", "c"])
    anndata.AnnData(sparse.csr_matrix(wider), var=names, obs=OBS).write_h5ad(other)
    assert_same(outputs(model, other), outputs(model, path))
    assert model.set_output(transform="pandas").transform(path).index.equals(CELLS)
    with pytest.raises(ValueError, match="same cells in another order"):
        model.score(path, OBS[::-1])
    anndata.AnnData(CSR[:, 2:], var=pd.DataFrame(index=GENES[2:])).write_h5ad(other)
    with pytest.raises(ValueError, match="X lacks 2 of the 12 genes .* 'gene 0', 'gene 1'"):
        model.transform(other)
    with pytest.raises(ValueError, match=r"no layer 'spliced' in X; its layers are \[\]"):
        clone(model).set_params(layer="spliced").fit(path, OBS)


# Whether it is loaded


def test_auto_says_what_it_does_and_why(tmp_path, caplog, monkeypatch):
    path = h5ad(tmp_path)
    read = partial(check_cells, VAE(), path, counts=True, reset=True, memory="auto")
    with caplog.at_level(logging.INFO, "skpert"):
        assert sparse.issparse(read())
        monkeypatch.setattr(stored, "free_memory", lambda: 1000)
        rows = read()
    assert isinstance(rows, stored.StoredRows)
    assert rows.n_bytes == 8 * CSR.nnz
    loaded, streamed = caplog.messages
    assert "X of 330 cells and 12 genes is loaded, as it takes at most half of the" in loaded
    assert "is streamed, as it would take more than half of the memory" in streamed


@pytest.mark.parametrize("kinds", ["", "memory"])
def test_memory_of_a_job_is_what_its_group_has_left(kinds, tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "GROUPS", tmp_path)
    most, used = stored.OLD_LIMITS if kinds else stored.LIMITS
    root = tmp_path / "memory" if kinds else tmp_path
    for group, limit in (("slurm", "9000"), ("slurm/job", "4000"), ("slurm/job/step", "max")):
        (root / group).mkdir(parents=True)
        (root / group / most).write_text(f"{limit}\n")
        (root / group / used).write_text("1500\n")
        (root / group / "memory.stat").write_text("anon 1000\ninactive_file 500\nfile 7\n")
    found = list(stored._free_of_groups(kinds, "/slurm/job/step"))
    assert found == [3000, 8000]
    assert list(stored._free_of_groups(kinds, "/elsewhere")) == []
    assert list(stored._free_of_groups("cpu,cpuset", "/slurm/job")) == []


def test_free_memory_is_a_number_of_this_machine():
    assert 2**20 < stored.free_memory() < 2**50


# What cannot be read


def with_value(row, value):
    changed = X.copy()
    changed[row, 5] = value
    return changed


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "Input X contains NaN"),
        (np.inf, "infinity"),
        (-1, "smallest is -1, the first in row 317"),
        (1e13, "X holds 1e\\+13 as a count"),
    ],
)
def test_bad_values_in_the_last_block_are_found(form, value, message):
    model = SVAEPlus(**FAST, memory="stream")
    with pytest.raises(ValueError, match=message):
        model.fit(Blocks(form(with_value(317, value))), A)
    assert not hasattr(model, "n_features_in_")
    model.fit(Blocks(X), A)
    with pytest.raises(ValueError, match=message):
        model.transform(Blocks(form(with_value(317, value))))


def test_warnings_are_those_of_cells_in_memory():
    odd, empty = with_value(300, 0.5), X.copy()
    empty[[200, 320]] = 0
    for values in (odd, empty):
        found = []
        for held in (values, Blocks(values)):
            with pytest.warns(DataWarning) as caught:
                check_cells(VAE(), held, counts=True, reset=True, memory="stream")
            found.append([str(warning.message) for warning in caught])
        assert found[0] == found[1]
    for values in (X, X * 100, with_value(3, 300.5)):
        found = []
        for held in (values, Blocks(values)):
            with pytest.warns(DataWarning, match="X looks like") as caught:
                check_cells(VAE(), held, counts=False, reset=True, memory="stream")
            found.append([str(warning.message) for warning in caught])
        assert found[0] == found[1]


def cut_off(folder):
    path = h5ad(folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def closed(folder, form):
    with h5py.File(h5ad(folder, form(X)), "r") as file:
        return file["X"] if form is np.asarray else anndata.io.sparse_dataset(file["X"])


def without_values(folder):
    path = h5ad(folder)
    with h5py.File(path, "r+") as file:
        file["X/data"].resize((100,))
    return path


def without_a_chunk(folder):
    path = zarr_store(folder)
    (chunk,) = [entry for entry in (path / "X" / "data").rglob("0") if entry.is_file()]
    chunk.unlink()
    return path


def outside(folder):
    path = h5ad(folder)
    with h5py.File(path, "r+") as file:
        file["X/indices"][-1] = 99
    return path


def text(folder):
    path = folder / "screen.h5ad"
    path.write_text("cell,gene\n")
    return path


def no_screen(folder):
    path = folder / "screen.h5ad"
    with h5py.File(path, "w") as file:
        file["matrix"] = X
    return path


DAMAGED = {
    "missing": (lambda folder: folder / "none.h5ad", "no such file or folder"),
    "cut off": (cut_off, "screen.h5ad cannot be read: it is damaged, cut off"),
    "text": (text, "screen.h5ad cannot be read"),
    "closed, dense": (partial(closed, form=np.asarray), "its file may be closed"),
    "closed, sparse": (partial(closed, form=sparse.csr_matrix), "."),
    "no AnnData": (no_screen, "screen.h5ad holds no AnnData of one modality"),
    "folder": (lambda folder: folder, "cannot be opened|cannot be read"),
    "without values": (without_values, "malformed structure"),
    "without a chunk": (without_a_chunk, "1 chunks of .* are missing"),
    "column outside": (outside, "malformed structure"),
    "by column": (partial(h5ad, values=sparse.csc_matrix(X)), "stored by columns .*memory='load'"),
    "text in place of numbers": (lambda folder: Blocks(np.full((330, 3), "a")), "text|convert"),
    "three dimensions": (
        lambda folder: h5py.File(folder / "a.h5", "w").create_dataset(
            "X", data=np.ones((330, 2, 2))
        ),
        "3",
    ),
    "gone": (lambda folder: Blocks(X, 3), "rows 128 to 192 of X cannot be read.*the disk is gone"),
    "gone in training": (lambda folder: Blocks(X, 40), "cannot be read.*the disk is gone"),
    "too short": (lambda folder: Short(X), "should have the shape \\(64, 12\\), .* \\(10, 12\\)"),
}


class Short(Blocks):
    """It hands out fewer rows than it has."""

    def __getitem__(self, rows):
        return self.values[rows][:10]


@pytest.mark.parametrize("case", DAMAGED)
def test_what_cannot_be_read_is_an_error_and_leaves_nothing_behind(case, tmp_path):
    make, message = DAMAGED[case]
    model = SVAEPlus(**FAST, memory="stream")
    with pytest.raises(ValueError, match=message):
        model.fit(make(tmp_path), A)
    assert [name for name in vars(model) if name.endswith("_")] == []


def test_a_file_by_columns_is_loaded(tmp_path, caplog):
    path = h5ad(tmp_path, sparse.csc_matrix(X))
    with caplog.at_level(logging.INFO, "skpert"):
        assert_same_models(fitted(path), fitted(CSR))
    assert caplog.messages[0] == "memory='auto': X is loaded, as it is stored by columns"


def test_a_file_that_nobody_may_write_to_is_read(tmp_path):
    path = h5ad(tmp_path)
    path.chmod(0o444)
    before = path.read_bytes()
    fitted(path, memory="stream")
    assert path.read_bytes() == before


class Converted(Blocks):
    """Rows in another form than an array."""

    def __init__(self, values, form):
        super().__init__(values)
        self.form = form

    def __getitem__(self, rows):
        return self.form(self.values[rows])


@pytest.mark.parametrize("form", [torch.tensor, pd.DataFrame, np.ndarray.tolist])
def test_rows_of_any_form_are_loaded_as_they_are_streamed(form):
    held = Converted(X, form)
    assert_same_models(fitted(held), fitted(X))
    assert fitted(held, memory="stream").n_iter_ == 2


@pytest.mark.parametrize("memory", ["load", "stream"])
def test_masked_rows_on_disk_are_refused(memory):
    with pytest.raises(ValueError, match="masked values: fill them"):
        fitted(Converted(X, lambda rows: np.ma.masked_less(rows, 1)), memory=memory)


def test_rows_of_unknown_number_are_an_error_that_says_how_to_know_them():
    array = pytest.importorskip("dask.array").from_array(X, chunks=(50, 12))
    array = array[array[:, 0] > 0]
    with pytest.raises(ValueError, match=r"shape \(nan, 12\).*compute_chunk_sizes"):
        fitted(array)
    assert_same_models(fitted(array, memory="load"), fitted(X))


def test_what_cannot_be_loaded_is_said_without_advice_for_an_anndata():
    with pytest.raises(ValueError, match=r"^rows 0 to 64 of X should have the shape"):
        fitted(Short(X), memory="load")


def test_processes_of_one_machine_share_its_memory(tmp_path, monkeypatch):
    path = h5ad(tmp_path)
    monkeypatch.setattr(stored, "free_memory", lambda: 2 * 8 * CSR.nnz)
    read = partial(check_cells, VAE(), path, counts=True, reset=True, memory="auto")
    assert sparse.issparse(read())
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert isinstance(read(), stored.StoredRows)


def test_many_fits_of_a_path(tmp_path):
    path = h5ad(tmp_path)
    seeds = [SVAEPlus(**FAST | {"random_state": seed}) for seed in range(2)]
    for model, alone in zip(fit_many(seeds, path, OBS, n_jobs=2), seeds, strict=True):
        assert_same_models(model, alone.fit(path, OBS))
