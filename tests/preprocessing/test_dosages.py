"""Dosages on linear, logarithmic and Hill scales."""

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array
from sklearn.base import clone

from skpert import SAMSVAE
from skpert.exceptions import DataWarning
from skpert.preprocessing import DosageTransform
from skpert.preprocessing._curves import fit_hill, hill, least_squares, means_of

DOSES = np.geomspace(0.01, 100, 8)
EC50, EXPONENT = np.array([0.3, 5.0]), np.array([1.0, 2.0])
KINDS = ["linear", "log", "hill"]


def screen(n_cells=50, size=5.0, seed=0, scale=1.0):
    """Dosages of two drugs, and responses of two latents that share the noise of a third."""
    random = np.random.default_rng(seed)
    A = np.zeros((200 + 2 * 8 * n_cells, 2))
    Z = random.normal(size=(len(A), 3)) @ (np.eye(3) + 0.3)
    for j in range(2):
        rows = 200 + j * 8 * n_cells + np.arange(8 * n_cells)
        A[rows, j] = np.repeat(DOSES, n_cells)
        Z[rows, j] += size * hill(A[rows, j], EC50[j], EXPONENT[j])
    return pd.DataFrame(scale * A, columns=["B", "A"]), Z


def test_linear_and_log_are_their_formulas():
    A = np.array([[0, 0], [1, 0], [10, 2.0], [0, 4.0]])
    linear = DosageTransform("linear").fit_transform(A)
    np.testing.assert_allclose(linear, A / [10, 4])
    log = DosageTransform("log").fit_transform(A)
    expected = np.log1p(A / [1, 2]) / np.log1p([10, 2])
    np.testing.assert_allclose(log, expected)


def test_hill_curves_are_those_of_the_truth():
    A, Z = screen()
    transform = DosageTransform("hill").fit(A, Z)
    assert transform.curves_.index.tolist() == ["B", "A"]
    np.testing.assert_allclose(transform.curves_["ec50"], EC50, rtol=0.25)
    np.testing.assert_allclose(transform.curves_["hill"], EXPONENT, rtol=0.25)
    expected = hill(DOSES, 5, 2) / hill(100, 5, 2)
    new = pd.DataFrame({"B": 0.0, "A": DOSES})
    np.testing.assert_allclose(transform.transform(new)["A"], expected, atol=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_no_unit_no_order_and_no_axes_matter(kind):
    (A, Z), (scaled, _) = screen(), screen(scale=1000.0)
    first = DosageTransform(kind).fit_transform(A, Z)
    np.testing.assert_allclose(DosageTransform(kind).fit_transform(scaled, Z), first, rtol=1e-4)
    turned = Z @ np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0] * 7 + 2
    other = DosageTransform(kind).fit(A, turned)
    np.testing.assert_allclose(other.transform(A), first, rtol=1e-4)
    swapped = other.transform(A[["A", "B"]])  # by name
    np.testing.assert_allclose(swapped[["B", "A"]], first, rtol=1e-4)
    assert first.max().tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize("kind", KINDS)
def test_every_form_gives_the_same_in_its_form(kind):
    A, Z = screen()
    frame = DosageTransform(kind).fit_transform(A, Z)
    assert frame.index.equals(A.index)
    assert frame.columns.tolist() == ["B", "A"]
    array = DosageTransform(kind).fit_transform(A.to_numpy(), Z)
    assert isinstance(array, np.ndarray)
    sparse = DosageTransform(kind).fit_transform(csr_array(A.to_numpy()), Z)
    np.testing.assert_array_equal(sparse.toarray(), array)
    np.testing.assert_array_equal(frame, array)
    pandas = A.astype(pd.SparseDtype(float, 0.0))
    assert isinstance(
        DosageTransform(kind).fit_transform(pandas, Z).dtypes.iloc[0], pd.SparseDtype
    )


def test_combinations_are_transformed_and_teach_nothing():
    A, Z = screen()
    both = pd.concat([A, pd.DataFrame({"B": [1.0] * 50, "A": [1.0] * 50})], ignore_index=True)
    far = np.vstack([Z, np.random.default_rng(0).normal(100, 1, (50, 3))])
    first, second = (DosageTransform("hill").fit(*data) for data in ((A, Z), (both, far)))
    np.testing.assert_allclose(second.curves_["ec50"], first.curves_["ec50"], rtol=0.02)
    assert (second.transform(both).iloc[-1] > 0).all()


