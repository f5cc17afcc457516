"""Bad input is refused by name, before any native code runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cases import BACKENDS
from torch import Tensor

import gconv
from gconv import backends, build
from gconv.backends import cpu

C4 = gconv.CyclicGroup(4)


def image(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


GOOD: dict[str, dict[str, Any]] = {
    "lifting_conv2d": {"x": image(2, 3, 5, 6), "weight": image(4, 3, 3, 3), "bias": image(4), "group": C4},
    "group_conv2d": {"x": image(2, 3, 4, 5, 6), "weight": image(4, 3, 4, 3, 3), "bias": image(4), "group": C4},
    "group_pool": {"x": image(2, 3, 4, 5, 6), "group": C4},
}

# what is changed, the error, and its message after "op: "
ANY_CONVOLUTION: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"x": np.zeros((2, 3, 5, 6))}, TypeError, "x must be a Tensor, got ndarray"),
    ({"weight": None}, TypeError, "weight must be a Tensor, got NoneType"),
    ({"bias": 1.0}, TypeError, "bias must be a Tensor, got float"),
    ({"group": "C4"}, TypeError, "group must be a CyclicGroup or DihedralGroup, got str"),
    ({"stride": 0}, ValueError, "stride must be at least 1, got 0"),
    ({"stride": -1}, ValueError, "stride must be at least 1, got -1"),
    ({"stride": 2**40}, ValueError, "stride must be at most 268435455, got 1099511627776"),
    ({"padding": 2**62}, ValueError, "padding must be at most 268435455, got 4611686018427387904"),
    ({"stride": 2.0}, TypeError, "stride must be an int, got float"),
    ({"stride": True}, TypeError, "stride must be an int, got bool"),
    ({"stride": (1, 1)}, TypeError, "stride must be an int, got tuple"),
    ({"padding": -1}, ValueError, "padding must be at least 0, got -1"),
    ({"padding": "same"}, TypeError, "padding must be an int, got str"),
    ({"padding": 0.5}, TypeError, "padding must be an int, got float"),
    ({"bias": image(3)}, ValueError, r"bias must be \(4,\), got \(3,\)"),
    ({"bias": image(4, 1)}, ValueError, r"bias must be \(4,\), got \(4, 1\)"),
    ({"bias": image()}, ValueError, r"bias must be \(4,\), got \(\)"),
    ({"bias": image(4, dtype=torch.float64)}, TypeError, "bias must have x's dtype torch.float32, got torch.float64"),
    ({"bias": image(4).to("meta")}, ValueError, "bias must be on x's device cpu, got meta"),
    (
        {"backend": "tpu"},
        ValueError,
        "backend must be None or one of 'reference', 'dense', 'cpu', 'triton', 'cuda', got 'tpu'",
    ),
    (
        {"backend": "auto"},
        ValueError,
        "backend must be None or one of 'reference', 'dense', 'cpu', 'triton', 'cuda', got 'auto'",
    ),
    ({"backend": 1}, ValueError, "backend must be None or one of .*, got 1"),
]
OF_LIFTING: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"x": image(3, 5, 6)}, ValueError, r"x must be \(N, 3, H, W\) .*, got \(3, 5, 6\)"),
    ({"x": image(2, 3, 4, 5, 6)}, ValueError, r"x must be \(N, 3, H, W\) .*, got \(2, 3, 4, 5, 6\)"),
    ({"x": image(2, 2, 5, 6)}, ValueError, r"x must be \(N, 3, H, W\) .*, got \(2, 2, 5, 6\)"),
    ({"x": image(2, 3, 2, 6)}, ValueError, r"x must have H and W of at least 3 for a 3 x 3 .*, got \(2, 3, 2, 6\)"),
    ({"x": image(2, 3, 6, 2)}, ValueError, r"x must have H and W of at least 3 .*, got \(2, 3, 6, 2\)"),
    ({"x": image(2, 3, 0, 5), "padding": 2}, ValueError, r"x must have H and W of at least 1 .*, got \(2, 3, 0, 5\)"),
    ({"x": image(2, 3, 5, 6, dtype=torch.int64)}, TypeError, "x must be floating point, got torch.int64"),
    ({"x": image(2, 3, 5, 6, dtype=torch.bool)}, TypeError, "x must be floating point, got torch.bool"),
    ({"x": image(2, 3, 5, 6, dtype=torch.complex64)}, TypeError, "x must be floating point, got torch.complex64"),
    (
        {"x": image(2, 3, 5, 6).to(torch.float8_e4m3fn)},
        TypeError,
        "x must be float16, bfloat16, float32 or float64, got torch.float8_e4m3fn",
    ),
    ({"weight": image(4, 3, 3, 3, dtype=torch.int32)}, TypeError, "weight must be floating point, got torch.int32"),
    ({"weight": image(4, 3, 3, 3, dtype=torch.float64)}, TypeError, "weight must have x's dtype torch.float32, got"),
    ({"weight": image(4, 3, 3, 3).to("meta")}, ValueError, "weight must be on x's device cpu, got meta"),
    ({"weight": image(4, 3, 3)}, ValueError, r"weight must be \(C_out, C_in, K, K\), got \(4, 3, 3\)"),
    ({"weight": image(4, 3, 3, 2)}, ValueError, r"weight must be \(C_out, C_in, K, K\), got \(4, 3, 3, 2\)"),
    ({"weight": image(0, 3, 3, 3)}, ValueError, r"weight must be .* without empty axes, got \(0, 3, 3, 3\)"),
    ({"weight": image(4, 0, 3, 3)}, ValueError, r"weight must be .* without empty axes, got \(4, 0, 3, 3\)"),
    ({"weight": image(4, 3, 0, 0)}, ValueError, r"weight must be .* without empty axes, got \(4, 3, 0, 0\)"),
]
OF_GROUP: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"x": image(2, 3, 5, 6)}, ValueError, r"x must be \(N, 3, 4, H, W\) for group C4 .*, got \(2, 3, 5, 6\)"),
    ({"x": image(2, 3, 8, 5, 6)}, ValueError, r"x must be \(N, 3, 4, H, W\) for group C4 .*, got \(2, 3, 8, 5, 6\)"),
    ({"x": image(2, 4, 4, 5, 6)}, ValueError, r"x must be \(N, 3, 4, H, W\) .*, got \(2, 4, 4, 5, 6\)"),
    ({"x": image(2, 3, 4, 1, 6)}, ValueError, r"x must have H and W of at least 3 .*, got \(2, 3, 4, 1, 6\)"),
    ({"x": image(2, 3, 4, 5, 6, dtype=torch.uint8)}, TypeError, "x must be floating point, got torch.uint8"),
    ({"x": image(2, 3, 4, 5, 6, dtype=torch.bfloat16)}, TypeError, "weight must have x's dtype torch.bfloat16, got"),
    (
        {"weight": image(4, 3, 8, 3, 3)},
        ValueError,
        r"weight must be \(C_out, C_in, 4, K, K\) for group C4, got \(4, 3, 8, 3, 3\)",
    ),
    ({"weight": image(4, 3, 3, 3)}, ValueError, r"weight must be \(C_out, C_in, 4, K, K\) for group C4, got"),
    ({"weight": image(4, 3, 4, 3, 5)}, ValueError, r"weight must be .*, got \(4, 3, 4, 3, 5\)"),
    ({"group": gconv.DihedralGroup(4)}, ValueError, r"weight must be \(C_out, C_in, 8, K, K\) for group D4, got"),
    ({"negative_slope": "0"}, TypeError, "negative_slope must be None or a float, got str"),
    ({"negative_slope": False}, TypeError, "negative_slope must be None or a float, got bool"),
    ({"negative_slope": -float("inf")}, ValueError, "negative_slope must be finite, got -inf"),
    ({"negative_slope": float("nan")}, ValueError, "negative_slope must be finite, got nan"),
    ({"pool": "min"}, ValueError, "pool must be None, 'max' or 'mean', got 'min'"),
    ({"pool": ""}, ValueError, "pool must be None, 'max' or 'mean', got ''"),
    ({"pool": ["max"]}, ValueError, r"pool must be None, 'max' or 'mean', got \['max'\]"),
    (
        {"negative_slope": 0.2, "x": image(2, 3, 5, 6)},
        ValueError,
        r"x must be \(N, 3, 4, H, W\) .*, got \(2, 3, 5, 6\)",
    ),
    ({"pool": "max", "backend": "tpu"}, ValueError, "backend must be None or one of .*, got 'tpu'"),
]
OF_POOL: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"x": [1.0]}, TypeError, "x must be a Tensor, got list"),
    ({"x": image(2, 3, 5, 6)}, ValueError, r"x must be \(N, C, 4, H, W\) for group C4, got \(2, 3, 5, 6\)"),
    ({"x": image(2, 3, 2, 5, 6)}, ValueError, r"x must be \(N, C, 4, H, W\) for group C4, got \(2, 3, 2, 5, 6\)"),
    ({"x": image(2, 3, 4, 5, 6, dtype=torch.int64)}, TypeError, "x must be floating point, got torch.int64"),
    ({"group": 4}, TypeError, "group must be a CyclicGroup or DihedralGroup, got int"),
    ({"mode": "min"}, ValueError, "mode must be 'max' or 'mean', got 'min'"),
    ({"mode": None}, ValueError, "mode must be 'max' or 'mean', got None"),
    ({"subgroup": [0, 1]}, ValueError, r"subgroup must hold elements of C4.*closed under the product, got \[0, 1\]"),
    ({"subgroup": [2]}, ValueError, r"subgroup must hold elements of C4, the identity 0 among them.*, got \[2\]"),
    ({"subgroup": []}, ValueError, r"subgroup must .*, got \[\]"),
    ({"subgroup": [0, 4]}, ValueError, r"subgroup must hold elements of C4.*, got \[0, 4\]"),
    ({"subgroup": 2}, TypeError, "subgroup must be None or a sequence of ints, got 2"),
    ({"subgroup": "02"}, TypeError, "subgroup must be None or a sequence of ints, got '02'"),
    ({"subgroup": [0.0]}, TypeError, r"subgroup must be None or a sequence of ints, got \[0.0\]"),
    ({"backend": "tpu"}, ValueError, "backend must be None or one of .*, got 'tpu'"),
]
BAD = [
    *(("lifting_conv2d", *entry) for entry in ANY_CONVOLUTION + OF_LIFTING),
    *(("group_conv2d", *entry) for entry in ANY_CONVOLUTION + OF_GROUP),
    *(("group_pool", *entry) for entry in OF_POOL),
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: f"{bad[0]}-{bad[3][:40]}")
def test_bad_arguments_are_refused_by_name(
    bad: tuple[str, dict[str, Any], type[Exception], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    operation, change, error, message = bad
    for module in backends.BACKENDS.values():  # none of them is reached
        monkeypatch.delattr(module, "group_pool" if operation == "group_pool" else "conv2d")
    with pytest.raises(error, match=f"^{operation}: {message}"):
        getattr(gconv, operation)(**GOOD[operation] | change)


@pytest.mark.parametrize("operation", GOOD)
def test_the_good_arguments_are_good(operation: str) -> None:
    for backend in (None, *BACKENDS):
        getattr(gconv, operation)(**GOOD[operation], backend=backend)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: gconv.expand_filter([1], C4), TypeError, "expand_filter: weight must be a Tensor, got list"),
        (
            lambda: gconv.expand_filter(image(2, 2, 3), C4),
            ValueError,
            r"expand_filter: weight must be .*, got \(2, 2, 3\)",
        ),
        (lambda: gconv.expand_filter(image(2, 2, 3, 2), C4), ValueError, "expand_filter: weight must be"),
        (
            lambda: gconv.expand_filter(image(2, 2, 3, 3, 3), C4),
            ValueError,
            r"expand_filter: weight must be \(C_out, C_in, 4, K, K\) for group C4, got \(2, 2, 3, 3, 3\)",
        ),
        (lambda: gconv.expand_filter(image(2, 2, 3, 3).int(), C4), TypeError, "expand_filter: weight must be floating"),
        (lambda: gconv.expand_filter(image(2, 2, 3, 3), "C4"), TypeError, "expand_filter: group must be a CyclicGroup"),
    ],
)
def test_expand_filter_refuses(call: Callable[[], Tensor], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{message}"):
        call()


@pytest.mark.skipif("cpu" not in BACKENDS, reason="the native module was not built: python -m gconv says why")
@pytest.mark.parametrize("wrong", ["weight", "bias", "grad_out", "index"])
def test_the_torch_ops_refuse_mixed_dtypes(wrong: str) -> None:
    """torch.ops and exported programs reach the backend past gconv.functional's checks."""
    ops, options = torch.ops.gconv, ("C4", 1, 1, "cpu")
    x, weight, bias, index = image(1, 2, 4, 5, 5), image(2, 2, 4, 3, 3), image(2), image(1, 2, 1, 5, 5)
    calls: dict[str, Callable[[], Tensor]] = {
        "weight": lambda: ops.group_conv2d(x, weight.double(), None, *options),
        "bias": lambda: ops.group_conv2d(x, weight, bias.double(), *options),
        "grad_out": lambda: ops.group_conv2d_weight_grad(x, x.double(), 3, *options),
        "index": lambda: ops.group_pool_select(x, index, "C4", [0, 1, 2, 3], "max", "cpu"),
    }
    with pytest.raises(TypeError, match="cpu backend: every operand must be"):
        calls[wrong]()


