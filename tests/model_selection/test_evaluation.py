import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from scipy.spatial.distance import pdist
from scipy.stats import ttest_rel
from sklearn.base import BaseEstimator
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skpert import AdditiveEffects, BilinearRidge, ControlMean, PerturbedMean
from skpert.exceptions import DataWarning
from skpert.metrics import (
    energy_distance,
    maximum_mean_discrepancy,
    perturbation_discrimination,
    response_mse,
    response_weights,
    weighted_mse,
)
from skpert.model_selection import (
    CombinationHoldout,
    LeavePerturbationsOut,
    PerturbationKFold,
    evaluate_perturbations,
    paired_differences,
)
from skpert.preprocessing import LogNormalize

FLOOR, CEILING = "floor (perturbed mean)", "ceiling (split half)"
CHEAP = ["response_mse", "delta_pearson", "perturbation_discrimination"]
DISTANCES = ["energy_distance", "maximum_mean_discrepancy"]
N_GENES = 30


class Told(BaseEstimator):
    """Predicts the means it was told, with cells of standard normal noise around them."""

    def __init__(self, means=None, control="control", random_state=None):
        self.means = means
        self.control = control
        self.random_state = random_state

    def fit(self, X, y):
        return self

    def predict_intervention(self, A, X=None):
        return np.array([self.means[label] for label in A])

    def sample_intervention(self, A, n_samples, *, X=None, random_state=None):
        noise = np.random.default_rng(random_state).normal(size=(len(A), n_samples, N_GENES))
        return self.predict_intervention(A)[:, None] + noise


class FirstControls(BaseEstimator):
    """Control cells as they stand, one after another, are its samples of any perturbation."""

    def fit(self, X, y):
        return self

    def predict_intervention(self, A, X=None):
        raise AssertionError("counts are predicted by sampling")

    def sample_intervention(self, A, n_samples, *, X=None, random_state=None):
        return np.asarray(X)[np.arange(n_samples) % len(X)][None]


class Refusing(ControlMean):
    """Cannot predict what it was trained on."""

    def predict_intervention(self, A, X=None, *, library_size=None):
        raise ValueError("out of memory")


class Drawing(ControlMean):
    """Its mean is drawn by ``random_state``."""

    def __init__(self, random_state=None, *, control="control", sep="+"):
        super().__init__(control=control, sep=sep)
        self.random_state = random_state

    def predict_intervention(self, A, X=None, *, library_size=None):
        return np.random.default_rng(self.random_state).normal(size=(1, N_GENES))


@pytest.fixture(scope="module")
def means():
    """Of eight perturbations that share a part of their effect, and of the control."""
    random = np.random.default_rng(0)
    effects = random.normal(size=N_GENES) + random.normal(size=(8, N_GENES))
    base = random.uniform(2, 4, N_GENES)
    return {"control": base} | {f"P{i}": base + effect for i, effect in enumerate(effects)}


@pytest.fixture(scope="module")
def screen(means):
    """Normal noise of variance one; perturbations have from 20 to 48 cells, controls 40."""
    A = np.repeat(list(means), [40, *range(20, 52, 4)]).astype(object)
    random = np.random.default_rng(1)
    order = random.permutation(len(A))
    X = np.array([means[label] for label in A]) + random.normal(size=(len(A), N_GENES))
    return X[order], A[order]


@pytest.fixture(scope="module")
def counts(means):
    A = np.repeat(list(means), 20).astype(object)
    rate = np.exp([means[label] / 2 for label in A])
    return np.random.default_rng(2).poisson(rate).astype(np.float32), A


def evaluated(estimators, screen, **parameters):
    parameters = {"space": "lognorm", "random_state": 0, "cv": 4} | parameters
    return evaluate_perturbations(estimators, *screen, **parameters)


def scored(result, estimator):
    """Metrics of one estimator, by perturbation and split."""
    table = result.per_perturbation.query("estimator == @estimator")
    return table.drop(columns=["estimator", "n_cells"]).set_index(["split", "perturbation"])


