"""What nvcc makes of the CUDA kernels, without a GPU: `python bench/nvcc.py`."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import click
from figures import Row, differences, matches, read_tables, write_table
from gpu_build import FOR_TESTS
from kernel_sources import COMPILED, ROOT, files_checksum, find
from ptxas import count_by_kernel, global_stores, launch_bounds, matrix_instructions, parse_kernels
from rich.console import Console
from rich.table import Table

TABLE = Path(__file__).with_name("nvcc.json")
BUILD = ROOT / "build/nvcc"
TARGETS = ("sm_80", "sm_90a")
REGISTERS = 65536  # of a multiprocessor, CUDA C++ Programming Guide, "Technical Specifications per Compute Capability"
STATIC_SHARED_LIMIT = 48 * 1024  # more than this must be dynamic
ENTRY_REGISTERS = 168  # per thread at launch, for the registers that csrc/cuda's Hopper kernels then share out
# The matrix instruction that a kernel for a machine is fast by, on the targets where it is not empty.
MATRIX = {"Hopper": ("HGMMA", ("sm_90a",)), "Ampere": ("HMMA", TARGETS)}
NUMBER_BYTES = {"float": 4, "Float16": 2, "Bfloat16": 2}
KERNEL = re.compile(r"\bGCONV_KERNEL\s+(?:GCONV_BOUNDS\([^)]*\)\s+)?(\w+)\(")
SAID = 4000  # characters of a failed command's output: those of templates are long
KEY = re.compile(r"-[0-9a-f]{16}$")  # of an object's name: what it was compiled from


class ToolMissing(RuntimeError):
    """A tool is not on this machine, or does not do what it is for."""


def compile_all(build: Path, processes: int, options: tuple[str, ...] = ()) -> tuple[str, list[Path]]:
    """nvcc's version, and the objects of csrc/cuda/*.cu, each with its log beside it.

    CMakeLists.txt says which objects there are and with which flags they are compiled; `options` are cmake's. Those
    that an install has compiled of the same sources are not compiled again.

    Raises:
        ToolMissing: cmake or nvcc is not there, or does not get on with this machine.
        RuntimeError: a source does not compile.
    """
    cmake = tool("cmake")
    listed = build / "cuda_objects"
    listed.unlink(missing_ok=True)
    said = run(cmake, "-S", str(ROOT), "-B", str(build), "-DGCONV_CUDA_ONLY=ON", *options)
    facts = json.loads((build / "_build_info.json").read_text())
    if not listed.exists():
        raise ToolMissing(facts["cuda_missing_reason"] or said)
    run(cmake, "--build", str(build), "--target", "cuda_objects", "--parallel", str(processes))
    return facts["nvcc"], [Path(line) for line in listed.read_text().splitlines()]


def run(*command: str) -> str:
    """What a command prints.

    Raises:
        RuntimeError: it failed, with the end of what it said.
    """
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout[-SAID:]}")
    return done.stdout


def tool(name: str) -> str:
    """Where a tool is.

    Raises:
        ToolMissing: it is not there.
    """
    found = shutil.which(name) or shutil.which(name, path="/usr/local/cuda/bin")
    if found is None:
        raise ToolMissing(f"{name} was not found")
    return found


def cuobjdump() -> str:
    """The disassembler: the toolkit's, which some installations lack, or the one in triton's wheel.

    Raises:
        ToolMissing: neither is there.
    """
    spec = find_spec("triton")
    bundled = Path(spec.origin).parent / "backends/nvidia/bin/cuobjdump" if spec and spec.origin else None
    try:
        return tool("cuobjdump")
    except ToolMissing:
        if bundled and bundled.exists():
            return str(bundled)
    raise ToolMissing("cuobjdump was not found, neither CUDA's nor the one in triton's wheel (pip install triton)")


def readable(names: Iterable[str]) -> dict[str, str]:
    """Mangled names as the source has them: "group_conv2d_kernel<C4, Bfloat16, Hopper, 64>"."""
    mangled = list(names)
    plain = subprocess.run([tool("c++filt")], input="\n".join(mangled), capture_output=True, text=True, check=True)
    return {name: shorten(full) for name, full in zip(mangled, plain.stdout.splitlines(), strict=True)}


def shorten(name: str) -> str:
    """A demangled kernel's name and template arguments, without result, namespace and parameters."""
    name = name.removeprefix("void ").replace("(anonymous namespace)::", "").replace("gconv::cuda::", "")
    return re.sub(r"\([^<>]*\)$", "", re.sub(r"\((?:int|bool|unsigned int)\)", "", name))


