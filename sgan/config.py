"""Presets: one table of what each named configuration changes."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

__all__ = ["BACKENDS", "FLAGS", "GROUPS", "PRESETS", "Options", "Preset", "changed_options", "resolve"]

GROUPS = ("C1", "C2", "C4", "D1", "D2", "D4")
# gconv's backends, named here too because importing gconv loads torch, for which --help would have to wait.
BACKENDS = ("reference", "dense", "cpu")
FLAGS = ("preset", "data", "subset", "kimg", "tick", "seed", "device", "backend")  # options the command line has


@dataclass(frozen=True)
class Options:
    """Everything that decides a run, together with the machine, torch's version and the number of its threads.

    Two runs with equal options on one CPU, with one version of torch and one number of threads, train the same networks
    bit for bit. Sums are split among threads and rounded, so another number of threads gives another, equally good run.

    Attributes:
        preset: name in PRESETS that these options started from.
        data: name of an embedded data set, or a path.
        subset: fraction of the training images to keep, None for all.
        seed: of the data's orientations, the initial weights, the data order, the latents and the group elements.
        kimg: length of training in thousands of real images shown to the discriminator.
        tick: metrics, grid and snapshot every `tick` kimg.
        generator_group, discriminator_group: one of GROUPS; "C1" is planar.
        symmetrise_latent: apply a random group element to each latent map; False is the flawed generator.
        generator_width, discriminator_width: multiply the published widths.
        latent_dim, label_dim: entries of z and of the label embedding.
        batch: images per step of either network.
        d_steps: discriminator steps per generator step.
        lr_g, lr_d: Adam's learning rates; its betas are (0, 0.9).
        r1_weight: weight of R1, which itself contains the half.
        ema_kimg: half-life of the generator's moving average, in kimg; shorter in the beginning.
        norm_momentum: torch's batch norm momentum.
        device: where to train.
        backend: gconv backend of every convolution, None to let gconv choose.
    """

    preset: str
    data: str = "digits-rotated"
    subset: float | None = None
    seed: int = 0
    kimg: int = 40
    tick: int = 4
    generator_group: str = "C4"
    discriminator_group: str = "C4"
    symmetrise_latent: bool = True
    generator_width: float = 0.125
    discriminator_width: float = 0.25
    latent_dim: int = 64
    label_dim: int = 64
    batch: int = 32
    d_steps: int = 2
    lr_g: float = 1e-3
    lr_d: float = 2e-3
    r1_weight: float = 0.1
    ema_kimg: float = 5.0
    norm_momentum: float = 0.9
    device: str = "cpu"
    backend: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            ValueError: an option out of range.
        """
        for name in ("kimg", "tick", "batch", "d_steps", "latent_dim", "label_dim"):
            self._require(name, "an integer >= 1", _is_integer(getattr(self, name), 1))
        self._require("seed", "an integer >= 0", _is_integer(self.seed, 0))
        for name in ("generator_width", "discriminator_width", "lr_g", "lr_d", "ema_kimg"):
            self._require(name, "finite and > 0", 0 < getattr(self, name) < math.inf)
        self._require("r1_weight", "finite and >= 0", 0 <= self.r1_weight < math.inf)
        self._require("norm_momentum", "in (0, 1]", 0 < self.norm_momentum <= 1)
        self._require("subset", "a fraction in (0, 1]", self.subset is None or 0 < self.subset <= 1)
        for name in ("generator_group", "discriminator_group"):
            self._require(name, f"one of {', '.join(GROUPS)}", getattr(self, name) in GROUPS)
        self._require("backend", f"one of {', '.join(BACKENDS)}, or None", self.backend in (None, *BACKENDS))

    def _require(self, name: str, what: str, holds: bool) -> None:
        if not holds:
            raise ValueError(f"Options: {name} must be {what}, got {getattr(self, name)!r}")


def _is_integer(value: Any, minimum: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum


@dataclass(frozen=True)
class Preset:
    """One row of the table: what it is, and the options that differ from the defaults."""

    summary: str
    changes: dict[str, Any]


_PLANAR = {"generator_group": "C1", "discriminator_group": "C1"}
_D4 = {"generator_group": "D4", "discriminator_group": "D4", "data": "digits-rotated-mirrored"}
_C2 = {"generator_group": "C2", "discriminator_group": "C2"}

PRESETS: dict[str, Preset] = {
    "digits-c4": Preset("Eqv G + Inv D, C4: rotations by 90 degrees (the default)", {}),
    "digits-c2": Preset("Eqv G + Inv D, C2: rotations by 180 degrees", _C2),
    "digits-d4": Preset("Eqv G + Inv D, D4: rotations and reflections, on mirrored digits", _D4),
    "digits-cnn": Preset("CNN G + CNN D: the planar baseline with as many parameters", _PLANAR),
    "digits-c4-flawed": Preset(
        "(I)Eqv G + Inv D, C4: the published flawed generator, latent map not symmetrised", {"symmetrise_latent": False}
    ),
    "digits-c4-g-only": Preset("Eqv G + CNN D, C4", {"discriminator_group": "C1"}),
    "digits-c4-d-only": Preset("CNN G + Inv D, C4", {"generator_group": "C1"}),
}


def resolve(preset: str, **overrides: Any) -> Options:
    """The options of a preset, with every override that is not None.

    Raises:
        ValueError: unknown preset, or an option out of range.
    """
    if preset not in PRESETS:
        raise ValueError(f"resolve: preset must be one of {', '.join(PRESETS)}, got {preset!r}")
    given = {name: value for name, value in overrides.items() if value is not None}
    return Options(preset=preset, **{**PRESETS[preset].changes, **given})


def changed_options(before: dict[str, Any], now: Options) -> list[str]:
    """What differs between a run's recorded options and `now`; a larger kimg is no change.

    Returns:
        "--seed was 0, now 1" for an option of the command line, "lr_g was 0.001, now 0.002" for another.
    """
    lines = []
    for field in fields(Options):
        old, new = before.get(field.name), asdict(now)[field.name]
        if field.name == "kimg" and old is not None and new >= old:
            continue
        if old != new:
            name = f"--{field.name}" if field.name in FLAGS else field.name
            lines.append(f"{name} was {_shown(old)}, now {_shown(new)}")
    return lines


def _shown(value: Any) -> str:
    return "not set" if value is None else str(value)
