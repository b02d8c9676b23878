"""Pages of images with contours: the contact sheet of a shift, and examples of references and predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from shiftbench.report import images, style
from shiftbench.report.images import Page, Spacing


@dataclass(frozen=True)
class Cell:
    """One picture of a contact sheet, or the reason why there is none.

    Attributes:
        image: (h, w) in raw units or (h, w, 3) colour, 0-255 or 0-1; None where the shift is not applicable.
        references: protocol name and integer mask (h, w); the first is drawn solid, the second dashed in white.
        spacing: size of a pixel (row, column) in mm; None where the image has none.
        caption: what the shift achieved, printed beneath; may have several lines.
        reason: why there is no image.
        difference: the image is a difference, shown in blue and red.
        window: limits of grey; by default those of the first image of its column.
    """

    image: np.ndarray | None
    references: Sequence[tuple[str, np.ndarray]] = ()
    spacing: Spacing = None
    caption: str = ""
    reason: str = ""
    difference: bool = False
    window: tuple[float, float] | None = None


@dataclass(frozen=True)
class Example:
    """One slice of one target with its reference and what each method predicted.

    Attributes:
        title: the target's name, printed at the left; may have several lines.
        image: (h, w) in raw units or (h, w, 3) colour.
        spacing: size of a pixel (row, column) in mm; None where the image has none.
        reference: integers (h, w), 0 background, then the structures in order.
        predictions: method to integers (h, w); None where the method gave none.
        structures: names of the labels 1, 2, ...
    """

    title: str
    image: np.ndarray
    spacing: Spacing
    reference: np.ndarray
    predictions: Mapping[str, np.ndarray | None]
    structures: Sequence[str]


def contact_sheet(
    cells: Sequence[Sequence[Cell]],
    title: str,
    subtitle: str = "",
    *,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    structures: Sequence[str] = (),
    window: str = "column",
) -> Figure:
    """A grid of images with their references drawn in: one row per severity, one column per patient.

    Args:
        cells: rows of equal length; row 0 is severity 0.
        title: printed above, bold.
        subtitle: printed beneath the title, may have several lines.
        row_labels: at the left of each row.
        column_labels: above each column.
        structures: names of the labels 1, 2, ... for the legend.
        window: "column": the first image of a column sets the limits of grey for that column, so that a change of
            intensity is seen; "row" for a sheet that is laid on its side.

    Raises:
        ValueError: no cells, rows of unequal length, or an unknown `window`.
    """
    if not cells or not cells[0] or len({len(row) for row in cells}) != 1:
        raise ValueError("a contact sheet needs at least one row, and rows of equal length")
    if window not in ("column", "row"):
        raise ValueError(f"window is 'column' or 'row', not {window!r}")
    with style.paper():
        page = _sheet_page(cells, bool(row_labels))
        title, subtitle = images.wrapped(title, subtitle, page.width)
        page = replace(page, top=images.heading_height(title, subtitle) + (0.22 if column_labels else 0.06))
        figure = style.new_figure(page.width, page.height)
        images.heading(figure, title, subtitle)
        windows = _windows(cells, window)
        for i, row in enumerate(cells):
            for j, cell in enumerate(row):
                axes = page.axes(figure, i, j)
                alike = j > 0 and _same_grid(cell, row[j - 1])
                _draw_cell(axes, cell, windows[i if window == "row" else j], page.cell, scale=not alike)
                if column_labels and i == 0:
                    axes.set_title(column_labels[j], pad=4)
                if row_labels and j == 0:
                    images.row_label(axes, row_labels[i])
        images.legend(figure, structures, _protocol_lines(cells))
    return figure


def _sheet_page(cells: Sequence[Sequence[Cell]], row_labels: bool) -> Page:
    heights = [max(_height(cell) for cell in row) for row in cells]
    known = next((h for h in heights if h), 1.0)
    page = Page(
        columns=len(cells[0]),
        heights=[h or known for h in heights],
        lines=[],
        top=0.0,
        left=1.02 if row_labels else images.GAP,
        bottom=0.28,
    )
    captions = ([images.broken(cell.caption, page.cell) for cell in row] for row in cells)
    return replace(page, lines=[max(len(text.splitlines()) for text in row) for row in captions])


def _height(cell: Cell) -> float:
    return 0.0 if cell.image is None else images.relative_height(cell.image, cell.spacing)


def _windows(cells: Sequence[Sequence[Cell]], window: str) -> list[tuple[float, float]]:
    lines = cells if window == "row" else list(zip(*cells, strict=True))
    given = next((cell.window for line in lines for cell in line if cell.window is not None), None)
    if given is not None:
        return [given] * len(lines)
    first = [
        next((cell.image for cell in line if cell.image is not None and not cell.difference), None) for line in lines
    ]
    known = next((image for image in first if image is not None), None)
    first = [
        image if image is not None else known for image in first
    ]  # a difference is shown on the scale of the image
    return [(0.0, 1.0) if image is None else images.grey_window(image) for image in first]


def _same_grid(one: Cell, other: Cell) -> bool:
    if one.image is None or other.image is None:
        return False
    return one.spacing == other.spacing and one.image.shape == other.image.shape


def _draw_cell(axes: Axes, cell: Cell, window: tuple[float, float], inches: float, *, scale: bool) -> None:
    if cell.image is None:
        _draw_reason(axes, "not applicable" + (f": {cell.reason}" if cell.reason else ""), inches)
    elif cell.difference:
        images.draw_difference(axes, cell.image, cell.spacing, window)
    else:
        images.draw_image(axes, cell.image, cell.spacing, window, scale=scale)
        for number, (_, mask) in enumerate(cell.references):
            if number == 0:
                images.draw_contours(axes, mask)
            else:
                images.draw_contours(axes, _changed(mask, cell.references[0][1]), dashed=True, colour="white")
    images.caption(axes, images.broken(cell.caption, inches))


def _changed(mask: np.ndarray, first: np.ndarray) -> np.ndarray:
    """`mask` without the structures that are as in `first`."""
    same = [label for label in np.unique(mask) if np.array_equal(mask == label, first == label)]
    return np.where(np.isin(mask, same), 0, mask)


def _draw_reason(axes: Axes, text: str, inches: float) -> None:
    axes.set(xticks=[], yticks=[], facecolor="#f2f2f2")
    axes.spines[:].set_visible(False)
    axes.text(
        0.5,
        0.5,
        images.broken(text, inches),
        transform=axes.transAxes,
        ha="center",
        va="center",
        color=style.MUTED,
        fontsize=8,
    )


def _protocol_lines(cells: Sequence[Sequence[Cell]]) -> list[Line2D]:
    """Legend entries of the protocols, where a cell shows more than one."""
    most = max((cell.references for row in cells for cell in row), key=len)
    if len(most) < 2:
        return []
    dashes: tuple[Any, ...] = ("-", images.DASHES)
    return [
        Line2D([], [], color=style.INK, linewidth=1.2, linestyle=dashes[min(i, 1)], label=name)
        for i, (name, _) in enumerate(most)
    ]


def slice_dsc(prediction: np.ndarray, reference: np.ndarray) -> float | None:
    """Dice similarity coefficient of two masks (h, w); None where the reference is empty."""
    prediction, reference = np.asarray(prediction, bool), np.asarray(reference, bool)
    if not reference.any():
        return None
    return float(2 * (prediction & reference).sum() / (prediction.sum() + reference.sum()))


def example_page(examples: Sequence[Example], *, title: str = "Examples", methods: Sequence[str] = ()) -> Figure:
    """One row per target: the image with its reference, then each method's prediction over the reference.

    Args:
        examples: their structures may differ; those with the same label share a colour. A method that an example lacks
            is shown as missing.
        title: printed above, bold.
        methods: which, in which order; all of the first example unless given.

    Raises:
        ValueError: no examples.
    """
    if not examples:
        raise ValueError("a page of examples needs at least one")
    methods = list(methods or examples[0].predictions)
    structures = _by_label([example.structures for example in examples])
    subtitle = "White: reference. Colour: prediction. Beneath: DSC of the slice that is shown."
    title, subtitle = images.wrapped(title, subtitle, style.WIDTH if len(methods) > 2 else 4.6)
    with style.paper():
        crops = [_cropped(example) for example in examples]
        page = Page(
            columns=1 + len(methods),
            heights=[images.relative_height(example.image, example.spacing) for example in crops],
            lines=[len(example.structures) for example in crops],
            top=images.heading_height(title, subtitle) + 0.22,
            left=1.02,
            bottom=0.28,
        )
        figure = style.new_figure(page.width, page.height)
        images.heading(figure, title, subtitle)
        for i, example in enumerate(crops):
            _draw_example(figure, page, i, example, methods)
        images.legend(figure, structures, [])
    return figure


def _by_label(structures: Sequence[Sequence[str]]) -> list[str]:
    """The names that each label has in any of the lists, the first list's first."""
    names = [[own[i] for own in structures if i < len(own)] for i in range(max(map(len, structures)))]
    return [", ".join(dict.fromkeys(each)) for each in names]


