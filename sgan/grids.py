"""Picture grids: many images as one PNG file."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from sgan.files import write_atomic

MIN_TILE = 56  # pixels: a 28 x 28 digit is drawn twice as large
LARGEST_TEXT = 16  # pixels
LONGEST_NAME = 160
MARGIN_GAP = 6
MANY_SCRIPTS = "fonts/ttf/DejaVuSans.ttf"  # in matplotlib's data: Greek, Cyrillic, Arabic, Hebrew and more
NO_CHARACTER = "\uffff"  # drawn as every character is that a font lacks

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


def save_grid(
    images: Tensor,
    path: str | os.PathLike[str],
    *,
    columns: int | None = None,
    scale: int | None = None,
    row_names: Sequence[str] = (),
) -> None:
    """Write images as one PNG, row by row, without gaps, as StyleGAN3's training grids are.

    Args:
        images: (N, C, H, W), C 1 or 3, pixels in [-1, 1]; values outside are clipped.
        path: file to write; its folder must exist.
        columns: images per row; None: the smallest number whose square is at least N. An incomplete last row is filled
            with the darkest value.
        row_names: of the rows, drawn in a margin left of them and cut where they are long; one in a script that no font
            here has (Chinese, Thai) is its row's number, from 0, as "class 3"; none: no margin.
        scale: integer factor, every pixel becomes scale x scale; None: the smallest that makes a tile 56 pixels wide.

    Raises:
        ValueError: `images` has another shape or no images, `columns` or `scale` is less than 1, or there is not a name
            for each row.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3) or images.numel() == 0:
        raise ValueError(f"save_grid: images must be (N, 1 or 3, H, W) with N >= 1, got {tuple(images.shape)}")
    count, channels, height, width = images.shape
    columns = next(side for side in range(1, count + 1) if side * side >= count) if columns is None else columns
    scale = max(1, -(-MIN_TILE // width)) if scale is None else scale
    if columns < 1 or scale < 1:
        raise ValueError(f"save_grid: columns and scale must be at least 1, got {columns} and {scale}")
    rows = -(-count // columns)
    if row_names and len(row_names) != rows:
        raise ValueError(f"save_grid: row_names must be {rows} names, got {len(row_names)}")
    pixels = ((images.detach().cpu().to(torch.float32) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    tiles = torch.zeros(rows * columns, channels, height, width, dtype=torch.uint8)
    tiles[:count] = pixels
    grid = tiles.unflatten(0, (rows, columns)).permute(0, 3, 1, 4, 2).reshape(rows * height, columns * width, channels)
    grid = grid.repeat_interleave(scale, 0).repeat_interleave(scale, 1)
    picture = Image.fromarray(grid.squeeze(2).numpy() if channels == 1 else grid.numpy())
    write_png(Path(path), with_row_names(picture, row_names) if row_names else picture)


def with_row_names(grid: Image.Image, names: Sequence[str]) -> Image.Image:
    """The grid with a white margin at its left that names its rows, each beside the middle of its row."""
    height = grid.height / len(names)
    lines = _drawable(names, min(LARGEST_TEXT, height * 0.8))
    margin = math.ceil(max(font.getlength(text) for text, font in lines)) + 2 * MARGIN_GAP
    picture = Image.new(grid.mode, (margin + grid.width, grid.height), "white")
    picture.paste(grid, (margin, 0))
    draw = ImageDraw.Draw(picture)
    for row, (text, font) in enumerate(lines):
        draw.text((margin - MARGIN_GAP, (row + 0.5) * height), text, fill="black", font=font, anchor="rm")
    return picture


def _drawable(names: Sequence[str], size: float) -> list[tuple[str, Font]]:
    """Each name, cut, with the first font that has all of its characters; its row's number where none has."""
    many_scripts = Path(matplotlib.get_data_path()) / MANY_SCRIPTS
    fonts: tuple[Font, ...] = (ImageFont.load_default(size=size), ImageFont.truetype(many_scripts, size))
    lines = []
    for row, name in enumerate(names):
        font = next((font for font in fonts if _has_all(font, name)), None)
        lines.append((f"class {row}", fonts[0]) if font is None else (_cut(name, font), font))
    return lines


def _has_all(font: Font, text: str) -> bool:
    """Whether the font draws every character, and none as the box in place of what it lacks."""
    box = bytes(font.getmask(NO_CHARACTER))
    return all(character.isspace() or bytes(font.getmask(character)) != box for character in text)


def _cut(name: str, font: Font) -> str:
    """The name in one line, or as much of its beginning as LONGEST_NAME pixels hold, with dots."""
    text = " ".join(name.split())
    if font.getlength(text) <= LONGEST_NAME:
        return text
    end = next(end for end in range(len(text) - 1, -1, -1) if font.getlength(f"{text[:end]}...") <= LONGEST_NAME)
    return f"{text[:end]}..."


def write_png(path: Path, image: Image.Image) -> None:
    """Write an image as a PNG file, whole or not at all; an OSError names the file."""
    content = io.BytesIO()
    image.save(content, format="PNG")
    write_atomic(path, content.getvalue())


def class_rows(num_classes: int, columns: int) -> Tensor:
    """Return the labels of a grid with one class per row: (num_classes * columns,) int64, 0 0 ... 1 1 ..."""
    return torch.arange(num_classes).repeat_interleave(columns)


def first_of_each(labels: Tensor, num_classes: int, columns: int) -> Tensor:
    """Return the indices of the images of a grid of data with one class per row.

    Args:
        labels: (N,) int64 labels of the data.
        num_classes: rows of the grid.
        columns: images per class: its first ones, repeated from the start where a class has fewer.

    Returns:
        (num_classes * columns,) int64 indices, in the order of `class_rows`.

    Raises:
        ValueError: a class has no image.
    """
    rows = []
    for label in range(num_classes):
        members = (labels == label).nonzero().flatten()
        if len(members) == 0:
            raise ValueError(f"first_of_each: every class must have an image, got none of class {label}")
        rows.append(members[torch.arange(columns) % len(members)])
    return torch.cat(rows)
