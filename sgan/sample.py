"""Draw samples of a snapshot: `python -m sgan.sample SNAPSHOT --out grid.png`."""

from __future__ import annotations

from pathlib import Path

import click
import torch
from torch import Tensor

from sgan import checkpoints
from sgan.checkpoints import CheckpointError
from sgan.config import Options
from sgan.generators import Generator
from sgan.grids import class_rows, save_grid
from sgan.latents import sample_latents, stream
from sgan.trainer import build_generator

__all__ = ["draw_samples", "load_generator", "main"]


def load_generator(path: Path, device: torch.device | str = "cpu") -> Generator:
    """Rebuild the averaged generator of a network-snapshot file, in evaluation mode.

    Raises:
        CheckpointError: the file is damaged, or no snapshot of this version.
    """
    tensors, metadata = checkpoints.read(path)
    try:
        generator = build_generator(Options(**metadata["options"]), **metadata["shape"])
        generator.load_state_dict(checkpoints.select("average", tensors))
    except (KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{path} is not a network snapshot of this version: {error}") from error
    return generator.to(device).eval().requires_grad_(False)


def draw_samples(generator: Generator, labels: Tensor, seed: int) -> Tensor:
    """Images for these labels, (N, C, H, W) in [-1, 1]; a function of the seed."""
    latents = sample_latents(labels, latent_dim=generator.latent_dim, group=generator.group, rng=stream(seed, "sample"))
    with torch.no_grad():
        return generator(latents.to(next(generator.parameters()).device))


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("snapshot", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="PNG file to write.")
@click.option("--columns", type=click.IntRange(min=1), default=10, show_default=True, help="Samples per class.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--device", default="cpu", show_default=True)
def main(snapshot: Path, out: Path, columns: int, seed: int, device: str) -> None:
    """Draw a grid of samples of a network-snapshot-NNNNNN.safetensors, one class per row."""
    try:
        generator = load_generator(snapshot, device)
        save_grid(draw_samples(generator, class_rows(generator.num_classes, columns), seed), out, columns=columns)
    except (CheckpointError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{generator.num_classes} classes x {columns} samples: {out}")


if __name__ == "__main__":
    main()
