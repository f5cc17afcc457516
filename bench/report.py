"""The README's speed section, docs/speed.md and the plot, from recorded rows: `python bench/report.py`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path

import click
import show
import verification
from kernel_sources import checksums
from measure import BUSY, ROOT, Row, geometric_mean
from show import machine
from targets import means

BEGIN, END = "<!-- {}: begin, written by {} -->", "<!-- {}: end -->"
LEGEND = """# Speed, case by case

Written by `python bench/report.py` from the rows in `bench/results/`. Medians of runs that take turns in one process;
in brackets the 20th to the 80th percentile of the paired values. float32, 3 x 3 filters, padding 1; channels are per
orientation.

- ratio: baseline time / gconv time, above 1 gconv is faster. The baseline is conv2d on the pre-expanded bank in the
  memory format that is faster; escnn train and escnn eval: the same against escnn's layer.
- of peak: the group-Fourier products' FLOP/s as a fraction of the multiply-add peak, measured in the same run; dense
  eq.: the same with the bank's FLOPs, which may exceed 100 %.
- of copy bandwidth: bytes that pooling must read and write, the winner's index as one byte, per second, as a fraction
  of what a copy of as many bytes reaches.
- speed, of widths that fill no vector: channels per second, relative to the next multiple of 8.
- peak MiB: operands, results and workspaces of one run in a process of its own.
- thread time: share of the time of all threads; elsewhere: Python, waiting, and what no stage counts."""
WORKS = ("forward", "forward+backward")
SETS = ("avx512", "avx2", "neon", "baseline", None)  # the best first; None without the native engine


def read_rows(files: Iterable[Path]) -> list[Row]:
    """Every row of these files."""
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def newest(rows: list[Row], selection: str) -> list[list[Row]]:
    """The newest finished run of this selection ("full", "train", ...) with every instruction set, the best first."""
    runs = grouped((row for row in rows if row["selection"] == selection), lambda row: row["run"])
    finished = sorted((run for run in runs if len(run) == run[0]["cases"]), key=lambda run: run[0]["run"])
    of_set = {run[0]["environment"]["instruction_set"]: run for run in finished}
    return [of_set[name] for name in sorted(of_set, key=SETS.index)]


def gpu_runs(rows: list[Row]) -> list[list[Row]]:
    """The newest run on every GPU of every backend and kind; what is left of it, if it was cut off."""
    runs = grouped((row for row in rows if row["selection"].startswith("gpu")), lambda row: row["run"])
    by_time = sorted(runs, key=lambda run: run[0]["run"])
    return list({(run[0]["environment"]["device"], gpu_options(run)): run for run in by_time}.values())


def gpu_options(rows: list[Row]) -> str:
    """The options of bench/run.py that make rows like these."""
    train = " --train" if rows[0]["selection"] == "gpu train" else ""
    backend = "" if rows[0]["case"]["suite"] == "gpu choice" else f" --backend {rows[0]['backend']}"
    return f"--device cuda{train}{backend}"


def markdown_table(rows: list[dict[str, str]]) -> str:
    """Dictionaries from column to text as a Markdown table; a column that a row lacks stays empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, ["---"] * len(columns), *([row.get(name, "") for name in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(texts)} |" for texts in lines)


def grouped(rows: Iterable[Row], key: Callable[[Row], Hashable]) -> list[list[Row]]:
    """Rows with the same key, in the order of their first."""
    groups: dict[Hashable, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return list(groups.values())


def provenance(rows: list[Row], options: str = "") -> str:
    """Which machine, code and command the rows come from."""
    run, where = rows[0]["run"], rows[0]["environment"]
    command = f"python bench/run.py {options}".rstrip()
    commit = where["commit"] + (" with uncommitted changes" if where["dirty"] else "")
    load = f", load average {where['load']:.1f}" if where["load"] > BUSY and "driver" not in where else ""
    cut = f", {len(rows)} of {rows[0]['cases']} cases" if len(rows) < rows[0]["cases"] else ""
    return (
        f"`{command}` on {machine(where)}, torch {where['versions']['torch']}, commit {commit}, {run[:10]}{load}{cut}"
    )


def instruction_set(rows: list[Row]) -> str:
    return str(rows[0]["environment"]["instruction_set"])


def held_to(rows: list[Row]) -> str:
    """The option that makes rows like these where a better instruction set exists."""
    return f"--instruction-set {instruction_set(rows)}"


def result(row: Row) -> str:
    """A row's deciding number with its spread and its verdict, or that it was wrong."""
    quantity = show.SUITES[row["case"]["suite"]].quantity
    if row["wrong"]:
        return "wrong result, no ratio"
    return f"{show.with_spread(quantity, row['quantities'][quantity])}, {show.verdicts(row, quantity)}".removesuffix(
        ", "
    )


def layers_table(rows: list[Row], suite: str = "layers") -> str:
    """group_conv2d's layers: one line per shape, and one per geometric mean that has a target."""
    layers = [row for row in rows if row["case"]["suite"] == suite and row["case"]["op"] == "group_conv2d"]
    lines: list[dict[str, str]] = []
    for of_group in grouped(layers, lambda row: row["case"]["group"]):
        group = of_group[0]["case"]["group"]
        for of_shape in grouped(of_group, shape_key):
            line = {"group": group, "channels per orientation, image": show.shape(of_shape[0]["case"])}
            if suite == "gpu":
                line["dtype"] = of_shape[0]["case"]["dtype"]
            line |= {row["case"]["work"]: result(row) for row in of_shape}
            for row in of_shape:
                if "memory_mib" in row:
                    line[show.MEMORY] = show.cells(row)[show.MEMORY]
            lines.append(line)
        mean = {mean["work"]: mean for mean in means(of_group)}
        if mean:
            texts = {
                work: f"**{found['value']:.2f}**, {show.verdict({'quantity': 'ratio', 'at_most': False, **found})}"
                for work, found in mean.items()
            }
            lines.append({"group": group, "channels per orientation, image": "geometric mean", **texts})
    return markdown_table(lines)


def shape_key(row: Row) -> tuple[object, ...]:
    """What rows of one line have in common."""
    case = row["case"]
    return case["c_in"], case["height"], case.get("dtype")


def rest_table(rows: list[Row]) -> str:
    """One line for every other op, table and pass: the worst case by name, the geometric mean, how many targets met."""
    lines = []
    kept = [
        row
        for row in rows
        if (row["case"]["op"], row["case"]["suite"]) not in (("group_conv2d", "layers"), ("group_conv2d", "gpu"))
        and row["case"]["suite"] != "profile"
    ]
    for same in grouped(kept, lambda row: (row["case"]["suite"], row["case"]["op"], row["case"]["work"])):
        case = same[0]["case"]
        suite = show.SUITES[case["suite"]]
        right = [row for row in same if not row["wrong"]]
        line = {"what": f"{case['op']}, {case['work']}: {suite.title}", "cases": str(len(same))}
        if right:
            values = {id(row): row["quantities"][suite.quantity]["median"] for row in right}
            costs = suite.quantity == "overhead_us"
            worst = (max if costs else min)(right, key=lambda row: values[id(row)])
            text = show.with_spread(suite.quantity, worst["quantities"][suite.quantity])
            line["worst"] = f"{text} at {worst['case']['group']} {show.shape(worst['case'])}"
            mean = "" if costs or len(right) == 1 else show.amount(suite.quantity, geometric_mean(values.values()))
            line["geometric mean"] = mean
        verdicts = [target for row in same for target in row["targets"] if target["quantity"] == suite.quantity]
        if verdicts:
            bound = show.verdict(verdicts[0]).removesuffix(" met").removesuffix(" missed")
            line["target"] = f"{bound}: {sum(target['met'] for target in verdicts)} of {len(same)}"
        lines.append(line)
    return markdown_table(lines)


def readme_section(runs: list[list[Row]], train: list[Row], gpu: list[list[Row]]) -> str:
    """What stands between the markers: the first run whole, of the others the layers."""
    full, *others = runs
    parts = [
        "Baseline time / gconv time, median (20th to 80th percentile) of paired runs in one process, float32, 3 x 3 "
        "filters. The baseline is torch's conv2d on the pre-expanded bank in its faster memory format; above 1, gconv "
        "is faster. Every result is checked before it is timed; freed memory stays with the process, so that neither "
        f"side pays for the other's page faults.\n\n{provenance(full)}:",
        layers_table(full),
        "![ratios of every layer](docs/images/bench_cpu.svg)",
        rest_table(full),
    ]
    for rows in others:
        parts += [f"Both sides held to {instruction_set(rows)}: {provenance(rows, held_to(rows))}:", layers_table(rows)]
    if train:
        parts += [f"{provenance(train, '--train')}:", rest_table(train)]
    for rows in gpu:
        layers = [layers_table(rows, "gpu")] if rows[0]["case"]["suite"] == "gpu" else []
        parts += [f"{provenance(rows, gpu_options(rows))}:", *layers, rest_table(rows)]
    parts.append("Every case, and where the time goes: `docs/speed.md`.")
    return "\n\n".join(parts)


def details(runs: list[list[Row]], train: list[Row], gpu: list[list[Row]]) -> str:
    """docs/speed.md: every row."""
    parts = [LEGEND]
    full, *others = runs
    of_cpu = ((full, ""), *((rows, held_to(rows)) for rows in others), (train, "--train"))
    for rows, options in (*of_cpu, *((rows, gpu_options(rows)) for rows in gpu)):
        if rows:
            name = rows[0]["environment"]["device"] if rows in gpu else instruction_set(rows)
            parts += [f"## {name}{', training steps' * ('--train' in options)}", provenance(rows, options)]
        for table in grouped(rows, lambda row: (row["case"]["op"], row["case"]["suite"])):
            case = table[0]["case"]
            title = f"### {case['op']}, {show.SUITES[case['suite']].title}"
            parts += [title, markdown_table([show.cells(row) for row in table])]
    return "\n\n".join(parts) + "\n"


def replace_section(text: str, name: str, section: str, script: str = "bench/report.py") -> str:
    """The text with what stands between the markers of this name replaced.

    Raises:
        ValueError: the markers are not there once each.
    """
    begin, end = BEGIN.format(name, script), END.format(name)
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"report: the page must hold {begin} and {end} once each")
    pattern = re.compile(f"{re.escape(begin)}.*{re.escape(end)}", flags=re.DOTALL)
    return pattern.sub(lambda _: f"{begin}\n{section}\n{end}", text)


def verified_section(rows: list[Row]) -> str:
    """Per kernel and GPU backend, whether it was verified as it is now."""
    return markdown_table(verification.cells(rows, checksums()))


def draw(rows: list[Row], path: Path) -> None:
    """One point per layer and pass at its ratio, its spread, and its target as a tick."""
    import matplotlib
    from matplotlib.figure import Figure

    layers = [row for row in rows if row["case"]["suite"] == "layers" and not row["wrong"]]
    shapes = grouped(layers, lambda row: (row["case"]["op"], _name(row["case"])))
    with matplotlib.rc_context({"svg.hashsalt": "gconv"}):  # the same rows give the same file
        figure = Figure(figsize=(8, 1.2 + 0.26 * len(shapes)), layout="constrained")
        axes = figure.subplots()
        for work, colour, shift in zip(WORKS, ("tab:blue", "tab:orange"), (-0.14, 0.14), strict=True):
            for place, of_shape in enumerate(shapes):
                for row in (row for row in of_shape if row["case"]["work"] == work):
                    ratio = row["quantities"]["ratio"]
                    axes.plot((ratio["p20"], ratio["p80"]), [place + shift] * 2, color=colour, linewidth=2)
                    axes.plot(ratio["median"], place + shift, "o", color=colour, markersize=5)
                    for bound in (target["bound"] for target in row["targets"] if target["quantity"] == "ratio"):
                        axes.plot(bound, place + shift, "|", color="black", markersize=8)
            axes.plot([], [], "o-", color=colour, label=work.replace("+", " + "))
        axes.plot([], [], "|", color="black", label="target")
        axes.axvline(1, color="grey", linestyle="--", linewidth=1, label="conv2d on the expanded bank")
        axes.set_yticks(range(len(shapes)), [_name(of_shape[0]["case"]) for of_shape in shapes], fontsize="small")
        axes.invert_yaxis()
        axes.set_xlim(left=0)
        axes.set_xlabel("baseline time / gconv time")
        axes.grid(alpha=0.3, axis="x")
        axes.legend(fontsize="small")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})


