"""to_planar: the same numbers from plain torch modules, which export."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from cases import GROUPS, integers
from torch import Tensor, nn

import gconv
from sgan.config import resolve
from sgan.trainer import build_discriminator

C4 = gconv.CyclicGroup(4)
LIFT = gconv.nn.LiftingConv2d(1, 2, 3, group=C4)
LAYERS = (gconv.nn.LiftingConv2d, gconv.nn.GroupConv2d, gconv.nn.GroupConvTranspose2d)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("size", "stride", "padding"), [(3, 1, "same"), (4, 2, 1), (1, 1, 0)])
@pytest.mark.parametrize("name", GROUPS)
def test_the_planar_layer_gives_the_same_map(name: str, size: int, stride: int, padding: int | str, bias: bool) -> None:
    group = gconv.group_from_name(name)
    options = {"group": group, "stride": stride, "padding": padding, "bias": bias}
    lifting = gconv.nn.LiftingConv2d(3, 2, size, **options).double()
    layer = gconv.nn.GroupConv2d(2, 4, size, **options).double()
    with torch.no_grad():
        for parameter in (*lifting.parameters(), *layer.parameters()):
            parameter.copy_(integers(tuple(parameter.shape)))
    image = integers((2, 3, 8, 6))
    feature_map = integers((2, 2, group.order, 8, 6))
    planar_lifting, planar = gconv.to_planar(lifting), gconv.to_planar(layer)
    assert type(planar) is nn.Conv2d
    assert (planar.in_channels, planar.out_channels) == (2 * group.order, 4 * group.order)
    assert torch.equal(planar_lifting(image), lifting(image).flatten(1, 2))
    assert torch.equal(planar(feature_map.flatten(1, 2)), layer(feature_map).flatten(1, 2))
    assert (planar.bias is None) == (not bias)


def test_it_is_a_copy_of_the_same_kind() -> None:
    layer = gconv.nn.GroupConv2d(2, 3, 3, group=gconv.CyclicGroup(4)).eval().double()
    planar = gconv.to_planar(layer)
    assert not planar.training
    assert planar.weight.dtype == torch.float64
    assert planar.weight.requires_grad
    before = layer.weight.detach().clone()
    nn.init.zeros_(planar.weight)
    assert torch.equal(layer.weight, before)


def test_a_normalised_layer_converts_with_the_weight_it_applies() -> None:
    layer = gconv.nn.spectral_norm(gconv.nn.GroupConv2d(2, 3, 3, group=gconv.DihedralGroup(2))).eval()
    x = torch.randn(1, 2, 4, 5, 5)
    torch.testing.assert_close(gconv.to_planar(layer)(x.flatten(1, 2)), layer(x).flatten(1, 2))


class Residual(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(x + self.body(x))


def randomise(model: nn.Module) -> nn.Module:
    """Statistics and affine parameters as a trained network has them."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm3d | nn.BatchNorm2d | nn.SyncBatchNorm):
                for tensor in (module.weight, module.bias, module.running_mean):
                    if tensor is not None:
                        tensor.normal_()
                module.running_var.uniform_(0.5, 2)
    return model.eval()


