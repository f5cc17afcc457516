"""Ahead-of-time compilation of the Triton kernels, without a GPU: `python bench/aot.py`."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import torch
from figures import Row, differences, matches, read_tables, write_table
from kernel_sources import sources_checksum
from ptxas import Capability
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from gconv.cosets import filter_shape, input_shape
from gconv.groups import group_from_name

if TYPE_CHECKING:
    from gconv.backends.triton.launch import Launch

TABLE = Path(__file__).with_name("aot.json")
# tf32 is float32 where torch lets convolutions round it for the matrix units, which is its default
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "tf32": torch.float32, "fp32": torch.float32}
LATTICE = ("D4", "C4", "D2", "C2", "D1", "C1")  # slow ones first: a long job started last would run alone
CONVOLUTIONS = ("group_conv2d", "lifting_conv2d")
WIDE = {"group_conv2d": (128, 128, 32), "lifting_conv2d": (16, 128, 32)}  # C_in, C_out, H
GROUP_WIDE = {"group_conv2d": WIDE["group_conv2d"]}
NARROW = {"group_conv2d": (3, 17, 7), "lifting_conv2d": (1, 17, 7)}
CONVOLUTION_STEPS = ("forward", "input_grad", "weight_grad")
POOL_STEPS = ("forward", "backward", "select")
# Bytes of shared memory that a block may have, CUDA C++ Programming Guide, "Technical Specifications per Compute
# Capability": 163 KiB for 8.0, 227 KiB for 9.0 and 10.0, 99 KiB for 8.6, 8.9 and 12.0.
SHARED_LIMIT = {
    (8, 0): 163 * 1024,
    (8, 6): 99 * 1024,
    (9, 0): 227 * 1024,
    (10, 0): 227 * 1024,
    (12, 0): 99 * 1024,
}
TENSOR_COLUMNS = 512  # of tensor memory per multiprocessor, PTX ISA, "Tensor Memory"
# The matrix instruction that reaches a target's peak: one warp's, one warpgroup's, one block's.
MATRIX = {(8, 0): "HMMA", (8, 6): "HMMA", (9, 0): "HGMMA", (10, 0): "UTCHMMA", (12, 0): "HMMA"}


@dataclass(frozen=True)
class Case:
    """One pass of one op on one target: (N, C_in[, |G|], H, H) -> (N, C_out, |G|, H', H'), padding (K - 1) / 2.

    Attributes:
        step: as in gconv.backends.Work.
        mode: of group_pool, which has ``c_in`` channels and pools over the whole group.
    """

    target: Capability
    op: str
    step: str
    group: str
    dtype: str
    c_in: int
    c_out: int
    height: int
    batch: int = 8
    size: int = 3
    stride: int = 1
    mode: str = ""

    def __str__(self) -> str:
        name = f"{arch(self.target)} {self.op} {self.step} {self.group} {self.dtype} N{self.batch}"
        if self.op == "group_pool":
            return f"{name} {self.c_in} {self.height}x{self.height} {self.mode}"
        stride = f" stride {self.stride}" if self.stride > 1 else ""
        return f"{name} {self.c_in}->{self.c_out} {self.height}x{self.height} {self.size}x{self.size}{stride}"


def arch(target: Capability) -> str:
    """sm_90 for (9, 0)."""
    return "sm_{}{}".format(*target)


def cases() -> Iterator[Case]:
    """What is compiled: every op, pass, group and dtype for Hopper, samples of them for the others.

    Wide shapes fill the largest tiles, narrow ones the smallest, with sizes divisible by nothing.
    """
    hopper, others, small = (9, 0), ((10, 0), (8, 0)), ((12, 0), (8, 6))
    for group in LATTICE:
        yield from convolutions(hopper, group, "bf16", WIDE)
    for dtype in ("tf32", "fp32", "fp16"):
        yield from convolutions(hopper, "C4", dtype, WIDE)
    for target in others:
        for group in ("D4", "C4"):
            yield from convolutions(target, group, "bf16", WIDE)
        yield from convolutions(target, "C4", "tf32", WIDE)
    for target in small:  # little shared memory; 12.0 has no warpgroup's or block's instruction
        yield from convolutions(target, "D4", "bf16", GROUP_WIDE)
    for target in (hopper, *others):
        yield from convolutions(target, "C4", "bf16", NARROW)
        yield from pools(target, "D4", "bf16", c_in=64, height=32)
    yield from convolutions(hopper, "D4", "tf32", WIDE)
    yield from convolutions(hopper, "C4", "bf16", {"group_conv2d": (64, 64, 32), "lifting_conv2d": (3, 64, 32)})
    yield from convolutions(hopper, "C4", "bf16", GROUP_WIDE, stride=2)
    yield from convolutions(hopper, "C8", "bf16", GROUP_WIDE)
    yield from pools(hopper, "C4", "fp32", c_in=3, height=7)


def convolutions(
    target: Capability, group: str, dtype: str, shapes: dict[str, tuple[int, int, int]], stride: int = 1
) -> Iterator[Case]:
    """Every pass of the convolutions that have a shape."""
    for op in shapes:
        for step in CONVOLUTION_STEPS:
            yield Case(target, op, step, group, dtype, *shapes[op], stride=stride)


def pools(target: Capability, group: str, dtype: str, c_in: int, height: int) -> Iterator[Case]:
    """Every pass of max and mean pooling; only max has a select."""
    for mode in ("max", "mean"):
        for step in POOL_STEPS if mode == "max" else POOL_STEPS[:2]:
            yield Case(target, "group_pool", step, group, dtype, c_in, c_in, height, mode=mode)


def record(case: Case) -> list[Launch]:
    """What the backend would launch for a case."""
    from gconv.backends.triton.launch import recording

    tf32 = torch.backends.cudnn.flags(enabled=True, allow_tf32=case.dtype == "tf32")
    with tf32, recording(capability=case.target) as launches:
        if case.op == "group_pool":
            run_pool(case)
        else:
            run_convolution(case)
    return launches


def run_convolution(case: Case) -> None:
    """Calls the backend's function of the pass on tensors without data."""
    backend = triton_backend()
    group, padding = group_from_name(case.group), (case.size - 1) // 2
    group_axis = (group.order,) if case.op == "group_conv2d" else ()
    x = feature_map(case, case.c_in, *group_axis, case.height, case.height)
    weight = torch.empty(filter_shape(case.c_out, x.shape, case.size, group), dtype=DTYPES[case.dtype], device="meta")
    assert input_shape(weight, group, *x.shape[:1], *x.shape[-2:]) == x.shape
    length = (case.height + 2 * padding - case.size) // case.stride + 1
    grad_out = feature_map(case, case.c_out, group.order, length, length)
    if case.step == "forward":
        bias = torch.empty(case.c_out, dtype=x.dtype, device="meta")
        backend.conv2d(x, weight, bias, group, case.stride, padding)
    elif case.step == "input_grad":
        backend.conv2d_input_grad(grad_out, weight, group, case.height, case.height, case.stride, padding)
    else:
        backend.conv2d_weight_grad(x, grad_out, group, case.size, case.stride, padding)


