"""How well the DSC can be foretold without labels."""

from __future__ import annotations

import pandas as pd

from shiftbench.report.sections.section import Section, limits_cell, number_cell
from shiftbench.report.words import DASH, FAMILY_NAMES
from shiftbench.robustness.scopes import TARGET
from shiftbench.robustness.tables.estimators import ALL, estimators

WORDS = (
    "What estimators expect of source-only on each target, without its labels, beside the DSC that it has. MAE: mean"
    " absolute error per case and structure; bias: expected - true; error of mean: of a target's mean DSC; Spearman:"
    " over cases (means of their structures), and over the means of targets. 95 % intervals over patients crossed with"
    " seeds. A failed estimate is as wrong as it can be. Overall is without annotation shifts, which no estimator can"
    " see. The file has every target and structure, and Pearson."
)


def section(rows: pd.DataFrame) -> Section:
    """All targets and structures in the file; on the page families and overall, of the mean over structures."""
    table = estimators(rows)
    shown = table[(table["structure"] == ALL) & (table["scope"] != TARGET)]
    body = tuple(
        (
            *(row.scenario, row.method, row.backbone),
            "overall" if pd.isna(row.family) else FAMILY_NAMES[row.family].lower(),
            *(limits_cell(row, "mae"), limits_cell(row, "bias"), number_cell(row.error_of_mean)),
            *(limits_cell(row, "spearman"), limits_cell(row, "target_spearman")),
            f"{row.n_targets}",
            DASH if pd.isna(row.n_failed) else f"{row.n_failed:.0f}",
        )
        for row in shown.itertuples()
    )
    head = (
        *("Scenario", "Estimator", "Backbone", "Family", "MAE", "Bias", "Error of mean"),
        *("Spearman (cases)", "Spearman (targets)", "Targets", "Failed"),
    )
    return Section("estimators.csv", "Estimates without labels", WORDS, "", table, head, body, 4)
