"""A small screen to fit; figures are drawn without a window, and closed."""

import pytest

from skpert.datasets import make_sparse_shift


@pytest.fixture(autouse=True)
def closed_figures():
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("Agg")
    yield
    plt.close("all")


@pytest.fixture(scope="session")
def screen():
    return make_sparse_shift(
        5, n_cells_per_perturbation=30, n_control_cells=30, n_latent=3, n_genes=50, random_state=0
    )
