"""Points and pairs go through the same trainer, run folder and commands as images. Networks are tiny."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor
from writers import write_image

from sgan import checkpoints, report, sample
from sgan.config import Options, resolve
from sgan.data import Dataset, load_dataset
from sgan.kinds import KINDS, kind_of
from sgan.latents import stream
from sgan.metrics import Evaluator, PairEvaluator
from sgan.runs import read_json_lines
from sgan.session import train
from sgan.trainer import Trainer

SIDE = 32


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """6 pairs to train on and 5 held-out ones, 32 x 32 pixels of one colour on the left and dark blue on the right."""
    path = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    for number in range(11):
        pixels = np.zeros((SIDE, 2 * SIDE, 3), np.uint8)
        pixels[:, :SIDE] = rng.integers(256, size=3)
        pixels[:, SIDE:] = rng.integers(64, size=3)
        write_image(path / ("train" if number < 6 else "val") / f"{number:02}.png", pixels)
    return str(path)


def tiny_points(preset: str = "toy-c4", **changes: Any) -> Options:
    return replace(resolve(preset), **{"batch": 50, "kimg": 2, "tick": 1, **changes})


def tiny_pairs(path: str, **changes: Any) -> Options:
    options = resolve("maps-c4", data=path, resolution=SIDE, width=1 / 16)
    return replace(options, **{"batch": 4, "kimg": 1, "tick": 1, "decay_from": None, "decay_to": None, **changes})


def make(options: Options) -> Trainer:
    return Trainer(options, load_dataset(options.data, seed=options.seed, resolution=options.resolution))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on points of 2 kimg, not to be written to."""
    return train(tiny_points(), tmp_path_factory.mktemp("runs") / "points").path


