"""Corruption errors."""

from __future__ import annotations

import pandas as pd

from shiftbench.report.sections.section import Section, limits_cell, method_cell, number_cell, share_cell
from shiftbench.robustness.constants import CONSTANTS
from shiftbench.robustness.tables.corruption import ALL, corruption

WORDS = (
    "Mean over acquisition operators; the file has each. error: mean of 1 - DSC over the severities, clean: on the"
    " source test. mCE: error over that of source-only of the same run, a ratio of sums per operator (1 is as"
    " source-only, less is better); relative: the same with the clean errors subtracted. Neither where source-only has"
    f" less than {CONSTANTS.error_floor:g}. ROOD: loss as a share of the clean DSC, severity q weighing (2/3)^(q-1)."
)


def section(rows: pd.DataFrame) -> Section:
    """Every method and operator in the file; on the page the means over operators, best first."""
    table = corruption(rows)
    shown = table[(table["operator"] == ALL) & table["error"].notna()]
    shown = shown.sort_values(["backbone", "budget", "error"], kind="stable")
    body = tuple(
        (
            *(method_cell(row), row.backbone, str(row.n_operators), number_cell(row.error)),
            *(number_cell(row.clean_error), limits_cell(row, "ce"), limits_cell(row, "relative_ce")),
            share_cell(row.rood_degradation_percent),
        )
        for row in shown.itertuples()
    )
    head = ("Method", "Backbone", "Operators", "Error", "Clean", "mCE", "Relative mCE", "ROOD")
    return Section("corruption.csv", "Corruption error", WORDS, "", table, head, body, 2, on_terminal=False)
