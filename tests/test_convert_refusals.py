"""What to_planar refuses because it would be lost or wrong, and that the same on an image stays as it is."""

from __future__ import annotations

import copy
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

import gconv

C4, D2, D4 = gconv.CyclicGroup(4), gconv.DihedralGroup(2), gconv.DihedralGroup(4)


def lifting() -> nn.Module:
    return gconv.nn.LiftingConv2d(1, 4, 3, group=C4, padding=1)


def image() -> Tensor:
    return torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "GroupConv2d": lambda: gconv.nn.GroupConv2d(4, 4, 3, group=C4),
    "GroupConvTranspose2d": lambda: gconv.nn.GroupConvTranspose2d(4, 4, 3, group=C4),
    "GroupPool": lambda: gconv.nn.GroupPool(group=C4),
    "GroupBatchNorm2d": lambda: gconv.nn.GroupBatchNorm2d(4),
    "GroupDownsample2d": gconv.nn.GroupDownsample2d,
    "GroupUpsample2d": gconv.nn.GroupUpsample2d,
    "BatchNorm3d": lambda: nn.BatchNorm3d(4),
    "SyncBatchNorm": lambda: nn.SyncBatchNorm(4),
    "ReLU": nn.ReLU,
    "PReLU": nn.PReLU,
    "Dropout": nn.Dropout,
    "Dropout3d": nn.Dropout3d,
    "MaxPool3d": lambda: nn.MaxPool3d((1, 2, 2)),
    "AdaptiveAvgPool3d": lambda: nn.AdaptiveAvgPool3d((None, 2, 2)),
    "GroupNorm": lambda: nn.GroupNorm(2, 4),
    "Upsample": lambda: nn.Upsample(scale_factor=(1, 2, 2)),
    "ZeroPad3d": lambda: nn.ZeroPad3d((1, 1, 1, 1, 0, 0)),
    "Flatten": nn.Flatten,
    "Sequential": lambda: nn.Sequential(nn.ReLU()),
    "gconv.nn.Sequential": lambda: gconv.nn.Sequential(nn.ReLU()),
}


def with_own_forward(module: nn.Module) -> nn.Module:
    """The module as one of a subclass that halves what the class gives."""
    known = type(module)

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        return known.forward(self, x) * 0.5

    module.__class__ = type("Halved", (known,), {"forward": forward})
    return module


def with_bound_forward(module: nn.Module) -> nn.Module:
    forward = module.forward
    module.forward = types.MethodType(lambda self, x: forward(x) * 0.5, module)
    return module


def with_own_call(module: nn.Module) -> nn.Module:
    known = type(module)
    module.__class__ = type("Halved", (known,), {"__call__": lambda self, x: known.__call__(self, x) * 0.5})
    return module


@pytest.mark.parametrize("change", [with_own_forward, with_bound_forward, with_own_call])
@pytest.mark.parametrize("name", LAYERS)
def test_what_runs_otherwise_than_its_class_is_refused(name: str, change: Callable[[nn.Module], nn.Module]) -> None:
    module = change(LAYERS[name]())
    model = nn.Sequential(lifting(), nn.Sequential(nn.Tanh(), module)).eval()
    what = "__call__" if change is with_own_call else "forward"
    message = (
        f"^to_planar: module must run as the known class that it is made from, got {type(module).__name__} "
        f"at '1.1' with a {what} of its own: .* containers, else give it a method to_planar"
    )
    with pytest.raises(TypeError, match=message):
        gconv.to_planar(model)


def test_what_a_layer_of_gconv_runs_through_is_its_own_as_well() -> None:
    class Sparse(gconv.nn.GroupConv2d):
        def spatial_filter(self) -> Tensor:
            return super().spatial_filter() * 0.5

    with pytest.raises(TypeError, match="got Sparse at '1' with a spatial_filter of its own"):
        gconv.to_planar(nn.Sequential(lifting(), Sparse(4, 4, 3, group=C4)))


def test_a_container_does_not_vouch_for_subclasses_with_another_forward() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = gconv.nn.GroupConv2d(4, 4, 3, group=C4, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.body(x)

    class Named(Block):
        """Another name."""

    class Averaged(Block):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).mean(2, keepdim=True)

    model = nn.Sequential(lifting(), Named())
    torch.testing.assert_close(gconv.to_planar(model, containers=[Block])(image()), model(image()).flatten(1, 2))
    with pytest.raises(TypeError, match="got Averaged at '1' with a forward of its own"):
        gconv.to_planar(nn.Sequential(lifting(), Averaged()), containers=[Block])


def test_a_layer_is_no_container() -> None:
    layer = with_own_forward(gconv.nn.GroupConv2d(4, 4, 3, group=C4))
    with pytest.raises(TypeError, match="got Halved at '1' with a forward of its own"):
        gconv.to_planar(nn.Sequential(lifting(), layer), containers=[type(layer)])


