"""Reader of Food-101 (Bossard, Guillaumin, Van Gool, ECCV 2014) as it is distributed."""

from __future__ import annotations

import torch

from sgan.data.dataset import ImageSet, RawImages
from sgan.data.image_files import is_image, read_images
from sgan.data.tree import FileTree
from sgan.data.window import Window

LISTS = ("meta/train.txt", "meta/test.txt")


def has_lists(tree: FileTree) -> bool:
    """Return whether the files are Food-101's: images, and lists that say which of them are held out."""
    return LISTS[0] in tree.files


def read_food101(tree: FileTree, resolution: int | None = None, window: Window | None = None) -> RawImages:
    """Read the images that meta/train.txt and, held out, meta/test.txt list, one "<class>/<number>" per line.

    The image is images/<class>/<number>.jpg; classes are those of the training list, in alphabetical order. Images have
    many sizes, up to 512 x 512: `resolution` is needed.

    Raises:
        ValueError: a list is missing, empty or no text, a listed image is missing or unreadable, a class that is only
            held out, or images of more than one size without `resolution`.
    """
    train, test = (_read_list(tree, file) for file in LISTS)
    names = sorted({entry.partition("/")[0] for entry in train})
    extra = sorted({entry.partition("/")[0] for entry in test} - set(names))
    if extra:
        raise ValueError(f"load_dataset: {tree.path}/{LISTS[1]} must list classes of {LISTS[0]}, got also {extra}")
    files = [f"images/{entry}.jpg" for entry in train + test]
    missing = sorted(set(files) - set(tree.files))
    if missing:
        raise ValueError(f"load_dataset: {tree.path} must hold every listed image, got no {missing[0]}")
    decoded = read_images(tree, files, resolution, window=window)
    unlisted = sum(map(is_image, tree.files)) - len(files)
    all_images = ImageSet(
        decoded.images.squeeze(1), torch.tensor([names.index(entry.partition("/")[0]) for entry in train + test])
    )
    built: dict[str, object] = {
        "source": f"Food-101 in {tree.path.name}",
        "split_by": "the files' own lists",
        "resized": decoded.resized,
        **decoded.built,
        "skipped": ({"images that no list names": unlisted} if unlisted else {})
        | ({"hidden files": tree.hidden} if tree.hidden else {}),
    }
    return RawImages(
        all_images.select(slice(len(train))), tuple(names), all_images.select(slice(len(train), None)), None, built
    )


def _read_list(tree: FileTree, file: str) -> list[str]:
    if file not in tree.files:
        raise ValueError(f"load_dataset: {tree.path} must hold {' and '.join(LISTS)}, got no {file}")
    try:
        entries = tree.read(file).decode().split()
    except UnicodeDecodeError as error:
        raise ValueError(f"load_dataset: {tree.path}/{file} must be text, got: {error}") from error
    if not entries or any(entry.count("/") != 1 for entry in entries):
        raise ValueError(f"load_dataset: {tree.path}/{file} must list images as <class>/<number>, got another text")
    return entries
