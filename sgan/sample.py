"""Draw samples of a snapshot: `python -m sgan.sample SNAPSHOT --out grid.png`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import torch
from torch import Tensor

from sgan import checkpoints
from sgan.checkpoints import CheckpointError
from sgan.config import Options
from sgan.data import load_dataset
from sgan.grids import class_rows, save_grid
from sgan.kinds import KINDS, kind_of, sees_labels
from sgan.latents import stream
from sgan.trainer import AnyGenerator, build_generator, embeds_one_class

__all__ = ["draw_samples", "load_generator", "main"]

Draw = Callable[[Tensor, Path], None]


def load_generator(path: Path, device: torch.device | str = "cpu") -> AnyGenerator:
    """Rebuild the averaged generator of a network-snapshot file, in evaluation mode.

    Raises:
        CheckpointError: the file is damaged, or no snapshot of this version.
    """
    return load_snapshot(path, device)[0]


def load_snapshot(path: Path, device: torch.device | str = "cpu") -> tuple[AnyGenerator, Options, tuple[str, ...]]:
    """As `load_generator`, with the options of its run and the names of its classes, their numbers in old files."""
    tensors, metadata = checkpoints.read(path)
    try:
        options = Options(**metadata["options"])
        num_classes = int(metadata["shape"]["num_classes"])
        class_names = tuple(metadata.get("class_names", map(str, range(num_classes))))
        generator = build_generator(options, **metadata["shape"], embed_one_class=embeds_one_class(tensors))
        generator.load_state_dict(checkpoints.select("average", tensors))
    except (KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{path} is not a network snapshot of this version: {error}") from error
    return generator.to(device).eval().requires_grad_(False), options, class_names


def draw_samples(generator: AnyGenerator, condition: Tensor, seed: int) -> Tensor:
    """Images (N, C, H, W) in [-1, 1], or points (N, 2), for (N) labels or (N, C, H, W) sources; fixed by the seed."""
    with torch.no_grad():
        return generator.generate(condition, stream(seed, "sample"))


def describe_picture(
    options: Options, class_names: tuple[str, ...], columns: int, data: str | None
) -> tuple[Tensor, Draw]:
    """What the samples are made from, and what draws them: one class per row, or as the run draws other kinds.

    A generator that sees no labels fills a square.

    Raises:
        ValueError: of other kinds than images, data that cannot be read, or of another kind.
    """
    kind = kind_of(options)
    if kind is KINDS["images"]:
        if not sees_labels(options, len(class_names)):
            return torch.zeros(columns**2, dtype=torch.int64), partial(save_grid, columns=columns)
        return class_rows(len(class_names), columns), partial(save_grid, columns=columns, row_names=class_names)
    dataset = load_dataset(
        data or options.data, seed=options.seed, resolution=options.resolution, window=options.window
    )
    kind.check(options, dataset)
    picture = kind.picture(dataset, sees_labels(options, dataset.num_classes))
    return picture.condition, picture.draw


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("snapshot", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="PNG file to write.")
@click.option(
    "--columns",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Samples per row: of a class, or of a square without classes.",
)
@click.option("--data", metavar="PATH", help="Pairs whose held-out sources are translated. [default: the run's]")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--device", default="cpu", show_default=True)
def main(snapshot: Path, out: Path, columns: int, data: str | None, seed: int, device: str) -> None:
    """Draw samples of a network-snapshot-NNNNNN.safetensors: one class per row with its name (without labels a square
    of samples), a scatter plot of points, or source | sample | target of held-out pairs."""
    try:
        generator, options, class_names = load_snapshot(snapshot, device)
        condition, draw = describe_picture(options, class_names, columns, data)
        draw(draw_samples(generator, condition, seed), out)
    except (CheckpointError, OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{len(condition)} samples: {out}")


if __name__ == "__main__":
    main()
