"""Leaving: a model of group layers as one of torch.nn.Conv2d and other standard modules, on flattened maps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrizations

from gconv.functional import expand_filter
from gconv.groups import Cosets
from gconv.nn.batch_norm import GroupBatchNorm2d, GroupConditionalBatchNorm2d
from gconv.nn.conv import GroupConv2d, LiftingConv2d
from gconv.nn.conv_transpose import GroupConvTranspose2d
from gconv.nn.pool import GroupPool
from gconv.nn.resample import GroupDownsample2d, GroupUpsample2d
from gconv.nn.spectral_norm import _OperatorNorm

Module = TypeVar("Module", bound=nn.Module)


def to_planar(module: nn.Module, *, containers: Sequence[type[nn.Module]] = ()) -> nn.Module:
    """The same function as a model of torch.nn.Conv2d and other standard modules, on flattened maps.

    ``to_planar(model)(x)`` equals ``model(x)``, with maps of the group flattened: ``x.flatten(1, 2)``, channel order
    c * |G| + s, at both ends. The result needs none of gconv's ops, so it exports with torch.export and to ONNX; it
    pays for it with the expanded banks, |G| times the weights, and does not stay equivariant if it is trained.

    Containers keep their structure and names. Convolutions become Conv2d and ConvTranspose2d, group batch norms (and
    BatchNorm3d, SyncBatchNorm) BatchNorm2d with repeated statistics, pools over the group a reduction over channels;
    pools over (1, k, k) become two-dimensional; up- and down-sampling and elementwise modules act alike on flattened
    maps. Norms, borders and dropouts that need a map's axes get them between Unflatten and Flatten. Where the map is an
    image, before the lifting convolution, behind a pool over the whole group or in a branch that begins with a layer
    for images, modules without group layers stay as they are, hooks and all. A model in which no layer tells its group
    is taken to act on images.

    Everything else is refused by name and path, since its planar form is not known: other modules; subclasses that run
    otherwise than their base class; hooks, and other people's parametrisations, on what is converted; modules that are
    random or change their own state in training mode. State_dict hooks do not move along: the new state_dict has other
    shapes.

    A class of your own takes part in one of two ways. Named in ``containers`` it is walked into. Or it has a method
    ``to_planar(self, conversion)``, which returns its planar form: see :class:`PlanarConversion`. A parametrisation of
    your own whose class says ``constant_in_eval = True`` is taken as applied, like torch's and gconv's.

    Args:
        module: a gconv layer, a standard module, or nn.Sequential, nn.ModuleList or nn.ModuleDict of such, nested.
            Weights normalised by torch.nn.utils.parametrizations or gconv.nn.spectral_norm are taken as applied.
        containers: classes of your own to walk into. Their forward must run as well on flattened maps: it passes maps
            from child to child, in the order in which the children were registered, and adds or concatenates them
            along the channels; nothing but a GroupPool takes the group's axis away. Branches on images may come in
            between; each begins with a layer that takes only images, such as LiftingConv2d or torch.nn.Conv2d.

    Returns:
        The new model, with its own copy of the weights, in the mode (train or eval) of the old one. What the old one
        uses in several places the new one does, too, wherever the maps are of the same group.

    Raises:
        TypeError: a module that is not known to act alike on flattened maps, named by its path; a lazy one that has
            not run, or one with a tensor that is computed from others, which no copy keeps.
        ValueError: a module on maps of the group that is random in training mode, or normalises by the batch: a batch
            norm in training mode or without running statistics, whose statistics, shared by the orientations, have no
            planar form. A layer of one group behind another, or behind an image.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"to_planar: module must be a Module, got {type(module).__name__}")
    _check_copyable(module)
    return PlanarConversion(tuple(containers), _told(module, None)).convert(copy.deepcopy(module))


