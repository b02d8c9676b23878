"""Lesions found one by one, and centre lines of tubes."""

from __future__ import annotations

import pandas as pd

from shiftbench.report.sections.section import Section, limits_cell, number_cell
from shiftbench.robustness.constants import SOURCE_ONLY
from shiftbench.robustness.tables.forms import forms

WORDS = (
    "Source-only; the file has every method. Score: of lesions, the F1 of finding them one by one (a match overlaps by"
    " IoU > 0.1); of tubes, clDice; mean over patients with its 95 % interval. Recall is of reference lesions below 5"
    " mm, below 10 mm and from 10 mm (diameter of the sphere as large). FP: lesions without a match per case. The file"
    " has gains, the other thresholds, splits, merges and nDSC too."
)


def section(rows: pd.DataFrame) -> Section:
    """All methods and metrics of lesions and tubes in the file; on the page the main ones of source-only."""
    table = forms(rows)
    shown = table[table["method"] == SOURCE_ONLY].rename(columns={"lesion_false_positives_0.1": "false_positives"})
    body = tuple(
        (
            *(f"{row.scenario}: {row.target}", row.structure, row.backbone),
            *(limits_cell(row, "score"), number_cell(row.lesion_recall_small), number_cell(row.lesion_recall_medium)),
            *(number_cell(row.lesion_recall_large), number_cell(row.false_positives), number_cell(row.cc_dice)),
        )
        for row in shown.itertuples()
    )
    head = (*("Target", "Structure", "Backbone", "Score", "< 5 mm", "< 10 mm", "10 mm up", "FP", "CC-Dice"),)
    return Section("lesions_and_tubes.csv", "Lesions and tubes", WORDS, "", table, head, body, 3, on_terminal=False)
