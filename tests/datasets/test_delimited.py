import gzip

import numpy as np
import pandas as pd
import pytest

from skpert.datasets import load_screen
from skpert.exceptions import DataWarning

COUNTS = np.array([[0, 2, 1], [4, 0, 0], [0, 0, 7], [1, 1, 0]])
CELLS, GENES = ["c1", "c2", "c3", "c4"], ["IRF1", "GBP1", "NAN"]
LABELS = ["JAK2", "control", "NA", "JAK2+STAT1"]
OBS = pd.DataFrame({"perturbation": LABELS}, index=CELLS)
TABLE = OBS.join(pd.DataFrame(COUNTS, index=CELLS, columns=GENES))
CSV = TABLE.to_csv()
FLOATS = TABLE.astype(dict.fromkeys(GENES, float))


def load(folder, text, name="screen.csv", encoding="utf-8", **parameters):
    data = text.encode(encoding)
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return load_screen(folder / name, **parameters)


def assert_is_the_screen(screen, cells=CELLS):
    assert screen.X.toarray().tolist() == COUNTS.tolist()
    assert screen.A.tolist() == LABELS
    assert screen.feature_names.tolist() == GENES
    assert screen.obs.index.tolist() == cells


@pytest.mark.parametrize(
    ("text", "name", "encoding"),
    [
        (CSV, "screen.csv.gz", "utf-8"),
        (CSV, "screen.csv", "utf-8-sig"),  # a byte order mark
        (CSV.replace("\n", "\r\n"), "screen.csv", "utf-8"),
        (CSV.replace("\n", "\r"), "screen.csv", "utf-8"),
        (CSV.replace("\n", "\n\n"), "screen.csv", "utf-8"),
        (CSV.replace("\n", ",,\n"), "screen.csv", "utf-8"),
        (CSV.replace(",", ", "), "screen.csv", "utf-8"),
        ("# of the pilot, 2021\n#\n" + CSV, "screen.csv", "utf-8"),
        ("#cell" + CSV, "screen.csv", "utf-8"),
        ("sep=;\r\n" + TABLE.to_csv(sep=";"), "screen.csv", "utf-8"),
        (TABLE.to_csv(sep="\t"), "screen.tsv", "utf-8"),
        (TABLE.to_csv(sep="\t"), "screen.txt", "utf-16"),  # "Unicode text" of a spreadsheet
        (TABLE.to_csv(sep=" "), "screen.txt", "utf-8"),
        (TABLE.to_csv(quoting=2), "screen.csv", "utf-8"),
        (CSV.removeprefix(","), "screen.csv", "utf-8"),  # as R writes it
        (FLOATS.to_csv(sep=";", decimal=","), "screen.csv", "utf-8"),
    ],
)
def test_tables_as_programs_write_them(text, name, encoding, tmp_path):
    assert_is_the_screen(load(tmp_path, text, name, encoding))


def test_cells_without_names_are_numbered(tmp_path):
    numbers = ["0", "1", "2", "3"]
    assert_is_the_screen(load(tmp_path, TABLE.to_csv(index=False)), numbers)
    last = TABLE[[*GENES, "perturbation"]].to_csv(index=False)  # the first column is a gene
    assert_is_the_screen(load(tmp_path, last), numbers)


def test_numbers_can_be_names_of_cells(tmp_path):
    numbered = TABLE.set_axis([12, 7, 30, 4])
    assert_is_the_screen(load(tmp_path, numbered.to_csv()), ["12", "7", "30", "4"])
    assert_is_the_screen(load(tmp_path, "cell_id" + numbered.to_csv()), ["12", "7", "30", "4"])
    with pytest.warns(DataWarning, match="first column, 'STAT1', holds whole numbers .* as names"):
        assert_is_the_screen(load(tmp_path, "STAT1" + numbered.to_csv()), ["12", "7", "30", "4"])


@pytest.mark.parametrize("transpose", [None, True])
def test_genes_in_rows_with_a_row_of_labels(transpose, tmp_path):
    screen = load(tmp_path, TABLE.T.to_csv(), transpose=transpose)
    assert_is_the_screen(screen)
    assert "Genes were rows of the file." in screen.DESCR


def test_lines_may_be_long(tmp_path):
    names = [f"{i:040}" for i in range(4_000)]
    wide = pd.DataFrame([["JAK2"] * 4_000, [1] * 4_000], ["perturbation", "IRF1"], names)
    assert load(tmp_path, wide.to_csv()).X.sum() == 4_000


