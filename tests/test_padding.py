"""Borders and spacings that torch's convolutions have: padding modes, dilation, groups of channels."""

from __future__ import annotations

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from cases import BACKENDS, GROUPS, OPERATIONS, integers
from torch import Tensor

import gconv

KINDS = {"lifting_conv2d": gconv.nn.LiftingConv2d, "group_conv2d": gconv.nn.GroupConv2d}
C4 = gconv.CyclicGroup(4)
OFF_LATTICE = ("C3", "C6", "C8", "D5", "D8")


def maps(operation: str, group: gconv.PlanarGroup, channels: int = 2) -> Tensor:
    axis = () if operation == "lifting_conv2d" else (group.order,)
    return integers((2, channels, *axis, 5, 6))


def planar(x: Tensor) -> Tensor:
    return x.flatten(1, 2) if x.dim() == 5 else x


@pytest.mark.parametrize("mode", ["circular", "reflect"])
@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_padding_modes_are_torchs_and_exact(operation: str, name: str, mode: str) -> None:
    group = gconv.group_from_name(name)
    x = maps(operation, group)
    for size, padding in ((3, 1), (5, "same"), (4, 3), (1, 0)):
        layer = KINDS[operation](2, 3, size, group=group, padding=padding, padding_mode=mode).double()
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.copy_(integers(tuple(parameter.shape)))
        out = layer(x)
        bordered = F.pad(planar(x), [layer.padding] * 4, mode=mode)
        bank = gconv.expand_filter(layer.weight, group)
        assert torch.equal(out.flatten(1, 2), F.conv2d(bordered, bank, layer.bias.repeat_interleave(group.order)))
        for element in group.elements:
            assert torch.equal(layer(group.act(x, element)), group.act(out, element))
        assert f"padding_mode='{mode}'" in repr(layer)


def test_padded_layers_keep_the_layout_differentiate_and_compile() -> None:
    layer = gconv.nn.GroupConv2d(2, 2, 3, group=C4, padding=1, padding_mode="reflect").double()
    x = maps("group_conv2d", C4).contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    for mode in ("circular", "reflect"):
        assert gconv.nn.conv.pad("", x, 2, mode).is_contiguous(memory_format=torch.channels_last_3d)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for leaf in (x, torch.randn(3, 2, 4, 4, 7, dtype=torch.float64, requires_grad=True)):
        torch.testing.assert_close(compiled(leaf), layer(leaf))
        (ours,) = torch.autograd.grad(compiled(leaf).square().sum(), leaf)
        (expected,) = torch.autograd.grad(layer(leaf).square().sum(), leaf)
        torch.testing.assert_close(ours, expected)


def test_borders_that_do_not_fit_are_refused() -> None:
    for mode, least in (("circular", 3), ("reflect", 4)):
        layer = gconv.nn.LiftingConv2d(1, 1, 3, group=C4, padding=3, padding_mode=mode)
        assert layer(torch.zeros(1, 1, least, least)).shape == (1, 1, 4, least + 4, least + 4)
        message = rf"^LiftingConv2d: x must have H and W of at least {least} for padding_mode='{mode}' and padding = 3"
        with pytest.raises(ValueError, match=message):
            layer(torch.zeros(1, 1, least, least - 1))
    with pytest.raises(ValueError, match=r"^GroupConv2d: padding_mode must be one of 'zeros', .* got 'replicate'"):
        gconv.nn.GroupConv2d(1, 1, 3, group=C4, padding_mode="replicate")


@pytest.mark.parametrize(
    "x",
    [
        None,
        3,
        torch.zeros(()),
        torch.zeros(5),
        torch.zeros(2, 4, 6, 6),
        torch.zeros(2, 3, 4, 6, 6),
        torch.zeros(2, 2, 8, 6, 6),
        torch.zeros(2, 2, 4, 2, 6),
        torch.zeros(2, 2, 4, 6, 6, dtype=torch.int64),
        torch.zeros(2, 2, 4, 6, 6).double(),
        torch.zeros(2, 2, 4, 6, 6, device="meta"),
    ],
)
@pytest.mark.parametrize("mode", ["circular", "reflect"])
def test_what_is_no_map_is_refused_as_with_zeros(mode: str, x: object) -> None:
    errors = []
    for padding_mode in ("zeros", mode):
        layer = gconv.nn.GroupConv2d(2, 2, 5, group=C4, padding=1, padding_mode=padding_mode)
        with pytest.raises((TypeError, ValueError), match=r"^group_conv2d: ") as caught:
            layer(x)
        errors.append((caught.type, str(caught.value)))
    assert errors[0] == errors[1]


