import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from skpert.preprocessing import PerturbationEncoder

LABELS = ["control", "A", "A", "B", "B"]
FRAME = pd.DataFrame(
    {
        "perturbation": ["control", "A", "A", "control"],
        "donor": pd.Categorical(["D2", "D1", "D2", "D10"]),
        "lane": [2, 1, 1, 2],
        "age": [1.0, 3.0, 3.0, 1.0],
        "constant": np.float32([5, 5, 5, 5]),
    }
)


def test_environments_are_one_hot_or_standardised():
    encoder = PerturbationEncoder(environment=["donor", "age", "lane", "constant"]).fit(FRAME)
    names = ["donor=D1", "donor=D10", "donor=D2", "age", "lane=1", "lane=2", "constant"]
    assert encoder.environment_names_.tolist() == names
    assert encoder.n_environments_ == 7
    environments = encoder.environments(FRAME)
    assert environments.dtype == np.float32
    assert environments.tolist() == [
        [0, 0, 1, -1, 0, 1, 0],
        [1, 0, 0, 1, 1, 0, 0],
        [0, 0, 1, 1, 1, 0, 0],
        [0, 1, 0, -1, 0, 1, 0],
    ]
    new = pd.DataFrame({"donor": ["D1"], "lane": ["2"], "age": [4], "constant": [6]})
    assert encoder.environments(new).tolist() == [[1, 0, 0, 2, 0, 1, 1]]
    assert encoder.transform(["A"]).toarray().tolist() == [[1]]


def test_no_environment_is_a_matrix_of_width_zero():
    encoder = PerturbationEncoder().fit(LABELS)
    assert encoder.n_environments_ == 0
    for A, n_cells in [(LABELS, 5), (FRAME, 4), (csr_matrix((5, 2)), 5), ("A", 1)]:
        assert encoder.environments(A).shape == (n_cells, 0)


@pytest.mark.parametrize(
    ("A", "message"),
    [
        (LABELS, "the columns 'perturbation', 'donor'; A is of type list"),
        (FRAME.drop(columns="donor"), "no column 'donor'; its columns are 'perturbation', 'lane'"),
        (
            FRAME[["lane", "age"]],
            "no column 'perturbation', 'donor'; its columns are 'lane', 'age'",
        ),
        (FRAME.assign(donor=["D1", None, "D2", None]), "Column 'donor' .* 2 missing .* row 1"),
        (FRAME.assign(donor=[1, 2, 3, np.inf]), "Column 'donor' .* 1 missing .* row 3"),
    ],
)
def test_environments_that_cannot_be_used(A, message):
    with pytest.raises(ValueError, match=message):
        PerturbationEncoder(environment=["donor"]).fit(A)


def test_unknown_environment():
    encoder = PerturbationEncoder(environment="donor").fit(FRAME)
    with pytest.raises(ValueError, match="'donor' has unknown categories: 'D7'. Known are 'D1', "):
        encoder.environments(FRAME.assign(donor="D7"))
