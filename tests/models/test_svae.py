"""The sVAE+ family against exact evidence, exact special cases and its invariances."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal

from skpert import IVAE, SVAE, VAE, BetaVAE, SVAEPlus
from skpert._data import Cells
from skpert.datasets import make_sparse_shift
from skpert.metrics import graph_scores, match_latents, mean_correlation_coefficient
from skpert.models.svae import ShiftModule
from skpert.nn import Decoder, GaussianEncoder, Table
from skpert.objectives import iwelbo
from skpert.sparsity.masks import (
    BetaPenalty,
    ExactBetaPenalty,
    FixedMasks,
    L1Penalty,
    PenalisedMasks,
)

NOISE = 0.5  # variance


class LinearEncoder(nn.Module):
    """Gaussian with a linear mean."""

    def __init__(self, weight, bias, scale):
        super().__init__()
        self.mean = nn.Linear(*weight.T.shape)
        self.mean.weight.data, self.mean.bias.data, self.scale = weight, bias, scale

    def forward(self, x):
        return Normal(self.mean(x), self.scale)


class LinearDecoder(nn.Module):
    """x ~ N(W z + b, NOISE)."""

    def __init__(self, weight, bias):
        super().__init__()
        self.weight, self.bias = weight, bias

    def features(self, x):
        return x

    def forward(self, z, library, environment):
        return Independent(Normal(z @ self.weight.T + self.bias, math.sqrt(NOISE)), 1)


W = torch.tensor([[1.0, 0.5], [-0.5, 1.0], [0.2, -0.3]], dtype=torch.float64)
B = torch.tensor([0.1, 0.0, -0.2], dtype=torch.float64)
MU = torch.tensor([[1.5, -1.0], [0.5, 2.0]], dtype=torch.float64)


def posterior_weight(weight):
    precision = torch.eye(2, dtype=torch.float64) + weight.T @ weight / NOISE
    return torch.linalg.inv(precision), torch.linalg.solve(precision, weight.T) / NOISE


def linear_module(weight=W, mask_logit=None, scale=None):
    covariance, gain = posterior_weight(weight)
    scale = covariance.diagonal().sqrt() if scale is None else scale
    encoder = LinearEncoder(gain, -gain @ B, scale)
    masks = FixedMasks(torch.full_like(MU, torch.inf))
    if mask_logit is not None:
        masks = PenalisedMasks(mask_logit, BetaPenalty(2.0, 100))
    return ShiftModule(encoder, LinearDecoder(weight, B), Table(MU), masks).eval()


def cells_of(labels, x=None):
    """Cells with these labels, -1 a control."""
    part = torch.tensor(labels)[:, None]
    x = torch.randn(len(labels), 3, dtype=torch.float64) if x is None else x
    nothing = torch.zeros(len(labels), 0, dtype=torch.float64)
    return Cells(x, x.sum(1, keepdim=True), part.clamp(min=0), (part >= 0).double(), nothing)


def evidence(cells, shift, weight=W):
    covariance = weight @ weight.T + NOISE * torch.eye(3, dtype=torch.float64)
    return MultivariateNormal(shift @ weight.T + B, covariance).log_prob(cells.x)


def test_a_known_cell_has_its_known_elbo():
    torch.manual_seed(0)
    module = linear_module()
    module.encoder.mean = nn.Linear(3, 2)
    module.encoder.mean.weight.data = torch.zeros(2, 3, dtype=torch.float64)
    module.encoder.mean.bias.data = torch.tensor([0.4, -0.2], dtype=torch.float64)
    module.encoder.scale = torch.tensor([0.6, 0.7], dtype=torch.float64)
    x = torch.tensor([[1.0, -0.5, 0.3]], dtype=torch.float64).expand(100_000, -1)
    terms = module.loss_terms(cells_of([-1] * 100_000, x))
    assert terms["kl_z"].item() == pytest.approx(0.3925005677, abs=1e-6)
    assert terms["reconstruction"].item() == pytest.approx(3.3376948288, abs=0.02)


def test_log_weights_are_the_evidence_when_the_guide_is_exact():
    torch.manual_seed(0)
    weight = torch.tensor(
        [[1.0, 0.5], [-0.5, 1.0], [0.0, 0.0]], dtype=torch.float64
    )  # W'W diagonal
    module, cells = linear_module(weight), cells_of([-1] * 20)
    weights = module.log_weights(cells, 7)
    exact = evidence(cells, torch.zeros(2, dtype=torch.float64), weight)
    np.testing.assert_allclose(weights.detach().numpy(), exact.expand(7, -1).numpy(), atol=1e-5)


@pytest.mark.parametrize("labels", [[-1] * 400, [0, 1] * 200])
def test_iwelbo_rises_from_the_elbo_to_the_exact_evidence(labels):
    torch.manual_seed(0)
    module, cells = linear_module(scale=torch.tensor(0.8)), cells_of(labels)
    exact = evidence(cells, module.shift(cells)).mean().item()
    elbo = np.mean([-sum(module.loss_terms(cells).values()).item() for _ in range(300)])
    bounds = {k: iwelbo(module.log_weights(cells, k)).mean().item() for k in (1, 10, 1000)}
    one = np.mean([module.log_weights(cells, 1).mean().item() for _ in range(300)])
    assert one == pytest.approx(elbo, abs=0.02)
    assert elbo < bounds[10] < bounds[1000]
    assert bounds[1000] == pytest.approx(exact, abs=0.02)


def test_iwelbo_of_uncertain_masks_is_the_evidence_summed_over_masks():
    torch.manual_seed(0)
    logit = torch.tensor([[0.3, -1.0], [2.0, 0.0]], dtype=torch.float64)
    module, cells = linear_module(mask_logit=logit), cells_of([0, 1] * 30)
    probability = torch.sigmoid(logit)
    terms = []
    for mask in itertools.product([0.0, 1.0], repeat=2):
        mask = torch.tensor(mask, dtype=torch.float64)
        log_p = torch.where(mask > 0, probability.log(), (1 - probability).log()).sum(1)
        label = cells.part[:, 0]
        terms.append(log_p[label] + evidence(cells, (mask * MU)[label]))
    exact = torch.logsumexp(torch.stack(terms), 0)
    estimate = iwelbo(module.log_weights(cells, 20_000))
    np.testing.assert_allclose(estimate.detach().numpy(), exact.detach().numpy(), atol=0.05)


def random_module(shifted=True, penalty=None, n_genes=12, n_latent=3):
    torch.manual_seed(0)
    sizes = {"n_hidden": 16, "n_layers": 1}
    networks = (
        GaussianEncoder(n_genes, n_latent, dropout=0.0, **sizes),
        Decoder(n_latent, n_genes, likelihood="negative_binomial", **sizes),
    )
    if not shifted:
        return ShiftModule(*networks).eval()
    embedding, masks = torch.randn(4, n_latent), FixedMasks(torch.full((4, n_latent), torch.inf))
    if penalty is not None:
        masks = PenalisedMasks(torch.randn(4, n_latent), penalty)
    return ShiftModule(*networks, Table(embedding), masks).eval()


def random_cells(n_cells=50, n_genes=12):
    torch.manual_seed(1)
    x = torch.poisson(4 * torch.rand(n_cells, n_genes))
    part = torch.randint(-1, 4, (n_cells, 1))
    nothing = torch.zeros(n_cells, 0)
    return Cells(x, x.sum(1, keepdim=True), part.clamp(min=0), (part >= 0).float(), nothing)


def same_noise(function):
    torch.manual_seed(3)
    return function()


def test_ivae_without_shifts_is_the_vae_exactly():
    ivae, vae, cells = random_module(), random_module(shifted=False), random_cells()
    shifts = ("embedding.", "masks.")
    vae.load_state_dict({k: v for k, v in ivae.state_dict().items() if not k.startswith(shifts)})
    ivae.embedding.rows.data.zero_()
    first, second = (same_noise(lambda m=m: m.loss_terms(cells)) for m in (ivae, vae))
    assert {k: v.item() for k, v in first.items()} == {k: v.item() for k, v in second.items()}
    first, second = (same_noise(lambda m=m: m.log_weights(cells, 5)) for m in (ivae, vae))
    assert torch.equal(first, second)


def test_masks_of_one_are_ivae_and_masks_of_zero_the_vae_exactly():
    masked, cells = random_module(penalty=L1Penalty(1.0)), random_cells()
    for logit, shift in [(torch.inf, 1.0), (-torch.inf, 0.0)]:
        masked.masks.logit.rows.data.fill_(logit)
        ivae = random_module()
        others = {k: v for k, v in masked.state_dict().items() if not k.startswith("masks.")}
        ivae.load_state_dict(ivae.state_dict() | others)
        ivae.embedding.rows.data.mul_(shift)
        first, second = (same_noise(lambda m=m: m.loss_terms(cells)) for m in (masked, ivae))
        assert first["reconstruction"].item() == second["reconstruction"].item()
        assert first["kl_z"].item() == second["kl_z"].item()


def test_spike_and_slab_known_kl():
    module = random_module(penalty=L1Penalty(0.0), n_latent=2)
    module.embedding.rows.data[0] = torch.tensor([0.0, 1.0])
    cells = random_cells(1)._replace(
        part=torch.zeros(1, 1, dtype=torch.long), dosage=torch.ones(1, 1)
    )
    guide = Normal(torch.tensor([[0.5, -1.0]]), torch.tensor([[0.25, 2.0]]).sqrt())
    module.encoder.forward = lambda x: guide
    for logit, kl in [(torch.inf, 2.5965735903), (-torch.inf, 1.0965735903)]:
        module.masks.logit.rows.data.fill_(logit)
        assert module.loss_terms(cells)["kl_z"].item() == pytest.approx(kl, abs=1e-5)


def test_beta_weighs_the_kl_alone_and_the_warm_up_too():
    module, cells = random_module(), random_cells()
    plain = same_noise(lambda: module.loss_terms(cells))
    module.beta = 4.0
    weighted = same_noise(lambda: module.loss_terms(cells, kl_weight=0.5))
    assert weighted["kl_z"].item() == pytest.approx(2 * plain["kl_z"].item(), rel=1e-6)
    assert weighted["reconstruction"].item() == plain["reconstruction"].item()


def test_beta_prior_counts_once_per_data_set():
    logit = torch.logit(torch.tensor([[0.1, 0.9], [0.5, 0.01]], dtype=torch.float64))
    penalty = BetaPenalty(100.0, 80)
    assert 80 * penalty(logit, 1.0).item() == pytest.approx(289.5824886375, abs=1e-4)
    total = 80 * (3.5 + penalty(logit, 0.5).item())
    assert total == pytest.approx(424.7912443188, abs=1e-4)


def test_exact_bound_adds_the_kl_of_the_masks():
    logit = torch.full((2, 3), 5.0)
    exact = ExactBetaPenalty(100.0, 10, (2, 3))  # psi starts at sigmoid(1)
    beta = BetaPenalty(100.0, 10)(exact.prior_logit(), 1.0).item()
    assert 10 * (exact(logit, 1.0).item() - beta) == pytest.approx(6 * 0.2797749353, abs=1e-4)
    exact.prior_logit.rows.data.copy_(logit)  # psi = pi is the practical form
    assert exact(logit, 1.0).item() == pytest.approx(BetaPenalty(100.0, 10)(logit, 1.0).item())


def test_l1_is_the_mean_probability():
    logit = torch.logit(torch.tensor([[0.1, 0.9], [0.5, 0.5]]))
    assert L1Penalty(30.0)(logit, 0.0).item() == pytest.approx(15.0)


@pytest.mark.parametrize(
    "penalty", [L1Penalty(1.0), BetaPenalty(5.0, 50), ExactBetaPenalty(5.0, 50, (4, 3))]
)
@pytest.mark.parametrize("likelihood", ["negative_binomial", "zero_inflated_negative_binomial"])
def test_every_parameter_gets_a_gradient(penalty, likelihood):
    module = random_module(penalty=penalty)
    module.decoder = Decoder(3, 12, n_hidden=16, n_layers=1, likelihood=likelihood)
    module.train()
    sum(module.loss_terms(random_cells()).values()).backward()
    silent = [name for name, p in module.named_parameters() if not p.grad.abs().sum() > 0]
    assert silent == []


def test_control_cells_have_no_shift():
    module, cells = random_module(), random_cells()
    control = cells.dosage[:, 0] == 0
    assert control.any()
    assert torch.equal(module.prior_mean(cells)[control], torch.zeros(control.sum(), 3))
    assert torch.equal(
        module.prior_mean(cells)[~control], module.embedding()[cells.part[~control, 0]]
    )


# Estimators

FAST = {"n_latent": 3, "n_hidden": 32, "max_epochs": 4, "random_state": 0}


@pytest.fixture(scope="module")
def screen():
    return make_sparse_shift(
        6, n_cells_per_perturbation=60, n_control_cells=60, n_latent=3, n_genes=40, random_state=0
    )


def test_edges_of_ivae_are_the_two_largest_shifts(screen):
    model = IVAE(**FAST).fit(screen.X, screen.A)
    assert (model.mask_.sum(1) == 2).all()
    size = np.abs(model.embedding_)
    assert (size[model.mask_].reshape(6, 2).min(1) >= np.where(model.mask_, 0, size).max(1)).all()
    assert not hasattr(model, "mask_probability_")
    assert not hasattr(VAE(**FAST).fit(screen.X, screen.A), "embedding_")


def test_default_sparsity_from_random_weights_is_the_number_of_perturbations(screen):
    model, same = (
        SVAEPlus(edges="learned", sparsity=s, init="random", **FAST).fit(screen.X, screen.A)
        for s in (None, 6)
    )
    np.testing.assert_array_equal(model.mask_probability_, same.mask_probability_)


def test_a_smaller_pseudo_sample_size_is_sparser(screen):
    dense, sparser = (
        SVAEPlus(edges="learned", sparsity=6, pseudo_sample_size=n, **FAST).fit(screen.X, screen.A)
        for n in (None, 1.0)
    )
    assert sparser.mask_probability_.mean() < dense.mask_probability_.mean()


def test_vae_predicts_the_same_for_every_intervention_and_ivae_does_not(screen):
    designs = ["P0", "P3", "control"]
    same = VAE(**FAST).fit(screen.X, screen.A).predict_intervention(designs)
    assert (same == same[0]).all()
    other = IVAE(**FAST).fit(screen.X, screen.A).predict_intervention(designs)
    assert np.abs(other[0] - other[1]).max() > 1e-3


def test_beta_vae_scores_the_elbo_proper(screen):
    vae = VAE(**FAST).fit(screen.X, screen.A)
    beta = BetaVAE(beta=7.0, **FAST).fit(screen.X, screen.A)
    beta.module_.load_state_dict(vae.module_.state_dict())
    assert beta.score(screen.X, screen.A) == vae.score(screen.X, screen.A)


@pytest.mark.parametrize("method", [VAE, IVAE, SVAE, SVAEPlus])
def test_adapt_changes_nothing_but_new_rows(screen, method):
    new = np.isin(screen.A, ["P4", "P5"])
    model = method(**FAST).fit(screen.X[~new], screen.A[~new])
    state = {k: v.clone() for k, v in model.module_.state_dict().items()}
    Z, score = model.transform(screen.X), model.score_cells(screen.X[~new], screen.A[~new])
    adapted = model.adapt(screen.X[new], screen.A[new])
    assert all(torch.equal(state[k], v) for k, v in model.module_.state_dict().items())
    assert adapted.perturbations_.tolist() == ["P0", "P1", "P2", "P3", "P4", "P5"]
    assert model.perturbations_.tolist() == ["P0", "P1", "P2", "P3"]
    np.testing.assert_array_equal(adapted.transform(screen.X), Z)
    np.testing.assert_array_equal(adapted.score_cells(screen.X[~new], screen.A[~new]), score)
    if hasattr(model, "embedding_"):
        np.testing.assert_array_equal(adapted.embedding_[:4], model.embedding_)
    if hasattr(model, "mask_probability_"):
        np.testing.assert_array_equal(adapted.mask_probability_[:4], model.mask_probability_)
        assert (adapted.mask_probability_[4:, : model.n_latent_] == 1).all()


def test_adapted_shifts_are_the_optimum_of_the_published_objective(screen):
    new = screen.A == "P5"
    model = SVAEPlus(**FAST).fit(screen.X[~new], screen.A[~new])
    adapted = model.adapt(screen.X[new], screen.A[new])
    Z = adapted.transform(screen.X[new])
    np.testing.assert_allclose(adapted.embedding_[-1], Z.mean(0), atol=1e-5)
    cells = adapted._check(screen.X[new], screen.A[new])
    rows = adapted.module_.embedding.rows.requires_grad_()
    adapted.module_.loss_terms(cells)["kl_z"].backward()
    assert rows.grad.abs().max() < 1e-4
    assert np.array_equal(
        adapted.embedding_[-1],
        model.adapt(
            np.r_[screen.X[new], screen.X[screen.A == "control"]],
            np.r_[screen.A[new], ["control"] * 60],
        ).embedding_[-1],
    )  # control cells change nothing


def test_adapting_with_sparse_masks_learns_them_and_freezes_the_rest(screen):
    new = screen.A == "P5"
    model = SVAEPlus(edges="learned", sparsity=6, **FAST).fit(screen.X[~new], screen.A[~new])
    adapted = model.adapt(screen.X[new], screen.A[new], sparse=True)
    of_new = adapted.mask_probability_[-1, : model.n_latent_]
    assert ((of_new > 0) & (of_new < 1)).all()
    assert (adapted.history_["phase"] == "adapt").all()
    frozen = {k: v for k, v in model.module_.state_dict().items() if "coder" in k}
    after = adapted.module_.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in frozen.items())
    np.testing.assert_array_equal(adapted.embedding_[:5], model.embedding_)
    again = adapted.adapt(screen.X[:20], ["P9"] * 20)
    np.testing.assert_array_equal(again.embedding_[:6], adapted.embedding_)


def test_refining_fixes_the_masks_and_trains_the_rest(screen):
    model = SVAEPlus(**FAST).fit(screen.X, screen.A)
    mask = model.mask_.copy()
    refined = model.refine(screen.X, screen.A)
    assert set(np.unique(refined.mask_probability_)) <= {0.0, 1.0}
    np.testing.assert_array_equal(refined.mask_, mask)
    assert "sparsity" not in refined.history_
    before, after = (m.module_.state_dict() for m in (model, refined))
    assert not torch.equal(after["encoder.moments.weight"], before["encoder.moments.weight"])


def test_names_do_not_matter(screen):
    other = np.array(["B" + a[1:] if a != "control" else a for a in screen.A])
    first = SVAEPlus(**FAST).fit(screen.X, screen.A)
    second = SVAEPlus(**FAST).fit(screen.X, other)
    np.testing.assert_array_equal(first.embedding_, second.embedding_)


def test_sparse_and_dense_counts_give_the_same(screen):
    dense = SVAEPlus(**FAST).fit(screen.X, screen.A)
    for form in (sparse.csr_array, sparse.csc_matrix):
        model = SVAEPlus(**FAST).fit(form(screen.X), screen.A)
        np.testing.assert_allclose(model.embedding_, dense.embedding_, atol=1e-5)
        np.testing.assert_allclose(
            model.transform(form(screen.X)), dense.transform(screen.X), atol=1e-4
        )


@pytest.mark.slow
def test_recovery_of_latents_and_graph():
    screen = make_sparse_shift(
        40,
        n_cells_per_perturbation=50,
        n_control_cells=100,
        n_latent=3,
        n_genes=80,
        n_targets=(1, 2),
        normalize="cells",
        random_state=0,
    )
    settings = {"n_latent": 3, "n_hidden": 32, "max_epochs": 45, "batch_size": 64}
    settings |= {"learning_rate": 3e-3, "random_state": 0}
    vae, sparse_vae = (m(**settings).fit(screen.X, screen.A) for m in (VAE, SVAEPlus))
    scores = [
        mean_correlation_coefficient(screen.Z, m.transform(screen.X)) for m in (vae, sparse_vae)
    ]
    assert scores[1] > 0.97
    assert scores[1] > scores[0] + 0.05
    match = match_latents(screen.Z, sparse_vae.transform(screen.X))
    assert graph_scores(screen.mask, sparse_vae.mask_, match=match).f1 > 0.95


@pytest.mark.parametrize("penalty", [None, L1Penalty(1.0), ExactBetaPenalty(5.0, 50, (4, 3))])
def test_nothing_is_left_behind_on_another_device(penalty):
    """The meta device refuses to mix with tensors of the CPU, as a GPU does."""
    module = random_module(penalty=penalty).to("meta").train()
    module.encoder.hidden.dropout = 0.1
    cells = random_cells().to(torch.device("meta"))
    tensors = [*module.loss_terms(cells).values(), module.log_weights(cells, 3)]
    tensors += [module.encode(cells.x), *module.posterior(cells).values()]
    z_basal = module.basal_states(cells.n_cells)
    tensors += [z_basal, module.intervene(z_basal, cells).mean, *module.learned().values()]
    extended = module.extended(cells, 2)
    tensors += [extended.prior_mean(cells), *extended.refined().learned().values()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
