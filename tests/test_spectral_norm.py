"""spectral_norm: sigma of the operator that is applied, its gradient, and its state."""

from __future__ import annotations

import copy
from statistics import median
from time import perf_counter

import pytest
import torch
from cases import GROUPS
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm as torch_spectral_norm

import gconv
from gconv.nn import spectral_norm

KINDS = [gconv.nn.LiftingConv2d, gconv.nn.GroupConv2d]


def layer(kind: type[nn.Module], name: str, size: int = 3, iterations: int = 1) -> nn.Module:
    planar_group = gconv.group_from_name(name)
    module = kind(3, 4, size, group=planar_group, padding=1).double()
    return spectral_norm(module, n_power_iterations=iterations)


def largest_singular_value(module: nn.Module) -> float:
    """Of the expanded bank as a matrix of C_out |G| rows."""
    bank = gconv.expand_filter(module.weight.detach(), module.group)
    return float(torch.linalg.svdvals(bank.flatten(1))[0])


def converge(module: nn.Module) -> nn.Module:
    module.train()
    with torch.no_grad():
        for _ in range(5):
            module.weight  # noqa: B018  reading it in training mode iterates
    return module.eval()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_the_applied_operator_has_norm_one(name: str, kind: type[nn.Module], size: int) -> None:
    module = layer(kind, name, size, iterations=200)
    original = module.parametrizations.weight.original.detach()
    assert largest_singular_value(converge(module)) == pytest.approx(1, abs=1e-9)
    bank = gconv.expand_filter(original, module.group).flatten(1)
    expected = original / torch.linalg.svdvals(bank)[0]
    torch.testing.assert_close(module.weight.detach(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["C4", "D4", "C8", "D3"])
def test_dilated_layers_in_groups_of_channels_have_norm_one(name: str, kind: type[nn.Module], groups: int) -> None:
    """The operator of groups is block diagonal: one bank each, and the largest norm of them counts."""
    group = gconv.group_from_name(name)
    module = kind(4, 6, 3, group=group, dilation=2, groups=groups).double()
    module = converge(spectral_norm(module, n_power_iterations=200))
    banks = gconv.expand_filter(module.spatial_filter().detach(), group).flatten(1).chunk(groups)
    assert 1 - 1e-9 <= max(float(torch.linalg.svdvals(bank)[0]) for bank in banks) < 1 + 1e-4  # sigma comes from below


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", GROUPS)
def test_a_new_layer_is_close_to_norm_one_at_once(name: str, kind: type[nn.Module]) -> None:
    """Power iteration comes from below: sigma is at most too small."""
    module = layer(kind, name).eval()
    assert 1 - 1e-9 <= largest_singular_value(module) < 1.1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["C4", "D2", "D4"])
def test_an_irrep_that_dominates_is_found(name: str, kind: type[nn.Module]) -> None:
    """A filter with the sign of one irrep only: sigma is not that of the others, nor of the stored filter."""
    planar_group = gconv.group_from_name(name)
    for irrep in planar_group.irreps:
        signs = torch.tensor([matrix[0][0] for matrix in irrep.matrices], dtype=torch.float64)
        module = kind(2, 2, 1, group=planar_group, bias=False).double()
        with torch.no_grad():
            module.weight.copy_(torch.ones_like(module.weight))
            if module.weight.dim() == 5:
                module.weight.mul_(signs.view(1, 1, -1, 1, 1))
        before = largest_singular_value(module)
        assert largest_singular_value(converge(spectral_norm(module))) == pytest.approx(1)
        assert before > 1.9


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", GROUPS)
def test_gradients_flow_through_sigma(name: str, kind: type[nn.Module]) -> None:
    module = converge(layer(kind, name, size=2, iterations=200))
    norm = module.parametrizations.weight[0]
    weight = module.parametrizations.weight.original.detach().clone().requires_grad_()
    # The vectors are constants of the graph; at convergence that gradient is the exact one (Danskin).
    assert torch.autograd.gradcheck(norm, (weight,), fast_mode=True)
    (grad,) = torch.autograd.grad(norm.sigma(weight), weight)
    bank = gconv.expand_filter(weight, module.group).flatten(1)
    (expected,) = torch.autograd.grad(torch.linalg.matrix_norm(bank, 2), weight)
    torch.testing.assert_close(grad, expected, rtol=1e-6, atol=1e-8)
    # sigma is homogeneous, so the normalised weight does not change along itself
    (along,) = torch.autograd.grad((norm(weight) * torch.randn_like(weight)).sum(), weight)
    assert abs(float((along * weight).sum().detach())) < 1e-9


