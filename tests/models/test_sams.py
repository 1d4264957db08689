"""The additive family: closed forms, special cases, invariances, recovery."""

import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from sklearn.base import clone
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence

from skpert import CPAVAE, SAMSVAE, ConditionalVAE, SVAEPlus
from skpert._data import Cells
from skpert.datasets import make_additive_shift
from skpert.exceptions import DataWarning
from skpert.metrics import graph_scores, match_latents, mean_correlation_coefficient
from skpert.models.sams import AdditiveModule, ConditionalModule
from skpert.nn import Decoder, GaussianEncoder, InputTransform
from skpert.objectives import Reweighting, iwelbo, reweightings
from skpert.sparsity.effects import additive_effects, latent_effects
from skpert.sparsity.embeddings import Embeddings
from skpert.sparsity.masks import BernoulliMasks, CalledMasks, FixedMasks

N_GENES, N_LATENT, N_PERTURBATIONS = 12, 3, 4
SIZES = {"n_hidden": 16, "n_layers": 2}


# A toy with a closed form: x ~ N(z, 1/2), z = z_basal + a e, all of one dimension


class ToyGuide(nn.Module):
    """The exact posterior of z given x and the shift, which the columns hand over as it is."""

    n_latent = 1

    def forward(self, x, shift):
        mean = (2 * x + shift) / 3
        return Normal(mean, torch.full_like(mean, math.sqrt(1 / 3)))


class ToyDecoder(nn.Module):
    def forward(self, z, library, environment):
        return Independent(Normal(z, math.sqrt(0.5)), 1)


def toy(loc, scale):
    embeddings = Embeddings((1, 1), 1.0).double()
    embeddings.loc.rows.data.fill_(loc)
    embeddings.log_scale.rows.data.fill_(math.log(scale - 1e-4))
    columns = nn.Linear(1, 1, bias=False).double()
    nn.init.ones_(columns.weight)
    masks = FixedMasks(torch.full((1, 1), torch.inf, dtype=torch.float64))
    parts = ToyGuide(), ToyDecoder(), nn.Identity(), masks, embeddings
    return AdditiveModule(*parts, torch.tensor([2.0]).double(), columns=columns).eval()


def toy_cells():
    x = torch.tensor([[0.2], [1.1], [0.7]], dtype=torch.float64)
    dosage = torch.tensor([[0.0], [1.0], [1.0]], dtype=torch.float64)
    return Cells(x, x, torch.zeros(3, 1, dtype=torch.long), dosage, x[:, :0])


def test_joint_weights_are_the_evidence_under_the_exact_posterior():
    module = toy(0.5142857143, math.sqrt(0.4285714286))
    weights = module.joint_log_weights(toy_cells(), 20).detach()
    np.testing.assert_allclose(weights, np.full(20, -4.0600907634), atol=1e-5)


def test_joint_bound_rises_to_the_evidence():
    torch.manual_seed(0)
    module = toy(0.1, 0.8)
    weights = module.joint_log_weights(toy_cells(), 50_000).detach().numpy()
    assert weights.mean() < -4.1
    assert logsumexp(weights) - math.log(50_000) == pytest.approx(-4.0600907634, abs=0.02)


def test_predictive_iwelbo_averages_over_the_posterior_of_effects():
    torch.manual_seed(0)
    weights = toy(0.4, 0.3).log_weights(toy_cells(), 200_000)
    expected = [-1.1350044206, -1.3048935916, -1.1791074281]
    np.testing.assert_allclose(iwelbo(weights).detach(), expected, atol=5e-3)


# Shares of the costs of what all cells share


def shares(n_treated, design):
    """Part and dosage of a dense design as ``Cells`` keep them."""
    part = torch.arange(design.shape[1]).expand(len(design), -1)
    return part, (design > 0) / torch.tensor(n_treated)[part]


