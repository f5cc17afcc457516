"""The table of what nvcc makes of the CUDA kernels: what is read, that its rules fail, that it is up to date."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import figures
import nvcc
import pytest
from click.testing import CliRunner
from figures import Row
from kernel_sources import COMPILED, find
from ptxas import (
    Function,
    Resources,
    count_by_kernel,
    global_stores,
    launch_bounds,
    matrix_instructions,
    parse_kernels,
)

NVCC = shutil.which("nvcc")
needs_nvcc = pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")

# Printed by CUDA 13.0 for the toy below, shortened.
LOG = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z10serialisedPfmm' for 'sm_80'
ptxas info    : Function properties for _Z10serialisedPfmm
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 22 registers, used 0 barriers, 376 bytes cmem[0]
ptxas info    : Compile time = 24.037 ms
ptxas info    : Compiling entry function '_Z8spillingPKfPf' for 'sm_80'
ptxas info    : Function properties for _Z8spillingPKfPf
    832 bytes stack frame, 1772 bytes spill stores, 1844 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 832 bytes cumulative stack size, 4096 bytes smem, 368 bytes cmem[0]
ptxas info    : Compile time = 60.271 ms
ptxas info    : (C7517) warpgroup.wait is injected in around line 567 by compiler to allow use of registers defined by GMMA in function '_Z10serialisedPfmm'
ptxas info    : (C7511) Potential Performance Loss: wgmma.mma_async instructions are serialized due to insufficient register resources for the wgmma pipeline in the function '_Z10serialisedPfmm'
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z10serialisedPfmm' for 'sm_90a'
ptxas info    : Function properties for _Z10serialisedPfmm
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 30 registers, used 0 barriers
ptxas info    : Compile time = 8.907 ms
ptxas info    : Compiling entry function '_Z8spillingPKfPf' for 'sm_90a'
ptxas info    : Function properties for _Z8spillingPKfPf
    848 bytes stack frame, 2084 bytes spill stores, 2160 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 848 bytes cumulative stack size
ptxas info    : Compile time = 45.396 ms
"""  # noqa: E501, as printed
LISTING = """
Fatbin elf code:
================
arch = sm_80
	code for sm_80
		Function : first
        /*0090*/                   HMMA.16816.F32.BF16 R68, R76.reuse, R28, R68 ;     /* 0x0000001c4c44723c */
        /*00a0*/                   HMMA.16816.F32.BF16 R72, R76.reuse, R28, R72 ;     /* 0x0000001c4c44723c */
		Function : second
        /*0090*/              @!P0 STG.E desc[UR4][R2.64], R5 ;     /* 0x0000001c4c44723c */
        /*00a0*/                   STG.E.U16 desc[UR4][R2.64+0x4], R5 ;     /* 0x0000001c4c44723c */
        /*00b0*/                   STG.E.EF.64 desc[UR4][R2.64+0x8], R6 ;     /* 0x0000001c4c44723c */
        /*00c0*/              @P1  STG.E.128 desc[UR4][R2.64+0x10], R8 ;     /* 0x0000001c4c44723c */
        /*00d0*/                   STS.128 [R2], R8 ;     /* 0x0000001c4c44723c */
        /*00e0*/                   EXIT ;     /* 0x0000001c4c44723c */
Fatbin elf code:
================
arch = sm_90a
	code for sm_90a
		Function : first
        /*0d70*/                   HGMMA.64x128x16.F32.BF16 R24, gdesc[UR8].tnspB, R24 ;   /* 0x41e00000081879f0 */
"""
ELF = """
arch = sm_80
    8   2524    888  0  4                    CUDA_INFO       40    3       15 .nv.info.first
.nv.info.first
	Attribute:	EIATTR_MAX_THREADS
	Format:	EIFMT_SVAL
	Value:	0x180 0x1 0x1
	Attribute:	EIATTR_CRS_STACK_SIZE
	Format:	EIFMT_SVAL
.nv.info.second
	Attribute:	EIATTR_CRS_STACK_SIZE
arch = sm_90a
.nv.info.first
	Attribute:	EIATTR_MAX_THREADS
	Format:	EIFMT_SVAL
	Value:	0x20 0x4 0x1
"""


def test_the_log_of_many_kernels_is_read() -> None:
    serialised, spilling = "_Z10serialisedPfmm", "_Z8spillingPKfPf"
    assert parse_kernels(LOG) == {
        Function("sm_80", serialised): Resources(22, 0, 0, 0, []),
        Function("sm_80", spilling): Resources(32, 1772 + 1844, 832, 4096, []),
        Function("sm_90a", serialised): Resources(30, 0, 0, 0, ["C7511", "C7517"]),
        Function("sm_90a", spilling): Resources(32, 2084 + 2160, 848, 0, []),
    }
    assert parse_kernels("ptxas info    : 0 bytes gmem\n") == {}


