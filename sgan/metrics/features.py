"""The shipped feature networks, trained on digits and on MNIST: a 10-way classifier with 64 penultimate features.

Not Inception: a Frechet distance on these features cannot be compared with any published one. The network sees grey
images of 28 x 28. What others have beyond that, colour and detail, it is shown in further views, 64 features of each.
"""

from __future__ import annotations

import hashlib
import json
from importlib import resources
from typing import Protocol

import torch
import torch.nn.functional as F
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from sgan.metrics.imagenet import ImageNetExtractor

RESOLUTION = 28
BATCH = 256
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
RESIZE_RULE = (
    "RGB to grey by BT.601 luma; other sizes to 28x28, antialiased bilinear; no quantisation; "
    "of RGB also R - G and B - G; of larger images also the mean over their four 28x28 corners in grey"
)
NETWORKS = ("digits", "mnist")  # shipped with the package
FEATURES = (*NETWORKS, "imagenet")


class Extractor(Protocol):
    """Features and class scores of images.

    name: part of every metric's name. checksum: of the weights. rule: how images are brought to the network.
    """

    name: str
    checksum: str
    rule: str

    def __call__(self, images: Tensor) -> Tensor:
        """Return (N, D) float32 features of (N, 1 or 3, H, W) images with pixels in [-1, 1]."""

    def classify(self, features: Tensor) -> Tensor:
        """Return (N, classes) float32 class scores of (N, D) features."""


class FeatureNetwork(nn.Module):
    """Convolutional classifier of 28 x 28 grey digits.

    `features` ends in 64 values. `classify` sees nothing else, and neither does `pose`, which is used in training only:
    it predicts cosine and sine of the rotation and the mirror image, so that the features keep the orientation that a
    classifier of rotated digits would otherwise be free to forget.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_block(1, 16),
            nn.MaxPool2d(2),
            *_block(16, 32),
            *_block(32, 32),
            nn.MaxPool2d(2),
            *_block(32, 48),
            nn.Flatten(),
            nn.Linear(48 * 7 * 7, 64, bias=False),
            nn.BatchNorm1d(64),  # with SiLU: no feature can die, as most of 64 rectified ones did
            nn.SiLU(),
        )
        self.classify = nn.Linear(64, 10)
        self.pose = nn.Linear(64, 3)

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, 1, 28, 28) images, pixels in [-1, 1], to (N, 64) features."""
        return self.features(images)


class FeatureExtractor:
    """A trained feature network, ready for images of any size.

    Attributes:
        name: name of the network, part of every metric's name.
        checksum: first 16 hexadecimal digits of the SHA-256 of its weights file.
        dim: number of features of one view.
        rule: how images are brought to the network.
        metadata: what the training command recorded: accuracies, seed, steps.
    """

    dim = 64
    rule = RESIZE_RULE

    def __init__(self, name: str, content: bytes, device: torch.device | str = "cpu") -> None:
        self.name = name
        self.checksum = hashlib.sha256(content).hexdigest()[:16]
        self.metadata = _metadata(content)
        self._network = FeatureNetwork()
        self._network.load_state_dict(load_tensors(content))
        self._network.eval().requires_grad_(False).to(device)
        self._device = torch.device(device)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return (N, 64 V) float32 features, on this extractor's device, of (N, C, H, W) images, pixels in [-1, 1].

        C is 1 or 3. One view, V = 1, shows all that a grey image of 28 x 28 has. Others have more, by `RESIZE_RULE`:
        the image in grey at 28 x 28; of RGB R - G and B - G at 28 x 28, which are 0 in grey copies; of larger images
        the mean over their corners as they are, in which blurred copies differ from sharp ones.

        Raises:
            ValueError: images of another shape.
        """
        if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape[2:]:
            raise ValueError(f"load_features: images must be (N, 1 or 3, H, W), got {tuple(images.shape)}")
        batches = [
            torch.cat([self._mean_over_crops(view) for view in views(batch.to(self._device, torch.float32))], 1)
            for batch in images.split(BATCH)
            if len(batch)
        ]
        empty = torch.empty(0, self.dim * len(views(images[:0])), device=self._device)
        return torch.cat(batches) if batches else empty

    @torch.no_grad()
    def classify(self, features: Tensor) -> Tensor:
        """Return (N, 10) float32 class scores of (N, 64 V) features: of the view in grey. Softmax: p(digit | image)."""
        return self._network.classify(features[:, : self.dim])

    def logits(self, images: Tensor) -> Tensor:
        """Return (N, 10) float32 class scores of images as in `__call__`."""
        return self.classify(self(images))

    def _mean_over_crops(self, crops: list[Tensor]) -> Tensor:
        return torch.stack([self._network(crop) for crop in crops]).mean(0) if len(crops) > 1 else self._network(*crops)


def views(images: Tensor) -> list[list[Tensor]]:
    """Return all views of (N, 1 or 3, H, W) float images by `RESIZE_RULE`, the one in grey first.

    A view is a list of (N, 1, 28, 28) crops, whose features are averaged; most views have one.
    """
    found = [[to_grey_28(images)]]
    if images.shape[1] == 3:
        red, green, blue = images.split(1, dim=1)
        found += [[to_28(red - green)], [to_28(blue - green)]]
    if min(images.shape[2:]) > RESOLUTION:
        ends = (slice(RESOLUTION), slice(-RESOLUTION, None))
        grey = to_grey(images)
        found.append([grey[..., rows, columns] for rows in ends for columns in ends])
    return found


def to_grey_28(images: Tensor) -> Tensor:
    """Bring (N, 1 or 3, H, W) float images to (N, 1, 28, 28) by `RESIZE_RULE`; (N, 1, 28, 28) comes back as it is."""
    return to_28(to_grey(images))


def to_grey(images: Tensor) -> Tensor:
    """The (N, 1, H, W) luma of (N, 3, H, W) images; (N, 1, H, W) comes back as it is."""
    return images if images.shape[1] == 1 else (images * images.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


def to_28(images: Tensor) -> Tensor:
    """Images of other sizes at 28 x 28, antialiased bilinear; (N, C, 28, 28) comes back as it is."""
    size = (RESOLUTION, RESOLUTION)
    if images.shape[2:] == size:
        return images
    return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)


def load_features(name: str = "digits", *, device: torch.device | str = "cpu") -> Extractor:
    """Load a feature network.

    Args:
        name: "digits", for the embedded digits, or "mnist", for MNIST upright and rotated, which are shipped with the
            package (made by `python -m sgan.metrics.train_features`); or "imagenet", for photographs and all else, of
            the extra "features" (`sgan.metrics.imagenet`).
        device: where it runs.

    Raises:
        ValueError: unknown name, or a network whose packages are not installed.
    """
    if name not in FEATURES:
        raise ValueError(f"load_features: name must be one of {', '.join(FEATURES)}, got {name!r}")
    return load_shipped(name, device=device) if name in NETWORKS else ImageNetExtractor(device)


def load_shipped(name: str, *, device: torch.device | str = "cpu") -> FeatureExtractor:
    """Load one of `NETWORKS`, with what its training command recorded."""
    return FeatureExtractor(name, resources.files("sgan.metrics").joinpath(f"{name}.safetensors").read_bytes(), device)


def _block(in_channels: int, out_channels: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(out_channels), nn.ReLU()


def _metadata(content: bytes) -> dict[str, str]:
    length = int.from_bytes(content[:8], "little")
    header: dict[str, dict[str, str]] = json.loads(content[8 : 8 + length])
    return header.get("__metadata__", {})
