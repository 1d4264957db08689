"""Cells per second of several processes under torchrun, beside one.

Each process has one thread and so many cells of a minibatch (``--batch``), so that the minibatch
of two processes is twice as large. Simulated counts; steps are those of ``SVAEPlus``'s own
training, after a warm-up. Runs of one process and of several alternate; printed are the cells
per second of each and the median of the ratios. A machine needs as many free cores as processes;
where others use them, the ratio by CPU seconds says what it would be without waiting.
"""

import json
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
    add("--epochs", type=int, default=4, help="that are timed, of 8,192 cells")
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
            (one, cpu_one), (several, cpu) = (_started(name, n, args) for n in (1, args.processes))
            row = {"model": name, "genes": args.genes, "batch": args.batch, "round": number}
            row |= {"one": one, "several": several, "processes": args.processes}
            rows.append(row | {"ratio": several / one, "ratio_cpu": cpu / cpu_one})
            print(
                f"{name}: {one:.0f} and {several:.0f} cells/s, ratio {several / one:.2f}, "
                f"by CPU seconds of each process {cpu / cpu_one:.2f}",
                flush=True,
            )
    table = pd.DataFrame(rows)
    table.to_csv(args.csv, index=False)
    print(table.groupby("model")[["ratio", "ratio_cpu"]].median().round(2).to_string())
    return 0


def _started(name, n_processes, args):
    """Cells of so many processes together, by second and by CPU second of the first."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(n_processes)]
    command = [sys.executable, *launch, "-m", "benchmarks.scale", "ranks", "--child", name]
    options = {"--genes": args.genes, "--batch": args.batch, "--epochs": args.epochs}
    command += [str(part) for option in options.items() for part in option]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.strip().rpartition("\n")[2])


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
            start, cpu = time.perf_counter(), time.process_time()
            train(module, cells, adam, max_epochs=n_epochs, batch_size=batch)
            seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    if rank == 0:
        print(json.dumps([args.epochs * N_CELLS / t for t in (seconds, cpu)]))