def rows_of(item: Path) -> list[Row]:
    """One row per kernel and target of an object, whose log lies beside it."""
    kernels = parse_kernels(item.with_name(f"{item.name}.log").read_text())
    if not kernels:
        return []
    dump = cuobjdump()
    listing = run(dump, "-sass", str(item))
    matrix, stores = count_by_kernel(listing, matrix_instructions), count_by_kernel(listing, global_stores)
    bounds = launch_bounds(run(dump, "-elf", str(item)))
    names = readable({kernel.name for kernel in kernels})
    stem = KEY.sub("", item.stem)
    rows = [
        {
            "target": kernel.target,
            "object": stem,
            "kernel": names[kernel.name],
            "threads": bounds.get(kernel),
            **asdict(resources),
            "matrix": matrix[kernel],
            "stores": stores[kernel],
        }
        for kernel, resources in kernels.items()
    ]
    return sorted(rows, key=name)


def name(row: Row) -> str:
    """Which kernel a row is about."""
    return f"{row['target']} {row['object']} {row['kernel']}"


def faults(rows: list[Row], sources: Iterable[Path]) -> list[str]:
    """What no kernel may do, and which kernels and sources are not there, whatever nvcc's version.

    A kernel that spills, keeps arrays in memory, or whose matrix instructions are serialised runs several times too
    slow; one without launch bounds may not start.
    """
    found = [fault for row in rows for fault in faults_of(row)]
    present = {(row["target"], row["kernel"].split("<")[0]) for row in rows}
    for source in sources:
        for kernel in KERNEL.findall(source.read_text()):
            absent = [target for target in TARGETS if (target, kernel) not in present]
            found += [f"{source.name}: {kernel} is in no object for {target}" for target in absent]
    return found


