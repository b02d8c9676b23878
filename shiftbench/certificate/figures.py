"""Figures of the certificate: requested against achieved per operator, and the drop of a U-Net per severity."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from shiftbench.report.style import BLUE, FAINT, MUTED, VERMILION, WIDTH, few_ticks, new_figure, paper
from shiftbench.shifts import OPERATORS
from shiftbench.types import Family, Status

PANELS_PER_ROW = 6
PANEL_HEIGHT = 1.45  # inches


def effect_figure(cases: pd.DataFrame) -> Figure:
    """One panel per operator: the achieved quantity of every case against severity, and its tolerance."""
    done = cases[cases["status"] == Status.OK]
    names = list(dict.fromkeys(done["operator"]))
    with paper():
        figure, axes = _grid(len(names))
        for ax, name in zip(axes, names, strict=True):
            _effect_panel(ax, name, done[done["operator"] == name])
    return figure


def _effect_panel(ax: Axes, name: str, own: pd.DataFrame) -> None:
    operator = OPERATORS[name]
    if operator.tolerance is not None:
        asked = own.drop_duplicates("level").sort_values("level")
        value = asked["value"].to_numpy(float)
        ax.fill_between(
            asked["level"], value * (1 - operator.tolerance), value * (1 + operator.tolerance), color=FAINT, lw=0
        )
    for _, case in own.sort_values("level").groupby("case"):
        ax.plot(case["level"], case["achieved"].astype(float), color=BLUE, lw=0.9, marker="o", ms=2.2)
    ax.set_title(name.replace("_", " "), fontsize=7.5)
    ax.set_ylabel(operator.achieved.replace("_", " "), fontsize=6)
    _small(ax)


def drop_figure(drops: pd.DataFrame) -> Figure:
    """One panel per operator: the drop of a plain U-Net in DSC points against severity; all panels share the scale."""
    names = [n for n in dict.fromkeys(drops["operator"]) if OPERATORS[n].family is not Family.CONTROL]
    points = 100 * drops["drop"].astype(float)
    low, high = min(-2.0, float(points.min()) - 2), float(points.max()) + 3
    with paper():
        figure, axes = _grid(len(names))
        for ax, name in zip(axes, names, strict=True):
            own = drops[drops["operator"] == name].sort_values("level")
            ax.axhline(0, color=MUTED, lw=0.6)
            ax.plot(own["level"], 100 * own["drop"].astype(float), color=VERMILION, marker="o", ms=2.6, lw=1.0)
            ax.set_ylim(low, high)
            ax.set_title(name.replace("_", " "), fontsize=7.5)
            ax.set_ylabel("drop, DSC points", fontsize=6)
            _small(ax)
    return figure


def _small(ax: Axes) -> None:
    ax.set_xlim(0.7, 5.3)
    ax.set_xticks(range(1, 6))
    ax.tick_params(labelsize=6, length=2, pad=1.5)
    ax.yaxis.set_major_locator(few_ticks(4))


def _grid(n: int) -> tuple[Figure, list[Axes]]:
    """A figure of n panels, and its axes in reading order."""
    rows = max(1, math.ceil(n / PANELS_PER_ROW))
    figure = new_figure(WIDTH * 1.25, rows * PANEL_HEIGHT + 0.2, layout="constrained")
    axes = np.ravel(figure.subplots(rows, PANELS_PER_ROW, squeeze=False)).tolist()
    for unused in axes[n:]:
        unused.set_axis_off()
    return figure, axes[:n]