class PlanarConversion:
    """One run of :func:`to_planar`, as the method ``to_planar`` of a class of your own sees it.

    The method is called on a copy of the module, returns its planar form, and leaves ``order`` as that of the maps
    which that gives. Where forward runs as well on flattened maps it is ``return conversion.children(self)``.
    Subclasses inherit it, so one with another forward overrides it, too.

    Attributes:
        order: |G| of the map at hand, None for an image; 1 where it is a map of one orientation, (N, C, 1, H, W).
    """

    def __init__(self, containers: tuple[type[nn.Module], ...], order: int | None) -> None:
        self.order = order
        self._containers = containers
        self._path: list[str] = []
        self._converted: dict[tuple[nn.Module, int | None], tuple[nn.Module, int | None]] = {}

    def convert(self, module: nn.Module) -> nn.Module:
        """The planar form, the same one every time that the module meets maps of an order, so what is shared stays so.

        Raises:
            TypeError, ValueError: as :func:`to_planar`.
        """
        met = module, self.order
        if met not in self._converted:
            self._converted[met] = self._planar(module), self.order
        planar, self.order = self._converted[met]
        return planar

    def children(self, module: Module, orders: Mapping[str, int | None] | None = None) -> Module:
        """A copy of the module with its children converted, each where it branches off or behind the one before.

        Args:
            module: whose forward runs as well on flattened maps.
            orders: ``order`` of what some children take, by name. A layer of gconv that the child begins with tells it,
                and so does a layer of torch that takes only images; otherwise it is what the child before gives.
        """
        given = orders or {}
        branched = False  # from maps to an image: of what comes next, either may come

        def order(name: str, child: nn.Module) -> int | None:
            nonlocal branched
            told = given[name] if name in given else _told(child, _UNTOLD)
            if told == _UNTOLD:
                if branched and self.order is None and not _elementwise(child):
                    self._path.append(name)
                    self._refuse(
                        "say by its layers what it takes behind a branch on images",
                        child,
                        ": give the class around it a method to_planar that returns conversion.children(self, "
                        f"{{{name!r}: |G| or None}})",
                    )
                return self.order
            branched = told is None and name not in given and (branched or self.order is not None)
            return told

        return self._walk(module, order)

    def _walk(self, module: Module, order: Callable[[str, nn.Module], int | None]) -> Module:
        planar = copy.copy(module)
        planar._modules = {}
        for name, child in module._modules.items():
            if child is not None:
                self.order = order(name, child)
                self._path.append(name)
                child = self.convert(child)
                self._path.pop()
            planar._modules[name] = child
        return planar

    def _chain(self, module: nn.Module) -> nn.Module:
        return self._walk(module, lambda name, child: self.order)

    def _planar(self, module: nn.Module) -> nn.Module:
        if self.order is None and not any(isinstance(part, _OF_MAPS) for part in module.modules()):
            return module
        self._check_hooks(module)
        if _converts_itself(module):
            planar: nn.Module = module.to_planar(self)  # type: ignore[operator]
            return planar
        container = next((kind for kind in type(module).__mro__ if kind in self._containers), None)
        if container is not None and not isinstance(module, _OF_MAPS):  # layers are no containers
            self._check_methods(module, container)
            self._check_own_tensors(module)
            return self.children(module)
        kind = next((kind for kind in type(module).__mro__ if kind in _CONVERTERS), None)
        alike = None
        if kind is not None:
            self._check_methods(module, kind)
            self._check_parametrisations(module)
            alike = _CONVERTERS[kind](self, module)
        if alike is None:
            self._refuse(
                "be made of layers that act alike on flattened maps",
                module,
                "; if its forward only passes maps on between its children, name its class in containers, else give it "
                "a method to_planar",
            )
        return alike

    def _check_hooks(self, module: nn.Module) -> None:
        for attribute, name in _HOOKS.items():
            for hook in getattr(module, attribute).values():
                self._refuse(
                    "have no hooks on what is converted",
                    module,
                    f" with the {name} {getattr(hook, '__qualname__', type(hook).__qualname__)}: remove it, make its "
                    "work a module's, or for weights a parametrisation of torch.nn.utils.parametrizations",
                )
        if "forward" in vars(module):
            self._refuse_methods(module, "forward")

    def _check_methods(self, module: nn.Module, kind: type[nn.Module]) -> None:
        """Whether it runs as its base class does, whose planar form is known."""
        for name in _RUN:
            if name in vars(module) or getattr(type(module), name, None) is not getattr(kind, name, None):
                self._refuse_methods(module, name)

    def _refuse_methods(self, module: nn.Module, name: str) -> NoReturn:
        self._refuse(
            "run as the known class that it is made from",
            module,
            f" with a {name} of its own: if that only passes maps on between its children, name its class in "
            "containers, else give it a method to_planar",
        )

    def _check_parametrisations(self, module: nn.Module) -> None:
        for name, parts in getattr(module, "parametrizations", {}).items():
            for part in parts:
                moves = isinstance(part, _MOVING_PARAMETRISATIONS) or getattr(part, "constant_in_eval", False) is True
                if not moves and type(part).__module__ != parametrizations.__name__:
                    self._refuse(
                        "have no parametrisations of unknown classes on what is converted",
                        module,
                        f" with {type(part).__name__} of its {name}: say constant_in_eval = True in that class if it "
                        "is a function of the parameter alone in evaluation, or make it permanent with "
                        "torch.nn.utils.parametrize.remove_parametrizations",
                    )
                if moves and part.training:
                    self._refuse(
                        "be in eval mode", module, f" with {type(part).__name__} in training mode", error=ValueError
                    )

    def _check_own_tensors(self, module: nn.Module) -> None:
        """A tensor that broadcasts over a map's channels would meet the batch of a flattened map."""
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None and tensor.dim() >= 4 and tensor.shape[-4] != 1:
                self._refuse(
                    "hold tensors for maps in layers that convert",
                    module,
                    f" with {name} of shape {tuple(tensor.shape)}: give its class a method to_planar",
                )

    def _check_order(self, module: nn.Module, takes: int | None) -> None:
        if takes != self.order:
            self._refuse(
                "give every layer what it takes",
                module,
                f", which takes {_named(takes)}, behind {_named(self.order)}",
                error=ValueError,
            )

    def _check_eval(self, module: nn.Module) -> None:
        if module.training:
            self._refuse("be in eval mode", module, " in training mode, where what it does is random", error=ValueError)

    def _refuse(self, must: str, module: nn.Module, why: str, *, error: type[Exception] = TypeError) -> NoReturn:
        where = ".".join(self._path) or "its root"
        raise error(f"to_planar: module must {must}, got {type(module).__name__} at {where!r}{why}")


