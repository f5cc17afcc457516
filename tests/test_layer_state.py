"""What layers carry: made on the meta device, loaded, traced and moved as torch's own layers are, and of one group."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import gconv
from gconv.nn import GroupConv2d, GroupConvTranspose2d, GroupDownsample2d, GroupPool, LiftingConv2d, spectral_norm

GROUPS = ("C4", "D2", "D4", "C8", "D8")
KINDS = (LiftingConv2d, GroupConv2d, GroupConvTranspose2d)
C4, D2, D4, C8 = (gconv.CyclicGroup(4), gconv.DihedralGroup(2), gconv.DihedralGroup(4), gconv.CyclicGroup(8))


def make(kind: type[nn.Module], group: str, normalised: bool = False) -> nn.Module:
    layer = kind(2, 3, 3, group=gconv.group_from_name(group))
    return spectral_norm(layer) if normalised else layer


def image(layer: nn.Module) -> Tensor:
    axis = () if layer.lifting else (layer.group.order,)
    return torch.randn(2, 2, *axis, 6, 5)


def by_assigning(empty: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    empty.load_state_dict(state, assign=True)
    return empty


def by_to_empty(empty: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    empty.to_empty(device="cpu").load_state_dict(state)
    return empty


def by_hand(empty: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    for name, value in state.items():
        path, _, last = name.rpartition(".")
        owner = empty.get_submodule(path)
        if last in owner._parameters:
            owner._parameters[last] = nn.Parameter(value)
        elif last in owner._buffers:
            owner._buffers[last] = value
    return empty


@pytest.mark.parametrize("way", [by_assigning, by_to_empty, by_hand])
@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("kind", KINDS)
def test_layers_made_on_the_meta_device_come_alive(
    kind: type[nn.Module], group: str, normalised: bool, way: Callable[[nn.Module, dict[str, Tensor]], nn.Module]
) -> None:
    real = make(kind, group, normalised).eval()
    x = image(real)
    with torch.device("meta"):
        empty = make(kind, group, normalised)
    twin = way(copy.deepcopy(empty), copy.deepcopy(real.state_dict())).eval()
    assert torch.equal(twin(x), real(x))
    assert not any(tensor.is_meta for tensor in [*twin.parameters(), *twin.buffers()])
    x.requires_grad_()
    twin(x).sum().backward()  # nothing that was kept is unfit for autograd


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("group", ["C4", "C8", "D8"])
@pytest.mark.parametrize("kind", KINDS)
def test_inference_mode_leaves_nothing_that_autograd_cannot_save(
    kind: type[nn.Module], group: str, normalised: bool
) -> None:
    layer = make(kind, group, normalised).eval().requires_grad_(False)
    with torch.inference_mode():
        layer(image(layer))
    layer.load_state_dict(layer.state_dict())
    x = image(layer).requires_grad_()
    layer(x).square().sum().backward()
    expected = torch.autograd.grad(copy.deepcopy(layer)(x).square().sum(), x)[0]
    assert torch.equal(x.grad, expected)
    layer.requires_grad_(True)
    layer(x.detach()).square().sum().backward()


PAIRS = [
    (lambda: GroupConv2d(2, 3, 3, group=C4), lambda: GroupConv2d(2, 3, 3, group=D2), "D2", "C4"),
    (lambda: LiftingConv2d(2, 3, 3, group=C4), lambda: LiftingConv2d(2, 3, 3, group=D4), "D4", "C4"),
    (lambda: GroupConvTranspose2d(2, 3, 3, group=D2), lambda: GroupConvTranspose2d(2, 3, 3, group=C4), "C4", "D2"),
    (
        lambda: GroupConv2d(2, 3, 3, group=D4, basis=gconv.steerable_basis(3)),
        lambda: GroupConv2d(2, 3, 3, group=C8),
        "C8, rings",
        "D4, rings",
    ),
    (
        lambda: LiftingConv2d(2, 3, 5, group=C8, basis=[gconv.Ring(1.0, 0.6, 2)]),
        lambda: LiftingConv2d(2, 3, 5, group=C8, basis=[gconv.Ring(2.0, 0.6, 2)]),
        r"C8, rings \[\(2.0, 0.6, 2\)\]",
        r"C8, rings \[\(1.0, 0.6, 2\)\]",
    ),
    (
        lambda: spectral_norm(GroupConv2d(2, 3, 3, group=C4)),
        lambda: spectral_norm(GroupConv2d(2, 3, 3, group=D2)),
        "D2",
        "C4",
    ),
]


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(("saved", "loading", "wanted", "came"), PAIRS)
def test_a_state_dict_of_another_group_or_other_rings_is_refused(
    saved: Callable[[], nn.Module], loading: Callable[[], nn.Module], wanted: str, came: str, strict: bool
) -> None:
    module = nn.Sequential(loading())
    before = copy.deepcopy(module.state_dict())
    message = f"at 0: the state_dict must be of a layer on {wanted}.*got one of a layer on {came}"
    with pytest.raises(RuntimeError, match=message):
        module.load_state_dict(nn.Sequential(saved()).state_dict(), strict=strict)
    for key, value in module.state_dict().items():
        if key.startswith("0.") and "_extra_state" not in key and "parametrizations" not in key:
            assert torch.equal(value, before[key])


def test_a_state_dict_without_groups_loads_with_one_warning() -> None:
    model = nn.Sequential(LiftingConv2d(2, 3, 3, group=C4), nn.ReLU(), GroupConv2d(3, 3, 3, group=C4))
    old = {key: value + 1 for key, value in model.state_dict().items() if "_extra_state" not in key}
    for _ in range(2):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.load_state_dict(old)
        assert [str(warning.message)[:52] for warning in caught] == [
            "load_state_dict: the state_dict does not say which g"
        ]
        assert torch.equal(model[2].weight, old["2.weight"])
    with (
        pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "2.weight"'),
        pytest.warns(match="which group"),
    ):
        model.load_state_dict({key: value for key, value in old.items() if key != "2.weight"})


def test_the_group_survives_what_people_do_to_a_state_dict() -> None:
    one, two, layer = (GroupConv2d(2, 3, 3, group=C8) for _ in range(3))
    mean = {key: (value + two.state_dict()[key]) / 2 for key, value in one.state_dict().items()}
    layer.load_state_dict(mean)
    assert torch.equal(layer.weight, (one.weight + two.weight) / 2)
    layer.load_state_dict({key: value.double() for key, value in one.state_dict().items()})
    assert torch.equal(layer.weight, one.weight)


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.channels_last_3d, torch.contiguous_format])
@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_memory_formats_are_taken(kind: type[nn.Module], normalised: bool, memory_format: torch.memory_format) -> None:
    layer = make(kind, "D4", normalised).eval()
    x = image(layer)
    expected = layer(x)
    model = nn.Sequential(layer, nn.ReLU()).to(memory_format=memory_format)
    torch.testing.assert_close(layer(x), expected)
    assert model.to(torch.float64, memory_format=memory_format)[0].bias.dtype == torch.float64
    assert all(p.dtype == torch.float64 for p in model.parameters())
    assert model(x.double()).dtype == torch.float64


TRACED = {
    "lifting": lambda: LiftingConv2d(2, 3, 3, group=C4, padding=1, stride=2),
    "reflect": lambda: GroupConv2d(2, 3, 3, group=D4, padding=1, padding_mode="reflect"),
    "circular": lambda: GroupConv2d(2, 3, 3, group=C8, padding=1, padding_mode="circular"),
    "dilated": lambda: GroupConv2d(2, 3, 3, group=C4, padding=2, dilation=2),
    "max": lambda: GroupPool(group=C4),
    "average down": lambda: GroupDownsample2d("average"),
    "max down": lambda: GroupDownsample2d("max"),
    "blur up": lambda: gconv.nn.GroupUpsample2d("blur"),
    "batch norm": lambda: gconv.nn.GroupBatchNorm2d(2),
}


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*is not exactly equivariant", "ignore:.*jit")
@pytest.mark.parametrize("name", TRACED)
def test_traced_layers_are_right_at_every_size(name: str) -> None:
    layer = TRACED[name]().eval()
    order = getattr(layer, "group", C4).order
    axis = () if name == "lifting" else (order,)
    traced = torch.jit.trace(layer, torch.randn(2, 2, *axis, 8, 8), check_trace=False)
    for batch, height, width in ((2, 8, 8), (3, 9, 8), (1, 7, 11)):
        x = torch.randn(batch, 2, *axis, height, width)
        assert torch.equal(traced(x), layer(x))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*jit")
@pytest.mark.parametrize(
    ("layer", "what"),
    [
        (GroupConvTranspose2d(2, 3, 3, group=C4, stride=2), "group_conv_transpose2d: torch.jit.trace must not be used"),
        (GroupDownsample2d("blur"), "GroupDownsample2d: torch.jit.trace must not be used"),
    ],
)
def test_tracing_refuses_what_it_would_fix_to_one_size(layer: nn.Module, what: str) -> None:
    with pytest.raises(RuntimeError, match=f"{what}.*use torch.export"):
        torch.jit.trace(layer, torch.randn(1, 2, 4, 6, 6), check_trace=False)


@pytest.mark.parametrize(
    "layer",
    [
        LiftingConv2d(2, 3, 3, group=C4),
        GroupConv2d(2, 3, 3, group=C8),
        GroupConvTranspose2d(2, 3, 3, group=C4),
        GroupPool(group=C4),
        GroupDownsample2d(),
        gconv.nn.GroupUpsample2d(),
    ],
)
def test_symbolic_tracing_is_refused_by_name(layer: nn.Module) -> None:
    with pytest.raises(TypeError, match=r"got a Proxy: torch\.fx\.symbolic_trace cannot look into gconv's layers"):
        torch.fx.symbolic_trace(nn.Sequential(layer))


def test_symbolic_tracing_with_layers_as_leaves_is_right() -> None:
    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return type(m).__module__.startswith("gconv.nn.") or super().is_leaf_module(m, module_qualified_name)

    model = nn.Sequential(LiftingConv2d(2, 3, 3, group=C4), nn.ReLU(), GroupPool(group=C4))
    traced = torch.fx.GraphModule(model, Tracer().trace(model))
    for side in (6, 9):
        x = torch.randn(1, 2, side, side)
        assert torch.equal(traced(x), model(x))


def lift(group: gconv.PlanarGroup = C4) -> LiftingConv2d:
    return LiftingConv2d(2, 2, 3, group=group)


def conv(group: gconv.PlanarGroup = C4) -> GroupConv2d:
    return GroupConv2d(2, 2, 3, group=group)


class Restriction(nn.Module):
    """Of another origin: may make a map of another group."""


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([lift(C4), nn.ReLU(), conv(D2)], "GroupConv2d must be given a map on D2, got a map on C4 from LiftingConv2d"),
        ([lift(C4), GroupPool(group=D2)], "GroupPool must be given a map on D2, got a map on C4"),
        ([nn.Sequential(lift(C4)), nn.Sequential(nn.ReLU(), conv(C8))], "a map on C8, got a map on C4"),
        ([lift(C4), GroupPool(group=C4), conv(C4)], "a map on C4, got an image from GroupPool before it"),
        ([conv(C4), gconv.nn.GroupBatchNorm2d(2), lift(C4)], "LiftingConv2d must be given an image, got a map on C4"),
        ([spectral_norm(lift(D4)), spectral_norm(conv(C8))], "a map on C8, got a map on D4"),
    ],
)
def test_a_sequence_of_layers_on_different_groups_is_refused(layers: list[nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=f"^Sequential: .*{message}"):
        gconv.nn.Sequential(*layers)
    *first, last = layers
    for add in (
        lambda sequence: sequence.append(last),
        lambda sequence: sequence.extend([last]),
        lambda sequence: sequence.insert(len(sequence), last),
    ):
        sequence = gconv.nn.Sequential(*first)
        with pytest.raises(ValueError, match=message):
            add(sequence)
        assert list(sequence) == first
    sequence = gconv.nn.Sequential(*first, nn.Identity())
    with pytest.raises(ValueError, match=message):
        sequence[-1] = last


def test_sequences_that_fit_are_torchs() -> None:
    layers = [lift(C4), nn.ReLU(), GroupDownsample2d(), conv(C4), GroupPool(group=C4), nn.Flatten(), nn.Linear(2, 3)]
    sequence = gconv.nn.Sequential(*layers)
    plain = nn.Sequential(*layers)
    x = torch.randn(1, 2, 7, 7)
    assert torch.equal(sequence(x), plain(x))
    assert list(sequence.state_dict()) == list(plain.state_dict())
    gconv.nn.Sequential(lift(C4), Restriction(), conv(C8))  # what it makes is its own affair
    gconv.nn.Sequential(lift(D4), GroupPool(group=D4, subgroup=[0, 4]), conv(C4))  # cosets: not known
    gconv.nn.Sequential(lift(C4), GroupPool(group=C4), lift(D4))


def test_sequences_add_and_delete_checked() -> None:
    sequence = gconv.nn.Sequential(lift(C4))
    with pytest.raises(ValueError, match="a map on D2, got a map on C4"):
        sequence += nn.Sequential(conv(D2))
    with pytest.raises(ValueError, match="a map on D2, got a map on C4"):
        sequence + nn.Sequential(conv(D2))
    assert type(sequence + nn.Sequential(conv(C4))) is gconv.nn.Sequential
    whole = gconv.nn.Sequential(lift(C4), GroupPool(group=C4), lift(D4), conv(D4))
    with pytest.raises(ValueError, match="a map on D4, got an image"):
        del whole[2]
    assert len(whole) == 4


def test_state_dicts_of_old_weight_norms_still_load() -> None:
    """Torch renames their keys in a hook, which must reach the parametrisation."""
    layer = nn.utils.parametrizations.weight_norm(GroupConv2d(2, 3, 3, group=C4))
    old = {"weight_g": torch.rand(3, 1, 1, 1, 1), "weight_v": torch.randn(3, 2, 4, 3, 3), "bias": torch.zeros(3)}
    with pytest.warns(match="does not say which group"):
        layer.load_state_dict(dict(old))
    expected = old["weight_g"] * old["weight_v"] / old["weight_v"].flatten(1).norm(dim=1).view(3, 1, 1, 1, 1)
    torch.testing.assert_close(layer.weight, expected)


def test_a_layer_that_was_assigned_compiles_first() -> None:
    with torch.device("meta"):
        layer = make(GroupConv2d, "C8")
    real = make(GroupConv2d, "C8").eval()
    layer.load_state_dict(real.state_dict(), assign=True)
    x = image(real)
    torch.testing.assert_close(torch.compile(layer.eval(), backend="eager", fullgraph=True)(x), real(x))


@pytest.mark.parametrize("group", ["C8", "D8"])
def test_a_first_call_under_a_transform_leaves_nothing_behind(group: str) -> None:
    real = make(LiftingConv2d, group).eval()
    x = torch.randn(3, 2, 2, 6, 6)
    with torch.device("meta"):
        layer = make(LiftingConv2d, group)
    for name, value in real.state_dict().items():
        if name in layer._parameters:
            layer._parameters[name] = nn.Parameter(value)
    with torch.no_grad():
        torch.testing.assert_close(torch.vmap(layer.eval())(x), torch.stack([real(part) for part in x]))
        torch.testing.assert_close(layer(x[0]), real(x[0]))


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("kind", KINDS)
def test_layers_made_of_fake_tensors_come_alive(kind: type[nn.Module], group: str, normalised: bool) -> None:
    real = make(kind, group, normalised).eval()
    with FakeTensorMode():
        empty = make(kind, group, normalised)
    empty.load_state_dict(real.state_dict(), assign=True)
    x = image(real)
    assert torch.equal(empty.eval()(x), real(x))


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("kind", KINDS)
def test_tables_have_the_digits_of_the_parameters_that_replace_others(
    kind: type[nn.Module], group: str, normalised: bool
) -> None:
    layer = make(kind, group, normalised).eval()
    wide = copy.deepcopy(layer).double()
    x = image(layer)
    narrow = layer(x)
    state = {name: value for name, value in wide.state_dict().items() if value.is_floating_point()}
    close = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(torch.func.functional_call(layer, state, x.double()), wide(x.double()), **close)
    assert torch.equal(layer(x), narrow)  # the same bits from tables of more digits
    layer.load_state_dict(wide.state_dict(), assign=True)
    torch.testing.assert_close(layer(x.double()), wide(x.double()), **close)


@pytest.mark.parametrize("saved", [torch.tensor([float("nan")]), torch.tensor([10**7]), torch.zeros(2, 2), "C4", None])
def test_what_is_no_identity_is_refused_as_a_state_dict_of_another_group(saved: object) -> None:
    layer = GroupConv2d(2, 3, 3, group=C4)
    with pytest.raises(RuntimeError, match="GroupConv2d at the root: the state_dict must be of a layer on C4, got"):
        layer.load_state_dict({**layer.state_dict(), "_extra_state": saved})


def test_a_layer_is_called_by_its_own_name_when_it_is_normalised() -> None:
    layer = spectral_norm(GroupConv2d(2, 3, 3, group=C4))
    with pytest.raises(RuntimeError, match=r"\sGroupConv2d at the root"):
        layer.load_state_dict(spectral_norm(GroupConv2d(2, 3, 3, group=D2)).state_dict())
    with pytest.raises(ValueError, match=r"^Sequential: GroupConv2d must be .* from LiftingConv2d before it"):
        gconv.nn.Sequential(spectral_norm(LiftingConv2d(2, 2, 3, group=D4)), layer)


def test_a_state_dict_that_holds_nothing_names_no_other_group() -> None:
    layer = GroupConv2d(2, 3, 3, group=C4)
    state = {name: value.to("meta") for name, value in layer.state_dict().items()}
    assert layer.load_state_dict(state, assign=True) is not None
    assert layer.weight.is_meta