def everything(group: gconv.PlanarGroup) -> nn.Module:
    """A classifier with one of every layer, nested."""
    options = {"group": group, "padding": "same"}
    block = nn.Sequential(
        gconv.nn.GroupConv2d(4, 4, 3, padding_mode="circular", **options), gconv.nn.GroupBatchNorm2d(4)
    )
    model = nn.Sequential(
        OrderedDict(
            lift=gconv.nn.LiftingConv2d(2, 4, 3, padding_mode="reflect", **options),
            norm=gconv.nn.GroupBatchNorm2d(4),
            relu=nn.ReLU(),
            blur=gconv.nn.GroupDownsample2d("blur"),
            residual=Residual(block),
            up=gconv.nn.GroupUpsample2d(),
            max=nn.MaxPool3d((1, 2, 2)),
            soft=gconv.nn.GroupUpsample2d("blur"),
            mean=nn.AvgPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            dilated=gconv.nn.GroupConv2d(4, 4, 3, group=group, padding=2, dilation=2, groups=2),
            normalised=gconv.nn.spectral_norm(gconv.nn.GroupConv2d(4, 3, 3, group=group, stride=2, bias=False)),
            transposed=gconv.nn.GroupConvTranspose2d(3, 3, 4, group=group, stride=2),
            down=gconv.nn.GroupDownsample2d(),
            act=nn.LeakyReLU(0.2),
            pool=gconv.nn.GroupPool(group=group),
            head=nn.Sequential(nn.Conv2d(3, 5, 2), nn.BatchNorm2d(5), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        )
    )
    return randomise(model)


@pytest.mark.parametrize("name", [*GROUPS, "C3", "C8", "D6"])
def test_a_whole_model_converts(name: str) -> None:
    model = everything(gconv.group_from_name(name)).double()
    planar = gconv.to_planar(model, containers=[Residual])
    x = torch.randn(3, 2, 18, 14, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(planar(x), model(x), rtol=1e-12, atol=1e-12)
    assert [name for name, _ in planar.named_children()] == [name for name, _ in model.named_children()]
    assert isinstance(planar.residual, Residual)
    assert type(planar.residual.body[1]) is nn.BatchNorm2d
    assert not any(isinstance(part, (*LAYERS, nn.BatchNorm3d, gconv.nn.GroupPool)) for part in planar.modules())
    assert any(isinstance(part, gconv.nn.GroupConv2d) for part in model.modules())  # the old one stays
    assert not {p.data_ptr() for p in planar.parameters()} & {p.data_ptr() for p in model.parameters()}


@pytest.mark.parametrize("mode", ["max", "mean"])
def test_pools_over_cosets_and_maps_at_both_ends(mode: str) -> None:
    group = gconv.DihedralGroup(4)
    for subgroup in (None, (0, 4), (0, 1, 2, 3), (0, 2)):
        model = nn.Sequential(
            gconv.nn.GroupConv2d(2, 3, 3, group=group), gconv.nn.GroupPool(group=group, mode=mode, subgroup=subgroup)
        ).double()
        x = integers((2, 2, 8, 5, 6))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(8 * integers(tuple(parameter.shape)))
            out = model(x)
            assert torch.equal(gconv.to_planar(model)(x.flatten(1, 2)), out if subgroup is None else out.flatten(1, 2))


@pytest.mark.parametrize("training", [True, False])
def test_spatial_pools_keep_their_mode_and_take_lists(training: bool) -> None:
    model = nn.Sequential(LIFT, nn.MaxPool3d([1, 2, 3], [1, 2, 1]), nn.AvgPool3d([1, 2, 2])).train(training)
    planar = gconv.to_planar(model)
    assert [type(pool) for pool in planar[1:]] == [nn.MaxPool2d, nn.AvgPool2d]
    assert {part.training for part in planar.modules()} == {training}
    x = torch.randn(2, 1, 9, 8)
    torch.testing.assert_close(planar(x), model(x).flatten(1, 2))


def test_norms_behind_coset_pools_repeat_as_often_as_there_are_cosets() -> None:
    group = gconv.DihedralGroup(4)
    model = randomise(
        nn.Sequential(
            gconv.nn.LiftingConv2d(1, 2, 3, group=group),
            gconv.nn.GroupPool(group=group, subgroup=(0, 4)),
            nn.BatchNorm3d(2),
            nn.Flatten(),
            nn.Linear(2 * 4 * 4 * 4, 3),
        )
    )
    planar = gconv.to_planar(model)
    assert planar[2].num_features == 2 * 4
    x = torch.randn(2, 1, 6, 6)
    torch.testing.assert_close(planar(x), model(x))


def test_conditional_norms_convert() -> None:
    group = gconv.CyclicGroup(4)
    model = nn.ModuleList([gconv.nn.GroupConv2d(2, 3, 3, group=group), gconv.nn.GroupConditionalBatchNorm2d(3, 5)])
    model[1].norm.running_mean.normal_()
    model = model.eval()
    planar = gconv.to_planar(model)
    x, condition = torch.randn(2, 2, 4, 5, 5), torch.randn(2, 5)
    expected = model[1](model[0](x), condition).flatten(1, 2)
    torch.testing.assert_close(planar[1](planar[0](x.flatten(1, 2)), condition), expected)


def test_what_is_used_twice_stays_shared() -> None:
    block = nn.Sequential(gconv.nn.GroupConv2d(3, 3, 3, group=C4, padding=1), nn.ReLU())
    act = nn.Sequential(nn.ReLU())  # on maps and on images
    model = nn.Sequential(
        gconv.nn.LiftingConv2d(1, 3, 3, group=C4), block, block, block[0], act, gconv.nn.GroupPool(group=C4), act
    ).double()
    planar = gconv.to_planar(model)
    x = torch.randn(2, 1, 6, 7, dtype=torch.float64)
    torch.testing.assert_close(planar(x), model(x))
    assert planar[1] is planar[2]
    assert planar[1][0] is planar[3]
    assert len(list(planar.parameters())) == len(list(model.parameters()))
    assert type(block[0]) is gconv.nn.GroupConv2d


def test_a_container_is_converted_once_for_every_order_that_it_meets() -> None:
    group = gconv.DihedralGroup(4)
    norm = nn.Sequential(nn.BatchNorm3d(2))
    model = randomise(
        nn.Sequential(
            gconv.nn.LiftingConv2d(1, 2, 3, group=group), norm, gconv.nn.GroupPool(group=group, subgroup=(0, 4)), norm
        )
    )
    planar = gconv.to_planar(model)
    assert [planar[i][0].num_features for i in (1, 3)] == [16, 8]
    x = torch.randn(2, 1, 6, 7)
    torch.testing.assert_close(planar(x), model(x).flatten(1, 2))


class Branches(nn.Module):
    """Images join before lifting, behind it, and behind the pool."""

    def __init__(self) -> None:
        super().__init__()
        self.lift = gconv.nn.LiftingConv2d(2, 4, 3, group=C4, padding=1)
        self.norm = gconv.nn.GroupBatchNorm2d(4, bias=False)
        self.side = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.ReLU(), _lift_of_3())
        self.conv = gconv.nn.GroupConv2d(8, 4, 3, group=C4, padding=1)
        self.shortcut = nn.Sequential(nn.AvgPool2d(3, 1, 1), nn.Conv2d(2, 4, 1), nn.Dropout2d())
        self.act = nn.PReLU()
        self.pool = gconv.nn.GroupPool(group=C4)
        self.late = gconv.nn.LiftingConv2d(4, 4, 1, group=C4)
        self.late_norm = nn.SyncBatchNorm(4)
        self.late_pool = gconv.nn.GroupPool(group=C4, mode="mean")
        self.heads = nn.ModuleDict(
            {"a": nn.Linear(4, 2), "b": nn.Sequential(nn.Dropout1d(), nn.Linear(4, 2), nn.Softmax(1))}
        )

    def forward(self, x: Tensor) -> Tensor:
        lifted = torch.cat([self.norm(self.lift(x)), self.side(x)], dim=1)
        y = self.pool(self.conv(lifted)) + self.act(self.shortcut(x))
        features = self.late_pool(self.late_norm(self.late(y))).mean((2, 3))
        out: Tensor = self.heads["a"](features) + self.heads["b"](features)
        return out


def _lift_of_3() -> nn.Module:
    return gconv.nn.LiftingConv2d(3, 4, 3, group=C4, padding=1)


def test_branches_on_images_convert_wherever_they_are_registered() -> None:
    model = Branches().double()
    randomise(model)
    planar = gconv.to_planar(model, containers=[Branches])
    x = torch.randn(3, 2, 6, 7, dtype=torch.float64)
    torch.testing.assert_close(planar(x), model(x), rtol=1e-12, atol=1e-12)
    assert type(planar.side[1]) is nn.BatchNorm2d
    assert not any(isinstance(part, LAYERS) for part in planar.modules())


def test_a_method_of_a_class_converts_it() -> None:
    class OnOneOrientation(nn.Module):
        """A norm for maps on an image, as one on a map of one orientation; then a lifting convolution."""

        def __init__(self) -> None:
            super().__init__()
            self.norm = gconv.nn.GroupBatchNorm2d(2)
            self.conv = gconv.nn.LiftingConv2d(2, 3, 3, group=C4)
            self.planar = False

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.conv(self.norm(x) if self.planar else self.norm(x.unsqueeze(2)).squeeze(2))
            return out

        def to_planar(self, conversion: gconv.PlanarConversion) -> nn.Module:
            planar = conversion.children(self, {"norm": 1})
            planar.planar = True
            return planar

    model = randomise(nn.Sequential(nn.Conv2d(1, 2, 1), OnOneOrientation(), nn.BatchNorm3d(3)))
    planar = gconv.to_planar(model)
    assert planar[1].norm.num_features == 2
    assert planar[2].num_features == 12
    x = torch.randn(2, 1, 6, 7)
    torch.testing.assert_close(planar(x), model(x).flatten(1, 2))


def test_dropout_of_channels_drops_all_orientations_when_the_planar_model_is_trained() -> None:
    for dropout in (nn.Dropout2d(0.5), nn.Dropout3d(0.5)):
        planar = gconv.to_planar(nn.Sequential(gconv.nn.LiftingConv2d(1, 64, 1, group=C4), dropout).eval()).train()
        torch.manual_seed(0)
        dropped = (planar(torch.ones(2, 1, 3, 3)) == 0).unflatten(1, (64, 4)).flatten(2)
        assert torch.equal(dropped.all(2), dropped.any(2))
        assert 0.2 < dropped.float().mean() < 0.8


def test_frozen_parameters_stay_frozen_and_nothing_is_drawn() -> None:
    model = randomise(
        nn.Sequential(gconv.nn.LiftingConv2d(1, 2, 3, group=C4), gconv.nn.GroupBatchNorm2d(2), nn.PReLU(2))
    )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in ("0.bias", "1.weight"))
    torch.manual_seed(0)
    planar = gconv.to_planar(model)
    drawn = torch.rand(())
    torch.manual_seed(0)
    assert torch.rand(()) == drawn
    assert {name for name, parameter in planar.named_parameters() if parameter.requires_grad} == {"0.bias", "1.weight"}
    assert all(parameter.is_contiguous() for parameter in planar.parameters())


