"""Derived random streams, latents and per-sample group elements."""

from __future__ import annotations

import pytest
import torch

import gconv
from sgan.latents import act_per_sample, epoch_indices, sample_latents, stream


def test_stream_is_a_function_of_its_arguments() -> None:
    def draw(*arguments: object) -> list[float]:
        return torch.rand(4, generator=stream(*arguments)).tolist()  # type: ignore[arg-type]  # any argument list

    assert draw(0, "a", 1) == draw(0, "a", 1)
    different = [draw(0, "a", 1), draw(1, "a", 1), draw(0, "b", 1), draw(0, "a", 2), draw(0, "a", 1 << 40)]
    assert len({tuple(values) for values in different}) == len(different)


@pytest.mark.parametrize(("seed", "position"), [(-1, 0), (0, -1)])
def test_stream_refuses_negative_arguments(seed: int, position: int) -> None:
    with pytest.raises(ValueError, match="seed and position must be >= 0"):
        stream(seed, "a", position)


def test_elements_are_uniform_and_z_does_not_depend_on_the_group() -> None:
    labels = torch.zeros(4000, dtype=torch.int64)
    drawn = {
        group.name: sample_latents(labels, latent_dim=3, group=group, rng=stream(0, "latents"))
        for group in (gconv.CyclicGroup(1), gconv.DihedralGroup(4))
    }
    assert torch.equal(drawn["C1"].z, drawn["D4"].z)
    assert drawn["C1"].elements.max() == 0
    counts = drawn["D4"].elements.bincount(minlength=8)
    assert (counts - 500).abs().max() < 4 * 500**0.5


@pytest.mark.parametrize("name", ["C1", "C2", "C4", "D1", "D2", "D4"])
def test_act_per_sample_is_the_groups_action_sample_by_sample(name: str) -> None:
    group = gconv.group_from_name(name)
    x = torch.randn(9, 2, 5, 5, generator=stream(0, "x"))
    elements = torch.arange(9) % group.order
    expected = torch.cat([group.act(x[i : i + 1], int(element)) for i, element in enumerate(elements)])
    assert torch.equal(act_per_sample(x, elements, group), expected)


def test_act_per_sample_passes_gradients() -> None:
    group = gconv.DihedralGroup(4)
    x = torch.randn(8, 1, 3, 3, dtype=torch.float64, generator=stream(0, "x"), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: act_per_sample(x, torch.arange(8), group), x)


def test_epochs_show_every_image_once_whatever_the_batches() -> None:
    size = 7
    whole = epoch_indices(3, 0, 3 * size, size)
    assert all(sorted(epoch.tolist()) == list(range(size)) for epoch in whole.split(size))
    pieces = [epoch_indices(3, position, count, size) for position, count in [(0, 5), (5, 12), (17, 4)]]
    assert torch.equal(torch.cat(pieces), whole)
    assert len(epoch_indices(3, 4, 0, size)) == 0
    with pytest.raises(ValueError, match="size must be >= 1"):
        epoch_indices(0, 0, 1, 0)
