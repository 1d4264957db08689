import hashlib
import math
import sys
import tomllib
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csc_matrix, csr_matrix
from sklearn.model_selection import train_test_split

from skpert.datasets import fetch_norman, fetch_replogle_filtered, norman_split
from skpert.datasets._replogle import clustered_genes

PARTS = ("train", "val", "test", None)
PATHWAYS, PERTURBATIONS, GENES = clustered_genes()


def save(data, path):
    data.write_h5ad(path)
    return path.as_uri()


def sha256(path):
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def positions(split, part):
    return set(np.flatnonzero(split == part))


# Replogle et al. 2022


def replogle_raw(rng, n_controls=2050):
    """As the depositors' file: dense counts, Ensembl names, symbols of which one occurs twice."""
    targets = ["EXOSC1"] * 40 + ["LSM5"] * 30 + ["TP53"] * 35 + ["non-targeting"] * n_controls
    targets = rng.permutation(np.array(targets, dtype=object))
    pairs = {
        "EXOSC1": ["EXOSC1_+_1.23-P1P2|EXOSC1_-_2.23-P1P2", "EXOSC1_-_3.23-P1|EXOSC1_-_4.23-P1"],
        "LSM5": ["LSM5_+_5.23-P1P2|LSM5_+_6.23-P1P2"],
        "TP53": ["TP53_-_7.23-P1P2|TP53_-_8.23-P1P2"],
        "non-targeting": [
            "non-targeting_00001|non-targeting_00002",
            "non-targeting_3|non-targeting_4",
        ],
    }
    obs = pd.DataFrame(
        {
            "gem_group": rng.integers(1, 5, len(targets)),
            "gene": pd.Categorical(targets),
            "sgID_AB": pd.Categorical([rng.choice(pairs[target]) for target in targets]),
        },
        index=[f"CELL-{i}" for i in range(len(targets))],
    )
    symbols = ["ACTB", "HSPA14", "MT-ND6", "GAPDH", "HSPA14", "EIF6"]
    var = pd.DataFrame({"gene_name": symbols}, index=[f"ENSG{i}" for i in range(len(symbols))])
    X = rng.poisson(1.0, (len(obs), len(var))).astype(np.float32)
    return anndata.AnnData(X, obs=obs, var=var)


@pytest.fixture
def raw():
    return replogle_raw(np.random.default_rng(0))


def test_raw_replogle_keeps_clustered_targets_and_2000_controls(raw, tmp_path):
    path = tmp_path / "raw.h5ad"
    url = save(raw, path)
    screen = fetch_replogle_filtered(
        source="raw", data_home=tmp_path, url=url, checksum=sha256(path)
    )
    controls = np.flatnonzero(raw.obs["gene"] == "non-targeting")
    np.random.RandomState(0).shuffle(controls)
    kept = [*controls[:2000], *np.flatnonzero(raw.obs["gene"].isin(["EXOSC1", "LSM5"]))]
    kept = raw[np.sort(kept), [1, 2, 4, 5]]
    assert kept.n_obs == 2070
    assert screen.obs.index.tolist() == kept.obs_names.tolist()
    assert screen.feature_names.tolist() == ["HSPA14", "MT-ND6", "HSPA14", "EIF6"]
    assert isinstance(screen.X, csr_matrix)
    assert screen.X.dtype == np.float32
    np.testing.assert_array_equal(screen.X.toarray(), kept.X)
    assert "2070 cells, 2000 of them with non-targeting guides, 4 genes, 3 pairs" in screen.DESCR


def test_the_papers_file_is_taken_whole(raw, tmp_path):
    url = save(raw, tmp_path / "paper.h5ad")
    screen = fetch_replogle_filtered(data_home=tmp_path / "home", url=url)
    np.testing.assert_array_equal(screen.X.toarray(), raw.X)
    assert screen.obs.index.tolist() == raw.obs_names.tolist()
    assert screen.obs["gene"].tolist() == raw.obs["gene"].tolist()


