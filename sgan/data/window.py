"""From values of more than 8 bits to 8: which value is black and which is white must be stated."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.generic]
BINS = 2**16
HOW = "give a window, --window LOW,HIGH in these units, or --window 0.5%,99.5% for percentiles over all files"


@dataclass(frozen=True)
class Window:
    """`low` becomes 0 and `high` 255, values between are mapped linearly and rounded, values outside are clipped.

    With `is_percentile` the two are percentiles, in [0, 100], of all pixels of all files of the set, both parts: to be
    made numbers by a `Histogram`.
    """

    low: float
    high: float
    is_percentile: bool = False

    def of(self, *values: Values) -> Window:
        """The window in numbers, of percentiles of all these values together."""
        least, greatest = min(float(part.min()) for part in values), max(float(part.max()) for part in values)
        histogram = Histogram(least, greatest, is_integer=all(part.dtype.kind in "iu" for part in values))
        for part in values:
            histogram.add(part)
        return histogram.window(self)

    def describe(self) -> str:
        """What it does, for `built`."""
        return f"{self.low:g} to 0, {self.high:g} to 255"

    def apply(self, values: Values) -> npt.NDArray[np.uint8]:
        """Map values of any real dtype and shape to 8 bits."""
        scaled = (values.astype(np.float64) - self.low) * (255 / (self.high - self.low))
        return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)


def parse_window(text: str) -> Window:
    """Read "LOW,HIGH" or "LOW%,HIGH%".

    Raises:
        ValueError: another text, low >= high, or percentiles outside of [0, 100].
    """
    number = r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*"
    match = re.fullmatch(f"{number}(%?){','}{number}(%?)", text)
    if match is None or match[2] != match[4]:
        raise ValueError(f"load_dataset: window must be LOW,HIGH or LOW%,HIGH%, got {text!r}")
    window = Window(float(match[1]), float(match[3]), bool(match[2]))
    if not window.low < window.high or (window.is_percentile and not 0 <= window.low < window.high <= 100):
        raise ValueError(
            f"load_dataset: window must have LOW below HIGH, and percentiles within 0 and 100, got {text!r}"
        )
    return window


class Histogram:
    """Counts of all values of a set, file by file, for percentiles: exact for integers of up to 16 bits.

    Other values are counted in 65,536 bins between the least and the greatest one, which a first pass has found, so
    that a percentile is off by no more than a bin.
    """

    def __init__(self, least: float, greatest: float, *, is_integer: bool) -> None:
        exact = is_integer and greatest - least < BINS
        self.least = least
        self.step = 1.0 if exact else (greatest - least) / (BINS - 1) or 1.0
        self.counts = np.zeros(BINS, np.int64)

    def add(self, values: Values) -> None:
        """Count the values of one file."""
        bins = np.rint((values.astype(np.float64).ravel() - self.least) / self.step).astype(np.int64)
        self.counts += np.bincount(bins, minlength=BINS)

    def window(self, window: Window) -> Window:
        """The window between two percentiles.

        Raises:
            ValueError: both are one value, as of a set that is constant.
        """
        shares = np.cumsum(self.counts) / self.counts.sum()
        low, high = (
            self.least + self.step * float(np.searchsorted(shares, percentile / 100))
            for percentile in (window.low, window.high)
        )
        if not low < high:
            raise ValueError(
                f"load_dataset: window must have different values at {window.low} % and {window.high} %, got {low:g} "
                "at both; state LOW,HIGH"
            )
        return Window(low, high)
