"""The looks that all pictures share: width, fonts, colour-blind safe colours, and files whose bytes repeat."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from shiftbench.errors import OutputError
from shiftbench.robustness.constants import ORACLE, SOURCE_ONLY

WIDTH = 8.3  # inches: the width of a README and of an A4 page in landscape, so that 8 pt stays 8 pt

# Okabe and Ito, "Color Universal Design", 2008; yellow is left out of lines since it vanishes on white.
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
INK, MUTED, FAINT = "#1a1a1a", "#6b6b6b", "#d9d9d9"
LINES = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
STRUCTURES = (SKY, ORANGE, "#F0E442", PURPLE, GREEN, VERMILION)  # on grey images, where yellow is the most visible
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

_PAPER = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so a picture is the same on every machine
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.labelsize": 8.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "hatch.linewidth": 0.5,
    "figure.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "shiftbench",
}


@contextmanager
def paper() -> Iterator[None]:
    """Within this block matplotlib draws in the style of this package; the caller's settings come back afterwards."""
    settings: Any = {**dict(matplotlib.rcParamsDefault), **_PAPER, "backend": "agg"}
    with matplotlib.rc_context(rc=settings):
        yield


def new_figure(width: float, height: float, **options: object) -> Figure:
    """An empty figure of `width` x `height` inches, outside pyplot, so that none is left open."""
    figure = Figure(figsize=(width, height), **options)  # type: ignore[arg-type]
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, folder: str | Path, name: str) -> tuple[Path, Path]:
    """Writes `name`.png (200 dpi) and `name`.svg into `folder`, with no date in them, and returns both paths.

    Raises:
        OutputError: the folder cannot be made or written.
    """
    folder = Path(folder)
    png, svg = folder / f"{name}.png", folder / f"{name}.svg"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with paper():
            figure.savefig(png, dpi=200, metadata={"Software": None})
            figure.savefig(svg, metadata={"Date": None, "Creator": "ShiftBench"})
    except OSError as error:
        raise OutputError(
            f"the figure '{name}' cannot be written: {error.strerror}",
            where=folder,
            remedy="give another folder with --out, or free space",
        ) from error
    return png, svg


@dataclass(frozen=True)
class Mark:
    """How a method is drawn: the same in every picture of one set of methods."""

    colour: str
    marker: str
    dashes: str


def marks(methods: Iterable[str]) -> dict[str, Mark]:
    """Method to mark: source-only black and dashed, the oracle grey and dotted, the rest in colours by name."""
    names = sorted(set(methods))
    fixed = {SOURCE_ONLY: Mark(INK, "o", "--"), ORACLE: Mark(MUTED, "*", ":")}
    free = [name for name in names if name not in fixed]
    coloured = {
        name: Mark(LINES[i % len(LINES)], MARKERS[i % len(MARKERS)], "-" if i < len(LINES) else "-.")
        for i, name in enumerate(free)
    }
    return {name: fixed.get(name) or coloured[name] for name in names}


def few_ticks(most: int) -> MaxNLocator:
    """Round tick values, at most so many intervals."""
    return MaxNLocator(most, steps=[1, 2, 5, 10])