def test_subclasses_that_only_build_otherwise_convert() -> None:
    class Block(nn.Sequential):
        def __init__(self, channels: int) -> None:
            super().__init__(gconv.nn.GroupConv2d(channels, channels, 3, group=C4), Norm(channels), Act())

    class Norm(gconv.nn.GroupBatchNorm2d):
        def reset_parameters(self) -> None:
            super().reset_parameters()
            if self.affine:
                nn.init.constant_(self.weight, 2.0)

    class Act(nn.LeakyReLU):
        """Another name."""

    model = nn.Sequential(lifting(), Block(4)).eval()
    torch.testing.assert_close(gconv.to_planar(model)(image()), model(image()).flatten(1, 2))


HOOKS: dict[str, Callable[[nn.Module], Any]] = {
    "forward hook": lambda module: module.register_forward_hook(lambda module, args, out: out * 0.5),
    "forward pre-hook": lambda module: module.register_forward_pre_hook(lambda module, args: (args[0] * 0.5,)),
    "backward hook": lambda module: module.register_full_backward_hook(lambda module, back, out: None),
    "backward pre-hook": lambda module: module.register_full_backward_pre_hook(lambda module, out: None),
}


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("name", LAYERS)
def test_hooks_are_refused_where_they_would_be_lost_or_meet_flattened_maps(name: str, hook: str) -> None:
    module = LAYERS[name]()
    HOOKS[hook](module)
    message = (
        rf"^to_planar: module must have no hooks on what is converted, got {type(module).__name__} at '1.0' with the "
        f"{hook} .*lambda"
    )
    with pytest.raises(TypeError, match=message):
        gconv.to_planar(nn.Sequential(lifting(), nn.Sequential(module)).eval())


@pytest.mark.parametrize("hook", HOOKS)
def test_hooks_of_the_whole_model_and_of_parts_of_layers_are_refused(hook: str) -> None:
    model = nn.Sequential(lifting()).eval()
    HOOKS[hook](model)
    with pytest.raises(TypeError, match=f"got Sequential at 'its root' with the {hook}"):
        gconv.to_planar(model)
    norm = gconv.nn.GroupConditionalBatchNorm2d(4, 3)
    HOOKS[hook](norm.gamma)
    with pytest.raises(TypeError, match=f"got Linear at '1.gamma' with the {hook}"):
        gconv.to_planar(nn.ModuleList([lifting(), norm]).eval())


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("normalise", "hook"),
    [
        (weight_norm, "WeightNorm"),
        (spectral_norm, "SpectralNorm"),
        (lambda layer: prune.l1_unstructured(layer, "weight", 3), "L1Unstructured"),
    ],
)
def test_weights_that_hooks_make_are_refused_by_the_name_of_the_hook(
    normalise: Callable[[nn.Module], nn.Module], hook: str
) -> None:
    model = nn.Sequential(lifting(), gconv.nn.GroupConv2d(4, 4, 3, group=C4)).eval()
    normalise(model[1])
    with pytest.raises(
        TypeError,
        match=f"got GroupConv2d at '1' with .*{hook}.*parametrisation|got GroupConv2d at '1' with weight that {hook}",
    ):
        gconv.to_planar(model)


def test_what_is_on_images_stays_with_its_hooks_and_forward() -> None:
    head = nn.Sequential(with_own_forward(nn.Conv2d(4, 3, 1)), nn.ReLU(), with_own_forward(nn.Linear(8, 2)))
    HOOKS["forward hook"](head)
    HOOKS["forward pre-hook"](head[1])
    model = nn.Sequential(lifting(), gconv.nn.GroupPool(group=C4), head).eval()
    planar = gconv.to_planar(model)
    assert type(planar[2][2]) is type(head[2])
    assert planar[2][0].weight is not head[0].weight
    torch.testing.assert_close(planar(image()), model(image()))
    head._forward_hooks.clear()  # the copy has its own
    assert not torch.allclose(planar(image()), model(image()))


class Halved(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight * 0.5


class Known(Halved):
    constant_in_eval = True


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (gconv.nn.GroupConv2d(4, 4, 3, group=C4), "weight"),
        (gconv.nn.GroupConv2d(4, 4, 3, group=C4), "bias"),
        (gconv.nn.GroupConvTranspose2d(4, 4, 3, group=C4), "weight"),
        (gconv.nn.GroupBatchNorm2d(4), "weight"),
        (gconv.nn.GroupBatchNorm2d(4), "running_mean"),
        (nn.SyncBatchNorm(4), "bias"),
        (nn.PReLU(4), "weight"),
        (nn.GroupNorm(2, 4), "bias"),
        (nn.InstanceNorm3d(4, affine=True), "weight"),
    ],
)
def test_parametrisations_are_known_or_refused_on_every_tensor(module: nn.Module, name: str) -> None:
    model = nn.Sequential(lifting(), module).eval()
    parametrize.register_parametrization(module, name, Halved())
    message = (
        "^to_planar: module must have no parametrisations of unknown classes on what is converted, got "
        f"{type(module).__name__} at '1' with Halved of its {name}: .*constant_in_eval.*remove_parametrizations"
    )
    with pytest.raises(TypeError, match=message):
        gconv.to_planar(model)
    parametrize.remove_parametrizations(module, name, leave_parametrized=False)
    parametrize.register_parametrization(module, name, Known())
    model.eval()
    torch.testing.assert_close(gconv.to_planar(model)(image()), model(image()).flatten(1, 2))
    module.parametrizations.train()
    with pytest.raises(ValueError, match=r"must be in eval mode, got .* at '1' with Known in training mode"):
        gconv.to_planar(model)


