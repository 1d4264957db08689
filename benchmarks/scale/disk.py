"""Cells on disk: memory and time of a training that reads them, and how fast they are read.

::

    python -m benchmarks.scale disk                      # 2,000,000 x 2,000 cells: half an hour
    python -m benchmarks.scale disk --cells 200000       # five minutes
    python -m benchmarks.scale disk --tables loading     # one table
    python -m benchmarks.scale disk --folder /scratch    # where the file is made, and kept

The file is an AnnData in HDF5, 5 % of it not zero, without compression (1.6 GB), made block by
block and kept for the next run.

``training``: ``SVAEPlus`` with default networks and minibatches of 512 is trained with
``memory="stream"`` on all cells, and in memory on the first 100,000; each in a process of its own.
Seconds of the clock and of the CPU are those of the first epoch, and of all that ``fit`` does,
checks included, by cell and epoch. Memory is what the peak of the resident set adds to that of
the libraries and of the labels (Linux).

``loading``: the same cells as dense minibatches of 512 tensors in random order, with nothing
done with them, beside the loaders of scvi-tools, anndata (``AnnLoader``) and scDataset where they
are installed; annbatch, which needs Python 3.12, reads zarr stores of its own. Programs take
turns, each in a process of its own, and stop after ``--seconds``. Blocks of scDataset are those
that its authors recommend, 16 cells, and the size that we use.
"""

import importlib.util
import multiprocessing
import time
import warnings
from dataclasses import replace
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import torch
from anndata.io import sparse_dataset, write_elem
from scipy import sparse

import skpert
from skpert._data import Cells
from skpert._input.cells import check_cells

from .. import runner
from ..command import add_csv
from ..timing import Clock, OurClock, Size, peak_memory, screen

BATCH_SIZE = 512
N_IN_MEMORY = 100_000
N_GENES = 2000
N_AT_ONCE = 20_000  # cells of a piece of the file that is written at once


def size_of(n_cells):
    """A screen of so many cells."""
    return Size(n_cells, BATCH_SIZE, N_GENES, 0.05)


def make(path, size):
    """Write a screen, a block of cells at a time."""
    labels = screen(replace(size, n_genes=1, n_cells=size.n_cells))[1]
    obs = pd.DataFrame({"perturbation": pd.Categorical(labels)})
    obs.index = [f"c{i}" for i in range(size.n_cells)]
    var = pd.DataFrame(index=[f"g{i}" for i in range(size.n_genes)])
    beside = path.with_suffix(".part")
    anndata.AnnData(obs=obs, var=var).write_h5ad(beside)
    n_each = round(size.density * size.n_genes)
    width = size.n_genes // n_each
    with h5py.File(beside, "r+") as file:
        for start in range(0, size.n_cells, N_AT_ONCE):
            n = min(N_AT_ONCE, size.n_cells - start)
            random = np.random.default_rng(start)
            column = random.integers(width, size=(n, n_each)) + width * np.arange(n_each)
            counts = random.poisson(2.0, column.size).astype(np.float32) + 1
            place = np.arange(0, column.size + 1, n_each)
            shape = (n, size.n_genes)
            block = sparse.csr_matrix((counts, column.astype(np.int32).ravel(), place), shape)
            if start == 0:
                write_elem(file, "X", block)
            else:
                sparse_dataset(file["X"]).append(block)
    beside.rename(path)


def labels_of(path):
    """Labels of the cells."""
    with h5py.File(path, "r") as file:
        return anndata.io.read_elem(file["obs"])


def first_cells(path, n_cells):
    """Cells in memory."""
    with h5py.File(path, "r") as file:
        return sparse_dataset(file["X"])[:n_cells]


def estimator(n_epochs, **parameters):
    """Ours, with all but the length of training at its default."""
    fixed = {"max_epochs": n_epochs, "batch_size": BATCH_SIZE, "random_state": 0, "device": "cpu"}
    return skpert.SVAEPlus(**fixed, **parameters)


