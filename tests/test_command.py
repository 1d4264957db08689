"""The command ``skpert``, as a shell runs it and within this process."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import skpert
from skpert.command import main

anndata = pytest.importorskip("anndata")
SHORT = ["--max-epochs", "3", "--n-latent", "3"]
for setting in ("n_hidden=8", "n_layers=1", "batch_size=32", "n_particles=2"):
    SHORT += ["--set", setting]


@pytest.fixture(scope="module")
def screen(tmp_path_factory):
    """A simulated screen, whose path has a blank, with labels in a column of another name."""
    path = tmp_path_factory.mktemp("a folder") / "a screen.h5ad"
    sizes = ["--n-perturbations", "3", "--n-cells-per-perturbation", "30"]
    assert main(["simulate", str(path), *sizes, "--n-control-cells", "40"]) == 0
    adata = anndata.read_h5ad(path)
    adata.obs["gene"] = adata.obs["perturbation"].astype(str).replace("control", "NT")
    adata.obs["mixed"] = pd.Series([1, "one"] * 65, index=adata.obs_names).astype(str)
    adata.obs["lane"] = ["a", "b"] * 65
    adata.layers["twice"] = adata.X * 2
    del adata.obs["perturbation"]
    adata.write_h5ad(path)
    return str(path)


@pytest.fixture(scope="module")
def fitted(screen, tmp_path_factory):
    """Folder with the results of a fit."""
    pytest.importorskip("jinja2")
    folder = tmp_path_factory.mktemp("results") / "made by it" / "out"
    design = ["--perturbation", "gene", "--control", "NT"]
    assert main(["fit", screen, *design, "-o", str(folder), *SHORT]) == 0
    return folder


def failed(capsys, *arguments):
    """The one sentence after a command that fails with status 2."""
    try:
        status = main([str(each) for each in arguments])
    except SystemExit as end:  # of argparse
        status = end.code
    assert status == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_fit_writes_what_the_functions_return(fitted, screen):
    model = skpert.load(fitted / "model.skpert")
    cells = anndata.read_h5ad(fitted / "cells.h5ad")
    assert cells.shape == (130, 60)
    np.testing.assert_array_equal(cells.obsm["X_skpert"], model.transform(cells))
    assert {"gene", "mixed", "lane"} <= set(cells.obs)
    targets = pd.read_csv(fitted / "targets.csv", index_col=0)
    pd.testing.assert_frame_equal(targets, model.targets().astype(float), check_names=False)
    assert (fitted / "targets.png").read_bytes().startswith(b"\x89PNG")
    assert "3 perturbations, 130 cells" in (fitted / "report.html").read_text(encoding="utf-8")
    own = anndata.read_h5ad(screen)
    settings = {"n_hidden": 8, "n_layers": 1, "batch_size": 32, "n_particles": 2, "max_epochs": 3}
    alone = skpert.SVAEPlus(
        3, control="NT", perturbation="gene", random_state=0, **settings
    ).fit(own, own.obs)  # fmt: skip
    np.testing.assert_array_equal(alone.transform(own), model.transform(own))


def test_results_are_replaced_only_when_asked_for(fitted, screen, capsys):
    common = ["fit", screen, "--perturbation", "gene", "--control", "NT", "-o", fitted, *SHORT]
    assert "--overwrite" in failed(capsys, *common)
    assert (fitted / "report.html").exists()
    assert "no column 'none'" in failed(capsys, *common, "--overwrite", "--perturbation", "none")
    assert (fitted / "report.html").exists()


def test_a_screen_is_not_replaced_by_its_results(fitted, capsys):
    cells, options = fitted / "cells.h5ad", ["--perturbation", "gene", "--overwrite"]
    before = cells.read_bytes()
    line = failed(capsys, "fit", cells, *options, "-o", fitted)
    assert "would be replaced" in line
    assert cells.read_bytes() == before


def test_a_model_without_targets_and_other_data(screen, tmp_path, capsys):
    design = ["--perturbation", "gene", "--control", "NT", "--layer", "twice"]
    design += ["--environment", "lane", "--n-top-genes", "20", "--no-report"]
    assert main(["fit", screen, *design, "--model", "VAE", "-o", str(tmp_path), *SHORT]) == 0
    assert "VAE calls no targets" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells.h5ad", "model.skpert"]
    cells = anndata.read_h5ad(tmp_path / "cells.h5ad")
    assert cells.shape == (130, 20)
    original = anndata.read_h5ad(screen)[:, cells.var_names]
    np.testing.assert_array_equal(cells.X.toarray(), 2 * original.X.toarray())


def test_cells_without_a_label_are_left_out_and_counted(screen, tmp_path, capsys):
    adata = anndata.read_h5ad(screen)
    adata.obs["gene"] = adata.obs["gene"].astype(object)
    adata.obs.loc[adata.obs_names[:5], "gene"] = None
    adata.write_h5ad(tmp_path / "screen.h5ad")
    design = ["--perturbation", "gene", "--control", "NT", "--no-report"]
    path, out = str(tmp_path / "screen.h5ad"), str(tmp_path / "out")
    assert main(["fit", path, *design, "-o", out, "--model", "VAE", *SHORT]) == 0
    assert "skpert: warning: 5 of 130 cells have no label" in capsys.readouterr().err
    assert anndata.read_h5ad(tmp_path / "out" / "cells.h5ad").n_obs == 125


def test_evaluate_prints_and_writes_the_summary(screen, tmp_path, capsys):
    design = ["--perturbation", "gene", "--control", "NT", "--n-splits", "2"]
    models = ["--model", "SVAEPlus", "--model", "AdditiveEffects", "--metrics", "response_mse"]
    options = [*design, *models, "-o", str(tmp_path / "scores"), *SHORT]
    assert main(["evaluate", screen, *options]) == 0
    out = capsys.readouterr().out
    summary = pd.read_csv(tmp_path / "scores" / "summary.csv", index_col=0)
    assert list(summary.index[:2]) == ["SVAEPlus", "AdditiveEffects"]
    assert f"{summary.loc['SVAEPlus', 'response_mse']:.4f}" in out
    table = pd.read_csv(tmp_path / "scores" / "per_perturbation.csv")
    assert set(table["perturbation"]) == {"P0", "P1", "P2"}
    calibrated = pd.read_csv(tmp_path / "scores" / "calibrated.csv", index_col=0)
    assert calibrated.shape == summary.shape


def test_evaluate_on_perturbations_that_are_held_out(screen, capsys):
    design = ["--perturbation", "gene", "--control", "NT", "--n-splits", "3"]
    options = [*design, "--hold-out", "perturbations", "--model", "PerturbedMean"]
    assert main(["evaluate", screen, *options, "--metrics", "response_mse"]) == 0
    row = capsys.readouterr().out.splitlines()[-1].split()
    assert row[0] == "response_mse"
    assert row[1] == row[2]  # it is the floor


@pytest.mark.parametrize("simulator", ["sparse_shift", "additive_shift", "causal_shift"])
def test_simulated_screens_hold_the_truth(simulator, tmp_path, capsys):
    path = tmp_path / "screen.h5ad"
    sizes = ["--n-perturbations", "6", "--n-cells-per-perturbation", "10", "--n-genes", "50"]
    assert main(["simulate", str(path), "--simulator", simulator, *sizes]) == 0
    adata = anndata.read_h5ad(path)
    assert adata.shape == (360, 50)
    assert adata.obsm["Z"].shape == (360, 5)
    truth = adata.uns["truth"]["shift" if simulator == "causal_shift" else "embedding"]
    assert truth.shape == (6, 5)
    assert set(adata.obs["perturbation"]) == {"control", *truth.index}
    made = getattr(skpert.datasets, f"make_{simulator}")(
        6, n_cells_per_perturbation=10, n_control_cells=300, n_latent=5, n_genes=50, random_state=0
    )
    np.testing.assert_array_equal(adata.X, made.X)
    assert "--overwrite" in failed(capsys, "simulate", path)


BAD = [
    (["fit", "no such.h5ad", "-o", "{out}"], "no such file or folder: no such.h5ad"),
    (["fit", "{screen}", "-o", "{out}"], "has no column 'perturbation'"),
    (["fit", "{screen}", "--perturbation", "gene", "--control", "X", "-o", "{out}"], "'X' of"),
    (["fit", "{screen}", "--perturbation", "gene", "-o", "{screen}"], "is a file: name a folder"),
    (["fit", "{screen}", "--perturbation", "gene", "-o", "{screen}/in"], "cannot be made"),
    (["fit", "{screen}", "--layer", "no", "-o", "{out}"], "no layer 'no'"),
    (
        [*"fit {screen} --perturbation gene --control NT -o {out} --environment no".split()],
        "has no column 'no' of --environment",
    ),
    (["fit", "{screen}", "-o", "{out}", "--set", "hidden=3"], "no parameter 'hidden'"),
    (["fit", "{screen}", "-o", "{out}", "--set", "hidden"], "not of the form name=value"),
    (["fit", "{screen}", "-o", "{out}", "--max-epochs", "0"], "'max_epochs' parameter"),
    (["fit", "{screen}", "-o", "{out}", "--fdr", "2"], "fdr == 2.0, must be"),
    (["fit", "{screen}", "-o", "{out}", "--model", "PCA"], "invalid choice: 'PCA'"),
    (["fit", "{screen}"], "required: -o/--output"),
    (["fit", "{folder}", "-o", "{out}"], "{folder}"),
    (["evaluate", "{screen}", "--perturbation", "gene", "--metrics", "no"], "unknown metrics"),
    (["evaluate", "{screen}", "--perturbation", "gene", "--n-splits", "1"], "n_splits"),
    (["simulate", "screen.csv"], "must end in .h5ad"),
    (["simulate", "{folder}/no/screen.h5ad"], "no folder"),
    (["simulate", "{out}.h5ad", "--set", "no=1"], "make_sparse_shift has no argument 'no'"),
    (["simulate", "{out}.h5ad", "--n-genes", "3"], "n_genes"),
    ([], "required"),
    (["fly"], "invalid choice: 'fly'"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=lambda value: str(value)[:40])
def test_what_is_wrong_is_one_sentence(arguments, message, screen, tmp_path, capsys):
    named = {"screen": screen, "out": tmp_path / "out", "folder": tmp_path}
    line = failed(capsys, *(each.format(**named) for each in arguments))
    assert message.format(**named) in line
    assert line.startswith("skpert")
    assert "error: " in line
    assert not (tmp_path / "out").exists()


def test_debug_shows_the_error_itself():
    with pytest.raises(ValueError, match="no such file"):
        main(["fit", "no such.h5ad", "-o", "out", "--debug"])


def test_what_is_no_fault_of_the_user_says_so(capsys, monkeypatch, tmp_path):
    def broken(*args, **kwargs):
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr("skpert.command._simulate.write", broken)
    line = failed(capsys, "simulate", tmp_path / "screen.h5ad")
    start = "skpert: error: RuntimeError: out of memory (unexpected: --debug shows where"
    assert line.startswith(start)


def test_ctrl_c_ends_it_in_one_line(capsys, monkeypatch, tmp_path):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("skpert.command._simulate.write", interrupted)
    assert main(["simulate", str(tmp_path / "screen.h5ad")]) == 130
    assert capsys.readouterr().err == "skpert: error: interrupted\n"


@pytest.mark.parametrize("verb", ["fit", "evaluate", "simulate"])
def test_help_has_an_example(verb, capsys):
    with pytest.raises(SystemExit) as end:
        main([verb, "--help"])
    assert end.value.code == 0
    assert f"skpert {verb} screen.h5ad" in " ".join(capsys.readouterr().out.split())


def run(*arguments):
    command = [sys.executable, "-m", "skpert", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_a_shell_sees_status_and_streams(screen, tmp_path):
    out = tmp_path / "an output"
    options = ["--perturbation", "gene", "--control", "NT", "--no-report", "--model", "VAE"]
    done = run("fit", screen, *options, "-o", out, *SHORT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("130 cells, 60 genes, 3 perturbations\n")
    assert done.stderr == ""
    failed = run("fit", screen, *options, "-o", out, *SHORT)
    assert failed.returncode == 2
    assert failed.stdout == ""
    assert len(failed.stderr.splitlines()) == 1
    debug = run("fit", "none.h5ad", "-o", out, "--debug")
    assert debug.returncode == 1
    assert "Traceback" in debug.stderr
