"""to_planar of every module that it takes, with every option, and its refusal of every other one by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gconv
from gconv import convert

C4, D4, C8 = gconv.CyclicGroup(4), gconv.DihedralGroup(4), gconv.CyclicGroup(8)
WIDTH, HEIGHT = 6, 8
FLAG = (False, True)
SAME = ("device", "dtype", "backend", "process_group", "args", "kwargs", "layers")  # they do not change the numbers


def every(kind: type[nn.Module], **options: tuple[Any, ...]) -> Iterator[Callable[[], nn.Module]]:
    """The module with all combinations of options, of those that this version of torch has."""
    known = set(inspect.signature(kind).parameters)
    options = {name: values for name, values in options.items() if name in known}
    for values in product(*options.values()):
        yield lambda values=values: kind(**dict(zip(options, values, strict=True)))


def convolutions(kind: type[nn.Module], group: gconv.PlanarGroup) -> Iterator[Callable[[], nn.Module]]:
    common = {"in_channels": (4,), "out_channels": (6,), "group": (group,), "bias": FLAG}
    rings = tuple(gconv.steerable_basis(3))
    if kind is gconv.nn.GroupConvTranspose2d:
        yield from every(
            kind, **common, kernel_size=(2, 3), stride=(1, 2), padding=(0, 1), output_padding=(0,), basis=(None,)
        )
        yield from every(kind, **common, kernel_size=(3,), stride=(3,), output_padding=(1, 2), basis=(None, rings))
        return
    modes = ("zeros", "circular", "reflect")
    yield from every(kind, **common, kernel_size=(1, 2, 3), stride=(1, 2), padding=(0, 1), padding_mode=modes)
    yield from every(kind, **common, kernel_size=(3,), padding=("same",), dilation=(1, 2), groups=(1, 2))
    yield from every(kind, **common, kernel_size=(3,), padding=(1,), groups=(1, 2), basis=(rings,))


NORM: dict[str, tuple[Any, ...]] = {"num_features": (4,), "eps": (1e-5, 0.1), "affine": FLAG, "bias": FLAG}
STATISTICS = {"momentum": (0.1, None), "track_running_stats": (True,)}
BORDERS: dict[str, tuple[Any, ...]] = {"padding": ((1, 2, 3, 0, 0, 0), (0, 0, 0, 0, 0, 0))}
SHAPES = ([WIDTH], [HEIGHT, WIDTH], [4, HEIGHT, WIDTH], [4, 4, HEIGHT, WIDTH])
WINDOWS: dict[str, tuple[Any, ...]] = {
    "kernel_size": ((1, 2, 3), [1, 3, 2]),
    "stride": (None, (1, 1, 2), [1, 2, 3]),
    "ceil_mode": FLAG,
}
INPLACE = {"inplace": FLAG}
POOLED = ((None, 3, 2), (4, None, 5), (1, 1, 1), 1, (2, 3, None), (7, 2, 2))

# Behind a lifting convolution to four channels on C4, maps of 8 x 6 pixels, but for layers on another group.
CASES: dict[type[nn.Module], list[Callable[[], nn.Module]]] = {
    gconv.nn.LiftingConv2d: [*convolutions(gconv.nn.LiftingConv2d, C4), *convolutions(gconv.nn.LiftingConv2d, C8)],
    gconv.nn.GroupConv2d: [*convolutions(gconv.nn.GroupConv2d, C4)],
    gconv.nn.GroupConvTranspose2d: [*convolutions(gconv.nn.GroupConvTranspose2d, C4)],
    gconv.nn.GroupPool: [
        *every(gconv.nn.GroupPool, group=(C4,), mode=("max", "mean"), subgroup=(None, (0,), (0, 2), (0, 1, 2, 3)))
    ],
    gconv.nn.GroupBatchNorm2d: [*every(gconv.nn.GroupBatchNorm2d, **NORM, **STATISTICS)],
    gconv.nn.GroupConditionalBatchNorm2d: [
        *every(
            gconv.nn.GroupConditionalBatchNorm2d,
            num_features=(4,),
            condition_features=(1, 3),
            eps=(1e-5, 0.1),
            momentum=(0.1, 1.0),
        )
    ],
    gconv.nn.GroupDownsample2d: [*every(gconv.nn.GroupDownsample2d, mode=("average", "max", "blur"))],
    gconv.nn.GroupUpsample2d: [*every(gconv.nn.GroupUpsample2d, mode=("nearest", "blur"))],
    gconv.nn.Sequential: [lambda: gconv.nn.Sequential(nn.PReLU(4), nn.Sequential(nn.BatchNorm3d(4)), nn.ReLU())],
    nn.Sequential: [nn.Sequential, lambda: nn.Sequential(nn.PReLU(4), nn.Sequential(nn.BatchNorm3d(4)), nn.ReLU())],
    nn.BatchNorm3d: [*every(nn.BatchNorm3d, **NORM, **STATISTICS)],
    nn.SyncBatchNorm: [*every(nn.SyncBatchNorm, **NORM, **STATISTICS)],
    nn.InstanceNorm3d: [*every(nn.InstanceNorm3d, **NORM, momentum=(0.1,), track_running_stats=FLAG)],
    nn.GroupNorm: [
        *every(nn.GroupNorm, num_groups=(1, 2, 4), num_channels=(4,), eps=(1e-5, 0.1), affine=FLAG, bias=FLAG)
    ],
    nn.LayerNorm: [
        *every(nn.LayerNorm, normalized_shape=SHAPES, eps=(1e-5, 0.1), elementwise_affine=FLAG, bias=FLAG)
    ],
    nn.RMSNorm: [*every(nn.RMSNorm, normalized_shape=SHAPES, eps=(None, 0.1), elementwise_affine=FLAG)],
    nn.LocalResponseNorm: [*every(nn.LocalResponseNorm, size=(2, 3), alpha=(1e-4, 1.0), beta=(0.5,), k=(0.5, 2.0))],
    nn.ChannelShuffle: [*every(nn.ChannelShuffle, groups=(1, 2, 4))],
    nn.MaxPool3d: [
        *every(nn.MaxPool3d, **WINDOWS, padding=(0, (0, 1, 1)), dilation=(1, (1, 2, 1)), return_indices=(False,))
    ],
    nn.AvgPool3d: [
        *every(nn.AvgPool3d, **WINDOWS, padding=(0, (0, 1, 1)), count_include_pad=FLAG, divisor_override=(None, 5))
    ],
    nn.LPPool3d: [*every(nn.LPPool3d, norm_type=(1.0, 2.0), **WINDOWS)],
    nn.AdaptiveAvgPool3d: [*every(nn.AdaptiveAvgPool3d, output_size=POOLED)],
    nn.AdaptiveMaxPool3d: [*every(nn.AdaptiveMaxPool3d, output_size=POOLED, return_indices=(False,))],
    nn.Upsample: [
        *every(
            nn.Upsample,
            scale_factor=((1, 2, 1.5), (1.0, 3.0, 2.0)),
            mode=("nearest", "nearest-exact"),
            align_corners=(None,),
            recompute_scale_factor=(None, True),
        ),
        *every(nn.Upsample, scale_factor=((1, 2, 1.5),), mode=("trilinear",), align_corners=(None, *FLAG)),
        *every(nn.Upsample, size=((4, 5, 9), 4), mode=("nearest", "trilinear")),
    ],
    nn.CircularPad3d: [*every(nn.CircularPad3d, **BORDERS)],
    nn.ReflectionPad3d: [*every(nn.ReflectionPad3d, **BORDERS)],
    nn.ReplicationPad3d: [*every(nn.ReplicationPad3d, **BORDERS)],
    nn.ZeroPad3d: [*every(nn.ZeroPad3d, **BORDERS)],
    nn.ConstantPad3d: [*every(nn.ConstantPad3d, **BORDERS, value=(0.0, 1.5))],
    nn.ZeroPad2d: [*every(nn.ZeroPad2d, padding=(1, (1, 2, 0, 3)))],
    nn.ConstantPad2d: [*every(nn.ConstantPad2d, padding=(1, (1, 2, 0, 3)), value=(0.0, 1.5))],
    nn.ZeroPad1d: [*every(nn.ZeroPad1d, padding=(1, (1, 2)))],
    nn.ConstantPad1d: [*every(nn.ConstantPad1d, padding=(1, (1, 2)), value=(0.0, 1.5))],
    nn.Flatten: [*every(nn.Flatten, start_dim=(1, -4), end_dim=(2, -3, 4, -1))],
    nn.PReLU: [*every(nn.PReLU, num_parameters=(1, 4), init=(0.25, -2.0))],
    nn.Dropout: [*every(nn.Dropout, p=(0.5, 1.0), **INPLACE)],
    nn.Dropout2d: [*every(nn.Dropout2d, p=(0.5, 1.0), **INPLACE)],
    nn.Dropout3d: [*every(nn.Dropout3d, p=(0.5, 1.0), **INPLACE)],
    nn.AlphaDropout: [*every(nn.AlphaDropout, p=(0.5, 1.0), **INPLACE)],
    nn.FeatureAlphaDropout: [*every(nn.FeatureAlphaDropout, p=(0.5, 1.0), **INPLACE)],
    nn.RReLU: [*every(nn.RReLU, lower=(0.1, 0.2), upper=(0.3, 0.5), **INPLACE)],
    nn.CELU: [*every(nn.CELU, alpha=(1.0, 0.5), **INPLACE)],
    nn.ELU: [*every(nn.ELU, alpha=(1.0, 0.5), **INPLACE)],
    nn.GELU: [*every(nn.GELU, approximate=("none", "tanh"))],
    nn.Hardshrink: [*every(nn.Hardshrink, lambd=(0.5, 0.1))],
    nn.Hardtanh: [
        *every(nn.Hardtanh, min_val=(-1.0, -0.5), max_val=(1.0, 0.3), **INPLACE, min_value=(None,), max_value=(None,))
    ],
    nn.LeakyReLU: [*every(nn.LeakyReLU, negative_slope=(0.01, 0.2), **INPLACE)],
    nn.Softplus: [*every(nn.Softplus, beta=(1.0, 2.0), threshold=(20.0, 0.5))],
    nn.Softshrink: [*every(nn.Softshrink, lambd=(0.5, 0.1))],
    nn.Threshold: [*every(nn.Threshold, threshold=(0.1, 0.3), value=(-1.0, 2.0), **INPLACE)],
    **{
        kind: [*every(kind, **INPLACE)]
        for kind in (nn.Hardsigmoid, nn.Hardswish, nn.Mish, nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU)
    },
    **{
        kind: [kind] for kind in (nn.Identity, nn.LogSigmoid, nn.Sigmoid, nn.Softsign, nn.Tanh, nn.Tanhshrink)
    },
}  # fmt: skip

CONTAINERS = (gconv.nn.Sequential, nn.Sequential, nn.ModuleDict, nn.ModuleList)
BATCH_NORMS = (gconv.nn.GroupBatchNorm2d, gconv.nn.GroupConditionalBatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
RANDOM = (nn.AlphaDropout, nn.Dropout, nn.Dropout2d, nn.Dropout3d, nn.FeatureAlphaDropout, nn.RReLU)


def randomise(model: nn.Module) -> nn.Module:
    """Every number as a trained model may have it, none at its initial value."""
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5)
                tensor.mul_(torch.randint_like(tensor, 2) * 2 - 1)
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.abs_()
    return model


def behind_lifting(module: nn.Module) -> nn.Module:
    if isinstance(module, gconv.nn.LiftingConv2d):
        return module.double()
    return nn.Sequential(gconv.nn.LiftingConv2d(4, 4, 3, group=C4, padding=1), module).double()


def image() -> Tensor:
    return torch.randn(3, 4, HEIGHT, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def flat(out: Tensor) -> Tensor:
    return out.flatten(1, 2) if out.dim() == 5 else out


def run(model: nn.Module, x: Tensor) -> Tensor:
    """The model on a copy, since some modules change what they are given."""
    if isinstance(model, nn.Sequential) and len(model) == 2:
        last = model[1]
        if isinstance(last, gconv.nn.GroupConditionalBatchNorm2d | convert.FlatConditionalBatchNorm2d):
            condition = torch.linspace(-1, 1, 3 * last.gamma.in_features, dtype=x.dtype).view(3, -1)
            out: Tensor = last(model[0](x.clone()), condition)
            return out
    result: Tensor = model(x.clone())
    return result


def assert_alike(model: nn.Module, planar: nn.Module) -> None:
    expected = flat(run(model, image()))
    assert expected.std() > 0 or any(isinstance(part, nn.Threshold) for part in model.modules())
    torch.testing.assert_close(run(planar, image()), expected, rtol=1e-11, atol=1e-11)


def test_every_class_that_is_taken_has_a_case() -> None:
    layers = {getattr(gconv.nn, name) for name in gconv.nn.__all__ if inspect.isclass(getattr(gconv.nn, name))}
    assert set(CASES) >= layers
    assert set(CASES) >= set(convert._CONVERTERS) - {nn.ModuleDict, nn.ModuleList}  # they have no forward
    assert all(CASES.values())


@pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.__name__)
def test_every_option_has_a_case(kind: type[nn.Module]) -> None:
    """An option that torch or gconv adds must be converted, too."""
    tried: set[str] = set()
    for make in CASES[kind]:
        tried |= set() if inspect.isclass(make) else set(inspect.getclosurevars(make).nonlocals.get("options", {}))
    assert set(inspect.signature(kind).parameters) - set(SAME) <= tried


@pytest.mark.filterwarnings("ignore:dropout2d. Received a 5-D input")
@pytest.mark.filterwarnings("ignore:.*is not exactly equivariant")
@pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.__name__)
def test_every_module_with_every_option_gives_the_same_numbers(kind: type[nn.Module]) -> None:
    for make in CASES[kind]:
        model = randomise(behind_lifting(make())).eval()
        planar = gconv.to_planar(model)
        assert not any(part.training for part in planar.modules())
        assert_alike(model, planar)


@pytest.mark.filterwarnings("ignore:.*is not exactly equivariant")
@pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.__name__)
def test_in_training_mode_it_gives_the_same_numbers_or_is_refused_by_name(kind: type[nn.Module]) -> None:
    for make in CASES[kind]:
        model = randomise(behind_lifting(make()))
        norms = [part for part in model.modules() if isinstance(part, (*BATCH_NORMS, *RANDOM))]
        if norms:
            with pytest.raises(ValueError, match=r"^to_planar: module must be in eval mode.* in training mode"):
                gconv.to_planar(model)
        else:
            planar = gconv.to_planar(model)
            assert all(part.training for part in planar.modules())
            assert_alike(model, planar)
            assert_alike(model.eval(), planar.eval())


def instance(kind: type[nn.Module]) -> nn.Module:
    """One whatever its arguments: refused for its class, never run."""
    module: nn.Module = object.__new__(kind)
    nn.Module.__init__(module)
    return module


EVERY = {kind for _, kind in inspect.getmembers(nn, inspect.isclass) if issubclass(kind, nn.Module)}
REAL: dict[type[nn.Module], Callable[[], nn.Module]] = {
    nn.LazyBatchNorm3d: nn.LazyBatchNorm3d,
    nn.GRU: lambda: nn.GRU(4, 4),
    nn.LSTM: lambda: nn.LSTM(4, 4),
    nn.LazyInstanceNorm3d: nn.LazyInstanceNorm3d,
    nn.RNN: lambda: nn.RNN(4, 4),
    nn.RNNBase: lambda: nn.RNNBase("GRU", 4, 4),
    nn.MultiheadAttention: lambda: nn.MultiheadAttention(4, 2),
    nn.UpsamplingNearest2d: lambda: nn.UpsamplingNearest2d(scale_factor=2),
    nn.UpsamplingBilinear2d: lambda: nn.UpsamplingBilinear2d(scale_factor=2),
}


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")  # of Container and NLLLoss2d
@pytest.mark.parametrize(
    "kind", sorted(EVERY - set(CASES) - set(CONTAINERS), key=lambda kind: kind.__name__), ids=lambda kind: kind.__name__
)
def test_every_other_module_of_torch_is_refused_on_a_map_and_left_alone_on_an_image(kind: type[nn.Module]) -> None:
    module = REAL.get(kind, lambda: instance(kind))()
    lifting = gconv.nn.LiftingConv2d(4, 4, 3, group=C4)
    with pytest.raises(TypeError, match=f"^to_planar: module must .*, got {kind.__name__} at '1.0'"):
        gconv.to_planar(nn.Sequential(lifting, nn.Sequential(module)).eval())
    if kind not in (nn.LazyBatchNorm3d, nn.LazyInstanceNorm3d):  # they have not run, and cannot be copied
        planar = gconv.to_planar(nn.Sequential(lifting, gconv.nn.GroupPool(group=C4), nn.Sequential(module)))
        assert type(planar[2][0]) is kind


@pytest.mark.parametrize(
    "module",
    [
        nn.MaxPool3d(2),
        nn.MaxPool3d((1, 2, 2), (2, 2, 2)),
        nn.MaxPool3d((1, 2, 2), return_indices=True),
        nn.AvgPool3d((2, 2, 2), padding=(1, 0, 0)),
        nn.LPPool3d(2, 2),
        nn.AdaptiveMaxPool3d(1, return_indices=True),
        nn.Upsample(scale_factor=2),
        nn.Upsample(size=(3, 5, 5)),
        nn.Upsample(size=5),
        nn.ZeroPad3d(1),
        nn.ConstantPad3d((0, 0, 0, 0, 0, 1), 1.0),
        nn.ReflectionPad3d((0, 0, 0, 0, 1, 0)),
        nn.Flatten(0),
        nn.Flatten(2),
        nn.Flatten(1, 3),
        nn.Unflatten(1, (2, 2)),
    ],
    ids=repr,
)
def test_options_that_meet_the_group_axis_are_refused(module: nn.Module) -> None:
    with pytest.raises(TypeError, match=f"^to_planar: module must .*, got {type(module).__name__} at '1'"):
        gconv.to_planar(behind_lifting(module).eval())
