"""Weights of GrouPy: the same outputs, bit for bit, as its filter expansion written from its definition.

The expansion below shares nothing with gconv. It follows GrouPy's chain index -> element -> matrix -> s^-1 g -> element
-> index: i2g in groupy/gfunc/p4func_array.py and p4mfunc_array.py, the matrices T(u, v) M(m) R(r) of
groupy/garray/p4m_array.py, the half-shifted rotations for even filters of groupy/garray/p4_array.py.
"""

from __future__ import annotations

import io
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import integers
from torch import Tensor, nn

import gconv

Element = tuple[int, int, int, int]  # m, r, u, v
Matrix = tuple[tuple[int, ...], ...]

COSINE = (1, 0, -1, 0)
SINE = (0, 1, 0, -1)
KINDS = {"C4": gconv.CyclicGroup(4), "D4": gconv.DihedralGroup(4)}


def homogeneous(element: Element) -> Matrix:
    m, r, u, v = element
    sign = (-1) ** m
    return ((COSINE[r] * sign, -SINE[r] * sign, u), (SINE[r], COSINE[r], v), (0, 0, 1))


def multiply(a: Matrix, b: Matrix) -> Matrix:
    return tuple(tuple(sum(a[i][k] * b[k][j] for k in range(3)) for j in range(3)) for i in range(3))


def inverse(a: Matrix) -> Matrix:
    """Of an orthogonal matrix and a translation."""
    turn = ((a[0][0], a[1][0]), (a[0][1], a[1][1]))
    shift = [-sum(turn[i][k] * a[k][2] for k in range(2)) for i in range(2)]
    return ((*turn[0], shift[0]), (*turn[1], shift[1]), (0, 0, 1))


def element(a: Matrix) -> Element:
    (m,) = (m for m in (0, 1) if (-1) ** m == a[0][0] * a[1][1] - a[0][1] * a[1][0])
    (r,) = (r for r in range(4) if (COSINE[r], SINE[r]) == (a[1][1], a[1][0]))
    return m, r, a[0][2], a[1][2]


def stabilizer(name: str, size: int) -> list[Element]:
    """The elements that transform the filters; those of even filters turn it about its middle, half a pixel off 0."""
    flips = (0, 1) if name == "D4" else (0,)
    if size % 2 == 0:
        assert name == "C4"  # GrouPy asserts odd filters for p4m
        return [(0, 0, 0, 0), (0, 1, -1, 0), (0, 2, -1, -1), (0, 3, 0, -1)]
    return [(m, r, 0, 0) for m, r in product(flips, range(4))]


