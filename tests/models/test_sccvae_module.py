"""The module of SCCVAE: objectives in plain torch, what data can decide, exact evidence."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal

from skpert._data import Cells
from skpert.models.sccvae import (
    BLOCK_SIZE,
    RESPONSE_WEIGHT,
    Blocks,
    CausalModule,
    FreeShifts,
    Independence,
    ShiftNetwork,
    StructuralModel,
)
from skpert.nn import Decoder, GaussianEncoder
from skpert.objectives import iwelbo

N_GENES, N_LATENT, N_PERTURBATIONS = 12, 3, 4
SIZES = {"n_hidden": 16, "n_layers": 2}
BANDWIDTHS = 31.25 * 2.0 ** np.arange(10)


# Objectives, written out


def naive_mmd(X, Y):
    def kernel(a, b):
        d2 = ((a[:, None] - b[None]) ** 2).sum(-1)
        return np.exp(-d2[..., None] / BANDWIDTHS).sum(-1).mean()

    return kernel(X, X) + kernel(Y, Y) - 2 * kernel(X, Y)


def make_shifts(kind):
    torch.manual_seed(3)
    features = torch.randn(N_PERTURBATIONS, 5)
    if kind == "kernel":
        return FreeShifts(len(features), N_LATENT)
    return ShiftNetwork(features, N_LATENT, **SIZES)


def random_module(
    objective="matched", *, likelihood="normal", kind="kernel", structure=None, n_environments=0
):
    torch.manual_seed(0)
    graph = torch.triu(torch.ones(N_LATENT, N_LATENT), 1)
    module = CausalModule(
        GaussianEncoder(N_GENES, N_LATENT, dropout=0.0, **SIZES),
        Decoder(N_LATENT, N_GENES, likelihood=likelihood, n_environments=n_environments, **SIZES),
        StructuralModel(graph) if structure is None else structure,
        make_shifts(kind),
        N_PERTURBATIONS,
        N_GENES,
        objective=objective,
        mmd_weight=10.0,
        library=40.0,
    )
    module.penetrance.rows.data = torch.tensor([[0.5], [1.0], [-2.0], [3.0]])
    return module.eval()


def random_cells(labels, n_environments=0):
    """Counts of cells with these labels, -1 a control."""
    torch.manual_seed(1)
    part = torch.as_tensor(labels)[:, None]
    x = torch.poisson(6 * torch.rand(len(part), N_GENES))
    environment = torch.rand(len(part), n_environments)
    return Cells(x, x.sum(1, keepdim=True), part.clamp(min=0), (part >= 0).float(), environment)


def minibatch(**settings):
    """Blocks of a perturbation, of control cells, and of another perturbation."""
    labels = np.repeat([2, -1, 0], BLOCK_SIZE)
    return random_cells(labels, **settings), random_cells(np.full(70, -1), **settings)


def in_training(module):
    """Module in training, whose normalisations have the moments that they keep."""
    module.train()
    module.encoder.eval()
    module.decoder.eval()
    return module


def kl(q, mean=0.0):
    """Of each cell and module."""
    return 0.5 * (q.variance + (q.mean - mean) ** 2 - 1) - q.stddev.log()


def paired_controls(controls):
    return controls.take(torch.randint(controls.n_cells, (BLOCK_SIZE,)))


def in_blocks(x):
    return x.detach().double().reshape(-1, BLOCK_SIZE, N_GENES).numpy()


def expected_levels(module, v, environment):
    """Expected expression; of counts the logarithm at the library size of the module, 40."""
    mean = module.decoder(module.structure(v), torch.full((len(v), 1), 40.0), environment).mean
    return torch.log1p(mean) if module.decoder.head.counts else mean


def measured_levels(module, cells):
    if not module.decoder.head.counts:
        return cells.x
    return torch.log1p(40 * cells.x / cells.x.sum(1, keepdim=True))


SETTINGS = pytest.mark.parametrize(
    "settings",
    [
        {},
        {"kind": "network"},
        {"likelihood": "negative_binomial"},
        {"n_environments": 2},
        {"n_environments": 2, "likelihood": "negative_binomial"},
    ],
)


def terms_and_samples(objective, settings):
    """Terms of the objective, its cells and controls, and what is drawn on the way."""
    cells, controls = minibatch(n_environments=settings.get("n_environments", 0))
    module, controls = in_training(random_module(objective, **settings)), paired_controls(controls)
    torch.manual_seed(7)
    minibatch_ = Blocks(cells, controls)
    terms = {name: term.item() for name, term in module.loss_terms(minibatch_, 0.3).items()}
    torch.manual_seed(7)
    return module, cells, controls, terms


@SETTINGS
def test_the_published_objective_is_its_formula(settings):
    module, cells, controls, terms = terms_and_samples("published", settings)
    q = module.encoder(module.decoder.features(controls.x))
    z = q.rsample()
    cS = [
        module.penetrance()[2] * module.shifts()[2],
        0,
        module.penetrance()[0] * module.shifts()[0],
    ]
    changed = torch.cat([z + shift for shift in cS])
    y_hat = expected_levels(module, changed, cells.environment)
    first, second = in_blocks(y_hat), in_blocks(measured_levels(module, cells))
    expected = {
        "reconstruction": 0.25 * error(module, z, controls),
        "response": error(module, changed, cells),
        "kl_z": 0.3 * kl(q).mean().item(),
        "mmd": 10 * np.mean(list(map(naive_mmd, first, second))),
    }
    assert terms == pytest.approx(expected, rel=1e-3)


def error(module, v, cells):
    """Mean over cells and genes of squared errors; of counts, of negative log-probabilities."""
    p_x = module.decoder(module.structure(v), cells.library, cells.environment)
    if module.decoder.head.counts:
        return -p_x.log_prob(cells.x).mean().item() / N_GENES
    return (p_x.mean - cells.x).square().mean().item()


@SETTINGS
def test_the_matched_objective_is_its_formula(settings):
    module, cells, controls, terms = terms_and_samples("matched", settings)
    q = module.encoder(module.decoder.features(torch.cat([cells.x, controls.x])))
    v, n, cS = q.rsample(), cells.n_cells, module.shift(cells)
    p_x = module.decoder(module.structure(v[:n]), cells.library, cells.environment)
    noise = measured_levels(module, controls) - expected_levels(
        module, v[n:], controls.environment
    )
    after = expected_levels(module, v[n:].repeat(3, 1) + cS, cells.environment)
    first = in_blocks(noise.repeat(3, 1) + after)
    second = in_blocks(measured_levels(module, cells))
    expected = {
        "reconstruction": -p_x.log_prob(cells.x).mean().item(),
        "kl_z": 0.3 * kl(Normal(q.mean[:n], q.stddev[:n]), cS).sum(1).mean().item(),
        "response": RESPONSE_WEIGHT * ((first.mean(1) - second.mean(1)) ** 2).sum(1).mean(),
        "mmd": 10 * np.mean(list(map(naive_mmd, first, second))),
    }
    assert terms == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("objective", ["matched", "published"])
@pytest.mark.parametrize("likelihood", ["negative_binomial", "normal"])
def test_counterfactuals_of_no_effect_are_what_they_were(objective, likelihood):
    """All cells are controls, and the same ones: the matched objective has no gap to close."""
    cells = random_cells(np.full(BLOCK_SIZE, -1))
    one = cells.take(torch.zeros(BLOCK_SIZE, dtype=torch.long))
    module = in_training(random_module(objective, likelihood=likelihood))
    terms = module.loss_terms(Blocks(one, one))
    gap = terms["response"].item(), terms["mmd"].item()
    if objective == "matched":
        assert gap == pytest.approx((0, 0), abs=1e-6)
    else:
        assert min(gap) > 0.01


@pytest.mark.parametrize("objective", ["matched", "published"])
@pytest.mark.parametrize("kind", ["kernel", "network"])
def test_every_parameter_gets_a_gradient_and_is_trained(objective, kind):
    cells, controls = minibatch()
    cells = cells._replace(part=cells.part.clone())
    cells.part[BLOCK_SIZE : 2 * BLOCK_SIZE] = 1
    cells.dosage[BLOCK_SIZE : 2 * BLOCK_SIZE] = 1.0
    module = random_module(objective, kind=kind).train()
    sum(module.loss_terms(Blocks(cells, paired_controls(controls))).values()).backward()
    unused = {"decoder.head.log_scale", "shifts.added.rows"}
    if objective == "matched":
        unused = {"shifts.added.rows"}
    for name, parameter in module.named_parameters():
        moved = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        assert moved == (name not in unused), name
    trained = [p for group in module.parameter_groups() for p in group["params"]]
    assert {id(p) for p in trained} == {id(p) for p in module.parameters()}
    assert len(trained) == len({id(p) for p in trained})


# What data can decide


def without_graph(module):
    """Module of independent modules whose decoder does what the graph did."""
    other = copy.deepcopy(module)
    B = (
        torch.zeros(N_LATENT, N_LATENT)
        if module.structure.weights() is None
        else (module.structure.weights().detach())
    )
    inverse = torch.linalg.inv(torch.eye(N_LATENT) - B)
    weight = other.decoder.hidden.linears[0].weight
    weight.data[:, :N_LATENT] = weight.data[:, :N_LATENT] @ inverse.T
    other.structure = Independence()
    return other


@pytest.mark.parametrize("objective", ["matched", "published"])
@pytest.mark.parametrize("likelihood", ["negative_binomial", "normal"])
def test_no_data_tell_a_graph_from_a_decoder(objective, likelihood):
    """Objective, evidence and predictions are the same, and so is every choice between them."""
    module = random_module(objective, likelihood=likelihood, n_environments=2)
    module.structure.weight.data = torch.randn(N_LATENT, N_LATENT)
    other = without_graph(module)
    cells, controls = minibatch(n_environments=2)
    values = []
    for m in (module, other):
        torch.manual_seed(5)
        u = m.basal_states(cells.n_cells)
        values.append([m.log_weights(cells, 3), m.intervene(u, cells).mean])
        blocks = Blocks(cells, paired_controls(controls))
        values[-1] += m.train().loss_terms(blocks).values()
    for first, second in zip(*values, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)


# Exact evidence of a linear model


class LinearEncoder(nn.Module):
    """Gaussian with a linear mean."""

    n_latent = 2

    def __init__(self, weight, bias, scale):
        super().__init__()
        self.weight, self.bias, self.scale = weight, bias, scale

    def forward(self, x):
        return Normal(x @ self.weight.T + self.bias, self.scale)


class LinearDecoder(nn.Module):
    """x ~ N(W u + b, NOISE)."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def features(self, x):
        return x

    def forward(self, u, library, environment):
        return Independent(Normal(u @ self.weight.T + BIAS, math.sqrt(NOISE)), 1)


