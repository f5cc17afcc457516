"""Print what held-out real images of a data set get in place of fakes: the floor of every metric.

    python -m sgan.metrics.floor DATA --features mnist

DATA is one of the embedded sets or a path, as for `python -m sgan.train --data`.
"""

from __future__ import annotations

import click

from sgan.data import load_dataset
from sgan.metrics.choice import choose_features
from sgan.metrics.evaluator import Evaluator
from sgan.metrics.features import FEATURES


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("data")
@click.option("--features", type=click.Choice(FEATURES), help="[default: as in training, by the data]")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the data's orientations.")
def main(data: str, features: str | None, seed: int) -> None:
    try:
        dataset = load_dataset(data, seed=seed)
        if dataset.law is not None:
            raise ValueError(f"floor: data must be images, got the points of {data}")
        evaluator = Evaluator(dataset, features or choose_features(dataset))
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    for name, value in evaluator.describe_floor().items():
        click.echo(f"{name}: {value}")
    for name, value in evaluator.floor().items():
        click.echo(f"{name}: {value:.4g}")


if __name__ == "__main__":
    main()