@pytest.mark.parametrize("mode", ["circular", "reflect"])
@pytest.mark.parametrize("name", OFF_LATTICE)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_padding_modes_off_the_pixel_grid(operation: str, name: str, mode: str) -> None:
    group = gconv.group_from_name(name)
    x = maps(operation, group)
    layer = KINDS[operation](2, 3, 5, group=group, padding=2, padding_mode=mode).double()
    out = layer(x)
    bank = gconv.expand_filter(layer.spatial_filter(), group)
    bordered = F.pad(planar(x), [2] * 4, mode=mode)
    torch.testing.assert_close(out.flatten(1, 2), F.conv2d(bordered, bank, layer.bias.repeat_interleave(group.order)))
    for element in group.lattice_elements:
        torch.testing.assert_close(layer(group.act(x, element)), group.act(out, element))


def filter_shape(operation: str, group: gconv.PlanarGroup, c_out: int, c_in: int, size: int) -> tuple[int, ...]:
    """What the op takes, of C_in / groups input channels."""
    m = group.coset_count
    if operation == "lifting_conv2d":
        return (m * c_out, c_in, size, size)
    return (m * c_out, m * c_in, group.lattice.order, size, size)


@pytest.mark.parametrize("backend", [None, "dense"])
@pytest.mark.parametrize(
    ("dilation", "groups", "stride", "size"), [(2, 1, 1, 3), (1, 2, 2, 3), (3, 2, 1, 2), (1, 2, 2, 1)]
)
@pytest.mark.parametrize("name", [*GROUPS, *OFF_LATTICE])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_dilation_and_groups_are_torchs_on_the_bank(
    operation: str, name: str, dilation: int, groups: int, stride: int, size: int, backend: str | None
) -> None:
    group = gconv.group_from_name(name)
    x = maps(operation, group, channels=4).requires_grad_()
    weight = integers(filter_shape(operation, group, 6, 4 // groups, size)).requires_grad_()
    bias = integers((6,)).requires_grad_()
    options = {"stride": stride, "padding": 2, "dilation": dilation, "groups": groups}
    out = getattr(gconv, operation)(x, weight, bias, group=group, backend=backend, **options)
    bank = gconv.expand_filter(weight, group)
    expected = F.conv2d(planar(x), bank, bias.repeat_interleave(group.order), **options)
    assert torch.equal(out.flatten(1, 2), expected)
    assert out.is_contiguous(memory_format=torch.channels_last_3d)
    direction = integers(tuple(out.shape))
    for ours, theirs in zip(
        torch.autograd.grad(out, (x, weight, bias), direction),
        torch.autograd.grad(expected, (x, weight, bias), direction.flatten(1, 2)),
        strict=True,
    ):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ["D4", "C8", "D6"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_dilation_and_groups_keep_equivariance(operation: str, name: str) -> None:
    group = gconv.group_from_name(name)
    x = maps(operation, group, channels=4)
    weight = integers(filter_shape(operation, group, 2, 2, 3))

    def convolve(x: Tensor) -> Tensor:
        return getattr(gconv, operation)(x, weight, group=group, padding=1, dilation=2, groups=2)

    for element in group.lattice_elements:
        assert torch.equal(convolve(group.act(x, element)), group.act(convolve(x), element))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("name", ["D4", "C8"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_layers_take_dilation_and_groups(operation: str, name: str, groups: int) -> None:
    group = gconv.group_from_name(name)
    x = maps(operation, group, channels=4)
    layer = KINDS[operation](4, 6, 3, group=group, padding="same", dilation=2, groups=groups).double()
    assert layer.weight.shape[:2] == (6, 4 // groups)
    assert layer.padding == 2
    convolve = getattr(gconv, operation)
    options = {"group": group, "padding": 2, "dilation": 2, "groups": groups}
    expected = convolve(x, layer.spatial_filter(), layer.bias, **options)
    assert torch.equal(layer(x), expected)
    torch.testing.assert_close(layer.eval()(x), expected)
    assert repr(layer).count("dilation=2") == 1
    assert repr(layer).count("groups=2") == groups - 1


def test_dilated_strides_warn_by_the_length_of_the_dilated_filter() -> None:
    layer = gconv.nn.LiftingConv2d(1, 1, 2, group=C4, stride=2, dilation=2)
    with pytest.warns(
        UserWarning, match=r"H = 6 with K = 2, stride = 2, dilation = 2 and .* H = 5 or 7 would be exact"
    ):
        layer(torch.zeros(1, 1, 6, 5))
    with pytest.raises(
        ValueError, match=r"^GroupConv2d: groups must divide in_channels and out_channels, got 2 for 4 "
    ):
        gconv.nn.GroupConv2d(4, 3, 3, group=C4, groups=2)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_dilation_and_groups_are_torchs_to_every_transform(operation: str) -> None:
    x = torch.randn(maps(operation, C4).shape, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 1, *x.shape[2:-2], 2, 2, dtype=torch.float64, requires_grad=True)

    def convolve(x: Tensor, weight: Tensor) -> Tensor:
        return getattr(gconv, operation)(x, weight, group=C4, dilation=2, groups=2)

    small = x[:1, ..., :3, :3].detach().requires_grad_()
    assert torch.autograd.gradgradcheck(convolve, (small, weight), fast_mode=True)
    compiled = torch.compile(convolve, fullgraph=True, dynamic=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, weight), convolve(x, weight))
    with torch.autocast("cpu", torch.bfloat16):
        assert convolve(x.float(), weight.float()).dtype == torch.bfloat16
    several = torch.stack([x, 2 * x])
    found = torch.func.vmap(convolve, (0, None))(several, weight)
    torch.testing.assert_close(found, torch.stack([convolve(one, weight) for one in several]))
    (expected,) = torch.autograd.grad(convolve(x, weight).sum(), x)
    torch.testing.assert_close(torch.func.grad(lambda x: convolve(x, weight).sum())(x), expected)


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "dense"])
@pytest.mark.parametrize("options", [{"dilation": 2}, {"groups": 2}])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_other_backends_say_that_they_cannot(operation: str, options: dict[str, int], backend: str) -> None:
    x = maps(operation, C4)
    weight = integers((2, 2 // options.get("groups", 1), *x.shape[2:-2], 3, 3))
    reason = "only the expanded bank takes dilation or groups above 1"
    with pytest.raises(RuntimeError, match=f"^{operation}: backend '{backend}' cannot run: {reason}"):
        getattr(gconv, operation)(x, weight, group=C4, backend=backend, **options)
    found = gconv.explain(operation, x, weight, group=C4, **options)
    assert (found.backend, found.reason) == ("dense", reason)
    assert found.unavailable[backend] == reason
    assert set(found.gradients.values()) == {("dense", reason)}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dilation": 0}, ValueError, "dilation must be at least 1, got 0"),
        ({"dilation": 2.0}, TypeError, "dilation must be an int, got float"),
        ({"dilation": 1.0}, TypeError, "dilation must be an int, got float"),
        ({"dilation": True}, TypeError, "dilation must be an int, got bool"),
        ({"groups": 1.0}, TypeError, "groups must be an int, got float"),
        ({"groups": True}, TypeError, "groups must be an int, got bool"),
        ({"groups": 0}, ValueError, "groups must be at least 1, got 0"),
        ({"groups": 3}, ValueError, "weight must have a multiple of groups = 3 filters, got 2"),
        (
            {"groups": 2},
            ValueError,
            r"x must be \(N, 4, H, W\) for group C4 and weight \(2, 2, 3, 3\), got \(2, 2, 5, 6\)",
        ),
        ({"dilation": 4}, ValueError, "x must have H and W of at least 9 for a 9 x 9 filter"),
        ({"dilation": 2, "backend": "cudnn"}, ValueError, "backend must be None or one of"),
    ],
)
def test_bad_dilations_and_groups_are_refused(options: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^lifting_conv2d: {message}"):
        gconv.lifting_conv2d(maps("lifting_conv2d", C4), integers((2, 2, 3, 3)), group=C4, **options)


def test_options_are_checked_by_group_conv2d_too() -> None:
    x, weight = maps("group_conv2d", C4), integers((2, 2, 4, 3, 3))
    for options in ({"dilation": True}, {"groups": 1.0}):
        with pytest.raises(TypeError, match=r"^group_conv2d: (dilation|groups) must be an int, got"):
            gconv.group_conv2d(x, weight, group=C4, **options)


def test_every_pair_of_operation_and_mode_trains_on_every_backend() -> None:
    for operation, mode, backend in product(OPERATIONS, ("circular", "reflect"), BACKENDS):
        layer = KINDS[operation](2, 3, 3, group=C4, padding=1, padding_mode=mode, backend=backend).double()
        layer(maps(operation, C4)).square().sum().backward()
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in layer.parameters())
