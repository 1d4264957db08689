"""Processes of torchrun train one model together as one process does."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parent / "ranks_script.py"
LAUNCH = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]


def run(case, folder, n_processes, *, good=True):
    """What each process of a case found."""
    launch = [] if n_processes == 1 else [*LAUNCH, str(n_processes)]
    command = [sys.executable, "-W", "ignore", *launch, str(SCRIPT), case, str(folder)]
    environment = os.environ | {"PYTHONPATH": str(SCRIPT.parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, timeout=300
    )
    assert (done.returncode == 0) == good, done.stderr
    paths = [folder / f"{case}-{i}-of-{n_processes}.npz" for i in range(n_processes)]
    return [dict(np.load(path)) for path in paths] if good else None


@pytest.mark.parametrize("n_processes", [2, 4])
def test_as_many_as_there_are_find_the_same(n_processes, tmp_path):
    (alone,) = run("exact", tmp_path, 1)
    for found in run("exact", tmp_path, n_processes):
        for name, values in alone.items():
            np.testing.assert_allclose(found[name], values, atol=1e-6, err_msg=name)


def test_sums_are_those_of_all_with_and_without_shared_memory(tmp_path):
    for found in run("sums", tmp_path, 3):
        for name, values in found.items():
            np.testing.assert_array_equal(values, 111 + 3 * int(name.split()[-1]), err_msg=name)


def test_whole_fits_agree_in_all_processes(tmp_path):
    first, second = run("whole", tmp_path, 2)
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name])
    (alone,) = run("whole", tmp_path, 1)
    np.testing.assert_array_equal(alone["invariant"], first["invariant"])
    assert not np.array_equal(alone["unseeded"], first["unseeded"])


def test_a_killed_fit_goes_on_in_all_processes(tmp_path):
    (tmp_path / "undisturbed" / "checkpoints").mkdir(parents=True)
    undisturbed = run("killed", tmp_path / "undisturbed", 2)
    run("killed", tmp_path, 2, good=False)
    assert list((tmp_path / "checkpoints").glob("*.checkpoint"))
    resumed = run("killed", tmp_path, 2)
    for before, after in zip(undisturbed, resumed, strict=True):
        np.testing.assert_array_equal(before["Z"], after["Z"])
    assert resumed[0]["left"] == 0


def test_ctrl_c_in_one_process_ends_the_training_of_all(tmp_path):
    first, second = run("interrupted", tmp_path, 2)
    assert 0 < first["n_iter"] == second["n_iter"] < 50


def test_processes_that_see_other_memory_train_on_the_same_minibatches(tmp_path):
    first, second = run("differing", tmp_path, 2)
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name])