def test_labels_of_replogle_are_pairs_of_guides_that_no_plus_joins(raw, tmp_path):
    screen = fetch_replogle_filtered(data_home=tmp_path, url=save(raw, tmp_path / "paper.h5ad"))
    assert set(screen.A) == {
        "control",
        "EXOSC1_plus_1.23-P1P2|EXOSC1_-_2.23-P1P2",
        "EXOSC1_-_3.23-P1|EXOSC1_-_4.23-P1",
        "LSM5_plus_5.23-P1P2|LSM5_plus_6.23-P1P2",
        "TP53_-_7.23-P1P2|TP53_-_8.23-P1P2",
    }
    targets = pd.Series(screen.A).str.split("_").str[0].replace("control", "non-targeting")
    assert targets.tolist() == screen.obs["gene"].tolist()


def test_split_of_replogle_is_64_16_20_by_position(raw, tmp_path):
    screen = fetch_replogle_filtered(data_home=tmp_path, url=save(raw, tmp_path / "paper.h5ad"))
    rest, test = train_test_split(raw.obs_names, train_size=0.8, random_state=0)
    train, val = train_test_split(rest, train_size=0.8, random_state=0)
    for part, cells in zip(PARTS, (train, val, test), strict=False):
        assert set(screen.obs.index[screen.split == part]) == set(cells)
    assert (len(train), len(val), len(test)) == (1379, 345, 431)


def test_lists_of_replogle_have_the_published_sizes():
    assert len(set(PERTURBATIONS)) == len(PERTURBATIONS) == 681
    assert len(set(GENES)) == len(GENES) == 1186
    assert [len(genes) for genes in PATHWAYS.values()] == [20, 34, 26, 23, 97, 43, 53, 40]


def test_files_that_are_no_code_are_declared_for_wheels():
    root = Path(__file__).parents[2]
    setup = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    declared = {
        path
        for package, patterns in setup["package-data"].items()
        for pattern in patterns
        for path in root.joinpath(*package.split(".")).glob(pattern)
    }
    found = {path for path in (root / "skpert").rglob("*") if path.is_file()}
    assert declared == {path for path in found if path.suffix not in (".py", ".pyc")}


def test_pathways_of_replogle_are_the_callers_own(raw, tmp_path):
    url = save(raw, tmp_path / "paper.h5ad")
    screen = fetch_replogle_filtered(data_home=tmp_path, url=url)
    assert screen.pathways == PATHWAYS
    screen.pathways["EXOSOME"].clear()
    assert fetch_replogle_filtered(data_home=tmp_path).pathways == PATHWAYS


def test_the_second_call_needs_neither_the_network_nor_the_file(raw, tmp_path):
    home = tmp_path / "home"
    url = save(raw, tmp_path / "paper.h5ad")
    first = fetch_replogle_filtered(data_home=home, url=url)
    (tmp_path / "paper.h5ad").unlink()
    (home / "replogle.h5ad").unlink()
    second = fetch_replogle_filtered(data_home=home, url=url, download_if_missing=False)
    assert (first.X != second.X).nnz == 0
    assert first.A.tolist() == second.A.tolist()
    assert first.split.tolist() == second.split.tolist()
    pd.testing.assert_frame_equal(first.obs, second.obs)


def test_the_raw_file_of_replogle_has_a_published_checksum(raw, tmp_path):
    url = save(raw, tmp_path / "raw.h5ad")
    with pytest.raises(OSError, match="whose checksum is md5:887e3e6a8c8df6eadf7a3030a53c9546"):
        fetch_replogle_filtered(source="raw", data_home=tmp_path / "home", url=url)
    assert list((tmp_path / "home").iterdir()) == []


def test_a_table_in_the_layout_of_2022_is_read(raw, tmp_path):
    path = tmp_path / "paper.h5ad"
    save(raw, path)
    with h5py.File(path, "r+") as file:  # as anndata 0.7 wrote it
        obs = file["obs"]
        for name in ("gene", "sgID_AB"):
            codes, categories = obs[name]["codes"][:], obs[name]["categories"].asstr()[:]
            del obs[name]
            obs[f"__categories/{name}"] = categories.astype(object)
            obs[name] = codes
            obs[name].attrs["categories"] = obs[f"__categories/{name}"].ref
        obs.attrs["encoding-version"] = "0.1.0"
        for name in file.attrs:
            del file.attrs[name]
    screen = fetch_replogle_filtered(data_home=tmp_path / "home", url=path.as_uri())
    assert screen.obs["sgID_AB"].tolist() == raw.obs["sgID_AB"].tolist()


