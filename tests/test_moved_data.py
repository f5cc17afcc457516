"""Data of the user's: under another path it is the same run, and a preset's subset does not cut it."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from sgan.config import Options, resolve
from sgan.data import DataWarning, load_dataset
from sgan.runs import ChangedOptions
from sgan.session import train


def test_the_same_data_under_another_path_resumes(tiny: Options, tmp_path: Path) -> None:
    train(replace(tiny, kimg=1), tmp_path / "run")
    moved = tmp_path / "elsewhere.npz"
    shutil.copy(tiny.data, moved)
    printed = io.StringIO()
    train(replace(tiny, data=str(moved)), tmp_path / "run", Console(file=printed, width=200))
    assert f"the data is now {moved}, was {tiny.data}: the same images" in printed.getvalue()
    recorded = json.loads((tmp_path / "run" / "training_options.json").read_text())
    assert recorded["options"]["data"] == str(moved)
    unbroken = train(tiny, tmp_path / "unbroken").read_state()
    resumed = train(replace(tiny, data=str(moved)), tmp_path / "run").read_state()
    assert unbroken is not None
    assert resumed is not None
    assert all((value == unbroken.tensors[name]).all() for name, value in resumed.tensors.items())
    with np.load(moved) as arrays:
        np.savez(tmp_path / "other.npz", x=255 - arrays["x"], y=arrays["y"])
    for kimg in (2, 3):  # finished, and not
        with pytest.raises(ChangedOptions, match=r"--data was .*elsewhere.npz, now .*other.npz, and the held-out and"):
            train(replace(tiny, data=str(tmp_path / "other.npz"), kimg=kimg), tmp_path / "run")


def test_a_presets_subset_is_for_its_own_data(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "mine.npz", x=rng.integers(256, size=(30, 8, 8), dtype=np.uint8))
    options = resolve("mnist-500-deligan", data=str(tmp_path / "mine.npz"))
    asked = {"subset": options.subset, "subset_of": options.subset_of}
    with pytest.warns(DataWarning, match="for a set of 60,000 training images; of these 24 all are taken"):
        mine = load_dataset(options.data, **asked)
    assert len(mine.train) == len(mine.reference) == 24
    assert len(load_dataset(options.data, subset=0.5, subset_of=24).train) == 12
    chosen = resolve("mnist-500-deligan", data=options.data, subset=0.25)
    assert (chosen.subset, chosen.subset_of) == (0.25, None)  # what the user asks for is done


def test_presets_subsets_are_the_published_numbers_of_images() -> None:
    counts = {}
    for name in ("mnist-500-gan", "cifar10-2000-deligan"):
        options = resolve(name, data="somewhere")
        assert options.subset is not None
        assert options.subset_of is not None
        counts[name] = round(options.subset * options.subset_of)
    assert counts == {"mnist-500-gan": 500, "cifar10-2000-deligan": 2000}