@pytest.mark.parametrize("subgroup", [None, (0, 4), (0, 1, 2, 3), (0, 2)])
def test_planar_models_survive_the_meta_device(subgroup: tuple[int, ...] | None) -> None:
    def make() -> nn.Module:
        group = gconv.DihedralGroup(4)
        model = nn.Sequential(
            gconv.nn.LiftingConv2d(3, 4, 3, group=group),
            gconv.nn.GroupBatchNorm2d(4),
            gconv.nn.GroupPool(group=group, subgroup=subgroup),
        )
        return gconv.to_planar(model.eval())

    built = make()
    with torch.device("meta"):
        loaded, assigned = make(), make()
    assert {parameter.device.type for parameter in loaded.parameters()} == {"meta"}
    loaded = loaded.to_empty(device="cpu")
    loaded.load_state_dict(built.state_dict())
    assigned.load_state_dict(built.state_dict(), assign=True)
    x = torch.randn(2, 3, 8, 8)
    for model in (loaded, assigned, pickle.loads(pickle.dumps(built)), copy.deepcopy(built)):
        assert torch.equal(model(x), built(x))
        assert not list(model[2].buffers())


def test_a_discriminator_converts_as_a_container_of_another_model() -> None:
    shape = {"resolution": 14, "channels": 1, "num_classes": 3}
    model = nn.ModuleDict({"d": build_discriminator(resolve("digits-d4", width=1 / 8), **shape)}).eval()
    planar = gconv.to_planar(model)
    x, labels = torch.randn(4, 1, 14, 14), torch.tensor([0, 1, 2, 0])
    torch.testing.assert_close(planar["d"](x, labels), model["d"](x, labels))