def test_a_note_about_a_function_that_is_no_kernel_counts_for_all() -> None:
    found = parse_kernels(LOG.replace("the function '_Z10serialisedPfmm'", "the function 'helper'"))
    reasons = {kernel: resources.serialised for kernel, resources in found.items() if resources.serialised}
    assert reasons == {
        Function("sm_90a", "_Z10serialisedPfmm"): ["C7511", "C7517"],
        Function("sm_90a", "_Z8spillingPKfPf"): ["C7511"],
    }


def test_listings_of_many_kernels_are_read() -> None:
    first = {target: Function(target, "first") for target in nvcc.TARGETS}
    second = Function("sm_80", "second")
    products = {first["sm_80"]: {"HMMA": 2}, second: {}, first["sm_90a"]: {"HGMMA": 1}}
    assert count_by_kernel(LISTING, matrix_instructions) == products
    stores = {first["sm_80"]: {}, second: {"16": 1, "32": 1, "64": 1, "128": 1}, first["sm_90a"]: {}}
    assert count_by_kernel(LISTING, global_stores) == stores
    assert launch_bounds(ELF) == {first["sm_80"]: 384, first["sm_90a"]: 128}


def test_names_are_as_in_the_source() -> None:
    full = "void gconv::cuda::pack<gconv::cuda::C4, __half, (int)64>(gconv::cuda::Filter, float (*)(int))"
    assert nvcc.shorten(full) == "pack<C4, __half, 64>"
    assert nvcc.shorten("gconv::cuda::(anonymous namespace)::select(float*, int)") == "select"


GOOD: Row = {
    "target": "sm_90a",
    "object": "group_conv2d-C4",
    "kernel": "group_conv2d_kernel<C4, Bfloat16, Hopper, 64>",
    "threads": 384,
    "registers": 168,
    "spill_bytes": 0,
    "stack_bytes": 0,
    "static_shared_bytes": 0,
    "serialised": [],
    "matrix": {"HGMMA": 12},
    "stores": {"16": 128, "128": 16},
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spill_bytes": 8, "stack_bytes": 4}, "spills 8 bytes"),
        ({"stack_bytes": 4}, "keeps 4 bytes of each thread in local memory"),
        ({"serialised": ["C7511"]}, "serialised matrix instructions: C7511"),
        ({"static_shared_bytes": 49153}, "49153 bytes of static shared memory"),
        (
            {"registers": 169, "kernel": "group_conv2d_kernel<C4, float, Ampere, 32>", "matrix": {"HMMA": 72}},
            "needs 67584 registers for a block of 384 threads",
        ),
        ({"registers": 160}, "starts with 160 registers"),
        ({"threads": None}, "has no launch bounds"),
        ({"stores": {"16": 128, "32": 32, "128": 8}}, "has 8 stores of 16 bytes where the source has 16: the others"),
        ({"matrix": {"HMMA": 48}}, "has no HGMMA instructions"),
        ({"matrix": {"HGMMA": 4}, "kernel": "group_conv2d_kernel<C4, float, Ampere, 32>"}, "has no HMMA"),
    ],
)
def test_a_bad_kernel_is_found(change: Row, message: str) -> None:
    assert nvcc.faults([GOOD], []) == []
    (fault,) = nvcc.faults([GOOD | change], [])
    assert message in fault
    assert fault.startswith("sm_90a group_conv2d-C4 group_conv2d_kernel<C4, ")


def test_kernels_for_hopper_are_empty_elsewhere_and_others_multiply_nothing() -> None:
    empty = GOOD | {"target": "sm_80", "registers": 4, "matrix": {}, "stores": {}}
    assert nvcc.faults([empty, GOOD | {"kernel": "pack<C4>", "matrix": {}}], []) == []


