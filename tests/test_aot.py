"""The ahead-of-time compiler: what it reads, that its checks can fail, and that its table is of these kernels."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import aot
import pytest
import torch
from aot import Case
from click.testing import CliRunner
from figures import Row, read_tables, write_table
from kernel_sources import sources_checksum
from ptxas import Capability, Resources, matrix_instructions, parse_log

# Printed by the tools in triton's wheels for the kernel in tests/toy_kernels.py and a variant with two products.
CLEAN = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'mm' for 'sm_80'
ptxas info    : Function properties for mm
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 158 registers, used 1 barriers, 408 bytes cmem[0]
ptxas info    : Compile time = 91.750 ms
"""
BLACKWELL = """ptxas-blackwell info    : 0 bytes gmem
ptxas-blackwell info    : Compiling entry function 'mm' for 'sm_100a'
ptxas-blackwell info    : Function properties for mm
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas-blackwell info    : Used 90 registers, used 1 barriers
ptxas-blackwell info    : Compile time = 97.025 ms
"""
SERIALISED = (
    "ptxas info    : (C7511) Potential Performance Loss: wgmma.mma_async instructions are serialized due to "
    "insufficient register resources for the wgmma pipeline in the function 'ser'\n"
    """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'ser' for 'sm_90a'
ptxas info    : Function properties for ser
    4232 bytes stack frame, 8844 bytes spill stores, 7308 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 4232 bytes cumulative stack size
ptxas info    : Compile time = 4323.412 ms
"""
)
STATIC = CLEAN.replace("used 1 barriers,", "used 1 barriers, 4096 bytes smem,")
LISTING = """
        /*0c80*/              @!P0 BRA 0x1f0 ;                                        /* 0x0000000000000947 */
        /*0c90*/                   HMMA.16816.F32.BF16 R68, R76.reuse, R28, R68 ;     /* 0x0000001c4c44723c */
        /*0ca0*/              @!P1 HMMA.16816.F32.BF16 R72, R76.reuse, R32, R72 ;     /* 0x000000204c48723c */
        /*0cb0*/                   HFMA2.MMA R1, -RZ, RZ, 0, 0 ;                      /* 0x00000000ff017435 */
        /*0d70*/                   HGMMA.64x128x16.F32.BF16 R24, gdesc[UR8].tnspB, R24 ;   /* 0x41e00000081879f0 */
        /*10e70*/             @UP0 UTCHMMA gdesc[UR6], gdesc[UR14], tmem[UR22], tmem[UR32], idesc[UR33], !UPT ;
        /*10e80*/                  STG.E desc[UR4][R2.64], R5 ; /* HMMA. is in the comment */
"""


def test_the_log_of_ptxas_is_read() -> None:
    assert parse_log(CLEAN) == Resources(158, 0, 0, 0, [])
    assert parse_log(BLACKWELL) == Resources(90, 0, 0, 0, [])
    assert parse_log(SERIALISED) == Resources(255, 8844 + 7308, 4232, 0, ["C7511"])
    assert parse_log(STATIC).static_shared_bytes == 4096
    both = parse_log(CLEAN + SERIALISED)  # a function that was not inlined
    assert both == Resources(255, 8844 + 7308, 4232, 0, ["C7511"])
    with pytest.raises(ValueError, match="parse_log: log must hold"):
        parse_log("ptxas info    : 0 bytes gmem")


def test_matrix_instructions_are_counted() -> None:
    assert matrix_instructions(LISTING) == {"HGMMA": 1, "HMMA": 2, "UTCHMMA": 1}
    assert matrix_instructions("") == {}


