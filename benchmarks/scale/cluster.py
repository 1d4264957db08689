"""Many fits on a cluster of two workers, Dask's or Ray's, of which one is killed.

A search, an evaluation, many fits and refits run on a local cluster undisturbed, where with Dask
it is counted what is sent; then again, until so many runs had a worker killed (SIGKILL) at a
random moment. The cluster starts another worker in its place. Printed is whether the results are
those of this process alone. Needs the extra `cluster`, or Ray and psutil.
"""

import os
import pickle
import signal
import threading
import time
from itertools import product

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
SURVIVING = {"max_restarts": 5, "max_task_retries": 5}  # of workers of Ray that die


def add_arguments(parser):
    """Options of the command line."""
    add = parser.add_argument
    backends = list(BACKENDS)
    add("--backends", nargs="+", choices=backends, default=backends[:1])
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
    for backend, function in product(args.backends, (search, evaluate, fits, refits)):
        rows.append({"backend": backend, "function": function.__name__, "data_bytes": X.nbytes})
        rows[-1] |= _measured(BACKENDS[backend], function, X, A, args.kills, random)
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


def _measured(on_cluster, function, X, A, n_kills, random):
    """What is sent, and whether results are the same."""
    with joblib.parallel_config(backend="sequential"):
        alone = function(X, A)
    undisturbed = on_cluster(function, X, A)
    results, kills = [undisturbed.pop("result")], 0
    while kills < n_kills:
        found = on_cluster(function, X, A, random.uniform(0, undisturbed["seconds"]))
        results.append(found["result"])
        kills += found["killed"]
    same = all(np.array_equal(result, alone) for result in results)
    del undisturbed["killed"]
    return undisturbed | {"kills": kills, "same": same}


def _timed(function, X, A, after, kill, backend, **options):
    """Result of a function on a cluster of which ``kill`` kills a worker after so many seconds."""
    killed = []
    timer = threading.Timer(after or 0, lambda: killed.append(kill()))
    timer.daemon = True
    if after is not None:
        timer.start()
    start = time.perf_counter()
    with joblib.parallel_config(backend=backend, **options):
        result = function(X, A)
    seconds = time.perf_counter() - start
    timer.cancel()
    return {"result": result, "seconds": round(seconds, 1), "killed": any(killed)}


def _on_dask(function, X, A, after=None):
    """The same on a new cluster of Dask, with the bytes of each task and of what is sent once."""
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
            workers = sorted(client.run(os.getpid).values())

            def kill():
                os.kill(workers[0], signal.SIGKILL)
                return True

            found = _timed(function, X, A, after, kill, "dask", client=client, scatter=[X, A])
    of_tasks = {"tasks": len(sent), "bytes_per_task": max(sent), "bytes_sent_once": sum(once)}
    return found | of_tasks


def _on_ray(function, X, A, after=None):
    """The same on Ray, which is started and stopped."""
    import psutil
    import ray
    from ray.util.joblib import register_ray

    def kill():
        """Kill a worker of the pool, if one is at work."""
        children = psutil.Process().children(recursive=True)
        workers = [child for child in children if child.name().startswith("ray::PoolActor.run")]
        for worker in workers[:1]:
            worker.kill()
        return bool(workers)

    register_ray()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        return _timed(function, X, A, after, kill, "ray", n_jobs=2, ray_remote_args=SURVIVING)
    finally:
        ray.shutdown()


BACKENDS = {"dask": _on_dask, "ray": _on_ray}
