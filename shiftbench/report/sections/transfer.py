"""The transfer matrix."""

from __future__ import annotations

import pandas as pd

from shiftbench.report.sections.section import Section, limits_cell
from shiftbench.report.words import FAMILY_NAMES
from shiftbench.robustness.constants import CONSTANTS, SOURCE_ONLY
from shiftbench.robustness.tables.transfer import transfer

WORDS = (
    "Source-only on every target, with 95 % intervals; the file has every method. drop: against the source's test"
    " patients, and as a share of the score there (paired on the same patients, Welch's for other patients; no share"
    f" below a DSC of {CONSTANTS.clean_floor:g}). oracle gap: oracle minus source-only on the same patients of the"
    " target."
)


def section(rows: pd.DataFrame) -> Section:
    """Every source, target and method in the file; on the page source-only, which is what is transferred."""
    table = transfer(rows)
    shown = table[(table["method"] == SOURCE_ONLY) & (table["target"] != table["source"])]
    body = tuple(
        (
            *(f"{row.scenario}: {row.source} → {row.target}", FAMILY_NAMES[row.family].lower(), row.backbone),
            *(limits_cell(row, "dsc"), limits_cell(row, "drop"), _percent(row), limits_cell(row, "oracle_gap")),
        )
        for row in shown.itertuples()
    )
    head = ("Source and target", "Family", "Backbone", "DSC", "Drop", "Relative", "Oracle gap")
    return Section("transfer.csv", "Transfer of source-only", WORDS, "", table, head, body, 3, on_terminal=False)


def _percent(row) -> str:
    mean, low, high = (getattr(row, f"relative_drop_percent{end}") for end in ("", "_low", "_high"))
    if pd.isna(mean):
        return "–"
    limits = "" if pd.isna(low) else f" [{low:.0f}, {high:.0f}]"
    return f"{mean:.0f} %{limits}".replace("-", "−")
