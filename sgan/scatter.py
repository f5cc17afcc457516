"""Scatter plots of points, in the place that grids of images have in a run folder."""

from __future__ import annotations

import io
import os
from pathlib import Path

from torch import Tensor

from sgan.files import write_atomic

__all__ = ["POINTS_SHOWN", "save_scatter"]

POINTS_SHOWN = 1000  # of either set: more hide each other
SHOWN_SHARE = 0.98  # of the points behind lie within the frame: a heavy tail would shrink all else to a dot
MARGIN = 1.25
SIZE_IN, DPI = 4.0, 100


def save_scatter(points: Tensor, path: str | os.PathLike[str], *, behind: Tensor) -> None:
    """Write a square PNG of points in colour over others in grey; equal arguments give equal bytes.

    The frame follows from the grey points alone, so that the pictures of one run can be compared. Of each set the first
    1,000 points are drawn, as far as they lie within the frame.

    Args:
        points: (N, 2).
        path: file to write; its folder must exist.
        behind: (M >= 1, 2), usually real points.

    Raises:
        ValueError: another shape.
    """
    for name, tensor in (("points", points), ("behind", behind)):
        if tensor.ndim != 2 or tensor.shape[1] != 2 or len(tensor) == 0:
            raise ValueError(f"save_scatter: {name} must be (N >= 1, 2), got {tuple(tensor.shape)}")
    from matplotlib.figure import Figure  # here: slow to import, and only drawing needs it

    behind, points = (tensor.detach().cpu()[:POINTS_SHOWN] for tensor in (behind, points))
    limit = MARGIN * float(behind.abs().amax(dim=1).quantile(SHOWN_SHARE))
    figure = Figure(figsize=(SIZE_IN, SIZE_IN), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.scatter(behind[:, 0], behind[:, 1], s=6, color="0.75", linewidths=0)
    axes.scatter(points[:, 0], points[:, 1], s=4, color="tab:blue", linewidths=0)
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    write_atomic(Path(path), content.getvalue())
