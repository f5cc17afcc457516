"""Every backend that runs on a GPU against the reference in float64: on a GPU, or triton in its interpreter, or cuda
emulated (tests/emulation.py).

Shapes are few and small, each here for a reason: either takes milliseconds per tile and tap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import emulation
import pytest
import torch
import torch.nn.functional as F
from cases import GPU_BACKENDS, GROUPS, OPERATIONS, Case, bounds, integers, three_maps
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.library import opcheck
from torch.utils._python_dispatch import TorchDispatchMode

import gconv
from gconv import backends
from gconv.backends import cuda
from gconv.backends.triton import launch
from gconv.layout import canonical

GPU = torch.cuda.is_available()
EMULATED = None if GPU else emulation.load()
if not GPU and not launch.interpreted() and not EMULATED:
    pytest.skip(
        f"there is no GPU, and neither TRITON_INTERPRET=1 nor {emulation.VARIABLE} is set", allow_module_level=True
    )

# triton 3.6's interpreter takes loop bounds out of arrays in a way that numpy will refuse.
pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array with ndim:DeprecationWarning:triton")

DEVICE = "cuda" if GPU else "cpu"
NAMES = ("reference", "dense", *GPU_BACKENDS) if GPU else GPU_BACKENDS
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
BACKENDS = [name for name in NAMES if backends.unavailable(name, torch.zeros(1, device=DEVICE)) is None]
EXACT = [name for name in BACKENDS if name != "dense"]  # cuDNN's Winograd convolutions divide by 3
PAIRS = [pytest.param(*pair, id=f"{pair[0]}-{str(pair[1])[6:]}") for pair in product(BACKENDS, DTYPES)]

# One per reason; the groups have complex irreps, or are the smallest that flip or turn.
REASONS = [
    ("even filter", "C4", {"size": 2, "padding": 0, "batch": 1}),
    ("even filter, padding of K - 1", "D1", {"size": 4, "padding": 3, "height": 2, "width": 5, "batch": 1}),
    ("filter above the image", "C2", {"size": 5, "padding": 2, "height": 2, "width": 3, "batch": 1}),
    ("1 x 1 filter", "D4", {"size": 1, "padding": 0}),
    ("one pixel, one channel", "C4", {"size": 1, "padding": 0, "height": 1, "width": 1, "c_in": 1, "c_out": 1}),
    ("primes", "D1", {"height": 7, "width": 13, "c_in": 17, "c_out": 5}),
    ("one past a tile of pixels", "C2", {"height": 9, "width": 17, "batch": 1}),
    ("one past a tile of input channels", "C4", {"size": 1, "padding": 0, "height": 3, "c_in": 65, "batch": 1}),
    ("one past a tile of output channels", "C4", {"size": 1, "padding": 0, "height": 3, "c_out": 65, "batch": 1}),
    ("empty batch", "D4", {"batch": 0}),
    ("padding above the filter", "C4", {"size": 2, "padding": 3, "height": 3, "width": 5, "batch": 1}),
    ("stride", "C4", {"stride": 2, "height": 6, "width": 7, "batch": 1}),
    ("stride above the filter, padding above it", "D1", {"stride": 3, "size": 2, "padding": 3, "batch": 1}),
]
CASES = {
    **{
        f"{operation}-{group}": Case(operation, group, batch=2 if group in ("C1", "C2", "C4", "D1") else 1)
        for operation, group in product(OPERATIONS, GROUPS)
    },
    **{
        f"{operation}-{group}": Case(operation, group, height=2, width=3, batch=1)
        for operation, group in product(OPERATIONS, ("C8", "D8"))
    },
    **{
        f"{operation}-{reason}": Case(operation, group, **shape)
        for operation, (reason, group, shape) in product(OPERATIONS, REASONS)
    },
}
POOLS = [
    ("C1", None), ("C2", None), ("C4", None), ("C4", [0, 2]), ("C4", [0]), ("D1", [1, 0]), ("D2", [0, 3]), ("D4", None),
    ("D4", [0, 5]), ("D4", [0, 2, 4, 6]), ("D3", None), ("C8", None), ("C8", [0, 4]), ("D8", None),
]  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def _interpreter() -> Iterator[None]:
    """The interpreter's is wrong; and it is slow."""
    with pytest.MonkeyPatch.context() as patch:
        if launch.interpreted():
            from interpreter import correct_bfloat16, prepare_language_once

            correct_bfloat16(patch)
            prepare_language_once(patch)
        yield


def allow_tf32(convolutions: bool, matrix_products: bool) -> None:
    torch.backends.cudnn.allow_tf32 = convolutions
    torch.backends.cuda.matmul.allow_tf32 = matrix_products


