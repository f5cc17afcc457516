"""Every test starts from the same random state, on one thread: the shapes are small, and parallel runs stay fast."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _same_start() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
