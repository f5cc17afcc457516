"""The build by plain cmake: a machine's scikit-build-core does not matter, and no module is dropped in silence."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import gpu_build
import pytest
from click.testing import CliRunner

# A cmake that configures as FACTS say, and makes both modules but the one that BROKEN names.
CMAKE = f"""#!{sys.executable} -S
import json, os, pathlib, sys
arguments = sys.argv[1:]
with open(os.environ["ASKED"], "a") as stream: stream.write(" ".join(arguments) + "\\n")
if "-B" in arguments:
    build = pathlib.Path(arguments[arguments.index("-B") + 1])
    build.mkdir(parents=True, exist_ok=True)
    (build / "_build_info.json").write_text(os.environ["FACTS"])
    print("-- configured")
else:
    build, target = pathlib.Path(arguments[1]), arguments[arguments.index("--target") + 1]
    if target == os.environ["BROKEN"]:
        print("compiling")
        print("group_conv2d.cu(3): error: identifier is undefined")
        sys.exit(2)
    (build / f"{{target}}.cpython-1.so").write_text(f"{{target}} of " + build.name)
"""
FACTS: dict[str, Any] = {
    "native": True, "native_missing_reason": None, "cuda": True, "cuda_missing_reason": None, "spin_limit": None,
}  # fmt: skip


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose cmake is the one above, and a package with an older build."""
    (tmp_path / "cmake").write_text(CMAKE)
    (tmp_path / "cmake").chmod(0o755)
    monkeypatch.setattr(gpu_build, "cmake", lambda: str(tmp_path / "cmake"))
    monkeypatch.setattr(gpu_build, "BUILD", tmp_path / "build")
    for name, value in {"ASKED": tmp_path / "asked", "FACTS": json.dumps(FACTS), "BROKEN": "none"}.items():
        monkeypatch.setenv(name, str(value))
    package = tmp_path / "gconv"
    package.mkdir()
    for name in ("_native", "_cuda"):
        (package / f"{name}.cpython-0.so").write_text("older")
    return tmp_path


def build(machine: Path, *options: str) -> tuple[int, str, dict[str, str]]:
    """The exit status, what was said, and the package's modules."""
    result = CliRunner().invoke(gpu_build.main, [*options, "--into", str(machine / "gconv")])
    return result.exit_code, result.output, {file.name: file.read_text() for file in (machine / "gconv").glob("*.so*")}


def record(machine: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((machine / "gconv/_build_info.json").read_text())
    return found


def test_both_modules_take_the_place_of_older_ones(machine: Path) -> None:
    status, output, modules = build(machine)
    assert (status, output.splitlines()[-1]) == (0, f"gconv._native and gconv._cuda: put in {machine / 'gconv'}")
    assert modules == {"_native.cpython-1.so": "_native of product", "_cuda.cpython-1.so": "_cuda of product"}
    assert record(machine) == FACTS


def test_a_module_that_does_not_compile_leaves_the_other_and_is_told(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKEN", "_cuda")
    status, output, modules = build(machine)
    reason = "group_conv2d.cu(3): error: identifier is undefined"
    assert status == 1
    assert f"gconv._cuda IS NOT BUILT: {reason}" in output
    assert modules == {"_native.cpython-1.so": "_native of product"}
    assert record(machine) == FACTS | {"cuda": False, "cuda_missing_reason": reason}


def test_a_module_whose_tools_are_missing_is_told(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = FACTS | {"native": False, "native_missing_reason": "pybind11 was not found"}
    monkeypatch.setenv("FACTS", json.dumps(facts))
    status, output, modules = build(machine)
    assert status == 1
    assert "gconv._native IS NOT BUILT: pybind11 was not found" in output
    assert list(modules) == ["_cuda.cpython-1.so"]


def test_the_build_for_tests_has_its_own_folders_and_a_limit(machine: Path) -> None:
    _, _, modules = build(machine, "--for-tests")
    assert modules["_cuda.cpython-1.so"] == "_cuda of tests"
    configured = (machine / "asked").read_text().splitlines()[0]
    assert f"-DGCONV_SPIN_LIMIT={gpu_build.SPIN_LIMIT} -DGCONV_CUDA_OBJECTS=" in configured
    assert "cuda-tests" in configured
    _, output, modules = build(machine, "--only-compile")
    assert modules["_cuda.cpython-1.so"] == "_cuda of tests"  # as it was
    assert f"compiled in {machine / 'build/product'}" in output
    assert "SPIN_LIMIT" not in (machine / "asked").read_text().splitlines()[-1]


def test_without_cmake_nothing_is_built_and_said_so(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(gpu_build.shutil, "which", lambda name, path=None: None)
    status, output, modules = build(machine)
    assert (status, set(modules.values())) == (1, {"older"})
    assert "nothing was built: cmake was not found" in output
