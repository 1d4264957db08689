import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array
from scipy.stats import norm

from skpert.datasets import load_screen
from skpert.preprocessing import LogNormalize, detectable_perturbations

N = 60  # cells of each perturbation


def screen(shift=3.0, n_controls=200, seed=0):
    """Normal expression in which JAK2 moves one gene and nothing moves under NONE."""
    rng = np.random.default_rng(seed)
    A = np.array(["control"] * n_controls + ["NONE", "JAK2"] * N + ["RARE"] * 9, dtype=object)
    X = rng.normal(size=(len(A), 4))
    X[A == "JAK2", 1] += shift
    return X, A


def table(X, A, **parameters):
    return detectable_perturbations(X, A, **{"min_cells": 10, "random_state": 0} | parameters)


def test_table_is_sorted_and_tells_what_shows_from_what_does_not():
    found = table(*screen())
    assert found.index.tolist() == ["JAK2", "NONE", "RARE"]
    assert found.columns.tolist() == ["n_cells", "accuracy", "standard_error", "kept"]
    assert found["n_cells"].tolist() == [N, N, 9]
    assert found["kept"].tolist() == [True, False, False]
    assert found["kept"].dtype == bool
    assert abs(found["accuracy"]["NONE"] - 0.5) < 0.15
    assert np.isnan(found.loc["RARE", ["accuracy", "standard_error"]].astype(float)).all()


def test_accuracy_comes_near_that_of_the_best_classifier():
    # two unit normals whose means are `shift` apart: no rule is right more often than this
    rng, n, shift = np.random.default_rng(1), 2000, 1.2
    A = np.repeat(["control", "P"], n)
    found = table(rng.normal(size=(2 * n, 2)) + shift * (A == "P")[:, None] * [1, 0], A)
    assert found["accuracy"]["P"] == pytest.approx(norm.cdf(shift / 2), abs=0.02)
    p = found["accuracy"]["P"]
    assert found["standard_error"]["P"] == pytest.approx(np.sqrt(p * (1 - p) / (2 * n)))


def test_classes_are_balanced_so_that_chance_is_one_half():
    # without an effect, guessing the larger class would be right for 20 of 21 cells
    X, A = screen(n_controls=20 * N)
    assert table(X, A)["accuracy"]["NONE"] < 0.65
    X, A = screen(n_controls=12)
    assert table(X, A)["standard_error"]["JAK2"] in [
        np.sqrt(right / 24 * (1 - right / 24) / 24) for right in range(25)
    ]


def test_a_perturbation_without_effect_is_right_half_of_the_time_on_average():
    accuracy = [table(*screen(seed=seed))["accuracy"]["NONE"] for seed in range(12)]
    assert np.mean(accuracy) == pytest.approx(0.5, abs=0.04)


def test_limits_are_inclusive():
    X, A = screen()
    assert not table(X, A, min_cells=N + 1)["kept"].any()
    assert table(X, A, min_cells=N)["kept"]["JAK2"]
    accuracy = table(X, A)["accuracy"]["JAK2"]
    assert table(X, A, min_accuracy=accuracy)["kept"]["JAK2"]
    assert not table(X, A, min_accuracy=accuracy + 1e-9)["kept"]["JAK2"]
    assert table(X, A, min_accuracy=0)["kept"].tolist() == [True, True, False]


def test_fewer_cells_than_folds_are_not_judged_whatever_the_limit():
    found = table(*screen(), min_cells=1, n_splits=10, min_accuracy=0)
    assert np.isnan(found["accuracy"]["RARE"])
    assert not found["kept"]["RARE"]
    assert table(*screen(), min_cells=1, min_accuracy=0)["kept"]["RARE"]


def test_a_seed_gives_the_same_table_and_another_one_other_cells():
    X, A = screen(shift=1)
    pd.testing.assert_frame_equal(table(X, A), table(X, A))
    pd.testing.assert_frame_equal(
        table(X, A, random_state=3), table(X, A, random_state=np.random.RandomState(3))
    )
    assert table(X, A)["accuracy"]["JAK2"] != table(X, A, random_state=1)["accuracy"]["JAK2"]


