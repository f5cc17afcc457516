"""Every preset trains: two steps of narrow networks on tiny data in the format that it asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from writers import (
    RNG,
    write_amat,
    write_cifar_binary,
    write_cifar_python,
    write_food101,
    write_idx,
    write_image,
    write_lysto,
    write_pairs,
)

from sgan.config import Options, resolve
from sgan.data import load_dataset
from sgan.kinds import KINDS, kind_of
from sgan.presets import DATA_SHAPES, PRESETS
from sgan.trainer import Trainer


def digits_on_black(count: int) -> np.ndarray:
    images = np.zeros((count, 28, 28), dtype=np.uint8)
    images[:, 4:-4, 4:-4] = RNG.integers(256, size=(count, 20, 20), dtype=np.uint8)
    return images


def write_mnist(path: Path) -> None:
    path.mkdir()
    for part, count in (("train", 12), ("t10k", 6)):
        write_idx(path / f"{part}-images-idx3-ubyte.gz", digits_on_black(count))
        write_idx(path / f"{part}-labels-idx1-ubyte.gz", (np.arange(count) % 3).astype(np.uint8))


def write_rotmnist(path: Path) -> None:
    """In Larochelle's own format."""
    for part, count in (("train_valid", 12), ("test", 6)):
        file = path / f"mnist_all_rotation_normalized_float_{part}.amat"
        write_amat(file, digits_on_black(count) / 255, np.arange(count) % 3)


def write_stains(path: Path) -> None:
    for stain in ("CD31", "HE", "Ki67"):
        for section in ("a", "b", "c"):
            for number in range(2):
                pixels = RNG.integers(256, size=(40, 40, 3), dtype=np.uint8)
                write_image(path / stain / section / f"{number}.png", pixels)


def in_new_folder(write: Callable[[Path], object]) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.mkdir()
        write(path)

    return make


WRITERS: dict[str, Callable[[Path], object]] = {
    "<mnist>": write_mnist,
    "<anhir>": write_stains,
    "<lysto.h5>": lambda path: write_lysto(path, 9),
    "<rotmnist>": in_new_folder(write_rotmnist),
    "<cifar10>": in_new_folder(lambda path: write_cifar_binary(path, 4)),
    "<sketches>": write_stains,
    "<maps>": lambda path: write_pairs(path, {"train": 6, "val": 4}),
    "<food101>": in_new_folder(lambda path: write_food101(path, 4)),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The path of tiny data for every "<...>" of the presets."""
    folder = tmp_path_factory.mktemp("presets")
    paths = {}
    for placeholder, write in WRITERS.items():
        path = folder / placeholder.strip("<>")
        write(path)
        paths[placeholder] = str(path)
    return paths


def two_steps(options: Options) -> Trainer:
    """Train, and check that both players' updates are finite and move them."""
    trainer = Trainer(options, load_dataset(options.data, subset=options.subset, resolution=options.resolution))
    players: tuple[nn.Module, ...] = (trainer.generator, trainer.discriminator)
    before = [parameters_of(player) for player in players]
    scalars: dict[str, Tensor] = {}
    for _ in range(2):
        scalars |= trainer.step()
    assert all(value.isfinite() for value in scalars.values())
    for player, old, loss in zip(players, before, ("loss_generator", "loss_discriminator"), strict=True):
        moved = any(not torch.equal(a, b) for a, b in zip(old, parameters_of(player), strict=True))
        assert moved == (loss in scalars)
        assert all(parameter.isfinite().all() for parameter in player.parameters())
    return trainer


def parameters_of(player: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in player.parameters()]


def tiny(preset: str, data: str) -> Options:
    options = resolve(preset, data=data, generator_width=1 / 32, discriminator_width=1 / 32)
    if kind_of(options) is KINDS["points"]:  # small as it is, and two rectified units may both be 0 everywhere
        options = resolve(preset, data=data)
    batch = 2 if (options.resolution or 0) > 64 else 4
    return replace(options, batch=batch, components=min(options.components, 2), d_steps=1, subset=None)


@pytest.mark.parametrize("preset", PRESETS)
def test_two_steps_of_every_preset(preset: str, written: dict[str, str]) -> None:
    data = str(PRESETS[preset].changes.get("data", Options.data))
    for placeholder, path in written.items():
        data = data.replace(placeholder, path)
    options = tiny(preset, data)
    trainer = two_steps(options)
    shape = DATA_SHAPES[str(PRESETS[preset].changes.get("data", Options.data))]
    assert trainer.dataset.resolution == (options.resolution or shape.resolution)
    assert trainer.dataset.channels == shape.channels
    part, chosen = trainer.train_set, torch.arange(4)
    samples = trainer.sampler("test")(trainer.kind.condition(part, chosen))
    assert samples.shape == part.batch(chosen).shape
    assert samples.abs().max() <= 1


def test_cifar10_as_python_pickles(tmp_path: Path) -> None:
    write_cifar_python(tmp_path, 4)
    two_steps(tiny("cifar10-c4", str(tmp_path)))


def test_every_placeholder_can_be_written() -> None:
    wanted = {
        str(preset.changes.get("data", "")).partition(":")[2] or str(preset.changes.get("data", ""))
        for preset in PRESETS.values()
    }
    assert {name for name in wanted if "<" in name} == set(WRITERS)
