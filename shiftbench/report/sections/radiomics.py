"""Features measured in predicted outlines against those of the references."""

from __future__ import annotations

import pandas as pd

from shiftbench.report.sections.section import Section, limits_cell, method_cell, number_cell, share_cell
from shiftbench.report.words import DASH
from shiftbench.robustness.tables.radiomics import feature_agreement

SHOWN = ("mean", "volume_ml")
WORDS = (
    "Features in the predicted outline against the reference's, on the same image: a measurement bias, which need not"
    " cost a model behind it anything. Bias: mean over patients of predicted - reference, in the unit of the feature"
    " and in SD of the reference between patients (SD), on which CCC and ICC(A,1) depend: they are compared between"
    " targets with the SD in view. By contamination: the bias that the background in the outline makes by itself."
    " Limits: 95 % limits of agreement. All of patients in whom the structure was found; undetected: share of cases in"
    " which it was not. 95 % intervals over patients. The file has every feature."
)


def section(rows: pd.DataFrame) -> Section:
    """All features in the file; on the page mean intensity and volume."""
    table = feature_agreement(rows)
    shown = table[table["feature"].isin(SHOWN)]
    body = tuple(
        (
            *(f"{row.scenario}: {row.target}", row.structure, f"{row.feature} ({row.unit})"),
            *(method_cell(row), row.backbone, _limits(row, "bias"), number_cell(row.bias_in_sd)),
            *(figure_cell(row.reference_sd), figure_cell(row.predicted_bias), _between(row)),
            *(limits_cell(row, "ccc"), limits_cell(row, "icc_a1"), share_cell(row.undetected_percent)),
        )
        for row in shown.itertuples()
    )
    head = (
        *("Target", "Structure", "Feature", "Method", "Backbone", "Bias", "Bias / SD", "SD", "By contamination"),
        *("Limits", "CCC", "ICC(A,1)", "Undetected"),
    )
    return Section(
        "radiomics.csv", "Features of predicted outlines", WORDS, "", table, head, body, 5, on_terminal=False
    )


def figure_cell(value: float | None) -> str:
    """A number in a unit of its own, with three digits that count, or a dash."""
    if value is None or pd.isna(value):
        return DASH
    return (f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}").replace("-", "−")


def _limits(row, name: str) -> str:
    low, high = getattr(row, f"{name}_low"), getattr(row, f"{name}_high")
    mean = figure_cell(getattr(row, name))
    return mean if low is None or pd.isna(low) else f"{mean} [{figure_cell(low)}, {figure_cell(high)}]"


def _between(row) -> str:
    return DASH if pd.isna(row.lower) else f"{figure_cell(row.lower)} to {figure_cell(row.upper)}"
