"""What stands beside the leaderboards: the impossible control, streams, and what a drop is due to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from shiftbench.report.words import DASH, FAMILY_NAMES
from shiftbench.robustness.attribution import ALL, attribution
from shiftbench.robustness.constants import CONSTANTS
from shiftbench.robustness.impossible import impossible
from shiftbench.robustness.segments import segments
from shiftbench.robustness.streams import outside_streams, streams

_IMPOSSIBLE = (
    "References are permuted between patients. Solved: better than the DSC between the references of different"
    f" patients (paired one-sided t, Holm over methods and structures, p < {CONSTANTS.audit_p:g}). Nothing may be."
)
_STREAMS = (
    "Mean DSC over all cases of a stream, whose targets are not announced; targets weigh equally. order SD: standard"
    " deviation of that mean over order seeds. gain: difference to source-only on the same cases, and in the first and"
    " the last third of the stream. Streams enter no other table."
)
_ATTRIBUTION = (
    "Drop of the mean DSC from the source to all causes at once, on the same patients and structures. effect: of one"
    " cause alone; interaction: what several do beyond the sum of their parts; Shapley: the effect and an equal part of"
    " every interaction. Effects and interactions add up to the total, and so do the Shapley values. 95 % intervals"
    " over patients crossed with seeds: two-way t with fewer than five seeds, bootstrap otherwise."
)
_SEGMENTS = (
    "Panoptic quality of things (a match overlaps by IoU > 0.5), with 95 % intervals over patients. In each case it is"
    " SQ, the quality of the matched segments, times RQ, the F1 of detection. gain: paired difference of PQ to"
    " source-only. SQ is over cases with a match. The file has stuff, precision and recall too."
)


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
    """

    file: str
    title: str
    words: str
    alarm: str
    table: pd.DataFrame
    head: tuple[str, ...]
    body: tuple[tuple[str, ...], ...]
    left: int


def sections(rows: pd.DataFrame) -> list[Section]:
    """The sections that the rows of a run have something for.

    Raises:
        OutputError: see `robustness.patient_table`.
    """
    made = (
        _impossible(impossible(rows)),
        _segments(segments(outside_streams(rows))),
        _streams(streams(rows)),
        _attribution(attribution(rows)),
    )
    return [section for section in made if not section.table.empty]


def _impossible(table: pd.DataFrame) -> Section:
    found = table[table["solved"].astype(bool)]
    named = ", ".join(
        f"{row.method} ({row.structure} of {row.scenario}, p = {row.p_holm:.2g})" for row in found.itertuples()
    )
    alarm = f"THE IMPOSSIBLE CONTROL WAS SOLVED by {named}: references leak, and no row of this run can be trusted."
    body = tuple(
        (
            *(f"{row.scenario}: {row.target}", _method(row), row.backbone, row.structure),
            *(_number(row.dsc), _number(row.between_patients), _limits(row, "difference"), _number(row.p_holm)),
            "YES" if row.solved else "no",
        )
        for row in table.itertuples()
    )
    head = ("Control", "Method", "Backbone", "Structure", "DSC", "Between patients", "Difference", "p (Holm)", "Solved")
    words = _IMPOSSIBLE
    return Section("impossible.csv", "Impossible control", words, alarm if named else "", table, head, body, 4)


def _streams(table: pd.DataFrame) -> Section:
    ordered = table.sort_values(["backbone", "budget", "scenario", "stream", "dsc"], ascending=[True] * 4 + [False])
    body = tuple(
        (
            *(f"{row.scenario}: {row.stream}", row.stream_order, _method(row), row.episode, row.backbone),
            *(_limits(row, "dsc"), _number(row.order_sd), _limits(row, "gain")),
            *(_number(row.gain_first_third), _number(row.gain_last_third)),
        )
        for row in ordered.itertuples()
    )
    head = ("Stream", "Order", "Method", "Episode", "Backbone", "DSC", "Order SD", "Gain", "First third", "Last third")
    return Section("streams.csv", "Streams", _STREAMS, "", table, head, body, 5)


def _segments(table: pd.DataFrame) -> Section:
    """All structures and parts in the file; on the page the instances of things."""
    things = table[table["instance_recall"].notna()]
    body = tuple(
        (
            *(f"{row.scenario}: {row.target}", row.structure, _method(row), row.backbone),
            *(_limits(row, "pq"), _limits(row, "gain"), _number(row.sq), _number(row.rq)),
        )
        for row in things.itertuples()
    )
    head = ("Target", "Structure", "Method", "Backbone", "PQ", "Gain", "SQ", "RQ")
    return Section("segments.csv", "Instances and segments", _SEGMENTS, "", table, head, body, 4)


def _attribution(table: pd.DataFrame) -> Section:
    """All methods in the file; on the page those of the mean over structures."""
    shown = table[table["structure"] == ALL]
    body = tuple(
        (
            *(row.scenario, _method(row), row.backbone, row.kind, row.causes, FAMILY_NAMES[row.family].lower()),
            *(_limits(row, "drop"), _share(row.share_percent), f"{row.n_patients} x {row.n_seeds}"),
        )
        for row in shown.itertuples()
    )
    head = ("Scenario", "Method", "Backbone", "Kind", "Causes", "Family", "Drop", "Share", "Patients x seeds")
    return Section("attribution.csv", "What the drop is due to", _ATTRIBUTION, "", table, head, body, 6)


def _method(row) -> str:
    k = "" if pd.isna(row.k) or str(row.method).endswith(f"_{row.k}") else f" (K={row.k})"
    return f"{row.method}{k}"


def _number(value: float | None) -> str:
    return DASH if value is None or pd.isna(value) else f"{value:.3f}".replace("-", "−")


def _limits(row, name: str) -> str:
    low, high = getattr(row, f"{name}_low"), getattr(row, f"{name}_high")
    mean = _number(getattr(row, name))
    return mean if low is None or pd.isna(low) else f"{mean} [{_number(low)}, {_number(high)}]"


def _share(value: float | None) -> str:
    return DASH if value is None or pd.isna(value) else f"{value:.0f} %".replace("-", "−")


def write_sections(made: Sequence[Section], folder: Path) -> list[Path]:
    """Writes each section's table as CSV, in full precision."""
    for section in made:
        section.table.to_csv(folder / section.file, index=False, lineterminator="\n")
    return [folder / section.file for section in made]


def print_sections(console: Console, made: Sequence[Section]) -> None:
    """Prints the sections, alarms first."""
    for section in made:
        if section.alarm:
            console.print(f"\n[bold red]{escape(section.alarm)}[/bold red]")
    for section in made:
        grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=0)
        for i, name in enumerate(section.head):
            grid.add_column(name, justify="left" if i < section.left else "right", overflow="fold")
        for line in section.body:
            grid.add_row(*(escape(cell) for cell in line))
        console.print(f"\n[bold]{escape(section.title)}[/bold]")
        console.print(f"[dim]{escape(section.words)}[/dim]")
        console.print(grid)
