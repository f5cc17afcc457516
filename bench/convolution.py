"""What the benches of lifting_conv2d and group_conv2d share: operands, contests and the check."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from importlib.util import find_spec
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from measure import OURS, Case, Contest, Run, Setting, is_gpu
from torch import Tensor

import gconv

FORMATS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
Convolve = Callable[[Tensor, Tensor], Tensor]


def contest(case: Case, setting: Setting) -> Contest:
    """gconv against the baselines of the case's suite."""
    flops, dense_flops = multiplications(case, setting.device)
    passes = 3 if case.work == "forward+backward" else 1
    full = replace(case, c_in=_full(case.c_in), c_out=_full(case.c_out))
    if case.suite == "profile":
        setting = replace(setting, backend="cpu")  # the only one with stages
        rivals = {}
    elif case.suite == "widths":
        rivals = {"full vectors": {"": ours(full, setting)}}
    elif case.suite == "gpu choice":
        setting = replace(setting, backend=None)
        rivals = {"dense": {"": ours(case, replace(setting, backend="dense"))}}
    else:
        rivals = _baselines(case, setting)
    x, weight, grad_out = operands(case, setting)
    lattice_order = gconv.group_from_name(case.group).lattice.order
    return Contest(
        ours(case, setting),
        rivals,
        check=lambda: errors(case, setting),
        scale={"full vectors": case.c_out / full.c_out},
        flops=2.0 * passes * flops,
        dense_flops=2.0 * passes * dense_flops,
        operands={
            OURS: x.nbytes + weight.nbytes + grad_out.nbytes,
            "conv2d": x.nbytes + lattice_order * weight.nbytes + grad_out.nbytes,
        },
    )


