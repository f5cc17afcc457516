"""The presets: one table of what each named configuration changes, and what was published for it.

Published settings are the publications' own where they give them. `<...>` in `data` is a file or folder of the user's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["DATA_SHAPES", "PRESETS", "DataShape", "Preset", "gflop_per_kimg", "gflop_text"]

COSTS = Path(__file__).with_name("costs.json")

Changes = Mapping[str, Any]


@dataclass(frozen=True)
class Preset:
    """One row of the table.

    Attributes:
        summary: what it is.
        system: what it reproduces.
        changes: the options that differ from the defaults.
        published: the published value. Frechet distances are on the publications' own feature networks.
    """

    summary: str
    system: str = "SP-GAN"
    changes: Changes = field(default_factory=dict)
    published: str = ""


class DataShape(NamedTuple):
    """What a data set's samples are: side length and channels of its images, and its classes.

    Points of the plane are one pixel with two channels, as in `sgan.data.Dataset`.
    """

    resolution: int
    channels: int
    num_classes: int


class _Players(NamedTuple):
    """One row of the comparison of players: the end of its presets' names, and what it changes."""

    suffix: str
    summary: str
    changes: Changes


def _players(group: str) -> dict[str, _Players]:
    """SP-GAN's rows for one group."""
    flawed = {"symmetrise_latent": False}
    rows: tuple[tuple[str, str, str, str, Changes], ...] = (
        ("cnn", "CNN G + CNN D", "C1", "C1", {}),
        ("g-only", "Eqv G + CNN D", group, "C1", {}),
        ("d-only", "CNN G + Inv D", "C1", group, {}),
        ("flawed", "(I)Eqv G + Inv D", group, group, flawed),
        ("", "Eqv G + Inv D", group, group, {}),
    )
    name = group.lower()
    return {
        key: _Players(
            "-cnn" if key == "cnn" else f"-{name}-{key}".removesuffix("-"),
            summary if key == "cnn" else f"{summary}, {group}",
            {"generator_group": g, "discriminator_group": d, **changes},
        )
        for key, summary, g, d, changes in rows
    }


_RA: Changes = {"loss": "ra", "penalty": "r1", "penalty_weight": 0.1}
_ALPHA: Changes = {"loss": "alpha2", "penalty": "one-sided", "penalty_weight": 10.0, "score_bias": 1.0}
_WITHOUT_LABELS: Changes = {"generator_group": "C1", "discriminator_group": "C1", "penalty": "none", "ema_kimg": None}

_DIGITS = {
    "digits-c4": Preset("Eqv G + Inv D, C4: rotations by 90 degrees (the default)"),
    "digits-c2": Preset(
        "Eqv G + Inv D, C2: rotations by 180 degrees", changes={"generator_group": "C2", "discriminator_group": "C2"}
    ),
    "digits-c8": Preset(
        "Eqv G + Inv D, C8: rotations by 45 degrees", changes={"generator_group": "C8", "discriminator_group": "C8"}
    ),
    "digits-d4": Preset(
        "Eqv G + Inv D, D4: rotations and reflections, on mirrored digits",
        changes={"generator_group": "D4", "discriminator_group": "D4", "data": "digits-rotated-mirrored"},
    ),
    "digits-cnn": Preset(
        "CNN G + CNN D: the planar baseline with as many parameters",
        changes={"generator_group": "C1", "discriminator_group": "C1"},
    ),
    "digits-c4-flawed": Preset(
        "(I)Eqv G + Inv D, C4: the published flawed generator, latent map not symmetrised",
        changes={"symmetrise_latent": False},
    ),
    "digits-c4-g-only": Preset("Eqv G + CNN D, C4", changes={"discriminator_group": "C1"}),
    "digits-c4-d-only": Preset("CNN G + Inv D, C4", changes={"generator_group": "C1"}),
    "digits-c4-projected": Preset(
        "Eqv G, C4 + planar D averaged over the group: invariant without G-convolutions", changes={"projected": True}
    ),
    "digits-c4-augmented": Preset(
        "Eqv G, C4 + CNN D that sees randomly turned images: augmentation only",
        changes={"discriminator_group": "C1", "augment": "C4"},
    ),
}

