"""All image metrics of a generator against one data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from sgan.data import Dataset, ImageSet
from sgan.data.split import stratified_order
from sgan.metrics.features import RESIZE_RULE, load_features
from sgan.metrics.frechet import frechet_distance
from sgan.metrics.inception_score import ModifiedInceptionScore, inception_score, modified_inception_score
from sgan.metrics.kernel_distance import SUBSET_SIZE, kernel_distance
from sgan.metrics.precision_recall import precision_recall

BATCH = 250  # fakes asked for at a time
KERNEL_SUBSETS = 10  # of at most SUBSET_SIZE images, so that a tick's kernel distance takes a second, not ten
MIS_SPLITS = 10  # as published
MAX_IMAGES = 10_000  # of each side, as in the published tables; a choice from more is seeded and class by class


class Evaluator:
    """All metrics of generated images that come from one feature network.

    fid is the Frechet distance, kid the kernel distance, mis DeLiGAN's modified inception score and is the inception
    score. The last two are of the fakes alone, on the class scores of the network's own ten digits: for other images
    they say little.

    The real side is the whole training part of the data set (`Dataset.reference`), whatever subset is trained on, or
    10,000 images of it. Every value depends on the number of images on both sides: with more fakes a Frechet distance
    falls and coverage rises, so compare values of equal n only, with the floor too.
    """

    def __init__(
        self,
        dataset: Dataset,
        features_name: str = "digits",
        *,
        num_fakes: int | None = None,
        k: int = 3,
        device: torch.device | str = "cpu",
    ) -> None:
        """Compute and keep the real images' features.

        Args:
            dataset: what the generator should look like.
            features_name: network of `load_features`; every metric's name ends in it.
            num_fakes: images to generate; None: as many as there are real ones, at most 10,000.
            k: neighbours of precision and recall.
            device: where the feature network runs.

        Raises:
            ValueError: num_fakes <= k, or an unknown network.
        """
        self._reference = _at_most(dataset.reference, MAX_IMAGES)
        self.num_fakes = len(self._reference) if num_fakes is None else num_fakes
        if self.num_fakes <= k:
            raise ValueError(f"Evaluator: num_fakes must be more than k = {k}, got {num_fakes}")
        self._held_out = _at_most(dataset.held_out(self.num_fakes), self.num_fakes)
        self.k = k
        self._dataset = dataset
        self._extract = load_features(features_name, device=device)
        self._real = self._features_of(self._reference)

    def evaluate(self, generate: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Generate `num_fakes` images and compare them with the real ones.

        Args:
            generate: maps (n,) int64 labels on the CPU to (n, C, H, W) images, pixels in [-1, 1]. It is called for at
                most 250 labels at a time, in a fixed order; labels are 0, 1, ..., num_classes - 1, 0, 1, ... The caller
                seeds its latents.

        Returns:
            fid_ and kid_<features> (lower is better), and precision_, recall_, density_, coverage_, is_ and
            mis_<features> (higher is better).

        Raises:
            ValueError: images of another shape or number.
            FloatingPointError: a pixel is not finite.
        """
        return self._compare(self._features_of_fakes(generate))

    def modified_inception_score(self, generate: Callable[[Tensor], Tensor]) -> ModifiedInceptionScore:
        """Return mis with its table of classes, for `generate` as in `evaluate`."""
        logits = self._extract.classify(self._features_of_fakes(generate))
        return modified_inception_score(logits, splits=MIS_SPLITS)

    def floor(self) -> dict[str, float]:
        """Return the same values for held-out real images instead of fakes: what a perfect generator would get.

        They are num_fakes images where the data set has or can draw so many; `describe_floor` says how many they are.
        With fewer the floor's Frechet distance is too high, and its coverage too low, to be compared with `evaluate`.
        """
        return self._compare(self._features_of(self._held_out))

    def describe(self) -> dict[str, object]:
        """Return what every value of `evaluate` has to carry, ready for JSON."""
        return {**self._describe(), "n_fake": self.num_fakes}

    def describe_floor(self) -> dict[str, object]:
        """Return what every value of `floor` has to carry, ready for JSON.

        n_floor images were compared, drawn from n_floor_sources different held-out ones.
        """
        n_floor = len(self._held_out)
        return {**self._describe(), "n_floor": n_floor, "n_floor_sources": min(n_floor, len(self._dataset.test))}

    def _conditions(self) -> Iterable[Tensor]:
        """What fakes are asked for by, a batch at a time."""
        return (torch.arange(self.num_fakes) % self._dataset.num_classes).split(BATCH)

    def _describe(self) -> dict[str, object]:
        return {
            "features": self._extract.name,
            "features_sha256": self._extract.checksum,
            "n_real": len(self._reference),
            "k": self.k,
            "resize_rule": RESIZE_RULE,
            "kid": f"mean over {KERNEL_SUBSETS} random subsets of at most {SUBSET_SIZE} images",
        }

    def _compare(self, features: Tensor) -> dict[str, float]:
        logits = self._extract.classify(features)
        values = {"fid": frechet_distance(self._real, features)}
        values["kid"] = kernel_distance(self._real, features, subsets=KERNEL_SUBSETS).mean
        values |= precision_recall(self._real, features, k=self.k)._asdict()
        values["is"] = inception_score(logits).mean
        values["mis"] = modified_inception_score(logits, splits=MIS_SPLITS).mean
        return {f"{key}_{self._extract.name}": value for key, value in values.items()}

    def _features_of(self, images: ImageSet) -> Tensor:
        return self._extract(images.batch(slice(None)))

    def _features_of_fakes(self, generate: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.cat([self._generated(generate, batch) for batch in self._conditions()])

    def _generated(self, generate: Callable[[Tensor], Tensor], labels: Tensor) -> Tensor:
        images = generate(labels)
        shape = (len(labels), *self._dataset.train.images.shape[1:])
        if tuple(images.shape) != shape:
            raise ValueError(f"Evaluator: generate must return images {shape}, got {tuple(images.shape)}")
        if not images.isfinite().all():
            raise FloatingPointError("Evaluator: generate must return finite pixels, got NaN or infinity")
        return self._extract(images)


def _at_most(images: ImageSet, count: int) -> ImageSet:
    if len(images) <= count:
        return images
    return images.select(stratified_order(images.labels, np.random.default_rng(0))[:count])