@pytest.fixture(autouse=True)
def _float32() -> Iterator[None]:
    """Products of float32 have 24 bits, not the 11 of TF32."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    allow_tf32(False, False)
    yield
    allow_tf32(*before)


def assert_exact(found: Tensor, expected: Tensor, backend: str) -> None:
    """Integers in float32, bit for bit; dense may divide them by 3 on the way, in cuDNN's Winograd convolutions."""
    torch.testing.assert_close(found.cpu().double(), expected, rtol=0, atol=1e-2 if backend == "dense" else 0)


def on_device(tensors: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: tensor.to(DEVICE, dtype) for name, tensor in tensors.items()}


def in_turn(cases: dict[str, Case], names: list[str]) -> list[Any]:
    """Every case in every dtype, emulated on either kind of device; in the interpreter, which is slow, in one dtype."""
    return [
        pytest.param(case, backend, dtype, device, id=f"{name}-{backend}-{str(dtype)[6:]}{device and '-' + device}")
        for number, (name, case) in enumerate(cases.items())
        for backend, dtype in product(names, DTYPES)
        if GPU or backend == "cuda" or dtype == DTYPES[number % len(DTYPES)]
        for device in devices(backend, dtype)
    ]


def devices(backend: str, dtype: torch.dtype) -> tuple[str, ...]:
    """Those to emulate the kernels for; float32 has one kind of kernel."""
    if not EMULATED or backend != "cuda":
        return ("",)
    return ("8.0",) if dtype == torch.float32 else ("8.0", "9.0")


