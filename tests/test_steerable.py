"""Steerable filters and the layers made of them: against the continuous definition, by loops and complex numbers."""

from __future__ import annotations

import cmath
import copy
import math
import pickle
import warnings
from collections.abc import Callable
from itertools import product
from statistics import median
from time import perf_counter

import pytest
import torch
import torch.nn.functional as F
from cases import integers
from equivariance import patches
from torch import Tensor, nn

import gconv
from gconv.nn import GroupConv2d, LiftingConv2d, spectral_norm

NAMES = ("C3", "C5", "C6", "C8", "C12", "C16", "D3", "D5", "D6", "D8", "D12", "C4", "D4")
KINDS = (LiftingConv2d, GroupConv2d)
C8 = gconv.CyclicGroup(8)


def rotated(name: str, element: int, offset: tuple[float, float]) -> tuple[float, float]:
    """The offset moved by the element, by trigonometry: x to the right, y up, then the flip of the rows."""
    n = int(name[1:])
    flip, rotation = divmod(element, n)
    turned = complex(offset[1], -offset[0]) * cmath.exp(2j * math.pi * rotation / n)
    return (turned.imag if flip else -turned.imag, turned.real)


def inverse(name: str, element: int) -> int:
    return element if element >= int(name[1:]) else -element % int(name[1:])


def multiply(name: str, a: int, b: int) -> int:
    point = (2.0, 1.0)  # no element but the identity leaves it in place
    target = rotated(name, a, rotated(name, b, point))
    order = int(name[1:]) * (2 if name[0] == "D" else 1)
    return min(range(order), key=lambda e: math.dist(rotated(name, e, point), target))


def functions(basis: tuple[gconv.Ring, ...], size: int, offset: tuple[float, float]) -> list[float]:
    """Every basis function at an offset of the plane, scaled as they are on the pixels of the window."""
    centre = (size - 1) / 2
    values = []
    for ring in basis:

        def gauss(row: float, column: float, ring: gconv.Ring = ring) -> float:
            return math.exp(-((math.hypot(row, column) - ring.radius) ** 2) / (2 * ring.sigma**2))

        for k in range(ring.max_frequency + 1):
            pixels = [(row - centre, column - centre) for row, column in product(range(size), repeat=2)]
            norm = math.sqrt(sum(gauss(*pixel) ** 2 for pixel in pixels if k == 0 or math.hypot(*pixel) > 1e-9))
            point = complex(offset[1], -offset[0])
            if k == 0:
                values.append(gauss(*offset) / norm)
            elif abs(point) < 1e-9:
                values += [0.0, 0.0]
            else:
                wave = (point / abs(point)) ** k * gauss(*offset) * math.sqrt(2) / norm
                values += [wave.real, wave.imag]
    return values