class FlatGroupPool(nn.Module):
    """gconv.nn.GroupPool on a flattened map: (N, C * |G|, H, W) -> (N, C * cosets, H, W), by standard ops.

    Args:
        cosets: the elements that are pooled together.
        mode: "max" or "mean".
    """

    def __init__(self, cosets: Cosets, mode: str) -> None:
        super().__init__()
        self.mode = mode
        self.cosets = cosets

    def forward(self, x: Tensor) -> Tensor:
        planes = x.unflatten(1, (-1, sum(map(len, self.cosets))))
        if len(self.cosets) == 1:  # the whole group, in whatever order
            planes = planes.unsqueeze(2)
        else:  # by the numbers: an index tensor would be a buffer, which a meta device or to_empty makes garbage
            planes = torch.stack([torch.stack([planes[:, :, s] for s in coset], 2) for coset in self.cosets], 2)
        pooled = planes.amax(3) if self.mode == "max" else planes.mean(3)
        return pooled.flatten(1, 2)

    def extra_repr(self) -> str:
        return f"mode={self.mode!r}, cosets={[list(coset) for coset in self.cosets]}"


class FlatConditionalBatchNorm2d(nn.Module):
    """gconv.nn.GroupConditionalBatchNorm2d on a flattened map: (1 + gamma(c)) * norm(x) + beta(c)."""

    def __init__(self, norm: nn.Module, gamma: nn.Module, beta: nn.Module) -> None:
        super().__init__()
        self.norm, self.gamma, self.beta = norm, gamma, beta

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x: (N, C * |G|, H, W), condition: (N, condition_features) -> (N, C * |G|, H, W)."""
        scale, shift = (1 + self.gamma(condition))[:, :, None, None], self.beta(condition)[:, :, None, None]
        return scale * self.norm(x) + shift


def _check_copyable(module: nn.Module) -> None:
    for path, part in module.named_modules():
        where = f"{type(part).__name__} at {path or 'its root'!r}"
        tensors = {**part._parameters, **part._buffers, **vars(part)}
        if any(map(is_lazy, tensors.values())):
            raise TypeError(f"to_planar: module must know its sizes, got {where}: run the model once")
        for name, tensor in tensors.items():
            if isinstance(tensor, Tensor) and not tensor.is_leaf:
                makers = [f"{type(hook).__qualname__} makes" for hook in part._forward_pre_hooks.values()]
                raise TypeError(
                    f"to_planar: module must hold tensors that can be copied, got {where} with {name} that "
                    f"{' or '.join(makers) or 'is computed'}: for weights use torch.nn.utils.parametrizations, or make "
                    "it permanent"
                )


def _elementwise(module: nn.Module) -> bool:
    """Whether it is the same on maps and on images."""
    one_slope = type(module) is nn.PReLU and module.num_parameters == 1
    return one_slope or _CONVERTERS.get(type(module)) is _alike


_UNTOLD = -1  # no order


def _told(module: nn.Module, default: int | None) -> int | None:
    """What the module's first layer that can tell says of ``order`` of its input."""
    for part in module.modules():
        if _converts_itself(part) or isinstance(part, _OF_ANY_RANK):
            return default
        if isinstance(part, _OF_IMAGES):
            return None
        if isinstance(part, GroupConv2d | GroupConvTranspose2d | GroupPool):
            return part.group.order
    return default


