"""Layers one after the other, checked to be on one group."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Self

from torch import nn
from torch.nn.utils.parametrize import type_before_parametrizations

from gconv.groups import PlanarGroup
from gconv.nn.conv import _Convolution
from gconv.nn.pool import GroupPool

_IMAGE = "an image"
_CHANGES_SHAPE = (nn.Flatten, nn.Unflatten)


class Sequential(nn.Sequential):
    """torch.nn.Sequential that refuses layers of different groups when it is built, not when it has been trained.

    A map of C4 and one of D2 both have four planes, so a layer on D2 runs on a map of C4 and is equivariant to nothing.
    A tensor does not carry its group, and a check in every call would have to be traced and compiled, too; the layers
    know theirs, and whoever builds a network puts them in order once. So the check costs nothing afterwards: this is
    torch's container with its names, its state_dict and its forward.

    Torch's own layers pass on what comes in; behind a module of other origin, behind a pool over cosets and behind
    ``Flatten`` the group is not known, and the next layer's is taken.

    Args:
        layers: as torch.nn.Sequential takes them.

    Raises:
        ValueError: a layer on another group than the map that reaches it, a lifting layer that meets a map, or a layer
            on maps that meets an image. Also when layers are set, appended, inserted, added or deleted.
    """

    def __init__(self, *layers: Any) -> None:
        super().__init__(*layers)
        _check(self)

    def append(self, module: nn.Module) -> Self:
        """As torch's, checked."""
        _check([*self, module])
        return super().append(module)

    def insert(self, index: int, module: nn.Module) -> Self:
        """As torch's, checked."""
        layers = list(self)
        layers.insert(index, module)
        _check(layers)
        return super().insert(index, module)

    def extend(self, sequential: Iterable[nn.Module]) -> Self:
        """As torch's, checked."""
        added = list(sequential)
        _check([*self, *added])
        return super().extend(added)

    def __iadd__(self, other: Iterable[nn.Module]) -> Self:
        return self.extend(other)

    def __add__(self, other: nn.Sequential) -> Sequential:
        return Sequential(*self, *other)

    def __delitem__(self, idx: slice | int) -> None:
        layers = list(self)
        del layers[idx]
        _check(layers)
        super().__delitem__(idx)

    def __setitem__(self, idx: int, module: nn.Module) -> None:
        layers = list(self)
        layers[idx] = module
        _check(layers)
        super().__setitem__(idx, module)


def _check(layers: Iterable[nn.Module]) -> None:
    """Raises for the first layer that does not fit what the layers before it make."""
    made: str | None = None  # an image, a map on a group, or what is not known
    maker = ""
    for layer in _flat(layers):
        if isinstance(layer, _Convolution | GroupPool):
            takes = _IMAGE if isinstance(layer, _Convolution) and layer.lifting else _map(layer.group)
            name = type_before_parametrizations(layer).__name__
            if made not in (None, takes):
                raise ValueError(f"Sequential: {name} must be given {takes}, got {made} from {maker} before it")
            made, maker = _made_by(layer), name
        elif not _passes_on(layer):
            made = None


def _flat(layers: Iterable[nn.Module]) -> Iterator[nn.Module]:
    for layer in layers:
        if isinstance(layer, nn.Sequential) and type(layer).forward is nn.Sequential.forward:
            yield from _flat(layer)
        else:
            yield layer


def _passes_on(layer: nn.Module) -> bool:
    """Whether what leaves the layer is on the group that came in: one of torch's or gconv's own, of no parts."""
    own = type(layer).__module__.startswith(("torch.nn.", "gconv.nn."))
    return own and not any(layer.children()) and not isinstance(layer, _CHANGES_SHAPE)


def _made_by(layer: _Convolution | GroupPool) -> str | None:
    if isinstance(layer, _Convolution):
        return _map(layer.group)
    return _IMAGE if layer.subgroup is None else None


def _map(group: PlanarGroup) -> str:
    return f"a map on {group.name}"
