"""Widths on groups."""

from __future__ import annotations

import pytest

import gconv
from sgan.widths import fitted, group_widths, matched_widths, published_widths, scaled


def test_scaled_widths_are_rounded_and_at_least_one() -> None:
    assert scaled((512, 256, 3), 0.3) == (154, 77, 1)
    assert scaled((8, 2), 0.01) == (1, 1)


def test_fitted_widths_go_on_by_halves() -> None:
    assert fitted((512, 256, 128), 2) == (512, 256)
    assert fitted((512, 256, 128), 5) == (512, 256, 128, 64, 32)
    assert fitted((3,), 4) == (3, 1, 1, 1)


@pytest.mark.parametrize(
    ("planar", "order", "expected"),
    [
        ((256, 128, 64, 32, 16), 8, (90, 45, 22, 11, 5)),  # SP-GAN's medical networks on D4
        ((512, 256, 128), 4, (256, 128, 64)),  # its RotMNIST generator on C4
        ((2, 1), 8, (1, 1)),
    ],
)
def test_published_widths(planar: tuple[int, ...], order: int, expected: tuple[int, ...]) -> None:
    assert published_widths(planar, order) == expected


def test_listed_widths_come_before_the_rule() -> None:
    listed = {"C8": (180, 90)}
    assert group_widths((512, 256), listed, gconv.CyclicGroup(8)) == (180, 90)
    assert group_widths((512, 256), listed, gconv.DihedralGroup(4)) == (181, 90)


def test_matched_widths_have_the_planar_count() -> None:
    def count(widths: tuple[int, ...], group: gconv.PlanarGroup) -> int:
        return widths[0] + widths[0] * widths[1] * group.order

    assert matched_widths((100, 50), gconv.CyclicGroup(1), count) == (100, 50)
    assert count(matched_widths((100, 50), gconv.CyclicGroup(4), count), gconv.CyclicGroup(4)) == pytest.approx(
        5100, rel=0.05
    )
