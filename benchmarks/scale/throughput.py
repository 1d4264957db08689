"""Speed and memory beside scvi-tools' SCVI, and how time grows with the size of a screen.

::

    python -m benchmarks.scale throughput                   # all tables
    python -m benchmarks.scale throughput --quick           # few sizes, few repeats: five minutes
    python -m benchmarks.scale throughput --tables growth   # one table; it needs no scvi-tools
    python -m benchmarks.scale throughput --screen screen.h5ad --split split.npz  # to an ELBO

Both programs train the same networks: two hidden layers of 128, dropout 0.1, as many latents, a
negative binomial with one dispersion per gene, the same minibatches, one thread. Ours is sVAE+
with masks learned from random weights, its most expensive step. Each program lives in a process
of its own and they take turns, so that both meet the same noise; tables show medians of the
ratios of neighbours. Times are of whole epochs, the first of each training left out, so that they
hold all that an epoch holds: minibatches, the step, the optimiser, the bookkeeping. CPU seconds
stand beside those of the clock, as they depend less on what else the machine does.

With ``--screen`` both learn the training cells of the split. SCVI trains for ``--epochs`` epochs
as its users would (minibatches of 128, KL warm-up over 50 epochs); its IWELBO on the held-out
cells is then what ``SVAEPlus`` and ``VAE`` with default parameters have to reach. Both values have
every constant of the likelihood and are computed here with the same number of particles. The
clock stands while they are computed.

Memory is what the peak of the resident set adds to that of the data and the libraries (Linux).
"""

import multiprocessing
import warnings
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from scipy import sparse

import skpert
from skpert.datasets import load_screen

from .. import runner
from ..command import add_csv
from ..timing import CHECK_EVERY, Clock, OurCheckingClock, OurClock, Size, peak_memory, screen

NETWORKS = {"n_hidden": 128, "n_layers": 2}
DROPOUT = 0.1  # SCVI's default
PARTICLES = 100


def fit_ours(X, A, size, n_epochs):
    """Clock after training sVAE+."""
    estimator = skpert.SVAEPlus(
        size.n_latent,
        **NETWORKS,
        dropout=DROPOUT,
        edges="learned",
        init="random",
        max_epochs=n_epochs,
        batch_size=size.batch_size,
        learning_rate=1e-3,
        schedule="constant",
        validation_fraction=0,
        device="cpu",
        random_state=0,
    )
    clock = OurClock()
    estimator.set_callbacks(clock).fit(X, A)
    return clock


def fit_scvi(X, A, size, n_epochs):
    """Clock after training SCVI."""
    from ..peers.scvi import prepared, train  # scvi-tools is an extra

    clock = Clock()
    model = prepared(X, size.n_latent, DROPOUT, **NETWORKS)
    train(model, clock, max_epochs=n_epochs, batch_size=size.batch_size)
    return clock


FIT = {"skpert": fit_ours, "scvi": fit_scvi}


def serve(connection, program):
    """Answer requests of the parent until it sends None."""
    _quiet()
    known, data = None, None
    while (request := _received(connection)) is not None:
        size, n_epochs = request
        if size != known:
            known, data = size, screen(size)
        clock = FIT[program](*data, size, n_epochs + 1)
        connection.send(np.median(clock.epochs[1:], axis=0))


def _received(connection):
    """The next request, or None when the parent has ended."""
    try:
        return connection.recv()
    except EOFError:
        return None


def _quiet():
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")


class Program:
    """A program in a process of its own."""

    def __init__(self, name):
        context = multiprocessing.get_context("spawn")
        self.name, (self.connection, theirs) = name, context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, name), daemon=True)
        self.process.start()

    def epoch(self, size, n_epochs):
        """Seconds of an epoch, of the clock and of the CPU."""
        self.connection.send((size, n_epochs))
        while not self.connection.poll(1):
            if not self.process.is_alive():
                raise SystemExit(f"the process of {self.name} ended, see above")
        return self.connection.recv()


def memory_of(connection, program, size):
    """Send how much training adds to the memory of data and libraries, bytes."""
    _quiet()
    data = screen(size)
    FIT[program](*screen(replace(size, n_cells=2 * size.batch_size)), size, 1)  # imports
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
    before = peak_memory()
    FIT[program](*data, size, 2)
    connection.send(peak_memory() - before)


