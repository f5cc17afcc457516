"""Rows as text: the same cells fill the lines of run.py and the tables of report.py."""

from __future__ import annotations

from typing import Any, NamedTuple

Row = dict[str, Any]


class Suite(NamedTuple):
    """One table: what is compared, the quantity that decides, and what its column is called."""

    title: str
    quantity: str
    label: str


# In the order of the output.
SUITES = {
    "layers": Suite("against conv2d on the pre-expanded bank", "ratio", "ratio"),
    "pool": Suite("against a copy of as many bytes", "of copy bandwidth", "of copy bandwidth"),
    "eval": Suite("one image in eval mode, against conv2d on the pre-expanded bank", "ratio", "ratio"),
    "widths": Suite(
        "widths that fill no vector: channels per second against the next multiple of 8", "of full vectors", "speed"
    ),
    "overhead": Suite("an image of 4x4: time of a call above conv2d's", "overhead_us", "overhead"),
    "profile": Suite("where the threads' time goes", "multiply of peak", "products of peak"),
    "gpu": Suite("on a GPU, against cuDNN's conv2d on the pre-expanded bank", "ratio", "ratio"),
    "gpu pool": Suite("on a GPU, against a copy of as many bytes", "of copy bandwidth", "of copy bandwidth"),
    "gpu choice": Suite("on a GPU, what backend=None takes, against dense", "ratio", "ratio"),
    "gpu train": Suite("on a GPU, one training step against the same step with every layer on dense", "ratio", "ratio"),
    "train": Suite("one training step against the same step with every layer on dense", "ratio", "ratio"),
}

TRAINS = ("train", "gpu train")  # suites of whole training steps
PERCENT = ("of copy bandwidth", "of full vectors", "multiply of peak", "of peak", "dense equivalent")

MEMORY = "peak MiB, gconv / baseline"

# Console columns that are wider than their name.
COLUMN = {"group": 5, "shape": 32, "pass": 16, "baseline ms": 17, "ratio": 20, "of copy bandwidth": 20, "speed": 20}
COLUMN |= {"dtype": 8, "overhead": 24, "target": 14, MEMORY: 27}


def amount(quantity: str, value: float) -> str:
    """A value in its unit: 2.53, 81 %, 19.2 us."""
    if quantity in PERCENT:
        return f"{100 * value:.0f} %"
    return f"{value:.1f} us" if quantity == "overhead_us" else f"{value:.2f}"


def with_spread(quantity: str, spread: dict[str, float]) -> str:
    """The median, and the 20th to the 80th percentile."""
    low, high = (amount(quantity, spread[name]).split()[0] for name in ("p20", "p80"))
    return f"{amount(quantity, spread['median'])} ({low} to {high})"


def verdict(target: Row) -> str:
    """A bound and whether it was met: ">= 2.5 met"."""
    unit = amount(target["quantity"], target["bound"])
    bound = f"{target['bound']:g}" if " " not in unit else unit.replace(".0 ", " ")
    outcome = {True: "met", False: "missed", None: "not judged"}[target["met"]]
    return f"{'<=' if target['at_most'] else '>='} {bound} {outcome}"


def verdicts(row: Row, quantity: str) -> str:
    """Those on one quantity; empty if it has no target."""
    return ", ".join(verdict(target) for target in row["targets"] if target["quantity"] == quantity)


def shape(case: Row) -> str:
    """Channels per orientation, image and batch; or what the networks are."""
    if case["suite"] in TRAINS:
        return f"{case['mode']}, N={case['batch']}"
    channels = f"{case['c_in']}" if case["c_in"] == case["c_out"] else f"{case['c_in']} -> {case['c_out']}"
    if case["mode"]:
        channels = f"{case['mode']} {channels}"
    return f"{channels}, {case['height']}x{case['height']}, N={case['batch']}"


def machine(environment: Row) -> str:
    """The device, and what drives it."""
    if "driver" in environment:
        return "{device}, driver {driver}, CUDA {cuda}, cuDNN {cudnn}, triton {triton}".format(**environment)
    return "{device}, {threads} threads, {instruction_set}".format(**environment)


