"""The bench: its arithmetic, its refusal to time what is wrong, and its report."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

import bench_group_conv2d
import bench_group_pool
import bench_lifting_conv2d
import convolution
import measure
import memory
import pytest
import report
import run
import show
import targets
import torch
from click.testing import CliRunner, Result
from measure import Case, Setting

import gconv

BENCHES = {
    "group_conv2d": bench_group_conv2d,
    "lifting_conv2d": bench_lifting_conv2d,
    "group_pool": bench_group_pool,
}
ENGINE = measure.has_engine("cpu")
CASES = 8 if ENGINE else 7
BEGIN, END = (marker.format("speed", "bench/report.py") for marker in (report.BEGIN, report.END))
VERIFIED = "\n".join(marker.format("verified", "bench/report.py") for marker in (report.BEGIN, report.END))
TINY = Case("group_conv2d", "layers", "C4", 3, 5, 5, "forward", batch=2, quick=True)


@pytest.fixture
def tiny_bench(monkeypatch: pytest.MonkeyPatch) -> None:
    """One small case of every suite, raced for an instant."""
    cases = [
        TINY,
        Case("group_conv2d", "layers", "C4", 3, 5, 5, "forward+backward", batch=2, quick=True),
        Case("group_conv2d", "widths", "D4", 3, 3, 5, "forward", batch=2, quick=True),
        Case("group_conv2d", "eval", "D2", 3, 3, 5, "forward", batch=1, quick=True),
        Case("group_conv2d", "overhead", "C4", 3, 3, 4, "recorded", batch=1, quick=True),
        *([Case("group_conv2d", "profile", "C4", 3, 3, 4, "forward", batch=1, quick=True)] if ENGINE else []),
    ]
    monkeypatch.setattr(bench_group_conv2d, "CASES", cases)
    monkeypatch.setattr(bench_lifting_conv2d, "CASES", [])
    pools = [
        Case("group_pool", "pool", "C4", 3, 3, 5, work, mode="max", quick=True) for work in ("forward", "backward")
    ]
    monkeypatch.setattr(bench_group_pool, "CASES", pools)
    monkeypatch.setattr(run, "QUICK_BUDGET_S", 0.0)
    monkeypatch.setattr(measure, "SAMPLE_S", 1e-5)


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(run.main, ["--quick", *arguments])


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.usefixtures("tiny_bench")
def test_a_run_appends_one_row_per_case(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for count in (1, 2):
        result = bench("--json", str(path))
        assert result.exit_code == 0, result.output
        rows = rows_of(path)
        assert len(rows) == CASES * count
        assert {row["cases"] for row in rows} == {CASES}
    row = rows[0]
    assert row["case"] == asdict(TINY)
    assert row["selection"] == "quick"
    assert {"commit", "dirty", "versions", "device", "cpu", "instruction_set", "threads"} <= set(row["environment"])
    assert row["rounds"] >= measure.MIN_PAIRS
    assert set(row["times_ms"]) >= {"gconv", "conv2d NCHW", "conv2d NHWC"}
    assert set(row["check"]) == {"forward", "grad_x", "grad_weight"}
    assert 0 < max(row["check"].values()) < 1
    assert [target["bound"] for target in row["targets"]] == [2.5]
    for row in rows:
        suite = show.SUITES[row["case"]["suite"]]
        assert suite.quantity in row["quantities"]
        assert {"group", "shape", "pass", suite.label} <= set(show.cells(row))


@pytest.mark.usefixtures("tiny_bench")
def test_rows_can_go_to_stdout(tmp_path: Path) -> None:
    result = bench("--json", "-", "--suite", "layers", "--backend", "dense")
    assert [json.loads(line)["backend"] for line in result.stdout.splitlines()] == ["dense", "dense"]
    assert "of 1 shapes" in result.stderr


@pytest.mark.usefixtures("tiny_bench")
@pytest.mark.parametrize("op", ["group_conv2d", "group_pool"])
@pytest.mark.parametrize("wrong", ["value", "gradient", "nan"])
def test_a_wrong_result_gets_no_ratio(op: str, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = getattr(gconv, op)

    def broken(x: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        out = right(x, *arguments, **options)
        if wrong == "gradient":
            return out + 1e-3 * (x.sum() - x.sum().detach())
        return out + (1e-3 if wrong == "value" else torch.nan)

    monkeypatch.setattr(gconv, op, broken)
    path = tmp_path / "rows.jsonl"
    result = bench("--json", str(path), "--op", op, "--suite", "layers", "--suite", "pool")
    assert result.exit_code == 1
    assert "WRONG" in result.output
    for row in rows_of(path):
        assert row["wrong"]
        assert row["quantities"] == {}
        assert "times_ms" not in row


def test_options_that_select_nothing_are_refused() -> None:
    assert bench("--op", "group_pool", "--suite", "widths").exit_code == 2
    assert bench("--train", "--op", "group_pool").exit_code == 2


def test_contenders_take_turns() -> None:
    order: list[str] = []
    runs = {name: lambda name=name: order.append(name) for name in "ab"}
    samples = measure.race(runs, budget_s=0.0)
    assert {name: len(times) for name, times in samples.items()} == dict.fromkeys("ab", measure.MIN_PAIRS)
    turns = [name for name, previous in zip(order, [None, *order], strict=False) if name != previous]
    assert turns == list("ab") * (1 + measure.MIN_PAIRS + 1)  # two calls each, the dropped round, the pairs


def test_paired_ratios_and_their_spread() -> None:
    samples = {"gconv": [1.0, 2.0, 4.0], "conv2d NCHW": [9.0, 9.0, 9.0], "conv2d NHWC": [3.0, 4.0, 20.0]}
    best = measure.best_variant(samples, "conv2d")
    assert best == "conv2d NHWC"  # by its median, not its mean
    ratios = measure.paired_ratios(samples, best)
    assert ratios == [3.0, 2.0, 5.0]
    assert measure.spread(ratios) == pytest.approx({"median": 3.0, "p20": 2.4, "p80": 4.2})
    assert measure.spread([7.0]) == {"median": 7.0, "p20": 7.0, "p80": 7.0}
    assert measure.geometric_mean([2.0, 8.0]) == pytest.approx(4.0)
    assert measure.geometric_mean([3.0, 3.0, 3.0]) == pytest.approx(statistics.geometric_mean([3.0] * 3))


@pytest.mark.parametrize(
    ("group", "count"),
    [("C1", 1), ("C2", 2), ("C4", 5), ("D1", 2), ("D2", 4), ("D4", 12), ("C8", 20), ("D8", 48), ("C3", 9)],
)
def test_multiplications_are_those_of_the_engine(group: str, count: int) -> None:
    case = Case("group_conv2d", "layers", group, 3, 5, 7, "forward", batch=2)
    order = gconv.group_from_name(group).order
    plain = 2 * 7 * 7 * 3 * 5 * 9
    assert convolution.multiplications(case) == (count * plain, order**2 * plain)


def layer_row(c: int, work: str, ratio: float, group: str = "C4", **changes: Any) -> dict[str, Any]:
    """A full run's row of a layer with this ratio."""
    case = Case("group_conv2d", "layers", group, c, c, 28, work)
    quantities = {"ratio": {"median": ratio, "p20": ratio - 0.1, "p80": ratio + 0.1}}
    environment = measure.environment(Setting(threads=2)) | {"commit": "abc", "dirty": False, "device": "A CPU"}
    environment["instruction_set"] = changes.pop("instruction_set", "avx512")
    row = {
        "run": "2025-01-01T00:00:00",
        "selection": "full",
        "cases": 1,
        "environment": environment,
        "case": asdict(case),
    }
    row |= {"backend": "cpu", "check": {"forward": 0.1}, "wrong": False, "rounds": 9, "quantities": quantities}
    row |= {"times_ms": {"gconv": {"median": 1.0}, "conv2d NHWC": {"median": ratio}}, "best": {"conv2d": "conv2d NHWC"}}
    return row | {"targets": targets.judged(case, quantities)} | changes