def test_an_oracle_errs_by_sampling_only(screen, means):
    result = evaluated({"oracle": Told(means)}, screen)
    oracle, ceiling = result.summary.loc["oracle"], result.summary.loc[CEILING]
    n_cells = pd.Series(screen[1]).value_counts().drop("control")
    expected = (1 / n_cells).mean()  # variance of a mean
    assert oracle["response_mse"] == pytest.approx(expected, rel=0.25)
    assert ceiling["response_mse"] == pytest.approx(4 * expected, rel=0.25)
    assert oracle["perturbation_discrimination"] == ceiling["perturbation_discrimination"] == 1
    floor = result.summary.loc[FLOOR]
    for distance in ("energy_distance", "maximum_mean_discrepancy"):  # unbiased
        assert abs(oracle[distance]) < 0.03 * floor[distance]
        assert abs(ceiling[distance]) < 0.03 * floor[distance]
    assert (result.calibrated.loc["oracle"] > 0.95).all()
    assert (result.calibrated.loc[FLOOR] == 0).all()
    assert (result.calibrated.loc[CEILING] == 1).all()


def test_a_prediction_of_no_effect_has_no_response_and_chance_discrimination(screen):
    zero = ["delta_pearson", "direction_same", "direction_opposite"]
    metrics = ["perturbation_discrimination", *zero]
    for dtype in (np.float32, np.float64):
        values = screen[0].astype(dtype)
        none = scored(
            evaluated({"none": ControlMean()}, (values, screen[1]), metrics=metrics), "none"
        )
        assert (none["perturbation_discrimination"] == 0.5).all()
        assert (none[zero] == 0).all(axis=None)


def test_a_constant_prediction_for_all_discriminates_at_chance(screen, means):
    told = Told(dict.fromkeys(means, np.arange(N_GENES) / 10))
    splitter = PerturbationKFold(2, random_state=0)
    for cv in (3, splitter):  # unseen perturbations are told from training ones, too
        result = evaluated({"same": told}, screen, cv=cv, metrics=CHEAP)
        assert result.summary.loc["same", "perturbation_discrimination"] == pytest.approx(
            0.5, abs=1e-12 if cv is splitter else 0.03
        )


def test_the_floor_is_the_perturbed_mean(screen):
    of_means = [*CHEAP, "weighted_mse", "delta_pearson_perturbed", "direction_same"]
    result = evaluated({"mean": PerturbedMean()}, screen, metrics=of_means)
    pd.testing.assert_frame_equal(scored(result, FLOOR), scored(result, "mean"), rtol=1e-5)
    assert (scored(result, FLOOR)["delta_pearson_perturbed"] == 0).all()


def test_cells_of_the_floor_are_those_of_training_perturbations_alike():
    # one perturbation with many cells at 1, two with few at 0; the tested one is at 0
    X = np.repeat([0.0, 1.0, 0.0, 0.0, 0.0], [5, 900, 5, 5, 400])[:, None]
    A = np.repeat(["control", "A", "B", "C", "D"], [5, 900, 5, 5, 400])
    test = A == "D"
    result = evaluated({"none": ControlMean()}, (X, A), cv=[(~test, test)])
    floor = scored(result, FLOOR).loc[(0, "D")]
    share = 1 / 3  # of cells at 1; the distance of two such populations is 2 p^2
    assert floor["energy_distance"] == pytest.approx(2 * share**2, rel=0.2)
    assert floor["response_mse"] == pytest.approx(share**2)


