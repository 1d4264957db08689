"""Pieces of SCCVAE: algebra of the graph, shifts, the kernel, blocks of cells."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import leaky_relu

from skpert._data import Cells, blocks
from skpert.models.sccvae import (
    BLOCK_SIZE,
    FreeShifts,
    Independence,
    ShiftNetwork,
    StructuralModel,
    block_mmd,
    causal_order,
    similarity_weights,
)

N_LATENT, N_PERTURBATIONS = 3, 4
SIZES = {"n_hidden": 16, "n_layers": 2}
BANDWIDTHS = 31.25 * 2.0 ** np.arange(10)


# The structural causal model


def structural(graph, weight):
    model = StructuralModel(torch.as_tensor(graph)).double()
    model.weight.data = torch.as_tensor(weight, dtype=torch.float64)
    return model


def random_dag(n=6, seed=0):
    """Graph without cycles, in an order in which edges point both ways, and weights."""
    random = np.random.default_rng(seed)
    order = random.permutation(n)
    graph = np.triu(random.random((n, n)) < 0.6, 1)[order][:, order]
    return graph, random.normal(size=(n, n))


def test_states_of_a_known_graph_have_their_known_values():
    """Row vectors: the third module hears of the others, not the other way round."""
    weight = [[0, 0.5, -0.3], [0, 0, 0.8], [0, 0, 0]]
    model = structural(np.triu(np.ones((3, 3)), 1), weight)
    z, S = (torch.tensor(v, dtype=torch.float64) for v in ([[1, 2, -1]], [[0.2, 0.5, 0.3]]))
    np.testing.assert_allclose(model(z + 2 * S).detach(), [[1.4, 3.7, 2.14]], atol=1e-12)
    np.testing.assert_allclose(model(z).detach(), [[1, 2.5, 0.7]], atol=1e-12)
    every = model(torch.eye(3, dtype=torch.float64)).detach()
    np.testing.assert_allclose(every, [[1, 0.5, 0.1], [0, 1, 0.8], [0, 0, 1]], atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_any_acyclic_graph_is_solved_as_by_its_inverse(seed):
    graph, weight = random_dag(seed=seed)
    model = structural(graph, weight)
    assert model.acyclic
    v = torch.randn(2, 5, 6, dtype=torch.float64)
    inverse = np.linalg.inv(np.eye(6) - weight * graph)
    np.testing.assert_allclose(model(v).detach(), v.numpy() @ inverse, atol=1e-9)


def test_relabelled_modules_have_relabelled_states():
    graph, weight = random_dag()
    order = np.array([3, 0, 5, 1, 4, 2])
    first = structural(graph, weight)
    second = structural(graph[order][:, order], weight[order][:, order])
    v = torch.randn(5, 6, dtype=torch.float64)
    torch.testing.assert_close(second(v[:, order]), first(v)[:, order])


def test_causal_order_has_causes_first_and_finds_cycles():
    graph, _ = random_dag()
    order = causal_order(torch.from_numpy(graph)).numpy()
    assert sorted(order) == list(range(6))
    assert not np.tril(graph[order][:, order]).any()
    assert causal_order(torch.tensor([[0, 1, 0], [0, 0, 1], [1, 0, 0]])) is None
    assert causal_order(torch.ones(1, 1)) is None
    assert len(causal_order(torch.zeros(0, 0))) == 0


@pytest.mark.parametrize("scale", [0.01, 1.0, 1e6])
def test_cycles_stay_invertible_whatever_the_weights(scale):
    graph = 1 - np.eye(5)
    weight = scale * np.random.default_rng(0).normal(size=(5, 5))
    model = structural(graph, weight)
    assert not model.acyclic
    B = model.weights().detach().numpy()
    assert np.abs(np.linalg.eigvals(B)).max() < 0.91
    assert np.abs(B).sum(1).max() < 0.91
    if scale == 0.01:
        np.testing.assert_array_equal(B, weight * graph)
    v = torch.randn(2, 4, 5, dtype=torch.float64)
    expected = v.numpy() @ np.linalg.inv(np.eye(5) - B)
    np.testing.assert_allclose(model(v).detach(), expected, atol=1e-9)


@pytest.mark.parametrize("cyclic", [False, True])
def test_weights_without_an_edge_have_no_influence_and_no_gradient(cyclic):
    graph, weight = random_dag()
    if cyclic:
        graph = graph | graph.T
        graph[0, 3] = False
    v = torch.randn(5, 6, dtype=torch.float64)
    model = structural(graph, weight)
    u = model(v)
    u.square().sum().backward()
    gradient = model.weight.grad.numpy()
    assert (gradient[~graph] == 0).all()
    assert (gradient[graph] != 0).all()
    other = structural(graph, np.where(graph, weight, 1e30))
    torch.testing.assert_close(other(v), u, rtol=0, atol=0)


def test_without_a_graph_there_are_no_weights():
    v = torch.randn(3, 4)
    assert Independence()(v) is v
    assert Independence().weights() is None
    assert not list(Independence().parameters())


# Shifts


def make_shifts(kind):
    torch.manual_seed(3)
    features = torch.randn(N_PERTURBATIONS, 5)
    if kind == "kernel":
        return FreeShifts(len(features), N_LATENT)
    return ShiftNetwork(features, N_LATENT, **SIZES)


@pytest.mark.parametrize("kind", ["kernel", "network"])
def test_shifts_are_on_the_simplex_and_added_ones_keep_the_others(kind):
    shifts = make_shifts(kind)
    before = shifts().detach()
    new = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.1, 0.9]])
    shifts.extend(new[:1])
    shifts.extend(new[1:])
    after = shifts().detach()
    assert torch.equal(after[:N_PERTURBATIONS], before)
    np.testing.assert_allclose(after[N_PERTURBATIONS:], new, atol=1e-6)
    assert (after >= 0).all()
    np.testing.assert_allclose(after.sum(1), 1, atol=1e-6)


def test_the_shift_network_is_the_published_one():
    shifts = make_shifts("network")
    first, _, second, _, last = shifts.network
    h = leaky_relu(shifts.features @ first.weight.T + first.bias, 0.2)
    h = leaky_relu(h @ second.weight.T + second.bias, 0.2)
    expected = torch.softmax(h @ last.weight.T + last.bias, 1)
    torch.testing.assert_close(shifts(), expected)


def test_weights_of_similar_perturbations_are_those_of_the_ridge_regression():
    random = np.random.default_rng(0)
    known, new = random.normal(size=(4, 7)), random.normal(size=(50, 7))
    weights = similarity_weights(known, new)
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(1), 1)
    first, second = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (known, new))
    ridge = second @ first.T @ np.linalg.inv(first @ first.T + 0.1 * np.eye(4))
    ridge += (1 - ridge.sum(1, keepdims=True)) / 4
    positive = (ridge > 0).all(1)
    assert 0 < positive.sum() < 50
    np.testing.assert_allclose(weights[positive], ridge[positive])
    scaled = similarity_weights(3 * known, 0.1 * new)
    np.testing.assert_allclose(scaled, weights, atol=1e-12)


def test_a_likeness_gets_most_of_the_weight_and_what_is_like_nothing_gets_all_alike():
    known = np.eye(5)
    weights = similarity_weights(known, np.vstack([known, np.zeros(5)]))
    assert weights[:5].argmax(1).tolist() == [0, 1, 2, 3, 4]
    assert (weights[:5].max(1) > 0.9).all()
    np.testing.assert_allclose(weights[5], 0.2)
    order = [3, 1, 4, 0, 2]
    np.testing.assert_allclose(similarity_weights(known[order], known), weights[:5][:, order])


# Maximum mean discrepancy


def naive_mmd(X, Y):
    def kernel(a, b):
        d2 = ((a[:, None] - b[None]) ** 2).sum(-1)
        return np.exp(-d2[..., None] / BANDWIDTHS).sum(-1).mean()

    return kernel(X, X) + kernel(Y, Y) - 2 * kernel(X, Y)


def test_mmd_of_known_sets_has_its_known_value():
    X = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1], [2, 1]], dtype=torch.float64)
    Y = torch.tensor([[1, 1], [2, 2], [1, 3], [0, 2], [3, 1]], dtype=torch.float64)
    assert block_mmd(X[None], Y[None]).item() == pytest.approx(0.2110424419, abs=1e-9)
    assert block_mmd(X[None], X[None]).item() == pytest.approx(0, abs=1e-12)


def test_mmd_of_each_block_is_that_of_the_block_alone():
    random = np.random.default_rng(0)
    X, Y = random.normal(size=(3, 8, 5)), 2 + 10 * random.normal(size=(3, 8, 5))
    expected = [naive_mmd(x, y) for x, y in zip(X, Y, strict=True)]
    mmd = block_mmd(*(torch.from_numpy(cells) for cells in (X, Y)))
    np.testing.assert_allclose(mmd, expected, rtol=1e-9)
    np.testing.assert_allclose(block_mmd(torch.from_numpy(Y), torch.from_numpy(X)), mmd)
    shuffled = torch.from_numpy(X)[:, torch.randperm(8)]
    np.testing.assert_allclose(block_mmd(shuffled, torch.from_numpy(Y)), mmd)


# Blocks of cells


def screen_of(designs):
    """Cells of these lists of (part, dosage), of which the first gene is the cell's number."""
    x = torch.arange(float(len(designs)))[:, None]
    width = max(len(design) for design in designs) or 1
    padded = [[*design, *[(0, 0.0)] * (width - len(design))] for design in designs]
    part = torch.tensor([[p for p, _ in design] for design in padded])
    dosage = torch.tensor([[d for _, d in design] for design in padded])
    return Cells(x, x, part, dosage, x[:, :0])


