"""All image metrics of a generator against one data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sgan.data import Dataset, ImageSet
from sgan.data.split import HELD_OUT, stratified_order
from sgan.metrics import memorised
from sgan.metrics.features import Extractor, load_features
from sgan.metrics.frechet import Moments, distance_of_moments, frechet_distance, moments
from sgan.metrics.inception_score import ModifiedInceptionScore, inception_score, modified_inception_score
from sgan.metrics.kernel_distance import SUBSET_SIZE, kernel_distance, polynomial_mmd2
from sgan.metrics.memorised import Memorisation, thumbnails
from sgan.metrics.precision_recall import precision_recall

BATCH = 250  # fakes asked for at a time
KERNEL_SUBSETS = 10  # of at most SUBSET_SIZE images, so that a tick's kernel distance takes a second, not ten
MIS_SPLITS = 10  # as published
MAX_IMAGES = 10_000  # of each side, as in the published tables; a choice from more is seeded and class by class
# Of the fakes. A Frechet distance is too large by about 1 / n: with more images than this share a floor is nearly that
# of as many images, with fewer it has to be said.
FEWER = 0.9
BASELINE = "digits"  # network whose Frechet distance every evaluation has, since every installation can measure it
CONDITIONS = "the reference's labels, in a seeded order of which every prefix has their proportions"

PerClass = Mapping[str, Mapping[str, float]]


class Measurement(NamedTuple):
    """One evaluation.

    values: by metric. per_class: by the class's name, fid, kid, precision and recall of its own images, and their
    numbers n_real and n_fake; the numbers alone where either is at most k. Empty if there is one class.
    """

    values: dict[str, float]
    per_class: PerClass


@dataclass(frozen=True)
class Seen:
    """Images as the metrics see them: their labels, features by network's name, and `thumbnails`."""

    labels: Tensor
    features: dict[str, Tensor]
    pixels: Tensor

    def select(self, rows: Tensor) -> Seen:
        features = {name: values[rows.to(values.device)] for name, values in self.features.items()}
        return Seen(self.labels[rows], features, self.pixels[rows])


