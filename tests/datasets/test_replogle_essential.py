import functools
import hashlib
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from skpert.datasets import fetch_replogle_essential
from skpert.model_selection import LeavePerturbationsOut
from skpert.preprocessing import perturbation_labels

SIZES = {"non-targeting": 30, "MED7": 282, "RPL3": 200, "PHB": 199, "POLR2B": 3}


@pytest.fixture
def raw():
    """As the depositors' file: dense counts, Ensembl names, targets as categories."""
    rng = np.random.default_rng(0)
    targets = rng.permutation(np.repeat(list(SIZES), list(SIZES.values())))
    obs = pd.DataFrame(
        {"gem_group": rng.integers(1, 5, len(targets)), "gene": pd.Categorical(targets)},
        index=[f"CELL-{i}" for i in range(len(targets))],
    )
    var = pd.DataFrame({"gene_name": ["ACTB", "MED7", "ACTB"]}, index=["ENSG1", "ENSG2", "ENSG3"])
    counts = rng.poisson(1.0, (len(obs), len(var))).astype(np.float32)
    return anndata.AnnData(counts, obs=obs, var=var)


def fetch(raw, folder, *args, **parameters):
    """Call with the file at an address of its own, and its checksum."""
    path = folder / "public.h5ad"
    raw.write_h5ad(path)
    checksum = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    return fetch_replogle_essential(
        *args, data_home=folder / "home", url=path.as_uri(), checksum=checksum, **parameters
    )


def test_targets_with_enough_cells_and_all_controls_are_kept(raw, tmp_path):
    screen = fetch(raw, tmp_path)
    kept = raw[raw.obs["gene"].isin(["non-targeting", "MED7", "RPL3"])]
    assert isinstance(screen.X, csr_matrix)
    assert screen.X.dtype == np.float32
    np.testing.assert_array_equal(screen.X.toarray(), kept.X)
    assert screen.obs.index.tolist() == kept.obs_names.tolist()
    assert (
        screen.A.tolist()
        == kept.obs["gene"].astype(str).replace("non-targeting", "control").tolist()
    )
    assert screen.feature_names.tolist() == ["ACTB", "MED7", "ACTB"]
    assert "K562 cells: 512 cells, 30 of them with non-targeting guides, 3" in screen.DESCR
    assert "2 targets with at least 200 cells" in screen.DESCR


def test_the_table_of_cells_is_a_design(raw, tmp_path):
    screen = fetch(raw, tmp_path)
    assert screen.obs["gem_group"].tolist() == raw.obs["gem_group"][screen.obs.index].tolist()
    assert perturbation_labels(screen.obs).tolist() == screen.A.tolist()


def test_other_limits_are_other_files(raw, tmp_path):
    assert set(fetch(raw, tmp_path).A) == {"control", "MED7", "RPL3"}
    assert set(fetch(raw, tmp_path, min_cells=199).A) == {"control", "MED7", "RPL3", "PHB"}
    assert len(fetch(raw, tmp_path, min_cells=3).A) == sum(SIZES.values())
    assert len(fetch(raw, tmp_path, min_cells=1000).A) == SIZES["non-targeting"]


def test_split_is_70_10_20_of_every_target_and_controls_are_trained_on(raw, tmp_path):
    screen = fetch(raw, tmp_path, min_cells=3)
    counts = pd.crosstab(screen.A, screen.split)[["train", "val", "test"]]
    assert counts.loc["control"].tolist() == [30, 0, 0]
    assert counts.loc["MED7"].tolist() == [196, 29, 57]  # parts are rounded up, test first
    assert counts.loc["RPL3"].tolist() == [140, 20, 40]
    assert counts.loc["POLR2B"].tolist() == [1, 1, 1]