def test_a_cell_bears_the_known_share_of_global_kls():
    design = torch.tensor([[1.0, 0], [1, 1], [0, 0], [0, 1]])
    _, share = shares([10.0, 5.0], design)
    np.testing.assert_allclose(share, [[0.1, 0], [0.1, 0.2], [0, 0], [0, 0.2]])
    kl = torch.tensor([2.0, 3.0])
    cost = Reweighting().cost(-kl, torch.zeros(2), share).sum(-1)
    np.testing.assert_allclose(cost, [0.2, 0.8, 0, 0.6], rtol=1e-6)
    assert cost.mean().item() == pytest.approx(0.4)
    _, share = shares([2.0, 2.0], design)
    assert Reweighting().cost(-kl, torch.zeros(2), share).sum().item() == pytest.approx(5)


@pytest.mark.parametrize(
    ("kind", "cost"),
    [
        ("prior_scale", 0.25 * (0.5 - 3 * -2.0)),
        ("kl_scale", 0.25 * 3 * (0.5 - -2.0)),
        ("prior_added", 0.25 * 0.5 - (0.25 + 3) * -2.0),
        ("kl_added", (0.25 + 3) * (0.5 - -2.0)),
    ],
)
def test_priors_are_reweighted_in_four_ways(kind, cost):
    weight = reweightings({kind: {"mask": 3.0}})["mask"]
    log_p, log_q = torch.tensor(-2.0), torch.tensor(0.5)
    share = torch.tensor([0.25, 0.0])
    np.testing.assert_allclose(weight.cost(log_p, log_q, share), [cost, 0])


def random_module(masks=None, *, correlated=True, **settings):
    torch.manual_seed(0)
    shape = (N_PERTURBATIONS, N_LATENT)
    embeddings = Embeddings(shape, 1.0)
    embeddings.loc.rows.data = torch.randn(shape)
    columns = nn.Linear(N_LATENT, SIZES["n_hidden"], bias=False) if correlated else None
    return AdditiveModule(
        GaussianEncoder(N_GENES, N_LATENT, dropout=0.0, **SIZES),
        Decoder(N_LATENT, N_GENES, likelihood="negative_binomial", **SIZES),
        InputTransform(N_GENES, log=True),
        FixedMasks(torch.full(shape, torch.inf)) if masks is None else masks,
        embeddings,
        torch.tensor([20.0, 10.0, 5.0, 5.0]),
        columns=columns,
        **settings,
    ).eval()


def random_cells(n_cells=50, n_parts=2):
    torch.manual_seed(1)
    x = torch.poisson(4 * torch.rand(n_cells, N_GENES))
    order = torch.rand(n_cells, N_PERTURBATIONS).argsort(1)
    dosage = torch.randint(0, 2, (n_cells, n_parts)) * torch.rand(n_cells, n_parts)
    return Cells(x, x.sum(1, keepdim=True), order[:, :n_parts], dosage, x[:, :0])


def seeded(function):
    torch.manual_seed(7)
    return function()


def learned_masks(prior=0.1):
    torch.manual_seed(2)
    return BernoulliMasks(torch.randn(N_PERTURBATIONS, N_LATENT), prior)


# Special cases


@pytest.mark.parametrize("correlated", [True, False])
def test_masks_forced_to_one_are_cpa_vae_term_by_term(correlated):
    forced = BernoulliMasks(torch.full((N_PERTURBATIONS, N_LATENT), torch.inf), 0.01)
    sams, cpa = (random_module(masks, correlated=correlated) for masks in (forced, None))
    cpa.load_state_dict(sams.state_dict(), strict=False)
    # Masks take uniform draws before the normal ones that both models have in common.
    sams.masks.draw = lambda *arguments: (cpa.masks.draw(*arguments)[0], forced_costs(arguments))

    def forced_costs(arguments):
        state = torch.get_rng_state()
        costs = BernoulliMasks.draw(forced, *arguments)[1]
        torch.set_rng_state(state)
        return costs

    cells = random_cells()
    first, second = (seeded(lambda m=m: m.loss_terms(cells)) for m in (sams, cpa))
    assert first.pop("kl_mask").item() == 0
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name])
    mine, theirs = (seeded(lambda m=m: m.log_weights(cells, 5)) for m in (sams, cpa))
    torch.testing.assert_close(mine, theirs)


