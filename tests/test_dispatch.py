"""The measured choice of a backend: the table, the polynomial it holds, and who asks it what."""

from __future__ import annotations

import json
import math
from itertools import product
from pathlib import Path

import pytest
import sweep
import torch
import tune
from cases import BACKENDS, GROUPS, OPERATIONS, Case
from click.testing import CliRunner
from shapes import Shape

import gconv
from gconv import backends
from gconv.backends import Work

GRADIENTS = ("input_grad", "weight_grad")
PASSES = [(operation, step) for operation in OPERATIONS for step in ("forward", *GRADIENTS)]
PASSES += [("group_pool", step) for step in ("forward", "backward", "select")]
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

needs_native = pytest.mark.skipif("cpu" not in BACKENDS, reason="the native module was not built")


def work_of(shape: Shape, step: str, dtype: torch.dtype = torch.float32) -> Work:
    return Work(
        shape.op, step, shape.group, dtype, shape.c_in, shape.c_out, shape.size, shape.stride,
        shape.batch, shape.out_height, shape.out_height,
    )  # fmt: skip


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Work]:
    """The works whose backend is chosen from now on; only the gradient in x goes to dense."""
    found: list[Work] = []

    def ratio(work: Work) -> float:
        found.append(work)
        return 0.5 if work.step == "input_grad" else 2.0

    monkeypatch.setattr(backends, "predicted_ratio", ratio)
    return found


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("group", GROUPS)
def test_the_table_knows_every_pass(group: str, dtype: torch.dtype) -> None:
    for (operation, step), channels, length in product(PASSES, (1, 7, 10**5), (0, 1, 64, 10**5)):
        work = Work(operation, step, group, dtype, channels, channels, 3, 1, 2, length, length)
        assert 0 < backends.predicted_ratio(work) < math.inf


def test_the_table_says_where_it_comes_from() -> None:
    table = json.loads(backends.TABLE.read_text())
    assert table["made_by"] == "python bench/tune.py"
    assert table["samples"] > 0
    assert {"commit", "versions", "device", "instruction_set", "threads", "load"} <= set(table["environment"])


def test_the_table_is_packaged() -> None:
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    assert '"gconv.backends" = ["choice*.json"]' in text


@needs_native
@pytest.mark.parametrize("step", ["forward", *GRADIENTS])
def test_layers_of_usual_width_run_on_the_engine(step: str) -> None:
    for group, channels, height in [
        ("C4", 16, 28), ("C4", 64, 14), ("C4", 64, 56), ("C4", 256, 28), ("D4", 8, 28), ("D4", 32, 14), ("D4", 32, 28),
        ("D4", 128, 28), ("D2", 32, 28), ("D2", 64, 64), ("C2", 64, 28),
    ]:  # fmt: skip
        shape = Shape("group_conv2d", group, channels, channels, height, batch=32, size=3, stride=1)
        assert backends.predicted_ratio(work_of(shape, step)) > 1


@needs_native
@pytest.mark.parametrize(("channels", "expected"), [(1, "dense"), (16, "cpu")])
def test_single_channels_off_the_pixel_grid_run_dense(channels: int, expected: str) -> None:
    """cpu takes the planes of a coset apart: a map on C16 has four blocks of as many channels as it has itself."""
    group = gconv.CyclicGroup(16)
    x = torch.empty(2, channels, 16, 24, 24)
    weight = torch.empty(4 * channels, 4 * channels, 4, 3, 3)
    explanation = gconv.explain("group_conv2d", x, weight, group=group, padding=1)
    assert {explanation.backend, *(backend for backend, _ in explanation.gradients.values())} == {expected}


def samples_of(polynomial: dict[str, float]) -> list[tune.Sample]:
    """Shapes whose ratio of times is a known polynomial in the logarithms."""
    found = []
    for group, c_in, c_out, height, size, batch in product(GROUPS, (2, 9, 60), (3, 20), (5, 40), (1, 3), (1, 8)):
        work = work_of(Shape("group_conv2d", group, c_in, c_out, height, batch, size, 1), "forward")
        exponent = polynomial[group] + 0.1 * math.log2(c_in) - 0.2 * math.log2(size) + 0.01 * math.log2(c_out) ** 2
        found.append(tune.Sample(work, cpu=1.0, dense=2.0**exponent))
    return found


def test_the_fit_finds_a_polynomial_and_the_choice_follows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = samples_of({group: 0.2 * i - 0.5 for i, group in enumerate(GROUPS)})
    monkeypatch.setattr(tune, "RIDGE", 1e-9)
    tune.write(samples, tmp_path / "choice.json")
    monkeypatch.setattr(backends, "TABLE", tmp_path / "choice.json")
    backends._table.cache_clear()
    backends.predicted_ratio.cache_clear()
    try:
        for sample in samples:
            assert backends.predicted_ratio(sample.work) == pytest.approx(sample.dense, rel=1e-2)
        x = torch.zeros(1)
        native = backends.unavailable("cpu", x) is None
        for sample in samples:
            fast = native and backends.predicted_ratio(sample.work) >= 1
            assert backends.choose(sample.work, x)[0] == ("cpu" if fast else "dense")
            assert backends.resolve("auto", sample.work, x) is backends.BACKENDS["cpu" if fast else "dense"]
        far = samples[-1].work._replace(batch=10**6, height=1, width=1)
        inside = far._replace(batch=8 * 40 * 40)
        assert backends.predicted_ratio(far) == backends.predicted_ratio(inside)  # past the ends, the end
    finally:
        backends._table.cache_clear()
        backends.predicted_ratio.cache_clear()


