"""What tensors the ops take and return: strides, layouts, dtypes, empty and one-pixel maps, determinism, threads."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from cases import BACKENDS, GROUPS, OPERATIONS, Case, integers, pairwise_cases, rounding_bound, three_maps
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import gconv

LAYOUT = {4: torch.channels_last, 5: torch.channels_last_3d}


def canonical_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return torch.empty(shape, memory_format=LAYOUT[len(shape)]).stride()


def same_values(x: Tensor) -> Iterator[Tensor]:
    """x in other layouts."""
    yield x.contiguous()
    yield x.contiguous(memory_format=LAYOUT[x.dim()])
    yield x.transpose(-1, -2).contiguous().transpose(-1, -2)
    yield torch.stack([x, x + 1], dim=-1)[..., 0]
    yield torch.stack([x, x + 1], dim=1)[:, 0]
    yield torch.cat([x + 1, x], dim=1)[:, x.shape[1] :]
    yield torch.nn.functional.pad(x, (2, 1, 1, 3))[..., 1:-3, 2:-1]
    yield x.contiguous(memory_format=LAYOUT[x.dim()]).flip(-1).flip(-1)
    yield torch.complex(torch.zeros_like(x), -x).conj().imag  # a view with the negative bit


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_any_strides_in(operation: str, channels: int, backend: str) -> None:
    case = Case(operation, "D4", c_in=channels, c_out=channels)
    x, weight, bias = case.operands(integers)
    grad_out = integers(case.output_shape)
    expected = case.run(x, weight, bias, "reference")
    grad_x = case.input_grad(grad_out, weight, "reference")
    grad_weight = case.weight_grad(x, grad_out, "reference")
    wide_weight = torch.stack([weight, weight], dim=-1)[..., 0]
    wide_bias = None if bias is None else torch.stack([bias, bias], dim=-1)[:, 0]
    for view in same_values(x):
        assert torch.equal(view, x)
        assert torch.equal(case.run(view, weight, bias, backend), expected)
        assert torch.equal(case.weight_grad(view, grad_out, backend), grad_weight)
    for view in same_values(grad_out):
        assert torch.equal(case.input_grad(view, weight, backend), grad_x)
        assert torch.equal(case.weight_grad(x, view, backend), grad_weight)
    assert torch.equal(case.run(x, wide_weight, wide_bias, backend), expected)
    assert torch.equal(
        case.input_grad(grad_out, weight.transpose(-1, -2).contiguous().transpose(-1, -2), backend), grad_x
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_expanded_tensors(operation: str, backend: str) -> None:
    case = Case(operation, "C4")
    x = integers((1, 1, *case.group_axis, 1, 1)).expand(case.x_shape)
    weight = integers((1, 1, *case.group_axis, 1, 1)).expand(case.weight_shape)
    grad_out = torch.ones(()).double().expand(case.output_shape)  # what sum().backward() sends
    expected = three_maps(case, x.clone(), weight.clone(), grad_out.clone(), "reference")
    for name, value in three_maps(case, x, weight, grad_out, backend).items():
        assert torch.equal(value, expected[name])


@pytest.mark.parametrize("backend", BACKENDS)
def test_pool_takes_any_strides(backend: str) -> None:
    group = gconv.DihedralGroup(4)
    for channels in (1, 3):
        x = integers((2, channels, 8, 3, 4))
        for mode in ("max", "mean"):
            expected = gconv.group_pool(x, group=group, mode=mode, backend="reference")
            for view in (*same_values(x), x[:1].expand(2, -1, -1, -1, -1)):
                wanted = expected if torch.equal(view, x) else expected[:1].expand_as(expected)
                assert torch.equal(gconv.group_pool(view, group=group, mode=mode, backend=backend), wanted)


@pytest.mark.parametrize("backend", BACKENDS)
def test_pool_gradients_take_any_strides(backend: str) -> None:
    group, members = "D4", list(range(8))
    x = integers((2, 3, 8, 3, 4))
    out, index = torch.ops.gconv.group_pool(x, group, members, "max", "reference")
    options = (group, members, "max")
    scattered = torch.ops.gconv.group_pool_backward(out, index, *options, "reference")
    for view in same_values(out):
        for where in (index, index.contiguous(), torch.stack([index, index], -1)[..., 0]):
            assert torch.equal(torch.ops.gconv.group_pool_backward(view, where, *options, backend), scattered)
    for view in same_values(x):
        for where in (index, index.contiguous(), torch.stack([index, index], -1)[..., 0]):
            assert torch.equal(torch.ops.gconv.group_pool_select(view, where, *options, backend), out)


SHAPES = [
    {},
    {"batch": 1},
    {"batch": 0},
    {"c_in": 1, "c_out": 1},
    {"height": 1, "width": 1},
    {"height": 1, "width": 1, "c_in": 1, "c_out": 1, "batch": 1},
    {"stride": 2, "height": 7, "width": 1, "c_out": 1},
    {"size": 4, "padding": 2, "height": 1, "width": 1},
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_outputs_are_channels_last_to_the_stride(operation: str, group: str, backend: str) -> None:
    for shape in SHAPES:
        case = Case(operation, group, **shape)
        for dtype in (torch.float32, torch.float64):
            x, weight, bias = case.operands(lambda shape, dtype=dtype: torch.randn(shape, dtype=dtype))
            out = case.run(x, weight, bias, backend)
            grad_x = case.input_grad(out, weight, backend)
            grad_weight = case.weight_grad(x, out, backend)
            assert out.shape == case.output_shape
            assert out.stride() == canonical_strides(case.output_shape), case
            assert grad_x.shape == x.shape
            assert grad_x.stride() == canonical_strides(case.x_shape), case
            assert grad_weight.shape == weight.shape
            assert grad_weight.stride() == torch.empty(case.weight_shape).stride()
            assert out.dtype == grad_x.dtype == grad_weight.dtype == dtype
            with FakeTensorMode() as mode:
                fakes = [None if t is None else mode.from_tensor(t) for t in (x, weight, bias, out)]
                assert case.run(*fakes[:3], backend).stride() == out.stride()
                assert case.input_grad(fakes[3], fakes[1], backend).stride() == grad_x.stride()
                assert case.weight_grad(fakes[0], fakes[3], backend).stride() == grad_weight.stride()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", ["max", "mean"])
def test_pooled_maps_are_channels_last_to_the_stride(mode: str, backend: str) -> None:
    group = gconv.DihedralGroup(2)
    for n, channels, height, width in [
        (2, 3, 4, 5),
        (1, 1, 1, 1),
        (0, 3, 4, 5),
        (2, 1, 3, 1),
        (1, 3, 1, 4),
        (2, 0, 3, 3),
    ]:
        x = torch.randn(n, channels, 4, height, width)
        for subgroup, shape in ((None, (n, channels, height, width)), ([0, 1], (n, channels, 2, height, width))):
            out = gconv.group_pool(x, group=group, mode=mode, subgroup=subgroup, backend=backend)
            assert out.shape == shape
            assert out.stride() == canonical_strides(shape)
            with FakeTensorMode() as fake:
                again = gconv.group_pool(
                    fake.from_tensor(x), group=group, mode=mode, subgroup=subgroup, backend=backend
                )
                assert again.shape == shape
                assert again.stride() == out.stride()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_empty_batch(operation: str, backend: str) -> None:
    for stride, padding in ((1, 1), (2, 0), (1, 3)):
        case = Case(operation, "C4", batch=0, stride=stride, padding=padding)
        x, weight, bias = (None if t is None else t.requires_grad_() for t in case.operands(torch.randn))
        out = case.run(x, weight, bias, backend)
        assert out.shape == case.output_shape
        out.sum().backward()
        assert x.grad.shape == x.shape
        assert not weight.grad.any()
        assert not bias.grad.any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_uninitialised_memory_is_read(backend: str) -> None:
    """torch.empty filled with NaN: it must not show, neither in values nor in gradients of two orders."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    try:
        assert torch.empty(2).isnan().all()
        for case in pairwise_cases(0, seed=1)[::3]:
            x, weight, bias = (None if t is None else t.requires_grad_() for t in case.operands(torch.randn))
            out = case.run(x, weight, bias, backend)
            grads = torch.autograd.grad(out.square().sum(), (x, weight), create_graph=True)
            second = torch.autograd.grad(sum(g.square().sum() for g in grads), (x, weight), retain_graph=True)
            assert all(t.isfinite().all() for t in (out, *grads, *second)), case
            pooled = gconv.group_pool(out, group=case.planar_group, backend=backend)
            (grad,) = torch.autograd.grad(pooled.square().sum(), x)
            assert grad.isfinite().all()
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("backend", BACKENDS)
def test_twice_the_same_and_on_any_number_of_threads(backend: str) -> None:
    for case in pairwise_cases(0, seed=2)[::4]:
        x, weight, _ = case.operands(torch.randn)
        grad_out = torch.randn(case.output_shape)
        first = three_maps(case, x, weight, grad_out, backend)
        for threads in (1, 2, 3) if backend == "cpu" else (1,):
            torch.set_num_threads(threads)
            for name, value in three_maps(case, x, weight, grad_out, backend).items():
                assert torch.equal(value, first[name]), (case, threads, name)


