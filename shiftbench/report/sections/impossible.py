"""What the impossible control says."""

from __future__ import annotations

import pandas as pd

from shiftbench.report.sections.section import Section, limits_cell, method_cell, number_cell
from shiftbench.robustness.constants import CONSTANTS
from shiftbench.robustness.tables.impossible import impossible

WORDS = (
    "References are permuted between patients. Solved: better than the DSC between the references of different"
    f" patients (paired one-sided t, Holm over methods and structures, p < {CONSTANTS.audit_p:g}). Nothing may be."
)


def section(rows: pd.DataFrame) -> Section:
    """The section of the rows; its table may be empty."""
    table = impossible(rows)
    found = table[table["solved"].astype(bool)]
    named = ", ".join(
        f"{row.method} ({row.structure} of {row.scenario}, p = {row.p_holm:.2g})" for row in found.itertuples()
    )
    alarm = f"THE IMPOSSIBLE CONTROL WAS SOLVED by {named}: references leak, and no row of this run can be trusted."
    body = tuple(
        (
            *(f"{row.scenario}: {row.target}", method_cell(row), row.backbone, row.structure),
            *(
                number_cell(row.dsc),
                number_cell(row.between_patients),
                limits_cell(row, "difference"),
                number_cell(row.p_holm),
            ),
            "YES" if row.solved else "no",
        )
        for row in table.itertuples()
    )
    head = ("Control", "Method", "Backbone", "Structure", "DSC", "Between patients", "Difference", "p (Holm)", "Solved")
    words = WORDS
    return Section("impossible.csv", "Impossible control", words, alarm if named else "", table, head, body, 4)
