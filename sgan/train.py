"""Train a structure-preserving GAN: `python -m sgan.train`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from sgan.config import BACKENDS, PRESETS, Options, resolve

__all__ = ["main"]


def print_presets(console: Console) -> None:
    """The table of presets."""
    table = Table("preset", "what it is", "data", "G", "D")
    for name, preset in PRESETS.items():
        options = resolve(name)
        table.add_row(name, preset.summary, options.data, options.generator_group, options.discriminator_group)
    console.print(table)


def check_device(name: str) -> None:
    """Raise a usage error unless tensors can be made on this device."""
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise click.BadParameter(str(error).splitlines()[0], param_hint="--device") from error


def check_backend(name: str, device: str) -> None:
    """Raise a usage error unless this backend convolves on this device."""
    import torch

    import gconv

    pixel, weight = torch.zeros(1, 1, 1, 1, device=device), torch.zeros(1, 1, 1, 1, device=device)
    try:
        gconv.lifting_conv2d(pixel, weight, group=gconv.CyclicGroup(4), backend=name)
    except (RuntimeError, ValueError) as error:
        raise click.BadParameter(str(error), param_hint="--backend") from error


@click.command(context_settings={"max_content_width": 110, "help_option_names": ["-h", "--help"]})
@click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    default="digits-c4",
    show_default=True,
    metavar="NAME",
    help="What to train; --list shows all.",
)
@click.option(
    "--data",
    metavar="NAME|PATH",
    help="Embedded data set (digits-rotated, ...), .npz file, folder of IDX files, or folder of images per class. "
    "[default: the preset's]",
)
@click.option("--subset", type=float, metavar="FRACTION", help="Train on this fraction of the images, in (0, 1].")
@click.option(
    "--kimg",
    type=click.IntRange(min=1),
    metavar="N",
    help=f"Length in thousands of real images shown to D; may grow later. [default: {Options.kimg}]",
)
@click.option(
    "--tick",
    type=click.IntRange(min=1),
    metavar="N",
    help=f"Metrics, grid and snapshot every so many kimg. [default: {Options.tick}]",
)
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Of everything random. [default: 0]")
@click.option(
    "--outdir", type=click.Path(path_type=Path, file_okay=False), help="The run folder. [default: runs/<preset>]"
)
@click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1, ... [default: cpu]")
@click.option(
    "--backend", type=click.Choice(BACKENDS), help="gconv backend of every convolution. [default: gconv chooses]"
)
@click.option(
    "--dry-run", is_flag=True, help="Print the options, the networks' sizes and the time it would take; write nothing."
)
@click.option("--list", "list_presets", is_flag=True, help="List the presets and exit.")
def main(preset: str, outdir: Path | None, dry_run: bool, list_presets: bool, **overrides: Any) -> None:
    """Train a structure-preserving GAN. Without options: rotation-equivariant G and invariant D on real handwritten
    digits, about seven minutes on two CPU cores.

    The run folder holds sample grids (fakesNNNNNN.png), metrics (metric-*.jsonl), statistics and snapshots. Run the
    same command again to resume a stopped run, or with a larger --kimg to extend it. Ctrl-C stops after the current
    step and loses nothing.

    \b
    Examples:
      python -m sgan.train
      python -m sgan.train --preset digits-cnn
      python -m sgan.train --data path/to/folder --kimg 500 --outdir runs/mine --device cuda
    """
    console = Console()
    if list_presets:
        print_presets(console)
        return
    wait_without_spinning()
    from sgan.checkpoints import CheckpointError  # here: imports torch, which --help need not wait for
    from sgan.session import Interrupted, preview, train

    try:
        options = resolve(preset, **overrides)
        check_device(options.device)
        if options.backend is not None:
            check_backend(options.backend, options.device)
        outdir = outdir or Path("runs") / preset
        (preview if dry_run else train)(options, outdir, console)
    except Interrupted as stop:
        console.print(f"{stop}. Run the same command again to resume.", highlight=False)
        sys.exit(130)
    except (CheckpointError, FloatingPointError, OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error


def wait_without_spinning() -> None:
    """Let OpenMP's threads sleep between parallel regions, unless the user has chosen otherwise.

    OpenMP reads this once, when torch loads it. Threads that spin keep a core from whatever else runs: beside one other
    busy process on two cores a step took 6 to 10 s instead of 1.2 s.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


if __name__ == "__main__":
    main()
