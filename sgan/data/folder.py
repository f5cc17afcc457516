"""Reader of a folder, or zip archive, of images: parts, classes and sources by its folders, or by its dataset.json."""

from __future__ import annotations

import json
from typing import Any

import torch

from sgan.data.dataset import ImageSet, RawImages
from sgan.data.image_files import count_others, is_image, read_images
from sgan.data.layout import PART_OF, Layout, find_layout, refuse_test_only
from sgan.data.tree import FileTree
from sgan.data.window import Window

LABELS = "dataset.json"
SHOWN = 4


def read_image_folder(tree: FileTree, resolution: int | None = None, window: Window | None = None) -> RawImages:
    """Read the images of a folder, the meaning of whose folders is `sgan.data.layout.find_layout`'s.

    Classes are in alphabetical order. Images that must not be separated, such as overlapping patches of one tissue
    section, go one level deeper: <class>/<source>/*. A source is then held out as a whole. Sources of one name in
    several classes are one source, such as one tissue block in several stains. Where there is a dataset.json as
    StyleGAN2 and 3 write it, it decides: {"labels": [["00000/img00000000.png", 1], ...]} or {"labels": null}. Grey and
    RGB, and sizes: `sgan.data.image_files.read_images`.

    Raises:
        ValueError: what `find_layout` and `read_images` refuse, or a dataset.json that does not fit the images.
    """
    files = [file for file in tree.files if is_image(file)]
    others = [file for file in tree.files if file != LABELS]
    skipped = count_others(others) | ({"hidden files": tree.hidden} if tree.hidden else {})
    if not files and skipped:
        raise ValueError(
            f"load_dataset: {tree.path} must hold images, got none that can be read, but "
            f"{describe_skipped(skipped)}; save them as PNG, JPEG or TIFF"
        )
    has_labels = LABELS in tree.files
    layout = _labelled_layout(tree, files) if has_labels else find_layout(files, tree.path, tree.name)
    classes = {name: number for number, name in enumerate(layout.class_names)}
    decoded = read_images(tree, layout.train + layout.test, resolution, window=window)
    labels = torch.tensor([classes[name] for name in layout.classes])
    all_images, count = ImageSet(decoded.images.squeeze(1), labels), len(layout.train)
    by = "image" if layout.sources is None else "source folder"
    built: dict[str, object] = {
        "source": f"image folder {tree.path.name}",
        "split_by": "the files' own parts" if layout.test else by,
        "resized": decoded.resized,
        **decoded.built,
        **({"classes": f"of {LABELS}"} if has_labels else {}),
        "skipped": {**skipped, **layout.skipped},
    }
    return RawImages(
        all_images.select(slice(count)),
        layout.class_names,
        all_images.select(slice(count, None)) if layout.test else None,
        _numbered(layout),
        built,
        notes=layout.notes,
    )


def describe_skipped(skipped: dict[str, int]) -> str:
    """Return one line of what was left out: "12 files of other kinds (.txt), 3 hidden files"."""
    return ", ".join(f"{count:,} {reason}" for reason, count in skipped.items())


def _numbered(layout: Layout) -> torch.Tensor | None:
    """Sources of the training files, numbered; None without source folders."""
    if layout.sources is None:
        return None
    training = layout.sources[: len(layout.train)]
    numbers = {name: number for number, name in enumerate(sorted(set(training)))}
    return torch.tensor([numbers[name] for name in training])


def _labelled_layout(tree: FileTree, files: list[str]) -> Layout:
    """The parts of the folders, if these are parts, and the classes of dataset.json."""
    where = f"{tree.path}/{LABELS}"
    labels = _read_labels(tree.read(LABELS), where)
    folders_are_parts = all("/" in file for file in files)
    parts = find_layout(files, tree.path, tree.name) if folders_are_parts and _only_parts(files) else None
    train, test = (files, []) if parts is None else (parts.train, parts.test)
    used = train + test
    if labels is None:
        return Layout(train, test, [tree.name] * len(used), (tree.name,), None)
    missing = sorted(set(labels) - set(files))
    unlabelled = sorted(set(used) - set(labels))
    for what, names in (("an image for every label", missing), ("a label for every image", unlabelled)):
        if names:
            raise ValueError(
                f"load_dataset: {where} must have {what}, got none for {len(names)}, "
                f"{', '.join(names[:SHOWN])} the first; make it anew"
            )
    width = len(str(max(labels.values())))
    classes = [f"{labels[file]:0{width}d}" for file in used]
    class_names = tuple(sorted(set(classes[: len(train)])))
    refuse_test_only(class_names, classes[len(train) :], where)
    return Layout(train, test, classes, class_names, None, {} if parts is None else parts.skipped)


def _only_parts(files: list[str]) -> bool:
    return all(file.partition("/")[0].lower() in PART_OF for file in files)


def _read_labels(content: bytes, where: str) -> dict[str, int] | None:
    """Labels by file, None if the file says that there are none."""
    try:
        found: Any = json.loads(content)["labels"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"load_dataset: {where} must be JSON with an entry labels, got: {error!r}; remove or rename it if it is no "
            "list of classes"
        ) from error
    if found is None:
        return None
    fits = isinstance(found, list) and found and all(_is_entry(entry) for entry in found)
    if not fits or len(dict(found)) < len(found):
        raise ValueError(
            f"load_dataset: {where} must have labels [[file, class], ...], each file once and classes as integers "
            ">= 0, or null, got another thing; vectors of labels are not read"
        )
    return dict(found)


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str):
        return False
    return isinstance(entry[1], int) and not isinstance(entry[1], bool) and entry[1] >= 0
