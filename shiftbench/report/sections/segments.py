"""Instances and segments."""

from __future__ import annotations

import pandas as pd

from shiftbench.report.sections.section import Section, limits_cell, method_cell, number_cell
from shiftbench.robustness.streams import outside_streams
from shiftbench.robustness.tables.segments import segments

WORDS = (
    "Panoptic quality of things (a match overlaps by IoU > 0.5), with 95 % intervals over patients. In each case it is"
    " SQ, the quality of the matched segments, times RQ, the F1 of detection. gain: paired difference of PQ to"
    " source-only. SQ is over cases with a match. The file has stuff, precision and recall too."
)


def section(rows: pd.DataFrame) -> Section:
    """All structures and parts in the file; on the page the instances of things."""
    table = segments(outside_streams(rows))
    things = table[table["instance_recall"].notna()]
    body = tuple(
        (
            *(f"{row.scenario}: {row.target}", row.structure, method_cell(row), row.backbone),
            *(limits_cell(row, "pq"), limits_cell(row, "gain"), number_cell(row.sq), number_cell(row.rq)),
        )
        for row in things.itertuples()
    )
    head = ("Target", "Structure", "Method", "Backbone", "PQ", "Gain", "SQ", "RQ")
    return Section("segments.csv", "Instances and segments", WORDS, "", table, head, body, 4)
