"""The same numbers as scib-metrics, where it is installed, on simulated embeddings."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from skpert import metrics

pytest.importorskip("scib_metrics")
import scib_metrics
from scib_metrics.nearest_neighbors import NeighborsResults
from scib_metrics.utils import principal_component_regression


@pytest.fixture(scope="module", params=[0, 1, 2])
def cells(request):
    """Embedding, labels and batches of 600 cells; each label has batches in other numbers."""
    rng = np.random.default_rng(request.param)
    labels = rng.permutation(np.repeat(np.arange(5), [240, 180, 120, 48, 12]))
    batch = rng.choice(4, size=600)
    batch[labels == 4] %= 2  # isolated
    Z = rng.normal(size=(600, 8)) + 3 * np.eye(8)[labels]
    Z[:, 6] += 0.4 * request.param * batch
    return Z, labels, batch


def nearest(Z, n_neighbors):
    """Exact neighbours, each cell with itself, in the form of scib-metrics."""
    distances, indices = NearestNeighbors(n_neighbors=n_neighbors).fit(Z).kneighbors(Z)
    return NeighborsResults(indices=indices, distances=distances)


def test_silhouettes(cells):  # in float32 there
    Z, labels, batch = cells
    expected = scib_metrics.silhouette_label(Z, labels)
    assert metrics.silhouette_label(Z, labels) == pytest.approx(expected, abs=1e-6)
    expected = scib_metrics.silhouette_batch(Z, labels, batch)
    assert metrics.silhouette_batch(Z, labels, batch) == pytest.approx(expected, abs=1e-6)
    expected = scib_metrics.isolated_labels(Z, labels, batch)
    assert metrics.isolated_label_score(Z, labels, batch) == pytest.approx(expected, abs=1e-6)


def test_graph_connectivity_of_the_same_neighbours(cells):
    Z, labels, _ = cells
    for n_neighbors in (4, 6, 15):
        expected = scib_metrics.graph_connectivity(nearest(Z, n_neighbors), labels)
        score = metrics.graph_connectivity(Z, labels, n_neighbors=n_neighbors)
        assert score == pytest.approx(expected, abs=1e-12)


def test_kbet_of_the_same_neighbours(cells):
    Z, labels, batch = cells
    expected = scib_metrics.kbet(nearest(Z, 30), batch)[0]
    score = metrics.kbet(Z, np.zeros(600), batch, n_neighbors=30)
    assert score == pytest.approx(float(expected), abs=1e-12)
    of_label = []
    for label in range(5):
        z, b = Z[labels == label], batch[labels == label]
        size = 1 + min(70, max(10, len(b) // len(np.unique(b)) // 4))
        of_label.append(scib_metrics.kbet(nearest(z, size), b)[0])
    expected = float(np.mean(of_label))
    assert metrics.kbet(Z, labels, batch) == pytest.approx(expected, abs=1e-12)


@pytest.mark.slow  # compiles the search for neighbours
def test_kbet_of_diffused_neighbours_is_near(cells):
    Z, labels, batch = (part[cells[1] < 4] for part in cells)  # the search fails for 12 cells
    expected = scib_metrics.kbet_per_label(nearest(Z, 50), batch, labels)
    assert metrics.kbet(Z, labels, batch) == pytest.approx(expected, abs=0.15)


def test_k_means_from_other_starts(cells):
    Z, labels, _ = cells
    kept = labels < 3  # labels of many cells, which every start finds
    expected = scib_metrics.nmi_ari_cluster_labels_kmeans(Z[kept], labels[kept])
    agreement = metrics.kmeans_agreement(Z[kept], labels[kept], random_state=0)
    assert agreement.to_dict() == pytest.approx(expected, abs=0.02)


def test_principal_component_regression(cells):  # in float32 there
    Z, _, batch = cells
    expected = principal_component_regression(Z, batch, categorical=True)
    assert metrics.principal_component_regression(Z, batch) == pytest.approx(expected, abs=1e-5)
    before = Z + 2 * np.eye(8)[batch]
    expected = scib_metrics.pcr_comparison(before, Z, batch, categorical=True)
    assert metrics.pcr_comparison(before, Z, batch) == pytest.approx(expected, abs=1e-5)
