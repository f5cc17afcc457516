"""Leaving: a model of group layers as one of torch.nn.Conv2d and other standard modules, on flattened maps."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gconv.functional import expand_filter
from gconv.groups import Cosets
from gconv.nn.batch_norm import GroupConditionalBatchNorm2d
from gconv.nn.conv import GroupConv2d, LiftingConv2d
from gconv.nn.conv_transpose import GroupConvTranspose2d
from gconv.nn.pool import GroupPool
from gconv.nn.resample import GroupDownsample2d, GroupUpsample2d

_ELEMENTWISE = (
    nn.CELU, nn.Dropout, nn.ELU, nn.GELU, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.Identity, nn.LeakyReLU,
    nn.Mish, nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Softsign, nn.Tanh,
)  # fmt: skip
_GROUP_LAYERS = (
    GroupConditionalBatchNorm2d, GroupConv2d, GroupConvTranspose2d, GroupPool, LiftingConv2d, nn.BatchNorm3d,
)  # fmt: skip


def to_planar(module: nn.Module, *, containers: Sequence[type[nn.Module]] = ()) -> nn.Module:
    """The same function as a model of torch.nn.Conv2d and other standard modules, on flattened maps.

    ``to_planar(model)(x)`` equals ``model(x)``, with maps of the group flattened: ``x.flatten(1, 2)``, channel order
    c * |G| + s, at both ends. The result needs none of gconv's ops, so it exports with torch.export and to ONNX; it
    pays for it with the expanded banks, |G| times the weights, and does not stay equivariant if it is trained.

    Containers keep their structure and names. Convolutions become Conv2d and ConvTranspose2d, group batch norms
    BatchNorm2d with repeated statistics, pools over the group a reduction over channels; MaxPool3d and AvgPool3d over
    (1, k, k) become two-dimensional; up- and down-sampling and elementwise modules act alike on flattened maps. Behind
    a pool over the whole group a map is an image, and modules without group layers stay as they are.

    Args:
        module: a gconv layer, a standard module, or nn.Sequential, nn.ModuleList or nn.ModuleDict of such, nested.
            Normalised or otherwise parametrised weights are taken as applied.
        containers: classes of your own to walk into. Their forward must run as well on flattened maps: it passes maps
            from child to child, in the order in which the children were registered, and adds or concatenates them.

    Returns:
        The new model, with its own copy of the weights, in the mode (train or eval) of the old one. What the old one
        uses in several places the new one does, too, wherever the maps are of the same group.

    Raises:
        TypeError: a module that is not known to act alike on flattened maps, named by its path.
        ValueError: a batch norm on maps of the group that is in training mode or keeps no running statistics: its
            statistics, shared by the orientations, have no planar form.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"to_planar: module must be a Module, got {type(module).__name__}")
    return _Walk(tuple(containers), _first_order(module)).convert(copy.deepcopy(module), "")


class _Walk:
    """Converts modules in the order in which they run; ``order`` is |G| of the current map, None for an image."""

    def __init__(self, containers: tuple[type[nn.Module], ...], order: int | None) -> None:
        self.containers = containers
        self.order = order
        self.converted: dict[tuple[nn.Module, int | None], tuple[nn.Module, int | None]] = {}

    def convert(self, module: nn.Module, path: str) -> nn.Module:
        """Once for every order that the module meets, so that what is shared stays so."""
        met = module, self.order
        if met not in self.converted:
            self.converted[met] = self._planar(module, path), self.order
        planar, self.order = self.converted[met]
        return planar

    def _planar(self, module: nn.Module, path: str) -> nn.Module:
        if isinstance(module, LiftingConv2d | GroupConv2d | GroupConvTranspose2d):
            self.order = module.group.order
            return _convolution(module).train(module.training)
        if isinstance(module, GroupPool):
            cosets = module.group.cosets(module.subgroup or module.group.elements)
            self.order = None if module.subgroup is None else len(cosets)
            return FlatGroupPool(cosets, module.mode).train(module.training)
        if isinstance(module, GroupUpsample2d) and module.mode == "nearest":
            return nn.Upsample(scale_factor=2, mode="nearest").train(module.training)
        if isinstance(module, GroupUpsample2d | GroupDownsample2d):
            return module  # an image or a flattened map is all the same to it
        if self._is_container(module):
            planar = copy.copy(module)
            planar._modules = {
                name: None if child is None else self.convert(child, f"{path}.{name}" if path else name)
                for name, child in module._modules.items()
            }
            return planar
        if self.order is None:
            if not any(isinstance(part, _GROUP_LAYERS) for part in module.modules()):
                return module
        elif (alike := self._on_map(module, self.order, path)) is not None:
            return alike
        raise TypeError(
            f"to_planar: module must be made of layers that act alike on flattened maps, got {type(module).__name__} "
            f"at {path or 'its root'!r}; if its forward only passes maps on between its children, name its class in "
            "containers"
        )

    def _is_container(self, module: nn.Module) -> bool:
        plain = isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward
        return plain or type(module) in (nn.ModuleList, nn.ModuleDict) or isinstance(module, self.containers)

    def _on_map(self, module: nn.Module, order: int, path: str) -> nn.Module | None:
        """What a module that is no gconv convolution does to a map; None if that is not known."""
        if isinstance(module, GroupConditionalBatchNorm2d):
            norm = _batch_norm(module.norm, order, path)
            linear = (_repeated_linear(layer, order) for layer in (module.gamma, module.beta))
            return FlatConditionalBatchNorm2d(norm, *linear).train(module.training)
        if isinstance(module, nn.BatchNorm3d):
            return _batch_norm(module, order, path)
        if isinstance(module, nn.MaxPool3d | nn.AvgPool3d):
            return _spatial_pool(module)
        if type(module) is nn.Flatten and module.start_dim == 1 and module.end_dim == -1:
            self.order = None
            return module
        return module if type(module) in _ELEMENTWISE else None


