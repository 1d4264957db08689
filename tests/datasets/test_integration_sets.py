import functools
import gzip
import hashlib
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix, hstack

from skpert.datasets import fetch_hematopoiesis, fetch_lung_cancer
from skpert.datasets._integration import dispersion_scores, most_dispersed

SIZES = {"s1d1": 60, "s1d2": 50, "s2d1": 40, "s2d4": 30, "s3d6": 20, "s3d10": 10}
PARTS = {"s1d1": "train", "s1d2": "train", "s2d1": "train", "s2d4": "val", "s3d6": "test"}
N_GENES, N_PEAKS = 80, 7


def sparse_normal_counts(rng, shape):
    """Counts whose genes differ in mean and in dispersion."""
    mean = rng.gamma(1.0, 1.5, size=shape[1])
    theta = rng.gamma(2.0, 2.0, size=shape[1])
    rate = rng.gamma(np.broadcast_to(theta, shape), mean / theta)
    return csr_matrix(rng.poisson(rate).astype(np.float32))


@pytest.fixture
def competition():
    """As the competition's file: normalised counts in X, counts and their logs in layers."""
    rng = np.random.default_rng(0)
    batches = rng.permutation(np.repeat(list(SIZES), list(SIZES.values())))
    obs = pd.DataFrame(
        {
            "size_factors": rng.uniform(0.5, 2, len(batches)).astype(np.float32),
            "cell_type": pd.Categorical(rng.choice(["HSC", "NK", "CD14+ Mono"], len(batches))),
            "batch": pd.Categorical(batches),
        },
        index=[f"CELL-{i}-{batch}" for i, batch in enumerate(batches)],
    )
    var = pd.DataFrame({"feature_types": "GEX"}, index=[f"GENE{i}" for i in range(N_GENES)])
    counts = sparse_normal_counts(rng, (len(obs), N_GENES))
    normalised = counts.multiply(1 / obs["size_factors"].to_numpy()[:, None]).tocsr()
    layers = {"counts": counts, "log_norm": normalised.log1p()}
    return anndata.AnnData(normalised, obs=obs, var=var, layers=layers)


@pytest.fixture
def geo(competition):
    """As the file in GEO: peaks beside genes, counts in the only layer."""
    obs = competition.obs.rename(columns={"size_factors": "GEX_size_factors"})
    peaks = csr_matrix(np.ones((len(obs), N_PEAKS), dtype=np.float32))
    names = [*competition.var_names, *(f"chr1-{i}-{i + 1}" for i in range(N_PEAKS))]
    types = ["GEX"] * N_GENES + ["ATAC"] * N_PEAKS
    var = pd.DataFrame({"feature_types": pd.Categorical(types)}, index=names)
    counts = hstack([competition.layers["counts"], peaks], format="csr")
    return anndata.AnnData(counts.sqrt(), obs=obs, var=var, layers={"counts": counts})


@pytest.fixture
def lung():
    """As CELLxGENE's file: normalised expression in X, counts of the same genes in raw."""
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {
            "disease": pd.Categorical(["normal", "SCLC", "LUAD", "SCLC"] * 10),
            "cell_type": pd.Categorical(["T cell", "B cell"] * 20),
            "assay": pd.Categorical(["10x 3' v2"] * 10 + ["10x 3' v3"] * 30),
            "treatment": pd.Categorical(["Naive"] * 20 + ["Platinum Doublet"] * 20),
            "donor_id": pd.Categorical([f"RU{i}" for i in range(40)]),
        },
        index=[f"CELL-{i}" for i in range(40)],
    )
    var = pd.DataFrame(
        {"feature_name": pd.Categorical(["ASCL1", "NEUROD1", "MYC"])},
        index=["ENSG1", "ENSG2", "ENSG3"],
    )
    counts = csr_matrix(rng.poisson(1.0, (40, 3)).astype(np.float32))
    data = anndata.AnnData(counts, obs=obs, var=var)
    data.raw = data
    data.X = counts.log1p()
    return data


def save(data, path):
    data.write_h5ad(path)
    return path.as_uri()


def zipped(data, path):
    data.write_h5ad(path.with_suffix(""))
    path.write_bytes(gzip.compress(path.with_suffix("").read_bytes()))
    return path.as_uri()


def reference(X_log, n_top_genes, n_bins=20):
    """Highly variable genes by the definition, one gene at a time."""
    X = np.expm1(np.asarray(X_log.todense(), dtype=float))
    mean, variance = X.mean(axis=0), X.var(axis=0, ddof=1)
    position = np.log1p(mean)
    edges = np.linspace(position.min(), position.max(), n_bins + 1)
    bins = np.searchsorted(edges[1:-1], position)  # closed on the right
    scores = np.full(len(mean), -np.inf)
    for gene in np.flatnonzero(variance > 0):
        mates = np.log(variance / mean)[(bins == bins[gene]) & (variance > 0)]
        own = np.log(variance[gene] / mean[gene])
        scores[gene] = 1.0 if len(mates) == 1 else (own - mates.mean()) / mates.std(ddof=1)
    return np.sort(np.argsort(-scores)[:n_top_genes])


