"""bfloat16 in triton's interpreter, which keeps its 16 bits as an unsigned integer and calculates with that.

Sums, products, comparisons, matrix products and conversions from other types than float32 are wrong there, silently;
conversions to bfloat16 cut where a GPU rounds. Here they become float32 calculations whose results are rounded to the
nearest bfloat16, which is what one operation of a GPU gives: float32 has more than twice the bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

# What calculates, and the operand whose type its result has.
CALCULATIONS = {
    "binary_op": 0,
    "unary_op": 0,
    "ternary_op": 2,
    "create_fma": 2,
    "create_dot": 2,
    "create_rsqrt": 0,
    "create_erf": 0,
}
REFUSED = ("create_atomic_rmw", "create_atomic_cas")


def widen(bits: np.ndarray) -> np.ndarray:
    """The float32 numbers of bfloat16 ones in uint16: their upper halves."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def narrow(values: np.ndarray) -> np.ndarray:
    """float32 rounded to the nearest bfloat16, to the even one of two; as uint16. NaN stays NaN."""
    bits = np.asarray(values, dtype=np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))) >> 16
    quiet = (bits >> 16) | np.uint32(0x40)
    return np.where(np.isnan(values), quiet, rounded).astype(np.uint16)


def correct_bfloat16(patch: pytest.MonkeyPatch) -> None:
    """Makes the interpreter calculate with bfloat16 as a GPU does, until the patch is undone.

    Reductions, scans and atomics of bfloat16 raise NotImplementedError: no kernel here has them.
    """
    for name, decides in CALCULATIONS.items():
        patch.setattr(InterpreterBuilder, name, _calculation(getattr(InterpreterBuilder, name), decides))
    for name in REFUSED:
        patch.setattr(InterpreterBuilder, name, _refusal(getattr(InterpreterBuilder, name)))
    patch.setattr(interpreter.ReduceScanOpInterface, "apply", _refusal(interpreter.ReduceScanOpInterface.apply))
    patch.setattr(InterpreterBuilder, "cast_impl", _conversion(InterpreterBuilder.cast_impl))
    patch.setattr(InterpreterBuilder, "create_fp_to_fp", _conversion(InterpreterBuilder.create_fp_to_fp))
    patch.setattr(InterpreterBuilder, "get_bf16", _constant, raising=False)


def prepare_language_once(patch: pytest.MonkeyPatch) -> None:
    """Lets functions that a kernel calls run in the language that was prepared for the kernel.

    The interpreter exchanges triton.language's members anew at every such call, which takes longer than the call.
    """
    prepare = interpreter._patch_lang

    def prepared_once(function: Any) -> Any:
        languages = [value for value in function.__globals__.values() if value is tl or value is tl.core]
        return prepare(function) if any(tl.core.is_builtin(language.arange) for language in languages) else None

    patch.setattr(interpreter, "_patch_lang", prepared_once)


def _is_bfloat16(operand: Any) -> bool:
    return isinstance(operand, TensorHandle) and operand.dtype.scalar == tl.bfloat16


def _widened(operand: Any) -> Any:
    return TensorHandle(widen(operand.data), tl.float32) if _is_bfloat16(operand) else operand


def _narrowed(result: TensorHandle) -> TensorHandle:
    """Of a float32 result; a comparison's stays a truth value."""
    if result.data.dtype == bool:
        return TensorHandle(result.data, tl.int1)
    return TensorHandle(narrow(result.data), tl.bfloat16)


def _calculation(real: Callable[..., TensorHandle], decides: int) -> Callable[..., TensorHandle]:
    def run(self: InterpreterBuilder, *operands: Any) -> TensorHandle:
        result = real(self, *map(_widened, operands))
        return _narrowed(result) if _is_bfloat16(operands[decides]) else result

    return run


def _conversion(real: Callable[..., TensorHandle]) -> Callable[..., TensorHandle]:
    def run(self: InterpreterBuilder, source: TensorHandle, target: Any, *rounding: Any) -> TensorHandle:
        if rounding and rounding[0] == interpreter._ir.ROUNDING_MODE.RTZ:
            return real(self, source, target, *rounding)
        if target.scalar == tl.bfloat16 and not _is_bfloat16(source):
            return TensorHandle(narrow(source.data.astype(np.float32)), tl.bfloat16)
        return real(self, _widened(source), target, *rounding)

    return run


def _refusal(real: Callable[..., Any]) -> Callable[..., Any]:
    def run(self: Any, *operands: Any) -> Any:
        handles = [getattr(part, "handle", part) for operand in operands for part in _parts(operand)]
        if any(_is_bfloat16(handle) for handle in handles):
            raise NotImplementedError(f"{real.__name__} of bfloat16 is not corrected in triton's interpreter")
        return real(self, *operands)

    return run


def _parts(operand: Any) -> tuple[Any, ...]:
    return operand if isinstance(operand, tuple) else (operand,)


def _constant(self: InterpreterBuilder, value: float) -> TensorHandle:
    return TensorHandle(narrow(np.array([value], dtype=np.float32)), tl.bfloat16)