def _converts_itself(module: nn.Module) -> bool:
    return hasattr(type(module), "to_planar")


def _named(order: int | None) -> str:
    return "an image" if order is None else f"a map of {order} orientation{'s' if order > 1 else ''}"


def _convolution(
    conversion: PlanarConversion, module: LiftingConv2d | GroupConv2d | GroupConvTranspose2d
) -> nn.Conv2d | nn.ConvTranspose2d:
    conversion._check_order(module, None if isinstance(module, LiftingConv2d) else module.group.order)
    conversion.order = module.group.order
    with torch.enable_grad():  # which tells whether it is trained, and keeps nothing in the layer
        spatial = module.spatial_filter()
    bank = expand_filter(spatial.detach(), module.group)
    options: dict[str, Any] = {
        "kernel_size": module.kernel_size,
        "stride": module.stride,
        "padding": module.padding,
        "bias": module.bias is not None,
        "device": "meta",  # nothing is drawn
    }
    first, second = bank.shape[:2]
    planar: nn.Conv2d | nn.ConvTranspose2d
    if isinstance(module, GroupConvTranspose2d):
        planar = nn.ConvTranspose2d(first, second, output_padding=module.output_padding, **options)
    else:
        options |= {"padding_mode": module.padding_mode, "dilation": module.dilation, "groups": module.groups}
        planar = nn.Conv2d(second * module.groups, first, **options)
    planar.weight = _parameter(bank, spatial)
    planar.register_parameter("bias", _repeated(module.bias, module.group.order))
    return planar.train(module.training)


def _group_pool(conversion: PlanarConversion, pool: GroupPool) -> nn.Module:
    conversion._check_order(pool, pool.group.order)
    cosets = pool.group.cosets(pool.subgroup or pool.group.elements)
    conversion.order = None if pool.subgroup is None else len(cosets)
    return FlatGroupPool(cosets, pool.mode).train(pool.training)


def _upsample(conversion: PlanarConversion, module: GroupUpsample2d) -> nn.Module:
    """An image or a flattened map is all the same to it; exporters know "nearest" under torch's name."""
    nearest = module.mode == "nearest"
    return nn.Upsample(scale_factor=2, mode="nearest").train(module.training) if nearest else module


def _batch_norm(conversion: PlanarConversion, norm: nn.BatchNorm3d | nn.SyncBatchNorm) -> nn.Module | None:
    order, mean, variance = conversion.order, norm.running_mean, norm.running_var
    if order is None:
        return None
    if norm.training or mean is None or variance is None:
        conversion._refuse(
            "be in eval mode and keep running statistics",
            norm,
            f" {'in training mode' if norm.training else 'without statistics'}",
            error=ValueError,
        )
    planar = nn.BatchNorm2d(norm.num_features * order, norm.eps, norm.momentum, affine=False)
    planar.affine, planar.track_running_stats = norm.affine, norm.track_running_stats
    planar.running_mean, planar.running_var = _repeat(mean, order), _repeat(variance, order)
    planar.num_batches_tracked = norm.num_batches_tracked
    planar.register_parameter("weight", _repeated(norm.weight, order))
    planar.register_parameter("bias", _repeated(norm.bias, order))
    return planar.eval()


def _conditional_norm(conversion: PlanarConversion, module: GroupConditionalBatchNorm2d) -> nn.Module | None:
    order = conversion.order
    if order is None:
        return None
    linear = (_condition_map(conversion, name, getattr(module, name), order) for name in ("gamma", "beta"))
    conversion._path.append("norm")
    norm = conversion.convert(module.norm)
    conversion._path.pop()
    return FlatConditionalBatchNorm2d(norm, *linear).train(module.training)