@pytest.fixture
def on_machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Emulates the kernels for one of :func:`devices` from here on."""

    def choose(device: str) -> None:
        if device:
            monkeypatch.setattr(cuda, "EMULATED", emulation.DEVICES[device])

    return choose


def operands(case: Case, draw: Callable[..., Tensor]) -> dict[str, Tensor]:
    """x, weight and the gradient of the output, float64 on the CPU."""
    return {
        "x": draw(case.x_shape).double(),
        "weight": draw(case.weight_shape).double(),
        "grad_out": draw(case.output_shape).double(),
    }


@pytest.mark.parametrize(("case", "backend", "dtype", "device"), in_turn(CASES, EXACT))
def test_integers_come_out_bit_for_bit(
    case: Case, backend: str, dtype: torch.dtype, device: str, on_machine: Callable[[str], None]
) -> None:
    """Every sum and difference of them is exact, and the result is rounded once."""
    on_machine(device)
    assert_bit_for_bit(case, backend, dtype)


def assert_bit_for_bit(case: Case, backend: str, dtype: torch.dtype) -> None:
    exact, bias = operands(case, integers), integers((case.c_out,))
    expected = three_maps(case, **exact, bias=bias, backend="reference")
    found = three_maps(case, **on_device(exact, dtype), bias=bias.to(DEVICE, dtype), backend=backend)
    for name, value in found.items():
        assert value.device.type == DEVICE
        assert torch.equal(value.cpu(), expected[name].to(dtype)), name


# Channels of whole 16 bytes, which a GPU from Hopper on copies through descriptors. The groups have tiles of two rows
# of the filter, of one alone, and cosets; the windows reach out of the image on all sides, or out of the batch.
COPIED = {
    "two rows": Case("group_conv2d", "C4", height=3, width=2, c_in=8, c_out=8, batch=1),
    "one row": Case("group_conv2d", "D1", size=2, padding=0, c_in=8, c_out=8, batch=3),
    "cosets": Case("group_conv2d", "C8", size=2, height=2, width=3, c_in=8, c_out=8, batch=1),
}


@pytest.mark.parametrize(("case", "backend", "dtype", "device"), in_turn(COPIED, EXACT))
def test_maps_copied_through_descriptors_are_exact_on_integers(
    case: Case,
    backend: str,
    dtype: torch.dtype,
    device: str,
    on_machine: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on_machine(device)
    if not GPU:
        monkeypatch.setattr(launch, "capability", lambda x: (9, 0))
    assert_bit_for_bit(case, backend, dtype)


# Several slices of input channels and several blocks of output channels, whose copies and products overlap.
PIPELINED = [
    Case("group_conv2d", "C4", c_in=72, c_out=72, batch=1),
    Case("group_conv2d", "D4", c_in=40, c_out=40, batch=1),
    Case("lifting_conv2d", "C4", c_in=3, c_out=72, batch=1),
]


@pytest.mark.skipif(not EMULATED, reason="the schedules are the emulation's")
@pytest.mark.parametrize("device", emulation.DEVICES)
@pytest.mark.parametrize("schedule", emulation.SCHEDULES, ids=lambda schedule: "-".join(map(str, schedule)))
@pytest.mark.parametrize("case", PIPELINED, ids=str)
def test_every_schedule_gives_the_same_bits(
    case: Case, schedule: tuple[str, str, int], device: str, on_machine: Callable[[str], None]
) -> None:
    """A missing barrier or wait shows under one of them."""
    on_machine(device)
    assert EMULATED is not None
    EMULATED.set_schedule(*schedule)
    try:
        assert_bit_for_bit(case, "cuda", torch.bfloat16)
    finally:
        EMULATED.set_schedule("forward", "eager")


WIDE = [
    Case("lifting_conv2d", "D4", height=3, c_in=19, batch=1),
    Case("group_conv2d", "C4", height=3, c_in=19, batch=1),
]
if GPU:
    WIDE += [Case("group_conv2d", group, c_in=35, c_out=37, height=16, width=15) for group in (*GROUPS, "C8", "D8")]
    WIDE += [  # copied through descriptors, in several blocks
        Case("group_conv2d", "C4", c_in=72, c_out=136, height=16, width=15),
        Case("group_conv2d", "D4", c_in=40, c_out=72, height=16, width=15),
    ]


@pytest.mark.parametrize(("backend", "dtype"), PAIRS)
@pytest.mark.parametrize("case", WIDE, ids=str)
def test_reals_stay_within_the_rounding_bound(case: Case, backend: str, dtype: torch.dtype) -> None:
    given = on_device(operands(case, torch.randn), dtype)
    exact = {name: tensor.cpu().double() for name, tensor in given.items()}
    expected = three_maps(case, **exact, backend="reference")
    magnitudes = three_maps(case, **{name: tensor.abs() for name, tensor in exact.items()}, backend="reference")
    allowed = bounds(case, magnitudes, backend, dtype)
    for name, found in three_maps(case, **given, backend=backend).items():
        error = (found.cpu().double() - expected[name]).abs()
        assert bool((error <= allowed[name]).all()), (name, (error / allowed[name]).max())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_tensor_float_32_rounds_operands_to_eleven_bits_where_torch_allows_it(operation: str, backend: str) -> None:
    allow_tf32(True, True)
    case = Case(operation, "C2", c_in=19, c_out=7, batch=1)
    exact = {name: tensor.float().double() for name, tensor in operands(case, torch.randn).items()}
    expected = three_maps(case, **exact, backend="reference")
    magnitudes = three_maps(case, **{name: tensor.abs() for name, tensor in exact.items()}, backend="reference")
    allowed = bounds(case, magnitudes, backend, torch.float16)  # eleven bits, too
    for name, found in three_maps(case, **on_device(exact, torch.float32), backend=backend).items():
        assert bool(((found.cpu().double() - expected[name]).abs() <= allowed[name]).all()), name


only_cuda = pytest.mark.parametrize("backend", [name for name in BACKENDS if name == "cuda"])

# ---- negative_slope and pool in the kernel, which integers and a slope of 1/4 go through exactly, to be rounded once
EPILOGUES: list[dict[str, Any]] = [
    {"negative_slope": 0.0},
    {"negative_slope": 0.25},
    {"pool": "max"},
    {"pool": "mean"},
    {"negative_slope": 0.25, "pool": "mean"},
    {"negative_slope": 0, "pool": "max"},
]
FUSED = {
    **{group: Case("group_conv2d", group, c_out=channels) for group, channels in zip(GROUPS, 3 * (3, 4), strict=True)},
    "wide": Case("group_conv2d", "C4", size=1, padding=0, height=3, c_in=33, c_out=67, batch=1),
    "padding above the filter": Case("group_conv2d", "D4", size=2, padding=3, batch=1),
    "cosets": Case("group_conv2d", "C8", height=2, width=3, batch=1),
}


def convolve(case: Case, operands: list[Tensor], backend: str, **epilogue: Any) -> Tensor:
    options: dict[str, Any] = {"stride": case.stride, "padding": case.padding, "backend": backend}
    return gconv.group_conv2d(*operands, group=case.planar_group, **options, **epilogue)


def composed(case: Case, operands: list[Tensor], backend: str, negative_slope: float = 1, pool: str = "") -> Tensor:
    """What negative_slope and pool mean, op by op."""
    out = convolve(case, operands, backend)
    out = F.leaky_relu(out, negative_slope) if negative_slope else F.relu(out)
    return gconv.group_pool(out, group=case.planar_group, mode=pool, backend=backend) if pool else out


@pytest.fixture
def in_one_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the other way impossible."""
    for name in ("conv2d", "group_pool"):
        monkeypatch.delattr(cuda, name)