class Evaluator:
    """All metrics of generated images that come from one feature network.

    fid is the Frechet distance, kid the kernel distance, mis DeLiGAN's modified inception score and is the inception
    score. The last two are of the fakes alone, on the class scores of the network's own classes (ten digits, or
    ImageNet's thousand): for other images they say little.

    The real side is the whole training part of the data set (`Dataset.reference`), whatever subset is trained on, or
    10,000 images of it. Fakes are asked for in the proportions of its classes: what is scored is the generator, not a
    mix of classes. fid_test and kid_test have the held-out images as the real side instead, and memorised_pixels is the
    share of fakes that are nearer to an image trained on than held-out images are (`sgan.metrics.memorised`): a
    generator that returns its training images has a perfect fid, but no better a fid_test than a perfect generator, and
    a share of 1.

    Every value depends on the number of images on both sides: with more fakes a Frechet distance falls and coverage
    rises, so compare values of equal n only, with the floor too. With fewer images than features (1,280 of imagenet) a
    Frechet distance is that of two flat Gaussians, and most of it comes from the small numbers; kid has no such bias.
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
            features_name: network of `load_features`; the metrics' names end in it. With another than digits
                fid_digits is measured, too.
            num_fakes: images to generate; None: as many as there are real ones, at most 10,000.
            k: neighbours of precision and recall.
            device: where the feature network runs.

        Raises:
            ValueError: num_fakes <= k, no more than k training or held-out images, an unknown network, or one whose
                packages are not installed.
        """
        _check_numbers(dataset, k)
        self._reference = _at_most(dataset.reference, MAX_IMAGES)
        self.num_fakes = len(self._reference) if num_fakes is None else num_fakes
        if self.num_fakes <= k:
            raise ValueError(f"Evaluator: num_fakes must be more than k = {k}, got {num_fakes}")
        self._held_out = _at_most(dataset.held_out(self.num_fakes), self.num_fakes)
        self.k = k
        self._dataset = dataset
        self._extract = load_features(features_name, device=device)
        self._extractors: dict[str, Extractor] = {features_name: self._extract}
        if features_name != BASELINE:
            self._extractors[BASELINE] = load_features(BASELINE, device=device)
        order = stratified_order(self._reference.labels, np.random.default_rng(0))
        self._rows = order[torch.arange(self.num_fakes) % len(order)]
        self._real, self._test = self._seen_of(self._reference), self._seen_of(self._held_out)
        self._moments = [self._moments_of(seen) for seen in (self._real, self._test)]
        self._memorisation = Memorisation(dataset.train, self._held_out)

    def evaluate(self, generate: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Generate `num_fakes` images and compare them with the real ones.

        Args:
            generate: maps (n,) int64 labels on the CPU to (n, C, H, W) images, pixels in [-1, 1]. It is called for at
                most 250 labels at a time, in a fixed order. All labels together have the proportions of the reference:
                they are its labels where num_fakes is its size, and otherwise within one image of every class's share.
                The caller seeds its latents.

        Returns:
            fid_ and kid_<features> (lower is better), and precision_, recall_, density_, coverage_, is_ and
            mis_<features> (higher is better); fid_test_ and kid_test_<features> and memorised_pixels (lower is better).
            fid_digits in any case.

        Raises:
            ValueError: images of another shape or number.
            FloatingPointError: a pixel is not finite.
        """
        return self.measure(generate).values

    def measure(self, generate: Callable[[Tensor], Tensor]) -> Measurement:
        """As `evaluate`, with the values of every class."""
        return self._compare(self._seen_of_fakes(generate))

    def modified_inception_score(self, generate: Callable[[Tensor], Tensor]) -> ModifiedInceptionScore:
        """Return mis with its table of classes, for `generate` as in `evaluate`."""
        logits = self._extract.classify(self._seen_of_fakes(generate).features[self._extract.name])
        return modified_inception_score(logits, splits=MIS_SPLITS)

    def floor(self) -> dict[str, float]:
        """Return the same values for held-out real images instead of fakes: what a perfect generator would get.

        They are num_fakes images where the data set has or can draw so many; `describe_floor` says how many they are.
        With fewer the floor's Frechet distance is too high, and its coverage too low, to be compared with `evaluate`.
        """
        return self.measure_floor().values

    def measure_floor(self) -> Measurement:
        """As `floor`, with the values of every class."""
        measured = self._compare(self._test)
        return measured._replace(values=measured.values | self._test_values(self._perfect()))

    def describe(self) -> dict[str, object]:
        """Return what every value of `evaluate` has to carry, ready for JSON."""
        return {**self._describe(), "n_fake": self.num_fakes}

    def describe_floor(self) -> dict[str, object]:
        """Return what every value of `floor` has to carry, ready for JSON.

        n_floor images were compared, drawn from n_floor_sources different held-out ones.
        """
        described = self._describe()
        return {**described, "n_floor": described["n_test"], "n_floor_sources": described["n_test_sources"]}

    def _conditions(self) -> Iterable[Tensor]:
        """What fakes are asked for by, a batch at a time."""
        return self._labels().split(BATCH)

    def _labels(self) -> Tensor:
        """The fakes' classes: the reference's, in an order of which every prefix has their proportions."""
        return self._reference.labels[self._rows]

    def _perfect(self) -> Seen:
        """What a perfect generator's images are as far as the held-out ones go: real and independent of these."""
        return self._real.select(self._rows)

    def _describe(self) -> dict[str, object]:
        n_test = len(self._held_out)
        return {
            "features": self._extract.name,
            "features_sha256": self._extract.checksum,
            "n_real": len(self._reference),
            "n_test": n_test,
            "n_test_sources": min(n_test, len(self._dataset.test)),
            "k": self.k,
            "conditions": CONDITIONS,
            "resize_rule": self._extract.rule,
            "kid": f"mean over {KERNEL_SUBSETS} random subsets of at most {SUBSET_SIZE} images",
            "memorised": memorised.DESCRIPTION,
            "n_train_searched": self._memorisation.n_train,
        }

    def _compare(self, fakes: Seen) -> Measurement:
        name = self._extract.name
        real, fake = self._real.features[name], fakes.features[name]
        of_fakes, (of_real, _) = self._moments_of(fakes), self._moments
        values = {"fid": distance_of_moments(of_real[name], of_fakes[name])}
        values["kid"] = kernel_distance(real, fake, subsets=KERNEL_SUBSETS).mean
        values |= precision_recall(real, fake, k=self.k)._asdict()
        logits = self._extract.classify(fake)
        values["is"] = inception_score(logits).mean
        values["mis"] = modified_inception_score(logits, splits=MIS_SPLITS).mean
        named = {f"{key}_{name}": value for key, value in values.items()}
        named |= self._test_values(fakes, of_fakes)
        named["memorised_pixels"] = self._memorisation.share(fakes.pixels)
        if name != BASELINE:
            named[f"fid_{BASELINE}"] = distance_of_moments(of_real[BASELINE], of_fakes[BASELINE])
        return Measurement(named, self._compare_classes(fakes.labels, fake))

    def _test_values(self, fakes: Seen, of_fakes: Mapping[str, Moments] | None = None) -> dict[str, float]:
        """Distances from the held-out images."""
        name = self._extract.name
        of_fakes = self._moments_of(fakes) if of_fakes is None else of_fakes
        held_out = self._test.features[name]
        return {
            f"fid_test_{name}": distance_of_moments(self._moments[1][name], of_fakes[name]),
            f"kid_test_{name}": kernel_distance(held_out, fakes.features[name], subsets=KERNEL_SUBSETS).mean,
        }

    def _compare_classes(self, labels: Tensor, features: Tensor) -> PerClass:
        names = self._dataset.class_names
        if len(names) == 1:
            return {}
        real = self._real.features[self._extract.name]
        return {
            name: self._compare_class(real[self._reference.labels == label], features[labels == label])
            for label, name in enumerate(names)
        }

    def _compare_class(self, real: Tensor, fake: Tensor) -> dict[str, float]:
        values: dict[str, float] = {"n_real": len(real), "n_fake": len(fake)}
        if min(len(real), len(fake)) <= self.k:
            return values
        values |= {"fid": frechet_distance(real, fake), "kid": polynomial_mmd2(real, fake)}
        sides = precision_recall(real, fake, k=self.k)
        return values | {"precision": sides.precision, "recall": sides.recall}

    def _moments_of(self, seen: Seen) -> dict[str, Moments]:
        return {name: moments(features) for name, features in seen.features.items()}

    def _seen_of(self, images: ImageSet) -> Seen:
        parts = [self._see(images.batch(rows), images.labels[rows]) for rows in torch.arange(len(images)).split(BATCH)]
        return _joined(parts)

    def _seen_of_fakes(self, generate: Callable[[Tensor], Tensor]) -> Seen:
        labels = self._labels().split([len(condition) for condition in self._conditions()])
        batches = zip(self._conditions(), labels, strict=True)
        return _joined([self._see(self._generated(generate, condition), own) for condition, own in batches])

    def _see(self, images: Tensor, labels: Tensor) -> Seen:
        features = {name: extract(images) for name, extract in self._extractors.items()}
        return Seen(labels, features, thumbnails(images))

    def _generated(self, generate: Callable[[Tensor], Tensor], condition: Tensor) -> Tensor:
        images = generate(condition)
        shape = (len(condition), *self._dataset.train.images.shape[1:])
        if tuple(images.shape) != shape:
            raise ValueError(f"Evaluator: generate must return images {shape}, got {tuple(images.shape)}")
        if not images.isfinite().all():
            raise FloatingPointError("Evaluator: generate must return finite pixels, got NaN or infinity")
        return images


def _joined(parts: list[Seen]) -> Seen:
    features = {name: torch.cat([part.features[name] for part in parts]) for name in parts[0].features}
    labels, pixels = torch.cat([part.labels for part in parts]), torch.cat([part.pixels for part in parts])
    return Seen(labels, features, pixels)


def _check_numbers(dataset: Dataset, k: int) -> None:
    """Refuse data of which precision and recall, whose balls reach to the k-th neighbour, have no value."""
    counts = {"to train on": len(dataset.reference), "held out": len(dataset.test)}
    if min(counts.values()) <= k:
        got = " and ".join(f"{count} {part}" for part, count in counts.items())
        raise ValueError(
            f"Evaluator: {dataset.name} must have more than k = {k} images to train on, and more than {k} held out to "
            f"measure with, got {got}. A fifth of a set without a held-out part of its own is held out: it takes "
            f"{_fewest(k)} images or more."
        )


def _fewest(k: int) -> int:
    """The smallest number of images of which more than k are held out."""
    return next(n for n in range(k, 6 * k + 9) if round(HELD_OUT * n) > k)


def _at_most(images: ImageSet, count: int) -> ImageSet:
    if len(images) <= count:
        return images
    return images.select(stratified_order(images.labels, np.random.default_rng(0))[:count])
