"""Options: what is refused, and how changes are named."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, fields, replace

import pytest

import gconv
from gconv.backends import BACKENDS as GCONV_BACKENDS
from sgan.config import BACKENDS, FLAGS, GROUPS, PRESETS, Options, changed_options, resolve
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
        *((name, 0, "an integer >= 1") for name in ("latent_dim", "label_dim")),
        ("seed", -1, "an integer >= 0"),
        *((name, value, "finite and > 0") for name in ("lr_g", "lr_d") for value in (0, -1e-3, math.nan, math.inf)),
        *((name, 0, "finite and > 0") for name in ("generator_width", "discriminator_width", "ema_kimg")),
        ("r1_weight", -0.1, "finite and >= 0"),
        ("norm_momentum", 0, "in (0, 1]"),
        *(("subset", value, "a fraction in (0, 1]") for value in (0, -1, 1.1, math.nan)),
        *((name, "C3", "one of C1, C2, C4, D1, D2, D4") for name in ("generator_group", "discriminator_group")),
        ("backend", "fastest", "one of reference, dense, cpu, or None"),
    ],
)
def test_what_cannot_be_is_refused(name: str, value: object, message: str) -> None:
    expected = re.escape(f"Options: {name} must be {message}, got {value!r}")
    with pytest.raises(ValueError, match=f"^{expected}$"):
        replace(DEFAULT, **{name: value})  # type: ignore[arg-type]  # any option


def test_the_bounds_themselves_are_legal() -> None:
    Options(preset="digits-c4", kimg=1, tick=1, seed=0, subset=1, r1_weight=0, norm_momentum=1, backend="reference")


def test_unknown_presets_are_refused() -> None:
    with pytest.raises(ValueError, match=r"preset must be one of digits-c4, .*, got 'digits-c3'"):
        resolve("digits-c3")
    assert all(resolve(name).preset == name for name in PRESETS)


def test_names_kept_apart_from_gconv_and_the_command_line_agree_with_them() -> None:
    assert set(BACKENDS) == set(GCONV_BACKENDS)
    assert [gconv.group_from_name(name).name for name in GROUPS] == list(GROUPS)
    assert set(FLAGS) == {parameter.name for parameter in main.params} & {field.name for field in fields(Options)}


def test_changes_are_named_as_the_user_can_write_them() -> None:
    now = replace(DEFAULT, seed=1, lr_g=0.5, kimg=DEFAULT.kimg + 1, backend="dense")
    assert changed_options(asdict(DEFAULT), now) == [
        "--seed was 0, now 1",
        f"lr_g was {DEFAULT.lr_g}, now 0.5",
        "--backend was not set, now dense",
    ]
    assert changed_options(asdict(DEFAULT), replace(DEFAULT, kimg=DEFAULT.kimg - 1)) == [
        f"--kimg was {DEFAULT.kimg}, now {DEFAULT.kimg - 1}"
    ]
