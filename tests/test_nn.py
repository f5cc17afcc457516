"""The layers: equivariance, layout, initialisation, the stride warning, saving and copying."""

from __future__ import annotations

import copy
import math
import pickle
import warnings
from collections.abc import Callable
from statistics import median
from time import perf_counter

import pytest
import torch
from cases import BACKENDS, GROUPS, integers
from torch import Tensor, nn

import gconv

NETWORKS: dict[str, Callable[[gconv.PlanarGroup], nn.Module]] = {
    "lifting": lambda group: gconv.nn.LiftingConv2d(3, 5, 3, group=group, padding="same"),
    "group": lambda group: gconv.nn.GroupConv2d(3, 5, 3, group=group, padding=1),
    "even": lambda group: gconv.nn.GroupConv2d(3, 5, 4, group=group, padding=1),
    "norm": lambda group: gconv.nn.GroupBatchNorm2d(3),
    "pool": lambda group: gconv.nn.GroupPool(group=group),
}


def feature_map(group: gconv.PlanarGroup, *, channels: int = 3, height: int = 6, width: int = 5) -> Tensor:
    return integers((4, channels, group.order, height, width))


def integer_parameters(module: nn.Module) -> nn.Module:
    """Weights in -3..3, with which convolutions are exact."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(integers(tuple(parameter.shape)))
    return module.double()


@pytest.mark.parametrize("network", ["lifting", "group", "even", "pool"])
@pytest.mark.parametrize("name", GROUPS)
def test_layers_are_equivariant_bit_for_bit(name: str, network: str) -> None:
    group = gconv.group_from_name(name)
    layer = integer_parameters(NETWORKS[network](group))
    x = integers((2, 3, 6, 5)) if network == "lifting" else feature_map(group)
    out = layer(x)
    for element in group.elements:
        assert torch.equal(layer(group.act(x, element)), group.act(out, element))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", GROUPS)
def test_batch_norm_is_equivariant_and_shares_its_statistics(name: str, training: bool) -> None:
    group = gconv.group_from_name(name)
    x = feature_map(group) + torch.randn(4, 3, group.order, 6, 5, dtype=torch.float64)
    layer = gconv.nn.GroupBatchNorm2d(3).double().train(training)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    if not training:
        nn.init.normal_(layer.running_mean)
        nn.init.uniform_(layer.running_var)
    out = copy.deepcopy(layer)(x)
    for element in group.elements:
        moved = copy.deepcopy(layer)(group.act(x, element))
        torch.testing.assert_close(moved, group.act(out, element), rtol=1e-12, atol=1e-12)
    if training:
        centred = (x - x.mean((0, 2, 3, 4), keepdim=True)) / x.std((0, 2, 3, 4), keepdim=True, correction=0)
        shape = (1, 3, 1, 1, 1)
        expected = centred * layer.weight.view(shape) + layer.bias.view(shape)
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)  # eps = 1e-5 beside a variance near 5
    assert layer.running_mean.shape == (3,)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", GROUPS)
def test_conditional_batch_norm(name: str, training: bool) -> None:
    group = gconv.group_from_name(name)
    layer = gconv.nn.GroupConditionalBatchNorm2d(3, 7).double().train(training)
    x, condition = feature_map(group), torch.randn(4, 7, dtype=torch.float64)
    plain = copy.deepcopy(layer.norm)(x)
    out = copy.deepcopy(layer)(x, condition)
    gamma, beta = layer.gamma(condition), layer.beta(condition)
    for n in range(4):
        for c in range(3):
            torch.testing.assert_close(out[n, c], (1 + gamma[n, c]) * plain[n, c] + beta[n, c])
    for element in group.elements:
        moved = copy.deepcopy(layer)(group.act(x, element), condition)
        torch.testing.assert_close(moved, group.act(out, element), rtol=1e-12, atol=1e-12)
    assert set(layer.state_dict()) == {
        *("gamma.weight", "gamma.bias", "beta.weight", "beta.bias"),
        *("norm.running_mean", "norm.running_var", "norm.num_batches_tracked"),
    }


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_network_keeps_the_fast_layout(backend: str) -> None:
    """One contiguous image in; every map after it is channels last, forward and backward."""
    group = gconv.DihedralGroup(4)
    layers: list[nn.Module] = [
        gconv.nn.LiftingConv2d(1, 6, 3, group=group, padding="same", backend=backend),
        gconv.nn.GroupBatchNorm2d(6),
        nn.ReLU(),
        gconv.nn.GroupUpsample2d("blur"),
        gconv.nn.GroupConv2d(6, 4, 3, group=group, padding="same", backend=backend),
        gconv.nn.GroupConditionalBatchNorm2d(4, 2),
        gconv.nn.GroupDownsample2d(),
        gconv.nn.GroupDownsample2d("blur"),
        gconv.nn.GroupDownsample2d("max"),
        gconv.nn.GroupUpsample2d(),
    ]
    x = torch.randn(2, 1, 8, 8)
    seen: list[Tensor] = []
    for layer in layers:
        x = layer(x, torch.randn(2, 2)) if isinstance(layer, gconv.nn.GroupConditionalBatchNorm2d) else layer(x)
        assert x.is_contiguous(memory_format=torch.channels_last_3d), layer
        x.register_hook(seen.append)
    pooled = gconv.nn.GroupPool(group=group, backend=backend)(x)
    assert pooled.is_contiguous(memory_format=torch.channels_last)
    pooled.square().sum().backward()
    assert len(seen) == len(layers)
    assert all(grad.is_contiguous(memory_format=torch.channels_last_3d) for grad in seen)


def test_per_orientation_copies_nothing() -> None:
    x = torch.randn(2, 3, 4, 5, 6).contiguous(memory_format=torch.channels_last_3d)
    seen: list[Tensor] = []

    def planar(image: Tensor) -> Tensor:
        seen.append(image)
        return image

    out = gconv.nn.per_orientation(planar, x)
    assert seen[0].shape == (8, 3, 5, 6)
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert seen[0].data_ptr() == out.data_ptr() == x.data_ptr()
    assert out.stride() == x.stride()
    assert torch.equal(out, x)
    for n in range(2):
        for g in range(4):
            assert torch.equal(seen[0][4 * n + g], x[n, :, g])
    image = torch.randn(2, 3, 5, 6)
    assert gconv.nn.per_orientation(planar, image) is image
    empty = gconv.nn.per_orientation(planar, x[:0])
    assert empty.shape == (0, 3, 4, 5, 6)
    with pytest.raises(ValueError, match=r"^per_orientation: x must be .*, got \(2, 3\)"):
        gconv.nn.per_orientation(planar, torch.zeros(2, 3))


@pytest.mark.parametrize("name", GROUPS)
def test_same_padding_keeps_the_size(name: str) -> None:
    group = gconv.group_from_name(name)
    for size in (1, 3, 5, 7):
        layer = gconv.nn.GroupConv2d(1, 1, size, group=group, padding="same")
        assert layer.padding == size // 2
        assert layer(torch.zeros(1, 1, group.order, 4, 3)).shape[-2:] == (4, 3)


@pytest.mark.parametrize("name", GROUPS)
def test_initialisation_is_that_of_the_planar_layer(name: str) -> None:
    group = gconv.group_from_name(name)
    for layer, fan_in in (
        (gconv.nn.LiftingConv2d(8, 64, 3, group=group), 8 * 9),
        (gconv.nn.GroupConv2d(8, 64, 3, group=group), 8 * 9 * group.order),
    ):
        bound = 1 / math.sqrt(fan_in)
        assert 0.95 * bound < float(layer.weight.detach().abs().max()) <= bound
        assert layer.bias is not None
        assert float(layer.bias.detach().abs().max()) <= bound
        assert gconv.nn.GroupConv2d(1, 1, 3, group=group, bias=False).bias is None
        before = layer.weight.detach().clone()
        layer.reset_parameters()
        assert not torch.equal(before, layer.weight)


def warned(layer: nn.Module, *sizes: tuple[int, int]) -> list[str]:
    axis = () if isinstance(layer, gconv.nn.LiftingConv2d) else (layer.group.order,)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for size in sizes:
            layer(torch.zeros(1, 1, *axis, *size))
    assert all(warning.filename == __file__ for warning in caught)  # the caller's line, not torch's
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize("kind", [gconv.nn.LiftingConv2d, gconv.nn.GroupConv2d])
def test_an_inexact_stride_warns_once_with_sizes_that_do(kind: type[nn.Module]) -> None:
    group = gconv.CyclicGroup(4)
    layer = kind(1, 1, 3, group=group, stride=2, padding=1)
    assert warned(layer, (7, 7), (9, 5)) == []  # exact
    (message,) = warned(layer, (8, 6), (8, 8), (10, 7))  # the first inexact call only
    assert message.startswith(f"{kind.__name__}: ")
    assert "C4" in message
    assert "H = 8" in message
    assert "7 or 9" in message
    assert "W = 6" in message
    assert "5 or 7" in message
    assert warned(kind(1, 1, 3, group=group, padding=1), (8, 6)) == []
    assert warned(kind(1, 1, 3, group=gconv.CyclicGroup(1), stride=2, padding=1), (8, 6)) == []


def test_only_moved_axes_warn_and_only_possible_sizes_are_suggested() -> None:
    flips_rows = gconv.DihedralGroup(1)
    assert warned(gconv.nn.GroupConv2d(1, 1, 3, group=flips_rows, stride=2, padding=1), (7, 8)) == []
    (message,) = warned(gconv.nn.GroupConv2d(1, 1, 3, group=flips_rows, stride=2, padding=1), (8, 8))
    assert "W =" not in message
    (message,) = warned(gconv.nn.GroupConv2d(1, 1, 1, group=gconv.CyclicGroup(2), stride=4, padding=3), (1, 3))
    assert "H = 3" in message  # 1 - 2 pixels are not a size
    assert "-1" not in message


@pytest.mark.parametrize("size", range(1, 14))
@pytest.mark.parametrize("stride", [2, 3])
def test_the_stride_rule_is_exactly_when_equivariance_holds(size: int, stride: int) -> None:
    group = gconv.CyclicGroup(4)
    layer = integer_parameters(gconv.nn.GroupConv2d(1, 2, 3, group=group, stride=stride, padding=1))
    x = torch.randint(1, 1000, (1, 1, 4, size, size)).double()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        out = layer(x)
        exact = all(torch.equal(layer(group.act(x, g)), group.act(out, g)) for g in group.elements)
    assert exact == (len(caught) == 0) == ((size + 2 - 3) % stride == 0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"group": "C4"}, TypeError, "group must be a CyclicGroup or DihedralGroup, got str"),
        ({"in_channels": 0}, ValueError, "in_channels must be positive, got 0"),
        ({"out_channels": 1.0}, TypeError, "out_channels must be an int, got float"),
        ({"kernel_size": (3, 3)}, TypeError, "kernel_size must be an int, got tuple"),
        ({"stride": 0}, ValueError, "stride must be positive, got 0"),
        ({"stride": True}, TypeError, "stride must be an int, got bool"),
        ({"padding": -1}, ValueError, "padding must be at least 0, got -1"),
        ({"padding": "valid"}, TypeError, "padding must be an int or 'same', got 'valid'"),
        ({"padding": "same", "kernel_size": 4}, ValueError, "padding='same' needs an odd kernel_size and stride 1"),
        ({"padding": "same", "stride": 2}, ValueError, "padding='same' needs an odd kernel_size and stride 1"),
        ({"backend": "cudnn"}, ValueError, "backend must be None or one of .*, got 'cudnn'"),
    ],
)
@pytest.mark.parametrize("kind", [gconv.nn.LiftingConv2d, gconv.nn.GroupConv2d])
def test_bad_layers_are_refused(
    kind: type[nn.Module], arguments: dict[str, object], error: type[Exception], message: str
) -> None:
    good = {"in_channels": 2, "out_channels": 3, "kernel_size": 3, "group": gconv.CyclicGroup(4)}
    with pytest.raises(error, match=f"^{kind.__name__}: {message}"):
        kind(**good | arguments)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: gconv.nn.GroupPool(group="C4"), TypeError, "GroupPool: group must be a CyclicGroup"),
        (lambda: gconv.nn.GroupPool(group=gconv.CyclicGroup(4), mode="min"), ValueError, "GroupPool: mode must be"),
        (
            lambda: gconv.nn.GroupPool(group=gconv.CyclicGroup(4), subgroup=[0, 1]),
            ValueError,
            r"GroupPool: subgroup must .*, got \[0, 1\]",
        ),
        (lambda: gconv.nn.GroupUpsample2d("area"), ValueError, "GroupUpsample2d: mode must be one of .*, got 'area'"),
        (lambda: gconv.nn.GroupDownsample2d("min"), ValueError, "GroupDownsample2d: mode must be one of .*, got 'min'"),
    ],
)
def test_bad_pools_and_resamplers_are_refused(
    call: Callable[[], nn.Module], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{message}"):
        call()


def test_layers_say_what_they_are() -> None:
    group = gconv.DihedralGroup(2)
    text = repr(gconv.nn.GroupConv2d(2, 3, 5, group=group, stride=2, padding=1, bias=False))
    assert text == "GroupConv2d(2, 3, 5, group=DihedralGroup(2), stride=2, padding=1, bias=False)"
    assert repr(gconv.nn.GroupPool(group=group, subgroup=[0, 1])).count("subgroup=(0, 1)") == 1
    assert repr(gconv.nn.GroupUpsample2d()) == "GroupUpsample2d(mode='nearest')"


def test_layers_copy_pickle_and_save() -> None:
    layer = gconv.nn.GroupConv2d(2, 3, 3, group=gconv.DihedralGroup(4), padding=1)
    x = torch.randn(1, 2, 8, 4, 4)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), layer(x))
        assert twin.group == layer.group
    other = gconv.nn.GroupConv2d(2, 3, 3, group=gconv.DihedralGroup(4), padding=1)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x))
    keys = list(layer.train().state_dict())
    assert keys == list(layer.eval().state_dict()) == ["weight", "bias", "_extra_state"]


def test_construction_takes_milliseconds() -> None:
    """A layer of 512 channels under D4: no basis is solved, no bank is expanded."""
    times_ms = []
    for _ in range(5):
        start = perf_counter()
        gconv.nn.GroupConv2d(64, 64, 3, group=gconv.DihedralGroup(4))
        gconv.nn.LiftingConv2d(3, 64, 5, group=gconv.DihedralGroup(4))
        times_ms.append(1e3 * (perf_counter() - start))
    assert median(times_ms) < 50
