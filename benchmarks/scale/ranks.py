"""Cells per second of several processes under torchrun, beside one.

Each process has one thread and so many cells of a minibatch (``--batch``), so that the minibatch
of two processes is twice as large. Simulated counts; steps are those of ``SVAEPlus``'s own
training, after a warm-up. Beside one process stand several with a training of their own each:
their cells per second together are what the machine gives, and the bound. All three take turns;
printed are the medians of the ratios to one process and to the bound.
"""

import os
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import torch

from skpert import SAMSVAE, SVAEPlus
from skpert._data import Cells
from skpert._optimizer import Adam
from skpert._ranks import rank_and_size
from skpert._runtime import seeded
from skpert._training import train

from ..command import add_csv

MODELS = {"SVAEPlus": SVAEPlus, "SAMSVAE": SAMSVAE}
N_CELLS = 8192


def add_arguments(parser):
    """Options of the command line."""
    add = parser.add_argument
    add("--models", nargs="+", choices=list(MODELS), default=["SVAEPlus"])
    add("--processes", type=int, default=2)
    add("--genes", type=int, default=2000)
    add("--batch", type=int, default=512, help="cells of each process; default %(default)s")
    add("--epochs", type=int, default=8, help="that are timed, of 8,192 cells")
    add("--rounds", type=int, default=5)
    add("--child", help="used by this command itself: times one model", metavar="MODEL")
    add_csv(parser)


def run(args):
    """Time all and print."""
    if args.child:
        return _timed(args.child, args)
    rows = []
    for name in args.models:
        for number in range(args.rounds):
            (one,) = _started(name, 1, 1, args)
            bound = sum(_started(name, args.processes, 1, args))
            (several,) = _started(name, 1, args.processes, args)
            row = {"model": name, "genes": args.genes, "batch": args.batch, "round": number}
            row |= {"processes": args.processes, "one": one, "alone": bound, "together": several}
            rows.append(row | {"ratio": several / one, "of bound": several / bound})
            print(
                f"{name}: one {one:.0f} cells/s, {args.processes} by themselves {bound:.0f}, "
                f"together {several:.0f}",
                flush=True,
            )
    table = pd.DataFrame(rows)
    table.to_csv(args.csv, index=False)
    print(table.groupby("model")[["ratio", "of bound"]].median().round(2).to_string())
    return 0


def _started(name, n_trainings, n_processes, args):
    """Cells per second of trainings at the same time, each of so many processes."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(n_processes)]
    launch = launch if n_processes > 1 else []
    command = [sys.executable, *launch, "-m", "benchmarks.scale", "ranks", "--child", name]
    options = {"--genes": args.genes, "--batch": args.batch, "--epochs": args.epochs}
    command += [str(part) for option in options.items() for part in option]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    started = [subprocess.Popen(command, env=environment, **pipes) for _ in range(n_trainings)]
    rates = []
    for process in started:
        said, errors = process.communicate()
        if process.returncode:
            raise RuntimeError(errors)
        rates.append(float(said.strip().rpartition("\n")[2]))
    return rates


def _timed(name, args):
    """Print the cells per second of a training."""
    rank, size = rank_and_size()
    X = np.random.default_rng(0).poisson(0.3, (N_CELLS, args.genes)).astype(np.float32)
    A = np.array([f"P{i % 100}" for i in range(N_CELLS)], dtype=object)
    batch = args.batch * size
    model = MODELS[name](n_latent=15, max_epochs=1, batch_size=batch, random_state=0)
    model.design_ = model._make_design().fit(A)
    model.perturbations_ = model.design_.perturbations_
    with seeded(0, torch.device("cpu")):
        cells = Cells.of_design(X, model.design_, A).with_saturated()
        module = model._make_module(cells)
        adam = Adam(module.parameter_groups(), 1e-3)
        for n_epochs in (1, args.epochs):
            start = time.perf_counter()
            train(module, cells, adam, max_epochs=n_epochs, batch_size=batch)
            seconds = time.perf_counter() - start
    if rank == 0:
        print(args.epochs * N_CELLS / seconds)
