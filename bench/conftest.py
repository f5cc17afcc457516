"""`pytest bench/` times every case with pytest-benchmark; without it there is nothing to run."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from measure import Setting

collect_ignore_glob = [] if find_spec("pytest_benchmark") else ["bench_*.py"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    cases = [case for case in metafunc.module.CASES if not case.suite.startswith("gpu")]
    metafunc.parametrize("case", cases, ids=str)


@pytest.fixture
def setting() -> Setting:
    return Setting(threads=torch.get_num_threads())
