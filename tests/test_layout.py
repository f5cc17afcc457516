"""Where things are: imports run one way, one stem names an op in every layer, and the README's layout exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import gconv
import gconv.nn

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = {path.stem for path in (ROOT / "examples").glob("*.py")}  # scripts, imported by their file names
STEMS = ("lifting_conv2d", "group_conv2d", "group_pool")

# Every module may import those of a smaller number, and its own package.
LAYERS = {
    "gconv.groups": 0,
    "gconv.layout": 0,
    "gconv.build": 0,  # the only one that loads gconv._native
    "gconv.cosets": 1,
    "gconv.backends": 2,
    "gconv.ops": 3,
    "gconv.functional": 4,
    "gconv.steerable": 5,
    "gconv.conv_transpose": 5,
    "gconv.explanation": 6,
    "gconv.nn": 6,
    "gconv.convert": 7,
    "gconv.interop": 7,
    "gconv": 8,
    "gconv.__main__": 9,
}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[str, str | None]]:
    """Each import as (module, name or None); ``from package import submodule`` gives the submodule."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                is_module = (ROOT / inner.replace(".", "/")).with_suffix(".py").exists() or (
                    ROOT / inner.replace(".", "/") / "__init__.py"
                ).exists()
                yield (inner, None) if is_module else (str(node.module), alias.name)


def layer(module: str) -> str:
    """The entry of LAYERS that a module belongs to."""
    return next(name for name in sorted(LAYERS, key=len, reverse=True) if f"{module}.".startswith(f"{name}."))


def files() -> list[str]:
    """The repository's own files, without what builds and runs leave behind."""
    ignored = ("__pycache__", "build", "dist", "runs", "venv", "node_modules")
    found = []
    for path in ROOT.rglob("*"):
        parts = path.relative_to(ROOT).parts
        if path.is_file() and not any(part.startswith(".") or part.startswith(ignored) for part in parts[:-1]):
            found.append("/".join(parts))
    return found


@pytest.mark.parametrize("path", modules("gconv"), ids=module_name)
def test_imports_run_one_way(path: Path) -> None:
    own = layer(module_name(path))
    for module, _ in imports(path):
        if module.split(".")[0] != "gconv":
            continue
        other = layer(module)
        assert other == own or LAYERS[other] < LAYERS[own], f"{module_name(path)} ({own}) imports {module} ({other})"


@pytest.mark.parametrize("path", [*modules("gconv"), *modules("sgan"), *modules("examples")], ids=module_name)
def test_nothing_imports_what_is_above_it(path: Path) -> None:
    above = {"tests", "bench", "examples", *EXAMPLES} | ({"sgan"} if module_name(path).startswith("gconv") else set())
    assert not above & {module.split(".")[0] for module, _ in imports(path)}
    assert ("gconv._native" in path.read_text()) <= (module_name(path) == "gconv.build")


@pytest.mark.parametrize("path", [*modules("sgan"), *modules("examples")], ids=module_name)
def test_sgan_and_examples_use_public_names_only(path: Path) -> None:
    public = {"gconv": set(gconv.__all__) | {"__version__"}, "gconv.nn": set(gconv.nn.__all__)}
    aliases: dict[str, str] = {}
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "gconv":
                    assert alias.name in public, f"{path.name} imports {alias.name}"
                    aliases[alias.asname or "gconv"] = alias.name if alias.asname else "gconv"
        elif isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "gconv":
            assert node.module in public, f"{path.name} imports from {node.module}"
            assert {alias.name for alias in node.names} <= public[node.module], f"{path.name} imports a private name"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in aliases:
            assert node.attr in public[aliases[node.value.id]], f"{path.name} uses {node.value.id}.{node.attr}"


@pytest.mark.parametrize("stem", STEMS)
def test_one_stem_names_an_op_in_every_layer(stem: str) -> None:
    named = [file for file in files() if stem in file.rsplit("/", 1)[-1]]
    assert f"gconv/ops/{stem}.py" in named
    assert f"tests/test_{stem}.py" in named
    assert any(file.startswith("csrc/cpu/") and file.endswith(".cpp") for file in named)
    assert any(file.startswith("csrc/tests/") for file in named)


def test_one_stem_names_the_transposed_convolution() -> None:
    """It has no kernel of its own: it runs the input gradient of group_conv2d."""
    named = {file for file in files() if "conv_transpose" in file and file.endswith(".py")}
    assert named == {f"{place}conv_transpose.py" for place in ("gconv/", "gconv/nn/", "tests/test_")}


def test_every_public_name_is_exported_and_documented() -> None:
    for package in (gconv, gconv.nn):
        assert list(package.__all__) == sorted(package.__all__)
        for name in package.__all__:
            assert getattr(package, name).__doc__, f"{package.__name__}.{name} has no docstring"


def test_the_readme_names_files_that_exist() -> None:
    text = (ROOT / "README.md").read_text()
    (section,) = re.findall(r"^## Layout\n(.*?)(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"(?<![\w./])[\w.-]+(?:/[\w.-]+)*/?(?=[\s;,:`])", section))
    paths = {name for name in named if "/" in name or re.search(r"\.(py|toml|txt|md|cpp)$", name)}
    paths |= set(re.findall(r"\b[A-Z]+\.md\b", text)) | set(re.findall(r"\]\((?!https?:)([^)#]+)\)", text))
    assert {"csrc/cpu/", "gconv/ops/", "gconv/nn/", "gconv/backends/", "gconv/functional.py", "tests/"} <= paths
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []
