"""Cases of whole training steps: every layer on gconv's choice of backend against every layer on the dense bank."""

from __future__ import annotations

from dataclasses import replace

import torch
from measure import Case, Contest, Setting
from torch import nn

import gconv.nn as gnn
from sgan.config import resolve
from sgan.data import load_dataset
from sgan.trainer import Trainer

TOLERANCE = 1e3 * torch.finfo(torch.float32).eps

# digits-c4 as it is, and the networks of SP-GAN's RotMNIST rows: 512, 256, 128 (G) and 128, 256, 512 (D) by sqrt(|G|).
CASES = [
    Case("digits-c4", "train", "C4", 0, 0, 28, "step", mode="G 38/19/10, D 16/32/65", quick=True),
    Case("rotmnist-c4", "train", "C4", 0, 0, 28, "step", batch=16, mode="G 256/128/64, D 64/128/256"),
]


def contest(case: Case, setting: Setting) -> Contest:
    """One step of the trainer (2 D steps, 1 G step, Adam, R1, moving average) against the same step on dense."""
    runs = [trainer(case, setting, backend).step for backend in (setting.backend, "dense")]
    return Contest(runs[0], {"dense": {"": runs[1]}}, check=lambda: errors(case, setting))


def trainer(case: Case, setting: Setting, backend: str | None) -> Trainer:
    """A seeded trainer of the case's networks, every layer of them on the backend.

    Raises:
        ValueError: the networks have not the widths that the case states.
    """
    data = resolve("digits-c4").data
    options = replace(resolve(case.op, data=data), device=setting.device, batch=case.batch)
    made = Trainer(options, load_dataset(data))
    widths = ("/".join(map(str, network.widths)) for network in (made.generator, made.discriminator))
    found = "G {}, D {}".format(*widths)
    if found != case.mode:
        raise ValueError(f"train_step: widths must be {case.mode}, got {found}")
    for network in (made.generator, made.discriminator):
        _set_backend(network, backend)
    return made


def _set_backend(network: nn.Module, backend: str | None) -> None:
    for module in network.modules():
        if isinstance(module, (gnn.LiftingConv2d, gnn.GroupConv2d, gnn.GroupPool)):
            module.backend = backend


def errors(case: Case, setting: Setting) -> dict[str, float]:
    """Differences of the first losses and of the discriminator's first gradients, R1's included, over TOLERANCE.

    Later steps are no test: Adam without momentum moves every weight by the sign of its gradient, so where a gradient
    is all rounding two equal trainers part.
    """
    both = [trainer(case, setting, backend) for backend in (setting.backend, "dense")]
    found = []
    for made in both:
        scalars = made.step_discriminator(*made.next_real_batch())
        gradients = torch.cat([p.grad.flatten() for p in made.discriminator.parameters() if p.grad is not None])
        found.append(scalars | {"gradient": gradients})
    ours, dense = found
    return {name: float((ours[name] - dense[name]).norm() / dense[name].norm()) / TOLERANCE for name in ours}
