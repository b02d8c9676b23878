"""Figures of a run: source-to-target matrix, severity curves, and the leaderboard as dots with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from shiftbench import robustness
from shiftbench.errors import OutputError
from shiftbench.report import style
from shiftbench.report.leaderboard import leaderboard
from shiftbench.report.matrix import transfer_matrix
from shiftbench.report.retention import retention_curves
from shiftbench.report.sheet import Example, example_page
from shiftbench.report.style import save
from shiftbench.report.tables import label, number
from shiftbench.report.words import FAMILY_NAMES, TRACK_NAMES, UNCOMPARABLE
from shiftbench.robustness.constants import ORACLE, SOURCE_ONLY
from shiftbench.shifts.operators import OPERATORS
from shiftbench.types import Family

__all__ = [
    "Example",
    "example_page",
    "leaderboard_picture",
    "save",
    "severity_curves",
    "transfer_matrix",
    "write_figures",
]

MOST_LINES = 8  # more lines with bands in one panel cannot be told apart
PANELS = 3  # per row


def write_figures(rows: pd.DataFrame, folder: str | Path) -> list[Path]:
    """Writes the figures of every backbone and budget in `rows` as PNG and SVG, and returns their paths.

    Raises:
        OutputError: the folder cannot be written, or the rows cannot be compared.
    """
    table = leaderboard(rows)
    runs = sorted(set(zip(table["backbone"], table["budget"], strict=True)))
    written: list[Path] = []
    for backbone, budget in runs:
        ending = "" if len(runs) == 1 else f"_{backbone}_{budget}"
        own = rows[(rows["backbone"] == backbone) & (rows["budget"] == budget)]
        of_run = table[(table["backbone"] == backbone) & (table["budget"] == budget)]
        written += save(leaderboard_picture(of_run), folder, f"leaderboard{ending}")
        written += save(transfer_matrix(of_run), folder, f"transfer_matrix{ending}")
        curves = severity_curves(own, methods=best_of_each_track(of_run))
        if curves is not None:
            written += save(curves, folder, f"severity_curves{ending}")
        kept = retention_curves(own, methods=best_of_each_track(of_run))
        if kept is not None:
            written += save(kept, folder, f"retention{ending}")
    return written


def best_of_each_track(table: pd.DataFrame) -> list[str]:
    """Labels of source-only, the oracle, and the best method of each track, at most `MOST_LINES`."""
    overall = table[(table["scope"] == "overall") & table["dsc"].notna()]
    fixed = [name for name in (SOURCE_ONLY, ORACLE) if (overall["method"] == name).any()]
    rest = overall[~overall["method"].isin(fixed)].sort_values(["dsc", "label"], ascending=[False, True], kind="stable")
    return fixed + list(rest.drop_duplicates("track")["label"])[: MOST_LINES - len(fixed)]


def severity_curves(rows: pd.DataFrame, *, methods: Sequence[str] = ()) -> Figure | None:
    """Mean DSC against severity with 95 % bands, one panel per operator; None where no operator has two settings.

    Severities are evenly spaced; beneath each stands the parameter's value in the operator's unit. The first point is
    the method's score on the source, where the operator changes nothing.

    Args:
        rows: the columns of `shiftbench.types.Row`, of one backbone and budget.
        methods: labels of those to draw; the first `MOST_LINES` by name unless given.

    Raises:
        OutputError: rows of several backbones or budgets.
    """
    curves = robustness.severity_curves(rows)
    if curves.empty:
        return None
    _refuse_several_runs(curves)
    curves = curves[
        curves["operator"].map(lambda name: name not in OPERATORS or OPERATORS[name].family != Family.CONTROL)
    ]
    curves = curves.assign(label=[label(m, k) for m, k in zip(curves["method"], curves["k"], strict=True)])
    known = sorted(set(curves["label"]))
    chosen = [name for name in methods if name in known] or known[:MOST_LINES]
    marks = style.marks(chosen)
    panels = [
        p for _, p in curves[curves["label"].isin(chosen)].groupby(["scenario", "operator"]) if len(_settings(p)) > 2
    ]
    if not panels:
        return None
    columns = min(PANELS, len(panels))
    lines = -(-len(panels) // columns)
    with style.paper():
        figure = style.new_figure(style.WIDTH, 0.75 + 2.25 * lines, layout="constrained")
        grid = figure.subplots(lines, columns, sharey=True, squeeze=False)
        for axes, panel in zip(grid.flat, panels, strict=False):
            _draw_panel(axes, panel, [name for name in chosen if name in set(panel["label"])], marks)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        for axes in grid[:, 0]:
            axes.set_ylabel("DSC (mean, 95 % band)")
        handles = [_handle(name, marks[name]) for name in chosen]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(5, len(handles)), frameon=False)
    return figure


def _refuse_several_runs(table: pd.DataFrame) -> None:
    runs = table[["backbone", "budget"]].drop_duplicates()
    if len(runs) > 1:
        raise OutputError("rows of several backbones or budgets in one figure", remedy="draw each of them by itself")


def _settings(panel: pd.DataFrame) -> pd.DataFrame:
    """The settings of a panel in order: the source first, then by level, then by value where there are no levels."""
    settings = panel[["level", "value", "unit"]].drop_duplicates(["level", "value"])
    return settings.sort_values(["level", "value"], kind="stable", ignore_index=True).reset_index(names="x")


def _draw_panel(axes: Axes, panel: pd.DataFrame, methods: Sequence[str], marks: dict[str, style.Mark]) -> None:
    settings = _settings(panel)
    placed = panel.merge(settings[["x", "level", "value"]], on=["level", "value"])
    for name in methods:
        line, mark = placed[placed["label"] == name].sort_values("x"), marks[name]
        if line["dsc_low"].notna().any():
            limits = line[["dsc_low", "dsc_high"]].to_numpy(float).T
            axes.fill_between(line["x"], *limits, color=mark.colour, alpha=0.13, linewidth=0)
        axes.plot(line["x"], line["dsc"], color=mark.colour, marker=mark.marker, linestyle=mark.dashes, markersize=4)
    first = panel.iloc[0]
    operator = OPERATORS.get(first["operator"])
    name = operator.parameter.split(",")[0] if operator else first["operator"].replace("_", " ")
    unit = next((str(u) for u in settings["unit"] if pd.notna(u) and u), "")
    ticks = [
        "source" if level == 0 else f"{value:g}"
        for level, value in zip(settings["level"], settings["value"], strict=True)
    ]
    axes.set_xticks(settings["x"], ticks)
    axes.set_xlabel(unit if name in unit else f"{name} ({unit})" if unit else f"{name} (no unit)")
    axes.set_title(first["scenario"], loc="left")
    axes.grid(axis="y", color=style.FAINT, linewidth=0.5)
    axes.set_axisbelow(True)


def _handle(name: str, mark: style.Mark) -> Line2D:
    return Line2D([], [], color=mark.colour, marker=mark.marker, linestyle=mark.dashes, markersize=4.5, label=name)  # type: ignore[arg-type]


def leaderboard_picture(table: pd.DataFrame) -> Figure:
    """Macro mean DSC with its 95 % interval for each method, overall and per family, grouped by track.

    A hollow dot is not ranked. Dashed and dotted lines mark source-only and the oracle.

    Args:
        table: the leaderboard of one backbone and budget, or the rows of one.

    Raises:
        OutputError: several backbones or budgets.
    """
    table = table if "scope" in table else leaderboard(table)
    _refuse_several_runs(table)
    pooled = table[table["scope"].isin(["overall", "family"])]
    families = [name for name in FAMILY_NAMES if (pooled["family"] == name).any()]
    lines = _picture_lines(pooled)
    notes = _picture_notes(table)
    top, foot = 0.68 + 0.155 * len(notes), 0.55  # inches
    height = top + 0.215 * (len(lines) + 0.1) + foot
    numbers = pooled[["dsc_low", "dsc_high", "dsc"]].stack()
    limits = (numbers.min() - 0.02, min(1.0, numbers.max() + 0.02))
    with style.paper():
        figure = style.new_figure(style.WIDTH, height)
        left, right, gap = 1.62 / style.WIDTH, 0.995, 0.014
        unit = (right - left - gap * len(families)) / (1.7 + len(families))
        x = left
        for family in ["overall", *families]:
            overall = family == "overall"
            width = unit * (1.7 if overall else 1.0)
            axes = figure.add_axes((x, foot / height, width, (height - top - foot) / height))
            own = pooled[pooled["scope"] == "overall"] if overall else pooled[pooled["family"] == family]
            _draw_dots(axes, own, lines, limits, names=overall)
            axes.set_title(
                "Overall" if overall else FAMILY_NAMES[family], fontweight="bold" if overall else None, pad=6
            )
            x += width + gap
        figure.supxlabel("DSC, mean over targets with 95 % interval", x=(left + right) / 2, y=0.012, fontsize=8.5)
        _picture_heading(figure, table, notes)
    return figure


def _picture_lines(pooled: pd.DataFrame) -> list[tuple[str, str | None]]:
    """(track, None) for a heading, then (track, label) for its methods, best first."""
    overall = pooled[(pooled["scope"] == "overall") & pooled["label"].isin(pooled.loc[pooled["dsc"].notna(), "label"])]
    lines: list[tuple[str, str | None]] = []
    known = [*TRACK_NAMES, *sorted(set(overall["track"]) - set(TRACK_NAMES))]
    for track in known:
        own = overall[overall["track"] == track].sort_values(["dsc", "label"], ascending=[False, True], kind="stable")
        if len(own):
            lines += [(track, None), *((track, name) for name in own["label"])]
    return lines


def _draw_dots(
    axes: Axes, own: pd.DataFrame, lines: Sequence[tuple[str, str | None]], limits: tuple[float, float], *, names: bool
) -> None:
    """One column of the picture; with `names` it is the first, which has the methods' names and the numbers."""
    for name, dashes in ((SOURCE_ONLY, (0, (4, 2))), (ORACLE, (0, (1, 1.5)))):
        for value in own.loc[own["method"] == name, "dsc"].dropna():
            axes.axvline(value, color=style.MUTED, linewidth=0.8, linestyle=dashes, zorder=1)
    for y, (track, method) in enumerate(lines):
        if method is None:
            axes.axhline(y - 0.42, color=style.FAINT, linewidth=0.6, zorder=0)
            if names:
                _track_heading(axes, y, TRACK_NAMES.get(track, track))
        else:
            found = own[(own["track"] == track) & (own["label"] == method) & own["dsc"].notna()]
            for _, row in found.iterrows():
                _draw_dot(axes, y, row, numbered=names)
    room = 0.3 * (limits[1] - limits[0]) if names else 0.0  # for the numbers
    axes.set(xlim=(limits[0], limits[1] + room), ylim=(len(lines) - 0.5, -0.6))
    axes.spines["left"].set_visible(False)
    axes.tick_params(left=False)
    axes.xaxis.set_major_locator(style.few_ticks(5 if names else 3))
    axes.set_yticks(range(len(lines)), [name or "" if names else "" for _, name in lines])


