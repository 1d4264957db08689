import gzip
import warnings
from types import MappingProxyType

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


def test_any_number_of_sets_of_one_name_are_kept_apart(gmt):
    gmt.write_text("S\tna\tA\nS\tna\tB\nS\tna\tC\nS (na)\tx\tD\nT\t\tE\nT\t\tF\n")
    assert read_gmt(gmt) == {
        "S": ["A"],
        "S (na)": ["B"],
        "S (3)": ["C"],
        "S (na) (x)": ["D"],
        "T": ["E"],
        "T (2)": ["F"],
    }


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbfS\tna\tA\tB\n",  # a byte order mark
        "S\tna\tA\tB\n".encode("utf-16"),
        b"S\tna\tA\tB\r\n",
        b"S\tna\tA\tB\r",
        b"S\tna\tA \t B\t\t\t\n \t\n",
        b'"S"\t"na"\t"A"\t"B"\n',
        b"# of 2021\n#\nS\tna\tA\tB\tA",
        gzip.compress(b"S\tna\tA\tB\n", mtime=0),  # whatever its name is
    ],
)
def test_what_editors_leave_behind_is_passed_over(data, gmt):
    gmt.write_bytes(data)
    assert read_gmt(gmt) == {"S": ["A", "B"]}


def test_names_keep_their_quotes_and_number_signs(gmt):
    gmt.write_text('#1 "core"\tna\tA\n"The ""S"" set"\tna\tB\n')
    assert read_gmt(gmt) == {'#1 "core"': ["A"], 'The "S" set': ["B"]}


def test_text_that_is_not_utf_8_is_named_with_its_line(gmt):
    gmt.write_bytes(GMT.encode() + "S\tdéjà\tA\n".encode("latin-1"))
    with pytest.warns(DataWarning, match="line 4 of sets.gmt is not UTF-8.* Windows-1252") as seen:
        assert read_gmt(gmt)["S"] == ["A"]
    assert seen[0].filename == __file__
    gmt.write_bytes(GMT.encode() + b"S\t\x81\tA\n")
    with pytest.raises(ValueError, match="line 4 of sets.gmt is neither UTF-8 nor Windows-1252"):
        read_gmt(gmt)


def test_genes_that_a_spreadsheet_made_dates_of_are_named(gmt):
    gmt.write_text("S\tna\t2-Sep\tA\t1-MAR-01\n")
    with pytest.warns(DataWarning, match=r"look like dates.*\(2\): '1-MAR-01', '2-Sep'"):
        assert read_gmt(gmt) == {"S": ["2-Sep", "A", "1-MAR-01"]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "sets.gmt is empty"),
        (b"# nothing\n", "sets.gmt holds no gene set"),
        (b"name,genes\nS,A\n", "Line 1 of sets.gmt has no genes; .* between tabs"),
        (b"\td\tA\n", "Line 1 of sets.gmt has no name"),
        (b"PK\x03\x04...", "sets.gmt is not text, but a zip archive, as .xlsx files are"),
        (b"\n<!doctype html>", "sets.gmt is a web page"),
        (b"S\td\t\0\n", "sets.gmt is not text: it has zero bytes"),
        (
            gzip.compress(GMT.encode() * 99, mtime=0)[:-9],
            "sets.gmt cannot be read: it is damaged, cut off",
        ),
    ],
)
def test_what_is_no_gmt_file_is_an_error_that_names_it(data, message, gmt):
    gmt.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_gmt(gmt)


def test_a_file_that_is_not_there_is_both_kinds_of_error(tmp_path):
    for kind in (ValueError, FileNotFoundError):
        with pytest.raises(kind, match="no such file or folder: .*none.gmt"):
            read_gmt(tmp_path / "none.gmt")
        with pytest.raises(kind, match="cannot be opened"):
            read_gmt(tmp_path)
    with pytest.raises(TypeError, match="path must be the path of a file, got int"):
        read_gmt(3)


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


@pytest.mark.parametrize(
    "sets",
    [
        MappingProxyType({"ab": ("A", "B"), "bc": pd.Series(["B", "C"])}),
        {"ab": {"A", "B"}, "bc": (gene for gene in "BC")},
        pd.DataFrame({"source": ["ab", "ab", "bc", "bc"], "target": list("ABBC"), "weight": 1}),
    ],
)
def test_sets_come_in_mappings_and_tables(sets):
    features = GeneSetFeatures(sets, min_genes=2).fit(["A", "B"])
    assert features.set_names_.tolist() == ["ab", "bc"]
    assert features.transform(["A", "B", "C"]).toarray().tolist() == [[1, 0], [1, 1], [0, 1]]


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ({"ab": "JAK2"}, "the set 'ab' is 'JAK2'"),
        ({"ab": ["A", np.nan]}, r"the set 'ab' is \"\['A', nan\]\""),
        ({"ab": None}, "the set 'ab' is 'None'"),
        ({1: ["A"]}, "the set 1 is"),
        (pd.DataFrame({"source": ["ab", None], "target": ["A", "B"]}), "the set nan is"),
        (pd.DataFrame({"set": ["ab"], "gene": ["A"]}), "must have the columns 'source'.*'gene'"),
    ],
)
def test_sets_that_are_no_names_of_genes_are_errors(sets, message):
    with pytest.raises(ValueError, match=message):
        GeneSetFeatures(sets, min_genes=1).fit(["A"])
