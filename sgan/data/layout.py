"""From the names of files to parts, classes and sources. No file is opened: what a name means is decided here alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

# What folders of parts are called, in lower case. Of "test" and "val" the first that there is is held out.
PARTS = {
    "train": ("train", "training", "trn"),
    "test": ("test", "testing", "tst"),
    "val": ("val", "valid", "validation", "dev"),
}
PART_OF = {name: part for part, names in PARTS.items() for name in names}
PICTURES = {"image", "images", "img", "imgs"}
ANNOTATIONS = {
    *("mask", "masks", "annotation", "annotations", "segmentation", "segmentations", "seg", "label", "labels"),
    *("gt", "groundtruth"),
}
# "7_mask", "7-seg_1": a file called as another one and an annotation.
MASK_OF = re.compile(rf"(.+?)[ _.-]+(?:{'|'.join(sorted(ANNOTATIONS))})(?:[ _.-]*\d+)?", re.IGNORECASE)
SHOWN = 4  # names in a message


@dataclass(frozen=True)
class Layout:
    """Which image is what.

    Attributes:
        train, test: files of the two parts; `test` is empty where nothing says what is held out.
        classes: the class of every file of `train`, then `test`.
        class_names: of the training part, in alphabetical order.
        sources: the source of every file of `train`, then `test`; None without source folders.
        skipped: files that are left out, by reason.
        notes: lines for people about what may not be what they mean.
    """

    train: list[str]
    test: list[str]
    classes: list[str]
    class_names: tuple[str, ...]
    sources: list[str] | None
    skipped: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def find_layout(files: Sequence[str], where: object, folder_name: str) -> Layout:
    """Say which of the image files is what, by the names of folders.

    Parts are the top folders called as in `PARTS`, in any case, where one of them is a training part and no image lies
    beside them; or where a training part and a held-out one are among others, which are left out and counted. Of test
    and validation parts together the validation part is left out and counted. One folder called images around all of
    that says nothing. In a part, or without parts at the top:
    images straight in it are one class, called as the folder is; <class>/<file> has classes, <class>/<source>/<file>
    sources, too. In all other cases of names that could mean two things, the user is asked.

    Args:
        files: names of image files, "/" between folders.
        where: the folder or archive, for messages.
        folder_name: what the one class of images straight in it is called.

    Raises:
        ValueError: no images; folders of annotations beside some of images, or masks among their images, by the words
            of their names; parts below classes; images at several depths, or deeper than a source folder; a
            part under two names, or held out alone; a class that is only held out; a source in both parts.
    """
    if not files:
        raise ValueError(f"load_dataset: {where} must hold images, got none: straight in it, or one folder per class")
    _refuse_annotations(files, where)
    _refuse_masks_by_name(files, where)
    tops = [*{file.partition("/")[0] for file in files}]
    if len(tops) == 1 and tops[0].lower() in PICTURES and all(file.count("/") > 1 for file in files):
        (top,) = tops  # images/train/, images/val/: a folder that says only that they are images
        inner = find_layout([_without(top, file) for file in files], f"{where}/{top}", folder_name)
        train, test = ([f"{top}/{file}" for file in of] for of in (inner.train, inner.test))
        return replace(inner, train=train, test=test)
    parts, skipped = _split_parts(files, where)
    inside = {part: [_without(top, file) for file in of] for part, (top, of) in parts.items()}
    depths = {name.count("/") for names in inside.values() for name in names}
    if len(depths) > 1 or max(depths) > 2:
        raise ValueError(_uneven(inside, where))
    (depth,) = depths
    names = [name for part in ("train", "test") for name in inside.get(part, [])]
    classes = [folder_name if depth == 0 else name.partition("/")[0] for name in names]
    sources = [PurePosixPath(name).parts[1] for name in names] if depth == 2 else None
    train, test = (list(parts[part][1]) if part in parts else [] for part in ("train", "test"))
    class_names = tuple(sorted(set(classes[: len(train)])))
    refuse_test_only(class_names, classes[len(train) :], where)
    if sources is not None:
        _refuse_parts_in_classes(classes, sources, where)
        _refuse_shared(sources[: len(train)], sources[len(train) :], where)
    notes = []
    if sources is not None and len(class_names) == 1 and not test:
        shown = _shown(set(sources))
        notes.append(
            f"one class, {class_names[0]}, with the sources {shown}; if these are the classes, point to the folder "
            f"{class_names[0]} inside"
        )
    return Layout(train, test, classes, class_names, sources, skipped, tuple(notes))


def _split_parts(files: Sequence[str], where: object) -> tuple[dict[str, tuple[str, list[str]]], dict[str, int]]:
    """The top folder and the files of "train" and, if there is one, "test"; and what is left out."""
    tops = sorted({file.partition("/")[0] for file in files if "/" in file})
    found: dict[str, list[str]] = {}
    for top in tops:
        if part := PART_OF.get(top.lower()):
            found.setdefault(part, []).append(top)
    everything = {"train": ("", list(files))}
    others = [file for file in files if file.partition("/")[0] not in {top for of in found.values() for top in of}]
    held_out = next((part for part in ("test", "val") if part in found), None)
    if "train" not in found:
        if held_out and not others:
            raise ValueError(
                f"load_dataset: {where} must have images to train on, got only a held-out part, "
                f"{_shown(found[held_out])}; point to it to train on it"
            )
        return everything, {}
    if held_out is None and others:
        return everything, {}  # a class called train
    twice = next((of for of in found.values() if len(of) > 1), None)
    if twice:
        raise ValueError(f"load_dataset: {where} must have each part once, got {_shown(twice)}; put them together")

    def of(part: str) -> tuple[str, list[str]]:
        (top,) = found[part]
        return top, [file for file in files if file.startswith(f"{top}/")]

    straight = sum("/" not in file for file in others)
    skipped = {"images beside the parts": straight} if straight else {}
    if len(others) > straight:
        no_parts = {file.partition("/")[0] for file in others if "/" in file}
        skipped[f"images in {_shown(no_parts)}, no part"] = len(others) - straight
    if held_out == "test" and "val" in found:
        top, left_out = of("val")
        skipped[f"images in {top}, as {found['test'][0]} is held out"] = len(left_out)
    return {"train": of("train")} | ({"test": of(held_out)} if held_out else {}), skipped


def _without(top: str, file: str) -> str:
    return file.removeprefix(f"{top}/") if top else file


def _refuse_annotations(files: Sequence[str], where: object) -> None:
    """Raise where a folder of images has a folder of masks or the like beside it."""
    beside: dict[str, set[str]] = {}
    for file in files:
        parts = PurePosixPath(file).parts[:-1]
        for depth, name in enumerate(parts):
            beside.setdefault("/".join(parts[:depth]), set()).add(name)
    for parent, names in beside.items():
        annotations = {name for name in names if _words(name) & ANNOTATIONS}
        pictures = {name for name in names if _words(name) & PICTURES} - annotations
        if pictures and annotations:
            inside = f" in {parent}" if parent else ""
            picture = min(pictures)
            only = f"point to {picture}" if not parent else f"gather the {picture} of all folders in one"
            raise ValueError(
                f"load_dataset: {where} must hold pictures alone, got {_shown(pictures)} beside {_shown(annotations)}"
                f"{inside}: if the pictures are those in {picture}, {only}"
            )


def _words(name: str) -> set[str]:
    """The words of a folder's name in lower case, and all of it: JPEGImages has jpeg, images, jpegimages."""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    return {word.lower() for word in words} | {"".join(words).lower()}