# Frechet distance of the training set of 60,000: RA, D_2.
_SP_GAN_ROTMNIST = {
    "-cnn": (392, 293), "-c4-g-only": (393, 275), "-c4-d-only": (176, 173), "-c4-flawed": (130, 126), "-c4": (82, 81),
    "-c8": (57, 51),
}  # fmt: skip
# Smallest and median Frechet distance.
_SP_GAN_MEDICAL = {
    "anhir": {"cnn": ("186, 523", "313, 485"), "flawed": ("100, 142", "120, 176"), "": ("78, 125", "97, 157")},
    "lysto": {"cnn": ("", "281, 340"), "flawed": ("", "218, 272"), "": ("", "175, 238")},
}


def _sp_gan() -> Iterator[tuple[str, Preset]]:
    """SP-GAN (arXiv 2202.01129): six rows on rotated MNIST, three on each medical set, with two losses each."""
    common: dict[str, Any] = {"lr_g": 1e-4, "lr_d": 4e-4, "ema_kimg": None, "generator_width": 1.0}
    common |= {"discriminator_width": 1.0}
    rotmnist: dict[str, Any] = {"data": "rotated:<mnist>", "generator": "rotmnist", "discriminator": "rotmnist"}
    rotmnist |= {"batch": 64, "kimg": 2560, "tick": 128, "features": "mnist"}  # 20,000 steps of G, metrics every 1,000
    for which, (tag, loss) in enumerate((("", _RA), ("-d2", _ALPHA))):
        for players in (*_players("C4").values(), _players("C8")[""]):
            changes = {**common, **rotmnist, **loss, **players.changes}
            published = f"FID {_SP_GAN_ROTMNIST[players.suffix][which]}"
            yield f"rotmnist{players.suffix}{tag}", Preset(players.summary, "SP-GAN", changes, published)
        for name, data in (("anhir", "<anhir>"), ("lysto", "<lysto.h5>")):
            medical = {"data": data, "resolution": 64, "generator": "medical-64", "discriminator": "medical-64"}
            medical |= {"batch": 32, "kimg": 1280, "tick": 64}
            for row, of_both in _SP_GAN_MEDICAL[name].items():
                players = _players("D4")[row]
                changes = {**common, **medical, **loss, **players.changes}
                published = f"FID {of_both[which]} (min, median)" if of_both[which] else ""
                yield f"{name}{players.suffix}{tag}", Preset(players.summary, "SP-GAN", changes, published)


POOLED_EARLY = ("cifar10-32", "food101-64")  # their discriminators pool over the group before the last block
_GE_GAN_PUBLISHED = {
    "anhir-128-cnn": "FID 7.32", "anhir-128-d4": "FID 5.54", "lysto-256-cnn": "FID 7.27", "lysto-256-d4": "FID 3.90",
    "cifar10-cnn": "FID 20.89", "cifar10-c4": "FID 17.49", "cifar10-c4-d-only": "FID 17.09",
    "food101-cnn": "FID 27.34", "food101-c4": "FID 17.73", "food101-c4-d-only": "FID 16.91",
    "gegan-rotmnist-cnn": "FID 1.36 (min)", "gegan-rotmnist-c4": "FID 0.53 (min)",
    "gegan-rotmnist-cnn-nsgan": "FID 0.97 (min)", "gegan-rotmnist-c4-nsgan": "FID 0.64 (min)",
    "gegan-rotmnist-c4-wgan": "FID 0.54 (min)",
}  # fmt: skip


