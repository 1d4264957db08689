"""Curves of simulated states are those of the truth, and say what is not known."""

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array
from sklearn.base import BaseEstimator

from skpert import SAMSVAE
from skpert.exceptions import DataWarning
from skpert.inspection import dose_response
from skpert.preprocessing._curves import hill

DOSES = np.geomspace(0.01, 100, 8)
N_CONTROLS = 300


class States(BaseEstimator):
    """Estimator whose latent states are X, so that these can be of any kind."""

    control = "control"

    def __init__(self, n_latent=3):
        self.n_latent = n_latent

    def fit(self):
        self.perturbations_ = np.array([])
        return self

    def transform(self, X):
        return np.asarray(X)

    def get_feature_names_out(self):
        return np.array([f"z{k}" for k in range(self.n_latent)], dtype=object)


def screen(shapes, n_cells=50, size=3.0, seed=0, doses=DOSES, well=0.0):
    """States and dosages of drugs that move the first latent; wells that differ."""
    random = np.random.default_rng(seed)
    n_each = len(doses) * n_cells
    A = np.zeros((N_CONTROLS + len(shapes) * n_each, len(shapes)))
    Z = random.normal(size=(len(A), 3))
    for j, share in enumerate(shapes):
        rows = N_CONTROLS + j * n_each + np.arange(n_each)
        A[rows, j] = np.repeat(doses, n_cells)
        Z[rows, 0] += size * share(A[rows, j])
    wells = np.arange(len(A)) // 10
    Z[:, 0] += well * random.normal(size=wells.max() + 1)[wells]
    names = [f"P{j}" for j in range(len(shapes))]
    return Z, pd.DataFrame(A, columns=names), wells


def of_first(response):
    return response.curves[response.curves["latent"] == "z0"]


def test_intervals_cover_the_truth_at_their_level():
    covered = []
    for seed in range(5):
        random = np.random.default_rng(seed)
        ec50, exponent = 10 ** random.uniform(-1, 1, 20), random.uniform(0.7, 2, 20)
        curves = [lambda d, e=e, h=h: hill(d, e, h) for e, h in zip(ec50, exponent, strict=True)]
        Z, A, _ = screen(curves, seed=seed)
        table = of_first(dose_response(States().fit(), Z, A))
        assert (table["shape"] == "hill").mean() > 0.9
        for name, true in {"ec50": ec50, "hill": exponent, "maximum": 3.0}.items():
            covered.append((table[f"{name}_lower"] <= true) & (true <= table[f"{name}_upper"]))
    rate = np.mean(covered, axis=1).reshape(5, 3).mean(0)
    assert ((rate > 0.9) & (rate < 1)).all()  # of 100 intervals of 95 %


def test_shapes_are_told_apart():
    shapes = {
        "linear": lambda d: d / 100,
        "log": lambda d: np.log1p(d / 0.01) / np.log1p(1e4),
        "hill": lambda d: hill(d, 1.0, 1.5),
        "none": lambda d: 0 * d,
    }
    Z, A, _ = screen([shape for shape in shapes.values() for _ in range(10)])
    response = dose_response(States().fit(), Z, A)
    table = of_first(response)
    for i, name in enumerate(shapes):
        rows = table.iloc[10 * i : 10 * i + 10]
        assert (rows["shape"] == name).mean() >= 0.8
        if name != "none":
            assert ((rows["p_linear"] < 0.01) == (name != "linear")).mean() >= 0.9
    linear = table.iloc[:10]
    assert (linear["slope_lower"] < 0.03).all()
    assert (linear["slope_upper"] > 0.03).all()
    assert (linear["ec50_upper"] == np.inf).mean() >= 0.8
    others = response.curves[response.curves["latent"] != "z0"]
    assert (others["shape"] == "none").mean() > 0.95


def test_doses_are_shifts_from_control_cells():
    Z, A, _ = screen([lambda d: hill(d, 1.0, 1.0), lambda d: 0 * d])
    doses = dose_response(States().fit(), Z, A).doses
    row = doses[(doses["perturbation"] == "P0") & (doses["latent"] == "z0")].iloc[3]
    cells = np.isclose(A["P0"], row["dose"])
    control = (A == 0).all(axis=1)
    assert row["n_cells"] == cells.sum() == 50
    assert row["shift"] == pytest.approx(Z[cells, 0].mean() - Z[control, 0].mean())
    assert row["standard_error"] == pytest.approx(np.sqrt(1 / 50 + 1 / N_CONTROLS), rel=0.2)
    found = doses[doses["latent"] == "z0"].groupby("perturbation")
    assert (found["fitted"].max() > 1).tolist() == [True, False]


def test_units_scale_what_has_units():
    Z, A, _ = screen([lambda d: hill(d, 1.0, 1.0)])
    first, second = (of_first(dose_response(States().fit(), Z, A * s)).iloc[0] for s in (1, 1000))
    for name in ("ec50", "ec50_lower", "ec50_upper"):
        assert second[name] == pytest.approx(1000 * first[name], rel=1e-4)
    assert second["slope"] == pytest.approx(first["slope"] / 1000, rel=1e-4)
    for name in ("hill", "maximum", "aic_hill", "p_linear"):
        assert second[name] == pytest.approx(first[name], rel=1e-3, abs=1e-6)


