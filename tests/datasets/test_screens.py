import gzip
import sys

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.io import mmwrite
from scipy.sparse import csc_matrix, csr_matrix

from skpert.datasets import load_screen
from skpert.exceptions import DataWarning

COUNTS = np.array([[0, 2, 1], [4, 0, 0], [0, 0, 7], [1, 1, 0]])  # cells x genes
LABELS = ["JAK2", "control", "NA", "JAK2+STAT1"]
CELLS = ["AAAC-1", "AAAG-1", "AACT-1", "AAGT-1"]
GENES = ["IRF1", "GBP1", "NAN"]


def write_text(path, text):
    with gzip.open(path, "wt") if path.suffix == ".gz" else open(path, "w") as file:
        file.write(text)


def write_10x(folder, *, prefix="", end="", features="features.tsv", matrix=None):
    """Write COUNTS as 10x does, genes x cells, with the table of cells in another order."""
    mmwrite(folder / f"{prefix}matrix.mtx", csr_matrix(COUNTS.T if matrix is None else matrix))
    if end:
        path = folder / f"{prefix}matrix.mtx"
        write_text(folder / f"{prefix}matrix.mtx.gz", path.read_text())
        path.unlink()
    rows = "".join(f"ENSG{i}\t{gene}\tGene Expression\n" for i, gene in enumerate(GENES))
    write_text(folder / f"{prefix}{features}{end}", rows)
    write_text(folder / f"{prefix}barcodes.tsv{end}", "\n".join(CELLS) + "\n")
    table = pd.DataFrame({"target": LABELS, "lane": [1, 1, 2, 2]}, index=CELLS)
    write_text(folder / f"{prefix}cells.csv{end}", table[::-1].to_csv())


def assert_is_the_screen(screen):
    assert isinstance(screen.X, csr_matrix)
    assert screen.X.dtype == np.float32
    assert screen.X.toarray().tolist() == COUNTS.tolist()
    assert screen.A.dtype == object
    assert screen.A.tolist() == LABELS
    assert screen.feature_names.tolist() == GENES
    assert screen.obs.index.tolist() == CELLS
    assert "4 cells, 3 genes, 4 labels" in screen.DESCR


@pytest.mark.parametrize("storage", [np.asarray, csr_matrix, csc_matrix])
def test_h5ad_gives_counts_labels_and_the_table_of_cells(storage, tmp_path):
    obs = pd.DataFrame({"target": pd.Categorical(LABELS), "lane": [1, 1, 2, 2]}, index=CELLS)
    data = anndata.AnnData(storage(np.zeros((4, 3))), obs=obs, var=pd.DataFrame(index=GENES))
    data.layers["counts"] = storage(COUNTS)
    data.write_h5ad(tmp_path / "screen.h5ad")
    screen = load_screen(str(tmp_path / "screen.h5ad"), perturbation="target", layer="counts")
    assert_is_the_screen(screen)
    assert screen.obs["lane"].tolist() == [1, 1, 2, 2]
    assert load_screen(tmp_path / "screen.h5ad", perturbation="lane").X.nnz == 0  # X, not counts
    with pytest.raises(ValueError, match=r"no layer 'raw'; it has: 'counts'"):
        load_screen(tmp_path / "screen.h5ad", perturbation="target", layer="raw")
    with pytest.raises(ValueError, match=r"no column 'perturbation' .* has: 'target', 'lane'"):
        load_screen(tmp_path / "screen.h5ad")


def test_h5ad_without_anndata_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "screen.h5ad").write_bytes(b"\x89HDF\r\n\x1a\n")
    monkeypatch.setitem(sys.modules, "anndata", None)
    with pytest.raises(ImportError, match=r"pip install 'skpert\[data\]'"):
        load_screen(tmp_path / "screen.h5ad")


@pytest.mark.parametrize("end", ["", ".gz"])
def test_csv_gives_genes_and_labels(end, tmp_path):
    table = pd.DataFrame(COUNTS, index=CELLS, columns=GENES)
    table.insert(1, "target", LABELS)
    table.to_csv(tmp_path / f"screen.csv{end}")
    assert_is_the_screen(load_screen(tmp_path / f"screen.csv{end}", perturbation="target"))


def test_csv_says_which_columns_it_lacks_or_cannot_use(tmp_path):
    table = pd.DataFrame(COUNTS, index=CELLS, columns=GENES).assign(target=LABELS, donor="d1")
    table.to_csv(tmp_path / "screen.csv")
    with pytest.raises(ValueError, match=r"text stands at row 'AAAC-1', column 'donor'"):
        load_screen(tmp_path / "screen.csv", perturbation="target")
    with pytest.raises(ValueError, match=r"no column 'guide' .* 'IRF1', 'GBP1', 'NAN', 'target'"):
        load_screen(tmp_path / "screen.csv", perturbation="guide")


def test_long_lists_of_columns_are_cut(tmp_path):
    pd.DataFrame(np.ones((1, 500), int)).to_csv(tmp_path / "screen.csv")
    with pytest.raises(ValueError, match=r"'18', '19' ... and 480 more$"):
        load_screen(tmp_path / "screen.csv")


def test_labels_that_look_like_numbers_stay_text(tmp_path):
    write_text(tmp_path / "screen.csv", "cell,perturbation,IRF1\na,001,3\nb,2,0\n")
    assert load_screen(tmp_path / "screen.csv").A.tolist() == ["001", "2"]


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("prefix", ["", "GSM1_"])
@pytest.mark.parametrize("features", ["features.tsv", "genes.tsv"])
def test_mtx_folder_joins_matrix_genes_barcodes_and_cells(end, prefix, features, tmp_path):
    write_10x(tmp_path, prefix=prefix, end=end, features=features)
    screen = load_screen(tmp_path, perturbation="target")
    assert_is_the_screen(screen)
    assert screen.obs["lane"].tolist() == [1, 1, 2, 2]


