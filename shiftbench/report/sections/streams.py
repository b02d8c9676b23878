"""Methods on streams."""

from __future__ import annotations

import pandas as pd

from shiftbench.report.sections.section import Section, limits_cell, method_cell, number_cell
from shiftbench.robustness.streams import streams

WORDS = (
    "Mean DSC over all cases of a stream, whose targets are not announced; targets weigh equally. order SD: standard"
    " deviation of that mean over order seeds. gain: difference to source-only on the same cases, and in the first and"
    " the last third of the stream. Streams enter no other table."
)


def section(rows: pd.DataFrame) -> Section:
    """The section of the rows; its table may be empty."""
    table = streams(rows)
    ordered = table.sort_values(["backbone", "budget", "scenario", "stream", "dsc"], ascending=[True] * 4 + [False])
    body = tuple(
        (
            *(f"{row.scenario}: {row.stream}", row.stream_order, method_cell(row), row.episode, row.backbone),
            *(limits_cell(row, "dsc"), number_cell(row.order_sd), limits_cell(row, "gain")),
            *(number_cell(row.gain_first_third), number_cell(row.gain_last_third)),
        )
        for row in ordered.itertuples()
    )
    head = ("Stream", "Order", "Method", "Episode", "Backbone", "DSC", "Order SD", "Gain", "First third", "Last third")
    return Section("streams.csv", "Streams", WORDS, "", table, head, body, 5)