@pytest.mark.parametrize(
    ("kernel", "stores"),
    [
        ("group_conv2d_kernel<D4, Float16, Hopper, 32>", 16),
        ("group_conv2d_kernel<C2, Bfloat16, Ampere, 64>", 8),
        ("group_conv2d_kernel<D4, Float16, Ampere, 16>", 0),  # its lanes have no 16 bytes of channels together
        ("group_conv2d_kernel<C4, float, Ampere, 32>", 0),
        ("weight_grad_kernel<C4, Bfloat16, Hopper, 64>", 0),
        ("pack_kernel<8, float>", 8),
        ("images_kernel<D2, float, true>", 1),
        ("max_kernel<Bfloat16, 8>", 1),
        ("mean_backward_kernel<float, 1>", 0),
        ("unpack_kernel<8, float>", 0),
        ("spilling", 0),
    ],
)
def test_every_kernel_is_held_to_its_16_byte_stores(kernel: str, stores: int) -> None:
    row = GOOD | {"kernel": kernel, "matrix": {"HMMA": 1, "HGMMA": 1}, "stores": {"32": 4 * stores}}
    assert nvcc.chunk_stores(row) == stores
    assert [fault.endswith("the others are split") for fault in nvcc.faults([row], [])] == [True] * bool(stores)
    assert nvcc.faults([row | {"stores": {"128": stores}}], []) == []
    if "Hopper" in kernel:
        assert nvcc.chunk_stores(row | {"target": "sm_80"}) == 0  # it is empty there


def test_a_kernel_that_was_not_compiled_is_found(tmp_path: Path) -> None:
    source = tmp_path / "group_conv2d.h"
    source.write_text(
        "template <typename T>\nGCONV_BOUNDS(kThreads, 1)\nGCONV_KERNEL group_conv2d_kernel(const P p) {}\n"
        "template <typename T>\nGCONV_KERNEL GCONV_BOUNDS(kThreads, 3)\npack(const T* x) {}\n"
        "#define GCONV_KERNEL __global__ void\n"
    )
    both = [GOOD, GOOD | {"target": "sm_80"}]
    packed = [row | {"kernel": "pack<float>", "matrix": {}} for row in both]
    assert nvcc.faults(both + packed, [source]) == []
    expected = [f"group_conv2d.h: pack is in no object for {target}" for target in nvcc.TARGETS]
    assert nvcc.faults(both, [source]) == expected


TOY = """#include <cstdint>
// 32 registers per thread do not hold 64 sums.
__global__ void __launch_bounds__(1024, 2) spilling(const float* x, float* y) {
    float sums[64];
    for (int i = 0; i < 64; ++i) sums[i] = x[i * blockDim.x + threadIdx.x];
    __syncthreads();
    for (int k = 0; k < 9; ++k)
        for (int i = 0; i < 64; ++i) sums[i] = sums[i] * sums[(i + 7) % 64] + x[k];
    for (int i = 0; i < 64; ++i) y[i * blockDim.x + threadIdx.x] = sums[i];
}
__device__ void product(float (&d)[4], uint64_t a, uint64_t b) {
#if __CUDA_ARCH__ >= 900
    asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, %1, %2, %3}, %4, %5, 1, 1, 1, 0, 0;"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "l"(a), "l"(b));
#endif
}
// Sums are read while they are in flight.
__global__ void serialised(float* y, uint64_t a, uint64_t b) {
    float d[4] = {};
    for (int i = 0; i < 9; ++i) {
        product(d, a, b + i);
        d[0] += y[i];
        product(d, a, b - i);
    }
    for (int i = 0; i < 4; ++i) y[4 * threadIdx.x + i] = d[i];
}
"""


def _missing_cuobjdump() -> str | None:
    """Triton's wheel brings it, which `.ci/run` installs after the suite has run without."""
    try:
        nvcc.cuobjdump()
    except nvcc.ToolMissing as error:
        return str(error)
    return None


@needs_nvcc
@pytest.mark.skipif(_missing_cuobjdump() is not None, reason=str(_missing_cuobjdump()))
def test_spills_and_serialised_products_are_found(tmp_path: Path) -> None:
    item = tmp_path / f"toy-{16 * '0'}.o"
    (tmp_path / "toy.cu").write_text(TOY)
    code = [f"-gencode=arch=compute_{target[3:]},code={target}" for target in nvcc.TARGETS]
    command = ("nvcc", "-O3", *code, "-Xptxas=-v", "-c", str(tmp_path / "toy.cu"), "-o")
    keep = nvcc.ROOT / "csrc/cuda/compile.sh"
    said = nvcc.run("sh", str(keep), str(item), *command, f"{item}.part")
    assert said == ""
    rows = nvcc.rows_of(item)
    assert [nvcc.name(row) for row in rows] == [
        f"{target} toy {kernel}" for target in nvcc.TARGETS for kernel in ("serialised", "spilling")
    ]
    old, _, serialised, spilling = rows
    assert (old["matrix"], old["serialised"], old["threads"]) == ({}, [], None)
    assert serialised["matrix"]["HGMMA"] >= 2
    assert "C7511" in serialised["serialised"]
    assert (spilling["threads"], spilling["registers"]) == (1024, 32)
    assert min(spilling["spill_bytes"], spilling["stack_bytes"]) > 0
    assert len(nvcc.faults(rows, [])) == 5  # two spill, one is serialised, two have no launch bounds


