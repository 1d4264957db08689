import pickle

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils import estimator_checks

from skpert.persistence import load, save
from skpert.preprocessing import CovariateEncoder, PerturbationEncoder

FRAME = pd.DataFrame(
    {
        "cell_type": pd.Categorical(["T", "B", "B", "T"], categories=["NK", "T", "B"]),
        "age": [1.0, 3.0, 2.0, 2.0],
        "site": ["s2", "s1", "s1", None],
        "lane": [2, 1, 1, 2],
        "perturbation": ["control", "A", "A", "control"],
    }
)
SCALE = np.sqrt(0.5)  # standard deviation of the ages, whose mean is 2

CHECKS = [  # those of scikit-learn's suite that do not ask for the 2-D X of a predictor
    "check_estimator_cloneable",
    "check_estimator_tags_renamed",
    "check_valid_tag_types",
    "check_estimator_repr",
    "check_no_attributes_set_in_init",
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
    "check_fit_score_takes_y",
    "check_fit2d_1sample",
    "check_fit2d_1feature",
    "check_estimators_pickle",
    "check_f_contiguous_array_estimator",
    "check_transformer_data_not_an_array",
    "check_transformer_general",
    "check_transformers_unfitted",
    "check_parameters_default_constructible",
    "check_methods_sample_order_invariance",
    "check_methods_subset_invariance",
    "check_get_params_invariance",
    "check_set_params",
    "check_dict_unchanged",
    "check_fit_idempotent",
    "check_fit_check_is_fitted",
]


@pytest.fixture
def encoder():
    return CovariateEncoder(invariant=["cell_type", "age"], spurious="site").fit(FRAME)


@pytest.mark.parametrize("name", CHECKS)
def test_scikit_learn_check(name):
    getattr(estimator_checks, name)("CovariateEncoder", CovariateEncoder())


def test_categories_are_one_hot_and_numbers_standardised_and_marked_as_known(encoder):
    encoded = encoder.transform(FRAME)
    assert isinstance(encoded, csr_array)
    assert encoded.dtype == np.float32
    expected = [
        [0, 1, -1 / SCALE, 1, 0, 1],
        [1, 0, 1 / SCALE, 1, 1, 0],
        [1, 0, 0, 1, 1, 0],
        [0, 1, 0, 1, 0, 0],
    ]
    np.testing.assert_array_equal(encoded.toarray(), np.float32(expected))
    assert encoder.columns_.tolist() == [
        "cell_type=B",
        "cell_type=T",
        "age",
        "age (known)",
        "site=s1",
        "site=s2",
    ]


def test_attributes(encoder):
    assert encoder.names_.tolist() == ["cell_type", "age", "site"]
    assert encoder.perturbations_.tolist() == encoder.columns_.tolist()
    assert encoder.covariate_.tolist() == [0, 0, 1, 1, 2, 2]
    assert encoder.n_invariant_columns_ == 4
    assert encoder.n_cells_.tolist() == [2, 2, 2, 4, 2, 1]
    assert encoder.categories_ == {"cell_type": ["B", "T"], "site": ["s1", "s2"]}
    assert encoder.scales_ == {"age": (2.0, pytest.approx(SCALE))}
    assert encoder.n_environments_ == len(encoder.environment_names_) == 0


def test_a_number_equal_to_the_mean_is_stored_and_is_not_hidden(encoder):
    mean, hidden = encoder.transform(pd.DataFrame({"age": [2.0, np.nan]}))
    assert mean.indices.tolist() == [2, 3]
    assert mean.data.tolist() == [0, 1]
    assert hidden.nnz == 0


@pytest.mark.parametrize(
    "site",
    [
        [None, "s1"],
        [np.nan, "s1"],
        [pd.NA, "s1"],
        [pd.NaT, "s1"],
        [" ", "s1"],
        ["s7", "s1"],
        pd.Categorical([None, "s1"]),
        pd.Categorical(["s7", "s1"], categories=["s1", "s7", "s8"]),
        pd.array([None, "s1"], dtype="string"),
    ],
)
def test_a_missing_or_unseen_category_hides_its_covariate_only(encoder, site):
    new = pd.DataFrame({"site": site, "cell_type": ["T", "B"]})
    assert encoder.transform(new).toarray().tolist() == [[0, 1, 0, 0, 0, 0], [1, 0, 0, 0, 1, 0]]


@pytest.mark.parametrize(
    "age",
    [
        [np.nan, 2.0],
        pd.array([None, 2], dtype="Int64"),
        pd.array([None, 2], dtype="Float64"),
        np.array([None, 2], dtype=object),
        np.array([None, "2"], dtype=object),
        pd.Categorical([None, 2]),
    ],
)
def test_a_missing_number_is_hidden_whatever_its_dtype(encoder, age):
    encoded = encoder.transform(pd.DataFrame({"age": age})).toarray()
    assert encoded.tolist() == [[0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0]]