def test_the_cases_cover_every_op_pass_group_and_dtype() -> None:
    cases = list(aot.cases())
    assert len({str(case) for case in cases}) == len(cases)
    assert {case.target for case in cases} == set(aot.SHARED_LIMIT) == set(aot.MATRIX)
    for target in ((8, 0), (9, 0), (10, 0)):
        passes = {(case.op, case.step) for case in cases if case.target == target}
        convolutions = {(op, step) for op in aot.CONVOLUTIONS for step in aot.CONVOLUTION_STEPS}
        assert passes == convolutions | {("group_pool", step) for step in aot.POOL_STEPS}
    hopper = {(case.op, case.step, case.group, case.dtype) for case in cases if case.target == (9, 0)}
    for op, step in convolutions:
        assert {(op, step, group, "bf16") for group in aot.LATTICE} <= hopper
        assert {(op, step, "C4", dtype) for dtype in aot.DTYPES} <= hopper


@pytest.mark.parametrize("target", aot.SHARED_LIMIT, ids=aot.arch)
def test_every_case_launches_kernels(target: Capability) -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    for case in aot.cases():
        if case.target == target:
            assert aot.record(case), str(case)


def test_descriptors_are_arguments_of_their_own() -> None:
    """In a tuple they would compile, and triton's launcher, which looks for none there, refuse them on a GPU."""
    pytest.importorskip("triton", reason="triton is not installed")
    from aot_compile import CompileError, require_descriptors

    launch = aot.record(replace(CASE, step="forward"))[1]
    kernel = SimpleNamespace(metadata=SimpleNamespace(tensordesc_meta=[{}, {}]), src=SimpleNamespace())
    kernel.src.signature = {"x": "*bf16", "x_map": "tensordesc<bf16[8, 8]>", "maps": "tensordesc<bf16[8, 8]>"}
    require_descriptors(launch, kernel)
    kernel.src.signature = {"x_map": "tensordesc<bf16[8, 8]>", "maps": ("tensordesc<bf16[8, 8]>",)}
    with pytest.raises(CompileError, match="group_conv2d_kernel: 2 descriptors, of which 1 are arguments"):
        require_descriptors(launch, kernel)
    for case in aot.cases():
        for argument in (argument for launch in aot.record(case) for argument in launch.arguments):
            assert not isinstance(argument, tuple), str(case)


CASE = Case((9, 0), "group_conv2d", "forward", "C4", "bf16", 128, 128, 32)
GOOD: Row = {
    "case": str(CASE),
    "launch": 0,
    "kernel": "product",
    "options": {"num_warps": 8},
    "registers": 255,
    "spill_bytes": 0,
    "stack_bytes": 0,
    "shared_bytes": 232448,
    "tensor_columns": 0,
    "scratch_bytes": 0,
    "matrix": {"HGMMA": 4},
    "serialised": [],
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spill_bytes": 8, "stack_bytes": 4}, "spills 8 bytes"),
        ({"shared_bytes": 232449}, "needs 232449 bytes of shared memory of 232448"),
        ({"serialised": ["C7511"]}, "serialised matrix instructions: C7511"),
        ({"tensor_columns": 513}, "513 columns"),
        ({"matrix": {"HMMA": 64}}, "no kernel has HGMMA"),
    ],
)
def test_a_bad_kernel_is_found(change: Row, message: str) -> None:
    assert aot.faults(CASE, [GOOD]) == []
    (fault,) = aot.faults(CASE, [GOOD | change])
    assert message in fault
    assert str(CASE) in fault


def test_limits_are_the_targets() -> None:
    row = GOOD | {"shared_bytes": 166912, "matrix": {"HMMA": 4}}
    ampere = replace(CASE, target=(8, 0))
    assert aot.faults(ampere, [row]) == []
    assert len(aot.faults(ampere, [row | {"shared_bytes": 166913}])) == 1
    assert aot.faults(replace(CASE, dtype="tf32"), [GOOD | {"matrix": {}}]) == []
    pack = GOOD | {"kernel": "pack", "matrix": {}, "launch": 1}
    assert aot.faults(CASE, [pack, GOOD]) == []  # one of a case's kernels multiplies