def _cropped(example: Example, margin: float = 0.2) -> Example:
    """The example cut to what was drawn or predicted, with a margin, at the image's own proportions."""
    maps = np.stack([example.reference, *(p for p in example.predictions.values() if p is not None)])
    drawn = np.asarray(maps.any(axis=0))
    if not np.any(drawn):
        return example
    box = []
    for axis in (0, 1):
        inside = np.flatnonzero(drawn.any(axis=1 - axis))
        box.append((inside[0], inside[-1] + 1))
    size = drawn.shape
    share = min(1.0, (1 + 2 * margin) * max((high - low) / n for (low, high), n in zip(box, size, strict=True)))
    cut = []
    for (low, high), n in zip(box, size, strict=True):
        length = min(n, int(np.ceil(share * n)))
        start = int(np.clip((low + high - length) // 2, 0, n - length))
        cut.append(slice(start, start + length))
    rows, columns = cut
    return replace(
        example,
        image=example.image[rows, columns],
        reference=example.reference[rows, columns],
        predictions={m: None if p is None else p[rows, columns] for m, p in example.predictions.items()},
    )


def _draw_example(figure: Figure, page: Page, row: int, example: Example, methods: Sequence[str]) -> None:
    window = images.grey_window(example.image)
    first = page.axes(figure, row, 0)
    images.draw_image(first, example.image, example.spacing, window)
    images.draw_contours(first, example.reference)
    images.row_label(first, example.title)
    images.caption(first, "\n".join(example.structures))
    if row == 0:
        first.set_title("reference", pad=4)
    for column, method in enumerate(methods, 1):
        axes = page.axes(figure, row, column)
        if row == 0:
            axes.set_title(method, pad=4)
        prediction = example.predictions.get(method)
        if prediction is None:
            _draw_reason(axes, "no prediction", page.cell)
            continue
        images.draw_image(axes, example.image, example.spacing, window, scale=False)
        images.draw_contours(axes, example.reference, colour="white")
        images.draw_contours(axes, prediction)
        scores = (_score(prediction, example.reference, i) for i, _ in enumerate(example.structures, 1))
        images.caption(axes, "\n".join(scores))


def _score(prediction: np.ndarray, reference: np.ndarray, label: int) -> str:
    """DSC of one structure in words: absent from the reference, it is either rightly absent or a false positive."""
    value = slice_dsc(prediction == label, reference == label)
    if value is not None:
        return f"{value:.2f}"
    return "false positive" if (prediction == label).any() else "absent"
