import numpy as np
import pandas as pd
import pytest

from skpert.planning import next_perturbations

RNG = np.random.default_rng(0)
FEATURES = pd.DataFrame(RNG.normal(size=(12, 3)), index=[f"P{i:02}" for i in range(12)])


def kernel(rows, scale):
    distance = ((rows[:, None] - rows[None]) ** 2).sum(-1)
    return np.exp(-distance / (2 * scale**2))


def test_gains_add_up_to_the_log_determinant_of_the_posterior():
    measured = ["P00", "P01"]
    options = {"strategy": "determinant", "length_scale": 1.0, "noise": 0.2}
    batch = next_perturbations(FEATURES, measured=measured, n=4, **options)
    names = [*measured, *batch.index]
    K = kernel(FEATURES.loc[names].to_numpy(), 1.0) + 0.2 * np.eye(6)
    posterior = K[2:, 2:] - K[2:, :2] @ np.linalg.solve(K[:2, :2], K[:2, 2:])
    expected = np.linalg.slogdet(posterior / 0.2)[1]
    np.testing.assert_allclose(batch["gain"].sum(), expected)


def test_centres_are_the_furthest_from_all_before_them():
    measured = ["P00", "P01"]
    batch = next_perturbations(FEATURES, measured=measured, n=10)
    place = FEATURES.loc[[*measured, *batch.index]].to_numpy()
    between = np.sqrt(((place[:, None] - place[None]) ** 2).sum(-1))
    nearest = [between[: 2 + i, 2 + i :].min(0) for i in range(10)]
    np.testing.assert_allclose(batch["distance"], [row[0] for row in nearest])
    assert all(row.argmax() == 0 for row in nearest)
    scaled = next_perturbations(7 * FEATURES + 3, measured=measured, n=10)
    assert scaled.index.tolist() == batch.index.tolist()


def test_without_measured_ones_the_first_centre_is_in_the_middle():
    line = pd.DataFrame({"x": [0.0, 1.0, 2.0, 3.0, 9.0, 9.0]}, index=list("ABCDEF"))
    batch = next_perturbations(line, n=6)
    assert batch.index[:3].tolist() == ["D", "E", "A"]
    assert np.isnan(batch["distance"].iloc[0])
    assert batch["distance"].iloc[-1] == 0  # E and F are alike
    assert sorted(batch.index) == list("ABCDEF")


def test_a_batch_is_diverse_and_one_of_variances_alone_is_not():
    line = pd.DataFrame({"x": [0.0, 5.0, 5.01, 5.02, 3.0]}, index=list("ABCDE"))
    options = {"measured": ["A"], "n": 2, "length_scale": 1.0}
    diverse = next_perturbations(line, strategy="determinant", **options).index
    alike = next_perturbations(line, strategy="variance", **options).index
    assert "E" in diverse
    assert "E" not in alike


def test_the_total_variance_is_lowered_by_what_others_are_like():
    crowd = pd.DataFrame({"x": [0.0, 0.1, 0.2, 9.0]}, index=list("ABCD"))
    options = {"n": 1, "length_scale": 1.0}
    assert next_perturbations(crowd, strategy="total", **options).index[0] == "B"
    far = next_perturbations(crowd, measured=["B"], strategy="determinant", **options)
    assert far.index[0] == "D"


def test_pairs_have_the_sum_of_the_features_of_their_parts():
    options = {"measured": ["P00"], "n": 1, "length_scale": 1.0}
    pair = next_perturbations(FEATURES, ["P01+P02"], **options)
    row = (FEATURES.loc["P01"] + FEATURES.loc["P02"]).rename("both")
    both = next_perturbations(pd.concat([FEATURES, row.to_frame().T]), ["both"], **options)
    np.testing.assert_allclose(pair.to_numpy(), both.to_numpy())


def test_random_choices_follow_the_seed():
    one, same = (
        next_perturbations(FEATURES, n=5, strategy="random", random_state=3) for _ in range(2)
    )
    assert one.index.tolist() == same.index.tolist()
    assert one.index.is_unique


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 13}, "n=13 perturbations are asked for, and there are 12"),
        (
            {"candidates": ["P01", "P02"], "n": 3},
            "n=3 perturbations are asked for, and there are 2",
        ),
        ({"candidates": [], "n": 1}, "n=1 perturbations are asked for, and there are 0"),
        ({"n": 0}, "n must be an integer of at least 1"),
        ({"candidates": ["P01"], "measured": ["P01"], "n": 1}, "measured already: 'P01'"),
        ({"candidates": ["P01", "X"], "n": 1}, "no row for 1 perturbations: 'X'"),
        ({"candidates": ["P01", "P01"], "n": 1}, "more than once"),
        ({"measured": ["Y"]}, "no row for 1 perturbations: 'Y'"),
        ({"noise": 0.0}, "noise"),
        ({"length_scale": -1.0}, "length_scale"),
        ({"strategy": "best"}, "strategy must be one of"),
    ],
)
def test_bad_choices_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        next_perturbations(FEATURES, **options)


def test_missing_features_are_refused():
    with pytest.raises(ValueError, match="missing or infinite for 1 perturbations, 'P03'"):
        next_perturbations(FEATURES.mask(FEATURES == FEATURES.iloc[3, 1]))
    with pytest.raises(ValueError, match="several rows of 'P00'"):
        next_perturbations(pd.concat([FEATURES, FEATURES.iloc[:1]]))
    for nothing in (None, FEATURES.iloc[:0], FEATURES.iloc[:, :0]):
        with pytest.raises(ValueError, match="features must be a DataFrame"):
            next_perturbations(nothing)
    with pytest.raises(ValueError, match="features must be numbers.*'kinase'"):
        next_perturbations(FEATURES.assign(kind="kinase"))