def _ge_gan() -> Iterator[tuple[str, Preset]]:
    """GE-GAN (arXiv 2005.01683): group convolutions in G, D, both or none; its generators are of the flawed kind."""
    common: dict[str, Any] = {**_RA, "lr_g": 1e-4, "lr_d": 3e-4, "ema_kimg": None, "symmetrise_latent": False}
    common |= {"generator_width": 1.0, "discriminator_width": 1.0, "batch": 64, "kimg": 2560, "tick": 128}
    cifar10: dict[str, Any] = {"lr_g": 2e-4, "lr_d": 2e-4, "penalty_weight": 0.01, "d_steps": 4}
    wgan: dict[str, Any] = {"loss": "wasserstein", "penalty": "two-sided", "penalty_weight": 10.0}
    sets: tuple[tuple[str, str, Changes, str, list[tuple[str, Changes]]], ...] = (
        ("anhir-128", "D4", {"data": "<anhir>", "resolution": 128}, "anhir-128", [("", {})]),
        ("lysto-256", "D4", {"data": "<lysto.h5>", "resolution": 256}, "lysto-256", [("", {})]),
        ("cifar10", "C4", {"data": "<cifar10>", **cifar10}, "cifar10-32", [("", {})]),
        ("food101", "C4", {"data": "<food101>", "resolution": 64}, "food101-64", [("", {})]),
        ("gegan-rotmnist", "C4", {"data": "<rotmnist>", "features": "mnist", "latent_dim": 128}, "rotmnist",
         [("", {}), ("-nsgan", {"loss": "non-saturating"}), ("-wgan", wgan)]),
    )  # fmt: skip
    for name, group, data, networks, losses in sets:
        for tag, loss in losses:
            for row in ("cnn", "g-only", "d-only", ""):
                players = _players(group)[row]
                changes = {**common, **data, "generator": networks, "discriminator": networks, **loss}
                changes |= players.changes
                summary = players.summary.replace("Eqv G", "(I)Eqv G")
                if networks in POOLED_EARLY:
                    summary = summary.replace("Inv D", "Eqv D, its last block planar")
                full = f"{name}{players.suffix}{tag}"
                yield full, Preset(summary, "GE-GAN", changes, _GE_GAN_PUBLISHED.get(full, ""))


def _mnist() -> Iterator[tuple[str, Preset]]:
    """GANs on upright MNIST without labels.

    Adam as in DCGAN (arXiv 1511.06434), but WGAN's rate, where it stands in for RMSProp, WGAN-GP's own settings, and
    simple-san's with its networks, whose 200 epochs are 12,000 kimg. Which minimax loss had the published 44.12 is not
    known.
    """
    common: dict[str, Any] = {**_WITHOUT_LABELS, "data": "<mnist>", "features": "mnist", "generator": "mnist-mlp"}
    common |= {"discriminator": "mnist-mlp", "generator_width": 1.0, "discriminator_width": 1.0, "batch": 128}
    common |= {"d_steps": 1, "lr_g": 2e-4, "lr_d": 2e-4, "beta1": 0.5, "beta2": 0.999, "kimg": 3000, "tick": 150}
    better: dict[str, Any] = {"discriminator": "mnist-conv"}
    gan, hinge = {"loss": "non-saturating"}, {"loss": "hinge"}
    clip: dict[str, Any] = {"loss": "wasserstein", "clip": 0.01, "d_steps": 5, "lr_g": 5e-5, "lr_d": 5e-5, "beta1": 0.0}
    gradient: dict[str, Any] = {"loss": "wasserstein", "penalty": "two-sided", "penalty_weight": 10.0, "d_steps": 5}
    gradient |= {"lr_g": 1e-4, "lr_d": 1e-4, "beta1": 0.0, "beta2": 0.9}
    san: dict[str, Any] = {**hinge, **better, "generator": "mnist-conv", "head": "san", "batch": 64}
    san |= {"lr_g": 1e-3, "lr_d": 1e-3, "beta1": 0.0, "beta2": 0.99, "kimg": 12_000, "tick": 600}
    better_gan = "FID 22.08, precision 0.40, recall 0.20"
    rows = (
        ("mnist-gan", "minimax loss, saturating, three-layer D", {"loss": "saturating"}, ""),
        ("mnist-nsgan", "non-saturating loss, three-layer D", gan, "FID 44.12, precision 0.56, recall 0.18"),
        (
            "mnist-nsgan-better-d",
            "non-saturating loss, convolutional D",
            {**gan, **better},
            better_gan,
        ),
        ("mnist-wgan", "Wasserstein loss, weights clipped", clip, "FID 97"),
        ("mnist-wgan-gp", "Wasserstein loss, gradient penalty", gradient, ""),
        ("mnist-hinge", "hinge loss, three-layer D", hinge, "FID 27"),
        ("mnist-hinge-better-d", "hinge loss, convolutional D", {**hinge, **better}, "FID 25"),
        ("mnist-san", "SAN with hinge loss, convolutional G and D", san, "FID 19.04"),
    )
    for name, summary, changes, published in rows:
        yield name, Preset(summary, "MNIST GANs, SAN", {**common, **changes}, published)


