"""The backend triton where it cannot run, and what launches kernels: neither needs a GPU, nor triton."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import gconv
from gconv import backends
from gconv.backends import nvidia
from gconv.backends.triton import backend, launch


@pytest.fixture
def with_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where triton is installed, and not interpreting."""
    monkeypatch.setattr(launch, "triton_missing", lambda: None)
    monkeypatch.setattr(launch, "interpreted", lambda: False)


def tensor_on(device: str, dtype: torch.dtype = torch.float32) -> Any:
    """What the backend asks of a tensor."""
    return SimpleNamespace(
        is_cuda=device == "cuda", is_cpu=device == "cpu", device=torch.device(device, 0), dtype=dtype
    )


@pytest.mark.usefixtures("with_triton")
@pytest.mark.parametrize(
    ("x", "capability", "reason"),
    [
        (tensor_on("cuda"), (8, 0), None),
        (tensor_on("cuda", torch.bfloat16), (9, 0), None),
        (tensor_on("cuda"), (7, 5), "it needs compute capability 8.0, and x is on a device of 7.5"),
        (tensor_on("cuda", torch.float64), (9, 0), "it knows float32, float16, bfloat16, and x is torch.float64"),
        (tensor_on("cpu"), (9, 0), "it runs on CUDA tensors, and x is on cpu"),
        (tensor_on("meta"), (9, 0), "it runs on CUDA tensors, and x is on meta"),
    ],
)
def test_the_reason_is_given_in_plain_words(
    x: Any, capability: tuple[int, int], reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(nvidia, "capability", lambda index: capability)
    assert backends.unavailable("triton", x) == reason


@pytest.mark.usefixtures("with_triton")
def test_gpus_of_another_maker_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "7.0")
    reason = "it is written for NVIDIA GPUs, and this torch is built for AMD's"
    assert backends.unavailable("triton", tensor_on("cuda")) == reason


def test_a_triton_that_does_not_load_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise ImportError("libtriton.so: undefined symbol")

    monkeypatch.setattr(launch, "find_spec", lambda name: object())
    monkeypatch.setattr(launch, "import_module", broken)
    assert launch.triton_missing.__wrapped__() == "triton does not load: libtriton.so: undefined symbol"


WITHOUT = """
import runpy, sys, torch
{prepare}
import gconv
assert sys.modules.get("triton") is None  # loading it takes half a second
group, x, weight = gconv.CyclicGroup(4), torch.randn(1, 2, 4, 5, 5), torch.randn(3, 2, 4, 3, 3)
told = gconv.explain("group_conv2d", x, weight, group=group)
print(told.unavailable["triton"], told.backend in ("cpu", "dense"), sep="|")
for call in (
    lambda: gconv.group_conv2d(x, weight, group=group, backend="triton"),
    lambda: gconv.lifting_conv2d(x[:, :, 0], weight[:, :, 0], group=group, backend="triton"),
    lambda: gconv.group_pool(x, group=group, backend="triton"),
):
    try:
        call()
    except RuntimeError as error:
        print(error)
gconv.group_pool(gconv.group_conv2d(x, weight, group=group), group=group)
runpy.run_module("gconv", run_name="__main__")
"""


def told_without(prepare: str, environment: dict[str, str]) -> list[str]:
    """What a new process says that has been prepared so."""
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(prepare=prepare)],
        env=kept | {"COLUMNS": "200"} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


@pytest.mark.parametrize(
    ("prepare", "environment", "reason"),
    [
        ("sys.modules['triton'] = None", {}, "triton is not installed"),  # makes an import fail
        ("", {"CUDA_VISIBLE_DEVICES": ""}, "it runs on CUDA tensors, and no CUDA device was found"),
    ],
    ids=["no triton", "no driver"],
)
def test_without_triton_or_a_driver_all_else_works(prepare: str, environment: dict[str, str], reason: str) -> None:
    if not prepare:
        pytest.importorskip("triton", reason="triton is not installed, which the other case is about")
    first, *rest = told_without(prepare, environment)
    assert first == f"{reason}|True"
    operations = ("group_conv2d", "lifting_conv2d", "group_pool")
    assert rest[:3] == [f"{operation}: backend 'triton' cannot run: {reason}" for operation in operations]
    assert any("backend triton" in line and f"missing: {reason}" in line for line in rest)


