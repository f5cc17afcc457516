"""Which backend runs and why: explain, named backends, and what is said when the native module is missing."""

from __future__ import annotations

import json
import re
import runpy
import sys
from collections.abc import Iterator

import pytest
import torch
from cases import BACKENDS, OPERATIONS, Case
from torch import Tensor

import gconv
from gconv import backends, build


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> str:
    """As on a machine without a GPU, with or without triton and nvcc; gives the reason."""
    reason = "not here"
    for name in backends.ON_GPU:
        monkeypatch.setattr(backends.BACKENDS[name], "missing", lambda x: reason)
    return reason


@pytest.fixture
def without_native(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """As after an install on a machine without a compiler; gives the recorded reason."""
    reason = "no C++17 compiler was found"
    monkeypatch.setitem(sys.modules, "gconv._native", None)  # makes the import fail
    monkeypatch.setattr(build, "info", lambda: {"native": False, "native_missing_reason": reason})
    build._load.cache_clear()
    yield reason
    build._load.cache_clear()


def calls(monkeypatch: pytest.MonkeyPatch, function: str) -> list[str]:
    """The names of the backends whose function runs from now on."""
    ran: list[str] = []
    for name, module in backends.BACKENDS.items():

        def spy(*args: object, name: str = name, real: object = getattr(module, function)) -> object:
            ran.append(name)
            assert callable(real)
            return real(*args)

        monkeypatch.setattr(module, function, spy)
    return ran


def operands(operation: str, group: str = "C4", dtype: torch.dtype = torch.float32) -> tuple[Case, Tensor, Tensor]:
    case = Case(operation, group)
    x, weight, _ = case.operands(lambda shape: torch.randn(shape).to(dtype))
    return case, x, weight


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("group", ["C1", "C4", "D4"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_explain_names_the_backend_that_runs(
    operation: str, group: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, x, weight = operands(operation, group, dtype)
    for stride in (1, 2):
        told = gconv.explain(operation, x, weight, group=case.planar_group, stride=stride, padding=1)
        assert told.operation == operation
        assert told.backend in backends.BACKENDS
        assert told.reason
        with monkeypatch.context() as patch:
            ran = calls(patch, "conv2d")
            getattr(gconv, operation)(x, weight, group=case.planar_group, stride=stride, padding=1)
            assert ran == [told.backend]


@pytest.mark.parametrize("name", ["C4", "D4", "C8", "D3"])
def test_explain_names_the_backends_of_a_transposed_convolution(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    group = gconv.group_from_name(name)
    m, order = group.coset_count, group.lattice.order
    for channels, stride in ((2, 1), (2, 2), (16, 1)):
        x = torch.randn(1, channels, group.order, 6, 7, requires_grad=True)
        weight = torch.randn(m * channels, m * 8, order, 3, 3, requires_grad=True)
        options = {"group": group, "stride": stride, "output_padding": stride - 1}
        told = gconv.explain("group_conv_transpose2d", x, weight, **options)
        steps = ("conv2d_input_grad", "conv2d", "conv2d_weight_grad")
        with monkeypatch.context() as patch:
            ran = [calls(patch, step) for step in steps]
            gconv.group_conv_transpose2d(x, weight, **options).sum().backward()
        wanted = [told.backend, told.gradients["input_grad"][0], told.gradients["weight_grad"][0]]
        assert [names[0] for names in ran] == wanted
        assert bool(told.runs_as) == (not group.is_lattice)


def test_a_transposed_convolution_is_the_input_gradient_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """And its own input gradient is that one's forward pass; zeros that a stride inserts promise no saving."""
    monkeypatch.setattr(backends, "choose", lambda work, x: ("cpu", work.step))
    x, weight = torch.zeros(1, 1, 8, 4, 4), torch.zeros(2, 2, 4, 3, 3)
    for stride, saves in ((1, ": 3.2 times fewer multiplications than its dense bank"), (2, "")):
        told = gconv.explain("group_conv_transpose2d", x, weight, group=gconv.CyclicGroup(8), stride=stride)
        assert told.reason == "input_grad"
        assert told.gradients == {"input_grad": ("cpu", "forward"), "weight_grad": ("cpu", "weight_grad")}
        assert told.runs_as == f"C8 runs as C4 with 2 x the channels{saves}"


@pytest.mark.parametrize("options", [{"dilation": 2}, {"groups": 2}])
def test_explain_says_what_a_bank_off_the_pixel_grid_runs_as(options: dict[str, int]) -> None:
    x, weight = torch.zeros(1, 2, 8, 5, 5), torch.zeros(4, 4 // options.get("groups", 1), 4, 3, 3)
    told = gconv.explain("group_conv2d", x, weight, group=gconv.CyclicGroup(8), **options)
    assert told.runs_as == "C8 runs as C4 with 2 x the channels: as many multiplications as its dense bank"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_explain_names_the_backend_that_pools(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    x, group = torch.randn(1, 2, 4, 3, 3).to(dtype), gconv.CyclicGroup(4)
    told = gconv.explain("group_pool", x, group=group)
    ran = calls(monkeypatch, "group_pool")
    gconv.group_pool(x, group=group)
    assert ran == [told.backend]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_named_backend_runs_in_both_directions(operation: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, x, weight = operands(operation)
    ran = [calls(monkeypatch, name) for name in ("conv2d_input_grad", "conv2d_weight_grad")]
    case.run(x.requires_grad_(), weight.requires_grad_(), None, backend).sum().backward()
    assert ran == [[backend], [backend]]


def test_explanations_read_well(without_gpu: str) -> None:
    case, x, weight = operands("group_conv2d")
    lines = str(gconv.explain("group_conv2d", x.to("meta"), weight.to("meta"), group=case.planar_group)).splitlines()
    reason = "cpu cannot run: it runs on CPU tensors, and x is on meta"
    assert lines[0] == f"group_conv2d: dense ({reason})"
    assert lines[1:3] == [f"  input_grad: dense ({reason})", f"  weight_grad: dense ({reason})"]
    assert lines[3:] == [f"  {reason}", *(f"  {name} cannot run: {without_gpu}" for name in backends.ON_GPU)]


@pytest.mark.skipif("cpu" not in BACKENDS, reason="the native module was not built: python -m gconv says why")
def test_explanations_compare_the_times(monkeypatch: pytest.MonkeyPatch, without_gpu: str) -> None:
    case, x, weight = operands("group_conv2d")
    monkeypatch.setattr(backends, "predicted_ratio", lambda work: 0.5 if work.step == "input_grad" else 2.5)
    table = "by the table that bench/tune.py measured"
    assert str(gconv.explain("group_conv2d", x, weight, group=case.planar_group)).splitlines() == [
        f"group_conv2d: cpu (dense would take 2.5 times as long, {table})",
        f"  input_grad: dense (cpu may take 2 times as long, {table})",
        f"  weight_grad: cpu (dense would take 2.5 times as long, {table})",
        f"  triton cannot run: {without_gpu}",
        f"  cuda cannot run: {without_gpu}",
    ]


def test_explain_knows_autocast() -> None:
    case, x, weight = operands("group_conv2d")
    told = gconv.explain("group_conv2d", x.bfloat16(), weight.bfloat16(), group=case.planar_group)
    with torch.autocast("cpu", torch.bfloat16):
        assert gconv.explain("group_conv2d", x, weight, group=case.planar_group) == told


def test_explain_says_that_an_epilogue_is_ops_of_its_own() -> None:
    case, x, weight = operands("group_conv2d")
    told = gconv.explain("group_conv2d", x, weight, group=case.planar_group, negative_slope=0.2)
    assert told.epilogue == "ops of their own: only cuda has it in its kernel"
    assert f"\n  negative_slope and pool: {told.epilogue}\n" in str(told)
    told = gconv.explain("group_conv2d", x, weight, group=case.planar_group, padding=1, dilation=2, pool="max")
    assert told.epilogue == "ops of their own: only the expanded bank takes dilation or groups above 1"
    for dilation in (1, 2):
        told = gconv.explain("group_conv2d", x, weight, group=case.planar_group, padding=1, dilation=dilation)
        assert told.epilogue == ""
        assert "negative_slope" not in str(told)


def test_explain_refuses_what_the_op_refuses() -> None:
    case, x, weight = operands("group_conv2d")
    group = case.planar_group
    with pytest.raises(ValueError, match=r"^explain: operation must be one of .*, got 'conv2d'"):
        gconv.explain("conv2d", x, weight, group=group)
    with pytest.raises(TypeError, match=r"^group_conv2d: weight must be a Tensor, got NoneType"):
        gconv.explain("group_conv2d", x, group=group)
    with pytest.raises(ValueError, match=r"^group_conv2d: x must be"):
        gconv.explain("group_conv2d", x[0], weight, group=group)
    with pytest.raises(ValueError, match=r"^group_conv_transpose2d: x must be"):
        gconv.explain("group_conv_transpose2d", x[0], weight, group=group)
    with pytest.raises(ValueError, match=r"^explain: output_padding must be 0 for group_conv2d, got 1"):
        gconv.explain("group_conv2d", x, weight, group=group, output_padding=1)
    with pytest.raises(ValueError, match=r"^explain: dilation must be 1 for group_pool, got 2"):
        gconv.explain("group_pool", x, group=group, dilation=2)
    with pytest.raises(ValueError, match=r"^explain: stride must be 1 for group_pool, got 2"):
        gconv.explain("group_pool", x, group=group, stride=2)
    with pytest.raises(ValueError, match=r"^explain: padding must be 0 for group_pool, got 1"):
        gconv.explain("group_pool", x, group=group, padding=1)
    with pytest.raises(ValueError, match=r"^explain: pool must be None for group_conv_transpose2d, got max"):
        gconv.explain("group_conv_transpose2d", x, weight, group=group, pool="max")
    with pytest.raises(ValueError, match=r"^explain: negative_slope must be None for group_pool, got 0.2"):
        gconv.explain("group_pool", x, group=group, negative_slope=0.2)
    with pytest.raises(ValueError, match=r"^group_conv2d: pool must be None, 'max' or 'mean', got 'min'"):
        gconv.explain("group_conv2d", x, weight, group=group, pool="min")
    with pytest.raises(ValueError, match=r"^explain: groups must be 1 for group_conv_transpose2d, got 2"):
        gconv.explain("group_conv_transpose2d", x, weight, group=group, groups=2)
    with pytest.raises(TypeError, match=r"^explain: weight must be None for group_pool, got Tensor"):
        gconv.explain("group_pool", x, weight, group=group)
    with pytest.raises(TypeError, match=r"^group_conv2d: groups must be an int, got bool"):
        gconv.explain("group_conv2d", x, weight, group=group, groups=True)
    with pytest.raises(ValueError, match=r"^group_pool: x must be"):
        gconv.explain("group_pool", x[0], group=group)
    with pytest.raises(TypeError, match=r"^group_pool: x must be floating point"):
        gconv.explain("group_pool", x.int(), group=group)


def test_without_the_native_module_dense_runs_and_everything_says_why(
    without_native: str, without_gpu: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    case, x, weight = operands("group_conv2d")
    told = gconv.explain("group_conv2d", x, weight, group=case.planar_group, padding=1)
    assert told.backend == "dense"
    assert told.reason == f"cpu cannot run: {without_native}"
    assert told.unavailable == {"cpu": without_native, "triton": without_gpu, "cuda": without_gpu}
    ran = calls(monkeypatch, "conv2d")
    case.run(x, weight, None)
    assert ran == ["dense"]
    with pytest.raises(RuntimeError, match=f"cannot run: {re.escape(without_native)}$"):
        case.run(x, weight, None, "cpu")
    runpy.run_module("gconv", run_name="__main__")
    assert f"missing: {without_native}" in capsys.readouterr().out


def test_an_extension_that_does_not_load_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise ImportError("libgomp.so.1: cannot open shared object file")

    with monkeypatch.context() as patch:
        patch.setattr(build.importlib, "import_module", broken)
        build._load.cache_clear()
        assert build.native() is None
        assert build.native_missing() == "gconv._native does not load: libgomp.so.1: cannot open shared object file"
    build._load.cache_clear()


def test_python_m_gconv_tells_what_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_module("gconv", run_name="__main__")
    out = capsys.readouterr().out
    assert gconv.__version__ in out
    for name in ("reference", "dense", "cpu", "triton", "cuda"):
        assert f"backend {name}" in out
    assert torch.__version__ in out


def test_python_m_gconv_tells_a_build_for_tests(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "info", lambda: {"nvcc": "13.0.88", "spin_limit": 2**26})
    runpy.run_module("gconv", run_name="__main__")
    assert "13.0.88, a build for tests" in capsys.readouterr().out


def test_what_was_built_is_what_runs() -> None:
    """A build that claims a native module must give the cpu backend to this test run."""
    record = json.loads(build._INFO.read_text()) if build._INFO.exists() else {}
    assert ("cpu" in BACKENDS) == bool(record.get("native"))
    if "cpu" in BACKENDS:
        native = build.native()
        assert native is not None
        assert native.instruction_set() in native.instruction_sets()
        assert set(native.instruction_sets()) <= set(record["instruction_sets"])
