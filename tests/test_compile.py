"""torch.library's own checks of every registered op, and torch.compile, torch.export on ops and models."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from cases import BACKENDS, OPERATIONS, Case
from torch import Tensor, nn
from torch.library import opcheck

import gconv


@pytest.fixture(autouse=True)
def _no_graphs_of_other_tests() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def doubles(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("backend", [*BACKENDS, "auto"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_opcheck_convolutions(operation: str, stride: int, backend: str) -> None:
    case = Case(operation, "C4", stride=stride, bias=stride == 1)
    x, weight, bias = case.operands(doubles)
    grad_out = doubles(case.output_shape)
    options = (case.group, case.stride, case.padding, backend)
    ops = torch.ops.gconv
    opcheck(getattr(ops, operation).default, (x, weight, bias, *options))
    opcheck(getattr(ops, f"{operation}_input_grad").default, (grad_out, weight, case.height, case.width, *options))
    opcheck(getattr(ops, f"{operation}_weight_grad").default, (x, grad_out, case.size, *options))


@pytest.mark.parametrize("backend", [*BACKENDS, "auto"])
@pytest.mark.parametrize("mode", ["max", "mean"])
def test_opcheck_pooling(mode: str, backend: str) -> None:
    ops = torch.ops.gconv
    for subgroup in ([0, 4], list(range(8))):
        options = ("D4", subgroup, mode, backend)
        x = doubles((2, 3, 8, 2, 3))
        out, index = ops.group_pool(x.detach(), *options)
        opcheck(ops.group_pool.default, (x, *options))
        opcheck(ops.group_pool_backward.default, (out.requires_grad_(), index, *options))
        opcheck(ops.group_pool_select.default, (x, index, *options))


def model(group: str = "C4", backend: str | None = None) -> nn.Module:
    """A small invariant classifier with one of every layer."""
    planar_group = gconv.group_from_name(group)
    return nn.Sequential(
        gconv.nn.LiftingConv2d(1, 4, 3, group=planar_group, padding="same", backend=backend),
        gconv.nn.GroupBatchNorm2d(4),
        nn.ReLU(),
        gconv.nn.GroupDownsample2d("blur"),
        gconv.nn.spectral_norm(gconv.nn.GroupConv2d(4, 5, 3, group=planar_group, padding=1, backend=backend)),
        nn.LeakyReLU(0.2),
        gconv.nn.GroupUpsample2d(),
        gconv.nn.GroupConv2d(5, 3, 4, group=planar_group, stride=2, backend=backend),
        gconv.nn.GroupPool(group=planar_group),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ).double()


def gradients(module: Callable[[Tensor], Tensor], x: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(module(x).square().sum(), [x, *parameters]))


@pytest.mark.parametrize("backend", [*BACKENDS, None])
def test_a_model_compiles_in_one_graph(backend: str | None) -> None:
    net = model(backend=backend).eval()
    x = doubles((2, 1, 9, 9))
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), net(x))
    parameters = list(net.parameters())
    for ours, expected in zip(gradients(compiled, x, parameters), gradients(net, x, parameters), strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch's default compiler needs a C++ compiler at run time")
def test_the_default_compiler_compiles_a_layer_and_its_gradient() -> None:
    group = gconv.CyclicGroup(4)
    layer = gconv.nn.GroupConv2d(2, 2, 3, group=group, padding="same")
    x = torch.randn(1, 2, 4, 5, 5, requires_grad=True)

    def function(x: Tensor) -> Tensor:
        return gconv.group_pool(torch.relu(layer(x)), group=group)

    compiled = torch.compile(function, fullgraph=True)
    torch.testing.assert_close(compiled(x), function(x))
    parameters = list(layer.parameters())
    for ours, expected in zip(gradients(compiled, x, parameters), gradients(function, x, parameters), strict=True):
        torch.testing.assert_close(ours, expected)


def test_a_training_step_compiles_in_one_graph() -> None:
    net = model()
    eager = model()
    eager.load_state_dict(net.state_dict())
    x = doubles((2, 1, 9, 9))
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    for _ in range(2):  # moves running statistics and the power iteration's vectors
        torch.testing.assert_close(compiled(x), eager(x))
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, eager.state_dict()[name], msg=name)


def test_one_graph_serves_every_size() -> None:
    net = model().eval()
    graphs = []

    def count(graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    compiled = torch.compile(net, fullgraph=True, dynamic=True, backend=count)
    for batch, size in [(2, 9), (3, 11), (5, 13), (4, 7)]:  # odd sizes; parity is a branch of the down-sampling
        x = torch.randn(batch, 1, size, size, dtype=torch.float64)
        torch.testing.assert_close(compiled(x), net(x))
    assert len(graphs) == 1


@pytest.mark.parametrize("operation", OPERATIONS)
def test_ops_compile_with_dynamic_shapes_and_gradients(operation: str) -> None:
    convolve = getattr(gconv, operation)
    group = gconv.DihedralGroup(4)
    compiled = torch.compile(
        lambda x, weight, bias: convolve(x, weight, bias, group=group, padding=1),
        fullgraph=True,
        dynamic=True,
        backend="aot_eager",
    )
    for height, width, batch in [(5, 4, 2), (7, 6, 3), (8, 9, 4)]:
        case = Case(operation, "D4", height=height, width=width, batch=batch)
        x, weight, bias = case.operands(doubles)
        out = compiled(x, weight, bias)
        assert out.stride() == case.run(x, weight, bias).stride()
        found = torch.autograd.grad(out.square().sum(), (x, weight, bias))
        expected = torch.autograd.grad(case.run(x, weight, bias).square().sum(), (x, weight, bias))
        for ours, eager in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, eager)


def test_an_epilogue_compiles_to_its_ops() -> None:
    group = gconv.CyclicGroup(4)

    def run(x: Tensor, weight: Tensor, slope: float) -> Tensor:
        return gconv.group_conv2d(x, weight, group=group, padding=1, negative_slope=slope, pool="max")

    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend="aot_eager")
    for size, slope in ((3, 0.2), (4, 0.3), (5, 0.0)):
        x, weight = doubles((2, 3, 4, size, size + 1)), doubles((5, 3, 4, 3, 3))
        assert torch.equal(compiled(x, weight, slope), run(x, weight, slope))


def test_pooling_over_cosets_compiles() -> None:
    pool = gconv.nn.GroupPool(group=gconv.DihedralGroup(4), subgroup=(0, 4))
    compiled = torch.compile(pool, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in (3, 4, 5):
        x = torch.randn(2, 3, 8, size, size + 1)
        assert torch.equal(compiled(x), pool(x))


def test_autocast_compiles() -> None:
    net = model().float().eval()
    x = torch.randn(2, 1, 9, 9)

    def run(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return net(x)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), run(x), rtol=2e-2, atol=2e-2)


def test_a_model_exports_and_reloads(tmp_path: Path) -> None:
    net = model().eval()
    x = torch.randn(2, 1, 9, 9, dtype=torch.float64)
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(net, (x,), dynamic_shapes=({0: batch},))
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert {"gconv.lifting_conv2d.default", "gconv.group_conv2d.default", "gconv.group_pool.default"} <= targets
    torch.export.save(program, tmp_path / "model.pt2")
    reloaded = torch.export.load(tmp_path / "model.pt2").module()
    x = torch.randn(3, 1, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(reloaded(x), net(x))
