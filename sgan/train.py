"""Train a structure-preserving GAN: `python -m sgan.train`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from sgan.config import BACKENDS, parse_option, resolve
from sgan.listing import print_presets
from sgan.lock import FolderInUse
from sgan.presets import PRESETS

__all__ = ["main"]


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
    help="Embedded data set (digits-rotated, toy-c4, ...), or a file or folder of yours: .npz, MNIST's IDX, RotMNIST's "
    ".amat, CIFAR-10, LYSTO's .h5, Food-101, pix2pix pairs, a folder or .zip of images, per class or not; rotated:PATH "
    "turns the images. [default: the preset's]",
)
@click.option("--resolution", type=click.IntRange(min=1), metavar="N", help="Bring images to N x N pixels.")
@click.option(
    "--window",
    metavar="LOW,HIGH",
    help="Of grey images of more than 8 bits: these values become black and white; 0.5%,99.5% are percentiles.",
)
@click.option("--subset", type=float, metavar="FRACTION", help="Train on this fraction of the images, in (0, 1].")
@click.option(
    "--kimg",
    type=click.IntRange(min=1),
    metavar="N",
    help="Length in thousands of real images shown to D; may grow later. [default: the preset's]",
)
@click.option(
    "--tick",
    type=click.IntRange(min=1),
    metavar="N",
    help="Metrics, grid and snapshot every so many kimg. [default: the preset's]",
)
@click.option(
    "--width",
    type=click.FloatRange(min=0, min_open=True),
    metavar="FACTOR",
    help="Multiply the widths of both networks: 0.25 makes published ones fit a laptop.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="Any other option, such as loss=hinge or batch=16; --dry-run shows all. May be repeated.",
)
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Of everything random. [default: 0]")
@click.option(
    "--outdir", type=click.Path(path_type=Path, file_okay=False), help="The run folder. [default: runs/<preset>]"
)
@click.option(
    "--device",
    metavar="NAME",
    help="cpu, cuda, cuda:1, ...; on CUDA steps are replayed from a graph where they can be. [default: cpu]",
)
@click.option(
    "--backend", type=click.Choice(BACKENDS), help="gconv backend of every convolution. [default: gconv chooses]"
)
@click.option(
    "--init-from",
    metavar="PATH",
    help="Start a new run from the networks of this snapshot, or of a run folder's newest one: the way on from before "
    "a run diverged, with other learning rates and another --outdir.",
)
@click.option(
    "--dry-run", is_flag=True, help="Print the options, the networks' sizes and the time it would take; write nothing."
)
@click.option("--list", "list_presets", is_flag=True, help="List the presets and exit.")
def main(
    preset: str, outdir: Path | None, dry_run: bool, list_presets: bool, settings: tuple[str, ...], **overrides: Any
) -> None:
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
      python -m sgan.train --preset rotmnist-c4 --data rotated:path/to/mnist --width 0.25 --kimg 100 --tick 10
      python -m sgan.train --init-from runs/a/network-snapshot-000008.safetensors --outdir runs/b --set lr_d=1e-3
      python -m sgan.train --preset mnist-hinge --data path/to/mnist --set head=san --set penalty=r1
    """
    console = Console()
    if list_presets:
        print_presets(console)
        return
    wait_without_spinning()
    from sgan.checkpoints import CheckpointError  # here: imports torch, which --help need not wait for
    from sgan.session import Interrupted, preview, train

    try:
        given = {name: value for name, value in overrides.items() if value is not None}
        options = resolve(preset, **given, **dict(map(parse_option, settings)))
        check_device(options.device)
        if options.backend is not None:
            check_backend(options.backend, options.device)
        outdir = outdir or Path("runs") / preset
        (preview if dry_run else train)(options, outdir, console)
    except Interrupted as stop:
        console.print(f"{stop}. Run the same command again to resume.", highlight=False)
        sys.exit(130)
    except (CheckpointError, FloatingPointError, FolderInUse, OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error


def wait_without_spinning() -> None:
    """Let OpenMP's threads sleep between parallel regions, unless the user has chosen otherwise.

    OpenMP reads this once, when torch loads it. Threads that spin keep a core from whatever else runs: beside one other
    busy process on two cores a step took 6 to 10 s instead of 1.2 s.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


if __name__ == "__main__":
    main()
