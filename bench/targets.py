"""What is asked of the numbers: the one table of targets, and the verdicts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from measure import Case, Row, geometric_mean

WIDE = 64  # channels per orientation from which a layer counts as wide


@dataclass(frozen=True)
class Target:
    """A bound on one quantity of the rows that it names.

    Attributes:
        suite, quantity: which number.
        bound: each row's, a lower one unless at_most is set.
        groups, work, op: which rows, empty for all.
        least_width, most_width: rows with fewer or more channels have no target.
        dtype, backend: rows of others have no target; empty for all.
        mean: bound on the geometric mean of a group's rows, of which there must be `count`.
    """

    suite: str
    quantity: str
    bound: float
    groups: tuple[str, ...] = ()
    work: str = ""
    op: str = ""
    at_most: bool = False
    least_width: int = 0
    most_width: int = 2**31
    dtype: str = ""
    backend: str = ""
    mean: float | None = None
    count: int = 4

    def covers(self, case: Case) -> bool:
        """Whether the case is one of those that the target names."""
        return (
            case.suite == self.suite
            and case.group in (self.groups or (case.group,))
            and case.work == (self.work or case.work)
            and case.op == (self.op or case.op)
            and case.dtype == (self.dtype or case.dtype)
            and self.least_width <= min(case.c_in, case.c_out) <= self.most_width
        )

    def met(self, value: float) -> bool:
        return value <= self.bound if self.at_most else value >= self.bound


FORWARD, BOTH = "forward", "forward+backward"


def on_gpu(backend: str, ratio: float, group: str, least_width: int, most_width: int = 2**31) -> Target:
    """The ratio to cuDNN of a group's layers in bfloat16."""
    return Target(
        "gpu",
        "ratio",
        ratio,
        (group,),
        op="group_conv2d",
        dtype="bfloat16",
        backend=backend,
        least_width=least_width,
        most_width=most_width,
    )


# The bank's FLOP/s above what the matrix units give a dense product: no convolution by the bank gets there.
BEYOND_DENSE = partial(Target, "gpu", "dense equivalent", 1.0, op="group_conv2d", dtype="bfloat16", backend="cuda")
TARGETS = (
    Target("layers", "ratio", 2.5, ("C4",), FORWARD, "group_conv2d", mean=3.0),
    Target("layers", "ratio", 2.2, ("C4",), BOTH, "group_conv2d", mean=2.7),
    Target("layers", "ratio", 3.2, ("D4",), FORWARD, "group_conv2d", mean=4.5),
    Target("layers", "ratio", 3.0, ("D4",), BOTH, "group_conv2d", mean=4.0),
    Target("layers", "ratio", 1.6, ("C2", "D1"), FORWARD, "group_conv2d"),
    Target("layers", "ratio", 1.5, ("C2", "D1"), BOTH, "group_conv2d"),
    Target("layers", "ratio", 3.0, ("D2",), FORWARD, "group_conv2d"),
    Target("layers", "ratio", 2.7, ("D2",), BOTH, "group_conv2d"),
    Target("layers", "ratio", 2.2, ("C8",), op="group_conv2d"),
    Target("layers", "ratio", 4.0, ("D8",), op="group_conv2d"),
    Target("layers", "ratio", 1.0, op="lifting_conv2d"),
    Target("layers", "memory", 1.0, at_most=True),  # as a fraction of the bank's
    Target("pool", "of copy bandwidth", 0.8),
    Target("widths", "of full vectors", 0.75),
    Target("overhead", "overhead_us", 25, work="forward", at_most=True),
    Target("overhead", "overhead_us", 90, work="recorded", at_most=True),
    Target("profile", "multiply of peak", 0.8, least_width=WIDE, op="group_conv2d"),
    on_gpu("triton", 1.3, "C4", 64, 127),
    on_gpu("triton", 1.6, "C4", 128),
    on_gpu("triton", 2.0, "D4", 32, 63),
    on_gpu("triton", 2.8, "D4", 64),
    Target("gpu pool", "of copy bandwidth", 0.85, backend="triton"),
    on_gpu("cuda", 1.5, "C4", 64, 127),
    on_gpu("cuda", 2.0, "C4", 128),
    on_gpu("cuda", 2.5, "D4", 32, 63),
    on_gpu("cuda", 3.5, "D4", 64),
    BEYOND_DENSE(groups=("C4",), least_width=256),
    BEYOND_DENSE(groups=("D4",), least_width=128),
    Target("gpu pool", "of copy bandwidth", 0.9, backend="cuda"),
    Target("gpu choice", "ratio", 0.98),
    Target("train", "ratio", 2.0, op="digits-c4"),
    Target("train", "ratio", 2.3, op="rotmnist-c4"),
)


def judged(case: Case, quantities: dict[str, dict[str, float]], backend: str = "") -> list[Row]:
    """One verdict for every target that the case's quantities have on a backend."""
    return [
        {
            "quantity": target.quantity,
            "bound": target.bound,
            "at_most": target.at_most,
            "met": target.met(quantities[target.quantity]["median"]),
        }
        for target in TARGETS
        if target.covers(case) and target.backend in ("", backend) and target.quantity in quantities
    ]


def means(rows: Iterable[Row]) -> list[Row]:
    """The geometric means that have targets; a verdict only where every row is there."""
    rows = list(rows)
    found = []
    for target in TARGETS:
        if target.mean is None:
            continue
        values = [
            row["quantities"][target.quantity]["median"]
            for row in rows
            if target.covers(Case(**row["case"])) and target.quantity in row["quantities"]
        ]
        if values:
            mean = geometric_mean(values)
            met = mean >= target.mean if len(values) == target.count else None
            found.append(
                {"group": target.groups[0], "work": target.work, "value": mean, "count": len(values)}
                | {"of": target.count, "bound": target.mean, "met": met}
            )
    return found
