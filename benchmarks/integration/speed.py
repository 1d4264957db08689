"""A training step of InVAE beside a plain torch implementation, in turns.

Both train the published sizes: 2,000 genes, minibatches of 256, nine invariant latents and a
spurious one, two hidden layers of 128 units, total correlation and score matching, with one
thread. Ours are whole epochs, with whatever goes on in them, the first left out; the plain one,
``peers/invae.py``, are steps on minibatches that are ready, the first ones left out, so that the
comparison is not in our favour. Programs take turns, and the ratio is the median of those of
neighbours.
"""

from functools import partial

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import one_hot

from skpert import InVAE

from .. import runner
from ..command import add_csv
from ..peers.invae import PlainInVAE, optimiser, step
from ..timing import Clock, OurClock, in_turns

N_GENES, BATCH_SIZE, N_STEPS = 2000, 256, 20
LEVELS = {"cell_type": 20, "donor": 3, "site": 3}  # of the paper's bone marrow
RELEASED = 41  # ms a step, the authors' code on another day


def cells(n_genes, n_cells):
    """Random counts of one in ten, and covariates."""
    random = np.random.default_rng(0)
    X = random.poisson(0.1, size=(n_cells, n_genes)).astype(np.float32)
    codes = {name: random.integers(n, size=n_cells) for name, n in LEVELS.items()}
    return X, pd.DataFrame(codes).astype(str)


def time_ours(X, obs, batch_size):
    """Milliseconds of a step of ours, of the clock and of the CPU."""
    clock = OurClock()
    InVAE(
        invariant=["cell_type", "donor"],
        spurious="site",
        n_layers=2,
        batch_size=batch_size,
        max_epochs=3,
        validation_fraction=0,
        device="cpu",
        random_state=0,
    ).set_callbacks(clock).fit(X, obs)
    return _row(clock.epochs[1:], len(X) // batch_size)


def time_plain(X, obs, batch_size):
    """The same of the plain implementation."""
    torch.manual_seed(0)
    x = torch.from_numpy(X)
    columns = [one_hot(torch.tensor(obs[k].astype(int).to_numpy()), n) for k, n in LEVELS.items()]
    covariates = torch.cat(columns, 1).float()
    model = PlainInVAE(X.shape[1], LEVELS["cell_type"] + LEVELS["donor"], covariates.shape[1])
    optimizer, clock = optimiser(model), Clock()
    minibatches = list(torch.arange(len(X)).split(batch_size))
    for _ in range(3):
        for index in minibatches:
            step(model, optimizer, x[index], covariates[index], len(X))
        clock.tick(model)
    return _row(clock.epochs[1:], len(minibatches))


def _row(epochs, n_steps):
    wall, cpu = 1000 * np.median(epochs, axis=0) / n_steps
    return {"ms": wall, "cpu_ms": cpu}


PROGRAMS = {"skpert": time_ours, "plain": time_plain}


def measured(n_repeats, n_genes=N_GENES, batch_size=BATCH_SIZE, n_steps=N_STEPS):
    """Rows of the CSV file, programs in turns."""
    data = cells(n_genes, n_steps * batch_size)
    programs = {name: partial(call, *data, batch_size) for name, call in PROGRAMS.items()}
    return pd.DataFrame(in_turns(programs, n_repeats))


def add_arguments(parser):
    """Options of the command line."""
    parser.add_argument("--repeats", type=int, default=5, help="pairs; default %(default)s")
    add_csv(parser)


def run(args):
    """Measure and print."""
    torch.set_num_threads(1)
    table = measured(args.repeats)
    runner.write(table, args.csv)
    table = table.pivot(index="repeat", columns="program")
    ratio = table["ms"]["plain"] / table["ms"]["skpert"]
    cpu = table["cpu_ms"]["plain"] / table["cpu_ms"]["skpert"]
    print(
        f"ms a step, {BATCH_SIZE} x {N_GENES}: skpert {table['ms']['skpert'].median():.1f}, plain "
        f"{table['ms']['plain'].median():.1f}; {ratio.median():.2f} times as fast "
        f"({ratio.min():.2f} to {ratio.max():.2f}; CPU time {cpu.median():.2f}); released code, "
        f"elsewhere: {RELEASED}"
    )
