import gzip
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from skpert.exceptions import DataWarning
from skpert.preprocessing import GeneSetFeatures, read_gmt

SETS = {
    "pair": ["A", "B"],
    "abc": ["A", "B", "C"],
    "cde": ["C", "D", "E", "E"],
    "xyz": ["X", "Y", "Z"],
    "large": list("ABCDEFGHIJ"),
}
GMT = "abc\thttp://abc\tA\tB\tC\n\ncde\t\tC\tD\tE\tE\t\n"


@pytest.fixture
def gmt(tmp_path):
    path = tmp_path / "sets.gmt"
    path.write_text(GMT)
    return path


def test_read_gmt(gmt, tmp_path):
    expected = {"abc": ["A", "B", "C"], "cde": ["C", "D", "E"]}
    assert read_gmt(gmt) == expected
    with gzip.open(tmp_path / "sets.gmt.gz", "wt") as file:
        file.write(GMT)
    assert read_gmt(str(tmp_path / "sets.gmt.gz")) == expected


def test_sets_of_the_same_name_are_told_apart_by_their_description(gmt):
    gmt.write_text("complex\tid 1\tA\tB\ncomplex\tid 2\tC\n")
    assert read_gmt(gmt) == {"complex": ["A", "B"], "complex (id 2)": ["C"]}


@pytest.mark.parametrize("line", ["name\tdescription", "name\tdescription\t\t", "name"])
def test_a_set_without_genes_is_an_error(gmt, line):
    gmt.write_text(f"{GMT}{line}\n")
    with pytest.raises(ValueError, match="Line 4 of sets.gmt has no genes; .* 'name"):
        read_gmt(gmt)


@pytest.mark.parametrize(
    "targets", [["A", "C"], np.array(["A", "C"]), pd.Series(["A", "C"]), pd.Index(["A", "C"])]
)
def test_features_are_membership_in_sets_of_the_right_size(targets):
    features = GeneSetFeatures(SETS, max_genes=9).fit(targets)
    assert features.set_names_.tolist() == ["abc", "cde"]  # xyz has no target
    assert features.get_feature_names_out().tolist() == ["abc", "cde"]
    assert features.genes_.tolist() == ["A", "B", "C", "D", "E"]
    X = features.transform(["C", "E", "A", "C"])  # E is no training target
    assert X.dtype == np.float32
    assert X.toarray().tolist() == [[1, 1], [0, 1], [1, 0], [1, 1]]


def test_size_limits_count_distinct_genes():
    assert GeneSetFeatures(SETS, min_genes=2).fit(["A"]).set_names_.tolist() == [
        "pair",
        "abc",
        "large",
    ]
    assert GeneSetFeatures(SETS, max_genes=3).fit(["E"]).set_names_.tolist() == ["cde"]


def test_a_file_and_a_dict_give_the_same(gmt):
    from_file = GeneSetFeatures(gmt).fit_transform(["A", "D"])
    from_dict = GeneSetFeatures(read_gmt(gmt)).fit_transform(["A", "D"])
    assert from_file.toarray().tolist() == from_dict.toarray().tolist() == [[1, 0], [0, 1]]


def test_rare_sets_weigh_more():
    features = GeneSetFeatures(SETS, max_genes=9, weight="idf").fit(["A", "B", "C", "X"])
    assert features.set_names_.tolist() == ["abc", "cde", "xyz"]
    idf = 1 + np.log(5 / np.array([4, 2, 2]))
    np.testing.assert_allclose(features.transform(["C"]).toarray(), [idf * [1, 1, 0]], rtol=1e-6)
    np.testing.assert_allclose(features.transform(["Z"]).toarray(), [idf * [0, 0, 1]], rtol=1e-6)


def test_genes_in_no_set_are_zero_and_share_one_warning():
    features = GeneSetFeatures(SETS).fit(["A", "Q"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        X = features.transform(["Q", "A", "R", "Q"]).toarray()
    (warning,) = caught
    assert warning.category is DataWarning
    assert "features are zero (2): 'Q', 'R'." in str(warning.message)
    assert X.tolist() == [[0, 0], [1, 1], [0, 0], [0, 0]]


def test_no_set_left():
    message = r"None of the 5 gene sets has 3 to 300 genes .* 'a', 'b'; genes of the sets are 'A'"
    with pytest.raises(ValueError, match=message):
        GeneSetFeatures(SETS).fit(["b", "a"])


@pytest.mark.parametrize("targets", ["A", [["A"]], [1, 2], ["A", None]])
def test_targets_must_be_names(targets):
    with pytest.raises(ValueError, match="1-D list of names"):
        GeneSetFeatures(SETS).fit(targets)


def test_conduct_as_an_estimator():
    features = GeneSetFeatures(SETS, min_genes=2, weight="idf")
    assert clone(features).get_params() == features.get_params()
    with pytest.raises(NotFittedError):
        features.transform(["A"])
    with pytest.raises(ValueError, match="weight='tf' must be None or 'idf'"):
        clone(features).set_params(weight="tf").fit(["A"])
