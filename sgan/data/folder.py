"""Reader of an image folder with one sub-folder per class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sgan.data.dataset import ImageSet, RawImages

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
GREY_MODES = {"1", "L"}
COLOUR_MODES = {"P", "RGB", "RGBA", "LA", "PA", "CMYK", "YCbCr"}


def read_image_folder(folder: Path) -> RawImages:
    """Read `folder`/<class>/*.png (.jpg, ...), or `folder`/train/<class>/* and, held out, `folder`/test/<class>/*.

    Classes are the sub-folders that hold images, in alphabetical order. A set is grey (C = 1) if all its images are,
    else RGB (C = 3); transparency is dropped.

    Raises:
        ValueError: no images, images of more than one size, 16-bit or float images, a class that is only in test, or an
            unreadable file.
    """
    has_parts = (folder / "train").is_dir() and (folder / "test").is_dir()
    train = _list_classes(folder / "train" if has_parts else folder)
    test = _list_classes(folder / "test") if has_parts else {}
    names = sorted(train)
    if not names:
        raise ValueError(f"load_dataset: {folder} must hold one sub-folder of images per class, got none")
    if not set(test) <= set(names):
        raise ValueError(
            f"load_dataset: {folder}/test must have the classes of train, got also {sorted(set(test) - set(names))}"
        )
    files = [(path, names.index(name)) for part in (train, test) for name in names for path in part.get(name, [])]
    images = _stack([_read_image(path) for path, _ in files], folder)
    all_images = ImageSet(images, torch.tensor([label for _, label in files]))
    count = sum(map(len, train.values()))
    held_out = all_images.select(torch.arange(count, len(files))) if test else None
    built: dict[str, object] = {"source": f"image folder {folder.name}"}
    return RawImages(all_images.select(torch.arange(count)), tuple(names), held_out, None, built)


def _list_classes(folder: Path) -> dict[str, list[Path]]:
    classes = {}
    for child in sorted(folder.iterdir()):
        if child.is_dir():
            classes[child.name] = sorted(path for path in child.iterdir() if path.suffix.lower() in SUFFIXES)
    return {name: files for name, files in classes.items() if files}


def _read_image(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            if image.mode not in GREY_MODES | COLOUR_MODES:
                raise ValueError(f"load_dataset: {path} must have 8 bits per channel, got mode {image.mode}")
            return np.array(image.convert("L" if image.mode in GREY_MODES else "RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"load_dataset: {path} must be a readable image, got: {error}") from error


def _stack(arrays: list[np.ndarray], folder: Path) -> torch.Tensor:
    sizes = sorted({array.shape[:2] for array in arrays})
    if len(sizes) > 1:
        raise ValueError(f"load_dataset: all images in {folder} must have one size, got (H, W) {sizes[:4]}")
    if any(array.ndim == 3 for array in arrays):
        arrays = [array if array.ndim == 3 else np.repeat(array[:, :, None], 3, axis=2) for array in arrays]
    images = torch.from_numpy(np.stack(arrays))
    return images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
