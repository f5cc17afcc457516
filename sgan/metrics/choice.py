"""Which feature network a data set is measured on, unless the user says."""

from __future__ import annotations

from sgan.data import DIGITS, Dataset
from sgan.metrics.features import NETWORKS, RESOLUTION, load_shipped
from sgan.metrics.imagenet import INSTALL, is_installed

__all__ = ["choose_features", "features_note"]


def choose_features(dataset: Dataset) -> str:
    """Return the network for these images: that of its own digits, else imagenet, else, without the extra, digits."""
    return _network_of(dataset) or ("imagenet" if is_installed() else "digits")


def features_note(name: str | None, dataset: Dataset) -> str | None:
    """Return a sentence for a run whose metrics are of digit features though its images may be no digits, else None."""
    if name not in NETWORKS or _network_of(dataset) is not None or (name == "mnist" and _may_be_mnist(dataset)):
        return None
    instead = "--set features=imagenet" if is_installed() else f"{INSTALL} brings features=imagenet"
    return (
        f"features: the metrics of this run are of the {name} network's digit features; for other images than digits "
        f"they mean little. {instead}, features of photographs."
    )


def _network_of(dataset: Dataset) -> str | None:
    """The shipped network that was trained on this data, or on the same digits in other orientations."""
    if dataset.name in DIGITS:
        return "digits"
    checksum = dataset.built["reference_sha256"]
    return next((name for name in NETWORKS if load_shipped(name).metadata.get("train_sha256") == checksum), None)


def _may_be_mnist(dataset: Dataset) -> bool:
    return (dataset.channels, dataset.resolution, dataset.num_classes) == (1, RESOLUTION, 10)
