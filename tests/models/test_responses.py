"""Responses of treated cells in latent space: known values, and what follows for predictions."""

import numpy as np
import pandas as pd
import pytest
import torch

from skpert import InVAE, load, save
from skpert._responses import Responses, responses_of
from skpert.datasets import make_invariant
from skpert.preprocessing import CovariateEncoder

FAST = {"max_epochs": 4, "n_hidden": 16, "n_layers": 1, "random_state": 0, "device": "cpu"}
DATA = make_invariant(20, n_invariant=3, n_spurious=1, n_genes=40, random_state=0)
X, OBS = DATA.X, DATA.obs


def measured(responses, states, covariates):
    z, values = (torch.as_tensor(array).float() for array in (states, covariates))
    responses.measure([(z[:3], values[:3]), (z[3:], values[3:])])
    return responses


# Columns: control, drug, new, type 0, type 1
COVARIATES = [
    [1, 0, 0, 1, 0],
    [1, 0, 0, 1, 0],
    [1, 0, 0, 0, 1],
    [0, 1, 0, 1, 0],
    [0, 1, 0, 0, 1],
    [0, 1, 0, 0, 1],
    [0, 0, 1, 1, 0],
    [0, 0, 0, 1, 0],  # of unknown treatment
]
STATES = [[0.0], [2.0], [10.0], [4.0], [11.0], [13.0], [0.0], [99.0]]


def example():
    return measured(Responses(0, [0, 1, 2], [3, 4], 1), STATES, COVARIATES)


@pytest.mark.parametrize(
    ("asked", "moved"),
    [
        ([0, 1, 0, 1, 0], 3.0),  # in its type
        ([0, 1, 0, 0, 1], 2.0),
        ([0, 1, 0, 0, 0], (3 + 2 * 2) / 3),  # of an unknown type: of its cells on average
        ([0, 0, 1, 0, 1], -1.0),  # not measured in this type: as in others
        ([1, 0, 0, 0, 1], 0.0),  # controls stay
    ],
)
def test_known_values(asked, moved):
    found, known = example()(torch.tensor([asked]).float())
    assert known.item()
    assert found.item() == pytest.approx(moved)


def test_types_that_were_not_treated_do_not_change_the_response():
    """The difference of all treated and all control cells would be that of their types."""
    covariates = [[1, 0, 1, 0], [1, 0, 0, 1], [1, 0, 0, 1], [0, 1, 1, 0]]
    responses = measured(
        Responses(0, [0, 1], [2, 3], 1), [[0.0], [50.0], [50.0], [1.0]], covariates
    )
    for asked in ([0, 1, 1, 0], [0, 1, 0, 1], [0, 1, 0, 0]):
        assert responses(torch.tensor([asked]).float())[0].item() == pytest.approx(1.0)


def test_without_controls_nothing_is_known():
    none = measured(Responses(None, [], [3, 4], 1), STATES, COVARIATES)
    treated = measured(Responses(0, [0, 1, 2], [3, 4], 1), STATES[3:], COVARIATES[3:])
    for responses in (none, treated):
        moved, known = responses(torch.tensor(COVARIATES).float())
        assert moved.shape == (8, 1)
        assert not known.any()


def test_the_covariate_with_controls_is_that_of_treatments():
    obs = pd.DataFrame(
        {
            "age": [1.0, 2.0, 3.0],
            "type": ["B", "T", "T"],
            "drug": ["A", "control", "control"],
            "site": ["control", "x", "y"],
        }
    )
    design = CovariateEncoder(invariant=["age", "type", "drug"], spurious="site").fit(obs)
    responses = responses_of(design, "control", 2)
    columns = design.columns_
    assert columns[responses.treatments].tolist() == ["drug=A", "drug=control"]
    assert columns[responses.contexts].tolist() == ["type=B", "type=T"]
    assert responses.treatments[responses.control] == columns.tolist().index("drug=control")
    assert responses_of(design, "x", 2).treatments == []


# Predictions


@pytest.fixture(scope="module", params=["nonfactorized", "factorized"])
def model(request):
    """``condition`` is C0, C1, ...; the first are the controls."""
    invariant = ["cell_type", "condition"]
    settings = {"invariant": invariant, "spurious": "batch", "prior": request.param, **FAST}
    return InVAE(4, control="C0", **settings).fit(X, OBS)


def test_control_cells_keep_what_is_their_own(model):
    cells = X[(OBS["condition"] == "C0").to_numpy()][:9]
    treated = pd.DataFrame({"condition": ["C1"], "cell_type": ["T0"]})
    own = model.posterior(cells).z
    asked = torch.from_numpy(model.design_.transform(treated).toarray())
    moved, known = model.module_.responses(asked[:, : model.module_.n_columns])
    assert known.all()
    z = torch.from_numpy(own) @ torch.linalg.inv(model.module_.whitening)
    z[:, :3] += moved
    library = torch.from_numpy(cells.sum(1, keepdims=True)).float()
    with torch.no_grad():
        expected = model.module_.decoder(z, library, library[:, :0]).mean.numpy()
    np.testing.assert_allclose(model.predict_intervention(treated, cells), expected, rtol=1e-3)


def test_control_cells_without_a_treatment_are_reconstructed(model):
    control, nothing = pd.DataFrame({"condition": ["C0"]}), pd.DataFrame(index=[0])
    predicted = [model.predict_intervention(design, X[:5]) for design in (control, nothing)]
    np.testing.assert_allclose(*predicted, rtol=1e-5)


def test_responses_come_back_from_files(model, tmp_path):
    save(model, tmp_path / "model")
    treated = pd.DataFrame({"condition": ["C1"]})
    back = load(tmp_path / "model").predict_intervention(treated, X[:5])
    np.testing.assert_array_equal(back, model.predict_intervention(treated, X[:5]))
