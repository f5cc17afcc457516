"""The CUDA kernels on the CPU, in the place of the real ones: csrc/tests/emulated.sh builds them for these tests."""

from __future__ import annotations

import os
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from gconv import build
from gconv.backends import cuda

VARIABLE = "GCONV_EMULATED_CUDA"  # names the folder of the build
# What the kernels take for the device: one with Hopper's instructions, one without, and one with less shared memory.
DEVICES: dict[str, cuda.Device] = {"9.0": (90, 3, 232448), "8.0": (80, 3, 166912), "8.6": (86, 3, 101376)}
# The order in which threads get their turn, whether what they do not wait for is done as late as it may be, and a seed:
# the warp that is ahead or behind. Warps 0 to 7 multiply, 8 copies tiles, 9 to 11 copy halos, 12 on are the peer's.
SCHEDULES = [
    ("forward", "eager", 0), ("reversed", "late", 0), ("random", "eager", 1), ("random", "late", 2),
    ("ahead", "late", 0), ("ahead", "late", 8), ("behind", "late", 4), ("behind", "late", 9), ("behind", "late", 20),
]  # fmt: skip


def load() -> ModuleType | None:
    """Makes the backend cuda run on CPU tensors in this process, if the variable is set.

    Returns:
        The extension, or None.
    """
    if not os.environ.get(VARIABLE):
        return None
    (path,) = Path(os.environ[VARIABLE]).glob("_cuda*.so")
    spec = spec_from_file_location("gconv._cuda", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.emulated
    sys.modules["gconv._cuda"] = module
    build._load.cache_clear()
    return module
