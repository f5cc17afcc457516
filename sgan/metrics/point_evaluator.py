"""All metrics of a generator of points against the law that it should learn."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sgan.data import Dataset
from sgan.divergences import energy_kernel, mmd_squared
from sgan.metrics.evaluator import Measurement
from sgan.metrics.modes import CONTENT, mode_coverage, rotation_symmetry
from sgan.metrics.symmetry import law_symmetry

__all__ = ["PointEvaluator"]

PERMUTATIONS = 200  # so that a tick takes a second; p-values of 1 / 201 and more


class PointEvaluator:
    """Energy distance, precision and recall of modes, and the symmetry of the law, of generated points.

    The held-out points come in two halves: one is the real side of every value, the other gives the floor. As many
    points are generated as a half has.

    Args:
        dataset: drawn from a known law.

    Raises:
        ValueError: the data set's law is not known.
    """

    def __init__(self, dataset: Dataset) -> None:
        if dataset.law is None:
            raise ValueError(f"PointEvaluator: dataset must be drawn from a known law, got {dataset.name}")
        self.law = dataset.law
        self.group = rotation_symmetry(self.law)
        held_out = dataset.test.batch(slice(None))
        self.num_fakes = len(held_out) // 2
        self._real, self._held_out = held_out[: self.num_fakes], held_out[self.num_fakes : 2 * self.num_fakes]

    def evaluate(self, generate: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Generate `num_fakes` points and compare them with the real ones.

        Args:
            generate: maps (n,) int64 labels, all 0, on the CPU to (n, 2) points. The caller seeds its latents.

        Returns:
            energy_points: squared energy distance to real points (V-statistic, >= 0; lower is better).
            precision_points, recall_points: of `mode_coverage` (higher is better).
            symmetry_p_points: smallest p-value of `law_symmetry` over the rotations that leave the law as it is, times
                their number and at most 1; small: the generated law is not invariant. Absent if the law has none.

        Raises:
            ValueError: points of another shape or number.
            FloatingPointError: a coordinate is not finite.
        """
        points = generate(torch.zeros(self.num_fakes, dtype=torch.int64)).cpu()
        if points.shape != self._real.shape:
            shapes = f"{tuple(self._real.shape)}, got {tuple(points.shape)}"
            raise ValueError(f"PointEvaluator: generate must return points {shapes}")
        if not points.isfinite().all():
            raise FloatingPointError("PointEvaluator: generate must return finite points, got NaN or infinity")
        return self._compare(points)

    def measure(self, generate: Callable[[Tensor], Tensor]) -> Measurement:
        """As `evaluate`; points have one class."""
        return Measurement(self.evaluate(generate), {})

    def floor(self) -> dict[str, float]:
        """Return the same values for as many held-out points: what a perfect generator would get."""
        return self._compare(self._held_out)

    def measure_floor(self) -> Measurement:
        """As `floor`; points have one class."""
        return Measurement(self.floor(), {})

    def describe(self) -> dict[str, object]:
        """Return what every value of `evaluate` has to carry, ready for JSON."""
        return {**self._describe(), "n_fake": self.num_fakes}

    def describe_floor(self) -> dict[str, object]:
        """Return what every value of `floor` has to carry, ready for JSON."""
        return {**self._describe(), "n_floor": self.num_fakes, "n_floor_sources": self.num_fakes}

    def _describe(self) -> dict[str, object]:
        return {
            "features": "the coordinates themselves",
            "features_sha256": "none",
            "n_real": len(self._real),
            "content": CONTENT,
            "symmetry_group": self.group.name,
            "permutations": PERMUTATIONS,
        }

    def _compare(self, points: Tensor) -> dict[str, float]:
        coverage = mode_coverage(points, self.law)
        values = {
            "energy_points": float(mmd_squared(points.double(), self._real.double(), energy_kernel, unbiased=False)),
            "precision_points": coverage.precision,
            "recall_points": coverage.recall,
        }
        if self.group.order > 1:
            tests = law_symmetry(points, self.group, permutations=PERMUTATIONS)
            values["symmetry_p_points"] = min(1.0, len(tests) * min(test.p_value for test in tests.values()))
        return values