def test_numbers_are_those_of_the_metrics(screen, means):
    X, A = screen
    train, test = next(LeavePerturbationsOut(4, random_state=0).split(X, A))
    result = evaluated({"told": Told(means)}, screen, cv=[(train, test)])
    row = scored(result, "told").loc[0]
    names = sorted(set(A[test]))
    measured = pd.DataFrame({name: X[A == name].mean(0) for name in means}).T
    predicted, control = pd.DataFrame(means).T.loc[names], X[A == "control"].mean(0)
    expected = response_mse(measured.loc[names], predicted)
    np.testing.assert_allclose(row["response_mse"], expected)
    others = measured.drop(["control", *names])
    expected = perturbation_discrimination(
        measured.loc[names], predicted, reference=control, candidates=others
    )
    np.testing.assert_allclose(row["perturbation_discrimination"], expected)
    weights = response_weights(X, A, space="lognorm").loc[names]
    weights.columns = measured.columns
    expected = weighted_mse(measured.loc[names], predicted, weights)
    np.testing.assert_allclose(row["weighted_mse"], expected)
    centred = (table.loc[names] - others.mean() for table in (measured, predicted))
    pairs = zip(*(table.to_numpy() for table in centred), strict=True)
    expected = [np.corrcoef(*pair)[0, 1] for pair in pairs]
    np.testing.assert_allclose(row["delta_pearson_perturbed"], expected)


class Ramp(Told):
    """Cells that are no random numbers."""

    def sample_intervention(self, A, n_samples, *, X=None, random_state=None):
        return np.arange(n_samples * N_GENES).reshape(1, n_samples, N_GENES) % 7.0


def test_distances_have_one_kernel_for_all_estimators(screen, means):
    X, A = screen
    train, test = next(LeavePerturbationsOut(4, random_state=0).split(X, A))
    estimators = {"ramp": Ramp(means), "oracle": Told(means)}
    result = evaluated(estimators, screen, cv=[(train, test)], n_samples=25)
    cells = np.vstack([X[test], X[A == "control"]])
    bandwidths = np.mean(pdist(cells, "sqeuclidean")) / 4 * 2.0 ** np.arange(5)
    ramp = np.arange(25 * N_GENES).reshape(25, N_GENES) % 7.0
    for name, row in scored(result, "ramp").loc[0].iterrows():
        measured = X[A == name]
        assert row["energy_distance"] == pytest.approx(energy_distance(ramp, measured))
        expected = maximum_mean_discrepancy(ramp, measured, bandwidths=bandwidths)
        assert row["maximum_mean_discrepancy"] == pytest.approx(expected)


def test_every_perturbation_is_tested_once_when_unseen_and_in_each_split_when_seen(screen):
    estimators = {"none": ControlMean(), "mean": PerturbedMean()}
    n_cells = pd.Series(screen[1]).value_counts().drop("control").sort_index()
    splits = {3: 1, PerturbationKFold(2, random_state=0): 2}
    for cv, n_times in splits.items():
        table = evaluated(estimators, screen, cv=cv, metrics=["response_mse"]).per_perturbation
        assert list(table["estimator"].unique()) == ["none", "mean", FLOOR, CEILING]
        for _, rows in table.groupby("estimator"):
            by_name = rows.groupby("perturbation")["n_cells"]
            assert (by_name.size() == n_times).all()
            pd.testing.assert_series_equal(by_name.sum(), n_cells, check_names=False)


def test_a_share_of_the_cells_of_each_perturbation_can_be_held_out(screen):
    splitter = StratifiedShuffleSplit(1, test_size=0.2, random_state=0)
    result = evaluated({"additive": AdditiveEffects()}, screen, cv=splitter)
    assert len(scored(result, "additive")) == 8
    additive = result.calibrated.loc["additive"]
    assert (additive.drop(DISTANCES) > 0.9).all()
    assert (additive[DISTANCES] > 0.7).all()


def test_additive_effects_answer_for_unseen_combinations():
    random = np.random.default_rng(0)
    effect = {"A": random.normal(size=N_GENES), "B": random.normal(size=N_GENES)}
    parts = {"control": "", "A": "A", "B": "B", "A+B": "AB", "C": ""}
    A = np.repeat(list(parts), 10)
    X = np.array([sum((effect[p] for p in parts[a]), np.zeros(N_GENES)) for a in A])
    cv = CombinationHoldout(1, test_fraction=1.0, random_state=0)
    result = evaluated({"sum": AdditiveEffects()}, (X, A), cv=cv, metrics=["response_mse"])
    assert scored(result, "sum").index.to_list() == [(0, "A+B")]
    assert scored(result, "sum")["response_mse"].item() == pytest.approx(0, abs=1e-12)


