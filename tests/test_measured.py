"""The choice of a backend on a GPU: tables written here by hand, and one measured on the CPU in a GPU's place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import tune
import tune_gpu
from click.testing import CliRunner
from shapes import Shape
from torch._subclasses.fake_tensor import FakeTensorMode

import gconv
from gconv import backends
from gconv.backends import Work, measured, nvidia
from gconv.backends.triton import launch

DEVICE = "ACME G-1, 80 GB"
WORK = Work("group_conv2d", "forward", "C4", torch.bfloat16, 64, 64, 3, 1, 16, 16, 16)
PIXELS = 16 * 16 * 16
Write = Any


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes the device's table: rows (c_in, c_out, pixels, ratio) of WORK's pass, by backend."""

    def write(**rows: list[tuple[float, ...]]) -> None:
        table = {"environment": {"commit": "abc"}, "passes": {measured.pass_name(WORK): rows}}
        measured.table_path(DEVICE).write_text(json.dumps(table))

    monkeypatch.setattr(measured, "FOLDER", tmp_path)
    forget()
    yield write
    forget()


def forget() -> None:
    measured._table.cache_clear()
    measured.choose.cache_clear()


def chosen(candidates: tuple[str, ...] = ("triton",), **changes: Any) -> str:
    return measured.choose(WORK._replace(**changes), DEVICE, candidates)[0]


def test_without_a_table_dense_runs_and_the_reason_says_how_to_make_one(write: Write) -> None:
    backend, reason = measured.choose(WORK, DEVICE, ("triton",))
    assert backend == "dense"
    assert reason == f"no times were measured on {DEVICE}: python bench/tune.py --device cuda makes a table of them"
    assert measured.choose(WORK, DEVICE, ()) == ("dense", "no other backend can run")


def test_a_table_is_named_after_the_device(write: Write, tmp_path: Path) -> None:
    assert measured.table_path(DEVICE) == tmp_path / "choice-acme-g-1-80-gb.json"
    assert measured.table_path("NVIDIA H200").name == "choice-nvidia-h200.json"


def test_the_faster_backend_runs_where_it_was_measured(write: Write) -> None:
    write(triton=[(64, 64, PIXELS, 1.7)], cuda=[(64, 64, PIXELS, 2.1)])
    told_by = f"by the table measured on {DEVICE} at commit abc"
    assert measured.choose(WORK, DEVICE, ("triton",)) == ("triton", f"dense would take 1.7 times as long, {told_by}")
    assert chosen(("triton", "cuda")) == "cuda"
    assert chosen(step="weight_grad") == "dense"  # another pass
    assert chosen(dtype=torch.float32) == "dense"
    assert chosen(group="D4") == "dense"
    assert chosen(stride=2) == "dense"
    assert chosen(size=5) == "dense"


@pytest.mark.parametrize(
    ("ratio", "backend", "reason"),
    [(0.5, "dense", "triton may take 2 times"), (1.02, "dense", "by less than 5%"), (1.1, "triton", "1.1 times")],
)
def test_a_narrow_win_is_none(ratio: float, backend: str, reason: str, write: Write) -> None:
    write(triton=[(64, 64, PIXELS, ratio)])
    found, why = measured.choose(WORK, DEVICE, ("triton",))
    assert found == backend
    assert reason in why