def test_planar_modules_come_back_as_copies() -> None:
    layer = nn.Conv2d(1, 1, 1)
    planar = gconv.to_planar(layer)
    assert planar is not layer
    assert torch.equal(planar.weight, layer.weight)


@pytest.mark.parametrize(
    ("module", "error", "message"),
    [
        (3, TypeError, "module must be a Module, got int"),
        (Residual(LIFT), TypeError, "module must be made of layers .*, got Residual at 'its root'; if its forward"),
        (nn.Sequential(LIFT, nn.Softmax(2)), TypeError, "module must be made of .*, got Softmax at '1'"),
        (nn.Sequential(LIFT, nn.Sequential(nn.Flatten(2))), TypeError, "module must be .*, got Flatten at '1.0'"),
        (nn.Sequential(LIFT, nn.MaxPool3d(2)), TypeError, "module must be .*, got MaxPool3d at '1'"),
        (
            nn.Sequential(LIFT, nn.MaxPool3d((1, 2, 2), return_indices=True)),
            TypeError,
            "module must be .*, got MaxPool3d at '1'",
        ),
        (nn.Sequential(gconv.nn.GroupBatchNorm2d(2)), TypeError, "module must be .*, got GroupBatchNorm2d at '0'"),
        (
            nn.Sequential(LIFT, gconv.nn.GroupBatchNorm2d(2)),
            ValueError,
            "module must be in eval mode and keep running statistics, got .* at '1' in training mode",
        ),
        (
            nn.Sequential(LIFT, nn.BatchNorm3d(2, track_running_stats=False)).eval(),
            ValueError,
            "module must be in eval mode and keep running statistics, got .* at '1' without statistics",
        ),
    ],
)
def test_what_has_no_planar_form_is_refused(module: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^to_planar: {message}"):
        gconv.to_planar(module)


def test_subclasses_of_sequential_that_do_more_are_refused() -> None:
    class Mean(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).mean(2)

    with pytest.raises(TypeError, match="got Mean at"):
        gconv.to_planar(Mean(LIFT))


def test_a_planar_model_exports_without_gconv(tmp_path: Path) -> None:
    model = gconv.to_planar(everything(C4), containers=[Residual])
    x = torch.randn(2, 2, 18, 14)
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},))
    assert not any("gconv" in str(node.target) for node in program.graph.nodes)
    torch.export.save(program, tmp_path / "model.pt2")
    x = torch.randn(3, 2, 18, 14)
    with torch.no_grad():
        torch.testing.assert_close(torch.export.load(tmp_path / "model.pt2").module()(x), model(x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's exporter and of onnxscript
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["C4", "D4", "C8"])
def test_onnxruntime_agrees(name: str, tmp_path: Path) -> None:
    """README, "Moving here, and leaving": pip install -e ".[onnx]"."""
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    onnxruntime = pytest.importorskip("onnxruntime")
    model = everything(gconv.group_from_name(name))
    planar = gconv.to_planar(model, containers=[Residual])
    x = torch.randn(2, 2, 18, 14)
    path = tmp_path / "model.onnx"
    dynamic = ({0: torch.export.Dim("batch", min=2, max=64)},)
    torch.onnx.export(planar, (x,), path, dynamo=True, dynamic_shapes=dynamic, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch in (2, 5):
        x = torch.randn(batch, 2, 18, 14)
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(found), model(x), rtol=1e-5, atol=1e-5)


class Beside(nn.Module):
    """A branch on the image between a lifting convolution and what its maps go through."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.lift, self.side = gconv.nn.LiftingConv2d(3, 4, 3, group=C4), nn.Conv2d(3, 4, 3)
        self.norm, self.pool = norm, gconv.nn.GroupPool(group=C4)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.norm(self.lift(x))) + self.side(x)


@pytest.mark.parametrize("norm", [nn.Softmax(1), nn.InstanceNorm3d(4), nn.ChannelShuffle(2), nn.GroupNorm(2, 4)])
def test_what_may_meet_maps_or_an_image_is_refused(norm: nn.Module) -> None:
    with pytest.raises(
        TypeError, match=r"behind a branch on images, got .* at 'norm': give the class around it a method"
    ):
        gconv.to_planar(Beside(norm).eval(), containers=[Beside])
    model, x = Beside(nn.ReLU()).eval(), torch.randn(2, 3, 7, 7)  # the same on both
    torch.testing.assert_close(gconv.to_planar(model, containers=[Beside])(x), model(x))