def expanded(weight: Tensor, name: str) -> Tensor:
    """(C_out, C_in, 1 or |G|, K, K) -> (C_out |G|, C_in or C_in |G|, K, K), as SplitGConv2D feeds to conv2d."""
    c_out, c_in, planes, size, _ = weight.shape
    elements = stabilizer(name, size)
    bank = weight.new_zeros(c_out, len(elements), c_in, planes, size, size)
    for s, moving in enumerate(elements):
        back = inverse(homogeneous(moving))
        for t, i, j in product(range(planes), range(size), range(size)):
            point = (*divmod(t, 4), i - size // 2, j - size // 2)
            m, r, u, v = element(multiply(back, homogeneous(point)))
            plane = 4 * m + r if planes > 1 else 0
            bank[:, s, :, t, i, j] = weight[:, :, plane, u + size // 2, v + size // 2]
    return bank.flatten(2, 3).flatten(0, 1)


def groupy_layer(x: Tensor, weight: Tensor, bias: Tensor, name: str, stride: int, padding: int) -> Tensor:
    y = F.conv2d(x.reshape(x.shape[0], -1, *x.shape[-2:]), expanded(weight, name), None, stride, padding)
    return y.unflatten(1, (weight.shape[0], -1)) + bias[:, None, None, None]


@pytest.mark.filterwarnings("ignore:.*is not exactly equivariant")  # nor is GrouPy's layer
@pytest.mark.parametrize(("stride", "padding"), [(1, 1), (2, 0)])
@pytest.mark.parametrize(
    ("name", "size"), [("C4", 1), ("C4", 3), ("C4", 4), ("C4", 5), ("D4", 1), ("D4", 3), ("D4", 5)]
)
def test_layers_give_groupys_outputs(name: str, size: int, stride: int, padding: int) -> None:
    group = KINDS[name]
    state = {
        "0.weight": integers((3, 2, 1, size, size)),
        "0.bias": integers((3,)),
        "1.weight": integers((2, 3, group.order, size, size)),
        "1.bias": integers((2,)),
    }
    options = {"group": group, "stride": stride, "padding": padding}
    model = nn.Sequential(
        gconv.nn.LiftingConv2d(2, 3, size, **options), gconv.nn.GroupConv2d(3, 2, size, **options)
    ).double()
    model.load_state_dict(gconv.interop.from_groupy(state))
    side = stride * (stride * 3 + size - 1) + size - 1 + stride - 1  # at least three pixels after both layers
    image = integers((2, 2, side + 2, side + 1))
    lifted = groupy_layer(image, state["0.weight"], state["0.bias"], name, stride, padding)
    assert torch.equal(model[0](image), lifted)
    assert torch.equal(model(image), groupy_layer(lifted, state["1.weight"], state["1.bias"], name, stride, padding))
    back = gconv.interop.to_groupy(model)
    assert back.keys() == state.keys()
    for source in (back, gconv.interop.to_groupy(model.state_dict())):
        assert all(torch.equal(source[key], value) for key, value in state.items())
    assert sum(p.numel() for p in model.parameters()) == sum(value.numel() for value in state.values())


def test_chainer_arrays_take_torchs_names() -> None:
    buffer = io.BytesIO()
    arrays = {"l1/conv/W": np.ones((2, 1, 1, 3, 3)), "l1/conv/b": np.zeros(2), "l1/conv/inds": np.zeros(4), "l2/W": 1.0}
    np.savez(buffer, **arrays)
    buffer.seek(0)
    with np.load(buffer) as archive:
        state = gconv.interop.from_groupy(archive)
    assert {key: tuple(value.shape) for key, value in state.items()} == {
        "l1.conv.weight": (2, 1, 3, 3),
        "l1.conv.bias": (2,),
        "l2.weight": (),
    }


def test_norms_and_planar_layers_stay() -> None:
    group = gconv.DihedralGroup(4)
    model = nn.Sequential(
        gconv.nn.spectral_norm(gconv.nn.LiftingConv2d(1, 2, 3, group=group)),
        gconv.nn.GroupBatchNorm2d(2),
        gconv.nn.GroupPool(group=group),
        nn.Conv2d(2, 2, 3),
    ).eval()
    state = gconv.interop.to_groupy(model)
    assert set(state) == {
        *(f"0.{name}" for name in ("weight", "bias")),
        *(f"1.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")),
        *(f"3.{name}" for name in ("weight", "bias")),
    }
    assert torch.equal(state["0.weight"], model[0].weight.unsqueeze(2))  # normalised, as applied
    assert state["3.weight"].shape == (2, 2, 3, 3)
    (layer,) = (gconv.nn.GroupConv2d(1, 1, 3, group=group),)
    assert torch.equal(gconv.interop.to_groupy(layer)["weight"], layer.weight)  # a layer on its own


def test_a_layer_under_several_names_leaves_under_each() -> None:
    lift = gconv.nn.spectral_norm(gconv.nn.LiftingConv2d(1, 2, 3, group=KINDS["C4"]))
    block = nn.Sequential(gconv.nn.GroupConv2d(2, 2, 3, group=KINDS["C4"], basis=gconv.sp_gan_basis()))
    state = gconv.interop.to_groupy(nn.ModuleDict({"lift": lift, "again": lift, "first": block, "second": block}))
    assert {key: tuple(value.shape) for key, value in state.items()} == {
        **{f"{name}.weight": (2, 1, 1, 3, 3) for name in ("lift", "again")},
        **{f"{name}.0.weight": (2, 2, 4, 3, 3) for name in ("first", "second")},
        **{f"{name}.bias": (2,) for name in ("lift", "again", "first.0", "second.0")},
    }
    assert torch.equal(state["lift.weight"], state["again.weight"])


def test_steerable_layers_leave_as_their_filters() -> None:
    layer = gconv.nn.LiftingConv2d(2, 3, 5, group=KINDS["C4"], padding=2, basis=gconv.sp_gan_basis()).double()
    state = gconv.interop.to_groupy(layer)
    assert state["weight"].shape == (3, 2, 1, 5, 5)
    x = torch.randn(2, 2, 7, 6, dtype=torch.float64)
    torch.testing.assert_close(groupy_layer(x, state["weight"], state["bias"], "C4", 1, 2), layer(x))


@pytest.mark.parametrize(
    "layer",
    [
        gconv.nn.GroupConvTranspose2d(1, 1, 3, group=KINDS["C4"]),
        gconv.nn.GroupConv2d(2, 2, 3, group=KINDS["C4"], groups=2),
        gconv.nn.GroupConv2d(1, 1, 3, group=KINDS["C4"], dilation=2),
        gconv.nn.GroupConv2d(1, 1, 3, group=KINDS["C4"], padding=1, padding_mode="circular"),
        gconv.nn.GroupConv2d(1, 1, 3, group=gconv.CyclicGroup(8)),
        gconv.nn.GroupConv2d(1, 1, 4, group=KINDS["D4"]),
        gconv.nn.LiftingConv2d(1, 1, 3, group=gconv.DihedralGroup(2)),
    ],
)
def test_layers_that_groupy_does_not_have_are_refused(layer: nn.Module) -> None:
    message = r"(?s)^to_groupy: source must have plain lifting and group layers on C4, .* got \w+Conv\w+\(.* at '0'"
    with pytest.raises(ValueError, match=message):
        gconv.interop.to_groupy(nn.Sequential(layer))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: gconv.interop.from_groupy({"a/filter_mask": 1}),
            ValueError,
            "from_groupy: state_dict must be without",
        ),
        (
            lambda: gconv.interop.from_groupy({"a": "b"}),
            TypeError,
            "from_groupy: state_dict must hold .* got str at 'a'",
        ),
        (lambda: gconv.interop.to_groupy(3), TypeError, "to_groupy: source must be a Module or a state_dict, got int"),
        (lambda: gconv.interop.to_groupy({"a": 3}), TypeError, "to_groupy: source must hold tensors, got int at 'a'"),
    ],
)
def test_what_is_no_network_of_groupys_is_refused(call: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{message}"):
        call()