def test_svae_plus_counts_its_prior_once_over_the_data_as_the_shares_do():
    """Their baseline weighs log Beta(pi; 1, c) of a cell's perturbation by 1 / (its cells)."""
    screen = make_additive_shift(
        N_PERTURBATIONS,
        n_cells_per_perturbation=6,
        n_control_cells=6,
        n_latent=2,
        n_genes=50,
        random_state=0,
    )
    model = SVAEPlus(
        n_latent=2,
        edges="learned",
        sparsity=2.0,
        init="random",
        max_epochs=1,
        validation_fraction=0,
        random_state=0,
    ).fit(screen.X, screen.A)
    cells = model._check(screen.X, screen.A)
    x = cells._replace(x=torch.from_numpy(screen.X))
    pi = torch.from_numpy(model.mask_probability_).double()
    log_prior = (math.log(2) + torch.log1p(-pi)).sum(1)  # log Beta(pi; 1, 2)
    treated = cells.dosage[:, 0] > 0
    share = 1 / torch.bincount(cells.part[treated, 0]).double()
    theirs = -torch.where(treated, (share * log_prior)[cells.part[:, 0]], 0).mean()
    ours = model.module_.loss_terms(x)["sparsity"]
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-4)


def test_a_screen_without_effects_of_its_masks_is_a_plain_vae():
    masks = FixedMasks(torch.full((N_PERTURBATIONS, N_LATENT), -torch.inf))
    module, cells = random_module(masks), random_cells()
    controls = cells._replace(dosage=torch.zeros_like(cells.dosage))
    treated, untreated = (seeded(lambda c=c: module.log_weights(c, 4)) for c in (cells, controls))
    torch.testing.assert_close(treated, untreated)


# The objective, written out with torch's distributions


@pytest.mark.parametrize("correlated", [True, False])
def test_the_monte_carlo_objective_is_the_formula_of_the_paper(correlated):
    masks = learned_masks()
    module = random_module(masks, correlated=correlated, objective="monte_carlo", n_particles=3)
    cells = random_cells()
    terms = seeded(lambda: module.loss_terms(cells))
    torch.manual_seed(7)
    m, _ = masks.draw(None, (3,), False)
    noise = torch.randn(m.shape)
    q_e = module.embeddings.posterior(None, m)
    e = q_e.mean + q_e.stddev * noise
    dense = torch.zeros(len(cells.x), N_PERTURBATIONS)
    dense = dense.scatter_add(1, cells.part, cells.dosage)
    shift = dense @ (m * e)
    x = torch.log1p(cells.x)
    if correlated:
        q_z = module.encoder(x, module.columns(shift))
        z = q_z.rsample()
        z_basal = z - shift
        log_q_z = q_z.log_prob(z)
    else:
        q_z = module.encoder(x)
        z_basal = q_z.rsample((3,))
        z, log_q_z = z_basal + shift, q_z.log_prob(z_basal)
    p_x = module.decoder(z, cells.library, cells.environment)
    bound = p_x.log_prob(cells.x) + (Normal(0, 1).log_prob(z_basal) - log_q_z).sum(-1)
    q_m, p_m = (
        torch.distributions.Bernoulli(logits=t)
        for t in (masks.logit(), torch.logit(torch.tensor(0.1)))
    )
    shared = (Normal(0, 1).log_prob(e) - q_e.log_prob(e)).sum(-1)
    shared = shared + (p_m.log_prob(m) - q_m.log_prob(m)).sum(-1)  # (n_particles, T)
    weight = (dense > 0) / module.n_treated
    bound = bound + (shared[:, None] * weight).sum(-1)
    assert sum(terms.values()).item() == pytest.approx(-bound.mean().item(), rel=1e-5)


@pytest.mark.parametrize("correlated", [True, False])
def test_closed_forms_are_the_expectation_of_the_monte_carlo_terms(correlated):
    cells = random_cells(20)
    modules = [
        random_module(learned_masks(), correlated=correlated, objective=o, n_particles=400)
        for o in ("elbo", "monte_carlo")
    ]
    exact, estimate = ([m.loss_terms(cells) for _ in range(10)] for m in modules)
    for name in exact[0]:
        means = [np.mean([t[name].item() for t in runs]) for runs in (exact, estimate)]
        assert means[0] == pytest.approx(means[1], abs=0.03, rel=0.01)