@pytest.mark.skipif("cpu" not in BACKENDS, reason="the native module was not built: python -m gconv says why")
class TestNative:
    """gconv._native, called past the Python checks, raises ValueError and never reads or writes out of bounds."""

    @staticmethod
    def view(x: Tensor) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
        return x.data_ptr(), tuple(x.shape), x.stride()

    def arguments(self, operation: str) -> dict[str, Any]:
        """A legal call; channels last, one thread."""
        last = torch.channels_last_3d
        maps = {
            "x": torch.zeros(2, 3, 4, 5, 6).contiguous(memory_format=last),
            "out": torch.zeros(2, 2, 4, 3, 4).contiguous(memory_format=last),
        }
        flat = {"x": torch.zeros(2, 3, 5, 6).contiguous(memory_format=torch.channels_last)}
        weight, lifting_weight = torch.zeros(2, 3, 4, 3, 3), torch.zeros(2, 3, 3, 3)
        options = {"stride": 1, "padding": 0, "threads": 1}
        common = {"group": cpu._native_group(C4), "dtype": "float32"}
        cosets = np.array([[0, 2], [1, 3]], dtype=np.int32)
        pooled = torch.zeros(2, 3, 2, 5, 6).contiguous(memory_format=last)
        index = torch.zeros(2, 3, 2, 5, 6, dtype=torch.uint8).contiguous(memory_format=last)
        return {
            "group_conv2d": common | maps | {"weight": weight, "bias": torch.zeros(2)} | options,
            "lifting_conv2d": common | maps | flat | {"weight": lifting_weight, "bias": torch.zeros(2)} | options,
            "group_conv2d_weight_grad": common
            | {"x": maps["x"], "grad_out": maps["out"], "grad_weight": weight}
            | options,
            "lifting_conv2d_weight_grad": common
            | {"x": flat["x"], "grad_out": maps["out"], "grad_weight": lifting_weight}
            | options,
            "group_conv2d_adjoint": common
            | {"x": maps["x"], "weight": weight.transpose(0, 1).contiguous(), "out": maps["out"]}
            | {"padding": 0, "threads": 1},
            "lifting_conv2d_adjoint": common
            | {
                "x": maps["x"],
                "weight": lifting_weight.transpose(0, 1).contiguous(),
                "out": torch.zeros(2, 2, 3, 4).contiguous(memory_format=torch.channels_last),
                "padding": 0,
                "threads": 1,
            },
            "group_pool": {"dtype": "float32", "x": maps["x"], "out": pooled, "index": index, "cosets": cosets}
            | {"mode": "max", "threads": 1},
            "group_pool_backward": {"dtype": "float32", "grad_out": pooled, "index": index, "grad_x": maps["x"]}
            | {"cosets": cosets, "mode": "max", "threads": 1},
            "group_pool_select": {"dtype": "float32", "x": maps["x"], "index": index, "out": pooled}
            | {"cosets": cosets, "threads": 1},
        }[operation]

    def call(self, operation: str, arguments: dict[str, Any]) -> None:
        tensors = {k: v for k, v in arguments.items() if isinstance(v, Tensor)}
        getattr(build.native(), operation)(**arguments | {name: self.view(t) for name, t in tensors.items()})

    OPERATIONS = (
        "group_conv2d",
        "lifting_conv2d",
        "group_conv2d_weight_grad",
        "lifting_conv2d_weight_grad",
        "group_conv2d_adjoint",
        "lifting_conv2d_adjoint",
        "group_pool",
        "group_pool_backward",
        "group_pool_select",
    )

    LEGAL = frozenset({("group_pool", "x", 2), ("group_pool_select", "x", 2)})  # planes that no coset names

    @pytest.mark.parametrize("operation", OPERATIONS)
    def test_every_wrong_length_is_refused(self, operation: str) -> None:
        good = self.arguments(operation)
        self.call(operation, good)
        for name, tensor in good.items():
            if not isinstance(tensor, Tensor):
                continue
            for axis in range(tensor.dim()):
                for length in (tensor.shape[axis] + 1, tensor.shape[axis] - 1, 0, -1, 2**40):
                    if (operation, name, axis) in self.LEGAL and length > tensor.shape[axis]:
                        continue
                    address, shape, strides = self.view(tensor)
                    changed = (*shape[:axis], length, *shape[axis + 1 :])
                    views = {k: self.view(v) for k, v in good.items() if isinstance(v, Tensor)}
                    with pytest.raises(ValueError, match=r"must|too large"):
                        getattr(build.native(), operation)(**good | views | {name: (address, changed, strides)})

    @pytest.mark.parametrize("operation", OPERATIONS)
    def test_wrong_ranks_addresses_and_layouts_are_refused(self, operation: str) -> None:
        good = self.arguments(operation)
        views = {k: self.view(v) for k, v in good.items() if isinstance(v, Tensor)}
        for name, (address, shape, strides) in views.items():
            for wrong in (
                (address, shape[1:], strides[1:]),
                (address, shape, strides[1:]),
                (address, (*shape, 1), (*strides, 1)),
                (0, shape, strides),
            ):
                with pytest.raises(ValueError, match="must"):
                    getattr(build.native(), operation)(**good | views | {name: wrong})
            if len(shape) > 1:
                wrong = (address, shape, tuple(2 * stride for stride in strides))
                with pytest.raises(ValueError, match=r"adjacent channels|contiguous"):
                    getattr(build.native(), operation)(**good | views | {name: wrong})

    @pytest.mark.parametrize("operation", OPERATIONS)
    def test_wrong_options_are_refused(self, operation: str) -> None:
        good = self.arguments(operation)
        views = {k: self.view(v) for k, v in good.items() if isinstance(v, Tensor)}
        wrong: dict[str, list[Any]] = {
            "dtype": ["float8", ""],
            "stride": [0, -1, 2, 2**40],
            "padding": [-1, 1, 2**40],
            "mode": ["min", ""],
            "group": [cpu._native_group(gconv.CyclicGroup(2)), cpu._native_group(gconv.DihedralGroup(4))],
            "cosets": [
                np.array([[0, 2], [1, 4]], dtype=np.int32),
                np.array([[0, 2], [1, -1]], dtype=np.int32),
                np.array([[0, 1, 2, 3]], dtype=np.int32),
                np.zeros((0, 2), dtype=np.int32),
                np.zeros((2, 0), dtype=np.int32),
                np.array([0, 1], dtype=np.int32),
            ],
        }
        for name in wrong.keys() & good.keys():
            for value in wrong[name]:
                with pytest.raises(ValueError, match=r"."):
                    getattr(build.native(), operation)(**good | views | {name: value})

    def test_a_wrong_winner_reads_nothing(self) -> None:
        """The winners are data, so they are checked where they are used: no member wins, none is read."""
        for operation, output in (("group_pool_backward", "grad_x"), ("group_pool_select", "out")):
            good = self.arguments(operation)
            good["index"].fill_(255)
            self.call(operation, good)
            assert not good[output].any()

    def test_wrong_groups_are_refused(self) -> None:
        native = build.native()
        product = np.array([[0, 1], [1, 0]], dtype=np.int32)
        action = np.array([np.eye(2), -np.eye(2)], dtype=np.int32)
        irreps = [(np.array([[[1]], [[1]]], dtype=np.int8), 1), (np.array([[[1]], [[-1]]], dtype=np.int8), 1)]
        assert native is not None
        assert native.Group(product, action, irreps).order == 2
        for wrong in (
            (product[:1], action, irreps),
            (product + 1, action, irreps),
            (np.array([[0, 1], [1, 1]], dtype=np.int32), action, irreps),
            (product, action[:1], irreps),
            (product, action * 2, irreps),
            (product, action, irreps[:1]),
            (product, action, irreps[:1] * 2),  # equivalent ones
            (product, action, [(matrices * 2, columns) for matrices, columns in irreps]),
            (np.zeros((9, 9), dtype=np.int32), np.zeros((9, 2, 2), dtype=np.int32), []),
            (np.zeros((0, 0), dtype=np.int32), np.zeros((0, 2, 2), dtype=np.int32), []),
        ):
            with pytest.raises(ValueError, match="Group"):
                native.Group(*wrong)
