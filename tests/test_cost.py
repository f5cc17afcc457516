"""Counted operations: by hand, against torch's own counter, against whole steps of training; and the stored ones."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import gconv.nn as gnn
from gconv import group_from_name
from gconv.convert import to_planar
from gconv.functional import _convolve_bank
from sgan.config import Options
from sgan.cost import Flop, FlopCounter, flop_per_kimg, preset_flop_per_kimg, stored
from sgan.data import load_dataset
from sgan.presets import COSTS, PRESETS, gflop_per_kimg
from sgan.trainer import Trainer

# Real multiplications that the irreps of the lattice group take in place of |H|^2: 1 per one-dimensional irrep, 3 for
# C4's two complex products, 2 x 2 x 2 for D4's two-dimensional irrep. C8 runs on C4, D8 on D4, with twice the channels.
FOURIER = {"C1": 1, "C2": 2, "C4": 5, "D4": 12, "C8": 5, "D8": 12}
DENSE = {"C1": 1, "C2": 4, "C4": 16, "D4": 64, "C8": 16, "D8": 64}


@pytest.mark.parametrize("name", FOURIER)
def test_one_group_layer_by_hand(name: str) -> None:
    """2 N H' W' (m C_in) (m C_out) K^2 times the irreps' products or |H|^2, and as many for either gradient."""
    group = group_from_name(name)
    m, size = group.coset_count, 3 if group.is_lattice else 5
    layer = gnn.GroupConv2d(2, 3, size, group=group, padding=size // 2)
    layer = layer if layer.steerable is None else _with_its_filter(layer)
    x = torch.randn(4, 2, group.order, 6, 7, requires_grad=True)
    with FlopCounter() as forward:
        out = layer(x)
    per_product = 2 * 4 * 6 * 7 * (m * 2) * (m * 3) * size**2
    assert forward.flop == Flop(per_product * FOURIER[name], per_product * DENSE[name])
    with FlopCounter() as backward:
        out.sum().backward()
    assert backward.flop == Flop(2 * forward.flop.fourier, 2 * forward.flop.dense)


def _with_its_filter(layer: gnn.GroupConv2d) -> gnn.GroupConv2d:
    """The layer without the products that make its filter of coefficients."""
    spatial = layer.spatial_filter().detach().requires_grad_()
    layer._op_filter = lambda: spatial
    return layer


def test_the_dense_count_is_torchs_own_of_the_bank() -> None:
    """Of a network on D4 and of its planar form in torch.nn layers, forward and backward."""
    group = group_from_name("D4")
    model = nn.Sequential(
        gnn.LiftingConv2d(3, 4, 3, group=group, padding=1),
        nn.ReLU(),
        gnn.GroupConv2d(4, 5, 4, group=group, stride=2, padding=1),
        gnn.GroupConvTranspose2d(5, 2, 4, group=group, stride=2, padding=1),
        gnn.GroupPool(group=group),
    )
    x = torch.randn(2, 3, 8, 8)
    with FlopCounter() as ours:
        model(x).sum().backward()
    with FlopCounterMode(display=False) as theirs:
        to_planar(model)(x).sum().backward()
    assert ours.flop.dense == theirs.get_total_flops()
    assert ours.flop.fourier < ours.flop.dense / 4


@pytest.mark.parametrize("group", ["C1", "C4"])
def test_a_discriminators_step_is_torchs_own_count_of_the_banks(
    tiny: Options, monkeypatch: pytest.MonkeyPatch, group: str
) -> None:
    """Without a penalty: torch's counter fails in the gradient of a penalty."""
    options = replace(tiny, penalty="none", generator_group=group, discriminator_group=group)
    trainer = trainer_of(options)
    batch = trainer.next_real_batch()
    with FlopCounter() as ours:
        trainer.step_discriminator(*batch)

    def as_bank(*arguments: Any) -> Tensor:
        operands = arguments[:-2]  # all but the backend and the cache
        return _convolve_bank(*operands, 1, 1, "dense")

    monkeypatch.setattr("gconv.nn.conv._convolve", as_bank)
    with FlopCounterMode(display=False) as theirs:
        trainer.step_discriminator(*batch)
    assert ours.flop.dense == theirs.get_total_flops()


def trainer_of(options: Options) -> Trainer:
    return Trainer(options, load_dataset(options.data, subset=options.subset))


@pytest.mark.parametrize("changes", [{}, {"d_steps": 3}, {"penalty": "two-sided"}, {"loss": "hinge", "head": "san"}])
def test_a_kimg_is_as_many_real_steps(tiny: Options, changes: dict[str, object]) -> None:
    """R1 and the relativistic loss, more steps of D, interpolates, SAN: exactly what a step runs is counted."""
    trainer = trainer_of(replace(tiny, **changes))
    per_kimg = flop_per_kimg(trainer, *trainer.next_real_batch())
    with FlopCounter() as step:
        trainer.step()
    steps = 1000 / trainer.options.images_per_step
    assert per_kimg == pytest.approx((steps * step.flop.fourier, steps * step.flop.dense), rel=1e-12)


def test_under_a_threshold_a_step_is_the_mean_of_those_of_one_player_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    options = Options(preset="toy-gan", **PRESETS["toy-gan"].changes)
    trainer = trainer_of(options)
    per_kimg = flop_per_kimg(trainer, *trainer.next_real_batch())
    of_one_player = []
    for generator_moves in (True, False):
        monkeypatch.setattr("sgan.schedules.LossThreshold.generator_moves", partial(_always, generator_moves))
        with FlopCounter() as step:
            trainer.step()
        of_one_player.append(step.flop.dense * 1000 / options.batch)
    assert per_kimg.dense == pytest.approx(sum(of_one_player) / 2, rel=1e-12)


def _always(moves: bool, loss: float) -> bool:
    return moves


@pytest.mark.parametrize("preset", ["digits-c4", "toy-c4", "maps-cnn", "mnist-san", "mnist-500-deligan", "toy-moe"])
def test_what_is_stored_is_what_is_counted(preset: str) -> None:
    """Of some of every system; `python -m sgan.cost` makes them all anew, in minutes."""
    options = Options(preset=preset, **PRESETS[preset].changes)
    assert gflop_per_kimg()[preset] == stored(preset_flop_per_kimg(options))


def test_every_preset_is_stored_in_its_place_and_packaged() -> None:
    assert list(json.loads(COSTS.read_text())) == list(PRESETS)
    assert 'sgan = ["costs.json"]' in (Path(__file__).parent.parent / "pyproject.toml").read_text()
