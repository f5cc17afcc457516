"""Folders and zip archives of images: classes, sources, Food-101, pairs, colours and damage."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from writers import assert_truncation_is_refused, write_food101, write_image, write_pairs

from sgan.data import DataWarning, load_dataset
from sgan.data.folder import read_image_folder
from sgan.data.load import read_raw
from sgan.data.resize import resize
from sgan.data.tree import FileTree

RNG = np.random.default_rng(0)


def zip_folder(folder: Path, archive: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(folder.rglob("*")):
            file.write(path, prefix + str(path.relative_to(folder)))
    return archive


def write_classes(folder: Path, names: list[str], count: int, suffix: str = ".png") -> None:
    for name in names:
        for index in range(count):
            write_image(folder / name / f"{index:04}{suffix}", RNG.integers(256, size=(8, 8, 3), dtype=np.uint8))


# Archives


@pytest.mark.parametrize("prefix", ["", "cifar10/"])
def test_a_zip_is_read_in_place_as_its_folder(tmp_path: Path, prefix: str) -> None:
    folder = tmp_path / "images"
    write_classes(folder / "train", ["cat", "dog"], 4, ".jpg")
    write_classes(folder / "test", ["cat", "dog"], 2, ".jpg")
    (folder / "train" / "README.md").write_text("no image")
    archive = zip_folder(folder, tmp_path / "images.zip", prefix)
    with pytest.warns(DataWarning, match=r"left out 1 files of other kinds \(\.md\)"):
        plain, zipped = load_dataset(folder), load_dataset(archive)
    assert zipped.name == "images.zip"
    assert zipped.class_names == plain.class_names == ("cat", "dog")
    assert (len(zipped.train), len(zipped.test)) == (8, 4)
    assert torch.equal(zipped.train.images, plain.train.images)
    assert torch.equal(zipped.test.labels, plain.test.labels)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "images.zip"]


def test_what_archives_from_a_mac_carry_is_left_out(tmp_path: Path) -> None:
    write_classes(tmp_path / "images", ["a", "b"], 5)
    archive = zip_folder(tmp_path / "images", tmp_path / "images.zip", "images/")
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("__MACOSX/images/a/._0000.png", b"no image")
        file.writestr("images/.DS_Store", b"")
        file.writestr("images/a/.hidden.png", b"no image")
    with FileTree(archive) as tree:
        assert tree.files[0] == "a/0000.png"
    assert load_dataset(archive).class_names == ("a", "b")


def test_truncated_archives(tmp_path: Path) -> None:
    write_classes(tmp_path / "images", ["a", "b"], 2)
    archive = zip_folder(tmp_path / "images", tmp_path / "images.zip")
    assert_truncation_is_refused(archive, lambda: read_raw(archive))


def test_damaged_and_encrypted_members(tmp_path: Path) -> None:
    write_classes(tmp_path / "images", ["a"], 5)
    archive = zip_folder(tmp_path / "images", tmp_path / "images.zip")
    good = archive.read_bytes()
    with zipfile.ZipFile(archive) as file:
        offset = file.getinfo("a/0002.png").header_offset
    start = offset + 30 + len("a/0002.png")
    archive.write_bytes(good[:start] + bytes(8) + good[start + 8 :])
    with pytest.raises(ValueError, match=r"images\.zip/a/0002\.png must be a readable file"):
        load_dataset(archive)
    flags = bytearray(good)
    flags[offset + 6] |= 1
    central = good.index(b"PK\x01\x02", good.index(b"PK\x01\x02") + 1)
    while b"a/0002.png" not in good[central : central + 60]:
        central = good.index(b"PK\x01\x02", central + 1)
    flags[central + 8] |= 1
    archive.write_bytes(flags)
    with pytest.raises(ValueError, match=r"a/0002\.png must be a readable file, got: .*encrypted"):
        load_dataset(archive)


# Classes and sources


def test_held_out_part_may_be_called_val(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", ["a", "b"], 3)
    write_classes(tmp_path / "val", ["a"], 2)
    assert len(load_dataset(tmp_path).test) == 2
    write_classes(tmp_path / "test", ["b"], 1)
    with pytest.warns(DataWarning, match="left out 2 images in val, as test is held out"):
        data = load_dataset(tmp_path)
    assert data.test.labels.tolist() == [1]
    assert data.built["split_by"] == "the files' own parts"


def test_a_training_part_alone_is_split(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", ["a", "b"], 5)
    data = load_dataset(tmp_path)
    assert data.class_names == ("a", "b")
    assert (len(data.train), len(data.test)) == (8, 2)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    write_classes(tmp_path, ["bus", "train"], 5)
    assert load_dataset(tmp_path).class_names == ("bus", "train")


def test_sources_are_never_split_and_one_name_is_one_source(tmp_path: Path) -> None:
    """Stains of serial sections of one tissue block belong together."""
    colour = {"kidney": 10, "lung": 20, "spleen": 30, "liver": 40, "heart": 50, "skin": 60}
    for stain in ("HE", "Ki67"):
        for block, value in colour.items():
            for index in range(4):
                write_image(tmp_path / stain / block / f"{index}.png", np.full((4, 4, 3), (value, 0, 9), np.uint8))
    data = load_dataset(tmp_path)
    train, test = (set(part.images[:, 0, 0, 0].tolist()) for part in (data.train, data.test))
    assert data.class_names == ("HE", "Ki67")
    assert data.built["split_by"] == "source folder"
    assert not train & test
    assert train | test == set(colour.values())
    assert len(data.test) == 16  # two blocks of 8: the first is less than a fifth
    assert data.train.labels.bincount().tolist() == [16, 16]


@pytest.mark.filterwarnings("ignore:.*among the training images:sgan.data.DataWarning")  # of one value each
def test_a_class_keeps_a_source_to_train_on(tmp_path: Path) -> None:
    for stain, blocks in {"HE": "abcdefgh", "Ki67": "z"}.items():
        for block in blocks:
            write_image(tmp_path / stain / block / "0.png", np.zeros((4, 4), np.uint8))
    assert load_dataset(tmp_path).test.labels.tolist() == [0, 0]
    shutil.rmtree(tmp_path / "HE")
    with pytest.raises(ValueError, match="src must name at least 2 sources"):
        load_dataset(tmp_path)


@pytest.mark.filterwarnings("ignore:.*among the training images:sgan.data.DataWarning")  # of one value each
def test_bad_sources(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write_image(tmp_path / part / "HE" / "kidney" / "0.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match=r"must have each source in one part, got \['kidney'\] in train and held out"):
        load_dataset(tmp_path)
    write_image(tmp_path / "train" / "HE" / "0.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match="got 1 in folders of classes and 2 in folders of sources in those; move one"):
        load_dataset(tmp_path)


# Food-101


@pytest.mark.filterwarnings("ignore:.*left out 1 images that no list names:sgan.data.DataWarning")
def test_food101_is_split_by_its_lists(tmp_path: Path) -> None:
    write_food101(tmp_path, 3)
    write_image(tmp_path / "images" / "pizza" / "unlisted.jpg", np.zeros((5, 5, 3), np.uint8))
    data = load_dataset(tmp_path, resolution=8)
    assert data.class_names == ("apple_pie", "pizza")
    assert (data.train.labels.tolist(), len(data.test)) == ([1, 0, 1, 0, 1, 0], 6)
    assert data.train.images.shape == (6, 3, 8, 8)
    assert str(data.built["resized"]).startswith("20x30 to 25x25 to 8x8: ")
    for part in ("train", "test"):
        with Image.open(tmp_path / "images" / "pizza" / f"{part}2.jpg") as image:
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
        assert torch.equal(getattr(data, part).images[2:3], resize(pixels, 8))
    zipped = load_dataset(zip_folder(tmp_path, tmp_path.parent / "food.zip", "food-101/"), resolution=8)
    assert torch.equal(zipped.train.images, data.train.images)
    with pytest.raises(ValueError, match=r"without a resolution all images in .* must have one size, got \(H, W\)"):
        load_dataset(tmp_path)


def test_bad_food101(tmp_path: Path) -> None:
    write_food101(tmp_path, 2)
    test = tmp_path / "meta" / "test.txt"
    for content, message in [
        (b"pizza/none\n", r"must hold every listed image, got no images/pizza/none\.jpg"),
        (b"cake/1\n", r"meta/test\.txt must list classes of meta/train\.txt, got also \['cake'\]"),
        (b"pizza\n", r"meta/test\.txt must list images as <class>/<number>"),
        (b"", r"meta/test\.txt must list images"),
        (b"\xff\xfe", r"meta/test\.txt must be text"),
    ]:
        test.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            load_dataset(tmp_path, resolution=8)
    test.unlink()
    with pytest.raises(ValueError, match=r"must hold meta/train\.txt and meta/test\.txt, got no meta/test\.txt"):
        load_dataset(tmp_path, resolution=8)


# Pairs


def test_pairs_are_the_halves(tmp_path: Path) -> None:
    parts = write_pairs(tmp_path, {"train": 5, "val": 3})
    data = load_dataset(tmp_path)
    assert (len(data.train), len(data.test), data.class_names) == (5, 3, ("pair",))
    for name, part in (("train", data.train), ("val", data.test)):
        pixels = torch.from_numpy(parts[name]).permute(0, 3, 1, 2)
        assert torch.equal(part.images, pixels[..., :12])
        assert part.paired is not None
        assert torch.equal(part.paired, pixels[..., 12:])
    chosen = torch.tensor([4, 0])
    assert torch.equal(data.train.select(chosen).paired_batch(slice(None)), data.train.paired_batch(chosen))
    assert data.train.paired_batch(chosen).abs().max() <= 1


def test_pairs_are_resized_apart_kept_together_and_in_the_checksum(tmp_path: Path) -> None:
    parts = write_pairs(tmp_path / "a", {"train": 20, "test": 2})
    whole, half = load_dataset(tmp_path / "a", resolution=6), load_dataset(tmp_path / "a", resolution=6, subset=0.5)
    assert whole.train.paired is not None
    assert half.train.paired is not None
    assert whole.train.paired.shape == (20, 3, 6, 6)
    for image, other in zip(half.train.images, half.train.paired, strict=True):
        (row,) = (whole.train.images == image).all(3).all(2).all(1).nonzero().flatten().tolist()
        assert torch.equal(whole.train.paired[row], other)
    pixels = parts["train"][3].copy()
    pixels[:, 12:] = 255 - pixels[:, 12:]
    write_image(tmp_path / "a" / "train" / "003.png", pixels)
    assert load_dataset(tmp_path / "a", resolution=6).built["train_sha256"] != whole.built["train_sha256"]


def test_bad_pairs(tmp_path: Path) -> None:
    write_pairs(tmp_path, {"train": 2})
    with pytest.raises(ValueError, match="must have images in test/ or val/ beside train/, got none"):
        load_dataset(tmp_path)
    write_image(tmp_path / "val" / "0.png", np.zeros((12, 23), np.uint8))
    with pytest.raises(ValueError, match=r"val/0\.png must hold 2 square images side by side, got H x W = 12 x 23"):
        load_dataset(tmp_path, resolution=6)


def test_single_images_have_no_other(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="paired_batch: the set must hold pairs, got single images"):
        load_dataset("digits").train.paired_batch(slice(2))


# Colours and sizes


@pytest.mark.filterwarnings("ignore:.*among the training images:sgan.data.DataWarning")  # of one value each
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK"])
def test_a_set_without_colour_is_grey(tmp_path: Path, mode: str) -> None:
    pixels = RNG.integers(2, size=(6, 6), dtype=np.uint8) * 255
    (tmp_path / "a").mkdir()
    for index in range(5):
        suffix = ".tif" if mode == "CMYK" else ".png"
        Image.fromarray(pixels).convert("RGB" if mode in ("P", "CMYK") else mode).convert(mode).save(
            tmp_path / "a" / f"{index}{suffix}"
        )
    images = load_dataset(tmp_path).train.images
    assert torch.equal(images[0], torch.from_numpy(pixels)[None])


def test_one_coloured_pixel_makes_the_set_rgb(tmp_path: Path) -> None:
    pixels = np.zeros((5, 4, 4, 3), np.uint8)
    pixels[3, 1, 2] = (1, 0, 0)
    for index in range(5):
        write_image(tmp_path / "a" / f"{index}.png", pixels[index])
    with FileTree(tmp_path) as tree:
        raw = read_image_folder(tree)
    assert torch.equal(raw.images.images, torch.from_numpy(pixels).permute(0, 3, 1, 2))


@pytest.mark.filterwarnings("ignore:.*among the training images:sgan.data.DataWarning")  # of one value each
def test_transparent_pixels_are_laid_over_white(tmp_path: Path) -> None:
    """A sketch drawn in black on a transparent sheet."""
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[1, 2, 3] = 255
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([7, 7, 7, 0, 0, 0])
    palette.putpixel((2, 1), 1)
    expected = torch.full((1, 4, 4), 255, dtype=torch.uint8)
    expected[0, 1, 2] = 0
    for index in range(5):
        write_image(tmp_path / "a" / f"{index}.png", pixels)
        palette.save(tmp_path / "a" / f"palette{index}.png", transparency=0)
    images = load_dataset(tmp_path).train.images
    assert images.shape[1] == 1
    assert (images == expected).all()


def test_sketches_of_many_sizes_become_32_by_32(tmp_path: Path) -> None:
    for index in range(10):
        pixels = np.full((40 + index, 60), 255, np.uint8)
        pixels[:, 29:31] = 0
        write_image(tmp_path / ("cat", "dog")[index % 2] / f"{index}.png", pixels)
    data = load_dataset(tmp_path, resolution=32)
    assert data.train.images.shape == (8, 1, 32, 32)
    assert (data.train.images.argmin(3).sub(15.5).abs() == 0.5).all()  # the line stays in the middle
    assert data.train.images[:, :, :, [0, -1]].min() == 255


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")  # of damage that it then fails on
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".bmp", ".tif", ".webp", ".ppm"])
def test_truncated_images(tmp_path: Path, suffix: str) -> None:
    write_classes(tmp_path, ["a"], 2, suffix)
    assert_truncation_is_refused(tmp_path / "a" / f"0001{suffix}", lambda: read_raw(tmp_path))
