"""From files that Pillow decodes to one tensor of pixels."""

from __future__ import annotations

import io
import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps, UnidentifiedImageError, features
from torch import Tensor

from sgan.data.resize import describe_resize, resize
from sgan.data.tree import FileTree
from sgan.data.window import HOW, Histogram, Window

CODECS = features.get_supported()  # of this Pillow
SUFFIXES = {
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".gif", ".webp", ".tga"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".tif", ".tiff"),
    *((".jp2", ".j2k", ".jpx") if "jpg_2000" in CODECS else ()),
    *((".avif",) if "avif" in CODECS else ()),
}
GREY_MODES = {"1", "L"}
DEEP_MODES = {"I", "F", "I;16", "I;16B", "I;16L", "I;16N"}  # one channel of more than 8 bits
COLOUR_MODES = {"P", "RGB", "RGBA", "LA", "La", "RGBa", "RGBX", "PA", "CMYK", "YCbCr", "LAB", "HSV"}
UNREADABLE = (  # what Pillow's decoders raise on damaged files
    *(OSError, EOFError, SyntaxError, ValueError, TypeError, IndexError, KeyError, OverflowError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)
BITS_PER_SAMPLE, PHOTOMETRIC = 258, 262  # tags of TIFF
WHITE_IS_ZERO = 0  # of TIFF's photometric tag
JPEG2000_SIZES = b"\xff\x4f\xff\x51"  # markers at a codestream's start, alone or in a .jp2
PILLOWS_WHITE = 2**16 - 1  # to which Pillow scales the white of a deep PGM
ORIENTATION = 274  # tag of EXIF: 1 is upright, 2 to 8 are turned or mirrored
Pixels = npt.NDArray[np.generic]


def is_image(file: str) -> bool:
    """Return whether a file's name ends as an image's that can be read."""
    return PurePosixPath(file).suffix.lower() in SUFFIXES


def count_others(files: Iterable[str]) -> dict[str, int]:
    """Count the files that are no images, or none that can be read, by the ends of their names."""
    suffixes = Counter(PurePosixPath(file).suffix.lower() or "no suffix" for file in files if not is_image(file))
    return {f"files of other kinds ({suffix})": count for suffix, count in sorted(suffixes.items())}


class Decoded(NamedTuple):
    """The images of several files.

    images: (N, abreast, C, H, W) uint8, the images of a file from left to right. resized: what the resizing did.
    built: what else was done, ready for JSON.
    """

    images: Tensor
    resized: str
    built: dict[str, object]


def read_images(
    tree: FileTree,
    files: Sequence[str],
    resolution: int | None,
    *,
    abreast: int = 1,
    window: Window | None = None,
) -> Decoded:
    """Decode files into one tensor, resized one by one, so that only the result is held in memory.

    The set is grey (C = 1) if every image is: stored as grey, or with R = G = B in every pixel. Else it is RGB (C = 3).
    Transparent pixels are laid over white. Images are turned as the orientation in their EXIF data says, as every
    viewer shows them. Grey images of more than 8 bits are mapped by the window, after which they are resized.

    Args:
        tree: where the files are.
        files: names in the tree, at least one.
        resolution: bring every image to this size by `sgan.data.resize.resize`; None: they must have one size.
        abreast: how many square images a file holds side by side.
        window: of images of more than 8 bits, which all must then be.

    Raises:
        ValueError: an empty or unreadable file, one of several pages, more than 8 bits per channel without a window, or
            in colour, 8 bits with one, images of different sizes without `resolution`, or files that are not `abreast`
            times as wide as high where `abreast` is not 1.
    """
    if window is not None and window.is_percentile:
        window = _between_percentiles(tree, files, window)
    sizes: set[tuple[int, int]] = set()
    stack, is_grey, turned = None, True, 0
    for index, file in enumerate(files):
        decoded, was_turned = _decode(tree, file)
        turned += was_turned
        pixels = torch.from_numpy(_in_8_bits(decoded, window, f"{tree.path}/{file}"))
        height, width = pixels.shape[1:]
        if abreast > 1 and width != abreast * height:
            what = f"{abreast} square images side by side"
            raise ValueError(f"load_dataset: {tree.path}/{file} must hold {what}, got H x W = {height} x {width}")
        sizes.add((height, width // abreast))
        if resolution is None and len(sizes) > 1:
            raise ValueError(
                f"load_dataset: without a resolution all images in {tree.path} must have one size, got (H, W) "
                f"{sorted(sizes)}; --resolution N brings them to N x N"
            )
        pixels = resize(torch.stack(pixels.split(width // abreast, dim=2)) if abreast > 1 else pixels[None], resolution)
        if stack is None:
            stack = torch.empty(len(files), abreast, 3, *pixels.shape[2:], dtype=torch.uint8)
        stack[index] = pixels
        is_grey &= pixels.shape[1] == 1
    assert stack is not None
    built: dict[str, object] = {"turned_by_exif": turned} if turned else {}
    if window is not None:
        built["window"] = window.describe()
    return Decoded(stack[:, :, :1].clone() if is_grey else stack, describe_resize(sizes, resolution), built)


def image_size(tree: FileTree, file: str) -> tuple[int, int]:
    """Return the (height, width) of one image, from its head.

    Raises:
        ValueError: an empty or unreadable file.
    """
    try:
        with Image.open(io.BytesIO(_content(tree, file))) as image:
            return image.height, image.width
    except UNREADABLE as error:
        raise _unreadable(tree, file, error) from error


def _content(tree: FileTree, file: str) -> bytes:
    content = tree.read(file)
    if not content:
        raise ValueError(f"load_dataset: {tree.path}/{file} must be an image, got an empty file; restore or remove it")
    return content


def _unreadable(tree: FileTree, file: str, error: Exception) -> ValueError:
    what = "not a format that Pillow knows" if isinstance(error, UnidentifiedImageError) else error
    return ValueError(f"load_dataset: {tree.path}/{file} must be a readable image, got: {what}; restore or remove it")


def _decode(tree: FileTree, file: str) -> tuple[Pixels, bool]:
    """The pixels, (1 or 3, H, W), uint8 or deeper, and whether they were turned."""
    content = _content(tree, file)
    name = f"{tree.path}/{file}"
    try:
        with Image.open(io.BytesIO(content)) as image:
            mode, pages, is_deep = image.mode, getattr(image, "n_frames", 1), _is_deep(image, content)
            is_single = pages == 1 or image.format == "MPO"  # a camera's photograph, with previews behind it
            is_read = is_single and mode in GREY_MODES | COLOUR_MODES | DEEP_MODES and not is_deep
            is_turned = image.getexif().get(ORIENTATION, 1) in range(2, 9)
            shown = ImageOps.exif_transpose(image) if is_turned else image
            pixels = _in_files_units(_pixels(shown), image, content) if is_read else None
            is_negative = mode in DEEP_MODES and image.format == "TIFF" and _tag(image, PHOTOMETRIC, 1) == WHITE_IS_ZERO
    except UNREADABLE as error:
        raise _unreadable(tree, file, error) from error
    if not is_single:
        raise ValueError(f"load_dataset: {name} must hold one image, got {pages} pages; save each in a file of its own")
    if is_negative:
        raise ValueError(
            f"load_dataset: {name} must have black as its least value, got a TIFF whose 0 is white; save it inverted"
        )
    if pixels is None:
        raise ValueError(
            f"load_dataset: {name} must have 8 bits per channel, or be grey, got more bits in mode {mode}; save it "
            "with 8 bits per channel, mapped as you want it"
        )
    return pixels, is_turned


def _is_deep(image: Image.Image, content: bytes) -> bool:
    """Whether Pillow would cut each of several channels to its high byte."""
    if image.mode in DEEP_MODES:
        return False
    if image.format == "PNG":
        return content[24] > 8  # bit depth in the head
    if image.format == "TIFF":
        return max(_tag(image, BITS_PER_SAMPLE, (8,))) > 8
    if image.format == "JPEG2000":
        return _bits_of_jpeg2000(content) > 8
    if image.format == "PPM":
        return content[:2] in (b"P3", b"P6") and _greatest_in_pnm(content) > 255
    return False


def _in_files_units(pixels: Pixels, image: Image.Image, content: bytes) -> Pixels:
    """Deep values as the file has them, where Pillow scales them to 16 bits."""
    if image.mode not in DEEP_MODES:
        return pixels
    if image.format == "PPM" and content[:2] in (b"P2", b"P5"):
        return np.rint(pixels.astype(np.float64) * (_greatest_in_pnm(content) / PILLOWS_WHITE)).astype(pixels.dtype)
    if image.format == "JPEG2000":
        return np.right_shift(pixels, max(0, 16 - _bits_of_jpeg2000(content)))
    return pixels


def _tag(image: Image.Image, number: int, default: Any) -> Any:
    return image.tag_v2.get(number, default)  # type: ignore[attr-defined]  # TIFF's images have it


def _bits_of_jpeg2000(content: bytes) -> int:
    """Bits of the deepest channel: the sizes have their count at byte 40, then 3 bytes each, the first bits - 1."""
    start = content.index(JPEG2000_SIZES)
    (channels,) = struct.unpack_from(">H", content, start + 40)
    return max((content[start + 42 + 3 * channel] & 0x7F) + 1 for channel in range(channels))


def _greatest_in_pnm(content: bytes) -> int:
    """The greatest value that a PPM's head names, after its width and height; comments run from # to the line's end."""
    words = [word for line in content[:1024].split(b"\n") for word in line.partition(b"#")[0].split()]
    return int(words[3])


def _pixels(image: Image.Image) -> Pixels:
    if image.mode in DEEP_MODES:
        return np.array(image)[None]
    if image.mode in GREY_MODES and "transparency" not in image.info:
        return np.array(image.convert("L"))[None]
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    pixels = np.array(image.convert("RGB")).transpose(2, 0, 1)
    return pixels[:1] if (pixels == pixels[:1]).all() else pixels


def _in_8_bits(pixels: Pixels, window: Window | None, name: str) -> npt.NDArray[np.uint8]:
    if pixels.dtype == np.uint8 and window is None:
        return np.ascontiguousarray(pixels, dtype=np.uint8)
    if pixels.dtype == np.uint8:
        raise ValueError(
            f"load_dataset: {name} must have more than 8 bits, as a window is given, got 8; leave out --window, or "
            "move the images of 8 bits away"
        )
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise ValueError(f"load_dataset: {name} must have finite values, got NaN or infinity; replace them")
    if window is None:
        least, greatest = pixels.min(), pixels.max()
        raise ValueError(f"load_dataset: {name} has more than 8 bits, values from {least:g} to {greatest:g}: {HOW}")
    return window.apply(pixels)


def _between_percentiles(tree: FileTree, files: Sequence[str], window: Window) -> Window:
    """The window between two percentiles of all pixels of the files, in two passes over them."""

    def deep() -> Iterator[Pixels]:
        for file in files:
            pixels, _ = _decode(tree, file)
            _in_8_bits(pixels, Window(0, 1), f"{tree.path}/{file}")  # refuses 8 bits and what is not finite
            yield pixels

    least, greatest, is_integer = np.inf, -np.inf, True
    for pixels in deep():
        least, greatest = min(least, float(pixels.min())), max(greatest, float(pixels.max()))
        is_integer &= pixels.dtype.kind in "iu"
    histogram = Histogram(least, greatest, is_integer=is_integer)
    for pixels in deep():
        histogram.add(pixels)
    return histogram.window(window)
