"""Measures cases: checks first, then races, profiles and weighs; one row each."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from importlib import import_module
from typing import Any

import memory
import torch
from convolution import weight_shape
from measure import (
    OURS,
    Case,
    Contest,
    Row,
    Setting,
    Spread,
    best_variant,
    environment,
    has_engine,
    is_gpu,
    keep_freed_memory,
    matmul_flops,
    paired_ratios,
    race,
    spread,
)
from show import TRAINS
from targets import judged

import gconv
from gconv.backends import cpu

# What the paired ratio to a baseline is called, where that is not "ratio to <baseline>".
QUANTITIES = {
    "conv2d": "ratio",
    "torch": "ratio",
    "dense": "ratio",
    "copy": "of copy bandwidth",
    "full vectors": "of full vectors",
}


def module_of(op: str) -> Any:
    """The module with an op's CASES and contest."""
    return import_module("train_step" if op == "train_step" else f"bench_{op}")


class Bench:
    """One run: measures cases, refuses wrong ones, and keeps their rows. `header` is what all rows share.

    Args:
        setting: backend, device and threads.
        budget_s: seconds of each race.
        with_memory: whether to measure peak memory of the cases that ask for it.
    """

    def __init__(self, setting: Setting, budget_s: float, with_memory: bool) -> None:
        keep_freed_memory()
        self.setting = setting
        self.budget_s = budget_s
        self.with_memory = with_memory
        self.header: Row = {"run": now(), "environment": environment(setting)}
        self.peak = 0.0
        self.checked: dict[Case, dict[str, float]] = {}
        self.rows: list[Row] = []

    @property
    def wrong(self) -> bool:
        """Whether a result was wrong."""
        return any(row["wrong"] for row in self.rows)

    def measure(self, case: Case) -> Row:
        """The row of one case; one whose result is wrong has no quantities."""
        module = module_of("train_step" if case.suite in TRAINS else case.op)
        contest: Contest = module.contest(case, self.setting)
        check = self.check(case, contest)
        row: Row = {**self.header, "time": now(), "case": asdict(case), "backend": self.backend(case), "check": check}
        row |= {"wrong": max(check.values()) > 1, "quantities": {}}
        if not row["wrong"]:
            row |= self.profile(contest) if case.suite == "profile" else self.race(case, contest)
        row["targets"] = judged(case, row["quantities"], row["backend"])
        self.rows.append(row)
        return row

    def measure_or_say_why(self, case: Case) -> Row:
        """As :meth:`measure`, but a case that raises has a row that says so: one kernel that does not compile must not
        cost the others a rare hour on a GPU."""
        try:
            return self.measure(case)
        except Exception as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())
            row = {**self.header, "time": now(), "case": asdict(case), "backend": self.setting.backend or "auto"}
            row |= {"check": {}, "wrong": True, "error": text[:300], "quantities": {}, "targets": []}
            self.rows.append(row)
            return row

    def check(self, case: Case, contest: Contest) -> dict[str, float]:
        """The contest's check, which cases share that differ only in what is measured."""
        suite = case.suite if case.suite in ("eval", "gpu choice", *TRAINS) else ""
        key = replace(case, suite=suite, work="", quick=False, memory=False)
        if key not in self.checked:
            self.checked[key] = contest.check()
        return self.checked[key]

    def backend(self, case: Case) -> str:
        """The backend that runs; "auto" for a network, whose layers choose one by one."""
        if case.suite in TRAINS or (self.setting.backend and case.suite != "gpu choice"):
            return self.setting.backend or "auto"
        group = gconv.group_from_name(case.group)
        axis = () if case.op == "lifting_conv2d" else (group.order,)
        shape = (case.batch, case.c_in, *axis, case.height, case.height)
        x = torch.empty(shape, device=self.setting.device, dtype=case.torch_dtype)
        if case.op == "group_pool":
            return gconv.explain(case.op, x, group=group).backend
        weight = x.new_empty(weight_shape(case))
        return gconv.explain(case.op, x, weight, group=group, padding=case.size // 2).backend

    def race(self, case: Case, contest: Contest) -> Row:
        """Times, paired ratios, fractions of what the machine can do, and peak memory."""
        samples = race(contest.contenders(), self.budget_s, self.setting.device)
        peak = self.peak_flops(case)
        best = {rival: best_variant(samples, rival) for rival in contest.rivals}
        quantities: dict[str, Spread] = {}
        for rival, name in best.items():
            scale = contest.scale.get(rival, 1.0)
            quantity = QUANTITIES.get(rival, f"ratio to {rival}")
            quantities[quantity] = spread(scale * ratio for ratio in paired_ratios(samples, name))
        if case.suite == "overhead":
            pairs = zip(samples[OURS], samples[best["conv2d"]], strict=True)
            quantities = {"overhead_us": spread((ours - theirs) * 1e6 for ours, theirs in pairs)}
        elif peak and contest.flops:
            quantities["of peak"] = spread(contest.flops / seconds / peak for seconds in samples[OURS])
            quantities["dense equivalent"] = spread(contest.dense_flops / seconds / peak for seconds in samples[OURS])
        if contest.traffic:
            quantities["gb_per_s"] = spread(contest.traffic / seconds / 1e9 for seconds in samples[OURS])
        row: Row = {"times_ms": {name: spread(s * 1e3 for s in seconds) for name, seconds in samples.items()}}
        row |= {"rounds": len(samples[OURS]), "best": best, "fma_peak_gflops": peak / 1e9, "quantities": quantities}
        if case.memory and self.with_memory:
            baseline = best["torch" if case.op == "group_pool" else "conv2d"]
            names = (OURS, baseline)
            on_gpu = is_gpu(self.setting.device)
            peaks = memory.gpu_peaks_mib(contest, names) if on_gpu else memory.peaks_mib(case, self.setting, names)
            quantities["memory"] = spread([peaks[OURS] / (peaks[baseline] + memory.RESOLUTION_MIB)])
            row["memory_mib"] = peaks
        return row

    def profile(self, contest: Contest) -> Row:
        """Each stage's share of the threads' time, and the products' speed while they run."""
        contest.ours()
        calls, begin = 0, time.perf_counter()
        with cpu.profile() as stages:
            while calls < 3 or time.perf_counter() < begin + self.budget_s:
                contest.ours()
                calls += 1
            threads_s = self.setting.threads * (time.perf_counter() - begin)
        peak = self.fma_peak()
        shares = {name: seconds / threads_s for name, seconds in stages.items()}
        shares["elsewhere"] = 1 - sum(shares.values())
        quantities = {}
        if stages.get("multiply"):
            speed = calls * contest.flops / stages["multiply"] * self.setting.threads
            quantities["multiply of peak"] = spread([speed / peak])
        return {"stages": shares, "fma_peak_gflops": peak / 1e9, "quantities": quantities}

    def peak_flops(self, case: Case) -> float:
        """The FLOP/s that fractions are of: on a GPU of torch's matrix product in the case's dtype, measured once."""
        if is_gpu(self.setting.device):
            return matmul_flops(case.dtype) if case.suite == "gpu" else 0.0
        return self.fma_peak()

    def fma_peak(self) -> float:
        """The most FLOP/s of float32 multiply-adds on all threads that this run has seen, measured again each time.

        0 without the native engine.
        """
        if has_engine(self.setting.device):
            self.peak = max(self.peak, *(cpu.fma_peak(self.setting.threads) for _ in range(3)))
        return self.peak


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
