"""Train a shipped feature network and write sgan/metrics/<name>.safetensors.

    python -m sgan.metrics.train_features
    python -m sgan.metrics.train_features mnist --data FOLDER

It sees the training part only, drawn anew in every batch: turned by a uniform angle, with a random size and place, and,
of the embedded digits, mirrored half of the time. A quarter of every MNIST batch is left as it is instead, since that
network measures upright MNIST as well as rotated; it sees no mirror images, of which a 2 looks like a 5. The held-out
part measures the network. FOLDER holds MNIST's four IDX files, with or without .gz.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor

from sgan.checkpoints import write_atomic
from sgan.data import DIGITS, Dataset, ImageSet, load_dataset
from sgan.data.digits import Orientation, draw, load_sources, orient
from sgan.data.split import split_indices
from sgan.metrics.features import NETWORKS, RESOLUTION, FeatureNetwork

SEED = 0
STEPS = {"digits": 2000, "mnist": 6000}
BATCH = 128
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1e-2
POSE_WEIGHT = 1.0
MAX_SCALE = 0.15
MAX_SHIFT = 0.1  # of half the image
ROTATION_SEED = 0  # of the angles of rotated MNIST's held-out images


class Material(NamedTuple):
    """What a network is trained and measured on.

    sources: (N, 1, S, S) float32 pixels in [0, 1], which `draw` draws at 28 x 28. labels: (N,) int64, 0 to 9.
    orientation: how they are turned in training. as_is: share of every batch that is not augmented. tests: name ->
    held-out images of 28 x 28. facts: about the data, for the file's metadata.
    """

    sources: Tensor
    labels: Tensor
    orientation: Orientation
    as_is: float
    tests: dict[str, ImageSet]
    facts: dict[str, str]


def digits_material() -> Material:
    """Return the embedded digits, measured in each of their orientations."""
    sources, labels = load_sources()
    is_train, _ = split_indices(labels)
    sets = {name: load_dataset(name) for name in DIGITS}
    facts = {"data": "scikit-learn load_digits", "train_sha256": str(sets["digits"].built["reference_sha256"])}
    tests = {name: dataset.test for name, dataset in sets.items()}
    return Material(sources[is_train].float(), labels[is_train], DIGITS["digits-rotated-mirrored"], 0.0, tests, facts)


def mnist_material(dataset: Dataset) -> Material:
    """Return MNIST, measured as it is ("mnist") and turned by seeded uniform angles, bicubic ("mnist-rotated").

    `draw` puts a border of one background pixel around its sources, so the outermost ring of pixels is cut off first:
    drawn upright, an image is the one in the file but for that ring, which is background in all but 813 of the 60,000
    training images.

    Raises:
        ValueError: not grey images of 28 x 28 in ten classes.
    """
    shape = (dataset.channels, dataset.resolution, dataset.num_classes)
    if shape != (1, RESOLUTION, 10):
        raise ValueError(f"train_features: data must be 1 x 28 x 28 images of 10 classes, got (C, H, classes) {shape}")
    test = dataset.test
    angle = torch.from_numpy(np.random.default_rng(ROTATION_SEED).uniform(0, 2 * math.pi, len(test))).float()
    turned = draw(_without_ring(test), angle, torch.zeros(len(test), dtype=torch.bool))
    rotated = ImageSet((255 * turned).round().to(torch.uint8), test.labels)
    facts = {"data": "MNIST", "train_sha256": dataset.reference.checksum(), "test_sha256": test.checksum()}
    tests = {"mnist": test, "mnist-rotated": rotated}
    sources = _without_ring(dataset.reference)
    return Material(sources, dataset.reference.labels, DIGITS["digits-rotated"], 0.25, tests, facts)


def train(material: Material, steps: int, seed: int) -> FeatureNetwork:
    """Return a trained network; deterministic for one machine, thread count and torch version."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network = FeatureNetwork()
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    with click.progressbar(range(steps), label="training features") as progress:
        for _ in progress:
            chosen = torch.from_numpy(rng.integers(len(material.labels), size=BATCH))
            images, pose = augment(
                material.sources[chosen], rng, material.orientation, as_is=round(material.as_is * BATCH)
            )
            features = network(images)
            loss = F.cross_entropy(network.classify(features), material.labels[chosen], label_smoothing=0.05)
            loss = loss + POSE_WEIGHT * F.mse_loss(network.pose(features), pose)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def augment(
    sources: Tensor, rng: np.random.Generator, orientation: Orientation, *, as_is: int = 0
) -> tuple[Tensor, Tensor]:
    """Draw digits in random orientations, a little moved and scaled.

    Args:
        sources: (N, 1, S, S) pixels in [0, 1].
        rng: source of all randomness.
        orientation: the law of the orientations.
        as_is: so many, the first ones, are drawn upright and neither moved nor scaled.

    Returns:
        (N, 1, 28, 28) images in [-1, 1], and (N, 3) targets: cosine and sine of the angle, 1 upright or -1 mirrored.
    """
    count = len(sources)
    angle, flip = orient(orientation, count, rng)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = torch.from_numpy(rng.uniform(1 - MAX_SCALE, 1 + MAX_SCALE, count))
    theta[:, :, 2] = torch.from_numpy(rng.uniform(-MAX_SHIFT, MAX_SHIFT, (count, 2)))
    angle[:as_is], flip[:as_is], theta[:as_is] = 0, False, torch.eye(2, 3)
    images = draw(sources, angle.float(), flip)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, mode="bilinear", align_corners=False)
    pose = torch.stack([angle.cos(), angle.sin(), 1 - 2 * flip.double()], 1).float()
    return 2 * images - 1, pose