# Genes


def test_scores_of_three_genes_that_share_a_bin_and_of_one_alone():
    X = np.array([[0, 1, 2, 0, 100], [4, 3, 2, 0, 300]])  # the first three have mean 2
    scores = dispersion_scores(csr_matrix(np.log1p(X)))
    dispersion = np.log([8 / 2, 2 / 2])  # var / mean; the third gene and the fourth do not vary
    expected = (dispersion - dispersion.mean()) / dispersion.std(ddof=1)
    np.testing.assert_allclose(scores[:2], expected)
    assert np.isnan(scores[2:4]).all()
    assert scores[4] == pytest.approx(1)


@pytest.mark.parametrize("n_top_genes", [1, 10, 40, N_GENES])
def test_most_dispersed_genes_are_those_of_the_definition(n_top_genes, competition):
    X_log = competition.layers["log_norm"]
    mask = most_dispersed(X_log, n_top_genes)
    assert np.flatnonzero(mask).tolist() == reference(X_log, n_top_genes).tolist()


def test_order_of_cells_does_not_matter(competition):
    X_log = competition.layers["log_norm"]
    order = np.random.default_rng(0).permutation(X_log.shape[0])
    scores = dispersion_scores(X_log)
    np.testing.assert_allclose(dispersion_scores(X_log[order]), scores)


def test_genes_that_do_not_vary_are_never_selected():
    X_log = csr_matrix(np.log1p([[1.0, 0, 5], [1, 0, 7], [1, 0, 5]]))
    assert most_dispersed(X_log, 3).tolist() == [False, False, True]
    assert most_dispersed(X_log[:, :2], 1).tolist() == [False, False]


def test_selection_is_that_of_scanpy(competition):
    # highly_variable_genes(layer="log_norm") of scanpy 1.11.5 on the same cells
    X_log = competition.layers["log_norm"]
    expected = [8, 11, 18, 22, 30, 34, 36, 38, 40, 42, 45, 50, 58, 60, 64, 65, 67, 72, 77, 78]
    assert np.flatnonzero(most_dispersed(X_log, 20)).tolist() == expected
    known = [0.591576, -0.526767, 0.668376, -0.277635]
    np.testing.assert_allclose(dispersion_scores(X_log)[:4], known, atol=1e-5)


# Bone marrow


def test_competition_gives_counts_of_variable_genes_of_all_cells(competition, tmp_path):
    url = save(competition, tmp_path / "file.h5ad")
    data = fetch_hematopoiesis(n_top_genes=30, data_home=tmp_path / "home", url=url)
    genes = reference(competition.layers["log_norm"], 30)
    assert isinstance(data.X, csr_matrix)
    assert data.X.dtype == np.float32
    expected = competition.layers["counts"].toarray()[:, genes]
    np.testing.assert_array_equal(data.X.toarray(), expected)
    assert data.feature_names.tolist() == competition.var_names[genes].tolist()
    assert data.obs.index.tolist() == competition.obs_names.tolist()
    assert data.obs["cell_type"].tolist() == competition.obs["cell_type"].tolist()
    assert "competition: 210 cells, 30 genes, 6 batches; 150 cells of 3 types" in data.DESCR


def test_geo_gives_the_same_genes_and_no_peaks(competition, geo, tmp_path):
    url = save(competition, tmp_path / "file.h5ad")
    published = fetch_hematopoiesis(n_top_genes=30, data_home=tmp_path, url=url)
    url = zipped(geo, tmp_path / "file.h5ad.gz")
    data = fetch_hematopoiesis("geo", n_top_genes=30, data_home=tmp_path, url=url)
    assert (data.X != published.X).nnz == 0
    assert data.feature_names.tolist() == published.feature_names.tolist()
    assert data.split.tolist() == published.split.tolist()


@pytest.mark.parametrize("source", ["competition", "geo"])
def test_all_genes(source, competition, geo, tmp_path):
    file = {"competition": competition, "geo": geo}[source]
    write = {"competition": save, "geo": zipped}[source]
    url = write(file, tmp_path / "file.h5ad.gz")
    data = fetch_hematopoiesis(source, n_top_genes=None, data_home=tmp_path / "home", url=url)
    assert (data.X != competition.layers["counts"]).nnz == 0
    assert data.feature_names.tolist() == competition.var_names.tolist()