NOISE = 0.5  # variance
BIAS = torch.tensor([0.1, 0.0, -0.2], dtype=torch.float64)
LOADINGS = torch.tensor([[1.0, 0.5], [-0.5, 1.0], [0.0, 0.0]], dtype=torch.float64)  # of z
EDGE = torch.tensor([[0.0, 0.7], [0.0, 0.0]], dtype=torch.float64)


def linear_module(scale=1.0, shift=(0.0, 0.0)):
    """Module whose guide is the posterior given ``shift``, if its scale is not changed."""
    structure = StructuralModel(EDGE != 0).double()
    structure.weight.data = EDGE
    inverse = torch.linalg.inv(torch.eye(2, dtype=torch.float64) - EDGE)
    decoder = LinearDecoder(LOADINGS @ torch.linalg.inv(inverse).T)
    precision = torch.eye(2, dtype=torch.float64) + LOADINGS.T @ LOADINGS / NOISE  # diagonal
    covariance = torch.linalg.inv(precision)
    gain = covariance @ LOADINGS.T / NOISE
    bias = covariance @ torch.as_tensor(shift, dtype=torch.float64) - gain @ BIAS
    encoder = LinearEncoder(gain, bias, covariance.diagonal().sqrt() * scale)
    shifts = FreeShifts(2, 2)
    shifts.logits.rows.data = torch.tensor([[0.3, 0.7], [0.9, 0.1]]).log()
    settings = {"objective": "matched", "mmd_weight": 10.0, "library": 1.0}
    module = CausalModule(encoder, decoder, structure, shifts, 2, 3, **settings).double()
    module.penetrance.rows.data = torch.tensor([[2.0], [-1.5]], dtype=torch.float64)
    return module.eval()