def test_one_particle_of_the_importance_weighted_objective_is_the_elbo():
    cells = random_cells()
    single = random_module(learned_masks(), objective="monte_carlo")
    weighted = random_module(learned_masks(), objective="iwelbo", n_particles=1)
    elbo = -sum(seeded(lambda: single.loss_terms(cells)).values())
    assert -seeded(lambda: weighted.loss_terms(cells))["iwelbo"].item() == pytest.approx(
        elbo.item(), rel=1e-5
    )
    many = random_module(learned_masks(), objective="iwelbo", n_particles=50)
    assert -np.mean([many.loss_terms(cells)["iwelbo"].item() for _ in range(20)]) > elbo.item()


@pytest.mark.parametrize("correlated", [True, False])
def test_every_parameter_gets_a_gradient(correlated):
    module = random_module(learned_masks(), correlated=correlated).train()
    sum(module.loss_terms(random_cells()).values()).backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_draws_per_cell_have_the_objective_of_draws_per_perturbation():
    """More perturbations than cells: each cell draws its own rows."""
    cells = random_cells(60)
    few = cells._replace(
        **{k: getattr(cells, k)[:1] for k in ("x", "library", "part", "dosage", "environment")}
    )
    module = random_module(learned_masks(), n_particles=4000)
    own = module.loss_terms(few)  # 4 perturbations, 2 parts
    twice = few._each(lambda tensor: tensor.repeat(2, 1))
    shared = module.loss_terms(twice)  # as many parts as perturbations
    for name in own:
        assert own[name].item() == pytest.approx(shared[name].item(), rel=0.02, abs=0.02)


# Invariances


def test_permuted_perturbations_permute_effects_and_nothing_else():
    module, cells = random_module(learned_masks()), random_cells()
    order = torch.tensor([2, 0, 3, 1])
    place = torch.argsort(order)
    other = random_module(learned_masks())
    other.masks.logit.rows.data = module.masks.logit().data[order]
    for mine, theirs in ((other.embeddings.loc, module.embeddings.loc),):
        mine.rows.data = theirs().data[order]
    renamed = cells._replace(part=place[cells.part])
    torch.testing.assert_close(other.effect(), module.effect()[order])
    for name, states in module.posterior(cells).items():
        torch.testing.assert_close(other.posterior(renamed)[name], states)
    z = module.basal_states(len(cells.x))
    torch.testing.assert_close(other.intervene(z, renamed).mean, module.intervene(z, cells).mean)
    shared = module.draw(5)
    permuted = shared._replace(effect=shared.effect[:, order])
    first = seeded(lambda: module.log_weights(cells, 5, shared))
    second = seeded(lambda: other.log_weights(renamed, 5, permuted))
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("correlated", [True, False])
def test_rotating_the_latent_space_changes_no_prediction(correlated):
    masks = CalledMasks(torch.full((N_PERTURBATIONS, N_LATENT), torch.inf))
    module, cells = random_module(masks, correlated=correlated), random_cells()
    before = module.posterior(cells)["z"]
    expected = module.decoder(before, cells.library, cells.environment).mean
    R, centre = torch.linalg.qr(torch.randn(N_LATENT, N_LATENT)).Q, torch.randn(N_LATENT)
    module._go_to(R, R.T, centre)
    after = module.posterior(cells)["z"]
    torch.testing.assert_close(after, (before - centre) @ R, atol=1e-5, rtol=1e-4)
    rotated = module.decoder(after, cells.library, cells.environment).mean
    torch.testing.assert_close(rotated, expected, atol=1e-4, rtol=1e-4)


# Effects of combinations and dosages by least squares


def design_cells(dosage, x):
    part = torch.arange(dosage.shape[1]).expand(len(dosage), -1)
    return Cells(x, x[:, :1], part, dosage, x[:, :0])


def test_least_squares_take_sums_of_effects_apart():
    torch.manual_seed(0)
    effect, reference = torch.randn(5, 3), torch.randn(3)
    dosage = torch.randint(0, 3, (400, 5)) * (torch.rand(400, 5) < 0.4)
    dosage[:40] = 0
    cells = design_cells(dosage.float(), dosage.float() @ effect + reference)
    effects = additive_effects(lambda batch: batch.x, cells, 5)
    np.testing.assert_allclose(effects.difference, effect, atol=1e-3)
    np.testing.assert_allclose(effects.reference, reference, atol=1e-3)
    assert effects.standard_error.max() < 1e-2