@pytest.mark.parametrize(
    ("normalise", "moves"),
    [
        (gconv.nn.spectral_norm, True),
        (parametrizations.spectral_norm, True),
        (parametrizations.weight_norm, False),
        (parametrizations.orthogonal, False),
    ],
)
def test_torchs_parametrisations_and_gconvs_are_taken_as_applied(
    normalise: Callable[[nn.Module], nn.Module], moves: bool
) -> None:
    norm = gconv.nn.GroupConditionalBatchNorm2d(4, 3)
    layers = [lifting(), gconv.nn.GroupConv2d(4, 4, 3, group=C4), gconv.nn.GroupConvTranspose2d(4, 4, 3, group=C4)]
    model = nn.ModuleList([*map(normalise, layers), norm]).double()
    normalise(norm.gamma)
    normalise(norm.beta)
    model.eval()
    planar = gconv.to_planar(model)
    assert not any(map(parametrize.is_parametrized, planar.modules()))
    condition = torch.randn(2, 3, dtype=torch.float64)
    x, flat = image().double(), image().double()
    for layer, flattened in zip(model[:3], planar[:3], strict=True):
        x, flat = layer(x), flattened(flat)
    torch.testing.assert_close(planar[3](flat, condition), norm(x, condition).flatten(1, 2))

    before = copy.deepcopy(model.state_dict())
    layer = nn.Sequential(*model[:2]).train()
    if moves:
        with pytest.raises(ValueError, match=r"module must be in eval mode, got Parametrized.* at '0' with .*Norm in"):
            gconv.to_planar(layer)
    else:
        x = image().double()
        torch.testing.assert_close(gconv.to_planar(layer)(x), layer(x).flatten(1, 2))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_head_with_a_spectral_norm_stays_parametrised() -> None:
    head = nn.Sequential(nn.Flatten(), gconv.nn.spectral_norm(nn.Linear(4 * 8 * 8, 2)))
    model = nn.Sequential(lifting(), gconv.nn.GroupPool(group=C4), head).eval()
    planar = gconv.to_planar(model)
    assert parametrize.is_parametrized(planar[2][1])
    torch.testing.assert_close(planar(image()), model(image()))


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(lifting(), gconv.nn.GroupConv2d(4, 4, 3, group=D4)),
        nn.Sequential(lifting(), nn.Sequential(gconv.nn.GroupPool(group=D4))),
        nn.Sequential(lifting(), gconv.nn.LiftingConv2d(4, 4, 3, group=C4)),
        nn.Sequential(lifting(), gconv.nn.GroupPool(group=C4), gconv.nn.GroupConv2d(4, 4, 3, group=C4)),
        nn.Sequential(nn.Unflatten(1, (1, 4)), lifting(), nn.Flatten(), gconv.nn.GroupPool(group=C4)),
    ],
    ids=repr,
)
def test_a_layer_behind_a_map_of_another_order_is_refused(model: nn.Module) -> None:
    with pytest.raises(
        ValueError, match=r"^to_planar: module must give every layer what it takes, got .*, which takes"
    ):
        gconv.to_planar(model)


@pytest.mark.parametrize("shape", [(4, 1, 1, 1), (1, 4, 1, 1, 1)])
@pytest.mark.parametrize("buffer", [False, True])
def test_containers_with_tensors_for_maps_are_refused(shape: tuple[int, ...], buffer: bool) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lift = lifting()
            if buffer:
                self.register_buffer("scale", torch.ones(shape))
            else:
                self.scale = nn.Parameter(torch.ones(shape))

        def forward(self, x: Tensor) -> Tensor:
            return self.lift(x) * self.scale

    with pytest.raises(TypeError, match=rf"got Scaled at 'its root' with scale of shape \({shape[0]}, .*to_planar"):
        gconv.to_planar(Scaled(), containers=[Scaled])


def test_a_module_that_was_not_run_yet_is_refused() -> None:
    with pytest.raises(
        TypeError, match=r"^to_planar: module must know its sizes, got LazyLinear at '2': run the model"
    ):
        gconv.to_planar(nn.Sequential(lifting(), gconv.nn.GroupPool(group=C4), nn.LazyLinear(3)))


@pytest.mark.parametrize("wrap", [torch.jit.script, nn.DataParallel, torch.compile])
@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
def test_wrapped_layers_are_refused(wrap: Callable[[nn.Module], nn.Module]) -> None:
    module = wrap(nn.ReLU())
    with pytest.raises(TypeError, match=f"got {type(module).__name__} at '1'"):
        gconv.to_planar(nn.Sequential(lifting(), module))
