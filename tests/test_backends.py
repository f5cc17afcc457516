"""Every backend against the reference in float64, on shapes that cover every pair of values of their parameters."""

from __future__ import annotations

import pytest
import torch
from cases import (
    BACKENDS,
    OPERATIONS,
    Case,
    all_pairs,
    bounds,
    integers,
    pairs,
    pairwise_cases,
    three_maps,
)

from gconv import build

CASES = pairwise_cases(300)
CHUNKS = [CASES[first::10] for first in range(10)]
PERTURBATION = 1e-4


def test_the_cases_cover_every_pair_of_values() -> None:
    covered = {pair for case in CASES for pair in pairs(case)}
    assert covered == all_pairs()
    assert len(covered) == 1203
    assert len(CASES) == 300


@pytest.mark.parametrize("chunk", range(len(CHUNKS)))
def test_backends_agree_bit_for_bit_on_integers(chunk: int) -> None:
    for case in CHUNKS[chunk]:
        x, weight, bias = case.operands(integers)
        grad_out = integers(case.output_shape)
        expected = three_maps(case, x, weight, grad_out, "reference")
        shifted = case.run(x, weight, bias, "reference")
        for backend in BACKENDS:
            for dtype in (torch.float64, torch.float32):
                found = three_maps(case, x.to(dtype), weight.to(dtype), grad_out.to(dtype), backend)
                for name, value in found.items():
                    assert torch.equal(value.double(), expected[name]), (case, backend, dtype, name)
                value = case.run(x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype), backend)
                assert torch.equal(value.double(), shifted), (case, backend, dtype, "bias")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("chunk", range(len(CHUNKS)))
def test_backends_agree_within_the_rounding_bound(chunk: int, dtype: torch.dtype) -> None:
    for case in CHUNKS[chunk]:
        x, weight, _ = (None if t is None else t.to(dtype) for t in case.operands(torch.randn))
        grad_out = torch.randn(case.output_shape, dtype=dtype)
        exact = [t.double() for t in (x, weight, grad_out)]
        expected = three_maps(case, *exact, "reference")
        magnitudes = three_maps(case, *(t.abs() for t in exact), "reference")
        sides = 2 if dtype is torch.float64 else 1  # in float64 the expected value is rounded, too
        for backend in BACKENDS:
            allowed = bounds(case, magnitudes, backend, dtype)
            for name, value in three_maps(case, x, weight, grad_out, backend).items():
                error = (value.double() - expected[name]).abs()
                assert bool((error <= sides * allowed[name]).all()), (case, backend, name)


@pytest.mark.parametrize("chunk", range(len(CHUNKS)))
def test_the_rounding_bound_catches_a_small_relative_error(chunk: int) -> None:
    """On operands without cancellation a relative error of 1e-4 in the output is outside the bound of float32."""
    for case in CHUNKS[chunk]:
        x, weight, grad_out = (torch.rand(s).double() for s in (case.x_shape, case.weight_shape, case.output_shape))
        expected = three_maps(case, x, weight, grad_out, "reference")
        for backend in BACKENDS:
            allowed = bounds(case, expected, backend, torch.float32)
            for name, value in three_maps(case, x.float(), weight.float(), grad_out.float(), backend).items():
                error = (value.double() - expected[name]).abs()
                assert bool((error <= allowed[name]).all()), (case, backend, name)
                wrong = (value.double() * (1 + PERTURBATION) - expected[name]).abs()
                assert not expected[name].any() or bool((wrong > allowed[name]).any()), (case, backend, name)


# Past one chunk of channels (192) and one tile of pixels (96) of the native engine; strides past the window; a margin
# wider than the image.
LARGE = [
    {"size": 1, "c_in": 193, "c_out": 65, "padding": 0, "height": 7, "width": 15, "batch": 1},
    {"size": 3, "c_in": 33, "c_out": 34, "padding": 1, "height": 9, "width": 23, "batch": 1},
    {"size": 2, "c_in": 385, "c_out": 2, "padding": 1, "height": 3, "width": 4},
    {"size": 2, "stride": 5, "padding": 9, "height": 4, "width": 130, "batch": 1},
    {"size": 3, "stride": 7, "padding": 20, "height": 1, "width": 3},
]


@pytest.mark.parametrize("group", ["C1", "C4", "D4"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_sizes_past_the_blocks_of_the_engine(operation: str, group: str) -> None:
    for shape in LARGE:
        case = Case(operation, group, **shape)
        x, weight, _ = (None if t is None else t.sign() for t in case.operands(integers))
        grad_out = integers(case.output_shape).sign()
        expected = three_maps(case, x, weight, grad_out, "dense")
        for backend in BACKENDS:
            for dtype in (torch.float64, torch.float32):
                found = three_maps(case, x.to(dtype), weight.to(dtype), grad_out.to(dtype), backend)
                for name, value in found.items():
                    assert torch.equal(value.double(), expected[name]), (case, backend, dtype, name)


@pytest.mark.skipif("cpu" not in BACKENDS, reason="the native module was not built: python -m gconv says why")
def test_every_instruction_set_agrees_bit_for_bit_on_integers() -> None:
    native = build.native()
    assert native is not None
    best = native.instruction_set()
    try:
        for name in native.instruction_sets():
            native.use_instruction_set(name)
            for case in CASES[::6]:
                x, weight, _ = case.operands(integers)
                grad_out = integers(case.output_shape)
                expected = three_maps(case, x, weight, grad_out, "dense")
                for dtype in (torch.float64, torch.float32):
                    found = three_maps(case, x.to(dtype), weight.to(dtype), grad_out.to(dtype), "cpu")
                    for key, value in found.items():
                        assert torch.equal(value.double(), expected[key]), (case, name, dtype, key)
    finally:
        native.use_instruction_set(best)


def test_strided_1x1_weight_gradients_stay_in_their_memory() -> None:
    """torch's own one corrupts the heap for some channels-last images, this one among them."""
    case = Case("lifting_conv2d", "C4", size=1, stride=2, padding=0, height=56, width=54, c_in=4, c_out=1, batch=44)
    x, weight, _ = case.operands(integers)
    grad_out = integers(case.output_shape)
    expected = three_maps(case, x, weight, grad_out, "reference")
    for backend in BACKENDS:
        last = x.float().contiguous(memory_format=torch.channels_last)
        for _ in range(3):
            found = three_maps(case, last, weight.float(), grad_out.float(), backend)
            for name, value in found.items():
                assert torch.equal(value.double(), expected[name]), (backend, name)
