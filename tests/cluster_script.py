"""What ``tests/test_cluster.py`` does on a Dask cluster: ``cluster_script.py FILE``."""

import os
import pickle
import signal
import sys
import threading
import time
import warnings

import joblib
import numpy as np

from doc.scaling.dask_search import KeepingClient, search
from skpert import VAE, SVAEPlus
from skpert.datasets import make_sparse_shift
from skpert.inspection import stability
from skpert.model_selection import PerturbationKFold, evaluate_perturbations, fit_many

SCREEN = make_sparse_shift(
    6, n_cells_per_perturbation=60, n_control_cells=60, n_latent=3, n_genes=50, random_state=0
)
X, A = np.asarray(SCREEN.X, dtype=np.float32), SCREEN.A
SMALL = {"n_latent": 3, "max_epochs": 4, "random_state": 0}


def many_fits():
    """Results of all that fits many times."""
    folds = PerturbationKFold(2, random_state=0)
    what = {"space": "counts", "metrics": ["response_mse"], "random_state": 0}
    found = evaluate_perturbations({"model": VAE(**SMALL)}, X, A, cv=folds, **what)
    models = fit_many([VAE(**SMALL), VAE(**SMALL | {"random_state": 1})], X, A)
    refits = stability(SVAEPlus(**SMALL).fit(X, A), X, A, n_refits=2, random_state=0)
    return {
        "evaluated": found.summary.to_numpy(),
        "fitted": np.stack([model.transform(X) for model in models]),
        "refitted": refits.latents.to_numpy(),
    }


def kill_one_at_work(client, pids, killed):
    """Kill (SIGKILL) a worker that has a task."""
    while not (at_work := [worker for worker, tasks in client.processing().items() if tasks]):
        time.sleep(0.01)
    os.kill(pids[at_work[0]], signal.SIGKILL)
    killed.append(at_work[0])


def on_cluster(path):
    """Many fits of which the bytes are counted, and a search in which a worker is killed."""
    from distributed import LocalCluster

    class Counting(KeepingClient):
        sent = ()  # bytes of each task

        def submit(self, function, *arguments, **settings):
            if "tasks" in settings:
                self.sent = (*self.sent, len(pickle.dumps(settings["tasks"])))
            return super().submit(function, *arguments, **settings)

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        with Counting(cluster) as client:
            with joblib.parallel_config(backend="dask", client=client, scatter=[X, A]):
                results = many_fits()
            sent, killed = client.sent, []
            aim = (client, client.run(os.getpid), killed)
            killing = threading.Thread(target=kill_one_at_work, args=aim)
            killing.start()
            found = search(client, X, A)
            killing.join()
    np.savez(
        path,
        scores=found.cv_results_["mean_test_score"],
        Z=found.transform(X),
        sent=sent,
        n_killed=len(killed),
        **results,
    )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    on_cluster(sys.argv[1])
