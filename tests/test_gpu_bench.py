"""The bench of a GPU on small cases and hand-made rows: shapes, targets, checks, and what is made of the rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bench_group_pool
import click
import convolution
import floors
import gpu
import limits
import measure
import pytest
import report
import run
import show
import targets
import torch
import train_step
from click.testing import CliRunner
from kernel_sources import checksums
from measure import Case, Setting
from runner import Bench, module_of

import gconv

HERE = {
    "device": "ACME G-1",
    "kernel_sources": {"triton": "s1", "cuda": "c1"},
    "commit": "abc",
    "dirty": False,
    "driver": "1.2",
    "load": 0.0,
}
HERE |= {"cuda": "13.0", "cudnn": 9, "triton": "3.6.0", "versions": {"torch": "2.11"}}
ON_CPU = {"device": "A CPU", "instruction_set": "avx2", "threads": 2, "load": 0.0, "commit": "abc", "dirty": False}
ON_CPU |= {"versions": {"torch": "2.11"}}


def gpu_row(case: Case, ratio: float, **changes: Any) -> dict[str, Any]:
    """A row as bench/run.py writes it on a GPU."""
    quantity = show.SUITES[case.suite].quantity
    quantities = {quantity: {"median": ratio, "p20": ratio - 0.01, "p80": ratio + 0.01}}
    row = {"run": "2026-01-01", "selection": "gpu full", "cases": 2, "time": "1", "environment": HERE}
    row |= {"case": asdict(case), "backend": "triton", "check": {"forward": 0.1}, "wrong": False}
    row |= {"times_ms": {"gconv": {"median": 1.0}, "conv2d NHWC": {"median": ratio}}, "best": {"conv2d": "conv2d NHWC"}}
    return row | {"quantities": quantities, "targets": targets.judged(case, quantities, "triton")} | changes


def case_of(suite: str, **wanted: Any) -> Case:
    """The first case of the suite with these values."""
    cases = [case for op in run.OPS for case in module_of(op).CASES if case.suite == suite]
    return next(case for case in cases if all(getattr(case, name) == value for name, value in wanted.items()))


def test_the_table_comes_from_the_rows() -> None:
    steps = [{"step": "tests", "status": "passed", "seconds": 3.0, "detail": "12 passed"}]
    steps += [
        {"step": "hottest kernels triton", "status": "passed", "kernels": [{"kernel": "forward", "time": "1 us"}]}
    ]
    case = case_of("gpu", op="group_conv2d", group="C4", c_in=64)
    lines = gpu.table([*steps, gpu_row(case, 1.4), gpu_row(replace(case, work="forward+backward"), 1.2)]).splitlines()
    assert lines[0] == "passed   tests: 12 passed"
    assert "kernel forward, time 1 us" in lines[2]
    assert "1.40 (1.39 to 1.41)" in lines[-4]
    assert "bfloat16" in lines[-4]
    assert ">= 1.3 missed" in lines[-3]
    assert lines[-1] == "targets: 1 met, 1 missed"


def test_every_device_has_its_own_suites() -> None:
    on_gpu = {case.suite for case in run.select((), (), (), "cuda", "triton")}
    assert on_gpu == {"gpu", "gpu pool"}
    assert {case.suite for case in run.select((), (), (), "cuda", None)} == {"gpu choice"}
    assert not {suite for suite in {c.suite for c in run.select((), (), (), "cpu", None)} if suite.startswith("gpu")}
    assert run.select((), (), ("gpu",), "cpu", None) == []
    assert {case.suite for case in run.select((), (), ("layers",), "cuda", None)} == {"layers"}
    assert run.selection("cuda", train=False, quick=False, narrowed=False) == "gpu full"
    assert run.selection("cuda", train=True, quick=False, narrowed=False) == "gpu train"
    assert run.selection("cpu", train=False, quick=False, narrowed=True) == "partial"


def test_layers_come_in_the_order_of_their_names() -> None:
    cases = run.of_layers(run.select((), (), (), "cuda", "cuda"), ("D4-64", "C4-256"))
    assert [f"{case.group}-{case.c_in}" for case in cases] == sorted(
        (f"{c.group}-{c.c_in}" for c in cases), reverse=True
    )
    assert {(case.op, case.dtype, case.suite) for case in cases} == {("group_conv2d", "bfloat16", "gpu")}
    for group, channels in (("D4", 64), ("C4", 256)):
        works = {case.work for case in cases if (case.group, case.c_in) == (group, channels)}
        assert works == {"forward", "forward+backward"}
    with pytest.raises(click.UsageError, match=r"--layer C4-7 is none of the layers: C4-64, .*D4-128"):
        run.of_layers(run.select((), (), (), "cuda", "cuda"), ("C4-7",))
    assert "--layer C4-64 is none" in CliRunner().invoke(run.main, ["--layer", "C4-64"]).output  # on a CPU


def test_the_layers_that_a_gpu_run_times_first_are_there() -> None:
    cases = run.of_layers(run.select((), (), (), "cuda", "cuda"), gpu.LAYERS)
    assert (cases[0].group, cases[0].c_in) == ("D4", 64)


def test_the_baseline_may_be_of_one_format() -> None:
    case = replace(case_of("gpu", op="group_conv2d", group="C4", c_in=64), c_in=3, c_out=3, height=5, batch=2)
    for formats in (("NHWC",), ("NCHW", "NHWC")):
        setting = Setting("reference", formats=formats)
        assert tuple(convolution.contest(case, setting).rivals["conv2d"]) == formats


def test_a_build_for_tests_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gconv.build.info", lambda: {"spin_limit": 9})
    result = CliRunner().invoke(run.main, ["--device", "cuda", "--backend", "cuda"])
    assert result.exit_code == 2
    assert "a build for tests, not for timing" in result.output


RATIOS = {
    "triton": {
        ("C4", 64): {1.3}, ("C4", 128): {1.6}, ("C4", 256): {1.6},
        ("D4", 32): {2.0}, ("D4", 64): {2.8}, ("D4", 128): {2.8},
    },
    "cuda": {
        ("C4", 64): {1.5}, ("C4", 128): {2.0}, ("C4", 256): {2.0},
        ("D4", 32): {2.5}, ("D4", 64): {3.5}, ("D4", 128): {3.5},
    },
}  # fmt: skip


@pytest.mark.parametrize("backend", RATIOS)
def test_the_targets_of_the_h200_are_those_of_the_issues(backend: str) -> None:
    bounds: dict[tuple[str, int], set[float]] = {}
    for case in run.select((), (), (), "cuda", backend):
        for target in targets.judged(case, {"ratio": {"median": 9.0}} if case.suite == "gpu" else {}, backend):
            bounds.setdefault((case.group, case.c_in), set()).add(target["bound"])
            assert (case.dtype, case.op, case.size) == ("bfloat16", "group_conv2d", 3)
    assert bounds == RATIOS[backend]
    pool, choice = case_of("gpu pool"), case_of("gpu choice")
    (target,) = targets.judged(pool, {"of copy bandwidth": {"median": 0.87}}, backend)
    assert (target["bound"], target["met"]) == ((0.85, True) if backend == "triton" else (0.9, False))
    assert [t["bound"] for t in targets.judged(choice, {"ratio": {"median": 0.9}}, backend)] == [0.98]


def test_the_widest_layers_of_cuda_are_to_pass_the_dense_peak() -> None:
    quantities = {"dense equivalent": {"median": 1.2}}
    cases = [case for case in run.select((), (), (), "cuda", "cuda") if targets.judged(case, quantities, "cuda")]
    widest = {(case.group, case.c_in, case.work) for case in cases}
    assert widest == {(g, c, work) for g, c in (("C4", 256), ("D4", 128)) for work in ("forward", "forward+backward")}
    assert not any(targets.judged(case, quantities, "triton") for case in cases)
    row = gpu_row(cases[0], 2.1, backend="cuda")
    row["quantities"] |= {"dense equivalent": {"median": 1.2, "p20": 1.1, "p80": 1.3}}
    row["targets"] = targets.judged(cases[0], row["quantities"], "cuda")
    assert show.cells(row)["dense eq."] == "120 %, >= 100 % met"


def test_the_dtypes_of_every_op_are_benched() -> None:
    found = {(case.op, case.dtype) for case in run.select((), (), (), "cuda", "triton")}
    assert found == {(op, dtype) for op in run.OPS for dtype in ("bfloat16", "float16", "float32")}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("op", ["group_conv2d", "lifting_conv2d"])
def test_half_precision_is_held_to_what_rounding_can_do(op: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(op, "gpu", "C4", 16, 8, 13, "forward", batch=4, dtype=dtype)
    check = convolution.errors(case, Setting("reference"))
    assert set(check) == {"forward", "grad_x", "grad_weight", "forward rms", "grad_x rms", "grad_weight rms"}
    assert 0 < max(check.values()) < 1
    right = getattr(gconv, op)

    def broken(fault: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        return lambda x, weight, **options: right(*fault(x, weight), **options)

    faults: dict[str, Callable[..., Any]] = {
        "one of 16 channels": lambda x, w: (x, torch.cat([w[:, :1] * 0, w[:, 1:]], dim=1)),
        "one tap": lambda x, w: (x, torch.cat([w[..., :2, :], w[..., 2:, :] * 0], dim=-2)),
        "coarser products": lambda x, w: (x, (w.float() * (1 + 4 * torch.finfo(w.dtype).eps)).to(w.dtype)),
        "nan": lambda x, w: (x, w * float("nan")),
    }
    for name, fault in faults.items():
        monkeypatch.setattr(gconv, op, broken(fault))
        assert max(convolution.errors(case, Setting("reference")).values()) > 1, name

    def off_by_one_pixel(x: torch.Tensor, weight: torch.Tensor, **options: Any) -> torch.Tensor:
        out = right(x, weight, **options)
        fault = torch.zeros_like(out)
        fault[-1, -1, -1, -1, -1] = 60 * torch.finfo(out.dtype).eps * float(out.detach().std())
        return out + fault

    monkeypatch.setattr(gconv, op, off_by_one_pixel)
    check = convolution.errors(case, Setting("reference"))
    assert check["forward rms"] < 1 < check["forward"]


def test_the_truth_on_a_gpu_is_the_convolution() -> None:
    x, bank = torch.randn(2, 3, 6, 5).double(), torch.randn(4, 3, 3, 3).double()
    for padding in (0, 1, 2):
        true = torch.nn.functional.conv2d(x, bank, padding=padding)
        torch.testing.assert_close(convolution.conv2d_by_taps(x, bank, padding), true)


def test_a_gpus_products_of_complex_numbers_are_four() -> None:
    counts = {"C2": 2, "C4": 6, "D1": 2, "D2": 4, "D4": 12}
    for group, count in counts.items():
        case = Case("group_conv2d", "gpu", group, 3, 5, 7, "forward", batch=2)
        found, dense = convolution.multiplications(case, "cuda")
        assert (found, dense) == (count * 13230, gconv.group_from_name(group).order ** 2 * 13230)


def test_what_is_chosen_is_raced_against_dense() -> None:
    case = Case("group_conv2d", "gpu choice", "C4", 3, 3, 5, "forward", batch=2, dtype="bfloat16")
    contest = convolution.contest(case, Setting("reference"))
    assert set(contest.contenders()) == {"gconv", "dense"}
    ours, dense = (run() for run in contest.contenders().values())
    assert isinstance(ours, torch.Tensor)
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours, dense)


@pytest.mark.parametrize("suite", ["gpu", "gpu pool", "gpu choice"])
@pytest.mark.parametrize("op", ["group_conv2d", "group_pool", "lifting_conv2d"])
def test_a_case_of_a_gpu_makes_a_row(op: str, suite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small ones, on the CPU."""
    cases = [case for case in module_of(op).CASES if case.suite == suite]
    cases = [case for case in cases if case.dtype == "bfloat16"][:2]
    monkeypatch.setattr(measure, "SAMPLE_S", 1e-5)
    bench = Bench(Setting("reference"), budget_s=0.0, with_memory=False)
    for case in cases:
        small = replace(case, c_in=3, c_out=5 if suite == "gpu" else 3, height=5, batch=2)
        row = bench.measure(small)
        assert not row["wrong"], row["check"]
        assert row["backend"] in (("dense", "cpu") if suite == "gpu choice" else ("reference",))
        texts = show.cells(row | {"selection": "gpu full"})
        assert texts["dtype"] == case.dtype
        assert show.SUITES[suite].label in texts


