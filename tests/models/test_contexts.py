import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from skpert import ContextEffects, make_perturbation_pipeline
from skpert.exceptions import DataWarning
from skpert.preprocessing import LogNormalize

# Controls of line K are at 0, of L at 1, of M at 10; M has no perturbed cell, only K has Q.
A = pd.DataFrame(
    {
        "perturbation": ["control", "control", "P", "Q", "control", "P", "P", "control", "Q"],
        "line": ["K", "K", "K", "K", "L", "L", "L", "M", "K"],
    }
)
X = np.array([[0, -1], [0, 1], [4, 0], [0, 6], [1, 1], [2, 3], [4, 3], [10, 10], [0, 6]], float)
P_IN_K, P_IN_L, Q_IN_K = [4, 0], [2, 2], [0, 6]


def asked(perturbation, line):
    return pd.DataFrame({"perturbation": [perturbation], "line": [line]})


def fitted(**options):
    return ContextEffects("line", **{"effect": "mean", "scale": 1.0} | options).fit(X, A)


@pytest.mark.filterwarnings("ignore::skpert.exceptions.DataWarning")
@parametrize_with_checks([ContextEffects()])
def test_estimator(estimator, check):
    check(estimator)


def test_effects_are_relative_to_the_controls_of_their_own_context():
    model = fitted()
    assert model.contexts_.tolist() == ["K", "L", "M"]
    np.testing.assert_allclose(model.control_means_, [[0, 0], [1, 1], [10, 10]])
    np.testing.assert_array_equal(model.measured_, [[1, 1], [1, 0], [0, 0]])
    np.testing.assert_allclose(model.effects_[:2, 0], [P_IN_K, P_IN_L])
    np.testing.assert_array_equal(model.effects_[~model.measured_], 0)


@pytest.mark.parametrize(
    ("effect", "weight"),
    [("mean", 0.5), ("nearest", 0.0), ("similar", None)],
)
def test_a_new_context_has_its_controls_and_the_effects_of_others(effect, weight):
    if weight is None:  # squared distances of controls 200 and 162
        ratio = np.exp(-2 * (200 - 162) / np.median([200, 162]))
        weight = ratio / (1 + ratio)
    expected = 10 + weight * np.array(P_IN_K) + (1 - weight) * np.array(P_IN_L)
    model = fitted(effect=effect)
    np.testing.assert_allclose(model.predict_intervention(asked("P", "M")), [expected])
    np.testing.assert_allclose(model.predict_intervention(asked("control", "M")), [[10, 10]])


def test_what_was_measured_in_a_context_is_the_answer_there():
    found = fitted(scale=0.1).predict_intervention(asked("P", "K"))
    np.testing.assert_allclose(found, [P_IN_K])


def test_learned_scale_is_least_squares_over_contexts_left_out():
    # P in K is predicted by that in L and the reverse: 2 (4 * 2) / (2^2 + 2^2 + 4^2)
    assert fitted(scale="learned").scale_ == pytest.approx(16 / 24)
    opposite = X.copy()
    opposite[[5, 6]] = [[-3, 1], [-3, 1]]
    assert ContextEffects("line", effect="mean").fit(opposite, A).scale_ < 0


def test_scale_is_one_where_no_perturbation_is_in_two_contexts():
    alone = A["perturbation"].isin(["control", "Q"]).to_numpy()
    assert ContextEffects("line").fit(X[alone], A[alone]).scale_ == 1.0


def test_control_cells_of_a_context_that_was_not_trained_on_are_enough():
    cells = np.array([[20.0, 0.0], [22.0, 0.0]])
    found = fitted(effect="nearest").predict_intervention(asked("P", "new"), cells)
    np.testing.assert_allclose(found, cells + P_IN_L)
    with pytest.raises(ValueError, match="not trained on: 'new'. Known are 'K', 'L', 'M'"):
        fitted().predict_intervention(asked("P", "new"))


def test_several_columns_name_a_context_together():
    frame = A.assign(day=[1, 1, 1, 1, 2, 2, 2, 2, 1])
    model = ContextEffects(["line", "day"]).fit(X, frame)
    assert model.contexts_.tolist() == ["K, 1", "L, 2", "M, 2"]


def test_without_context_effects_are_those_of_all_cells():
    model = ContextEffects().fit(X, A["perturbation"])
    expected = X[(A["perturbation"] == "P").to_numpy()].mean(0)
    np.testing.assert_allclose(model.predict_intervention("P")[0], expected)


