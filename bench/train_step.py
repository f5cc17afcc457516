"""Cases of whole training steps: every layer on gconv's choice of backend against every layer on the dense bank."""

from __future__ import annotations

from dataclasses import replace

import click
import torch
from measure import Case, Contest, Run, Setting, is_gpu
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
    Case("digits-c4", "gpu train", "C4", 0, 0, 28, "step", mode="G 38/19/10, D 16/32/65"),
    Case("digits-d4", "gpu train", "D4", 0, 0, 28, "step", mode="G 28/14/7, D 12/23/46"),
    Case("rotmnist-c4", "gpu train", "C4", 0, 0, 28, "step", batch=64, mode="G 256/128/64, D 64/128/256"),
]


def contest(case: Case, setting: Setting) -> Contest:
    """One step of the trainer (2 D steps, 1 G step, Adam, R1, moving average) against the same step on dense.

    On a GPU also against dense with the generator under torch.compile; the discriminator cannot be, for R1
    differentiates it twice, which compiled modules refuse.
    """
    runs = [trainer(case, setting, backend).step for backend in (setting.backend, "dense")]
    rivals: dict[str, dict[str, Run]] = {"dense": {"": runs[1]}}
    if is_gpu(setting.device) and (compiled := compiled_step(case, setting)):
        rivals["compiled dense"] = {"": compiled}
    return Contest(runs[0], rivals, check=lambda: errors(case, setting))


def compiled_step(case: Case, setting: Setting) -> Run | None:
    """The step on dense with a compiled generator; None, and a word why, where torch.compile gives up on it."""
    compiled = trainer(case, setting, "dense")
    compiled.generator.compile()
    try:
        compiled.step()
    except Exception as error:  # of any of its compilers
        click.echo(f"left out: compiled dense: {type(error).__name__}: {str(error).splitlines()[:1]}", err=True)
        return None
    return compiled.step


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
