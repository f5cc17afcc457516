"""What torch does to functions and modules: vmap, functional_call, copies, parametrizations, data parallel training."""

from __future__ import annotations

import copy
import io
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from cases import BACKENDS, OPERATIONS, Case, integers
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.utils import parametrize

import gconv

InDims = tuple[int | None, ...]


def mapped(shape: tuple[int, ...], dim: int | None, size: int = 3) -> Tensor:
    """Integers of the shape with the mapped axis at ``dim``, if any."""
    return integers(shape if dim is None else (*shape[:dim], size, *shape[dim:]))


def assert_vmap_is_a_loop(function: Callable[..., Tensor], in_dims: InDims, operands: list[Tensor]) -> None:
    size = next(operand.shape[dim] for operand, dim in zip(operands, in_dims, strict=True) if dim is not None)
    calls = [
        function(*(o if dim is None else o.select(dim, i) for o, dim in zip(operands, in_dims, strict=True)))
        for i in range(size)
    ]
    assert torch.equal(vmap(function, in_dims)(*operands), torch.stack(calls))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("in_dims", [(0, None, None), (2, None, None), (None, 1, None), (None, None, 0), (1, 0, 1)])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_vmap_of_convolutions(operation: str, in_dims: InDims, backend: str) -> None:
    case = Case(operation, "D2")
    shapes = (case.x_shape, case.weight_shape, (case.c_out,))
    operands = [mapped(shape, dim) for shape, dim in zip(shapes, in_dims, strict=True)]
    assert_vmap_is_a_loop(lambda x, weight, bias: case.run(x, weight, bias, backend), in_dims, operands)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("in_dims", [(0, None), (3, None), (None, 2), (1, 0)])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_vmap_of_gradients(operation: str, in_dims: InDims, backend: str) -> None:
    case = Case(operation, "C4", stride=2)
    dims = dict(zip(("first", "second"), in_dims, strict=True))
    grad_out, weight = mapped(case.output_shape, dims["first"]), mapped(case.weight_shape, dims["second"])
    assert_vmap_is_a_loop(lambda g, weight: case.input_grad(g, weight, backend), in_dims, [grad_out, weight])
    x, grad_out = mapped(case.x_shape, dims["first"]), mapped(case.output_shape, dims["second"])
    assert_vmap_is_a_loop(lambda x, g: case.weight_grad(x, g, backend), in_dims, [x, grad_out])


@pytest.mark.parametrize("in_dims", [(0, None), (2, None), (None, 1), (1, 0)])
@pytest.mark.parametrize("name", ["C4", "C8"])
@pytest.mark.parametrize("operation", ["group_conv2d", "group_conv_transpose2d"])
def test_vmap_of_transposed_convolutions_and_off_the_pixel_grid(operation: str, name: str, in_dims: InDims) -> None:
    group = gconv.group_from_name(name)
    shapes = ((2, 2, group.order, 4, 5), (2 * group.coset_count, 2 * group.coset_count, group.lattice.order, 3, 3))
    operands = [mapped(shape, dim) for shape, dim in zip(shapes, in_dims, strict=True)]
    assert_vmap_is_a_loop(lambda x, w: getattr(gconv, operation)(x, w, group=group, stride=2), in_dims, operands)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("subgroup", [[0, 4], list(range(8))])
@pytest.mark.parametrize("mode", ["max", "mean"])
def test_vmap_of_pooling(mode: str, subgroup: list[int], backend: str) -> None:
    ops, options = torch.ops.gconv, ("D4", subgroup, mode, backend)
    x = integers((2, 3, 8, 4, 5))
    out, index = ops.group_pool(x, *options)
    several = integers((2, 3, *x.shape[1:])).movedim(1, 0)  # the mapped axis is not the first in memory
    assert_vmap_is_a_loop(lambda x: ops.group_pool(x, *options)[0], (0,), [several])
    assert_vmap_is_a_loop(lambda x: ops.group_pool(x, *options)[0], (1,), [several.movedim(0, 1)])
    pooled = integers((3, *out.shape))
    for in_dims, where in (
        ((0, None), index),
        ((0, 0), torch.stack([index] * 3)),
        ((None, 0), torch.stack([index] * 3)),
    ):
        first = pooled if in_dims[0] == 0 else out
        assert_vmap_is_a_loop(lambda g, i: ops.group_pool_backward(g, i, *options), in_dims, [first, where])
        first = several if in_dims[0] == 0 else x
        assert_vmap_is_a_loop(lambda x, i: ops.group_pool_select(x, i, *options), in_dims, [first, where])


