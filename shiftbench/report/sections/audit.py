"""What the audits of a run found."""

from __future__ import annotations

import pandas as pd

from shiftbench.audit import ASKED, failed
from shiftbench.audit import table as as_table
from shiftbench.report.sections.section import Section, method_cell
from shiftbench.report.words import DASH

FILE = "audit.csv"
WORDS = (
    "Predictions made again under a change that must not matter: each is to be the same to the bit, on the CPU, and a"
    " method that says it adapts is to predict unlike source-only. above_oracle: the share of the gap that is closed is"
    " too large to be believed. A row says how many of its audits passed; an audit that failed is named, with where it"
    " was first seen. What was skipped has not been seen to be sound."
)
GROUP = ["track", "backbone", "budget", "method", "k"]


def section(found: pd.DataFrame | None) -> Section:
    """Every finding in the file; on the page a line per method and backbone, and a line per audit that failed."""
    table = as_table([]) if found is None else found
    body = tuple(
        line
        for key, own in table.groupby(GROUP, dropna=False, sort=False)
        for line in _lines(dict(zip(GROUP, key, strict=True)), own)
    )
    wrong = failed(table)
    names = ", ".join(sorted({str(name) for name in wrong["method"]}))
    alarm = f"Audits failed: {names}; see the table of audits before any of their scores is believed." if names else ""
    head = ("Method", "Backbone", "Audit", "What was found", "Passed", "Failed", "Skipped")
    return Section(FILE, "Audits", WORDS, alarm, table, head, body, 4)


def _lines(who: dict, own: pd.DataFrame) -> list[tuple[str, ...]]:
    """The line of a method with its counts, and behind it what failed."""
    counts = own["outcome"].value_counts()
    numbers = [str(int(counts.get(outcome, 0))) for outcome in ("passed", "failed", "skipped")]
    cell = method_cell(pd.Series(who))
    lines = [(cell, str(who["backbone"]), DASH if numbers[1] == "0" else "", "", *numbers)]
    for line in failed(own).to_dict("records"):
        where = f"{line['scenario']}: {line['target']}" if line["scenario"] else str(line["target"])
        lines.append(("", "", f"{line['audit']} ({ASKED[line['audit']]})", f"{where}: {line['detail']}", "", "", ""))
    return lines


def marks(board: pd.DataFrame, found: pd.DataFrame | None) -> list[str]:
    """For every row of a leaderboard the names of the audits that its method failed, joined; empty where none.

    Audits are asked on some of the targets, and what they find is said of the method: on all its rows of the same
    track, backbone and budget.
    """
    wrong = as_table([]) if found is None else failed(found)
    named: dict[tuple, set[str]] = {}
    for line in wrong.to_dict("records"):
        named.setdefault(_who(line), set()).add(line["audit"])
    return [", ".join(sorted(named.get(_who(row), ()))) for row in board[GROUP].to_dict("records")]


def _who(line: dict) -> tuple:
    return tuple(None if pd.isna(line[name]) else line[name] for name in GROUP)