def bank(coefficients: Tensor, name: str, size: int, basis: tuple[gconv.Ring, ...]) -> Tensor:
    """B_{g,t}(d) = W(g^-1 d, g^-1 t) with W = sum_b a_b psi_b on the plane: (C_out |G|, C_in[ |G|], K, K)."""
    order = gconv.group_from_name(name).order
    centre = (size - 1) / 2
    planes = []
    for g in range(order):
        back = inverse(name, g)
        window = [
            functions(basis, size, rotated(name, back, (row - centre, column - centre)))
            for row, column in product(range(size), repeat=2)
        ]
        turned = torch.tensor(window, dtype=torch.float64).T.unflatten(1, (size, size))
        if coefficients.dim() == 4:
            permuted = coefficients[:, :, [multiply(name, back, t) for t in range(order)]]
            planes.append(torch.einsum("oitb,bxy->oitxy", permuted, turned).flatten(1, 2))
        else:
            planes.append(torch.einsum("oib,bxy->oixy", coefficients, turned))
    return torch.stack(planes, dim=1).flatten(0, 1)


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_layers_apply_the_continuous_filter_at_every_orientation(name: str, kind: type[nn.Module], size: int) -> None:
    group, basis = gconv.group_from_name(name), gconv.steerable_basis(size)
    layer = kind(2, 3, size, group=group, padding="same", basis=basis).double()
    axis = () if kind is LiftingConv2d else (group.order,)
    assert layer.weight.shape == (3, 2, *axis, {3: 6, 5: 11}[size])
    x = torch.randn(2, 2, *axis, 6, 5, dtype=torch.float64)
    expected_bank = bank(layer.weight.detach(), name, size, basis)
    torch.testing.assert_close(gconv.expand_filter(layer.spatial_filter(), group), expected_bank, rtol=0, atol=1e-13)
    planar = x.flatten(1, 2) if axis else x
    bias = layer.bias.repeat_interleave(group.order)
    expected = F.conv2d(planar, expected_bank, bias, padding=size // 2).unflatten(1, (3, group.order))
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(gconv.to_planar(layer)(planar), layer(x).flatten(1, 2), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [2, 4, 7])
def test_other_sizes_and_bases(size: int) -> None:
    for name, basis in product(("C8", "D6"), (gconv.steerable_basis(size), gconv.sp_gan_basis()[:2])):
        group = gconv.group_from_name(name)
        b = sum(1 + 2 * ring.max_frequency for ring in basis)
        a = torch.randn(1, 2, group.order, b, dtype=torch.float64)
        found = gconv.expand_filter(gconv.steerable_filters(a, group, size, basis), group)
        torch.testing.assert_close(found, bank(a, name, size, basis), rtol=0, atol=1e-13)


def test_the_default_basis_has_as_many_functions_as_escnns() -> None:
    for size, count in ((1, 1), (3, 6), (5, 11), (7, 18), (9, 31)):
        assert sum(1 + 2 * ring.max_frequency for ring in gconv.steerable_basis(size)) == count
    assert sum(1 + 2 * ring.max_frequency for ring in gconv.sp_gan_basis()) == 11
    for size in range(1, 12):  # no two functions are alike on the pixels
        basis = gconv.steerable_basis(size)
        b = sum(1 + 2 * ring.max_frequency for ring in basis)
        planes = gconv.steerable_filters(torch.eye(b, dtype=torch.float64)[None], C8, size).unflatten(0, (2, 1))
        assert torch.linalg.matrix_rank(planes[0, 0].flatten(1)) == b <= size**2


@pytest.mark.parametrize("size", range(1, 8))
def test_squares_sum_to_the_number_of_functions_at_every_angle(size: int) -> None:
    """The reason why the initialisation keeps the variance."""
    group = gconv.CyclicGroup(16)
    b = sum(1 + 2 * ring.max_frequency for ring in gconv.steerable_basis(size))
    planes = gconv.steerable_filters(torch.eye(b, dtype=torch.float64)[None], group, size)  # (4, B, K, K)
    assert planes.square().sum((1, 2, 3)).tolist() == pytest.approx([b] * 4, rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["C8", "C5", "D6"])
def test_initialisation_keeps_the_variance(name: str, kind: type[nn.Module]) -> None:
    """White input of variance 1. Each filter's and each input's square varies by sqrt(2 / 88) or less: 1 % in all."""
    group = gconv.group_from_name(name)
    axis = () if kind is LiftingConv2d else (group.order,)
    layer = kind(8, 512, 5, group=group, bias=False)
    bound = math.sqrt(3 / layer.weight[0].numel())
    assert 0.99 * bound < float(layer.weight.detach().abs().max()) <= bound
    with torch.no_grad():
        variance = layer(torch.randn(512, 8, *axis, 5, 5)).square().mean((0, 1, 3, 4))
    assert variance.tolist() == pytest.approx([1] * group.order, abs=0.04)  # of every orientation


@pytest.mark.parametrize("name", ["C8", "C6", "D8"])
def test_other_rotations_permute_the_group_axis_approximately(name: str) -> None:
    """The image is a function of the plane, so it is turned without interpolation (bench/equivariance.py)."""
    group = gconv.group_from_name(name)
    lifting = LiftingConv2d(1, 8, 5, group=group).double()
    convolve = GroupConv2d(8, 8, 5, group=group).double()

    def network(x: Tensor) -> Tensor:
        return convolve(lifting(x).relu())

    with torch.no_grad():
        out = network(patches(9, 0.0))
        size = out.square().mean().sqrt()
        for r in range(1, group.rotations):
            moved = network(patches(9, 2 * math.pi * r / group.rotations))
            expected = out[:, :, [group.product(group.inverse(r), h) for h in group.elements]]
            error = (moved - expected).square().mean().sqrt() / size
            assert error < (1e-9 if r in group.lattice_elements else 0.1)
            assert (moved - out).square().mean().sqrt() / size > 0.2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["C3", "C8", "D6", "D8"])