def test_without_combinations_least_squares_are_the_means():
    torch.manual_seed(0)
    part = torch.randint(-1, 5, (300, 1))
    x = torch.randn(300, 3)
    cells = Cells(x, x[:, :1], part.clamp(min=0), (part >= 0).float(), x[:, :0])
    padded = cells._replace(
        part=torch.cat([cells.part, (cells.part + 1) % 5], 1),
        dosage=torch.cat([cells.dosage, torch.zeros(300, 1)], 1),
    )
    means, squares = (
        latent_effects(lambda c: c.x, cells, 5),
        additive_effects(lambda c: c.x, padded, 5),
    )
    np.testing.assert_allclose(squares.difference, means.difference, atol=1e-3)
    np.testing.assert_allclose(squares.standard_error, means.standard_error, rtol=1e-3)


def test_what_only_comes_together_has_the_sum_dealt_out_evenly():
    torch.manual_seed(0)
    dosage = torch.zeros(300, 3)
    dosage[100:200, :2], dosage[200:, 2] = 1, 1
    cells = design_cells(
        dosage, dosage @ torch.tensor([[3.0], [1.0], [1.0]]) + torch.randn(300, 1)
    )
    effects = additive_effects(lambda batch: batch.x, cells, 3)
    assert effects.difference[0].item() == pytest.approx(effects.difference[1].item(), abs=1e-6)
    assert effects.difference[:2].sum().item() == pytest.approx(4, abs=0.5)
    assert (effects.standard_error < 0.3).all()


def test_a_pair_that_is_never_taken_apart_is_predicted_all_the_same():
    screen = small_screen(n_combinations=0)
    A = np.where(screen.A == "P3", "P3+Q", screen.A)
    with pytest.warns(DataWarning, match="only co-occur: 'P3\\+Q'"):
        model = CPAVAE(n_latent=2, **FAST).fit(screen.X, A)
    alone = CPAVAE(n_latent=2, **FAST).fit(screen.X, screen.A)
    pair, single = model.predict_intervention("P3+Q"), alone.predict_intervention("P3")
    np.testing.assert_allclose(pair, single, rtol=0.2)


def test_samples_draw_effects_that_predictions_average():
    screen = small_screen()
    model = CPAVAE(n_latent=2, **FAST).fit(screen.X, screen.A)
    module, cells = model.module_, model._designs(["P0"] * 4000, None)
    z = torch.zeros(4000, 2)
    module.embeddings.log_scale.rows.data.fill_(0.0)
    module.embeddings.loc.rows.data.fill_(1.0)
    decoded = []
    module.decoder.forward = lambda z, *others: decoded.append(z)
    module.intervene(z, cells)
    module.intervene(z, cells, sampled=True)
    mean, drawn = decoded
    assert torch.equal(mean, torch.ones(4000, 2))
    assert drawn.mean().item() == pytest.approx(1, abs=0.05)
    assert drawn.std().item() == pytest.approx(1, abs=0.05)


# The conditional VAE


def conditional_module(**settings):
    torch.manual_seed(0)
    return ConditionalModule(
        GaussianEncoder(N_GENES, N_LATENT, dropout=0.0, **SIZES),
        Decoder(N_LATENT, N_GENES, likelihood="negative_binomial", **SIZES),
        InputTransform(N_GENES, log=True),
        N_PERTURBATIONS,
        **{"objective": "elbo", "n_particles": 1} | settings,
    ).eval()


def test_the_conditional_vae_reads_dosages_beside_its_input():
    module, cells = conditional_module(), random_cells()
    dense = torch.zeros(len(cells.x), N_PERTURBATIONS).scatter_add(1, cells.part, cells.dosage)
    z = torch.randn(len(cells.x), N_LATENT)
    linear, norm = module.decoder.hidden.linears[0], module.decoder.hidden.norms[0]
    wide = nn.Linear(N_LATENT + N_PERTURBATIONS, SIZES["n_hidden"])
    wide.weight.data = torch.cat([linear.weight, module.decoder_columns().T], 1)
    wide.bias = linear.bias
    h = torch.relu(norm(wide(torch.cat([z, dense], 1))))
    h = torch.relu(module.decoder.hidden.norms[1](module.decoder.hidden.linears[1](h)))
    expected = module.decoder.head(h, cells.library).mean
    torch.testing.assert_close(module.intervene(z, cells).mean, expected)


