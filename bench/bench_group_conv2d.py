"""Cases of group_conv2d."""

from __future__ import annotations

from convolution import contest
from measure import Benchmark, Case, Setting, run_benchmark

__all__ = ["CASES", "contest"]

OP = "group_conv2d"
WORKS = ("forward", "forward+backward")

# Channels per orientation and height; the shapes that the targets are set for.
LAYERS = {
    "C4": ((16, 28), (32, 28), (64, 14), (128, 14)),
    "D4": ((8, 28), (16, 28), (32, 14), (64, 14)),
    "C2": ((32, 28),),
    "D1": ((32, 28),),
    "D2": ((32, 28),),
    "C8": ((32, 28),),
    "D8": ((16, 28),),
}

# SP-GAN's D4 networks for 64x64 images, and the widths of its C8 network as C4 layers.
WIDTHS = {
    "D4": ((5, 64), (11, 64), (22, 32), (45, 16), (90, 8)),
    "C4": ((45, 28), (90, 14), (180, 7)),
}
# On a GPU: group, channels per orientation, height, batch, so many that the least of them keeps the whole chip busy for
# some hundred microseconds and no map fits its caches. The first six have targets.
GPU_LAYERS = (
    ("C4", 64, 56, 128),
    ("C4", 128, 56, 64),
    ("C4", 256, 28, 128),
    ("D4", 32, 56, 128),
    ("D4", 64, 56, 64),
    ("D4", 128, 28, 128),
)
GPU_OTHERS = (("C2", 64, 56, 128), ("D1", 64, 56, 128), ("D2", 64, 56, 64), ("C8", 32, 56, 64))
# Where backend=None might choose wrong: few channels, few pixels, and the layers above.
GPU_CHOICES = (
    *GPU_LAYERS,
    ("C4", 8, 28, 32),
    ("C4", 16, 28, 128),
    ("C4", 32, 14, 32),
    ("D4", 8, 28, 64),
    ("D4", 90, 8, 32),
)
PROFILED = (("C4", 16, 28), ("C4", 128, 14), ("D4", 8, 28), ("D4", 64, 14))

CASES = [
    *(
        Case(OP, "layers", group, c, c, height, work, quick=c < 64, memory=work == "forward+backward")
        for group, shapes in LAYERS.items()
        for c, height in shapes
        for work in WORKS
    ),
    *(
        Case(OP, "eval", group, c, c, 28, "forward", batch=1, quick=c == 32)
        for group, c in (("C4", 16), ("C4", 32), ("D4", 16))
    ),
    *(
        Case(OP, "widths", group, c, c, height, work, quick=work == "forward" and c in (11, 45))
        for group, shapes in WIDTHS.items()
        for c, height in shapes
        for work in WORKS
    ),
    *(Case(OP, "overhead", "C4", 8, 8, 4, work, batch=1, quick=True) for work in ("forward", "recorded")),
    *(Case(OP, "profile", group, c, c, height, work, quick=c == 16) for group, c, height in PROFILED for work in WORKS),
    *(
        Case(OP, "gpu", group, c, c, height, work, batch, dtype="bfloat16", memory=work == WORKS[1] and height == 28)
        for group, c, height, batch in GPU_LAYERS
        for work in WORKS
    ),
    *(
        Case(OP, "gpu", group, c, c, height, WORKS[1], batch, dtype=dtype)
        for dtype in ("float16", "float32")
        for group, c, height, batch in (GPU_LAYERS[0], GPU_LAYERS[3])
    ),
    *(
        Case(OP, "gpu", group, c, c, height, WORKS[1], batch, dtype="bfloat16")
        for group, c, height, batch in GPU_OTHERS
    ),
    *(
        Case(OP, "gpu choice", group, c, c, height, work, batch, dtype="bfloat16")
        for group, c, height, batch in GPU_CHOICES
        for work in WORKS
    ),
]


def test_speed(benchmark: Benchmark, case: Case, setting: Setting) -> None:
    run_benchmark(benchmark, contest(case, setting))