def test_what_cannot_be_predicted_is_missing_and_told_once(screen, means):
    known = {name: mean for name, mean in means.items() if name != "P3"}

    class Partial(Told):
        def predict_intervention(self, A, X=None):
            if "P3" in A:
                raise ValueError("P3 is beyond me")
            return super().predict_intervention(A)

    estimators = {"additive": AdditiveEffects(), "partial": Partial(known), "all": Told(means)}
    with pytest.warns(DataWarning) as caught:
        result = evaluated(estimators, screen)
    messages = [str(warning.message) for warning in caught]
    assert len(messages) == 2
    assert "'additive' cannot predict 8 perturbations" in messages[0]
    assert "'partial' cannot predict 1 perturbations" in messages[1]
    assert "'P3'. It says: P3 is beyond me" in messages[1]
    assert scored(result, "additive").isna().all(axis=None)
    assert result.summary.loc["additive"].isna().all()
    partial, full = scored(result, "partial"), scored(result, "all")
    missing = partial.index.get_level_values("perturbation") == "P3"
    assert partial[missing].isna().all(axis=None)
    # what one estimator cannot predict does not change its other scores
    pd.testing.assert_frame_equal(partial[~missing], full[~missing])


def test_an_error_for_a_perturbation_that_was_trained_on_is_not_swallowed(screen):
    cv = PerturbationKFold(2, random_state=0)
    with pytest.raises(ValueError, match="out of memory") as caught:
        evaluated({"broken": Refusing()}, screen, cv=cv)
    assert caught.value.__notes__ == ["in 'broken', split 0"]


def test_counts_in_a_pipeline_are_log_normalised_values_without(counts):
    X, A = counts
    train, test = next(PerturbationKFold(2, random_state=0).split(X, A))
    values = LogNormalize(target_sum=None).fit(X[train]).transform(X)
    models = {"mean": PerturbedMean(), "additive": AdditiveEffects()}
    expected = evaluated(models, (values, A), cv=[(train, test)])
    for target_sum in (None, 1e4):  # predictions are in the units of the split
        pipelines = {
            name: make_pipeline("passthrough", LogNormalize(target_sum), model)
            for name, model in models.items()
        }
        found = evaluated(pipelines, counts, cv=[(train, test)], space="counts")
        pd.testing.assert_frame_equal(found.per_perturbation, expected.per_perturbation)


def test_predicted_counts_are_log_normalised_cell_by_cell(counts):
    estimators = {"cells": FirstControls(), "mean": make_pipeline(LogNormalize(), ControlMean())}
    for n_samples, max_cells in ((None, 60), (20, 500)):  # all 20 controls, equally often
        result = evaluated(
            estimators, counts, space="counts", n_samples=n_samples, max_cells=max_cells, cv=2
        )
        means = [name for name in result.summary if name not in DISTANCES]
        found, expected = scored(result, "cells"), scored(result, "mean")
        pd.testing.assert_frame_equal(found[means], expected[means])
        X, A = counts
        train, _ = next(LeavePerturbationsOut(2, random_state=0).split(X, A))
        values = LogNormalize(target_sum=None).fit(X[train]).transform(X)
        for name, row in found.loc[0].iterrows():
            distance = energy_distance(values[A == "control"], values[A == name])
            assert row["energy_distance"] == pytest.approx(distance, rel=1e-5)


