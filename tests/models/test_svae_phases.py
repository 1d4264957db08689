"""From dense shifts to sparse ones: the axes that are found, and the edges that are called."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from skpert import SVAE, SVAEPlus
from skpert._data import Cells
from skpert.datasets import make_sparse_shift
from skpert.metrics import graph_scores, match_latents, mean_correlation_coefficient
from skpert.models.svae import ShiftModule
from skpert.nn import Decoder, GaussianEncoder, Table
from skpert.sparsity.effects import LatentEffects
from skpert.sparsity.masks import CalledMasks

N_LATENT, N_PERTURBATIONS = 4, 12


def random_module(n_environments=0):
    torch.manual_seed(0)
    sizes = {"n_hidden": 16, "n_layers": 2}
    encoder = GaussianEncoder(10, N_LATENT, dropout=0.0, **sizes)
    decoder = Decoder(N_LATENT, 10, likelihood="normal", n_environments=n_environments, **sizes)
    rows = (N_PERTURBATIONS, N_LATENT)
    masks = CalledMasks(torch.full(rows, torch.inf))
    return ShiftModule(encoder, decoder, Table(torch.randn(rows)), masks, rotated=True).eval()


def random_cells(n_cells=300, n_environments=0, controlled=True):
    part = torch.randint(-int(controlled), N_PERTURBATIONS, (n_cells, 1))
    x = torch.randn(n_cells, 10) + torch.randn(N_PERTURBATIONS + 1, 10)[part[:, 0]]
    environment = torch.randn(n_cells, n_environments)
    return Cells(x, x.sum(1, keepdim=True), part.clamp(min=0), (part >= 0).float(), environment)


@pytest.mark.parametrize("controlled", [True, False])
def test_effects_are_differences_of_means_with_their_errors(controlled):
    module, cells = random_module(), random_cells(controlled=controlled)
    effects = module.effects(cells)
    z = module.encode(cells.x).detach().double().numpy()
    label = np.where(cells.dosage[:, 0] > 0, cells.part[:, 0], -1)
    means = np.stack([z[label == i].mean(0) for i in range(N_PERTURBATIONS)])
    reference = z[label == -1].mean(0) if controlled else None
    n_groups = len(np.unique(label))
    residual = z - means[label]
    residual[label == -1] = z[label == -1] - (reference if controlled else 0)
    variance = (residual**2).sum(0) / (len(z) - n_groups)
    share = 1 / np.bincount(label[label >= 0])[:, None]
    if controlled:
        share = share + 1 / (label == -1).sum()
        np.testing.assert_allclose(effects.difference, means - reference, atol=1e-9)
    np.testing.assert_allclose(effects.mean, means, atol=1e-9)
    np.testing.assert_allclose(effects.standard_error, np.sqrt(share * variance), rtol=1e-6)


def test_perturbations_without_cells_do_not_move_the_reference():
    module, cells = random_module(), random_cells(controlled=False)
    some, more = (module.effects(cells, n) for n in (12, 40))
    np.testing.assert_allclose(some.reference, more.reference)
    assert not more.mean[12:].any()


@pytest.mark.parametrize("n_environments", [0, 2])
def test_finding_axes_rotates_states_and_leaves_reconstructions(n_environments):
    module, cells = random_module(n_environments), random_cells(n_environments=n_environments)
    z = module.encode(cells.x)
    before = module.decoder(z, cells.library, cells.environment).mean
    effects = module.effects(cells)
    module.find_axes(cells)
    turned = module.encode(cells.x)
    after = module.decoder(turned, cells.library, cells.environment).mean
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)
    R, centre = (tensor.float() for tensor in effects.axes())
    torch.testing.assert_close(turned, (z - centre) @ R, rtol=0, atol=1e-5)
    torch.testing.assert_close(R.T @ R, torch.eye(N_LATENT), rtol=0, atol=1e-6)
    control = turned[cells.dosage[:, 0] == 0].mean(0)
    torch.testing.assert_close(control, torch.zeros(N_LATENT), rtol=0, atol=1e-5)


def test_shifts_start_from_the_rotated_differences():
    module, cells = random_module(), random_cells()
    module.find_axes(cells)
    effects = module.effects(cells)
    torch.testing.assert_close(module.embedding(), effects.difference.float(), rtol=0, atol=1e-4)
    assert set(module.masks.logit().isinf().unique().tolist()) == {True}


def test_edges_are_called_on_axes_that_are_found_again():
    module, cells = random_module(), random_cells()
    before = module.decoder(module.encode(cells.x), cells.library, cells.environment).mean
    module.call_edges(cells)
    after = module.decoder(module.encode(cells.x), cells.library, cells.environment).mean
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)
    effects = module.effects(cells)
    torch.testing.assert_close(module.embedding(), effects.mean.float(), rtol=0, atol=1e-4)
    again, _ = effects.axes()  # the columns in any order
    assert again.abs().amax(0).min() > 1 - 1e-3


def test_scales_of_posteriors_come_along_at_the_end(screen, model):
    scale = model.posterior(screen.X, screen.A).scale
    assert scale.std(0).min() > 1e-3  # they depend on the cell
    module, cells = random_module(), random_cells()
    before = module.guide(cells).scale
    order = torch.tensor([2, 0, 3, 1])
    R = torch.eye(N_LATENT)[:, order]
    module.encoder.project(R, torch.zeros(N_LATENT), restart=False)
    torch.testing.assert_close(module.guide(cells).scale, before[:, order])


def test_where_latents_are_missing_axes_stay():
    module, cells = random_module(), random_cells()
    module.n_found = N_LATENT + 1
    before = module.encode(cells.x)
    module.call_edges(cells)
    torch.testing.assert_close(module.encode(cells.x), before)


def test_without_controls_the_centre_is_found_with_the_axes():
    """Sparse shifts around a centre that the median along the given axes misses."""
    rng = np.random.default_rng(0)
    shifts = 4.0 * (rng.random((30, 4)) < 0.25) * rng.choice([0.5, 1.0, 1.5], size=(30, 4))
    turn = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    mean = torch.from_numpy((shifts + [1.0, -2.0, 0.5, 3.0]) @ turn)
    effects = LatentEffects(
        mean,
        mean.median(0).values,
        torch.eye(4, dtype=torch.float64),
        torch.full((30, 1), 0.01, dtype=torch.float64),
        torch.tensor(False),
    )
    found = effects.rotated(*effects.axes()).difference.abs().numpy()
    assert np.sort(found, axis=None)[: (shifts == 0).sum()].max() < 0.01
    truth = np.sort(shifts, axis=0)
    order = linear_sum_assignment(cdist(truth.T, np.sort(found, axis=0).T))[1]
    np.testing.assert_allclose(np.sort(found, axis=0)[:, order], truth, atol=0.01)


@pytest.fixture(scope="module")
def screen():
    return make_sparse_shift(
        30,
        n_cells_per_perturbation=60,
        n_control_cells=120,
        n_latent=4,
        n_genes=60,
        n_targets=(1, 2),
        library_size=5000,
        random_state=0,
    )


@pytest.fixture(scope="module")
def model(screen):
    return SVAEPlus(n_latent=4, max_epochs=60, batch_size=64, random_state=0).fit(
        screen.X, screen.A
    )


def test_axes_and_edges_are_found(screen, model):
    Z = model.transform(screen.X)
    assert mean_correlation_coefficient(screen.Z, Z) > 0.95
    match = match_latents(screen.Z, Z)
    for mask in (model.mask_, model.targets(fdr=0.05).to_numpy() != 0):
        assert graph_scores(screen.mask, mask, match=match).f1 > 0.95


def test_the_rotation_is_worth_more_than_the_same_time_from_random_weights(screen, model):
    settings = model.get_params() | {"edges": "learned", "init": "random"}
    published = SVAEPlus(**settings).fit(screen.X, screen.A)
    mccs = [
        mean_correlation_coefficient(screen.Z, m.transform(screen.X)) for m in (model, published)
    ]
    assert mccs[0] > mccs[1] + 0.05


def test_max_epochs_is_the_total_of_both_phases(model):
    assert model.history_["phase"].tolist() == ["dense"] * 18 + ["decoder"] * 7 + ["sparse"] * 35
    assert model.n_iter_ == 60


def test_called_shifts_are_the_means_of_their_cells(screen, model):
    Z = model.transform(screen.X)
    means = np.stack([Z[screen.A == name].mean(0) for name in model.perturbations_])
    assert np.corrcoef(means.ravel(), model.embedding_.ravel())[0, 1] > 0.999
    assert np.abs(means - model.embedding_).max() < 0.3  # a tenth of the cells are held out


def test_fewer_edges_at_a_lower_false_discovery_rate(model):
    strict, mild = (model.targets(fdr=fdr).to_numpy() != 0 for fdr in (0.001, 0.3))
    assert (mild | ~strict).all()
    assert strict.sum() <= mild.sum()
    probability = model.mask_probability_
    assert 1 - probability[strict].mean() <= 0.001
    with pytest.raises(ValueError, match="fdr must be in"):
        model.targets(fdr=5)


def test_a_given_sparsity_is_learned_as_published(screen):
    settings = {"n_latent": 4, "max_epochs": 9, "batch_size": 64, "random_state": 0}
    for method in (SVAE, SVAEPlus):
        model = method(edges="learned", sparsity=2.0, **settings).fit(screen.X, screen.A)
        assert "sparsity" in model.history_[model.history_["phase"] == "sparse"]
        probability = model.mask_probability_[:, : model.n_latent_]
        assert ((probability > 0.01) & (probability < 0.99)).all()


def test_adapting_calls_edges_of_new_perturbations_beside_the_known(screen, model):
    silent = screen.A == "control"
    moved = screen.A == screen.perturbations[0]
    X = np.vstack([screen.X[silent], screen.X[moved]])
    A = ["silent"] * silent.sum() + ["twin"] * moved.sum()
    adapted = model.adapt(X, A, sparse=True)
    np.testing.assert_array_equal(adapted.mask_probability_[:30], model.mask_probability_)
    assert not adapted.targets_.loc["silent"].any()
    twin, known = (adapted.targets_.loc[name] != 0 for name in ("twin", screen.perturbations[0]))
    np.testing.assert_array_equal(twin, known)


@pytest.mark.parametrize("names", [["A"], ["A", "B"], ["A", "B", "control"]])
def test_fewer_perturbations_than_latents(names):
    rng = np.random.default_rng(0)
    A = np.array(["control"] * 40 + names * 40)
    X = rng.poisson(2.0, (len(A), 20)) + 5.0 * (A == "A")[:, None] * (np.arange(20) < 5)
    model = SVAEPlus(n_latent=6, max_epochs=3, batch_size=32, random_state=0).fit(X, A)
    assert model.targets_.shape == (len(set(A)) - 1, 6)
    assert np.isfinite(model.score(X, A))


def test_one_epoch_is_a_dense_one(screen):
    model = SVAEPlus(n_latent=4, max_epochs=1, random_state=0).fit(screen.X, screen.A)
    assert model.history_["phase"].tolist() == ["dense"]
