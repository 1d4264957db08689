import numpy as np
import pytest

from skpert.datasets import make_context_shift


def small(**options):
    return make_context_shift(4, 3, n_control_cells=30, n_genes=50, random_state=0, **options)


def differences(data):
    """Change of log expression by each perturbation in each context, around its mean."""
    change = np.log(data.expected_expression / data.control_expression[:, None])
    return change - change.mean(-1, keepdims=True)


def test_all_contexts_have_all_perturbations_and_controls():
    data = small()
    table = data.A.groupby(["context", "perturbation"]).size()
    assert (table.xs("control", level=1) == 30).all()
    assert (table.drop("control", level=1) == 40).all()
    assert len(table) == 16
    assert data.X.shape == (len(data.A), 50)
    assert data.X.dtype == np.float32


def test_states_are_basal_states_with_the_shifts_of_context_and_perturbation():
    data = small()
    effect = np.concatenate([data.effect, np.zeros((4, 1, 10))], 1)
    context = np.searchsorted(data.contexts, data.A["context"].to_numpy(object))
    names = [*data.perturbations, "control"]
    treatment = [names.index(name) for name in data.A["perturbation"]]
    expected = data.Z_basal + data.context_shift[context] + effect[context, treatment]
    np.testing.assert_allclose(data.Z, expected)


def test_rules_say_what_contexts_share():
    latent, logit, family, none = (
        small(rule=rule) for rule in ("latent", "logit", "family", "none")
    )
    for data in (latent, logit):
        np.testing.assert_array_equal(data.effect, data.effect[:1].repeat(4, 0))
    np.testing.assert_array_equal(family.effect[0], family.effect[2])
    assert (family.effect[0] != family.effect[1]).any()
    assert len({effect.tobytes() for effect in none.effect}) == 4
    assert (logit.effect == 0).all()
    assert (logit.log_change != 0).any(1).all()
    assert (latent.log_change == 0).all()


def test_families_are_nearer_to_their_own():
    shift = make_context_shift(6, rule="family", random_state=0).context_shift
    distance = np.linalg.norm(shift[:, None] - shift[None], axis=-1)
    distance[np.diag_indices(6)] = np.inf
    assert (distance.argmin(1) % 2 == np.arange(6) % 2).all()


def test_expected_expression_is_what_cells_have_on_average():
    data = make_context_shift(
        2, 2, n_cells_per_perturbation=3000, n_control_cells=3000, n_genes=40, random_state=0
    )
    for c, context in enumerate(data.contexts):
        for p, name in enumerate(data.perturbations):
            rows = ((data.A["context"] == context) & (data.A["perturbation"] == name)).to_numpy()
            cells, expected = data.X[rows], data.expected_expression[c, p]
            error = cells.std(0) / np.sqrt(rows.sum())
            assert (np.abs(cells.mean(0) - expected) / error).max() < 5


def test_change_of_logits_is_the_same_in_all_contexts():
    change = differences(small(rule="logit", context_size=0.3))
    of_latent = differences(small(rule="latent", context_size=2.0))
    assert change.std(0).mean() < 0.3 * of_latent.std(0).mean()


def test_a_seed_gives_the_same_data_again():
    one, two = small(), small()
    np.testing.assert_array_equal(one.X, two.X)
    assert one.A.equals(two.A)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "additive"}, "rule must be one of"),
        ({"n_targets": (1, 11)}, "exceeds the 10 latents"),
        ({"context_size": -1}, "context_size"),
    ],
)
def test_arguments_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)


def test_there_are_two_contexts_at_least():
    with pytest.raises(ValueError, match="n_contexts"):
        make_context_shift(1)