def run_pool(case: Case) -> None:
    """As :func:`run_convolution`."""
    backend = triton_backend()
    members = (tuple(group_from_name(case.group).elements),)
    x = feature_map(case, case.c_in, len(members[0]), case.height, case.height)
    pooled = feature_map(case, case.c_in, 1, case.height, case.height)
    index = torch.empty_like(pooled, dtype=torch.uint8)
    if case.step == "forward":
        backend.group_pool(x, members, case.mode)
    elif case.step == "backward":
        backend.group_pool_backward(pooled, index, members, case.mode)
    else:
        backend.group_pool_select(x, index, members)


def triton_backend() -> Any:
    """The module with the six functions."""
    from gconv.backends import BACKENDS

    return BACKENDS["triton"]


def feature_map(case: Case, *shape: int) -> Tensor:
    """A batch of maps (N, C, |G|, H, W) or images (N, C, H, W) in the layout that the ops give their backend."""
    layout = torch.channels_last_3d if len(shape) == 4 else torch.channels_last
    return torch.empty((case.batch, *shape), dtype=DTYPES[case.dtype], device="meta", memory_format=layout)


def compile_case(case: Case) -> list[Row]:
    """One row per launch of a case; a kernel that does not compile has an error and no figures."""
    from aot_compile import CompileError, compile_launch

    rows = []
    for number, launch in enumerate(record(case)):
        options = {name: value for name, value in launch.options.items() if isinstance(value, int | str)}
        row: Row = {"case": str(case), "launch": number, "kernel": launch.kernel.__name__, "options": options}
        try:
            rows.append(row | asdict(compile_launch(launch, case.target)))
        except CompileError as error:
            rows.append(row | {"error": str(error)})
    return rows