def _deligan() -> Iterator[tuple[str, Preset]]:
    """DeLiGAN (arXiv 1706.02071) on few images, beside the same networks with a single Gaussian; its scripts' settings.

    Its discriminator of CIFAR-10 is a semi-supervised classifier; here it tells real images from generated ones. Its
    500 images of MNIST are the last 50 of each class; here a subset is drawn by the seed. Other sets are not cut.
    """
    common: dict[str, Any] = {**_WITHOUT_LABELS, "generator_width": 1.0, "discriminator_width": 1.0}
    common |= {"loss": "non-saturating", "beta1": 0.5, "beta2": 0.999, "d_steps": 1, "schedule": "threshold"}
    mnist: dict[str, Any] = {
        "data": "<mnist>",
        "features": "mnist",
        "subset": 500 / 60_000,
        "subset_of": 60_000,
        "batch": 50,
    }
    mnist |= {"lr_g": 5e-4, "lr_d": 5e-4, "kimg": 2000, "tick": 100, "decay_from": 500.0, "decay_to": 2000.0}
    cifar10: dict[str, Any] = {"data": "<cifar10>", "subset": 0.04, "subset_of": 50_000, "batch": 100}
    cifar10 |= {
        "schedule": "alternating",
        "lr_g": 3e-4,
        "lr_d": 3e-4,
        "kimg": 2400,
        "tick": 120,
        "decay_from": 1600.0,
        "decay_to": 2400.0,
    }
    sketches: dict[str, Any] = {"data": "<sketches>", "resolution": 32, "batch": 100, "lr_g": 1e-4, "lr_d": 1e-4}
    sketches |= {"kimg": 1560, "tick": 78, "decay_from": 1040.0, "decay_to": 1560.0}
    sets: tuple[tuple[str, str, Changes, int, float], ...] = (
        ("mnist-500", "mnist-deligan", mnist, 50, 1 / 3),
        ("cifar10-2000", "cifar10-deligan", cifar10, 100, 0.0),
        ("sketches", "sketches-deligan", sketches, 100, 0.05),
    )
    for name, networks, changes, components, weight in sets:
        gan = {**common, **changes, "generator": networks, "discriminator": networks}
        mixture = {"components": components, "component_rule": "cyclic", "latent_weight": weight}
        of_mixture, of_gan = ("m-IS 1.35 to 1.79", "m-IS 1.36 to 1.61") if name == "sketches" else ("", "")
        summary = f"mixture of {components} Gaussians"
        yield f"{name}-deligan", Preset(summary, "DeLiGAN", {**gan, **mixture}, of_mixture)
        yield f"{name}-gan", Preset("the same networks, a single Gaussian", "DeLiGAN", gan, of_gan)


def _deligan_toy() -> Iterator[tuple[str, Preset]]:
    """DeLiGAN's toy laws, the published script's 8,000 epochs of 400 points, and its baselines of as many components.

    The two clusters are the default; `--data deligan-unimodal` is the other law.
    """
    common: dict[str, Any] = {**_WITHOUT_LABELS, "data": "deligan-bimodal", "discriminator": "toy", "batch": 50}
    common |= {"generator_width": 1.0, "discriminator_width": 1.0, "loss": "non-saturating", "lr_g": 1e-4, "lr_d": 1e-4}
    common |= {"beta1": 0.5, "beta2": 0.999, "schedule": "fixed-threshold", "kimg": 3200, "tick": 160}
    components: dict[str, Any] = {"components": 50, "component_rule": "cyclic"}
    mixture: dict[str, Any] = {**components, "sigma": 0.02, "latent_weight": 0.1}
    rows: tuple[tuple[str, str, str, Changes], ...] = (
        ("toy-deligan", "mixture of 50 Gaussians, two clusters in the plane", "toy", mixture),
        ("toy-gan", "the same networks with a single Gaussian", "toy", {}),
        ("toy-gan++", "GAN++: one more latent layer", "toy-gan++", {}),
        ("toy-nx", "Nx-GAN: 50 times wider", "toy-nx", {}),
        ("toy-moe", "MoE-GAN: one-hot component beside the latent", "toy-moe", components),
        ("toy-ensemble", "ensemble of 50 generators", "toy-ensemble", components),
    )
    for name, summary, generator, changes in rows:
        yield name, Preset(summary, "DeLiGAN", {**common, "generator": generator, **changes})


