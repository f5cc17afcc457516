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
        return {"native_missing_reason": "the package was not built: run `pip install -e .`"}
    record: dict[str, Any] = json.loads(_INFO.read_text())
    return record


@cache
def _load() -> tuple[ModuleType | None, str]:
    """The compiled extension, or None and why it is missing."""
    try:
        return importlib.import_module("gconv._native"), ""
    except ModuleNotFoundError:
        return None, str(info().get("native_missing_reason") or "gconv._native is missing: build again")
    except ImportError as error:  # built for another machine, or a library of the compiler is gone
        return None, f"gconv._native does not load: {error}"


def native() -> ModuleType | None:
    """The compiled extension, or None if it was not built or does not load."""
    return _load()[0]


def native_missing() -> str | None:
    """Why there is no compiled extension; None if there is one."""
    module, reason = _load()
    return None if module else reason
