"""The backend cuda where it cannot run, what it has no kernel for, and what the kernels are given: without a GPU."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import gconv
from gconv import backends, build
from gconv.backends import Work, cuda, nvidia

ROOT = Path(__file__).parent.parent
C4 = gconv.CyclicGroup(4)


class Native:
    """In place of the compiled extension: notes what it is called with, and writes ones."""

    def __init__(self, emulated: bool = True, missing: str = "") -> None:
        self.emulated, self.no_kernel = emulated, missing
        self.calls: list[tuple[Any, ...]] = []

    def error(self) -> str:
        return "the driver is too old"

    def Device(self, *facts: int) -> tuple[int, ...]:  # a class there
        return facts

    def Convolution(self, *sizes: Any) -> SimpleNamespace:  # a class there
        def note(step: str) -> Any:
            return lambda *addresses: self.calls.append((step, sizes, addresses))

        return SimpleNamespace(
            missing=lambda: self.no_kernel,
            workspace=lambda step: 100,
            **{step: note(step) for step in ("forward", "input_grad", "weight_grad")},
        )

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self.calls.append((name, arguments))


def install(monkeypatch: pytest.MonkeyPatch, native: Native | None) -> None:
    monkeypatch.setitem(sys.modules, "gconv._cuda", native)  # None makes the import fail
    forget()


def forget() -> None:
    for known in (build._load, cuda._no_device, cuda._convolution):
        known.cache_clear()


@pytest.fixture(autouse=True)
def _afresh() -> Iterator[None]:
    forget()
    yield
    forget()


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> Native:
    """Kernels that run on CPU tensors."""
    native = Native()
    install(monkeypatch, native)
    return native


def tensor_on(device: str, dtype: torch.dtype = torch.float32) -> Any:
    """What the backend asks of a tensor."""
    return SimpleNamespace(
        is_cuda=device == "cuda", is_cpu=device == "cpu", device=torch.device(device, 0), dtype=dtype
    )


@pytest.mark.parametrize(
    ("x", "capability", "reason"),
    [
        (tensor_on("cuda"), (8, 0), None),
        (tensor_on("cuda", torch.float16), (8, 9), None),
        (tensor_on("cuda", torch.bfloat16), (12, 0), None),
        (tensor_on("cuda"), (7, 5), "it needs compute capability 8.0, and x is on a device of 7.5"),
        (tensor_on("cuda", torch.float64), (9, 0), "it knows float32, float16, bfloat16, and x is torch.float64"),
        (tensor_on("cpu"), (9, 0), "it runs on CUDA tensors, and x is on cpu"),
        (tensor_on("meta"), (9, 0), "it runs on CUDA tensors, and x is on meta"),
    ],
)
def test_the_reason_is_given_in_plain_words(
    x: Any, capability: tuple[int, int], reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, Native(emulated=False))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(nvidia, "capability", lambda index: capability)
    monkeypatch.setattr(cuda, "_no_device", lambda: None)
    assert backends.unavailable("cuda", x) == reason


def test_a_driver_that_suffices_for_torch_alone_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Native(emulated=False))
    monkeypatch.setattr(nvidia, "capability", lambda index: (9, 0))
    assert backends.unavailable("cuda", tensor_on("cuda")) == "the driver is too old"


def test_gpus_of_another_maker_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Native(emulated=False))
    monkeypatch.setattr(torch.version, "hip", "7.0")
    reason = "it is written for NVIDIA GPUs, and this torch is built for AMD's"
    assert backends.unavailable("cuda", tensor_on("cuda")) == reason


@pytest.mark.usefixtures("native")
def test_emulated_kernels_run_on_the_cpu_only() -> None:
    assert backends.unavailable("cuda", tensor_on("cpu")) is None
    assert backends.unavailable("cuda", tensor_on("cuda")) == "it is emulated on the CPU, and x is on cuda"
    reason = "it knows float32, float16, bfloat16, and x is torch.float64"
    assert backends.unavailable("cuda", tensor_on("cpu", torch.float64)) == reason


def test_the_build_tells_why_there_are_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, None)
    monkeypatch.setattr(build, "info", lambda: {"cuda_missing_reason": "nvcc was not found"})
    assert backends.unavailable("cuda", tensor_on("cuda")) == "nvcc was not found"
    forget()
    monkeypatch.setattr(build, "info", lambda: {"cuda_missing_reason": None})
    assert backends.unavailable("cuda", tensor_on("cuda")) == "gconv._cuda is missing: build again"


WITHOUT = """
import runpy, sys, torch
{prepare}
import gconv
group, x, weight = gconv.CyclicGroup(4), torch.randn(1, 2, 4, 5, 5), torch.randn(3, 2, 4, 3, 3)
print(gconv.explain("group_conv2d", x, weight, group=group).unavailable["cuda"])
for call in (
    lambda: gconv.group_conv2d(x, weight, group=group, backend="cuda"),
    lambda: gconv.lifting_conv2d(x[:, :, 0], weight[:, :, 0], group=group, backend="cuda"),
    lambda: gconv.group_pool(x, group=group, backend="cuda"),
):
    try:
        call()
    except RuntimeError as error:
        print(error)