def test_split_of_a_target_depends_on_the_seed_and_its_own_cells_only(raw, tmp_path):
    few, many = fetch(raw, tmp_path), fetch(raw, tmp_path, min_cells=3)
    shared = np.isin(many.A, ["control", "MED7", "RPL3"])
    assert many.split[shared].tolist() == few.split.tolist()
    other = fetch(raw, tmp_path, seed=1)
    assert other.split.tolist() != few.split.tolist()
    assert pd.Series(other.split).value_counts().equals(pd.Series(few.split).value_counts())


def test_five_folds_of_the_279_targets():
    A = np.repeat(["control", *(f"GENE{i}" for i in range(279))], 2)
    folds = list(LeavePerturbationsOut(5, random_state=0).split(A, A))
    tested = [set(A[test]) for _, test in folds]
    assert sorted(map(len, tested)) == [55, 56, 56, 56, 56]
    assert set.union(*tested) == set(A) - {"control"}
    for (train, _), names in zip(folds, tested, strict=True):
        assert not names & set(A[train])
        assert (A[train] == "control").sum() == 2


def test_the_file_comes_over_http_once(raw, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    raw.write_h5ad(tmp_path / "public.h5ad")
    md5 = hashlib.md5((tmp_path / "public.h5ad").read_bytes()).hexdigest()
    handler = functools.partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/public.h5ad"
        home = tmp_path / "home"
        first = fetch_replogle_essential("RPE1", data_home=home, url=url, checksum=f"md5:{md5}")
        server.shutdown()
    (home / "rpe1_raw_singlecell_01.h5ad").unlink()
    second = fetch_replogle_essential("RPE1", data_home=home, download_if_missing=False)
    assert (first.X != second.X).nnz == 0
    assert first.A.tolist() == second.A.tolist()
    assert first.split.tolist() == second.split.tolist()
    pd.testing.assert_frame_equal(first.obs, second.obs)
    assert "RPE1 cells: 512 cells" in second.DESCR


@pytest.mark.parametrize(
    ("cell_line", "checksum"),
    [
        ("K562", "md5:4f1122ce1c7f13299a68df6459a266d3"),
        ("RPE1", "md5:6a2a9d0d2bf4ec147f4d1104043b268c"),
    ],
)
def test_files_have_published_checksums(cell_line, checksum, raw, tmp_path):
    raw.write_h5ad(tmp_path / "other.h5ad")
    url, home = (tmp_path / "other.h5ad").as_uri(), tmp_path / "home"
    with pytest.raises(OSError, match=f"whose checksum is {checksum}"):
        fetch_replogle_essential(cell_line, data_home=home, url=url)
    assert list(home.iterdir()) == []


def test_a_file_without_targets_is_not_the_one_that_was_meant(raw, tmp_path):
    del raw.obs["gene"]
    with pytest.raises(ValueError, match="no column 'gene', but 'gem_group'"):
        fetch(raw, tmp_path)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"cell_line": "HepG2"}, "cell_line must be 'K562' or 'RPE1', got 'HepG2'"),
        ({"min_cells": 2}, "min_cells must be an integer of at least 3, got 2"),
        ({"min_cells": 0.5}, "min_cells must be an integer of at least 3, got 0.5"),
        ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
        ({"seed": True}, "seed must be an integer of at least 0, got True"),
    ],
)
def test_bad_choices_are_told_before_anything_is_fetched(bad, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        fetch_replogle_essential(data_home=tmp_path / "home", **bad)
    assert not (tmp_path / "home").exists()


def test_a_file_that_may_not_be_fetched_and_anndata_that_is_not_there(tmp_path, monkeypatch):
    with pytest.raises(OSError, match="download_if_missing=False"):
        fetch_replogle_essential(data_home=tmp_path, download_if_missing=False)
    monkeypatch.setitem(sys.modules, "anndata", None)
    with pytest.raises(ImportError, match=r"pip install 'skpert\[data\]'"):
        fetch_replogle_essential(data_home=tmp_path)
    assert list(tmp_path.iterdir()) == []