def test_split_site_and_donor_follow_from_the_batch(competition, tmp_path):
    url = save(competition, tmp_path / "file.h5ad")
    data = fetch_hematopoiesis(data_home=tmp_path, url=url)
    batches = competition.obs["batch"].astype(str)
    assert data.split.tolist() == [PARTS.get(batch) for batch in batches]
    assert (data.obs["site"].astype(str) + data.obs["donor"].astype(str)).tolist() == [*batches]
    assert set(data.obs["donor"]) == {"d1", "d2", "d4", "d6", "d10"}  # the tenth is not the first
    assert data.invariant == ["cell_type", "donor"]
    assert data.spurious == ["site"]


def test_numbers_of_genes_and_sources_have_files_of_their_own(competition, geo, tmp_path):
    home = tmp_path / "home"
    url = save(competition, tmp_path / "file.h5ad")
    fetch_hematopoiesis(n_top_genes=30, data_home=home, url=url)
    fetch_hematopoiesis(n_top_genes=None, data_home=home, url=url)
    fetch_hematopoiesis("geo", data_home=home, url=zipped(geo, tmp_path / "file.h5ad.gz"))
    assert {path.name for path in home.glob("hematopoiesis*.h5ad")} == {
        "hematopoiesis_competition_30.h5ad",
        "hematopoiesis_competition_all.h5ad",
        "hematopoiesis_geo_2000.h5ad",
    }