def training(connection, path, program, n_epochs):
    """Send what a training takes."""
    _quiet()
    warm = screen(Size(2 * BATCH_SIZE, BATCH_SIZE, N_GENES, 0.05))
    estimator(1).fit(*warm)
    obs = labels_of(path)
    X, A, memory = path, obs, "stream"
    if program == "memory":
        obs = obs.iloc[:N_IN_MEMORY]
        X, A, memory = first_cells(path, N_IN_MEMORY), obs["perturbation"].to_numpy(), "load"
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
    before, clock, start = peak_memory(), OurClock(), Clock.now()
    estimator(n_epochs, memory=memory).set_callbacks(clock).fit(X, A)
    total = (Clock.now() - start) / n_epochs
    connection.send(
        {
            "cells": len(obs),
            "epochs": n_epochs,
            **_per_cell(clock.epochs[0], len(obs), ""),
            **_per_cell(total, len(obs), "fit_"),
            "megabytes": (peak_memory() - before) / 2**20,
        }
    )


def _per_cell(seconds, n_cells, name):
    wall, cpu = 1e6 * seconds / n_cells
    return {f"{name}us_per_cell": wall, f"{name}cpu_us_per_cell": cpu}


def _quiet():
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")


def ours(path):
    """Minibatches as training reads them."""
    X = check_cells(skpert.VAE(), path, counts=True, reset=True, memory="stream")
    cells = Cells.untreated(X)
    return lambda: (batch.x for batch in cells.minibatches(BATCH_SIZE))


def of_scvi(path):
    """Minibatches of scvi-tools, of an AnnData that is backed by the file."""
    from scvi.data import AnnDataManager
    from scvi.data.fields import LayerField
    from scvi.dataloaders import AnnDataLoader

    manager = AnnDataManager([LayerField("X", None)])
    manager.register_fields(anndata.read_h5ad(path, backed="r"))
    loader = AnnDataLoader(manager, shuffle=True, batch_size=BATCH_SIZE)
    return lambda: (batch["X"] for batch in loader)


def of_anndata(path):
    """Minibatches of anndata's loader."""
    from anndata.experimental import AnnLoader

    data = anndata.read_h5ad(path, backed="r")
    loader = AnnLoader(data, batch_size=BATCH_SIZE, shuffle=True, use_default_converter=False)
    return lambda: (dense(batch.X) for batch in loader)


def of_scdataset(path, n_block):
    """Minibatches of scDataset, with blocks of so many cells."""
    from scdataset import BlockShuffling, scDataset
    from torch.utils.data import DataLoader

    data = scDataset(
        Sized(sparse_dataset(h5py.File(path, "r")["X"])),
        BlockShuffling(block_size=n_block),
        batch_size=BATCH_SIZE,
        fetch_factor=32,
    )
    return lambda: (dense(batch) for batch in DataLoader(data, batch_size=None))


class Sized:
    """Rows of a matrix on disk, with the length that scDataset asks for."""

    def __init__(self, X):
        self.X = X

    def __len__(self):
        return self.X.shape[0]

    def __getitem__(self, rows):
        return self.X[rows]


def dense(batch):
    """Tensor of a matrix."""
    return torch.from_numpy(batch.toarray() if sparse.issparse(batch) else np.asarray(batch))


LOADERS = {
    "skpert": (ours, "skpert"),
    "scvi-tools": (of_scvi, "scvi"),
    "anndata": (of_anndata, "anndata"),
    "scDataset, 16": (lambda path: of_scdataset(path, 16), "scdataset"),
    "scDataset, 256": (lambda path: of_scdataset(path, 256), "scdataset"),
}


def loading(connection, path, program, seconds):
    """Send how many cells a second, of the clock and of the CPU, a loader gives."""
    _quiet()
    batches = LOADERS[program][0](path)
    n_cells, start = 0, Clock.now()
    while (Clock.now() - start)[0] < seconds:
        for batch in batches():
            n_cells += batch.shape[0]
            if (Clock.now() - start)[0] > seconds:
                break
    wall, cpu = n_cells / (Clock.now() - start)
    connection.send({"cells_per_s": wall, "cells_per_cpu_s": cpu})


