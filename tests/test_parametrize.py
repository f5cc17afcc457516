"""What parametrize is given: never an iterator, which pytest warns of, also where only a machine with a GPU looks."""

from __future__ import annotations

import ast
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted([*ROOT.glob("tests/*.py"), *ROOT.glob("bench/*.py")])
ITERATORS = {"zip", "map", "filter", "enumerate", "reversed", "iter", *dir(itertools)}
TYPES = {"Iterator", "Generator", "Iterable"}


def iterators(source: str) -> list[int]:
    """The lines of a module's calls of parametrize whose values are, or on some machine may be, an iterator."""
    module = ast.parse(source)
    named: dict[str, list[ast.expr]] = {}  # by name, all that is assigned to it at the module's level
    makers = set(ITERATORS)
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef) and gives_iterator(node):
            makers.add(node.name)
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    named.setdefault(target.id, []).append(node.value)

    def may_be_one(value: ast.expr, seen: frozenset[str] = frozenset()) -> bool:
        if isinstance(value, ast.GeneratorExp):
            return True
        if isinstance(value, ast.IfExp):
            return may_be_one(value.body, seen) or may_be_one(value.orelse, seen)
        if isinstance(value, ast.BoolOp):
            return any(may_be_one(part, seen) for part in value.values)
        if isinstance(value, ast.Name) and value.id not in seen:
            return any(may_be_one(part, seen | {value.id}) for part in named.get(value.id, ()))
        if isinstance(value, ast.Call):
            called = value.func.attr if isinstance(value.func, ast.Attribute) else getattr(value.func, "id", "")
            return called in makers
        return False

    calls = (node for node in ast.walk(module) if isinstance(node, ast.Call))
    return [call.lineno for call in calls for value in values_of(call) if may_be_one(value)]


def values_of(call: ast.Call) -> list[ast.expr]:
    """The expression of the values in a call of parametrize; none in other calls."""
    if not (isinstance(call.func, ast.Attribute) and call.func.attr == "parametrize"):
        return []
    return [*call.args[1:2], *(keyword.value for keyword in call.keywords if keyword.arg == "argvalues")]


def gives_iterator(function: ast.FunctionDef) -> bool:
    """Whether it yields, or says that it gives an iterator."""
    if any(isinstance(node, ast.Yield | ast.YieldFrom) for node in ast.walk(function)):
        return True
    returns = function.returns.value if isinstance(function.returns, ast.Subscript) else function.returns
    return getattr(returns, "id", "") in TYPES


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ("product((1, 2), (3, 4))", True),
        ("itertools.product((1, 2)) if GPU else [1]", True),
        ("[1] if GPU else (x for x in (1, 2))", True),
        ("LATER", True),
        ("given()", True),
        ("told(2)", True),
        ("list(product((1, 2), (3, 4))) if GPU else [1]", False),
        ("[x for x in range(2)]", False),
        ("range(3)", False),
        ("{1: 2}.items()", False),
        ("NOW", False),
    ],
)
def test_iterators_are_found(values: str, found: bool) -> None:
    module = f"""
LATER = None
LATER = NOW or zip("ab", "cd")
NOW = [1, 2]
def given():
    yield 1
def told(n: int) -> Iterator[int]:
    return iter(range(n))
@pytest.mark.parametrize("x", {values})
def test(x): pass
only = pytest.mark.parametrize(argnames="x", argvalues={values})
"""
    assert iterators(module) == ([9, 11] if found else [])


def test_no_test_is_parametrized_with_an_iterator() -> None:
    found = {f"{path.relative_to(ROOT)}:{line}" for path in FILES for line in iterators(path.read_text())}
    assert found == set()


# As far as collecting looks: the device is there, and what is made on it has no memory.
PRETENDED_GPU = '''"""A machine with a GPU, as far as tests are collected."""
import torch
from gconv import backends
zeros = torch.zeros
torch.zeros = lambda *size, device=None, **options: zeros(*size, device="meta" if device else None, **options)
torch.cuda.is_available = lambda: True
torch.cuda.mem_get_info = lambda: (80 * 2**30, 80 * 2**30)
torch.cuda.get_device_capability = lambda *device: (9, 0)
backends.unavailable = lambda name, x: None
'''


@pytest.fixture
def collected(tmp_path: Path) -> str:
    """What plain pytest collects of the files that ask for a device."""
    (tmp_path / "pretended_gpu.py").write_text(PRETENDED_GPU)
    files = [path for path in FILES if path.parent.name == "tests" and "cuda.is_available" in path.read_text()]
    names = [str(path) for path in files if path != Path(__file__).resolve()]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), str(ROOT), environment.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "pretended_gpu", *names]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout


def test_plain_pytest_collects_all_where_there_is_a_gpu(collected: str) -> None:
    lines = collected.splitlines()
    for backend in ("reference", "dense", "cuda", "triton"):
        assert any("test_gpu.py::test_gradients_and_their_gradients" in line and backend in line for line in lines)
    assert sum("test_gpu.py::" in line for line in lines) > 500
