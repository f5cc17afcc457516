"""The options of a run, and how a preset and the command line make them."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from sgan.architectures import DISCRIMINATORS, GENERATORS
from sgan.presets import PRESETS

__all__ = [
    "BACKENDS",
    "FLAGS",
    "GROUPS",
    "LOSSES",
    "PENALTIES",
    "SCHEDULES",
    "Options",
    "changed_options",
    "command_line",
    "parse_option",
    "resolve",
]

GROUPS = ("C1", "C2", "C4", "C8", "D1", "D2", "D4", "D8")
# gconv's backends, named here too because importing gconv loads torch, for which --help would have to wait.
BACKENDS = ("reference", "dense", "cpu", "triton", "cuda")
FLAGS = (
    "preset",
    "data",
    "resolution",
    "window",
    "subset",
    "kimg",
    "tick",
    "seed",
    "device",
    "backend",
    "init_from",
)  # of the command line
# What torch modules implement, named here for the same reason.
LOSSES = ("ra", "non-saturating", "saturating", "wasserstein", "hinge")  # and alphaA for any number A > 1
SAN_LOSSES = LOSSES[1:]
PENALTIES = ("none", "r1", "one-sided", "two-sided")
SCHEDULES = ("alternating", "threshold", "fixed-threshold")
FEATURES = ("digits", "mnist", "imagenet")
HEADS = ("score", "san")
NOISES = ("gaussian", "uniform")
COMPONENT_RULES = ("uniform", "cyclic")
CUDA_GRAPH = ("auto", "on", "off")


@dataclass(frozen=True)
class Options:
    """Everything that decides a run, together with the machine, torch's version and the number of its threads.

    Two runs with equal options on one CPU, with one version of torch and one number of threads, train the same networks
    bit for bit. Sums are split among threads and rounded, so another number of threads gives another, equally good run.

    Attributes:
        preset: name in PRESETS that these options started from.
        data: name of an embedded data set, or a path (`sgan.data.load_dataset`).
        resolution: side that images are brought to, None for their own, and for points.
        window: how images of more than 8 bits become 8, as `sgan.data.load_dataset` takes it; None for those of 8.
        subset: fraction of the training images to keep, None for all.
        subset_of: take the subset of a set of so many training images alone, and all of any other; None of every set.
            It keeps a preset's subset, made for its own data, from cutting a user's.
        seed: of the data's orientations, the initial weights, the data order, the latents and the group elements.
        kimg: length of training in thousands of real images shown to the discriminator.
        tick: metrics, grid and snapshot every `tick` kimg.
        generator_group, discriminator_group: one of GROUPS; "C1" is planar.
        symmetrise_latent: apply a random group element to each latent map; False is the flawed generator.
        generator_width, discriminator_width: multiply the published widths.
        generator, discriminator: rows of GENERATORS and DISCRIMINATORS in `sgan.architectures`.
        projected: a planar discriminator, averaged over the group, in place of group convolutions.
        faithful: keep the published defects of `sgan.faithful`.
        head: last layer of the discriminator, "score" or "san".
        latent_dim, label_dim: entries of z and of the label embedding, None for the generator's published ones.
        noise, components, component_rule, sigma: of the latent (`sgan.latents`); components > 1 is DeLiGAN's mixture.
        latent_weight: of the mixture's penalty in the generator's loss.
        l1_weight: of the mean absolute difference to the target in the generator's loss, for pairs.
        loss: one of LOSSES, or "alpha2" and the like.
        penalty, penalty_weight: one of PENALTIES, on the discriminator's gradient; R1 itself contains the half.
        score_bias: of the discriminator's last layer at the start. None for torch's random one, but 1 with the alpha
            losses, to which a fake whose score is negative says nothing.
        clip: clamp the discriminator's parameters to [-clip, clip] after each of its steps, None not to.
        augment: group whose random elements move all that the discriminator sees; "C1" moves nothing.
        batch: images per step of either network.
        schedule: "alternating", or "threshold" or "fixed-threshold" (`sgan.schedules`).
        d_steps: discriminator steps per generator step, when alternating.
        lr_g, lr_d, beta1, beta2: Adam's learning rates and betas.
        decay_from, decay_to: kimg between which both learning rates fall linearly to 0, None for constant ones.
        ema_kimg: half-life of the generator's moving average, in kimg; shorter in the beginning. None for no average.
        norm_momentum: torch's batch norm momentum of the generator, None for the published one.
        features: network of the metrics, one of FEATURES. None lets the data choose when a run starts
            (`sgan.metrics.choose_features`); what it chose is recorded, and a resumed run keeps it. Points have None.
        device: where to train.
        backend: gconv backend of every convolution, None to let gconv choose.
        init_from: snapshot, or run folder, whose networks a new run starts from (`sgan.warm_start`), None for new ones.
        cuda_graph: launch a whole step as one CUDA graph: "auto" where that is possible, the log says where it is not;
            "on" or refuse to train; "off". A matter of speed: it may change from one start of a run to the next.
    """

    preset: str
    data: str = "digits-rotated"
    resolution: int | None = None
    window: str | None = None
    subset: float | None = None
    subset_of: int | None = None
    seed: int = 0
    kimg: int = 40
    tick: int = 4
    generator_group: str = "C4"
    discriminator_group: str = "C4"
    symmetrise_latent: bool = True
    generator_width: float = 0.125
    discriminator_width: float = 0.25
    generator: str = "digits"
    discriminator: str = "digits"
    projected: bool = False
    faithful: bool = False
    head: str = "score"
    latent_dim: int | None = None
    label_dim: int | None = None
    noise: str = "gaussian"
    components: int = 1
    component_rule: str = "uniform"
    sigma: float = 0.2
    latent_weight: float = 0.0
    l1_weight: float = 0.0
    loss: str = "ra"
    penalty: str = "r1"
    penalty_weight: float = 0.1
    score_bias: float | None = None
    clip: float | None = None
    augment: str = "C1"
    batch: int = 32
    schedule: str = "alternating"
    d_steps: int = 2
    lr_g: float = 1e-3
    lr_d: float = 2e-3
    beta1: float = 0.0
    beta2: float = 0.9
    decay_from: float | None = None
    decay_to: float | None = None
    ema_kimg: float | None = 5.0
    norm_momentum: float | None = None
    features: str | None = None
    device: str = "cpu"
    backend: str | None = None
    init_from: str | None = None
    cuda_graph: str = "auto"

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            ValueError: an option out of range.
        """
        for name in ("kimg", "tick", "batch", "d_steps", "components"):
            self._require(name, "an integer >= 1", _is_integer(getattr(self, name), 1))
        for name in ("latent_dim", "label_dim", "resolution", "subset_of"):
            value = getattr(self, name)
            self._require(name, "an integer >= 1, or None", value is None or _is_integer(value, 1))
        self._require("seed", "an integer >= 0", _is_integer(self.seed, 0))
        for name in ("generator_width", "discriminator_width", "lr_g", "lr_d", "sigma"):
            self._require(name, "finite and > 0", 0 < getattr(self, name) < math.inf)
        self._require("score_bias", "finite, or None", self.score_bias is None or math.isfinite(self.score_bias))
        for name in ("ema_kimg", "clip"):
            value = getattr(self, name)
            self._require(name, "finite and > 0, or None", value is None or 0 < value < math.inf)
        for name in ("penalty_weight", "latent_weight", "l1_weight"):
            self._require(name, "finite and >= 0", 0 <= getattr(self, name) < math.inf)
        for name in ("beta1", "beta2"):
            self._require(name, "in [0, 1)", 0 <= getattr(self, name) < 1)
        start, end = self.decay_from, self.decay_to
        fits = start is end is None if start is None or end is None else 0 <= start < end < math.inf
        self._require("decay_to", "None, as decay_from, or larger and finite", fits)
        self._require("norm_momentum", "in (0, 1], or None", self.norm_momentum is None or 0 < self.norm_momentum <= 1)
        self._require("subset", "a fraction in (0, 1]", self.subset is None or 0 < self.subset <= 1)
        for name in ("generator_group", "discriminator_group", "augment"):
            self._require(name, f"one of {', '.join(GROUPS)}", getattr(self, name) in GROUPS)
        for name, known in (
            ("generator", list(GENERATORS)),
            ("discriminator", list(DISCRIMINATORS)),
            ("penalty", PENALTIES),
            ("schedule", SCHEDULES),
            ("head", HEADS),
            ("noise", NOISES),
            ("component_rule", COMPONENT_RULES),
            ("cuda_graph", CUDA_GRAPH),
        ):
            self._require(name, f"one of {', '.join(known)}", getattr(self, name) in known)
        self._require("loss", f"one of {', '.join(LOSSES)}, or alphaA with a number A > 1", _is_loss(self.loss))
        self._require("features", f"one of {', '.join(FEATURES)}, or None", self.features in (None, *FEATURES))
        self._require("backend", f"one of {', '.join(BACKENDS)}, or None", self.backend in (None, *BACKENDS))
        if self.cuda_graph == "on":
            self._require("device", 'a CUDA device with cuda_graph "on"', self.device.startswith("cuda"))
            self._require("schedule", 'alternating with cuda_graph "on"', self.schedule == "alternating")
        if self.head == "san":
            self._require("loss", f"one of {', '.join(SAN_LOSSES)} with a SAN head", self.loss in SAN_LOSSES)
            self._require("score_bias", "None with a SAN head", self.score_bias is None)
        if self.component_rule == "cyclic":
            self._require("batch", f"a multiple of components = {self.components}", self.batch % self.components == 0)

    @property
    def images_per_step(self) -> int:
        """Real images that one step shows to D: `d_steps` batches, or the one batch that a threshold's step is."""
        return self.batch * (self.d_steps if self.schedule == "alternating" else 1)

    @property
    def steps(self) -> int:
        """Steps to `kimg`: updates of G, or under a threshold batches, whose updates the players share."""
        return math.ceil(self.kimg * 1000 / self.images_per_step)

    def _require(self, name: str, what: str, holds: bool) -> None:
        if not holds:
            raise ValueError(f"Options: {name} must be {what}, got {getattr(self, name)!r}")


def _is_integer(value: Any, minimum: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum


def _is_loss(name: str) -> bool:
    alpha = re.fullmatch(r"alpha(\d+(?:\.\d+)?)", name)
    return name in LOSSES or (alpha is not None and float(alpha[1]) > 1)


def resolve(preset: str, *, width: float | None = None, **overrides: Any) -> Options:
    """The options of a preset, with these overrides.

    Args:
        preset: name in PRESETS.
        width: multiplies both networks' widths, those of the preset or of the overrides.
        overrides: options by name.

    Raises:
        ValueError: unknown preset, data that only the user has, or an option out of range.
    """
    if preset not in PRESETS:
        raise ValueError(f"resolve: preset must be one of {', '.join(PRESETS)}, got {preset!r}")
    if "subset" in overrides:
        overrides = {"subset_of": None, **overrides}  # what the user asks for is for the user's data
    options = Options(preset=preset, **{**PRESETS[preset].changes, **overrides})
    if width is not None:
        widths = {name: width * getattr(options, name) for name in ("generator_width", "discriminator_width")}
        options = replace(options, **widths)
    if "<" in options.data:
        raise ValueError(f"resolve: {preset} needs images of yours, such as --data {options.data}")
    return options


def command_line(options: Options, **changes: Any) -> str:
    """The command that trains with these options and changes: `python -m sgan.train --preset ... --set ...`."""
    wanted = replace(options, **changes)
    preset = asdict(Options(preset=options.preset, **PRESETS[options.preset].changes))
    if wanted.subset_of != preset["subset_of"]:
        preset["subset"] = None  # the user's own subset, be it as large as the preset's, is cut from any set
    words = ["python", "-m", "sgan.train", "--preset", options.preset]
    for name, value in asdict(wanted).items():
        if value == preset[name] or name == "subset_of":
            continue
        if name in FLAGS:
            words += [f"--{name.replace('_', '-')}", str(value)]
        else:
            words += ["--set", f"{name}={value}"]
    return shlex.join(words)


def parse_option(text: str) -> tuple[str, Any]:
    """An option by its name: "loss=hinge" gives ("loss", "hinge"), "batch=16" ("batch", 16), "clip=none" None for clip.

    Raises:
        ValueError: no such option, or text that is no value of its type.
    """
    name, equals, value = text.partition("=")
    kinds = {field.name: str(field.type) for field in fields(Options) if field.name not in FLAGS}
    if not equals or name not in kinds:
        raise ValueError(f"parse_option: text must be NAME=VALUE with NAME one of {', '.join(kinds)}, got {text!r}")
    kind, _, optional = kinds[name].partition(" | ")
    if value.lower() == "none" and optional:
        return name, None
    if kind == "bool" and value.lower() in ("true", "false"):
        return name, value.lower() == "true"
    readers: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "str": str}
    try:
        return name, readers[kind](value)
    except (KeyError, ValueError):
        raise ValueError(f"parse_option: {name} must be {kinds[name]}, got {value!r}") from None


def changed_options(before: dict[str, Any], now: Options) -> list[str]:
    """What differs between a run's recorded options and `now`; a larger kimg is no change, nor is cuda_graph.

    Nor are data and subset_of: what images they give is compared by checksums (`RunFolder.check_data`). An option that
    the run's version did not have counts as it was then, at its default.

    Returns:
        "--seed was 0, now 1" for an option of the command line, "lr_g was 0.001, now 0.002" for another.
    """
    lines = []
    for field in fields(Options):
        old, new = before.get(field.name, field.default), asdict(now)[field.name]
        if field.name in ("cuda_graph", "data", "subset_of") or (
            field.name == "kimg" and old is not None and new >= old
        ):
            continue
        if old != new:
            name = f"--{field.name.replace('_', '-')}" if field.name in FLAGS else field.name
            lines.append(f"{name} was {_shown(old)}, now {_shown(new)}")
    return lines


def _shown(value: Any) -> str:
    return "not set" if value is None else str(value)
