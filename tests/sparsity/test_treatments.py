"""States of cells whose perturbations are not known."""

import numpy as np
import torch
from scipy.special import softmax
from scipy.stats import norm
from torch.distributions import Normal

from skpert._data import Cells
from skpert.sparsity.treatments import SECOND, expected_shift, n_treated_cells, state_of_unknown

NOISE = 0.5  # variance of x around z


def exact_reading(x):
    """Posterior of z under x ~ N(z, NOISE) and the prior N(shift, 1), for any shift."""
    variance = NOISE / (1 + NOISE)
    return lambda shift: Normal(variance * (x / NOISE + shift), torch.full_like(x, variance**0.5))


def shift_by_hand(x, effects):
    """Posterior mean of the shift in one dimension: a first one, or none, and perhaps a second."""
    shifts, scale = np.concatenate([np.zeros((1, 1)), effects]), np.sqrt(1 + NOISE)
    share = np.full(len(shifts), SECOND / len(shifts))
    share[0] = 1 - SECOND
    one = shifts[norm.logpdf(x, shifts.T, scale).argmax(1)]
    for _ in range(2):
        log_density = np.log(share) + norm.logpdf(x - one, shifts.T, scale)
        other = softmax(log_density, axis=1) @ shifts
        one = softmax(norm.logpdf(x - other, shifts.T, scale), axis=1) @ shifts
    return one + other


def test_shift_of_a_normal_model_is_that_of_bayes_rule():
    x = torch.linspace(-6, 12, 9, dtype=torch.float64)[:, None]
    effects = torch.tensor([[5.0], [-3.0]], dtype=torch.float64)
    read = exact_reading(x)
    expected = shift_by_hand(x.numpy(), effects.numpy())
    for known in (torch.zeros(1, 1), torch.full((9, 1), 2.0)):  # which makes no difference
        found = expected_shift(read(known.double()), known.double(), effects)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_state_of_a_cell_far_out_is_read_under_its_perturbation_and_not_as_untreated():
    x, effects = torch.tensor([[5.2], [0.1]]), torch.tensor([[5.0], [-4.0]])
    state = state_of_unknown(exact_reading(x), effects, torch.tensor(2))
    as_untreated = exact_reading(x)(torch.zeros(1, 1)).mean
    exact = (5.2 + NOISE * 5) / (1 + NOISE), 0.1 / (1 + NOISE)
    np.testing.assert_allclose(state[:, 0], exact, atol=0.06)
    assert abs(as_untreated[0, 0] - exact[0]) > 1


def test_two_effects_are_found_where_a_cell_has_both():
    effects = 5 * torch.eye(3)
    x = torch.tensor([[5.0, 5.0, 0.0]])
    np.testing.assert_allclose(
        expected_shift(exact_reading(x)(torch.zeros(1, 3)), torch.zeros(1, 3), effects),
        x,
        atol=0.05,
    )


def test_where_expression_tells_nothing_the_shift_is_the_mean_of_all():
    effects = torch.tensor([[3.0], [6.0]])
    q = Normal(torch.zeros(2, 1), torch.ones(2, 1))
    found = expected_shift(q, torch.zeros(1, 1), effects)
    np.testing.assert_allclose(found, 3 + SECOND * 3, rtol=1e-2)


def test_without_perturbations_cells_are_untreated():
    x = torch.tensor([[2.0], [-1.0]])
    state = state_of_unknown(exact_reading(x), torch.ones(3, 1), torch.tensor(0))
    np.testing.assert_allclose(state, x / (1 + NOISE), rtol=1e-6)


def test_numbers_of_treated_cells_count_no_dosage_of_zero():
    part, dosage = torch.tensor([[0, 2], [0, 1], [1, 0]]), torch.tensor([[1, 0.5], [2, 0], [0, 0]])
    nothing = torch.zeros(3, 0)
    cells = Cells(nothing, nothing, part, dosage, nothing)
    assert n_treated_cells(cells, 3).tolist() == [2, 0, 1]
