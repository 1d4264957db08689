import numpy as np
import pytest

from benchmarks.scale import particles
from skpert import VAE
from skpert.datasets import make_sparse_shift


@pytest.fixture(scope="module")
def screen():
    return make_sparse_shift(
        2,
        n_cells_per_perturbation=40,
        n_control_cells=40,
        n_latent=2,
        n_genes=40,
        library_size=100,
        random_state=0,
    )


@pytest.fixture(scope="module")
def model(screen):
    return VAE(2, n_hidden=16, max_epochs=20, device="cpu", random_state=0).fit(screen.X, screen.A)


@pytest.fixture(scope="module")
def exact(screen, model):
    return model.score_cells(screen.X, screen.A, n_particles=3000).mean()


@pytest.mark.parametrize("way", particles.WAYS)
def test_all_ways_estimate_the_same_evidence(screen, model, exact, way):
    """From below, and of few counts, where a thousand particles of the guide are about enough."""
    draw, _ = particles.WAYS[way]
    score, error, seconds = particles.score(model, screen.X, screen.A, draw, 1000, 3)
    assert exact - 0.4 < score < exact + 0.05
    assert 0 < error < 0.2
    assert seconds > 0


def test_a_row_for_every_way_and_number(monkeypatch, screen, model):
    ways = {k: (draw, (4,)) for k, (draw, _) in particles.WAYS.items()}
    monkeypatch.setattr(particles, "WAYS", ways)
    monkeypatch.setattr(particles, "REFERENCE", 50)
    monkeypatch.setattr(particles, "screen", lambda name, depth: (screen.X, screen.A))
    monkeypatch.setattr(particles, "MODELS", {"VAE": {"n_latent": 2, "max_epochs": 1}})
    rows = list(particles.rows("VAE", "shallow", n_cells=10, n_seeds=2))
    assert [row["way"] for row in rows] == list(ways)
    assert np.isfinite([row["to_reference"] for row in rows]).all()