def operands(case: Case, setting: Setting) -> tuple[Tensor, Tensor, Tensor]:
    """x, weight and the gradient of the output, normal and seeded, in the layout that gconv's layers pass on."""
    order = gconv.group_from_name(case.group).order
    axis = (order,) if case.op == "group_conv2d" else ()
    rng = torch.Generator(setting.device).manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng, device=setting.device)

    last = torch.channels_last_3d if axis else torch.channels_last
    x = draw(case.batch, case.c_in, *axis, case.height, case.height).contiguous(memory_format=last)
    weight = draw(*weight_shape(case)) / math.sqrt(case.c_in * order * case.size**2)
    height = case.height + 2 * (case.size // 2) - case.size + 1
    grad_out = draw(case.batch, case.c_out, order, height, height).contiguous(memory_format=torch.channels_last_3d)
    return x.to(case.torch_dtype), weight.to(case.torch_dtype), grad_out.to(case.torch_dtype)


def weight_shape(case: Case) -> tuple[int, ...]:
    """Of the filter as the op takes it."""
    group = gconv.group_from_name(case.group)
    m, window = group.coset_count, (case.size, case.size)
    if case.op == "lifting_conv2d":
        return (m * case.c_out, case.c_in, *window)
    return (m * case.c_out, m * case.c_in, group.lattice.order, *window)


def ours(case: Case, setting: Setting) -> Run:
    """The op as a user calls it: the function, in eval mode the layer."""
    x, weight, grad_out = operands(case, setting)
    if case.suite != "eval":
        return working(convolution(case, setting), x, weight, grad_out, case.work)
    layer = _layer(case, setting, weight)
    return working(lambda x, _: layer(x), x, weight, grad_out, case.work)


def convolution(case: Case, setting: Setting) -> Convolve:
    group = gconv.group_from_name(case.group)

    def convolve(x: Tensor, weight: Tensor) -> Tensor:
        op = gconv.group_conv2d if case.op == "group_conv2d" else gconv.lifting_conv2d
        return op(x, weight, group=group, padding=case.size // 2, backend=setting.backend)

    return convolve


def working(convolve: Convolve, x: Tensor, weight: Tensor, grad_out: Tensor, work: str) -> Run:
    """A run that does the work on these leaves of the graph."""
    if work == "forward":

        def run() -> object:
            with torch.no_grad():
                return convolve(x, weight)

        return run
    leaves = x.requires_grad_(), weight.requires_grad_()
    if work == "recorded":
        return lambda: convolve(*leaves)
    return lambda: torch.autograd.grad(convolve(*leaves), leaves, grad_out)


def multiplications(case: Case, device: str = "cpu") -> tuple[int, int]:
    """Of the forward pass: in the irreps, and of the bank. Lifting layers have no group sum to save.

    The product of two complex numbers is three on the CPU and four in a GPU's matrix units.
    """
    group = gconv.group_from_name(case.group)
    plain = case.batch * case.height**2 * case.c_in * case.c_out * case.size**2
    if case.op == "lifting_conv2d":
        return plain * group.order, plain * group.order
    irreps = group.lattice.irreps
    in_irreps = sum(i.dim**2 * i.columns if is_gpu(device) else i.multiplications for i in irreps)
    return plain * group.coset_count**2 * in_irreps, plain * group.order**2


def errors(case: Case, setting: Setting) -> dict[str, float]:
    """Largest error of the forward pass and of both gradients, as fractions of what rounding can do.

    The truth is conv2d on the bank in float64. A sum of k products in float32 is within (2 sqrt(k) + 6) eps S of the
    exact one, S the sum of the products' absolute values: k independent roundings of partial sums by at most eps / 2
    each, at six standard deviations, and one for every level of the transforms there and back. The transforms spread
    rounding over the group axis, so S is summed over it.

    In half precision the sums are still float32, but what is multiplied is rounded, at most four times to half
    precision: the map at each of at most three levels of its transform, and the filter once. With independent errors
    the products' sum is off by at most eps Q in the standard deviation, Q^2 the sum of the squared products, summed
    over the group axis (Cauchy-Schwarz and Parseval, for every irrep); six of them are allowed, and one rounding of
    the result. A wrong layer can hide below so many deviations, so the root mean square of the error is held to eps / 2
    of that of the truth, too: each of five relative roundings has at most 0.21 eps (eps / sqrt(12), times the mean of
    1 / mantissa squared, 1 / sqrt(2)), their root sum of squares 0.46 eps.
    """
    x, weight, grad_out = operands(case, setting)
    found = _maps(convolution(case, setting), x, weight, grad_out)
    if case.suite == "eval":
        with torch.no_grad():
            found["layer"] = _layer(case, setting, weight)(x)
    wide = x.double(), weight.double(), grad_out.double()
    true = _maps(lambda x, weight: _by_bank(case, x, weight), *wide)
    sizes = _maps(lambda x, weight: _by_bank(case, x, weight), *(tensor.abs() for tensor in wide))
    half = x.dtype in (torch.bfloat16, torch.float16)
    squares = _maps(lambda x, weight: _by_bank(case, x, weight), *(tensor**2 for tensor in wide)) if half else {}
    order = grad_out.shape[2]
    terms = {
        "forward": case.size**2 * case.c_in * (order if x.dim() == 5 else 1),
        "grad_x": case.size**2 * case.c_out * order,
        "grad_weight": case.batch * case.height**2 * order,
    }
    largest = {}
    for name, value in found.items():
        key = "forward" if name == "layer" else name
        summed = partial(torch.sum, dim=2, keepdim=True) if x.dim() == 5 else Tensor.contiguous
        summing = torch.float32 if half else value.dtype
        bound = (2 * math.sqrt(terms[key]) + 6) * torch.finfo(summing).eps * summed(sizes[key])
        error = (value.double() - true[key]).abs()
        if half:
            eps = torch.finfo(value.dtype).eps
            bound = bound + eps * (6 * summed(squares[key]).sqrt() + true[key].abs())
            largest[f"{name} rms"] = _finite(error.norm() / true[key].norm() / (eps / 2))
        largest[name] = _finite((error / bound).max())
    return largest


def _finite(value: Tensor) -> float:
    """As a number, infinite for NaN, which no comparison would call wrong."""
    return float(value.nan_to_num(nan=math.inf))


def _maps(convolve: Convolve, x: Tensor, weight: Tensor, grad_out: Tensor) -> dict[str, Tensor]:
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    out = convolve(x, weight)
    grad_x, grad_weight = torch.autograd.grad(out, (x, weight), grad_out)
    return {"forward": out.detach(), "grad_x": grad_x, "grad_weight": grad_weight}


def _by_bank(case: Case, x: Tensor, weight: Tensor) -> Tensor:
    group = gconv.group_from_name(case.group)
    planar = x.flatten(1, 2) if x.dim() == 5 else x
    convolve = conv2d_by_taps if x.is_cuda else F.conv2d
    out = convolve(planar, gconv.expand_filter(weight, group), padding=case.size // 2)
    return out.unflatten(1, (case.c_out, group.order))


def conv2d_by_taps(x: Tensor, bank: Tensor, padding: int) -> Tensor:
    """conv2d as one matrix product per tap: float64 products use a GPU's matrix units, float64 convolutions do not."""
    size = bank.shape[-1]
    height, width = (length + 2 * padding - size + 1 for length in x.shape[-2:])
    padded = F.pad(x, [padding] * 4)
    out = x.new_zeros(x.shape[0], bank.shape[0], height, width)
    for row, column in product(range(size), repeat=2):
        window = padded[..., row : row + height, column : column + width]
        out = out + torch.einsum("nchw,oc->nohw", window, bank[:, :, row, column])
    return out


def _baselines(case: Case, setting: Setting) -> dict[str, dict[str, Run]]:
    """conv2d on the pre-expanded bank in both memory formats, and escnn's layer where it is installed."""
    x, weight, grad_out = operands(case, setting)
    bank = gconv.expand_filter(weight, gconv.group_from_name(case.group))
    planar = x.flatten(1, 2) if x.dim() == 5 else x

    def convolve(x: Tensor, bank: Tensor) -> Tensor:
        return F.conv2d(x, bank, padding=case.size // 2)

    conv2d = {}
    for name in setting.formats:
        layout = FORMATS[name]
        moved = [tensor.detach().contiguous(memory_format=layout) for tensor in (planar, bank, grad_out.flatten(1, 2))]
        conv2d[name] = working(convolve, moved[0], moved[1], moved[2], case.work)
    rivals = {"conv2d": conv2d}
    if case.suite == "layers" and escnn_missing() is None:
        rivals |= _escnn(case, planar, grad_out.flatten(1, 2))
    return rivals


def _layer(case: Case, setting: Setting, weight: Tensor) -> torch.nn.Module:
    kind = gconv.nn.GroupConv2d if case.op == "group_conv2d" else gconv.nn.LiftingConv2d
    group = gconv.group_from_name(case.group)
    layer = kind(
        case.c_in, case.c_out, case.size, group=group, padding=case.size // 2, bias=False, backend=setting.backend
    )
    with torch.no_grad():
        layer.weight.copy_(weight)
    return layer.to(setting.device).eval()


def _full(width: int) -> int:
    """The next multiple of 8."""
    return -(-width // 8) * 8


@cache
def escnn_missing() -> str | None:
    """Why escnn's layers are no baseline here; None if they are.

    escnn 1.0.11 and its lie_learn 0.0.2 load with numpy below 2 and build layers with scikit-learn below 1.2.
    """
    if find_spec("escnn") is None:
        return "escnn is not installed"
    try:
        _escnn_layer("C4", 1, 1, lifting=False)
    except (ImportError, TypeError) as error:
        return f"escnn does not work here: {str(error).splitlines()[0]}"
    return None


def _escnn_layer(group: str, c_in: int, c_out: int, lifting: bool) -> tuple[torch.nn.Module, Any]:
    """escnn's 3x3 R2Conv between regular fields, and the type of its input."""
    from escnn import gspaces, nn

    rotations = int(group[1:])
    if group.startswith("C"):
        space = gspaces.rot2dOnR2(rotations)
    else:
        space = gspaces.flip2dOnR2() if rotations == 1 else gspaces.flipRot2dOnR2(rotations)
    source = nn.FieldType(space, [space.trivial_repr if lifting else space.regular_repr] * c_in)
    target = nn.FieldType(space, [space.regular_repr] * c_out)
    return nn.R2Conv(source, target, kernel_size=3, padding=1, bias=False), source


def _escnn(case: Case, x: Tensor, grad_out: Tensor) -> dict[str, dict[str, Run]]:
    """escnn's layer, which expands its filter in train mode and keeps the bank in eval mode, without a gradient in it.

    Its filters are combinations of a steerable basis, not ours, so it is timed and not compared.
    """
    from escnn.nn import GeometricTensor

    def convolution_of(layer: torch.nn.Module, source: Any) -> Convolve:
        return lambda x, _: layer(GeometricTensor(x, source)).tensor

    runs = {}
    for mode in ("train", "eval") if case.work == "forward" else ("train",):
        layer, source = _escnn_layer(case.group, case.c_in, case.c_out, lifting=case.op == "lifting_conv2d")
        layer = layer.to(x.device).train(mode == "train")
        (weight,) = layer.parameters()
        runs[f"escnn {mode}"] = {"": working(convolution_of(layer, source), x.detach(), weight, grad_out, case.work)}
    return runs
