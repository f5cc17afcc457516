"""Data without labels, networks that see none, and the names of classes where there are some."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from sgan import checkpoints
from sgan.config import Options, resolve
from sgan.data import load_dataset
from sgan.grids import save_grid
from sgan.kinds import kind_of, sees_labels
from sgan.presets import PRESETS
from sgan.sample import draw_samples, load_generator
from sgan.sample import main as sample
from sgan.session import label_remarks, train
from sgan.trainer import Trainer, build_discriminator, build_generator

NAMES = ("glioma", "meningioma", "no tumour")


def write_set(path: Path, options: Options, num_classes: int) -> Options:
    """The tiny digits with other labels: image i is of class i modulo num_classes."""
    with np.load(options.data) as arrays:
        x = arrays["x"]
    np.savez(path, x=x, y=np.arange(len(x)) % num_classes)
    return replace(options, data=str(path), subset=None, kimg=1)


@pytest.mark.parametrize("preset", ["digits-c4", "rotmnist-c4", "anhir-d4", "cifar10-c4", "mnist-san"])
def test_one_class_is_not_embedded(preset: str) -> None:
    options = resolve(preset, width=1 / 64, data="digits")
    side = {"cifar10-c4": 32, "anhir-d4": 64}.get(preset, 28)
    for build in (build_generator, build_discriminator):
        one = build(options, resolution=side, channels=1, num_classes=1)
        assert [name for name in one.state_dict() if "embed" in name] == []
        if preset != "mnist-san":
            ten = build(options, resolution=side, channels=1, num_classes=10)
            assert [name for name in ten.state_dict() if name.endswith("embed.weight")] != []


def test_a_run_without_labels_has_a_grid_of_samples(tiny: Options, tmp_path: Path) -> None:
    options = write_set(tmp_path / "one.npz", tiny, 1)
    run = train(options, tmp_path / "run").path
    state = checkpoints.read(run / "training-state.safetensors")[0]
    assert [name for name in state if "embed" in name] == []
    with Image.open(run / "fakes000001.png") as image:
        assert image.size == (10 * 56, 10 * 56)
        tiles = np.asarray(image).reshape(10, 56, 10, 56).transpose(0, 2, 1, 3).reshape(100, -1)
        assert len(np.unique(tiles, axis=0)) == 100
    images = len(load_dataset(options.data).train)
    with Image.open(run / "reals.png") as image:
        tiles = np.asarray(image).reshape(-1, 56, 10, 56).transpose(0, 2, 1, 3).reshape(-1, 56 * 56)[:images]
        assert len(np.unique(tiles, axis=0)) == images
    out = tmp_path / "grid.png"
    snapshot = run / "network-snapshot-000001.safetensors"
    result = CliRunner().invoke(sample, [str(snapshot), "--out", str(out), "--columns", "3"])
    assert result.exit_code == 0, result.output
    with Image.open(out) as image:
        assert image.size == (3 * 56, 3 * 56)
    train(replace(options, kimg=2), run)
    assert "no labels" not in (run / "log.txt").read_text()


def test_files_that_embed_one_class_are_still_read(tiny: Options, tmp_path: Path) -> None:
    """As versions before wrote them: the run goes on, and the snapshot draws."""
    options = write_set(tmp_path / "one.npz", tiny, 1)
    run = train(options, tmp_path / "run").path
    old = Trainer(options, load_dataset(options.data), embed_one_class=True)
    old.images_seen = 1000
    old.step()
    assert any("embed" in name for name in old.state())
    metadata = checkpoints.read(run / "network-snapshot-000001.safetensors")[1]
    del metadata["class_names"]
    checkpoints.write(run / "training-state.safetensors", old.state(), {"elapsed_s": 0.0})
    checkpoints.write(tmp_path / "old.safetensors", old.snapshot(), metadata)
    train(replace(options, kimg=2), run)
    state = checkpoints.read(run / "training-state.safetensors")[0]
    assert int(state["images_seen"]) == 2000
    assert state.keys() == old.state().keys()
    generator = load_generator(tmp_path / "old.safetensors")
    assert draw_samples(generator, torch.zeros(2, dtype=torch.int64), 0).isfinite().all()


@pytest.mark.parametrize(
    ("preset", "changes", "who"),
    [
        ("mnist-nsgan", {}, "The networks see no labels with mnist-nsgan"),
        ("digits-c4", {"discriminator": "mnist-conv", "discriminator_group": "C1"}, "The discriminator sees no labels"),
        ("digits-c4", {}, None),
    ],
)
def test_networks_that_see_no_labels_of_a_set_that_has_some_say_so(
    tiny: Options, tmp_path: Path, preset: str, changes: dict[str, str], who: str | None
) -> None:
    dataset = load_dataset(write_set(tmp_path / "three.npz", tiny, 3).data)
    options = replace(resolve(preset, data="digits"), **changes)  # type: ignore[arg-type]  # any option
    lines = label_remarks(options, dataset)
    assert bool(lines) == (who is not None)
    by_class = sees_labels(options, dataset.num_classes)
    assert by_class == (preset == "digits-c4")
    for line in lines:
        assert who is not None
        assert line.startswith(who)
        assert "the 3 classes of three.npz" in line
        assert ("rows of grids are not classes" in line) == (not by_class)
    picture = kind_of(options).picture(dataset, by_class)
    assert len(picture.condition) == (30 if by_class else 100)


def test_every_preset_says_whether_it_sees_labels() -> None:
    """The MNIST GANs, DeLiGAN and the perceptrons see none; pairs and points have none."""
    blind = {name for name in PRESETS if not sees_labels(Options(preset=name, **PRESETS[name].changes), 10)}
    systems = {PRESETS[name].system for name in blind}
    assert systems == {"MNIST GANs, SAN", "DeLiGAN", "SP-GAN", "GE-GAN"}
    assert {name for name in blind if PRESETS[name].system == "GE-GAN"} == {"maps-cnn", "maps-c4", "maps-d4"}
    assert {name for name in blind if PRESETS[name].system == "SP-GAN"} == {name for name in PRESETS if name in TOY}


TOY = ("toy-mlp", "toy-c4-g-only", "toy-c4-d-only", "toy-c4-flawed", "toy-c4")


def test_class_names_are_in_the_run_folder_the_snapshot_and_the_grids(tiny: Options, tmp_path: Path) -> None:
    with np.load(tiny.data) as arrays:
        x = arrays["x"]
    for number, image in enumerate(x):
        folder = tmp_path / "scans" / NAMES[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number}.png")
    run = train(replace(tiny, data=str(tmp_path / "scans"), subset=None, kimg=1), tmp_path / "run").path
    recorded = json.loads((run / "training_options.json").read_text())
    assert tuple(recorded["dataset"]["class_names"]) == NAMES
    assert tuple(checkpoints.read(run / "network-snapshot-000001.safetensors")[1]["class_names"]) == NAMES
    for name in ("reals.png", "fakes000001.png"):
        with Image.open(run / name) as image:
            assert image.height == 3 * 56
            margin = image.width - 10 * 56
            assert margin > 0
            for row in range(3):
                extrema = image.crop((0, 56 * row, margin, 56 * (row + 1))).getextrema()
                assert extrema == (0, 255)  # black on white


@pytest.mark.parametrize("channels", [1, 3])
def test_long_names_are_cut_and_the_images_stay_as_they_are(tmp_path: Path, channels: int) -> None:
    images = torch.rand(4, channels, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1
    save_grid(images, tmp_path / "plain.png", columns=2)
    save_grid(images, tmp_path / "named.png", columns=2, row_names=("a very long name " * 50, "two\nlines"))
    with Image.open(tmp_path / "plain.png") as plain, Image.open(tmp_path / "named.png") as named:
        margin = named.width - plain.width
        assert 100 < margin < 200
        assert named.mode == plain.mode
        assert named.crop((margin, 0, named.width, named.height)).tobytes() == plain.tobytes()
    with pytest.raises(ValueError, match="save_grid: row_names must be 2 names, got 3"):
        save_grid(images, tmp_path / "a.png", columns=2, row_names=("a", "b", "c"))