def test_wells_that_differ_are_seen_and_taken_into_account():
    none = [lambda d: 0 * d] * 20
    Z, A, wells = screen(none, well=0.5)
    model = States().fit()
    by_cells = of_first(dose_response(model, Z, A))
    by_wells = of_first(dose_response(model, Z, A, replicate=wells))
    assert (by_cells["p"] < 0.05).mean() > 0.5  # these are wells
    assert (by_wells["p"] < 0.05).mean() < 0.2
    assert by_wells["n_cells"].tolist() == [40] * 20
    curved = screen([lambda d: hill(d, 1.0, 1.0)] * 20, well=0.5)
    assert (of_first(dose_response(model, *curved[:2]))["p_fit"] < 0.05).mean() > 0.4
    assert (
        of_first(dose_response(model, *curved[:2], replicate=wells))["p_fit"] < 0.05
    ).mean() < 0.2


def dose_response_of(form):
    Z, A, _ = screen([lambda d: hill(d, 1.0, 1.0)])
    return dose_response(States().fit(), Z, form(A))


def test_arrays_sparse_matrices_and_frames_give_the_same():
    frame = dose_response_of(lambda A: A).curves.drop(columns="perturbation")
    for form in (lambda A: A.to_numpy(), lambda A: csr_array(A.to_numpy())):
        other = dose_response_of(form).curves
        assert other["perturbation"].tolist() == ["0"] * 3
        pd.testing.assert_frame_equal(other.drop(columns="perturbation"), frame)


def test_two_doses_have_lines_and_no_hill_curve():
    Z, A, _ = screen([lambda d: d], doses=np.array([0.5, 1.0]))
    row = of_first(dose_response(States().fit(), Z, A)).iloc[0]
    assert row["shape"] in ("linear", "log")
    assert row[["ec50", "hill", "maximum", "p_linear"]].isna().all()


def test_combinations_are_left_out():
    Z, A, _ = screen([lambda d: hill(d, 1.0, 1.0)] * 2)
    both = pd.concat([A, pd.DataFrame({"P0": [1.0] * 9, "P1": [1.0] * 9})], ignore_index=True)
    far = np.vstack([Z, np.full((9, 3), 50.0)])
    first, second = (dose_response(States().fit(), *data) for data in ((Z, A), (far, both)))
    pd.testing.assert_frame_equal(first.curves, second.curves)


def test_fitted_models_have_curves_of_their_latents():
    Z, A, _ = screen([lambda d: hill(d, 1.0, 1.0)] * 2, n_cells=5)
    X = np.random.default_rng(0).poisson(np.exp(Z[:, :1] * 0.3 + np.linspace(0, 1, 20)))
    model = SAMSVAE(n_latent=2, max_epochs=2, random_state=0).fit(X, A / 100)
    response = dose_response(model, X, A.to_numpy())
    assert response.curves["perturbation"].tolist() == ["P0", "P0", "P1", "P1"]
    assert set(response.curves["latent"]) == set(model.get_feature_names_out())


@pytest.mark.parametrize(
    ("A", "message"),
    [
        ([[0], [0], [1], [1]], "no perturbation has a curve; they have a single dose"),
        ([[0], [0], [1], [2]], "one cell or replicate at each dose"),
        ([[0], [0], [-1], [2]], "not negative"),
        ([[3], [3], [1], [1]], "0 control cells"),
        (["control", "control", "A", "A"], "A holds labels.*get_dummies"),
        ([[0], [0], [1]], "inconsistent numbers of samples"),
    ],
)
def test_designs_without_curves_are_errors(A, message):
    with pytest.raises(ValueError, match=message):
        dose_response(States().fit(), np.arange(12.0).reshape(4, 3), A)


def test_other_bad_input():
    Z, A, wells = screen([lambda d: d])
    model = States().fit()
    with pytest.raises(ValueError, match="level"):
        dose_response(model, Z, A, level=1.0)
    with pytest.raises(ValueError, match="fdr"):
        dose_response(model, Z, A, fdr=2)
    with pytest.raises(ValueError, match="1 cells have no replicate"):
        dose_response(model, Z, A, replicate=[None, *wells[1:]])
    for of_cells in (wells[1:], np.column_stack([wells, wells])):
        with pytest.raises(ValueError, match="replicate must have one value for each of the"):
            dose_response(model, Z, A, replicate=of_cells)
    with pytest.raises(ValueError, match="A has no columns"):
        dose_response(model, Z, A.iloc[:, :0])


def test_latents_that_never_vary_have_no_response():
    Z, A, _ = screen([lambda d: hill(d, 1.0, 1.0)])
    Z[:, 1] = 3.0
    table = dose_response(States().fit(), Z, A).curves
    assert table["shape"].tolist() == ["hill", "none", "none"]
    assert table["p"][1] == 1


def test_single_doses_beside_others_are_named():
    Z, A, _ = screen([lambda d: d, lambda d: d])
    A.loc[A["P1"] > 0, "P1"] = 1.0
    with pytest.warns(DataWarning, match="a single dose, or none, alone: 'P1'"):
        response = dose_response(States().fit(), Z, A)
    assert set(response.curves["perturbation"]) == {"P0"}
