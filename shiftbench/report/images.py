"""How an image, its contours and its scale are drawn, and where the pictures of a page lie."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from skimage.measure import find_contours

from shiftbench.report import style

LINE = 0.16  # inches: height of one line of 8 pt text
GAP = 0.06  # inches between pictures
LARGEST = 2.1  # inches: widest picture, so that a sheet of one patient is not a poster
DASHES = (0, (2.4, 1.4))
Spacing = tuple[float, float] | None  # (row, column) in mm, None where an image has none


def contour_lines(mask: np.ndarray) -> list[np.ndarray]:
    """Closed lines (n, 2), in row and column indices, half-way between the pixels inside and outside `mask` (h, w)."""
    padded = np.pad(np.asarray(mask, dtype=float), 1)  # closes the outline of a mask that touches the border
    return [line - 1.0 for line in find_contours(padded, 0.5)]


def grey_window(image: np.ndarray) -> tuple[float, float]:
    """Limits of black and white: the 0.5th and 99.5th percentile; the whole scale (1 or 255) for colour."""
    values = np.asarray(image, dtype=float)
    if values.ndim == 3:
        return 0.0, 1.0 if values.max() <= 1.0 else 255.0
    low, high = np.percentile(values, [0.5, 99.5])
    return (float(low), float(high)) if high > low else (float(low) - 0.5, float(low) + 0.5)


def relative_height(image: np.ndarray, spacing: Spacing) -> float:
    """Height over width of `image` (h, w) or (h, w, 3) as it was in the patient."""
    row, column = spacing or (1.0, 1.0)
    return image.shape[0] * row / (image.shape[1] * column)


def structure_colour(label: int) -> str:
    """Colour of the structure with this label (1, 2, ...)."""
    return style.STRUCTURES[(label - 1) % len(style.STRUCTURES)]


def draw_image(
    axes: Axes, image: np.ndarray, spacing: Spacing, window: tuple[float, float], *, scale: bool = True
) -> None:
    """Shows `image` (h, w) or (h, w, 3) between the limits of `window`, in true proportions, with a bar of `scale`."""
    row, column = spacing or (1.0, 1.0)
    low, high = window
    shown = np.clip((np.asarray(image, dtype=float) - low) / (high - low), 0, 1)
    axes.imshow(shown, cmap="gray", vmin=0, vmax=1, aspect=row / column, interpolation="nearest")
    axes.set_axis_off()
    if scale:
        _scale_bar(axes, image, spacing)


def draw_difference(axes: Axes, change: np.ndarray, spacing: Spacing, window: tuple[float, float]) -> None:
    """Shows `change` (h, w), or (h, w, 3) by its mean, in blue (darker) and red, full at a quarter of `window`."""
    row, column = spacing or (1.0, 1.0)
    full = (window[1] - window[0]) / 4
    flat = change.mean(axis=2) if change.ndim == 3 else change
    axes.imshow(flat, cmap="RdBu_r", vmin=-full, vmax=full, aspect=row / column, interpolation="nearest")
    axes.set_axis_off()


def _scale_bar(axes: Axes, image: np.ndarray, spacing: Spacing) -> None:
    """A bar of a round length, about a quarter of the picture, with its unit."""
    height, width = image.shape[:2]
    column = (spacing or (1.0, 1.0))[1]
    length = max((v for v in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if v <= 0.34 * width * column), default=1)
    left, low = 0.05, 0.05
    bar = Line2D(
        [left, left + length / column / width], [low, low], transform=axes.transAxes, color="white", linewidth=2
    )
    bar.set(path_effects=_halo(3.2), solid_capstyle="butt")
    axes.add_line(bar)
    label = f"{length:g} {'mm' if spacing else 'px'}"
    text = axes.text(left, low + 0.025, label, transform=axes.transAxes, color="white", fontsize=8, va="bottom")
    text.set_path_effects(_halo(1.6))


def _halo(width: float) -> list[patheffects.AbstractPathEffect]:
    return [patheffects.withStroke(linewidth=width, foreground="black", alpha=0.6)]


def draw_contours(
    axes: Axes, mask: np.ndarray, *, colour: str | None = None, dashed: bool = False, width: float = 0.9
) -> None:
    """Outlines every label of `mask` (h, w), each in its structure's colour unless `colour` is given."""
    for label in (int(v) for v in np.unique(mask) if v):
        for line in contour_lines(mask == label):
            (drawn,) = axes.plot(line[:, 1], line[:, 0], color=colour or structure_colour(label), linewidth=width)
            drawn.set(linestyle=DASHES if dashed else "-", path_effects=_halo(width + 0.7))