def test_a_case_that_raises_costs_only_its_own_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any, **options: Any) -> torch.Tensor:
        raise RuntimeError("out of resources:\n shared memory")

    monkeypatch.setattr(gconv, "group_conv2d", broken)
    bench = Bench(Setting("reference"), budget_s=0.0, with_memory=False)
    row = bench.measure_or_say_why(Case("group_conv2d", "gpu", "C4", 3, 3, 5, "forward", batch=2, dtype="bfloat16"))
    assert row["wrong"]
    assert bench.wrong
    assert show.cells(row)["result"] == "FAILED: RuntimeError: out of resources: shared memory"
    assert "FAILED" in gpu.table([row])
    assert targets.means([row]) == []


def test_calls_are_timed_between_events_behind_one_more(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    class Event:
        """On a device whose every call takes two milliseconds."""

        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = clock[0]

        def synchronize(self) -> None:
            pass

        def elapsed_time(self, other: Event) -> float:
            return other.at - self.at

    def run() -> None:
        clock[0] += 2.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    assert measure._seconds(run, 5, "cuda:0") == pytest.approx(2e-3)
    assert clock[0] == 12.0


def test_the_ceilings_are_measured() -> None:
    """On the CPU: between what a wrist watch and what no machine does."""
    assert 1e6 < measure.matmul_flops("float32", 64, "cpu") < 1e15
    assert 1e6 < measure.copy_bandwidth(1, "cpu") < 1e14


def test_the_environment_of_a_gpu_names_what_numbers_depend_on(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(major=9, minor=0, multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "ACME G-1")
    monkeypatch.setattr(measure, "_driver", lambda: "580.1")
    found = measure.environment(Setting(device="cuda"))
    assert found["capability"] == "9.0"
    assert found["kernel_sources"] == checksums()
    assert show.machine(found).startswith("ACME G-1, driver 580.1, CUDA ")
    assert "driver" not in measure.environment(Setting())
    line = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build"
    assert measure.driver_version(line) == "580.159.04"
    assert measure.driver_version("580.95.05\n580.95.05\n") == "580.95.05"


def test_a_copy_without_history_is_told_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_git", lambda *arguments: "")
    monkeypatch.setenv("GCONV_COMMIT", "abc123")
    assert measure.environment_commit() == {"commit": "abc123", "dirty": None}
    monkeypatch.delenv("GCONV_COMMIT")
    assert measure.environment_commit()["commit"] == ""


def test_the_traffic_of_pooling_follows_the_dtype() -> None:
    case = case_of("gpu pool", dtype="bfloat16", group="C4", mode="max")
    pixels = case.batch * case.c_in * 56 * 56
    assert bench_group_pool.traffic(case) == pixels * (5 * 2 + 1)
    small = replace(case, batch=1, c_in=2, height=4)
    assert max(bench_group_pool.errors(small, Setting("dense")).values()) <= 1
    assert max(bench_group_pool.errors(replace(small, mode="mean"), Setting("dense")).values()) <= 1


def test_the_training_steps_of_a_gpu_have_the_widths_they_state() -> None:
    cases = [case for case in train_step.CASES if run.runs_on(case.suite, "cuda")]
    assert {case.suite for case in cases} == {"gpu train"}
    on_cpu = {(case.op, case.mode) for case in train_step.CASES if case.suite == "train"}
    (new,) = (case for case in cases if (case.op, case.mode) not in on_cpu)
    train_step.trainer(replace(new, batch=2), Setting(), None)  # refuses other widths


def test_cases_can_be_left_out_when_the_time_is_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    result = CliRunner().invoke(run.main, ["--quick", "--op", "group_pool", "--seconds", "0", "--json", str(path)])
    assert "cases were left out" in result.output
    assert path.read_text() == ""


def test_floors_by_hand() -> None:
    case = case_of("gpu", op="group_conv2d", group="C4", c_in=64)
    pixels, flops = 128 * 56 * 56, 2 * 9 * 64 * 64
    least = floors.floor(case)
    assert least.bytes == pytest.approx((pixels * 4 * 128 * 2 + 64 * 64 * 4 * 9 * 2) / floors.BANDWIDTH)
    assert least.dense == pytest.approx(16 * pixels * flops / floors.MATRIX_FLOPS)
    assert least.irreps == pytest.approx(6 * pixels * flops / floors.MATRIX_FLOPS)
    assert least.predicted_ratio == pytest.approx(16 / 6 * 0.75)
    assert floors.floor(replace(case, work="forward+backward")).dense == pytest.approx(3 * least.dense)


def test_limits_by_hand() -> None:
    """C4, 64 channels, 56 x 56: per slice 46 or 51 KB of halo and 147 KB of filter, 28 million FLOPs."""
    case = case_of("gpu", op="group_conv2d", group="C4", c_in=64)
    assert limits.tile_of(case) == (64 * 49, 200)
    assert limits.tile_of(replace(case, height=28)) == (128 * 7, 204)  # 4 x 32 pixels
    flips = replace(case, group="D4")
    assert limits.tile_of(flips) == (128 * 28, 180)  # two halos of 8 planes fit of 8 x 16 pixels alone
    assert limits.tile_of(replace(flips, height=7)) == (64, 200)
    found, least = limits.limits(case, "forward"), floors.floor(case)
    slices, clock = 64 * 49 * 2 / 132, limits.CLOCK
    halo, filters = 4 * 200 * 64, 9 * 4 * 64 * 64
    assert found.matrix == pytest.approx(least.irreps)  # no pixel and no channel of a tile is idle
    assert found.l2 == pytest.approx((halo + filters / 2) * slices / 23 / clock)
    of_planes, of_products = 9 * 4 * 128 * 64, 9 * 6 * 2 * 64 * 64
    assert found.shared == pytest.approx((halo + filters + of_planes + of_products) * slices / 128 / clock)
    gradient = limits.limits(case, "weight_grad")
    assert gradient.matrix == found.matrix
    assert gradient.l2 == pytest.approx(3 * (halo + 4 * 64 * 256 / 2) * slices / 23 / clock)
    idle = limits.limits(replace(case, c_in=33, c_out=65), "forward")
    assert idle.matrix == pytest.approx(2 * found.matrix)  # as much as 64 and 128 channels take


def test_the_notes_hold_the_predictions() -> None:
    """After a change of shapes or targets: python bench/floors.py, python bench/limits.py."""
    text = floors.NOTES.read_text()
    assert report.replace_section(text, "limits", limits.table(), "bench/limits.py") == text
    assert report.replace_section(text, "predictions", floors.predictions(), "bench/floors.py") == text
    assert floors.predictions().count("\n") == 1 + 12 + 8  # passes of layers, of pools


def test_the_report_shows_the_newest_run_of_every_gpu_and_backend() -> None:
    forward = case_of("gpu", op="group_conv2d", group="C4", c_in=64)
    pool, choice = case_of("gpu pool"), case_of("gpu choice")
    rows = [
        gpu_row(forward, 9.99),
        gpu_row(forward, 1.41, run="2026-02-01"),
        gpu_row(pool, 0.87, run="2026-02-01", best={"copy": "conv2d NHWC"}),
        gpu_row(forward, 1.71, run="2026-02-02", backend="cuda"),
        gpu_row(choice, 0.99, run="2026-02-03", selection="gpu full"),
    ]
    runs = report.gpu_runs(rows)
    options = ["--device cuda --backend triton", "--device cuda --backend cuda", "--device cuda"]
    assert [report.gpu_options(found) for found in runs] == options
    cpu = [gpu_row(replace(case_of("layers"), batch=1), 3.3, environment=ON_CPU, selection="full")]
    for text in (report.readme_section([cpu], [], runs), report.details([cpu], [], runs)):
        assert "`python bench/run.py --device cuda --backend triton` on ACME G-1, driver 1.2, CUDA 13.0" in text
        assert "1.41 (1.40 to 1.42)" in text
        assert "87 % (86 to 88)" in text
        assert text.index("--backend cuda") < text.index("1.71")
        assert "9.99" not in text
