"""Trainings that are killed at random moments, and go on from their checkpoints.

For each model a fit runs undisturbed; then the same fit with ``checkpoint`` is killed (SIGKILL)
after a random time and begun again, until it has been killed so many times, in each phase and
while it wrote a checkpoint, and one has ended. A fit that ends too early for that is begun anew.
Printed is how many kills there were, where they fell, and whether the weights that came out are
those of the undisturbed fit, bit for bit. Checkpoints are written after every epoch here, so that
many kills fall into the writing. A checkpoint that cannot be read is an error. Each fit is a
process of its own; all are forked from one that has imported what they need.
"""

import multiprocessing
import signal
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import joblib
import numpy as np

import skpert
from skpert import _progress
from skpert.datasets import make_additive_shift

from ..command import add_csv
from ..runner import write

MODELS = ("SVAEPlus", "SAMSVAE", "SCCVAE", "InVAE")
LONGEST = 1.2  # of the time that an undisturbed fit takes
LEAST = 3  # kills in each phase, and while a checkpoint is written


def add_arguments(parser):
    """Options of the command line."""
    add = parser.add_argument
    add("--models", nargs="+", choices=MODELS, default=list(MODELS))
    add("--kills", type=int, default=50, help="of each model, at least; default %(default)s")
    add("--cells", type=int, default=30, help="per perturbation; default %(default)s")
    add("--epochs", type=int, default=24, help="of each fit; default %(default)s")
    add("--seed", type=int, default=0, help="of the moments")
    add_csv(parser)


def run(args):
    """Kill and compare; return how many models came out differently."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([__name__])
    random, rows = np.random.default_rng(args.seed), []
    for name in args.models:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            fit = name, args.cells, args.epochs
            row = _killed(processes, fit, Path(folder), args.kills, random)
        rows.append(row | {"seconds": round(time.perf_counter() - start, 1)})
        print(" ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
        write(rows, args.csv)
    return sum(not row["same"] for row in rows)


def _killed(processes, fit, folder, n_kills, random):
    """Row of a model."""
    times = []
    for number in range(2):  # of which one may have waited for other programs
        start = time.perf_counter()
        digest, phases = _started(processes, fit, folder / f"undisturbed{number}", None)
        times.append(time.perf_counter() - start)
    seconds = min(times)
    places, digests = Counter(), []
    while True:
        enough = places.total() >= n_kills
        enough = enough and all(places[place] >= LEAST for place in (*phases, "writing"))
        if enough and digests:
            break
        delay = None if enough else random.uniform(0, LONGEST * seconds)
        ended = _started(processes, fit, folder / "killed", delay)
        if ended is None:
            places[_place(folder / "killed")] += 1
        else:
            digests.append(ended[0])
    return {
        "model": fit[0],
        "kills": places.total(),
        "while": "; ".join(f"{place} {n}" for place, n in sorted(places.items())),
        "fits that ended": len(digests),
        "same": set(digests) == {digest},
        "seconds of a fit": round(seconds, 2),
    }


def _place(folder):
    """Where the fit was that was killed: its phase, or the writing of a checkpoint in it."""
    for partial in folder.glob("*.partial"):
        partial.unlink()
        return "writing"
    for path in folder.glob("*.checkpoint"):
        progress = _progress.Progress(path)
        if progress.phases:
            return progress.phases[min(progress.phase, len(progress.phases) - 1)].name or "fit"
    return "before the first checkpoint"


def _started(processes, fit, folder, delay):
    """What a fit found, which was killed so many seconds after its start or ended; else None."""
    found, sent = processes.Pipe(duplex=False)
    process = processes.Process(target=_fit, args=(*fit, folder, sent))
    process.start()
    sent.close()
    process.join(delay)
    process.kill()
    process.join()
    if process.exitcode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"a fit of {fit[0]} failed, see above")
    return found.recv() if process.exitcode == 0 else None


def _fit(name, n_cells, n_epochs, folder, connection):
    """Fit, and send a digest of the weights, and the phases."""
    _progress.EVERY = 0.0
    warnings.simplefilter("ignore")
    warnings.filterwarnings("error", "checkpoint .* cannot be read")
    sizes = {"n_cells_per_perturbation": n_cells, "n_control_cells": n_cells}
    screen = make_additive_shift(8, **sizes, n_latent=4, n_genes=50, random_state=0)
    several = {"n_init": 2} if name == "InVAE" else {}
    model = getattr(skpert, name)(
        n_latent=4, max_epochs=n_epochs, random_state=0, checkpoint=folder, **several
    )
    model.fit(screen.X, screen.A)
    weights = [values.numpy() for values in model.module_.state_dict().values()]
    connection.send((joblib.hash(weights), list(model.history_["phase"].unique())))