def test_spectral_norm_is_that_of_the_bank(name: str, kind: type[nn.Module]) -> None:
    group = gconv.group_from_name(name)
    layer = spectral_norm(kind(2, 3, 3, group=group).double(), n_power_iterations=300)
    original = layer.parametrizations.weight.original.detach().clone()
    with torch.no_grad():
        layer.weight  # noqa: B018  reading it in training mode iterates
    layer.eval()
    sigma = torch.linalg.svdvals(gconv.expand_filter(layer.spatial_filter().detach(), group).flatten(1))[0]
    assert float(sigma) == pytest.approx(1, abs=1e-9)
    whole = gconv.expand_filter(gconv.steerable_filters(original, group, 3), group).flatten(1)
    torch.testing.assert_close(layer.weight.detach(), original / torch.linalg.svdvals(whole)[0], rtol=1e-9, atol=1e-9)
    x = torch.randn(1, 2, *(() if kind is LiftingConv2d else (group.order,)), 4, 4, dtype=torch.float64)
    layer.train()(x).square().sum().backward()
    assert layer.parametrizations.weight.original.grad.isfinite().all()
    twin = copy.deepcopy(layer).float().eval()
    assert twin(x.float()).dtype == torch.float32


def test_every_layer_takes_a_map_off_the_lattice() -> None:
    x = torch.randn(2, 3, 8, 6, 6, dtype=torch.float64).contiguous(memory_format=torch.channels_last_3d)
    network = nn.Sequential(
        gconv.nn.GroupBatchNorm2d(3),
        gconv.nn.GroupUpsample2d("blur"),
        GroupConv2d(3, 2, 3, group=C8, padding="same"),
        gconv.nn.GroupDownsample2d(),
        gconv.nn.GroupPool(group=C8, subgroup=[0, 4]),
    ).double()
    out = network(x)
    assert out.shape == (2, 2, 4, 6, 6)
    assert out.is_contiguous(memory_format=torch.channels_last_3d)
    for element in C8.lattice_elements:
        cosets = C8.cosets([0, 4])
        moved = network(C8.act(x, element))
        for i, coset in enumerate(cosets):
            to = cosets.index(tuple(sorted(C8.product(element, g) for g in coset)))
            torch.testing.assert_close(moved[:, :, to], C8.act_grid(out[:, :, i], element), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_state_copies_and_dtypes(kind: type[nn.Module]) -> None:
    layer = kind(2, 3, 5, group=C8)
    x = torch.randn(1, 2, *(() if kind is LiftingConv2d else (8,)), 7, 7)
    keys = list(layer.train().state_dict())
    assert keys == list(layer.eval().state_dict()) == ["weight", "bias", "_extra_state"]
    other = kind(2, 3, 5, group=C8).eval()
    other.load_state_dict(layer.state_dict())
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), other):
        assert torch.equal(twin(x), layer(x))
    wide = layer.double()  # sampled anew, not a basis in float32
    expected = gconv.steerable_filters(wide.weight, C8, 5)
    torch.testing.assert_close(wide.spatial_filter(), expected, rtol=1e-13, atol=1e-15)
    half = layer.to(torch.bfloat16)
    assert torch.equal(half.spatial_filter(), gconv.steerable_filters(half.weight, C8, 5))
    assert half(x.bfloat16()).dtype == torch.bfloat16
    with torch.device("meta"):
        shapes = kind(2, 3, 5, group=C8)
    assert shapes.spatial_filter().is_meta
    shapes.to_empty(device="cpu").load_state_dict(layer.float().state_dict())
    assert torch.equal(shapes.eval()(x), layer(x))


@pytest.mark.parametrize("kind", KINDS)
def test_the_filter_is_kept_in_eval_mode_until_its_coefficients_change(kind: type[nn.Module]) -> None:
    layer = kind(2, 3, 5, group=C8).eval()
    x = torch.randn(1, 2, *(() if kind is LiftingConv2d else (8,)), 7, 7)
    with torch.no_grad():
        before = layer(x)
        made = layer._filters._entries[layer.steerable]
        assert torch.equal(layer(x), before)
        assert layer._filters._entries[layer.steerable] is made
        layer.weight.data[0] += 1
        assert (layer(x) - before).abs().max() > 1
        torch.testing.assert_close(layer.spatial_filter(), gconv.steerable_filters(layer.weight, C8, 5))
        assert layer._filters._entries[layer.steerable] is not made
        layer.train()(x)
        assert not len(layer._filters)
    assert layer.eval().spatial_filter().requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_the_filter_that_is_kept_is_not_handed_out(kind: type[nn.Module]) -> None:
    layer = kind(2, 3, 5, group=C8).eval()
    x = torch.randn(1, 2, *(() if kind is LiftingConv2d else (8,)), 7, 7)
    with torch.no_grad():
        before = layer(x)
        layer.spatial_filter().zero_()
        assert torch.equal(layer(x), before)


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_does_not_round_the_basis(kind: type[nn.Module]) -> None:
    layer = kind(2, 3, 5, group=C8)
    x = torch.randn(1, 2, *(() if kind is LiftingConv2d else (8,)), 7, 7)
    expected = layer.spatial_filter()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.spatial_filter(), expected)
        assert layer(x).dtype == torch.bfloat16