def test_a_run_on_points_writes_what_a_run_on_images_does(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    metrics = {f"metric-{name}_points.jsonl" for name in ("energy", "precision", "recall", "symmetry_p")}
    assert names >= metrics | {"reals.png", "fakes000000.png", "fakes000002.png", "floor.json", "stats.jsonl"}
    lines = read_json_lines(finished / "metric-energy_points.jsonl")
    assert [line["kimg"] for line in lines] == [0, 1, 2]
    assert lines[2]["results"]["energy_points"] < lines[0]["results"]["energy_points"]
    assert (finished / "reals.png").read_bytes() != (finished / "fakes000002.png").read_bytes()


def test_a_killed_run_on_points_resumes_bit_for_bit(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Trainer.step

    def stopping(self: Trainer) -> dict[str, Tensor]:
        if self.images_seen == 1500:
            raise OSError("killed")
        return original(self)

    monkeypatch.setattr(Trainer, "step", stopping)
    with pytest.raises(OSError, match="killed"):
        train(tiny_points(), tmp_path / "run")
    monkeypatch.undo()
    train(tiny_points(), tmp_path / "run")
    mine, theirs = (checkpoints.read(run / "training-state.safetensors")[0] for run in (tmp_path / "run", finished))
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []
    for name in ("fakes000002.png", "metric-energy_points.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (finished / name).read_bytes()


def test_runs_on_points_are_reported_as_others_are(finished: Path, tmp_path: Path) -> None:
    arguments = [str(finished), "--metric", "energy_points", "--out", str(tmp_path)]
    result = CliRunner(env={"COLUMNS": "160"}).invoke(report.main, arguments)
    assert result.exit_code == 0, result.output
    assert "held-out real, toy-c4 (seed 0), n = 2,000" in result.output
    with Image.open(tmp_path / "grids.png") as grids:
        assert grids.mode == "RGB"


def test_points_of_a_snapshot_are_drawn(finished: Path, tmp_path: Path) -> None:
    snapshot = str(finished / "network-snapshot-000002.safetensors")
    for seed in (0, 0, 1):
        result = CliRunner().invoke(
            sample.main, [snapshot, "--out", str(tmp_path / f"{seed}.png"), "--seed", str(seed)]
        )
        assert result.exit_code == 0, result.output
    assert "1000 samples" in result.output
    assert (tmp_path / "0.png").read_bytes() != (tmp_path / "1.png").read_bytes()


def test_augmented_points_are_turned_as_points_are() -> None:
    trainer = make(tiny_points("toy-mlp", augment="C4"))
    points = torch.tensor([[1.0, 2.0]]).repeat(40, 1)
    elements = trainer._draw("discriminator", points).real_elements
    seen = {tuple(point) for point in trainer._moved(points, elements).round().tolist()}
    assert seen == {(1.0, 2.0), (-2.0, 1.0), (-1.0, -2.0), (2.0, -1.0)}


@pytest.mark.parametrize("penalty", ["r1", "one-sided", "two-sided"])
@pytest.mark.parametrize("preset", ["toy-c4", "toy-deligan"])
def test_points_train_with_every_penalty(preset: str, penalty: str) -> None:
    trainer = make(tiny_points(preset, penalty=penalty, penalty_weight=1.0))
    scalars = trainer.step_discriminator(*trainer.next_real_batch())
    assert scalars["loss_discriminator"].isfinite()
    assert float(scalars["penalty"]) >= 0 if penalty == "one-sided" else float(scalars["penalty"]) > 0


def test_a_run_on_pairs_translates_held_out_sources(pairs: str, tmp_path: Path) -> None:
    options = tiny_pairs(pairs, generator_group="C1", discriminator_group="C1", batch=20)
    run = train(options, tmp_path / "run").path
    lines = read_json_lines(run / "metric-l1_pixels.jsonl")
    assert [line["kimg"] for line in lines] == [0, 1]
    assert {line["n_fake"] for line in lines} == {5}
    assert lines[1]["results"]["l1_pixels"] < lines[0]["results"]["l1_pixels"]
    names = {path.name for path in run.glob("metric-fid_*.jsonl")}
    assert names == {"metric-fid_imagenet.jsonl", "metric-fid_test_imagenet.jsonl", "metric-fid_digits.jsonl"}
    test = load_dataset(pairs, resolution=SIDE).test
    with Image.open(run / "reals.png") as grid:
        assert grid.size == (3 * 64, 4 * 64)  # drawn twice as large; source, target in the sample's place, target
        row = torch.from_numpy(np.array(grid)[64:128:2, ::2])  # (H, 3 W, C) of the second pair
    source, fake, target = row.permute(2, 0, 1).unflatten(2, (3, SIDE)).unbind(2)
    assert torch.equal(source, test.paired[1])
    assert torch.equal(fake, test.images[1])
    assert torch.equal(target, test.images[1])
    snapshot, out = run / "network-snapshot-000001.safetensors", tmp_path / "a.png"
    result = CliRunner().invoke(sample.main, [str(snapshot), "--out", str(out), "--data", pairs])
    assert result.exit_code == 0, result.output
    assert out.read_bytes() == (run / "fakes000001.png").read_bytes()  # no latents: the seed changes nothing
    result = CliRunner().invoke(sample.main, [str(snapshot), "--out", str(out), "--data", "digits"])
    assert result.exit_code == 1
    assert "data must be pairs of images" in result.output


def test_both_players_see_the_source_of_the_pair(pairs: str) -> None:
    """The U-Net gets sources, D sources beside targets, and both belong together."""
    trainer = make(tiny_pairs(pairs))
    real, sources = trainer.next_real_batch()
    part = trainer.train_set
    for target, source in zip(real, sources, strict=True):
        index = next(i for i in range(len(part)) if torch.equal(part.batch(slice(i, i + 1))[0], target))
        assert torch.equal(part.paired_batch(slice(index, index + 1))[0], source)
    assert torch.equal(trainer.sampler("grid")(sources), trainer.average(sources))
    assert not torch.equal(trainer.average(sources), trainer.average(sources.flip(0)))
    assert trainer.discriminator(real, sources).ndim == 3
    assert not torch.equal(trainer.discriminator(real, sources), trainer.discriminator(real, sources.flip(0)))


def test_the_generators_step_weighs_the_l1_distance(pairs: str) -> None:
    """The scalar is E |G(x) - y|, and the generator's gradient is linear in its weight."""
    gradients = {}
    for weight in (0.0, 1.0, 100.0):
        trainer = make(tiny_pairs(pairs, l1_weight=weight))
        for module in trainer.generator.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        real, sources = trainer.next_real_batch()
        expected = (trainer.generator(sources) - real).abs().mean().detach()
        scalars = trainer.step_generator(real, sources)
        gradients[weight] = torch.cat([parameter.grad.flatten() for parameter in trainer.generator.parameters()])
        assert ("l1" in scalars) == (weight > 0)
        torch.testing.assert_close(scalars.get("l1", expected), expected)
    of_l1 = gradients[1.0] - gradients[0.0]
    assert of_l1.norm() > 0.1
    assert (gradients[100.0] - gradients[0.0] - 100 * of_l1).norm() < 1e-3 * 100 * of_l1.norm()


def test_dropout_is_drawn_anew_in_every_step_and_resumed(pairs: str) -> None:
    first, second, through = (make(tiny_pairs(pairs)) for _ in range(3))
    assert any(isinstance(module, torch.nn.Dropout) for module in first.generator.modules())
    first.step()
    second.load_state(first.state())
    torch.manual_seed(7)  # of nothing that training draws from
    second.step()
    for _ in range(2):
        through.step()
    states = second.state(), through.state()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("penalty", ["r1", "one-sided", "two-sided"])
def test_pairs_train_with_every_penalty_and_the_relativistic_loss(pairs: str, penalty: str) -> None:
    scalars = make(tiny_pairs(pairs, penalty=penalty, loss="ra")).step()
    assert all(map(torch.isfinite, scalars.values()))
    assert float(scalars["penalty"]) > 0


def test_pairs_are_measured_in_their_order(pairs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A generator that looks its targets up has l1 0, one that is off by 1/2 has 1/2, whatever the batches."""
    monkeypatch.setattr("sgan.metrics.pair_evaluator.BATCH", 2)
    dataset = load_dataset(pairs, resolution=SIDE)
    sources, targets = dataset.test.paired_batch(slice(None)), dataset.test.batch(slice(None))

    def look_up(batch: Tensor) -> Tensor:
        return torch.stack([targets[(sources == source).flatten(1).all(1)][0] for source in batch])

    evaluator = PairEvaluator(dataset)
    perfect = evaluator.evaluate(look_up)
    assert perfect == pytest.approx(evaluator.floor(), abs=1e-4)
    assert perfect["l1_pixels"] == 0
    assert perfect.keys() == Evaluator(dataset, num_fakes=5).floor().keys() | {"l1_pixels"}
    off = evaluator.evaluate(lambda batch: look_up(batch) / 2)
    assert off["l1_pixels"] == pytest.approx(float(targets.abs().mean()) / 2)


def data_of(kind: str, pairs: str) -> Dataset:
    return load_dataset({"images": "digits", "points": "toy-c4", "pairs": pairs}[kind])


@pytest.mark.parametrize(("preset", "kind"), [("digits-c4", "images"), ("toy-c4", "points"), ("maps-c4", "pairs")])
def test_data_of_another_kind_is_refused(preset: str, kind: str, pairs: str) -> None:
    options = resolve(preset, data="digits")
    for other in KINDS:
        if other == kind or (kind, other) == ("images", "pairs"):  # whose targets are images
            KINDS[kind].check(options, data_of(other, pairs))
        else:
            with pytest.raises(ValueError, match=f"train: data must be {KINDS[kind].data} for generator"):
                Trainer(options, data_of(other, pairs))


@pytest.mark.parametrize(
    ("preset", "changes", "message"),
    [
        ("maps-c4", {"augment": "C4"}, "augment must be C1 for generator pix2pix, got C4"),
        ("maps-c4", {"head": "san"}, "head must be score for generator pix2pix, got san"),
        ("toy-c4", {"l1_weight": 1.0}, "l1_weight must be 0.0 for generator points, got 1.0"),
        ("digits-c4", {"l1_weight": 1.0}, "l1_weight must be 0.0 for generator digits, got 1.0"),
        (
            "toy-c4",
            {"discriminator": "digits"},
            "discriminator must take points, as generator points makes, got digits",
        ),
    ],
)
def test_options_that_mean_nothing_are_refused(preset: str, changes: dict[str, Any], message: str, pairs: str) -> None:
    options = replace(resolve(preset, data="digits"), **changes)
    with pytest.raises(ValueError, match=message):
        kind_of(options).check(options, data_of(kind_name(options), pairs))


def kind_name(options: Options) -> str:
    return next(name for name, kind in KINDS.items() if kind is kind_of(options))


def test_the_flawed_generator_on_points_is_the_same_network() -> None:
    correct, flawed = make(tiny_points()), make(tiny_points("toy-c4-flawed"))
    for name, tensor in correct.generator.state_dict().items():
        assert torch.equal(flawed.generator.state_dict()[name], tensor)
    labels = torch.zeros(20, dtype=torch.int64)
    assert not torch.equal(
        correct.average.generate(labels, stream(0, "a")), flawed.average.generate(labels, stream(0, "a"))
    )