def test_mtx_file_chooses_its_own_neighbours(tmp_path):
    write_10x(tmp_path, prefix="a_", matrix=np.zeros_like(COUNTS.T))
    write_10x(tmp_path, prefix="b_")
    assert_is_the_screen(load_screen(tmp_path / "b_matrix.mtx", perturbation="target"))
    with pytest.raises(ValueError, match="one .mtx or .mtx.gz file; found: 'a_matrix.mtx', 'b_"):
        load_screen(tmp_path, perturbation="target")


def test_mtx_file_may_have_neighbours_without_its_prefix(tmp_path):
    write_10x(tmp_path)
    (tmp_path / "matrix.mtx").rename(tmp_path / "counts.mtx")
    assert_is_the_screen(load_screen(tmp_path / "counts.mtx", perturbation="target"))


def test_mtx_of_cells_by_genes_is_read_as_such(tmp_path):
    write_10x(tmp_path, matrix=COUNTS)
    assert_is_the_screen(load_screen(tmp_path, perturbation="target"))


def test_mtx_keeps_guides_and_antibodies_out_of_the_genes(tmp_path):
    write_10x(tmp_path, matrix=np.insert(COUNTS.T, 1, 99, axis=0))
    rows = [f"ENSG{i}\t{gene}\tGene Expression\n" for i, gene in enumerate(GENES)]
    rows.insert(1, "sgJAK2\tsgJAK2\tCRISPR Guide Capture\n")
    write_text(tmp_path / "features.tsv", "".join(rows))
    assert_is_the_screen(load_screen(tmp_path, perturbation="target"))


def test_mtx_without_its_neighbours_says_what_is_needed(tmp_path):
    write_10x(tmp_path)
    with pytest.raises(ValueError, match="'guide', but 0 have: cells.csv has 'target', 'lane'"):
        load_screen(tmp_path, perturbation="guide")
    write_text(tmp_path / "cells.csv", "cell,target\nsomebody,JAK2\n")
    with pytest.raises(ValueError, match="each barcode once, .* 'AAAC-1'"):
        load_screen(tmp_path, perturbation="target")
    (tmp_path / "cells.csv").unlink()
    with pytest.raises(ValueError, match="there are no tables"):
        load_screen(tmp_path, perturbation="target")
    write_text(tmp_path / "barcodes.tsv", "AAAC-1\n")
    with pytest.raises(ValueError, match=r"shape \(3, 4\), .* 3 features and 1 barcodes"):
        load_screen(tmp_path, perturbation="target")
    (tmp_path / "features.tsv").unlink()
    with pytest.raises(FileNotFoundError, match="needs features.tsv or genes.tsv beside it"):
        load_screen(tmp_path, perturbation="target")


def test_cells_without_label_stay_and_are_counted(tmp_path):
    write_10x(tmp_path)
    write_text(tmp_path / "cells.csv", "cell,target\nAAAG-1,control\nAAAC-1,\nAAGT-1,None\n")
    with pytest.warns(DataWarning, match="2 of 4 cells have no label .* first is 'AAAC-1'"):
        screen = load_screen(tmp_path, perturbation="target")
    assert pd.notna(screen.A).tolist() == [False, True, False, True]
    assert screen.A[[1, 3]].tolist() == ["control", "None"]
    assert screen.X.toarray().tolist() == COUNTS.tolist()


def test_unreadable_paths_are_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file or folder: .*nowhere.h5ad") as error:
        load_screen(tmp_path / "nowhere.h5ad")
    assert isinstance(error.value, ValueError)
    with pytest.raises(ValueError, match="must be a zarr store or hold one .mtx .* found: none"):
        load_screen(tmp_path)
    (tmp_path / "screen.loom").touch()
    with pytest.raises(
        ValueError, match="screen.loom is empty; give an .h5ad, .h5mu, .loom or 10x"
    ):
        load_screen(tmp_path / "screen.loom")
    (tmp_path / "screen.rds").write_text("X")
    with pytest.raises(ValueError, match="screen.rds is of no known kind, or damaged .*; give an"):
        load_screen(tmp_path / "screen.rds")
    write_text(tmp_path / "screen.csv", "cell,perturbation,IRF1\na,JAK2,3\n")
    with pytest.raises(ValueError, match="layer='counts': screen.csv is text and has no layer"):
        load_screen(tmp_path / "screen.csv", layer="counts")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"path": 3}, "path must be the path of a file, got int"),
        ({"path": None}, "path must be the path of a file, got NoneType"),
        ({"perturbation": ["a"]}, "perturbation must be the name of one column, got \\['a'\\]"),
        ({"layer": 1}, "layer must be a name or None, got 1"),
        ({"modality": 1}, "modality must be a name or None, got 1"),
        ({"transpose": "yes"}, "transpose must be True, False or None, got 'yes'"),
    ],
)
def test_parameters_of_the_wrong_type(bad, message, tmp_path):
    write_text(tmp_path / "screen.csv", "cell,perturbation,IRF1\na,JAK2,3\n")
    with pytest.raises(TypeError, match=message):
        load_screen(**{"path": tmp_path / "screen.csv", **bad})


@pytest.mark.screen
def test_real_screen_is_read_as_described(data_dir):
    screen = load_screen(data_dir / "papalexi2021_thp1_crispr.h5ad")
    assert screen.X.shape == (20729, 303)
    assert (screen.X.data % 1 == 0).all()
    assert (screen.A == "control").sum() == 2386
    assert len(set(screen.A)) == 26
    assert set(screen.obs["batch"]) == {"rep_1", "rep_2", "rep_3"}