def test_absent_columns_are_hidden(encoder):
    for name, columns in [("cell_type", [0, 1]), ("age", [2, 3]), ("site", [4, 5])]:
        expected = encoder.transform(FRAME).toarray()
        expected[:, columns] = 0
        without = encoder.transform(FRAME.drop(columns=name)).toarray()
        np.testing.assert_array_equal(without, expected)
    assert encoder.transform(FRAME[["lane"]]).nnz == 0
    assert encoder.transform(FRAME[:0]).shape == (0, 6)


def test_missing_numbers_do_not_count_for_mean_and_scale(encoder):
    with_gaps = pd.concat([FRAME, FRAME.assign(age=np.nan)], ignore_index=True)
    refitted = clone(encoder).fit(with_gaps)
    assert refitted.scales_ == encoder.scales_
    assert refitted.n_cells_.tolist() == [4, 4, 2, 4, 4, 2]
    assert refitted.transform(with_gaps)[4:, [2, 3]].nnz == 0


def test_rows_keep_their_order_and_columns_of_the_frame_may_have_any(encoder):
    order = [2, 0, 3, 1, 0]
    shuffled = FRAME.iloc[order, ::-1]
    expected = encoder.transform(FRAME).toarray()[order]
    np.testing.assert_array_equal(encoder.transform(shuffled).toarray(), expected)
    refitted = clone(encoder).fit(FRAME.iloc[[2, 0, 3, 1], ::-1])
    assert refitted.columns_.tolist() == encoder.columns_.tolist()
    np.testing.assert_allclose(refitted.transform(shuffled).toarray(), expected, atol=1e-6)


def test_an_encoding_can_be_read_back(encoder):
    one_hot = encoder.transform(FRAME).toarray()[:, :2]
    read = encoder.columns_[one_hot.argmax(1)].tolist()
    assert read == [f"cell_type={value}" for value in FRAME["cell_type"]]


@pytest.mark.parametrize(
    ("values", "categories"),
    [
        ([True, False], ["False", "True"]),
        ([2, 10], ["10", "2"]),
        (pd.Categorical([2.0, 1.0], categories=[3.0, 2.0, 1.0]), ["1", "2"]),
        (pd.array([2, 1], dtype="Int8"), ["1", "2"]),
        (pd.array(["b", "a"], dtype="string"), ["a", "b"]),
        (np.array([b"b", b"a"]), ["a", "b"]),
        (np.array([1, "a"], dtype=object), ["1", "a"]),
        (
            pd.to_datetime(["2021-01-02", "2021-01-01"]),
            ["2021-01-01 00:00:00", "2021-01-02 00:00:00"],
        ),
    ],
)
def test_every_dtype_but_floats_is_categories(values, categories):
    frame = pd.DataFrame({"group": values})
    encoder = CovariateEncoder(spurious=["group"]).fit(frame)
    assert encoder.categories_ == {"group": categories}
    assert encoder.n_invariant_columns_ == 0
    assert encoder.transform(frame, unseen="error").toarray().sum(0).tolist() == [1, 1]


def test_categories_are_compared_as_text():
    encoder = CovariateEncoder(spurious="lane").fit(FRAME)
    for lane in ([1, 2], [1.0, 2.0], ["1", " 2"], [1.0, "2"], pd.Categorical(["1", "2"])):
        encoded = encoder.transform(pd.DataFrame({"lane": lane}), unseen="error")
        assert encoded.toarray().tolist() == [[1, 0], [0, 1]]


def test_names_of_columns_may_be_numbers():
    frame = pd.DataFrame({0: ["a", "b"], 1: [1.0, 2.0]})
    encoder = CovariateEncoder(invariant=[0], spurious=[1]).fit(frame)
    assert encoder.columns_.tolist() == ["0=a", "0=b", "1", "1 (known)"]
    assert encoder.transform(frame).toarray().tolist() == [[1, 0, -1, 1], [0, 1, 1, 1]]