def linear_cells(labels):
    part = torch.tensor(labels)[:, None]
    x = torch.randn(len(labels), 3, dtype=torch.float64)
    return Cells(x, x[:, :1], part.clamp(min=0), (part >= 0).double(), x[:, :0])


def evidence(cells):
    shifts = torch.tensor([[0.6, 1.4], [-1.35, -0.15], [0, 0]], dtype=torch.float64)
    shift = shifts[torch.where(cells.dosage > 0, cells.part, 2)[:, 0]]
    covariance = LOADINGS @ LOADINGS.T + NOISE * torch.eye(3, dtype=torch.float64)
    return MultivariateNormal(shift @ LOADINGS.T + BIAS, covariance).log_prob(cells.x)


@pytest.mark.parametrize(
    ("label", "shift"), [(-1, (0.0, 0.0)), (0, (0.6, 1.4)), (1, (-1.35, -0.15))]
)
def test_log_weights_are_the_evidence_when_the_guide_is_exact(label, shift):
    torch.manual_seed(0)
    cells = linear_cells([label] * 20)
    weights = linear_module(shift=shift).log_weights(cells, 7).detach()
    np.testing.assert_allclose(weights, evidence(cells).expand(7, -1), atol=1e-6)


def test_iwelbo_rises_from_the_elbo_to_the_exact_evidence():
    torch.manual_seed(0)
    module, cells = linear_module(scale=1.4), linear_cells([-1, 0, 1, 1] * 100)
    exact = evidence(cells).mean().item()
    with torch.no_grad():
        elbo = np.mean([-sum(module.loss_terms(cells).values()).item() for _ in range(200)])
        one = module.log_weights(cells, 200).mean().item()
        bounds = {k: iwelbo(module.log_weights(cells, k)).mean().item() for k in (10, 2000)}
    assert one == pytest.approx(elbo, abs=0.02)
    assert elbo < bounds[10] < bounds[2000]
    assert bounds[2000] == pytest.approx(exact, abs=0.02)


