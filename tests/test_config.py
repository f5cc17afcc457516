"""Options: what is refused, and how changes are named."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, fields, replace

import pytest

import gconv
from gconv.backends import BACKENDS as GCONV_BACKENDS
from sgan import latents, losses
from sgan.architectures import DISCRIMINATORS, GENERATORS
from sgan.config import (
    BACKENDS,
    COMPONENT_RULES,
    FEATURES,
    FLAGS,
    GROUPS,
    LOSSES,
    NOISES,
    PENALTIES,
    Options,
    changed_options,
    parse_option,
    resolve,
)
from sgan.metrics import features
from sgan.presets import PRESETS
from sgan.train import main

DEFAULT = resolve("digits-c4")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        *(
            (name, value, "an integer >= 1")
            for name in ("kimg", "tick", "batch", "d_steps")
            for value in (0, 1.5, True)
        ),
        ("components", 0, "an integer >= 1"),
        *((name, 0, "an integer >= 1, or None") for name in ("latent_dim", "label_dim")),
        ("seed", -1, "an integer >= 0"),
        *((name, value, "finite and > 0") for name in ("lr_g", "lr_d") for value in (0, -1e-3, math.nan, math.inf)),
        *((name, 0, "finite and > 0") for name in ("generator_width", "discriminator_width", "sigma")),
        *((name, 0, "finite and > 0, or None") for name in ("ema_kimg", "clip")),
        *((name, 0, "an integer >= 1, or None") for name in ("resolution",)),
        *((name, 1, "in [0, 1)") for name in ("beta1", "beta2")),
        *((name, -0.1, "finite and >= 0") for name in ("penalty_weight", "latent_weight")),
        ("decay_to", 3.0, "None, as decay_from, or larger and finite"),
        *(("loss", name, f"one of {', '.join(LOSSES)}, or alphaA with a number A > 1") for name in ("kl", "alpha1")),
        ("penalty", "r2", f"one of {', '.join(PENALTIES)}"),
        ("schedule", "greedy", "one of alternating, threshold, fixed-threshold"),
        ("features", "inception", "one of digits, mnist, imagenet, or None"),
        ("head", "patch", "one of score, san"),
        ("noise", "cauchy", "one of gaussian, uniform"),
        ("component_rule", "random", "one of uniform, cyclic"),
        ("cuda_graph", "always", "one of auto, on, off"),
        ("norm_momentum", 0, "in (0, 1], or None"),
        *(("subset", value, "a fraction in (0, 1]") for value in (0, -1, 1.1, math.nan)),
        *((name, "C3", "one of C1, C2, C4, C8, D1, D2, D4, D8") for name in ("generator_group", "discriminator_group")),
        ("generator", "vae", f"one of {', '.join(GENERATORS)}"),
        ("discriminator", "points-8", f"one of {', '.join(DISCRIMINATORS)}"),
        ("backend", "fastest", "one of reference, dense, cpu, triton, cuda, or None"),
    ],
)
def test_what_cannot_be_is_refused(name: str, value: object, message: str) -> None:
    expected = re.escape(f"Options: {name} must be {message}, got {value!r}")
    with pytest.raises(ValueError, match=f"^{expected}$"):
        replace(DEFAULT, **{name: value})  # type: ignore[arg-type]  # any option


def test_the_bounds_themselves_are_legal() -> None:
    numbers = {"kimg": 1, "tick": 1, "seed": 0, "subset": 1, "penalty_weight": 0, "beta1": 0, "norm_momentum": 1}
    Options(preset="digits-c4", backend="reference", **numbers)  # type: ignore[arg-type]  # any option


def test_unknown_presets_are_refused() -> None:
    with pytest.raises(ValueError, match=r"preset must be one of digits-c4, .*, got 'digits-c3'"):
        resolve("digits-c3")
    assert all(resolve(name, data="digits").preset == name for name in PRESETS)


def test_presets_on_the_users_images_ask_for_them() -> None:
    with pytest.raises(ValueError, match="rotmnist-c4 needs images of yours, such as --data rotated:<mnist>"):
        resolve("rotmnist-c4")


def test_width_multiplies_the_presets_widths() -> None:
    options = resolve("rotmnist-c4", data="digits", width=0.25)
    assert (options.generator_width, options.discriminator_width) == (0.25, 0.25)
    assert resolve("digits-c4", width=2.0).generator_width == 2 * DEFAULT.generator_width


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("loss=alpha2", "loss", "alpha2"),
        ("batch=16", "batch", 16),
        ("lr_g=1e-4", "lr_g", 1e-4),
        ("faithful=true", "faithful", True),
        ("clip=none", "clip", None),
        ("clip=0.01", "clip", 0.01),
    ],
)
def test_any_option_can_be_set_by_its_name(text: str, name: str, value: object) -> None:
    assert parse_option(text) == (name, value)


@pytest.mark.parametrize("text", ["batch", "batch=1.5", "batch=none", "seed=1", "faithful=1", "unknown=2"])
def test_settings_that_are_no_option_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^parse_option: "):
        parse_option(text)


def test_names_kept_apart_from_gconv_and_the_command_line_agree_with_them() -> None:
    assert set(BACKENDS) == set(GCONV_BACKENDS)
    assert set(LOSSES) == set(losses.LOSSES)
    assert FEATURES == features.FEATURES
    assert (NOISES, COMPONENT_RULES) == (latents.NOISES, latents.COMPONENT_RULES)
    assert [gconv.group_from_name(name).name for name in GROUPS] == list(GROUPS)
    assert set(FLAGS) == {parameter.name for parameter in main.params} & {field.name for field in fields(Options)}


def test_changes_are_named_as_the_user_can_write_them() -> None:
    now = replace(DEFAULT, seed=1, lr_g=0.5, kimg=DEFAULT.kimg + 1, backend="dense", cuda_graph="off")
    assert changed_options(asdict(DEFAULT), now) == [
        "--seed was 0, now 1",
        f"lr_g was {DEFAULT.lr_g}, now 0.5",
        "--backend was not set, now dense",
    ]
    assert changed_options(asdict(DEFAULT), replace(DEFAULT, kimg=DEFAULT.kimg - 1)) == [
        f"--kimg was {DEFAULT.kimg}, now {DEFAULT.kimg - 1}"
    ]