def alone(measure, *arguments):
    """What a function sends from a process of its own."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=measure, args=(there, *arguments), daemon=True)
    process.start()
    there.close()
    try:
        return here.recv()
    except EOFError:
        raise SystemExit(f"{measure.__name__} of {arguments[1]} failed, see above") from None
    finally:
        process.join()


def add_arguments(parser):
    """Options of the command line."""
    add = parser.add_argument
    tables = ["training", "loading"]
    add("--cells", type=int, default=2_000_000, help="on disk")
    add("--tables", nargs="+", choices=tables, default=tables, help="which of them")
    add("--epochs", type=int, default=1, help="of each training")
    add("--trainings", type=int, default=1, help="of each kind, in turn")
    add("--repeats", type=int, default=3, help="turns of each loader")
    add("--seconds", type=float, default=10.0, help="that a loader has")
    add("--folder", type=Path, default=Path("/tmp"), help="of the file; default %(default)s")
    add_csv(parser)


def run(args):
    """Measure and print."""
    size, rows = size_of(args.cells), []
    path = args.folder / f"skpert_disk_{args.cells}.h5ad"
    if not path.exists():
        start = time.perf_counter()
        make(path, size)
        print(
            f"made {path}, {path.stat().st_size / 1e9:.2f} GB, in "
            f"{time.perf_counter() - start:.0f} s",
            flush=True,
        )
    if "training" in args.tables:
        _show_training(path, rows, args)
    if "loading" in args.tables:
        _show_loading(path, rows, args)


def _keep(rows, args, table, program, repeat, found):
    rows.append({"table": table, "program": program, "repeat": repeat, "file": args.cells} | found)
    runner.write(rows, args.csv)
    return rows[-1]


def _show_training(path, rows, args):
    print("\nTraining: microseconds by cell and epoch, memory beyond libraries in MB")
    print("             cells |  epoch   (CPU) |    fit   (CPU) |     MB")
    table = []
    for repeat in range(args.trainings):
        for program in ("disk", "memory")[:: -1 if repeat % 2 else 1]:
            found = alone(training, path, program, args.epochs)
            table.append(_keep(rows, args, "training", program, repeat, found))
            print(
                f"{program:8}{found['cells']:10} | {found['us_per_cell']:6.1f} "
                f"{found['cpu_us_per_cell']:7.1f} | {found['fit_us_per_cell']:6.1f} "
                f"{found['fit_cpu_us_per_cell']:7.1f} | {found['megabytes']:6.0f}",
                flush=True,
            )
    times = [name for name in table[0] if name.endswith("_cell")]
    disk, memory = (
        pd.DataFrame(table).query("program == @program")[times].to_numpy()
        for program in ("disk", "memory")
    )
    epoch, cpu, fit, fit_cpu = np.median(disk / memory, axis=0)
    print(f"disk / memory      | {epoch:6.2f} {cpu:7.2f} | {fit:6.2f} {fit_cpu:7.2f}")


def _show_loading(path, rows, args):
    names = [name for name, (_, module) in LOADERS.items() if importlib.util.find_spec(module)]
    table = []
    for repeat in range(args.repeats):
        for program in names[:: -1 if repeat % 2 else 1]:
            found = alone(loading, path, program, args.seconds)
            table.append(_keep(rows, args, "loading", program, repeat, found))
    print("\nLoading: cells a second as dense minibatches, medians")
    print("                   cells/s  cells/CPU s   of skpert")
    median = pd.DataFrame(table).groupby("program")[["cells_per_s", "cells_per_cpu_s"]].median()
    for name in names:
        wall, cpu = median.loc[name]
        share = wall / median.loc["skpert", "cells_per_s"]
        print(f"{name:16}{wall:10.0f}{cpu:13.0f}{share:12.3f}", flush=True)