gconv.group_pool(gconv.group_conv2d(x, weight, group=group), group=group)
runpy.run_module("gconv", run_name="__main__")
"""


@pytest.mark.parametrize("built", [False, True], ids=["no extension", "no driver"])
def test_without_the_extension_or_a_driver_all_else_works(built: bool) -> None:
    if built and build.cuda() is None:
        pytest.skip(f"the extension is missing, which the other case is about: {build.cuda_missing()}")
    prepare = "" if built else "sys.modules['gconv._cuda'] = None"  # makes the import fail
    reason = str(build.info().get("cuda_missing_reason") or "gconv._cuda is missing: build again")
    if built:
        reason = "it runs on CUDA tensors, and no CUDA device was found"
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(prepare=prepare)],
        env=os.environ | {"COLUMNS": "500", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    first, *rest = run.stdout.splitlines()
    assert first == reason
    operations = ("group_conv2d", "lifting_conv2d", "group_pool")
    assert rest[:3] == [f"{operation}: backend 'cuda' cannot run: {reason}" for operation in operations]
    assert any("backend cuda" in line and f"missing: {reason}" in line for line in rest)


# ---- what has no kernel
WORK = Work("group_conv2d", "forward", "C4", torch.float16, 6, 4, 3, 1, 2, 7, 8)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"size": 1}, None),
        ({"size": 4}, None),
        ({"size": 5, "step": "weight_grad"}, None),
        ({"size": 7}, "its kernels have filters of up to 5 x 5, not 7 x 7: dense does that"),
        ({"stride": 2}, "its kernels have stride 1, not 2: dense does that"),
        ({"stride": 3, "step": "input_grad"}, "its kernels have stride 1, not 3: dense does that"),
        ({"operation": "group_pool", "c_out": 1, "size": 1}, None),
    ],
    ids=str,
)
def test_what_has_no_kernel_is_said(changes: dict[str, Any], reason: str | None, native: Native) -> None:
    x, work = torch.empty(0), WORK._replace(**changes)
    assert cuda.uncovered(work, x) == reason
    assert backends.unsuited("cuda", work, x) == reason
    assert backends.unavailable("cuda", x) is None
    assert native.calls == []


def test_a_device_without_room_for_the_tiles_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Native(missing="its tiles need more shared memory"))
    assert cuda.uncovered(WORK, torch.empty(0)) == "its tiles need more shared memory"


def test_a_work_is_asked_for_with_the_sizes_that_it_runs_with(native: Native, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []
    plan = native.Convolution
    monkeypatch.setattr(native, "Convolution", lambda *sizes: asked.append(sizes) or plan(*sizes), raising=False)
    for operation, group in (("group_conv2d", "C4"), ("group_conv2d", "C8"), ("lifting_conv2d", "D8")):
        g = gconv.group_from_name(group)
        m, order = g.coset_count, g.lattice.order
        lifting = operation == "lifting_conv2d"
        x = torch.zeros(2, 3, 7, 8) if lifting else torch.zeros(2, 3, g.order, 7, 8)
        weight = torch.zeros(5 * m, 3, 3, 3) if lifting else torch.zeros(5 * m, 3 * m, order, 3, 3)
        work = backends.Work(
            operation, "forward", g.lattice.name, x.dtype, weight.shape[1], weight.shape[0], 3, 1, 2, 5, 6, m
        )
        getattr(gconv, operation)(x, weight, group=g, backend="cuda")
        assert cuda.uncovered(work, x) is None
        assert len(asked) == 1, "uncovered asked for another plan"
        (sizes,) = asked
        assert sizes == (
            g.lattice.name,
            lifting,
            "float32",
            m,
            2,
            3,
            5,
            7,
            8,
            3,
            0,
            cuda.EMULATED,
            nvidia.allows_tf32(x),
        )
        asked.clear()


@pytest.mark.parametrize("options", [{"stride": 2}, {"size": 7}], ids=str)
def test_named_it_hands_what_has_no_kernel_to_dense(options: dict[str, int], native: Native) -> None:
    size, stride = options.get("size", 3), options.get("stride", 1)
    x = torch.randn(2, 3, 4, 9, 8, requires_grad=True)
    weight = torch.randn(5, 3, 4, size, size, requires_grad=True)
    found = []
    for backend in ("cuda", "dense"):
        out = gconv.group_conv2d(x, weight, group=C4, stride=stride, backend=backend)
        found.append([out, *torch.autograd.grad(out.square().sum(), (x, weight))])
    assert all(torch.equal(ours, wanted) for ours, wanted in zip(*found, strict=True))
    assert native.calls == []


def test_explain_says_what_it_does_not_choose_cuda_for(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Native(emulated=False))
    monkeypatch.setattr(cuda, "_no_device", lambda: None)
    monkeypatch.setattr(cuda, "_cuda_device", lambda index: cuda.EMULATED)
    monkeypatch.setattr(nvidia, "capability", lambda index: (9, 0))
    asked: list[tuple[str, tuple[str, ...]]] = []

    def choose(work: Work, device: str, candidates: tuple[str, ...]) -> tuple[str, str]:
        asked.append((work.step, candidates))
        return candidates[-1] if candidates else "dense", "a table says so"

    monkeypatch.setattr(backends.measured, "choose", choose)
    monkeypatch.setattr(backends.triton_backend, "missing", lambda x: "not here")
    with FakeTensorMode():
        x = torch.empty(2, 8, 4, 16, 16, device="cuda")
        weight = torch.empty(8, 8, 4, 3, 3, device="cuda")
        near = gconv.explain("group_conv2d", x, weight, group=C4, padding=1)
        far = gconv.explain("group_conv2d", x, weight, group=C4, padding=1, stride=2)
    assert "cuda" not in near.unavailable
    assert (near.backend, far.backend) == ("cuda", "dense")
    assert str(far).splitlines()[-1] == "  cuda cannot run: its kernels have stride 1, not 2: dense does that"
    assert {candidates for _, candidates in asked} == {("cuda",), ()}


# ---- what the kernels are given
def addresses(*tensors: Tensor) -> tuple[int, ...]:
    return tuple(tensor.data_ptr() for tensor in tensors)


def test_the_kernels_get_sizes_and_addresses(native: Native) -> None:
    x, weight, bias = torch.zeros(2, 6, 4, 7, 8), torch.zeros(10, 6, 4, 3, 3), torch.zeros(10)
    x = gconv.layout.canonical(x)
    sizes = ("C4", False, "float32", 1, 2, 6, 10, 7, 8, 3, 1, cuda.EMULATED, nvidia.allows_tf32(x))
    out = cuda.conv2d(x, weight, bias, C4, 1, 1)
    assert out.shape == (2, 10, 4, 7, 8)
    (step, given, (*places, workspace, stream)) = native.calls.pop()
    assert (step, given, stream) == ("forward", sizes, 0)
    assert tuple(places) == addresses(x, weight, bias, out)
    assert workspace % 1024 == 0
    cuda.conv2d(x, weight, None, C4, 1, 1)
    assert native.calls.pop()[2][2] == 0  # no bias
    grad_x = cuda.conv2d_input_grad(out, weight, C4, 7, 8, 1, 1)
    assert grad_x.shape == x.shape
    (step, given, (*places, workspace, stream)) = native.calls.pop()
    assert (step, given, tuple(places)) == ("input_grad", sizes, addresses(out, weight, grad_x))
    grad_weight = cuda.conv2d_weight_grad(x, out, C4, 3, 1, 1)
    assert grad_weight.shape == weight.shape
    (step, given, (*places, workspace, stream)) = native.calls.pop()
    assert (step, given, tuple(places)) == ("weight_grad", sizes, addresses(x, out, grad_weight))


def test_the_kernel_gets_an_epilogue(native: Native) -> None:
    x, weight = gconv.layout.canonical(torch.zeros(2, 6, 4, 7, 8)), torch.zeros(10, 6, 4, 3, 3)
    out = gconv.group_conv2d(x, weight, group=C4, backend="cuda", negative_slope=0.2, pool="mean")
    assert out.shape == (2, 10, 5, 6)
    assert out.is_contiguous(memory_format=torch.channels_last)
    (step, _, (*places, _, _, slope, pool)) = native.calls.pop()
    assert (step, slope, pool) == ("forward", 0.2, "mean")
    assert tuple(places) == (x.data_ptr(), weight.data_ptr(), 0, out.data_ptr())
    out = gconv.group_conv2d(x, weight, group=C4, backend="cuda", negative_slope=0)
    assert out.shape == (2, 10, 4, 5, 6)
    assert native.calls.pop()[2][-2:] == (0.0, "")
    assert native.calls == []


def test_explain_says_whether_an_epilogue_is_in_the_kernel(native: Native, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "choose", lambda work, x: ("cuda", "a table says so"))
    monkeypatch.setattr(backends, "resolve", lambda name, work, x: cuda)

    def told(group: str = "C4", x: Tensor | None = None, **options: Any) -> str:
        g = gconv.group_from_name(group)
        m, order = g.coset_count, g.lattice.order
        x = torch.zeros(2, 3, g.order, 7, 8) if x is None else x
        weight = torch.zeros(5 * m, 3 * m, order, 3, 3)
        return gconv.explain(
            "group_conv2d", x, weight, group=g, **{"negative_slope": 0.2, "pool": "max", **options}
        ).epilogue

    assert told() == "in the convolution's kernel"
    assert told(negative_slope=None, pool=None) == ""
    assert told("C8", pool=None) == "in the convolution's kernel"
    within = "cuda's kernel pools over what one thread holds, the lattice subgroup, and not over C8"
    assert told("C8") == f"ops of their own: {within}"
    assert told(stride=2) == "ops of their own: cuda has no kernel for the convolution"
    assert told(x=torch.zeros(0, 3, 4, 7, 8)) == "ops of their own: cuda has no kernel for the convolution"
    x = torch.zeros(2, 3, 4, 7, 8, requires_grad=True)
    assert told(x=x) == "ops of their own: autograd records every op"
    with torch.no_grad():
        assert told(x=x) == "in the convolution's kernel"
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert (
            told(x=mode.from_tensor(x))
            == "ops of their own: the call is compiled, traced, transformed or in a mode of torch's"
        )


def test_an_input_gradient_may_have_more_padding_than_the_window(native: Native) -> None:
    weight, grad_out = torch.zeros(3, 2, 4, 2, 2), gconv.layout.canonical(torch.zeros(1, 3, 4, 10, 9))
    grad_x = cuda.conv2d_input_grad(grad_out, weight, C4, 5, 4, 1, 3)
    (step, sizes, (*places, _workspace, _stream)) = native.calls.pop()
    assert (step, sizes[4:11]) == ("input_grad", (1, 2, 3, 5, 4, 2, 3))
    assert tuple(places) == addresses(grad_out, weight, grad_x)


def test_maps_and_filters_are_copied_to_where_the_kernels_can_read(native: Native) -> None:
    x = torch.zeros(2 * 4 * 3 * 5 * 5 + 1)[1:].view(2, 4, 5, 5, 3).permute(0, 4, 1, 2, 3)
    weight, bias = torch.zeros(3, 3, 4, 3, 6)[..., ::2], torch.zeros(6)[::2]
    assert x.data_ptr() % 16 == 4
    cuda.conv2d(x, weight, bias, C4, 1, 1)
    places = native.calls.pop()[2]
    assert places[0] != x.data_ptr()
    assert places[0] % 16 == places[1] % 16 == 0
    assert len({places[1], weight.data_ptr()}) == len({places[2], bias.data_ptr()}) == 2


def test_nothing_is_launched_on_nothing(native: Native) -> None:
    x, weight = torch.zeros(0, 3, 4, 5, 5), torch.ones(2, 3, 4, 3, 3)
    out = cuda.conv2d(x, weight, None, C4, 1, 1)
    assert out.shape == (0, 2, 4, 5, 5)
    assert cuda.conv2d_input_grad(out, weight, C4, 5, 5, 1, 1).shape == x.shape
    assert not cuda.conv2d_weight_grad(x, out, C4, 3, 1, 1).any()
    cosets = C4.cosets([0, 2])
    for mode in ("max", "mean"):
        pooled, index = cuda.group_pool(x, cosets, mode)
        assert cuda.group_pool_backward(pooled, index, cosets, mode).shape == x.shape
    assert cuda.group_pool_select(x, pooled.byte(), cosets).shape == (0, 3, 2, 5, 5)
    assert native.calls == []


def test_pooling_gets_planes(native: Native) -> None:
    x, cosets = gconv.layout.canonical(torch.zeros(2, 3, 4, 5, 6)), C4.cosets([0, 2])
    out, index = cuda.group_pool(x, cosets, "max")
    assert native.calls.pop() == ("group_pool", ("float32", *addresses(x, out, index), 2, 90, cosets, "max", 0))
    mean, nothing = cuda.group_pool(x, cosets, "mean")
    assert native.calls.pop() == ("group_pool", ("float32", *addresses(x, mean), 0, 2, 90, cosets, "mean", 0))
    grad = cuda.group_pool_backward(out, index, cosets, "max")
    options = (2, 90, cosets, "max", 0)
    assert native.calls.pop() == ("group_pool_backward", ("float32", *addresses(out, index, grad), *options))
    grad = cuda.group_pool_backward(mean, nothing, cosets, "mean")
    options = (2, 90, cosets, "mean", 0)
    assert native.calls.pop() == ("group_pool_backward", ("float32", mean.data_ptr(), 0, grad.data_ptr(), *options))
    again = cuda.group_pool_select(x, index, cosets)
    assert native.calls.pop() == ("group_pool_select", ("float32", *addresses(x, index, again), 2, 90, cosets, 0))


def test_float32_is_rounded_only_where_torch_lets_convolutions(native: Native, monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = torch.zeros(1, 2, 4, 5, 5), torch.zeros(2, 2, 4, 3, 3)
    for allowed in (True, False):
        monkeypatch.setattr(nvidia, "allows_tf32", lambda x, allowed=allowed: allowed)
        cuda.conv2d(x, weight, None, C4, 1, 1)
        assert native.calls.pop()[1][-1] is allowed


# ---- the compiled extension, where there is one
@pytest.fixture
def extension() -> Any:
    module = build.cuda()
    if module is None:
        pytest.skip(f"gconv._cuda is missing: {build.cuda_missing()}")
    return module


GOOD = ("C4", False, "float32", 1, 2, 3, 4, 5, 6, 3, 1)


def test_the_extension_refuses_sizes_that_cannot_be(extension: Any) -> None:
    device = extension.Device(90, 132, 232448)
    assert (device.capability, device.multiprocessors, device.shared_bytes) == (90, 132, 232448)
    assert extension.Convolution(*GOOD, device, False).missing() == ""
    for place, value, named in [
        (0, "C3", "group"), (0, "", "group"), (2, "float64", "dtype"), (3, 0, "cosets"), (4, -1, "batch"),
        (5, 0, "c_in"), (6, -2, "c_out"), (7, 0, "height"), (8, 0, "width"), (9, 0, "size"), (9, 6, "size"),
        (10, -1, "padding"), (10, 2**20 + 1, "padding"),
    ]:  # fmt: skip
        wrong = [*GOOD]
        wrong[place] = value
        with pytest.raises(ValueError, match=rf"{named} must be .*, got {value}"):
            extension.Convolution(*wrong, device, False)
    with pytest.raises(ValueError, match=r"output height must be .*, got -3"):  # a window larger than the image
        extension.Convolution(*GOOD[:7], 1, 1, 5, 0, device, False)


def test_the_extension_refuses_addresses_that_cannot_be(extension: Any) -> None:
    plan = extension.Convolution(*GOOD, extension.Device(90, 132, 232448), False)
    with pytest.raises(ValueError, match=r"^x must have an address$"):
        plan.forward(0, 16, 0, 16, 1024, 0)
    with pytest.raises(ValueError, match=r"^weight must have an address$"):
        plan.input_grad(16, 0, 16, 1024, 0)
    with pytest.raises(ValueError, match=r"^grad_weight must be aligned to 4 bytes$"):
        plan.weight_grad(16, 16, 18, 1024, 0)
    with pytest.raises(ValueError, match=r"^out must be aligned to 16 bytes$"):
        plan.forward(16, 16, 0, 24, 1024, 0)
    with pytest.raises(ValueError, match=r"^workspace must be aligned to 1024 bytes$"):
        plan.forward(16, 16, 0, 16, 512, 0)
    with pytest.raises(ValueError, match=r"^pool must be max, mean or empty, got min$"):
        plan.forward(16, 16, 0, 16, 1024, 0, negative_slope=1, pool="min")
    for changes in ({1: True}, {3: 2}):  # lifting, cosets
        sizes = [changes.get(place, size) for place, size in enumerate(GOOD)]
        with pytest.raises(ValueError, match=r"pooling must be none for lifting and for cosets above 1$"):
            extension.Convolution(*sizes, extension.Device(90, 132, 232448), False).forward(
                16, 16, 0, 16, 1024, 0, pool="max"
            )
    with pytest.raises(ValueError, match=r"^step must be forward, input_grad or weight_grad, got backward$"):
        plan.workspace("backward")
    with pytest.raises(ValueError, match=r"^mode must be max or mean, got min$"):
        extension.group_pool("float32", 16, 16, 16, 1, 8, [[0, 1]], "min", 0)
    with pytest.raises(ValueError, match=r"^index must have an address$"):
        extension.group_pool("float32", 16, 16, 0, 1, 8, [[0, 1]], "max", 0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, where these addresses would be used")
def test_what_cuda_says_is_raised(extension: Any) -> None:
    if extension.emulated:
        pytest.skip("the emulation launches nothing through CUDA")
    assert extension.device_count() == 0
    assert extension.error()
    with pytest.raises(RuntimeError, match=r"CUDA error: .*driver"):
        extension.group_pool("float32", 16, 16, 16, 1, 8, [[0, 1]], "max", 0)


def test_what_was_built_is_what_loads() -> None:
    record = json.loads(build._INFO.read_text()) if build._INFO.exists() else {}
    assert (build.cuda() is not None) == bool(record.get("cuda"))


# ---- the build
@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all, because CMake takes seconds to find out about the C++ compiler."""
    return tmp_path_factory.mktemp("cmake")