@pytest.mark.parametrize(
    ("A", "columns"),
    [
        (["b", "a", None], ["label=a", "label=b"]),
        (pd.Series(["b", "a", None], index=[5, 6, 7]), ["label=a", "label=b"]),
        (pd.Categorical(["b", "a", None], categories=["c", "b", "a"]), ["label=a", "label=b"]),
        (np.array([1.5, 0.5, np.nan]), ["label=0.5", "label=1.5"]),
        ([2, 1, np.nan], ["label=1", "label=2"]),
        (np.array([True, False, None], dtype=object), ["label=False", "label=True"]),
    ],
)
def test_labels_without_a_name_are_one_invariant_covariate(A, columns):
    encoder = CovariateEncoder().fit(A)
    assert encoder.names_.tolist() == ["label"]
    assert encoder.columns_.tolist() == columns
    assert encoder.n_invariant_columns_ == 2
    assert encoder.transform(A).toarray().tolist() == [[0, 1], [1, 0], [0, 0]]
    assert encoder.environments(A).shape == (3, 0)
    frame = pd.DataFrame({"label": pd.Series(A).to_numpy(dtype=object)})
    np.testing.assert_array_equal(
        encoder.transform(frame).toarray(), encoder.transform(A).todense()
    )


def test_text_is_one_label():
    encoder = CovariateEncoder().fit(["B", "T"])
    assert encoder.transform("T").toarray().tolist() == [[0, 1]]
    assert encoder.labels("T").tolist() == ["label=T"]


@pytest.mark.parametrize("kind", [list, np.array, csr_array, lambda A: np.float32(A)])
def test_columns_without_names_are_invariant_numbers(kind):
    A = kind([[1, 0], [3, 0], [1, 8], [3, 8]])
    encoder = CovariateEncoder().fit(A)
    assert encoder.columns_.tolist() == ["0", "0 (known)", "1", "1 (known)"]
    assert encoder.n_invariant_columns_ == 4
    assert encoder.scales_ == {"0": (2.0, 1.0), "1": (4.0, 4.0)}
    expected = [[-1, 1, -1, 1], [1, 1, -1, 1], [-1, 1, 1, 1], [1, 1, 1, 1]]
    assert encoder.transform(A).toarray().tolist() == expected
    assert encoder.transform([[5, np.nan]]).toarray().tolist() == [[3, 1, 0, 0]]


def test_environments_equal_those_of_the_perturbation_encoder():
    frame = FRAME.assign(depth=np.float32([5, 5, 5, 5]))
    environment = ["cell_type", "age", "lane", "depth"]
    ours = CovariateEncoder(spurious="site", environment=environment).fit(frame)
    theirs = PerturbationEncoder(environment=environment).fit(frame)
    np.testing.assert_array_equal(ours.environments(frame), theirs.environments(frame))
    assert ours.environment_names_.tolist() == theirs.environment_names_.tolist()
    assert ours.n_environments_ == theirs.n_environments_ == 6
    with pytest.raises(ValueError, match="'lane' has unknown categories: '7'"):
        ours.environments(frame.assign(lane=7))


def test_labels_name_what_is_known(encoder):
    assert encoder.labels(FRAME).tolist() == [
        "cell_type=T, age=1, site=s2",
        "cell_type=B, age=3, site=s1",
        "cell_type=B, age=2, site=s1",
        "cell_type=T, age=2",
    ]
    assert encoder.labels(FRAME[["lane"]]).tolist() == [""] * 4
    assert encoder.labels(FRAME[["site"]].replace("s1", "s9")).tolist() == ["site=s2", "", "", ""]


def test_an_unseen_category_can_be_an_error(encoder):
    new = FRAME.assign(site=["s9", "s1", None, "s7"])
    with pytest.raises(ValueError, match="'site' .* 's7', 's9'. Known are 's1', 's2'"):
        encoder.transform(new, unseen="error")
    known = new.replace(["s9", "s7"], None)
    hidden = encoder.transform(known, unseen="error")  # a missing value is none
    np.testing.assert_array_equal(encoder.transform(new).toarray(), hidden.toarray())


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "columns 'cell_type', 'age', .*: name those .* `invariant` and `spurious`"),
        ({"environment": "lane"}, "name those that are covariates by"),
        (
            {"invariant": ["site", "age"], "spurious": "site"},
            "'site' .* in 'invariant', 'spurious'",
        ),
        (
            {"invariant": "site", "environment": ["site"]},
            "'site' .* in 'invariant', 'environment'",
        ),
        ({"invariant": ["site", "site"]}, "'site' .* in 'invariant', 'invariant'"),
        (
            {"invariant": ["site", "donor"]},
            "no column 'donor'; its columns are 'cell_type', 'age'",
        ),
        ({"invariant": "site", "environment": "donor"}, "no column 'donor'"),
        ({"invariant": "age", "environment": "site"}, "Column 'site' of A has 1 missing"),
    ],
)
def test_columns_that_cannot_be_used(parameters, message):
    with pytest.raises(ValueError, match=message):
        CovariateEncoder(**parameters).fit(FRAME)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["a", "a", None], "'x' is 'a' in all cells that have it: .* leave it out"),
        ([0.1, 0.1, np.nan], "'x' is '0.1' in all cells that have it"),
        (pd.Categorical(["a", "a", "a"], categories=["a", "b"]), "'x' is 'a' in all"),
        ([None, None, None], "'x' is missing in all cells"),
        ([np.nan] * 3, "'x' is missing in all cells"),
        ([1.0, np.inf, 2.0], "'x' has 1 infinite values, the first in row 1; NaN hides"),
        ([["a"], ["b"], ["c"]], "'x' must hold text or numbers"),
    ],
)
def test_values_of_which_nothing_can_be_learned(values, message):
    with pytest.raises(ValueError, match=message):
        CovariateEncoder(invariant="x").fit(pd.DataFrame({"x": values}))


