"""A leaderboard as rich tables for a terminal."""

from __future__ import annotations

import pandas as pd
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from shiftbench.report.cells import false_positives, harmed, number, recovered, seconds, short_rank
from shiftbench.report.tables import Board, board_lines, boards, design, family_row, overall_score, unranked
from shiftbench.report.words import DASH, FOOTNOTE, SHORT_NAMES


def print_leaderboard(console: Console, table: pd.DataFrame) -> None:
    """Prints one table per track, backbone and budget; 118 columns are enough for five families."""
    for board in boards(table):
        console.print(f"\n[bold]{escape(board.name)}[/bold]")
        console.print(f"[dim]{escape(design(board))}[/dim]")
        if len(board.lines):
            console.print(_rich_scores(board))
        for name, reason in unranked(board):
            console.print(f"[dim]not ranked:[/dim] {escape(name)}: {escape(reason)}")
    console.print(f"\n[dim]{FOOTNOTE}[/dim]")


def _rich_scores(board: Board) -> Table:
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=0)
    grid.add_column("rank", no_wrap=True)
    grid.add_column("method", overflow="fold", min_width=13)
    grid.add_column("overall DSC [95 %]", no_wrap=True)
    lines = board_lines(board)
    negatives = any(false_positives(line) != DASH for line, _ in lines)
    scores = ["drop", "recov.", "harm", "NSD", *(["FP"] if negatives else []), "sec", "fail"]
    for name in [*(SHORT_NAMES[f] for f in board.families), *scores]:
        grid.add_column(name, justify="right", no_wrap=True)
    for line, is_reference in lines:
        families = [family_row(board, line, name) for name in board.families]
        cells = [
            "ref." if is_reference else short_rank(line),
            line["label"],
            overall_score(board, line, is_reference).replace(", ", ","),
            *(DASH if row is None else number(row["dsc"], 2) for row in families),
            number(line["drop"], 2),
            recovered(line).replace(" %", "%").replace("no oracle", DASH),
            harmed(line).partition("(")[0].strip().replace(" %", "%") or DASH,
            number(line["nsd"], 2),
            *([false_positives(line)] if negatives else []),
            seconds(line["seconds_per_case"]),
            DASH if pd.isna(line["failed_cases"]) else str(line["failed_cases"]),
        ]
        grid.add_row(*(escape(cell) for cell in cells), style="dim" if is_reference else None)
    return grid