@pytest.mark.usefixtures("in_one_launch")
@pytest.mark.parametrize(
    ("case", "backend", "dtype", "device"), in_turn(FUSED, [name for name in BACKENDS if name == "cuda"])
)
def test_a_fused_epilogue_is_exact_on_integers(
    case: Case, backend: str, dtype: torch.dtype, device: str, on_machine: Callable[[str], None]
) -> None:
    on_machine(device)
    exact = [integers(case.x_shape), integers(case.weight_shape), integers((case.c_out,))]
    given = [tensor.to(DEVICE, dtype) for tensor in exact]
    for epilogue in EPILOGUES:
        if "pool" in epilogue and not case.planar_group.is_lattice:
            continue
        found, wanted = convolve(case, given, backend, **epilogue), composed(case, exact, "reference", **epilogue)
        assert torch.equal(found.cpu(), wanted.to(dtype)), epilogue
        assert found.stride() == canonical(wanted).stride()


@only_cuda
@pytest.mark.usefixtures("in_one_launch")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_fused_epilogue_of_reals_stays_within_the_rounding_bound(backend: str, dtype: torch.dtype) -> None:
    """Both maps bring numbers no further apart than they were."""
    case = Case("group_conv2d", "D4", height=3, c_in=19, batch=1)
    given = on_device(operands(case, torch.randn), dtype)
    exact = {name: tensor.cpu().double() for name, tensor in given.items()}
    magnitudes = three_maps(case, **{name: tensor.abs() for name, tensor in exact.items()}, backend="reference")
    allowed = bounds(case, magnitudes, "cuda", dtype)["forward"]
    for epilogue in EPILOGUES:
        found = convolve(case, [given["x"], given["weight"]], "cuda", **epilogue).cpu().double()
        error = (found - composed(case, [exact["x"], exact["weight"]], "reference", **epilogue)).abs()
        assert bool((error <= (allowed.amax(2) if "pool" in epilogue else allowed)).all()), epilogue


@only_cuda
@pytest.mark.usefixtures("in_one_launch")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_fused_epilogue_keeps_nan_and_infinity(backend: str, dtype: torch.dtype) -> None:
    case = Case("group_conv2d", "C4", c_out=4)
    bias = torch.tensor([torch.nan, torch.inf, -torch.inf, 1])
    exact = [integers(case.x_shape), integers(case.weight_shape), bias.double()]
    exact[0][0, 0, 0, 0, 0] = torch.nan
    given = [tensor.to(DEVICE, dtype) for tensor in exact]
    for epilogue in EPILOGUES:
        found, wanted = convolve(case, given, "cuda", **epilogue), composed(case, exact, "reference", **epilogue)
        apart = found.cpu()[1:], wanted.to(dtype)[1:]  # from the image with the NaN, of which every irrep has a part
        torch.testing.assert_close(*apart, rtol=0, atol=0, equal_nan=True)
        assert bool(found.cpu()[wanted.isnan()].isnan().all())


@only_cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("plane", [0, 1])
def test_a_fused_maximum_takes_nan_over_infinity(backend: str, plane: int, dtype: torch.dtype) -> None:
    """Both coefficients overflow: their sum is infinite, their difference NaN."""
    case = Case("group_conv2d", "C2", size=1, padding=0, height=1, width=1, c_in=1, c_out=1, batch=1)
    given = [torch.zeros(shape, device=DEVICE, dtype=dtype) for shape in (case.x_shape, case.weight_shape)]
    given[0][:, :, plane], given[1][:, :, 0] = 3e38, 8
    assert convolve(case, given, "cuda").isnan().flatten().tolist() == [plane == 1, plane == 0]
    assert bool(convolve(case, given, "cuda", pool="max").isnan())
    assert bool(composed(case, given, "cuda", pool="max").isnan())


@only_cuda
@pytest.mark.usefixtures("in_one_launch")
@pytest.mark.parametrize("pool", ["", "max"])
def test_a_fused_epilogue_stays_within_its_tensors(backend: str, pool: str) -> None:
    case = Case("group_conv2d", "C4", height=5, width=3, c_in=3, c_out=5)
    exact = [integers(case.x_shape), integers(case.weight_shape)]
    x, weight = (tensor.to(DEVICE, torch.float32) for tensor in exact)
    with Surrounded() as memory:
        found = cuda.conv2d_epilogue(between_nan(x), weight, None, case.planar_group, case.padding, 0.0, pool or None)
    assert memory.intact()
    wanted = composed(case, exact, "reference", 0.0, pool)
    assert torch.equal(found.squeeze(2).cpu() if pool else found.cpu(), wanted.float())