@pytest.mark.parametrize("backend", BACKENDS)
def test_calls_from_several_threads_at_once(backend: str) -> None:
    cases = [Case(operation, group, batch=n) for operation in OPERATIONS for group in GROUPS for n in (1, 3)]
    operands = [case.operands(integers) for case in cases]
    expected = [case.run(*o, "reference") for case, o in zip(cases, operands, strict=True)]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            found = pool.map(lambda i: cases[i].run(*operands[i], backend), range(len(cases)))
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "cpu"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_half_precision(operation: str, dtype: torch.dtype, backend: str) -> None:
    """The reference adds in float32 and rounds once; dense may add in the half format, as torch's conv2d may."""
    for stride in (1, 2):
        case = Case(operation, "D4", stride=stride, height=9, width=8, c_in=8, c_out=8, bias=False)
        x, weight, _ = (None if t is None else t.to(dtype) for t in case.operands(torch.randn))
        grad_out = torch.randn(case.output_shape).to(dtype)
        exact = [t.double() for t in (x, weight, grad_out)]
        expected = three_maps(case, *exact, "reference")
        magnitudes = three_maps(case, *(t.abs() for t in exact), "reference")
        for name, value in three_maps(case, x, weight, grad_out, backend).items():
            assert value.dtype == dtype
            inside = dtype if backend == "dense" else torch.float32
            terms = 2 * 9 * 8 * 8 if name == "weight_grad" else 9 * 8 * 8
            allowed = rounding_bound(terms, magnitudes[name], inside) + torch.finfo(dtype).eps * expected[name].abs()
            assert ((value.double() - expected[name]).abs() <= allowed).all()


