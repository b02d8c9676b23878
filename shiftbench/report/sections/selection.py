"""What choosing a configuration without labels loses."""

from __future__ import annotations

import pandas as pd

from shiftbench.report.sections.section import Section, limits_cell, number_cell
from shiftbench.report.words import DASH, FAMILY_NAMES
from shiftbench.robustness.scopes import OVERALL, TARGET
from shiftbench.robustness.tables.selection import selection

WORDS = (
    "Methods of which several configurations were run. Chosen: by a score without labels, for each target and seed."
    " Oracle: by the DSC on the test patients, which nobody can do and which is too high by about its optimism. gap:"
    " oracle - chosen; gain: chosen - default. Paired, 95 % intervals over patients crossed with seeds. Methods that"
    " carry state over a stream have one pass, and nothing to choose after it."
)


def section(rows: pd.DataFrame) -> Section:
    """All targets in the file, families and overall too; on the page targets and overall."""
    table = selection(rows)
    shown = table[table["scope"].isin([TARGET, OVERALL, "run"])]
    body = tuple(
        (
            f"{row.scenario}: {_place(row)}",
            *(_method(row), row.backbone, _words(row.chosen if row.status == "ok" else row.status), _words(row.oracle)),
            *(number_cell(row.dsc_chosen), number_cell(row.dsc_oracle), limits_cell(row, "gap")),
            *(number_cell(row.oracle_optimism), limits_cell(row, "gain")),
        )
        for row in shown.itertuples()
    )
    head = (
        *("Target", "Method", "Backbone", "Chosen", "Oracle", "DSC chosen", "DSC oracle"),
        *("Gap", "Optimism", "Gain"),
    )
    return Section("selection.csv", "Choosing without labels", WORDS, "", table, head, body, 5)


def _place(row) -> str:
    if row.scope == OVERALL:
        return "overall"
    return "all" if pd.isna(row.target) else f"{row.target} ({FAMILY_NAMES[row.family].lower()})"


def _method(row) -> str:
    return row.entry if pd.isna(row.k) else f"{row.entry} (K={row.k})"


def _words(value: str | None) -> str:
    return DASH if pd.isna(value) else str(value)