SMALL = {"ROWS": 16, "COLUMNS": 16, "INNER": 16, "num_warps": 1}
SPILLING = {"num_warps": 4, "maxnreg": 128}  # the sums alone take 128 of a thread


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModuleType]:
    """The toy kernel's module, with a cache of its own; triton's driver is put back afterwards."""
    pytest.importorskip("triton", reason="triton is not installed")
    import toy_kernels
    from triton import knobs
    from triton.runtime import driver

    if knobs.runtime.interpret:
        pytest.skip("nothing compiles in triton's interpreter")
    monkeypatch.setattr(driver, "_active", driver._active)
    with knobs.cache.scope():
        knobs.cache.dir = str(tmp_path / "cache")
        yield toy_kernels
    toy_kernels.product.device_caches.clear()
    toy_kernels.copy_first.device_caches.clear()


def toy_launch(toy: ModuleType, rows: int = 1024, offset: int = 0, **options: Any) -> Any:
    from gconv.backends.triton.launch import launch, recording

    a = torch.empty(rows * 1024 + offset, dtype=torch.bfloat16, device="meta")[offset:]
    tiles = {"ROWS": 128, "COLUMNS": 128, "INNER": 32, "SIGNS": ((1,), (-1,)), "num_warps": 8} | options
    with recording() as launches:
        launch(toy.product, (8, 8), a, a, a, rows, 1024, 1024, **tiles)
    return launches[0]


@pytest.mark.parametrize("target", [(8, 0), (9, 0), (10, 0)], ids=aot.arch)
def test_a_kernel_compiles_without_a_gpu(toy: ModuleType, target: Capability) -> None:
    from aot_compile import compile_launch

    first = compile_launch(toy_launch(toy, num_stages=2), target)
    assert 32 <= first.registers < 255
    assert first.spill_bytes == first.stack_bytes == 0
    assert first.shared_bytes >= 2 * (2 * 128 * 32)  # two operands of one stage at least
    assert set(first.matrix) == {aot.MATRIX[target]}
    assert (first.tensor_columns > 0) == (target == (10, 0))
    toy.product.device_caches.clear()
    assert compile_launch(toy_launch(toy, num_stages=2), target) == first  # from the cache, with its log


def test_a_kernel_that_spills_is_found(toy: ModuleType) -> None:
    from aot_compile import compile_launch

    figures = compile_launch(toy_launch(toy, **SPILLING), (9, 0))
    assert figures.registers == SPILLING["maxnreg"]
    assert figures.spill_bytes > 0
    assert figures.stack_bytes > 0


def test_a_kernel_that_something_else_compiled_is_compiled_again(toy: ModuleType) -> None:
    from aot_compile import StandIn, compile_launch
    from triton.runtime import driver

    launch = toy_launch(toy, **SMALL)
    driver.set_active(StandIn((9, 0)))
    launch.kernel.run(*launch.arguments, grid=launch.grid, warmup=True, **launch.options)
    assert compile_launch(launch, (9, 0)).registers >= 16


def test_a_kernel_that_does_not_compile_raises(toy: ModuleType) -> None:
    from aot_compile import CompileError, compile_launch

    with pytest.raises(CompileError, match="product"):
        compile_launch(toy_launch(toy, SIGNS=1), (9, 0))


def test_a_kernel_that_compiles_and_cannot_be_launched_raises(toy: ModuleType) -> None:
    """On a GPU its first launch fails in triton's launcher."""
    from aot_compile import CompileError, compile_launch
    from triton.tools.tensor_descriptor import TensorDescriptor

    from gconv.backends.triton.launch import launch, recording

    x = torch.empty(64, 64, dtype=torch.bfloat16, device="meta")
    with recording() as launches:
        launch(toy.copy_first, (1,), (TensorDescriptor(x, [64, 64], [64, 1], [16, 16]),), x, SIZE=16)
    with pytest.raises(CompileError, match="copy_first: triton launches no kernel with tensor descriptors in a tuple"):
        compile_launch(launches[0], (9, 0))