def test_a_compiler_that_fails_leaves_no_object_and_says_why(tmp_path: Path) -> None:
    item = tmp_path / "toy.o"
    script = f"echo 'ptxas info    : 0 bytes gmem' >&2; echo 'toy.cu(3): error: no' >&2; : > {item}.part; exit 2"
    command = ["sh", str(nvcc.ROOT / "csrc/cuda/compile.sh"), str(item), "sh", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "toy.cu(3): error: no\n")
    assert not item.exists()


@pytest.fixture
def toy_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """One object, whose rows the test may change, and a table of its own."""
    found: dict[str, Any] = {"version": "13.0.88", "rows": [GOOD, GOOD | {"target": "sm_80"}]}
    monkeypatch.setattr(nvcc, "TABLE", tmp_path / "nvcc.json")
    monkeypatch.setattr(nvcc, "find", lambda patterns: [])
    monkeypatch.setattr(nvcc, "compile_all", lambda *arguments: (found["version"], [Path("toy.o")]))
    monkeypatch.setattr(nvcc, "rows_of", lambda item: found["rows"])
    return found


def told(*arguments: str, status: int = 0) -> str:
    result = CliRunner().invoke(nvcc.main, arguments)
    assert result.exit_code == status, result.output
    return result.output


def test_the_table_is_written_and_checked(toy_table: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert "12 HGMMA" in told("--write")
    told("--check")
    told("--check", "--only", "sm_90a")
    toy_table["rows"] = [GOOD | {"matrix": {"HGMMA": 6}}]
    output = told("--check", status=1)
    assert "matrix was {'HGMMA': 12}, is {'HGMMA': 6}" in output
    assert "sm_80 group_conv2d-C4 group_conv2d_kernel<C4, Bfloat16, Hopper, 64>: only in the table" in output
    toy_table["rows"] = [GOOD, GOOD | {"target": "sm_80"}]
    monkeypatch.setattr(nvcc, "checksum", lambda: "0" * 64)
    assert "kernel sources were" in told("--check", status=1)


def test_of_another_nvcc_only_the_rules_are_checked(toy_table: dict[str, Any]) -> None:
    told("--write")
    toy_table["version"] = "14.0.1"
    toy_table["rows"] = [GOOD | {"matrix": {"HGMMA": 6}}]
    output = told("--check")
    assert "the rules were checked and the figures were not: nvcc.json has those of nvcc 13.0.88" in output
    toy_table["rows"] = [GOOD | {"spill_bytes": 8}]
    assert "spills 8 bytes" in told("--check", status=1)
    told("--write", status=1)  # what is wrong is written, and told
    assert set(figures.read_tables(nvcc.TABLE)) == {"13.0.88", "14.0.1"}


def test_a_missing_tool_is_told(toy_table: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    monkeypatch.setattr(nvcc, "find_spec", lambda name: None)
    with pytest.raises(nvcc.ToolMissing, match="neither CUDA's nor the one in triton's wheel"):
        nvcc.cuobjdump()
    monkeypatch.setattr(nvcc, "rows_of", lambda item: nvcc.cuobjdump())
    assert "nothing was checked: cuobjdump was not found" in told("--check", status=1)
    assert told("--write", "--only", "C4", status=2)
    assert told("--only", "no such kernel", status=1)
    assert "--spin-limit has no table" in told("--spin-limit", "--check", status=2)


def test_a_note_that_names_no_function_counts_for_every_kernel_of_its_target() -> None:
    note = (
        "ptxas info    : (C7508) Potential Performance Loss: 'setmaxnreg' ignored to maintain minimum requirements.\n"
    )
    middle = LOG.index("ptxas info    : Compiling entry function '_Z10serialisedPfmm' for 'sm_90a'")
    before, after = parse_kernels(LOG), parse_kernels(LOG[:middle] + note + LOG[middle:])
    for kernel, figures_after in after.items():
        added = {"C7508"} if kernel.target == "sm_90a" else set()
        assert set(figures_after.serialised) == {*before[kernel].serialised, *added}


def test_the_committed_table_is_of_these_kernels() -> None:
    """Compiling all again is .ci/run's."""
    tables = figures.read_tables(nvcc.TABLE).values()
    table = next((table for table in tables if table["sources"] == nvcc.checksum()), None)
    assert table is not None, "run bench/nvcc.py --write"
    assert nvcc.faults(table["rows"], find(COMPILED)) == []
    hopper = {row["kernel"].split("<")[1].split(",")[0] for row in table["rows"] if "Hopper" in row["kernel"]}
    assert hopper == {"C2", "C4", "D2", "D4"}