def test_layers_compile_without_a_break() -> None:
    network = nn.Sequential(
        LiftingConv2d(1, 2, 5, group=C8, padding="same"),
        nn.ReLU(),
        GroupConv2d(2, 2, 3, group=C8, padding="same"),
        gconv.nn.GroupPool(group=C8),
    )
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    for height in (8, 6):
        x = torch.randn(2, 1, height, 8)
        torch.testing.assert_close(compiled(x), network(x))
    grads = [torch.autograd.grad(run(x).square().sum(), network[0].weight)[0] for run in (compiled, network)]
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_construction_takes_milliseconds(kind: type[nn.Module]) -> None:
    times_ms = []
    for n in (7, 9, 10, 11, 13):  # none of them sampled before
        start = perf_counter()
        kind(32, 32, 7, group=gconv.DihedralGroup(n))
        times_ms.append(1e3 * (perf_counter() - start))
    assert median(times_ms) < 50


def test_strides_warn_of_the_lattice_subgroup() -> None:
    x = torch.zeros(1, 1, 8, 8)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        LiftingConv2d(1, 1, 3, group=C8, stride=2, padding=1)(x)
        LiftingConv2d(1, 1, 3, group=gconv.CyclicGroup(5), stride=2, padding=1)(x)
    (warning,) = caught
    assert "not exactly equivariant under C4" in str(warning.message)


def test_layers_say_what_they_are() -> None:
    assert "(steerable): SteerableFilters(11 functions on 3 rings)" in repr(LiftingConv2d(1, 2, 5, group=C8))
    assert LiftingConv2d(1, 2, 5, group=gconv.CyclicGroup(4)).steerable is None


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: gconv.steerable_filters([1.0], C8, 3), TypeError, "coefficients must be a Tensor, got list"),
        (lambda: gconv.steerable_filters(torch.zeros(1, 1, 6), "C8", 3), TypeError, "group must be a CyclicGroup"),
        (lambda: gconv.steerable_filters(integers((1, 1, 6)).int(), C8, 3), TypeError, "coefficients must be floating"),
        (lambda: gconv.steerable_filters(torch.zeros(1, 1, 6), C8, 3.0), TypeError, "kernel_size must be an int"),
        (
            lambda: gconv.steerable_filters(torch.zeros(1, 1, 4, 6), C8, 3),
            ValueError,
            r"coefficients must be \(C_out, C_in, 6\) or \(C_out, C_in, 8, 6\) for group C8 and K = 3, got",
        ),
        (lambda: gconv.steerable_filters(torch.zeros(6), C8, 3), ValueError, "coefficients must be"),
        (lambda: gconv.steerable_filters(torch.zeros(1, 1, 6), C8, 3, "rings"), TypeError, "basis must be None or a"),
        (lambda: gconv.steerable_filters(torch.zeros(1, 1, 6), C8, 3, []), TypeError, "basis must be None or a"),
        (
            lambda: gconv.steerable_filters(torch.zeros(1, 1, 1), C8, 3, [gconv.Ring(0, 0, 0)]),
            ValueError,
            "basis must have radii of at least 0 and positive widths, got Ring",
        ),
        (
            lambda: gconv.steerable_filters(torch.zeros(1, 1, 1), C8, 3, [gconv.Ring(99, 0.5, 0)]),
            ValueError,
            "basis must have rings that reach pixels of K = 3, got Ring",
        ),
        (
            lambda: gconv.steerable_filters(torch.zeros(1, 1, 1), C8, 3, [gconv.Ring(1, 0.5, -1)]),
            ValueError,
            "max_frequency must be at least 0, got -1",
        ),
    ],
)
def test_bad_arguments_are_refused(call: Callable[[], Tensor], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^steerable_filters: {message}"):
        call()


def test_bad_layers_are_refused() -> None:
    with pytest.raises(TypeError, match=r"^GroupConv2d: basis must be None or a sequence of gconv.Ring, got 'rings'"):
        GroupConv2d(1, 1, 3, group=C8, basis="rings")
    with pytest.raises(ValueError, match=r"^steerable_basis: kernel_size must be at least 1, got 0"):
        gconv.steerable_basis(0)