def test_the_conditional_objective_is_the_expectation_of_its_weights():
    module, cells = conditional_module(n_particles=500), random_cells()
    elbo = module.log_weights(cells, 4000).mean().item()
    assert -sum(module.loss_terms(cells).values()).item() == pytest.approx(elbo, rel=0.01)
    q_z = module.guide(cells)
    kl = kl_divergence(q_z, Normal(0.0, 1.0)).sum(-1).mean().item()
    assert module.loss_terms(cells)["kl_z"].item() == pytest.approx(kl, rel=1e-5)


@pytest.mark.parametrize("make", [conditional_module, lambda: random_module(learned_masks())])
def test_nothing_is_left_behind_on_another_device(make):
    """The meta device refuses to mix with tensors of the CPU, as a GPU does."""
    module, cells = make().to("meta").train(), random_cells().to(torch.device("meta"))
    tensors = [*module.loss_terms(cells).values(), module.log_weights(cells, 3)]
    tensors += [module.encode(cells.x), *module.posterior(cells).values()]
    z_basal = module.basal_states(cells.n_cells)
    tensors.append(module.log_joint(cells, module.guide(cells).mean[None], module.draw(3)))
    tensors += [z_basal, module.intervene(z_basal, cells).mean, *module.learned().values()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


# Input transforms


def test_standardised_input_has_the_moments_of_numpy_and_bears_constant_genes():
    counts = np.random.default_rng(0).poisson(3.0, (40, 6)).astype(np.float32)
    counts[:, 2] = 0
    transform = InputTransform(6, log=True)
    transform.standardise(torch.from_numpy(counts).split(7))
    values = np.log1p(counts.astype(np.float64))
    scale = values.std(0, ddof=1)
    scale[2] = 1
    expected = (values - values.mean(0)) / scale
    np.testing.assert_allclose(transform(torch.from_numpy(counts)), expected, atol=1e-5)


@pytest.mark.parametrize("kind", [None, "log", "standardize", "log_standardize"])
def test_every_input_transform_trains_on_constant_genes(kind):
    screen = small_screen()
    X = screen.X.copy()
    X[:, :3] = 0
    model = SAMSVAE(n_latent=2, input_transform=kind, **FAST).fit(X, screen.A)
    assert np.isfinite(model.transform(X)).all()
    assert np.isfinite(model.score(X, screen.A))


# Estimators


FAST = {"max_epochs": 4, "n_hidden": 16, "n_layers": 1, "random_state": 0, "n_particles": 5}
ADDITIVE = pytest.mark.parametrize("cls", [SAMSVAE, CPAVAE, ConditionalVAE])


def small_screen(n_combinations=3):
    return make_additive_shift(
        5,
        n_cells_per_perturbation=30,
        n_control_cells=30,
        n_combinations=n_combinations,
        n_latent=2,
        n_genes=40,
        random_state=0,
    )


@pytest.mark.parametrize(
    "model",
    [
        SAMSVAE(n_latent=2, edges="learned", mask_prior=0.9, init="random"),
        CPAVAE(n_latent=2),
        ConditionalVAE(n_latent=2),
    ],
)
def test_designs_that_mean_the_same_are_predicted_the_same(model):
    screen = small_screen()
    model = clone(model).set_params(**FAST).fit(screen.X, screen.A)
    dosage = np.zeros((4, 5))
    dosage[1, 0] = dosage[2, [0, 3]] = 1
    dosage[3, 0] = 0.5
    control, single, double, half = model.predict_intervention(dosage)
    np.testing.assert_array_equal(model.predict_intervention("control")[0], control)
    np.testing.assert_array_equal(model.predict_intervention("P0+P0+control")[0], single)
    np.testing.assert_array_equal(model.predict_intervention("P3+P0")[0], double)
    assert not np.allclose(half, single)
    assert not np.allclose(half, control)
    assert np.isfinite(model.score(screen.X[:4], dosage))


@pytest.mark.parametrize("cls", [SAMSVAE, CPAVAE])
def test_states_are_basal_states_plus_dosages_times_effects(cls):
    screen = small_screen()
    model = cls(n_latent=2, **FAST).fit(screen.X, screen.A)
    posterior = model.posterior(screen.X, screen.A)
    acting = model.module_.masks.most_probable().numpy()
    used = slice(model.n_latent_)
    expected = screen.dosage @ (acting * model.embedding_[:, used])
    shift = posterior.z - posterior.z_basal
    np.testing.assert_allclose(shift[:, used], expected, atol=1e-5)
    assert not shift[:, model.n_latent_ :].any()


@pytest.mark.parametrize("correlated_basal", [True, False])
@pytest.mark.parametrize("mask_prior", [None, 0.1, (1.0, 9.0)])
@pytest.mark.parametrize("correlated_embedding", [False, (8, 8)])
def test_all_inference_variants_train_and_come_back_from_a_file(
    correlated_basal, mask_prior, correlated_embedding, tmp_path
):
    from skpert import load, save

    screen = small_screen()
    model = SAMSVAE(
        n_latent=2,
        edges="called" if mask_prior is None else "learned",
        mask_prior=mask_prior,
        mask_posterior="beta" if isinstance(mask_prior, tuple) else "point",
        correlated_basal=correlated_basal,
        correlated_embedding=correlated_embedding,
        **FAST,
    ).fit(screen.X, screen.A)
    save(model, tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.score(screen.X, screen.A) == model.score(screen.X, screen.A)
    assert again.joint_score(screen.X, screen.A) == model.joint_score(screen.X, screen.A)
    refined = again.refine(screen.X, screen.A)
    np.testing.assert_array_equal(refined.mask_, model.mask_)
    assert set(np.unique(refined.mask_probability_)) <= {0, 1} or mask_prior is None


def test_the_joint_bound_pays_for_effects_and_controls_bear_none():
    screen = small_screen()
    model = CPAVAE(n_latent=2, **FAST).fit(screen.X, screen.A)
    assert model.joint_score(screen.X[:40], screen.A[:40]) < model.score(
        screen.X[:40], screen.A[:40]
    )
    controls = screen.A == "control"
    assert model.joint_score(
        screen.X[controls], screen.A[controls], n_particles=1
    ) == pytest.approx(
        model.score_cells(screen.X[controls], screen.A[controls], n_particles=1).mean(), abs=0.5
    )


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"mask_prior": 0.0}, "mask_prior"),
        ({"mask_prior": 1.0}, "mask_prior"),
        ({"edges": "learned", "mask_prior": (1.0, 0.0)}, "two concentrations of a Beta"),
        ({"edges": "learned", "mask_prior": (1.0,)}, "two concentrations of a Beta"),
        ({"correlated_embedding": (0,)}, "widths of hidden layers"),
        ({"reweight": {"kl": {"mask": 1.0}}}, "one of the keys"),
        ({"reweight": {"kl_scale": {"z": 1.0}}}, "some of the variables"),
        ({"reweight": {"kl_scale": {"mask": -1.0}}}, "numbers of at least 0"),
        ({"reweight": {"kl_scale": {"mask": "a"}}}, "numbers of at least 0"),
        ({"likelihood": "normal", "input_transform": "log"}, "logarithm of counts"),
    ],
)
@pytest.mark.filterwarnings("ignore:X looks like raw counts")
def test_parameters_that_make_no_sense_are_named(parameters, message):
    screen = small_screen()
    with pytest.raises(ValueError, match=message):
        SAMSVAE(n_latent=2, **FAST | parameters).fit(screen.X, screen.A)