@needs_native
@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_pass_asks_for_itself_with_the_sizes_of_the_forward_pass(
    operation: str, asked: list[Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(operation, "D2", size=3, stride=2, padding=1, height=9, width=6, c_in=3, c_out=5, batch=2)
    ran: list[tuple[str, str]] = []
    for name, function in product(("cpu", "dense"), ("conv2d", "conv2d_input_grad", "conv2d_weight_grad")):
        real = getattr(backends.BACKENDS[name], function)

        def spy(*args: object, key: tuple[str, str] = (name, function), real: object = real) -> object:
            ran.append(key)
            assert callable(real)
            return real(*args)

        monkeypatch.setattr(backends.BACKENDS[name], function, spy)
    x, weight, bias = case.operands(torch.randn)
    case.run(x.requires_grad_(), weight.requires_grad_(), bias).sum().backward()
    assert ran == [("cpu", "conv2d"), ("dense", "conv2d_input_grad"), ("cpu", "conv2d_weight_grad")]
    forward = Work(operation, "forward", "D2", torch.float32, 3, 5, 3, 2, 2, 5, 3)
    assert asked == [forward, *(forward._replace(step=step) for step in GRADIENTS)]
    told = gconv.explain(operation, x, weight, group=case.planar_group, stride=2, padding=1)
    assert (told.backend, {step: backend for step, (backend, _) in told.gradients.items()}) == (
        "cpu",
        {"input_grad": "dense", "weight_grad": "cpu"},
    )
    assert asked[3:] == asked[:3]


@needs_native
def test_pooling_asks_for_itself(asked: list[Work]) -> None:
    x = torch.randn(2, 3, 4, 5, 6, requires_grad=True)
    out = gconv.group_pool(x, group=gconv.CyclicGroup(4))
    (grad,) = torch.autograd.grad(out.pow(2).sum(), x, create_graph=True)
    grad.pow(2).sum().backward()
    forward = Work("group_pool", "forward", "C4", torch.float32, 3, 1, 1, 1, 2, 5, 6)
    assert {work.step for work in asked} == {"forward", "backward", "select"}
    assert {work._replace(step="forward") for work in asked} == {forward}


def test_a_named_backend_asks_nobody(asked: list[Work]) -> None:
    case = Case("group_conv2d", "C4")
    x, weight, bias = case.operands(torch.randn)
    for backend in BACKENDS:
        case.run(x.requires_grad_(), weight.requires_grad_(), bias, backend).sum().backward()
    assert asked == []


@needs_native
def test_the_table_is_measured_by_a_command(tmp_path: Path) -> None:
    path = tmp_path / "choice.json"
    result = CliRunner().invoke(tune.main, ["--seconds", "1", "--threads", "1", "--output", str(path)])
    assert result.exit_code == 0, result.output
    made, packaged = json.loads(path.read_text()), json.loads(backends.TABLE.read_text())
    assert made.keys() == packaged.keys()
    assert made["environment"].keys() == packaged["environment"].keys()
    assert len(made["bounds"]) == len(packaged["bounds"])
    for name, step in made["steps"].items():
        assert step.keys() == packaged["steps"][name].keys()
        assert step["group"].keys() == packaged["steps"][name]["group"].keys()
        assert len(step["curvature"]) == len(packaged["steps"][name]["curvature"])


@needs_native
def test_the_sweep_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "LONGEST_S", 2e-3)
    monkeypatch.setattr(sweep, "BUDGET_S", 1e-3)
    monkeypatch.setattr(sweep, "dense_forward_s", lambda shape: shape.dense_flops / 1e11)  # the same shapes every time
    monkeypatch.setattr(sweep.cpu, "fma_peak", lambda threads: 1e11)
    path = tmp_path / "rows.jsonl"
    for count in (1, 2, 2):
        result = CliRunner().invoke(sweep.main, ["--shapes", str(count), "--threads", "1", "--output", str(path)])
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert result.exit_code == any(row["lost"] for row in rows), result.output
        assert [row["work"] for row in rows] == count * list(sweep.WORKS)
        assert f"forward+backward: {count} shapes" in result.output
    for row in rows:
        assert row["error"] <= 1
        assert row["ratio"]["p20"] <= row["ratio"]["median"] <= row["ratio"]["p80"]
        assert row["backends"].keys() == {"forward", *GRADIENTS}


@needs_native
def test_the_sweep_refuses_a_wrong_result(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = backends.dense.conv2d
    monkeypatch.setattr(backends.dense, "conv2d", lambda *arguments: 1.01 * real(*arguments))
    monkeypatch.setattr(backends, "predicted_ratio", lambda work: 2.0)
    result = CliRunner().invoke(sweep.main, ["--shapes", "1", "--threads", "1", "--output", str(tmp_path / "rows")])
    assert result.exit_code == 1
    assert "times what rounding can do" in result.output