class FlatGroupPool(nn.Module):
    """gconv.nn.GroupPool on a flattened map: (N, C * |G|, H, W) -> (N, C * cosets, H, W), by standard ops.

    Args:
        cosets: the elements that are pooled together.
        mode: "max" or "mean".
    """

    members: Tensor

    def __init__(self, cosets: Cosets, mode: str) -> None:
        super().__init__()
        self.mode = mode
        self.register_buffer("members", torch.tensor(cosets).flatten(), persistent=False)
        self.shape = (len(cosets), len(cosets[0]))

    def forward(self, x: Tensor) -> Tensor:
        planes = x.unflatten(1, (-1, self.members.shape[0]))
        if self.shape[0] > 1:
            planes = planes[:, :, self.members]
        planes = planes.unflatten(2, self.shape)
        pooled = planes.amax(3) if self.mode == "max" else planes.mean(3)
        return pooled.flatten(1, 2)

    def extra_repr(self) -> str:
        return f"mode={self.mode!r}, cosets={self.members.unflatten(0, self.shape).tolist()}"


class FlatConditionalBatchNorm2d(nn.Module):
    """gconv.nn.GroupConditionalBatchNorm2d on a flattened map: (1 + gamma(c)) * norm(x) + beta(c)."""

    def __init__(self, norm: nn.BatchNorm2d, gamma: nn.Linear, beta: nn.Linear) -> None:
        super().__init__()
        self.norm, self.gamma, self.beta = norm, gamma, beta

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x: (N, C * |G|, H, W), condition: (N, condition_features) -> (N, C * |G|, H, W)."""
        scale, shift = (1 + self.gamma(condition))[:, :, None, None], self.beta(condition)[:, :, None, None]
        return scale * self.norm(x) + shift


def _first_order(module: nn.Module) -> int | None:
    """|G| of the map that the model takes; None if it takes an image, or has no layer that tells."""
    for part in module.modules():
        if isinstance(part, LiftingConv2d):
            return None
        if isinstance(part, GroupConv2d | GroupConvTranspose2d | GroupPool):
            return part.group.order
    return None


@torch.no_grad()
def _convolution(module: LiftingConv2d | GroupConv2d | GroupConvTranspose2d) -> nn.Module:
    bank = expand_filter(module.spatial_filter(), module.group)
    options: dict[str, Any] = {
        "kernel_size": module.kernel_size,
        "stride": module.stride,
        "padding": module.padding,
        "bias": module.bias is not None,
        "device": bank.device,
        "dtype": bank.dtype,
    }
    first, second = bank.shape[:2]
    planar: nn.Conv2d | nn.ConvTranspose2d
    if isinstance(module, GroupConvTranspose2d):
        planar = nn.ConvTranspose2d(first, second, output_padding=module.output_padding, **options)
    else:
        options |= {"padding_mode": module.padding_mode, "dilation": module.dilation, "groups": module.groups}
        planar = nn.Conv2d(second * module.groups, first, **options)
    planar.weight.copy_(bank)
    if module.bias is not None and planar.bias is not None:
        planar.bias.copy_(module.bias.repeat_interleave(module.group.order))
    return planar


@torch.no_grad()
def _batch_norm(norm: nn.BatchNorm3d, order: int, path: str) -> nn.BatchNorm2d:
    if norm.training or norm.running_mean is None:
        raise ValueError(
            f"to_planar: module must be in eval mode and keep running statistics, got {norm} at {path or 'its root'!r} "
            f"{'in training mode' if norm.training else 'without statistics'}"
        )
    planar = nn.BatchNorm2d(norm.num_features * order, norm.eps, norm.momentum, norm.affine)
    state = {key: _repeat(value, order) if value.dim() else value for key, value in norm.state_dict().items()}
    planar.load_state_dict(state, assign=True)
    return planar.eval()


@torch.no_grad()
def _repeated_linear(linear: nn.Linear, order: int) -> nn.Linear:
    planar = nn.Linear(linear.in_features, linear.out_features * order)
    planar.load_state_dict({key: _repeat(value, order) for key, value in linear.state_dict().items()}, assign=True)
    return planar


def _repeat(per_channel: Tensor, order: int) -> Tensor:
    return per_channel.repeat_interleave(order, dim=0)


def _spatial_pool(pool: nn.MaxPool3d | nn.AvgPool3d) -> nn.Module | None:
    """MaxPool3d or AvgPool3d over (1, k, k) as a pool over (k, k); None if it pools over the group axis.

    None as well if it returns indices, which count along the group axis.
    """
    if getattr(pool, "return_indices", False):
        return None
    planar: dict[str, Any] = {}
    for name in pool.__constants__:
        value = getattr(pool, name)
        if name in ("kernel_size", "stride", "padding", "dilation"):
            along, *spatial = value if isinstance(value, Sequence) else (value,) * 3
            if along != (0 if name == "padding" else 1):
                return None
            planar[name] = tuple(spatial)
        else:
            planar[name] = value
    kind = nn.MaxPool2d if isinstance(pool, nn.MaxPool3d) else nn.AvgPool2d
    return kind(**planar).train(pool.training)