def test_all_measured_shapes_near_one_must_agree(write: Write) -> None:
    write(triton=[(64, 64, PIXELS, 2.0), (16, 16, PIXELS, 0.8), (64, 64, PIXELS // 4, 1.2)])
    assert chosen() == "triton"
    assert chosen(c_in=45, c_out=90) == "triton"  # within a factor of two
    assert chosen(c_in=32, c_out=32) == "dense"  # as near to 16 as to 64
    assert chosen(c_in=16, c_out=64) == "dense"  # nothing is near
    assert chosen(batch=8) == "triton"  # between both numbers of pixels
    assert chosen(batch=1) == "dense"  # fewer than half of the least


def test_more_than_was_measured_counts_as_the_most(write: Write) -> None:
    write(triton=[(64, 64, PIXELS, 2.0), (16, 16, 16 * PIXELS, 2.0)])
    assert chosen(c_in=500, c_out=1000) == "triton"
    assert chosen(batch=10**5) == "triton"  # with 64 channels fewer pixels were measured than with 16
    assert chosen(c_in=7, c_out=7, batch=10**5) == "dense"
    assert chosen(batch=0) == "dense"


def explained(device: str, monkeypatch: pytest.MonkeyPatch) -> gconv.Explanation:
    """What explain says of tensors on a GPU that nobody has."""
    monkeypatch.setattr(backends, "_device_name", lambda index: device)
    monkeypatch.setattr(nvidia, "capability", lambda index: (9, 0))
    monkeypatch.setattr(launch, "triton_missing", lambda: None)
    with FakeTensorMode():
        x = torch.empty(16, 64, 4, 16, 16, device="cuda", dtype=torch.bfloat16)
        weight = torch.empty(64, 64, 4, 3, 3, device="cuda", dtype=torch.bfloat16)
        told = gconv.explain("group_conv2d", x, weight, group=gconv.CyclicGroup(4), padding=1)
        work = WORK._replace(step="forward")
        assert backends.resolve("auto", work, x) is backends.BACKENDS[told.backend]
        assert backends.resolve("dense", work, x) is backends.dense
    return told


def test_explain_knows_the_table(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    told = explained(DEVICE, monkeypatch)
    assert told.backend == "dense"
    assert f"no times were measured on {DEVICE}: python bench/tune.py" in str(told)
    write(triton=[(64, 64, PIXELS, 1.7)])
    forget()
    told = explained(DEVICE, monkeypatch)
    assert told.backend == "triton"
    assert [backend for backend, _ in told.gradients.values()] == ["dense", "dense"]  # not in the table
    assert explained("another", monkeypatch).backend == "dense"


def test_nothing_is_measured_by_choosing(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """No kernel runs, and no file appears."""
    monkeypatch.setattr(launch, "launch", lambda *arguments, **options: pytest.fail("a kernel was launched"))
    explained(DEVICE, monkeypatch)
    assert list(measured.FOLDER.iterdir()) == []


def test_the_grid_has_no_gaps() -> None:
    """Every shape between its ends has a measured one within a factor of two in each length."""
    shapes = [shape for shape, dtype in tune_gpu.grid() if dtype == torch.bfloat16 and shape.group == "C4"]
    layers = {shape.c_in for shape in shapes if shape.op == "group_conv2d"}
    pixels = {shape.batch * shape.height**2 for shape in shapes}
    for lengths in (layers, pixels):
        inner = sorted(lengths)
        assert all(b <= 4 * a for a, b in pairwise(inner)), inner
    assert {shape.op for shape in shapes} == {"group_conv2d", "lifting_conv2d", "group_pool"}
    assert all(shape.dense_flops <= tune_gpu.MOST_FLOPS for shape, _ in tune_gpu.grid())


def test_a_table_is_measured_and_then_chosen_by(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU, with the reference in the place of a GPU's backend."""
    shapes = [Shape("group_conv2d", "C4", 4, 4, 8, 2, 3, 1), Shape("group_pool", "D4", 4, 1, 8, 2, 1, 1)]
    monkeypatch.setattr(tune_gpu, "grid", lambda: [(shape, torch.float32) for shape in shapes])
    monkeypatch.setattr(tune_gpu, "RACE_S", 0.0)
    monkeypatch.setattr(backends, "ON_GPU", ("reference",))
    path = measured.table_path(DEVICE)
    tune_gpu.write(60, path, device="cpu")
    table = json.loads(path.read_text())
    steps = [f"group_conv2d {step} C4 float32 K3 stride 1" for step in ("forward", "input_grad", "weight_grad")]
    steps += [f"group_pool {step} D4 float32 K1 stride 1" for step in ("forward", "backward", "select")]
    assert list(table["passes"]) == steps
    for of_pass in table["passes"].values():
        ((*_, pixels, ratio),) = of_pass["reference"]
        assert (pixels, ratio > 0) == (2 * 8 * 8, True)
    work = Work("group_conv2d", "forward", "C4", torch.float32, 4, 4, 3, 1, 2, 8, 8)
    backend, reason = measured.choose(work, DEVICE, ("reference",))
    ratio = table["passes"][steps[0]]["reference"][0][-1]
    assert backend == ("reference" if ratio >= measured.MARGIN else "dense")
    assert "by the table measured on" in reason


def test_measuring_ends_in_time(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert tune_gpu.measure(-1.0, ("reference",), "cpu") == {}
    assert "the rest of the grid was left out" in capsys.readouterr().out


def test_a_pass_that_raises_is_left_out_of_the_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*arguments: object) -> torch.Tensor:
        raise RuntimeError("out of resources")

    shape = Shape("group_conv2d", "C4", 4, 4, 8, 2, 3, 1)
    monkeypatch.setattr(tune_gpu, "grid", lambda: [(shape, torch.float32)])
    monkeypatch.setattr(tune_gpu, "RACE_S", 0.0)
    monkeypatch.setattr(backends.reference, "conv2d", broken)
    passes = tune_gpu.measure(60, ("reference",), "cpu")
    assert [name.split()[1] for name in passes] == ["input_grad", "weight_grad"]
    assert "left out: reference group_conv2d forward C4 float32" in capsys.readouterr().out
    assert tune_gpu.run_once(shape, torch.float32, ("reference", "triton"), "cpu") == 2  # no triton on the CPU


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_tuning_says_that_there_is_no_device() -> None:
    result = CliRunner().invoke(tune.main, ["--device", "cuda"])
    assert result.exit_code == 2
    assert "--device" in result.output
