"""DeLiGAN's schedule: who moves, and how the threshold drifts."""

from __future__ import annotations

import pytest

from sgan.schedules import LossThreshold


def drift(losses: list[list[float]]) -> LossThreshold:
    """The schedule after batches with these losses of G."""
    schedule = LossThreshold()
    for batch in losses:
        schedule.begin_batch()
        for loss in batch:
            schedule.generator_moves(loss)
    schedule.begin_batch()
    return schedule


def test_the_generator_moves_above_the_threshold_only() -> None:
    schedule = LossThreshold()
    assert schedule.threshold == 1.0
    assert [schedule.generator_moves(loss) for loss in (1.01, 1.0, 0.5)] == [True, False, False]
    assert schedule.streak == -2


def test_two_moves_of_the_discriminator_in_a_row_lower_the_threshold_by_one_step_to_070_at_least() -> None:
    assert drift([[2.0, 0.5, 0.5]]).threshold == pytest.approx(0.997)
    assert drift([[0.5, 2.0, 0.5]]).threshold == 1.0
    assert drift([[0.5] * 5] * 99).threshold == pytest.approx(1 - 99 * 0.003)
    assert drift([[0.5] * 5] * 101).threshold == 0.70


def test_four_moves_of_the_generator_in_a_row_raise_it_again_to_one_at_most() -> None:
    low = [[0.5] * 5] * 10
    assert drift([*low, [2.0] * 4]).threshold == pytest.approx(0.973)
    assert drift([*low, [2.0] * 3]).threshold == pytest.approx(0.970)
    assert drift([[2.0] * 5]).threshold == 1.0


def test_a_streak_goes_on_in_the_next_batch() -> None:
    schedule = drift([[0.5] * 5, [2.0] * 2])
    assert (schedule.threshold, schedule.streak) == (pytest.approx(0.997), 2)
    schedule.generator_moves(2.0)
    schedule.generator_moves(2.0)
    schedule.begin_batch()
    assert (schedule.threshold, schedule.streak) == (1.0, 0)


def test_a_fixed_threshold_does_not_drift() -> None:
    schedule = LossThreshold(drifts=False)
    for _ in range(10):
        schedule.begin_batch()
        assert not schedule.generator_moves(0.5)
    schedule.begin_batch()
    assert (schedule.threshold, schedule.streak) == (1.0, -10)


def test_the_state_continues() -> None:
    schedule, copy = drift([[0.5] * 5, [2.0] * 2]), LossThreshold()
    copy.load_state(schedule.state())
    assert (copy.threshold, copy.streak) == (schedule.threshold, schedule.streak)
