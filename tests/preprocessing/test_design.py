import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import coo_matrix, csc_array, csr_matrix
from sklearn.base import clone
from sklearn.utils import estimator_checks

from skpert.exceptions import DataWarning
from skpert.preprocessing import PerturbationEncoder, perturbation_labels

LABELS = ["control", "control", "B", "A", "A+B", "A", "B"]
DOSAGE = [[0, 0], [0, 0], [0, 1], [1, 0], [1, 1], [1, 0], [0, 1]]  # of A and B

# those of scikit-learn's suite that do not ask for the 2-D X of a predictor
CHECKS = [
    "check_estimator_cloneable",
    "check_estimator_tags_renamed",
    "check_valid_tag_types",
    "check_estimator_repr",
    "check_no_attributes_set_in_init",
    "check_fit_score_takes_y",
    "check_estimators_overwrite_params",
    "check_dont_overwrite_parameters",
    "check_estimators_fit_returns_self",
    "check_readonly_memmap_input",
    "check_estimators_unfitted",
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_mixin_order",
    "check_estimators_dtypes",
    "check_pipeline_consistency",
    "check_estimator_sparse_tag",
    "check_estimator_sparse_array",
    "check_estimator_sparse_matrix",
    "check_estimators_pickle",
    "check_f_contiguous_array_estimator",
    "check_transformer_data_not_an_array",
    "check_transformer_general",
    "check_transformers_unfitted",
    "check_parameters_default_constructible",
    "check_methods_sample_order_invariance",
    "check_methods_subset_invariance",
    "check_fit2d_1sample",
    "check_fit2d_1feature",
    "check_get_params_invariance",
    "check_set_params",
    "check_dict_unchanged",
    "check_fit_idempotent",
    "check_fit_check_is_fitted",
    "check_fit_non_negative",
]


