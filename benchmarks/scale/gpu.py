"""All that is to be known of a GPU, in one command of at most ten minutes.

::

    python -m benchmarks.scale gpu                                # on the GPU that there is
    python -m benchmarks.scale gpu --screen FILE --split FILE     # seconds to an ELBO, too
    python -m benchmarks.scale gpu --device cpu --toy             # that the command itself works

Printed are

* cells per second by minibatch and genes, with steps as CUDA graphs and without, beside SCVI where
  scvi-tools is installed; how often an epoch waits for the device
  (``torch.cuda.set_sync_debug_mode``: a few times, however many steps it has), memory of the
  device, and why a graph was not used, if that is so;
* that every model trains, in what minibatches, and that scores agree with those on the CPU;
* seconds of several fits one by one, and at once in processes (``fit_many``);
* with ``--screen`` seconds of training until held-out cells score as high as ``--target``.

Times of steps are of whole epochs, the first of each training left out. No figure of a GPU has
been measured by the authors so far.
"""

import importlib.util
import logging
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import sparse

import skpert
from skpert import _training
from skpert._runtime import chosen_device
from skpert.datasets import load_screen, make_additive_shift
from skpert.model_selection import fit_many

from ..command import add_csv
from ..runner import write
from ..timing import Clock, OurCheckingClock, OurClock, Size, screen

BATCHES, GENES = (128, 1024, 8192), (300, 2000)
N_STEPS = {128: 400, 1024: 200, 8192: 50}
NETWORKS = {"n_hidden": 128, "n_layers": 2}
N_FITS = 4  # at once
MODELS = ("VAE", "SVAEPlus", "SAMSVAE", "ConditionalVAE", "InVAE", "SCCVAE")


def add_arguments(parser):
    """Options of the command line."""
    add = parser.add_argument
    add("--device", default="cuda", help="default %(default)s")
    add("--toy", action="store_true", help="tiny sizes")
    add("--screen", type=Path, help="a screen; its seconds to --target")
    add("--split", type=Path, help="its split: .npz with rows `train` and `test`")
    add("--target", type=float, default=-199.6, help="nats per cell; default %(default)s")
    add("--perturbation", default="perturbation", help="column of the labels")
    add("--control", default="control", help="label of untreated cells")
    add_csv(parser)