@pytest.mark.parametrize("kind", KINDS)
def test_state_is_the_same_in_train_and_eval_and_survives_a_round_trip(kind: type[nn.Module]) -> None:
    module = layer(kind, "D4")
    keys = set(module.train().state_dict())
    assert keys == set(module.eval().state_dict())
    assert {"bias", "parametrizations.weight.original"} < keys
    assert all(key.startswith("parametrizations.weight") or key in ("bias", "_extra_state") for key in keys)
    module.train()
    axis = () if kind is gconv.nn.LiftingConv2d else (8,)
    x = torch.randn(1, 3, *axis, 5, 4, dtype=torch.float64)
    module(x)
    other = layer(kind, "D4")
    other.load_state_dict(module.state_dict())
    twin = copy.deepcopy(module)
    assert torch.equal(module.eval()(x), other.eval()(x))
    assert torch.equal(module(x), twin.eval()(x))
    for each in (module, other, twin):
        each.train()
    for _ in range(3):  # the power iteration goes on alike
        expected = module(x)
        assert torch.equal(other(x), expected)
        assert torch.equal(twin(x), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_is_deterministic_and_moves_nothing(kind: type[nn.Module]) -> None:
    module = layer(kind, "C4").eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    assert torch.equal(module.weight, module.weight)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    module.train()
    module.weight  # noqa: B018  iterates
    assert any(not torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_two_forwards_before_one_backward() -> None:
    """The next forward moves the vectors; an earlier graph keeps those it used."""
    module = layer(gconv.nn.GroupConv2d, "C4")
    x = torch.randn(1, 3, 4, 4, 4, dtype=torch.float64)
    (module(x).square().sum() + module(2 * x).square().sum()).backward()
    grad = module.parametrizations.weight.original.grad
    assert grad is not None
    assert grad.isfinite().all()


def test_training_follows_a_changing_weight() -> None:
    module = layer(gconv.nn.GroupConv2d, "D4")
    optimiser = torch.optim.SGD(module.parameters(), lr=1e-3)
    x = torch.randn(2, 3, 8, 5, 5, dtype=torch.float64)
    for _ in range(30):
        optimiser.zero_grad()
        (-module(x).square().mean()).backward()
        optimiser.step()
    assert 1 - 1e-9 < largest_singular_value(module.eval()) < 1.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast_does_not_round_sigma(dtype: torch.dtype) -> None:
    module = layer(gconv.nn.GroupConv2d, "C4").float().eval()
    expected = module.weight
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        assert module.weight.dtype == torch.float32
        assert torch.equal(module.weight, expected)
        assert module(torch.randn(1, 3, 4, 5, 5)).dtype == dtype


@pytest.mark.parametrize(
    ("build", "x"),
    [
        (lambda: nn.Linear(4, 5), torch.randn(2, 4)),
        (lambda: nn.Conv2d(4, 5, 3), torch.randn(2, 4, 6, 6)),
        (lambda: nn.Embedding(4, 5), torch.tensor([0, 3])),
    ],
)
def test_torch_layers_get_torchs_own(build: object, x: Tensor) -> None:
    assert callable(build)
    torch.manual_seed(3)
    ours = spectral_norm(build(), n_power_iterations=2)
    torch.manual_seed(3)
    torchs = torch_spectral_norm(build(), n_power_iterations=2)
    assert torch.equal(ours(x), torchs(x))


@pytest.mark.parametrize("kind", KINDS)
def test_the_trivial_group_is_the_planar_layer(kind: type[nn.Module]) -> None:
    module = converge(layer(kind, "C1", iterations=200))
    planar = nn.Conv2d(3, 4, 3).double()
    planar.weight.data.copy_(module.parametrizations.weight.original.detach().view_as(planar.weight))
    planar = converge(torch_spectral_norm(planar, n_power_iterations=200))
    torch.testing.assert_close(module.weight.detach().view_as(planar.weight), planar.weight.detach())


@pytest.mark.parametrize("iterations", [0, -1])
def test_bad_iterations_are_refused(iterations: int) -> None:
    module = gconv.nn.GroupConv2d(1, 1, 3, group=gconv.CyclicGroup(4))
    with pytest.raises(ValueError, match=rf"^spectral_norm: n_power_iterations must be positive, got {iterations}"):
        spectral_norm(module, n_power_iterations=iterations)


@pytest.mark.parametrize("kind", KINDS)
def test_construction_takes_milliseconds(kind: type[nn.Module]) -> None:
    times_ms = []
    for _ in range(5):
        start = perf_counter()
        spectral_norm(kind(32, 32, 3, group=gconv.DihedralGroup(4)))
        times_ms.append(1e3 * (perf_counter() - start))
    assert median(times_ms) < 100  # 15 warm-up iterations on 6 blocks of at most 64 x 576
