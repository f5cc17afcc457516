"""Models of escnn give the same outputs here. Runs where escnn is installed; the README says how."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gconv

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # escnn's own
    gspaces = pytest.importorskip("escnn.gspaces", reason="escnn is not installed", exc_type=ImportError)
    enn = pytest.importorskip("escnn.nn", reason="escnn is not installed", exc_type=ImportError)

pytestmark = pytest.mark.filterwarnings("ignore")  # escnn's own

UPRIGHT = torch.pi / 2  # escnn's usual axis of reflection: a flip of columns
SPACES = {
    "C1": lambda: gspaces.trivialOnR2(),
    "C2": lambda: gspaces.rot2dOnR2(2),
    "C4": lambda: gspaces.rot2dOnR2(4),
    "D1": lambda: gspaces.flip2dOnR2(axis=0.0),
    "D2": lambda: gspaces.flipRot2dOnR2(2),
    "D2 level": lambda: gspaces.flipRot2dOnR2(2, axis=0.0),
    "D4": lambda: gspaces.flipRot2dOnR2(4),
    "D4 diagonal": lambda: gspaces.flipRot2dOnR2(4, axis=torch.pi / 4),
    "D4 level": lambda: gspaces.flipRot2dOnR2(4, axis=0.0),
    "C3": lambda: gspaces.rot2dOnR2(3),
    "C8": lambda: gspaces.rot2dOnR2(8),
    "C12": lambda: gspaces.rot2dOnR2(12),
    "D3 level": lambda: gspaces.flipRot2dOnR2(3, axis=0.0),
    "D6": lambda: gspaces.flipRot2dOnR2(6),
    "D8": lambda: gspaces.flipRot2dOnR2(8),
}
OFF_LATTICE = ("C3", "C8", "C12", "D3 level", "D6", "D8")
ANGLES = {"diagonal": torch.pi / 4, "level": 0.0}


def positions(name: str) -> list[int]:
    """Where escnn keeps gconv's elements: r^k f = R^k R^s F = F R^(-k - s), f the reflection at the angle pi s / n."""
    letter, n = name[0], int(name.split()[0][1:])
    if letter == "C":
        return list(range(n))
    angle = 0.0 if n == 1 else ANGLES.get(name[3:], UPRIGHT)  # what follows the name and a space
    shift = round(angle * n / torch.pi)
    return [*range(n), *(n + (-shift - r) % n for r in range(n))]


def randomise(model: nn.Module) -> nn.Module:
    """Norms and biases other than 1 and 0."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
        elif isinstance(module, enn.R2Conv) and module.bias is not None:
            nn.init.normal_(module.bias)
    return model


def fields(space: Any, kind: str, count: int) -> Any:
    return enn.FieldType(space, [getattr(space, f"{kind}_repr")] * count)


def outputs(model: nn.Module, planar: Tensor) -> Tensor:
    return model(enn.GeometricTensor(planar, model.in_type)).tensor


def in_our_order(name: str, planar: Tensor, channels: int) -> Tensor:
    return planar.unflatten(1, (channels, -1))[:, :, positions(name)]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", SPACES)
def test_a_whole_model_gives_the_same_outputs(name: str, training: bool) -> None:
    space = SPACES[name]()
    image, first, second = fields(space, "trivial", 2), fields(space, "regular", 3), fields(space, "regular", 4)
    pool = enn.GroupPooling(second)
    model = enn.SequentialModule(
        enn.R2Conv(image, first, kernel_size=5, padding=2),
        enn.InnerBatchNorm(first),
        enn.ReLU(first, inplace=True),
        enn.SequentialModule(enn.R2Conv(first, second, kernel_size=3, padding=1, bias=False), enn.ReLU(second)),
        pool,
        enn.InnerBatchNorm(pool.out_type, affine=True),
    )
    randomise(model).train(training)
    ours = gconv.interop.from_escnn(model)
    x = torch.randn(3, 2, 9, 8)
    expected = outputs(model, x)  # in float32, the only dtype of escnn's norms: rounding is relative to the largest
    assert (ours(x) - expected).abs().max() < 1e-5 * expected.abs().max()
    for key, value in ours[1].state_dict().items():
        torch.testing.assert_close(
            value, getattr(model[1], f"batch_norm_[{space.fibergroup.order()}]").state_dict()[key]
        )
    assert [key for key, _ in ours.named_children()] == [key for key, _ in model.named_children()]
    assert ours.training == training


@pytest.mark.parametrize("size", [1, 3, 4, 5])
@pytest.mark.parametrize("source", ["trivial", "regular"])
@pytest.mark.parametrize("target", ["trivial", "regular"])
@pytest.mark.parametrize("name", SPACES)
def test_every_kind_of_convolution_gives_the_same_maps(name: str, target: str, source: str, size: int) -> None:
    space = SPACES[name]()
    into, out_of = fields(space, source, 2), fields(space, target, 4)
    for options in (
        {"padding": 1},
        {"stride": 2, "padding": size // 2, "padding_mode": "circular"},
        {"padding": 2, "dilation": 2, "groups": 2},
    ):
        layer = randomise(enn.R2Conv(into, out_of, kernel_size=size, **options))
        layer = copy.deepcopy(layer).double().eval()  # a copy: escnn's layers share the basis that they sampled
        x = torch.randn(2, into.size, 9, 7, dtype=torch.float64)
        expected = outputs(layer, x)
        if target == "regular":
            expected = in_our_order(name, expected, 4)
        ours = gconv.interop.from_escnn(layer)
        torch.testing.assert_close(
            ours(in_our_order(name, x, 2) if source == "regular" else x), expected, rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("size", [1, 3, 5, 7])
@pytest.mark.parametrize("source", ["trivial", "regular"])
@pytest.mark.parametrize("name", OFF_LATTICE)
def test_parameter_counts_off_the_pixel_grid_are_the_same(name: str, source: str, size: int) -> None:
    """Of the converted layer, and of a new one with the default basis."""
    space = SPACES[name]()
    theirs = enn.R2Conv(fields(space, source, 2), fields(space, "regular", 3), kernel_size=size)
    count = sum(parameter.numel() for parameter in theirs.parameters())
    kind = gconv.nn.GroupConv2d if source == "regular" else gconv.nn.LiftingConv2d
    for ours in (gconv.interop.from_escnn(theirs), kind(2, 3, size, group=gconv.group_from_name(name.split()[0]))):
        assert sum(parameter.numel() for parameter in ours.parameters()) == count


def test_parameter_counts_on_the_pixel_grid() -> None:
    """escnn's basis is smaller than the space of all filters, equal to it in 1 x 1 layers, and ours with ``basis=``."""
    space = gspaces.rot2dOnR2(4)
    for size in (1, 3):
        layer = enn.R2Conv(fields(space, "regular", 2), fields(space, "regular", 3), kernel_size=size, bias=False)
        basis = gconv.steerable_basis(size)
        steerable = gconv.nn.GroupConv2d(2, 3, size, group=gconv.CyclicGroup(4), basis=basis)
        assert layer.weights.numel() == steerable.weight.numel()
        assert gconv.interop.from_escnn(layer).weight.numel() == 2 * 3 * 4 * size**2