def fit(A, **parameters):
    """Fit without the warnings that are not what the test is about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        return PerturbationEncoder(**parameters).fit(A)


@pytest.mark.filterwarnings("ignore::skpert.exceptions.DataWarning")
@pytest.mark.parametrize("name", CHECKS)
def test_scikit_learn_check(name):
    getattr(estimator_checks, name)("PerturbationEncoder", PerturbationEncoder())


@pytest.mark.parametrize(
    "A",
    [
        LABELS,
        np.array(LABELS),
        np.array(LABELS, dtype=bytes),
        pd.Series(LABELS, index=range(10, 17)),
        pd.Series(LABELS, dtype="string"),
        pd.Index(LABELS),
        pd.Categorical(LABELS, categories=["unused", *sorted(set(LABELS))]),
        pd.DataFrame({"perturbation": LABELS, "n": 1}),
        pd.DataFrame(DOSAGE, columns=["A", "B"]),
        pd.DataFrame(DOSAGE, columns=["A", "B"]).astype(bool),
        pd.DataFrame(DOSAGE, columns=["A", "B"], dtype="Int64"),
        pd.DataFrame(DOSAGE, columns=["A", "B"]).assign(control=[1, 1, 0, 0, 0, 0, 0]),
    ],
)
def test_every_form_of_the_same_design_gives_the_same_dosages(A):
    encoder = PerturbationEncoder().fit(A)
    assert encoder.perturbations_.tolist() == ["A", "B"]
    assert encoder.n_cells_.tolist() == [3, 3]
    assert encoder.n_control_cells_ == 2
    dosage = encoder.transform(A)
    assert dosage.dtype == np.float32
    assert dosage.format == "csr"
    assert dosage.toarray().tolist() == DOSAGE
    assert encoder.labels(A).tolist() == LABELS
    assert perturbation_labels(A).tolist() == LABELS


@pytest.mark.parametrize(
    "A",
    [
        DOSAGE,
        np.array(DOSAGE, dtype=bool),
        np.array(DOSAGE, dtype=object),
        csr_matrix(DOSAGE),
        csc_array(DOSAGE),
        coo_matrix(DOSAGE),
    ],
)
def test_columns_of_an_array_are_named_by_position(A):
    encoder = PerturbationEncoder().fit(A)
    assert encoder.perturbations_.tolist() == ["0", "1"]
    assert encoder.transform(A).toarray().tolist() == DOSAGE
    assert encoder.transform(["1+0", "1"]).toarray().tolist() == [[1, 1], [0, 1]]
    assert encoder.labels(A)[[0, 2, 4]].tolist() == ["control", "1", "0+1"]


def test_sparse_input_is_left_as_it_was():
    A = csr_matrix(([2.0, 0.0, 1.0], [1, 0, 1], [0, 2, 3, 3]), shape=(3, 2))
    encoder = fit(A)
    assert encoder.n_cells_.tolist() == [0, 2]
    assert A.nnz == 3
    assert A.indices.tolist() == [1, 0, 1]


def test_another_separator_and_control():
    encoder = fit(["NT_a", "X_Y", "NT_a", "Y|X"], control="NT_a", sep="|")
    assert encoder.perturbations_.tolist() == ["X", "X_Y", "Y"]
    assert encoder.n_control_cells_ == 2
    assert fit(["A+B", "B+A", "CD4+"], sep=None).perturbations_.tolist() == ["A+B", "B+A", "CD4+"]
    encoder = fit([0, 1, 2, 0], control=0)
    assert encoder.transform([0.0, 2.0]).toarray().tolist() == [[0, 0], [0, 1]]


def test_columns_of_dosages_keep_their_order():
    A = pd.DataFrame({"b": [0.5, 1, 0, 0.1], "a": [2, 0, 0, 1]})
    encoder = fit(A)
    assert encoder.perturbations_.tolist() == ["b", "a"]
    np.testing.assert_array_equal(encoder.transform(A).toarray(), np.float32(A))


def test_order_of_cells_does_not_matter():
    order = np.random.default_rng(0).permutation(len(LABELS))
    for additive in (True, False):
        shuffled = fit(np.array(LABELS)[order], additive=additive)
        dosage = fit(LABELS, additive=additive).transform(LABELS).toarray()
        np.testing.assert_array_equal(shuffled.transform(LABELS).toarray(), dosage)


def test_a_bare_string_is_one_design():
    encoder = PerturbationEncoder().fit(LABELS)
    assert encoder.transform("B+A").toarray().tolist() == [[1, 1]]
    assert encoder.labels("B+A").tolist() == ["A+B"]


def test_frames_are_matched_by_name_and_arrays_by_position():
    encoder = PerturbationEncoder().fit(LABELS)
    frame = pd.DataFrame({"B": [2.0, 0], "unused": [0, 0]})
    assert encoder.transform(frame).toarray().tolist() == [[0, 2], [0, 0]]
    assert encoder.transform(frame[["unused", "B"]].to_numpy()).toarray().tolist()[0] == [0, 2]


def test_a_combination_is_an_intervention_of_its_own():
    encoder = fit([*LABELS, "C+B"], additive=False)
    assert encoder.perturbations_.tolist() == ["A", "A+B", "B", "B+C"]
    assert encoder.n_cells_.tolist() == [2, 1, 2, 1]
    assert encoder.columns_.tolist() == ["A", "B", "C"]
    expected = [[0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    A = ["B+A", "control", "B", "B+C"]
    assert encoder.transform(A).toarray().tolist() == expected
    multi_hot = [[1, 1, 0], [0, 0, 0], [0, 1, 0], [0, 1, 1]]
    assert encoder.transform(multi_hot).toarray().tolist() == expected


def test_combinations_of_a_dosage_matrix_follow_its_columns():
    A = pd.DataFrame(
        [[0, 1, 1], [1, 0, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0]], columns=["z", "never", "a"]
    ).assign(never=[0, 0, 0, 0, 0])
    encoder = fit(A, additive=False)
    assert encoder.perturbations_.tolist() == ["z", "never", "a", "a+z"]
    assert encoder.n_cells_.tolist() == [2, 0, 1, 1]
    assert encoder.n_control_cells_ == 1
    assert encoder.transform(A).toarray().argmax(axis=1).tolist() == [2, 3, 0, 0, 0]


def test_unseen_combination():
    A = ["A", "A", "B", "B", "control"]
    assert fit(A).transform("A+B").toarray().tolist() == [[1, 1]]
    with pytest.raises(ValueError, match=r"'A\+B'.*'A', 'B'.*cannot predict one that it has not"):
        fit(A, additive=False).transform("A+B")


def test_graded_dosages_are_an_error_where_combinations_are_their_own():
    with pytest.raises(ValueError, match="Dosages must be 0 or 1 .* has 0.5"):
        PerturbationEncoder(additive=False).fit([[1, 0], [0.5, 0], [0, 1]])


@pytest.mark.parametrize("additive", [True, False])
def test_unknown_names_are_listed_with_the_known(additive):
    encoder = fit(LABELS, additive=additive)
    with pytest.raises(ValueError, match=r"unknown perturbations: 'X', 'Y'\. Known are 'A', "):
        encoder.transform(["A", "Y", "X", "Y"])
    with pytest.raises(ValueError, match="unknown perturbations: 'X'"):
        encoder.transform(pd.DataFrame({"X": [1], "A": [0]}))


def test_long_lists_of_names_are_cut():
    encoder = fit([f"P{i:02}" for i in range(30)])
    with pytest.raises(ValueError, match=r"'Q9' \.\.\. and 2 more\. .*'P19' \.\.\. and 10 more"):
        encoder.transform([f"Q{i}" for i in range(10)] + ["R1", "R2"])


@pytest.mark.parametrize(
    ("A", "message"),
    [
        ([], "A is empty"),
        (np.zeros((0, 3)), "A is empty"),
        (["control", "control"], "no perturbed cell: each of its n_samples=2"),
        (np.zeros((3, 2)), "no perturbed cell: each of its n_samples=3"),
        (["A", "A"], "one perturbation only, 'A' in each of its n_samples=2"),
        (["A+B", "B+A"], r"one perturbation only, 'A\+B'"),
    ],
)
def test_designs_without_a_contrast(A, message):
    with pytest.raises(ValueError, match=message):
        PerturbationEncoder().fit(A)


def test_one_perturbation_with_controls_or_with_two_dosages_is_enough():
    assert PerturbationEncoder().fit(["A", "control", "A"]).n_cells_.tolist() == [2]
    assert fit([[1], [2]]).n_cells_.tolist() == [2]


def test_another_number_of_columns():
    encoder = PerturbationEncoder().fit(LABELS)
    with pytest.raises(ValueError, match="have 3 columns, but 2 are expected, .*: 'A', 'B'"):
        encoder.transform(np.zeros((4, 3)))


def warnings_of(A, **parameters):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        PerturbationEncoder(**parameters).fit(A)
    assert {warning.category for warning in caught} <= {DataWarning}
    assert {warning.filename for warning in caught} <= {__file__}
    return [str(warning.message) for warning in caught]


def test_a_sound_design_warns_of_nothing():
    assert warnings_of(LABELS) == []


def test_perturbations_with_one_cell_share_one_warning():
    (message,) = warnings_of([*LABELS, *"CDEFGHI"])
    assert "one cell only (7): 'C', 'D', 'E', 'F', 'G' ... and 2 more" in message


def test_no_control_cells():
    (message,) = warnings_of(["A", "A", "B", "B"])
    assert "no control cell (label 'control')" in message
    assert "relative to the mean of all training cells" in message


@pytest.mark.parametrize(
    "name", ["ctrl", "Control", "NT", "NT2", "non-targeting", "NTC", "negctrl_1", "Unperturbed"]
)
def test_a_label_that_looks_like_a_control(name):
    (message,) = warnings_of(["A", "A", name, name])
    assert f"look like a control, '{name}', but `control` names 'control'" in message
    assert "relative to the mean" in message
    (message,) = warnings_of(["A", "A", name, name, "control"])
    assert "relative to the mean" not in message
    assert warnings_of(["A", "A", name, name], control=name) == []


@pytest.mark.parametrize("name", ["CTRLX", "NTN1", "CONTROLLER", "ANTC"])
def test_a_gene_that_does_not_look_like_a_control(name):
    assert warnings_of(["control", name, name, "B", "B"]) == []


def test_numbers_as_labels_need_no_control():
    encoder = fit(np.array([2, 0, 1, 1, 0]))
    assert encoder.perturbations_.tolist() == ["0", "1", "2"]
    y = np.random.default_rng(0).normal(size=40)
    encoder = fit(y)
    assert len(encoder.perturbations_) == 40
    np.testing.assert_array_equal(encoder.transform(y).sum(axis=1), 1)


@pytest.mark.parametrize("additive", [True, False])
def test_extended_appends_and_leaves_the_original(additive):
    encoder = fit(LABELS, additive=additive)
    before = pickle.dumps(encoder)
    old = encoder.perturbations_.tolist()
    wider = encoder.extended(["D", "C", "control", "C", "D"])
    assert pickle.dumps(encoder) == before
    assert wider.perturbations_.tolist() == [*old, "C", "D"]
    assert wider.n_cells_.tolist() == [*encoder.n_cells_, 2, 2]
    assert wider.n_control_cells_ == encoder.n_control_cells_
    dosage = wider.transform([*LABELS, "D"]).toarray()
    np.testing.assert_array_equal(dosage[:-1, : len(old)], encoder.transform(LABELS).toarray())
    assert dosage[-1].tolist() == [0] * (len(old) + 1) + [1]
    assert wider.columns_.tolist() == ["A", "B", "C", "D"]


def test_extended_with_a_new_combination_of_known_parts():
    encoder = fit(["A", "A", "B", "B", "control"], additive=False)
    wider = encoder.extended(["B+A", "A+B"])
    assert wider.perturbations_.tolist() == ["A", "B", "A+B"]
    assert wider.transform([[1, 1]]).toarray().tolist() == [[0, 0, 1]]


def test_extended_refuses_what_is_known_and_what_is_empty():
    encoder = PerturbationEncoder().fit(LABELS)
    with pytest.raises(ValueError, match="A holds 'B', known already"):
        encoder.extended(["C", "B"])
    with pytest.raises(ValueError, match="no perturbed cell"):
        encoder.extended(["control"])
    with pytest.warns(DataWarning, match=r"one cell only \(1\): 'C'"):
        encoder.extended(["C"])


def test_clone_and_pickle():
    encoder = PerturbationEncoder(control="x", sep=None, environment=["lane"], additive=False)
    assert clone(encoder).get_params() == encoder.get_params()
    fitted = fit(LABELS)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(
        again.transform(LABELS).toarray(), fitted.transform(LABELS).toarray()
    )
