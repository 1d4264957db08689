import warnings

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csc_matrix, csr_matrix

from skpert.datasets import load_screen

COUNTS = np.array([[0, 2, 1], [4, 0, 0], [0, 0, 7], [1, 1, 0]], dtype=np.float32)
CELLS, GENES = ["c1", "c2", "c3", "c4"], ["IRF1", "GBP1", "NAN"]
LABELS = ["JAK2", "control", "NA", "JAK2+STAT1"]


@pytest.fixture
def adata():
    obs = pd.DataFrame({"perturbation": LABELS}, index=CELLS)
    data = anndata.AnnData(csr_matrix(COUNTS), obs=obs, var=pd.DataFrame(index=GENES))
    data.raw = data.copy()
    data.X = data.X * 2
    data.layers["tripled"] = data.X * 1.5
    return data


@pytest.fixture
def mudata():
    module = pytest.importorskip("mudata")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of changes to come
        yield module


def write(data, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of formats to come
        data.write_zarr(path) if path.suffix == ".zarr" else data.write(path)
    return path


def assert_is_the_screen(screen, factor):
    assert screen.X.toarray().tolist() == (factor * COUNTS).tolist()
    assert screen.A.tolist() == LABELS
    assert screen.feature_names.tolist() == GENES
    assert screen.obs.index.tolist() == CELLS


@pytest.mark.parametrize("name", ["screen.h5ad", "screen.zarr", "screen.h5"])
def test_an_anndata_has_layers_and_raw(name, adata, tmp_path):
    path = write(adata, tmp_path / name)
    for layer, factor in [(None, 2), ("raw", 1), ("tripled", 3)]:
        assert_is_the_screen(load_screen(path, layer=layer), factor)
    with pytest.raises(ValueError, match=f"{name} has no layer 'x'; it has: 'tripled', 'raw'"):
        load_screen(path, layer="x")
    with pytest.raises(ValueError, match="modality='rna': .* is an AnnData and has no modality"):
        load_screen(path, modality="rna")


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_an_anndata_without_x_or_with_a_layer_called_raw(suffix, adata, tmp_path):
    adata.layers["raw"] = adata.X * 5
    adata.X = None
    path = write(adata, tmp_path / f"screen{suffix}")
    assert_is_the_screen(load_screen(path, layer="raw"), 10)
    with pytest.raises(ValueError, match="has no X; name the layer .* among 'raw', 'tripled'"):
        load_screen(path)


def test_an_anndata_with_genes_in_rows_is_turned(adata, tmp_path):
    adata.raw = None
    path = write(adata.T, tmp_path / "screen.h5ad")
    screen = load_screen(path)
    assert_is_the_screen(screen, 2)
    assert "Genes were rows of the file." in screen.DESCR
    assert_is_the_screen(load_screen(path, transpose=True), 2)
    with pytest.raises(ValueError, match="no column 'perturbation'"):
        load_screen(path, transpose=False)


def test_tables_in_one_piece_of_old_files_are_read(tmp_path):
    with h5py.File(tmp_path / "old.h5ad", "w") as file:
        file["X"] = COUNTS
        rows = [(cell.encode(), i % 2) for i, cell in enumerate(CELLS)]
        file["obs"] = np.array(rows, dtype=[("index", "S2"), ("perturbation", "i4")])
        file["var"] = np.array([(gene.encode(),) for gene in GENES], dtype=[("index", "S4")])
        file["uns/perturbation_categories"] = np.array(["control", "JAK2"], dtype="S")
    screen = load_screen(tmp_path / "old.h5ad")
    assert screen.A.tolist() == ["control", "JAK2"] * 2
    assert screen.X.toarray().tolist() == COUNTS.tolist()
    with pytest.raises(ValueError, match="no layer 'raw'; it has: none"):
        load_screen(tmp_path / "old.h5ad", layer="raw")


@pytest.mark.parametrize("suffix", [".h5mu", ".zarr"])
def test_a_mudata_has_modalities(suffix, adata, mudata, tmp_path):
    path, other = tmp_path / f"screen{suffix}", adata.copy()
    other.X = other.X * 2
    write(mudata.MuData({"rna": adata, "prot": other}), path)
    assert_is_the_screen(load_screen(path), 2)
    assert_is_the_screen(load_screen(path, modality="prot"), 4)
    assert_is_the_screen(load_screen(path, modality="prot", layer="raw"), 1)
    with pytest.raises(ValueError, match="no modality 'atac': choose .* among 'prot', 'rna'"):
        load_screen(path, modality="atac")


def test_a_mudata_has_labels_for_all_modalities(adata, mudata, tmp_path):
    del adata.obs["perturbation"]
    data = mudata.MuData({"gex": adata})
    data.obs["perturbation"] = LABELS
    assert_is_the_screen(load_screen(write(data, tmp_path / "screen.h5mu")), 2)


def write_loom(path):
    """As the specification of the format has it: genes in rows, tables in attributes."""
    with h5py.File(path, "w") as file:
        file["matrix"] = 2 * COUNTS.T
        file["layers/spliced"] = COUNTS.T
        file["row_attrs/Gene"] = np.array(GENES, dtype="S")
        file["col_attrs/CellID"] = CELLS
        file["col_attrs/perturbation"] = LABELS
        file["col_attrs/umap"] = np.zeros((4, 2))
        file["col_attrs/name"] = np.array(["d&#233;j&#224;"] * 4, dtype="S")


def test_a_loom_file_has_genes_in_rows(tmp_path):
    path = tmp_path / "screen.loom"
    write_loom(path)
    screen = load_screen(path)
    assert_is_the_screen(screen, 2)
    assert screen.obs["name"].tolist() == ["déjà"] * 4
    assert_is_the_screen(load_screen(path, layer="spliced"), 1)
    with pytest.raises(ValueError, match="no layer 'raw'; it has: 'spliced'"):
        load_screen(path, layer="raw")
    with pytest.raises(ValueError, match="transpose=True: the loom format fixes what rows are"):
        load_screen(path, transpose=True)
    with h5py.File(path, "r+") as file:
        del file["row_attrs/Gene"]
    with pytest.raises(ValueError, match="screen.loom must have one of Gene, .* it has: nothing"):
        load_screen(path)


def test_a_loom_file_of_loompy_is_read(tmp_path):
    loompy = pytest.importorskip("loompy")
    path = tmp_path / "screen.loom"
    columns = {"CellID": np.array(CELLS), "perturbation": np.array(LABELS)}
    loompy.create(str(path), COUNTS.T, {"Gene": np.array(GENES)}, columns)
    assert_is_the_screen(load_screen(path), 1)


def write_10x(path, group="matrix", types=("Gene Expression",) * 3):
    X = csr_matrix(COUNTS.astype(np.int32))  # the columns of genes x cells, one after the other
    with h5py.File(path, "a") as file:
        part = file.create_group(group)
        for name in ("data", "indices", "indptr"):
            part[name] = getattr(X, name)
        part["shape"] = COUNTS.T.shape
        part["barcodes"] = np.array(CELLS, dtype="S")
        if group == "matrix":
            part["features/name"] = np.array(GENES, dtype="S")
            part["features/id"] = np.array(["ENSG1", "ENSG2", "ENSG3"], dtype="S")
            part["features/genome"] = np.array(["GRCh38"] * 3, dtype="S")
            part["features/feature_type"] = np.array(types, dtype="S")
        else:
            part["gene_names"] = np.array(GENES, dtype="S")
    pd.DataFrame({"perturbation": LABELS}, CELLS)[::-1].to_csv(path.with_name("cells.csv"))
    return path


@pytest.mark.parametrize("group", ["matrix", "GRCh38"])  # since CellRanger 3, and before
def test_10x_files_take_labels_from_the_table_beside(group, tmp_path):
    path = write_10x(tmp_path / "filtered_feature_bc_matrix.h5", group)
    assert_is_the_screen(load_screen(path), 1)
    with pytest.raises(ValueError, match="layer='x': .* is a 10x file and has no layer"):
        load_screen(path, layer="x")
    (tmp_path / "cells.csv").unlink()
    with pytest.raises(ValueError, match="'perturbation', but 0 have: there are no tables"):
        load_screen(path)


def test_10x_files_are_read_as_scanpy_reads_them(tmp_path):
    scanpy = pytest.importorskip("scanpy")
    path = write_10x(tmp_path / "screen.h5")
    assert scanpy.read_10x_h5(path).X.toarray().tolist() == load_screen(path).X.toarray().tolist()


def test_features_that_are_no_genes_are_left_out_and_named(tmp_path):
    types = ["Gene Expression", "CRISPR Guide Capture", "Antibody Capture"]
    screen = load_screen(write_10x(tmp_path / "screen.h5", types=types))
    assert screen.feature_names.tolist() == ["IRF1"]
    assert screen.X.toarray().ravel().tolist() == COUNTS[:, 0].tolist()
    assert "left out: 1 of type CRISPR Guide Capture, 1 of type Antibody Capture" in screen.DESCR


def test_several_genomes_are_not_mixed(tmp_path):
    write_10x(tmp_path / "screen.h5", "GRCh38")
    with pytest.raises(ValueError, match="holds several genomes, 'GRCh38', 'mm10'"):
        load_screen(write_10x(tmp_path / "screen.h5", "mm10"))


@pytest.mark.parametrize("storage", [csr_matrix, csc_matrix])
@pytest.mark.parametrize(
    ("part", "at", "value"),
    [
        ("indices", 1, 99),
        ("indices", 1, -1),
        ("indptr", 1, -5),
        ("indptr", -1, 99),
        ("indptr", slice(None), 0),
    ],
)
def test_a_sparse_structure_is_never_trusted(part, at, value, storage, adata, tmp_path):
    adata.X = storage(COUNTS)
    path = write(adata, tmp_path / "screen.h5ad")
    with h5py.File(path, "r+") as file:
        values = file["X"][part][()]
        values[at] = value
        file["X"][part][...] = values
    with pytest.raises(ValueError, match="screen.h5ad cannot be read: it is damaged"):
        load_screen(path)


def test_entries_of_one_place_are_added_up_and_sorted(adata, tmp_path):
    path = write(adata, tmp_path / "screen.h5ad")
    with h5py.File(path, "r+") as file:
        for name, values in [("data", [1, 2, 4, 200]), ("indices", [2, 0, 2, 1])]:
            del file["X"][name]
            file["X"][name] = np.array(values, dtype=np.uint8 if name == "data" else np.int32)
        file["X/indptr"][...] = [0, 3, 3, 3, 4]
    X = load_screen(path).X
    assert X.has_canonical_format
    assert X[[0]].toarray().tolist() == [[2, 0, 5]]
    assert X.nnz == 3


def test_damaged_files_are_named(adata, tmp_path):
    path = write(adata, tmp_path / "screen.h5ad")
    whole = path.read_bytes()
    for n_bytes in range(1, len(whole), len(whole) // 20):
        path.write_bytes(whole[:n_bytes])
        with pytest.raises(ValueError, match=r"screen.h5ad (cannot be read|is of no known kind)"):
            load_screen(path)
    with h5py.File(path, "w") as file:
        file["assays"] = 1
    with pytest.raises(ValueError, match="neither an AnnData, a MuData.* it has: 'assays'"):
        load_screen(path)


@pytest.mark.parametrize("part", ["data", "indices", "indptr"])
def test_a_zarr_store_that_lacks_values_is_not_read_as_zeros(part, adata, tmp_path):
    path = write(adata, tmp_path / "screen.zarr")
    (chunk,) = (file for file in (path / "X" / part).rglob("0") if file.is_file())
    chunk.unlink()
    with pytest.raises(ValueError, match="screen.zarr cannot be read: it is damaged, cut off"):
        load_screen(path)
