"""What the backends for NVIDIA GPUs, triton and cuda, ask torch about a device."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
from torch import Tensor

DTYPES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
OLDEST = (8, 0)  # compute capability: the first with bfloat16 in its matrix units and asynchronous copies


def unfit(x: Tensor) -> str | None:
    """Why no kernel of these backends runs on numbers like x's, or with this torch; None if one does."""
    if x.dtype not in DTYPES:
        return f"it knows {', '.join(DTYPES.values())}, and x is {x.dtype}"
    if torch.version.hip is not None:
        return "it is written for NVIDIA GPUs, and this torch is built for AMD's"
    return None


def too_old(capability: tuple[int, int]) -> str | None:
    """Why no kernel of these backends runs on a device of this capability; None if one does."""
    if capability < OLDEST:
        return "it needs compute capability {}.{}, and x is on a device of {}.{}".format(*OLDEST, *capability)
    return None


def not_on_gpu(x: Tensor) -> str:
    """What to say of tensors that are not on a CUDA device."""
    here = f"x is on {x.device.type}" if torch.cuda.is_available() else "no CUDA device was found"
    return f"it runs on CUDA tensors, and {here}"


@cache
def capability(index: int) -> tuple[int, int]:
    """The compute capability of a device."""
    return torch.cuda.get_device_capability(index)


def allows_tf32(x: Tensor) -> bool:
    """Whether x is float32 and torch's convolutions may round it to 11 bits. (allow_tf32 raises if they alone may.)"""
    convolutions = torch.backends.cudnn.conv  # type: ignore[attr-defined]  # torch makes it at run time
    return x.dtype == torch.float32 and convolutions.fp32_precision == "tf32"


def on_device_of(x: Tensor) -> AbstractContextManager[object]:
    """Makes x's device the current one, where kernels start whatever their operands; nothing for CPU tensors."""
    if not x.is_cuda or x.device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(x.device)