def test_folding_makes_one_call() -> None:
    """Where only maps are mapped, the op below runs once, on a batch as many times as large."""
    case, seen = Case("group_conv2d", "C4"), []
    x, weight, bias = (t for t in case.operands(integers) if t is not None)
    several = torch.stack([x, x, x])

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if "gconv" in str(func):
                seen.append(tuple(args[0].shape))
            return func(*args, **(kwargs or {}))

    with Watch():
        vmap(lambda x: case.run(x, weight, bias))(several)
    assert seen == [(3 * case.batch, *case.x_shape[1:])]


def test_vmap_nests_and_takes_empty_batches() -> None:
    case = Case("group_conv2d", "C4")
    _, weight, bias = case.operands(integers)
    several = integers((2, 3, *case.x_shape))
    found = vmap(vmap(lambda x: case.run(x, weight, bias)))(several)
    assert torch.equal(found.flatten(0, 2), case.run(several.flatten(0, 2), weight, bias))
    assert vmap(lambda x: case.run(x, weight, bias))(several[0, :, :0]).shape == (3, 0, *case.output_shape[1:])


@pytest.mark.parametrize("in_dims", [(0, None), (2, None), (None, 1), (1, 0)])
@pytest.mark.parametrize("operation", [*OPERATIONS, "group_conv_transpose2d"])
def test_vmap_of_an_empty_axis_gives_an_empty_one(operation: str, in_dims: InDims) -> None:
    group = gconv.CyclicGroup(4)
    axis = () if operation == "lifting_conv2d" else (4,)
    shapes = (2, 3, *axis, 5, 6), (3, 3, *axis, 3, 3)
    operands = [mapped(shape, dim, 0).requires_grad_() for shape, dim in zip(shapes, in_dims, strict=True)]
    sides = (7, 8) if operation == "group_conv_transpose2d" else (3, 4)

    def function(x: Tensor, weight: Tensor) -> Tensor:
        return gconv.group_pool(getattr(gconv, operation)(x, weight, group=group), group=group, subgroup=[0, 2])

    out = vmap(function, in_dims)(*operands)
    assert out.shape == (0, 2, 3, 2, *sides)
    for gradient, operand in zip(torch.autograd.grad(out.sum(), operands), operands, strict=True):
        assert torch.equal(gradient, torch.zeros_like(operand))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_gradients_go_through_vmap(operation: str) -> None:
    case = Case(operation, "D4")
    operands = [mapped(shape, dim) for shape, dim in ((case.x_shape, 0), (case.weight_shape, 0), ((case.c_out,), None))]
    for leaf in operands:
        leaf.requires_grad_()
    found = vmap(case.run, (0, 0, None))(*operands)
    expected = torch.stack([case.run(x, w, operands[2]) for x, w in zip(*operands[:2], strict=True)])
    direction = integers(tuple(found.shape))
    for ours, loop in zip(
        torch.autograd.grad(found, operands, direction, create_graph=True),
        torch.autograd.grad(expected, operands, direction, create_graph=True),
        strict=True,
    ):
        assert torch.equal(ours, loop)
        assert ours.requires_grad == loop.requires_grad


@pytest.mark.parametrize("mode", ["max", "mean"])
def test_gradients_of_many_outputs_at_once(mode: str) -> None:
    """torch.autograd.grad(is_grads_batched=True) maps over the backward ops: rows of a Jacobian."""
    case = Case("group_conv2d", "D4")
    x, weight, bias = (t.requires_grad_() for t in case.operands(integers) if t is not None)
    out = gconv.group_pool(case.run(x, weight, bias), group=case.planar_group, mode=mode)
    directions = 8 * integers((5, *out.shape))  # an eighth of it is an integer, too
    rows = torch.autograd.grad(out, (x, weight, bias), directions, is_grads_batched=True, retain_graph=True)
    for i, direction in enumerate(directions):
        expected = torch.autograd.grad(out, (x, weight, bias), direction, retain_graph=True)
        assert all(torch.equal(row[i], one) for row, one in zip(rows, expected, strict=True))


def vjp(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda x: torch.func.vjp(function, x)[1](torch.ones(()).double())[0]


@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.jacrev, vjp])
def test_functional_gradients_do_not_work_and_say_so(transform: Callable[..., Callable[..., Tensor]]) -> None:
    """README, "Limits". torch's message: it cannot compose its transforms with formulas registered from Python."""
    case = Case("group_conv2d", "C4")
    x, weight, bias = case.operands(integers)
    for function in (
        lambda x: case.run(x, weight, bias).sum(),
        lambda x: gconv.group_pool(x, group=case.planar_group).sum(),
    ):
        with pytest.raises(RuntimeError, match=r"functorch transforms .* must override the setup_context"):
            transform(function)(x)


