"""Which versions wrote the results."""

import pandas as pd
import pytest

from benchmarks import runner, versions


def test_page_that_is_kept_names_the_versions_of_all_results():
    page = versions.PAGE.read_text(encoding="utf-8").splitlines()
    rows = [line for line in page if line.startswith('   "')]
    assert len(rows) == len(versions.files())
    for path, row in zip(versions.files(), rows, strict=True):
        assert row.startswith(f'   "{path.stem}", 20')
        assert row.endswith(versions.entry(path))


def test_rows_of_a_benchmark_carry_versions_and_the_day(tmp_path):
    runner.write([{"method": "VAE"}, {"method": "IVAE"}], tmp_path / "some.csv")
    now = runner.versions()
    found = versions.recorded(tmp_path / "some.csv")
    assert found["Python"] == now["python"]
    assert found["torch"] == now["torch"]
    assert versions.written(tmp_path / "some.csv") == now["date"]


@pytest.mark.parametrize(
    ("values", "text"), [([None, None], "\\-"), ([None, "2.6.0"], "2.6.0"), (["1", "2"], "1, 2")]
)
def test_versions_are_listed_as_far_as_they_are_known(tmp_path, values, text):
    path = tmp_path / "some.csv"
    pd.DataFrame({"method": ["VAE", "IVAE"], "torch": values}).to_csv(path, index=False)
    assert versions.recorded(path)["torch"] == text
