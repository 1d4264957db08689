"""The screen on disk that the benchmark makes, and what its loaders read of it."""

import numpy as np
import pytest
import torch

from benchmarks.timing import Size

anndata = pytest.importorskip("anndata")
disk = pytest.importorskip("benchmarks.scale.disk")


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "N_AT_ONCE", 400)
    disk.make(tmp_path / "screen.h5ad", Size(1100, 512, 60, 0.05))
    return tmp_path / "screen.h5ad"


def test_a_screen_is_made_in_pieces(path):
    data = anndata.read_h5ad(path)
    assert data.shape == (1100, 60)
    assert (np.diff(data.X.indptr) == 3).all()
    assert data.X.data.min() >= 1
    assert not np.array_equal(data.X[:400].indices, data.X[400:800].indices)
    assert data.obs["perturbation"].value_counts().to_dict()["control"] == 22
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_our_minibatches_hold_every_cell_once(path):
    X = torch.cat(list(disk.ours(path)()))
    dense = anndata.read_h5ad(path).X.toarray()
    order, expected = np.lexsort(X.numpy().T), np.lexsort(dense.T)
    np.testing.assert_array_equal(X.numpy()[order], dense[expected])
