"""All metrics of image translation: those of images, and the distance of each image to the one it should be."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from sgan.data import Dataset
from sgan.metrics.evaluator import Evaluator, Measurement, Seen

__all__ = ["PairEvaluator"]

BATCH = 10  # sources given at a time: a U-Net at 256 x 256 holds some 100 MB of maps per image


class PairEvaluator(Evaluator):
    """`Evaluator` of images made from the held-out pairs' sources, with l1_pixels beside its metrics.

    l1_pixels is the mean |G(source) - target| over pixels and pairs, pixels in [-1, 1] (lower is better); 0 is its
    floor, what the targets themselves get, and that of fid_test, which compares with these targets.
    """

    def __init__(
        self, dataset: Dataset, features_name: str = "digits", *, k: int = 3, device: torch.device | str = "cpu"
    ) -> None:
        """Compute and keep the real images' features.

        Args:
            dataset: of pairs.
            features_name, k, device: as in `Evaluator`.

        Raises:
            ValueError: no more than k held-out pairs, or an unknown network.
        """
        super().__init__(dataset, features_name, num_fakes=len(dataset.test), k=k, device=device)

    def measure(self, generate: Callable[[Tensor], Tensor]) -> Measurement:
        """Translate every held-out source.

        Args:
            generate: maps (n, C, H, W) sources on the CPU to (n, C, H, W) images, pixels in [-1, 1] both.

        Returns:
            What `Evaluator.measure` does, and l1_pixels.

        Raises:
            ValueError, FloatingPointError: as there.
        """
        errors: list[Tensor] = []

        def compared(sources: Tensor) -> Tensor:
            """The images, each compared with the target of the next held-out pair."""
            images, start = generate(sources), sum(map(len, errors))
            targets = self._dataset.test.batch(slice(start, start + len(sources)))
            errors.append((images.cpu() - targets).abs().mean(dim=(1, 2, 3)))
            return images

        measured = super().measure(compared)
        return measured._replace(values={**measured.values, "l1_pixels": float(torch.cat(errors).mean())})

    def measure_floor(self) -> Measurement:
        """Return the same values for the targets instead of translations."""
        measured = super().measure_floor()
        return measured._replace(values={**measured.values, "l1_pixels": 0.0})

    def _conditions(self) -> Iterator[Tensor]:
        for indices in torch.arange(self.num_fakes).split(BATCH):
            yield self._dataset.test.paired_batch(indices)

    def _labels(self) -> Tensor:
        return self._dataset.test.labels

    def _perfect(self) -> Seen:
        return self._test

    def _describe(self) -> dict[str, object]:
        return {**super()._describe(), "conditions": "the held-out pairs' sources"}