@only_cuda
def test_an_epilogue_is_fused_where_nothing_else_needs_the_convolution(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, fused, real = Case("group_conv2d", "C4"), [], cuda.conv2d_epilogue
    monkeypatch.setattr(cuda, "conv2d_epilogue", lambda *arguments: fused.append(1) or real(*arguments))
    given = [tensor.to(DEVICE, torch.float32) for tensor in case.operands(integers) if tensor is not None]
    epilogue: dict[str, Any] = {"negative_slope": 0.25, "pool": "max"}
    wanted = composed(case, given, "cuda", **epilogue)

    def run(*tensors: Tensor, **options: Any) -> Tensor:
        given = {"group": case.planar_group, "padding": 1, "backend": "cuda", **epilogue, **options}
        return gconv.group_conv2d(*tensors, **given)

    def runs_fused(call: Callable[[], Tensor], times: int) -> bool:
        fused.clear()
        out = call()
        return torch.equal(out.float(), wanted.float()) and len(fused) == times

    assert runs_fused(lambda: run(*given), 1)
    for leaf in given:
        leaf.requires_grad_()
        assert runs_fused(lambda: run(*given), 0)
        with torch.no_grad():
            assert runs_fused(lambda: run(*given), 1)
        leaf.requires_grad_(False)
    with torch.inference_mode():
        assert runs_fused(lambda: run(*given), 1)
    with torch.autocast(DEVICE, dtype=torch.float16):  # these integers fit it
        assert runs_fused(lambda: run(*given), 1)
    with torch.profiler.profile():
        assert runs_fused(lambda: run(*given), 1)
    assert runs_fused(lambda: torch.vmap(run, in_dims=(0, None, None))(given[0][None], *given[1:])[0], 0)
    assert runs_fused(lambda: torch.compile(run, backend="eager", fullgraph=True)(*given), 0)
    assert runs_fused(lambda: make_fx(run, tracing_mode="fake")(*given)(*given), 0)
    fused.clear()
    run(*given, stride=2)
    run(*given, dilation=2, backend=None)
    run(given[0][:0], *given[1:])
    with Surrounded():
        run(*given)
    assert not fused


@only_cuda
@pytest.mark.parametrize("epilogue", EPILOGUES, ids=str)
def test_an_epilogue_has_the_gradients_of_its_ops(backend: str, epilogue: dict[str, Any]) -> None:
    case = Case("group_conv2d", "C4", batch=1)
    found = []
    for run in (convolve, composed):
        torch.manual_seed(0)
        leaves = [torch.randn(shape, device=DEVICE, requires_grad=True) for shape in (case.x_shape, case.weight_shape)]
        out = run(case, leaves, "cuda", **epilogue)
        found.append([out, *torch.autograd.grad(out.square().sum(), leaves)])
    for ours, wanted in zip(*found, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=0, atol=0)


def every_second(tensor: Tensor) -> Tensor:
    """The tensor as a view into a larger one, other numbers between its columns."""
    wide = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1]), 99.0, dtype=tensor.dtype, device=tensor.device)
    wide[..., ::2] = tensor
    return wide[..., ::2]


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda tensor: tensor.contiguous(),
    "every second column": every_second,
    "transposed": lambda tensor: tensor.transpose(-2, -1).contiguous().transpose(-2, -1),
    "some of the channels": lambda tensor: torch.cat([tensor, tensor], 1)[:, tensor.shape[1] :],
    "not aligned": lambda tensor: torch.cat([tensor.flatten()[:1], tensor.flatten()])[1:].view(tensor.shape),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_operands_may_have_any_strides(operation: str, layout: str, backend: str) -> None:
    case = Case(operation, "C2")
    exact = operands(case, integers)
    given = {name: LAYOUTS[layout](tensor) for name, tensor in on_device(exact, torch.float32).items()}
    bias = every_second(torch.ones(case.c_out, device=DEVICE))
    expected = three_maps(case, **exact, backend="reference")
    for name, found in three_maps(case, **given, backend=backend).items():
        assert_exact(found, expected[name], backend)
    found = case.run(given["x"], given["weight"], bias, backend)
    assert_exact(found, expected["forward"] + 1, backend)


