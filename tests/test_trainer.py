"""The training algorithm, against the same algorithm written out by hand, in float64."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from sgan.architectures import DISCRIMINATORS, GENERATORS
from sgan.config import Options, resolve
from sgan.data import ImageSet, load_dataset
from sgan.latents import LatentLaw, epoch_indices, stream
from sgan.trainer import Trainer, build_discriminator, build_generator, update_average


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
    options = replace(tiny, batch=4, d_steps=2, lr_g=1e-3, lr_d=2e-3, penalty_weight=0.1, ema_kimg=0.002)
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
        return G(LatentLaw(64).sample(y, group=G.group, rng=stream(o.seed, purpose, seen)))

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


def make(tiny: Options, **changes: object) -> Trainer:
    options = replace(tiny, batch=4, **changes)  # type: ignore[arg-type]  # any option
    return Trainer(options, load_dataset(options.data, subset=options.subset, resolution=options.resolution))


def players(trainer: Trainer) -> tuple[nn.Module, nn.Module]:
    return copy.deepcopy(trainer.generator), copy.deepcopy(trainer.discriminator)


@pytest.mark.parametrize("penalty", ["one-sided", "two-sided"])
def test_gradient_penalties_are_taken_between_real_images_and_fakes_of_their_labels(
    tiny: Options, penalty: str
) -> None:
    trainer = make(tiny, loss="wasserstein", penalty=penalty, penalty_weight=10.0)
    G, D = players(trainer)
    real, labels = trainer.next_real_batch()
    fake = G.generate(labels, stream(0, "discriminator", trainer.images_seen)).detach()
    share = torch.rand(4, generator=stream(0, "interpolates", 4))[:, None, None, None]
    between = (share * real + (1 - share) * fake).requires_grad_()
    D(real, labels), D(fake, labels)  # each training forward moves the power iterations
    squares = torch.autograd.grad(D(between, labels).sum(), between)[0].square().sum((1, 2, 3))
    expected = (squares - 1).clamp(min=0) if penalty == "one-sided" else (squares.sqrt() - 1).square()
    scalars = trainer.step_discriminator(real, labels)
    torch.testing.assert_close(scalars["penalty"], expected.mean())


def test_the_penalty_weighs_in_the_discriminators_step(tiny: Options) -> None:
    steps = []
    for weight in (0.0, 10.0):
        trainer = make(tiny, loss="wasserstein", penalty="two-sided", penalty_weight=weight)
        trainer.step_discriminator(*trainer.next_real_batch())
        steps.append(parameters_of(trainer.discriminator))
    assert not same(*steps)


def largest(network: nn.Module) -> float:
    return max(float(parameter.abs().max()) for parameter in parameters_of(network))


def test_clipped_weights_stay_within_their_limit(tiny: Options) -> None:
    trainer = make(tiny, loss="wasserstein", penalty="none", clip=0.01)
    assert largest(trainer.discriminator) > 0.01
    trainer.step()
    assert largest(trainer.discriminator) == pytest.approx(0.01)
    assert largest(trainer.generator) > 0.01


def test_a_san_head_learns_its_direction_from_its_own_loss(tiny: Options) -> None:
    trainer = make(tiny, loss="hinge", penalty="none", head="san")
    G, D = players(trainer)
    real, labels = trainer.next_real_batch()
    fake = G.generate(labels, stream(0, "discriminator", trainer.images_seen)).detach()
    r, f = D(real, labels, split=True), D(fake, labels, split=True)
    expected = (1 - r.fun).relu().mean() + (1 + f.fun).relu().mean() - r.dir.mean() + f.dir.mean()
    torch.testing.assert_close(trainer.step_discriminator(real, labels)["loss_discriminator"], expected.detach())
    assert trainer.step()["loss_generator"].isfinite()


def test_the_discriminator_sees_turned_images_when_asked_to(tiny: Options) -> None:
    def losses_of(group: str, augment: str) -> list[float]:
        trainer = make(tiny, discriminator_group=group, augment=augment, penalty="none")
        scalars = trainer.step()
        return [float(scalars[name]) for name in ("loss_discriminator", "loss_generator")]

    assert losses_of("C4", "C4") == pytest.approx(losses_of("C4", "C1"), rel=1e-4)
    plain, turned = losses_of("C1", "C1"), losses_of("C1", "C4")
    assert all(a != pytest.approx(b, rel=1e-4) for a, b in zip(plain, turned, strict=True))


def test_the_latent_penalty_widens_the_mixture(tiny: Options) -> None:
    def sigma(weight: float) -> Tensor:
        trainer = make(tiny, components=3, latent_weight=weight)
        trainer.step()
        return trainer.generator.state_dict()["mixture.sigma"]

    assert (sigma(1e4) > 0.2).all()
    assert not (sigma(0.0) > 0.2).all()


def test_learning_rates_fall_linearly_between_two_times(tiny: Options) -> None:
    trainer = make(tiny, decay_from=0.004, decay_to=0.012, d_steps=1)
    found = []
    for _ in range(5):
        trainer.step()
        found.append(trainer.optimizer_d.param_groups[0]["lr"] / trainer.options.lr_d)
    assert found == pytest.approx([1, 1, 0.5, 0, 0])
    assert trainer.optimizer_g.param_groups[0]["lr"] == 0


def test_without_an_average_metrics_see_the_generator_itself(tiny: Options) -> None:
    trainer = make(tiny, ema_kimg=None)
    trainer.step()
    assert same(parameters_of(trainer.average), parameters_of(trainer.generator))


def test_a_threshold_shares_the_updates_of_a_batch_and_is_resumed(tiny: Options) -> None:
    first, through = (make(tiny, schedule="threshold", loss="non-saturating", penalty="none") for _ in range(2))
    second = make(tiny, schedule="threshold", loss="non-saturating", penalty="none")
    for _ in range(2):
        first.step()
    second.load_state({name: tensor.clone() for name, tensor in first.state().items()})
    for trainer, steps in ((second, 2), (through, 4)):
        for _ in range(steps):
            trainer.step()
    assert second.images_seen == 16
    states = second.state(), through.state()
    assert states[0].keys() == states[1].keys() >= {"schedule.threshold", "schedule.streak"}
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("row", [name for name, row in GENERATORS.items() if row.kind != "pairs"])
def test_every_row_of_generators_is_built_from_options(row: str) -> None:
    group = "C1" if "mnist-" in row or "deligan" in row else "C4"
    components = 6 if row in ("toy-moe", "toy-ensemble", "toy", "mnist-deligan", "digits") else 1
    side = 28 if row in ("digits", "rotmnist") or "mnist-" in row else 32
    options = resolve(
        "digits-c4", generator=row, generator_group=group, generator_width=1 / 64, components=components, sigma=0.1
    )
    generator = build_generator(options, resolution=side, channels=1, num_classes=3)
    latents = generator.sample_latents(torch.arange(6) % 3, stream(0, "latents"))
    points = row.startswith(("toy", "points"))
    assert generator(latents).shape == ((6, 2) if points else (6, 1, side, side))
    assert (generator.mixture is not None) == (row in ("toy", "mnist-deligan", "digits"))
    assert bool(generator.latent_penalty() > 0) == (generator.mixture is not None)
    assert generator.sizes()["widths"] == generator.widths


@pytest.mark.parametrize("row", [name for name, row in DISCRIMINATORS.items() if row.kind != "pairs"])
@pytest.mark.parametrize("head", ["score", "san"])
def test_every_row_of_discriminators_is_built_from_options(row: str, head: str) -> None:
    options = resolve(
        "digits-c4",
        discriminator=row,
        discriminator_group="C1" if "mnist-" in row or "deligan" in row else "C4",
        head=head,
        loss="hinge",
        discriminator_width=1 / 64,
    )
    discriminator = build_discriminator(options, resolution=28, channels=1, num_classes=3)
    points = row in ("toy", "points")
    x = torch.randn(4, 2) if points else torch.randn(4, 1, 28, 28)
    assert discriminator(x, torch.tensor([0, 1, 2, 0])).shape == (4,)


def test_projected_and_faithful_reach_the_networks() -> None:
    shape = {"resolution": 28, "channels": 1, "num_classes": 3}
    projected = build_discriminator(resolve("digits-c4", projected=True), **shape)
    assert projected.widths == build_discriminator(resolve("digits-cnn"), **shape).widths
    options = resolve("digits-c4", faithful=True)
    for network in (build_generator(options, **shape), build_discriminator(options, **shape)):
        assert any(type(module).__module__ == "sgan.faithful" for module in network.modules())


def test_a_step_with_the_published_defects(tiny: Options) -> None:
    """Their spectral norm writes to the weights between two forward passes and the backward pass."""
    trainer = Trainer(replace(tiny, faithful=True, batch=4), load_dataset(tiny.data, subset=tiny.subset))
    assert all(map(torch.isfinite, trainer.step().values()))


def test_what_layers_draw_depends_on_the_images_seen_alone(tiny: Options) -> None:
    """Dropout in a resumed run is that of a run that went through."""
    options: dict[str, object] = {"discriminator": "sketches-deligan", "discriminator_group": "C1", "penalty": "none"}
    through, first, second = (make(tiny, resolution=32, **options) for _ in range(3))
    torch.rand(1)  # what others draw in between does not count
    first.step()
    second.load_state({name: tensor.clone() for name, tensor in first.state().items()})
    torch.rand(1)
    second.step()
    for _ in range(2):
        through.step()
    assert same(parameters_of(through.discriminator), parameters_of(second.discriminator))
