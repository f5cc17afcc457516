"""The correction of bfloat16 in triton's interpreter, against torch's bfloat16; without it results are wrong."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from gconv.backends.triton import launch

if not launch.interpreted():
    pytest.skip("triton's interpreter is off: TRITON_INTERPRET=1 is not set", allow_module_level=True)

import triton
import triton.language as tl
from interpreter import correct_bfloat16, narrow, widen
from triton.runtime.errors import InterpreterError

SIZE = 64


@pytest.fixture
def corrected(monkeypatch: pytest.MonkeyPatch) -> None:
    correct_bfloat16(monkeypatch)


@triton.jit
def simple(a, b, out, SIZE: tl.constexpr):
    i = tl.arange(0, SIZE)
    x, y = tl.load(a + i), tl.load(b + i)
    tl.store(out + i, x + y)
    tl.store(out + SIZE + i, (x.to(tl.float32) * 1.7).to(tl.bfloat16))


@triton.jit
def arithmetic(a, b, out, SIZE: tl.constexpr):
    i = tl.arange(0, SIZE)
    x, y = tl.load(a + i), tl.load(b + i)
    tl.store(out + i, x + y)
    tl.store(out + SIZE + i, x - y)
    tl.store(out + 2 * SIZE + i, x * y)
    tl.store(out + 3 * SIZE + i, tl.where(x > y, x, -y))
    tl.store(out + 4 * SIZE + i, tl.maximum(x, y))
    tl.store(out + 5 * SIZE + i, tl.fma(x, y, x))
    tl.store(out + 6 * SIZE + i, tl.abs(x) * 1.7)
    tl.store(out + 7 * SIZE + i, tl.full([SIZE], 1.7, tl.bfloat16))


@triton.jit
def round_trip(a, out, SIZE: tl.constexpr):
    """From and to every other type: float32, float16, integers."""
    i = tl.arange(0, SIZE)
    x = tl.load(a + i)
    tl.store(out + i, (x.to(tl.float32) * 1.7).to(tl.bfloat16))
    tl.store(out + SIZE + i, x.to(tl.float16).to(tl.bfloat16))
    tl.store(out + 2 * SIZE + i, (x.to(tl.int32) * 257).to(tl.bfloat16))
    tl.store(out + 3 * SIZE + i, (x != 0).to(tl.bfloat16))


@triton.jit
def product(a, b, out, SIZE: tl.constexpr):
    i, j = tl.arange(0, SIZE)[:, None], tl.arange(0, SIZE)[None, :]
    x, y = tl.load(a + i * SIZE + j), tl.load(b + i * SIZE + j)
    tl.store(out + i * SIZE + j, tl.dot(x, y))


@triton.jit
def total(a, out, SIZE: tl.constexpr):
    tl.store(out, tl.sum(tl.load(a + tl.arange(0, SIZE)), 0))


def operands() -> tuple[Tensor, Tensor]:
    a, b = torch.randn(2, SIZE).bfloat16()
    a[:4], b[:4] = torch.tensor([0.0, -0.0, 3.0, 1e-39]), torch.tensor([-0.0, 0.0, 3.0, 3e38])
    return a, b


def run_simple() -> tuple[Tensor, Tensor]:
    """What the kernel gives, and what torch does."""
    a, b = operands()
    out = torch.empty(2, SIZE, dtype=torch.bfloat16)
    simple[(1,)](a, b, out, SIZE)
    return out, torch.stack([a + b, (a.float() * 1.7).bfloat16()])


def run_arithmetic() -> tuple[Tensor, Tensor]:
    a, b = operands()
    out = torch.empty(8, SIZE, dtype=torch.bfloat16)
    arithmetic[(1,)](a, b, out, SIZE)
    fused = (a.double() * b.double() + a.double()).float().bfloat16()
    constant = torch.full_like(a, 1.7)
    expected = [
        a + b,
        a - b,
        a * b,
        torch.where(a > b, a, -b),
        torch.maximum(a, b),
        fused,
        a.abs() * constant,
        constant,
    ]
    return out, torch.stack(expected)


def run_round_trip() -> tuple[Tensor, Tensor]:
    a = 20 * operands()[0]
    out = torch.empty(4, SIZE, dtype=torch.bfloat16)
    round_trip[(1,)](a, out, SIZE)
    expected = [(a.float() * 1.7).bfloat16(), a.half().bfloat16(), (a.int() * 257).bfloat16(), (a != 0).bfloat16()]
    return out, torch.stack(expected)


def run_product() -> tuple[Tensor, Tensor]:
    a, b = torch.randint(-9, 10, (2, 16, 16)).bfloat16()
    out = torch.empty(16, 16)
    product[(1,)](a, b, out, 16)
    return out, a.float() @ b.float()


RUNS = [run_simple, run_arithmetic, run_round_trip, run_product]


@pytest.mark.usefixtures("corrected")
@pytest.mark.parametrize("run", RUNS)
def test_the_corrected_interpreter_agrees_with_torch_bit_for_bit(run: Callable[[], tuple[Tensor, Tensor]]) -> None:
    found, expected = run()
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


@pytest.mark.parametrize("run", [run_simple, run_product])
def test_the_interpreter_itself_is_wrong(run: Callable[[], tuple[Tensor, Tensor]]) -> None:
    """When this fails, triton calculates with bfloat16, and the correction can go."""
    found, expected = run()
    assert all(not torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.usefixtures("corrected")
def test_what_is_not_corrected_raises() -> None:
    with pytest.raises(InterpreterError, match="apply of bfloat16 is not corrected"):
        total[(1,)](operands()[0], torch.empty(1), SIZE)


def test_every_bfloat16_number_widens_exactly() -> None:
    bits = torch.arange(2**16, dtype=torch.int32).to(torch.uint16)
    expected = bits.view(torch.bfloat16).float()
    found = torch.from_numpy(widen(bits.numpy()))
    assert torch.equal(found.view(torch.int32), expected.view(torch.int32))


def test_float32_narrows_as_torch_rounds() -> None:
    """Numbers of all sizes, ties and their neighbours, and what is not a number."""
    bits = torch.randint(-(2**31), 2**31, (10**5,)).to(torch.int32)
    ties = (torch.arange(2**16, dtype=torch.int64) << 16) + 2**15
    bits = torch.cat([bits, *((ties + step).to(torch.int32) for step in (-(2**15), -1, 0, 1))])
    values = bits.view(torch.float32)
    found = torch.from_numpy(narrow(values.numpy()).astype(np.int32)).to(torch.uint16).view(torch.bfloat16)
    expected = values.bfloat16()
    assert torch.equal(found.isnan(), expected.isnan())
    known = ~expected.isnan()
    assert torch.equal(found[known], expected[known])