def mixed_screen():
    """Controls, singles, another dosage, and combinations in either order of their parts."""
    designs = [[]] * 50 + [[(0, 1.0)]] * 33 + [[(1, 1.0)]] * 5 + [[(1, 0.5)]] * 40
    designs += [[(0, 1.0), (1, 1.0)]] * 64 + [[(0, 1.0), (2, 1.0)]]
    order = np.random.default_rng(0).permutation(len(designs))
    return screen_of([designs[i] for i in order]), [str(designs[i]) for i in order]


@pytest.mark.parametrize("batch_size", [2, 32, 100, 10_000])
def test_every_cell_is_in_a_block_of_its_own_design(batch_size):
    torch.manual_seed(0)
    cells, design = mixed_screen()
    batches = [batch.x[:, 0].long() for batch in blocks(cells, BLOCK_SIZE)(batch_size)]
    assert all(len(batch) <= max(batch_size, BLOCK_SIZE) for batch in batches)
    in_blocks = torch.cat(batches).view(-1, BLOCK_SIZE)
    assert set(in_blocks.flatten().tolist()) == set(range(cells.n_cells))
    for block in in_blocks:
        assert len({design[i] for i in block}) == 1
    counts = torch.bincount(in_blocks.flatten())
    for name in set(design):
        n = design.count(name)
        of_name = [c for c, d in zip(counts.tolist(), design, strict=True) if d == name]
        assert sum(of_name) == math.ceil(n / BLOCK_SIZE) * BLOCK_SIZE
        if n >= BLOCK_SIZE:
            assert max(of_name) < 10  # none fills a block on its own


def test_every_pass_has_another_order_that_the_seed_repeats():
    cells, _ = mixed_screen()
    minibatches = blocks(cells, BLOCK_SIZE)

    def passed(seed=None):
        if seed is not None:
            torch.manual_seed(seed)
        return torch.cat([batch.x[:, 0] for batch in minibatches(64)]).tolist()

    first, second = passed(0), passed()
    assert first != second
    assert passed(0) == first


def test_designs_that_differ_in_unused_parts_are_the_same():
    """A part of dosage zero is no part, whatever its number."""
    cells = screen_of([[(0, 1.0), (1, 0.0)], [(0, 1.0), (2, 0.0)]])
    cells = cells._replace(part=torch.tensor([[0, 1], [0, 2]]))
    (block,) = blocks(cells, BLOCK_SIZE)(BLOCK_SIZE)
    assert set(block.x[:, 0].tolist()) == {0, 1}