def test_forms_of_expression_and_design_do_not_matter(counts):
    anndata = pytest.importorskip("anndata")
    X, A = counts
    estimators = {"mean": make_pipeline(LogNormalize(), PerturbedMean()), "draw": FirstControls()}
    sparse = {"mean": make_pipeline(LogNormalize(), PerturbedMean())}
    genes = [f"G{i}" for i in range(N_GENES)]
    adata = anndata.AnnData(np.zeros_like(X), var=pd.DataFrame(index=genes))
    adata.layers["counts"] = csr_matrix(X)
    cheaply = {"space": "counts", "metrics": CHEAP, "cv": 2}
    expected = evaluated(sparse, counts, **cheaply).per_perturbation
    obs, dosage = pd.DataFrame({"perturbation": A}), pd.get_dummies(A).astype(float)
    for form in (A.tolist(), pd.Categorical(A), obs, dosage, dosage.drop(columns="control")):
        found = evaluated(sparse, (X, form), **cheaply)
        pd.testing.assert_frame_equal(found.per_perturbation, expected)
    for values in (csr_matrix(X), X.astype(int), pd.DataFrame(X, columns=genes)):
        found = evaluated(sparse, (values, A), **cheaply)
        pd.testing.assert_frame_equal(found.per_perturbation, expected, rtol=1e-5)
    found = evaluated(sparse, (adata, A), **cheaply, layer="counts")
    pd.testing.assert_frame_equal(found.per_perturbation, expected, rtol=1e-5)
    everything = evaluated(estimators, counts, space="counts", cv=2)
    assert everything.summary.notna().all(axis=None)


def test_estimators_see_the_names_of_genes_behind_a_pipeline(counts):
    anndata = pytest.importorskip("anndata")
    X, A = counts
    genes = sorted(set(A) - {"control"}) + [f"G{i}" for i in range(N_GENES - 8)]
    frame = pd.DataFrame(X, columns=genes)
    adata = anndata.AnnData(csr_matrix(X), var=pd.DataFrame(index=genes))
    pipeline = {"ridge": make_pipeline(LogNormalize(), BilinearRidge(n_gene_components=3))}
    with pytest.raises(ValueError, match="no measured genes"):  # nameless
        evaluated(pipeline, counts, space="counts", metrics=CHEAP)
    tables = [
        evaluated(pipeline, (values, A), space="counts", metrics=CHEAP, cv=2).per_perturbation
        for values in (frame, adata)
    ]
    pd.testing.assert_frame_equal(*tables, rtol=1e-5)


def test_a_graded_dosage_is_a_perturbation_of_its_own():
    random = np.random.default_rng(0)
    dosage = np.repeat([[0, 0], [1, 0], [0.5, 0], [0, 1], [0, 2]], 10, axis=0)
    X = dosage @ random.normal(size=(2, N_GENES))
    cv = [(np.r_[0:20, 30:40], np.r_[20:30, 40:50])]
    result = evaluated({"sum": AdditiveEffects()}, (X, dosage), cv=cv, metrics=["response_mse"])
    assert scored(result, "sum").index.to_list() == [(0, "0*0.5"), (0, "1*2")]
    np.testing.assert_allclose(scored(result, "sum"), 0, atol=1e-12)
    # a column that no training cell has is left out in training
    cv = [(np.arange(30), np.arange(30, 50))]
    result = evaluated({"none": ControlMean()}, (X, dosage), cv=cv, metrics=["response_mse"])
    np.testing.assert_allclose(scored(result, "none").loc[(0, "1")], np.mean(X[30] ** 2))


def test_results_depend_on_the_seed_alone(screen):
    estimators = {"draw": Drawing(), "fixed": Drawing(7), "mean": PerturbedMean()}
    one, same, other = (
        evaluated(estimators, screen, cv=2, n_samples=5, random_state=seed).per_perturbation
        for seed in (0, 0, 1)
    )
    pd.testing.assert_frame_equal(one, same)
    assert not other.equals(one)
    splits = list(LeavePerturbationsOut(2, random_state=0).split(*screen))
    one, other = (
        evaluated(estimators, screen, cv=splits, metrics=CHEAP, random_state=seed)
        for seed in (0, 1)
    )
    pd.testing.assert_frame_equal(scored(one, "fixed"), scored(other, "fixed"))
    assert not scored(one, "draw").equals(scored(other, "draw"))


