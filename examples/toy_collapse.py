"""How a flawed symmetric generator collapses, in the plane: `python examples/toy_collapse.py`.

Three pairs of players learn a mixture that C4 leaves as it is. An invariant discriminator sees only a law's orbit
average (theorem T3 in docs/theory.md), so a generator whose latent law is not invariant may put all its mass on one
copy of the data. With an invariant latent law the same network cannot.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click
import torch
from torch import Tensor, nn

from gconv import CyclicGroup
from sgan.data.toy2d import TOY2D
from sgan.latents import stream
from sgan.losses import LOSSES
from sgan.metrics.symmetry import symmetry_tests
from sgan.penalties import r1
from sgan.projection import EquivariantProjection, InvariantProjection, point_maps

GROUP = CyclicGroup(4)
LATENT_DIM = 4
HIDDEN = 64
BATCH = 128
R1_WEIGHT = 0.1
LR_G, LR_D = 1e-3, 2e-3
LOSS = LOSSES["ra"]
LAW = TOY2D["toy-c4"]
SHOWN = 1000
OFFSET = 1.0


@dataclass(frozen=True)
class Players:
    """One pair of players.

    Attributes:
        title: above its picture.
        symmetric: equivariant generator and invariant discriminator, by projection; otherwise plain networks.
        symmetrise_latent: apply a random group element to the generator's latent point.
    """

    title: str
    symmetric: bool
    symmetrise_latent: bool


PLAYERS = (
    Players("plain G, plain D", symmetric=False, symmetrise_latent=False),
    Players("flawed G, invariant D", symmetric=True, symmetrise_latent=False),
    Players("equivariant G, invariant D", symmetric=True, symmetrise_latent=True),
)


def perceptron(outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(2, HIDDEN),
        nn.LeakyReLU(0.2),
        nn.Linear(HIDDEN, HIDDEN),
        nn.LeakyReLU(0.2),
        nn.Linear(HIDDEN, outputs),
    )


class Generator(nn.Module):
    """z -> a latent point -> (moved by the group) -> a point; the flawed one leaves out the bracket.

    The head's bias starts at (offset, offset), as a label's embedding offsets the latent map of SP-GAN's generators.
    """

    def __init__(self, players: Players, offset: float) -> None:
        super().__init__()
        self.symmetrise_latent = players.symmetrise_latent
        self.maps = point_maps(GROUP)
        self.head = nn.Linear(LATENT_DIM, 2)
        nn.init.constant_(self.head.bias, offset)
        network = perceptron(2)
        inverses = [self.maps[GROUP.inverse(element)] for element in GROUP.elements]
        self.network = EquivariantProjection(network, self.maps, inverses) if players.symmetric else network

    def forward(self, z: Tensor, elements: Tensor) -> Tensor:
        """(N, LATENT_DIM) latents and (N) group elements -> (N, 2) points."""
        point = self.head(z)
        if self.symmetrise_latent:
            point = torch.stack([move(point) for move in self.maps])[elements, torch.arange(len(z))]
        return self.network(point)


def build_discriminator(players: Players) -> nn.Module:
    """Points (N, 2) -> scores (N)."""
    network = nn.Sequential(perceptron(1), nn.Flatten(0))
    return InvariantProjection(network, point_maps(GROUP)) if players.symmetric else network


def train(players: Players, *, steps: int, seed: int, offset: float = OFFSET) -> Generator:
    """Alternate one step of each player; deterministic in its arguments."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator, discriminator = Generator(players, offset), build_discriminator(players)
    optimizer_g = torch.optim.Adam(generator.parameters(), lr=LR_G, betas=(0.0, 0.9))
    optimizer_d = torch.optim.Adam(discriminator.parameters(), lr=LR_D, betas=(0.0, 0.9))
    data = LAW.sample(steps * BATCH, seed=seed).split(BATCH)
    rng = stream(seed, "toy")
    for real in data:
        real.requires_grad_()
        real_scores, fake_scores = discriminator(real), discriminator(generate(generator, rng).detach())
        descend(optimizer_d, LOSS.discriminator(real_scores, fake_scores) + R1_WEIGHT * r1(real_scores, real))
        real_scores, fake_scores = discriminator(real.detach()), discriminator(generate(generator, rng))
        descend(optimizer_g, LOSS.generator(real_scores, fake_scores))
    return generator


def generate(generator: Generator, rng: torch.Generator, count: int = BATCH) -> Tensor:
    """(count, 2) samples."""
    z = torch.randn(count, LATENT_DIM, generator=rng)
    return generator(z, torch.randint(GROUP.order, (count,), generator=rng))


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step of the optimiser down the gradient of loss."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def mode_shares(points: Tensor) -> list[float]:
    """The share of points nearest to each of the law's centres."""
    nearest = torch.cdist(points, points.new_tensor(LAW.centres)).argmin(dim=1)
    return (nearest.bincount(minlength=len(LAW.centres)) / len(points)).tolist()


def asymmetry(points: Tensor) -> float:
    """Smallest p-value that the law of the points is that of their rotations; below 0.05 / 3 it is not."""
    moves = {str(element): move for element, move in enumerate(point_maps(GROUP)) if element}
    return min(result.p_value for result in symmetry_tests(points, moves).values())


def draw(samples: dict[str, Tensor], path: Path) -> None:
    """One scatter plot per pair of players, over the data in grey."""
    from matplotlib.figure import Figure  # here: a second to import, and training does not need it

    figure = Figure(figsize=(9, 3.3), layout="constrained")
    data = LAW.sample(SHOWN, seed=0)
    for axes, (title, points) in zip(figure.subplots(1, len(samples)), samples.items(), strict=True):
        axes.scatter(*data.T, s=4, color="0.8", label="data")
        axes.scatter(*points.T, s=2, color="tab:blue", label="samples")
        axes.set(title=title, xlim=(-1.7, 1.7), ylim=(-1.7, 1.7), aspect="equal", xticks=(-1, 0, 1), yticks=(-1, 0, 1))
        axes.legend(loc="upper right", fontsize="small", markerscale=3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)


@click.command()
@click.option("--steps", default=1000, show_default=True, help="Steps of each player.")
@click.option("--seed", default=0, show_default=True, help="Of data, weights and latents.")
@click.option("--offset", default=OFFSET, show_default=True, help="Of the generators' latent points at the start.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/images/toy_collapse.png"), show_default=True)
def main(steps: int, seed: int, offset: float, out: Path) -> None:
    """Train three pairs of players on four Gaussians and draw what their generators make."""
    torch.set_num_threads(1)  # the networks are tiny
    samples = {}
    for players in PLAYERS:
        generator = train(players, steps=steps, seed=seed, offset=offset)
        with torch.no_grad():
            points = generate(generator, stream(seed, "shown"), SHOWN)
        shares = ", ".join(f"{share:.2f}" for share in mode_shares(points))
        click.echo(f"{players.title}: shares of the four modes {shares}; p-value of symmetry {asymmetry(points):.3f}")
        samples[players.title] = points
    draw(samples, out)
    click.echo(f"wrote {out}")


if __name__ == "__main__":
    main()
