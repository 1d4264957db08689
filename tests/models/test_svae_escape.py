"""Cells that escape their perturbation: shares, undiluted effects, and what follows from them."""

import numpy as np
import pytest
import torch

from skpert import SVAE, SVAEPlus, load, save
from skpert._data import Cells
from skpert.datasets import make_sparse_shift
from skpert.models.svae import ShiftModule
from skpert.nn import Decoder, GaussianEncoder, Table
from skpert.sparsity.effects import latent_effects, of_responders
from skpert.sparsity.masks import CalledMasks

SHARES = np.array([0.9, 0.5, 0.3, 1.0])


def states_of(n_cells=400, n_controls=800, seed=0):
    """Cells whose expression is their latent state; the last perturbation does nothing."""
    random = np.random.default_rng(seed)
    part = np.concatenate([np.full(n_controls, -1), np.repeat(np.arange(4), n_cells)])
    shifts = np.array([[4.0, 0, 0], [0, -3.5, 0], [3.0, 0, 3.0], [0, 0, 0]])
    responded = random.random(len(part)) < np.append(SHARES, 0.0)[part]
    z = random.normal(size=(len(part), 3)) + [1.0, 0.0, -2.0]
    z[responded] += shifts[part[responded]]
    x, part = (torch.from_numpy(array) for array in (z.astype(np.float32), part[:, None]))
    dosage = (part >= 0).float()
    cells = Cells(x, x.sum(1, keepdim=True), part.clamp(min=0), dosage, x[:, :0])
    return cells, shifts


def test_effects_are_those_of_responders():
    cells, shifts = states_of()
    diluted = latent_effects(lambda batch: batch.x, cells, 4)
    found = of_responders(diluted, lambda batch: batch.x, cells)
    np.testing.assert_allclose(found.difference, shifts, atol=0.25)
    np.testing.assert_allclose(found.responding, SHARES, atol=0.05)
    assert found.responding[3] == 1  # where nothing happens nobody is said to have escaped
    np.testing.assert_allclose(found.mean[3], diluted.mean[3])
    np.testing.assert_allclose(found.covariance, np.eye(3), atol=0.1)
    expected = 1 / (400 * SHARES) + 1 / 800  # cells that say what the effect is
    np.testing.assert_allclose(found.share[:, 0], expected, rtol=0.15)


def test_errors_of_effects_are_as_large_as_said():
    errors = []
    for seed in range(12):
        cells, shifts = states_of(100, 400, seed)
        effects = latent_effects(lambda batch: batch.x, cells, 4)
        found = of_responders(effects, lambda batch: batch.x, cells)
        errors.append((found.difference.numpy() - shifts) / found.standard_error.numpy())
    assert 0.8 < np.sqrt(np.mean(np.square(errors))) < 1.4


def module_of(response):
    torch.manual_seed(0)
    sizes = {"n_hidden": 16, "n_layers": 2}
    encoder = GaussianEncoder(3, 2, dropout=0.0, **sizes)
    decoder = Decoder(2, 3, likelihood="normal", n_environments=0, **sizes)
    masks = CalledMasks(torch.full((4, 2), torch.inf))
    shifts = Table(3 * torch.randn(4, 2))
    return ShiftModule(encoder, decoder, shifts, masks, response=response).eval()


def scores(module, cells, z):
    torch.manual_seed(1)
    weights = module.log_weights(cells, 3).detach()
    torch.manual_seed(1)
    return weights, module.log_joint(cells, z).detach()


def test_a_state_is_that_of_a_responder_or_of_a_control_cell():
    cells, _ = states_of(20, 40)
    z = torch.randn(5, cells.n_cells, 2)
    logit = torch.tensor([[torch.inf], [0.0], [-torch.inf], [1.0]])
    all_respond, mixed = module_of(None), module_of(Table(logit))
    everyone, found = scores(all_respond, cells, z), scores(mixed, cells, z)
    part, treated = cells.part[:, 0], cells.dosage[:, 0] > 0
    for one, other in zip(everyone, found, strict=True):
        same = ~treated | (part == 0)
        torch.testing.assert_close(one[:, same], other[:, same])
    untreated = all_respond.log_joint(cells._replace(dosage=0 * cells.dosage), z)
    torch.testing.assert_close(untreated[:, part == 2], found[1][:, part == 2])
    half = torch.logaddexp(untreated, everyone[1]) - np.log(2)
    torch.testing.assert_close(half[:, treated & (part == 1)], found[1][:, treated & (part == 1)])


def test_the_objective_is_the_elbo_of_the_mixture():
    cells, _ = states_of(20, 40)
    every = Table(torch.full((4, 1), torch.inf))
    torch.manual_seed(2)
    closed = module_of(None).loss_terms(cells)
    total = 0.0
    module = module_of(every)
    torch.manual_seed(2)
    for _ in range(200):
        total += module.loss_terms(cells)["kl_z"].detach() / 200
    assert total == pytest.approx(closed["kl_z"].item(), rel=0.02)


