"""How far networks on groups off the pixel grid are from equivariant: `python bench/equivariance.py`.

Images are functions of the plane, sums of waves, so they are turned by any angle without interpolation. A network of
two convolutions sees a patch of 2 K - 1 pixels a side for every pixel that it puts out. It is shown patches of an image
and of the turned image, centred on the same points of the scene: there is no border, and an invariant network would
give the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import click
import torch
from convolution import escnn_missing
from measure import ROOT
from torch import Tensor, nn

import gconv

GROUPS = ("C8", "C16")
SIZES = (3, 5, 7)
CHANNELS = 8
NETWORKS = 5  # random ones per curve
POINTS = 256
WAVES = 200
WAVELENGTHS = (4.0, 64.0)  # in pixels, log-uniform: power falls as 1 / frequency^2, as in natural images
STEP_DEG = 2.5  # up to 90: quarter turns are exact
COLOURS = ("tab:blue", "tab:orange", "tab:green")

Network = Callable[[Tensor], Tensor]


class Curve(NamedTuple):
    """One network size: the error at every angle."""

    library: str
    group: str
    size: int
    errors: list[float]

    def worst(self, angles: list[float] | None = None) -> float:
        """Over these angles, or over all; quarter turns left out."""
        return max(error for angle, error in zip(degrees(), self.errors, strict=True) if angle in (angles or degrees()))


def degrees() -> list[float]:
    """0 to 90, both included."""
    return [STEP_DEG * step for step in range(round(90 / STEP_DEG) + 1)]


def patches(size: int, angle_rad: float, points: int = POINTS, seed: int = 0) -> Tensor:
    """(points, 1, size, size) pixels around random points of an image that is turned by the angle about each point."""
    rng = torch.Generator().manual_seed(seed)

    def uniform(count: int, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=rng, dtype=torch.float64)

    frequency = 2 * math.pi / uniform(WAVES, *map(math.log, WAVELENGTHS)).exp()
    direction, phase = uniform(WAVES, 0, 2 * math.pi), uniform(WAVES, 0, 2 * math.pi)
    k_row, k_column = frequency * direction.sin(), frequency * direction.cos()
    at_points = torch.outer(uniform(points, 0, 1e4), k_row) + torch.outer(uniform(points, 0, 1e4), k_column) + phase
    axis = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    row, column = (offset.flatten() for offset in torch.meshgrid(axis, axis, indexing="ij"))
    cos, sin = math.cos(angle_rad), math.sin(angle_rad)  # (L_g f)(p) = f(g^-1 p): the offsets turn the other way
    row, column = cos * row + sin * column, cos * column - sin * row
    at_offsets = torch.outer(row, k_row) + torch.outer(column, k_column)
    # cos(a + b) as two products of matrices
    image = at_points.cos() @ at_offsets.cos().T - at_points.sin() @ at_offsets.sin().T
    return (image * math.sqrt(2 / WAVES)).view(points, 1, size, size)


def gconv_network(group: str, size: int) -> Network:
    planar_group = gconv.group_from_name(group)
    return nn.Sequential(
        gconv.nn.LiftingConv2d(1, CHANNELS, size, group=planar_group, bias=False),
        nn.ReLU(),
        gconv.nn.GroupConv2d(CHANNELS, CHANNELS, size, group=planar_group, bias=False),
        gconv.nn.GroupPool(group=planar_group),
    ).eval()


def escnn_network(group: str, size: int) -> Network:
    from escnn import gspaces
    from escnn import nn as enn

    space = gspaces.rot2dOnR2(int(group[1:]))
    image = enn.FieldType(space, [space.trivial_repr])
    hidden = enn.FieldType(space, [space.regular_repr] * CHANNELS)
    network = enn.SequentialModule(
        enn.R2Conv(image, hidden, size, bias=False),
        enn.ReLU(hidden),
        enn.R2Conv(hidden, hidden, size, bias=False),
        enn.GroupPooling(hidden),
    ).eval()
    return lambda x: network(enn.GeometricTensor(x, image)).tensor


LIBRARIES = {"gconv": gconv_network, "escnn": escnn_network}


def errors(network: Network, size: int, angles_rad: list[float], seed: int = 0) -> list[float]:
    """Root mean square difference that turning the image makes, over the output's standard deviation across points."""
    field = 2 * size - 1
    with torch.no_grad():
        upright = network(patches(field, 0.0, seed=seed).float()).flatten(1)
        spread = upright.var(0).mean()
        turned = [network(patches(field, angle, seed=seed).float()).flatten(1) for angle in angles_rad]
    return [float(((out - upright).square().mean() / spread).sqrt()) for out in turned]