@pytest.mark.parametrize("options", [{"dilation": 2}, {"groups": 2}])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_functional_derivatives_of_torchs_own_convolutions_work(operation: str, options: dict[str, int]) -> None:
    """README, "Limits": dilated, or in groups of channels, they are no ops registered from Python."""
    axis = () if operation == "lifting_conv2d" else (4,)
    x, weight = integers((1, 2, *axis, 3, 4)), integers((2, 2 // options.get("groups", 1), *axis, 2, 2))

    def function(x: Tensor) -> Tensor:
        return getattr(gconv, operation)(x, weight, group=gconv.CyclicGroup(4), **options).square().sum()

    leaf, direction = x.clone().requires_grad_(), integers(tuple(x.shape))
    (expected,) = torch.autograd.grad(function(leaf), leaf)
    for transform in (torch.func.grad, torch.func.jacrev, torch.func.jacfwd, vjp):
        assert torch.equal(transform(function)(x), expected)
    assert torch.func.jvp(function, (x,), (direction,))[1] == (expected * direction).sum()


@pytest.mark.parametrize("operation", [*OPERATIONS, "group_pool", "group_conv_transpose2d"])
def test_forward_mode_is_refused(operation: str) -> None:
    """torch itself would drop the tangent and give a derivative of zero."""
    group = gconv.CyclicGroup(4)
    x = integers((1, 2, 5, 5) if operation == "lifting_conv2d" else (1, 2, 4, 5, 5))
    operands = () if operation == "group_pool" else (integers((2, *x.shape[1:-2], 3, 3)),)

    def function(x: Tensor) -> Tensor:
        return getattr(gconv, operation)(x, *operands, group=group)

    message = f"^{operation}: forward-mode derivatives .* are not implemented"
    with pytest.raises(NotImplementedError, match=message):
        torch.func.jvp(function, (x,), (x,))
    with pytest.raises(NotImplementedError, match=message):
        torch.func.jacfwd(function)(x)
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match=message):
        function(forward_ad.make_dual(x, x))
    with forward_ad.dual_level():  # one without a tangent
        assert torch.equal(function(x), function(x.clone()))


def network(group: str = "D4", backend: str | None = None) -> nn.Module:
    planar_group = gconv.group_from_name(group)
    return nn.Sequential(
        gconv.nn.LiftingConv2d(1, 3, 3, group=planar_group, padding=1, backend=backend),
        gconv.nn.GroupBatchNorm2d(3),
        nn.ReLU(),
        gconv.nn.GroupConv2d(3, 4, 3, group=planar_group, padding=1, backend=backend),
        gconv.nn.GroupPool(group=planar_group, backend=backend),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ).double()


def image(*batch: int) -> Tensor:
    return torch.randn(*batch, 1, 6, 7, dtype=torch.float64)


@pytest.mark.parametrize("name", ["D4", "C8"])
@pytest.mark.parametrize("training", [True, False])
def test_functional_call(training: bool, name: str) -> None:
    first, second = network(name).train(training), network(name).train(training)
    x = image(3)
    with torch.set_grad_enabled(training):
        expected = copy.deepcopy(second)(x)
        for _ in range(2):  # what a layer in eval mode keeps of its own filter must not answer for another
            first(x)
            torch.testing.assert_close(functional_call(first, dict(second.state_dict()), (x,)), expected)


@pytest.mark.parametrize("name", ["D4", "C8"])
def test_an_ensemble_by_vmap(name: str) -> None:
    networks = [network(name).eval()[:5] for _ in range(3)]  # up to the pool: torch's own means are slow and warn
    parameters, buffers = stack_module_state(networks)
    template = copy.deepcopy(networks[0]).to("meta")
    x = image(2)

    def run(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(template, (parameters, buffers), (x,))

    found = vmap(run, (0, 0, None))(parameters, buffers, x)
    torch.testing.assert_close(found, torch.stack([net(x) for net in networks]))


def pickled(module: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(module))


def saved(module: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("twin", [copy.deepcopy, pickled, saved])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["D4", "C8"])
def test_copies_give_the_same_outputs(name: str, training: bool, twin: Callable[[nn.Module], nn.Module]) -> None:
    net = network(name).train(training)
    x = image(2)
    with torch.set_grad_enabled(training):
        net(x)
        other = twin(net)
        assert torch.equal(other(x), net(x))
    assert other.state_dict().keys() == net.state_dict().keys()


class Doubled(nn.Module):
    def forward(self, original: Tensor) -> Tensor:
        return 2 * original


def test_parametrized_weights_train_and_can_be_removed() -> None:
    net = network().train()
    plain = copy.deepcopy(net)
    with torch.no_grad():
        plain[3].weight.mul_(2)
    parametrize.register_parametrization(net[3], "weight", Doubled())
    x = image(2)
    loss, expected = net(x).square().sum(), plain(x).square().sum()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(net[3].parametrizations.weight.original.grad, 2 * plain[3].weight.grad)
    parametrize.remove_parametrizations(net[3], "weight")
    torch.testing.assert_close(net(x), plain(x))


@pytest.mark.parametrize("name", ["D4", "C8"])
def test_state_dicts_fit_every_mode_and_backend(name: str) -> None:
    source = network(name, backend=BACKENDS[0]).train()
    for _ in range(2):
        source(image(3))
    x, state = image(2), source.state_dict()
    with torch.no_grad():
        expected = source.eval()(x)
        assert all(torch.equal(value, state[key]) for key, value in source.state_dict().items())
        for backend in (*BACKENDS, None):
            for training in (True, False):
                other = network(name, backend=backend).train(training)
                assert list(other.state_dict()) == list(state)
                other.load_state_dict(state)
                torch.testing.assert_close(other.eval()(x), expected)


WORKER = """
import sys
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
import gconv

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
network, x = torch.load(f"{folder}/task", weights_only=False)
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
parallel = DistributedDataParallel(network)
parallel(x[rank::2]).square().mean().backward()
torch.save([p.grad for p in network.parameters()], f"{folder}/{rank}")
dist.destroy_process_group()
"""


def run_ranks(program: str, folder: Path) -> None:
    """Two processes of a program, given rank and folder, to their ends."""
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(rank), str(folder)],
            env=os.environ | {"MASTER_ADDR": "localhost"},
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=120)
        assert worker.returncode == 0, errors.decode()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch is built without torch.distributed")
