"""The shipped feature networks: what was recorded of them, what they see, and the command that makes them."""

from __future__ import annotations

import gzip
import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from sgan.data import DIGITS, Dataset, load_dataset
from sgan.metrics import FeatureExtractor, frechet_distance, load_features
from sgan.metrics.features import NETWORKS, load_shipped, to_grey, to_grey_28, views
from sgan.metrics.train_features import accuracy, augment, digits_material, main, mnist_material, train


@pytest.fixture(scope="module", params=NETWORKS)
def features(request: pytest.FixtureRequest) -> FeatureExtractor:
    return load_shipped(request.param)


@pytest.fixture(scope="module")
def rotated() -> Dataset:
    return load_dataset("digits-rotated")


@pytest.fixture(scope="module")
def idx_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MNIST's four files with 60 and 40 digits in them."""
    folder = tmp_path_factory.mktemp("idx")
    digits = load_dataset("digits").train
    for part, start, count in (("train", 0, 60), ("t10k", 60, 40)):
        images = digits.images[start : start + count, 0].numpy()
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte.gz", digits.labels[start : start + count].numpy().astype("u1"))
    return folder


def write_idx(path: Path, values: np.ndarray) -> None:
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    path.write_bytes(gzip.compress(bytes([0, 0, 8, values.ndim]) + sizes + values.tobytes()))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# The shipped files


def test_shipped_accuracies_are_the_recorded_ones() -> None:
    features = load_shipped("digits")
    for name in DIGITS:
        test = load_dataset(name).test
        correct = float((features.logits(test.batch(slice(None))).argmax(1) == test.labels).double().mean())
        assert correct == pytest.approx(float(features.metadata[f"accuracy {name}"]), abs=0.006)  # two images
        assert correct > 0.96


def test_the_mnist_network_reads_digits_of_other_writers(rotated: Dataset) -> None:
    """MNIST is not here, but 1,438 digits that the network never saw are; their bitmaps are coarser."""
    features = load_shipped("mnist")
    assert float(features.metadata["accuracy mnist"]) > 0.99
    assert float(features.metadata["accuracy mnist-rotated"]) > 0.95
    for dataset in (load_dataset("digits"), rotated):
        test = dataset.reference
        correct = (features.logits(test.batch(slice(None))).argmax(1) == test.labels).double().mean()
        assert correct > 0.6, dataset.name


def test_the_files_are_small_and_stand_apart() -> None:
    files = {name: resources.files("sgan.metrics").joinpath(f"{name}.safetensors").read_bytes() for name in NETWORKS}
    assert max(map(len, files.values())) < 1_000_000
    checksums = [load_features(name).checksum for name in NETWORKS]
    assert [len(checksum) for checksum in checksums] == [16, 16]
    assert checksums[0] != checksums[1]
    assert [load_features(name).name for name in NETWORKS] == list(NETWORKS)


def test_no_feature_is_dead(features: FeatureExtractor, rotated: Dataset) -> None:
    spread = features(rotated.test.batch(slice(None))).std(0)
    assert spread.shape == (features.dim,)
    assert spread.min() > 0.05


def test_features_keep_the_orientation(features: FeatureExtractor, rotated: Dataset) -> None:
    """A linear map of the features, fitted to half of the digits turned by known angles, finds those of the others."""
    upright = load_dataset("digits").reference.batch(slice(0, 600))
    turns = torch.arange(600) % 4
    turned = torch.cat([torch.rot90(image, int(k), (1, 2))[None] for image, k in zip(upright, turns, strict=True)])
    x = torch.cat([features(turned), torch.ones(600, 1)], 1)
    target = torch.nn.functional.one_hot(turns, 4).float()
    fitted = torch.linalg.lstsq(x[:300], target[:300]).solution
    assert ((x[300:] @ fitted).argmax(1) == turns[300:]).double().mean() > 0.8


def test_features_do_not_depend_on_the_batch(features: FeatureExtractor, rotated: Dataset) -> None:
    images = rotated.test.batch(slice(0, 300))
    got = features(images)
    assert got.dtype == torch.float32
    assert got.shape == (300, 64)
    assert not got.requires_grad
    torch.testing.assert_close(features(images[290:]), got[290:], rtol=1e-4, atol=1e-5)
    assert features(images[:0]).shape == (0, 64)
    assert features.logits(images[:0]).shape == (0, 10)
    torch.testing.assert_close(features.classify(got), features.logits(images), rtol=0, atol=0)


def test_resize_rule() -> None:
    grey = normal(2, 1, 28, 28).clamp(-1, 1)
    assert to_grey_28(grey) is grey
    torch.testing.assert_close(to_grey_28(grey.expand(2, 3, 28, 28)), grey, rtol=0, atol=1e-6)
    torch.testing.assert_close(to_grey_28(torch.full((1, 3, 64, 64), 0.5)), torch.full((1, 1, 28, 28), 0.5))
    checkerboard = (torch.arange(56) % 2).expand(56, 56).float().view(1, 1, 56, 56)
    assert (to_grey_28(checkerboard)[..., 1:-1] - 0.5).abs().max() < 0.01
    red = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1).expand(1, 3, 28, 28)
    assert to_grey_28(red).mean() == pytest.approx(0.299)