@pytest.mark.parametrize("column", ["gene", "sgID_AB"])
def test_a_file_without_the_columns_is_not_the_one_that_was_meant(column, raw, tmp_path):
    path = tmp_path / "raw.h5ad"
    del raw.obs[column]
    url = save(raw, path)
    with pytest.raises(ValueError, match=f"no column '{column}', but 'gem_group'"):
        fetch_replogle_filtered(source="raw", data_home=tmp_path, url=url, checksum=sha256(path))


# Norman et al. 2019

GENES_ACTIVATED = ["AHR", "CBL", "CBL2", "FEV", "FOXL2", "KLF1"]
PAIRS = [  # as guides are named in the file; sorted by "_" and by "+" they differ in order
    ("CBL", "AHR"),
    ("CBL2", "AHR"),
    ("FEV", "CBL"),
    ("KLF1", "FEV"),
    ("KLF1", "FOXL2"),
    ("FOXL2", "AHR"),
    ("FOXL2", "FEV"),
]


def norman_file(rng, storage=csr_matrix):
    """As the file of sc-pert: counts in a layer, a mask of genes, guides as columns of 0 and 1."""
    kinds = [(), *((gene,) for gene in GENES_ACTIVATED), *PAIRS]
    cells = [kinds[i] for i in rng.permutation(np.repeat(np.arange(len(kinds)), 25))]
    padded = [f"{'_'.join([*genes, 'NegCtrl0', 'NegCtrl0'][:2])}" for genes in cells]
    obs = pd.DataFrame(
        {
            "guide_identity": [f"{name}__{name}" for name in padded],
            "guide_ids": [",".join(sorted(genes)) for genes in cells],
            **{
                f"guide_{gene}": [int(gene in genes) for genes in cells]
                for gene in GENES_ACTIVATED
            },
        },
        index=[f"CELL-{i}" for i in range(len(cells))],
    )
    var = pd.DataFrame({"highly_variable": [True, False, True, True]}, index=list("WXYZ"))
    counts = rng.poisson(1.0, (len(cells), 4))
    data = anndata.AnnData(storage(np.log1p(counts)), obs=obs, var=var)
    data.layers["counts"] = storage(counts)
    return data


@pytest.mark.parametrize("storage", [csr_matrix, csc_matrix, np.asarray])
def test_norman_gives_counts_of_variable_genes_and_labels(storage, tmp_path):
    data = norman_file(np.random.default_rng(0), storage)
    counts = csr_matrix(data.layers["counts"]).toarray()
    expected = ["+".join(i.split("__")[0].split("_")) for i in data.obs["guide_identity"]]
    expected = [
        label.replace("+NegCtrl0", "").replace("NegCtrl0", "control") for label in expected
    ]
    screen = fetch_norman(data_home=tmp_path, url=save(data, tmp_path / "file.h5ad"))
    assert isinstance(screen.X, csr_matrix)
    assert screen.X.dtype == np.float32
    np.testing.assert_array_equal(screen.X.toarray(), counts[:, [0, 2, 3]])
    assert screen.feature_names.tolist() == ["W", "Y", "Z"]
    assert screen.A.tolist() == expected
    assert set(screen.A) >= {"control", "AHR", "CBL2", "KLF1+FEV", "CBL2+AHR"}
    assert "350 cells, 3 highly variable genes, 7 combinations" in screen.DESCR


