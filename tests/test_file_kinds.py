"""Every kind of file and folder that people have: read right, counted or refused, as the tables of docs/data.md say."""

from __future__ import annotations

import io
import json
import os
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sgan.config import Options, changed_options
from sgan.data import Dataset, DataWarning, load_dataset
from sgan.data.window import Histogram, Window, parse_window

DOCS = Path(__file__).parent.parent / "docs" / "data.md"
SIDE, COUNT = 8, 5
GREY = np.arange(SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE) * 3
COLOUR = np.stack([GREY, GREY[::-1], 255 - GREY.T], axis=2)
DEEP = GREY.astype(np.uint16) * 20  # 0 to 3780, as of a camera of 12 bits
WINDOWED = np.rint(np.clip(DEEP * (255 / 4000), 0, 255)).astype(np.uint8)
TURNED = np.rot90(GREY, 1)
WHITENED = np.concatenate([COLOUR[:, :4], np.full((SIDE, 4, 3), 255, np.uint8)], axis=1)

Write = Callable[[Path], None]


def saved(pixels: np.ndarray, suffix: str = ".png", mode: str | None = None, **options: Any) -> Write:
    """What writes an image of these pixels."""

    def write(path: Path) -> None:
        image = Image.fromarray(pixels)
        (image if mode is None else image.convert(mode)).save(f"{path}{suffix}", **options)

    return write


def stored(content: bytes, suffix: str = ".png") -> Write:
    return lambda path: Path(f"{path}{suffix}").write_bytes(content) and None


def turned(path: Path) -> None:
    """Stored a quarter turn counter-clockwise, with the tag that says to turn it back."""
    image = Image.fromarray(TURNED.copy())
    exif = image.getexif()
    exif[274] = 6
    image.save(f"{path}.png", exif=exif)


def with_alpha(path: Path) -> None:
    """Colours on the left, nothing at all on the right."""
    alpha = np.zeros((SIDE, SIDE, 1), np.uint8)
    alpha[:, :4] = 255
    Image.fromarray(np.concatenate([COLOUR, alpha], axis=2)).save(f"{path}.png")


