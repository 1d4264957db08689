"""Whether environments mix: told apart from labels, and what is chosen and warned of by it."""

import numpy as np
import pytest
import torch

from skpert._data import Cells
from skpert._mixing import Labelled, excess, spaced

LABEL = np.repeat([0, 1, 2], 200)
ENVIRONMENT = np.tile([0, 1], 300)


def latents(apart=0.0, seed=0):
    """One latent of labels, one of environments, this many standard deviations apart."""
    means = np.column_stack([5 * LABEL, apart * ENVIRONMENT])
    return means + np.random.default_rng(seed).normal(size=means.shape)


def test_environments_that_mix_have_no_excess_and_those_apart_have_all():
    small, few = excess(latents(), LABEL, ENVIRONMENT)
    assert abs(small) < 0.05
    assert abs(few) < 4
    large, many = excess(latents(50), LABEL, ENVIRONMENT)
    assert large == pytest.approx(1)
    assert many > 20


def test_labels_that_differ_between_environments_are_no_excess():
    random = np.random.default_rng(0)
    unbalanced = (random.random(600) < np.array([0.9, 0.5, 0.1])[LABEL]).astype(int)
    found, deviations = excess(latents(), LABEL, unbalanced)
    assert abs(found) < 0.05
    assert abs(deviations) < 4


def labelled(z):
    biology, environment = (np.eye(n)[of] for n, of in ((3, LABEL), (2, ENVIRONMENT)))
    return Labelled.of(*(torch.from_numpy(values) for values in (z, biology, environment)))


def test_an_environment_among_the_first_latents_is_found():
    z = latents(4)
    assert labelled(z).unmixed(2)
    assert not labelled(z).unmixed(1)
    assert not labelled(latents()).unmixed(2)
    noise = np.random.default_rng(1).normal(size=(600, 1))
    both = np.column_stack([z[:, 0] + 0.3 * ENVIRONMENT, noise, 5 * ENVIRONMENT])
    assert not labelled(both).unmixed(2)  # nearly all is where it should be


def test_the_total_is_higher_where_environments_mix_and_labels_do_not():
    mixed, apart = (labelled(latents(d)).total(2) for d in (0, 10))
    unlabelled = labelled(np.random.default_rng(0).normal(size=(600, 2))).total(2)
    assert mixed > apart
    assert mixed > unlabelled
    assert labelled(np.zeros((600, 2))).total(2) == -np.inf


def test_what_has_no_environments_is_not_judged():
    z, biology = torch.randn(60, 2), torch.ones(60, 1)
    assert Labelled.of(z, biology, torch.zeros(60, 0)) is None
    assert Labelled.of(z, biology, torch.ones(60, 1)) is None
    assert Labelled.of(z, biology, torch.randn(60, 1)) is None  # continuous
    unknown = torch.cat([torch.eye(2).repeat(20, 1), torch.zeros(20, 2)])
    assert len(Labelled.of(z, biology, unknown).z) == 40
    one_label = Labelled.of(z, biology, torch.eye(2).repeat(30, 1))
    assert one_label.total(2) is None


def test_some_cells_are_evenly_spaced():
    cells = Cells.untreated(np.arange(10, dtype=np.float32).reshape(-1, 1))
    assert spaced(cells, 5).x[:, 0].tolist() == [0, 2, 4, 6, 8]
    assert spaced(cells, 20).n_cells == 10
