"""The source-to-target matrix: DSC of every method in every domain, and the drop against the source."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from shiftbench.errors import OutputError
from shiftbench.report import style
from shiftbench.report.leaderboard import leaderboard
from shiftbench.report.tables import number
from shiftbench.report.words import FAMILY_NAMES, TRACK_NAMES
from shiftbench.robustness.constants import SOURCE_ONLY

LEFT = 1.45  # inches for the methods' names
CELL, NARROWEST, ROW = 0.425, 0.385, 0.33  # inches
GROUP = 0.09  # inches between families, and between tracks
COLOURS = "YlGnBu_r"  # sequential in lightness, so that it is read without colour: dark is low


@dataclass(frozen=True)
class _Column:
    """One domain: the family it is drawn under, its heading, and where its scores are."""

    family: str
    heading: str
    scenario: str
    target: str


def transfer_matrix(table: pd.DataFrame) -> Figure:
    """Methods by domains: mean DSC as number and colour, beneath it the change against source-only on the source.

    Args:
        table: the leaderboard of one backbone and budget, or the rows of one.

    Raises:
        OutputError: several backbones or budgets.
    """
    table = table if "scope" in table else leaderboard(table)
    if len(table[["backbone", "budget"]].drop_duplicates()) > 1:
        raise OutputError("rows of several backbones or budgets in one figure", remedy="draw each of them by itself")
    targets = table[table["scope"] == "target"]
    methods, columns = _methods(table), _columns(targets)
    bands = _bands(columns)
    cell = _cell_width(bands)
    heads = [0.3 + 0.066 * max(len(c.heading) for c in band) for band in bands]
    body = sum(ROW for _ in methods) + GROUP * (len({track for track, _ in methods}) - 1)
    height = 0.62 + sum(heads) + len(bands) * (body + 0.12) + 0.55
    scale = Normalize(max(0.0, targets["dsc"].min() // 0.1 / 10), min(1.0, targets["dsc"].max() // 0.1 / 10 + 0.1))
    scores = {(row.track, row.label, row.scenario, row.target): row for row in targets.itertuples()}
    with style.paper():
        figure = style.new_figure(style.WIDTH, height)
        top = 0.62
        for band, head in zip(bands, heads, strict=True):
            share = (0, 1 - (top + head + body) / height, 1, (head + body) / height)
            axes = figure.add_axes(share)
            axes.set(xlim=(0, style.WIDTH), ylim=(body, -head))
            axes.set_axis_off()
            _draw_band(axes, band, methods, scores, scale, cell)
            top += head + body + 0.12
        _matrix_heading(figure, height)
        _colour_bar(figure, scale, height)
    return figure


def _methods(table: pd.DataFrame) -> list[tuple[str, str]]:
    """(track, label) by track, best first."""
    overall = table[table["scope"] == "overall"].sort_values(["dsc", "label"], ascending=[False, True], kind="stable")
    order = {track: i for i, track in enumerate(TRACK_NAMES)}
    pairs = list(zip(overall["track"], overall["label"], strict=True))
    return sorted(pairs, key=lambda pair: order.get(pair[0], len(order)))


def _columns(targets: pd.DataFrame) -> list[_Column]:
    """The source first (once where scenarios share it and its scores), then targets by family."""
    places = targets[["family", "scenario", "source", "target", "level"]].drop_duplicates(["scenario", "target"])
    names = places["target"].value_counts()
    order = {name: i for i, name in enumerate(sorted(FAMILY_NAMES, key=lambda name: name != "control"))}
    sources: dict[tuple, _Column] = {}
    columns: list[tuple[tuple, _Column]] = []
    for place in places.sort_values(["scenario", "level", "target"], kind="stable").itertuples():
        heading = place.target if names[place.target] == 1 else f"{place.scenario}: {place.target}"
        if place.target == place.source:
            here = targets[(targets["scenario"] == place.scenario) & (targets["target"] == place.target)]
            key = (place.source, tuple(here.sort_values(["track", "label"])["dsc"].round(9)))
            sources.setdefault(key, _Column("source", heading, place.scenario, place.target))
        else:
            columns.append(((order[place.family],), _Column(place.family, heading, place.scenario, place.target)))
    first = list(sources.values())
    if len({column.target for column in first}) == len(first):
        first = [_Column("source", column.target, column.scenario, column.target) for column in first]
    return first + [column for _, column in sorted(columns, key=lambda pair: pair[0])]


def _bands(columns: Sequence[_Column]) -> list[list[_Column]]:
    """The columns cut into lines of the page of nearly equal length."""
    gaps = GROUP * (len({column.family for column in columns}) - 1)
    room = style.WIDTH - LEFT - 0.05
    n = max(1, math.ceil((NARROWEST * len(columns) + gaps) / room))
    length = math.ceil(len(columns) / n)
    return [list(columns[i : i + length]) for i in range(0, len(columns), length)]


def _cell_width(bands: Sequence[Sequence[_Column]]) -> float:
    room = style.WIDTH - LEFT - 0.05
    return min(CELL, *((room - GROUP * (len({c.family for c in band}) - 1)) / len(band) for band in bands))


def _draw_band(
    axes: Axes,
    band: Sequence[_Column],
    methods: Sequence[tuple[str, str]],
    scores: dict,
    scale: Normalize,
    cell: float,
) -> None:
    colours = matplotlib.colormaps[COLOURS]
    x, starts = LEFT, []
    for i, column in enumerate(band):
        if i and band[i - 1].family != column.family:
            x += GROUP
        starts.append(x)
        axes.text(x + cell / 2, -0.06, column.heading, rotation=90, ha="center", va="bottom", fontsize=8)
        x += cell
    _family_headings(axes, band, starts, cell)
    y, previous = 0.0, None
    for track, name in methods:
        if previous not in (None, track):
            y += GROUP
        if previous != track:
            axes.text(0.06, y + ROW / 2, _TAGS.get(track, track), fontsize=8, color=style.MUTED, va="center")
        axes.text(LEFT - 0.07, y + ROW / 2, name, ha="right", va="center", fontsize=8)
        for column, start in zip(band, starts, strict=True):
            row = scores.get((track, name, column.scenario, column.target))
            _draw_cell(axes, (start, y, cell), row, scale, colours, is_source=column.family == "source")
        y, previous = y + ROW, track


_SHORT = {"population": "Pop.", "combined": "Comb.", "annotation": "Annot.", "acquisition": "Acq.", "control": "Contr."}
_TAGS = {
    "dg": "DG",
    "harmonise": "HARM",
    "uda": "UDA",
    "sfda": "SFDA",
    "tta": "TTA",
    "fewshot": "FS",
    "posthoc": "POST",
    "estimate": "EST",
    "reference": "REF",
}


def _family_headings(axes: Axes, band: Sequence[_Column], starts: Sequence[float], cell: float) -> None:
    top = axes.get_ylim()[1]
    for family in dict.fromkeys(column.family for column in band):
        own = [start for column, start in zip(band, starts, strict=True) if column.family == family]
        low, high = own[0] + 0.03, own[-1] + cell - 0.03
        name = "Source" if family == "source" else FAMILY_NAMES[family]
        shown = name if len(name) * 0.07 < high - low + 0.1 else _SHORT.get(family, name)
        axes.plot([low, high], [top + 0.19] * 2, color=style.MUTED, linewidth=0.8)
        axes.text((low + high) / 2, top + 0.15, shown, ha="center", va="bottom", fontsize=8, fontweight="bold")


def _draw_cell(
    axes: Axes, box: tuple[float, float, float], row, scale: Normalize, colours: Colormap, *, is_source: bool
) -> None:
    x, y, cell = box
    if row is None:
        axes.add_patch(Rectangle((x, y), cell, ROW, facecolor="#f2f2f2", edgecolor="white", linewidth=1))
        axes.text(x + cell / 2, y + ROW / 2, "n/a", ha="center", va="center", fontsize=8, color=style.MUTED)
        return
    colour = colours(scale(row.dsc))
    ink = style.INK if _luminance(colour) > 0.24 else "white"
    axes.add_patch(Rectangle((x, y), cell, ROW, facecolor=colour, edgecolor="white", linewidth=1))
    alone = is_source and row.method == SOURCE_ONLY
    axes.text(
        x + cell / 2,
        y + ROW * (0.5 if alone else 0.29),
        number(row.dsc, 2),
        ha="center",
        va="center",
        fontsize=8.5,
        color=ink,
    )
    if not alone and not pd.isna(row.drop):
        change = f"{-row.drop:+.2f}".replace("-", "−").replace("+0.00", "0.00").replace("−0.00", "0.00")
        axes.text(x + cell / 2, y + ROW * 0.73, change, ha="center", va="center", fontsize=8, color=ink, alpha=0.85)


def _luminance(colour: Sequence[float]) -> float:
    """Relative luminance of an sRGB colour (r, g, b, ...)."""
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in colour[:3]]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _matrix_heading(figure: Figure, height: float) -> None:
    figure.text(0.008, 1 - 0.08 / height, "DSC in every domain", fontsize=10, fontweight="bold", va="top")
    text = "Beneath each DSC: its change against source-only on the source. n/a: not applicable, or not run."
    figure.text(0.008, 1 - 0.29 / height, text, fontsize=8, color=style.MUTED, va="top")


def _colour_bar(figure: Figure, scale: Normalize, height: float) -> None:
    axes = figure.add_axes((LEFT / style.WIDTH, 0.36 / height, 2.6 / style.WIDTH, 0.1 / height))
    bar = figure.colorbar(ScalarMappable(scale, COLOURS), cax=axes, orientation="horizontal")
    bar.outline.set_visible(False)
    bar.set_label("DSC (mean over structures and patients)", fontsize=8, labelpad=2)