def test_distributed_gradients_are_those_of_one_process(tmp_path: Path) -> None:
    group = gconv.CyclicGroup(4)
    net = nn.Sequential(
        gconv.nn.LiftingConv2d(1, 3, 3, group=group), gconv.nn.GroupConv2d(3, 2, 3, group=group), nn.Flatten()
    ).double()
    x = image(4)
    torch.save((net, x), tmp_path / "task")
    run_ranks(WORKER, tmp_path)
    net(x).square().mean().backward()
    for rank in range(2):
        for found, parameter in zip(torch.load(tmp_path / str(rank)), net.parameters(), strict=True):
            torch.testing.assert_close(found, parameter.grad)


SHARDED_WORKER = """
import copy, sys
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
network, x = torch.load(f"{folder}/task", weights_only=False)
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))
for layer in network[:2]:
    fully_shard(layer, mesh=mesh)
fully_shard(network, mesh=mesh)
optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
outputs = []
for _ in range(2):  # what is kept in eval mode is the sharded filter's before and after a step
    network.eval()
    with torch.no_grad():  # torch's own buffers of shards, made in inference mode, would not outlive it
        outputs.append(network(x))
    network.train()
    network(x).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
state = network.state_dict()
whole = {key: value.full_tensor() if isinstance(value, DTensor) else value for key, value in state.items()}
torch.save((outputs, whole), f"{folder}/{rank}")
dist.destroy_process_group()
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch is built without torch.distributed")
def test_fully_sharded_layers_are_those_of_one_process(tmp_path: Path) -> None:
    group = gconv.CyclicGroup(8)
    net = nn.Sequential(
        gconv.nn.LiftingConv2d(1, 2, 3, group=group), gconv.nn.GroupConv2d(2, 2, 3, group=group), nn.Flatten()
    ).double()
    x = image(4)
    torch.save((net, x), tmp_path / "task")
    run_ranks(SHARDED_WORKER, tmp_path)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    expected = []
    for _ in range(2):
        expected.append(net.eval()(x).detach())
        net.train()(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert (expected[0] - expected[1]).abs().max() > 1e-6
    for rank in range(2):
        outputs, whole = torch.load(tmp_path / str(rank))
        for output, wanted in zip(outputs, expected, strict=True):
            torch.testing.assert_close(output, wanted, rtol=1e-12, atol=1e-12)
        net.load_state_dict(whole)  # names its groups
        for key, value in net.state_dict().items():
            torch.testing.assert_close(value, whole[key])
