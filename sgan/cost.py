"""What a training step costs, counted, not measured: floating-point operations, the same on every machine.

Counted are convolutions and matrix products, a multiplication and an addition as two operations, in every pass of every
update: both players, forward and backward, the second derivatives of penalties, and the filters that are made of
weights. What is small beside them is not: activations, batch norms, products of a matrix and a vector, Adam.

A group convolution has two counts. In the group-Fourier form, which gconv's "cpu" backend runs, it is one product of
matrices per irrep (csrc/cpu/engine.h); its butterflies have no multiplications. As a dense filter bank, which every
other backend and library runs, it takes |G|^2 C_out C_in K^2 multiplications per pixel. Backends that insert zeros for
a stride multiply by them too; these are in neither count.

`python -m sgan.cost` counts every preset again, on tensors without values, and writes `costs.json`, which
`python -m sgan.train --list` prints.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from gconv import PlanarGroup, group_from_name
from sgan.architectures import GENERATORS
from sgan.config import Options
from sgan.data.dataset import Dataset, ImageSet, PointSet
from sgan.data.toy2d import TOY2D
from sgan.presets import COSTS, DATA_SHAPES, PRESETS
from sgan.schedules import LossThreshold
from sgan.trainer import Trainer

__all__ = ["Flop", "FlopCounter", "flop_per_kimg", "preset_flop_per_kimg"]


class Flop(NamedTuple):
    """Floating-point operations, with group convolutions in group-Fourier form and as dense filter banks."""

    fourier: float = 0
    dense: float = 0

    @classmethod
    def total(cls, *terms: tuple[float, Flop]) -> Flop:
        """The sum of factor times count."""
        return cls(*(sum(factor * flop[form] for factor, flop in terms) for form in range(2)))


class FlopCounter(TorchDispatchMode):
    """Counts the operations of the torch ops that run in a `with` block, on tensors with or without values.

    torch.utils.flop_counter.FlopCounterMode with gconv's ops beside torch's, and without that mode's table of modules,
    whose hooks refuse torch.autograd.grad with respect to an input: every penalty on a gradient.

    Attributes:
        flop: counted so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flop = Flop()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        op = func.overloadpacket
        if op in flop_registry:
            count = flop_registry[op](*args, **(kwargs or {}), out_val=out)
            self.flop = Flop.total((1, self.flop), (1, Flop(count, count)))
        elif op in _CONVOLUTIONS:
            self.flop = Flop.total((1, self.flop), (1, _convolution_flop(*_CONVOLUTIONS[op](args, out))))
        return out


def _convolution_flop(weight: Tensor, feature_map: Tensor, group: PlanarGroup) -> Flop:
    """Of a pass with this filter and this map on its output's side; gradients have as many as the pass forward.

    Each of the filter's numbers meets every pixel in every orientation. Of group convolutions the group-Fourier form
    takes sum over irreps of `Irrep.multiplications` instead of |H|^2, H the lattice group that the layer runs on.
    """
    lattice = group.lattice
    orientations = lattice.order
    dense = 2 * feature_map.shape[0] * feature_map.shape[-2] * feature_map.shape[-1] * weight.numel() * orientations
    if weight.ndim == 4:
        return Flop(dense, dense)
    return Flop(dense * sum(irrep.multiplications for irrep in lattice.irreps) / orientations**2, dense)


_Operands = tuple[Tensor, Tensor, PlanarGroup]
# gconv's ops, to filter, map on the output's side and group, from arguments and result.
_CONVOLUTIONS: dict[Any, Callable[[tuple[Any, ...], Tensor], _Operands]] = {}
for _name in ("lifting_conv2d", "group_conv2d"):
    _CONVOLUTIONS |= {
        getattr(torch.ops.gconv, _name): lambda args, out: (args[1], out, group_from_name(args[3])),
        getattr(torch.ops.gconv, f"{_name}_input_grad"): lambda args, out: (args[1], args[0], group_from_name(args[4])),
        getattr(torch.ops.gconv, f"{_name}_weight_grad"): lambda args, out: (out, args[1], group_from_name(args[3])),
    }


def flop_per_kimg(trainer: Trainer, real: Tensor, condition: Tensor) -> Flop:
    """Operations of training per thousand real images shown to D; takes an update of each player on this batch.

    Under a threshold the losses decide whose turn it is; half of the updates are taken to be each player's.

    Args:
        trainer: of any preset, on any device.
        real, condition: a batch, as from `Trainer.next_real_batch`.
    """
    of_d = _counted(lambda: trainer.step_discriminator(real, condition))
    of_g = _counted(lambda: trainer.step_generator(real, condition))
    kimg_per_step = trainer.options.images_per_step / 1000
    if trainer.threshold is None:
        return Flop.total((trainer.options.d_steps / kimg_per_step, of_d), (1 / kimg_per_step, of_g))
    of_choice = _counted(lambda: trainer.evaluated_generator_loss(real, condition))
    updates = LossThreshold.UPDATES / kimg_per_step
    return Flop.total((updates, of_choice), (updates / 2, of_d), (updates / 2, of_g))


def _counted(do: Callable[[], object]) -> Flop:
    with FlopCounter() as counter:
        do()
    return counter.flop


def preset_flop_per_kimg(options: Options) -> Flop:
    """`flop_per_kimg` of a preset's options on data of the published shape, in tensors without values."""
    shape = DATA_SHAPES[options.data]
    side = options.resolution or shape.resolution
    kind = GENERATORS[options.generator].kind
    labels = torch.zeros(options.batch, dtype=torch.int64)
    if kind == "points":
        samples: ImageSet = PointSet(torch.empty(options.batch, 2), labels)
    else:
        images = torch.empty(options.batch, shape.channels, side, side, dtype=torch.uint8)
        samples = ImageSet(images, labels, paired=images if kind == "pairs" else None)
    names = tuple(map(str, range(shape.num_classes)))
    dataset = Dataset(options.data, samples, samples, samples, names, {}, law=TOY2D.get(options.data))
    trainer = Trainer(replace(options, device="meta"), dataset)
    chosen = torch.arange(options.batch)
    condition = trainer.kind.condition(samples, chosen)
    on_meta = condition.to("meta") if kind == "pairs" else condition  # labels are one-hot indices
    return flop_per_kimg(trainer, trainer.train_set.batch(chosen), on_meta)


def main() -> None:
    """Write `costs.json`: GFLOP per kimg in group-Fourier form, by preset, to four digits."""
    costs: dict[str, float] = {}
    for name, preset in PRESETS.items():
        costs[name] = stored(preset_flop_per_kimg(Options(preset=name, **preset.changes)))
        print(f"{name}: {costs[name]:g} GFLOP per kimg", flush=True)
    COSTS.write_text(json.dumps(costs, indent=2) + "\n")


def stored(flop: Flop) -> float:
    """What `costs.json` holds of a count."""
    return float(f"{flop.fourier / 1e9:.4g}")


if __name__ == "__main__":
    main()
