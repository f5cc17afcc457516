"""Samples of a snapshot."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from sgan import checkpoints
from sgan.checkpoints import CheckpointError
from sgan.config import Options
from sgan.data import load_dataset
from sgan.sample import draw_samples, load_generator, main
from sgan.session import snapshot_metadata
from sgan.trainer import Trainer

TINY = Options(preset="digits-d4", generator_group="D4", generator_width=1 / 64, discriminator_width=1 / 64)


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("snapshot") / "network-snapshot-000000.safetensors"
    trainer = Trainer(TINY, load_dataset("digits", subset=0.1))
    checkpoints.write(path, trainer.snapshot(), snapshot_metadata(trainer))
    return path


def test_a_snapshot_alone_rebuilds_the_averaged_generator(snapshot: Path) -> None:
    generator = load_generator(snapshot)
    expected = Trainer(TINY, load_dataset("digits", subset=0.1)).average
    assert not generator.training
    assert generator.group.name == "D4"
    for name, tensor in expected.state_dict().items():
        assert torch.equal(generator.state_dict()[name], tensor), name


def test_samples_are_a_function_of_the_seed(snapshot: Path) -> None:
    generator, labels = load_generator(snapshot), torch.arange(10)
    images = draw_samples(generator, labels, 3)
    assert images.shape == (10, 1, 28, 28)
    assert torch.equal(images, draw_samples(generator, labels, 3))
    assert not torch.equal(images, draw_samples(generator, labels, 4))


def test_the_command_writes_one_class_per_row(snapshot: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, [str(snapshot), "--out", str(tmp_path / "grid.png"), "--columns", "4"])
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "grid.png") as image:
        assert image.height == 10 * 56
        margin = image.width - 4 * 56
        assert 0 < margin < 56
        assert image.crop((0, 0, margin, 56)).getextrema()[0] < 128  # a name in black


def test_a_damaged_snapshot_is_named(snapshot: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(snapshot.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"damaged\.safetensors is damaged or incomplete"):
        load_generator(damaged)
    checkpoints.write(damaged, {"a": torch.zeros(1)}, {})
    with pytest.raises(CheckpointError, match="is not a network snapshot"):
        load_generator(damaged)
