"""From files that Pillow decodes to one tensor of pixels."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sgan.data.resize import describe_resize, resize
from sgan.data.tree import FileTree

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
GREY_MODES = {"1", "L"}
COLOUR_MODES = {"P", "RGB", "RGBA", "LA", "PA", "CMYK", "YCbCr"}
UNREADABLE = (  # what Pillow's decoders raise on damaged files
    *(OSError, EOFError, SyntaxError, ValueError, TypeError, IndexError, KeyError, OverflowError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)


def is_image(file: str) -> bool:
    """Return whether a file's name ends as an image's."""
    return PurePosixPath(file).suffix.lower() in SUFFIXES


def read_images(
    tree: FileTree, files: Sequence[str], resolution: int | None, *, abreast: int = 1
) -> tuple[Tensor, str]:
    """Decode files into one tensor, resized one by one, so that only the result is held in memory.

    The set is grey (C = 1) if every image is: stored as grey, or with R = G = B in every pixel. Else it is RGB (C = 3).
    Transparent pixels are laid over white. An orientation in a photograph's EXIF data is not applied.

    Args:
        tree: where the files are.
        files: names in the tree, at least one.
        resolution: bring every image to this size by `sgan.data.resize.resize`; None: they must have one size.
        abreast: how many square images a file holds side by side.

    Returns:
        (N, abreast, C, H, W) uint8, the images of a file from left to right; and what the resizing did.

    Raises:
        ValueError: an unreadable file, one with more than 8 bits per channel, images of different sizes without
            `resolution`, or files that are not `abreast` times as wide as high where `abreast` is not 1.
    """
    sizes: set[tuple[int, int]] = set()
    stack, is_grey = None, True
    for index, file in enumerate(files):
        pixels = _decode(tree, file)
        height, width = pixels.shape[1:]
        if abreast > 1 and width != abreast * height:
            what = f"{abreast} square images side by side"
            raise ValueError(f"load_dataset: {tree.path}/{file} must hold {what}, got H x W = {height} x {width}")
        sizes.add((height, width // abreast))
        if resolution is None and len(sizes) > 1:
            raise ValueError(
                f"load_dataset: without a resolution all images in {tree.path} must have one size, got (H, W) "
                f"{sorted(sizes)}"
            )
        pixels = resize(torch.stack(pixels.split(width // abreast, dim=2)) if abreast > 1 else pixels[None], resolution)
        if stack is None:
            stack = torch.empty(len(files), abreast, 3, *pixels.shape[2:], dtype=torch.uint8)
        stack[index] = pixels
        is_grey &= pixels.shape[1] == 1
    assert stack is not None
    return stack[:, :, :1].clone() if is_grey else stack, describe_resize(sizes, resolution)


def _decode(tree: FileTree, file: str) -> Tensor:
    """Return (1 or 3, H, W) uint8."""
    content = tree.read(file)
    try:
        with Image.open(io.BytesIO(content)) as image:
            mode = image.mode
            pixels = _pixels(image) if mode in GREY_MODES | COLOUR_MODES else None
    except UNREADABLE as error:
        raise ValueError(f"load_dataset: {tree.path}/{file} must be a readable image, got: {error}") from error
    if pixels is None:
        raise ValueError(f"load_dataset: {tree.path}/{file} must have 8 bits per channel, got mode {mode}")
    return torch.from_numpy(pixels)


def _pixels(image: Image.Image) -> np.ndarray:
    if image.mode in GREY_MODES and "transparency" not in image.info:
        return np.array(image.convert("L"))[None]
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    pixels = np.array(image.convert("RGB")).transpose(2, 0, 1)
    return pixels[:1] if (pixels == pixels[:1]).all() else pixels