def _name(case: Row) -> str:
    return f"{case['op'].removesuffix('_conv2d')} {case['group']} {show.shape(case)}"


@click.command(context_settings={"max_content_width": 110, "help_option_names": ["-h", "--help"]})
@click.argument("files", nargs=-1, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--selection", default="full", show_default=True, help="Which kind of run to show: full, quick, partial.")
@click.option("--readme", type=click.Path(path_type=Path), default=ROOT / "README.md", help="Page with the markers.")
@click.option("--details", "page", type=click.Path(path_type=Path), default=ROOT / "docs/speed.md", help="Every row.")
@click.option("--plot", type=click.Path(path_type=Path), default=ROOT / "docs/images/bench_cpu.svg")
def main(files: tuple[Path, ...], selection: str, readme: Path, page: Path, plot: Path) -> None:
    """Write the README's speed section, docs/speed.md and the plot from the newest full run and the newest --train run.

    FILES are what bench/run.py appended to; without any, bench/results/*.jsonl.
    """
    rows = read_rows(files or sorted((ROOT / "bench/results").glob("*.jsonl")))
    runs, train = newest(rows, selection), next(iter(newest(rows, "train")), [])
    if not runs:
        raise click.ClickException(f"there is no finished {selection} run yet: python bench/run.py makes one")
    gpu = gpu_runs(rows)
    try:
        text = replace_section(readme.read_text(), "speed", readme_section(runs, train, gpu))
        readme.write_text(replace_section(text, "verified", verified_section(rows)))
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    page.write_text(details(runs, train, gpu))
    draw(runs[0], plot)
    click.echo(f"wrote {readme}, {page} and {plot}")


if __name__ == "__main__":
    main()