def test_processes_change_nothing(screen):
    estimators = {"mean": PerturbedMean(), "additive": AdditiveEffects()}
    cv = PerturbationKFold(2, random_state=0)
    one, two = (evaluated(estimators, screen, cv=cv, n_jobs=n_jobs) for n_jobs in (1, 2))
    for name in ("per_perturbation", "summary", "calibrated"):
        pd.testing.assert_frame_equal(one[name], two[name])


def test_estimators_stay_as_they_are(screen):
    model = AdditiveEffects()
    evaluated({"a": model}, screen, cv=PerturbationKFold(2, random_state=0), metrics=CHEAP)
    assert not hasattr(model, "perturbations_")


def test_more_cells_than_may_be_compared_are_drawn(screen, means):
    few, all_cells = (
        evaluated({"oracle": Told(means)}, screen, max_cells=max_cells) for max_cells in (10, 500)
    )
    of_means = [name for name in few.summary if name not in DISTANCES]
    assert few.summary.loc["oracle", of_means].equals(all_cells.summary.loc["oracle", of_means])
    assert not few.summary[DISTANCES].equals(all_cells.summary[DISTANCES])


def test_one_cell_has_no_spread_and_no_replicate(screen, means):
    X, A = screen
    A = np.where(A == "P5", "P6", A)
    A[np.flatnonzero(A == "P6")[0]] = "P5"
    result = evaluated({"told": Told(means)}, (X, A))
    told, ceiling = (scored(result, name).droplevel("split") for name in ("told", CEILING))
    undefined = [*DISTANCES, "weighted_mse"]
    assert told.loc["P5", undefined].isna().all()
    assert told.loc["P5"].drop(undefined).notna().all()
    assert ceiling.loc["P5"].isna().all()
    assert ceiling.drop("P5").notna().all(axis=None)


def test_without_controls_responses_are_relative_to_all_training_cells(screen, means):
    X, A = (part[screen[1] != "control"] for part in screen)
    train, test = next(LeavePerturbationsOut(4, random_state=0).split(X, A))
    with pytest.warns(DataWarning, match="mean of all training cells") as caught:
        result = evaluated({"told": Told(means)}, (X, A), cv=[(train, test)])
    assert len(caught) == 1
    reference = X[train].mean(0)
    for name, row in scored(result, "told").loc[0].iterrows():
        expected = np.corrcoef(X[A == name].mean(0) - reference, means[name] - reference)[0, 1]
        assert row["delta_pearson"] == pytest.approx(expected)


def test_a_summary_counts_each_perturbation_once(screen):
    splits = list(LeavePerturbationsOut(4, random_state=0).split(*screen))
    once = evaluated({"mean": PerturbedMean()}, screen, cv=splits, metrics=CHEAP)
    again = evaluated({"mean": PerturbedMean()}, screen, cv=[*splits, splits[0]], metrics=CHEAP)
    assert len(again.per_perturbation) > len(once.per_perturbation)
    pd.testing.assert_series_equal(again.summary.loc["mean"], once.summary.loc["mean"])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"estimators": {}}, "dict of one or more"),
        ({"estimators": [ControlMean()]}, "dict of one or more"),
        ({"estimators": {FLOOR: ControlMean()}}, "choose another"),
        ({"estimators": {"a": ControlMean(control="ctrl")}}, "'a' has control='ctrl'"),
        ({"space": "log"}, "space must be"),
        ({"space": "counts"}, "counts cannot be negative"),
        ({"metrics": ["mse"]}, r"unknown metrics \['mse'\]: known are \['response_mse'"),
        ({"metrics": []}, "known are"),
        ({"n_samples": 1}, "n_samples must be"),
        ({"max_cells": None}, "max_cells must be"),
        ({"cv": "loo"}, "cv must be"),
        ({"cv": []}, "no split"),
        ({"cv": 9}, "cannot make 9 folds of 8 perturbations"),
        ({"cv": [([0, 1, 2, 3, 4], [4, 5])]}, "trains on and tests 1 cells, such as row 4"),
        ({"cv": [([0, 1], [10**6])]}, "rows from 0 to"),
        ({"layer": "counts"}, "chooses a layer of an AnnData"),
    ],
)
def test_bad_input(screen, parameters, message):
    X, A = screen
    parameters = {"estimators": {"none": ControlMean()}, "space": "lognorm"} | parameters
    with pytest.raises(ValueError, match=message):
        evaluate_perturbations(X=X - 5, A=A, **parameters)


