"""Jobs and results of the benchmarks: what runs, what is kept, and what made it."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

import skpert
from benchmarks import command, runner
from benchmarks.runner import Job, TableJob

VERSIONS = ["version", "date", "python", "torch", "scikit-learn"]


@dataclass(frozen=True)
class Sized(Job):
    size: int
    device: str = "cpu"


def scored(job, log):
    """One row, or two, unless the job is to fail."""
    if job.name == "fails":
        raise RuntimeError("as it should")
    with log.open("a") as file:
        file.write(job.name)
    if isinstance(job, Job):
        return {"mcc": 0.5 + job.seed, "nll": None}
    return pd.DataFrame({"estimator": [job.name, "both"], "mse": [1.5, 2.5]}, index=[3, 3])


JOBS = {
    "rows": [Sized("a", 0, 5), Sized("fails", 0, 5), Sized("b", 1, 5)],
    "tables": [TableJob("x", 0, "a"), TableJob("x", 0, "fails"), TableJob("x", 1, "b")],
}


@pytest.mark.parametrize("kind", JOBS)
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_failure_takes_no_other_job_with_it_and_what_is_done_is_not_run_again(
    tmp_path, capsys, kind, n_jobs
):
    path, log = tmp_path / "results" / "rows.csv", tmp_path / "log"
    for n_waiting in (3, 1):
        results, n_failed = runner.run_jobs(scored, JOBS[kind], path, n_jobs, log)
        assert n_failed == 1
        out = capsys.readouterr().out
        assert f"{n_waiting} of 3 jobs to run" in out
        assert "RuntimeError: as it should" in out
        assert results["seed"].tolist() == ([0, 1] if kind == "rows" else [0, 0, 1, 1])
    assert sorted(log.read_text()) == ["a", "b"]
    assert len(pd.read_csv(path)) == len(results)


def test_rows_say_what_made_them(tmp_path):
    path = tmp_path / "rows.csv"
    results, _ = runner.run_jobs(scored, JOBS["rows"], path, 1, tmp_path / "log")
    assert list(results) == [
        *["key", "method", "seed", "settings", "mcc", "nll", "seconds"],
        *VERSIONS,
    ]
    assert set(results["version"]) == {runner.versions()["version"]}
    runner.write([{"ms": 1.0}], path)
    assert list(pd.read_csv(path)) == ["ms", *VERSIONS]


def test_the_device_is_no_part_of_the_settings_and_all_else_is():
    job = Sized("a", 0, 5)
    assert job.settings == '{"method": "a", "seed": 0, "size": 5}'
    assert job.key == Sized("a", 0, 5, "cuda").key
    assert len({job.key, Sized("a", 0, 6).key, Sized("a", 1, 5).key, Sized("b", 0, 5).key}) == 4


def test_rows_from_before_versions_count_and_stay_as_they_are(tmp_path):
    path, log, jobs = tmp_path / "rows.csv", tmp_path / "log", JOBS["tables"]
    old = "setting,seed,job,mse\nx,0,a,0.1000000000000000055\n"
    path.write_text(old)
    results, _ = runner.run_jobs(scored, jobs, path, 1, log)
    assert log.read_text() == "b"
    assert path.read_text().splitlines()[1].startswith("x,0,a,0.1000000000000000055,")
    assert results["version"].isna().tolist() == [True, False, False]
    assert results["mse"].tolist() == [0.1, 1.5, 2.5]


def test_results_are_in_the_order_of_jobs_and_of_these_alone(tmp_path):
    path, log = tmp_path / "rows.csv", tmp_path / "log"
    a, _, b = JOBS["tables"]
    runner.run_jobs(scored, [a, b], path, 1, log)
    results, _ = runner.run_jobs(scored, [b], path, 1, log)
    assert results["job"].tolist() == ["b", "b"]
    results = runner.rows_of(runner.read(path), [b, a])
    assert results["estimator"].tolist() == ["b", "both", "a", "both"]
    assert len(runner.run_jobs(scored, [], path, 1, log)[0]) == 0


@pytest.mark.parametrize("path", sorted(command.RESULTS.glob("*.csv")), ids=lambda path: path.name)
def test_kept_results_are_read_and_added_to(path, tmp_path):
    copy, before = tmp_path / path.name, pd.read_csv(path, dtype=str)
    copy.write_bytes(path.read_bytes())
    runner.append(pd.DataFrame({"seed": [7], "version": ["later"]}), copy)
    after = pd.read_csv(copy, dtype=str)
    pd.testing.assert_frame_equal(after[list(before)].iloc[:-1], before)
    assert after["version"].iloc[-1] == "later"


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with the package in it, and how to call git there."""

    def git(*arguments):
        name = ["-c", "user.name=n", "-c", "user.email=e@x"]
        call = ["git", "-C", str(tmp_path), *name, *arguments]
        return subprocess.run(call, check=True, capture_output=True, text=True).stdout.strip()

    for folder in ("skpert", "benchmarks/results"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "skpert" / "__init__.py").write_text("")
    monkeypatch.setattr(runner, "ROOT", tmp_path.resolve())
    monkeypatch.setattr(skpert, "__file__", str(tmp_path / "skpert" / "__init__.py"))
    try:
        git("init", "-q")
    except FileNotFoundError:
        pytest.skip("needs git")
    git("add", ".")
    git("commit", "-q", "-m", "Start", "--no-verify")
    return git


def test_version_names_the_commit_and_changes_of_code(repository, tmp_path):
    clean = f"{skpert.__version__}+{repository('rev-parse', '--short=10', 'HEAD')}"
    assert runner.code_version() == clean
    (tmp_path / "benchmarks" / "results" / "rows.csv").write_text("a\n1\n")
    assert runner.code_version() == clean
    (tmp_path / "benchmarks" / "new.py").write_text("")
    assert runner.code_version() == f"{clean}.dirty"


def test_version_without_a_repository_of_its_own_is_that_of_the_package(
    repository, tmp_path, monkeypatch
):
    monkeypatch.setattr(skpert, "__file__", "/elsewhere/skpert/__init__.py")
    assert runner.code_version() == skpert.__version__
    inner = tmp_path / "inner"  # unpacked in a folder of another repository
    monkeypatch.setattr(runner, "ROOT", inner.resolve())
    monkeypatch.setattr(skpert, "__file__", str(inner / "skpert" / "__init__.py"))
    inner.mkdir()
    assert runner.code_version() == skpert.__version__
    monkeypatch.setattr(runner, "_git", lambda *_: Path("no program").read_text())
    assert runner.code_version() == skpert.__version__


@pytest.mark.parametrize("folder", ["svae", "additive", "unseen", "integration", "scale"])
def test_each_command_explains_itself(folder, capsys):
    with pytest.raises(SystemExit, match="0"):
        command.main(folder, ["--help"])
    assert f"python -m benchmarks.{folder}" in capsys.readouterr().out
    parts = command.import_module(f"benchmarks.{folder}").PARTS
    for part in parts:
        with pytest.raises(SystemExit, match="0"):
            command.main(folder, [part, "--help"])
        assert f"usage: python -m benchmarks.{folder} {part}" in capsys.readouterr().out


def test_failed_jobs_end_a_command_with_an_error(tmp_path, monkeypatch):
    from benchmarks.svae import table1

    monkeypatch.setattr(table1, "_scores", lambda job, screen: 1 / 0)
    small = ["--quick", "--cells", "20", "--methods", "VAE", "--csv", str(tmp_path / "rows.csv")]
    with pytest.raises(SystemExit, match="2 jobs failed"):
        command.main("svae", ["table1", *small])
