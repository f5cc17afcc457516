"""How many images per second the metrics' feature networks take: `python bench/features.py`."""

from __future__ import annotations

import statistics
import time

import click
import torch

from sgan.metrics import load_features
from sgan.metrics.features import FEATURES

REPEATS = 3


@click.command(help=__doc__)
@click.option("--images", default=128, show_default=True, type=click.IntRange(1), help="Per measurement.")
@click.option("--device", default="cpu", show_default=True)
def main(images: int, device: str) -> None:
    click.echo(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, median of {REPEATS}")
    for name in FEATURES:
        extract = load_features(name, device=device)
        for channels, side in ((1, 28), (3, 32), (3, 64), (3, 256)):
            pixels = torch.rand(images, channels, side, side) * 2 - 1
            extract(pixels[:8])
            rates = []
            for _ in range(REPEATS):
                start = time.perf_counter()
                extract(pixels).cpu()
                rates.append(images / (time.perf_counter() - start))
            click.echo(f"{name:8}  {channels} x {side} x {side}: {statistics.median(rates):8.1f} images/s")


if __name__ == "__main__":
    main()