def _condition_map(conversion: PlanarConversion, name: str, linear: nn.Module, order: int) -> nn.Linear:
    """Linear in the condition, a number per channel, repeated for every orientation."""
    conversion._path.append(name)
    conversion._check_hooks(linear)
    if not isinstance(linear, nn.Linear):
        conversion._refuse("have a Linear for the scale and one for the shift", linear, "")
    conversion._check_methods(linear, nn.Linear)
    conversion._check_parametrisations(linear)
    conversion._path.pop()
    planar = nn.Linear(linear.in_features, linear.out_features * order, linear.bias is not None, device="meta")
    planar.register_parameter("weight", _repeated(linear.weight, order))
    planar.register_parameter("bias", _repeated(linear.bias, order))
    return planar.train(linear.training)


def _prelu(conversion: PlanarConversion, module: nn.PReLU) -> nn.Module:
    if module.num_parameters == 1 or conversion.order is None:
        return module
    planar = nn.PReLU(module.num_parameters * conversion.order, device="meta")
    planar.register_parameter("weight", _repeated(module.weight, conversion.order))
    return planar.train(module.training)


def _spatial_pool(conversion: PlanarConversion, pool: nn.MaxPool3d | nn.AvgPool3d | nn.LPPool3d) -> nn.Module | None:
    """A pool over (1, k, k) as one over (k, k); None if it pools over the group axis.

    None as well if it returns indices, which count along the group axis.
    """
    if getattr(pool, "return_indices", False):
        return None
    planar: dict[str, Any] = {}
    for name in pool.__constants__:
        value = getattr(pool, name)
        if name in ("kernel_size", "stride", "padding", "dilation") and value is not None:
            along, *spatial = _triple(value)
            if along != (0 if name == "padding" else 1):
                return None
            planar[name] = tuple(spatial)
        else:
            planar[name] = value
    flat = {nn.MaxPool3d: nn.MaxPool2d, nn.AvgPool3d: nn.AvgPool2d, nn.LPPool3d: nn.LPPool2d}
    kind = next(flat[kind] for kind in type(pool).__mro__ if kind in flat)
    return kind(**planar).train(pool.training)


def _adaptive_pool(conversion: PlanarConversion, pool: nn.AdaptiveAvgPool3d | nn.AdaptiveMaxPool3d) -> nn.Module | None:
    if getattr(pool, "return_indices", False):
        return None
    along, *spatial = _triple(pool.output_size)
    if along is not None and along != conversion.order:
        planar = _as_map(conversion, pool)
        conversion.order = along
        return planar
    kind = nn.AdaptiveMaxPool2d if isinstance(pool, nn.AdaptiveMaxPool3d) else nn.AdaptiveAvgPool2d
    return kind(tuple(spatial)).train(pool.training)


def _resize(conversion: PlanarConversion, module: nn.Upsample) -> nn.Module | None:
    """torch's, which takes the group axis for depth, where that stays as long as it is."""
    size, scale = module.size, module.scale_factor
    along = _triple(scale)[0] == 1 if size is None else _triple(size)[0] == conversion.order
    return _as_map(conversion, module) if along else None


def _border(conversion: PlanarConversion, module: nn.Module) -> nn.Module | None:
    """torch's, which takes the group axis for depth, where that gets none."""
    padding: tuple[int, ...] = module.padding  # type: ignore[assignment]
    return _as_map(conversion, module) if tuple(padding[4:]) == (0, 0) else None


def _flatten(conversion: PlanarConversion, module: nn.Flatten) -> nn.Module | None:
    if conversion.order is None:
        return module
    start, end = module.start_dim % 5, module.end_dim % 5
    if start != 1 or end not in (2, 4):
        return None
    conversion.order = None
    return (nn.Flatten(1) if end == 4 else nn.Identity()).train(module.training)


def _alike(conversion: PlanarConversion, module: nn.Module) -> nn.Module:
    return module


def _as_map(conversion: PlanarConversion, module: nn.Module) -> nn.Module:
    """The module itself, on the map with its axes."""
    if conversion.order is None:
        return module
    planar = nn.Sequential(nn.Unflatten(1, (-1, conversion.order)), nn.Flatten(1, 2)).train(module.training)
    planar.insert(1, module)
    return planar


def _random(conversion: PlanarConversion, module: nn.Module) -> nn.Module:
    conversion._check_eval(module)
    return module


