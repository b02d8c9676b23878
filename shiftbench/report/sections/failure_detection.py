"""Failure detection."""

from __future__ import annotations

import pandas as pd

from shiftbench.report.sections.section import Section, limits_cell, method_cell, number_cell
from shiftbench.report.words import DASH
from shiftbench.robustness.tables.failure_detection import POOLED_WITHOUT, failure_detection

WORDS = (
    "Whether a method is less confident where it is worse: cases of the source test and of all targets but controls and"
    " faults, kept from the most to the least confident. Risk is 1 - DSC. AUGRC: mean risk that slips through, over all"
    " shares of kept cases; random: with a confidence that says nothing, half of the mean risk; best: with a perfect"
    " order. E-AURC: what the order costs above a perfect one in the mean risk of the kept cases; 0 is best. OOD AUROC:"
    " probability that a case of a target is less confident than one of the source test, from the least to the most"
    " distinguishable target; 0.5 is a guess. A failure has risk 1 and is the least confident: read it beside the mean"
    " risk. The file has 1 - NSD, families, targets, AURC and FPR95 too."
)
_RUN = ["backbone", "budget", "scenario", "source", "track", "method", "k"]


def section(rows: pd.DataFrame) -> Section:
    """Everything in the file; on the page one line per scenario and method."""
    table = failure_detection(rows)
    shown = table[(table["scope"] == "all") & (table["risk"] == "1-dsc")]
    body = tuple(
        (
            *(row.scenario, method_cell(row), row.backbone, limits_cell(row, "augrc"), number_cell(row.augrc_random)),
            *(number_cell(row.augrc_optimal), limits_cell(row, "e_aurc"), number_cell(row.mean_risk)),
            _range_cell(table, row),
        )
        for row in shown.itertuples()
    )
    head = ("Scenario", "Method", "Backbone", "AUGRC", "Random", "Best", "E-AURC", "Mean risk", "OOD AUROC")
    return Section("failure_detection.csv", "Failure detection", WORDS, "", table, head, body, 3, on_terminal=False)


def _range_cell(table: pd.DataFrame, row) -> str:
    """The lowest and the highest AUROC over the targets of a method in a scenario, controls and faults left out."""
    own = table[(table["scope"] == "target") & ~table["family"].isin(POOLED_WITHOUT)]
    for name in _RUN:
        value = getattr(row, name)
        own = own[own[name].isna() if pd.isna(value) else own[name] == value]
    values = own["ood_auroc"].dropna()
    return f"{number_cell(values.min())} to {number_cell(values.max())}" if len(values) else DASH
