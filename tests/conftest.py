"What the tests share."
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def digits():
    "scikit-learn's digits as a `Data`."
    from active_learning.data import load

    return load("digits")


@pytest.fixture(scope="session")
def pair():
    "Two classes of the digits."
    from active_learning.data import load

    return load("digits", "0,1")