@ADDITIVE
def test_a_perturbation_without_a_cell_is_refused(cls):
    screen = small_screen()
    dosage = np.c_[screen.dosage.toarray(), np.zeros(len(screen.X))]
    with pytest.raises(ValueError, match="no cell received: '5'"):
        cls(n_latent=2, **FAST).fit(screen.X, dosage)


@ADDITIVE
def test_adapting_adds_perturbations_and_keeps_the_rest(cls):
    screen = small_screen()
    new = np.isin(screen.A, ["P4"])
    old = ~new & ~np.char.endswith(screen.A.astype(str), "+P4")
    model = cls(n_latent=2, **FAST).fit(screen.X[old], screen.A[old])
    adapted = model.adapt(screen.X[new], screen.A[new])
    assert adapted.perturbations_.tolist() == ["P0", "P1", "P2", "P3", "P4"]
    np.testing.assert_array_equal(
        adapted.predict_intervention(["P0", "control"]),
        model.predict_intervention(["P0", "control"]),
    )
    np.testing.assert_array_equal(adapted.transform(screen.X), model.transform(screen.X))
    assert np.isfinite(adapted.score(screen.X[new], screen.A[new]))


def test_states_are_read_under_the_perturbations_that_cells_may_have():
    screen = make_additive_shift(
        9, n_cells_per_perturbation=60, n_control_cells=60, n_latent=2, n_genes=60, random_state=0
    )
    model = SAMSVAE(n_latent=2, max_epochs=60, random_state=0).fit(screen.X, screen.A)
    given, as_untreated = model.posterior(screen.X, screen.A).z, model.posterior(screen.X).z
    error = [np.square(Z - given).mean() for Z in (model.transform(screen.X), as_untreated)]
    assert error[0] < 0.5 * error[1]
    control = screen.X[screen.A == "control"]
    with model._inference():
        states = model.module_.encode_untreated(torch.from_numpy(control)).numpy()
    as_untreated = model.posterior(control).z[:, : model.n_latent_]
    np.testing.assert_allclose(states, as_untreated, rtol=1e-5, atol=1e-6)