def _random_as_map(conversion: PlanarConversion, module: nn.Module) -> nn.Module:
    """Drops channels with all their orientations; Dropout2d, too, which of a map does what Dropout3d does."""
    conversion._check_eval(module)
    if isinstance(module, nn.Dropout2d):
        module = nn.Dropout3d(module.p, module.inplace).eval()
    return _as_map(conversion, module)


def _triple(value: Any) -> Sequence[Any]:
    return value if isinstance(value, Sequence) else (value,) * 3


def _parameter(value: Tensor, like: Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach().clone(memory_format=torch.contiguous_format), requires_grad=like.requires_grad)


def _repeated(per_channel: Tensor | None, order: int) -> nn.Parameter | None:
    return None if per_channel is None else _parameter(_repeat(per_channel, order), per_channel)


def _repeat(per_channel: Tensor, order: int) -> Tensor:
    return per_channel.repeat_interleave(order, dim=0)


_Converter = Callable[[PlanarConversion, Any], nn.Module | None]


def _table() -> dict[type[nn.Module], _Converter]:
    """What makes the planar form of a class of module on maps, None where its options have none."""
    alike = (
        GroupDownsample2d, nn.CELU, nn.ConstantPad1d, nn.ConstantPad2d, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid,
        nn.Hardswish, nn.Hardtanh, nn.Identity, nn.LeakyReLU, nn.LogSigmoid, nn.Mish, nn.ReLU, nn.ReLU6, nn.SELU,
        nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Softshrink, nn.Softsign, nn.Tanh, nn.Tanhshrink, nn.Threshold,
        nn.ZeroPad1d, nn.ZeroPad2d,
    )  # fmt: skip
    as_map = (nn.ChannelShuffle, nn.GroupNorm, nn.InstanceNorm3d, nn.LayerNorm, nn.LocalResponseNorm, nn.RMSNorm)
    borders = (nn.CircularPad3d, nn.ConstantPad3d, nn.ReflectionPad3d, nn.ReplicationPad3d, nn.ZeroPad3d)
    kinds: dict[_Converter, tuple[type[nn.Module], ...]] = {
        PlanarConversion._chain: (nn.Sequential,),
        PlanarConversion.children: (nn.ModuleDict, nn.ModuleList),
        _convolution: (GroupConv2d, GroupConvTranspose2d, LiftingConv2d),
        _group_pool: (GroupPool,),
        _upsample: (GroupUpsample2d,),
        _batch_norm: (GroupBatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
        _conditional_norm: (GroupConditionalBatchNorm2d,),
        _prelu: (nn.PReLU,),
        _spatial_pool: (nn.AvgPool3d, nn.LPPool3d, nn.MaxPool3d),
        _adaptive_pool: (nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool3d),
        _resize: (nn.Upsample,),
        _border: borders,
        _flatten: (nn.Flatten,),
        _random: (nn.AlphaDropout, nn.Dropout, nn.RReLU),
        _random_as_map: (nn.Dropout2d, nn.Dropout3d, nn.FeatureAlphaDropout),
        _alike: alike,
        _as_map: as_map,
    }
    return {kind: converter for converter, converted in kinds.items() for kind in converted}


_CONVERTERS = _table()
_RUN = (  # what a call runs through
    "forward", "__call__", "_call_impl", "__iter__", "spatial_filter", "_op_filter", "_padded",
)  # fmt: skip
_HOOKS = {
    "_forward_hooks": "forward hook",
    "_forward_pre_hooks": "forward pre-hook",
    "_backward_hooks": "backward hook",
    "_backward_pre_hooks": "backward pre-hook",
}
_MOVING_PARAMETRISATIONS = (_OperatorNorm, parametrizations._SpectralNorm)  # they iterate in training mode
_OF_MAPS = (
    GroupConditionalBatchNorm2d, GroupConv2d, GroupConvTranspose2d, GroupPool, LiftingConv2d, nn.BatchNorm3d,
)  # fmt: skip
_OF_IMAGES = (
    LiftingConv2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.AvgPool2d, nn.BatchNorm2d, nn.CircularPad2d,
    nn.Conv2d, nn.ConvTranspose2d, nn.InstanceNorm2d, nn.LPPool2d, nn.MaxPool2d, nn.ReflectionPad2d,
    nn.ReplicationPad2d, nn.Softmax2d, nn.UpsamplingBilinear2d,
)  # fmt: skip
_OF_ANY_RANK = (nn.Flatten, nn.Unflatten)  # what comes behind them tells nothing of what comes before
