"""Reader of paired images as pix2pix distributes them, maps among them (Isola et al., CVPR 2017, arXiv 1611.07004)."""

from __future__ import annotations

import torch

from sgan.data.dataset import ImageSet, RawImages
from sgan.data.image_files import count_others, image_size, is_image, read_images
from sgan.data.layout import PART_OF, find_layout
from sgan.data.tree import FileTree
from sgan.data.window import Window


def has_pairs(tree: FileTree) -> bool:
    """Return whether images are straight in parts (`sgan.data.layout.PARTS`), the first twice as wide as high.

    A labelled set has class folders there, and one without labels has single images.
    """
    images = [file for file in tree.files if is_image(file)]
    straight = _straight_in_parts(images)
    train = [file for file in straight if PART_OF[_top(file)] == "train"]
    if not train or any(_top(file) not in PART_OF for file in images):
        return False
    height, width = image_size(tree, train[0])
    return width == 2 * height


def read_pairs(tree: FileTree, resolution: int | None = None, window: Window | None = None) -> RawImages:
    """Read train/* and, held out, test/* (without it, val/*): files that show two square images side by side.

    The left half goes to `images`, the right half to `paired`: in `maps` the aerial photograph and the map. Each half
    is resized by itself. There is one class. Parts may be called as `sgan.data.layout.find_layout` says.

    Raises:
        ValueError: no held-out part, a part under two names, a file that is not twice as wide as high, files of more
            than one size without `resolution`, or an unreadable file.
    """
    images = [file for file in tree.files if is_image(file)]
    straight = _straight_in_parts(images)
    layout = find_layout(straight, tree.path, "pair")
    train, held_out = layout.train, layout.test
    if not held_out:
        raise ValueError(
            f"load_dataset: {tree.path} must have images in test/ or val/ beside train/, got none; move some there"
        )
    files = train + held_out
    decoded = read_images(tree, files, resolution, abreast=2, window=window)
    left, right = (half.contiguous() for half in decoded.images.unbind(1))
    deeper = len(images) - len(straight)
    all_images = ImageSet(left, torch.zeros(len(files), dtype=torch.int64), right)
    built: dict[str, object] = {
        "source": f"pairs in {tree.path.name}: images are the left halves, paired the right ones",
        "split_by": "the files' own parts",
        "resized": decoded.resized,
        **decoded.built,
        "skipped": count_others(tree.files)
        | dict(layout.skipped)
        | ({"images in folders of the parts": deeper} if deeper else {})
        | ({"hidden files": tree.hidden} if tree.hidden else {}),
    }
    return RawImages(
        all_images.select(slice(len(train))), ("pair",), all_images.select(slice(len(train), None)), None, built
    )


def _straight_in_parts(images: list[str]) -> list[str]:
    return [file for file in images if file.count("/") == 1 and _top(file) in PART_OF]


def _top(file: str) -> str:
    return file.partition("/")[0].lower()
