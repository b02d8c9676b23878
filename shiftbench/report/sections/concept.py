"""Annotation shifts under both protocols."""

from __future__ import annotations

import pandas as pd

from shiftbench.report.sections.section import Section, limits_cell, method_cell, number_cell
from shiftbench.robustness.tables.concept import concept

WORDS = (
    "DSC of the same predictions under the target's label protocol and under the source's, and what the other protocol"
    " costs (paired). agreement: DSC between the references of the two protocols on the same patients, the score of a"
    " perfect source model and no bound. Expected null: without target labels nothing tells a method the protocol, so"
    " its drop is no fault of its own and a recovered share says nothing about it."
)


def section(rows: pd.DataFrame, agreement: pd.DataFrame | None = None) -> Section:
    """Every method on every annotation target.

    Args:
        rows: the columns of `shiftbench.types.Row`.
        agreement: of the label protocols (see `shiftbench.agreement`).
    """
    table = concept(rows, agreement)
    body = tuple(
        (
            *(f"{row.scenario}: {row.target}", method_cell(row), row.backbone, "yes" if row.expected_null else "no"),
            *(limits_cell(row, "dsc"), limits_cell(row, "source_protocol"), limits_cell(row, "cost")),
            *(number_cell(row.agreement), number_cell(row.below_agreement)),
        )
        for row in table.itertuples()
    )
    head = (
        "Target",
        "Method",
        "Backbone",
        "Expected null",
        "DSC",
        "Source's protocol",
        "Cost",
        "Agreement",
        "Below it",
    )
    return Section(
        "concept.csv", "Annotation shifts under both protocols", WORDS, "", table, head, body, 4, on_terminal=False
    )
