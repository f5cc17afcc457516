"""The transposed convolution: torch's on the expanded bank, the adjoint of group_conv2d, its layer and its errors."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from cases import BACKENDS, GROUPS, integers
from torch import Tensor

import gconv

# (K, stride, padding, output_padding): plain, even, strided with and without a remainder, padding past K - 1, 1 x 1.
OPTIONS = [(3, 1, 1, 0), (4, 2, 1, 0), (3, 2, 1, 1), (2, 3, 0, 2), (3, 2, 3, 0), (1, 1, 0, 0), (5, 1, 0, 0)]


OFF_LATTICE = ("C3", "C6", "C8", "D5", "D8")


def operands(group: gconv.PlanarGroup, size: int) -> tuple[Tensor, Tensor, Tensor]:
    m, planes = group.coset_count, group.lattice.order
    return integers((2, 3, group.order, 4, 5)), integers((3 * m, 2 * m, planes, size, size)), integers((2,))


@pytest.mark.parametrize("backend", [*BACKENDS, None])
@pytest.mark.parametrize(("size", "stride", "padding", "output_padding"), OPTIONS)
@pytest.mark.parametrize("name", [*GROUPS, *OFF_LATTICE])
def test_it_is_torchs_on_the_bank(
    name: str, size: int, stride: int, padding: int, output_padding: int, backend: str | None
) -> None:
    group = gconv.group_from_name(name)
    x, weight, bias = operands(group, size)
    options = {"stride": stride, "padding": padding, "output_padding": output_padding}
    out = gconv.group_conv_transpose2d(x, weight, bias, group=group, backend=backend, **options)
    bank = gconv.expand_filter(weight, group)
    expected = F.conv_transpose2d(x.flatten(1, 2), bank, bias.repeat_interleave(group.order), **options)
    assert torch.equal(out.flatten(1, 2), expected)
    assert out.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize(("size", "stride", "padding"), [(3, 1, 1), (4, 2, 1), (3, 3, 0)])
@pytest.mark.parametrize("name", [*GROUPS, *OFF_LATTICE])
def test_it_is_equivariant_bit_for_bit(name: str, size: int, stride: int, padding: int) -> None:
    group = gconv.group_from_name(name)
    x, weight, bias = operands(group, size)

    def convolve(x: Tensor) -> Tensor:
        return gconv.group_conv_transpose2d(x, weight, bias, group=group, stride=stride, padding=padding)

    for element in group.lattice_elements:
        assert torch.equal(convolve(group.act(x, element)), group.act(convolve(x), element))


@pytest.mark.parametrize("name", [*GROUPS, *OFF_LATTICE])
def test_it_is_the_adjoint_of_group_conv2d(name: str) -> None:
    group = gconv.group_from_name(name)
    small, weight, _ = operands(group, 3)
    large = integers((2, 2, group.order, 7, 9))
    down = gconv.group_conv2d(large, weight, group=group, stride=2, padding=1)
    up = gconv.group_conv_transpose2d(small, weight, group=group, stride=2, padding=1)
    assert (down * small).sum() == (large * up).sum()


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_of_two_orders(backend: str) -> None:
    group = gconv.CyclicGroup(4)
    leaves = [
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in ((1, 1, 4, 2, 1), (1, 1, 4, 3, 3), (1,))
    ]

    def convolve(*leaves: Tensor) -> Tensor:
        return gconv.group_conv_transpose2d(
            *leaves, group=group, stride=2, padding=1, output_padding=1, backend=backend
        )

    assert torch.autograd.gradcheck(convolve, leaves)
    assert torch.autograd.gradgradcheck(convolve, leaves)


def test_the_layer() -> None:
    group = gconv.DihedralGroup(4)
    layer = gconv.nn.GroupConvTranspose2d(3, 2, 4, group=group, stride=2, padding=1)
    x = torch.randn(2, 3, 8, 4, 5)
    expected = gconv.group_conv_transpose2d(x, layer.weight, layer.bias, group=group, stride=2, padding=1)
    assert torch.equal(layer(x), expected)
    assert layer(x).shape == (2, 2, 8, 8, 10)
    assert layer.weight.shape == (3, 2, 8, 4, 4)
    bound = (2 * 8 * 16) ** -0.5
    assert 0.9 * bound < float(layer.weight.detach().abs().max()) <= bound
    assert repr(layer) == "GroupConvTranspose2d(3, 2, 4, group=DihedralGroup(4), stride=2, padding=1)"
    assert gconv.nn.GroupConvTranspose2d(1, 1, 1, group=group, bias=False).bias is None
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))


@pytest.mark.parametrize(("name", "stride"), [("C8", 1), ("C5", 1), ("D6", 2)])
def test_the_steerable_layer(name: str, stride: int) -> None:
    """Off the pixel grid: coefficients, the variance kept, and the same in training and in eval mode."""
    group = gconv.group_from_name(name)
    layer = gconv.nn.GroupConvTranspose2d(8, 256, 5, group=group, stride=stride, padding=4, bias=False)
    functions = sum(1 + 2 * ring.max_frequency for ring in gconv.steerable_basis(5))
    assert layer.weight.shape == (8, 256, group.order, functions)
    x = torch.randn(64, 8, group.order, 9, 9)
    with torch.no_grad():
        expected = gconv.group_conv_transpose2d(
            x, gconv.steerable_filters(layer.weight, group, 5), group=group, stride=stride, padding=4
        )
        assert torch.equal(layer.eval()(x), expected)
        assert torch.equal(layer(x), expected)
        variance = expected.square().mean((0, 1, 3, 4))
    assert variance.tolist() == pytest.approx([1] * group.order, abs=0.1)
    layer.train()(x[:1]).sum().backward()
    assert layer.weight.grad.any()


@pytest.mark.parametrize("name", [*GROUPS, *OFF_LATTICE])
def test_spectral_norm_is_that_of_the_applied_operator(name: str) -> None:
    group = gconv.group_from_name(name)
    layer = gconv.nn.GroupConvTranspose2d(2, 3, 3, group=group).double()
    layer = gconv.nn.spectral_norm(layer, n_power_iterations=300)
    layer(torch.randn(1, 2, group.order, 3, 3, dtype=torch.float64))
    bank = gconv.expand_filter(layer.eval().spatial_filter(), group)
    norm = torch.linalg.matrix_norm(bank.transpose(0, 1).flatten(1), ord=2)
    torch.testing.assert_close(norm, torch.ones_like(norm), rtol=1e-4, atol=0)


def test_output_padding_warns_where_it_breaks_exactness() -> None:
    options = {"stride": 2, "output_padding": 1}
    with pytest.warns(
        UserWarning, match="GroupConvTranspose2d: output_padding = 1 is not exactly equivariant under C4"
    ):
        gconv.nn.GroupConvTranspose2d(1, 1, 3, group=gconv.CyclicGroup(4), **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gconv.nn.GroupConvTranspose2d(1, 1, 3, group=gconv.CyclicGroup(1), **options)


C4 = gconv.CyclicGroup(4)
X, W = torch.zeros(1, 2, 4, 3, 3), torch.zeros(2, 3, 4, 3, 3)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x": 3}, TypeError, "x must be a Tensor, got int"),
        ({"group": "C4"}, TypeError, "group must be a CyclicGroup or DihedralGroup, got str"),
        ({"weight": W[:, :, :2]}, ValueError, r"weight must be \(C_in, C_out, 4, K, K\) for group C4.*got \(2, 3, 2,"),
        (
            {"weight": W.transpose(0, 1)},
            ValueError,
            r"x must be \(N, 3, 4, H, W\) for group C4 .* got \(1, 2, 4, 3, 3\)",
        ),
        (
            {"group": gconv.CyclicGroup(8), "weight": W[:, :1]},
            ValueError,
            r"weight must be \(2 C_in, 2 C_out, 4, K, K\) for group C8, as gconv.steerable_filters makes it, got",
        ),
        ({"bias": torch.zeros(2)}, ValueError, r"bias must be \(3,\), got \(2,\)"),
        ({"stride": 0}, ValueError, "stride must be at least 1, got 0"),
        ({"padding": -1}, ValueError, "padding must be at least 0, got -1"),
        ({"output_padding": 1.0}, TypeError, "output_padding must be an int, got float"),
        ({"output_padding": 1}, ValueError, "output_padding must be below stride = 1, got 1"),
        ({"padding": 3}, ValueError, "x must have H and W that leave an output pixel for K = 3, .* got"),
        ({"x": X.double()}, TypeError, "weight must have x's dtype torch.float64, got torch.float32"),
        ({"x": X.int()}, TypeError, "x must be floating point, got torch.int32"),
        ({"weight": W.to("meta")}, ValueError, "weight must be on x's device cpu, got meta"),
        ({"backend": "cudnn"}, ValueError, "backend must be None or one of"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, object], error: type[Exception], message: str) -> None:
    good = {"x": X, "weight": W, "group": C4}
    with pytest.raises(error, match=f"^group_conv_transpose2d: {message}"):
        gconv.group_conv_transpose2d(**good | arguments)


@pytest.mark.parametrize(
    "call",
    [
        lambda: gconv.nn.GroupConvTranspose2d(0, 1, 3, group=C4),
        lambda: gconv.nn.GroupConvTranspose2d(1, 1, 3, group=C4, output_padding=1),
        lambda: gconv.nn.GroupConvTranspose2d(1, 1, 3, group=C4, backend="cudnn"),
    ],
)
def test_bad_layers_are_refused(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"^GroupConvTranspose2d: (in_channels|output_padding|backend) must be"):
        call()
