"""Cells per second of several processes under torchrun, beside one.

Each process has one thread and so many cells of a minibatch (``--batch``), so that the minibatch
of two processes is twice as large. Simulated counts; steps are those of ``SVAEPlus``'s own
training, after a warm-up. Beside one process stand several with a training of their own each:
their cells per second together are what the machine gives, and the bound. All three take turns;
printed are the medians of the ratios to one process and to the bound. Beside them stand the CPU
milliseconds of a step of one process and of one of several, and how many cores other programs kept
busy meanwhile: processes that wait for each other lose more by these than one alone.
"""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

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
# One thread, and memory that is free is kept for the next step, not given back to the system.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_TRIM_THRESHOLD_": "1073741824",
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
}


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
            busy, start = _seconds_of_others(), time.perf_counter()
            one, cpu_one = _started(name, 1, 1, args)
            bound, _ = _started(name, args.processes, 1, args)
            several, cpu = _started(name, 1, args.processes, args)
            others = (_seconds_of_others() - busy) / (time.perf_counter() - start)
            row = {"model": name, "genes": args.genes, "batch": args.batch, "round": number}
            row |= {"processes": args.processes, "one": one, "alone": bound, "together": several}
            row |= {"ratio": several / one, "of bound": several / bound}
            rows.append(row | {"cpu of one": cpu_one, "cpu": cpu, "others": others})
            print(
                f"{name}: one {one:.0f} cells/s, {args.processes} by themselves {bound:.0f}, "
                f"together {several:.0f}; CPU ms of a step {cpu_one:.1f} and {cpu:.1f}; others "
                f"kept {others:.2f} cores busy",
                flush=True,
            )
    table = pd.DataFrame(rows)
    table.to_csv(args.csv, index=False)
    shown = ["ratio", "of bound", "cpu of one", "cpu", "others"]
    print(table.groupby("model")[shown].median().round(2).to_string())
    return 0


def _seconds_of_others():
    """CPU seconds that programs other than the ones started here have taken."""
    user, nice, system = map(int, Path("/proc/stat").read_text().split()[1:4])
    own = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (user + nice + system) / os.sysconf("SC_CLK_TCK") - own.ru_utime - own.ru_stime


def _started(name, n_trainings, n_processes, args):
    """Cells per second of trainings at the same time, of so many processes each; CPU of a step."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(n_processes)]
    launch = launch if n_processes > 1 else []
    command = [sys.executable, *launch, "-m", "benchmarks.scale", "ranks", "--child", name]
    options = {"--genes": args.genes, "--batch": args.batch, "--epochs": args.epochs}
    command += [str(part) for option in options.items() for part in option]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = os.environ | ENVIRONMENT
    started = [subprocess.Popen(command, env=environment, **pipes) for _ in range(n_trainings)]
    found = []
    for process in started:
        said, errors = process.communicate()
        if process.returncode:
            raise RuntimeError(errors)
        found.append(said.split()[-2:])
    rates, milliseconds = np.array(found, dtype=float).T
    return rates.sum(), milliseconds.mean()


def _timed(name, args):
    """Print the cells per second of a training, and the CPU milliseconds of a step."""
    rank, size = rank_and_size()
    X = np.random.default_rng(0).poisson(0.3, (N_CELLS, args.genes)).astype(np.float32)
    A = np.array([f"P{i % 100}" for i in range(N_CELLS)], dtype=object)
    batch = args.batch * size
    model = MODELS[name](n_latent=15, max_epochs=1, batch_size=batch, random_state=0)
    model.design_ = model._make_design().fit(A)
    model.perturbations_ = model.design_.perturbations_
    with seeded(0, torch.device("cpu")):
        cells = Cells.of_design(X, model.design_, A).with_saturated(tallied=True)
        module = model._make_module(cells)
        adam = Adam(module.parameter_groups(), 1e-3)
        for n_epochs in (1, args.epochs):
            start, cpu = time.perf_counter(), time.process_time()
            train(module, cells, adam, max_epochs=n_epochs, batch_size=batch)
            seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    if rank == 0:
        print(args.epochs * N_CELLS / seconds, 1e3 * cpu * batch / (args.epochs * N_CELLS))
