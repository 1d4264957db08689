"""What all tests share: one thread each, and where the real screens lie."""

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # tests run in parallel processes


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real screens: ``SKPERT_DATA``, or ``shared/data`` beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SKPERT_DATA", beside))
    if not folder.is_dir():
        pytest.skip("no real screens: set SKPERT_DATA to a folder that holds them")
    return folder
