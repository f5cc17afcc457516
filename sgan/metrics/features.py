"""The shipped feature networks, trained on digits and on MNIST: a 10-way classifier with 64 penultimate features.

Not Inception: a Frechet distance on these features cannot be compared with any published one.
"""

from __future__ import annotations

import hashlib
import json
from importlib import resources

import torch
import torch.nn.functional as F
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

RESOLUTION = 28
BATCH = 256
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
RESIZE_RULE = "RGB to grey by BT.601 luma; other sizes to 28x28, antialiased bilinear; no quantisation"
NETWORKS = ("digits", "mnist")


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
        dim: number of features.
        metadata: what the training command recorded: accuracies, seed, steps.
    """

    def __init__(self, name: str, content: bytes, device: torch.device | str = "cpu") -> None:
        self.name = name
        self.checksum = hashlib.sha256(content).hexdigest()[:16]
        self.metadata = _metadata(content)
        self.dim = 64
        self._network = FeatureNetwork()
        self._network.load_state_dict(load_tensors(content))
        self._network.eval().requires_grad_(False).to(device)
        self._device = torch.device(device)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return (N, 64) float32 features, on this extractor's device, of (N, C, H, W) images with pixels in [-1, 1].

        C is 1 or 3. Other images are brought to 1 x 28 x 28 by `RESIZE_RULE`.

        Raises:
            ValueError: images of another shape.
        """
        if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape[2:]:
            raise ValueError(f"load_features: images must be (N, 1 or 3, H, W), got {tuple(images.shape)}")
        batches = [
            self._network(to_grey_28(batch.to(self._device, torch.float32)))
            for batch in images.split(BATCH)
            if len(batch)
        ]
        return torch.cat(batches) if batches else torch.empty(0, self.dim, device=self._device)

    @torch.no_grad()
    def classify(self, features: Tensor) -> Tensor:
        """Return (N, 10) float32 class scores of (N, 64) features; softmax gives p(digit | image)."""
        return self._network.classify(features)

    def logits(self, images: Tensor) -> Tensor:
        """Return (N, 10) float32 class scores of images as in `__call__`."""
        return self.classify(self(images))


def to_grey_28(images: Tensor) -> Tensor:
    """Bring (N, 1 or 3, H, W) float images to (N, 1, 28, 28) by `RESIZE_RULE`; (N, 1, 28, 28) comes back as it is."""
    if images.shape[1] == 3:
        images = (images * images.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    if images.shape[2:] != (RESOLUTION, RESOLUTION):
        images = F.interpolate(images, (RESOLUTION, RESOLUTION), mode="bilinear", align_corners=False, antialias=True)
    return images


def load_features(name: str = "digits", *, device: torch.device | str = "cpu") -> FeatureExtractor:
    """Load a feature network that is shipped with the package (made by `python -m sgan.metrics.train_features`).

    Args:
        name: "digits", for the embedded digits, or "mnist", for MNIST upright and rotated.
        device: where it runs.

    Raises:
        ValueError: unknown name.
    """
    if name not in NETWORKS:
        raise ValueError(f"load_features: name must be one of {', '.join(NETWORKS)}, got {name!r}")
    return FeatureExtractor(name, resources.files("sgan.metrics").joinpath(f"{name}.safetensors").read_bytes(), device)


def _block(in_channels: int, out_channels: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(out_channels), nn.ReLU()


def _metadata(content: bytes) -> dict[str, str]:
    length = int.from_bytes(content[:8], "little")
    header: dict[str, dict[str, str]] = json.loads(content[8 : 8 + length])
    return header.get("__metadata__", {})
