"""A search on a Dask cluster, which ends with the same result when workers die."""

import joblib
from distributed import Client, LocalCluster
from sklearn.model_selection import GridSearchCV

from skpert import VAE
from skpert.datasets import make_sparse_shift
from skpert.model_selection import PerturbationKFold


def itself(data):
    """The data."""
    return data


class KeepingClient(Client):
    """Sends data as results of tasks, which are done again when a worker dies that has them."""

    def scatter(self, data, asynchronous=False, **settings):
        """Futures of a list of data; for joblib's own use also one, which is awaited."""
        if asynchronous:
            return self._sent(data)
        return [self.submit(itself, part, pure=False) for part in data]

    async def _sent(self, data):
        return self.submit(itself, data, pure=False)


def grid():
    """A search over a grid; each of its tasks is a fit on one split."""
    model = VAE(n_latent=3, max_epochs=10, random_state=0)
    folds = PerturbationKFold(3, random_state=0)
    return GridSearchCV(model, {"n_hidden": [8, 32]}, cv=folds)


def search(client, X, A):
    """The search, fitted by the workers of the cluster."""
    with joblib.parallel_config(backend="dask", client=client, scatter=[X, A]):
        return grid().fit(X, A)


if __name__ == "__main__":  # workers import this file
    screen = make_sparse_shift(
        6, n_cells_per_perturbation=60, n_control_cells=60, n_latent=3, n_genes=50, random_state=0
    )
    with LocalCluster(n_workers=2, threads_per_worker=1) as cluster:
        with KeepingClient(cluster) as client:
            print(search(client, screen.X, screen.A).best_params_)