def pages(suffix: str) -> Write:
    def write(path: Path) -> None:
        first, *others = (Image.fromarray(GREY // frame) for frame in (1, 2, 3))
        first.save(f"{path}{suffix}", save_all=True, append_images=others)

    return write


def png_of_16_bits(values: np.ndarray) -> bytes:
    """(H, W, 3) values as a PNG of 16 bits per channel, which Pillow cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff_of_16_bits(values: np.ndarray, photometric: int = 2) -> bytes:
    """(H, W, 1 or 3) values as an uncompressed TIFF: head, nine tags, bits per channel, one strip.

    The photometric tag is 2 for RGB, 1 for grey whose 0 is black, 0 for grey whose 0 is white.
    """
    height, width, channels = values.shape
    data = values.astype("<u2").tobytes()
    bits = (258, 3, 3, 122) if channels == 3 else (258, 3, 1, 16)
    tags = ((256, 3, 1, width), (257, 3, 1, height), bits, (259, 3, 1, 1), (262, 3, 1, photometric))
    tags += ((273, 4, 1, 128), (277, 3, 1, channels), (278, 3, 1, height), (279, 4, 1, len(data)))
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0)
    return head + struct.pack("<HHH", 16, 16, 16) + data


def ppm_of_16_bits(values: np.ndarray) -> bytes:
    return b"P6\n# a comment\n8 8\n4095\n" + values.astype(">u2").tobytes()


def pgm_of_12_bits(values: np.ndarray) -> bytes:
    """(H, W) values as a PGM whose white is 4095, which Pillow scales to 65535."""
    return b"P5\n8 8\n4095\n" + values.astype(">u2").tobytes()


def jpeg2000_of_12_bits(suffix: str) -> Write:
    """Grey whose head says 12 bits, which Pillow scales to 16 and cannot write.

    Values are stored less half of what the bits can say: as 16 bits they are larger by the difference of the halves.
    """

    def write(path: Path) -> None:
        content = io.BytesIO()
        image = Image.fromarray((DEEP + 2**15 - 2**11).astype(np.uint16))
        image.save(content, "JPEG2000", irreversible=False, no_jp2=suffix == ".j2k")
        found = bytearray(content.getvalue())
        found[found.index(b"\xff\x4f\xff\x51") + 42] = 11
        if suffix == ".jp2":
            found[found.index(b"ihdr") + 14] = 11
        Path(f"{path}{suffix}").write_bytes(found)

    return write


def jpeg2000_in_deep_colour(path: Path) -> None:
    """A codestream alone, whose head says 12 bits in each of three channels."""
    content = io.BytesIO()
    Image.fromarray(COLOUR).save(content, "JPEG2000", irreversible=False, no_jp2=True)
    found = bytearray(content.getvalue())
    for channel in range(3):
        found[found.index(b"\xff\x4f\xff\x51") + 42 + 3 * channel] = 11
    Path(f"{path}.j2k").write_bytes(found)


DEEP_COLOUR = np.stack([DEEP] * 3, axis=2)
TOO_DEEP = "must have 8 bits per channel, or be grey"
PAGES = "must hold one image, got 3 pages; save each in a file of its own"

# The row of docs/data.md: what writes a file, the window, and the pixels that come of it or the refusal.
FILES: dict[str, tuple[Write, str | None, np.ndarray | str]] = {
    "grey": (saved(GREY), None, GREY),
    "colour": (saved(COLOUR), None, COLOUR),
    "1 bit": (saved(GREY > 90), None, (GREY > 90).astype(np.uint8) * 255),
    "palette": (saved(GREY, mode="P"), None, GREY),
    "grey with transparency": (saved(GREY, mode="LA"), None, GREY),
    "colour with transparency": (with_alpha, None, WHITENED),
    "CMYK": (saved(COLOUR, ".tif", mode="CMYK"), None, COLOUR),
    "TIFF, BMP, TGA, PPM": (saved(COLOUR, ".TIFF"), None, COLOUR),
    "GIF": (saved(GREY, ".gif"), None, GREY),
    "WebP": (saved(COLOUR, ".webp", lossless=True), None, COLOUR),
    "JPEG 2000": (saved(COLOUR, ".jp2", irreversible=False), None, COLOUR),
    "JPEG called .jfif": (saved(np.full_like(GREY, 7), ".jfif", format="JPEG"), None, np.full_like(GREY, 7)),
    "AVIF": (saved(np.full_like(GREY, 7), ".avif", quality=100), None, np.full_like(GREY, 7)),
    "EXIF orientation": (turned, None, GREY),
    "grey of 16 bits": (saved(DEEP), None, "more than 8 bits, values from 0 to 3780: give a window, --window LOW,HIGH"),
    "grey of 16 bits, --window 0,4000": (saved(DEEP), "0,4000", WINDOWED),
    "TIFF of 16 bits, --window 0,4000": (saved(DEEP, ".tif"), "0,4000", WINDOWED),
    "PGM of 12 bits, --window 0,4000": (stored(pgm_of_12_bits(DEEP), ".pgm"), "0,4000", WINDOWED),
    "JPEG 2000 of 12 bits, --window 0,4000": (jpeg2000_of_12_bits(".jp2"), "0,4000", WINDOWED),
    "its codestream alone, --window 0,4000": (jpeg2000_of_12_bits(".j2k"), "0,4000", WINDOWED),
    "TIFF of 16 bits whose 0 is white": (
        stored(tiff_of_16_bits(DEEP[:, :, None], photometric=0), ".tif"),
        "0,4000",
        "must have black as its least value, got a TIFF whose 0 is white; save it inverted",
    ),
    "float, --window 0,4000": (saved(DEEP.astype(np.float32), ".tif"), "0,4000", WINDOWED),
    "float with NaN": (
        saved(np.full((8, 8), np.nan, np.float32), ".tif"),
        "0,1",
        "must have finite values, got NaN or infinity; replace them",
    ),
    "8 bits, --window 0,4000": (
        saved(GREY),
        "0,4000",
        "must have more than 8 bits, as a window is given, got 8; leave out",
    ),
    "PNG of 3 x 16 bits": (stored(png_of_16_bits(DEEP_COLOUR)), None, TOO_DEEP),
    "TIFF of 3 x 16 bits": (stored(tiff_of_16_bits(DEEP_COLOUR), ".tif"), None, TOO_DEEP),
    "PPM of 3 x 16 bits": (stored(ppm_of_16_bits(DEEP_COLOUR), ".ppm"), None, TOO_DEEP),
    "JPEG 2000 of 3 x 12 bits": (jpeg2000_in_deep_colour, None, TOO_DEEP),
    "TIFF of several pages": (pages(".tif"), None, PAGES),
    "animated GIF": (pages(".gif"), None, PAGES),
    "animated PNG": (pages(".png"), None, PAGES),
    "animated WebP": (pages(".webp"), None, PAGES),
    "empty file": (stored(b""), None, "must be an image, got an empty file; restore or remove it"),
    "no image": (stored(b"hello"), None, "must be a readable image, got: not a format that Pillow knows"),
}

ALIKE = "ignore:.*among the training images:sgan.data.DataWarning"  # one image, five times


@pytest.mark.filterwarnings(ALIKE)
@pytest.mark.parametrize("kind", FILES)
def test_files(tmp_path: Path, kind: str) -> None:
    write, window, expected = FILES[kind]
    (tmp_path / "a").mkdir()
    for index in range(COUNT):
        write(tmp_path / "a" / str(index))
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=re.escape(expected)):
            load_dataset(tmp_path, window=window)
        return
    data = load_dataset(tmp_path, window=window)
    pixels = torch.from_numpy(np.ascontiguousarray(expected))
    assert torch.equal(data.train.images[0], pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1))
    assert data.built.get("window") == (None if window is None else "0 to 0, 4000 to 255")
    assert (data.built.get("turned_by_exif") == COUNT) == (kind == "EXIF orientation")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32, np.float64])
def test_npz_of_any_real_numbers(tmp_path: Path, dtype: type[np.generic]) -> None:
    values = (np.arange(5 * 64).reshape(5, 8, 8) % 251).astype(dtype)
    np.savez(tmp_path / "x.npz", x=values)
    if dtype is np.uint8:
        assert load_dataset(tmp_path / "x.npz").train.images.max() == 250
        with pytest.raises(ValueError, match="x must have more than 8 bits, as a window is given, got uint8"):
            load_dataset(tmp_path / "x.npz", window="0,250")
        return
    with pytest.raises(ValueError, match=rf"is {np.dtype(dtype)}, values from 0 to 250: give a window"):
        load_dataset(tmp_path / "x.npz")
    data = load_dataset(tmp_path / "x.npz", window="50,150")
    everything = torch.cat([data.train.images, data.test.images])
    expected = np.rint(np.clip((values.astype(np.float64) - 50) * (255 / 100), 0, 255)).astype(np.uint8)
    assert sorted(everything.flatten().tolist()) == sorted(expected.flatten().tolist())


def test_percentiles_are_of_all_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    files = [rng.integers(0, 60_000, (16, 16), dtype=np.uint16) for _ in range(6)]
    (tmp_path / "a").mkdir()
    for index, values in enumerate(files):
        Image.fromarray(values).save(tmp_path / "a" / f"{index}.png")
    data = load_dataset(tmp_path, window="5%,95%")
    ordered = np.sort(np.stack(files).ravel())
    low, high = (int(ordered[np.ceil(share * len(ordered)).astype(int) - 1]) for share in (0.05, 0.95))
    assert data.built["window"] == f"{low:g} to 0, {high:g} to 255"
    black, white = ((torch.cat([data.train.images, data.test.images]) == end).double().mean() for end in (0, 255))
    assert abs(float(black) - 0.05) < 0.005
    assert abs(float(white) - 0.05) < 0.005


def test_windows() -> None:
    assert parse_window("-1000, 400") == Window(-1000, 400)
    assert parse_window("0.5%,99.5%") == Window(0.5, 99.5, True)
    for text in ("", "1", "1,2,3", "a,b", "0,5%", "5,5", "9,1", "-1%,50%", "0%,101%", "nan,1", "0,inf"):
        with pytest.raises(ValueError, match=r"^load_dataset: window must"):
            parse_window(text)
    values = np.array([-2000, -1000, -300, 400, 3000])
    assert parse_window("-1000,400").apply(values).tolist() == [0, 0, 128, 255, 255]
    histogram = Histogram(0, 3.5, is_integer=False)
    histogram.add(np.linspace(0, 3.5, 1001))
    window = histogram.window(Window(10, 90, True))
    assert abs(window.low - 0.35) < 0.004
    assert abs(window.high - 3.15) < 0.004
    constant = Histogram(7, 7, is_integer=True)
    constant.add(np.full(9, 7))
    with pytest.raises(ValueError, match=r"must have different values at 1 % and 99 %, got 7 at both"):
        constant.window(Window(1, 99, True))


def fill(folder: Path, *places: str, count: int = COUNT) -> None:
    """Different images in each of these folders."""
    for number, place in enumerate(places):
        (folder / place).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            image = Image.fromarray(GREY)
            image.putpixel((index, number), 255)
            image.putpixel((7, 7), (number * 16 + index) % 256)
            image.save(folder / place / f"{index}.png")


def labels_json(labels: Any) -> str:
    return json.dumps({"labels": labels})


def put_flat(folder: Path) -> None:
    fill(folder, ".")


def put_labels(folder: Path) -> None:
    fill(folder, "00000", "00001")
    entries = [[f"0000{k}/{index}.png", index % 2] for k in range(2) for index in range(COUNT)]
    (folder / "dataset.json").write_text(labels_json(entries))


def put_no_labels(folder: Path) -> None:
    fill(folder, "00000", "00001")
    (folder / "dataset.json").write_text(labels_json(None))


def put_some_labels(folder: Path) -> None:
    fill(folder, "00000")
    (folder / "dataset.json").write_text(labels_json([["00000/0.png", 1]]))


def put_label_vectors(folder: Path) -> None:
    fill(folder, "00000")
    (folder / "dataset.json").write_text(labels_json([[f"00000/{index}.png", [0.5]] for index in range(COUNT)]))


def put_parts(*places: str) -> Callable[[Path], None]:
    return lambda folder: fill(folder, *places)


def put_others(folder: Path) -> None:
    fill(folder, "a", "b")
    (folder / "a" / "notes.txt").write_text("no image")
    (folder / "a" / "scan.dcm").write_bytes(b"DICM")
    (folder / "a" / ".hidden.png").write_bytes(b"")
    (folder / "Thumbs.db").write_bytes(b"")


def put_dicom(folder: Path) -> None:
    (folder / "a").mkdir()
    (folder / "a" / "scan.dcm").write_bytes(b"DICM")


def put_masks_among_images(folder: Path) -> None:
    fill(folder, "a")
    for index in range(COUNT):
        Image.fromarray(GREY).save(folder / "a" / f"{index}_mask.png")


def put_both_parts(folder: Path) -> None:
    fill(folder, "train/a")
    fill(folder, "test/a", count=2)


Outcome = tuple[tuple[str, ...], str, str] | str  # classes, how it was split, the note; or the refusal

FOLDERS: dict[str, tuple[Callable[[Path], None], Outcome]] = {
    "images straight in it": (put_flat, (("set",), "image", "")),
    "<class>/": (put_parts("cat", "dog"), (("cat", "dog"), "image", "")),
    "<class>/<source>/": (put_parts("cat/1", "cat/2", "dog/1", "dog/3"), (("cat", "dog"), "source folder", "")),
    "Training/<class>/ and Testing/<class>/": (
        put_parts("Training/a", "Training/b", "Testing/a"), (("a", "b"), "the files' own parts", ""),
    ),
    "train/<class>/ and valid/<class>/": (
        put_parts("train/a", "train/b", "valid/a"), (("a", "b"), "the files' own parts", ""),
    ),
    "train/ and test/, images straight in them": (
        put_parts("train", "test"), (("set",), "the files' own parts", ""),
    ),
    "train/, val/ and test/": (
        put_parts("train/a", "val/a", "test/a"),
        (("a",), "the files' own parts", "left out 5 images in val, as test is held out"),
    ),
    "train/, test/ and another": (
        put_parts("train/a", "test/a", "extra/a"),
        (("a",), "the files' own parts", "left out 5 images in extra/, no part"),
    ),
    "bus/ and train/": (put_parts("bus", "train"), (("bus", "train"), "image", "")),
    "test/ alone": (put_parts("test/a"), "must have images to train on, got only a held-out part, test/"),
    "train/ and Training/": (put_parts("train/a", "Training/a"), "must have each part once, got Training/, train/"),
    "images/train/ and images/val/": (
        put_parts("images/train/a", "images/val/a"), (("a",), "the files' own parts", ""),
    ),
    "one folder of folders": (
        put_parts("brain/glioma", "brain/healthy"),
        (("brain",), "source folder", "one class, brain, with the sources glioma/, healthy/; if these are the classes"),
    ),
    "images/ beside masks/": (
        put_parts("images", "masks"), "got images/ beside masks/: if the pictures are those in images, point to images",
    ),
    "<id>/images/ beside <id>/masks/": (
        put_parts("7/images", "7/masks"),
        "got images/ beside masks/ in 7: if the pictures are those in images, gather the images of all folders in one",
    ),
    "JPEGImages/ beside SegmentationClass/": (
        put_parts("JPEGImages", "SegmentationClass"),
        "got JPEGImages/ beside SegmentationClass/: if the pictures are those in JPEGImages, point to JPEGImages",
    ),
    "0_mask.png beside 0.png": (
        put_masks_among_images, "got 5 files called as masks of others, a/0_mask.png the first; move them out",
    ),
    "<class>/train/ and <class>/test/": (
        put_parts("a/train", "a/test", "b/train", "b/test"),
        "must have parts above classes, train/<class>/ and test/<class>/, got test/, train/ in a/, b/; move them",
    ),
    "images beside folders of images": (
        put_parts(".", "a"), "must have all images at one depth, either all straight in it, all in <class>/ or",
    ),
    "deeper folders": (
        put_parts("a/b/c"), "must have images at most two folders deep, <class>/<source>/, got 5 deeper, a/b/c/0.png",
    ),
    "dataset.json with labels": (put_labels, (("0", "1"), "image", "")),
    "dataset.json without labels": (put_no_labels, (("set",), "image", "")),
    "dataset.json with labels for some": (put_some_labels, "must have a label for every image, got none for 4"),
    "dataset.json with vectors": (put_label_vectors, "each file once and classes as integers >= 0, or null"),
    "other files beside images": (
        put_others,
        (("a", "b"), "image", "left out 1 files of other kinds (.dcm), 1 files of other kinds (.txt), 2 hidden files"),
    ),
    "DICOM alone": (put_dicom, "must hold images, got none that can be read, but 1 files of other kinds (.dcm)"),
    "a class only held out": (
        put_parts("train/a", "test/b"),
        "must have the classes of the training part in the held-out one, got also ['b']",
    ),
    "a source in both parts": (
        put_parts("train/a/1", "test/a/1"), "must have each source in one part, got ['1'] in train and held out",
    ),
    "an image in both parts": (
        put_both_parts,
        (("a",), "the files' own parts", "2 of 2 held-out images are among the training images, too"),
    ),
}  # fmt: skip


def loaded(path: Path) -> tuple[Dataset, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = load_dataset(path)
    assert all(warning.category is DataWarning for warning in caught)
    return data, [str(warning.message) for warning in caught]


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize("kind", FOLDERS)
def test_folders(tmp_path: Path, kind: str, packed: bool) -> None:
    put, outcome = FOLDERS[kind]
    folder = tmp_path / "set"
    folder.mkdir()
    put(folder)
    if packed:
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as file:
            for path in sorted(folder.rglob("*")):
                file.write(path, path.relative_to(tmp_path))
        folder = tmp_path / "set.zip"
    if isinstance(outcome, str):
        with pytest.raises(ValueError, match=re.escape(outcome)):
            load_dataset(folder)
        return
    class_names, split_by, note = outcome
    data, warned = loaded(folder)
    assert data.class_names == class_names
    assert data.is_labelled == (len(class_names) > 1)
    assert data.built["split_by"] == split_by
    assert warned == [f"{folder}: {text}" for text in data.notes]
    assert len(data.notes) == (1 if note else 0)
    assert all(text.startswith(note) for text in data.notes)
    skipped = data.built["skipped"]
    assert isinstance(skipped, dict)
    stored = sum(1 for path in (tmp_path / "set").rglob("*") if path.is_file() and path.name != "dataset.json")
    assert len(data.train) + len(data.test) + sum(skipped.values()) == stored


def test_labels_are_those_of_dataset_json(tmp_path: Path) -> None:
    put_labels(tmp_path)
    data = load_dataset(tmp_path)
    marks = torch.cat([data.train.images, data.test.images])[:, 0, 7, 7]
    labels = torch.cat([data.train.labels, data.test.labels])
    assert torch.equal(labels, marks.long() % 16 % 2)


def test_links_that_lead_back_and_names_in_any_script(tmp_path: Path) -> None:
    fill(tmp_path, "Äpfel", "猫")
    (tmp_path / "猫" / "0.png").rename(tmp_path / "猫" / "ネコ 1.PNG")
    (tmp_path / "猫" / "back").symlink_to(tmp_path, target_is_directory=True)
    data = load_dataset(tmp_path)
    assert data.class_names == ("Äpfel", "猫")
    assert len(data.train) + len(data.test) == 2 * COUNT


def test_archives_with_backslashes_and_with_a_file_twice(tmp_path: Path) -> None:
    fill(tmp_path, "a", "b")
    with zipfile.ZipFile(tmp_path / "windows.zip", "w") as file:
        for path in sorted(tmp_path.glob("*/*.png")):
            file.writestr(f"{path.parent.name}\\{path.name}", path.read_bytes())
    assert load_dataset(tmp_path / "windows.zip").class_names == ("a", "b")
    with zipfile.ZipFile(tmp_path / "windows.zip", "a") as file, pytest.warns(UserWarning, match="Duplicate name"):
        file.writestr("a\\0.png", b"")
    with pytest.raises(ValueError, match=r"must hold each file once, got a/0.png twice"):
        load_dataset(tmp_path / "windows.zip")


def test_what_is_called_like_annotations_alone_is_read(tmp_path: Path) -> None:
    """Classes may be called so, where no pictures lie beside them, and a picture, where there is none of it."""
    fill(tmp_path, "with_mask", "without_mask")
    for index in range(COUNT):
        (tmp_path / "with_mask" / f"{index}.png").rename(tmp_path / "with_mask" / f"man_mask_{index}.png")
    assert load_dataset(tmp_path).class_names == ("with_mask", "without_mask")


def test_a_class_folder_of_parts_says_where_to_point(tmp_path: Path) -> None:
    fill(tmp_path, "brain/train", "brain/test")
    with pytest.raises(ValueError, match=r"got test/, train/ in brain/; move them; if brain is no class, point to it"):
        load_dataset(tmp_path)
    assert load_dataset(tmp_path / "brain").built["split_by"] == "the files' own parts"


@pytest.mark.parametrize("names", [("Train", "TEST"), ("training", "Val")])
def test_pairs_are_in_parts_of_any_name(tmp_path: Path, names: tuple[str, str]) -> None:
    wide = np.concatenate([GREY, 255 - GREY], axis=1)
    for number, name in enumerate(names):
        (tmp_path / name).mkdir()
        Image.fromarray(wide // (number + 1)).save(tmp_path / name / "1.png")
    data = load_dataset(tmp_path)
    assert data.train.paired is not None
    assert torch.equal(data.train.images[0, 0], torch.from_numpy(GREY))
    assert torch.equal(data.train.paired[0, 0], torch.from_numpy(255 - GREY))
    assert torch.equal(data.test.images[0, 0], torch.from_numpy(GREY // 2))


def test_percentiles_name_the_file_that_has_none(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for index in range(COUNT):
        saved(np.full((8, 8), np.nan if index == 3 else index, np.float32), ".tif")(tmp_path / "a" / str(index))
    with pytest.raises(ValueError, match=r"a/3\.tif must have finite values"):
        load_dataset(tmp_path, window="1%,99%")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((5, 3, 8, 8), np.uint8)}, "channels go last, x.transpose(0, 2, 3, 1) of (N, C, H, W)"),
        ({"x": np.zeros((5, 8, 8), bool)}, "got bool (5, 8, 8); save it as uint8, 0 black and 255 white"),
        ({"x": np.zeros((5, 8, 8), np.uint8), "y": np.eye(5)}, "y.argmax(1) where a class has a column"),
        ({"x": np.zeros((5, 8, 8), np.uint8), "y": np.arange(5) - 1}, "(5,) from -1; number them from 0"),
    ],
)
def test_refused_arrays_say_what_to_do(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "x.npz", **arrays)  # type: ignore[arg-type]  # no array is called allow_pickle
    with pytest.raises(ValueError, match=re.escape(message)):
        load_dataset(tmp_path / "x.npz")


def test_a_run_of_before_windows_resumes() -> None:
    options = Options(preset="any")
    recorded = {key: value for key, value in asdict(options).items() if key != "window"}
    assert changed_options(recorded, options) == []
    assert changed_options(recorded, replace(options, window="0,9")) != []


def rows(title: str) -> dict[str, str]:
    """The rows of the table under a heading of docs/data.md: first column to second."""
    section = DOCS.read_text().split(f"## {title}\n")[1].split("\n## ")[0]
    lines = [line.strip("|").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    return {first.strip().strip("`"): second.strip() for first, second in lines}


@pytest.mark.parametrize(("title", "kinds"), [("Files", FILES), ("Folders", FOLDERS)])
def test_the_documentation_has_every_kind_and_the_refusals_texts(title: str, kinds: dict[str, tuple[Any, ...]]) -> None:
    documented = rows(title)
    assert list(documented) == list(kinds)
    for kind, (*_, outcome) in kinds.items():
        said = documented[kind]
        assert said.startswith("refused: ") == isinstance(outcome, str)
        if isinstance(outcome, str):
            assert outcome in said.replace("\\|", "|")
        elif isinstance(outcome, tuple) and outcome[2]:
            assert outcome[2] in said


def test_classes_of_dataset_json_that_are_only_held_out_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, "train", "test")
    entries = [[f"{part}/{index}.png", label] for part, label in (("train", 0), ("test", 3)) for index in range(COUNT)]
    (tmp_path / "dataset.json").write_text(labels_json(entries))
    with pytest.raises(ValueError, match=r"must have the classes of the training part in the held-out one, got also"):
        load_dataset(tmp_path)


def test_folders_that_cannot_be_read_and_links_to_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "cat", "zebra")
    (tmp_path / "ape").symlink_to(tmp_path / "zebra", target_is_directory=True)
    (tmp_path / "cat" / "there").symlink_to(tmp_path / "zebra" / "back", target_is_directory=True)
    (tmp_path / "zebra" / "back").symlink_to(tmp_path / "cat", target_is_directory=True)
    with pytest.raises(ValueError, match="must have all images at one depth"):
        load_dataset(tmp_path)  # and it ends
    (tmp_path / "cat" / "there").unlink()
    (tmp_path / "zebra" / "back").unlink()
    with pytest.warns(DataWarning, match="among the training images"):
        assert load_dataset(tmp_path).class_names == ("ape", "cat", "zebra")
    scandir = os.scandir

    def unreadable(path: Any) -> Any:
        if str(path).endswith("cat"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", unreadable)
    with pytest.raises(ValueError, match=r"cat must be a readable folder, got: Permission denied; make it readable"):
        load_dataset(tmp_path)
