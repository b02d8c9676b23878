"""What the drop of a factorial scenario is due to."""

from __future__ import annotations

import pandas as pd

from shiftbench.report.sections.section import Section, limits_cell, method_cell, share_cell
from shiftbench.report.words import FAMILY_NAMES
from shiftbench.robustness.tables.attribution import ALL, attribution

WORDS = (
    "Drop of the mean DSC from the source to all causes at once, on the same patients and structures. effect: of one"
    " cause alone; interaction: what several do beyond the sum of their parts; Shapley: the effect and an equal part of"
    " every interaction. Effects and interactions add up to the total, and so do the Shapley values. 95 % intervals"
    " over patients crossed with seeds: two-way t with fewer than five seeds, bootstrap otherwise."
)


def section(rows: pd.DataFrame) -> Section:
    """All methods in the file; on the page those of the mean over structures."""
    table = attribution(rows)
    shown = table[table["structure"] == ALL]
    body = tuple(
        (
            *(row.scenario, method_cell(row), row.backbone, row.kind, row.causes, FAMILY_NAMES[row.family].lower()),
            *(limits_cell(row, "drop"), share_cell(row.share_percent), f"{row.n_patients} x {row.n_seeds}"),
        )
        for row in shown.itertuples()
    )
    head = ("Scenario", "Method", "Backbone", "Kind", "Causes", "Family", "Drop", "Share", "Patients x seeds")
    return Section("attribution.csv", "What the drop is due to", WORDS, "", table, head, body, 6)
