"""Many fits on a Dask cluster, and in tasks of a process of torchrun."""

import os
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.utils.parallel import Parallel, delayed

from skpert._ranks import rank_and_size

SCRIPT = Path(__file__).parent / "cluster_script.py"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_cluster_finds_the_same_without_one_of_its_workers(tmp_path):
    """One cluster for all, which takes seconds to start."""
    pytest.importorskip("distributed")
    from doc.scaling.dask_search import grid

    from .cluster_script import A, X, many_fits

    command = [sys.executable, "-W", "ignore", str(SCRIPT), str(tmp_path / "found.npz")]
    environment = os.environ | {"PYTHONPATH": str(SCRIPT.parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found = dict(np.load(tmp_path / "found.npz"))
    assert found["n_killed"] == 1
    alone = grid().fit(X, A)
    np.testing.assert_array_equal(found["scores"], alone.cv_results_["mean_test_score"])
    np.testing.assert_array_equal(found["Z"], alone.transform(X))
    for name, values in many_fits().items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    assert len(found["sent"]) >= 6
    assert found["sent"][:-2].max() < X.nbytes / 5  # the last two hold a fitted model


def test_tasks_join_no_processes_of_torchrun(monkeypatch):
    launched = {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    with joblib.parallel_config(backend="threading", n_jobs=2):
        found = Parallel()(delayed(rank_and_size)() for _ in range(2))
    assert found == [(0, 1), (0, 1)]