def run(args):
    """Measure, print, and keep."""
    warnings.simplefilter("ignore")
    device = chosen_device(args.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, skpert {skpert.__version__}")
    rows = _steps(device, args.toy)
    rows += _models(device, args.toy)
    rows += _several(device, args.toy)
    if args.screen is not None:
        rows += _reach(device, args)
    write(pd.DataFrame(rows).assign(device=name), args.csv)
    return 0


class Said(logging.Handler):
    """Keeps what is logged of CUDA graphs."""

    def __init__(self):
        super().__init__(logging.INFO)
        self.of_graphs = set()

    def emit(self, record):
        """As the protocol wants it."""
        if "CUDA graph" in record.getMessage():
            self.of_graphs.add(record.getMessage())


def _steps(device, toy):
    """Cells per second of ours and of SCVI."""
    programs = {"skpert": _ours, "no graphs": _without_graphs}
    said = Said()
    logging.getLogger("skpert").addHandler(said)
    logging.getLogger("skpert").setLevel(logging.INFO)
    if importlib.util.find_spec("scvi"):
        programs["SCVI"] = _scvi
    rows = []
    print("\n batch genes program    cells/s   MB of the device   waits in an epoch")
    for n_genes in GENES[: 1 if toy else None]:
        for batch in BATCHES[: 1 if toy else None]:
            n_steps = 4 if toy else N_STEPS[batch]
            size = Size(n_steps * batch, batch, n_genes, density=0.1)
            X, A = screen(size)
            for name, fit in programs.items():
                if device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats(device)
                said.of_graphs.clear()
                clock, n_waits = _counted(fit, X, A, size, device)
                seconds = np.median([epoch[0] for epoch in clock.epochs[1:]])
                row = {"table": "steps", "program": name, "batch": batch, "genes": n_genes}
                row |= {"cells_per_second": size.n_cells / seconds, "waits": n_waits}
                row["megabytes"] = _memory(device)
                row["said"] = "; ".join(said.of_graphs)
                rows.append(row)
                print(
                    f"{batch:6} {n_genes:5} {name:9} {row['cells_per_second']:10.0f} "
                    f"{row['megabytes']:18.0f} {n_waits:19.0f} {row['said']}",
                    flush=True,
                )
    logging.getLogger("skpert").removeHandler(said)
    return rows


def _counted(fit, X, A, size, device):
    """Clock of a training, and how often an epoch of it waits for the device."""
    n_epochs = 4
    if device.type != "cuda":
        return fit(X, A, size, n_epochs, device), np.nan
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            clock = fit(X, A, size, n_epochs, device)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [warning for warning in said if "synchroniz" in str(warning.message)]
    return clock, len(waits) / n_epochs


def _memory(device):
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else np.nan


def _ours(X, A, size, n_epochs, device):
    estimator = skpert.SVAEPlus(
        size.n_latent,
        **NETWORKS,
        edges="learned",
        init="random",
        max_epochs=n_epochs,
        batch_size=size.batch_size,
        learning_rate=1e-3,
        schedule="constant",
        validation_fraction=0,
        device=str(device),
        random_state=0,
    )
    clock = OurClock()  # an epoch ends with its means, for which all steps have to be done
    estimator.set_callbacks(clock).fit(X, A)
    return clock


def _without_graphs(*arguments):
    least, _training.LEAST_STEPS = _training.LEAST_STEPS, np.inf
    try:
        return _ours(*arguments)
    finally:
        _training.LEAST_STEPS = least


def _scvi(X, A, size, n_epochs, device):
    from ..peers.scvi import prepared, train  # scvi-tools is an extra

    def wait(model, epoch, total):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return False

    clock = Clock(wait)
    accelerator = "gpu" if device.type == "cuda" else "cpu"
    options = {"max_epochs": n_epochs, "batch_size": size.batch_size, "accelerator": accelerator}
    train(prepared(X, size.n_latent, 0.1, **NETWORKS), clock, **options)
    return clock


def _models(device, toy):
    """Every model trains there, and scores there what it scores on the CPU."""
    n = 20 if toy else 200
    data = make_additive_shift(
        10, n_cells_per_perturbation=n, n_control_cells=n, n_latent=4, n_genes=60, random_state=0
    )
    rows = []
    print("\nmodel             seconds   minibatch   score there   on the CPU")
    for name in MODELS:
        start = time.perf_counter()
        model = getattr(skpert, name)(
            n_latent=4, max_epochs=2 if toy else 30, device=str(device), random_state=0
        )
        model.fit(data.X, data.A)
        seconds = time.perf_counter() - start
        batch = model._budget(_training_cells(model, data, device)).batch_size
        score = model.score(data.X, data.A)
        model.module_.cpu()
        on_cpu = model.score(data.X, data.A)
        row = {"table": "models", "program": name, "seconds": seconds, "batch": batch}
        rows.append(row | {"score": score, "score_cpu": on_cpu})
        print(f"{name:16} {seconds:8.1f} {batch:11} {score:13.4f} {on_cpu:12.4f}", flush=True)
    return rows


def _training_cells(model, data, device):
    return model._check(data.X, data.A).to(device)


def _several(device, toy):
    """Seconds of fits one by one, and at once."""
    size = Size(400 if toy else 20_000)
    X, A = screen(size)
    options = {"max_epochs": 1 if toy else 20, "device": str(device)}
    models = [skpert.SVAEPlus(10, **options, random_state=seed) for seed in range(N_FITS)]
    rows = []
    print(f"\n{N_FITS} fits        seconds")
    for name, n_jobs in (("one by one", 1), ("first call", N_FITS), ("at once", N_FITS)):
        start = time.perf_counter()
        fit_many(models, X, A, n_jobs=n_jobs)
        seconds = time.perf_counter() - start
        rows.append({"table": "fits", "program": name, "seconds": seconds})
        print(f"{name:12} {seconds:9.1f}", flush=True)
    return rows


def _reach(device, args):
    """Seconds of training until held-out cells score as high as that."""
    data, parts = load_screen(args.screen, perturbation=args.perturbation), np.load(args.split)
    X, A = sparse.csr_matrix(data.X, dtype=np.float32), np.asarray(data.A)
    (X, A), (X_test, A_test) = ((X[parts[name]], A[parts[name]]) for name in ("train", "test"))
    reached = []

    def check(model, epoch, total):
        score = model.score(X_test, A_test)
        if score >= args.target and not reached:
            reached.append(total[0])
        return bool(reached)

    options = {"device": str(device), "control": args.control, "random_state": 0}
    skpert.SVAEPlus(20, **options).set_callbacks(OurCheckingClock(check)).fit(X, A)
    seconds = reached[0] if reached else np.nan
    print(f"\n{args.screen.name}: {seconds:.1f} s to {args.target} nats per cell")
    return [{"table": "screen", "program": "SVAEPlus", "seconds": seconds, "score": args.target}]