def test_views_of_colour_and_of_detail() -> None:
    """What a grey image of 28 x 28 has is one view; colour adds two, and pixels beyond 28 x 28 one."""
    shapes = {(1, 28): 1, (1, 12): 1, (1, 40): 2, (3, 28): 3, (3, 40): 4}
    for (channels, side), count in shapes.items():
        images = normal(2, channels, side, side)
        assert len(views(images)) == count
        assert load_features()(images).shape == (2, 64 * count)
        assert load_features()(images[:0]).shape == (0, 64 * count)
        torch.testing.assert_close(load_features()(images)[:, :64], load_features()(to_grey_28(images)))
    grey = normal(2, 1, 40, 40).expand(2, 3, 40, 40)
    assert [view[0].abs().max() for view in views(grey)[1:3]] == [0, 0]
    corners = views(grey)[3]
    assert torch.equal(corners[0], to_grey(grey)[..., :28, :28])
    assert torch.equal(corners[3], to_grey(grey)[..., 12:, 12:])
    mean = torch.stack([load_features()(corner) for corner in corners]).mean(0)
    torch.testing.assert_close(load_features()(grey)[:, 192:], mean)


def test_the_views_tell_colour_and_detail_apart() -> None:
    """Of 28 x 28 pixels in grey both changes leave everything as it is, or nearly."""
    images = (0.5 * normal(300, 3, 56, 56)).clamp(-1, 1)
    first, second = images[:150], images[150:]
    grey = to_grey(first).expand_as(first)
    blurred = torch.nn.functional.avg_pool2d(first, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    features = load_features()
    floor = frechet_distance(features(first), features(second))
    for changed in (grey, blurred):
        assert frechet_distance(features(first), features(changed)) > 5 * floor
    in_grey = features(to_grey_28(first)), features(to_grey_28(grey))
    assert frechet_distance(*in_grey) < 1e-6


def test_bad_names_and_images() -> None:
    with pytest.raises(ValueError, match="load_features: name must be one of digits, mnist, imagenet, got 'inception'"):
        load_features("inception")
    with pytest.raises(ValueError, match=r"images must be \(N, 1 or 3, H, W\), got \(2, 2, 28, 28\)"):
        load_features()(torch.zeros(2, 2, 28, 28))


# Training


def test_digits_are_trained_and_measured_in_every_orientation() -> None:
    material = digits_material()
    assert material.sources.shape == (1438, 1, 8, 8)
    assert list(material.tests) == list(DIGITS)
    first, other = train(material, 1, seed=1), train(material, 1, seed=2)
    assert not torch.equal(first.classify.weight, other.classify.weight)
    assert 0 <= accuracy(first, material.tests["digits"]) <= 1


def test_augmented_digits_are_images() -> None:
    rng = np.random.default_rng(0)
    images, pose = augment(torch.rand(30, 1, 8, 8), rng, DIGITS["digits-rotated-mirrored"])
    assert images.shape == (30, 1, 28, 28)
    assert images.min() >= -1
    assert images.max() <= 1
    torch.testing.assert_close(pose[:, :2].square().sum(1), torch.ones(30))
    assert pose[:, 2].unique().tolist() == [-1, 1]


def test_mnist_is_read_without_its_ring_and_drawn_as_it_is(idx_folder: Path) -> None:
    dataset = load_dataset(idx_folder)
    material = mnist_material(dataset)
    assert material.sources.shape == (60, 1, 26, 26)
    images, pose = augment(material.sources, np.random.default_rng(0), DIGITS["digits-rotated"], as_is=20)
    expected = dataset.reference.batch(slice(0, 20))
    inside = torch.nn.functional.pad(expected[..., 1:-1, 1:-1], (1, 1, 1, 1), value=-1)
    torch.testing.assert_close(images[:20], inside, rtol=0, atol=1e-4)
    assert pose[:20].tolist() == [[1, 0, 1]] * 20
    assert (images[20:40] - dataset.reference.batch(slice(20, 40))).abs().amax((1, 2, 3)).min() > 0.1
    assert torch.equal(material.tests["mnist"].images, dataset.test.images)
    assert not torch.equal(material.tests["mnist-rotated"].images, dataset.test.images)


def test_the_command_writes_equal_bytes_for_equal_seeds(idx_folder: Path, tmp_path: Path) -> None:
    written = []
    for name in ("a", "b"):
        out = tmp_path / f"{name}.safetensors"
        result = CliRunner().invoke(main, ["mnist", "--data", str(idx_folder), "--steps", "2", "--out", str(out)])
        assert result.exit_code == 0, result.output
        written.append(out.read_bytes())
    assert written[0] == written[1]
    loaded = FeatureExtractor("mnist", written[0])
    assert {"command", "steps", "seed", "torch", "data", "train_sha256", "test_sha256"} <= loaded.metadata.keys()
    assert loaded.metadata["train_sha256"] == load_dataset(idx_folder).reference.checksum()
    assert f"held-out accuracy, mnist-rotated: {loaded.metadata['accuracy mnist-rotated']}" in result.output
    assert list(loaded.metadata) == sorted(loaded.metadata)
    length = int.from_bytes(written[0][:8], "little")
    assert length % 8 == 0  # safetensors aligns the tensors
    assert "__metadata__" in json.loads(written[0][8 : 8 + length])


def test_the_command_needs_the_data_of_mnist_only(idx_folder: Path, tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "x.safetensors")]
    for arguments in (["mnist"], ["digits", "--data", str(idx_folder)]):
        result = CliRunner().invoke(main, [*arguments, *out])
        assert result.exit_code == 2
        assert "mnist needs --data, and digits takes none" in result.output
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "small.npz", x=images, y=np.arange(20) % 2)
    with pytest.raises(ValueError, match=r"1 x 28 x 28 images of 10 classes, got \(C, H, classes\) \(1, 8, 2\)"):
        mnist_material(load_dataset(tmp_path / "small.npz"))