@pytest.mark.parametrize("turned", [True, False])
def test_labels_in_a_table_beside_decide_what_rows_are(turned, tmp_path):
    OBS[::-1].assign(lane=1).to_csv(tmp_path / "metadata.tsv", sep="\t")
    (tmp_path / "notes.txt").write_text("perturbation\n")  # is in no table
    counts = TABLE[GENES].T if turned else TABLE[GENES]
    screen = load(tmp_path, counts.to_csv())
    assert_is_the_screen(screen)
    assert screen.obs["lane"].tolist() == [1] * 4
    assert ("Genes were rows" in screen.DESCR) is turned
    with pytest.raises(ValueError, match="must hold each barcode once.*; it has 'c4', 'c3', 'c2'"):
        load(tmp_path, counts.to_csv(), transpose=not turned)


def test_rows_and_columns_that_are_cells_alike_are_undecided(tmp_path):
    square = pd.DataFrame(np.eye(2, dtype=int), index=["a", "b"], columns=["a", "b"])
    (tmp_path / "cells.csv").write_text("cell,perturbation\na,JAK2\nb,control\n")
    with pytest.raises(ValueError, match="2 columns and 2 rows that are cells .* transpose=True"):
        load(tmp_path, square.to_csv())
    assert load(tmp_path, square.to_csv(), transpose=True).A.tolist() == ["JAK2", "control"]


def test_a_gene_or_a_cell_that_is_there_twice_keeps_its_name(tmp_path):
    with pytest.warns(DataWarning) as seen:
        screen = load(tmp_path, CSV.replace("GBP1", "IRF1").replace("c2", "c1"))
    assert [str(warning.message) for warning in seen] == [
        f"screen.csv has names of {what} more than once (1): {name!r}; all are read, and names "
        "stay as they are"
        for what, name in [("cells", "c1"), ("genes", "IRF1")]
    ]
    assert seen[0].filename == __file__  # at the call of load_screen
    assert screen.feature_names.tolist() == ["IRF1", "IRF1", "NAN"]
    assert screen.X.toarray().tolist() == COUNTS.tolist()


@pytest.mark.parametrize("missing", ["", "NA", "nan", "inf"])
def test_counts_that_are_missing_are_counted(missing, tmp_path):
    text = CSV.replace("c2,control,4", f"c2,control,{missing}")
    message = r"missing or infinite \(1\), the first for gene 'IRF1' in cell 'c2'"
    with pytest.warns(DataWarning, match=message):
        screen = load(tmp_path, text)
    assert (~np.isfinite(screen.X.toarray())).nonzero() == (np.array([1]), np.array([0]))


def test_short_lines_miss_counts_and_a_short_last_line_is_a_cut_off_file(tmp_path):
    with pytest.warns(DataWarning, match=r"missing or infinite \(2\), the first for gene 'GBP1'"):
        load(tmp_path, CSV.replace("c1,JAK2,0,2,1", "c1,JAK2,0"))
    for n_bytes in (3, 5, 9):
        with pytest.raises(ValueError, match="screen.csv .* is cut off: its last line has"):
            load(tmp_path, CSV[:-n_bytes])
    packed = gzip.compress(CSV.encode() * 99)
    (tmp_path / "screen.csv.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(ValueError, match=r"screen.csv.gz.*Compressed file ended"):
        load_screen(tmp_path / "screen.csv.gz")


def test_negative_values_are_no_counts(tmp_path):
    with pytest.warns(DataWarning, match=r"negative \(1\), the first for gene 'NAN' in cell 'c3'"):
        load(tmp_path, CSV.replace("7", "-7"))


def test_text_that_is_not_utf_8_is_read_as_windows_1252(tmp_path):
    with pytest.warns(DataWarning, match="line 4 of screen.csv is not UTF-8.*Windows-1252"):
        screen = load(tmp_path, CSV.replace("c3", "cé"), encoding="cp1252")
    assert screen.obs.index.tolist() == ["c1", "c2", "cé", "c4"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (" \n", "screen.csv is empty"),
        (CSV.partition("\n")[0], "at least one cell and one gene.* has 0 cells, 3 genes"),
        (OBS.to_csv(), "at least one cell and one gene.* has 4 cells, 0 genes"),
        (CSV.replace("NAN", "perturbation"), "has 2 columns 'perturbation': keep one"),
        (CSV.replace("c3,NA,0", "c3,NA,0,0"), "screen.csv .* Expected 5 fields in line 4, saw 6"),
        ("a,b\n1,2,3,4\n", "screen.csv .* first line has 2 fields, the second 4"),
        ("<!DOCTYPE html><html></html>", "screen.csv is a web page"),
        ("PK\x03\x04", "screen.csv is not text, but a zip archive, as .xlsx"),
        (CSV + "\0", "screen.csv is not text: it has zero bytes"),
    ],
)
def test_what_is_no_screen_is_an_error_that_names_the_file(text, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load(tmp_path, text)