@torch.no_grad()
def accuracy(network: FeatureNetwork, test: ImageSet) -> float:
    """Return the share of the images that the network classifies correctly."""
    scores = torch.cat([network.classify(network(test.batch(rows))) for rows in torch.arange(len(test)).split(1000)])
    return float((scores.argmax(1) == test.labels).double().mean())


def write_network(path: Path, network: FeatureNetwork, metadata: Mapping[str, str]) -> None:
    """Write weights and metadata as one safetensors file; equal content gives equal bytes."""
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    write_atomic(path, _in_order(save(tensors, dict(metadata))))


def _without_ring(images: ImageSet) -> Tensor:
    return images.images[..., 1:-1, 1:-1].float() / 255


def _in_order(content: bytes) -> bytes:
    """Sort the metadata in a safetensors header: `save` writes its entries in random order, of the same length."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


@click.command(help=__doc__)
@click.argument("name", type=click.Choice(NETWORKS), default="digits")
@click.option("--data", type=click.Path(path_type=Path, exists=True, file_okay=False), help="MNIST's folder.")
@click.option("--steps", type=click.IntRange(1), help=f"Gradient steps.  [default: {STEPS}]")
@click.option("--seed", default=SEED, show_default=True, help="Of weights and batches.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="File.  [default: the shipped one]")
def main(name: str, data: Path | None, steps: int | None, seed: int, out: Path | None) -> None:
    if (data is None) == (name == "mnist"):
        raise click.UsageError("mnist needs --data, and digits takes none")
    try:
        material = digits_material() if data is None else mnist_material(load_dataset(data))
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    steps = STEPS[name] if steps is None else steps
    network = train(material, steps, seed)
    accuracies = {test: accuracy(network, images) for test, images in material.tests.items()}
    for test, value in accuracies.items():
        click.echo(f"held-out accuracy, {test}: {value:.4f}")
    command = f"python -m sgan.metrics.train_features {name}{' --data FOLDER' if name == 'mnist' else ''}"
    metadata = {"command": command, "steps": str(steps), "seed": str(seed), "torch": torch.__version__}
    metadata |= material.facts | {f"accuracy {test}": f"{value:.4f}" for test, value in accuracies.items()}
    out = Path(__file__).with_name(f"{name}.safetensors") if out is None else out
    write_network(out, network, metadata)
    click.echo(f"{out.name}: {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
