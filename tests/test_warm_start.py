"""A run that diverged goes on from an earlier snapshot, with other learning rates, in a folder of its own."""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from sgan import checkpoints
from sgan.checkpoints import CheckpointError
from sgan.config import Options, command_line, parse_option, resolve
from sgan.data import load_dataset
from sgan.presets import PRESETS
from sgan.runs import ChangedOptions
from sgan.session import Session, train
from sgan.train import main
from sgan.trainer import Trainer
from sgan.warm_start import start_from


@pytest.fixture(scope="module")
def before(tiny: Options, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one kimg: the folder."""
    path = tmp_path_factory.mktemp("runs") / "before"
    train(replace(tiny, kimg=1), path)
    return path


def test_the_networks_of_a_snapshot_with_optimisers_of_a_new_run(tiny: Options, before: Path) -> None:
    trainer = Trainer(tiny, load_dataset(tiny.data, subset=tiny.subset))
    snapshot = before / "network-snapshot-000001.safetensors"
    origin = start_from(trainer, before)
    assert (origin["path"], origin["images"]) == (str(snapshot), 1000)
    tensors, _ = checkpoints.read(snapshot)
    for player, prefix in (("average", "average"), ("generator", "average"), ("discriminator", "discriminator")):
        for name, value in checkpoints.select(prefix, tensors).items():
            assert torch.equal(getattr(trainer, player).state_dict()[name], value)
    assert trainer.images_seen == 0
    assert not checkpoints.optimizer_tensors(trainer.optimizer_g)


def test_a_warm_run_is_resumed_by_the_same_command_without_its_source(
    tiny: Options, before: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source.safetensors"
    source.write_bytes((before / "network-snapshot-000001.safetensors").read_bytes())
    warm = replace(tiny, init_from=str(source), lr_g=tiny.lr_g / 4, lr_d=tiny.lr_d / 4)
    unbroken = train(warm, tmp_path / "unbroken").read_state()
    train(replace(warm, kimg=1), tmp_path / "warm")
    source.unlink()
    resumed = train(warm, tmp_path / "warm").read_state()
    assert unbroken is not None
    assert resumed is not None
    assert all(torch.equal(value, unbroken.tensors[name]) for name, value in resumed.tensors.items())
    origin = json.loads((tmp_path / "warm" / "training_options.json").read_text())["origin"]
    assert (origin["path"], origin["images"]) == (str(source), 1000)
    cold = train(replace(warm, init_from=None), tmp_path / "cold").read_state()
    assert cold is not None
    assert any(not torch.equal(value, cold.tensors[name]) for name, value in resumed.tensors.items())
    with pytest.raises(ChangedOptions, match=r"--init-from was .*source.safetensors, now not set"):
        train(replace(warm, init_from=None, kimg=3), tmp_path / "warm")


def test_snapshots_of_other_networks_and_none_are_refused(tiny: Options, before: Path, tmp_path: Path) -> None:
    wider = replace(tiny, generator_width=1 / 16, init_from=str(before))
    with pytest.raises(CheckpointError, match="holds other networks than these options describe"):
        train(wider, tmp_path / "run")
    with pytest.raises(CheckpointError, match="holds no network-snapshot"):
        train(replace(tiny, init_from=str(tmp_path)), tmp_path / "run")
    with pytest.raises(CheckpointError, match="does not exist"):
        train(replace(tiny, init_from=str(tmp_path / "no.safetensors")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("source", ["no.safetensors", "."])
def test_a_dry_run_refuses_what_a_run_would(tiny: Options, tmp_path: Path, source: str) -> None:
    arguments = ["--data", tiny.data, "--init-from", str(tmp_path / source), "--outdir", str(tmp_path / "run")]
    outputs = [CliRunner().invoke(main, [*arguments, *extra]) for extra in ([], ["--dry-run"])]
    assert [result.exit_code for result in outputs] == [1, 1]
    assert outputs[0].output == outputs[1].output
    assert list(tmp_path.iterdir()) == []


def test_a_diverged_run_names_the_command_that_goes_on(
    tiny: Options, before: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command itself is run, and does."""
    measure = Session.measure

    def diverge(session: Session) -> dict[str, float]:
        if session.trainer.images_seen == 0:
            return measure(session)
        raise session.divergence("loss_generator is nan")

    monkeypatch.setattr(Session, "measure", diverge)
    with pytest.raises(FloatingPointError, match="The same options diverge the same way") as caught:
        train(replace(tiny, kimg=1), tmp_path / "a run")
    monkeypatch.undo()
    _, command = str(caught.value).split("in a folder of its own: ")
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "sgan.train"]
    result = CliRunner().invoke(main, words[3:])
    assert result.exit_code == 0, result.output
    recorded = json.loads((tmp_path / "a run-2" / "training_options.json").read_text())
    assert recorded["options"]["lr_g"] == tiny.lr_g / 2
    assert recorded["options"]["init_from"].endswith("network-snapshot-000000.safetensors")


@pytest.mark.parametrize("preset", ["digits-c4", "mnist-500-deligan", "toy-c4", "maps-d4"])
def test_a_command_line_says_all_options(preset: str) -> None:
    options = Options(
        preset=preset, **{**PRESETS[preset].changes, "data": "a path/with spaces", "clip": 0.5, "seed": 3}
    )
    words = shlex.split(command_line(options, lr_g=1e-5))[3:]
    flags = {
        name[2:].replace("-", "_"): value
        for name, value in zip(words[::2], words[1::2], strict=True)
        if name != "--set"
    }
    settings = dict(parse_option(value) for name, value in zip(words[::2], words[1::2], strict=True) if name == "--set")
    seed = {"seed": int(flags.pop("seed"))}
    parsed = resolve(flags.pop("preset"), **flags, **seed, **settings)
    assert parsed == replace(options, lr_g=1e-5)
    assert math.isclose(parsed.lr_g, 1e-5)


def test_a_users_subset_is_said_though_it_equals_the_presets() -> None:
    """The preset's would be left out of the command, and is for the preset's own data alone."""
    preset = PRESETS["cifar10-2000-gan"].changes["subset"]
    own, users = resolve("cifar10-2000-gan", data="a"), resolve("cifar10-2000-gan", data="a", subset=preset)
    assert (own.subset, users.subset, users.subset_of) == (preset, preset, None)
    assert "--subset" not in shlex.split(command_line(own))
    words = shlex.split(command_line(users))
    assert words[words.index("--subset") + 1] == str(preset)