def published_split(obs, task, fraction, seed):
    """What the specification of the released code says, on the tables of the file itself."""
    n_guides = obs[[f"guide_{gene}" for gene in GENES_ACTIVATED]].sum(axis=1)
    pairs, others = obs[n_guides == 2], obs[n_guides < 2]
    names = np.sort(pairs["guide_identity"].astype(str).unique())
    np.random.default_rng(seed).shuffle(names)
    rest, test = train_test_split(pairs, test_size=0.2, random_state=seed)
    train, val = train_test_split(rest, test_size=0.2, random_state=seed)
    if task == "ood":
        seen = names[: int(fraction * len(names))]
        tested = names[len(names) - math.ceil(0.25 * len(names)) :]
        train = train[train["guide_identity"].isin(seen)]
        val = val[val["guide_identity"].isin(seen)]
        test = test[test["guide_identity"].isin(tested)]
    else:
        train = train.iloc[: int(fraction * len(train))]
    others_train, others_val = train_test_split(others, test_size=0.2, random_state=seed)
    split = pd.Series("left out", index=obs.index)
    split[[*train.index, *others_train.index]] = "train"
    split[[*val.index, *others_val.index]] = "val"
    split[test.index] = "test"
    return split


@pytest.mark.parametrize("task", ["ood", "data_efficiency"])
@pytest.mark.parametrize(("fraction", "seed"), [(0, 0), (0.25, 1), (0.5, 2), (0.75, 3), (1, 4)])
def test_splits_of_norman_are_the_published_ones(task, fraction, seed, tmp_path):
    data = norman_file(np.random.default_rng(0))
    url = save(data, tmp_path / "file.h5ad")
    screen = fetch_norman(task=task, fraction=fraction, seed=seed, data_home=tmp_path, url=url)
    expected = published_split(data.obs, task, fraction, seed)
    assert [part or "left out" for part in screen.split] == expected.tolist()
    again = norman_split(screen.A, task=task, fraction=fraction, seed=seed)
    assert again.tolist() == screen.split.tolist()


def test_norman_is_read_from_its_part_in_later_calls(tmp_path):
    url = save(norman_file(np.random.default_rng(0)), tmp_path / "file.h5ad")
    first = fetch_norman(data_home=tmp_path / "home", url=url)
    (tmp_path / "home" / "norman_2019.h5ad").unlink()
    second = fetch_norman(data_home=tmp_path / "home", download_if_missing=False, fraction=0)
    assert (first.X != second.X).nnz == 0
    pd.testing.assert_frame_equal(first.obs, second.obs)
    assert positions(second.split, "train") < positions(first.split, "train")


def test_norman_without_counts_is_not_the_file_that_was_meant(tmp_path):
    data = norman_file(np.random.default_rng(0))
    del data.layers["counts"]
    with pytest.raises(ValueError, match=r"norman_2019.h5ad has no layer 'counts'; it has: none"):
        fetch_norman(data_home=tmp_path, url=save(data, tmp_path / "file.h5ad"))


# Both


@pytest.mark.parametrize("fetch", [fetch_norman, fetch_replogle_filtered])
def test_bad_folders_and_forbidden_downloads(fetch, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file, or in one, .*; name another folder"):
        fetch(data_home=tmp_path / "file")
    with pytest.raises(OSError, match="download_if_missing=False"):
        fetch(data_home=tmp_path, download_if_missing=False)


def test_an_unknown_source_of_replogle(tmp_path):
    with pytest.raises(ValueError, match="source must be 'paper' or 'raw', got 'figshare'"):
        fetch_replogle_filtered(source="figshare", data_home=tmp_path)


@pytest.mark.parametrize("bad", [{"task": "odd"}, {"fraction": 1.5}, {"seed": -1}])
def test_a_split_that_cannot_be_is_told_before_anything_is_fetched(bad, tmp_path):
    with pytest.raises(ValueError, match=f"{next(iter(bad))} must be"):
        fetch_norman(data_home=tmp_path / "home", **bad)
    assert not (tmp_path / "home").exists()


def test_a_page_in_place_of_the_file_is_removed(tmp_path):
    page, home = tmp_path / "page.html", tmp_path / "home"
    page.write_text("<html>please log in</html>")
    with pytest.raises(OSError, match=r"page.html.* not an HDF5 file, but begins with b'<html>"):
        fetch_norman(data_home=home, url=page.as_uri())
    assert list(home.iterdir()) == []


def test_without_anndata_the_extra_is_named_before_anything_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "anndata", None)
    with pytest.raises(ImportError, match=r"pip install 'skpert\[data\]'"):
        fetch_norman(data_home=tmp_path)
    assert list(tmp_path.iterdir()) == []
