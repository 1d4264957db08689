"""The table of interactions: their kinds, and what is refused."""

import numpy as np
import pytest

from skpert import SAMSVAE
from skpert.inspection import interactions
from skpert.inspection._interactions import _kinds

KINDS = [  # effects of two parts, of the pair, and the kind
    ((0.0, 0.0), 2.0, "emergent"),
    ((1.0, 1.0), 4.0, "synergy"),
    ((-1.0, -1.0), -4.0, "synergy"),
    ((3.0, 0.0), 0.0, "suppression"),
    ((3.0, 2.0), 3.0, "epistasis"),
    ((3.0, -2.0), 3.0, "epistasis"),
    ((3.0, 3.0), -2.0, "suppression"),
    ((3.0, 0.0), 5.0, "synergy"),
]


@pytest.mark.parametrize(("parts", "total", "kind"), KINDS)
def test_kinds(parts, total, kind):
    parts = np.array(parts)[None, :, None]
    expected = parts.sum(1)
    assert _kinds(total - expected, expected, parts, np.full((1, 1), 0.5)) == [[kind]]


def test_kinds_do_not_depend_on_the_sign_of_a_latent():
    random = np.random.default_rng(0)
    parts = random.choice([-2.0, 0.0, 3.0], (20, 2, 4))
    effect, half = random.normal(size=(20, 4)) * 2, np.full((20, 4), 0.3)
    kinds = _kinds(effect, parts.sum(1), parts, half)
    np.testing.assert_array_equal(_kinds(-effect, -parts.sum(1), -parts, half), kinds)
    assert set(kinds.ravel()) == {"synergy", "suppression", "epistasis", "emergent"}


def test_an_estimator_that_was_not_fitted_is_refused():
    with pytest.raises(ValueError, match="not fitted"):
        interactions(SAMSVAE(interactions=True))