@pytest.fixture(scope="module")
def screen():
    data = make_sparse_shift(
        12,
        n_cells_per_perturbation=80,
        n_control_cells=900,
        n_latent=3,
        n_genes=50,
        n_targets=1,
        library_size=5000,
        random_state=0,
    )
    A, controls = data.A.copy(), np.flatnonzero(data.A == "control")
    for i, name in enumerate(["P00", "P03", "P07"]):
        A[controls[80 * i : 80 * (i + 1)]] = name  # half of their cells escaped
    return data, A


@pytest.fixture(scope="module")
def model(screen):
    data, A = screen
    return SVAEPlus(escape=True, max_epochs=40, random_state=0).fit(data.X, A)


def test_shares_and_effects_of_a_screen(screen, model):
    data, A = screen
    share = dict(zip(model.perturbations_, model.response_share_, strict=True))
    for name in model.perturbations_:
        assert share[name] == pytest.approx(0.5 if name in ("P00", "P03", "P07") else 1, abs=0.07)
    diluted = SVAEPlus(max_epochs=40, random_state=0).fit(data.X, A)
    assert (diluted.response_share_ == 1).all()
    assert model.score(data.X, A) > diluted.score(data.X, A)
    longer = np.linalg.norm(model.embedding_, axis=1) / np.linalg.norm(diluted.embedding_, axis=1)
    half = np.isin(model.perturbations_, ["P00", "P03", "P07"])
    assert longer[half].min() > 1.4
    assert np.median(longer[~half]) < 1.25


def test_predictions_are_of_responders_and_samples_of_both(screen, model):
    data, _ = screen
    options = {"library_size": 5000, "random_state": 0}
    drawn = model.sample_intervention(["P00", "control"], 2000, **options).mean(1)
    expected = model.predict_intervention(["P00", "control"], library_size=5000)
    full, seen = (rows[0] - rows[1] for rows in (expected, drawn))
    assert seen @ full / (full @ full) == pytest.approx(0.5, abs=0.1)


def test_files_and_new_perturbations_keep_their_shares(screen, model, tmp_path):
    data, A = screen
    save(model, tmp_path / "model.skpert")
    again = load(tmp_path / "model.skpert")
    np.testing.assert_array_equal(again.response_share_, model.response_share_)
    assert again.score(data.X, A) == model.score(data.X, A)
    names = A.astype(object)
    names[A == "P00"] = "new"
    rows = np.isin(names, ["new", "control"])
    adapted = model.adapt(data.X[rows], names[rows])
    assert adapted.perturbations_[-1] == "new"
    np.testing.assert_array_equal(adapted.response_share_[:-1], model.response_share_)
    assert len(model.response_share_) == 12


def test_new_perturbations_are_told_from_control_cells_by_the_model(screen):
    data, A = screen
    known = A != "P00"
    model = SVAEPlus(escape=True, max_epochs=40, random_state=0).fit(data.X[known], A[known])
    alone = model.adapt(data.X[~known], A[~known])
    assert alone.response_share_[-1] == pytest.approx(0.5, abs=0.08)
    both = np.isin(A, ["P00", "P01"])
    names = np.where(A == "P01", "other", A)[both]
    together = model.adapt(data.X[both], names)
    shares = dict(zip(together.perturbations_, together.response_share_, strict=True))
    assert shares["P00"] == pytest.approx(alone.response_share_[-1], abs=0.05)


def test_basal_states_of_cells_that_escaped_are_their_own(screen, model):
    data, A = screen
    rows = np.flatnonzero(A == "P00")
    escaped = data.A[rows] == "control"
    basal = model.posterior(data.X[rows], A[rows]).z_basal
    control = model.transform(data.X[data.A == "control"])
    for part in (basal[escaped], basal[~escaped]):
        np.testing.assert_allclose(part.mean(0), control.mean(0), atol=0.6)


def test_refined_models_keep_their_shares(screen, model):
    data, A = screen
    refined = model.set_params(max_epochs=2).refine(data.X, A)
    np.testing.assert_array_equal(refined.response_share_, model.response_share_)


@pytest.mark.parametrize("cls", [SVAE, SVAEPlus])
def test_what_cannot_be_learned_is_an_error(cls, screen):
    data, A = screen
    with pytest.raises(ValueError, match="escape=True needs edges='called'"):
        cls(escape=True, edges="learned", max_epochs=1).fit(data.X, A)
    few = (A != "control") | (np.cumsum(A == "control") <= 10)
    settings = {"escape": True, "max_epochs": 1, "validation_fraction": 0.0}
    with pytest.raises(ValueError, match="at least 20 control cells.* training has 10"):
        cls(**settings).fit(data.X[few], A[few])
