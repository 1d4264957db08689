import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline

from skpert import AdditiveEffects, ContextEffects, ControlMean
from skpert.datasets import make_context_shift
from skpert.model_selection import (
    LeaveContextsOut,
    PerturbationKFold,
    evaluate_perturbations,
    paired_differences,
)
from skpert.plotting import EvaluationDisplay
from skpert.preprocessing import LogNormalize

A = pd.DataFrame(
    {
        "perturbation": ["control", "P", "Q", "control", "P", "P", "control", "R", "P+Q", "Q+P"],
        "donor": [1, 1, 1, 2, 2, 2, 3, 3, 2, 3],
    }
)
FLOOR, CEILING = "floor (other contexts)", "ceiling (split half)"
METRICS = ["response_mse", "delta_pearson"]


@pytest.fixture(scope="module")
def screen():
    data = make_context_shift(
        3, 3, n_cells_per_perturbation=15, n_control_cells=20, n_genes=50, random_state=0
    )
    return data.X, data.A


def evaluated(screen, estimators, **options):
    options = {"space": "counts", "metrics": METRICS, "context": "context"} | options
    return evaluate_perturbations(estimators, *screen, random_state=0, **options)


def lognorm(model):
    return make_pipeline(LogNormalize(), model)


def test_each_split_leaves_the_perturbed_cells_of_a_context_out():
    splitter = LeaveContextsOut("donor")
    splits = [(train.tolist(), test.tolist()) for train, test in splitter.split(A, A)]
    assert splits == [
        ([0, 3, 4, 5, 6, 7, 8, 9], [1]),  # Q is in no other donor
        ([0, 1, 2, 3, 6, 7, 9], [4, 5, 8]),
        ([0, 1, 2, 3, 4, 5, 6, 8], [9]),  # nor is R
    ]
    assert splitter.get_n_splits(y=A) == 3
    assert clone(splitter).context == "donor"
    assert "LeaveContextsOut(context='donor'" in repr(splitter)


def test_several_columns_name_a_context_together():
    frame = A.assign(type=["B", "B", "B", "B", "T", "T", "B", "B", "T", "B"])
    frame.loc[len(frame)] = ["control", 2, "T"]
    splits = list(LeaveContextsOut(["donor", "type"]).split(frame, frame))
    assert [test.tolist() for _, test in splits] == [[1], [4, 5, 8], [9]]


def test_context_without_treatments_of_others_makes_no_split():
    frame = A[~A["perturbation"].isin(["Q+P", "P+Q"])]
    assert LeaveContextsOut("donor").get_n_splits(y=frame) == 2


@pytest.mark.parametrize(
    ("frame", "context", "message"),
    [
        (None, "donor", "needs the design"),
        (A["perturbation"], "donor", "contexts are columns of a design frame"),
        (A, "line", "line"),
        (A, [], "context must name one or more columns"),
        (A[A["donor"] == 1], "donor", "all cells are of one context"),
        (A.drop(index=0), "donor", "context '1' has no control cell"),
        (A.iloc[[0, 1, 6, 7]], "donor", "no treatment is in two contexts"),
    ],
)
def test_what_cannot_be_split(frame, context, message):
    with pytest.raises(ValueError, match=message):
        list(LeaveContextsOut(context).split(A, frame))


def test_splits_serve_scikit_learn(screen):
    X, frame = screen
    values = LogNormalize().fit_transform(X)
    cv = LeaveContextsOut("context")
    carried = cross_val_score(ContextEffects("context"), values, frame, cv=cv)
    nothing = cross_val_score(ControlMean(), values, frame, cv=cv)
    assert len(carried) == 3
    assert (carried > nothing).all()


def test_contexts_are_evaluated_one_by_one_on_their_own_controls(screen):
    models = {"none": lognorm(ControlMean()), "mean": lognorm(ContextEffects("context"))}
    models["mean"].set_params(contexteffects__effect="mean", contexteffects__scale=1.0)
    result = evaluated(screen, models)
    table = result.per_perturbation
    assert list(table)[:5] == ["estimator", "split", "perturbation", "context", "n_cells"]
    assert len(table) == 4 * 9
    assert (table["n_cells"] == 15).all()
    assert result.floor == FLOOR
    none = table[table["estimator"] == "none"]
    np.testing.assert_array_equal(none["delta_pearson"], 0)  # responses are those of the context
    floor, mean = (table[table["estimator"] == name][METRICS] for name in (FLOOR, "mean"))
    np.testing.assert_allclose(floor, mean, rtol=1e-4)
    assert result.calibrated.loc[CEILING].tolist() == [1, 1]


def test_one_effect_for_all_is_added_to_the_controls_of_each_context(screen):
    X, frame = screen
    train, test = next(LeaveContextsOut("context").split(X, frame))
    model = lognorm(AdditiveEffects())
    result = evaluated(screen, {"all": model}, cv=[(train, test)])
    found = result.per_perturbation.set_index(["estimator", "perturbation"])["response_mse"]
    normalize = LogNormalize(target_sum=None).fit(X[train])
    values = np.asarray(normalize.transform(X))
    fitted = AdditiveEffects().fit(values[train], frame.iloc[train])
    perturbation, context = frame["perturbation"].to_numpy(), frame["context"].to_numpy()
    controls = values[train[(perturbation[train] == "control") & (context[train] == "C0")]]
    for name in ("P0", "P1", "P2"):
        measured = values[test[perturbation[test] == name]].mean(0)
        predicted = controls.mean(0) + fitted.effect_[list(fitted.perturbations_).index(name)]
        error = np.mean((measured - predicted) ** 2)
        assert found["all", name] == pytest.approx(error, rel=1e-4)


def test_distances_of_cells_are_compared_within_a_context(screen):
    metrics = ["energy_distance", "weighted_mse", "perturbation_discrimination"]
    result = evaluated(screen, {"mean": lognorm(ContextEffects("context"))}, metrics=metrics)
    assert result.per_perturbation[metrics].notna().all(axis=None)
    nearest = result.summary["energy_distance"]
    assert nearest[CEILING] < nearest["mean"]


def test_differences_are_paired_over_perturbations_in_contexts(screen):
    result = evaluated(screen, {"none": lognorm(ControlMean())})
    found = paired_differences(result.per_perturbation, "response_mse", FLOOR)
    assert found.loc["none", "n_perturbations"] == 9
    assert found.loc["none", "lower"] > 0


def test_other_splits_can_be_evaluated_by_context(screen):
    cv = PerturbationKFold(2, random_state=0)
    result = evaluated(screen, {"own": lognorm(ContextEffects("context"))}, cv=cv)
    error = result.summary["response_mse"]
    assert error["own"] < error[FLOOR]  # it was measured there


def test_a_context_needs_another_to_learn_from(screen):
    X, frame = screen
    one = (frame["context"] == "C0").to_numpy()
    cv = PerturbationKFold(2, random_state=0)
    with pytest.raises(ValueError, match="trains on no context but 'C0'"):
        evaluated((X[one], frame[one]), {"none": lognorm(ControlMean())}, cv=cv)


def test_the_figure_has_a_point_for_each_perturbation_in_each_context(screen):
    pytest.importorskip("matplotlib").use("agg")
    result = evaluated(screen, {"none": lognorm(ControlMean())}, metrics=["response_mse"])
    display = EvaluationDisplay.from_evaluation(result)
    assert list(display.mean_) == ["response_mse"]
    assert len(display.axes_[0].collections[0].get_offsets()) == 9
