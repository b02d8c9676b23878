"""What a classifier of lesion type loses when it is fed with features of predicted outlines."""

from __future__ import annotations

import pandas as pd

from shiftbench.report.sections.section import Section, limits_cell, method_cell, number_cell, share_cell
from shiftbench.robustness.tables.downstream import downstream

WORDS = (
    "Balanced accuracy of the types of single lesions by a logistic regression on features of the reference outlines in"
    " the source, tested on patients that it was not trained on. Source: those outlines; target: the reference outlines"
    " in the target's images; predicted: the outlines that the method drew there, where an undetected lesion is wrong."
    " Loss by the domain: source - target; by the outline: target - predicted; of found: that part of it which is not"
    " for want of detection. 95 % bootstrap intervals over patients and seeds; with few patients they are wide."
)


def section(rows: pd.DataFrame) -> Section:
    """The section of the rows; its table may be empty."""
    table = downstream(rows)
    body = tuple(
        (
            *(f"{row.scenario}: {row.target}", method_cell(row), row.backbone, row.types),
            *(number_cell(row.source_reference), number_cell(row.target_reference), limits_cell(row, "predicted")),
            *(
                limits_cell(row, "loss_domain"),
                limits_cell(row, "loss_outline"),
                limits_cell(row, "loss_outline_found"),
            ),
            share_cell(row.undetected_percent),
        )
        for row in table.itertuples()
    )
    head = (
        *("Target", "Method", "Backbone", "Lesions", "Source", "Target's reference", "Predicted"),
        *("Loss by the domain", "Loss by the outline", "Of found", "Undetected"),
    )
    return Section(
        "downstream.csv", "Lesion types from predicted outlines", WORDS, "", table, head, body, 4, on_terminal=False
    )
