"""Trainings that are killed at random moments, and go on from their checkpoints.

For each model a fit runs undisturbed; then the same fit with ``checkpoint`` is killed (SIGKILL)
after a random time and begun again, until it has been killed so many times and one has ended. A
fit that ends too early for that is begun anew. Printed is how many kills there were, where they
fell, and whether the weights that came out are those of the undisturbed fit, bit for bit.
Checkpoints are written after every epoch here, so that many kills fall into the writing.
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import joblib
import numpy as np
import pandas as pd

import skpert
from skpert import _progress
from skpert.datasets import make_additive_shift

from ..command import add_csv

MODELS = ("SVAEPlus", "SAMSVAE", "SCCVAE", "InVAE")
LONGEST = 1.2  # of the time that an undisturbed fit takes after its imports


def add_arguments(parser):
    """Options of the command line."""
    add = parser.add_argument
    add("--models", nargs="+", choices=MODELS, default=list(MODELS))
    add("--kills", type=int, default=50, help="of each model; default %(default)s")
    add("--seed", type=int, default=0, help="of the moments")
    own = "used by this command itself: one fit, which prints a digest of its weights"
    add("--child", nargs=2, help=own, metavar=("MODEL", "FOLDER"))
    add_csv(parser)


def run(args):
    """Kill and compare; return how many models came out differently."""
    if args.child:
        return _fit(*args.child)
    random, rows = np.random.default_rng(args.seed), []
    for name in args.models:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(_killed(name, Path(folder), args.kills, random))
        print(" ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    pd.DataFrame(rows).to_csv(args.csv, index=False)
    return sum(not row["same"] for row in rows)


def _killed(name, folder, n_kills, random):
    """Row of a model."""
    digest, seconds = _started(name, folder / "undisturbed", None).split()
    places, digests = Counter(), []
    while sum(places.values()) < n_kills or not digests:
        enough = sum(places.values()) >= n_kills
        delay = None if enough else random.uniform(0, LONGEST * float(seconds))
        said = _started(name, folder / "killed", delay)
        if len(said.split()) == 2:
            digests.append(said.split()[0])
        elif delay is not None:
            places[_place(folder / "killed")] += 1
    return {
        "model": name,
        "kills": sum(places.values()),
        "while": "; ".join(f"{place} {n}" for place, n in sorted(places.items())),
        "fits that ended": len(digests),
        "same": set(digests) == {digest},
    }


def _place(folder):
    """Where the fit was that was killed: its phase, or the writing of a checkpoint in it."""
    for partial in folder.glob("*.partial"):
        partial.unlink()
        return "writing"
    for path in folder.glob("*.checkpoint"):
        progress = _progress.Progress(path)
        if progress.phases:
            return progress.phases[progress.phase].name or "training"
    return "before the first checkpoint"


def _started(name, folder, delay):
    """Last line that a fit printed, which was killed so many seconds after its start, or ended."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.scale", "faults"]
    command += ["--child", name, str(folder)]
    environment = os.environ | {"KILL_AFTER": "" if delay is None else str(delay)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode not in (0, -signal.SIGKILL):
        raise RuntimeError(done.stderr)
    return done.stdout.strip().rpartition("\n")[2]


def _fit(name, folder):
    """Fit, and print a digest of the weights and how many seconds it took."""
    _progress.EVERY = 0.0
    screen = make_additive_shift(
        8, n_cells_per_perturbation=60, n_control_cells=60, n_latent=4, n_genes=50, random_state=0
    )
    several = {"n_init": 2} if name == "InVAE" else {}
    model = getattr(skpert, name)(
        n_latent=4, max_epochs=30, random_state=0, checkpoint=folder, **several
    )
    if os.environ["KILL_AFTER"]:
        kill = threading.Timer(
            float(os.environ["KILL_AFTER"]), os.kill, (os.getpid(), signal.SIGKILL)
        )
        kill.daemon = True
        kill.start()
    start = time.perf_counter()
    model.fit(screen.X, screen.A)
    seconds = time.perf_counter() - start
    weights = [values.numpy() for values in model.module_.state_dict().values()]
    print(joblib.hash(weights), seconds, flush=True)
    os._exit(0)
