"""By which versions, and when, each file of ``results`` was written.

::

    python -m benchmarks.versions    # print it; write doc/versions.inc, for the page of results

Versions and dates are those that rows carry. Older rows carry fewer; where a file has no date,
that of its last commit is written.
"""

import subprocess
import sys

import pandas as pd

from .questions import RESULTS, TABLE
from .runner import ROOT

PAGE = ROOT / "doc" / "versions.inc"
COLUMNS = {
    "version": "skpert",
    "python": "Python",
    "torch": "torch",
    "scikit-learn": "scikit-learn",
}
UNKNOWN = "\\-"


def files():
    """The CSV files of results, but for the table that is made from others."""
    return [path for path in sorted(RESULTS.glob("*.csv")) if path != TABLE]


def recorded(path):
    """Text for each column of versions of a CSV file: all values, in the order of the rows."""
    table = pd.read_csv(path, low_memory=False).reindex(columns=list(COLUMNS))
    values = {title: table[name].dropna().astype(str) for name, title in COLUMNS.items()}
    return {title: ", ".join(found.unique()) or UNKNOWN for title, found in values.items()}


def written(path):
    """Day on which the last rows of a CSV file were written, as YYYY-MM-DD.

    Rows say so, or else the last commit of the file does.
    """
    table = pd.read_csv(path, low_memory=False)
    if "date" in table and table["date"].notna().any():
        return table["date"].dropna().max()
    command = ["git", "-C", str(ROOT), "log", "-1", "--format=%cs", "--", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def entry(path):
    """Row of the page that a CSV file has, without its date."""
    return "".join(f', "{text}"' for text in recorded(path).values())


def page():
    """A table of all files, in reStructuredText."""
    lines = [".. Written by benchmarks.versions.", "", ".. csv-table::", "   :header-rows: 1"]
    lines += ["   :widths: auto", "", f"   file, date, {', '.join(COLUMNS.values())}"]
    for path in files():
        lines += [f'   "{path.stem}", {written(path)}{entry(path)}']
    return "\n".join([*lines, ""])


def main():
    """Print and write."""
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE.read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
