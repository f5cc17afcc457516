"""Every test starts from the same random state, on one thread: the shapes are small, and parallel runs stay fast."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import time_limit
import torch

if TYPE_CHECKING:
    from sgan.config import Options


def pytest_addoption(parser: pytest.Parser) -> None:
    time_limit.add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    time_limit.register(config)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Before any other fixture: another number of threads rounds sums otherwise."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_start() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Options:
    """Options of a run of a second: 40 real digits, cut to 14 x 14, and networks of a few channels."""
    from sgan.config import Options  # here: what gconv's tests need, where sgan's packages may be missing, is torch
    from sgan.data import load_dataset
    from sgan.grids import first_of_each

    digits = load_dataset("digits").train
    few = first_of_each(digits.labels, 10, 4)
    path = tmp_path_factory.mktemp("data") / "few.npz"
    np.savez(path, x=digits.images[few, 0, 7:21, 7:21].numpy(), y=digits.labels[few].numpy())
    return Options(
        preset="digits-c4",
        data=str(path),
        subset=0.8,
        kimg=2,
        tick=1,
        batch=125,
        d_steps=1,
        generator_width=1 / 64,
        discriminator_width=1 / 64,
        features="digits",  # which they are; of a file the data would choose imagenet's, which take longer
    )