def test_drugs_without_a_response_or_doses_are_named():
    A, Z = screen(size=0.0)
    with pytest.warns(DataWarning, match="learned for 2 of 2 .*'B', 'A'"):
        transform = DosageTransform("hill").fit(A, Z)
    np.testing.assert_allclose(transform.curves_["ec50"], 1, rtol=1e-3)  # middle of the doses
    assert transform.curves_[["ec50_lower", "ec50_upper"]].to_numpy().tolist() == [[0, np.inf]] * 2
    one = pd.DataFrame({"A": np.repeat([0.0, 3.0], 50)})
    with pytest.warns(DataWarning, match="fewer than 3 doses"):
        transform = DosageTransform("hill").fit(one, Z[:100] + 5 * one.to_numpy())
    assert transform.transform(one)["A"].max() == 1


def test_models_take_transformed_dosages():
    A, Z = screen(n_cells=5)
    X = np.random.default_rng(0).poisson(3.0, (len(A), 20))
    model = SAMSVAE(n_latent=2, max_epochs=2, random_state=0)
    model.fit(X, DosageTransform("log").fit_transform(A))
    assert model.perturbations_.tolist() == ["B", "A"]


def test_clone_keeps_the_kind():
    assert clone(DosageTransform("hill")).kind == "hill"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"A": [[-1.0], [0.0]]}, "not negative"),
        ({"A": [[np.nan], [0.0]]}, "finite"),
        ({"A": ["drug", "control"]}, "A holds labels.*get_dummies"),
        ({"A": [[1.0, 0.0], [0.0, 0.0]]}, "no cell received: '1'"),
        ({"kind": "logistic"}, "kind must be one of 'linear', 'log', 'hill'"),
        ({"Z": None}, "give Z"),
        ({"Z": [[1.0]]}, "inconsistent numbers of samples"),
        ({"Z": np.ones((4, 1))}, "does not vary"),
        ({"A": [[1.0], [1.0], [2.0], [2.0]]}, "0 control cells"),
    ],
)
def test_what_cannot_be_used_is_an_error(change, message):
    data = {
        "A": [[0.0], [0.0], [1.0], [2.0]],
        "Z": np.arange(4.0)[:, None],
        "kind": "hill",
    } | change
    with pytest.raises(ValueError, match=message):
        DosageTransform(data["kind"]).fit(data["A"], data["Z"])


def test_other_columns_than_in_fit_are_an_error():
    A, _ = screen()
    transform = DosageTransform("log").fit(A)
    with pytest.raises(
        ValueError, match="perturbations 'C', unknown from fit; known are 'B', 'A'"
    ):
        transform.transform(A.rename(columns={"A": "C"}))
    with pytest.raises(ValueError, match="A has 1 columns, and had 2"):
        transform.transform(A.to_numpy()[:, :1])


def test_least_squares_is_that_of_numpy():
    random = np.random.default_rng(0)
    dose = np.repeat([0, 1, 2, 5.0], 10)
    means = means_of(dose, random.normal(size=(40, 2)) + dose[:, None])
    error, slope, information = least_squares(means.dose, means)
    for k in range(2):
        weight = 1 / means.variance[:, k]
        (a, b), covariance = np.polyfit(
            means.dose, means.mean[:, k], 1, w=np.sqrt(weight), cov="unscaled"
        )
        assert slope[k] == pytest.approx(a)
        assert 1 / information[k] == pytest.approx(covariance[0, 0])
        left = means.mean[:, k] - b - a * means.dose
        assert error[k] == pytest.approx((weight * left**2).sum())


def test_fit_without_noise_is_exact_and_intervals_close():
    dose = np.repeat([0, *DOSES], 4)
    noise = np.tile([-1, -1, 1, 1], 9) * 1e-3
    response = 3 * np.append(np.zeros(4), hill(dose[4:], 2.0, 1.5)) + noise
    found = fit_hill(means_of(dose, response[:, None]), 0.95)
    np.testing.assert_allclose(found.ec50, 2.0, rtol=3e-3)
    np.testing.assert_allclose(found.exponent, 1.5, rtol=3e-3)
    np.testing.assert_allclose(found.maximum, 3.0, rtol=3e-3)


@pytest.mark.parametrize(("ec50", "side"), [(1e4, 2), (1e-4, 1)])
def test_intervals_are_open_where_doses_do_not_bracket_the_curve(ec50, side):
    random = np.random.default_rng(0)
    dose = np.repeat([0, *DOSES], 50)
    response = np.append(np.zeros(50), hill(dose[50:], ec50, 1.0)) * max(ec50 / 100, 1) * 3
    found = fit_hill(means_of(dose, (response + random.normal(size=450))[:, None]), 0.95)
    assert found.ec50[side] == (0, np.inf)[side - 1]
    assert (found.maximum[2, 0] == np.inf) == (side == 2)
