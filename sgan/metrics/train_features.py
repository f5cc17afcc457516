"""Train the feature network of the digits metrics and write sgan/metrics/digits.safetensors.

    python -m sgan.metrics.train_features

It sees the training part of the digits only, drawn anew in every batch: turned by a uniform angle, mirrored half of the
time, with a random size and place. The held-out digits measure it.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor

from sgan.data import DIGITS, load_dataset
from sgan.data.digits import draw, load_sources, orient
from sgan.data.split import split_indices
from sgan.metrics.features import FeatureNetwork

SEED = 0
STEPS = 2000
BATCH = 128
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1e-2
POSE_WEIGHT = 1.0
MAX_SCALE = 0.15
MAX_SHIFT = 0.1  # of half the image


def train(steps: int, seed: int) -> FeatureNetwork:
    """Return a trained network; deterministic for one machine, thread count and torch version."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    sources, labels = load_sources()
    is_train, _ = split_indices(labels)
    sources, labels = sources[is_train].float(), labels[is_train]
    network = FeatureNetwork()
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    with click.progressbar(range(steps), label="training features") as progress:
        for _ in progress:
            chosen = torch.from_numpy(rng.integers(len(labels), size=BATCH))
            images, pose = augment(sources[chosen], rng)
            features = network(images)
            loss = F.cross_entropy(network.classify(features), labels[chosen], label_smoothing=0.05)
            loss = loss + POSE_WEIGHT * F.mse_loss(network.pose(features), pose)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def augment(sources: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Draw (N, 1, 8, 8) digits in every orientation, a little moved and scaled.

    Returns:
        (N, 1, 28, 28) images in [-1, 1], and (N, 3) targets: cosine and sine of the angle, 1 upright or -1 mirrored.
    """
    count = len(sources)
    angle, flip = orient(DIGITS["digits-rotated-mirrored"], count, rng)
    images = draw(sources, angle.float(), flip)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = torch.from_numpy(rng.uniform(1 - MAX_SCALE, 1 + MAX_SCALE, count))
    theta[:, :, 2] = torch.from_numpy(rng.uniform(-MAX_SHIFT, MAX_SHIFT, (count, 2)))
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, mode="bilinear", align_corners=False)
    pose = torch.stack([angle.cos(), angle.sin(), 1 - 2 * flip.double()], 1).float()
    return 2 * images - 1, pose


@torch.no_grad()
def accuracy(network: FeatureNetwork, name: str) -> float:
    """Return the share of the held-out images of the data set `name` that the network classifies correctly."""
    test = load_dataset(name).test
    scores = network.classify(network(test.batch(slice(None))))
    return float((scores.argmax(1) == test.labels).double().mean())


@click.command(help=__doc__)
@click.option("--steps", default=STEPS, show_default=True, help="Gradient steps.")
@click.option("--seed", default=SEED, show_default=True, help="Of weights and batches.")
@click.option(
    "--out", default=Path(__file__).with_name("digits.safetensors"), type=click.Path(path_type=Path), help="File."
)
def main(steps: int, seed: int, out: Path) -> None:
    network = train(steps, seed)
    accuracies = {name: accuracy(network, name) for name in DIGITS}
    for name, value in accuracies.items():
        click.echo(f"held-out accuracy, {name}: {value:.4f}")
    metadata = {"command": "python -m sgan.metrics.train_features", "steps": str(steps), "seed": str(seed)}
    metadata |= {"torch": torch.__version__} | {
        f"accuracy {name}": f"{value:.4f}" for name, value in accuracies.items()
    }
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    out.write_bytes(save(tensors, metadata))
    click.echo(f"{out.name}: {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