# Devices


@pytest.mark.parametrize("objective", ["matched", "published"])
@pytest.mark.parametrize("kind", ["kernel", "network"])
@pytest.mark.parametrize("cyclic", [True, False])
def test_nothing_is_left_behind_on_another_device(objective, kind, cyclic):
    """The meta device refuses to mix with tensors of the CPU, as a GPU does."""
    graph = torch.ones(N_LATENT, N_LATENT) - torch.eye(N_LATENT)
    structure = StructuralModel(graph if cyclic else graph.triu())
    module = random_module(objective, kind=kind, structure=structure)
    module = module.reached(module.shifts()[:1].detach(), torch.ones(1)).to("meta")
    cells, controls = (c.to(torch.device("meta")) for c in minibatch())
    z_basal = module.basal_states(cells.n_cells)
    tensors = [z_basal, module.intervene(z_basal, cells).mean, *module.learned().values()]
    tensors += [module.encode(cells.x), *module.posterior(cells).values()]
    tensors += [module.log_weights(cells, 3), *module.loss_terms(cells).values()]
    tensors.append(module.errors(cells.x[0], module.shifts(), z_basal[:3, 0]))
    blocks = Blocks(cells, controls.take(torch.arange(BLOCK_SIZE, device="meta")))
    tensors += module.train().loss_terms(blocks).values()
    tensors += module.state_dict().values()
    assert {tensor.device.type for tensor in tensors} == {"meta"}