def test_other_rings_convert() -> None:
    space = gspaces.rot2dOnR2(8)
    options = {"kernel_size": 5, "rings": [0.0, 1.5], "sigma": [0.3, 0.7], "frequencies_cutoff": 2.0}
    layer = enn.R2Conv(fields(space, "regular", 1), fields(space, "regular", 1), **options).eval()
    ours = gconv.interop.from_escnn(layer)
    assert ours.steerable.basis == (gconv.Ring(0.0, 0.3, 0), gconv.Ring(1.5, 0.7, 3))
    x = torch.randn(1, 8, 7, 7)
    torch.testing.assert_close(ours(x[:, None]).flatten(1, 2), outputs(layer, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_converts_on_the_pixel_grid_only(dtype: torch.dtype) -> None:
    for name in ("D4", "C8"):
        layer = enn.R2Conv(*[fields(SPACES[name](), "regular", 2)] * 2, kernel_size=3)
        layer = copy.deepcopy(layer).to(dtype).eval()
        if name == "C8":
            message = rf"^from_escnn: R2Conv must be float32 or float64 on C8, off the pixel grid, got {dtype}"
            with pytest.raises(ValueError, match=message):
                gconv.interop.from_escnn(layer)
            continue
        ours = gconv.interop.from_escnn(layer)
        assert ours.weight.dtype == dtype
        bank, _ = layer.expand_parameters()
        row = bank.unflatten(1, (2, -1)).unflatten(0, (2, -1))[:, positions(name)[0]][:, :, positions(name)]
        assert torch.equal(ours.weight, row)


def test_what_is_not_ours_is_refused() -> None:
    space = gspaces.rot2dOnR2(4)
    image, regular = fields(space, "trivial", 1), fields(space, "regular", 1)
    irrep = enn.FieldType(space, [space.irrep(1)])
    mixed = enn.FieldType(space, [space.trivial_repr, space.regular_repr])
    for module, error, message in (
        (nn.ReLU(), TypeError, "module must be one of escnn's R2Conv, .* got ReLU"),
        (enn.ELU(regular), TypeError, "module must be one of escnn's R2Conv, .* got ELU"),
        (enn.R2Conv(image, irrep, kernel_size=3), ValueError, "a field type must be all regular or all trivial"),
        (enn.ReLU(mixed), ValueError, "a field type must be all regular or all trivial"),
        (
            enn.R2Conv(image, regular, kernel_size=3, padding=(1, 0)),
            ValueError,
            "R2Conv must have one padding for both",
        ),
        (
            enn.R2Conv(image, regular, kernel_size=3, padding=1, padding_mode="replicate"),
            ValueError,
            "R2Conv must have a padding_mode of .* got 'replicate'",
        ),
    ):
        with pytest.raises(error, match=f"^from_escnn: {message}"):
            gconv.interop.from_escnn(module)
    for space in (gspaces.flip2dOnR2(), gspaces.flipRot2dOnR2(3), gspaces.rot2dOnR2(17)):
        layer = enn.R2Conv(fields(space, "trivial", 1), fields(space, "regular", 1), kernel_size=3)
        with pytest.raises(ValueError, match=r"^from_escnn: module must be on a group"):
            gconv.interop.from_escnn(layer)
    layer = enn.R2Conv(*[fields(gspaces.rot2dOnR2(8), "regular", 1)] * 2, kernel_size=3)
    layer.expand_parameters = lambda: (torch.randn(8, 8, 3, 3), None)  # no steerable basis has these
    with pytest.raises(ValueError, match=r"^from_escnn: R2Conv must have filters in the span of the rings"):
        gconv.interop.from_escnn(layer)
