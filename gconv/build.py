"""What the native build made, what it left out and why; written by CMake, read by `python -m gconv` and errors."""

from __future__ import annotations

import importlib
import json
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

_INFO = Path(__file__).with_name("_build_info.json")


@cache
def info() -> dict[str, Any]:
    """The record that CMake wrote, or an empty one if the package was never built."""
    if not _INFO.exists():
        unbuilt = "the package was not built: run `pip install -e .`"
        return {"native_missing_reason": unbuilt, "cuda_missing_reason": unbuilt}
    record: dict[str, Any] = json.loads(_INFO.read_text())
    return record


@cache
def _load(stem: str) -> tuple[ModuleType | None, str]:
    """A compiled extension, "native" or "cuda", or None and why it is missing."""
    try:
        return importlib.import_module(f"gconv._{stem}"), ""
    except ModuleNotFoundError:
        return None, str(info().get(f"{stem}_missing_reason") or f"gconv._{stem} is missing: build again")
    except ImportError as error:  # built for another machine, or a library of the compiler is gone
        return None, f"gconv._{stem} does not load: {error}"


def native() -> ModuleType | None:
    """The CPU kernels, or None if they were not built or do not load."""
    return _load("native")[0]


def native_missing() -> str | None:
    """Why there are no CPU kernels; None if there are."""
    module, reason = _load("native")
    return None if module else reason


def cuda() -> ModuleType | None:
    """The CUDA kernels, or None if they were not built or do not load; they load where there is no driver."""
    return _load("cuda")[0]


def cuda_missing() -> str | None:
    """Why there are no CUDA kernels; None if there are."""
    module, reason = _load("cuda")
    return None if module else reason