def test_splits_without_perturbations_are_refused(screen):
    controls, treated = (np.flatnonzero(screen[1] == "control"), screen[1] != "control")
    for cv, message in (
        ([(treated, controls)], "split 0 tests no cell of a perturbation"),
        ([(controls, treated)], "split 0 trains on no cell of a perturbation"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluated({"none": ControlMean()}, screen, cv=cv)


@pytest.mark.filterwarnings("ignore:X looks like raw counts")
def test_pipelines_that_change_the_units_are_refused(counts):
    ridge = ControlMean()
    for space, steps, message in (
        ("lognorm", [LogNormalize(), ridge], "may have nothing before the last step"),
        ("counts", [StandardScaler(), ridge], "may have one LogNormalize"),
        ("counts", [LogNormalize(), StandardScaler(), ridge], "may have one LogNormalize"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluated({"p": make_pipeline(*steps)}, counts, space=space)


def test_what_is_no_model_of_perturbations_is_refused(screen):
    for model, message in ((StandardScaler(), "has no"), (ControlMean, "is a class")):
        with pytest.raises(TypeError, match=f"'a' cannot be evaluated.*{message}"):
            evaluated({"a": model}, screen)


def test_paired_differences_are_those_of_a_paired_t_test(screen, means):
    estimators = {"mean": PerturbedMean(), "oracle": Told(means)}
    result = evaluated(estimators, screen)
    for metric, sign in {"energy_distance": -1, "delta_pearson": 1}.items():
        found = paired_differences(result.per_perturbation, metric, "mean", confidence=0.9)
        assert list(found.index) == ["oracle", FLOOR, CEILING]
        one, other = (
            scored(result, name).droplevel("split")[metric].sort_index()
            for name in ("oracle", "mean")
        )
        interval = ttest_rel(one, other).confidence_interval(0.9)
        row = found.loc["oracle"]
        np.testing.assert_allclose([row["lower"], row["upper"]], interval)
        assert row["mean"] == pytest.approx((one - other).mean())
        assert row["share_better"] == (sign * (one - other) > 0).mean()
        assert row["n_perturbations"] == 8


def test_paired_differences_are_of_what_both_predicted():
    table = pd.DataFrame(
        {
            "estimator": ["a", "a", "a", "b", "b", "b", "c", "c", "c"],
            "split": [0, 1, 0] * 3,
            "perturbation": ["P", "P", "Q"] * 3,
            "response_mse": [1.0, 3.0, np.nan, 2.0, 2.0, 2.0, np.nan, np.nan, np.nan],
        }
    )
    found = paired_differences(table, "response_mse", "b")
    assert found.loc["a", ["mean", "share_better", "n_perturbations"]].tolist() == [0, 0, 1]
    assert found.loc["a", ["standard_error", "lower", "upper"]].isna().all()
    assert found.loc["c", "n_perturbations"] == 0
    assert found.loc["c"].drop("n_perturbations").isna().all()


def test_paired_differences_refuse_what_is_not_in_the_table(screen):
    table = evaluated({"a": ControlMean()}, screen, metrics=CHEAP).per_perturbation
    for arguments, message in (
        (("energy_distance", "a"), r"no metric 'energy_distance': it has \['response_mse'"),
        (("split", "a"), "no metric 'split'"),
        (("response_mse", "b"), "no estimator 'b'"),
    ):
        with pytest.raises(ValueError, match=message):
            paired_differences(table, *arguments)
    with pytest.raises(ValueError, match="confidence must be"):
        paired_differences(table, "response_mse", "a", confidence=95)