def cells(row: Row) -> dict[str, str]:
    """Column to text. All rows of one op and suite have the same columns, but for a wrong one."""
    case, quantities = row["case"], row["quantities"]
    found = {"group": case["group"], "shape": shape(case), "pass": case["work"]}
    if case["suite"].startswith("gpu"):
        found["dtype"] = case["dtype"]
    if "error" in row:
        return found | {"result": f"FAILED: {row['error']}"}
    if row["wrong"]:
        name, error = max(row["check"].items(), key=lambda item: item[1])
        return found | {"result": f"WRONG: {name} is off by {error:.3g} times the allowed error; no ratio"}
    return found | (_profile_cells(row) if case["suite"] == "profile" else _race_cells(row, quantities))


def _race_cells(row: Row, quantities: Row) -> dict[str, str]:
    suite = SUITES[row["case"]["suite"]]
    best = next(iter(row["best"].values()))
    found = {
        "gconv ms": f"{row['times_ms']['gconv']['median']:.3g}",
        "baseline ms": f"{row['times_ms'][best]['median']:.3g} {best}",
        suite.label: with_spread(suite.quantity, quantities[suite.quantity]),
        "target": verdicts(row, suite.quantity),
    }
    for name, column in (
        ("of peak", "of peak"),
        ("dense equivalent", "dense eq."),
        ("ratio to escnn train", "escnn train"),
        ("ratio to escnn eval", "escnn eval"),
        ("ratio to compiled dense", "compiled dense"),
        ("ratio", "x torch"),
    ):
        if name in quantities and name != suite.quantity:
            texts = amount(name, quantities[name]["median"]), verdicts(row, name)
            found[column] = ", ".join(filter(None, texts))
    if "gb_per_s" in quantities:
        found["GB/s"] = f"{quantities['gb_per_s']['median']:.1f}"
    if row["case"]["suite"] in ("layers", "pool", "gpu") and row["selection"] != "quick":
        mib = " / ".join(f"{mib:.1f}" for mib in row.get("memory_mib", {}).values())
        found[MEMORY] = f"{mib}, {verdicts(row, 'memory')}".removesuffix(", ")
    return found


def _profile_cells(row: Row) -> dict[str, str]:
    suite = SUITES["profile"]
    speed = row["quantities"].get(suite.quantity)
    if speed and speed["median"] > 1:  # a pass ran on another backend, and its products are in no stage
        speed = None
    stages = sorted(row["stages"].items(), key=lambda stage: -stage[1])
    return {
        suite.label: amount(suite.quantity, speed["median"]) if speed else "not measured",
        "target": verdicts(row, suite.quantity),
        "thread time": ", ".join(f"{name} {100 * share:.0f} %" for name, share in stages if share >= 0.005),
    }


def line(texts: dict[str, str]) -> str:
    """One line of the console's table."""
    return "  ".join(text.ljust(max(COLUMN.get(name, 0), len(name))) for name, text in texts.items()).rstrip()


def heading(row: Row) -> str:
    """The title of an op's table and the names of its columns."""
    case = row["case"]
    names = {name: name for name in cells(row)}
    return f"\n{case['op']}, {SUITES[case['suite']].title}\n{line(names)}"


def summary(rows: list[Row], means: list[Row]) -> str:
    """Geometric means, targets met and missed, wrong results."""
    lines = [
        f"geometric mean, {mean['group']} {mean['work']}: {mean['value']:.2f} of {mean['count']} shapes, "
        + verdict({"quantity": "ratio", "at_most": False, **mean})
        for mean in means
    ]
    outcomes = [target["met"] for row in rows for target in row["targets"]] + [mean["met"] for mean in means]
    lines.append(f"targets: {outcomes.count(True)} met, {outcomes.count(False)} missed")
    if wrong := sum(row["wrong"] for row in rows):
        lines.append(f"{wrong} of {len(rows)} cases gave WRONG results and have no ratio")
    return "\n" + "\n".join(lines)
