"""Builds gconv's native modules by plain cmake, of whatever version, and puts them in gconv/."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from kernel_sources import ROOT

BUILD = ROOT / "build/gpu"
# Looks at a barrier after which a kernel of a build for tests fails in place of hanging: some 40 clocks each, so two
# seconds where one warp looks, and more where many do. A right kernel waits for microseconds.
SPIN_LIMIT = 2**26
# cmake's options of such a build, whose objects are kept apart: one folder keeps one object of each source.
FOR_TESTS = (f"-DGCONV_SPIN_LIMIT={SPIN_LIMIT}", f"-DGCONV_CUDA_OBJECTS={ROOT / 'build/cuda-tests'}")
MODULES = ("native", "cuda")
SAID = 4000  # characters of a failed command's output


class Failed(RuntimeError):
    """A command failed; the end of what it said."""


def cmake() -> str:
    """Where cmake is: on the PATH, or in this python's folder of scripts.

    Raises:
        Failed: it is not there.
    """
    found = shutil.which("cmake") or shutil.which("cmake", path=sysconfig.get_path("scripts"))
    if found is None:
        raise Failed("cmake was not found")
    return found


def run(*command: str) -> str:
    """What a command prints.

    Raises:
        Failed: it did.
    """
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise Failed(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout[-SAID:]}")
    return done.stdout


def compile_modules(build: Path, options: tuple[str, ...]) -> dict[str, Any]:
    """Compiles each module that cmake finds the tools for; one that does not compile leaves the other.

    Returns:
        What gconv/_build_info.json is to say.

    Raises:
        Failed: cmake is missing, or does not take CMakeLists.txt.
    """
    where = [f"-DPython_EXECUTABLE={sys.executable}"]
    with suppress(Failed):  # cmake looks for it by itself, too, and the record says if it is not found
        where.append(f"-Dpybind11_DIR={run(sys.executable, '-m', 'pybind11', '--cmakedir').strip()}")
    print(run(cmake(), "-S", str(ROOT), "-B", str(build), *where, *options).rstrip())
    facts: dict[str, Any] = json.loads((build / "_build_info.json").read_text())
    for name in (name for name in MODULES if facts[name]):
        try:
            run(cmake(), "--build", str(build), "--target", f"_{name}", "--parallel", str(os.cpu_count() or 1))
        except Failed as error:
            print(error)
            lines = [line.strip() for line in str(error).splitlines() if "error" in line or "fatal" in line]
            facts |= {name: False, f"{name}_missing_reason": (lines or str(error).splitlines())[0][:300]}
    return facts


def install(build: Path, facts: dict[str, Any], package: Path) -> None:
    """Exchanges the package's modules and their record; no module stays that the record denies."""
    for name in MODULES:
        made = list(build.glob(f"_{name}*.so")) if facts[name] else []
        for module in made:
            partial = package / f"{module.name}.part"
            shutil.copy2(module, partial)
            partial.replace(package / module.name)  # a process that has the old one loaded keeps it
        for stale in {file.name for file in package.glob(f"_{name}*.so")} - {module.name for module in made}:
            (package / stale).unlink()
    (package / "_build_info.json").write_text(json.dumps(facts, indent=2) + "\n")


@click.command(context_settings={"max_content_width": 110, "help_option_names": ["-h", "--help"]})
@click.option("--for-tests", is_flag=True, help=f"CUDA kernels fail after {SPIN_LIMIT} looks at a barrier; no hanging.")
@click.option("--only-compile", is_flag=True, help="Leave gconv/ as it is; a later call without is then done at once.")
@click.option("--into", type=click.Path(path_type=Path), default=ROOT / "gconv", help="The package. [default: gconv]")
def main(for_tests: bool, only_compile: bool, into: Path) -> None:
    """Build gconv._native and gconv._cuda by plain cmake and put them in gconv/, without pip or scikit-build-core.

    For machines whose scikit-build-core is older than pyproject.toml asks for, and no network to bring a newer one:
    there `pip install` ends in a second, without any module. Nothing but cmake, a compiler, nvcc and pybind11 is
    needed. Each module that is not built is named with the reason, and the exit status is then 1.

    With --for-tests a CUDA kernel that waits for what never comes fails with an error of CUDA after some seconds.
    Such kernels are for tests, not for timing.
    """
    build = BUILD / ("tests" if for_tests else "product")
    try:
        facts = compile_modules(build, FOR_TESTS if for_tests else ())
    except Failed as error:
        raise click.ClickException(f"nothing was built: {error}") from error
    if not only_compile:
        install(build, facts, into)
    missing = [name for name in MODULES if not facts[name]]
    for name in missing:
        print(f"gconv._{name} IS NOT BUILT: {facts[f'{name}_missing_reason']}")
    where = f"compiled in {build}" if only_compile else f"put in {into}"
    print(f"{' and '.join(f'gconv._{name}' for name in MODULES if facts[name]) or 'nothing'}: {where}")
    sys.exit(int(bool(missing)))


if __name__ == "__main__":
    main()