@pytest.mark.parametrize(
    ("change", "attributes"),
    [
        ({}, {(0,), (1,), (2,), (3,), (4,), (5,)}),
        ({"rows": 1000}, {(0,), (1,), (2,), (4,), (5,)}),
        ({"offset": 1}, {(3,), (4,), (5,)}),
        ({"rows": 1}, {(0,), (1,), (2,), (4,), (5,)}),
    ],
)
def test_a_launch_is_specialised_as_on_a_gpu(toy: ModuleType, change: dict[str, int], attributes: set[Any]) -> None:
    """Arguments divisible by 16 are marked so, an integer 1 is compiled in."""
    from aot_compile import StandIn
    from triton.runtime import driver

    launch = toy_launch(toy, **SMALL, **change)
    driver.set_active(StandIn((9, 0)))
    source = launch.kernel.run(*launch.arguments, grid=launch.grid, warmup=True, **launch.options).src
    assert {place for place, found in source.attrs.items() if ["tt.divisibility", 16] in found} == attributes
    assert (source.constants.get((3,)) == 1) == (change.get("rows") == 1)


@pytest.fixture
def toy_table(toy: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., str]:
    """Runs the command with one toy case and a table of its own, and gives its output after checking its status."""
    options: dict[str, Any] = {}
    monkeypatch.setattr(aot, "TABLE", tmp_path / "aot.json")
    monkeypatch.setattr(aot, "cases", lambda: iter([CASE]))
    monkeypatch.setattr(aot, "record", lambda case: [toy_launch(toy, **options)])

    def run(*arguments: str, status: int = 0, **changed: Any) -> str:
        options.clear()
        options.update(changed)
        result = CliRunner().invoke(aot.main, ["--processes", "1", *arguments])
        assert result.exit_code == status, result.output
        return result.output

    return run


def test_the_table_is_written_and_checked(toy_table: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert "has no table" in toy_table("--check", status=1)
    assert "HGMMA" in toy_table("--write")
    toy_table("--check")
    assert "num_stages" in toy_table("--check", status=1, num_stages=2)  # one more field in options
    spilled = toy_table("--check", status=1, **SPILLING)
    assert "spills" in spilled
    assert "registers was" in spilled
    monkeypatch.setattr(aot, "sources_checksum", lambda backend: "0" * 64)
    assert "kernel sources were" in toy_table("--check", status=1)


def test_writing_keeps_other_versions(toy_table: Callable[..., str]) -> None:
    write_table(aot.TABLE, "a test", "0.0.1", "s1", [GOOD])
    toy_table("--write")
    tables = json.loads(aot.TABLE.read_text())["tables"]
    assert next(iter(tables)) == "0.0.1"
    assert tables["0.0.1"] == {"sources": "s1", "rows": [GOOD]}
    assert [table["sources"] for table in tables.values()][1:] == [sources_checksum("triton")]
    assert len(tables) == 2


def test_bad_options_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments in (["--only", "no such case"], ["--write", "--only", "C4"]):
        assert CliRunner().invoke(aot.main, arguments).exit_code == 2
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert CliRunner().invoke(aot.main, []).exit_code == 2


@pytest.mark.parametrize("version", ["3.6.0", "3.7.1"])
def test_the_committed_table_is_of_these_kernels(version: str) -> None:
    """Compiling all again takes minutes and is .ci/run's."""
    cases = {str(case): case for case in aot.cases()}
    table = read_tables(aot.TABLE)[version]
    assert table["sources"] == sources_checksum("triton"), "run bench/aot.py --write, with both versions of triton"
    assert {row["case"] for row in table["rows"]} == set(cases)
    for name, case in cases.items():
        assert aot.faults(case, [row for row in table["rows"] if row["case"] == name]) == []
