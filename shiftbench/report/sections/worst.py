"""The worst target and the worst patients."""

from __future__ import annotations

import pandas as pd

from shiftbench.report.sections.section import Section, limits_cell, method_cell, number_cell, share_cell
from shiftbench.report.words import DASH
from shiftbench.robustness.constants import CONSTANTS
from shiftbench.robustness.headline import OVERALL
from shiftbench.robustness.tables.worst import worst

WORDS = (
    "Over the targets of the overall score; the file has every family and target. worst: the lowest mean of a target,"
    " its 95 % interval with the lowest sought anew in each resample; bias: how far it falls by being sought again,"
    " by chance alone. Nothing is ranked by it. CVaR: mean of the lowest"
    f" {100 * CONSTANTS.tail:g} % of the patients. failures: share of patients below a DSC of {CONSTANTS.failure:g}"
    " (Wilson)."
)


def section(rows: pd.DataFrame) -> Section:
    """Every scope in the file; on the page the overall one, the highest CVaR first."""
    table = worst(rows)
    shown = table[table["scope"] == OVERALL].sort_values(["backbone", "budget", "cvar"], ascending=[True, True, False])
    body = tuple(
        (
            *(method_cell(row), row.backbone, f"{row.worst_scenario}: {row.worst_target}"),
            *(limits_cell(row, "worst"), number_cell(row.selection_bias), limits_cell(row, "cvar")),
            *(number_cell(row.p5), _failures(row)),
        )
        for row in shown.itertuples()
    )
    head = ("Method", "Backbone", "Worst target", "Worst", "Bias", "CVaR", "5th percentile", "Failures")
    return Section("worst.csv", "Worst targets and patients", WORDS, "", table, head, body, 3, on_terminal=False)


def _failures(row) -> str:
    if pd.isna(row.failure_percent):
        return DASH
    low, high = share_cell(row.failure_percent_low), share_cell(row.failure_percent_high)
    return f"{share_cell(row.failure_percent)} [{low}, {high}]".replace(" %,", ",").replace(" %]", "]")