def _sp_gan_toy() -> Iterator[tuple[str, Preset]]:
    """SP-GAN's players on points, whose settings were not published.

    The latent is a mixture of two learned Gaussians, which no rotation leaves as it is. Under a Gaussian latent the
    flawed generator would have no flaw.
    """
    common: dict[str, Any] = {**_RA, "data": "toy-c4", "generator": "points", "discriminator": "points", "batch": 100}
    common |= {"generator_width": 1.0, "discriminator_width": 1.0, "components": 2, "kimg": 200, "tick": 20}
    for players in _players("C4").values():
        name = players.suffix.replace("cnn", "mlp")
        yield f"toy{name}", Preset(players.summary.replace("CNN", "MLP"), "SP-GAN", {**common, **players.changes})


def _pix2pix() -> Iterator[tuple[str, Preset]]:
    """pix2pix (arXiv 1611.07004) with GE-GAN's group convolutions: 200 epochs of 1,096 maps, photograph from map.

    Its random jitter and its halved discriminator loss, which Adam would not notice, are left out.
    """
    common: dict[str, Any] = {"data": "<maps>", "resolution": 256, "generator": "pix2pix", "discriminator": "pix2pix"}
    common |= {"generator_width": 1.0, "discriminator_width": 1.0, "loss": "non-saturating", "penalty": "none"}
    common |= {"l1_weight": 100.0, "batch": 1, "d_steps": 1, "lr_g": 2e-4, "lr_d": 2e-4, "beta1": 0.5, "beta2": 0.999}
    common |= {"ema_kimg": None, "kimg": 220, "tick": 11, "decay_from": 110.0, "decay_to": 220.0}
    for suffix, group in (("cnn", "C1"), ("c4", "C4"), ("d4", "D4")):
        summary = "U-Net + patch D, " + ("planar" if group == "C1" else group)
        changes = {**common, "generator_group": group, "discriminator_group": group}
        yield f"maps-{suffix}", Preset(summary, "GE-GAN", changes)


PRESETS: dict[str, Preset] = {
    **_DIGITS,
    **dict(_sp_gan()),
    **dict(_sp_gan_toy()),
    **dict(_ge_gan()),
    **dict(_pix2pix()),
    **dict(_mnist()),
    **dict(_deligan()),
    **dict(_deligan_toy()),
}

# Every `data` of the presets as it was published. A preset's own resolution goes before this one.
DATA_SHAPES: dict[str, DataShape] = {
    "digits-rotated": DataShape(28, 1, 10),
    "digits-rotated-mirrored": DataShape(28, 1, 10),
    "rotated:<mnist>": DataShape(28, 1, 10),
    "<mnist>": DataShape(28, 1, 10),
    "<rotmnist>": DataShape(28, 1, 10),
    "<anhir>": DataShape(64, 3, 5),
    "<lysto.h5>": DataShape(299, 3, 3),
    "<cifar10>": DataShape(32, 3, 10),
    "<food101>": DataShape(64, 3, 101),
    "<sketches>": DataShape(32, 3, 250),
    "<maps>": DataShape(256, 3, 1),
    "toy-c4": DataShape(1, 2, 1),
    "deligan-bimodal": DataShape(1, 2, 1),
}


def gflop_per_kimg() -> dict[str, float]:
    """10^9 floating-point operations per thousand real images shown to D, by preset, as `sgan.cost` counted them."""
    costs: dict[str, float] = json.loads(COSTS.read_text())
    return costs


def gflop_text(gflop: float) -> str:
    """A number in three digits or more: "0.00117", "35.2", "12,300"."""
    rounded = float(f"{gflop:.3g}")
    decimals = 2 - math.floor(math.log10(rounded)) if rounded > 0 else 0
    return f"{rounded:,.{max(0, decimals)}f}"
