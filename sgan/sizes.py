"""The sides of images that the networks fit. It loads no torch."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count

from sgan.architectures import (
    DISCRIMINATORS,
    GENERATORS,
    DiscriminatorRow,
    GeneratorRow,
    PatchDiscriminatorRow,
    PerceptronGeneratorRow,
    UNetRow,
)

__all__ = ["convolved_side", "fitting_sides", "lost_stages", "patch_filters", "smallest_side", "stage_resolutions"]

SMALLEST_MAP = 7
LARGEST_MAP = 27  # below 4 x 7: the projection holds less than 16 times the published one's numbers
NEAR = 1.5  # a side is near another one up to this ratio
SMALLEST_OF_PAIRS = 4
PATCH_SIZE, PATCH_PADDING = 4, 1  # filters of the patch discriminator

Filter = tuple[int, int, int]  # size, stride and padding


def stage_resolutions(resolution: int) -> tuple[int, ...]:
    """Side lengths from the latent map to the image: the image's, halved while the half is whole and at least 7.

    28 gives (7, 14, 28), 64 gives (8, 16, 32, 64).

    Raises:
        ValueError: resolution < 7, or the halves end at a map larger than 27 (299, a prime), of which the projection
            would be huge and the networks shallow.
    """
    if resolution < SMALLEST_MAP:
        raise ValueError(f"stage_resolutions: resolution must be >= {SMALLEST_MAP}, got {resolution}")
    stages = _halves(resolution)
    if stages[0] > LARGEST_MAP:
        below = next(side for side in range(resolution, 0, -1) if _halves(side)[0] <= LARGEST_MAP)
        above = next(side for side in count(resolution) if _halves(side)[0] <= LARGEST_MAP)
        raise ValueError(
            f"stage_resolutions: resolution must be {SMALLEST_MAP} to {LARGEST_MAP} times a power of two, got "
            f"{resolution}: resize the images to {below} or {above} pixels"
        )
    return stages


def _halves(resolution: int) -> tuple[int, ...]:
    stages = [resolution]
    while stages[0] % 2 == 0 and stages[0] // 2 >= SMALLEST_MAP:
        stages.insert(0, stages[0] // 2)
    return tuple(stages)


def lost_stages(generator: str, resolution: int) -> str | None:
    """Return a line if images of a size near this one would give the networks more stages, else None.

    At 17 x 17 pixels, which cannot be halved, both networks of "digits" are one stage: D has 781 parameters.

    Args:
        generator: row of `sgan.architectures.GENERATORS`; of others than "plain" stages a size does not decide.
        resolution: a side that the row fits.
    """
    row = GENERATORS[generator]
    if not isinstance(row, GeneratorRow) or row.stage != "plain":
        return None
    stages = len(_halves(resolution))
    near = range(max(SMALLEST_MAP, round(resolution / NEAR)), round(resolution * NEAR) + 1)
    deeper = [side for side in near if len(_halves(side)) > stages and _halves(side)[0] <= LARGEST_MAP]
    if not deeper:
        return None
    nearest = min(deeper, key=lambda side: (abs(side - resolution), side))
    return (
        f"at {resolution} x {resolution} pixels, halved {stages - 1} times, the networks have {stages} of the "
        f"{len(_halves(nearest))} stages that they have at {nearest} x {nearest}: --resolution {nearest} makes them "
        "deeper"
    )


def fitting_sides(generator: str, discriminator: str) -> str:
    """Return which sides of images both rows fit, and so their presets, as text.

    Args:
        generator: row of `sgan.architectures.GENERATORS`.
        discriminator: row of `sgan.architectures.DISCRIMINATORS`; of those a side can only be too small for.
    """
    row, smallest = GENERATORS[generator], smallest_side(discriminator)
    if isinstance(row, UNetRow):
        return _doubled(SMALLEST_OF_PAIRS, 2 ** len(row.widths), smallest)
    if isinstance(row, PerceptronGeneratorRow):
        if row.points:
            return "points"
        if not _is_halved(DISCRIMINATORS[discriminator]):
            return "any" if smallest == 1 else f"{smallest} or more"
    elif row.map_side is not None:
        last = row.map_side * 2 ** len(row.widths)
        return str(transposed_side(row)) if row.stage == "transposed" else _doubled(row.map_side, last, smallest)
    floor = "" if smallest <= SMALLEST_MAP else f", from {smallest} on"
    return f"{SMALLEST_MAP} to {LARGEST_MAP} times 1, 2, 4, ...{floor}"


def _doubled(first: int, last: int, smallest: int) -> str:
    """The doubles of `first` from the smallest side on up to `last`."""
    while first < smallest:
        first *= 2
    return f"{first}, {2 * first}, ..., {last}"


def smallest_side(discriminator: str) -> int:
    """The smallest images that a row of `sgan.architectures.DISCRIMINATORS` takes: every map of it has a pixel."""
    row = DISCRIMINATORS[discriminator]
    if _is_halved(row):
        return SMALLEST_MAP
    filters: tuple[Filter, ...] = ()
    if isinstance(row, PatchDiscriminatorRow):
        filters = patch_filters(row)
    elif isinstance(row, DiscriminatorRow):
        filters = tuple((size, stride, padding) for size, stride, padding, *_ in row.strided)
    return next(side for side in count(1) if convolved_side(side, filters) >= 1)


def _is_halved(row: object) -> bool:
    """Whether a discriminator's stages are those of `stage_resolutions`."""
    return isinstance(row, DiscriminatorRow) and row.stage == "plain"


def convolved_side(side: int, filters: Iterable[Filter]) -> int:
    """The side of the last map of these convolutions; 0 where one of them finds no place on its map."""
    for size, stride, padding in filters:
        side = (side + 2 * padding - size) // stride + 1
        if side < 1:
            return 0
    return side


def patch_filters(row: PatchDiscriminatorRow) -> tuple[Filter, ...]:
    """The convolutions of a patch discriminator: all but the row's last with stride 2, and the one that scores."""
    strides = (*(2 for _ in row.widths[1:]), 1, 1)
    return tuple((PATCH_SIZE, stride, PATCH_PADDING) for stride in strides)


def transposed_side(row: GeneratorRow) -> int:
    """The side of the image that transposed stages make."""
    assert row.map_side is not None
    side = row.map_side
    for size, padding, output_padding in row.transposed:
        side = 2 * (side - 1) + size - 2 * padding + output_padding
    return side