def test_geometric_means_are_judged_only_when_complete() -> None:
    rows = [layer_row(c, "forward", ratio) for c, ratio in ((16, 2.0), (32, 8.0))]
    (mean,) = targets.means(rows)
    assert (mean["value"], mean["count"], mean["met"]) == (pytest.approx(4.0), 2, None)
    (mean,) = targets.means(rows * 2)
    assert mean["met"] is True
    assert "met" in show.verdict({"quantity": "ratio", "at_most": False, **mean})


def test_every_layer_has_its_targets() -> None:
    bounds = {"C2": (1.6, 1.5), "C4": (2.5, 2.2), "D1": (1.6, 1.5), "D2": (3.0, 2.7), "D4": (3.2, 3.0)}
    bounds |= {"C8": (2.2, 2.2), "D8": (4.0, 4.0)}
    shapes = set()
    for case in bench_group_conv2d.CASES:
        if case.suite == "layers":
            (target,) = targets.judged(case, {"ratio": {"median": 3.1}})
            assert target["bound"] == bounds[case.group][case.work != "forward"]
            assert target["met"] == (target["bound"] <= 3.1)
            shapes.add((case.group, case.c_in, case.height))
    assert len(shapes) == 13
    for op, module in BENCHES.items():
        assert {case.op for case in module.CASES} == {op}
        assert {case.suite for case in module.CASES} <= set(show.SUITES)