def derivatives(case: Case, given: dict[str, Tensor], bias: Tensor, backend: str) -> list[Tensor]:
    """The gradient in each operand, and the gradients of a linear function of those."""
    leaves = [given["x"].requires_grad_(), given["weight"].requires_grad_(), bias.requires_grad_()]
    cotangent = given["grad_out"].requires_grad_()
    first = torch.autograd.grad(case.run(*leaves, backend), leaves, cotangent, create_graph=True)
    towards = [leaf.detach().flip(0) for leaf in leaves]
    second = torch.autograd.grad(first, [leaves[0], leaves[1], cotangent], towards)
    return [*first, *second]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("group", "stride"), list(product(("C4", "D4", "C8"), (1, 2))) if GPU else [("C4", 1), ("D1", 2)], ids=str
)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_gradients_and_their_gradients_are_exact_on_integers(
    operation: str, group: str, stride: int, backend: str
) -> None:
    case = Case(operation, group, stride=stride, height=4, width=3, batch=1)
    exact, bias = operands(case, integers), integers((case.c_out,))
    expected = derivatives(case, dict(exact), bias.clone(), "reference")
    given = on_device(exact, torch.float32)
    found = derivatives(case, given, bias.to(DEVICE, torch.float32), backend)
    for ours, wanted in zip(found, expected, strict=True):
        assert_exact(ours, wanted, backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_sum_of_the_output_has_a_gradient(operation: str, backend: str) -> None:
    """Its gradient comes in as one number that all pixels share, of strides 0."""
    case = Case(operation, "C2")
    exact = operands(case, integers)
    grads = []
    for name, given in (("reference", exact), (backend, on_device(exact, torch.float32))):
        x, weight = given["x"].requires_grad_(), given["weight"].requires_grad_()
        grads.append(torch.autograd.grad(case.run(x, weight, None, name).sum(), (x, weight)))
    for ours, wanted in zip(grads[1], grads[0], strict=True):
        assert_exact(ours, wanted, backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_equal_operands_give_equal_bits(operation: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    case = Case(operation, "D4", 3, 1, 1, 33, 35, 40, 24, batch=4) if GPU else Case(operation, "C2", batch=1)
    given = on_device(operands(case, torch.randn), torch.bfloat16)
    once, again = (three_maps(case, **given, backend=backend) for _ in range(2))
    assert all(torch.equal(once[name], again[name]) for name in once)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_opcheck_convolutions(operation: str, backend: str) -> None:
    case = Case(operation, "C2", height=2, width=3, size=2, batch=1)
    x, weight, grad_out = (
        tensor.to(DEVICE, torch.float32).requires_grad_() for tensor in operands(case, torch.randn).values()
    )
    bias, options, ops = torch.ones(case.c_out, device=DEVICE), (case.group, 1, 1, backend), torch.ops.gconv
    opcheck(getattr(ops, operation).default, (x, weight, bias.requires_grad_(), *options))
    opcheck(getattr(ops, f"{operation}_input_grad").default, (grad_out, weight, case.height, case.width, *options))
    opcheck(getattr(ops, f"{operation}_weight_grad").default, (x, grad_out, case.size, *options))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", ["max", "mean"])
def test_opcheck_pooling(mode: str, backend: str) -> None:
    ops = torch.ops.gconv
    x, options = torch.randn(2, 3, 8, 2, 3, device=DEVICE, requires_grad=True), ("D4", [0, 4], mode, backend)
    out, index = ops.group_pool(x.detach(), *options)
    opcheck(ops.group_pool.default, (x, *options))
    opcheck(ops.group_pool_backward.default, (out.requires_grad_(), index, *options))
    opcheck(ops.group_pool_select.default, (x, index, *options))


def pooled(x: Tensor, name: str, mode: str, subgroup: list[int] | None, backend: str) -> list[Tensor]:
    """The pooled map, its gradient at the integers 1, 2, .., and the gradient of that; float64 on the CPU."""
    x = x.detach().requires_grad_()
    out = gconv.group_pool(x, group=gconv.group_from_name(name), mode=mode, subgroup=subgroup, backend=backend)
    cotangent = torch.arange(out.numel(), device=x.device).remainder(11).to(x.dtype).view(out.shape).requires_grad_()
    (grad,) = torch.autograd.grad(out, x, cotangent, create_graph=True)
    towards = torch.arange(x.numel(), device=x.device).remainder(7).to(x.dtype).view(x.shape)
    (again,) = torch.autograd.grad(grad, cotangent, towards)
    return [part.detach().cpu().double() for part in (out, grad, again)]


# (N, C, H, W): a tile with rests of both axes, one number, more than a tile of a plane, whole tiles, nothing.
POOL_SHAPES = [(3, 3, 2, 5), (1, 1, 1, 1), (1, 17, 7, 11), (2, 64, 8, 4), (3, 0, 2, 2), (0, 3, 2, 2)]


@pytest.mark.parametrize(("backend", "dtype"), PAIRS)
@pytest.mark.parametrize("mode", ["max", "mean"])
@pytest.mark.parametrize(("name", "subgroup"), POOLS, ids=str)
def test_pooling_agrees_bit_for_bit(
    name: str, subgroup: list[int] | None, mode: str, backend: str, dtype: torch.dtype
) -> None:
    """The sums are exact, so that the mean is rounded as often as in the reference: once, or after the division too."""
    order = gconv.group_from_name(name).order
    for n, channels, height, width in (
        POOL_SHAPES if (name, subgroup) in (("C4", None), ("C4", [0, 2])) else POOL_SHAPES[:1]
    ):
        x = integers((n, channels, order, height, width)).to(dtype)  # many ties
        expected = pooled(x, name, mode, subgroup, "reference")
        for ours, wanted in zip(pooled(x.to(DEVICE), name, mode, subgroup, backend), expected, strict=True):
            assert torch.equal(ours, wanted)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # numpy's, of inf - inf in a mean
@pytest.mark.parametrize(("backend", "dtype"), PAIRS)
def test_pooling_keeps_nan_and_infinity(backend: str, dtype: torch.dtype) -> None:
    nan, inf = float("nan"), float("inf")
    columns = [
        ([1, nan, 3, nan], nan, 1),  # the first NaN wins
        ([nan, inf, 3, 4], nan, 0),
        ([1, -inf, inf, inf], inf, 2),
        ([-inf, -inf, -inf, -inf], -inf, 0),
        ([-0.0, 0.0, -0.0, 0.0], 0.0, 0),
        ([-inf, -5, -5, -7], -5, 1),
    ]
    x = torch.tensor([column for column, _, _ in columns]).T.reshape(1, 1, 4, 1, -1).to(DEVICE, dtype)
    x = x.repeat(1, 3, 1, 1, 1).requires_grad_()
    group = gconv.CyclicGroup(4)
    out = gconv.group_pool(x, group=group, backend=backend)
    (grad,) = torch.autograd.grad(out.nan_to_num().sum(), x, create_graph=True)
    for column, (_, value, _winner) in enumerate(columns):
        wanted = torch.full((3,), value, dtype=dtype)
        torch.testing.assert_close(out[0, :, 0, column].cpu(), wanted, rtol=0, atol=0, equal_nan=True)
    out, index = torch.ops.gconv.group_pool(x.detach(), "C4", [0, 1, 2, 3], "max", backend)
    assert index[0, :, 0, 0].tolist() == [[winner for _, _, winner in columns]] * 3
    grad = torch.ops.gconv.group_pool_backward(torch.ones_like(out), index, "C4", [0, 1, 2, 3], "max", backend)
    assert torch.equal(grad.argmax(2)[0, :, 0], index[0, :, 0, 0].long())
    assert bool((grad.sum(2) == 1).all())
    mean = gconv.group_pool(x, group=group, mode="mean", backend=backend)
    assert mean[0, 0, 0].isnan().tolist() == [True, True, True, False, False, False]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_pooling_takes_any_strides(layout: str, backend: str) -> None:
    x = integers((2, 3, 4, 5, 6)).float().to(DEVICE)
    expected = pooled(x.cpu(), "C4", "max", None, "reference")
    for ours, wanted in zip(pooled(LAYOUTS[layout](x), "C4", "max", None, backend), expected, strict=True):
        assert torch.equal(ours, wanted)


@pytest.mark.parametrize("backend", [name for name in GPU_BACKENDS if name in BACKENDS])
@pytest.mark.parametrize("call", ["lifting_conv2d", "group_conv2d", "group_pool"])
def test_float64_is_refused(call: str, backend: str) -> None:
    x = torch.zeros(1, 2, 4, 3, 3, dtype=torch.float64, device=DEVICE)
    x = x[:, :, 0] if call == "lifting_conv2d" else x
    weights = () if call == "group_pool" else (x.expand(2, *x.shape[1:]).clone(),)
    reason = "it knows float32, float16, bfloat16, and x is torch.float64"
    with pytest.raises(RuntimeError, match=f"^{call}: backend '{backend}' cannot run: {reason}$"):
        getattr(gconv, call)(x, *weights, group=gconv.CyclicGroup(4), backend=backend)


class Surrounded(TorchDispatchMode):
    """Puts known bytes around every new tensor, and in it."""

    BYTE, MARGIN = 0xA5, 2**16
    fresh = ("empty", "new_empty", "empty_strided", "new_empty_strided")

    def __init__(self) -> None:
        super().__init__()
        self.wholes: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ not in self.fresh:
            return made
        size = made.numel() * made.element_size()
        whole = torch.full((size + 2 * self.MARGIN,), self.BYTE, dtype=torch.uint8, device=made.device)
        self.wholes.append(whole)
        return whole[self.MARGIN : self.MARGIN + size].view(made.dtype).as_strided(made.shape, made.stride())

    def intact(self) -> bool:
        """Whether there are any, and nothing was written around one."""
        margins = [part for whole in self.wholes for part in (whole[: self.MARGIN], whole[-self.MARGIN :])]
        return bool(margins) and all(bool((margin == self.BYTE).all()) for margin in margins)


def between_nan(x: Tensor) -> Tensor:
    """The map with an image of NaN before it and one after it in memory."""
    images = torch.full_like(x[:1], torch.nan)
    return canonical(torch.cat([images, x, images]))[1:-1]


@pytest.mark.parametrize("backend", [name for name in GPU_BACKENDS if name in BACKENDS])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_convolutions_stay_within_their_tensors(operation: str, backend: str) -> None:
    """They write nothing around what they make, leave nothing of it out, and use nothing around what they read."""
    case = Case(operation, "C2", height=5, width=3, c_in=3, c_out=5)
    exact, run, group = operands(case, integers), backends.BACKENDS[backend], case.planar_group
    given = on_device(exact, torch.float32)
    x, weight, grad_out = between_nan(given["x"]), given["weight"], between_nan(given["grad_out"])
    expected = three_maps(case, **exact, backend="reference")
    with Surrounded() as memory:
        found = {
            "forward": run.conv2d(x, weight, None, group, 1, 1),
            "input_grad": run.conv2d_input_grad(grad_out, weight, group, case.height, case.width, 1, 1),
            "weight_grad": run.conv2d_weight_grad(x, grad_out, group, case.size, 1, 1),
        }
    assert memory.intact()
    for name, value in found.items():
        assert torch.equal(value.cpu().double(), expected[name]), name


@pytest.mark.parametrize("backend", [name for name in GPU_BACKENDS if name in BACKENDS])
@pytest.mark.parametrize("mode", ["max", "mean"])
def test_pooling_stays_within_its_tensors(mode: str, backend: str) -> None:
    cosets, run = gconv.CyclicGroup(4).cosets([0, 2]), backends.BACKENDS[backend]
    for shape in ((3, 3, 4, 5, 7), (1, 17, 4, 7, 11)):  # several images in a tile, and several tiles in an image
        x = between_nan(integers(shape).float().to(DEVICE))
        with Surrounded() as memory:
            out, index = run.group_pool(x, cosets, mode)
            grad = run.group_pool_backward(out, index, cosets, mode)
            again = run.group_pool_select(x, index, cosets) if mode == "max" else out
        assert memory.intact()
        wanted, winners = backends.reference.group_pool(x, cosets, mode)
        assert torch.equal(out, wanted)
        assert torch.equal(again, wanted)
        assert torch.equal(grad, backends.reference.group_pool_backward(wanted, winners, cosets, mode))


@pytest.mark.skipif(
    not GPU or torch.cuda.mem_get_info()[1] < 40 * 2**30,
    reason="takes 14 GB of a GPU's memory; more than a test should",
)
@pytest.mark.parametrize("backend", [name for name in GPU_BACKENDS if name in BACKENDS])
def test_positions_past_32_bits(backend: str) -> None:
    """A map of more than 2^31 numbers, all zero but for a corner at its end, which alone must give the same."""
    group, side = gconv.CyclicGroup(2), 4096
    channels = 1 + 2**31 // (2 * side * side)
    corner = integers((1, channels, 2, 5, 5)).to(DEVICE, torch.bfloat16)
    shape, last = (1, channels, 2, side, side), torch.channels_last_3d
    x = torch.empty(shape, device=DEVICE, dtype=torch.bfloat16, memory_format=last).zero_()
    x[..., -5:, -5:] = corner
    weight = integers((channels, channels, 2, 3, 3)).to(DEVICE, torch.bfloat16)
    calls = {
        "conv": lambda x: gconv.group_conv2d(x, weight, group=group, padding=1, backend=backend),
        "pool": lambda x: gconv.group_pool(x, group=group, backend=backend),
    }
    for name, call in calls.items():
        found, expected = call(x), call(corner)
        assert torch.equal(found[..., -4:, -4:], expected[..., -4:, -4:]), name
        assert not found[..., :-6, :].any(), name
