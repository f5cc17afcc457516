"""Times other tiles of the Triton group convolution on a GPU: `python bench/tiles.py`.

gconv/backends/triton/tiles.py holds one tile per pass, instruction and number of planes, chosen by what compiles
without spills. Which is fastest only a GPU tells: this times its neighbours too, and prints the best. Results that
differ from the shipped tile's are refused. Nothing is written but rows of JSON to --json: put a better tile into
tiles.py by hand, and run bench/aot.py.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import click
import torch
from torch import Tensor

import gconv
from gconv.backends.triton import backend, tiles
from gconv.backends.triton.tiles import Tile

WIDTHS = {"C4": 128, "D4": 64}  # channels per orientation
SIDE, BATCH = 32, 64  # 65,536 pixels: every multiprocessor has work for several waves
REPEATS = 20


class Trial(NamedTuple):
    """A pass of a layer of equal input and output channels."""

    step: str
    group: str
    channels: int


def candidates(shipped: Tile) -> list[Tile]:
    """Neighbours of the shipped tile: one trade at a time, as each takes seconds to compile."""
    pixels, block_in, block_out = shipped.pixels, shipped.block_in, shipped.block_out
    trades: list[dict[str, int]] = [
        {"stages": 2},
        {"stages": 4},
        {"warps": 4},
        {"block_in": 2 * block_in, "stages": 2},
        {"block_in": block_in // 2, "stages": 4},
        {"pixels": 2 * pixels, "block_out": block_out // 2},
        {"pixels": pixels // 2, "block_out": 2 * block_out},
        {"pixels": 2 * pixels, "block_in": 2 * block_in, "block_out": block_out // 2, "stages": 2},
        {"pixels": pixels // 2},
        {"block_out": block_out // 2, "warps": 4},
    ]
    return [tile for trade in trades if (tile := replace(shipped, **trade)) != shipped]


def layer(trial: Trial) -> tuple[Tensor, Tensor, Tensor]:
    """The map, the filter and the gradient of the output, bfloat16, channels last."""
    order, c = gconv.group_from_name(trial.group).order, trial.channels
    maps = (normal(BATCH, c, order, SIDE, SIDE) for _ in range(2))
    x, grad_out = (tensor.contiguous(memory_format=torch.channels_last_3d) for tensor in maps)
    return x, normal(c, c, order, 3, 3), grad_out


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, device="cuda", dtype=torch.bfloat16)


def run_of(trial: Trial) -> Callable[[], Tensor]:
    """The pass as a call."""
    group, (x, weight, grad_out) = gconv.group_from_name(trial.group), layer(trial)
    if trial.step == "forward":
        return lambda: backend.conv2d(x, weight, None, group, 1, 1)
    return lambda: backend.conv2d_weight_grad(x, grad_out, group, 3, 1, 1)


def milliseconds(run: Callable[[], object]) -> float:
    """The median of REPEATS timed calls, after three that are not."""
    for _ in range(3):
        run()
    times = []
    for _ in range(REPEATS):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def contest(trial: Trial, until: float) -> Iterator[tuple[Tile, float]]:
    """Every candidate's time until the clock says so, the shipped tile's first."""
    table = (tiles.FORWARD if trial.step == "forward" else tiles.WEIGHT_GRAD)["wgmma"]
    order = gconv.group_from_name(trial.group).order
    shipped, run = table[order], run_of(trial)
    expected = run().float()
    try:
        for tile in (shipped, *candidates(shipped)):
            if time.monotonic() > until:
                return
            table[order] = tile
            try:
                found = run().float()
            except Exception as error:  # triton's errors share no base class: too much shared memory, mostly
                torch.cuda.synchronize()
                print(f"  {tile}: {type(error).__name__}")
                continue
            error_norm = (found - expected).norm() / expected.norm()
            if not error_norm < 1e-2:
                print(f"  {tile}: WRONG by {error_norm:.1e}")
                continue
            yield tile, milliseconds(run)
    finally:
        table[order] = shipped


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seconds", default=240.0, show_default=True, help="For all shapes and passes together.")
@click.option("--json", "path", type=click.Path(path_type=Path, dir_okay=False), help="Rows are appended here.")
def main(seconds: float, path: Path | None) -> None:
    """Race candidates for the tiles of the Triton group convolution against the shipped ones."""
    if not torch.cuda.is_available():
        raise click.ClickException("no CUDA device was found")
    trials = [Trial(step, group, c) for group, c in WIDTHS.items() for step in ("forward", "weight_grad")]
    begin = time.monotonic()
    for number, trial in enumerate(trials, 1):
        found = []
        for tile, ms in contest(trial, begin + seconds * number / len(trials)):
            found.append((ms, tile))
            if path:
                with path.open("a") as stream:
                    stream.write(json.dumps({**trial._asdict(), "tile": asdict(tile), "ms": ms}) + "\n")
        if found:
            best = min(found, key=lambda pair: pair[0])
            print(f"{trial}: shipped {found[0][0]:.3f} ms, best of {len(found)} {best[0]:.3f} ms with {best[1]}")


if __name__ == "__main__":
    main()