def test_the_report_is_made_from_the_newest_full_run(tmp_path: Path) -> None:
    rows = [
        layer_row(16, "forward", 9.99, run="2024-12-31T00:00:00"),
        layer_row(16, "forward", 8.88, selection="quick", run="2025-02-01T00:00:00"),
        layer_row(16, "forward", 7.77, run="2025-02-01T00:00:00", cases=2),  # interrupted
        layer_row(16, "forward", 3.25, cases=3),
        layer_row(16, "forward+backward", 0.75, cases=3, memory_mib={"gconv": 10.0, "conv2d NHWC": 20.0}),
        layer_row(8, "forward", 2.0, group="D4", cases=3, wrong=True, quantities={}, check={"grad_x": 1e6}),
        layer_row(16, "forward", 2.71, run="2025-03-01T00:00:00", instruction_set="avx2"),
    ]
    data, page, readme, plot = (tmp_path / name for name in ("rows.jsonl", "speed.md", "README.md", "plot.svg"))
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    readme.write_text(f"{VERIFIED}\nbefore\n{BEGIN}\nold\n{END}\nafter\n")
    arguments = [str(data), "--readme", str(readme), "--details", str(page), "--plot", str(plot)]
    written = []
    for _ in range(2):
        result = CliRunner().invoke(report.main, arguments)
        assert result.exit_code == 0, result.output
        written.append([file.read_bytes() for file in (page, readme, plot)])
    assert written[0] == written[1]
    text = readme.read_text()
    assert "| `group_pool` | " in text[: text.index("\nbefore")]
    assert f"\nbefore\n{BEGIN}\n" in text
    assert text.endswith(f"\n{END}\nafter\n")
    assert "3.25 (3.15 to 3.35), >= 2.5 met" in text
    assert "0.75 (0.65 to 0.85), >= 2.2 missed" in text  # losses stay
    assert "10.0 / 20.0" in text
    assert text.index("3.25") < text.index("`python bench/run.py --instruction-set avx2`") < text.index("2.71")
    assert "wrong result, no ratio" in text
    assert not [old for old in ("9.99", "8.88", "7.77") if old in text + page.read_text()]


def test_the_report_says_what_it_misses(tmp_path: Path) -> None:
    data, readme = tmp_path / "rows.jsonl", tmp_path / "README.md"
    data.write_text("")
    assert "no finished full run" in CliRunner().invoke(report.main, [str(data)]).output
    data.write_text(json.dumps(layer_row(16, "forward", 3.0)) + "\n")
    readme.write_text("no markers")
    result = CliRunner().invoke(report.main, [str(data), "--readme", str(readme)])
    assert result.exit_code == 1
    assert "markers" in result.output or "once each" in result.output


def test_peak_memory_of_a_fresh_process() -> None:
    if memory.missing(Setting()):
        pytest.skip("peak memory is read from Linux' /proc")
    case = Case("group_conv2d", "layers", "C2", 8, 8, 64, "forward", batch=8)
    peaks = memory.peaks_mib(case, Setting(threads=1), ("gconv", "conv2d NCHW"))
    output = 8 * 8 * 2 * 64 * 64 * 4 / 2**20
    assert all(output <= mib < 20 * output for mib in peaks.values())