@pytest.mark.parametrize("source", ["competition", "geo"])
def test_the_file_comes_over_http_once(source, competition, geo, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    home = tmp_path / "home"
    save(competition, tmp_path / "competition")
    zipped(geo, tmp_path / "geo.gz")
    name = {"competition": "competition", "geo": "geo.gz"}[source]
    md5 = hashlib.md5((tmp_path / name).read_bytes()).hexdigest()
    handler = functools.partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{name}"
        first = fetch_hematopoiesis(source, data_home=home, url=url, checksum=f"md5:{md5}")
        server.shutdown()
    for path in home.iterdir():
        if not path.name.startswith("hematopoiesis"):
            path.unlink()
    second = fetch_hematopoiesis(source, data_home=home, download_if_missing=False)
    assert (first.X != second.X).nnz == 0
    assert first.split.tolist() == second.split.tolist()
    pd.testing.assert_frame_equal(first.obs, second.obs)


def test_a_file_that_was_unpacked_by_hand_is_read(geo, tmp_path):
    name = "GSE194122_openproblems_neurips2021_multiome_BMMC_processed.h5ad"
    save(geo, tmp_path / name)
    data = fetch_hematopoiesis("geo", data_home=tmp_path, download_if_missing=False)
    assert data.X.shape == (210, N_GENES)


@pytest.mark.parametrize("whole", [True, False])
def test_what_is_no_whole_gzip_file_is_not_kept(whole, geo, tmp_path):
    zipped(geo, tmp_path / "file.h5ad.gz")
    packed = (tmp_path / "file.h5ad.gz").read_bytes()
    (tmp_path / "bad.gz").write_bytes(b"<html>gone</html>" if whole else packed[:-100])
    home = tmp_path / "home"
    with pytest.raises(OSError, match=r"bad.gz.* not a (complete .gz|gzip) file"):
        fetch_hematopoiesis("geo", data_home=home, url=(tmp_path / "bad.gz").as_uri())
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("name", ["batch", "cell_type"])
def test_a_file_without_the_columns_is_not_the_one_that_was_meant(name, competition, tmp_path):
    del competition.obs[name]
    url = save(competition, tmp_path / "file.h5ad")
    with pytest.raises(ValueError, match=f"no column '{name}', but 'size_factors'"):
        fetch_hematopoiesis(data_home=tmp_path / "home", url=url)
    assert not [*(tmp_path / "home").glob("hematopoiesis*")]


def test_a_file_without_the_layer_is_not_the_one_that_was_meant(competition, tmp_path):
    del competition.layers["log_norm"]
    url = save(competition, tmp_path / "file.h5ad")
    with pytest.raises(ValueError, match="no layer 'log_norm'; it has: 'counts'"):
        fetch_hematopoiesis(data_home=tmp_path / "home", url=url)


def test_batches_of_other_names(competition, tmp_path):
    competition.obs["batch"] = competition.obs["batch"].cat.rename_categories({"s1d2": "lane 2"})
    url = save(competition, tmp_path / "file.h5ad")
    with pytest.raises(ValueError, match="names such as 's1d2', for site and donor: 'lane 2'"):
        fetch_hematopoiesis(data_home=tmp_path / "home", url=url)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"source": "GSE194122"}, "source must be 'competition' or 'geo', got 'GSE194122'"),
        ({"n_top_genes": 0}, "n_top_genes must be an integer of at least 1 or None: 0"),
        ({"n_top_genes": 0.5}, "n_top_genes must be an integer of at least 1 or None: 0.5"),
        ({"n_top_genes": True}, "n_top_genes must be an integer of at least 1 or None: True"),
    ],
)
def test_bad_choices_are_told_before_anything_is_fetched(bad, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        fetch_hematopoiesis(data_home=tmp_path / "home", **bad)
    assert not (tmp_path / "home").exists()


# Lung cancer


def test_lung_cancer_gives_the_counts_behind_the_expression(lung, tmp_path):
    data = fetch_lung_cancer(data_home=tmp_path / "home", url=save(lung, tmp_path / "file.h5ad"))
    assert isinstance(data.X, csr_matrix)
    assert data.X.dtype == np.float32
    np.testing.assert_array_equal(data.X.toarray(), lung.raw.X.toarray())
    assert data.feature_names.tolist() == ["ASCL1", "NEUROD1", "MYC"]
    assert data.obs["donor_id"].tolist() == lung.obs["donor_id"].tolist()
    assert data.invariant == ["disease", "cell_type"]
    assert data.spurious == ["assay", "treatment"]
    assert data.DESCR == (
        "Chan et al. 2021, lung cancer: 40 cells, 3 genes; 3 levels of disease, "
        "2 levels of cell_type, 2 levels of assay, 2 levels of treatment."
    )


def test_lung_cancer_is_read_from_its_part_in_later_calls(lung, tmp_path):
    home = tmp_path / "home"
    first = fetch_lung_cancer(data_home=home, url=save(lung, tmp_path / "file.h5ad"))
    (home / "htan_msk_sclc_combined.h5ad").unlink()
    second = fetch_lung_cancer(data_home=home, download_if_missing=False)
    assert (first.X != second.X).nnz == 0
    assert first.feature_names.tolist() == second.feature_names.tolist()
    pd.testing.assert_frame_equal(first.obs, second.obs)


def test_lung_cancer_without_symbols_has_the_names_of_the_genes(lung, tmp_path):
    del lung.raw.var["feature_name"]
    data = fetch_lung_cancer(data_home=tmp_path / "home", url=save(lung, tmp_path / "file.h5ad"))
    assert data.feature_names.tolist() == ["ENSG1", "ENSG2", "ENSG3"]


@pytest.mark.parametrize("name", ["disease", "cell_type", "assay", "treatment"])
def test_lung_cancer_without_the_columns_is_not_the_file_that_was_meant(name, lung, tmp_path):
    del lung.obs[name]
    with pytest.raises(ValueError, match=f"no column '{name}', but "):
        fetch_lung_cancer(data_home=tmp_path / "home", url=save(lung, tmp_path / "file.h5ad"))
    assert not [*(tmp_path / "home").glob("lung*")]


def test_lung_cancer_without_counts_is_not_the_file_that_was_meant(lung, tmp_path):
    lung.raw = None
    with pytest.raises(ValueError, match="htan_msk_sclc_combined.h5ad has no layer 'raw'; it has"):
        fetch_lung_cancer(data_home=tmp_path / "home", url=save(lung, tmp_path / "file.h5ad"))


# Both


@pytest.mark.parametrize(
    "fetch",
    [fetch_lung_cancer, fetch_hematopoiesis, functools.partial(fetch_hematopoiesis, "geo")],
    ids=["lung_cancer", "competition", "geo"],
)
def test_a_file_that_may_not_be_fetched_and_anndata_that_is_not_there(
    fetch, tmp_path, monkeypatch
):
    with pytest.raises(OSError, match="download_if_missing=False"):
        fetch(data_home=tmp_path, download_if_missing=False)
    monkeypatch.setitem(sys.modules, "anndata", None)
    with pytest.raises(ImportError, match=r"pip install 'skpert\[data\]'"):
        fetch(data_home=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fetch", "name"),
    [
        (fetch_lung_cancer, "htan_msk_sclc_combined.h5ad"),
        (fetch_hematopoiesis, "multiome_gex_processed_training.h5ad"),
        (
            functools.partial(fetch_hematopoiesis, "geo"),
            "GSE194122_openproblems_neurips2021_multiome_BMMC_processed.h5ad.gz",
        ),
    ],
    ids=["lung_cancer", "competition", "geo"],
)
def test_a_file_saved_under_its_public_name_must_have_the_checksum(fetch, name, tmp_path):
    (tmp_path / name).write_bytes(b"other")
    with pytest.raises(OSError, match=rf"{name} is not the expected file.* Delete it"):
        fetch(data_home=tmp_path, checksum=f"sha256:{'0' * 64}")
    assert [path.name for path in tmp_path.iterdir()] == [name]  # it may be the user's own