def memory(program, size):
    """Megabytes that training takes, in a fresh process."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=memory_of, args=(theirs, program, size))
    process.start()
    process.join()
    return ours.recv() / 2**20


def step_sizes(quick):
    """Minibatches and genes at which both are timed."""
    few = [(128, 100, 1.0), (128, 300, 1.0), (512, 2000, 1.0), (512, 2000, 0.1)]
    if not quick:
        few += [(128, 1000, 0.1), (512, 300, 1.0), (1024, 5000, 0.1), (4096, 300, 1.0)]
        few += [(4096, 2000, 0.1), (128, 5000, 1.0)]
    n_steps = [max(10, min(100, 2**22 // (batch * genes))) for batch, genes, _ in few]
    return [Size(n * size[0], *size) for n, size in zip(n_steps, few, strict=True)]


def growth_sizes(quick):
    """Sizes that differ from the first of their series in one number, by what that is."""
    base = Size(n_genes=100)
    return {
        "n_cells": [
            replace(base, n_cells=n) for n in (10_000, 100_000, *([] if quick else [1_000_000]))
        ],
        "n_genes": [replace(base, n_genes=n) for n in (100, 300, 1000, 3000)],
        "n_perturbations": [replace(base, n_perturbations=n) for n in (10, 100, 1000, 5000)],
        "n_latent": [replace(base, n_latent=n) for n in (5, 20, 50, 100)],
        "batch_size": [replace(base, batch_size=n) for n in (128, 512, 2048)],
    }


class Results:
    """Rows of the CSV file, which holds one run."""

    def __init__(self, path):
        self.path, self.rows = path, []

    def add(self, table, program, repeat, size=None, **values):
        """Keep a row."""
        settings = {} if size is None else asdict(size)
        self.rows.append(
            {"table": table, "program": program, "repeat": repeat, **settings, **values}
        )
        runner.write(self.rows, self.path)


def milliseconds(epoch, size):
    """What is kept of the two clocks of an epoch: the time of a step."""
    wall, cpu = 1e3 * epoch / -(-size.n_cells // size.batch_size)
    return {"step_ms": wall, "step_cpu_ms": cpu}


def steps(programs, results, args):
    """Time steps of both in turn, and print them with their ratio."""
    print("\nOne step, medians, and how many times as fast as SCVI")
    print("batch  genes density |  skpert ms    SCVI ms  cells/s  times    (CPU) | quartiles")
    for size in step_sizes(args.quick):
        times = {program.name: [] for program in programs}
        for repeat in range(args.repeats + 1):
            for program in programs[:: 1 if repeat % 2 else -1]:
                step = milliseconds(program.epoch(size, 2), size)
                if repeat:  # neither is timed cold
                    results.add("steps", program.name, repeat, size, **step)
                    times[program.name].append(list(step.values()))
        ours, theirs = (np.array(times[name]) for name in ("skpert", "scvi"))
        ratio, cpu_ratio = (theirs / ours).T
        low, middle, high = np.quantile(ratio, [0.25, 0.5, 0.75])
        step, peer_step = np.median(ours[:, 0]), np.median(theirs[:, 0])
        print(
            f"{size.batch_size:5} {size.n_genes:6} {size.density:7.2f} | {step:10.2f} "
            f"{peer_step:10.2f} {1e3 * size.batch_size / step:8.0f} {middle:6.2f} "
            f"{np.median(cpu_ratio):8.2f} | {low:.2f} to {high:.2f}",
            flush=True,
        )


def memories(results, args):
    """Print the memory that training takes."""
    print("\nMemory of training beyond data and libraries, MB")
    print(" cells  batch  genes density |  skpert    SCVI")
    sizes = [Size(50_000), Size(20_000, 512, 2000), Size(50_000, 512, 2000, 0.1)]
    for size in sizes[: 1 if args.quick else None]:
        found = {name: memory(name, size) for name in FIT}
        for name, megabytes in found.items():
            results.add("memory", name, 0, size, megabytes=megabytes)
        print(
            f"{size.n_cells:6} {size.batch_size:6} {size.n_genes:6} {size.density:7.2f} | "
            f"{found['skpert']:7.0f} {found['scvi']:7.0f}",
            flush=True,
        )


def growth(program, results, args):
    """Print how the time per cell grows with each size, and that it is the cells that count."""
    for name, sizes in growth_sizes(args.quick).items():
        per_cell = []
        for repeat in range(args.repeats + 1):
            epochs = [program.epoch(size, 1 if size.n_cells > 100_000 else 2) for size in sizes]
            for size, epoch in zip(sizes, epochs, strict=True):
                if repeat:
                    results.add("growth", program.name, repeat, size, **milliseconds(epoch, size))
            row = [1e6 * epoch / size.n_cells for size, epoch in zip(sizes, epochs, strict=True)]
            per_cell += [row] * bool(repeat)
        wall, cpu = np.median(per_cell, axis=0).T
        print(f"\n{name:>16} " + "".join(f"{getattr(size, name):>10}" for size in sizes))
        print(f"{'µs per cell':>16} " + "".join(f"{value:>10.1f}" for value in wall))
        print(f"{'of the CPU':>16} " + "".join(f"{value:>10.1f}" for value in cpu))
        print(f"{'to the first':>16} " + "".join(f"{v / cpu[0]:>10.2f}" for v in cpu), flush=True)


def read_split(args):
    """Training and held-out cells of the screen."""
    data, parts = load_screen(args.screen, perturbation=args.perturbation), np.load(args.split)
    X = sparse.csr_matrix(data.X, dtype=np.float32)
    return [(X[parts[name]], np.asarray(data.A)[parts[name]]) for name in ("train", "test")]


def reach(results, args):
    """Print how long each takes to the held-out IWELBO at which SCVI ends."""
    _quiet()
    (X, A), (X_test, A_test) = read_split(args)
    print(f"\n{args.screen.name}: {X.shape[0]} cells, {len(A_test)} held out, {X.shape[1]} genes")
    print("                    epochs  seconds      CPU   IWELBO")
    for repeat in range(args.repeats):
        target = _scvi_curve(X, X_test, results, repeat, args)
        for method in args.methods:
            _our_curve(method, X, A, X_test, A_test, target, results, repeat, args)


def _scvi_curve(X, X_test, results, repeat, args):
    from ..peers.scvi import iwelbo, prepared, train

    curve = []

    def check(model, epoch, total):
        if epoch in (25, 50, 75, 100, args.epochs):
            curve.append(iwelbo(model, X_test, PARTICLES))
            _report("SCVI", epoch, total, curve[-1], results, repeat)
        return False

    model = prepared(X, args.latent, DROPOUT, **NETWORKS)
    train(model, Clock(check), max_epochs=args.epochs, batch_size=128, n_epochs_kl_warmup=50)
    return curve[-1]


def _our_curve(method, X, A, X_test, A_test, target, results, repeat, args):
    reached = []

    def check(model, epoch, total):
        score = model.score(X_test, A_test)
        if score >= target and not reached:
            reached.append(epoch)
            _report(f"{method} reaches it", epoch, total, score, results, repeat)
        return False

    estimator = getattr(skpert, method)(
        args.latent, n_particles=PARTICLES, control=args.control, device="cpu", random_state=repeat
    )
    clock = OurCheckingClock(check)
    estimator.set_callbacks(clock).fit(X, A)
    total = clock.total + clock.now() - clock.start  # what comes after the last epoch
    score = estimator.score(X_test, A_test)
    _report(f"{method} ends", len(clock.epochs), total, score, results, repeat)


def _report(name, epoch, total, score, results, repeat):
    results.add(
        "screen", name, repeat, epoch=epoch, seconds=total[0], cpu_seconds=total[1], iwelbo=score
    )
    print(f"{name:20}{epoch:>6}{total[0]:>9.1f}{total[1]:>9.1f}{score:>9.2f}", flush=True)


def add_arguments(parser):
    """Options of the command line."""
    add = parser.add_argument
    tables = ["steps", "memory", "growth"]
    add("--tables", nargs="+", choices=tables, default=tables, help="which of them")
    add("--quick", action="store_true", help="fewer sizes and three repeats")
    add("--repeats", type=int, help="pairs of timings; default 7")
    add("--screen", type=Path, help="time to an ELBO on this screen, instead of the tables")
    add("--split", type=Path, help="its split: .npz with rows `train` and `test`")
    add("--perturbation", default="perturbation", help="column of the labels")
    add("--control", default="control", help="label of untreated cells")
    add("--latent", type=int, default=20, help="latents on the screen")
    add("--epochs", type=int, default=115, help="of SCVI on the screen")
    add("--methods", nargs="+", default=["SVAEPlus", "VAE"], help="estimators on the screen")
    add_csv(parser)


def run(args):
    """Measure and print."""
    if args.epochs % CHECK_EVERY:
        raise SystemExit(f"--epochs must be a multiple of {CHECK_EVERY}")
    args.repeats = args.repeats or (1 if args.screen else 3 if args.quick else 7)
    results = Results(args.csv)
    if args.screen is not None:
        reach(results, args)
        return
    if "steps" in args.tables:
        steps([Program("skpert"), Program("scvi")], results, args)
    if "memory" in args.tables:
        memories(results, args)
    if "growth" in args.tables:
        growth(Program("skpert"), results, args)