@pytest.mark.parametrize(
    ("parameters", "A", "message"),
    [
        ({}, None, "requires y to be passed, but the target y is None"),
        ({}, [], "n_samples=0"),
        ({"invariant": "site"}, FRAME[:0], "n_samples=0"),
        ({}, ["a"], "n_samples=1 cells, and covariates need at least 2"),
        ({}, np.zeros((2, 2, 2)), "type ndarray, read as 3 dimensions of dtype float64"),
        ({}, np.zeros((2, 0)), "2 dimensions of dtype float64 and size 0"),
        ({}, [["a", "s1"], ["b", "s2"]], "must be a DataFrame .* 2-D array of num"),
        ({"invariant": "site"}, ["a", "b"], "'site' are columns of a design frame.* type list"),
        ({"environment": "site"}, ["a", "b"], "'site' are columns of a design frame.* type list"),
        ({"invariant": "x"}, pd.DataFrame([[1, 2]], columns=["x", "x"]), "2 columns .* 'x'"),
        (
            {"invariant": ["x", "x=a"]},
            pd.DataFrame({"x": ["a=b", "c"], "x=a": ["b", "c"]}),
            "would be called 'x=a=b'",
        ),
    ],
)
def test_designs_that_cannot_be_read(parameters, A, message):
    with pytest.raises(ValueError, match=message):
        CovariateEncoder(**parameters).fit(A)


@pytest.mark.parametrize(
    ("A", "message"),
    [
        (["s1", "s2"], "'cell_type', 'age', 'site' are columns of a design frame"),
        (FRAME.assign(age="old"), "'age' had numbers in training"),
        (FRAME.assign(age=pd.Timestamp("2021-01-01")), "'age' had numbers in training"),
        (FRAME.assign(age=[1, 2, np.inf, 3]), "'age' has 1 infinite values, the first in row 2"),
    ],
)
def test_designs_unlike_those_of_training(encoder, A, message):
    with pytest.raises(ValueError, match=message):
        encoder.transform(A)


def test_forms_do_not_change_after_training(encoder):
    with pytest.raises(ValueError, match="gives the covariates '0', and training had 'label'"):
        CovariateEncoder().fit(["a", "b"]).transform([[1.0], [2.0]])
    with pytest.raises(ValueError, match="covariates '0', '1', and training had '0'"):
        CovariateEncoder().fit([[1.0], [2.0]]).transform([[1.0, 2.0]])
    with pytest.raises(ValueError, match="unseen must be 'hide' or 'error'; it is 'ignore'"):
        encoder.transform(FRAME, unseen="ignore")


def test_nothing_works_before_fit():
    for method in ("transform", "environments", "labels"):
        with pytest.raises(NotFittedError):
            getattr(CovariateEncoder(invariant="site"), method)(FRAME)


def test_the_frame_is_left_as_it_was(encoder):
    frame = FRAME.copy()
    encoder.fit(frame).transform(frame)
    pd.testing.assert_frame_equal(frame, FRAME)


def test_copies_give_the_same(tmp_path):
    encoder = CovariateEncoder(
        invariant=["cell_type", "age"], spurious="site", environment=["lane"]
    ).fit(FRAME)
    save(encoder, tmp_path / "encoder.skpert")
    loaded = load(tmp_path / "encoder.skpert")
    assert loaded.get_params() == clone(encoder).get_params() == encoder.get_params()
    for copy in (loaded, pickle.loads(pickle.dumps(encoder))):
        assert vars(copy).keys() == vars(encoder).keys()
        encoded = copy.transform(FRAME).toarray()
        np.testing.assert_array_equal(encoded, encoder.transform(FRAME).toarray())
        np.testing.assert_array_equal(copy.environments(FRAME), encoder.environments(FRAME))
        assert copy.labels(FRAME).tolist() == encoder.labels(FRAME).tolist()
        np.testing.assert_array_equal(copy.covariate_, encoder.covariate_)
        assert copy.scales_ == encoder.scales_
