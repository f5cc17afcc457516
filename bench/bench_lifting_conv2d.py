"""Cases of lifting_conv2d."""

from __future__ import annotations

from convolution import contest
from measure import Benchmark, Case, Setting, run_benchmark

__all__ = ["CASES", "contest"]

OP = "lifting_conv2d"
WORKS = ("forward", "forward+backward")

# Group, C_in, C_out, height: grey and colour images, and a latent map of 16 channels.
LAYERS = (
    ("C4", 1, 16, 28),
    ("C4", 1, 64, 28),
    ("C4", 3, 16, 64),
    ("C4", 16, 32, 28),
    ("D4", 1, 16, 28),
    ("D4", 3, 8, 64),
    ("D4", 16, 16, 28),
    ("C2", 3, 32, 28),
    ("D1", 3, 32, 28),
    ("D2", 3, 16, 28),
)

# On a GPU: group, C_in, C_out, dtype.
GPU_LAYERS = (
    ("C4", 3, 64, "bfloat16"),
    ("D4", 3, 32, "bfloat16"),
    ("C4", 16, 64, "bfloat16"),
    ("C4", 3, 64, "float16"),
    ("C4", 3, 64, "float32"),
)

CASES = [
    *(
        Case(
            OP, "layers", group, c_in, c_out, height, work,
            quick=(c_in, height) == (1, 28), memory=work == "forward+backward" and (c_in == 3 or group == "C4"),
        )
        for group, c_in, c_out, height in LAYERS
        for work in WORKS
    ),
    *(Case(OP, "overhead", "C4", 3, 8, 4, work, batch=1, quick=True) for work in ("forward", "recorded")),
    *(Case(OP, "profile", "C4", 16, 32, 28, work) for work in WORKS),
    *(
        Case(OP, "gpu", group, c_in, c_out, 56, work, batch=256, dtype=dtype)
        for group, c_in, c_out, dtype in GPU_LAYERS
        for work in WORKS
    ),
    *(Case(OP, "gpu choice", "C4", c_in, 64, 56, work, 256, dtype="bfloat16") for c_in in (1, 3) for work in WORKS),
]  # fmt: skip


def test_speed(benchmark: Benchmark, case: Case, setting: Setting) -> None:
    run_benchmark(benchmark, contest(case, setting))
