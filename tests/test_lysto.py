"""LYSTO's HDF5 file, written small."""

from __future__ import annotations

import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from writers import assert_truncation_is_refused, write_lysto

from sgan.data import load_dataset
from sgan.data import lysto as lysto_module
from sgan.data.lysto import read_lysto
from sgan.data.resize import resize


def test_patches_by_organ(tmp_path: Path) -> None:
    images = write_lysto(tmp_path / "training.h5", 9, size=20)
    raw = read_lysto(tmp_path / "training.h5")
    assert raw.class_names == ("breast", "colon", "prostate")
    assert raw.images.labels.tolist() == [2, 0, 1] * 3
    assert torch.equal(raw.images.images, torch.from_numpy(images).permute(0, 3, 1, 2))
    assert raw.built["resized"] == "no"


@pytest.mark.parametrize("resolution", [64, 256])
def test_whole_patches_are_resized_in_pieces(tmp_path: Path, resolution: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images = write_lysto(tmp_path / "training.h5", 5)
    monkeypatch.setattr(lysto_module, "CHUNK", 2)
    data = load_dataset(tmp_path / "training.h5", resolution=resolution)
    whole = resize(torch.from_numpy(images).permute(0, 3, 1, 2), resolution)
    assert data.resolution == resolution
    got = torch.cat([data.train.images, data.test.images])
    assert all((got == image).all((1, 2, 3)).any() for image in whole)
    assert str(data.built["resized"]).startswith(f"299x299 to {resolution}x{resolution}: ")
    assert data.built["split_by"] == "image: the file does not name slides"


@pytest.mark.parametrize(
    "organ", [np.array([10, 3, 10]), np.array([b"3", b"10", b"3"], dtype="S2"), np.array(["10", "3", "10"], object)]
)
def test_organs_as_numbers_and_strings(tmp_path: Path, organ: np.ndarray) -> None:
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["x"], file["organ"] = np.zeros((3, 4, 4, 3), np.uint8), organ
    raw = read_lysto(tmp_path / "a.hdf5")
    names = [raw.class_names[label] for label in raw.images.labels.tolist()]
    assert names == [value.decode() if isinstance(value, bytes) else str(value) for value in organ.tolist()]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"organ": np.zeros(3, int)}, "no array x"),
        ({"x": np.zeros((3, 4, 4, 3), np.uint8)}, "no array organ"),
        ({"x/y": np.zeros(3), "organ": np.zeros(3, int)}, "no array x"),
        ({"x": np.zeros((3, 4, 4, 3)), "organ": np.zeros(3, int)}, r"x must be uint8 \(N, H, W, 3\), got float64"),
        ({"x": np.zeros((3, 3, 4, 4), np.uint8), "organ": np.zeros(3, int)}, "x must be"),
        ({"x": np.zeros((3, 4, 4), np.uint8), "organ": np.zeros(3, int)}, "x must be"),
        ({"x": np.zeros((0, 4, 4, 3), np.uint8), "organ": np.zeros(0, int)}, "x must be"),
        ({"x": np.zeros((3, 4, 4, 3), np.uint8), "organ": np.zeros(2, int)}, r"organ must be \(3,\) strings or int"),
        ({"x": np.zeros((3, 4, 4, 3), np.uint8), "organ": np.zeros(3)}, "organ must be .*got float64"),
    ],
)
def test_bad_files(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for key, array in arrays.items():
            file[key] = array
    with pytest.raises(ValueError, match=rf"a\.h5 must be an HDF5 file of patches x and their organ, got: .*{message}"):
        load_dataset(tmp_path / "a.h5")


def test_truncation(tmp_path: Path) -> None:
    write_lysto(tmp_path / "a.h5", 3, size=8)
    assert_truncation_is_refused(tmp_path / "a.h5", lambda: read_lysto(tmp_path / "a.h5"))


def test_damaged_patches_are_refused(tmp_path: Path) -> None:
    write_lysto(tmp_path / "a.h5", 3, size=40)
    content = bytearray((tmp_path / "a.h5").read_bytes())
    with h5py.File(tmp_path / "a.h5") as file:
        chunk = file["x"].id.get_chunk_info(1)
    content[chunk.byte_offset : chunk.byte_offset + chunk.size // 2] = bytes(chunk.size // 2)
    (tmp_path / "a.h5").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.h5 must be an HDF5 file of patches"):
        read_lysto(tmp_path / "a.h5")


def test_without_h5py_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lysto(tmp_path / "a.h5", 3, size=8)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ValueError, match=r"a\.h5 needs h5py to be read: pip install 'gconv\[hdf5\]'"):
        load_dataset(tmp_path / "a.h5")