def test_one_result_does_not_depend_on_the_other_perturbations():
    X, A = screen(shift=1)
    alone = A != "NONE"
    pd.testing.assert_frame_equal(table(X, A).drop(index="NONE"), table(X[alone], A[alone]))


def test_genes_may_have_any_scale_and_order():
    X, A = screen(shift=1)
    scaled = X[:, ::-1] * [1e-4, 1, 100, 1e4] - [0, 5, 0, 1]
    np.testing.assert_allclose(table(scaled, A)["accuracy"], table(X, A)["accuracy"], atol=0.01)
    constant = np.column_stack([X, np.full(len(X), 2.5)])
    pd.testing.assert_frame_equal(table(constant, A), table(X, A))


def test_forms_of_data_and_design_are_equal():
    X, A = screen(shift=1)
    X = np.where(X > 0, X, 0).astype(np.float32)
    expected = table(X, A)
    obs = pd.DataFrame({"target": A}, index=[str(i) for i in range(len(A))])
    data = anndata.AnnData(np.zeros_like(X), obs=obs, layers={"log": X})
    pd.testing.assert_frame_equal(table(csr_array(X), A), expected)
    pd.testing.assert_frame_equal(
        table(data, data.obs, perturbation="target", layer="log"), expected
    )
    pd.testing.assert_frame_equal(
        table(X, np.where(A == "control", "NT", A), control="NT"), expected
    )
    dosages = pd.get_dummies(pd.Series(A)).astype(float)
    pd.testing.assert_frame_equal(table(X, dosages), expected)


def test_a_combination_is_a_perturbation_of_its_own():
    X, A = screen()
    A[A == "NONE"] = np.resize(["A+B", "B + A"], N)
    assert table(X, A).index.tolist() == ["A+B", "JAK2", "RARE"]
    assert table(X, A, sep=None).index.tolist() == ["A+B", "B + A", "JAK2", "RARE"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"A": ["control"] * 6}, "A has no perturbation: every cell has the label 'control'"),
        ({"A": ["P"] * 6}, r"A has 0 control cells \(label 'control'\), and n_splits=5"),
        ({"A": ["P", "control"]}, "inconsistent numbers of samples"),
        ({"min_accuracy": 1.5}, "min_accuracy must be a number from 0 to 1, got 1.5"),
        ({"min_accuracy": -0.1}, "min_accuracy must be a number from 0 to 1, got -0.1"),
        ({"min_accuracy": np.nan}, "min_accuracy must be a number from 0 to 1, got nan"),
        ({"min_cells": 0}, "min_cells == 0, must be >= 1"),
        ({"n_splits": 1}, "n_splits == 1, must be >= 2"),
        ({"layer": "counts"}, "layer='counts' chooses a layer of an AnnData"),
        ({"X": np.full((6, 2), np.nan)}, "Input X contains NaN"),
    ],
)
def test_bad_input(bad, message):
    good = {"X": np.ones((6, 2)), "A": ["P"] * 3 + ["control"] * 3}
    with pytest.raises(ValueError, match=message):
        detectable_perturbations(**good | bad)


@pytest.mark.screen
def test_targets_of_the_interferon_screen_that_show(data_dir):
    # knock-outs in the response to interferon gamma, and SMAD4
    papalexi = load_screen(data_dir / "papalexi2021_thp1_crispr.h5ad")
    found = detectable_perturbations(
        LogNormalize().fit_transform(papalexi.X), papalexi.A, random_state=0
    )
    assert found.index[found["kept"]].tolist() == [
        "IFNGR1",
        "IFNGR2",
        "IRF1",
        "JAK2",
        "SMAD4",
        "STAT1",
    ]
    assert found.index[found["accuracy"].isna()].tolist() == ["MYC", "SPI1"]
    silent = ["ATF2", "CAV1", "CD86", "ETV7", "IRF7", "MARCH8", "PDCD1LG2", "STAT5A"]
    assert (found["accuracy"][silent] < 0.55).all()
