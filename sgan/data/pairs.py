"""Reader of paired images as pix2pix distributes them, maps among them (Isola et al., CVPR 2017, arXiv 1611.07004)."""

from __future__ import annotations

import torch

from sgan.data.dataset import ImageSet, RawImages
from sgan.data.image_files import count_others, image_size, is_image, read_images
from sgan.data.tree import FileTree
from sgan.data.window import Window

HELD_OUT_NAMES = ("test", "val")  # the first that is there


def has_pairs(tree: FileTree) -> bool:
    """Return whether images are straight in train/, test/ and val/, the first of them twice as wide as high.

    A labelled set has class folders there, and one without labels has single images.
    """
    images = [file for file in tree.files if is_image(file)]
    train = _list_part(tree, "train")
    if not train or not {file.partition("/")[0] for file in images} <= {"train", *HELD_OUT_NAMES}:
        return False
    height, width = image_size(tree, train[0])
    return width == 2 * height


def read_pairs(tree: FileTree, resolution: int | None = None, window: Window | None = None) -> RawImages:
    """Read train/* and, held out, test/* (without it, val/*): files that show two square images side by side.

    The left half goes to `images`, the right half to `paired`: in `maps` the aerial photograph and the map. Each half
    is resized by itself. There is one class.

    Raises:
        ValueError: no held-out part, a file that is not twice as wide as high, files of more than one size without
            `resolution`, or an unreadable file.
    """
    train = _list_part(tree, "train")
    held_out = next((files for name in HELD_OUT_NAMES if (files := _list_part(tree, name))), None)
    if held_out is None:
        raise ValueError(
            f"load_dataset: {tree.path} must have images in test/ or val/ beside train/, got none; move some there"
        )
    files = train + held_out
    decoded = read_images(tree, files, resolution, abreast=2, window=window)
    left, right = (half.contiguous() for half in decoded.images.unbind(1))
    left_out = sum(map(is_image, tree.files)) - len(files)
    all_images = ImageSet(left, torch.zeros(len(files), dtype=torch.int64), right)
    built: dict[str, object] = {
        "source": f"pairs in {tree.path.name}: images are the left halves, paired the right ones",
        "split_by": "the files' own parts",
        "resized": decoded.resized,
        **decoded.built,
        "skipped": count_others(tree.files)
        | ({"images in other folders than these parts": left_out} if left_out else {}),
    }
    return RawImages(
        all_images.select(slice(len(train))), ("pair",), all_images.select(slice(len(train), None)), None, built
    )


def _list_part(tree: FileTree, name: str) -> list[str]:
    return [file for file in tree.files if file.startswith(f"{name}/") and file.count("/") == 1 and is_image(file)]
