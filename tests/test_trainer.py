"""The training algorithm, against the same algorithm written out by hand, in float64."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from sgan.config import Options
from sgan.data import ImageSet, load_dataset
from sgan.latents import epoch_indices, sample_latents, stream
from sgan.trainer import Trainer, update_average


class DoubleImages(ImageSet):
    """Images whose batches are float64."""

    def batch(self, indices: Tensor | slice) -> Tensor:
        return super().batch(indices).double()


@pytest.fixture
def double() -> Iterator[None]:
    """Networks and latents in float64, so that Adam cannot blow the rounding of a zero gradient up to a whole step."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def trainer(tiny: Options, double: None) -> Trainer:
    """Two discriminator steps per generator step on batches of 4, learning rates and R1 that leave traces."""
    options = replace(tiny, batch=4, d_steps=2, lr_g=1e-3, lr_d=2e-3, r1_weight=0.1, ema_kimg=0.002)
    trainer = Trainer(options, load_dataset(options.data, subset=options.subset))
    trainer.train_set = DoubleImages(trainer.train_set.images, trainer.train_set.labels)
    return trainer


def adam_by_hand(network: nn.Module, loss: Tensor, lr: float, squares: list[Tensor], t: int) -> None:
    """Adam with betas (0, 0.9) and epsilon 1e-8 (arXiv 1412.6980): the first moment is the gradient itself."""
    parameters = list(network.parameters())
    for parameter, square, g in zip(parameters, squares, torch.autograd.grad(loss, parameters), strict=True):
        square.mul_(0.9).add_(0.1 * g**2)
        parameter.data -= lr * g / ((square / (1 - 0.9**t)).sqrt() + 1e-8)


def train_by_hand(trainer: Trainer, steps: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    """SP-GAN's training with the RA loss: G, D and the average of G after `steps` generator steps of `trainer`."""
    o, data = trainer.options, trainer.train_set
    G, D, average = (copy.deepcopy(x) for x in (trainer.generator, trainer.discriminator, trainer.average))
    squares_g, squares_d = ([torch.zeros_like(p) for p in network.parameters()] for network in (G, D))
    sigmoid, log, seen = torch.sigmoid, torch.log, 0

    def fakes(y: Tensor, purpose: str) -> Tensor:
        return G(sample_latents(y, latent_dim=64, group=G.group, rng=stream(o.seed, purpose, seen)))

    for step in range(1, steps + 1):
        for d_step in (2 * step - 1, 2 * step):
            chosen = epoch_indices(o.seed, seen, 4, len(data))
            x, y, seen = data.batch(chosen).requires_grad_(), data.labels[chosen], seen + 4
            x_fake = fakes(y, "discriminator").detach()
            real, fake = D(x, y), D(x_fake, y)
            a, b = real - fake.mean(), fake - real.mean()
            gradient = torch.autograd.grad(real.sum(), x, create_graph=True)[0]
            penalty = 0.1 / 2 * (gradient**2).sum((1, 2, 3)).mean()
            loss_d = -log(sigmoid(a)).mean() - log(1 - sigmoid(b)).mean() + penalty
            adam_by_hand(D, loss_d, 2e-3, squares_d, d_step)
        x_fake = fakes(y, "generator")
        real, fake = D(x, y), D(x_fake, y)
        a, b = real - fake.mean(), fake - real.mean()
        loss_g = -log(sigmoid(b)).mean() - log(1 - sigmoid(a)).mean()
        adam_by_hand(G, loss_g, 1e-3, squares_g, step)
        decay = 0.5 ** (
            8 / min(2, 0.05 * seen)
        )  # 8 images per step; the half-life is ema_kimg, or 5 % of what was seen
        for name, value in average.state_dict().items():
            newest = G.state_dict()[name]
            is_averaged = name in dict(G.named_parameters()) or name.endswith(("running_mean", "running_var"))
            value.copy_(decay * value + (1 - decay) * newest if is_averaged else newest)
    return G, D, average


def test_step_is_the_algorithm(trainer: Trainer) -> None:
    """Every parameter and buffer of G, D and the average, after 3 generator and 6 discriminator steps."""
    networks = (trainer.generator, trainer.discriminator, trainer.average)
    before = [copy.deepcopy(network.state_dict()) for network in networks]
    expected = train_by_hand(trainer, steps=3)
    for _ in range(3):
        trainer.step()
    assert trainer.images_seen == 3 * 2 * 4
    for network, start, by_hand in zip(networks, before, expected, strict=True):
        actual = network.state_dict()
        for name, value in by_hand.state_dict().items():
            torch.testing.assert_close(
                actual[name], value, rtol=1e-7, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}"
            )
        moved = [name for name, _ in network.named_parameters() if (actual[name] - start[name]).abs().max() > 1e-4]
        assert len(moved) > 0.8 * len(list(network.parameters()))


def parameters_of(network: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in network.parameters()]


def same(before: list[Tensor], after: list[Tensor]) -> bool:
    return all(map(torch.equal, before, after))


def test_each_player_leaves_the_others_parameters_alone(trainer: Trainer) -> None:
    real, labels = trainer.next_real_batch()
    g, d = parameters_of(trainer.generator), parameters_of(trainer.discriminator)
    trainer.step_discriminator(real, labels)
    d_trained = parameters_of(trainer.discriminator)
    assert same(g, parameters_of(trainer.generator))
    assert not same(d, d_trained)
    trainer.step_generator(real, labels)
    assert same(d_trained, parameters_of(trainer.discriminator))
    assert not same(g, parameters_of(trainer.generator))
    assert all(parameter.requires_grad for parameter in trainer.discriminator.parameters())


def test_the_average_is_a_running_mean_of_parameters_and_statistics() -> None:
    def network(value: float) -> nn.Module:
        norm = nn.BatchNorm1d(1)
        for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
            tensor.fill_(value)
        norm.num_batches_tracked.fill_(int(value))
        norm.register_buffer("direction", torch.tensor([value]))
        return norm

    average = network(1.0)
    update_average(average, network(5.0), decay=0.75)
    assert {name: float(tensor) for name, tensor in average.state_dict().items()} == {
        "weight": 2.0,  # 0.75 * 1 + 0.25 * 5
        "bias": 2.0,
        "running_mean": 2.0,
        "running_var": 2.0,
        "num_batches_tracked": 5.0,
        "direction": 5.0,
    }


def test_a_subset_smaller_than_a_batch_is_shown_several_times_per_step(tiny: Options) -> None:
    options = replace(tiny, subset=0.1, batch=8)
    trainer = Trainer(options, load_dataset(options.data, subset=options.subset))
    size = len(trainer.train_set)
    assert size == 3
    images, labels = trainer.next_real_batch()
    assert images.shape == (8, 1, 14, 14)
    assert (
        sorted(labels[:size].tolist()) == sorted(labels[size : 2 * size].tolist()) == sorted(trainer.train_set.labels)
    )
    assert all(map(torch.isfinite, trainer.step().values()))