def test_samples_are_control_cells_of_the_context_shifted():
    designs = pd.concat([asked("P", "M"), asked("Q", "K")])
    drawn = fitted().sample_intervention(designs, 50, random_state=0)
    assert drawn.shape == (2, 50, 2)
    np.testing.assert_allclose(drawn[0], np.tile([[13, 11]], (50, 1)))
    assert {tuple(row) for row in drawn[1]} == {(0.0, 5.0), (0.0, 7.0)}


def test_order_of_cells_and_storage_do_not_matter():
    order = np.random.default_rng(0).permutation(len(X))
    designs = pd.concat([asked("P", "M"), asked("Q", "L"), asked("P", "K")])
    expected = ContextEffects("line").fit(X, A).predict_intervention(designs)
    for other in (X[order], csr_array(X[order])):
        model = ContextEffects("line").fit(other, A.iloc[order])
        np.testing.assert_allclose(model.predict_intervention(designs), expected)
        drawn = model.sample_intervention(designs, 3, random_state=0)
        assert np.isfinite(drawn).all()


def test_score_is_minus_the_error_of_means_over_treatments_in_contexts():
    test = pd.concat([asked("P", "M"), asked("P", "M"), asked("Q", "K"), asked("control", "M")])
    cells = np.array([[13, 12], [13, 14], [0, 6], [20, 20]], float)
    # predicted (13, 11), measured (13, 13); predicted and measured (0, 6)
    assert fitted().score(cells, test) == pytest.approx(-(4 + 0) / 4)
    assert fitted().score(cells, test, sample_weight=[1, 0, 1, 1]) == pytest.approx(-1 / 4)
    with pytest.raises(ValueError, match="no perturbed cell"):
        fitted().score(cells[3:], test.iloc[3:])


def test_in_a_pipeline_cells_are_log_normalised_first():
    counts = np.abs(X) + 1
    pipeline = make_perturbation_pipeline(LogNormalize(target_sum=10), ContextEffects("line"))
    found = clone(pipeline).fit(counts, A).predict_intervention(asked("P", "M"))
    values = LogNormalize(target_sum=10).fit_transform(counts)
    model = ContextEffects("line").fit(values, A)
    np.testing.assert_allclose(found, model.predict_intervention(asked("P", "M")))


def test_a_context_without_controls_is_named():
    kept = np.flatnonzero(~((A["line"] == "L") & (A["perturbation"] == "control")))
    with pytest.warns(DataWarning, match="contexts without a control cell: 'L'"):
        model = ContextEffects("line").fit(X[kept], A.iloc[kept])
    np.testing.assert_allclose(model.control_means_[1], [3, 3])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"effect": "closest"}, "effect='closest' must be one of"),
        ({"scale": "auto"}, "scale='auto' must be a finite number or 'learned'"),
        ({"scale": np.inf}, "scale=inf must be a finite number"),
    ],
)
def test_parameters_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        fitted(**options)


def test_bad_designs_say_what_is_wrong():
    with pytest.raises(ValueError, match="contexts are columns of a design frame, 'line'"):
        ContextEffects("line").fit(X, A["perturbation"])
    with pytest.raises(ValueError, match="1 of 9 values of the context 'line' are missing.*row 2"):
        ContextEffects("line").fit(X, A.assign(line=A["line"].mask(A.index == 2)))
    model = fitted()
    with pytest.raises(ValueError, match="unknown"):
        model.predict_intervention(asked("R", "K"))
    with pytest.raises(ValueError, match="contexts are columns"):
        model.predict_intervention("P")
    with pytest.raises(ValueError, match="2 designs for 3 cells"):
        model.predict_intervention(A.iloc[:2], X[:3])
    with pytest.raises(ValueError, match="library_size applies to count models only"):
        model.predict_intervention(asked("P", "K"), library_size=1e4)
    with pytest.raises(ValueError, match="n_samples"):
        model.sample_intervention(asked("P", "K"), 0)


def test_adapt_adds_effects_relative_to_known_controls():
    model = fitted()
    new = pd.concat([asked("R", "K"), asked("R", "K"), asked("R", "L"), asked("control", "L")])
    adapted = model.adapt(np.array([[1, 2], [3, 2], [5, 5], [9, 9]], float), new)
    assert adapted.perturbations_.tolist() == ["P", "Q", "R"]
    np.testing.assert_allclose(adapted.effects_[:, 2], [[2, 2], [4, 4], [0, 0]])
    np.testing.assert_array_equal(adapted.measured_[:, 2], [True, True, False])
    np.testing.assert_allclose(adapted.predict_intervention(asked("R", "M")), [[13, 13]])
    assert model.perturbations_.tolist() == ["P", "Q"]
    with pytest.raises(ValueError, match="contexts that were not trained on: 'new'"):
        model.adapt(X[:2], pd.concat([asked("R", "new")] * 2))