@pytest.mark.parametrize("operation", OPERATIONS)
def test_autocast_computes_in_bfloat16_and_returns_float32_gradients(operation: str) -> None:
    case = Case(operation, "C4")
    x, weight, bias = (t.requires_grad_() for t in case.operands(torch.randn) if t is not None)
    with torch.autocast("cpu", torch.bfloat16):
        out = case.run(x, weight, bias)
    assert out.dtype == torch.bfloat16
    out.float().square().sum().backward()
    expected = case.run(x.detach().bfloat16(), weight.detach().bfloat16(), bias.detach().bfloat16())
    assert torch.equal(out, expected)
    assert all(t.grad is not None and t.grad.dtype == torch.float32 for t in (x, weight, bias))
    with torch.autocast("cpu", torch.bfloat16):
        assert case.run(x.double(), weight.double(), bias.double()).dtype == torch.float64  # torch's own rule
    assert case.run(x, weight, bias).dtype == torch.float32


@pytest.mark.parametrize("operation", OPERATIONS)
def test_meta_tensors_give_shapes(operation: str) -> None:
    case = Case(operation, "D2")
    x, weight, bias = (t.to("meta") for t in case.operands(torch.randn) if t is not None)
    out = case.run(x, weight, bias)
    assert out.device.type == "meta"
    assert out.shape == case.output_shape
    assert out.stride() == canonical_strides(case.output_shape)


@pytest.mark.parametrize("backend", BACKENDS)
def test_inference_mode_and_no_grad(backend: str) -> None:
    case = Case("group_conv2d", "C4")
    operands = [t.requires_grad_() for t in case.operands(torch.randn) if t is not None]
    expected = case.run(*operands, backend)
    for context in (torch.inference_mode(), torch.no_grad()):
        with context:
            assert torch.equal(case.run(*operands, backend), expected)


@pytest.mark.parametrize("used_before", [True, False])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_forked_child_can_run_it(backend: str, used_before: bool) -> None:
    """OpenMP's threads do not survive a fork, whether torch or gconv started them: the child must not wait for them."""
    program = f"""
import os, torch, gconv
torch.set_num_threads(2)
torch.ones(300, 300) @ torch.ones(300, 300)
torch.ones(1_000_000).exp()
group = gconv.CyclicGroup(4)
x, weight = torch.ones(2, 8, 4, 16, 16), torch.ones(8, 8, 4, 3, 3)
run = lambda: gconv.group_conv2d(x, weight, group=group, backend={backend!r})
expected = 8.0 * 4 * 9
if {used_before}:
    assert float(run()[0, 0, 0, 0, 0]) == expected
child = os.fork()
if child == 0:
    torch.set_num_threads(1 if {backend!r} != "cpu" else 2)  # torch's own ops hang with more
    os._exit(0 if float(run()[0, 0, 0, 0, 0]) == expected else 3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
