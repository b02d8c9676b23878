"""What is found, how far off, and what is drawn where there is nothing."""

from __future__ import annotations

import pandas as pd

from shiftbench.report.sections.section import Section, number_cell, share_cell
from shiftbench.report.words import DASH
from shiftbench.robustness.constants import SOURCE_ONLY
from shiftbench.robustness.tables.detection import detection

WORDS = (
    "Source-only, where it missed or failed a structure, or where some references do not have it; the file has all."
    " detected: share of the structures in the reference that were neither missed nor failed. HD95 and ASSD: mean over"
    " the detected alone, in the unit of the spacing; p95: over all, a missed structure being infinitely far off. FP:"
    " share of the predictions that draw the structure where it is not (or failed), and the mean volume drawn there."
)


def section(rows: pd.DataFrame) -> Section:
    """Every method, target and structure in the file; on the page what source-only misses and invents."""
    table = detection(rows)
    lost = (table["detected_percent"].astype(float) < 100) | table["n_negative"].notna()
    body = tuple(
        (
            *(f"{row.scenario}: {row.target}", row.structure, row.backbone, share_cell(row.detected_percent)),
            *(number_cell(row.hd95_mm_S), _far(row.hd95_mm_S_p95), number_cell(row.assd_mm_S)),
            *(share_cell(row.false_positive_percent), number_cell(row.false_positive_volume)),
        )
        for row in table[lost & (table["method"] == SOURCE_ONLY)].itertuples()
    )
    head = ("Target", "Structure", "Backbone", "Detected", "HD95", "HD95 p95", "ASSD", "FP", "FP volume")
    return Section(
        "detection.csv", "Detection, distances and false positives", WORDS, "", table, head, body, 3, on_terminal=False
    )


def _far(value: float | None) -> str:
    if value is None or pd.isna(value):
        return DASH
    return "∞" if value == float("inf") else number_cell(value)