def compile_cases(selected: list[Case], processes: int) -> list[Row]:
    """The rows of all cases, in their order."""
    if processes == 1:
        return [row for case in track(selected, "compiling") for row in compile_case(case)]
    spawn = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with ProcessPoolExecutor(processes, mp_context=spawn) as pool:
        found = track(pool.map(compile_case, selected), "compiling", total=len(selected))
        return [row for rows in found for row in rows]


def faults(case: Case, rows: list[Row]) -> list[str]:
    """What no kernel of a case may do, whatever the compilers' versions.

    A kernel that spills or whose matrix instructions are serialised runs several times too slow, one with too much
    memory does not run, and a wide half-precision group convolution without the target's matrix instruction fell back
    to an older one.
    """
    found = []
    for row in rows:
        place = f"{case}: {row['kernel']}"
        if "error" in row:
            found.append(f"{place} does not compile: {row['error']}")
            continue
        if row["spill_bytes"]:
            found.append(f"{place} spills {row['spill_bytes']} bytes")
        if row["serialised"]:
            found.append(f"{place} has serialised matrix instructions: {', '.join(row['serialised'])}")
        if row["shared_bytes"] > SHARED_LIMIT[case.target]:
            found.append(f"{place} needs {row['shared_bytes']} bytes of shared memory of {SHARED_LIMIT[case.target]}")
        if row["tensor_columns"] > TENSOR_COLUMNS:
            found.append(f"{place} needs {row['tensor_columns']} columns of tensor memory of {TENSOR_COLUMNS}")
    if needs_matrix(case) and not any(MATRIX[case.target] in row.get("matrix", {}) for row in rows):
        found.append(f"{case}: no kernel has {MATRIX[case.target]} instructions")
    return found


def needs_matrix(case: Case) -> bool:
    """Whether the target's own matrix instruction is what a case is fast by: wide half-precision group convolution.

    Lifting is bound by memory, and its gradient in the filter has too few rows.
    """
    return case.dtype in ("bf16", "fp16") and (case.c_in, case.c_out, case.height) == GROUP_WIDE.get(case.op)


def name(row: Row) -> str:
    """Which launch a row is about."""
    return f"{row['case']}, launch {row['launch']}"


def stale(version: str, rows: list[Row], only: tuple[str, ...]) -> list[str]:
    """How the committed table of a triton version differs from the rows just made of the cases with these texts.

    A wheel of triton brings its LLVM and ptxas, and one version of it makes the same machine code of the same launch
    everywhere (byte for byte, tried with other processes, caches and hash seeds).
    """
    table = read_tables(TABLE).get(version)
    if table is None:
        return [f"{TABLE.name} has no table for triton {version}"]
    found = differences([row for row in table["rows"] if matches(row["case"], only)], rows, name)
    if table["sources"] != (checksum := sources_checksum("triton")):
        found.append(f"kernel sources were {table['sources'][:12]}, are {checksum[:12]}")
    return found