def configured(folder: Path, *options: str, **environment: str) -> dict[str, Any]:
    """What CMake would build with these."""
    subprocess.run(
        [
            "cmake",
            "-S",
            ROOT,
            "-B",
            folder / "build",
            f"-DGCONV_CUDA_OBJECTS={folder / 'objects'}",
            "-DGCONV_CUDA=ON",
            *options,
        ],
        env=os.environ | environment,
        check=True,
        capture_output=True,
    )
    found: dict[str, Any] = json.loads((folder / "build" / "_build_info.json").read_text())
    return found


def compiler(folder: Path, said: str) -> str:
    """The root of a CUDA toolkit whose nvcc says so to --version and --dryrun, and compiles nothing."""
    nvcc = folder / "toolkit" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text(f"#!/bin/sh\ncase $1 in --version|--dryrun) echo '{said}' | tee /dev/stderr; exit;; esac\n"
                    "echo 'x.cu(1): error: no such instruction' >&2; exit 1\n")  # fmt: skip
    nvcc.chmod(0o755)
    (nvcc.parent / "libcudart_static.a").touch()
    return str(nvcc.parent.parent)


@pytest.mark.skipif(not shutil.which("cmake"), reason="cmake is not installed; pip brings its own")
class TestBuild:
    def test_without_nvcc(self, tmp_path: Path, folder: Path) -> None:
        found = configured(folder, CUDA_HOME=str(tmp_path))
        assert not found["cuda"]
        assert found["nvcc"] is None
        assert found["cuda_missing_reason"] == f"nvcc was not found in $CUDA_HOME/bin, {tmp_path}/bin"

    def test_not_asked_for(self, folder: Path) -> None:
        found = configured(folder, "-DGCONV_CUDA=OFF")
        assert not found["cuda"]
        assert found["cuda_missing_reason"] == "it was not asked for (GCONV_CUDA is off)"
        assert found["spin_limit"] is None
        assert configured(folder, "-DGCONV_CUDA=OFF", "-DGCONV_SPIN_LIMIT=9")["spin_limit"] == 9
        assert configured(folder, "-DGCONV_CUDA=OFF", "-DGCONV_SPIN_LIMIT=")["spin_limit"] is None

    def test_with_an_old_nvcc(self, tmp_path: Path, folder: Path) -> None:
        found = configured(folder, CUDA_HOME=compiler(tmp_path, "release 11.8, V11.8.89"))
        assert not found["cuda"]
        assert found["nvcc"] == "11.8.89"
        assert found["cuda_missing_reason"] == "nvcc is 11.8.89; the kernels need 12.0 or later"

    def test_with_an_nvcc_that_does_not_compile(self, tmp_path: Path, folder: Path) -> None:
        said = f'release 12.4, V12.4.1 LIBRARIES="-L{tmp_path / "toolkit" / "bin"}"'
        found = configured(folder, CUDA_HOME=compiler(tmp_path, said))
        assert not found["cuda"]
        reason = "nvcc 12.4.1 does not compile csrc/cuda/runtime.cu: x.cu(1): error: no such instruction"
        assert found["cuda_missing_reason"] == reason
