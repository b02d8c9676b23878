"""One table beside the leaderboards: how it is held, put into cells, written and printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from shiftbench.report.words import DASH


@dataclass(frozen=True)
class Section:
    """One table beside the leaderboards.

    Attributes:
        file: name of its CSV file.
        words: how to read it.
        alarm: a sentence that must not be missed, or an empty string.
        table: all of it, for the file.
        head: of the columns that are shown; the first `left` are text.
        body: cells that are shown.
        on_terminal: whether the cells are printed; otherwise they stand on the page and in the file alone.
    """

    file: str
    title: str
    words: str
    alarm: str
    table: pd.DataFrame
    head: tuple[str, ...]
    body: tuple[tuple[str, ...], ...]
    left: int
    on_terminal: bool = True


def method_cell(row) -> str:
    """A method, with K where its name does not say it."""
    k = "" if pd.isna(row.k) or str(row.method).endswith(f"_{row.k}") else f" (K={row.k})"
    return f"{row.method}{k}"


def number_cell(value: float | None) -> str:
    """A number with three digits, or a dash."""
    return DASH if value is None or pd.isna(value) else f"{value:.3f}".replace("-", "−")


def limits_cell(row, name: str) -> str:
    """Mean and limits of the columns `name`, `name_low` and `name_high`."""
    low, high = getattr(row, f"{name}_low"), getattr(row, f"{name}_high")
    mean = number_cell(getattr(row, name))
    return mean if low is None or pd.isna(low) else f"{mean} [{number_cell(low)}, {number_cell(high)}]"


def share_cell(value: float | None) -> str:
    """A percentage without digits, or a dash."""
    return DASH if value is None or pd.isna(value) else f"{value:.0f} %".replace("-", "−")


def write_sections(made: Sequence[Section], folder: Path) -> list[Path]:
    """Writes each section's table as CSV, in full precision."""
    for section in made:
        section.table.to_csv(folder / section.file, index=False, lineterminator="\n")
    return [folder / section.file for section in made]


def print_sections(console: Console, made: Sequence[Section]) -> None:
    """Prints the sections that are short enough for a terminal, alarms first."""
    for section in made:
        if section.alarm:
            console.print(f"\n[bold red]{escape(section.alarm)}[/bold red]")
    for section in made:
        if not section.on_terminal or not section.body:
            continue
        grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=0)
        for i, name in enumerate(section.head):
            justify: Literal["left", "right"] = "left" if i < section.left else "right"
            grid.add_column(name, justify=justify, overflow="fold", no_wrap=i == 0)  # names are read whole
        for line in section.body:
            grid.add_row(*(escape(cell) for cell in line))
        console.print(f"\n[bold]{escape(section.title)}[/bold]")
        console.print(f"[dim]{escape(section.words)}[/dim]")
        console.print(grid)
