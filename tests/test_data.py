"""Data sets: laws, splits, subsets, and readers on files that the tests write."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from writers import assert_truncation_is_refused, write_idx, write_mnist

from sgan.data import DIGITS, DataWarning, load_dataset
from sgan.data.digits import draw, load_sources, orient
from sgan.data.load import read_raw
from sgan.data.split import split_indices, stratified_order

RNG = np.random.default_rng(0)


def write_images(folder: Path, name: str, count: int, mode: str = "L", size: tuple[int, int] = (5, 5)) -> None:
    (folder / name).mkdir(parents=True)
    for index in range(count):
        Image.new(mode, size, index).save(folder / name / f"{index}.png")


# The embedded digits


@pytest.mark.parametrize("name", DIGITS)
def test_every_digit_is_used_once(name: str) -> None:
    data = load_dataset(name)
    assert (data.name, data.num_classes, data.channels, data.resolution) == (name, 10, 1, 28)
    assert (len(data.train), len(data.test)) == (1438, 359)
    assert data.train.images.dtype == torch.uint8
    assert data.train.labels.dtype == torch.int64
    _, labels = load_sources()
    both = torch.cat([data.train.labels, data.test.labels])
    assert torch.equal(both.bincount(), labels.bincount())
    assert data.train.batch(torch.tensor([0])).min() == -1


def test_pixels_are_a_function_of_the_seed() -> None:
    first, again, other = (load_dataset("digits-rotated", seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.train.images, again.train.images)
    assert first.built == again.built
    assert not torch.equal(first.train.images, other.train.images)
    assert torch.equal(first.train.labels, other.train.labels)  # every seed holds out the same digits


def test_parts_share_no_source() -> None:
    _, labels = load_sources()
    train, test = split_indices(labels)
    assert torch.equal(torch.cat([train, test]).sort().values, torch.arange(1797))
    upright = load_dataset("digits")
    assert torch.equal(upright.train.labels, labels[train])
    assert torch.equal(upright.test.labels, labels[test])
    share = upright.test.labels.bincount() / labels.bincount()
    assert (share - 0.2).abs().max() < 0.01


def test_upright_is_the_bicubic_interpolant() -> None:
    sources, _ = load_sources()
    padded = torch.nn.functional.pad(sources[:20], [1] * 4)
    expected = torch.nn.functional.interpolate(padded, 28, mode="bicubic", align_corners=False).clamp(0, 1)
    drawn = draw(sources[:20], torch.zeros(20, dtype=torch.float64), torch.zeros(20, dtype=torch.bool))
    torch.testing.assert_close(drawn, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("flipped", [False, True])
def test_quarter_turns_are_exact(turns: int, flipped: bool) -> None:
    sources, _ = load_sources()
    angle = torch.full((20,), turns * math.pi / 2, dtype=torch.float64)
    upright = draw(sources[:20], torch.zeros_like(angle), torch.zeros(20, dtype=torch.bool))
    expected = torch.rot90(upright.flip(2) if flipped else upright, turns, (2, 3))
    drawn = draw(sources[:20], angle, torch.full((20,), flipped))
    torch.testing.assert_close(drawn, expected, rtol=0, atol=1e-9)


def test_rotation_loses_no_ink() -> None:
    upright = load_dataset("digits").train.images.double().mean((1, 2, 3))
    rotated = load_dataset("digits-rotated").train.images.double().mean((1, 2, 3))
    assert ((rotated - upright).abs() / upright).max() < 0.05  # overshoot is clipped on another grid
    assert abs(rotated.mean() / upright.mean() - 1) < 1e-3
    edges = load_dataset("digits-rotated").train.images.double()
    edges[:, :, 1:-1, 1:-1] = 0
    assert edges.sum() / load_dataset("digits-rotated").train.images.sum() < 2e-3


def test_orientation_laws() -> None:
    rng = np.random.default_rng(1)
    angle, flip = orient(DIGITS["digits-rotated-mirrored"], 4000, rng)
    counts = torch.histc(angle, 8, 0, 2 * math.pi)
    assert ((counts - 500) ** 2 / 500).sum() < 24.3  # chi-squared, 7 degrees of freedom, p = 0.001
    assert abs(flip.double().mean() - 0.5) < 3.3 * 0.5 / math.sqrt(4000)
    assert abs(torch.corrcoef(torch.stack([angle, flip.double()]))[0, 1]) < 3.3 / math.sqrt(4000)
    quarter, never = orient(DIGITS["digits-quarter"], 4000, rng)
    turns = (quarter / (math.pi / 2)).round().to(torch.int64)
    assert ((turns.bincount() - 1000.0) ** 2 / 1000).sum() < 16.3
    assert not never.any()
    upright, _ = orient(DIGITS["digits"], 10, rng)
    assert not upright.any()


@pytest.mark.parametrize(("name", "copies"), [("digits", 1), ("digits-mirrored", 2), ("digits-quarter", 4)])
def test_held_out_digits_are_drawn_anew_in_every_orientation_there_is(name: str, copies: int) -> None:
    data = load_dataset(name)
    images = data.held_out(len(data.reference))
    assert len(images) == copies * len(data.test)
    assert torch.equal(images.labels, data.test.labels.repeat(copies))
    drawn = images.images.flatten(1).unflatten(0, (copies, len(data.test)))
    assert all(len(of_one.unique(dim=0)) == copies for of_one in drawn.unbind(1))
    assert all((drawn == old).all(2).any() for old in data.test.images.flatten(1)[:20])  # the same law


def test_held_out_rotations_are_fresh_seeded_and_as_many_as_asked_for() -> None:
    data = load_dataset("digits-rotated")
    images = data.held_out(len(data.reference))
    assert len(images) == 4 * 359  # nearest to the 1438
    assert len(torch.cat([images.images, data.test.images]).flatten(1).unique(dim=0)) == 5 * 359
    assert torch.equal(images.images, load_dataset("digits-rotated", subset=0.1).held_out(1438).images)
    assert not torch.equal(images.images, load_dataset("digits-rotated", seed=1).held_out(1438).images)
    assert len(data.held_out(100)) == 359


def test_held_out_images_of_files_are_the_test_part(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=RNG.integers(256, size=(50, 4, 4), dtype=np.uint8))
    data = load_dataset(tmp_path / "a.npz")
    assert data.held_out(40) is data.test


# Subsets and splits


def test_subset_is_nested_stratified_and_without_replacement() -> None:
    whole = load_dataset("digits")
    small, large = (load_dataset("digits", subset=subset) for subset in (0.1, 0.5))
    assert len(small.train) == 144
    assert len(large.train) == 719
    assert len(small.reference) == 1438
    assert torch.equal(small.test.images, whole.test.images)

    def keys(images: torch.Tensor) -> list[bytes]:
        return [image.numpy().tobytes() for image in images]

    small_keys, large_keys, all_keys = keys(small.train.images), keys(large.train.images), keys(whole.train.images)
    assert len(set(small_keys)) == len(small_keys)
    assert set(small_keys) < set(large_keys) < set(all_keys)
    expected = whole.train.labels.bincount() / 10
    assert (small.train.labels.bincount() - expected).abs().max() <= 1
    assert not torch.equal(small.train.images, load_dataset("digits", subset=0.1, seed=1).train.images)
    assert torch.equal(load_dataset("digits", subset=1.0).train.images, whole.train.images)


def test_every_prefix_of_the_order_is_stratified() -> None:
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    order = stratified_order(labels, np.random.default_rng(0))
    for count in range(1, 101):
        proportional = torch.tensor([0.6, 0.3, 0.1]) * count
        got = labels[order[:count]].bincount(minlength=3)
        assert (got - proportional).abs().max() < 2
    assert torch.equal(order.sort().values, torch.arange(100))


@pytest.mark.parametrize("subset", [0, -0.1, 1.01, float("nan")])
def test_subset_out_of_range(subset: float) -> None:
    with pytest.raises(ValueError, match=r"load_dataset: subset must be a fraction in \(0, 1\], got"):
        load_dataset("digits", subset=subset)


@pytest.mark.parametrize("seed", [-1, True, 1.5])
def test_seed_is_checked(seed: int) -> None:
    with pytest.raises(ValueError, match="load_dataset: seed must be an integer >= 0, got"):
        load_dataset("digits", seed=seed)


def test_built_is_json() -> None:
    built = load_dataset("digits-quarter-mirrored", subset=0.5).built
    assert json.loads(json.dumps(built)) == built
    assert built["subset"] == 0.5
    assert built["n_train"] == 719
    whole = load_dataset("digits-quarter-mirrored").built
    assert whole["train_sha256"] == whole["reference_sha256"] == built["reference_sha256"] != built["train_sha256"]
    assert whole["test_sha256"] == built["test_sha256"]


# Readers


def test_npz(tmp_path: Path) -> None:
    x = RNG.integers(256, size=(50, 4, 4, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(50) % 5)
    data = load_dataset(tmp_path / "a.npz")
    assert (data.name, data.channels, data.resolution, data.num_classes) == ("a.npz", 3, 4, 5)
    assert (len(data.train), len(data.test)) == (40, 10)
    train, _ = split_indices(torch.arange(50) % 5)
    assert torch.equal(data.train.images, torch.from_numpy(x).permute(0, 3, 1, 2)[train])
    assert torch.equal(data.test.labels.bincount(), torch.full((5,), 2))


@pytest.mark.filterwarnings("ignore:.*among the training images:sgan.data.DataWarning")  # of one value each
def test_npz_without_labels_is_one_class(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((10, 4, 4), np.uint8))
    data = load_dataset(tmp_path / "a.npz")
    assert (data.channels, data.num_classes) == (1, 1)
    assert not data.train.labels.any()


def test_npz_sources_are_never_split(tmp_path: Path) -> None:
    sources = RNG.integers(7, size=200)
    x = np.broadcast_to(sources.astype(np.uint8)[:, None, None], (200, 3, 3))
    np.savez(tmp_path / "a.npz", x=x, src=sources)
    data = load_dataset(tmp_path / "a.npz")
    train, test = set(data.train.images.flatten().tolist()), set(data.test.images.flatten().tolist())
    assert train
    assert not train & test
    assert train | test == set(range(7))
    assert 40 <= len(data.test) < 120


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": np.zeros(3, int)}, "must hold an array x"),
        ({"x": np.zeros((3, 4, 4))}, r"is float64, values from 0 to 0: give a window, --window LOW,HIGH"),
        ({"x": np.zeros((3, 4, 4, 2), np.uint8)}, "x must be uint8"),
        ({"x": np.zeros((10, 4, 5), np.uint8)}, "images must be square, got H x W = 4 x 5"),
        (
            {"x": np.zeros((10, 4, 4), np.uint8), "y": np.zeros(9, int)},
            r"y must be \(10,\) integers >= 0, got int64 \(9,\)",
        ),
        ({"x": np.zeros((10, 4, 4), np.uint8), "y": np.full(10, -1)}, "y must be"),
        ({"x": np.zeros((10, 4, 4), np.uint8), "y": np.zeros(10)}, "y must be"),
        ({"x": np.zeros((10, 4, 4), np.uint8), "src": np.zeros(10, int)}, "src must name at least 2 sources"),
        ({"x": np.zeros((1, 4, 4), np.uint8)}, "must have images to train on and to hold out, got 1 and 0"),
        ({"x": np.zeros((0, 4, 4), np.uint8)}, "must have images to train on"),
        ({"x": np.array([{}], dtype=object)}, "must be a .npz file of plain arrays"),
    ],
)
def test_bad_npz(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load_dataset(tmp_path / "a.npz")


def test_npz_of_garbage(tmp_path: Path) -> None:
    for content in (b"", b"garbage", b"PK\x03\x04cut"):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(ValueError, match=r"must be a \.npz file of plain arrays"):
            load_dataset(tmp_path / "a.npz")


def test_npz_of_an_unknown_compression(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((10, 4, 4), np.uint8))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    for header, method in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        content[content.index(header) + method] = 99
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"must be a \.npz file of plain arrays, got: .*compression"):
        load_dataset(tmp_path / "a.npz")


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_folder_with_its_own_test_part(tmp_path: Path, suffix: str) -> None:
    images, labels = write_mnist(tmp_path, "train", 30, suffix)
    write_mnist(tmp_path, "t10k", 9, suffix)
    data = load_dataset(tmp_path)
    assert (len(data.test), data.num_classes, data.resolution) == (9, 3, 6)
    assert torch.equal(data.train.images, torch.from_numpy(images).unsqueeze(1))
    assert torch.equal(data.train.labels, torch.from_numpy(labels.astype(np.int64)))


def test_idx_folder_without_test_part(tmp_path: Path) -> None:
    write_mnist(tmp_path, "train", 30)
    data = load_dataset(tmp_path)
    assert (len(data.train), len(data.test)) == (24, 6)


def test_bad_idx(tmp_path: Path) -> None:
    write_mnist(tmp_path, "train", 30, "")
    labels = tmp_path / "train-labels-idx1-ubyte"
    images = tmp_path / "train-images-idx3-ubyte"
    good = images.read_bytes()
    for content, message in [
        (good[:-1], "must hold 1080 values"),
        (good + b"x", "must hold 1080 values"),
        (good[:3], "must be an IDX file of uint8"),
        (b"\x00\x00\x0d\x03" + good[4:], "must be an IDX file of uint8, got magic number '00000d03'"),
        (good[:10], "must have 3 sizes"),
    ]:
        images.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            load_dataset(tmp_path)
    images.write_bytes(good)
    write_idx(labels, np.zeros(29, np.uint8))
    with pytest.raises(ValueError, match=r"with N labels"):
        load_dataset(tmp_path)
    labels.unlink()
    with pytest.raises(ValueError, match="must hold train-images-idx3-ubyte and train-labels-idx1-ubyte"):
        load_dataset(tmp_path)
    images.rename(tmp_path / "train-images-idx3-ubyte.gz")
    with pytest.raises(ValueError, match=r"must be a readable IDX file|must hold"):
        load_dataset(tmp_path)


def test_truncated_npz_and_idx(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=RNG.integers(256, size=(10, 4, 4), dtype=np.uint8), y=np.arange(10) % 2)
    assert_truncation_is_refused(tmp_path / "a.npz", lambda: read_raw(tmp_path / "a.npz"))
    for suffix in (".gz", ""):
        folder = tmp_path / f"mnist{suffix}"
        folder.mkdir()
        write_mnist(folder, "train", 30, suffix)
        for name in ("images-idx3", "labels-idx1"):
            assert_truncation_is_refused(folder / f"train-{name}-ubyte{suffix}", partial(read_raw, folder))


@pytest.mark.filterwarnings("ignore:.*among the training images:sgan.data.DataWarning")  # of one value each
def test_image_folder(tmp_path: Path) -> None:
    write_images(tmp_path, "b", 10)
    write_images(tmp_path, "a", 5)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "empty").mkdir()
    with pytest.warns(DataWarning, match=r"left out 1 files of other kinds \(\.txt\)"):
        data = load_dataset(tmp_path)
    assert data.built["skipped"] == {"files of other kinds (.txt)": 1}
    assert data.class_names == ("a", "b")
    assert (data.channels, data.resolution) == (1, 5)
    assert torch.equal(torch.cat([data.train.labels, data.test.labels]).bincount(), torch.tensor([5, 10]))


def test_image_folder_with_parts_and_mixed_colours(tmp_path: Path) -> None:
    write_images(tmp_path / "train", "a", 3, "RGB")
    write_images(tmp_path / "train", "b", 2, "L")
    write_images(tmp_path / "test", "b", 4, "RGBA")
    data = load_dataset(tmp_path)
    assert (len(data.train), len(data.test), data.channels) == (5, 4, 3)
    assert data.test.labels.tolist() == [1] * 4
    assert torch.equal(data.train.images[4], torch.full((3, 5, 5), 1, dtype=torch.uint8))


@pytest.mark.filterwarnings("ignore:.*among the training images:sgan.data.DataWarning")  # of one value each
def test_bad_image_folders(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must hold images, got none: straight in it, or one folder per class"):
        load_dataset(tmp_path)
    write_images(tmp_path, "a", 5)
    (tmp_path / "a" / "broken.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(ValueError, match=r"broken\.png must be a readable image"):
        load_dataset(tmp_path)
    (tmp_path / "a" / "broken.png").unlink()
    write_images(tmp_path, "b", 5, size=(6, 6))
    with pytest.raises(ValueError, match=r"must have one size, got \(H, W\) \[\(5, 5\), \(6, 6\)\]"):
        load_dataset(tmp_path)
    write_images(tmp_path / "deep", "c", 1, "I;16")
    with pytest.raises(ValueError, match="has more than 8 bits, values from 0 to 0: give a window, --window LOW,HIGH"):
        load_dataset(tmp_path / "deep")
    write_images(tmp_path / "parts" / "train", "a", 2)
    write_images(tmp_path / "parts" / "test", "z", 2)
    with pytest.raises(
        ValueError, match=r"must have the classes of the training part in the held-out one, got also \['z'\]"
    ):
        load_dataset(tmp_path / "parts")


def test_unknown_names_say_what_would_do(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"digits-rotated.*\.npz.*IDX.*sub-folder.*got 'digit' \(no such file or folder\)"
    ):
        load_dataset("digit")
    (tmp_path / "a.tar").write_bytes(b"")
    with pytest.raises(ValueError, match="a file of another format"):
        load_dataset(tmp_path / "a.tar")
