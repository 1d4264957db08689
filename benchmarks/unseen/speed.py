"""A training step of SCCVAE beside a plain torch implementation, in turns.

Both train the published model at its sizes, 512 latents and two hidden layers of 1,024 units, on
the published objective, with one thread, on random expression: 303 genes, and 8,563. Ours makes
minibatches of its default size (for the 20,729 cells of one screen and the 100,345 of the other)
of blocks of 32 cells, in single precision, and solves the triangular system; the plain one
(``peers/sccvae.py``) takes one block a step in double precision and inverts the matrix, as
released.
Compared are training cells a second, over whole epochs for ours, the first left out, and steps for
the plain one, the first left out; neither counts the control cells that are drawn to a block.
Programs take turns, and ratios are those of neighbours.

Memory is the peak of the resident set of a process of its own at 8,563 genes, and what training
added to it (Linux).
"""

import multiprocessing
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from skpert import SCCVAE

from .. import runner
from ..command import add_csv
from ..peers.sccvae import BLOCK_SIZE, PlainSCCVAE, optimiser, step
from ..timing import Clock, OurClock, in_turns, peak_memory

N_LATENT, N_HIDDEN, N_FEATURES, N_PERTURBATIONS = 512, 1024, 50, 15
SIZES = {303: (256, 4096, 16), 8563: (512, 1024, 3)}  # genes: minibatch, cells of ours, steps
RELEASED = {303: 0.14, 8563: 1.6}  # s for 32 cells, the authors' code on another day


def screen(n_genes, n_cells):
    """Random expression, float32, and labels in blocks, as many control cells as of any."""
    random = np.random.default_rng(0)
    X = random.gamma(1.0, 0.3, size=(n_cells, n_genes)).astype(np.float32)
    names = np.array(["control", *(f"P{i:02}" for i in range(N_PERTURBATIONS))], dtype=object)
    A = names[np.arange(n_cells) // BLOCK_SIZE % len(names)]
    features = pd.DataFrame(random.normal(size=(N_PERTURBATIONS, N_FEATURES)), index=names[1:])
    return X, A, features


def time_ours(X, A, features, *, batch_size, n_steps=None, n_latent=N_LATENT, n_hidden=N_HIDDEN):
    """Training cells a second, of the clock and of the CPU; ``n_steps`` is for the other one."""
    clock = OurClock()
    SCCVAE(
        n_latent,
        features=features,
        n_hidden=n_hidden,
        n_layers=2,
        objective="published",
        shift_encoder="network",
        batch_size=batch_size,
        max_epochs=2,
        validation_fraction=0,
        device="cpu",
        random_state=0,
    ).set_callbacks(clock).fit(X, A)
    return _row(len(X), clock.epochs[-1])


def time_plain(X, A, features, *, batch_size=None, n_steps, n_latent=N_LATENT, n_hidden=N_HIDDEN):
    """The same of the plain implementation."""
    torch.manual_seed(0)
    controls = torch.from_numpy(X[A == "control"]).double()
    model = PlainSCCVAE(X.shape[1], features.shape[1], len(features), n_latent, n_hidden)
    optimizer = optimiser(model)
    clock = Clock()
    for k in range(n_steps + 1):
        name = features.index[k % len(features)]
        y = torch.from_numpy(X[A == name][:BLOCK_SIZE]).double()
        dosage = torch.from_numpy(np.float64(features.index == name))
        step(model, optimizer, controls, y, torch.tensor(features.loc[name].to_numpy()), dosage)
        clock.tick(model)
    return _row(n_steps * BLOCK_SIZE, np.sum(clock.epochs[1:], axis=0))


def _row(n_cells, seconds):
    wall, cpu = n_cells / seconds
    return {"cells_per_s": wall, "cells_per_cpu_s": cpu}


PROGRAMS = {"skpert": time_ours, "plain": time_plain}


def memory(program, n_genes, size, widths):
    """Peak of the resident set after training, and what it added, MB; for a new process."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    batch_size, n_cells, n_steps = size
    data = screen(n_genes, n_cells)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
    before = peak_memory()
    PROGRAMS[program](*data, batch_size=batch_size, n_steps=n_steps, **widths)
    peak = peak_memory()
    return {"peak_mb": peak / 1e6, "added_mb": (peak - before) / 1e6}


def in_new_process(*arguments):
    """Result of :func:`memory` in a process that has done nothing else."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(memory, arguments)


def measured(sizes, n_repeats, widths):
    """Rows of the CSV file, programs in turns."""
    rows = []
    for n_genes, (batch_size, n_cells, n_steps) in sizes.items():
        data = screen(n_genes, n_cells)
        options = {"batch_size": batch_size, "n_steps": n_steps, **widths}
        programs = {name: partial(call, *data, **options) for name, call in PROGRAMS.items()}
        rows += [{"n_genes": n_genes} | row for row in in_turns(programs, n_repeats)]
    return rows


def add_arguments(parser):
    """Options of the command line."""
    add = parser.add_argument
    add("--repeats", type=int, default=3, help="pairs of timings; default %(default)s")
    add("--genes", type=int, nargs="+", choices=list(SIZES), default=list(SIZES))
    add_csv(parser)


def run(args):
    """Measure and print."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows = measured({n: SIZES[n] for n in args.genes}, args.repeats, {})
    largest = max(args.genes)
    for program in PROGRAMS:
        row = {"n_genes": largest, "program": program, "repeat": np.nan}
        rows.append(row | in_new_process(program, largest, SIZES[largest], {}))
    runner.write(rows, args.csv)
    table = pd.DataFrame(rows)
    for n_genes, rows in table[table["repeat"].notna()].groupby("n_genes"):
        report(n_genes, rows.pivot(index="repeat", columns="program"))
    of_memory = table[table["repeat"].isna()].set_index("program")[["peak_mb", "added_mb"]]
    print(f"\nMB at {largest} genes\n{of_memory.round(0).to_string()}")


def report(n_genes, table):
    """Print medians of both, and of their ratios."""
    wall, cpu = table["cells_per_s"], table["cells_per_cpu_s"]
    ratio, cpu_ratio = wall["skpert"] / wall["plain"], cpu["skpert"] / cpu["plain"]
    released = f"released code, elsewhere: {BLOCK_SIZE / RELEASED[n_genes]:.0f}"
    print(
        f"{n_genes} genes, cells a second: skpert {wall['skpert'].median():.0f}, plain "
        f"{wall['plain'].median():.0f}, {ratio.median():.1f} times as fast ({ratio.min():.1f} to "
        f"{ratio.max():.1f}; CPU {cpu_ratio.median():.1f}); {released}"
    )