def pins(name: str) -> dict[str, str]:
    lines = (Path(__file__).parent.parent / name).read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


def test_the_two_sets_of_versions_differ_where_they_say() -> None:
    ours, other = pins("constraints.txt"), pins("constraints-gpu.txt")
    assert other.keys() <= ours.keys()
    assert {name for name, version in other.items() if ours[name] != version} == {"triton", "numpy"}


@pytest.mark.parametrize("allowed", ["tf32", "ieee"])
def test_float32_is_multiplied_as_torch_lets_convolutions(allowed: str) -> None:
    """By the flag of convolutions alone: torch.backends.cudnn.allow_tf32 raises where recurrent layers have another."""
    flags = torch.backends.cudnn.conv
    before = flags.fp32_precision
    flags.fp32_precision = allowed
    try:
        assert launch.precision(torch.zeros(1)) == allowed
        assert launch.precision(torch.zeros(1, dtype=torch.bfloat16)) == "ieee"
    finally:
        flags.fp32_precision = before


class Kernel:
    """Notes its launches."""

    def __init__(self) -> None:
        self.ran: list[tuple[Any, ...]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *arguments, **options: self.ran.append((grid, arguments, options))


def test_a_kernel_is_launched_with_its_grid_arguments_and_options() -> None:
    kernel, x = Kernel(), torch.zeros(2)
    launch.launch(kernel, (3, 2), x, 5, BLOCK=8, num_warps=4)
    assert kernel.ran == [((3, 2), (x, 5), {"BLOCK": 8, "num_warps": 4})]


def test_an_empty_grid_launches_nothing() -> None:
    kernel = Kernel()
    launch.launch(kernel, (3, 0, 2), torch.zeros(2))
    with launch.recording() as launches:
        launch.launch(kernel, (0,), torch.zeros(2))
    assert kernel.ran == launches == []


def test_a_recording_notes_launches_and_runs_none() -> None:
    kernel, x = Kernel(), torch.zeros(2, device="meta")
    with launch.recording(capability=(10, 0)) as launches:
        assert launch.capability(x) == (10, 0)
        launch.launch(kernel, (3,), x, BLOCK=8)
    assert launches == [launch.Launch(kernel, (3,), (x,), {"BLOCK": 8})]
    assert kernel.ran == []
    launch.launch(kernel, (3,), torch.zeros(2))
    assert len(kernel.ran) == 1  # it is over
    assert launch.capability(torch.zeros(2)) == (8, 0)


def pooling(x: Tensor) -> None:
    """Every kernel of group_pool."""
    cosets = gconv.CyclicGroup(4).cosets([0, 2])
    for mode in ("max", "mean"):
        out, index = backend.group_pool(x, cosets, mode)
        backend.group_pool_backward(out, index, cosets, mode)
    backend.group_pool_select(x, backend.group_pool(x, cosets, "max")[1], cosets)


@pytest.mark.parametrize("dtype", backend.DTYPES, ids=str)
def test_what_pooling_launches_can_be_noted_without_a_gpu(dtype: torch.dtype) -> None:
    pytest.importorskip("triton", reason="the kernels are written in triton, which is not installed")
    x = torch.empty(2, 3, 4, 5, 6, dtype=dtype, device="meta")
    with launch.recording() as launches:
        pooling(x)
        pooling(x[:0])
    names = ["max", "max_backward", "mean", "mean_backward", "max", "select"]
    assert [entry.kernel.__name__ for entry in launches] == [f"{name}_kernel" for name in names]
    for entry in launches:
        assert {t.device.type for t in entry.arguments if isinstance(t, Tensor)} == {"meta"}
        assert entry.arguments[-2:] == (2, 90)  # images, and numbers in a plane
        assert entry.options["COSETS"] == ((0, 2), (1, 3))