def test_networks_that_learn_of_adapted_perturbations_read_states_under_them():
    screen = small_screen()
    old = ~np.char.endswith(screen.A.astype(str), "P4")
    model = SAMSVAE(n_latent=2, **FAST).fit(screen.X[old], screen.A[old])
    adapted = model.adapt(screen.X[screen.A == "P4"], screen.A[screen.A == "P4"])
    assert adapted.module_.n_known == 4
    assert adapted.module_.refined().n_known == 5


def test_adapting_finds_a_strong_new_effect():
    screen = make_additive_shift(
        8,
        n_cells_per_perturbation=80,
        n_control_cells=80,
        n_latent=2,
        n_genes=50,
        n_targets=1,
        random_state=1,
    )
    new = screen.A == "P7"
    model = SAMSVAE(n_latent=2, max_epochs=60, random_state=0).fit(screen.X[~new], screen.A[~new])
    adapted = model.adapt(screen.X[new], screen.A[new])
    whole = model.adapt(screen.X[new], screen.A[new]).predict_intervention("P7")[0]
    control = adapted.predict_intervention("control")[0]
    truth = screen.expected(["P7", "control"])
    effect = whole - control, truth[0] - truth[1]
    assert np.corrcoef(*effect)[0, 1] > 0.9
    assert adapted.mask_[-1].any()


@pytest.mark.slow
def test_recovery_of_latents_targets_and_unseen_combinations():
    screen = make_additive_shift(
        30,
        n_cells_per_perturbation=100,
        n_control_cells=200,
        n_combinations=12,
        n_latent=4,
        n_genes=60,
        n_targets=(1, 2),
        library_size=2e4,
        random_state=0,
    )
    held_out = screen.combinations[:4]
    seen = ~np.isin(screen.A, held_out)
    X, A = screen.X[seen], screen.A[seen]
    model = SAMSVAE(n_latent=4, max_epochs=60, random_state=0).fit(X, A)
    Z = model.transform(X)
    assert mean_correlation_coefficient(screen.Z[seen], Z) > 0.93
    match = match_latents(screen.Z[seen], Z)
    assert graph_scores(screen.mask, model.mask_, match=match).f1 > 0.95
    size = float(screen.library_size.mean())
    predicted = model.predict_intervention(["control", *held_out], library_size=size)
    truth = screen.expected(["control", *held_out])
    effects = predicted[1:] - predicted[0], truth[1:] - truth[0]
    assert np.corrcoef(*(effect.ravel() for effect in effects))[0, 1] > 0.95