def faults_of(row: Row) -> list[str]:
    """What is wrong with one kernel."""
    found = []
    if row["spill_bytes"]:
        found.append(f"spills {row['spill_bytes']} bytes")
    elif row["stack_bytes"]:
        found.append(f"keeps {row['stack_bytes']} bytes of each thread in local memory")
    if row["serialised"]:
        found.append(f"has serialised matrix instructions: {', '.join(row['serialised'])}")
    if row["static_shared_bytes"] > STATIC_SHARED_LIMIT:
        found.append(f"has {row['static_shared_bytes']} bytes of static shared memory")
    if row["threads"] is None:
        found.append("has no launch bounds")
    elif (taken := -(-row["registers"] // 8) * 8 * row["threads"]) > REGISTERS:  # they are allotted by eights
        found.append(f"needs {taken} registers for a block of {row['threads']} threads")
    if "Hopper" in row["kernel"] and row["target"] == "sm_90a" and row["registers"] != ENTRY_REGISTERS:
        found.append(f"starts with {row['registers']} registers, and its warps share {ENTRY_REGISTERS} each out anew")
    for machine, (instruction, targets) in MATRIX.items():
        if machine in row["kernel"] and row["target"] in targets and instruction not in row["matrix"]:
            found.append(f"has no {instruction} instructions")
    if (chunks := row["stores"].get("128", 0)) < (asked := chunk_stores(row)):
        found.append(f"has {chunks} stores of 16 bytes where the source has {asked}: the others are split")
    return [f"{name(row)} {fault}" for fault in found]


def chunk_stores(row: Row) -> int:
    """The stores of 16 bytes to global memory that a kernel's source has, by its template arguments.

    Loops that are not unrolled have each of theirs once, so that code may have more.
    """
    stem, *arguments = re.findall(r"\w+", row["kernel"])
    if any(machine in arguments and row["target"] not in targets for machine, (_, targets) in MATRIX.items()):
        return 0  # it is empty there
    match stem, arguments:
        case "group_conv2d_kernel", [group, dtype, _, columns]:  # per plane, two pixels of each 32 halves
            whole = NUMBER_BYTES[dtype] == 2 and int(columns) % 32 == 0
            order = int(group[1:]) * (2 if group.startswith("D") else 1)
            return order * int(columns) // 16 if whole else 0
        case "pack_kernel", [order, _]:  # a chunk of each row of irreps
            return int(order)
        case "images_kernel", _:
            return 1
        case "max_kernel" | "mean_kernel" | "select_kernel" | "max_backward_kernel" | "mean_backward_kernel", _:
            dtype, length = arguments
            return int(NUMBER_BYTES[dtype] * int(length) == 16)
    return 0


def checksum() -> str:
    """Of what nvcc sees."""
    return files_checksum(find(COMPILED), ROOT)


def stale(version: str, rows: list[Row], only: tuple[str, ...]) -> list[str]:
    """How the committed table of a version of nvcc differs from the rows just made of the kernels with these texts."""
    table = read_tables(TABLE)[version]
    found = differences([row for row in table["rows"] if matches(name(row), only)], rows, name)
    if table["sources"] != (now := checksum()):
        found.append(f"kernel sources were {table['sources'][:12]}, are {now[:12]}: python bench/nvcc.py --write")
    return found


def show(rows: list[Row]) -> None:
    """Prints the rows as a table."""
    table = Table(box=None, pad_edge=False)
    table.add_column("target, object and kernel", overflow="fold")
    for column in ("threads", "registers", "spill", "stack", "shared", "matrix", "stores", "serialised"):
        table.add_column(column, justify="right")
    for row in rows:
        numbers = (row["threads"], row["registers"])
        rest = (row["spill_bytes"], row["stack_bytes"], row["static_shared_bytes"])
        table.add_row(
            name(row),
            *map(str, numbers),
            *(str(number or "") for number in rest),
            " ".join(f"{count} {instruction}" for instruction, count in row["matrix"].items()),
            " ".join(f"{count} of {bits}" for bits, count in row["stores"].items()),
            " ".join(row["serialised"]),
            style="red" if faults_of(row) else None,
        )
    Console(width=None if Console().is_terminal else 180).print(table)


@click.command(context_settings={"max_content_width": 110, "help_option_names": ["-h", "--help"]})
@click.option("--only", multiple=True, metavar="TEXT", help="Only kernels with this in their names; repeated: all.")
@click.option("--write", is_flag=True, help="Exchange this nvcc's rows in bench/nvcc.json.")
@click.option("--check", is_flag=True, help="Compare with bench/nvcc.json, and print only what is wrong.")
@click.option("--processes", type=click.IntRange(min=1), help="How many compile at a time. [default: one per core]")
@click.option("--build", type=click.Path(path_type=Path, file_okay=False), default=BUILD, help="CMake's folder.")
@click.option("--spin-limit", is_flag=True, help="The kernels of builds for tests, which do not hang; no table.")
def main(only: tuple[str, ...], write: bool, check: bool, processes: int | None, build: Path, spin_limit: bool) -> None:
    """Compile the CUDA kernels for sm_80 and sm_90a as an install does, and show what they take of a GPU.

    Needs nvcc, cmake, and cuobjdump, CUDA's or that in triton's wheel; no GPU.

    The exit status is 1 if a kernel spills, uses local memory, has matrix instructions serialised or its exchange of
    registers ignored by ptxas, lacks its machine's matrix instructions or launch bounds, starts with other registers
    than its warps share out, has fewer 16-byte stores than its source because they are split (columns "stores": how
    many of so many bits to global memory), or if a kernel of the sources was not compiled. With --check also if any
    figure differs from the table of this nvcc. A change of the kernels' sources, comments too, asks for --write.

    With --spin-limit the kernels are those of builds for tests, which fail after 2^26 looks at a barrier in place of
    hanging. They may spill and are held to all other rules; their figures are in no table.

    \b
    Examples:
      python bench/nvcc.py --only sm_90a --only "group_conv2d_kernel<C4"
      python bench/nvcc.py --write
    """
    if write and only:
        raise click.UsageError("--write takes every kernel and no --only")
    if spin_limit and (write or check):
        raise click.UsageError("--spin-limit has no table: it takes no --write and no --check")
    options = FOR_TESTS if spin_limit else ()
    start, processes = time.perf_counter(), processes or os.cpu_count() or 1
    try:
        version, objects = compile_all(build.resolve() / ("tests" if spin_limit else ""), processes, options)
        with ThreadPoolExecutor(processes) as pool:
            found = [row for rows in pool.map(rows_of, objects) for row in rows]
    except (ToolMissing, RuntimeError) as error:
        raise click.ClickException(f"nothing was checked: {error}") from error
    rows = [row for row in found if matches(name(row), only)]
    if not rows:
        raise click.UsageError("no kernel has all of these texts in its name")
    if write:
        write_table(TABLE, "python bench/nvcc.py --write", version, checksum(), rows)
    if not check:
        show(rows)
    if spin_limit:  # the count of looks may cost a spill, which makes a kernel slower and not wrong
        rows = [row | {"spill_bytes": 0, "stack_bytes": 0} for row in rows]
    wrong = faults(rows, () if only else find(COMPILED))
    known = version in read_tables(TABLE)
    if check and known:
        wrong += stale(version, rows, only)
    seconds = time.perf_counter() - start
    click.echo(f"nvcc {version}: {len(rows)} kernels of {len(objects)} objects in {seconds:.0f} s")
    if check and not known:
        versions = ", ".join(sorted(read_tables(TABLE))) or "none"
        click.echo(f"the rules were checked and the figures were not: {TABLE.name} has those of nvcc {versions}")
    if wrong:
        raise click.ClickException("\n  ".join([f"{len(wrong)} wrong:", *wrong]))


if __name__ == "__main__":
    main()