def legend(figure: Figure, structures: Sequence[str], lines: Sequence[Line2D]) -> None:
    """The structures' colours and further `lines`, at the foot of the page."""
    handles = [Line2D([], [], color=structure_colour(i), linewidth=2.5, label=s) for i, s in enumerate(structures, 1)]
    handles += lines
    if handles:
        figure.legend(handles=handles, loc="lower center", ncols=min(6, len(handles)), frameon=False, borderpad=0.2)


def wrapped(title: str, subtitle: str, width: float) -> tuple[str, str]:
    """Both with line breaks, so that they fit a page of `width` inches."""
    return _filled(title, int(10 * width)), _filled(subtitle, int(15 * width))


def _filled(text: str, characters: int) -> str:
    return "\n".join(textwrap.fill(line, characters) for line in text.splitlines())


def heading_height(title: str, subtitle: str) -> float:
    """Inches that `heading` needs."""
    return 0.2 + 0.17 * len(title.splitlines()) + LINE * len(subtitle.splitlines())


def heading(figure: Figure, title: str, subtitle: str) -> None:
    """Title in bold and subtitle (lines) at the top left."""
    height, width = figure.get_figheight(), figure.get_figwidth()
    left = 0.06 / width
    figure.text(left, 1 - 0.08 / height, title, fontsize=10.5, fontweight="bold", va="top")
    below = 0.14 + 0.17 * len(title.splitlines())
    figure.text(left, 1 - below / height, subtitle, fontsize=8.5, color=style.MUTED, va="top")


@dataclass(frozen=True)
class Page:
    """Where the pictures of a grid lie, in inches.

    Attributes:
        columns: pictures per row.
        heights: of each row's pictures, relative to their width.
        lines: of caption beneath each row.
        top, left, bottom: room for heading, row labels and legend.
    """

    columns: int
    heights: Sequence[float]
    lines: Sequence[int]
    top: float
    left: float
    bottom: float

    @property
    def cell(self) -> float:
        """Width of a picture."""
        return min(LARGEST, (style.WIDTH - self.left - GAP * self.columns) / self.columns)

    @property
    def width(self) -> float:
        """Width of the page."""
        return max(4.6, self.left + self.columns * (self.cell + GAP))

    @property
    def height(self) -> float:
        """Height of the page."""
        return self.top + self.bottom + sum(self._row(i) for i in range(len(self.heights)))

    def _row(self, row: int) -> float:
        return self.cell * self.heights[row] + LINE * self.lines[row] + GAP + (0.08 if self.lines[row] else 0)

    def axes(self, figure: Figure, row: int, column: int) -> Axes:
        """New axes for the picture in this row and column."""
        high = self.cell * self.heights[row]
        x = self.left + column * (self.cell + GAP)
        y = self.height - self.top - sum(self._row(i) for i in range(row)) - high
        return figure.add_axes((x / self.width, y / self.height, self.cell / self.width, high / self.height))


def broken(text: str, inches: float) -> str:
    """`text` in lines that fit a picture of so many inches, broken after commas where it can be."""
    room = max(10, int(inches * 14))  # 14 characters of 8 pt to the inch
    lines = [line if len(line) <= room else line.replace(", ", ",\n") for line in text.splitlines()]
    return _filled("\n".join(lines), room)


def caption(axes: Axes, text: str) -> None:
    """Prints `text` (lines) beneath a picture."""
    if text:
        place: dict[str, Any] = {"xycoords": "axes fraction", "xytext": (0, -3), "textcoords": "offset points"}
        axes.annotate(text, (0.5, 0), ha="center", va="top", fontsize=8, linespacing=1.2, **place)


def row_label(axes: Axes, text: str) -> None:
    """Prints `text` (lines; long ones are broken) at the left of a picture."""
    text = _filled(text, 13)
    place: dict[str, Any] = {"xycoords": "axes fraction", "xytext": (-6, 0), "textcoords": "offset points"}
    axes.annotate(text, (0, 0.5), ha="right", va="center", **place)