def _draw_dot(axes: Axes, y: int, row: pd.Series, *, numbered: bool) -> None:
    colour = style.INK if row["method"] in (SOURCE_ONLY, ORACLE) else style.BLUE
    hollow = pd.isna(row["rank"]) and row["method"] != ORACLE
    axes.plot([row["dsc_low"], row["dsc_high"]], [y, y], color=colour, linewidth=1.6, solid_capstyle="butt", zorder=2)
    axes.plot(row["dsc"], y, "o", markersize=4.2, color=colour, markerfacecolor="white" if hollow else colour, zorder=3)
    if numbered:
        star = "*" if row["note"].startswith(UNCOMPARABLE) else "  "
        place: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "ha": "right", "va": "center_baseline"}
        axes.text(1.0, y, number(row["dsc"]) + star, fontsize=8, **place)


def _track_heading(axes: Axes, y: int, text: str) -> None:
    place: dict[str, Any] = {
        "xycoords": ("axes fraction", "data"),
        "xytext": (-1.54 * 72, 0),
        "textcoords": "offset points",
    }
    looks: dict[str, Any] = {"color": style.MUTED, "fontsize": 8, "fontweight": "bold", "va": "center_baseline"}
    axes.annotate(text, (0, y), bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5}, **looks, **place)


def _picture_notes(table: pd.DataFrame) -> list[str]:
    """Lines beneath the title: what the intervals hold for, and how the marks are to be read."""
    scored = table[table["dsc"].notna()]
    seeds, patients = scored["n_seeds"].max(), scored["n_patients"].max()
    held = "over patients, conditional on this trained model" if seeds == 1 else "over patients crossed with seeds"
    counted = f"{patients} patients, {seeds} seed{'s' if seeds != 1 else ''}"
    notes = [f"{counted}; intervals {held}. Dashed: source-only; dotted: oracle; hollow: not ranked."]
    if (table["family"] == Family.ANNOTATION).any():
        labelled = "annotation targets enter it only for methods that see target labels"
        notes.append(f"Overall weighs families equally; {labelled}.")
    if table["note"].str.startswith(UNCOMPARABLE).any():
        notes.append("* leaves out targets on which the method is not applicable; not to be compared.")
    return notes


def _picture_heading(figure: Figure, table: pd.DataFrame, notes: Sequence[str]) -> None:
    height, first = figure.get_figheight(), table.iloc[0]
    title = f"DSC under domain shift: {first['backbone']}, budget {first['budget']}"
    figure.text(0.008, 1 - 0.08 / height, title, fontweight="bold", fontsize=10, va="top")
    text = "\n".join(notes)
    figure.text(0.008, 1 - 0.29 / height, text, fontsize=8, color=style.MUTED, va="top", linespacing=1.3)