def curves(libraries: list[str]) -> Iterator[Curve]:
    """Root mean squares over random networks and images, the same images for all."""
    angles = [math.radians(angle) for angle in degrees()]
    for library in libraries:
        for group in GROUPS:
            for size in SIZES:
                squares = torch.zeros(len(angles))
                for seed in range(NETWORKS):
                    torch.manual_seed(seed)
                    network = LIBRARIES[library](group, size)
                    squares += torch.tensor(errors(network, size, angles, seed)).square() / NETWORKS
                yield Curve(library, group, size, squares.sqrt().tolist())


def table(found: list[Curve]) -> str:
    """A line per group and K, libraries side by side."""
    libraries = list(dict.fromkeys(curve.library for curve in found))
    columns = [f"{where}, {library}" for where in ("its own rotations", "every angle") for library in libraries]
    lines = ["| " + " | ".join(["group", "K", *columns]) + " |", "| --- " * (2 + len(columns)) + "|"]
    for group in GROUPS:
        own = [360 / int(group[1:]) * step for step in range(int(group[1:]) // 4 + 1)]
        for size in SIZES:
            here = {curve.library: curve for curve in found if (curve.group, curve.size) == (group, size)}
            values = [curve.worst(angles) for angles in (own, None) for curve in here.values()]
            lines.append(f"| {group} | {size} | " + " | ".join(f"{100 * value:.2g} %" for value in values) + " |")
    return "\n".join(lines)


def page(found: list[Curve], left_out: str | None) -> str:
    """docs/equivariance.md."""
    missing = f" escnn's curves are left out: {left_out}." if left_out else ""
    return f"""# Equivariance off the pixel grid

Written by `python bench/equivariance.py`. Lifting convolution, ReLU, group convolution and maximum over the group, with
{CHANNELS} channels per orientation, K x K filters in the default steerable basis and random coefficients. The images
are sums of {WAVES} random waves of {WAVELENGTHS[0]:g} to {WAVELENGTHS[1]:g} pixels, so they are turned without
interpolation; the docstring of the script says how. The error is the root mean square of what turning the image changes
in the output, over the output's standard deviation across {POINTS} points; {NETWORKS} random networks and
images.{missing}

{table(found)}

Worst case over the group's own rotations, and over every angle in steps of {STEP_DEG:g} degrees. Quarter turns are
exact up to rounding. Between the group's own rotations the error is that of the group, not of its filters.

![error against angle](images/equivariance.svg)
"""


def draw(found: list[Curve], path: Path) -> None:
    """Error against angle, a panel per group: gconv solid, escnn dashed."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "gconv"}):  # the same numbers give the same file
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        panels = dict(zip(GROUPS, figure.subplots(1, len(GROUPS), sharey=True), strict=True))
        for curve in found:
            ours = curve.library == "gconv"
            shown = [(angle, error) for angle, error in zip(degrees(), curve.errors, strict=True) if 0 < angle < 90]
            panels[curve.group].plot(
                *zip(*shown, strict=True),
                color=COLOURS[SIZES.index(curve.size)],
                linestyle="-" if ours else "--",
                linewidth=1.5 if ours else 1,
                label=f"{curve.library}, K = {curve.size}",
            )
        for group, panel in panels.items():
            for step in range(1, int(group[1:]) // 4):
                panel.axvline(360 / int(group[1:]) * step, color="grey", linestyle=":", linewidth=1)
            panel.set_title(group)
            panel.set_yscale("log")
            panel.set_xlabel("image turned by, degrees")
            panel.set_xticks([0, 22.5, 45, 67.5, 90])
            panel.grid(alpha=0.3)
        panels[GROUPS[0]].set_ylabel("error / standard deviation")
        panels[GROUPS[0]].legend(fontsize="small", ncols=2)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--page",
    "page_path",
    type=click.Path(path_type=Path),
    default=ROOT / "docs/equivariance.md",
    show_default="docs/equivariance.md",
    help="Where the numbers go.",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    default=ROOT / "docs/images/equivariance.svg",
    show_default="docs/images/equivariance.svg",
    help="Where the curves go.",
)
def main(page_path: Path, plot: Path) -> None:
    """Measure the error against the angle, and write the page and the plot; escnn too where it is installed."""
    left_out = escnn_missing()
    found = list(curves(["gconv"] if left_out else list(LIBRARIES)))
    page_path.write_text(page(found, left_out))
    draw(found, plot)
    click.echo(f"{table(found)}\n\nwrote {page_path} and {plot}")


if __name__ == "__main__":
    main()