def show(rows: list[Row]) -> None:
    """Prints the rows as a table."""
    table = Table(box=None, pad_edge=False)
    table.add_column("case, kernel and its options", overflow="fold")
    for name in ("registers", "spill", "stack", "shared KiB", "tensor columns", "scratch", "matrix", "serialised"):
        table.add_column(name, justify="right")
    last = ""
    for row in rows:
        if row["case"] != last:
            table.add_row(row["case"], style="bold")
        last = row["case"]
        options = " ".join(f"{name}={value}" for name, value in row["options"].items())
        if "error" in row:
            table.add_row(f"  {row['kernel']} {options}: does not compile", style="red")
            continue
        table.add_row(
            f"  {row['kernel']} {options}",
            str(row["registers"]),
            str(row["spill_bytes"] or ""),
            str(row["stack_bytes"] or ""),
            f"{row['shared_bytes'] / 1024:.1f}",
            str(row["tensor_columns"] or ""),
            str(row["scratch_bytes"] or ""),
            " ".join(f"{count} {name}" for name, count in row["matrix"].items()),
            " ".join(row["serialised"]),
        )
    Console(width=None if Console().is_terminal else 200).print(table)


@click.command(context_settings={"max_content_width": 110, "help_option_names": ["-h", "--help"]})
@click.option("--only", multiple=True, metavar="TEXT", help="Only cases with this in their names; repeated: all.")
@click.option("--list", "list_cases", is_flag=True, help="Print the cases' names and compile nothing.")
@click.option("--write", is_flag=True, help="Exchange this triton version's rows in bench/aot.json.")
@click.option("--check", is_flag=True, help="Compare with bench/aot.json, and print only what is wrong.")
@click.option("--processes", type=click.IntRange(min=1), help="How many compile at a time. [default: one per core]")
def main(only: tuple[str, ...], list_cases: bool, write: bool, check: bool, processes: int | None) -> None:
    """Compile what the Triton backend would launch on NVIDIA GPUs from sm_80 on, and show what the kernels take.

    Needs no GPU: the backend's own functions run on tensors without data, and every launch that they ask for is
    compiled by the triton that is installed, with triton's cache.

    The exit status is 1 if a kernel spills, has matrix instructions serialised by ptxas, takes more memory than the
    device has, or lacks the device's matrix instructions. With --check also if any figure differs from the table:
    triton's wheel brings LLVM and ptxas, so one version of it makes the same code of the same kernels everywhere. A
    change of the kernels' sources, comments too, asks for --write.

    \b
    Examples:
      python bench/aot.py --only sm_90 --only "group_conv2d forward D4"
      python bench/aot.py --write
    """
    selected = [case for case in cases() if matches(str(case), only)]
    if not selected:
        raise click.UsageError("no case has all of these texts in its name")
    if list_cases:
        click.echo("\n".join(map(str, selected)))
        return
    if write and only:
        raise click.UsageError("--write compiles every case and takes no --only")
    if os.environ.get("TRITON_INTERPRET", "0") != "0":
        raise click.UsageError("nothing compiles with TRITON_INTERPRET set")
    import triton

    start = time.perf_counter()
    rows = compile_cases(selected, processes or os.cpu_count() or 1)
    if write:
        write_table(TABLE, "python bench/aot.py --write", triton.__version__, sources_checksum("triton"), rows)
    if not check:
        show(rows)
    wrong = [fault for case in selected for fault in faults(case, [row for row in rows if row["case"] == str(case)])]
    if check:
        wrong += stale(triton.__version__, rows, only)
    seconds, spent = time.perf_counter() - start, os.times()
    click.echo(
        f"triton {triton.__version__}: {len(rows)} kernels of {len(selected)} cases in {seconds:.0f} s, "
        f"{spent.children_user + spent.children_system:.0f} s of the processors"
    )
    if wrong:
        raise click.ClickException("\n  ".join([f"{len(wrong)} wrong:", *wrong]))


if __name__ == "__main__":
    main()
