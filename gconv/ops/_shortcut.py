"""When calling a torch op would come to no more than running its CPU kernel, so that the kernel can be called itself.

The dispatcher costs about 15 us per call of an op written in Python, more than a planar convolution of a 4 x 4 image.
"""

from __future__ import annotations

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn

# What tensors and threads carry when nothing but autograd's bookkeeping is between a call and its CPU kernel: no
# subclass, wrapper of a transform, lazy negation, dispatch mode or tracer. In inference mode a part of it is gone.
_dispatch_keys, _thread_keys = torch._C._dispatch_keys, torch._C._dispatch_tls_local_include_set
below_autograd = torch._C._AutoDispatchBelowAutograd


def _plain_keys() -> tuple[int, int]:
    return _dispatch_keys(torch.empty(0, device="cpu")).raw_repr(), _thread_keys().raw_repr()


with torch.inference_mode():
    _INFERENCE = _plain_keys()
with torch.inference_mode(False):
    _NORMAL = _plain_keys()
_TENSOR_KEYS = frozenset((_INFERENCE[0], _NORMAL[0]))
_THREAD_KEYS = frozenset((_INFERENCE[1], _NORMAL[1]))


def only_runs_kernel(*tensors: Tensor | None) -> bool:
    """Whether an op on these tensors is not compiled, traced, transformed, recorded or watched, and they are on CPU."""
    if torch.compiler.is_compiling():
        return False
    recording = torch.is_grad_enabled()
    for tensor in tensors:
        if tensor is not None and (
            (recording and tensor.requires_grad)
            or (type(tensor) is not Tensor and type(tensor) is not nn.Parameter)
            or _dispatch_keys(tensor).raw_repr() not in _TENSOR_KEYS
        ):
            return False
    return (
        _thread_keys().raw_repr() in _THREAD_KEYS
        and forward_ad._current_level < 0
        and not torch._C._is_torch_function_mode_enabled()
        and not torch._C._autograd._profiler_enabled()
    )
