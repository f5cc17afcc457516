"""Peak memory of one run, in a fresh process: `python bench/memory.py '{"case": ..., "contender": ...}'` prints bytes.

Native workspaces do not pass through torch's allocator, so on a CPU it is the operating system that is asked: by how
much resident memory grows at its peak, mapped files (the libraries' own pages) left out, plus what the operands hold.
Nothing is shared with an earlier run, whose buffers might have been kept.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import re
import subprocess
import sys
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path

from measure import Case, Contest, Setting, is_gpu

MIB = 2**20
RESOLUTION_MIB = 0.5  # the kernel counts pages in batches per core; what is less apart is equal


def missing(setting: Setting) -> str | None:
    """Why peak memory cannot be measured here; None if it can."""
    if is_gpu(setting.device) or Path("/proc/self/clear_refs").exists():
        return None
    return "peak memory of a CPU run is read from Linux' /proc"


def peaks_mib(case: Case, setting: Setting, contenders: tuple[str, ...]) -> dict[str, float]:
    """Peak memory of each contender, each in a process of its own, side by side: nothing here is timed."""
    started = {
        name: subprocess.Popen(
            [sys.executable, __file__, json.dumps({"case": asdict(case), "setting": asdict(setting), "name": name})],
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},  # two processes share the cores here
            text=True,
        )
        for name in contenders
    }
    outputs = {name: process.communicate()[0] for name, process in started.items()}
    for name, process in started.items():
        if process.returncode != 0:
            raise RuntimeError(f"memory of {name} in {case}: the process ended with {process.returncode}")
    return {name: int(output) / MIB for name, output in outputs.items()}


def gpu_peaks_mib(contest: Contest, contenders: tuple[str, ...]) -> dict[str, float]:
    """The same on a GPU, in this process: every workspace passes through torch's allocator, which counts."""
    import torch

    peaks = {}
    for name in contenders:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        contest.contenders()[name]()
        torch.cuda.synchronize()
        grown = torch.cuda.max_memory_allocated() - before
        peaks[name] = (contest.operands.get(name.split()[0], 0) + grown) / MIB
    return peaks


def peak_bytes(case: Case, setting: Setting, name: str) -> int:
    """Peak memory of this process while the contender runs once, after a small run that loads the libraries."""
    import torch

    torch.set_num_threads(setting.threads)
    build = import_module(f"bench_{case.op}").contest
    small = replace(case, batch=1, height=4, c_in=min(case.c_in, 8), c_out=min(case.c_out, 8))
    build(small, setting).contenders()[name]()
    contest = build(case, setting)
    run = contest.contenders()[name]
    operands = contest.operands.get(name.split()[0], 0)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # memory that building freed must not be there to reuse
    before = _status_bytes("RssAnon") + _status_bytes("RssShmem")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from here
    run()
    return operands + _status_bytes("VmHWM") - _status_bytes("RssFile") - before


def _status_bytes(field: str) -> int:
    (kib,) = re.findall(rf"^{field}:\s*(\d+) kB", Path("/proc/self/status").read_text(), flags=re.MULTILINE)
    return int(kib) * 1024


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    print(peak_bytes(Case(**asked["case"]), Setting(**asked["setting"]), asked["name"]))
