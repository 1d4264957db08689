"""Jobs and their results: what a CSV file lacks is run, in parallel, and its rows are kept.

A finished job is written at once, so that a run can be interrupted and resumed, and a job that
fails takes no other with it. Rows carry the versions of the code that made them.
"""

import hashlib
import json
import platform
import subprocess
import time
import traceback
import warnings
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import NamedTuple

import joblib
import pandas as pd
import sklearn
import torch
from threadpoolctl import threadpool_limits

import skpert
from skpert.exceptions import DataWarning

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Job:
    """One method on one data set, which gives one row; subclasses add what determines it."""

    method: str
    seed: int

    @property
    def name(self):
        """What to call it beside its seed."""
        return self.method

    @property
    def settings(self):
        """All that determines the result, as text; the device does not."""
        return json.dumps({k: v for k, v in vars(self).items() if k != "device"}, sort_keys=True)

    @property
    def key(self):
        """Short name of the settings."""
        return hashlib.sha256(self.settings.encode()).hexdigest()[:16]

    @property
    def columns(self):
        """Columns of the CSV file that identify the job."""
        return {
            "key": self.key,
            "method": self.method,
            "seed": self.seed,
            "settings": self.settings,
        }


class TableJob(NamedTuple):
    """What is fitted and scored at once, and gives some rows."""

    setting: str  # data, splits and options
    seed: int
    name: str

    @property
    def columns(self):
        """Columns of the CSV file that identify the job."""
        return {"setting": self.setting, "seed": self.seed, "job": self.name}


def run_jobs(score, jobs, path, n_jobs, *data):
    """Run the jobs of which the CSV file has no rows; append theirs as soon as they are done.

    Parameters
    ----------
    score : callable
        ``score(job, *data)`` returns the job's row, a dict, or its rows, a DataFrame. To these are
        added the job's own columns, the versions, and ``seconds`` unless they have it.
    jobs : list of Job or list of TableJob
        In the order in which they are run.
    path : Path
        The CSV file.
    n_jobs : int
        Processes, of one thread each.
    *data : object
        What all jobs share.

    Returns
    -------
    results : DataFrame
        Rows of these jobs, in their order.
    n_failed : int
        How many jobs failed; their tracebacks were printed.
    """
    done = set(_keys(read(path), jobs))
    waiting = {key: job for job in jobs if (key := tuple(job.columns.values())) not in done}
    print(f"{len(waiting)} of {len(jobs)} jobs to run, results in {path}", flush=True)
    made_by, n_failed = versions(), 0  # before the code can change
    calls = (joblib.delayed(_measured)(score, job, *data) for job in waiting.values())
    for job, table in joblib.Parallel(n_jobs=n_jobs, return_as="generator_unordered")(calls):
        if isinstance(table, str):
            n_failed += 1
            print(f"{job}\n{table}", flush=True)
            continue
        append(table.assign(**made_by), path)
        found = table.drop(columns=list(job.columns)).select_dtypes("number")
        seen = found.iloc[0].dropna() if len(table) == 1 else {}
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in seen.items())
        print(f"seed {job.seed}, {job.name}{numbers and ': '}{numbers}", flush=True)
    return rows_of(read(path), jobs), n_failed


def _measured(score, job, *data):
    """The job, and its rows or, if it failed, the traceback as text."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    try:
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)  # such as: no control cells
            rows = score(job, *data)
    except Exception:  # the other jobs go on
        return job, traceback.format_exc()
    rows = pd.DataFrame([rows] if isinstance(rows, dict) else rows).reset_index(drop=True)
    table = pd.concat([pd.DataFrame(job.columns, index=rows.index), rows], axis=1)
    if "seconds" not in table:  # where it is that of a fit
        table["seconds"] = round(time.perf_counter() - start, 1)
    return job, table


def read(path):
    """Rows of a CSV file, none if there is no such file."""
    return pd.read_csv(path) if path.exists() else pd.DataFrame()


def rows_of(results, jobs):
    """Rows of these jobs, in their order."""
    place = {tuple(job.columns.values()): i for i, job in enumerate(jobs)}
    found = [(place[key], row) for row, key in enumerate(_keys(results, jobs)) if key in place]
    return results.iloc[[row for _, row in sorted(found)]].reset_index(drop=True)


def _keys(results, jobs):
    """Values of the columns that identify jobs, a tuple for each row."""
    names = list(jobs[0].columns) if jobs else []
    return list(results.reindex(columns=names).itertuples(index=False, name=None))


def append(table, path):
    """Add rows to a CSV file; in columns that are new its old rows stay empty."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(path, index=False)
        return
    names = pd.read_csv(path, nrows=0).columns
    new = table.columns.difference(names, sort=False)
    if len(new):
        old = pd.read_csv(path, dtype=str, keep_default_na=False)  # digits stay as they are
        beside = path.with_name(f"{path.name}.new")
        old.assign(**dict.fromkeys(new, "")).to_csv(beside, index=False)
        beside.replace(path)
    table.reindex(columns=[*names, *new]).to_csv(path, mode="a", header=False, index=False)


def write(rows, path):
    """Write a CSV file anew."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).assign(**versions()).to_csv(path, index=False)


def replace(rows, path, key):
    """Write these rows into a CSV file, instead of those with the same values of a column."""
    new = pd.DataFrame(rows).assign(**versions())
    if path.exists():
        old = pd.read_csv(path)
        new = pd.concat([old[~old[key].isin(new[key])], new], ignore_index=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    new.to_csv(path, index=False)


@cache
def versions():
    """Versions and the day, which rows carry: those of the start of the run."""
    return {
        "version": code_version(),
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "scikit-learn": sklearn.__version__,
    }


def code_version():
    """Version of the package, with the commit where there is one.

    As in ``0.1.0+1a2b3c4d5e.dirty``, which says that files of the package or of the benchmarks
    differ from the commit.
    """
    try:
        elsewhere = Path(skpert.__file__).resolve().parents[1] != ROOT
        if elsewhere or _git("rev-parse", "--show-prefix"):  # in a folder of another repository
            return skpert.__version__
        commit = _git("rev-parse", "--short=10", "HEAD")
        code = ("skpert", "benchmarks", ":!benchmarks/results")
        changes = _git("status", "--porcelain", "--", *code)
    except (OSError, subprocess.CalledProcessError):
        return skpert.__version__
    return f"{skpert.__version__}+{commit}{'.dirty' if changes else ''}"


def _git(*arguments):
    """What git says of this repository."""
    command = ["git", "--no-optional-locks", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def fingerprint(*arrays):
    """Short name of data."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(array.astype(str if array.dtype == object else array.dtype).tobytes())
    return digest.hexdigest()[:8]