def _refuse_masks_by_name(files: Sequence[str], where: object) -> None:
    """Raise where masks lie among the images that they are of, called after them."""
    stems = {file.rpartition(".")[0] for file in files}
    masks = [file for file in files if (match := MASK_OF.fullmatch(file.rpartition(".")[0])) and match[1] in stems]
    if masks:
        raise ValueError(
            f"load_dataset: {where} must hold pictures alone, got {len(masks)} files called as masks of others, "
            f"{masks[0]} the first; move them out of the folder"
        )


def _refuse_parts_in_classes(classes: Iterable[str], sources: Iterable[str], where: object) -> None:
    found = {name for name in sources if name.lower() in PART_OF}
    if {"train"} < {PART_OF[name.lower()] for name in found}:
        names = set(classes)
        inside = f"; if {min(names)} is no class, point to it" if len(names) == 1 else ""
        raise ValueError(
            f"load_dataset: {where} must have parts above classes, train/<class>/ and test/<class>/, got "
            f"{_shown(found)} in {_shown(names)}; move them{inside}"
        )


def _uneven(inside: Mapping[str, list[str]], where: object) -> str:
    """What to say of images at several depths, or too deep."""
    counts = Counter(name.count("/") for names in inside.values() for name in names)
    kinds = ("straight in it", "in folders of classes", "in folders of sources in those")
    if max(counts) <= 2:
        got = " and ".join(f"{counts[depth]} {kinds[depth]}" for depth in sorted(counts))
        return (
            f"load_dataset: {where} must have all images at one depth, either all straight in it, all in <class>/ or "
            f"all in <class>/<source>/, got {got}; move one kind away"
        )
    deep = [name for names in inside.values() for name in names if name.count("/") > 2]
    return (
        f"load_dataset: {where} must have images at most two folders deep, <class>/<source>/, got {len(deep)} deeper, "
        f"{deep[0]} the first; point to a folder further inside, or move them"
    )


def refuse_test_only(class_names: tuple[str, ...], test: Iterable[str], where: object) -> None:
    extra = sorted(set(test) - set(class_names))
    if extra:
        raise ValueError(
            f"load_dataset: {where} must have the classes of the training part in the held-out one, got also {extra}; "
            "move them to both or away"
        )


def _refuse_shared(train: Iterable[str], test: Iterable[str], where: object) -> None:
    shared = sorted(set(train) & set(test))
    if shared:
        raise ValueError(
            f"load_dataset: {where} must have each source in one part, got {shared[:SHOWN]} in train and held out"
        )


def _shown(names: Iterable[str]) -> str:
    """The first names, each as a folder."""
    ordered = sorted(names)
    more = f" and {len(ordered) - SHOWN} more" if len(ordered) > SHOWN else ""
    return ", ".join(f"{name}/" for name in ordered[:SHOWN]) + more
