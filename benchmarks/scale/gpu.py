"""All that is to be known of a GPU, in one command of at most ten minutes.

::

    python -m benchmarks.scale gpu                                # on the GPU that there is
    python -m benchmarks.scale gpu --screen FILE --split FILE     # seconds to an ELBO, too
    python -m benchmarks.scale gpu --device cpu --toy             # that the command itself works

Printed are cells per second by minibatch and genes, beside SCVI where scvi-tools is installed; how
often a step waits for the device (``torch.cuda.set_sync_debug_mode``; it should never); memory of
the device; that every model trains, and that scores of one model agree with those on the CPU.
Times are of whole epochs, the first of each training left out. No figure of a GPU has been
measured by the authors so far.
"""

import importlib.util
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import sparse

import skpert
from skpert._runtime import chosen_device
from skpert.datasets import load_screen, make_additive_shift

from ..command import add_csv
from ..timing import Clock, OurCheckingClock, OurClock, Size, screen

BATCHES, GENES = (128, 1024, 8192), (300, 2000)
N_STEPS = {128: 400, 1024: 200, 8192: 50}
NETWORKS = {"n_hidden": 128, "n_layers": 2}
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
    if args.screen is not None:
        rows += _reach(device, args)
    pd.DataFrame(rows).assign(device=name).to_csv(args.csv, index=False)
    return 0


def _steps(device, toy):
    """Cells per second of ours and of SCVI."""
    programs = {"skpert": _ours}
    if importlib.util.find_spec("scvi"):
        programs["SCVI"] = _scvi
    rows = []
    print("\n batch genes program   cells/s   MB of the device   waits in an epoch")
    for n_genes in GENES[: 1 if toy else None]:
        for batch in BATCHES[: 1 if toy else None]:
            n_steps = 4 if toy else N_STEPS[batch]
            size = Size(n_steps * batch, batch, n_genes, density=0.1)
            X, A = screen(size)
            for name, fit in programs.items():
                if device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats(device)
                clock, n_waits = _counted(fit, X, A, size, device)
                seconds = np.median([epoch[0] for epoch in clock.epochs[1:]])
                row = {"table": "steps", "program": name, "batch": batch, "genes": n_genes}
                row |= {"cells_per_second": size.n_cells / seconds, "waits": n_waits}
                row["megabytes"] = _memory(device)
                rows.append(row)
                print(
                    f"{batch:6} {n_genes:5} {name:8} {row['cells_per_second']:10.0f} "
                    f"{row['megabytes']:18.0f} {n_waits:19.0f}",
                    flush=True,
                )
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
    print("\nmodel             seconds   score there   on the CPU")
    for name in MODELS:
        start = time.perf_counter()
        model = getattr(skpert, name)(
            n_latent=4, max_epochs=2 if toy else 30, device=str(device), random_state=0
        )
        model.fit(data.X, data.A)
        seconds = time.perf_counter() - start
        score = model.score(data.X, data.A)
        model.module_.cpu()
        on_cpu = model.score(data.X, data.A)
        row = {"table": "models", "program": name, "seconds": seconds}
        rows.append(row | {"score": score, "score_cpu": on_cpu})
        print(f"{name:16} {seconds:8.1f} {score:13.4f} {on_cpu:12.4f}", flush=True)
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
