"""Many fits on a Dask cluster of two workers, of which one is killed.

A search, an evaluation, many fits and refits run on a local cluster undisturbed, which counts what
is sent; then again, until so many runs had a worker killed (SIGKILL) at a random moment. The
cluster starts another worker in its place. Printed is whether the results are those of this
process alone. Needs the extra `cluster`.
"""

import os
import pickle
import signal
import threading
import time

import joblib
import numpy as np
from sklearn.model_selection import GridSearchCV

from skpert import VAE, SVAEPlus
from skpert.datasets import make_sparse_shift
from skpert.inspection import stability
from skpert.model_selection import PerturbationKFold, evaluate_perturbations, fit_many

from ..command import add_csv
from ..runner import write

SMALL = {"n_latent": 3, "max_epochs": 10}


def add_arguments(parser):
    """Options of the command line."""
    add = parser.add_argument
    add("--kills", type=int, default=10, help="of each function; default %(default)s")
    add("--cells", type=int, default=60, help="per perturbation; default %(default)s")
    add("--genes", type=int, default=300, help="default %(default)s")
    add("--seed", type=int, default=0, help="of the moments")
    add_csv(parser)


def run(args):
    """Kill and compare; return how many functions gave another result."""
    random, rows = np.random.default_rng(args.seed), []
    screen = make_sparse_shift(
        8,
        n_cells_per_perturbation=args.cells,
        n_control_cells=args.cells,
        n_latent=3,
        n_genes=args.genes,
        random_state=0,
    )
    X, A = np.asarray(screen.X, dtype=np.float32), screen.A
    for function in (search, evaluate, fits, refits):
        rows.append({"function": function.__name__, "data_bytes": X.nbytes})
        rows[-1] |= _measured(function, X, A, args.kills, random)
        print(" ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    write(rows, args.csv)
    return sum(not row["same"] for row in rows)


def search(X, A):
    """Scores of a grid."""
    model, folds = VAE(**SMALL, random_state=0), PerturbationKFold(3, random_state=0)
    grid = GridSearchCV(model, {"n_hidden": [8, 32]}, cv=folds, refit=False)
    return grid.fit(X, A).cv_results_["mean_test_score"]


def evaluate(X, A):
    """Scores of two models."""
    models = {"a": VAE(**SMALL), "b": VAE(**SMALL, n_hidden=8)}
    folds = PerturbationKFold(2, random_state=0)
    return evaluate_perturbations(
        models, X, A, cv=folds, space="counts", metrics=["response_mse"], random_state=0
    ).summary.to_numpy()


def fits(X, A):
    """Latent states of some cells in models of four seeds."""
    models = fit_many([SVAEPlus(**SMALL, random_state=seed) for seed in range(4)], X, A)
    return np.stack([model.transform(X[:10]) for model in models])


def refits(X, A):
    """What refits on cells that are drawn say of latents."""
    model = SVAEPlus(**SMALL, random_state=0).fit(X, A)
    return stability(model, X, A, n_refits=4, random_state=0).latents.to_numpy()


def _measured(function, X, A, n_kills, random):
    """What is sent, and whether results are the same."""
    with joblib.parallel_config(backend="sequential"):
        alone = function(X, A)
    undisturbed = _on_cluster(function, X, A)
    results, kills = [undisturbed["result"]], 0
    while kills < n_kills:
        after = random.uniform(0, undisturbed["seconds"])
        found = _on_cluster(function, X, A, after, random.integers(2))
        results.append(found["result"])
        kills += found["killed"]
    sent = undisturbed["sent"]
    return {
        "tasks": len(sent),
        "bytes_per_task": max(sent),
        "bytes_sent_once": sum(undisturbed["once"]),
        "kills": kills,
        "seconds": round(undisturbed["seconds"], 1),
        "same": all(np.array_equal(result, alone) for result in results),
    }


def _on_cluster(function, X, A, after=None, which=0):
    """Result of a function on a new cluster, of which a worker is killed after so many seconds."""
    from distributed import LocalCluster

    from doc.scaling.dask_search import KeepingClient

    sent, once = [], []

    class Counting(KeepingClient):
        """Counts bytes."""

        def submit(self, function, *arguments, **settings):
            size = len(pickle.dumps((arguments, settings)))
            (sent if "tasks" in settings else once).append(size)
            return super().submit(function, *arguments, **settings)

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        with Counting(cluster) as client:
            victim = list(client.run(os.getpid).values())[which]
            kill = threading.Timer(after or 0, os.kill, (victim, signal.SIGKILL))
            if after is not None:
                kill.start()
            start = time.perf_counter()
            with joblib.parallel_config(backend="dask", client=client, scatter=[X, A]):
                result = function(X, A)
            seconds = time.perf_counter() - start
            killed = after is not None and not kill.is_alive()
            kill.cancel()
    return {"result": result, "seconds": seconds, "killed": killed, "sent": sent, "once": once}
