"""Risk that slips through against the share of cases that are kept, one panel per scenario."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from shiftbench.errors import OutputError
from shiftbench.report import style
from shiftbench.report.cells import label
from shiftbench.robustness.tables.failure_detection import risk_curves

MOST_LINES = 8  # more lines in one panel cannot be told apart
PANELS = 3  # per row


def retention_curves(rows: pd.DataFrame, *, methods: Sequence[str] = ()) -> Figure | None:
    """Generalised risk (1 - DSC) against coverage; None where no scenario has cases with confidences.

    A straight line is a confidence that says nothing; the more a curve sags below it, the more of the failures are
    among the cases that are put aside first. Where a curve ends is the mean risk of all cases.

    Args:
        rows: the columns of `shiftbench.types.Row`, of one backbone and budget.
        methods: labels of those to draw; the first `MOST_LINES` by name unless given.

    Raises:
        OutputError: rows of several backbones or budgets.
    """
    curves = risk_curves(rows)
    if curves.empty:
        return None
    if len(curves[["backbone", "budget"]].drop_duplicates()) > 1:
        raise OutputError("rows of several backbones or budgets in one figure", remedy="draw each of them by itself")
    curves = curves.assign(label=[label(m, k) for m, k in zip(curves["method"], curves["k"], strict=True)])
    known = sorted(set(curves["label"]))
    chosen = [name for name in methods if name in known] or known[:MOST_LINES]
    panels = list(curves[curves["label"].isin(chosen)].groupby("scenario", sort=True))
    marks = style.marks(chosen)
    columns = min(PANELS, len(panels))
    lines = -(-len(panels) // columns)
    with style.paper():
        figure = style.new_figure(style.WIDTH, 0.75 + 2.25 * lines, layout="constrained")
        grid = figure.subplots(lines, columns, squeeze=False)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        for axes, (scenario, panel) in zip(grid.flat, panels, strict=False):
            _draw_panel(axes, panel, chosen, marks)
            axes.set_title(scenario, loc="left")
        for axes in grid[:, 0]:
            axes.set_ylabel("(1 - DSC) of the kept, over all")
        handles = [Line2D([], [], color=marks[n].colour, linestyle=marks[n].dashes, label=n) for n in chosen]  # type: ignore[arg-type]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(5, len(handles)), frameon=False)
    return figure


def _draw_panel(axes: Axes, panel: pd.DataFrame, methods: Sequence[str], marks: Mapping[str, style.Mark]) -> None:
    for name in methods:
        own = panel[panel["label"] == name]
        coverage, risk = [0.0, *own["coverage"]], [0.0, *own["generalised_risk"]]
        if len(own):
            axes.plot(coverage, risk, color=marks[name].colour, linestyle=marks[name].dashes)
    axes.set(xlim=(0, 1), ylim=(0, None), xlabel="share of cases kept")
    axes.grid(axis="y", color=style.FAINT, linewidth=0.5)
    axes.set_axisbelow(True)
