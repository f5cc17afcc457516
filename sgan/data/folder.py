"""Reader of a folder, or zip archive, with one sub-folder of images per class."""

from __future__ import annotations

from pathlib import PurePosixPath

import torch

from sgan.data.dataset import ImageSet, RawImages
from sgan.data.image_files import is_image, read_images
from sgan.data.tree import FileTree

HELD_OUT_NAMES = ("test", "val")  # the first that is there


def read_image_folder(tree: FileTree, resolution: int | None = None) -> RawImages:
    """Read <class>/*.png (.jpg, ...), or train/<class>/* and, held out, test/<class>/*, else val/<class>/*, else none.

    Classes are the sub-folders that hold images, in alphabetical order. Images that must not be separated, such as
    overlapping patches of one tissue section, go one level deeper: <class>/<source>/*. A source is then held out as a
    whole. Sources of one name in several classes are one source, such as one tissue block in several stains. Grey and
    RGB, and sizes: `sgan.data.image_files.read_images`.

    Raises:
        ValueError: no images, images of more than one size without `resolution`, 16-bit or float images, a class that
            is only in the held-out part, a source in both parts, images with a source beside others without, or an
            unreadable file.
    """
    held_out = next((name for name in HELD_OUT_NAMES if _has_part(tree, name)), None)
    has_parts = _has_part(tree, "train") and (held_out is not None or _has_part(tree, "train", only=True))
    train = _list_images(tree, "train/" if has_parts else "")
    test = _list_images(tree, f"{held_out}/") if has_parts and held_out else []
    names = sorted({_class_of(file) for file in train})
    if not names:
        raise ValueError(f"load_dataset: {tree.path} must hold one sub-folder of images per class, got none")
    extra = sorted({_class_of(file) for file in test} - set(names))
    if extra:
        raise ValueError(f"load_dataset: {tree.path}/{held_out} must have the classes of train, got also {extra}")
    sources = _number_sources(train, test, tree)
    files = [f"train/{file}" if has_parts else file for file in train] + [f"{held_out}/{file}" for file in test]
    images, resized = read_images(tree, files, resolution)
    labels = torch.tensor([names.index(_class_of(file)) for file in train + test])
    all_images = ImageSet(images.squeeze(1), labels)
    built: dict[str, object] = {
        "source": f"image folder {tree.path.name}",
        "split_by": "the files' own parts" if test else "image" if sources is None else "source folder",
        "resized": resized,
    }
    return RawImages(
        all_images.select(slice(len(train))),
        tuple(names),
        all_images.select(slice(len(train), None)) if test else None,
        sources,
        built,
    )


def _has_part(tree: FileTree, name: str, *, only: bool = False) -> bool:
    """Whether an image is somewhere in the folder `name`; with `only`, every image."""
    is_inside = [file.startswith(f"{name}/") for file in tree.files if is_image(file)]
    return any(is_inside) and (not only or all(is_inside))


def _list_images(tree: FileTree, prefix: str) -> list[str]:
    """Images below `prefix`, without it: <class>/<file> and <class>/<source>/<file>."""
    names = [file.removeprefix(prefix) for file in tree.files if file.startswith(prefix) and is_image(file)]
    return [name for name in names if name.count("/") in (1, 2)]


def _class_of(file: str) -> str:
    return file.partition("/")[0]


def _number_sources(train: list[str], test: list[str], tree: FileTree) -> torch.Tensor | None:
    """Sources of the training files, numbered; None without source folders."""
    depths = {file.count("/") for file in train + test}
    if depths == {1}:
        return None
    if depths != {2}:
        raise ValueError(
            f"load_dataset: {tree.path} must have either all images in <class>/<source>/ or none, got some of both"
        )
    train_names, test_names = ([PurePosixPath(file).parts[1] for file in part] for part in (train, test))
    shared = sorted(set(train_names) & set(test_names))
    if shared:
        raise ValueError(
            f"load_dataset: {tree.path} must have each source in one part, got {shared[:4]} in train and held out"
        )
    numbers = {name: number for number, name in enumerate(sorted(set(train_names)))}
    return torch.tensor([numbers[name] for name in train_names])
